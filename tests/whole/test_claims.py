"""What README and the site claim in tables is what the library does, and what was measured."""

import json
import re
import statistics
from pathlib import Path

import jax
import pytest
from jax import numpy as jnp
from records import DEVIATIONS

import jbdot
from benchmarks import communication, programs, regret_report
from benchmarks.models import MODELS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


def rows(page, heading):
    """The cells of the first table under a heading of a page of the site, without its head."""
    section = (ROOT / "docs" / "pages" / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


SHOWN = ("keras_tf1", "keras", "tensorflow", "theano", "mxnet", "torch")


@pytest.mark.parametrize("row", rows("index.md", "Five meanings"), ids=lambda row: row[0])
def test_dialect_table(row):
    call, *answers = row
    name = re.match(r"`(\w+)`", call)[1]
    axes = re.search(r"`axes=(.*)`", call)
    shapes = [eval(text) for text in re.findall(r"\([\d, ]*\)", call.split("axes")[0])]
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    for dialect, answer in zip(SHOWN, answers, strict=True):
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
        for row in rows("reference/conformance.md", "What differs")
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
    assert [tuple(row[2:]) for row in rows("benchmarks.md", "What calls cost")] == list(zip(*columns, strict=True))


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
    for workload, dtype, direction, *cells in rows("explanation/layouts.md", "The same, in workloads"):
        if workload == "geometric mean of all":
            gains = [[row[direction] for row in run.values() if direction in row] for run in runs]
            assert cells == [f"{statistics.geometric_mean(found):.2f}" for found in gains]
        else:
            assert cells == [f"{float(format(run[workload, dtype, direction]['bare'], '.2g')):g}" for run in runs]


def test_bytes_of_plans_are_those_of_the_stored_results():
    (path,) = RESULTS.glob("plans-jax-*.jsonl")
    found = {}
    for row in map(json.loads, path.read_text().splitlines()):
        key = row["topology"], row["lhs"], row["rhs"], row["out"]
        found.setdefault(key, [f"{row[program]['sent'] / 1e6:.3g}" for program in ("plain", "plan")])
    cases = (",,xy", ",xy,", "xy,,"), ("xy,", "xy,", "xy,"), (",xy", "xy,", "x,y"), (",xy", ",", None)
    topologies = "v5e:4x4", "v5p:4x4x4", "v5e:16x16", "v6e:4x4"
    for (_, *cells), case in zip(rows("explanation/communication.md", "What plain jit does"), cases, strict=True):
        assert cells == [" to ".join(found[topology, *case]) for topology in topologies]


def test_readme_fits_on_a_page_and_its_links_lead_somewhere():
    assert README.count("\n") < 150
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", README)
    assert len(links) > 30
    assert not [link for link in links if not (ROOT / link).exists()]


def claimed(row):
    """The words and figures of a row of README's table of what jbdot does."""
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {row} |"))
    return line


def test_readme_says_how_fast_a_cpu_is():
    (path,) = RESULTS.glob("regret-seed-*-jax-0.12.0.1.jsonl")
    _, *found = map(json.loads, path.read_text().splitlines())
    gain = statistics.geometric_mean(map(regret_report.gain, found))
    best = gain * statistics.geometric_mean(map(regret_report.regret, found))
    lost = sum("direct" in row.get("sure", ()) for row in found)
    mean, told = f"{gain:.2f} times", claimed("fast on a CPU")
    assert f"[{mean}](benchmarks/results/{path.stem}.md)" in told
    assert f"{len(found)} random contractions" in told
    assert f"the best lowering of each: {best:.2f} times" in told
    assert f"{lost} surely slower" in told
    assert f"**CPU**: {mean} as fast" in README


def test_readme_says_what_is_estimated_of_a_tpu():
    kinds = json.loads((RESULTS / "tpu-jax-0.12.0.1.json").read_text())["kinds"]

    def gains(lhs, rhs):
        asked = {"text": "b m k, b k n -> b m n", "lhs": lhs, "rhs": rhs, "program": "alone", "precision": None}
        asked["layout"] = "default"
        ways = [row["lowerings"] for kind in kinds for row in kind["rows"] if asked.items() <= row.items()]
        found = [way["direct"]["cycles"] / way["auto"]["cycles"] for way in ways]
        return f"{min(found):.2g} to {max(found):.2g} times"

    assert gains([8192, 4, 5], [8192, 5, 8]) in claimed("fast on a TPU")
    assert gains([8192, 8, 8], [8192, 8, 8]) in claimed("fast on a TPU")


def test_readme_says_what_plans_save():
    found = [json.loads(line) for line in (RESULTS / "plans-jax-0.12.0.1.jsonl").read_text().splitlines()]
    plain, plan = ([row[program]["sent"] for row in found] for program in ("plain", "plan"))
    ratios = [before / after for before, after in zip(plain, plan, strict=True) if before and after]
    worse = sum(before < after for before, after in zip(plain, plan, strict=True))
    told = claimed("fewer bytes on a mesh")
    assert f"[{statistics.geometric_mean(ratios):.2f} times]" in told
    assert f"of {len(found)} shardings, and fewer in {worse}" in told


def test_readme_says_what_whole_steps_send():
    path = RESULTS / "optimized-jax-0.12.0.1.jsonl"
    found = [row for row in map(json.loads, path.read_text().splitlines()) if row["on"] == "v5e:4x4"]
    before, after = ([row[name]["sent"] for row in found] for name in ("before", "after"))
    mean = statistics.geometric_mean(one / other for one, other in zip(before, after, strict=True))
    planned = sum(row["before"] != row["after"] for row in found)
    told = claimed("whole steps on a mesh")
    assert f"[{mean:.2f} times](benchmarks/results/{path.stem}.md)" in told
    assert f"of {len(found)} steps, of which {planned} are planned" in told
    assert ("none sends more" in told) == all(one >= other for one, other in zip(before, after, strict=True))


def test_readme_says_what_plans_of_whole_models_take():
    path = RESULTS / "programs-jax-0.12.0.1.jsonl"
    found = programs.outcomes([*map(json.loads, path.read_text().splitlines())])
    planned = [one for one in found if one.plan and one.ratio(one.best)]
    tutorial = [ratio for one in planned if (ratio := one.ratio(MODELS[one.program].tutorial)) is not None]
    worst = 1 / min(one.ratio(one.best) or 1.0 for one in planned)
    told = claimed("whole models on a mesh")
    assert f"[{statistics.geometric_mean(tutorial):.2f} times](benchmarks/results/{path.stem}.md)" in told
    assert f"in the geometric mean of {len(tutorial)}" in told
    assert f"of {len(planned)} models, each on a topology," in told
    assert f"the plan takes at most {worst:.2f} times the best by hand" in told


def test_forecasts_are_as_near_as_the_page_says():
    said = " ".join((ROOT / "docs" / "pages" / "how-to" / "shard.md").read_text().split())
    for name, words in (("communication", "for single lines in {}."), ("communication-others", "single lines {}.")):
        stored = (RESULTS / f"{name}-jax-0.12.0.1.jsonl").read_text().splitlines()
        shares = []
        for on in ("cpu", "v5e:4x4"):
            found = [row for row in map(json.loads, stored) if row["on"] == on]
            whole = sum(communication.is_close(row["expected"], row["compiled"]) for row in found)
            assert f"{whole} of {len(found)} cases" in said
            near = [communication.is_close(*line[-2:]) for row in found for line in row["lines"]]
            shares.append(f"{sum(near) / len(near):.0%}".replace("%", " %"))
        assert words.format(" and ".join(shares)) in said


def test_readme_says_what_calls_cost():
    eager = rows("benchmarks.md", "What calls cost")[0][-1]
    assert f"takes [{eager}](docs/pages/benchmarks.md)" in claimed("cheap calls")


def test_changelog_names_the_version():
    from importlib.metadata import version

    assert f"## {version('jbdot')}" in (ROOT / "CHANGELOG.md").read_text()
