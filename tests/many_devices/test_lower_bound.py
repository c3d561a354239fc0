"""Lower bounds by hand, and no way below them."""

import itertools
import random

import pytest
from meshes import shardings

from jbdot.core.contraction import Contraction
from jbdot.many_devices.block import Block
from jbdot.many_devices.candidates import candidates
from jbdot.many_devices.lower_bound import arriving, least, working
from jbdot.many_devices.task import Task

MESH = {"x": 4, "y": 4}


def task(text, lhs, rhs, shapes, out=None, mesh=None):
    c, mesh = Contraction.parse(text), mesh or MESH
    left, right = (Block.of(shape, "bfloat16", at, mesh) for shape, at in zip(shapes, (lhs, rhs), strict=True))
    return Task(c, mesh, left, right, out, c.out_shape(*shapes), "bfloat16", "bfloat16")


GEMM, SIDE = "m k, k n -> m n", ((1024, 1024), (1024, 1024))
WHOLE = 1024 * 1024 * 2


def test_by_hand():
    xy = ("x", "y")
    assert arriving(task(GEMM, (xy, ()), ((), ()), SIDE), (xy, ())) == 0
    # rows and rows to rows: all of rhs is needed but what is here; or the result's block, by partial sums
    assert arriving(task(GEMM, (xy, ()), (xy, ()), SIDE), (xy, ())) == WHOLE / 16
    # contracting and contracting to blocks: a row and a column of blocks, or a block of partial sums
    assert arriving(task(GEMM, ((), xy), (xy, ()), SIDE), (("x",), ("y",))) == WHOLE / 16
    # nothing of the operands is missing
    assert arriving(task(GEMM, ((), ()), ((), ()), SIDE), ((), ())) == 0
    # a row of blocks of lhs and a column of rhs, of which a device has one each
    found = arriving(task(GEMM, (("x",), ("y",)), (("x",), ("y",)), SIDE), (("x",), ("y",)))
    assert found == min(WHOLE / 16, 2 * WHOLE * 3 / 16)


def test_work_by_hand():
    batched = "b m k, b k n -> b m n"
    rows = task(GEMM, (("x", "y"), ()), (("x", "y"), ()), SIDE)
    # boxes of 256 x 512 x 512: of each array 64 rows are here
    by_hand = 2 * ((256 - 64) * 512 + (512 - 64) * 512 + (256 - 64) * 512)
    assert working(rows, (("x", "y"), ())) == by_hand
    assert working(task(GEMM, ((), ()), ((), ()), SIDE), ((), ())) == 0  # everything is there
    # a batch element for each device: nothing has to move
    shapes = ((16, 8, 8), (16, 8, 8))
    assert working(task(batched, (("x", "y"), (), ()), (("x", "y"), (), ()), shapes), (("x", "y"), (), ())) == 0
    # everything is cut in the wrong place: all three arrays move, but for the sixteenth that may be right by chance
    wrong = task(batched, ((), ("x",), ("y",)), ((), ("x",), ("y",)), shapes)
    assert working(wrong, ((), ("x",), ("y",))) == 3 * 2 * (64 - 4)
    # more devices than multiply-adds: nothing is claimed
    assert working(task(GEMM, ((), ()), ((), ()), ((2, 2), (2, 2))), ((), ())) == 0


@pytest.mark.parametrize("text", [GEMM, "b m k, b k n -> b m n"])
def test_no_way_sends_less(text):
    shapes = ((64, 64), (64, 64)) if text == GEMM else ((16, 32, 32), (16, 32, 32))
    every = list(itertools.product(shardings("xy", len(shapes[0])), repeat=3))
    for lhs, rhs, out in random.Random(0).sample(every, 60):
        asked = task(text, lhs, rhs, shapes, out, {"x": 2, "y": 4})
        fewest = least(asked, out)
        assert all(way.sent >= fewest * (1 - 1e-9) for way in candidates(asked)), (lhs, rhs, out)
