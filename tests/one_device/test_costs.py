"""The model of what lowerings take: its features, its trees, and what it says."""

import random

import jax
import numpy as np
import pytest

from benchmarks.drawn import drawn
from benchmarks.regret import DTYPES
from jbdot.one_device import costs
from jbdot.one_device.costs import TIME, Trees, estimates, features
from jbdot.one_device.dot_spec import DotSpec


def of(lhs, rhs, numbers, dtype="float32"):
    x, y = (jax.ShapeDtypeStruct(shape, dtype) for shape in (lhs, rhs))
    return DotSpec.of(x, y, jax.ShapeDtypeStruct((), dtype), numbers, None)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES)))
def test_features_of_random_dots_are_finite_and_as_many(dtype):
    rng = random.Random(f"features {dtype}")
    found = [features(drawn(rng, dtype)) for _ in range(50)]
    assert len({one.shape for one in found}) == 1
    assert np.isfinite(found).all()
    assert len({one.tobytes() for one in found}) == 50  # different dots look different


def test_axes_that_lie_side_by_side_count_as_one():
    one = of((6, 20, 7), (6, 7, 12), (((2,), (1,)), ((0,), (0,))))
    many = of((2, 3, 1, 4, 5, 7), (2, 3, 7, 1, 12), (((5,), (2,)), ((0, 1), (0, 1))))
    np.testing.assert_array_equal(features(one), features(many))
    turned = of((3, 2, 4, 5, 7), (2, 3, 7, 12), (((4,), (2,)), ((1, 0), (0, 1))))  # batch axes in another order
    assert (features(one) != features(turned)).any()


def test_features_tell_where_an_axis_lies():
    """The last axis of lhs, of rhs, and whether the batch leads."""
    plain = of((6, 20, 7), (6, 7, 12), (((2,), (1,)), ((0,), (0,))))
    for other in (
        of((6, 7, 20), (6, 7, 12), (((1,), (1,)), ((0,), (0,)))),
        of((6, 20, 7), (6, 12, 7), (((2,), (2,)), ((0,), (0,)))),
        of((20, 6, 7), (6, 7, 12), (((2,), (1,)), ((1,), (0,)))),
        of((6, 12, 7), (6, 7, 20), (((2,), (1,)), ((0,), (0,)))),
    ):
        assert (features(plain) != features(other)).any()


def by_hand(trees, x):
    """The sums of the trees, in loops."""
    found = []
    for number in range(len(trees.names)):
        total = float(trees.biases[number])
        for asked, borders, leaves in zip(
            trees.asked[number], trees.borders[number], trees.leaves[number], strict=True
        ):
            at = sum(2**level for level, (q, b) in enumerate(zip(asked, borders, strict=True)) if x[q] > b)
            total += float(leaves[at])
        found.append(total)
    return found


def test_trees_are_summed():
    trees = Trees(
        ("us", "split"),
        np.asarray([[[0, 1], [1, 1]], [[2, 0], [0, 0]]], np.uint8),
        np.asarray([[[1.0, 2.0], [0.0, 5.0]], [[0.5, 0.5], [9.0, 9.0]]], np.float32),
        np.arange(16, dtype=np.float32).reshape(2, 2, 4),
        np.asarray([100.0, -1.0], np.float32),
    )
    for x in ((0, 0, 0), (2, 3, 1), (1, 6, 0), (10, 1, 1)):
        assert trees(np.asarray(x, np.float32)) == by_hand(trees, x)
    assert trees(np.asarray((2, 3, 1), np.float32)) == [100 + 3 + 5, -1 + 8 + 3 + 12]


def test_the_stored_trees_are_whole():
    trees = Trees.stored()
    assert {TIME, "pinned", "swapped", "reduced", "unrolled", "split"} <= set(trees.names)
    for kind in ("", "AuthenticAMD family 25 model 1"):
        doubts = costs.shipped(kind).doubts
        assert set(doubts) == set(trees.names)
        assert all(0 < doubt < 2 for doubt in doubts.values())
    x = features(drawn(random.Random(3), "float32"))
    assert trees.asked.max() < x.size
    np.testing.assert_allclose(trees(x), by_hand(trees, x), rtol=1e-4, atol=1e-4)


def test_estimates_are_sorted_and_hold_together():
    spec = of((64, 128, 128), (64, 128, 128), (((1,), (1,)), ((0,), (0,))))
    names = ("direct", "pinned", "reduced", "lanes")
    found = estimates(spec, names, costs.shipped(""))  # "lanes" is of TPUs: no CPU timed it
    assert sorted(one.lowering for one in found) == ["direct", "pinned", "reduced"]
    assert [one.us for one in found] == sorted(one.us for one in found)
    direct = next(one for one in found if one.lowering == "direct")
    assert (direct.gain, direct.doubt) == (1.0, 1.0)
    for one in found:
        assert one.us * one.gain == pytest.approx(direct.us)
        assert one.doubt >= 1.0
    assert 50 < direct.us < 50_000  # 134 million multiply-adds


def test_what_was_never_timed_is_not_known():
    numbers = ((1,), (0,)), ((), ())
    assert costs.knows(of((40, 40), (40, 40), numbers, "bfloat16"))
    assert not costs.knows(of((40, 40), (40, 40), numbers, "complex128"))
    assert not costs.knows(of((4, 4), (4, 4), numbers, "bfloat16"))
