"""What the README claims in tables is what the library does. Its examples run as doctests."""

import json
import re
import statistics
from pathlib import Path

import jax
import pytest
from jax import numpy as jnp
from records import DEVIATIONS

import jbdot

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
README = (Path(__file__).parents[2] / "README.md").read_text()


def rows(heading):
    section = README.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("row", rows("The same call, five meanings"), ids=lambda row: row[0])
def test_dialect_table(row):
    call, *answers = row
    name = re.match(r"`(\w+)`", call)[1]
    axes = re.search(r"`axes=(.*)`", call)
    shapes = [eval(text) for text in re.findall(r"\([\d, ]*\)", call.split("axes")[0])]
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    for dialect, answer in zip(("keras_tf1", "keras", "tensorflow", "theano", "mxnet"), answers, strict=True):
        if answer == "-":
            continue
        other = re.match(r"`(\w+)`: (.*)", answer)
        function = getattr(getattr(jbdot, dialect), other[1] if other else name)
        kwargs = {"axes": eval(axes[1])} if axes else {}
        if (other[2] if other else answer) == "refuses":
            with pytest.raises((ValueError, TypeError, IndexError)):
                jbdot.explain(function, x, y, **kwargs)
        else:
            assert jbdot.explain(function, x, y, **kwargs).shape == eval(other[2] if other else answer)


def test_deviations_are_the_tables():
    listed = {
        (row[0].strip("`"), pattern, *row[2:])
        for row in rows("How exact")
        for pattern in re.findall(r"`([^`]+)`", row[1])
    }
    assert listed == set(DEVIATIONS)


def test_costs_are_those_of_the_stored_results():
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("dispatch-jax-*.json"))]
    span = lambda found: f"{min(found):.2f} to {max(found):.2f}"  # noqa: E731
    columns = []
    for result in results:
        eager = {row["call"]: row["ratio"]["median"] for row in result["eager"]}
        tracing = {row["calls"]: row["ratio"]["median"] for row in result["tracing"]}
        columns.append(
            (
                span([ratio for call, ratio in eager.items() if "jnp." not in call]),
                f"{eager['jnp.einsum(...)']:.0f}",
                span([ratio for call, ratio in tracing.items() if "jnp." not in call and "lax." not in call]),
                span([row["ratio"]["median"] for row in result["gradients"] if row["bound"] == 1.1]),
                span([row["ratio"]["median"] for row in result["gradients"] if row["bound"] == 1.35]),
                f"{result['import_s']['median']:.2f} s",
            )
        )
    assert [tuple(row[2:]) for row in rows("What it costs")] == list(zip(*columns, strict=True))


def suite(path):
    """The medians of a stored run, as times faster: {(workload, dtype, direction): {spelling or peer: gain}}."""
    _, *found = (json.loads(line) for line in path.read_text().splitlines())
    return {
        (row["workload"], row["dtype"], row["direction"]): {
            way: 1 / ratio["median"] for way, ratio in row["ratios"].items()
        }
        for row in found
        if "ratios" in row
    }


def test_gains_are_those_of_the_stored_results():
    runs = [suite(path) for path in sorted(RESULTS.glob("suite-jax-*.jsonl"))]
    assert len(runs) == 2
    for workload, dtype, direction, *cells in rows("Measured"):
        if workload == "geometric mean of all":
            gains = [[row[direction] for row in run.values() if direction in row] for run in runs]
            assert cells == [f"{statistics.geometric_mean(found):.2f}" for found in gains]
        else:
            assert cells == [f"{run[workload, dtype, direction]['bare']:.2g}" for run in runs]


def test_bytes_of_plans_are_those_of_the_stored_results():
    (path,) = RESULTS.glob("plans-jax-*.jsonl")
    found = {}
    for row in map(json.loads, path.read_text().splitlines()):
        key = row["topology"], row["lhs"], row["rhs"], row["out"]
        found.setdefault(key, [f"{row[program]['sent'] / 1e6:.3g}" for program in ("plain", "plan")])
    cases = (",,xy", ",xy,", "xy,,"), ("xy,", "xy,", "xy,"), (",xy", "xy,", "x,y"), (",xy", ",", None)
    topologies = "v5e:4x4", "v5p:4x4x4", "v5e:16x16", "v6e:4x4"
    for (_, *cells), case in zip(rows("On many devices"), cases, strict=True):
        assert cells == [" to ".join(found[topology, *case]) for topology in topologies]


def test_changelog_names_the_version():
    from importlib.metadata import version

    assert f"## {version('jbdot')}" in (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
