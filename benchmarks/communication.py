"""What programs are expected to send, beside what the compiler makes of them (`python -m benchmarks.communication`).

Each program of `benchmarks.sharded`, in each of its layouts, on 16 virtual CPU devices (float32) and for v5e:4x4
(bfloat16, where `jax[tpu]` is): `jbdot.communication` before it is compiled and after. Bytes are compared by line of
the source, pass and mesh axes; what is recomputed counts as backward. Nothing runs; only the forecast is timed.
Rows are appended as they are made; the same command goes on where it was stopped.

`--others` asks about six models of `benchmarks.models` at medium sizes, on which the forecast was not made.
"""

import argparse
import collections
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import rich.console
import rich.progress

import jbdot
from benchmarks import models, sharded
from benchmarks.timing import machine
from jbdot.core.text import bytes_text
from jbdot.programs.communication_report import CommunicationReport

RESULTS: Final = Path(__file__).parent / "results"
ON: Final = {"cpu": "float32", "v5e:4x4": "bfloat16"}
CLOSE: Final = 0.1  # of the larger: what may differ
OTHERS: Final = """What other models are expected to send, beside what the compiler makes of them.

Six models of `benchmarks.models` at medium sizes, with Adam, in each of their layouts, on 16 virtual CPU devices
(float32) and for v5e:4x4 (bfloat16), compared as the programs of `python -m benchmarks.communication` are, on which the
forecast was made. On these it was not (`--others`).
"""
LEAST: Final = 1024  # bytes: rows that send less on both sides are left out
Row = dict[str, Any]


def row(program: str, layout: str, on: str) -> Row:
    """Asks both about one program."""
    make, layouts = sharded.PROGRAMS[program]
    mesh = sharded.devices() if on == "cpu" else sharded.abstract()
    return compared(program, layout, on, *make(sharded.Layout(mesh, ON[on], layouts[layout])))


def row_of_others(program: str, layout: str, on: str) -> Row:
    """Likewise, about a model of medium size."""
    mesh = sharded.devices() if on == "cpu" else sharded.abstract()
    return compared(program, layout, on, *models.made(program, mesh, layout, models.MEDIUM[program], ON[on]))


def compared(program: str, layout: str, on: str, step: Callable[..., Any], args: Sequence[Any]) -> Row:
    """Compares what a step is expected to send with what it sends."""
    topology = None if on == "cpu" else on
    start = time.perf_counter()
    before = jbdot.communication(step, *args, topology=topology, compiled=False)
    seconds = time.perf_counter() - start
    after = jbdot.communication(step, *args, topology=topology)
    expected, compiled = by_line(before), by_line(after)
    lines = [
        [*key, expected[key], compiled[key]]
        for key in sorted({**expected, **compiled})
        if max(expected[key], compiled[key]) >= LEAST
    ]
    return {
        "program": program,
        "layout": layout,
        "on": on,
        "expected": before.sent,
        "compiled": after.sent,
        "seconds": round(seconds, 2),
        "lines": lines,
    }


def by_line(report: CommunicationReport) -> "collections.Counter[tuple[str, str, str]]":
    """Sums the bytes of each line, pass and mesh axes."""
    found: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for one in report:
        part = "backward" if one.part == "recomputed" else one.part
        found[one.where.partition(":")[2], part, " ".join(one.axes)] += one.sent
    return found


def by_function(lines: Iterable[Sequence[Any]]) -> list[list[int]]:
    """Joins lines of one function: a compiler names the line of the operand, or of what reads it."""
    found: dict[tuple[str, ...], list[int]] = {}
    for where, part, axes, expected, compiled in lines:
        sums = found.setdefault((where.partition(" ")[2], part, axes), [0, 0])
        sums[0] += expected
        sums[1] += compiled
    return list(found.values())


def is_close(expected: int, compiled: int) -> bool:
    """Says whether two numbers of bytes are as good as equal."""
    return abs(expected - compiled) <= CLOSE * max(expected, compiled)


def kind(expected: int, compiled: int) -> str:
    """Says in which way a row differs."""
    if not compiled:
        return "expected, and not in the compiled text"
    if not expected:
        return "in the compiled text, and not expected"
    return "fewer than expected" if compiled < expected else "more than expected"


def report(rows: Sequence[Row], facts: dict[str, Any], words: str = __doc__ or "") -> str:
    """Writes what was found, below what a benchmark says of itself."""
    title = "What programs are expected to send, and what the compiler makes of them"
    text = written(title, words, rows, facts, lambda here: [summary(here), "", *_table(here)])
    return "\n".join([*text, "## Rows that differ by more than 10 %", "", *_others(rows), ""])


def written(
    title: str, words: str, rows: Sequence[Row], facts: dict[str, Any], part: Callable[[Sequence[Row]], list[str]]
) -> list[str]:
    """Writes the head of a report, and a part for each of `ON` that has rows."""
    text = [f"# {title}", "", ", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    text += [words.partition("\n\n")[2].strip(), ""]
    for on in ON:
        here = [one for one in rows if one["on"] == on]
        if here:
            text += [f"## {on}", "", *part(here), ""]
    return text


def summary(rows: Sequence[Row]) -> str:
    """Says in how many rows both agree."""
    lines = [line for one in rows for line in one["lines"]]
    close = [line for line in lines if is_close(*line[-2:])]
    joined = [pair for one in rows for pair in by_function(one["lines"])]
    whole = sum(is_close(*pair) for pair in joined)
    weight = sum(max(line[-2:]) for line in lines) or 1
    share = sum(max(line[-2:]) for line in close) / weight
    totals = sum(is_close(one["expected"], one["compiled"]) for one in rows)
    return (
        f"Within 10 %: {len(close)} of {len(lines)} rows ({len(close) / (len(lines) or 1):.0%}), "
        f"{share:.0%} of the bytes; joined by function, pass and axes, {whole} of {len(joined)} "
        f"({whole / (len(joined) or 1):.0%}); "
        f"all that a program sends, {totals} of {len(rows)} programs. Tracing, lowering and the forecast took "
        f"{max(one['seconds'] for one in rows):.1f} s at most."
    )


def _table(rows: Iterable[Row]) -> list[str]:
    found = ["| program | layout | rows within 10 % | expected | compiled |", "|---|---|---|---|---|"]
    for one in rows:
        close = sum(is_close(*line[-2:]) for line in one["lines"])
        sent = f"{bytes_text(one['expected'])} | {bytes_text(one['compiled'])}"
        found.append(f"| {one['program']} | {one['layout']} | {close} of {len(one['lines'])} | {sent} |")
    return found


def _others(rows: Iterable[Row]) -> list[str]:
    found = ["| on | program | layout | line | pass | axes | expected | compiled | kind |", "|" + "---|" * 9]
    for one in rows:
        for where, part, axes, expected, compiled in one["lines"]:
            if not is_close(expected, compiled):
                cells = one["on"], one["program"], one["layout"], where, part or "-", axes, bytes_text(expected)
                found.append(f"| {' | '.join(cells)} | {bytes_text(compiled)} | {kind(expected, compiled)} |")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks about what is not there yet, and writes the report."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--others" in arguments:
        arguments.remove("--others")
        layouts = {name: models.MODELS[name].layouts for name in models.MEDIUM}
        write = functools.partial(report, words=OTHERS)
        return run("communication-others", OTHERS, row_of_others, write, arguments, layouts)
    return run("communication", __doc__ or "", row, report, arguments)


def run(
    name: str,
    words: str,
    ask: Callable[[str, str, str], Row],
    write: Callable[[Sequence[Row], dict[str, Any]], str],
    arguments: Sequence[str] | None,
    programs: Mapping[str, Iterable[str]] | None = None,
) -> int:
    """Asks for a row of each program in each layout, of those that are not there yet, and writes the report.

    Args:
        name: Of the benchmark, and of its files.
        words: What it says of itself.
        ask: Makes the row of a program, a layout, and what it is compiled for.
        write: Writes the report of rows and versions.
        arguments: Of the command.
        programs: The layouts of each program; by default those of `benchmarks.sharded`.
    """
    programs = programs or {program: layouts for program, (_, layouts) in sharded.PROGRAMS.items()}
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=words.splitlines()[0])
    parser.add_argument("--on", nargs="+", choices=ON, default=list(ON))
    parser.add_argument("--only", default="", help="programs whose names have this in them")
    parser.add_argument("--fresh", action="store_true", help="start over, instead of going on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    path = options.results / f"{name}-jax-{jax.__version__}.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(one["program"], one["layout"], one["on"]) for one in known}
    asked = [
        (program, layout, on)
        for on in options.on
        for program, layouts in programs.items()
        for layout in layouts
        if options.only in program and (program, layout, on) not in done
    ]
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console) as bar, path.open("a") as file:
        for case in bar.track(asked, description="compiling"):
            try:
                known.append(ask(*case))
            except RuntimeError as error:  # such as a compiler that takes too long: the next run asks again
                console.print(f"{', '.join(case)}: {error}", highlight=False)
                continue
            print(json.dumps(known[-1]), file=file, flush=True)
    facts = {name: machine()[name] for name in ("jax", "jaxlib", "jbdot")}
    path.with_suffix(".md").write_text(write(known, facts))
    console.print(f"written: {path.with_suffix('.md')}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
