"""From any sharding to any other: the array stays what it is, and no route sends more than the simplest one."""

import itertools
import math

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from meshes import integers, mesh, shardings, together

from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block
from jbdot.many_devices.collectives import AllGather, AllReduce, AllToAll, Cast, Permute, ReduceScatter, Slice
from jbdot.many_devices.route import Route, route

EVERY = shardings("xy", 2)
SHAPE = (16, 32)


def routes(on, ends):
    """One program for each start."""
    return [
        (start, [(end, route(Block.of(SHAPE, "float32", start, on.shape), end)) for end in ends]) for start in EVERY
    ]


@pytest.mark.parametrize("shape", [(2, 4), (2, 2)])
def test_every_pair_of_shardings(shape):
    on, x = mesh(shape), integers(SHAPE)
    for start, found in routes(on, EVERY):
        placed = jax.device_put(x, NamedSharding(on, partition_spec.written(start)))
        for (end, way), got in zip(
            found, together(on, [(way.run, (start,), end, (0,)) for end, way in found])(placed), strict=True
        ):
            np.testing.assert_array_equal(got, x, err_msg=f"{start} -> {end}: {way.steps}")


def test_partial_sums_are_added_once():
    on, x = mesh((2, 4)), integers(SHAPE)
    runs, sums = [], []
    for start, end in itertools.product(EVERY, EVERY):
        free = [axis for axis in on.shape if axis not in itertools.chain(*start)]
        for partial in [(axis,) for axis in free] + ([tuple(free)] if len(free) > 1 else []):
            for scatter in (True, False):
                way = route(Block.of(SHAPE, "float32", start, on.shape), end, partial, scatter)
                runs.append((way.run, (start,), end, (0,)))
                sums.append(math.prod(on.shape[axis] for axis in partial))
    for got, times in zip(together(on, runs)(x), sums, strict=True):
        np.testing.assert_array_equal(got, x * times)


def test_no_route_sends_more_than_gathering_all():
    sizes = {"x": 2, "y": 4}
    for start, end in itertools.product(EVERY, EVERY):
        block = Block.of(SHAPE, "float32", start, sizes)
        assert route(block, end).sent <= math.prod(SHAPE) * 4 - block.bytes


def kinds(start, end, partial=(), scatter=True, dtype=None, sizes=None):
    way = route(Block.of(SHAPE, "float32", start, sizes or {"x": 4, "y": 4}), end, partial, scatter, dtype)
    return way.steps


def test_steps_are_those_that_send_fewest():
    assert kinds(((), ("x", "y")), (("x", "y"), ())) == (AllToAll((("x", 1, 0), ("y", 1, 0))),)
    assert kinds(((), ("x", "y")), (("x",), ())) == (AllToAll((("x", 1, 0),)), AllGather(("y",)))
    assert kinds((("x",), ()), (("x",), ("y",))) == (Slice(("y",), 1),)
    assert kinds((("x",), ("y",)), (("y",), ("x",)))[0].kind == Permute.kind
    assert kinds((("x", "y"), ()), ((), ())) == (AllGather(("x", "y")),)
    assert kinds(((), ()), (("x",), ()), ("x",)) == (ReduceScatter(("x",), 0),)
    assert kinds(((), ()), (("x",), ()), ("x", "y")) == (ReduceScatter(("x",), 0), AllReduce(("y",)))
    assert kinds(((), ()), (("x",), ()), ("x",), scatter=False) == (AllReduce(("x",)), Slice(("x",), 0))


def test_sums_are_scattered_along_slow_axes_last():
    block = Block.of(SHAPE, "float32", ((), ()), {"x": 2, "y": 4})
    assert ReduceScatter(("x", "y"), 0).turns(block) == [("x", 1024), ("y", 768)]
    way = route(block, (("x", "y"), ()), ("x", "y"), slow=("x",))
    assert way.steps == (ReduceScatter(("x", "y"), 0, slow=("x",)),)
    assert way.steps[0].turns(block) == [("y", 1536), ("x", 256)]
    assert sum(sent for _, sent in way.steps[0].turns(block)) == way.sent
    on, x = mesh((2, 4)), integers(SHAPE)
    (got,) = together(on, [(way.run, (((), ()),), (("x", "y"), ()), (0,))])(x)
    np.testing.assert_array_equal(got, 8 * x)


def in_turns(start, end, sizes, partial=(), sides=(4, 4, 4)):
    return route(Block.of((1024, 1024), "float32", start, sizes), end, partial, sides=sides).steps


def test_what_goes_over_a_whole_slice_goes_in_turns():
    """The TPU compiler would make all-reduces of it: along the mesh axes, or parts of the only one."""
    one, two, three, none = {"x": 64}, {"x": 4, "y": 16}, {"x": 4, "y": 4, "z": 4}, ((), ())
    assert in_turns((("x",), ()), none, one) == (AllGather(("x",), (16, 4)),)
    assert in_turns((("x", "y"), ()), none, two) == (AllGather(("y",)), AllGather(("x",)))
    assert in_turns((("x", "y"), ()), none, three) == (AllGather(("x", "y")),)  # not all of it
    assert in_turns(none, (("x",), ()), one, ("x",)) == (ReduceScatter(("x",), 0, parts=(16, 4)),)
    assert in_turns(none, (("x", "y"), ()), two, ("x", "y")) == (ReduceScatter(("x", "y"), 0),)
    assert in_turns(none, (("x",), ()), {"x": 16}, ("x",), (4, 4)) == (ReduceScatter(("x",), 0, parts=(4, 4)),)
    for sides in ((4, 4), (2, 2, 4)):  # kept
        assert in_turns((("x",), ()), none, {"x": 16}, sides=sides) == (AllGather(("x",)),)
    assert in_turns(none, (("x",), ()), {"x": 8}, ("x",), (2, 4)) == (ReduceScatter(("x",), 0),)


def test_turns_along_parts_of_a_mesh_axis_do_what_one_does():
    on, x = mesh((8,)), integers(SHAPE)
    scattered = (ReduceScatter(("x",), 0, parts=parts) for parts in ((4, 2), (2, 2, 2)))
    sums = [Route(Block.of(SHAPE, "float32", ((), ()), on.shape), (step,)) for step in scattered]
    gathered = [
        Route(Block.of(SHAPE, "float32", start, on.shape), (AllGather(("x",), (2, 4)),))
        for start in ((("x",), ()), ((), ("x",)))
    ]
    runs = [(way.run, (way.start.sharding,), way.end.sharding, (0,)) for way in (*sums, *gathered)]
    for got, times in zip(together(on, runs)(x), (8, 8, 1, 1), strict=True):
        np.testing.assert_array_equal(got, times * x)
    on = mesh((2, 4))  # parts that are not neighbours: another factor stands before them
    block = Block.of(SHAPE, "float32", (("x", "y"), ()), on.shape)
    way = Route(block, (AllGather(("y",), (2, 2)), AllGather(("x",))))
    (got,) = together(on, [(way.run, (block.sharding,), ((), ()), (0,))])(x)
    np.testing.assert_array_equal(got, x)
    assert ReduceScatter(("x",), 0, parts=(4, 2)).sent(sums[0].start) == sums[0].start.bytes * 7 // 8


@pytest.mark.parametrize("shape", [(8,), (1024,), (2048,), (8, 5), (3, 16)])
def test_sums_of_vectors_and_single_rows_are_scattered(shape):
    on, x = mesh((8,)), integers(shape)
    end = tuple(("x",) if size % 8 == 0 else () for size in shape)
    way = route(Block.of(shape, "float32", ((),) * len(shape), on.shape), end, ("x",))
    assert [step.kind for step in way.steps] == ["reduce-scatter"]
    (got,) = together(on, [(way.run, (((),) * len(shape),), end, (0,))])(x)
    np.testing.assert_array_equal(got, 8 * x)


def test_sums_are_rounded_before_anything_else_is_sent():
    steps = kinds((("y",), ()), ((), ("x",)), ("x",), dtype="bfloat16")
    assert steps == (ReduceScatter(("x",), 1), Cast("bfloat16"), AllGather(("y",)))
    way = Route(Block.of(SHAPE, "float32", (("y",), ()), {"x": 4, "y": 4}), steps)
    assert way.sent == 16 * 32 * 4 // 4 * 3 // 4 + 16 * 32 * 2 // 16 * 3


def test_what_does_not_divide_has_no_route():
    assert route(Block.of((6, 8), "float32", ((), ()), {"x": 4}), (("x",), ())) is None


def test_bytes_are_those_of_the_best_algorithms():
    block = Block.of((16, 32), "float32", (("x",), ()), {"x": 4, "y": 2})
    assert block.bytes == 512
    assert AllGather(("x",)).sent(block) == 3 * 512
    assert AllToAll((("x", 0, 1),)).sent(block) == 512 * 3 // 4
    assert ReduceScatter(("y",), 1).sent(block) == 512 // 2
    assert AllReduce(("y",)).sent(block) == 512
    assert Slice(("y",), 1).sent(block) == 0
