"""The sharding of an open result, held against what jit gives it."""

import jax
import pytest
from jax import numpy as jnp
from jax.sharding import NamedSharding
from meshes import mesh

from jbdot.core.contraction import Contraction
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block
from jbdot.many_devices.shardy import propagated
from jbdot.many_devices.task import Task

SIZES = {"b": 16, "m": 8, "k": 32, "n": 64}


def task_of(text, lhs, rhs, out, sizes):
    c = Contraction.parse(text)
    shapes = [tuple(SIZES[label] for label in labels) for labels in (c.lhs, c.rhs, c.out)]
    blocks = (Block.of(shape, "float32", cut, sizes) for shape, cut in zip(shapes, (lhs, rhs), strict=False))
    return Task(c, sizes, *blocks, out, shapes[2], "float32", "float32")


@pytest.mark.parametrize(
    ("text", "lhs", "rhs", "out"),
    [
        ("m k, k n -> m n", (("x",), ()), ((), ("x",)), ((), ("x",))),  # rhs is larger
        ("n k, k m -> n m", (("x",), ()), ((), ("x",)), (("x",), ())),  # lhs is
        ("m k, k n -> m n", (("x",), ("y",)), (("y",), ("x",)), ((), ("x",))),
        ("m k, k n -> m n", ((), ("x", "y")), (("x", "y"), ()), ((), ())),
        ("b m k, b k n -> b m n", (("x", "y"), (), ()), (("y",), (), ("x",)), ((), (), ("x",))),  # at odds on b
        ("b m k, b k n -> b m n", (("x",), (), ()), (("x", "y"), (), ()), (("x", "y"), (), ())),
    ],
)
def test_an_open_result_is_as_jit_leaves_it(text, lhs, rhs, out):
    on = mesh((2, 4))
    task = task_of(text, lhs, rhs, None, dict(on.shape))
    args = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(on, partition_spec.written(x.sharding)))
        for x in (task.lhs, task.rhs)
    ]
    made = jax.jit(lambda x, y: jnp.einsum(task.contraction.einsum, x, y)).lower(*args).compile()
    assert propagated(task) == out
    wanted = NamedSharding(on, partition_spec.written(out))
    assert made.output_shardings.is_equivalent_to(wanted, len(out))


def test_a_result_that_is_told_is_cut_further_where_that_costs_nothing():
    """Compiled for v6e:4x4, 4096 by 4096 in bfloat16: an all-gather of 6.29 MB, of the result and not of lhs."""
    sizes = {"x": 4, "y": 4}
    assert propagated(task_of("m k, k n -> m n", (("x",), ()), ((), ()), ((), ("y",)), sizes)) == (("x",), ("y",))
    assert propagated(task_of("m k, k n -> m n", (("x",), ()), ((), ()), ((), ("x",)), sizes)) == ((), ("x",))
    assert propagated(task_of("m k, k n -> n m", (("x",), ()), ((), ()), (("y",), ()), sizes)) == (("x",), ("y",))
