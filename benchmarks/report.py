"""Tables and pictures of the suite's results (`python -m benchmarks.report` makes them again from what is stored)."""

import argparse
import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.timing import spread

Row = dict[str, Any]

NEVER_SLOWER: Final = 1.05  # jbdot's time over that of the best XLA spelling, within noise
SPELLINGS: Final = ("bare", "einsum", "matmul")  # what one can say in JAX without jbdot
OTHERS: Final = {
    "bare": "bare dot_general",
    "einsum": "jnp.einsum",
    "matmul": "jnp.matmul",
    "keras": "Keras 3 on JAX",
    "torch": "PyTorch",
    "tensorflow": "TensorFlow",
}
DIRECTIONS: Final = ("forward", "gradient")
# Okabe and Ito's colours, told apart by readers of every colour vision; the marker says the same again.
STYLES: Final = {
    "float32": ("#0072B2", "o"),
    "bfloat16": ("#D55E00", "s"),
    "float16": ("#E69F00", "^"),
    "float64": ("#009E73", "D"),
    "int8": ("#CC79A7", "v"),
    "complex64": ("#000000", "P"),
}
INTRODUCTION: Final = """# What jbdot's contractions cost

Written by `python -m benchmarks`. Times are medians with the 10th and 90th percentile of blocks of calls, each call
awaited; ratios are of blocks of the same round, and a speed-up is another's time over jbdot's. Compiling is not in
them. A gradient is both backward contractions of a single contraction; of a chain, the result and all gradients.
Peers run in processes of their own, with as many threads, and are stopped while others run. PyTorch and TensorFlow
take the faster of einsum and matmul, Keras its einsum or, for `batch_dot`, its `Dot` layer.

Large outputs: a call that returns more than a few MB spends most of its time on page faults, as its result is fresh
memory from the system each time. `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` in the environment changes that, and no
library can once the process runs; each run below says what it had.
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one results file holds.

    Attributes:
        facts: Machine and versions, peers, inputs, limits.
        rows: The rows by workload, dtype and direction; the last of each.
    """

    facts: dict[str, Any]
    rows: dict[tuple[str, str, str], Row]

    @property
    def version(self) -> str:
        """Of JAX."""
        return self.facts["machine"]["jax"]

    @property
    def measured(self) -> dict[tuple[str, str, str], Row]:
        """The rows that have figures."""
        return {key: row for key, row in self.rows.items() if "failed" not in row}


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, without a last one that was cut off."""
    return path.read_text().split("\n")[:-1]


def load(path: Path) -> Run | None:
    """Reads a results file; None where not even its first line is whole."""
    facts, *rows = (json.loads(line) for line in whole_lines(path) or ["null"])
    return facts and Run(facts, {(row["workload"], row["dtype"], row["direction"]): row for row in rows})


# What is read off a row.


def speed_up(row: Row, way: str) -> dict[str, float] | None:
    """How many times as fast as another way jbdot is; None where that was not measured."""
    found = row["ratios"].get(way)
    return found and {"median": 1 / found["median"], "p10": 1 / found["p90"], "p90": 1 / found["p10"]}


def is_slower(row: Row) -> bool:
    """Whether jbdot is slower than the best XLA spelling, by more than two copies of one program differ."""
    return row["ratios"][row["best"]]["median"] > max(NEVER_SLOWER, row["noise"]["p90"])


def family(row: Row) -> str:
    """The workload's name up to its first comma."""
    return row["workload"].split(",")[0]


def named(row: Row) -> list[str]:
    """A row's first cells."""
    return [row["workload"], row["dtype"], row["direction"]]


# Tables.


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in markdown, or a word where there is nothing to list."""
    found = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *found]) if found else "None."


def figure_text(value: float, digits: int = 3) -> str:
    """A number with the digits that mean something, never as a power of ten."""
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}"


def cell(found: dict[str, float] | None) -> str:
    """A median with its spread; a dash for what was not measured."""
    if found is None:
        return "-"
    return "{} ({}..{})".format(*(figure_text(found[name]) for name in ("median", "p10", "p90")))


def mean(values: list[float]) -> str:
    """A geometric mean, with the 10th and 90th percentile of what it is of, and their number."""
    if not values:
        return "-"
    return f"{cell({**spread(values), 'median': statistics.geometric_mean(values)})}, n={len(values)}"


def means(rows: list[Row]) -> str:
    """Geometric means of the speed-ups over every other way, by direction and dtype."""
    lines: list[list[str]] = []
    for direction in DIRECTIONS:
        for dtype in (*STYLES, "all"):
            chosen = [row for row in rows if row["direction"] == direction and dtype in (row["dtype"], "all")]
            if chosen:
                found = [[up["median"] for row in chosen if (up := speed_up(row, way))] for way in OTHERS]
                lines.append([direction, dtype, *map(mean, found)])
    return table(("direction", "dtype", *OTHERS.values()), lines)


def slower(rows: list[Row]) -> str:
    """The rows where jbdot is slower than what one can say without it, beyond noise."""
    heads = (
        "workload",
        "dtype",
        "direction",
        "best",
        "jbdot's time over its",
        "noise",
        "jbdot's program is the bare one",
    )
    lines: list[list[str]] = []
    for row in filter(is_slower, rows):
        same = "yes" if row["same_program"] else "no"
        lines.append([*named(row), OTHERS[row["best"]], cell(row["ratios"][row["best"]]), cell(row["noise"]), same])
    return table(heads, lines)


def losses(rows: list[Row], way: str) -> str:
    """The rows where another framework is faster in the median, the largest loss first."""
    lost = [row for row in rows if row["ratios"].get(way, {"median": 0})["median"] > 1]
    lines: list[list[str]] = []
    for row in sorted(lost, key=lambda row: -row["ratios"][way]["median"]):
        ours, other = row["ways"]["jbdot"], row["ways"][way]
        lines.append([*named(row), cell(ours["us"]), cell(other["us"]), other["way"], cell(row["ratios"][way])])
    return table(
        ("workload", "dtype", "direction", "jbdot, us", f"{OTHERS[way]}, us", "by", "jbdot's time over it"), lines
    )


def every(rows: list[Row]) -> str:
    """All rows."""
    heads = ("workload", "dtype", "direction", "jbdot, us", "bare, us", "limit, us", "of it", "temporary MiB")
    lines: list[list[str]] = []
    for row in rows:
        ours, bare, limit = row["ways"]["jbdot"], row["ways"]["bare"], row["limit"]
        temporary = " / ".join(figure_text(way["temp_bytes"] / 2**20, 2) for way in (ours, bare))
        bound = f"{figure_text(limit['us'])}, {limit['by']}{', fits in cache' if limit['in_cache'] else ''}"
        times = [cell(ours["us"]), cell(bare["us"]), bound, f"{limit['us'] / ours['us']['median']:.0%}", temporary]
        lines.append([*named(row), *times, *(cell(speed_up(row, way)) for way in OTHERS)])
    return table((*heads, *(f"over {name}" for name in OTHERS.values())), lines)


def unmeasured(run: Run) -> str:
    """What was not measured, and why."""
    reasons = Counter(
        (OTHERS[way], row["dtype"], row["direction"], facts["unable"].replace("|", "/"))
        for row in run.measured.values()
        for way, facts in row["ways"].items()
        if "unable" in facts
    )
    lines = [[*key[:3], str(count), key[3]] for key, count in sorted(reasons.items())]
    absent = {way: facts["unable"] for way, facts in run.facts["peers"].items() if "unable" in facts}
    lines += [[OTHERS[way], "all", "both", "all", reason] for way, reason in absent.items()]
    failed = [row for row in run.rows.values() if "failed" in row]
    lines += [["all", row["dtype"], row["direction"], "1", f"{row['workload']}: {row['failed']}"] for row in failed]
    return table(("way", "dtype", "direction", "rows", "why"), lines)


def machine(run: Run) -> str:
    """The machine, the versions and what was measured of both."""
    facts = [[name, str(value) or "-"] for name, value in run.facts["machine"].items()]
    for way, found in run.facts["peers"].items():
        facts.append([OTHERS[way], ", ".join(f"{name} {value}" for name, value in found.items())])
    limits: list[list[str]] = []
    for name, found in run.facts["limits"].items():
        unit = "GFLOP/s" if name.startswith("gemm") else "GB/s"
        limits.append([name, f"{figure_text(found['rate'] / 1e9)} {unit}", found["how"]])
    facts.append(["inputs", run.facts["inputs"]])
    return f"{table(('fact', 'value'), facts)}\n\n{table(('limit', 'best rate', 'by'), limits)}"


# Pictures.


def strip(rows: list[Row], group: Callable[[Row], str], title: str) -> Figure:
    """Speed-ups over the bare dot: a line for each group, a point for each row, forward beside gradient."""
    groups = list(dict.fromkeys(map(group, rows)))
    figure = Figure(figsize=(12, 2 + len(groups) * (0.34 if len(groups) > 20 else 0.5)), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, direction in zip(panels, DIRECTIONS, strict=True):
        axes.axvspan(1 / NEVER_SLOWER, NEVER_SLOWER, color="#DDDDDD", zorder=0)
        for row in rows:
            if row["direction"] == direction:
                _point(axes, row, groups.index(group(row)))
        axes.set(xscale="log", title=direction)
        axes.set_xlabel("times as fast as a bare lax.dot_general\n(lines: 10th to 90th percentile; grey: within 5 %)")
        axes.set_yticks(range(len(groups)), groups)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        for line in range(0, len(groups), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="#F4F4F4", zorder=-1)
        axes.grid(axis="x", color="#E4E4E4")
        axes.set_axisbelow(True)
    low, high = panels[0].get_xlim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= tick <= high]
    panels[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_xticks([], minor=True)
    found = {row["dtype"] for row in rows}
    handles = [_handle(dtype, *style) for dtype, style in STYLES.items() if dtype in found]
    figure.suptitle(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _point(axes: Axes, row: Row, line: int) -> None:
    colour, marker = STYLES[row["dtype"]]
    up = speed_up(row, "bare")
    y = line + 0.13 * (list(STYLES).index(row["dtype"]) - 2.5)
    axes.plot([up["p10"], up["p90"]], [y, y], color=colour, linewidth=0.8, alpha=0.6)
    axes.plot(up["median"], y, marker, color=colour, markersize=4.5, markeredgewidth=0)


def roofline(run: Run, rows: list[Row], title: str) -> Figure:
    """Rates against FLOP per byte, a panel for each dtype under its own roof: bare dots hollow, jbdot filled."""
    dtypes = [dtype for dtype in STYLES if any(row["dtype"] == dtype for row in rows)]
    lines = math.ceil(len(dtypes) / 3)
    figure = Figure(figsize=(13, 4.2 * lines + 0.8), layout="constrained")
    panels = figure.subplots(lines, min(3, len(dtypes)), squeeze=False, sharex=True, sharey=True)
    for axes in panels.flat[len(dtypes) :]:
        axes.set_visible(False)
    for axes, dtype in zip(panels.flat, dtypes, strict=False):
        _roof(axes, run, dtype, rows)
        for row in rows:
            if row["dtype"] == dtype:
                _rates(axes, row)
        axes.set(xscale="log", yscale="log", title=dtype, xlabel="FLOP per byte in and out", ylabel="GFLOP/s")
        axes.grid(color="#EEEEEE")
        axes.label_outer()
    handles = [
        _handle("jbdot, forward", "#0072B2", "o"),
        _handle("jbdot, gradient", "#0072B2", "^"),
        _handle("bare dot_general", "#D55E00", "o", hollow=True),
        Line2D([], [], color="black", label="measured peak, reading memory"),
        Line2D([], [], color="black", linestyle=":", label="reading cache"),
    ]
    figure.suptitle(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _rates(axes: Axes, row: Row) -> None:
    intensity, marker = row["flops"] / row["bytes"], "o" if row["direction"] == "forward" else "^"
    ours, bare = (row["flops"] / row["ways"][way]["us"]["median"] / 1e3 for way in ("jbdot", "bare"))
    axes.plot([intensity] * 2, [bare, ours], color="#999999", linewidth=0.8, zorder=2)
    axes.plot(intensity, bare, marker, markerfacecolor="none", markeredgecolor="#D55E00", markersize=6, zorder=3)
    axes.plot(intensity, ours, marker, color="#0072B2", markeredgewidth=0, markersize=4.5, zorder=4)


def _roof(axes: Axes, run: Run, dtype: str, rows: list[Row]) -> None:
    limits, intensities = run.facts["limits"], [row["flops"] / row["bytes"] for row in rows]
    peak = limits[f"gemm {dtype}"]["rate"] / 1e9
    for near, style in (("memory", "-"), ("cache", ":")):
        slope = limits[f"read {near}"]["rate"] / 1e9
        x = [min(intensities) / 1.5, peak / slope, max(*intensities, peak / slope) * 1.5]
        axes.plot(x, [min(peak, slope * each) for each in x], style, color="black", linewidth=1, zorder=1)


def _handle(label: str, colour: str, marker: str, hollow: bool = False) -> Line2D:
    face = "none" if hollow else colour
    return Line2D([], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, label=label)


# The report.


def section(run: Run, folder: Path) -> str:
    """What there is to say of one run; its pictures are put into the folder."""
    rows, jax = list(run.measured.values()), f"jax {run.version}"
    pictures = {
        "families": strip(rows, family, f"jbdot beside a bare dot_general: each point a workload, {jax}"),
        "workloads": strip(rows, lambda row: row["workload"], f"jbdot beside a bare dot_general, {jax}"),
        "roofline": roofline(run, rows, f"What is reached, and what this machine can do, {jax}"),
    }
    files = {name: f"{name}-jax-{run.version}.png" for name in pictures}
    for name, picture in pictures.items():
        picture.savefig(folder / files[name], dpi=130)
    compiling = mean([row["ways"]["jbdot"]["compile_ms"] / row["ways"]["bare"]["compile_ms"] for row in rows])
    return f"""## {jax}

{machine(run)}

{len(rows)} rows; in {sum(row["same_program"] for row in rows)} of them jbdot's compiled program is the bare dot's.
Tracing and compiling it, over the same for the bare dot, is {compiling} (geometric mean, 10th..90th percentile).

![Speed-up over a bare dot_general, by family of workloads, dtype and direction]({files["families"]})

### Speed-up, geometric means

With the 10th and 90th percentile, over the rows that both were measured on, of their medians.

{means(rows)}

### Slower than the best XLA spelling: {sum(map(is_slower, rows))} of {len(rows)} rows

Those where jbdot's time is over {NEVER_SLOWER} of that of the fastest of {", ".join(map(OTHERS.get, SPELLINGS))},
and over the 90th percentile of what two compiled copies of the bare dot differ by.

{slower(rows)}

### Losses to PyTorch

{losses(rows, "torch")}

### Losses to TensorFlow

{losses(rows, "tensorflow")}

### Every workload

![Speed-up over a bare dot_general, workload by workload]({files["workloads"]})

![Rate of every row against its FLOP per byte, under the measured limits]({files["roofline"]})

The limit is the larger of two times: FLOP at the dtype's peak rate, bytes in and out at the best rate of reading
memory, or cache where operands and results fit in it. Temporary memory is jbdot's / the bare dot's. What follows
"over" is a speed-up.

<details><summary>All rows</summary>

{every(rows)}

</details>

### Not measured

{unmeasured(run)}
"""


def write(folder: Path) -> list[Path]:
    """Writes report.md and its pictures, of every results file in the folder that has rows."""
    runs = [run for path in sorted(folder.glob("suite-jax-*.jsonl")) if (run := load(path)) and run.measured]
    if not runs:
        return []
    path = folder / "report.md"
    path.write_text("\n".join([INTRODUCTION, *(section(run, folder) for run in runs)]))
    return [path, *sorted(folder.glob("*-jax-*.png"))]


def main() -> None:
    """Makes the report again."""
    parser = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the results are")
    for path in write(parser.parse_args().results):
        print(path)


if __name__ == "__main__":
    main()
