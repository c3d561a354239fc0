"""XLA's way from one sharding to another, held against what XLA's compiler for CPUs makes of it."""

import random

import jax
import pytest
from jax.sharding import NamedSharding
from meshes import mesh, shardings

from jbdot import hlo
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block
from jbdot.many_devices.route import Route
from jbdot.many_devices.xla_reshard import Tiles, Uneven, exchanges, parted, parts

SQUARE, OBLONG = {"x": 4, "y": 4}, {"x": 4, "y": 16}


@pytest.mark.parametrize(
    ("on", "start", "end", "kinds"),
    [
        (SQUARE, "x,", "x,", []),
        (SQUARE, ",", "x,y", ["slice", "slice"]),
        (SQUARE, "x,y", ",", ["all-gather"]),
        (SQUARE, "x,", "y,", ["permute"]),  # counts are alike, devices are not
        (SQUARE, "x,y", "y,x", ["permute"]),
        (SQUARE, "x,", ",x", ["all-to-all"]),
        (SQUARE, "x,", ",y", ["all-to-all", "permute"]),
        (SQUARE, "xy,", ",xy", ["all-to-all"]),
        (SQUARE, "xy,", "x,y", ["all-to-all"]),
        (SQUARE, "x,y", "xy,", ["all-to-all"]),
        (SQUARE, "xy,", "x,", ["all-gather"]),
        (SQUARE, "xy,", "y,", ["permute", "all-gather"]),
        (SQUARE, "x,", "y,x", ["slice", "permute"]),
        (SQUARE, "xy,", ",y", ["all-gather", "slice"]),  # all is gathered: XLA warns of it
        (OBLONG, "x,", ",x", ["all-to-all"]),
        (SQUARE, "x,y,", ",x,y", ["all-to-all", "permute"]),
    ],
)
def test_kinds_of_steps(on, start, end, kinds):
    first, last = (tuple(tuple(axes) for axes in text.split(",")) for text in (start, end))
    found = Tiles(on).steps(first, last, ("x", "y"))
    assert [step.kind for step, _ in found] == kinds
    if found:
        assert found[-1][1] == last


@pytest.mark.parametrize("shape", [(2, 4), (2, 2), (2, 2, 2)])
def test_bytes_are_those_that_are_compiled(shape):
    on, names = mesh(shape), "xyz"[: len(shape)]
    draw, every = random.Random(0), shardings(names, 2)
    for start, end in (draw.sample(every, 2) for _ in range(6)):
        sizes = parts(on.shape)
        first, last = parted(start, sizes), parted(end, sizes)
        way = Route(Block.of((32, 64), "float32", first, sizes))
        for step, sharding in Tiles(sizes).steps(first, last, tuple(sizes)):
            way = way.to(step, sharding)
        placed, wanted = (NamedSharding(on, partition_spec.written(cut)) for cut in (start, end))
        given = jax.ShapeDtypeStruct((32, 64), "float32", sharding=placed)
        made = jax.jit(lambda x: x, out_shardings=wanted).lower(given).compile()
        assert way.sent == hlo.bytes_sent(made.as_text()), (start, end, way.steps)


def test_groups_that_are_the_same_move_nothing():
    tiles = Tiles(SQUARE)
    one = tiles.group((("x",), ("y",)), [0], ("x", "y"))
    assert (one.axes, one.scope, one.inner) == (("x",), ("y",), ((), ("y",)))
    other = tiles.group((("y",), ()), [0], ("x", "y"))
    assert tiles.whole(tiles.aligned(one, one)) == (("x",), ("y",))
    assert tiles.whole(tiles.aligned(one, other)) == (("y",), ("x",))  # each axis takes the other's place
    repeating = tiles.group((("x",), ()), [2], ("x", "y"))
    assert (repeating.axes, repeating.scope, repeating.inner) == (("y",), ("x",), (("x",), ()))


def test_mesh_axes_are_not_cut():
    with pytest.raises(Uneven):
        Tiles(OBLONG).cut(("y", "x"), [4])
    assert Tiles(OBLONG).cut(("y", "x"), [16, 1, 4]) == (("y",), (), ("x",))


def test_exchanges_are_of_the_same_counts():
    assert exchanges((4, 1, 2), (1, 2, 4)) == [(2, 1), (0, 2)]
    assert exchanges((4, 4), (4, 4)) is None
    assert exchanges((8, 2), (4, 4)) is None
