"""Paths: right values in any order, the order that the sizes ask for, and the program that is traced."""

import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from jbdot.core.contraction import Contraction
from jbdot.one_device.choice import PLATFORMS
from jbdot.one_device.path import RATES, Sizes, best, of_pairs

CHAIN = Contraction.parse("i,ij,jk->k")


def pairs(path):
    return [(step.lhs, step.rhs) for step in path.steps]


@pytest.mark.parametrize(("vectors", "first"), [(64, "b i, i j -> b j"), (3000, "i j, j k -> i k")])
def test_the_order_depends_on_the_sizes(vectors, first):
    c = Contraction.parse("bi,ij,jk->bk")
    path = best(c, ((vectors, 200), (200, 200), (200, 200)), "cpu")
    assert str(path.steps[0].contraction) == first
    assert path.flops == (2 * vectors * 200 * 200 * 2 if vectors == 64 else 2 * 200**3 + 2 * vectors * 200 * 200)


def test_fewest_flops_are_not_always_the_least_time():
    """A product of small matrices in a large batch, whose result is read again, costs more than its FLOPs say."""
    c = Contraction.parse("sg,xga,xgb,gs->sab")
    shapes = ((2, 2000), (4, 2000, 60), (4, 2000, 60), (2000, 2))
    path = best(c, shapes, "cpu")
    other = of_pairs(c, c.sizes(*shapes), [(1, 2), (0, 3), (5, 4)], "cpu", 4)
    assert other.flops < path.flops
    assert other.us > 2 * path.us
    assert path.largest == 4 * 2000 * 60 * 2


def test_every_order_is_looked_at():
    """The least of all orders of four operands, each of which is written out here."""
    c = Contraction.parse("ab,bc,cd,da->")
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, d, e = (int(2 ** rng.integers(1, 11)) for _ in range(4))
        shapes = ((a, b), (b, d), (d, e), (e, a))
        found = min(of_pairs(c, c.sizes(*shapes), order, "cpu", 4).us for order in orders(4))
        assert best(c, shapes, "cpu").us == pytest.approx(found)


def orders(count):
    """Every way to multiply operands two at a time, as pairs of places."""

    def further(left, done):
        if len(left) == 1:
            yield done
        for pair in itertools.combinations(left, 2):
            rest = [at for at in left if at not in pair] + [count + len(done)]
            yield from further(rest, [*done, pair])

    return further(list(range(count)), [])


def test_many_operands_are_left_to_opt_einsum():
    letters = "abcdefghij"
    c = Contraction.parse(",".join(a + b for a, b in itertools.pairwise(letters)) + "->aj")
    shapes = tuple(itertools.pairwise([3, 40, 2, 50, 3, 60, 2, 30, 4, 5]))
    path = best(c, shapes, "cpu")
    from_left = [(0, 1), *((9 + at, at + 2) for at in range(7))]
    assert len(path.steps) == 8
    assert path.flops < of_pairs(c, c.sizes(*shapes), from_left, "cpu", 4).flops
    arrays = [np.random.default_rng(1).integers(-1, 2, shape).astype("float32") for shape in shapes]
    np.testing.assert_array_equal(path.run([jnp.asarray(x) for x in arrays]), np.linalg.multi_dot(arrays))


def test_sizes_cost_what_a_platform_takes():
    square = Sizes(1, 1024, 1024, 1024)
    assert square.flops == 2 * 1024**3
    assert square.elements == 3 * 1024**2
    assert {square.us(4, platform) for platform in ("cpu", "metal")} == {square.us(4, "cpu")}
    assert square.us(8, "cpu") > square.us(4, "cpu") > square.us(4, "cuda") > RATES["cuda"].start_us
    assert {*RATES} <= {*PLATFORMS.values(), "rocm"}
    assert Sizes(1, 1024, 1, 1024).us(4, "cpu") < square.us(4, "cpu") / 50


SIZES = dict(zip("abcdef", (2, 3, 1, 4, 2, 3), strict=True))


@st.composite
def equations(draw):
    """Three to five operands over six labels: repeated ones, lone ones, labels in any number of operands."""
    labels = st.lists(st.sampled_from(list(SIZES)), max_size=3)
    terms = draw(st.lists(labels, min_size=3, max_size=5))
    known = sorted({label for term in terms for label in term})
    out = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    return ",".join("".join(term) for term in terms) + "->" + "".join(out)


def arrays_of(equation, dtype="float32"):
    rng = np.random.default_rng(len(equation))
    terms = equation.split("->")[0].split(",")
    return [rng.integers(-2, 3, [SIZES[label] for label in term]).astype(dtype) for term in terms]


@settings(deadline=None, max_examples=40)
@given(equation=equations())
def test_against_numpy(equation):
    arrays = arrays_of(equation)
    c = Contraction.parse(equation)
    path = best(c, tuple(x.shape for x in arrays), "cpu")
    with jax.disable_jit():
        found = path.run([jnp.asarray(x) for x in arrays])
    np.testing.assert_array_equal(found, np.einsum(equation, *arrays))
    assert c.out_shape(*(x.shape for x in arrays)) == found.shape


def test_every_product_has_the_dtype_of_all():
    x, y, z = jnp.ones((2, 3), "bfloat16"), jnp.ones((3, 4), "float32"), jnp.ones((4, 2), "bfloat16")
    path = best(Contraction.parse("ij,jk,kl->il"), ((2, 3), (3, 4), (4, 2)), "cpu")
    assert path.out_dtype([x, y, z]) == jnp.float32
    assert [spec.dtype for spec in path.dot_specs([x, y, z])] == ["float32"] * 2
    halves = [x, y.astype("bfloat16"), z]
    jaxpr = jax.make_jaxpr(lambda *arrays: path.run(arrays, preferred_element_type="float32"))(*halves)
    assert [equation.outvars[0].aval.dtype for equation in jaxpr.eqns] == [jnp.float32] * 2


@pytest.mark.parametrize("equation", ["i,ij,jk->k", "sg,xga,xgb,gs->sab", "ab,bc,cd,de->ae", "bij,bj,bk->bik"])
def test_no_more_is_traced_than_by_einsum(equation):
    def sizes(term):
        return tuple(8 + 3 * "abcdegijksx".index(label) for label in term)

    arrays = [jnp.ones(sizes(term)) for term in equation.split("->")[0].split(",")]
    path = best(Contraction.parse(equation), tuple(x.shape for x in arrays), "cpu")
    ours = jax.make_jaxpr(lambda *arrays: path.run(arrays))(*arrays).eqns
    assert len(ours) <= len(jax.make_jaxpr(lambda *arrays: jnp.einsum(equation, *arrays))(*arrays).eqns)
    assert all(equation.primitive.name in ("dot_general", "transpose") for equation in ours)


def test_one_operand_has_no_product():
    x = jnp.arange(12.0).reshape(2, 2, 3)
    path = best(Contraction.parse("iij->j"), (x.shape,), "cpu")
    assert (path.steps, path.flops, path.largest, path.us) == ((), 0, 0, 0)
    np.testing.assert_array_equal(path.run([x]), np.einsum("iij->j", x))
    np.testing.assert_array_equal(
        best(Contraction.parse("i j k -> k 1 i j"), (x.shape,), "cpu").run([x]), jnp.transpose(x, (2, 0, 1))[:, None]
    )
    assert math.prod(path.contraction.out_shape(x.shape)) == 3
    with pytest.raises(ValueError, match="left out of a contraction of one operand"):
        path.run([x], lowering="pinned")


def test_a_size_that_is_not_known_is_one_in_the_middle():
    exported = jax.export.export(
        jax.jit(lambda *arrays: best(CHAIN, tuple(x.shape for x in arrays), "cpu").run(arrays))
    )
    (n,) = jax.export.symbolic_shape("n")
    square = jax.ShapeDtypeStruct((n, n), "float32")
    program = exported(jax.ShapeDtypeStruct((n,), "float32"), square, square)
    v, a = jnp.arange(3.0), jnp.arange(9.0).reshape(3, 3)
    np.testing.assert_array_equal(program.call(v, a, a), v @ a @ a)
