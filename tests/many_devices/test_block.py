"""What a device holds of an array: sizes, and which factors stand where."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from meshes import mesh, shardings

from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block

MESH = {"x": 2, "y": 4}


@pytest.mark.parametrize("sharding", shardings("xy", 2))
def test_a_block_is_what_jax_puts_on_a_device(sharding):
    on = mesh((2, 4))
    x = jax.device_put(np.zeros((16, 24), np.int16), NamedSharding(on, partition_spec.written(sharding)))
    block = Block.of(x.shape, x.dtype, sharding, on.shape)
    assert block.local == x.addressable_shards[0].data.shape
    assert block.bytes == x.addressable_shards[0].data.nbytes
    assert block.sharding == sharding
    assert block.is_whole


def test_factors_that_are_held_make_a_block_larger_where_they_stand():
    block = Block.of((16, 24), "float32", (("x", "y"), ()), MESH).turned(["x"], spread=False)
    assert block.local == (4, 24)
    assert block.view == (2, 1, 2, 24)
    assert block.view_axis(1, 0) == 3
    assert not block.is_whole  # the rows of two places in the array
    assert block.turned(["y"], spread=False).is_whole


def test_new_factors_stand_behind_those_in_use():
    block = Block.of((16, 24), "float32", (("y",), ()), MESH)
    assert block.prepared(0, ("x",)).factors[0] == (("y", True), ("x", False))
    held = block.turned(["y"], spread=False)
    assert held.prepared(0, ("x",)).factors[0] == (("x", False),)
    assert held.prepared(0, ("y",)) == held


def test_what_divides():
    block = Block.of((6, 24), "float32", (("x",), ()), MESH)
    assert block.divides(0, ("x",))
    assert not block.divides(0, ("y",))
    assert block.divides(1, ("x", "y"))
