"""The benchmark of forecasts: its programs are traced in each layout, its report counts what it says."""

import json

import jax
import pytest

import jbdot
from benchmarks import communication, models, sharded


@pytest.mark.parametrize("program", sharded.PROGRAMS)
def test_each_program_is_expected_to_send_in_its_last_layout(program):
    make, layouts = sharded.PROGRAMS[program]
    step, args = make(sharded.Layout(sharded.abstract(), "bfloat16", [*layouts.values()][-1]))
    report = jbdot.communication(step, *args, topology="v5e:4x4", compiled=False)
    assert report.sent > 0
    assert all(row.source for row in report)


def test_a_report_counts_what_is_close_and_lists_the_others(tmp_path, monkeypatch):
    def stored(program, layout, on):
        lines = [["7 (loss)", "forward", "data", 2048, 2000], ["8 (loss)", "", "model", 4096, 0]]
        facts = {"program": program, "layout": layout, "on": on, "seconds": 0.5}
        return {**facts, "expected": 6144, "compiled": 2000, "lines": lines}

    asked = []
    monkeypatch.setattr(communication, "row", lambda *case: asked.append(case) or stored(*case))
    command = ["--on", "cpu", "--only", "MLP", "--results", str(tmp_path)]
    assert communication.main(command) == communication.main(command) == 0
    count = len(sharded.PROGRAMS["MLP"][1])
    assert len(asked) == count  # the second time nothing is left to ask
    path = tmp_path / f"communication-jax-{jax.__version__}.jsonl"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == count
    text = path.with_suffix(".md").read_text()
    assert f"{count} of {2 * count} rows (50%), 33% of the bytes" in text
    assert "| cpu | MLP | FSDP | 8 (loss) | - | model | 4.1 kB | 0 B | expected, and not in the compiled text |" in text


def test_other_models_have_a_report_of_their_own(tmp_path, monkeypatch):
    def stored(program, layout, on, step, args):
        return {
            "program": program,
            "layout": layout,
            "on": on,
            "expected": 0,
            "compiled": 0,
            "seconds": 0.1,
            "lines": [],
        }

    monkeypatch.setattr(communication, "compared", stored)
    assert communication.main(["--others", "--on", "v5e:4x4", "--only", "capsules", "--results", str(tmp_path)]) == 0
    lines = (tmp_path / f"communication-others-jax-{jax.__version__}.jsonl").read_text().splitlines()
    assert [json.loads(line)["layout"] for line in lines] == [*models.MODELS["capsules"].layouts]


@pytest.mark.parametrize(
    ("expected", "compiled", "close", "kind"),
    [
        (100, 91, True, "fewer than expected"),
        (100, 89, False, "fewer than expected"),
        (100, 112, False, "more than expected"),
        (0, 5, False, "in the compiled text, and not expected"),
        (5, 0, False, "expected, and not in the compiled text"),
    ],
)
def test_kinds(expected, compiled, close, kind):
    assert communication.is_close(expected, compiled) == close
    assert communication.kind(expected, compiled) == kind
