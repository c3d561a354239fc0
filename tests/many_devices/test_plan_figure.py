"""The picture of a plan: what it says each device holds is what JAX puts there; nothing on it overlaps."""

import base64
import itertools
import re
import sys

import jax
import matplotlib as mpl
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.backends.backend_agg import FigureCanvasAgg
from meshes import mesh, shardings, struct

from jbdot.core.text import bytes_text
from jbdot.hardware import known
from jbdot.many_devices.block import Block
from jbdot.many_devices.collectives import AllGather
from jbdot.many_devices.partition_spec import written
from jbdot.many_devices.plan_frames import Side, panels, segments, sides, stages
from jbdot.many_devices.route import Route
from jbdot.many_devices.sharding_plan import plan_sharding

mpl.use("Agg")
GEMM, BATCH = "m k, k n -> m n", "b m k, b k n -> b m n"
BIG = (8192, 8192), (8192, 8192)
SQUARES = ((64, 1024, 1024),) * 2
XY = ("x", "y")


def planned(text, sizes, left, right, out=None, shapes=BIG, **options):
    on = AbstractMesh(sizes, tuple("xyz"[: len(sizes)]))
    lhs, rhs = (struct(shape, "bfloat16", on, given) for shape, given in zip(shapes, (left, right), strict=True))
    end = None if out is None else written(out)
    return plan_sharding(text, lhs, rhs, end, hardware=known("TPU v5 lite"), **options)


PLANS = {
    "two all-to-alls": lambda: planned(BATCH, (4, 4), ((), (), XY), ((), XY, ()), (XY, (), ()), SQUARES),
    "partial sums": lambda: planned(
        GEMM, (2, 4), ((), ("x",)), (("x",), ()), reduce="reduce_scatter", sum_dtype="float32"
    ),
    "no step": lambda: planned(GEMM, (4, 4), (("x",), ()), ((), ("y",)), (("x",), ("y",))),
    "one mesh axis": lambda: planned(GEMM, (8,), (("x",), ()), ((), ("x",)), (("x",), ())),
    "three mesh axes": lambda: planned(GEMM, (2, 2, 4), (("x",), ("z",)), (("z", "y"), ()), (("x",), ("y",))),
    "permuted, left out": lambda: planned(GEMM, (4, 4, 16), (("x",), ("y", "z")), (("y", "z"), ()), (("z",), ("x",))),
    "rank 5": lambda: planned(
        "a b c m k, a b c k n -> a b c m n",
        (16, 16),
        ((), (), ("x",), (), ("y",)),
        (("x",), (), ("y",), (), ()),
        (("y",), (), ("x",), (), ()),
        ((16, 16, 16, 64, 64),) * 2,
    ),
    "a number": lambda: planned("k, k ->", (8,), (("x",),), (("x",),), (), ((4096,), (4096,))),
    "one device": lambda: planned(GEMM, (1, 1), (("x",), ()), ((), ())),
}


@pytest.fixture(params=PLANS)
def plan(request):
    return PLANS[request.param]()


def test_segments_are_what_devices_hold():
    on, shape = mesh((2, 4)), (16, 8)
    x = np.zeros(shape, np.float32)
    for sharding in shardings("xy", 2):
        block = Block.of(shape, x.dtype, sharding, dict(on.shape))
        placed = jax.device_put(x, NamedSharding(on, written(sharding)))
        for shard in placed.addressable_shards:
            (at,) = np.argwhere(on.devices == shard.device)
            device = dict(zip(on.axis_names, at.tolist(), strict=True))
            want = [part.indices(size)[:2] for part, size in zip(shard.index, shape, strict=True)]
            assert [segments(block, dim, device) for dim in range(2)] == [[piece] for piece in want]


def test_segments_of_held_factors():
    """Between two steps a device may hold pieces that are not neighbours, and really does."""
    on, x = mesh((2, 4)), np.arange(48).reshape(16, 3)
    way = Route(Block.of(x.shape, "int32", (XY, ()), dict(on.shape)), (AllGather(("x",)),))
    assert segments(way.end, 0, {"x": 0, "y": 3}) == [(6, 8), (14, 16)]
    gathered = jax.shard_map(way.run, mesh=on, in_specs=P(XY), out_specs=P(XY), check_vma=False)(x)
    for device, got in zip(np.ndindex(2, 4), np.split(np.asarray(gathered), 8), strict=True):
        pieces = segments(way.end, 0, dict(zip(XY, device, strict=True)))
        np.testing.assert_array_equal(got, np.concatenate([x[first:last] for first, last in pieces]))


@pytest.mark.parametrize(
    ("sizes", "rows", "columns"),
    [
        ((8,), "", "x"),
        ((2, 4), "x", "y"),
        ((16, 2), "x", "y"),
        ((2, 2, 4), "xy", "z"),
        ((1, 8), "", "y"),
        ((1,), "", ""),
    ],
)
def test_grid(sizes, rows, columns):
    assert ["".join(side.mesh) for side in sides(dict(zip("xyz", sizes, strict=False)))] == [rows, columns]


def test_who_talks():
    side = Side({"x": 2, "y": 2})
    assert side.pairs(("y",)) == [(0, 1), (2, 3)]
    assert side.pairs(("x", "y")) == [(0, 1), (1, 2), (2, 3)]
    assert side.pairs(("z",)) == []
    assert Side({"x": 4, "y": 16}).gaps == [True, True, True]


def test_panels_are_steps(plan):
    for name, way in plan.winner.ways:
        row = panels(plan)[name]
        assert tuple(step for panel in row for step in panel.steps) == way.steps
        assert sum(panel.sent for panel in row) == way.sent
        assert (row[0].block, row[-1].block) == (way.start, way.end)
        assert not row[-1].partial


def test_partial_sums_are_marked_until_they_are_added():
    row = panels(PLANS["partial sums"]())["out"]
    assert [(panel.partial, panel.title) for panel in row] == [(("x",), "after the dot"), ((), "after reduce-scatter")]
    assert "then cast to bfloat16" in row[0].move
    assert "partial sums" in row[0].held


def test_stages_are_told_in_order():
    names = [stage.name for stage in stages(PLANS["two all-to-alls"]())]
    assert names == ["lhs: all-to-all", "rhs: all-to-all", "the dot", "the result"]


def test_picture(plan):
    figure = plan.plot()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    said = "\n".join(text.get_text() for text in texts)
    for label in filter(None, (*plan.contraction.lhs, *plan.contraction.rhs, *plan.contraction.out)):
        assert label in said.split("\n")
    for panel in itertools.chain(*panels(plan).values()):
        assert panel.held in said
        if panel.steps:
            assert panel.move in said
    assert bytes_text(plan.plain[0].sent) in said
    assert str(plan.contraction).strip() in said
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer).padded(-1) for text in texts]
    for first, second in itertools.combinations(range(len(boxes)), 2):
        assert not boxes[first].overlaps(boxes[second]), (texts[first], texts[second])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(text.get_fontsize() >= 7 for text in texts)


def test_notebook():
    plan = PLANS["partial sums"]()
    page = plan._repr_html_()
    shown = re.findall("src='data:image/svg[+]xml;base64,([^']*)'", page)
    assert len(shown) == len(stages(plan)) == page.count("type='radio'")
    assert all(b"</svg>" in base64.b64decode(one) for one in shown)
    assert page.count(" checked>") == 1
    assert "plain jit" in page
    assert "<script" not in page


def test_notebook_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plan = PLANS["no step"]()
    assert "<img" not in plan._repr_html_()
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        plan.plot()
