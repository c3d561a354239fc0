"""The benchmark of plans: its models give the right numbers as planned, its report counts what it says."""

import json

import jax
import pytest
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P

from benchmarks import models, programs
from benchmarks.models import MODELS

QUICK = ("MLP", "U-Net", "graph", "retrieval", "LSTM", "decoding", "capsules")


@pytest.mark.parametrize("name", QUICK)
def test_three_planned_steps_of_a_model_give_what_one_device_gives(name):
    assert programs.check(name, (4, 2)) < 1e-4  # the others: python -m benchmarks.programs --check


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_of_a_model_cuts_its_arguments(name):
    model, on = MODELS[name], MODELS[name].on[0]
    assert model.tutorial in {"", *model.layouts}
    whole = None
    for layout in model.layouts:
        _, args = models.made(name, programs.abstract(on), layout)
        shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(args)]
        assert whole in (None, shapes)
        whole = shapes
        is_open = [x.sharding is None for x in jax.tree.leaves(args)]
        assert any(is_open) == (layout == "batch alone")
        assert any(any(x.sharding.spec) for x in jax.tree.leaves(args) if x.sharding is not None)


def test_what_does_not_divide_is_not_cut():
    at = models.Layout(programs.abstract("v5e:16x16"), "bfloat16", {"kv": P(None, "data", "model")})
    assert at.array("kv", 2, 64, 8).sharding.spec == P(None, "data", None)


def test_the_bound_is_of_flops_or_of_bytes():
    from jbdot.hardware import known
    from jbdot.programs.labels import Flow

    x = jax.ShapeDtypeStruct((4096, 4096), "bfloat16")
    v5e = known("v5e")
    flow = Flow.of(jax.make_jaxpr(jnp.dot)(x, x))
    assert programs.bound_us(flow, 4, v5e) == pytest.approx(1e6 * 2 * 4096**3 / 4 / v5e.rate("bfloat16"))
    flow = Flow.of(jax.make_jaxpr(lambda x: x + 1)(x))
    assert programs.bound_us(flow, 4, v5e) == pytest.approx(1e6 * 2 * 2 * 4096**2 / 4 / v5e.memory_bytes_per_s)


def figures(us, fits=True, sent=1000):
    return {
        "sent": sent,
        "flops": 10**12,
        "temporaries": 10,
        "arguments": 20,
        "memory": 30,
        "fits": fits,
        "compute_us": us / 2,
        "sending_us": us / 2,
        "step_us": us,
    }


def stored(program, on, layout, timeout_s):
    """A row: the plan takes half the time of the best that fits; of an MLP, 1.25 times that."""
    facts = {"program": program, "on": on, "layout": layout, "seconds": 1.0}
    if layout == "data parallel":
        return {**facts, "refused": "communication: it does not fit: 20 GB"}
    if layout != programs.PLAN:
        return {**facts, **figures(2000.0 if layout == "FSDP" else 4000.0, fits=layout != "tensor")}
    us = 2500.0 if program == "MLP" else 1000.0
    expected = {**figures(us / 2, sent=950), "flops": 1.0}
    first = {**figures(4000.0), "expected": expected}
    return {**facts, **figures(us), "bound_us": 500.0, "way": "FSDP over data", "expected": expected, "first": first}


def test_the_benchmark_goes_on_where_it_stopped_and_its_report_counts(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    asked = []
    monkeypatch.setattr(programs, "row", lambda *case: asked.append(case) or stored(*case))
    command = ["--only", "MLP", "decoder, 1B", "--on", "v5e:4x4", "--results", str(tmp_path)]
    assert programs.main(command) == programs.main(command) == 0
    assert len(asked) == len(MODELS["MLP"].layouts) + len(MODELS["decoder, 1B"].layouts) + 2
    path = tmp_path / f"programs-jax-{jax.__version__}.jsonl"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == len(asked)
    text = path.with_suffix(".md").read_text()
    assert "| programs, with a topology | 2 |" in text
    assert "geometric mean, least, most | 1.26, 0.8, 2 (2) |" in text
    assert "| the plan takes over 1.05 times the best by hand | MLP on v5e:4x4 |" in text
    assert "| the plan's own estimate of bytes is within 10 % | 2 of 2 |" in text
    assert "| decoder, 1B | v5e:4x4 | data parallel | refused: does not fit into the memory |" in text
    assert "too much" in text
    assert path.with_suffix(".png").stat().st_size > 1000
