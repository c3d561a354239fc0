"""A plan under JAX's transformations: derivatives both ways, vmap in any order, and what a reader of a jaxpr sees."""

import gc
import weakref

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import integers, mesh

import jbdot
from jbdot.many_devices.sharding_plan import plan_sharding

GEMM = "m k, k n -> m n"
CASES = {  # where both operands and the result are: sums are scattered; operands exchanged; plain jit
    "scattered": (P("x", "y"), P("y"), P("x", "y")),
    "exchanged": (P(None, ("x", "y")), P(("x", "y")), P("x")),
    "plain": (P("x"), P(None, "y"), P("x", "y")),
}


def square(out):
    return (out**2).sum()


@pytest.fixture(params=CASES)
def case(request):
    """A plan, its operands, and the same operands as NumPy has them."""
    on = mesh((2, 2))
    arrays = integers((8, 4)), integers((4, 12), 1)
    specs = CASES[request.param]
    operands = [jax.device_put(x, NamedSharding(on, spec)) for x, spec in zip(arrays, specs, strict=False)]
    plan = plan_sharding(GEMM, *operands, specs[2])
    assert plan.is_plain == (request.param == "plain")
    return plan, operands, arrays


def test_forward_derivatives_are_the_plan_on_tangents(case):
    plan, (lhs, rhs), (x, y) = case
    out, tangent = jax.jit(lambda *args: jax.jvp(plan, args, args))(lhs, rhs)
    np.testing.assert_array_equal(out, x @ y)
    np.testing.assert_array_equal(tangent, 2 * x @ y)
    jaxpr = jax.make_jaxpr(lambda *args: jax.jvp(plan, args, args))(lhs, rhs)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["sharding_plan"] * 3 + ["add_any"]


def test_second_derivatives_go_forward_over_backward(case):
    plan, (lhs, rhs), (_, y) = case
    found = jax.jit(jax.hessian(lambda lhs: square(plan(lhs, rhs))))(lhs)
    np.testing.assert_array_equal(found, 2 * np.einsum("mp,kl->mkpl", np.eye(8), y @ y.T))


def test_gradients_are_planned_and_come_back_where_operands_are(case):
    plan, (lhs, rhs), (x, y) = case
    found = jax.jit(jax.grad(lambda *args: square(plan(*args)), (0, 1)))(lhs, rhs)
    for got, want, operand in zip(found, (2 * x @ y @ y.T, 2 * x.T @ x @ y), (lhs, rhs), strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.sharding.is_equivalent_to(operand.sharding, 2)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda *args: square(plan(*args)), (0, 1)))(lhs, rhs))
    assert all(f"how={backward.contraction}; " in jaxpr for backward in plan.backward)


def test_vmaps_nest_and_are_differentiated_from_outside(case):
    plan, (lhs, rhs), (x, y) = case
    left, right = jnp.stack([lhs, 2 * lhs]), jnp.stack([rhs, -rhs, 3 * rhs], axis=1)

    def nested(left, right):
        return jax.vmap(jax.vmap(plan, (None, 1)), (0, None))(left, right)

    want = np.einsum("amk,kbn->abmn", np.stack([x, 2 * x]), np.stack([y, -y, 3 * y], axis=1))
    np.testing.assert_array_equal(jax.jit(nested)(left, right), want)
    found = jax.jit(jax.grad(lambda *args: square(nested(*args)), (0, 1)))(left, right)
    np.testing.assert_array_equal(found[0], 2 * np.einsum("abmn,kbn->amk", want, right))
    np.testing.assert_array_equal(found[1], 2 * np.einsum("abmn,amk->kbn", want, left))


def test_on_explicit_axes_a_basis_is_cut_and_an_operand_elsewhere_is_refused():
    on = mesh((2, 2), kind="Explicit")
    x, y = integers((8, 4)), integers((4, 12), 1)
    lhs, rhs = (jax.device_put(a, NamedSharding(on, spec)) for a, spec in ((x, P("x", "y")), (y, P("y"))))
    plan = plan_sharding(GEMM, lhs, rhs, P("x", "y"))
    with jax.set_mesh(on):
        jacobian = jax.jit(jax.jacfwd(plan))(lhs, rhs)
        np.testing.assert_array_equal(jacobian, np.einsum("mp,kn->mnpk", np.eye(8), y))
        with pytest.raises(ValueError, match=r"lhs is at P\('y', None\), planned lhs float32\[8,4\] P\('x', 'y'\)"):
            jax.jit(lambda lhs, rhs: plan(jax.reshard(lhs, P("y")), rhs))(lhs, rhs)


def test_the_axis_of_a_vmap_reaches_the_plan():
    """`spmd_axis_name`: the mapped axis stays cut along it, and nothing is gathered for it."""
    on = mesh((2, 2))
    x, y = integers((3, 8, 4)), integers((4, 12), 1)
    xs = jnp.concatenate([x, x[:1]])
    placed = NamedSharding(on, P("x", None, "y"))
    lhs, rhs = jax.device_put(xs, placed), jax.device_put(y, NamedSharding(on, P("y")))
    one = jax.ShapeDtypeStruct((8, 4), lhs.dtype, sharding=NamedSharding(on, P(None, "y")))
    plan = plan_sharding(GEMM, one, rhs, P("y"))
    mapped = jax.jit(jax.vmap(plan, (0, None), spmd_axis_name="x"))
    out = mapped(lhs, rhs)
    np.testing.assert_array_equal(out, np.asarray(xs) @ np.asarray(y))
    assert out.sharding.spec == P("x", "y")
    assert "all-gather" not in mapped.lower(lhs, rhs).compile().as_text()
    gradient = jax.jit(jax.grad(lambda lhs, rhs: square(mapped(lhs, rhs)), (0, 1)))(lhs, rhs)
    want = jax.grad(lambda lhs, rhs: square(lhs @ rhs), (0, 1))(jnp.asarray(xs), jnp.asarray(y))
    jax.tree.map(np.testing.assert_array_equal, gradient, want)


@pytest.mark.parametrize("remat3", [False, True])
def test_checkpoint_policies_see_a_dot(case, remat3):
    """Under a policy that saves dots, a plan runs once forward: its dot and its sums."""
    plan, (lhs, rhs), _ = case
    policies = jax.checkpoint_policies

    def runs(policy):
        block = jax.checkpoint(lambda x, y: jnp.sin(plan(jnp.sin(x), y)).sum(), policy=policy)
        return str(jax.make_jaxpr(jax.grad(block, (0, 1)))(lhs, rhs)).count(" sharding_plan[")

    jax.config.update("jax_remat3", remat3)
    try:
        assert runs(policies.dots_saveable) == runs(policies.dots_with_no_batch_dims_saveable) == 3
        assert runs(policies.everything_saveable) == 3
        assert runs(policies.nothing_saveable) == runs(None) == 4
        asked = []
        runs(lambda primitive, *operands, **params: asked.append((primitive, params)) or False)
        numbers = [params["dimension_numbers"] for primitive, params in asked if primitive is jax.lax.dot_general_p]
        assert numbers[0] == (((1,), (0,)), ((), ()))
    finally:
        jax.config.update("jax_remat3", False)


def test_equal_plans_compile_once_and_dropped_ones_are_let_go(caplog):
    on = mesh((2, 2))
    lhs = jax.device_put(integers((8, 4)), NamedSharding(on, P("x", "y")))
    rhs = jax.device_put(integers((4, 20), 1), NamedSharding(on, P("y")))

    def planned():
        return plan_sharding(GEMM, lhs, rhs, P("x", "y"))

    first = planned()
    first(lhs, rhs)
    step = jax.jit(lambda x, y: planned()(x, y) + 1)
    step(lhs, rhs)
    with jax.log_compiles():
        np.testing.assert_array_equal(planned()(lhs, rhs), np.asarray(lhs) @ np.asarray(rhs))
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
    assert planned().primitive == first.primitive
    assert hash(planned().primitive) == hash(first.primitive)
    del first, step
    jax.clear_caches()  # JAX keeps what it traced; without it, the last of many
    other = plan_sharding(GEMM, lhs, rhs, P("y", "x"))
    other(lhs, rhs)
    kept = weakref.ref(other), weakref.ref(other.primitive._program)
    del other
    gc.collect()
    assert [one() for one in kept] == [None, None]


def test_settings_around_a_plan_are_not_stale(case):
    plan, (lhs, rhs), _ = case

    def precisions():
        text = str(jax.make_jaxpr(plan)(lhs, rhs))
        return "HIGHEST" in text

    assert not precisions()
    with jax.default_matmul_precision("highest"):
        assert precisions()
        plan(lhs, rhs)
    assert not precisions()


def test_optimize_reaches_the_dot_of_a_device(case):
    plan, (lhs, rhs), (x, y) = case
    if plan.is_plain:
        return  # XLA partitions it
    with jbdot.optimize("reduced"):
        reduced = jax.jit(plan).lower(lhs, rhs).as_text()
    assert "dot_general" in jax.jit(plan).lower(lhs, rhs).as_text()
    assert "dot_general" not in reduced
    np.testing.assert_array_equal(jax.jit(jbdot.optimize(plan, lowering="unrolled"))(lhs, rhs), x @ y)
