"""The marked dot under JAX: what stands in the jaxpr, and what each platform is handed."""

import dataclasses

import jax
import numpy as np
import pytest
from jax import export, lax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbdot
from jbdot.one_device import choice, lowerings, mark
from jbdot.one_device.costs import Estimate

MATMUL = "b m k, b k n -> b m n"


def array(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(-4, 5, shape), jnp.float32)


def marks(equation):
    return mark.of(equation.ctx.xla_metadata or {})


def dots(jaxpr):
    """Every marked dot in a jaxpr, inner ones too, as its equation."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p and marks(equation) != "direct":
            found.append(equation)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += dots(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.fixture
def seen(monkeypatch):
    """Has every dot estimated to be faster unrolled, and lists the requests that were lowered, by platform."""
    asked = []

    def estimated(spec, platform, exported=False):
        asked.append(platform)
        return (Estimate("unrolled", 1.0),)

    lowered = []

    def unrolled(spec, lhs, rhs):
        lowered.append((asked[-1], spec))
        return lowerings.unrolled(spec, lhs, rhs)

    monkeypatch.setattr(choice, "estimated", estimated)
    monkeypatch.setitem(
        lowerings.LOWERINGS, "unrolled", dataclasses.replace(lowerings.LOWERINGS["unrolled"], function=unrolled)
    )
    monkeypatch.setenv("JBDOT_TUNED", "off")
    return lowered


def test_the_jaxpr_has_lax_own_equation_marked():
    x, y = array(2, 3, 4), array(2, 4, 5)
    (equation,) = jax.make_jaxpr(jbdot.batch_dot)(x, y).eqns
    (bare,) = jax.make_jaxpr(lambda x, y: lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,)))))(x, y).eqns
    assert equation.primitive is bare.primitive is lax.dot_general_p
    assert equation.params == bare.params
    assert str(equation).partition("dot_general")[2] == str(bare).partition("dot_general")[2]
    assert (marks(equation), marks(bare)) == ("auto", "direct")


def test_direct_is_lax_dot_general_itself():
    x, y = array(2, 3, 4), array(2, 4, 5)
    (equation,) = jax.make_jaxpr(lambda x, y: jbdot.batch_dot(x, y, lowering="direct"))(x, y).eqns
    assert equation.primitive is lax.dot_general_p
    assert marks(equation) == "direct"
    assert not equation.ctx.xla_metadata


def test_each_platform_of_an_export_is_chosen_for(seen):
    x, y = array(2, 3, 4), array(2, 4, 5)
    exported = export.export(jax.jit(jbdot.batch_dot), platforms=["cpu", "cuda", "tpu"])(x, y)
    assert {platform for platform, _ in seen} == {"cpu", "cuda", "tpu"}
    assert "stablehlo.dot_general" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(x, y), np.asarray(x) @ np.asarray(y))


def test_vmap_and_gradients_are_chosen_for_as_they_stand(seen):
    x, y = array(6, 3, 4), array(6, 4, 5)
    jax.jit(jax.vmap(jbdot.dot)).lower(x, y)
    assert (seen[-1][1].batch, seen[-1][1].m, seen[-1][1].k, seen[-1][1].n) == (6, 3, 4, 5)
    seen.clear()
    jax.jit(jax.grad(lambda x, y: jbdot.batch_dot(x, y).sum(), (0, 1))).lower(x, y)
    shapes = [(spec.m, spec.k, spec.n) for _, spec in seen]
    # Both of the backward pass, the forward one is not needed; that of rhs as written, and again with its transpose.
    assert shapes == [(5, 3, 4), (4, 3, 5), (3, 5, 4)]
    seen.clear()
    jax.jit(jax.hessian(lambda x: (jbdot.batch_dot(x, y) ** 2).sum())).lower(array(6, 3, 4))
    assert [spec.lhs[0] for _, spec in seen] == [72, 72]  # of the second derivative: all directions at once


def test_a_named_lowering_travels_into_gradients():
    x, y = array(2, 3, 4), array(2, 4, 5)

    def loss(x):
        return jbdot.batch_dot(x, y, lowering="unrolled").sum()

    assert [marks(e) for e in dots(jax.make_jaxpr(jax.grad(loss))(x).jaxpr)] == ["unrolled", "unrolled"]
    assert {marks(e) for e in dots(jax.make_jaxpr(lambda x: jax.jvp(loss, (x,), (x,)))(x).jaxpr)} == {"unrolled"}


@pytest.mark.parametrize("lowering", ["pinned", "reduced", "unrolled", "split", "looped"])
def test_named_lowerings_give_the_same_numbers(lowering):
    x, y = array(4, 4, 3), array(4, 4, 5)
    want = np.einsum("bkm,bkn->bmn", x, y)
    np.testing.assert_array_equal(jbdot.contract("b k m, b k n -> b m n", x, y, lowering=lowering), want)


def test_export_holds_no_pinned_layout():
    x, y = array(4, 4, 3), array(4, 4, 5)
    call = jax.jit(lambda x, y: jbdot.contract("b k m, b k n -> b m n", x, y, lowering="pinned"))
    assert "LayoutConstraint" in call.lower(x, y).as_text()
    exported = export.export(call)(x, y)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(x, y), call(x, y))


@pytest.mark.parametrize(("lowering", "rule"), [("fast", "there is no 'fast'"), ("padded", "needs a vector")])
def test_a_lowering_that_cannot_be_is_refused(lowering, rule):
    with pytest.raises(ValueError, match=rf"keras_tf1\.batch_dot: lowering.* must .*{rule}.*x float32\[2,3,4\]"):
        jbdot.batch_dot(array(2, 3, 4), array(2, 4, 5), lowering=lowering)
    with pytest.raises(TypeError, match="lowering must be the name of a lowering: got 3"):
        jbdot.batch_dot(array(2, 3, 4), array(2, 4, 5), lowering=3)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_only_one_device_or_a_shard_map_is_chosen_for(seen):
    mesh = jax.make_mesh((4, 2), ("x", "y"))
    x, y = array(8, 3, 4), array(8, 4, 5)
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(a, NamedSharding(mesh, P("x"))) for a in (x, y)]
        jax.jit(jbdot.batch_dot).lower(*sharded)
        assert not seen
        jax.jit(jax.shard_map(jbdot.batch_dot, mesh=mesh, in_specs=P("x"), out_specs=P("x"))).lower(*sharded)
    assert [spec.batch for _, spec in seen] == [2]


def test_checkpoint_policies_see_a_dot():
    x, y = array(2, 3, 3), array(2, 3, 3)

    def count(policy):
        step = jax.checkpoint(
            lambda x: jnp.sin(jbdot.batch_dot(jnp.sin(jbdot.batch_dot(x, y)), y)).sum(), policy=policy
        )
        return len(dots(jax.make_jaxpr(jax.grad(step))(x).jaxpr))

    policies = jax.checkpoint_policies
    # Two dots forward and two backward; all of the forward ones again, or none of them.
    assert count(policies.nothing_saveable) > count(policies.dots_saveable)
    assert count(policies.dots_saveable) == 4
    assert count(policies.dots_with_no_batch_dims_saveable) == count(policies.nothing_saveable)
    assert count(policies.everything_saveable) == 4


def test_without_jit_lax_runs():
    x, y = array(2, 3, 4), array(2, 4, 5)
    with jax.disable_jit():
        np.testing.assert_array_equal(jbdot.batch_dot(x, y), x @ y)


def test_the_default_precision_of_jax_holds():
    x, y = array(2, 3, 4), array(2, 4, 5)
    with jax.default_matmul_precision("highest"):
        (equation,) = jax.make_jaxpr(jbdot.batch_dot)(x, y).eqns
    assert equation.params["precision"] == (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    (equation,) = jax.make_jaxpr(jbdot.batch_dot)(x, y).eqns
    assert equation.params["precision"] is None


def test_no_transpose_is_left_where_swapping_the_operands_will_do():
    x, y = array(4, 3, 5), array(4, 5, 6)

    def names(function, *args):
        return [e.primitive.name for e in jax.make_jaxpr(function)(*args).eqns]

    def turned(x, y):
        return jbdot.contract("b m k, b k n -> b n m", x, y)

    assert names(turned, x, y) == ["dot_general"]
    np.testing.assert_array_equal(turned(x, y), np.swapaxes(x @ y, 1, 2))
    dx, dy = jax.vjp(jbdot.batch_dot, x, y)[1](x @ y)
    np.testing.assert_array_equal(dx, (x @ y) @ np.swapaxes(y, 1, 2))
    np.testing.assert_array_equal(dy, np.swapaxes(x, 1, 2) @ (x @ y))
    highest = lax.Precision.HIGHEST, lax.Precision.DEFAULT
    (dot,) = jax.make_jaxpr(lambda x, y: jbdot.contract("b m k, b k n -> b n m", x, y, precision=highest))(x, y).eqns
    assert dot.params["precision"] == highest[::-1]
