"""Plans of whole programs beside the layouts of people, by the TPU compiler (`python -m benchmarks.programs`).

Each model of `benchmarks.models`, forward, backward and update, is compiled for two topologies in each of its layouts,
as their users write them, and as `jbdot.plan_program` plans it with the compiler as its witness. Bytes, FLOPs and
memory are those of the compiled text, of one device; times are the compiler's estimate of all but collectives, and an
estimate of what those take, one after another. The bound is a time that nothing can beat by these figures: FLOPs at the
peak, or arguments and results read or written once, and nothing sent. Nothing was run on a TPU.
Rows are appended as they are made; the same command goes on where it was stopped.

`--check` compiles nothing for TPUs: it runs three steps of each model at a tiny size, planned, on the devices here, and
on one.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import rich.console
import rich.progress
from jax.sharding import AbstractMesh, AxisType

import jbdot
from benchmarks import models
from benchmarks.models import MESHES, MODELS
from benchmarks.timing import machine
from jbdot.core.text import bytes_text
from jbdot.hardware import Hardware, of_topology
from jbdot.programs import witness
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.labels import Flow
from jbdot.programs.layout_search import Candidate

RESULTS: Final = Path(__file__).parent / "results"
PLAN: Final = "plan_program"
CLOSE: Final = 1.05  # how much longer than the best of the others the plan may be estimated to take
QUICK: Final = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile, on a CPU
Row = dict[str, Any]
Case = tuple[str, str, str]  # program, topology, layout


def cases() -> list[Case]:
    """Lists all that is compiled: first topologies first, so that each program is there early."""
    return [
        (program, model.on[turn], layout)
        for turn in (0, 1)
        for program, model in MODELS.items()
        for layout in (*model.layouts, PLAN)
    ]


def abstract(topology: str) -> AbstractMesh:
    """Makes the mesh of a topology, without devices."""
    sizes = MESHES[topology]
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def row(program: str, on: str, layout: str, timeout_s: float) -> Row:
    """Compiles a program in a layout."""
    start = time.perf_counter()
    found = planned(program, on, timeout_s) if layout == PLAN else laid_out(program, on, layout, timeout_s)
    seconds = round(time.perf_counter() - start, 1)
    return {"program": program, "on": on, "layout": layout, "seconds": seconds, **found}


def laid_out(program: str, on: str, layout: str, timeout_s: float) -> Row:
    """Compiles a program as its users write it."""
    try:
        step, args = models.made(program, abstract(on), layout)
        return figures(jbdot.communication(step, *args, topology=on, mesh=abstract(on), timeout_s=timeout_s))
    except (RuntimeError, ValueError) as error:
        return {"refused": " ".join(str(error).split())[:300]}


def figures(report: CommunicationReport) -> Row:
    """Takes what is kept of a report."""
    return {
        "sent": report.sent,
        "flops": report.flops,
        "temporaries": report.temp_bytes,
        "arguments": report.argument_bytes,
        "memory": report.memory_bytes,
        "fits": report.fits,
        "compute_us": round(report.compute_us or 0.0, 1),
        "sending_us": round(report.sending_us, 1),
        "step_us": round(report.step_us, 1),
    }


def planned(program: str, on: str, timeout_s: float) -> Row:
    """Plans a program, with the compiler as the witness."""
    step, args = models.made(program, abstract(on))
    mesh = MESHES[on]
    hardware = of_topology(on)
    function = step.__wrapped__  # type: ignore[attr-defined]
    start = time.perf_counter()
    alone = jbdot.plan_program(function, mesh, *args, hardware=hardware)
    searched_s = time.perf_counter() - start
    flow = alone.traced.flow
    found = {
        "search_s": round(searched_s, 1),
        "looked": alone.looked,
        "bound_us": round(bound_us(flow, math.prod(mesh.values()), hardware), 1),
    }
    try:
        plan = jbdot.plan_program(function, mesh, *args, topology=on)
    except RuntimeError as error:
        return {**found, "refused": " ".join(str(error).split())[:300]}
    best = plan.witnesses[0]
    first = next(
        each for each in plan.witnesses if (each.candidate.cost, each.between) == (alone.winner.cost, alone.between)
    )
    return {
        **found,
        **figures(best.report),
        "way": f"{best.candidate.name}; told of {witness.BETWEEN[best.between]}",
        "expected": estimates(best.candidate),
        "first": {} if first.report is None else {**figures(first.report), "expected": estimates(first.candidate)},
        "witnesses": [
            [each.candidate.name, each.between, each.report and round(each.report.step_us, 1)]
            for each in plan.witnesses
        ],
    }


def estimates(candidate: Candidate) -> Row:
    """Takes what a layout was estimated to cost."""
    cost = candidate.cost
    return {
        "sent": cost.bytes_sent,
        "flops": cost.flops,
        "temporaries": cost.temp_bytes,
        "memory": cost.memory_bytes,
        "compute_us": round(cost.compute_us, 1),
        "step_us": round(cost.total_us, 1),
    }


def bound_us(flow: Flow, devices: int, hardware: Hardware) -> float:
    """Gives a time that nothing can beat: the FLOPs at the peak, or arguments and results from memory once."""
    flops = sum(operation.flops * operation.times for operation in flow.operations)
    touched = sum(math.prod(x.shape) * x.item_bytes for x in (*flow.arguments, *flow.results))
    return hardware.compute_us(flops / devices, "bfloat16", touched / devices)


# What is promised, and what is kept of it.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a program for a topology: its plan beside the layouts that people give it."""

    program: str
    on: str
    plan: Row | None
    hand: dict[str, Row]  # those that the compiler takes and that fit
    refused: tuple[str, ...]

    @property
    def best(self) -> str:
        """Names the fastest by hand; empty where none fits."""
        return min(self.hand, key=lambda name: self.hand[name]["step_us"], default="")

    def ratio(self, layout: str) -> float | None:
        """Says how many times as long as the plan a layout takes."""
        if self.plan is None or "step_us" not in self.plan or layout not in self.hand:
            return None
        return self.hand[layout]["step_us"] / self.plan["step_us"]


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Joins the rows of each program and topology."""
    found: list[Outcome] = []
    for program, model in MODELS.items():
        for on in model.on:
            here = {one["layout"]: one for one in rows if (one["program"], one["on"]) == (program, on)}
            hand = {name: one for name, one in here.items() if name != PLAN}
            fits = {name: one for name, one in hand.items() if one.get("fits")}
            if here:
                found.append(Outcome(program, on, here.get(PLAN), fits, tuple(sorted({*hand} - {*fits}))))
    return found


def summary(found: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Writes the facts of all rows, as (what, how many)."""
    both = [(one, one.plan) for one in found if one.plan is not None and one.hand]
    ratios = [ratio for one, _ in both if (ratio := one.ratio(one.best)) is not None]
    tutorial = [ratio for one, _ in both if (ratio := one.ratio(MODELS[one.program].tutorial)) is not None]
    none = [ratio for one, _ in both if not MODELS[one.program].tutorial and (ratio := one.ratio(one.best)) is not None]
    bounds = [plan["step_us"] / plan["bound_us"] for _, plan in both if plan.get("step_us")]
    first = [plan["first"] for _, plan in both if plan.get("first")]
    near = [one["step_us"] / one["expected"]["step_us"] for one in first]
    close = [
        abs(one["sent"] - one["expected"]["sent"]) <= 0.1 * max(one["sent"], one["expected"]["sent"]) for one in first
    ]
    alone = [one.hand[one.best]["step_us"] / plan["first"]["step_us"] for one, plan in both if plan.get("first")]
    fits = [plan for _, plan in both if plan.get("fits")]
    over = [one for one, _ in both if (ratio := one.ratio(one.best)) is not None and ratio * CLOSE < 1]
    return [
        ("programs, with a topology", f"{len(both)}"),
        ("the plan fits where a layout by hand does", f"{len(fits)} of {len(both)}"),
        ("the best by hand over the plan: geometric mean, least, most", _spread(ratios)),
        (
            f"the plan takes over {CLOSE} times the best by hand",
            ", ".join(f"{x.program} on {x.on}" for x in over) or "0",
        ),
        ("the layout of a tutorial over the plan", _spread(tutorial)),
        ("the best by hand over the plan, where there is no tutorial", _spread(none)),
        ("the best by hand over the plan by estimates alone, nothing compiled", _spread(alone)),
        ("the plan over the bound", _spread(bounds)),
        ("the compiler's time over the plan's own estimate", _spread(near)),
        ("the plan's own estimate of bytes is within 10 %", f"{sum(close)} of {len(close)}"),
    ]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.geometric_mean(values):.3g}, {min(values):.3g}, {max(values):.3g} ({len(values)})"


def report(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Writes what was found."""
    found = outcomes(rows)
    text = ["# Plans of whole programs, by the TPU compiler", ""]
    text += [", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    text += [(__doc__ or "").partition("\n\n")[2].strip(), "", "| what | how many |", "|---|---|"]
    text += [f"| {what} | {number} |" for what, number in summary(found)]
    text += ["", "## Each program, ms", "", *each(found), "", "## All rows", "", *_table(rows), ""]
    return "\n".join(text)


def each(found: Sequence[Outcome]) -> list[str]:
    """Writes a table of a row for each program, in milliseconds."""
    head = ("program", "on", "bound", "plan", "what is planned", "best by hand", "of a tutorial", "by hand over plan")
    text = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in found:
        plan = one.plan or {}
        way = plan.get("way") or plan.get("refused") or "not asked"
        tutorial = one.hand.get(MODELS[one.program].tutorial)
        ratio = one.ratio(one.best)
        cells = (
            one.program,
            one.on,
            _ms(plan.get("bound_us")),
            _ms(plan.get("step_us")),
            way[:120],
            f"{_ms(one.hand[one.best]['step_us'])}, {one.best}" if one.best else "none fits",
            _ms(tutorial["step_us"]) if tutorial else "-",
            f"{ratio:.3g}" if ratio else "-",
        )
        text.append(f"| {' | '.join(cells)} |")
    return text


def _ms(us: float | None) -> str:
    return "-" if us is None else f"{us / 1e3:,.3g}"


def _table(rows: Iterable[Row]) -> list[str]:
    head = ("program", "on", "layout", "ms: computing + sending", "sent", "TFLOP", "temporaries", "memory", "seconds")
    found = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in sorted(rows, key=lambda one: (list(MODELS).index(one["program"]), one["on"])):
        cells = [one["program"], one["on"], one["layout"]]
        if "refused" in one:
            cells += [f"refused: {_cause(one['refused'])}", *["-"] * 4]
        else:
            needed = bytes_text(one["memory"]) + ("" if one["fits"] else ", too much")
            cells += [
                f"{_ms(one['step_us'])} = {_ms(one['compute_us'])} + {_ms(one['sending_us'])}",
                bytes_text(one["sent"]),
                f"{one['flops'] / 1e12:.3g}" if one["flops"] else "-",
                bytes_text(one["temporaries"]),
                needed,
            ]
        found.append(f"| {' | '.join([*cells, str(one['seconds'])])} |")
    return found


def _cause(words: str) -> str:
    if "does not fit" in words or "memory" in words:
        return "does not fit into the memory"
    return words[:80].replace("|", "/")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the time of each layout by hand and of the plan, over the bound."""
    from matplotlib.figure import Figure

    found = [one for one in outcomes(rows) if one.plan and "bound_us" in one.plan]
    figure = Figure(figsize=(9, 1.6 + 0.36 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(found):
        plan = one.plan or {}
        bound = plan["bound_us"]
        marks = [(one.hand.values(), "o", "tab:gray", "by hand"), ([plan], "D", "tab:blue", PLAN)]
        tutorial = MODELS[one.program].tutorial
        marks.insert(1, ([one.hand[tutorial]] if tutorial in one.hand else [], "o", "tab:orange", "of a tutorial"))
        for rows_, mark, colour, label in marks:
            times = [row["step_us"] / bound for row in rows_ if "step_us" in row]
            axes.plot(times, [place] * len(times), mark, color=colour, label=label if place == 0 else None, ls="none")
    axes.set_yticks(range(len(found)), [f"{one.program}, {one.on}" for one in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.grid(axis="x", alpha=0.4)
    axes.set_xlabel("times the lower bound, estimated by the TPU compiler; no TPU has confirmed it")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


# The right numbers, on the devices that are here.


def check(program: str, shape: tuple[int, int], steps: int = 3) -> float:
    """Runs steps of a model at its tiny size, planned over devices and on one; gives the largest relative difference.

    What both give is compared with the size of the largest number of each array.
    """
    mesh = jax.make_mesh(shape, models.BOTH, axis_types=(AxisType.Auto,) * 2)
    step, shapes = models.made(program, mesh, sizes=MODELS[program].tiny, dtype="float32")
    function = step.__wrapped__  # type: ignore[attr-defined]
    plan = jbdot.plan_program(function, mesh, *shapes, hardware=slow())
    planned, alone = plan(function, compiler_options=QUICK), jax.jit(function, compiler_options=QUICK)
    args = arrays(shapes)
    ours = theirs = args
    for _ in range(steps):
        one, other = planned(*ours), alone(*theirs)
        ours, theirs = _next(one, ours, plan), _next(other, theirs, plan)
    return max(map(_difference, jax.tree.leaves(one), jax.tree.leaves(other)))


def slow() -> Hardware:
    """Describes devices so slow that what is tiny is cut too."""
    return dataclasses.replace(of_topology("v5e:4x4"), peak={"float32": 1e9, "bfloat16": 1e9}, start_us=0.0, hop_us=0.0)


def arrays(shapes: Any) -> Any:
    """Draws arguments: normal and small, so that nothing saturates; small integers; squares as second moments."""
    rng = np.random.default_rng(0)

    def one(path: Any, x: Any) -> Any:
        if not np.issubdtype(x.dtype, np.floating):
            return np.asarray(rng.integers(0, 4, x.shape), x.dtype)
        drawn = np.asarray(0.2 * rng.standard_normal(x.shape), x.dtype)
        return drawn**2 if "second" in jax.tree_util.keystr(path) else drawn

    return jax.tree.map_with_path(one, shapes)


def _next(results: Any, args: tuple[Any, ...], plan: jbdot.ProgramPlan) -> tuple[Any, ...]:
    """Puts the state that comes back in the place of the arguments that it was, of the same structure and shapes."""
    given = list(results) if isinstance(results, tuple) else [results]

    def back(before: Any) -> Any:
        kind = jax.tree.structure(before), [x.shape for x in jax.tree.leaves(before)]
        kinds = [(jax.tree.structure(x), [leaf.shape for leaf in jax.tree.leaves(x)]) for x in given]
        return given.pop(kinds.index(kind))

    return tuple(back(one) if at in plan.state else one for at, one in enumerate(args))


def _difference(one: Any, other: Any) -> float:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.inf
    return float(np.abs(one - other).max(initial=0.0) / max(np.abs(other).max(initial=0.0), 1e-30))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles what is not there yet, and writes the report."""
    parser = argparse.ArgumentParser("python -m benchmarks.programs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), help="these programs")
    parser.add_argument("--on", nargs="+", choices=MESHES, default=list(MESHES))
    parser.add_argument("--layouts", nargs="+", help="these layouts (all, and the plan)")
    parser.add_argument("--seconds", type=float, default=7200, help="begin no row after so long (%(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds that a program may be compiled (%(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="start over, instead of going on")
    parser.add_argument("--check", action="store_true", help="compare numbers, on the devices here")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    console = rich.console.Console(stderr=True)
    if options.check:
        return _checked(options.only, console)
    path = options.results / f"programs-jax-{jax.__version__}.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(one["program"], one["on"], one["layout"]) for one in known}
    asked = [
        case
        for case in cases()
        if case not in done
        and case[0] in options.only
        and case[1] in options.on
        and (not options.layouts or case[2] in options.layouts)
    ]
    end = time.monotonic() + options.seconds
    with rich.progress.Progress(console=console) as bar, path.open("a") as file:
        for case in bar.track(asked, description="compiling"):
            if time.monotonic() > end:
                break
            known.append(row(*case, options.timeout))
            print(json.dumps(known[-1]), file=file, flush=True)
            console.print(f"{', '.join(case)}: {known[-1]['seconds']} s", highlight=False)
    facts = {name: machine()[name] for name in ("jax", "jaxlib", "jbdot")}
    path.with_suffix(".md").write_text(report(known, facts))
    draw(known, path.with_suffix(".png"))
    console.print(f"written: {path.with_suffix('.md')}", highlight=False)
    return 0


def _checked(programs: Sequence[str], console: Any) -> int:
    """Compares the numbers of all programs, and says how far they are apart."""
    count = len(jax.devices())
    worst = 0.0
    for program in programs:
        start = time.perf_counter()
        far = check(program, (count // 2, 2) if count < 16 else (4, count // 4))
        worst = max(worst, far)
        console.print(f"{program} on {count} devices: {far:.2g}, {time.perf_counter() - start:.1f} s", highlight=False)
    return int(not worst < 1e-3)


if __name__ == "__main__":
    sys.exit(main())
