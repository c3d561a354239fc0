"""Front doors over a mesh: their own arguments and errors, the plan's collectives."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import integers, mesh, struct

import jbdot
from jbdot.calls.sharded import sharded
from jbdot.hardware import known

V5E = known("TPU v5 lite")
LHS, RHS = P(None, None, ("x", "y")), P(None, ("x", "y"))


def placed(on):
    lhs, rhs = integers((16, 8, 32)), integers((16, 32, 8), 1)
    return jax.device_put(lhs, NamedSharding(on, LHS)), jax.device_put(rhs, NamedSharding(on, RHS))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_front_door_keeps_its_arguments(kind):
    on = mesh((2, 4), kind=kind)
    lhs, rhs = placed(on)
    door = sharded(jbdot.keras_tf1.batch_dot, out=P(("x", "y")), hardware=V5E)
    got = door(lhs, rhs, axes=[2, 1])
    np.testing.assert_array_equal(got, np.asarray(lhs) @ np.asarray(rhs))
    assert got.sharding.is_equivalent_to(NamedSharding(on, P(("x", "y"))), 3)
    assert door.plan(lhs, rhs, axes=[2, 1]) is door.plan(lhs, rhs, axes=[2, 1])  # planned and compiled once
    assert door.__name__ == "batch_dot"


def test_under_jit_types_say_where_operands_are_or_the_caller_does():
    explicit, auto = mesh((2, 4), kind="Explicit"), mesh((2, 4))
    lhs, rhs = placed(explicit)
    with jax.set_mesh(explicit):
        got = jax.jit(sharded(jbdot.batch_dot, out={"b": ("x", "y")}, hardware=V5E))(lhs, rhs)
    np.testing.assert_array_equal(got, np.asarray(lhs) @ np.asarray(rhs))
    lhs, rhs = placed(auto)
    told = sharded(jbdot.batch_dot, out=P(("x", "y")), hardware=V5E, mesh=auto, lhs=LHS, rhs=RHS)
    np.testing.assert_array_equal(jax.jit(told)(lhs, rhs), got)
    with pytest.raises(
        ValueError, match=r"batch_dot: an operand must say where it is: x is traced.*sharded\(\.\.\., mesh="
    ):
        jax.jit(sharded(jbdot.batch_dot, hardware=V5E))(lhs, rhs)


def test_what_a_dialect_does_to_operands_is_done_first():
    on = mesh((8,))
    x = jax.device_put(integers((16, 4)), NamedSharding(on, P("x")))
    y = jax.device_put(integers((16, 4), 1), NamedSharding(on, P("x")))
    got = sharded(jbdot.keras.batch_dot, hardware=V5E)(x, y)  # (16, 1): an axis is inserted
    np.testing.assert_array_equal(got, jbdot.keras.batch_dot(np.asarray(x), np.asarray(y)))
    integer = x.astype("int8")
    plan = sharded(jbdot.tensorflow.matmul, hardware=V5E).plan(integer, integer, transpose_b=True, output_type="int32")
    assert plan.out.dtype == "int32"


def test_a_call_that_sends_nothing_is_left_to_the_compiler():
    on = mesh((8,))
    x, y = struct((16, 4, 4), "float32", on, (("x",), (), ())), struct((16, 4, 4), "float32", on, (("x",), (), ()))
    plan = sharded(jbdot.batch_dot, reduce="forbid", hardware=V5E).plan(x, y)
    assert plan.sent == 0
    assert plan.is_plain


def test_refusals_are_the_front_doors_own():
    on = mesh((8,))
    x = jax.device_put(integers((16, 8, 8)), NamedSharding(on, P("x")))
    with pytest.raises(ValueError, match=r"keras_tf1\.batch_dot: the contracted axes must have equal sizes"):
        sharded(jbdot.batch_dot)(x, jnp.ones((16, 4, 8)))
    with pytest.raises(ValueError, match="neither x nor y has a NamedSharding, and no mesh is set"):
        sharded(jbdot.batch_dot)(jnp.ones((2, 3, 4)), jnp.ones((2, 4, 3)))
    with pytest.raises(ValueError, match="an axis that is summed, or read as a diagonal, must be whole"):
        sharded(jbdot.tensorflow.einsum)("ij,jk->k", x[:, :, 0], jnp.ones((8, 4)))
    with pytest.raises(TypeError, match="the call must fit"):
        sharded(jbdot.batch_dot)(x)


def test_labels_are_a_front_door_and_other_functions_are_refused_at_once():
    on = AbstractMesh((4,), ("x",))
    x = jax.ShapeDtypeStruct((8, 16), "float32", sharding=NamedSharding(on, P("x")))
    y = jax.ShapeDtypeStruct((16, 8), "float32", sharding=NamedSharding(on, P()))
    plan = sharded("m k, k n -> m n", hardware="v5e").plan(x, y)
    assert str(plan.contraction) == "m k, k n -> m n"
    assert plan == sharded(plan.contraction, hardware="v5e").plan(x, y)
    with pytest.raises(
        TypeError, match=r"sharded: function must be a front door .*'matmul'\. They are .*keras.batch_dot"
    ):
        sharded(jnp.matmul)
