"""Calls of one operand, or of more than two: values, settings, errors, and what `explain` says of them."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.experimental import sparse
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbdot
from jbdot import Contraction, contract, explain, plan_sharding, sharded, tensorflow, torch
from jbdot.calls.front_door import RUNS

SUM = "sg,xga,xgb,gs->sab"
SHAPES = ((2, 5), (3, 5, 4), (3, 5, 2), (5, 2))


def array(*shape, dtype="float32"):
    return np.random.default_rng(len(shape)).integers(-3, 4, shape).astype(dtype)


ARRAYS = [array(*shape) for shape in SHAPES]
WANT = np.einsum(SUM, *ARRAYS)


@pytest.mark.parametrize("door", [contract, tensorflow.einsum, torch.einsum])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_operands(door, count):
    equation, arrays = {
        1: ("iij->j", [array(3, 3, 2)]),
        2: ("ij,jk->ki", [array(2, 3), array(3, 4)]),
        3: ("i,ij,jk->k", [array(2), array(2, 3), array(3, 4)]),
        4: (SUM, ARRAYS),
    }[count]
    want = np.einsum(equation, *arrays)
    np.testing.assert_array_equal(door(equation, *arrays), want)
    np.testing.assert_array_equal(jax.jit(functools.partial(door, equation))(*arrays), want)
    assert door(equation, *arrays).dtype == jnp.float32


def test_labels_as_words_units_and_ellipses():
    text = "batch query d, batch key d, batch key value 1 -> batch query value"
    q, k, v = array(2, 3, 4), array(2, 5, 4), array(2, 5, 6, 1)
    np.testing.assert_array_equal(contract(text, q, k, v), np.einsum("bqd,bkd,bkv->bqv", q, k, v[..., 0]))
    np.testing.assert_array_equal(contract(Contraction.parse(text), q, k, v), contract(text, q, k, v))
    x, y, z = array(7, 1, 2, 3), array(4, 3, 5), array(1, 4, 5)
    want = np.einsum("...ij,...jk,...k->...ik", x, y, z)
    for door in (contract, tensorflow.einsum):
        np.testing.assert_array_equal(door("...ij,...jk,...k->...ik", x, y, z), want)
    np.testing.assert_array_equal(
        contract("ij,jk,kl", array(2, 3), array(3, 4), array(4, 5)),
        np.linalg.multi_dot([array(2, 3), array(3, 4), array(4, 5)]),
    )


@pytest.mark.parametrize("dtype", ["int8", "uint16", "bfloat16", "float16", "complex64", "bool"])
def test_dtypes(dtype):
    arrays = [x.astype(dtype) for x in ARRAYS]
    found = contract(SUM, *arrays)
    assert found.dtype == dtype
    if dtype == "bool":
        np.testing.assert_array_equal(found, np.einsum(SUM, *(x.astype("int32") for x in arrays)) > 0)
    elif dtype in ("int8", "uint16"):
        np.testing.assert_array_equal(found, np.einsum(SUM, *(x.astype("int64") for x in arrays)).astype(dtype))
    else:
        np.testing.assert_allclose(np.asarray(found, "complex64"), WANT, rtol=0.02, atol=2)


def test_settings_reach_every_product():
    halves = [x.astype("bfloat16") for x in ARRAYS]
    assert contract(SUM, *halves, preferred_element_type="float32").dtype == jnp.float32
    jaxpr = str(jax.make_jaxpr(lambda *x: contract(SUM, *x, precision="highest"))(*ARRAYS))
    assert jaxpr.count("Precision.HIGHEST, Precision.HIGHEST") == jaxpr.count("dot_general[") == 3
    np.testing.assert_array_equal(contract(SUM, *ARRAYS, lowering="direct"), WANT)
    with pytest.raises(ValueError, match="lowering='shifted' must fit the contraction"):
        contract(SUM, *ARRAYS, lowering="shifted")


def test_gradients_and_vmaps_against_numpy():
    stacked = jnp.asarray(np.stack([ARRAYS[0], 2 * ARRAYS[0]]))
    f = functools.partial(contract, SUM)
    found = jax.vmap(f, (0, None, None, None))(stacked, *ARRAYS[1:])
    np.testing.assert_array_equal(found, np.stack([WANT, 2 * WANT]))
    weights = array(*WANT.shape)
    gradients = jax.grad(lambda *x: jnp.sum(f(*x) * weights), (0, 1, 2, 3))(*map(jnp.asarray, ARRAYS))
    for at, found in enumerate(gradients):
        terms, out = SUM.split("->")
        others = [*terms.split(",")]
        label = others.pop(at)
        rest = [x for place, x in enumerate(ARRAYS) if place != at]
        np.testing.assert_array_equal(found, np.einsum(f"{','.join([*others, out])}->{label}", *rest, weights))


def test_a_call_is_found_again():
    contract(SUM, *ARRAYS)
    contract(SUM, *map(jnp.asarray, ARRAYS))
    before = len(RUNS)
    contract(SUM, *map(jnp.asarray, ARRAYS))
    contract("i,ij,jk->k", jnp.ones(2), jnp.ones((2, 3)), jnp.ones((3, 4)))
    contract("i,ij,jk->k", jnp.ones(3), jnp.ones((3, 4)), jnp.ones((4, 5)))
    assert len(RUNS) <= before + 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: contract("ij,jk,kl->il", array(2, 3), array(3, 4)), "a term for each operand: .* has 3, the operands"),
        (lambda: contract("ij,jk->ik", array(2, 3)), "has 2, the operands are 1"),
        (lambda: contract("ij,jk->ik"), "'i j, j k -> i k' has 2, the operands are 0"),
        (
            lambda: contract("ij,jk,kl->il", array(2, 3), array(3, 4), array(5, 6)),
            "axis 1 of operand 1 has size 4, axis 0 of operand 2 has size 5",
        ),
        (lambda: contract("ij,jk,kl->il", array(2, 3), array(3), array(5, 6)), "operand 1 has rank 1"),
        (
            lambda: contract("...i,...i,...i->...", array(2, 3), array(3, 3), array(4, 3)),
            "axis 0 of operand 0 has size 2, axis 0 of operand 2",
        ),
        (lambda: contract("i,i,i->", array(2), sparse.BCOO.fromdense(jnp.ones(2)), array(2)), "dense arrays"),
        (lambda: contract("i,i,i->", array(2), [1, 2], array(2)), "an operand must be an array: got a list"),
        (lambda: contract("ij->j", array(2, 3), out_sharding=P()), "left out of a contraction of one operand"),
        (lambda: tensorflow.einsum("i,i,i->", array(2), array(2), array(2, dtype="int32")), "dtype"),
        (lambda: tensorflow.einsum(3, array(2)), "the equation must be a string"),
        (lambda: tensorflow.einsum("i,i,i->z", array(2), array(2), array(2)), "'z'"),
        (lambda: Contraction(("i",)), "labels of an operand and of the result"),
        (lambda: Contraction.parse("i,ij,jk->k").rhs, "must be of two operands here"),
        (
            lambda: plan_sharding("i,ij,jk->k", array(2), array(2, 3), array(3, 4)),
            "a plan must be of a contraction of two operands",
        ),
        (
            lambda: plan_sharding(Contraction.parse("i,ij,jk->k"), array(2), array(2, 3), None),
            "'i, i j, j k -> k' is of 3",
        ),
        (lambda: plan_sharding("ij,jk->ik", array(2, 3), array(3, 4), P(), array(4, 5)), "1 arguments come after out"),
        (lambda: sharded("i,ij,jk->k")(array(2), array(2, 3), array(3, 4)), "must be of two operands here"),
        (lambda: explain("i,ij,jk->k", (2,), (2, 3), (4, 4)), "contracted axes must have equal sizes"),
        (lambda: explain(contract), "the call must fit contract"),
    ],
)
def test_errors(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()


def test_explain_says_the_path():
    found = explain(SUM, *((2, 2000), (4, 2000, 60), (4, 2000, 60), (2000, 2)))
    assert found.shape == (2, 60, 60)
    assert found.formula == "out[s,a,b] = sum_{g,x} x0[s,g] * x1[x,g,a] * x2[x,g,b] * x3[g,s]"
    assert found.flops == 4000 + 960_000 + 2 * 2 * 60 * 60 * 8000
    assert found.largest == 4 * 960_000
    assert [row[:3] for row in found.steps()] == [
        ("t0", "x0 x3", "4,000"),
        ("t1", "t0 x1", "960,000"),
        ("out", "t1 x2", "7,200"),
    ]
    text = str(found)
    assert "largest intermediate  3.84 MB" in text
    assert max(map(len, text.splitlines())) <= 80
    assert found.rows()[3] == ("g", "contracting", "1", "1", "1", "0", "", "2,000")
    assert set(found.paths) == set(found.lowerings) == {"cpu", "gpu", "tpu"}
    assert "<table>" in found._repr_html_()
    assert found.latex.startswith(r"\mathrm{out}_{s,a,b} = \sum_{g,x} ")


def test_explain_of_one_operand_and_of_other_doors():
    one = explain("iij -> j".replace(" ", ""), (3, 3, 2))
    assert "one operand: no product" in str(one)
    assert (one.flops, one.largest) == (0, 0)
    chain = explain(torch.multi_dot, [(2, 30), (30, 4), (4, 5)])
    assert chain.shape == (2, 5)
    assert explain(torch.einsum, "ij,jk,kl->il", (2, 3), (1, 4), (4, 5)).einsum == "ij,k,kl->il"
    assert explain(tensorflow.einsum, "i,i,i->", (3,), (3,), (3,)).arguments == {"equation": "i,i,i->"}
    halves = [jax.ShapeDtypeStruct((4, 4), "bfloat16")] * 3
    assert explain("ij,jk,kl->il", *halves, preferred_element_type="float32").dtype == jnp.float32


def test_the_picture_is_a_tree(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "path.svg"
    figure = explain(SUM, *SHAPES).plot(file)
    assert file.stat().st_size > 1000
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert sum(text.startswith(("x", "t", "out")) for text in texts) == 7
    assert explain("ij->ji", (2, 3)).plot() is not None


def test_explicit_axes_of_one_device():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    specs = P(None, "x"), P(None, "x"), P(None, "x"), P("x")
    arrays = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(ARRAYS, specs, strict=True)]
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(contract(SUM, *arrays, out_sharding=P()), WANT)


def test_tune_takes_a_chain(tmp_path, monkeypatch):
    monkeypatch.setenv("JBDOT_TUNED", str(tmp_path / "tuned.json"))
    found = jbdot.tune("i,ij,jk->k", jnp.ones(4), jnp.ones((4, 4)), jnp.ones((4, 4)), seconds=0.01)
    assert len(found) >= 1
