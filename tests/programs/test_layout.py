"""Layouts: where arrays are cut, by hand."""

import pytest

from jbdot.programs.layout import Layout

MESH = {"x": 4, "y": 2}


@pytest.mark.parametrize(
    ("orders", "labels", "shape", "wanted"),
    [
        ({"x": (0,), "y": ()}, (0, 1), (8, 8), (("x",), ())),
        ({"x": (2, 1), "y": (0,)}, (0, 1), (8, 8), (("y",), ("x",))),
        ({"x": (0,), "y": (0,)}, (0, 1), (8, 8), (("x", "y"), ())),
        ({"x": (0,), "y": (0,)}, (0, 1), (4, 8), (("x",), ())),  # 4 in 8 parts is not equal
        ({"x": (0, 1), "y": (0, 1)}, (0, 1), (4, 8), (("x",), ("y",))),
        ({"x": (1, 0), "y": (0,)}, (0,), (8,), (("y", "x"),)),  # y has the label first, and is the slowest
        ({"x": (0,), "y": (0,)}, (None, 0, 0), (8, 4, 4), ((), ("x",), ("y",))),
        ({"x": (0,), "y": (1,)}, (), (), ()),
    ],
)
def test_an_axis_cuts_the_first_of_its_labels_that_comes_out_even(orders, labels, shape, wanted):
    assert Layout(orders).sharding(labels, shape, MESH) == wanted


def test_a_layout_with_another_order():
    layout = Layout({"x": (0,), "y": (1,)}).replaced("y", (2, 3))
    assert layout.orders == {"x": (0,), "y": (2, 3)}
    assert layout.key == ((0,), (2, 3))
