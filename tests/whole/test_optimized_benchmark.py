"""The benchmark of planned steps: it goes on where it was stopped, and its report counts what it says."""

import json

import jax
import pytest

from benchmarks import optimized, sharded


def figures(sent, temporaries=100, compute_us=None):
    return {"sent": sent, "flops": 8, "temporaries": temporaries, "compute_us": compute_us, "sending_us": sent / 100}


def stored(program, layout, on):
    """A row of a program that is planned in its first layout, and left alone in the others."""
    is_first = layout == next(iter(sharded.PROGRAMS[program][1]))
    before = figures(4000, compute_us=None if on == "cpu" else 10.0)
    after = {**before, "sent": 1000, "sending_us": 10.0} if is_first else before
    trials = [["", after] if is_first else ["sends more", figures(5000)]]
    return {
        "program": program,
        "layout": layout,
        "on": on,
        "before": before,
        "after": after,
        "trials": trials,
        "seconds": 1.0,
    }


@pytest.mark.parametrize("on", optimized.ON)
def test_a_report_counts_what_is_planned(tmp_path, monkeypatch, on):
    asked = []
    monkeypatch.setattr(optimized, "row", lambda *case: asked.append(case) or stored(*case))
    command = ["--on", on, "--only", "MLP", "--results", str(tmp_path)]
    assert optimized.main(command) == optimized.main(command) == 0
    count = len(sharded.PROGRAMS["MLP"][1])
    assert len(asked) == count  # the second time nothing is left to ask
    path = tmp_path / f"optimized-jax-{jax.__version__}.jsonl"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == count
    text = " ".join(path.with_suffix(".md").read_text().split())
    assert f"1 of {count} steps are planned otherwise, {count - 1} left alone" in text
    assert f"plain jit sends {4 ** (1 / count):.2f} times the bytes, of those that are planned 4.00 times" in text
    assert "More bytes are sent in 0." in text
    assert "| left alone: sends more |" in text
    assert ("times the estimated time" in text) == (on != "cpu")


def test_a_row_is_of_the_step_as_it_is_and_as_it_runs(monkeypatch):
    monkeypatch.setattr(sharded, "MESH", {"data": 4, "model": 2})
    row = optimized.row("MLP", "FSDP", "cpu", tries=1)
    assert row["before"]["sent"] > 0
    assert row["after"]["sent"] <= row["before"]["sent"]
    assert len(row["trials"]) == 1
