"""The model of the TPU compiler's estimates: where arrays lie, its features, and what is chosen. No TPU is here."""

import importlib.util
import random
import re

import jax
import numpy as np
import pytest

from benchmarks import fit, regret
from benchmarks.drawn import drawn
from jbdot.one_device import tpu_costs
from jbdot.one_device.choice import chosen, estimated
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.one_device.tpu_costs import KINDS, Tiles, features, kind_here, lowered_for

NUMBERS = (((2,), (1,)), ((0,), (0,)))
SMALL = (8192, 4, 5), (8192, 5, 8)  # a batch that fills the lanes
installed = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jbdot[tpu]")


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    monkeypatch.setenv("JBDOT_TUNED", "off")


def of(lhs, rhs, dtype="bfloat16", out=None, numbers=NUMBERS):
    return DotSpec(lhs, rhs, dtype, dtype, numbers, out or {"int8": "int32"}.get(dtype, dtype))


def lying(*sizes, width=4):
    found = Tiles.of([(str(axis), size) for axis, size in enumerate(sizes)], width)
    return found.lanes[0], found.rows[0], found.elements


def test_tiles_are_of_the_axes_that_leave_least_to_fill_up():
    assert lying(16, 64, 256) == ("2", "1", 16 * 64 * 256)
    assert lying(512, 5, 48) == ("0", "2", 512 * 5 * 48)
    assert lying(200, 3, width=2) == ("0", "1", 256 * 4)  # of 2 bytes, two share a row
    assert lying(24, 24, 5, width=1)[:2] == ("1", "0")
    assert lying(200) == ("0", "", 256)
    assert lying() == ("", "", 128)


@installed
def test_tiles_are_those_of_the_compiler():
    """Of arguments of many shapes: the layout that the compiler gives them."""
    draw = random.Random(5)
    shapes = [tuple(draw.choice((2, 5, 10, 16, 24, 48, 100, 128, 200, 512)) for _ in range(3)) for _ in range(24)]
    dtypes = [draw.choice(("float32", "bfloat16", "int8")) for _ in shapes]
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    from jbdot import compile_for

    text = compile_for("v5e:2x2", lambda *args: [x + x for x in args], *args).text
    entry = re.search(r"entry_computation_layout=\{\((.*?)\)->", text)[1]
    made = [tuple(map(int, order.split(",")))[:2] for order in re.findall(r"\]\{([\d,]+)", entry)]
    said = [
        tuple(map(int, lying(*shape, width=np.dtype(jax.numpy.dtype(dtype)).itemsize)[:2]))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    assert len(made) == len(said)
    assert sum(one == other for one, other in zip(made, said, strict=True)) >= 0.9 * len(said)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_features_of_random_dots_are_finite_and_as_many(dtype):
    rng = random.Random(f"features {dtype}")
    specs = [drawn(rng, dtype) for _ in range(30)]
    found = [features(spec, "v5e") for spec in specs]
    assert len({one.shape for one in found}) == 1
    assert np.isfinite(found).all()
    assert len({one.tobytes() for one in found}) == 30
    assert (features(specs[0], "v5e") != features(specs[0], "v6e")).any()


def test_vectors_look_the_same_from_both_sides():
    one = of((64, 100), (64, 100, 8), numbers=(((1,), (1,)), ((0,), (0,))))
    side = features(one, "v5e") != features(one.swapped, "v5e")
    assert side.sum() == 1  # which was first


def test_the_stored_trees_are_whole():
    trees = tpu_costs.Trees.stored(tpu_costs.FILE)
    assert {"us", "pinned", "padded", "unrolled"} <= set(trees.names)
    assert set(trees.names) == set(tpu_costs.shipped().doubts)
    assert trees.asked.max() < features(of(*SMALL), "v5e").size
    assert tpu_costs.FILE.stat().st_size < 150_000


def test_the_kind_is_that_of_what_is_compiled_for():
    assert kind_here() == ""
    with lowered_for("v6e"):
        assert kind_here() == "v6e"
    assert kind_here() == ""


def test_of_an_unknown_kind_the_least_gain_counts():
    spec = of(*SMALL)
    names = ("direct", "lanes", "unrolled", "pinned")
    by_kind = [{one.lowering: one.gain for one in tpu_costs.estimates(spec, names, kind)} for kind in KINDS]
    for kind in ("", "v4"):
        gains = {one.lowering: one.gain for one in tpu_costs.estimates(spec, names, kind)}
        assert gains == {name: pytest.approx(min(found[name] for found in by_kind)) for name in names}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["", *KINDS])
def test_many_small_matrices_need_no_matrix_unit(kind, dtype):
    with lowered_for(kind):
        found = chosen(of(*SMALL, dtype), "tpu")
    assert found.lowering in ("lanes", "unrolled", "reduced")
    assert found.gain > 2
    assert "estimated" in found.source


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_large_matrices_stand(kind):
    for dtype in ("float32", "bfloat16", "int8"):
        with lowered_for(kind):
            assert chosen(of((8, 512, 512), (8, 512, 512), dtype), "tpu").lowering == "direct"
            plain = of((2048, 1024), (1024, 4096), dtype, numbers=(((1,), (0,)), ((), ())))
            assert chosen(plain, "tpu").lowering == "direct"


def test_what_was_not_compiled_stands():
    assert not estimated(of(*SMALL, "float16"), "tpu")
    assert not estimated(of(*SMALL, "int8", "int8"), "tpu")
    assert not estimated(of((4, 4, 4), (4, 4, 4)), "tpu")
    assert estimated(of(*SMALL, "bfloat16", "float32"), "tpu")


def test_a_column_of_float32_is_not_rounded_more():
    """As it stands it is multiplied in float32; in pieces side by side a matrix unit would round it to bfloat16."""
    numbers = (((1,), (0,)), ((), ()))
    assert "split" not in {
        one.lowering for one in estimated(of((64, 4096), (4096,), "float32", numbers=numbers), "tpu")
    }
    assert "split" in {one.lowering for one in estimated(of((64, 4096), (4096, 8), "float32", numbers=numbers), "tpu")}


def test_an_export_pins_nothing():
    assert not any(LOWERINGS[one.lowering].unexported for one in estimated(of(*SMALL), "tpu", exported=True))


@pytest.mark.parametrize("kind", KINDS)
def test_choices_are_good_on_the_tables(kind):
    """On what was fitted, so that the bounds are wide: that the model is read as it was written."""
    (path,) = fit.RESULTS.glob(f"lowerings-tpu-{kind}-*.jsonl.gz")
    rows = fit.table(path)[::3]
    with lowered_for(kind):
        names = [chosen(row.spec, "tpu").lowering for row in rows]
    known = [(row, name) for row, name in zip(rows, names, strict=True) if name in row.us]
    assert len(known) > 0.95 * len(rows)
    said = fit.judged(*zip(*known, strict=True))
    always = fit.judged([row for row, _ in known], ["direct"] * len(known))
    assert said["regret"] < 1.06, said
    assert said["gain"] > always["regret"] ** 0.5
    assert sum(row.us[name][1] > 1.02 * row.us["direct"][1] for row, name in known) <= 0.01 * len(known)


@installed
def test_what_is_compiled_is_lowered_for_that_kind(monkeypatch):
    from jbdot import compile_for, matmul
    from jbdot.one_device import lowering_rule

    seen = []
    monkeypatch.setattr(
        lowering_rule, "chosen", lambda *args, **others: seen.append(kind_here()) or chosen(*args, **others)
    )
    x = jax.ShapeDtypeStruct((8, 16, 16), "float32")
    for topology in ("v5e:2x2", "v6e:2x2"):  # JAX keeps what it lowered: not for another kind
        compile_for(topology, matmul, x, x)
    assert list(dict.fromkeys(seen)) == ["v5e", "v6e"]


@installed
def test_a_lowering_is_estimated_as_it_is_compiled():
    spec = of((64, 32, 48), (64, 48, 24))
    row = regret.estimated(spec, "v5e:2x2", ("direct", "pinned"))
    assert set(row["runs"][0]["us"]) == {"direct", "pinned", row["auto"]}
    assert all(us[1] >= regret.least_us(spec, "v5e:2x2") for us in row["runs"][0]["us"].values())
    assert set(row["compiler"]) == set(row["runs"][0]["us"])
