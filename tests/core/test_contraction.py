"""The object: parsing, roles, derived properties, and equality with NumPy over random label structures."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

import jbdot
from jbdot import Contraction
from jbdot.core.labels import broadcast, names
from jbdot.one_device.call_plan import CallPlan

C = Contraction.parse("b m k, b k n -> b m n")


def test_roles_and_dimension_numbers():
    assert (C.batch, C.contracting, C.lhs_free, C.rhs_free, C.summed) == (("b",), ("k",), ("m",), ("n",), ())
    assert C.dimension_numbers == (((2,), (1,)), ((0,), (0,)))
    assert [C.role(label) for label in ("b", "k", "m", "n", None)] == ["batch", "contracting", "free", "free", "unit"]


def test_strings():
    assert str(C) == "b m k, b k n -> b m n"
    assert repr(C) == "Contraction.parse('b m k, b k n -> b m n')"
    assert C.einsum == "bmk,bkn->bmn"
    assert C.formula("x", "y") == "out[b,m,n] = sum_k x[b,m,k] * y[b,k,n]"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("bmk,bkn->bmn", "b m k, b k n -> b m n"),
        ("ij,jk", "i j, j k -> i k"),
        ("ij,ji", "i j, j i -> "),
        (",->", ",  -> "),
        ("b1k,kn->bn", "b 1 k, k n -> b n"),
        ("batch query dim, batch key dim -> batch query key", "batch query dim, batch key dim -> batch query key"),
        (" ij , jk -> ik ", "i j, j k -> i k"),
        ("(row), (row) -> ", "(row), (row) -> "),
        ("(row)k,k->(row)", "row k, k -> row"),
        ("row (k), k -> row", "row k, k -> row"),
        ("(row)1,1->(row)", "row 1, 1 -> row"),
        ("ij", "i j -> i j"),
        ("ii->i", "i i -> i"),
        ("ij,jk,kl", "i j, j k, k l -> i l"),
        ("(row), (row), (row) -> ", "(row), (row), (row) -> "),
    ],
)
def test_parse(text, labels):
    assert str(Contraction.parse(text)) == labels


def test_any_number_of_operands():
    c = Contraction.parse("sg,xga,xgb,gs->sab")
    assert (c.batch, c.contracting, c.summed) == (("s",), ("g", "x"), ())
    assert [c.role(label) for label in "sgxab"] == ["batch", "contracting", "contracting", "free", "free"]
    assert c.formula() == "out[s,a,b] = sum_{g,x} x0[s,g] * x1[x,g,a] * x2[x,g,b] * x3[g,s]"
    assert c.formula("w", "y", "z", "v", out="r") == "r[s,a,b] = sum_{g,x} w[s,g] * y[x,g,a] * z[x,g,b] * v[g,s]"
    shapes = (2, 5), (3, 5, 4), (3, 5, 6), (5, 2)
    assert c.sizes(*shapes) == {"s": 2, "g": 5, "x": 3, "a": 4, "b": 6}
    assert (c.out_shape(*shapes), c.flops(*shapes)) == ((2, 4, 6), 4 * 2 * 5 * 3 * 4 * 6)
    assert Contraction.parse(str(c)) == c == Contraction(*c.terms, c.out)
    with pytest.raises(ValueError, match=r"axis 0 of operand 1 has size 3, axis 0 of operand 2 has size 2"):
        c.sizes((2, 5), (3, 5, 4), (2, 5, 6), (5, 2))
    one = Contraction.parse("i i j -> j")
    assert (one.summed, one.lhs, one.contracting) == (("i",), ("i", "i", "j"), ())
    assert str(Contraction.parse("...i,i,...->...", (2, 1, 3), (3,), (4,))) == "A 1 i, i, B -> A B"


def test_words_get_letters_in_einsum():
    c = Contraction.parse("batch query d, batch key d -> batch query key")
    batch_query_d, rest = c.einsum.split(",")
    assert batch_query_d[2] == "d"
    assert len({*batch_query_d, *rest} - {"-", ">"}) == 4


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("i2,2j->ij", "letters"),
        ("ij,jk->iz", "'z'"),
        ("ij,jk->ii", "only once"),
        ("...i,i->...", "shapes"),
        ("i......,i->i", "ellipsis"),
        ("b m k, b k n", "must say its result"),
        ("(r,r)->", "letters"),
        ("(row,row->", "letters"),
        ("()i,i->", "letters"),
    ],
)
def test_parse_refuses(text, fact):
    with pytest.raises(ValueError, match=fact):
        Contraction.parse(text)


def test_ellipsis_broadcasts():
    c = Contraction.parse("...ij,...jk->...ik", (2, 1, 3, 4), (6, 4, 5))
    assert c.out_shape((2, 1, 3, 4), (6, 4, 5)) == (2, 6, 3, 5)
    with pytest.raises(
        ValueError, match=r"batch axes must have equal sizes, .* must be 1: axis 0 of lhs has size 2, axis 2 of rhs"
    ):
        Contraction.parse("...ij,jk...->...ik", (2, 3, 4), (4, 5, 3))
    with pytest.raises(ValueError, match="ellipsis must be in the result"):
        Contraction.parse("...ij,jk->ik", (2, 3, 4), (4, 5))


def test_constructor_refuses():
    with pytest.raises(TypeError, match="tuple"):
        Contraction("bmk", ("b",), ("b",))  # pyright: ignore
    with pytest.raises(TypeError, match="string"):
        Contraction((1,), ("b",), ("b",))  # pyright: ignore
    with pytest.raises(ValueError, match="word"):
        Contraction(("b c",), ("b",), ("b",))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"axis 2 of lhs has size 5, axis 1 of rhs has size 6"):
        C.sizes((2, 3, 5), (2, 6, 7))
    with pytest.raises(ValueError, match="rank 2"):
        C.sizes((2, 3), (2, 6, 7))
    with pytest.raises(ValueError, match="unit axis"):
        Contraction.parse("1 k, k -> 1").sizes((2, 3), (3,))


def test_costs():
    assert C.flops((10, 4, 5), (10, 5, 8)) == 2 * 10 * 4 * 8 * 5
    assert C.bytes((10, 4, 5), (10, 5, 8), (4, 4, 2)) == (10 * 4 * 5 * 4 + 10 * 5 * 8 * 4, 10 * 4 * 8 * 2)


def test_frozen_hashable_and_equal_by_labels():
    again = Contraction(["b", "m", "k"], ["b", "k", "n"], ["b", "m", "n"])  # pyright: ignore
    assert again == C
    assert hash(again) == hash(C)
    with pytest.raises(AttributeError):
        C.lhs = ()  # pyright: ignore


def test_names_past_the_pool():
    assert names("mn", 4) == ("m", "n", "m1", "m2")
    assert broadcast((7, 1, 3), (2, 3)) == (("b", None, "d"), ("c", "d"), ("b", "c", "d"))


SIZES = dict(zip(("a", "b", "c", "row", "_", "a1"), (2, 3, 1, 4, 2, 5), strict=True))


@st.composite
def contractions(draw):
    """Any contraction over six labels, letters and words: all roles, repeated labels, unit axes anywhere."""
    labels = st.sampled_from([*SIZES, None])
    lhs = tuple(draw(st.lists(labels, max_size=4)))
    rhs = tuple(draw(st.lists(labels, max_size=4)))
    known = sorted({*lhs, *rhs} - {None})
    out = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
    for at in sorted(draw(st.lists(st.integers(0, len(out)), max_size=2))):
        out.insert(at, None)
    return Contraction(lhs, rhs, tuple(out))


def shapes(c):
    return (tuple(SIZES.get(label, 1) for label in side) for side in (c.lhs, c.rhs))


def reference(c, x, y):
    """NumPy's einsum over the labels, unit axes squeezed and put back."""
    squeezed = [
        a.squeeze(tuple(i for i, label in enumerate(side) if label is None)) for a, side in ((x, c.lhs), (y, c.rhs))
    ]
    product = np.asarray(np.einsum(c.einsum, *squeezed))
    return product.reshape([1 if label is None else SIZES[label] for label in c.out])


@given(contractions())
@settings(max_examples=200, deadline=None)
def test_contract_equals_numpy(c):
    rng = np.random.default_rng(len(str(c)))
    x, y = (rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes(c))
    with jax.disable_jit():
        result = jbdot.contract(c, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_array_equal(result, reference(c, x, y))
    assert result.shape == c.out_shape(x.shape, y.shape)


@given(contractions())
@settings(max_examples=200, deadline=None)
def test_strings_round_trip(c):
    assert Contraction.parse(str(c)) == c
    assert eval(repr(c)) == c
    for said in (
        jbdot.explain(c, *shapes(c)).contraction,
        CallPlan(c).swapped.swapped.contraction,
    ):
        assert Contraction.parse(str(said)) == c


WORDS = st.from_regex(r"[A-Za-z_]\w{0,3}", fullmatch=True) | st.none()


@given(st.lists(WORDS, max_size=3), st.lists(WORDS, max_size=3), st.randoms())
@settings(max_examples=300, deadline=None)
def test_any_labels_round_trip(lhs, rhs, random):
    out = [label for label in dict.fromkeys((*lhs, *rhs)) if label is not None and random.random() < 0.5]
    c = Contraction(tuple(lhs), tuple(rhs), tuple(out))
    assert Contraction.parse(str(c)) == c


@given(contractions())
@settings(max_examples=60, deadline=None)
def test_one_dot_general_whatever_the_labels(c):
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes(c))
    jaxpr = jax.make_jaxpr(lambda x, y: jbdot.contract(c, x, y))(x, y)
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert names.count("dot_general") == 1
    assert "pjit" not in names
    assert "jit" not in names


@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.randoms())
@settings(max_examples=80, deadline=None)
def test_dimension_numbers_round_trip(batch, contracting, lhs_free, rhs_free, random):
    lhs, rhs = list(range(batch + contracting + lhs_free)), list(range(batch + contracting + rhs_free))
    random.shuffle(lhs)
    random.shuffle(rhs)
    numbers = ((lhs[batch:][:contracting], rhs[batch:][:contracting]), (lhs[:batch], rhs[:batch]))
    c = Contraction.from_dimension_numbers(numbers, len(lhs), len(rhs))
    (lc, rc), (lb, rb) = c.dimension_numbers
    assert (sorted(zip(lc, rc, strict=True)), list(zip(lb, rb, strict=True))) == (
        sorted(zip(*numbers[0], strict=True)),
        list(zip(*numbers[1], strict=True)),
    )
    assert c.out == c.dot_out
