"""Products of one call of many operands, in the order of the sizes that stand where the program is lowered."""

import re

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.experimental import checkify, jet, sparse
from jax.experimental.xla_metadata import set_xla_metadata

import jbdot
from jbdot import contract
from jbdot.one_device import jax_internals
from jbdot.one_device.reordering import reordered

A, B = (np.random.default_rng(seed).integers(-2, 3, (24, 24)).astype("float32") for seed in (0, 1))
FEW, MANY = (np.random.default_rng(n).integers(-2, 3, (n, 24)).astype("float32") for n in (4, 20000))


def chain(v, a, b, **options):
    return contract("i,ij,jk->k", v, a, b, **options)


def each(v, a, b):
    return jax.vmap(chain, (0, None, None))(v, a, b)


def products(f, *args):
    """The operands of each dot in the program that is handed to the backend."""
    text = jax.jit(f).lower(*args).as_text()
    found = re.findall(r"stablehlo\.dot_general.*: \((.*?)\) ->", text)
    return [tuple(re.findall(r"tensor<(\w*)xf32>", operands)) for operands in found]


def test_the_order_is_chosen_after_vmap():
    assert products(each, FEW, A, B) == [("4x24", "24x24")] * 2
    assert products(each, MANY, A, B) == [("24x24", "24x24"), ("20000x24", "24x24")]
    np.testing.assert_array_equal(jax.jit(each)(MANY, A, B), MANY @ A @ B)
    np.testing.assert_array_equal(each(MANY, A, B), MANY @ A @ B)


def test_the_program_is_traced_as_it_was():
    jaxpr = str(jax.make_jaxpr(each)(MANY, A, B))
    assert jaxpr.count("dot_general[") == 2
    assert "jbdot" not in jaxpr


def test_a_gradient_has_an_order_of_its_own():
    """By the vectors alone: theirs come back through both matrices."""

    def loss(v):
        return jnp.sum(jnp.sin(each(v, A, B)))

    found = products(jax.grad(loss), MANY)
    assert found.count(("24x24", "24x24")) == 2
    want = np.cos(MANY @ A @ B) @ B.T @ A.T
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(MANY), want, rtol=1e-4, atol=1e-3)


def test_what_else_is_read_is_computed():
    """A product whose result is needed for a gradient stands where it was traced."""

    def loss(v, a, b):
        return jnp.sum(jnp.sin(each(v, a, b)))

    found = jax.jit(jax.grad(loss, (0, 1, 2)))(MANY, A, B)
    c = np.cos(MANY @ A @ B)
    for got, want in zip(found, (c @ B.T @ A.T, MANY.T @ (c @ B.T), (MANY @ A).T @ c), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("lowering", ["direct", "pinned"])
def test_settings_reach_every_product(lowering):
    f = jax.vmap(lambda v: chain(v, A, B, lowering=lowering))
    first, _ = products(f, MANY)
    # "direct" is the order that was traced.
    assert ("20000x24" in first) == (lowering == "direct")
    np.testing.assert_array_equal(f(MANY), MANY @ A @ B)


def test_two_calls_of_two_operands_keep_their_order():
    def f(v):
        return contract("j,jk->k", contract("i,ij->j", v, A), B)

    assert products(jax.vmap(f), MANY) == [("20000x24", "24x24")] * 2


@pytest.mark.parametrize(
    "f",
    [
        lambda v: jax.checkpoint(lambda v: each(v, A, B))(v),
        lambda v: lax.scan(lambda carry, _: (each(carry, A, B), None), v, None, length=1)[0],
        lambda v: lax.cond(v[0, 0] > -9, lambda v: each(v, A, B), lambda v: v, v),
        lambda v: jax.jit(lambda v: each(v, A, B))(v),
        lambda v: checkify.checkify(lambda v: each(v, A, B), errors=checkify.float_checks)(v)[1],
        lambda v: jax.jvp(lambda v: each(v, A, B), (v,), (v,))[1],
        lambda v: jax.linearize(lambda v: each(v, A, B), v)[1](v),
        lambda v: jax.vmap(jax.vmap(lambda v: chain(v, A, B)))(v.reshape(100, 200, 24)).reshape(v.shape),
    ],
)
def test_within_transformations(f):
    np.testing.assert_array_equal(jax.jit(f)(MANY), MANY @ A @ B)
    assert ("24x24", "24x24") in products(f, MANY)


@pytest.mark.parametrize(
    "f",
    [
        lambda v: sparse.sparsify(lambda v: each(v, A, B))(v),
        lambda v: jet.jet(lambda v: each(v, A, B), (v,), ((jnp.zeros_like(v),),))[0],
    ],
)
def test_what_traces_the_equations_anew_forgets_the_mark(f):
    np.testing.assert_array_equal(jax.jit(f)(MANY), MANY @ A @ B)


def test_an_export_runs():
    program = jax.export.export(jax.jit(each), platforms=["cpu", "tpu"])(MANY, A, B)
    np.testing.assert_array_equal(program.call(MANY, A, B), MANY @ A @ B)


def test_the_report_says_what_runs():
    report = jbdot.optimize(each).report(MANY, A, B)
    assert [(row.dot_spec.lhs, row.dot_spec.rhs) for row in report] == [((24, 24), (24, 24)), ((20000, 24), (24, 24))]
    assert report.flops == 2 * 24**3 + 2 * 20000 * 24 * 24
    assert [row.dot_spec.lhs for row in jbdot.optimize(each, lowering="direct").report(MANY, A, B)] == [(20000, 24)] * 2


def test_a_process_without_jaxs_insides_keeps_the_order(monkeypatch):
    def changed():
        raise KeyError("jaxpr")

    monkeypatch.setattr(jax_internals, "surroundings", jax_internals._contract(None)(changed))
    jax_internals._warn.cache_clear()
    with pytest.warns(UserWarning, match="changed"):
        found = products(lambda v: each(v, A, B), MANY)
    assert found == [("20000x24", "24x24")] * 2
    jax_internals._warn.cache_clear()


def test_what_a_tree_is_made_of():
    """Of one setting, unmarked products apart."""

    def mixed(v, a, b):
        with set_xla_metadata(jbdot="auto", jbdot_path="any"):
            first = lax.dot(v, a, precision="highest")
            return lax.dot(first, b)

    jaxpr = jax.make_jaxpr(mixed)(MANY, A, B).jaxpr
    assert reordered(jaxpr, "cpu") == {}
    trees = reordered(jax.make_jaxpr(each)(MANY, A, B).jaxpr, "cpu")
    assert len(trees) == 2
    tree, same = trees.values()
    assert tree is same
    assert tree.dtype == jnp.float32
    assert len(tree.leaves) == 3


@pytest.mark.parametrize("seed", range(14))
def test_random_equations_in_any_order(monkeypatch, seed):
    """Three to five operands, one of them under vmap; the value, and a gradient by each operand, of every tree."""
    monkeypatch.setattr(
        "jbdot.one_device.reordering._SURE", float("inf")
    )  # each is written in its order, even the same
    rng = np.random.default_rng(seed)
    sizes = dict(zip("abcdef", (2, 3, 4, 2, 3, 1), strict=True))
    terms = ["".join(rng.choice(list(sizes), rng.integers(1, 4), replace=False)) for _ in range(rng.integers(3, 6))]
    known = sorted(set("".join(terms)))
    out = "".join(rng.permutation(known)[: rng.integers(0, 4)])
    equation, batched = f"{','.join(terms)}->{out}", int(rng.integers(len(terms)))
    arrays = [rng.integers(-2, 3, [sizes[label] for label in term]).astype("float32") for term in terms]
    arrays[batched] = np.stack([arrays[batched], -arrays[batched], 2 * arrays[batched]])
    weights = rng.integers(-2, 3, (3, *(sizes[label] for label in out))).astype("float32")
    axes = [0 if at == batched else None for at in range(len(terms))]

    def each(*arrays):
        return jax.vmap(lambda *x: contract(equation, *x), axes)(*arrays)

    def loss(*arrays):
        value = each(*arrays)
        return jnp.sum(value * weights), value

    every = tuple(range(len(terms)))
    gradients, value = jax.jit(jax.grad(loss, every, has_aux=True))(*arrays)
    named = [f"z{term}" if at == batched else term for at, term in enumerate(terms)]
    np.testing.assert_array_equal(value, np.einsum(f"{','.join(named)}->z{out}", *arrays))
    np.testing.assert_array_equal(value, jax.jit(each)(*arrays))
    for at, found in enumerate(gradients):
        left = [term for place, term in enumerate(named) if place != at]
        whole = dict.fromkeys(f"z{out}").keys() | set("".join(left))
        lost = [label for label in named[at] if label not in whole]  # summed alone: each of them has the same gradient
        kept = "".join(label for label in named[at] if label in whole)
        rest = [x for place, x in enumerate(arrays) if place != at]
        want = np.einsum(f"{','.join([*left, f'z{out}'])}->{kept}", *rest, weights)
        for label in lost:
            want = np.stack([want] * sizes[label], named[at].index(label))
        np.testing.assert_array_equal(found, want)
