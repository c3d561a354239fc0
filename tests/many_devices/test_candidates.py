"""Which ways there are: every label on every mesh axis, what divides, what is kept where it is."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import shardings

from jbdot.core.contraction import Contraction
from jbdot.many_devices.block import Block
from jbdot.many_devices.candidates import candidates, sharding_of
from jbdot.many_devices.task import Task

GEMM = Contraction.parse("m k, k n -> m n")
SIZES = {"x": 2, "y": 4}
OPEN = ((), ())


def task(lhs=OPEN, rhs=OPEN, out=None, shapes=((16, 32), (32, 24)), mesh=None, **more):
    mesh = mesh or SIZES
    left, right = (Block.of(shape, "float32", at, mesh) for shape, at in zip(shapes, (lhs, rhs), strict=True))
    return Task(GEMM, mesh, left, right, out, (shapes[0][0], shapes[1][1]), "float32", "float32", **more)


def test_every_mesh_axis_shares_out_one_label_or_none():
    found = {way.name for way in candidates(task(out=OPEN))}
    labels = ["m", "n", "k", None]
    expected = set(itertools.product(labels, labels))
    assert len(found) == len(expected)
    assert {"m on x, n on y", "m on x y", "k on x y", "all on every device", "n on x", "k on y"} <= found


def test_what_does_not_divide_is_left_out():
    found = {way.name for way in candidates(task(out=OPEN, shapes=((6, 32), (32, 3))))}
    assert found == {"m on x", "m on x, k on y", "k on x", "k on y", "k on x y", "all on every device"}


def test_an_axis_of_one_device_is_no_choice():
    assert len({way.name for way in candidates(task(out=OPEN, mesh={"x": 1, "y": 4}))}) == 4


@settings(max_examples=50, deadline=None)
@given(*(st.sampled_from(shardings("xy", 2)) for _ in range(2)), st.sampled_from([None, *shardings("xy", 2)]))
def test_operands_meet_where_they_are_multiplied(lhs, rhs, out):
    for way in candidates(task(lhs, rhs, out)):
        assert way.lhs.end.sharding == sharding_of(way.places, GEMM.lhs)
        assert way.rhs.end.sharding == sharding_of(way.places, GEMM.rhs)
        assert way.out.start.local == (way.lhs.end.local[0], way.rhs.end.local[1])
        assert out in (None, way.out.end.sharding)
        devices = 8 // max(1, way.lhs.end.local[0] * way.lhs.end.local[1] * way.rhs.end.local[1] * 8 // (16 * 32 * 24))
        assert way.flops * devices == 2 * 16 * 32 * 24
        assert way.sent == way.lhs.sent + way.rhs.sent + way.out.sent


def test_orders_are_those_of_the_arrays():
    names = {way.name for way in candidates(task((("y", "x"), ()), OPEN, (("x", "y"), ())))}
    assert {"m on y x", "m on x y"} <= names


@pytest.mark.parametrize(("reduce", "kinds"), [("all_reduce", {"all-reduce"}), ("reduce_scatter", {"reduce-scatter"})])
def test_sums_are_completed_as_asked(reduce, kinds):
    found = list(candidates(task(((), ("x",)), (("x",), ()), reduce=reduce)))
    assert found
    for way in found:
        assert "x" in way.places["k"]  # stays where it is
        assert {step.kind for step in way.out.steps} & {"all-reduce", "reduce-scatter"} == kinds


def test_temporary_bytes_by_hand():
    # gathered lhs 16 * 32 floats beside the result, 16 * 24 / 8 of them
    (way,) = (way for way in candidates(task((("x",), ()), ((), ("y",)), OPEN)) if way.name == "n on y")
    assert [step.kind for step in way.lhs.steps] == ["all-gather"]
    assert way.temporary == 16 * 32 * 4 + 16 * 6 * 4
