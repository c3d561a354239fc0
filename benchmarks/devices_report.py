"""Tables and picture of `benchmarks.devices`, from what is stored (`python -m benchmarks.devices_report`)."""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from benchmarks.report import cell, figure_text, mean, table, whole_lines
from benchmarks.timing import spread

Row = dict[str, Any]
Key = tuple[str, str, int]

PROGRAMS: Final = {"plan": ("jbdot's plan", "#0072B2", "o"), "plain": ("plain jit", "#D55E00", "s")}
DASHES: Final = {"strong": "-", "weak": ":"}
ALIKE: Final = 1.05  # a ratio of times of up to this is no loss
COLUMNS: Final = 5  # of panels
INTRODUCTION: Final = """# Many devices: jbdot's plans beside plain jit

Written by `python -m benchmarks.devices`. Each workload is said twice from the same facts, the operands' shardings and
the result's: by `jbdot.plan_sharding`, a plan for each contraction, and as plain jit, `jnp.einsum` with
`out_shardings`. What stands between two contractions is left open to both. Both are compiled, their results compared,
and then timed in turns with a product of square matrices on one device. Times are medians with the 10th and 90th
percentile of blocks of calls, each call awaited; ratios are of blocks of the same round. Strong: all devices share one
size. Weak: each device adds an eighth of it, so that the rows of eight devices are the same, measured twice.
"""
SHARED: Final = """**These devices are virtual: {count} CPU devices at most, all on the same {threads} cores.** One of
them alone already uses every core, so that the best that many can do is the same rate in all. A time says what a
program's copies and waiting cost here, and nothing of links or of real devices. Bytes and FLOPs carry the claim: they
are counted, not timed. "Of one device's gemm" is the rate of all devices together, over that of one device that
multiplies square matrices alone, measured in the same rounds; above 100 % that one was held up. On one device the
programs differ only in how each dot is said.
"""
OWN: Final = """Each device is one of its own. "Of one device's gemm" is the rate of each, over that of one device that
multiplies square matrices alone, measured in the same rounds.
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one results file holds.

    Attributes:
        facts: Devices and versions.
        rows: The rows by workload, scaling and devices; the last of each.
    """

    facts: dict[str, Any]
    rows: dict[Key, Row]

    @property
    def measured(self) -> dict[Key, Row]:
        """The rows that have figures, by number of devices, then as measured."""
        found = sorted(self.rows.items(), key=lambda item: item[0][2])
        return {key: row for key, row in found if "failed" not in row}

    @property
    def workloads(self) -> list[str]:
        """Names, as measured."""
        return list(dict.fromkeys(key[0] for key in self.measured))

    @property
    def most(self) -> int:
        """Devices of the largest mesh."""
        return max(key[2] for key in self.measured)

    @property
    def is_virtual(self) -> bool:
        """Whether the devices share a machine's cores."""
        return self.facts["platform"] == "cpu"

    @property
    def largest(self) -> list[Row]:
        """A row for each workload, on its largest mesh, strong where there is one."""
        rows = sorted(self.measured.values(), key=lambda row: (row["devices"], row["scaling"] == "strong"))
        found = {row["workload"]: row for row in rows}
        return [found[name] for name in self.workloads]


def load(path: Path) -> Run:
    """Reads a results file."""
    facts, *rows = (json.loads(line) for line in whole_lines(path))
    return Run(facts, {(row["workload"], row["scaling"], row["devices"]): row for row in rows})


# What is read off a row.


def moves(row: Row, program: str) -> str:
    """The collectives of a program's compiled text."""
    return _listed(row[program]["collectives"])


def planned(row: Row) -> str:
    """The collectives that the plans name; of one that is plain jit, those that it is expected to make."""
    return _listed(Counter(move["kind"] for move in row["planned"]["moves"]))


def _listed(found: dict[str, int]) -> str:
    return ", ".join(kind if number == 1 else f"{number} {kind}" for kind, number in found.items()) or "-"


def fewer(row: Row) -> str:
    """How many times the plan's bytes plain jit sends."""
    ours, plain = row["plan"]["sent"], row["plain"]["sent"]
    if None in (ours, plain):
        return "-"
    return figure_text(plain / ours) if ours else ("1" if not plain else "all")


def rate(row: Row, program: str) -> float:
    """FLOP/s of each device."""
    return 1e6 * row["flops"] / row[program]["us"]["median"]


def of_square(run: Run, row: Row, program: str) -> dict[str, float]:
    """The rate over one device's product: of each device, of all together where they share cores."""
    times = row["devices"] if run.is_virtual else 1
    return {name: value * times for name, value in row["of_square"][program].items()}


def is_slower(row: Row) -> bool:
    """Whether the plan takes longer than plain jit, beyond the spread of blocks."""
    return row["ratio"]["median"] > ALIKE and row["ratio"]["p10"] > 1


def percent(found: dict[str, float]) -> str:
    """A share of something, as percent."""
    return f"{found['median']:.0%} ({found['p10']:.0%}..{found['p90']:.0%})"


def megabytes(number: int | None) -> str:
    """Bytes, as megabytes."""
    return "-" if number is None else figure_text(number / 1e6) if number else "0"


# Tables.


def moved(run: Run) -> str:
    """What each program sends on the largest mesh."""
    heads = ("workload", "mesh", "plan's ways", "its collectives", "counted by it, MB", "in its text", "MB")
    more = ("in plain jit's text", "MB", "plain jit's bytes over the plan's", "time of plan over plain jit")
    lines: list[list[str]] = []
    for row in run.largest:
        mesh = " ".join(f"{axis}={size}" for axis, size in row["mesh"].items())
        line = [row["workload"], mesh, "; ".join(row["planned"]["ways"])]
        line += [planned(row), megabytes(row["planned"]["sent"])]
        for program in PROGRAMS:
            line += [moves(row, program), megabytes(row[program]["sent"])]
        lines.append([*line, fewer(row), cell(row["ratio"])])
    return table((*heads, *more), lines)


def differing(run: Run) -> str:
    """Rows whose compiled text sends what the plan does not count."""
    lines: list[list[str]] = []
    for key, row in run.measured.items():
        if row["plan"]["sent"] != row["planned"]["sent"]:
            counted = [planned(row), megabytes(row["planned"]["sent"])]
            lines.append([*map(str, key), *counted, moves(row, "plan"), megabytes(row["plan"]["sent"])])
    return table(("workload", "scaling", "devices", "planned", "counted, MB", "in the text", "MB"), lines)


def slower(rows: Iterable[Row]) -> str:
    """Rows where the plan loses."""
    heads = ("workload", "scaling", "devices", "plan's ways", "its time over plain jit's", "plain jit's bytes over its")
    lines: list[list[str]] = []
    for row in filter(is_slower, rows):
        where = [row["workload"], row["scaling"], str(row["devices"])]
        lines.append([*where, "; ".join(row["planned"]["ways"]), cell(row["ratio"]), fewer(row)])
    return table(heads, lines)


def efficiency(run: Run, scaling: str) -> str:
    """Rates by number of devices, over one device's product: plan / plain jit."""
    numbers = sorted({key[2] for key in run.measured})
    lines: list[list[str]] = []
    for name in run.workloads:
        rows = [run.measured.get((name, scaling, number)) for number in numbers]
        if any(rows):
            shares = [[of_square(run, row, program)["median"] for program in PROGRAMS] if row else None for row in rows]
            lines.append([name, *(" / ".join(f"{share:.0%}" for share in pair) if pair else "-" for pair in shares)])
    return table(("workload", *(f"{number} device{'s' * (number > 1)}" for number in numbers)), lines)


def every(run: Run) -> str:
    """All rows."""
    heads = ["workload", "scaling", "devices", "GFLOP each", "plan, us", "plain jit, us", "plan over plain jit"]
    heads += ["GFLOP/s each, plan", "plain jit", "of one device's gemm, plan", "plain jit"]
    heads += ["of published peak, plan"] if "peak" in run.facts else []
    heads += ["compiling, ms, plan / plain jit", "planning, ms", "temporary MiB, plan / plain jit"]
    lines: list[list[str]] = []
    for row in run.measured.values():
        both = [row[program] for program in PROGRAMS]
        line = [row["workload"], row["scaling"], str(row["devices"]), figure_text(row["flops"] / 1e9)]
        line += [*(cell(each["us"]) for each in both), cell(row["ratio"])]
        line += [figure_text(rate(row, program) / 1e9) for program in PROGRAMS]
        line += [percent(of_square(run, row, program)) for program in PROGRAMS]
        line += [f"{rate(row, 'plan') / run.facts['peak'][row['dtype']]:.0%}"] if "peak" in run.facts else []
        line += [" / ".join(figure_text(each["compile_ms"]) for each in both), figure_text(row["planned"]["ms"])]
        line += [" / ".join(figure_text((each["temp_bytes"] or 0) / 2**20, 2) for each in both)]
        lines.append(line)
    return table(heads, lines)


def failed(run: Run) -> str:
    """Rows without figures."""
    lines = [[*map(str, key), row["failed"].replace("|", "/")] for key, row in run.rows.items() if "failed" in row]
    return table(("workload", "scaling", "devices", "why"), lines)


def summary(run: Run) -> str:
    """What all rows say together."""
    rows = list(run.measured.values())
    others = [row for row in rows if set(row["planned"]["ways"]) != {"plain jit"}]
    same = [row["ratio"]["median"] for row in rows if row["same_program"]]
    pairs = [(row["plan"]["sent"], row["plain"]["sent"]) for row in rows]
    read = [pair for pair in pairs if None not in pair]
    less, more = sum(ours < plain for ours, plain in read), sum(ours > plain for ours, plain in read)
    counts = [row["plan"]["flops"] / row["flops"] for row in rows if row["plan"]["flops"]]
    square = [row["square_flops"] / row["square"]["us"]["median"] / 1e3 for row in rows]
    plain, slow = len(rows) - len(others), sum(map(is_slower, rows))
    times = mean([row["ratio"]["median"] for row in others])
    lines = [
        f"- {len(rows)} rows; in {plain} the plan is plain jit for every contraction, in {len(others)} not.",
        f"- Bytes, read in the compiled programs: the plan sends less in {less} rows, more in {more}, of {len(read)}.",
        f"- Time of plan over plain jit, geometric mean, 10th and 90th percentile: {times} where the plan is another;",
        f"  {mean(same)} where both compile to one text, which is noise.",
        f"- The plan is slower beyond noise in {slow} rows.",
        f"- Largest difference of results, over the largest entry: {max(row['error'] for row in rows):.2g}.",
        f"- One device's gemm: {cell(spread(square))} GFLOP/s over the rows.",
        f"- FLOPs of each device by the compiler, over the formula's: {cell(spread(counts) if counts else None)}.",
    ]
    return "\n".join(lines)


# The picture.


def picture(run: Run) -> Figure:
    """Efficiency of each workload over the number of devices; below, bytes on the largest mesh."""
    names = run.workloads
    lines = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(15, 2.6 * lines + 1.6 + 0.3 * len(names)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.6 * lines + 1, 0.6 + 0.3 * len(names)))
    panels = top.subplots(lines, min(COLUMNS, len(names)), squeeze=False, sharex=True, sharey=True)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels.flat, names, strict=False):
        _panel(axes, run, name)
    shares = [of_square(run, row, program)["median"] for row in run.measured.values() for program in PROGRAMS]
    panels[0, 0].set_ylim(0, 115 * max(1, *shares))
    what = "all devices together" if run.is_virtual else "each device"
    shared = f"virtual CPU devices share {run.facts['threads']} cores: at best they keep the rate of one"
    title = f"Rate of {what}, in % of one device's gemm, jax {run.facts['jax']}"
    top.suptitle(f"{title}\n{shared}" if run.is_virtual else title)
    _legend(top)
    _bars(bottom, run)
    return figure


def _panel(axes: Axes, run: Run, name: str) -> None:
    for program, (_, colour, marker) in PROGRAMS.items():
        for scaling, dash in DASHES.items():
            rows = [row for key, row in run.measured.items() if key[:2] == (name, scaling)]
            found = [of_square(run, row, program) for row in rows]
            numbers = [row["devices"] for row in rows]
            low, middle, high = ([100 * each[at] for each in found] for at in ("p10", "median", "p90"))
            axes.plot(numbers, middle, dash, color=colour, marker=marker, markersize=4)
            axes.fill_between(numbers, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(100, color="#999999", linewidth=0.8)
    numbers = sorted({key[2] for key in run.measured})
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_title(name.replace(", ", ",\n", 1), fontsize=9)
    axes.set_xlabel("devices")
    axes.grid(color="#E4E4E4")
    axes.label_outer()


def _legend(figure: SubFigure) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=dash, label=f"{words}, {scaling} scaling")
        for words, colour, marker in PROGRAMS.values()
        for scaling, dash in DASHES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _bars(figure: SubFigure, run: Run) -> None:
    axes = figure.subplots()
    rows = run.largest
    for number, (program, (words, colour, _)) in enumerate(PROGRAMS.items()):
        places = [line + 0.2 * (2 * number - 1) for line in range(len(rows))]
        values = [(row[program]["sent"] or 0) / 1e6 for row in rows]
        bars = axes.barh(places, values, 0.38, color=colour, label=words)
        axes.bar_label(bars, [megabytes(row[program]["sent"]) for row in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [row["workload"] for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel(f"MB that each device sends, {run.most} devices, read in the compiled programs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")


# The report.


def write(path: Path) -> list[Path]:
    """Writes the report and its picture beside a results file that has rows."""
    run = load(path)
    if not run.measured:
        return []
    drawn, text = path.with_suffix(".png"), path.with_suffix(".md")  # a version has dots: the suffix is the last part
    picture(run).savefig(drawn, dpi=110)
    shared = SHARED.format(count=run.most, threads=run.facts["threads"]) if run.is_virtual else OWN
    text.write_text(f"""{INTRODUCTION}
{shared}
{summary(run)}

![Rates by number of devices, and bytes sent, workload by workload]({drawn.name})

## What each device sends, on the largest mesh

A plan counts before anything is compiled; beside that stands what the compiled texts of both programs send.

{moved(run)}

Where the compiled text of the plan sends other than it counts:

{differing(run)}

## Rates in percent of one device's gemm, strong scaling: plan / plain jit

{efficiency(run, "strong")}

## Weak scaling

{efficiency(run, "weak")}

## Where the plan is slower than plain jit, beyond noise

{slower(run.measured.values())}

## Every row

<details><summary>All rows</summary>

{every(run)}

</details>

## Not measured

{failed(run)}

## Measured on

{table(("fact", "value"), [[name, str(value) or "-"] for name, value in run.facts.items()])}
""")
    return [text, drawn]


def main() -> None:
    """Makes the reports again."""
    parser = argparse.ArgumentParser("python -m benchmarks.devices_report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the results are")
    for path in sorted(parser.parse_args().results.glob("devices*-jax-*.jsonl")):
        for written in write(path):
            print(written)


if __name__ == "__main__":
    main()
