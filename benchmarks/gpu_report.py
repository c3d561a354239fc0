"""Tables and pictures of `benchmarks.gpu`, from what is stored (`python -m benchmarks.gpu_report`)."""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks import gpu_experts
from benchmarks.report import OTHERS, STYLES, cell, figure_text, mean, table, whole_lines
from benchmarks.timing import spread
from jbdot.hardware import known

Row = dict[str, Any]

WAYS: Final = ("bare", "einsum", "matmul")
BAD: Final = {"float32": 3e-3, "bfloat16": 2e-2, "float16": 3e-3, "int8": 0.0}  # rms error over rms of a wrong result
MISSED: Final = 1.3  # a regret beyond which a case is listed
QUICK: Final = "named workloads, compiled without Triton's kernels (xla_gpu_enable_triton_gemm=false)"
INTRODUCTION: Final = """# {device}

Written by `python -m benchmarks.gpu`; jax {jax}. {inputs}. Times are medians with the 10th and 90th percentile.
"A call" is of calls that are sent one after the other, the last awaited. "On the device" is by the profiler, from the
first kernel of a call to the end of its last, each call awaited. Operands lie at several places and are taken in turn,
so that those of large cases are not in the device's cache. Compiling is not in the times.
"""


def load(path: Path) -> tuple[Row, dict[str, dict[str, Row]]]:
    """Reads a file: what all rows have in common, and the rows by part and key, the last of each."""
    facts, *rows = (json.loads(line) for line in whole_lines(path))
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["part"], {})[row["key"]] = row
    return facts, found


# What is read off a row.


def way(row: Row, name: str) -> Row:
    """What was measured of a way, or of the one whose program is the same."""
    return row["ways"].get(row["same"].get(name, name), {})


def halves(found: Row) -> tuple[float, float] | None:
    """Median microseconds of the first half of the runs, and of the second; on the device where that is known."""
    times = found.get("device_us") or found.get("us")
    if not times:
        return None
    half = len(times) // 2
    return (statistics.median(times[:half] or times), statistics.median(times[half:]))


def regret(row: Row) -> tuple[float, str, float] | None:
    """The time of what "auto" takes over the best's, the best, and the time of the bare dot over that of "auto".

    The best is chosen by the first half of the runs, and timed by the second: else noise would flatter it.
    """
    found = {name: both for name in row["same"] if (both := halves(way(row, name)))}
    right = {name: both for name, both in found.items() if not is_wrong(row, name)}
    if row["auto"] not in found or "direct" not in found or not right:
        return None
    best = min(right, key=lambda name: right[name][0])
    auto = found[row["auto"]][1]
    return auto / right[best][1], best, found["direct"][1] / auto


def is_wrong(row: Row, name: str) -> bool:
    """Whether a result is another than it has to be, by more than rounding."""
    return way(row, name).get("far", 0.0) > BAD[row["dtype"]]


def ratio(row: Row, name: str, over: str) -> float | None:
    """The time of a way over another's, of all runs; on the device where that is known of both."""
    one, other = way(row, name), way(row, over)
    kind = "device_us" if one.get("device_us") and other.get("device_us") else "us"
    if not one.get(kind) or not other.get(kind):
        return None
    return statistics.median(one[kind]) / statistics.median(other[kind])


def time_text(found: Row) -> tuple[str, str]:
    """A call, and on the device."""
    return tuple(cell(spread(found[kind])) if found.get(kind) else "-" for kind in ("us", "device_us"))


def failures(rows: list[Row], named: str) -> list[list[str]]:
    """What could not be compiled or run, and why."""
    found = ((row, name, way(row, name).get("failed")) for row in rows for name in row["same"])
    return [[row[named], name, shortened(why)] for row, name, why in found if why]


def shortened(text: str, most: int = 200) -> str:
    """A cell's text."""
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= most else f"{text[:most]}..."


# Parts.


def arithmetic(rows: list[Row]) -> str:
    """What was found of each dot, what is said wrongly first."""
    words = {True: "yes", False: "**NO**", None: "left open"}
    lines: list[list[str]] = []
    for row in sorted(rows, key=lambda row: {False: 0, None: 1, True: 2}[row.get("is_true")]):
        if "refused" in row:
            got = f"refused: {row['refused']}"
        elif "wrong" in row:
            got = f"{row['wrong']:,} of {row['of']:,} wrong" if row["wrong"] else "exact"
        else:
            got = f"nearest: {row['nearest']}; error {row['error']:.2g}"
        lines.append([row["key"], words[row.get("is_true")], shortened(got), shortened(row["said"], 300)])
    counts = Counter(words[row.get("is_true")] for row in rows)
    said = ", ".join(f"{word}: {count}" for word, count in counts.items())
    return f"""## Arithmetic, and whether `explain` says what it is

{said}. The error is the rms difference from exact products and sums that are rounded once, over the rms result; the
nearest model of arithmetic is the one that the result differs least from.

{table(("dot", "true", "found", "explain says"), lines)}
"""


def plans(rows: list[Row]) -> str:
    """Plans over one device."""
    lines = [
        [row["key"], row["way"], str(row["sent"]), f"{row['far']:.2g}"]
        + [cell(spread(row["us"][name])) for name in ("plan", "plain")]
        for row in rows
    ]
    heads = ("plan", "way", "bytes sent", "differs by", "plan, us", "the dot alone, us")
    return f"## Plans over a mesh of this one device\n\n{table(heads, lines)}\n"


def limits(rows: list[Row], device: str) -> str:
    """What large operations reach, beside what is published."""
    lines: list[list[str]] = []
    for row in rows:
        us = statistics.median(row.get("device_us") or row["us"])
        rate = row["work"] / us / 1e6
        said = f"{rate:,.1f} T{row['unit']}" if row["unit"] != "calls/s" else "-"
        lines.append([row["key"], *time_text(row), said, published(row["key"], device)])
    heads = ("operation", "a call, us", "on the device, us", "rate", "published")
    return f"## What this device can do\n\n{table(heads, lines)}\n"


def published(key: str, device: str) -> str:
    """The figure that `jbdot.hardware` has for it."""
    try:
        hardware = known(device)
    except ValueError:
        return "-"
    kind, _, name = key.partition(" ")
    if kind == "gemm":
        return f"{hardware.rate(name) / 1e12:,.1f}"
    return f"{hardware.memory_bytes_per_s / 1e12:,.2f}" if kind == "memory" else "-"


def choice(rows: list[Row], picture: str) -> str:
    """Regret of "auto" on random contractions."""
    found = [(row, got) for row in rows if (got := regret(row))]
    by_dtype = [
        [dtype, *(mean([got[i] for row, got in found if dtype in (row["dtype"], "all")]) for i in (0, 2))]
        for dtype in (*dict.fromkeys(row["dtype"] for row in rows), "all")
    ]
    wins = Counter(got[1] for _, got in found)
    missed = sorted(((row, got) for row, got in found if got[0] > MISSED), key=lambda pair: -pair[1][0])
    lines = [
        [
            row["dot"],
            row["auto"],
            *time_text(way(row, row["auto"])),
            got[1],
            *time_text(way(row, got[1])),
            f"{got[0]:.2f}",
        ]
        for row, got in missed
    ]
    heads = ("dot", "auto", "a call, us", "on the device, us", "best", "a call, us", "on the device, us", "regret")
    wrong = [
        [row["dot"], name, f"{way(row, name)['far']:.3g}", "known" if name in row["untrusted"] else "**new**"]
        for row in rows
        for name in row["same"]
        if is_wrong(row, name)
    ]
    failed = failures(rows, "dot")
    return f"""## The choice, on {len(rows)} random contractions

Regret is the time of what "auto" takes over that of the best lowering with a right result. The best is chosen by the
first half of the runs, and timed by the second. Over {MISSED}: {len(missed)} of {len(found)}. The best was
{", ".join(f"{name} {count} times" for name, count in wins.most_common()) or "never found"}.

{table(("dtype", "regret", "times as fast as direct"), by_dtype)}

![Time of each lowering over that of direct, case by case]({picture})

### Regret over {MISSED}

{table(heads, lines)}

### Results that are wrong

Against the bare dot; the bare dot of int8 itself against NumPy. Over {", ".join(f"{k} {v:g}" for k, v in BAD.items())}.

{table(("dot", "lowering", "differs by", "is it known"), wrong)}

### Failed

{table(("dot", "lowering", "why"), failed)}
"""


def int8(rows: list[Row]) -> str:
    """Which dots of int8 are wrong: those that are, then how many are right."""
    wrong = [
        [row["key"], f"{row['wrong']:,} of {row['of']:,}", ", ".join(row["is"]) or "none known", str(row["got"])]
        for row in rows
        if row.get("wrong")
    ]
    refused = [[row["key"], shortened(row["refused"])] for row in rows if "refused" in row]
    right = sum(row.get("wrong") == 0 for row in rows)
    return f"""## Dots of int8 to int32

Each in full range, and compared element by element. Right: {right} of {len(rows)}.

{table(("dot", "wrong elements", "what they are", "the first"), wrong)}

Refused:

{table(("dot", "why"), refused)}
"""


def experts(rows: list[Row]) -> str:
    """Ragged dots: lax's, jbdot's loop, and a dense dot."""
    lines: list[list[str]] = []
    for row in rows:
        times = [time_text(way(row, name))[0] for name in gpu_experts.WAYS]
        far = way(row, "grouped").get("far")
        lines.append([row["key"], *times, "-" if far is None else figure_text(far, 2)])
    failed = failures(rows, "key")
    heads = ("rows x k x n, groups", "lax.ragged_dot, us", "loop over groups, us", "one dense dot, us", "loop from lax")
    return f"""## Rows in groups

Groups of random sizes that fill the rows; the dense dot has their FLOPs. The last column is the relative distance of
the loop's result from lax's.

{table(heads, lines)}

{table(("case", "way", "why"), failed) if failed else "None failed."}
"""


def workloads(rows: list[Row], picture: str, title: str = "named workloads") -> str:
    """Jbdot beside what one can say without it."""
    lines: list[list[str]] = []
    for direction in ("forward", "gradient"):
        for dtype in dict.fromkeys(row["dtype"] for row in rows):
            mine = [row for row in rows if (row["dtype"], row["direction"]) == (dtype, direction)]
            if mine:
                ratios = [[up for row in mine if (up := ratio(row, name, "jbdot"))] for name in WAYS]
                same = sum(row["same"].get("bare") == row["same"].get("jbdot") for row in mine)
                lines.append([direction, dtype, *map(mean, ratios), f"{same} of {len(mine)}"])
    noise = [up for row in rows if (up := ratio(row, "bare again", "bare"))]
    every = [
        [row["workload"], row["dtype"], row["direction"], *time_text(way(row, "jbdot"))]
        + [figure_text(up, 2) if (up := ratio(row, name, "jbdot")) else "-" for name in WAYS]
        + [f"{row['places']} x {row['places_bytes'] / row['places'] / 2**20:.3g} MiB"]
        for row in rows
    ]
    failed = failures(rows, "key")
    heads = ("direction", "dtype", *(f"{OTHERS[name]} over jbdot" for name in WAYS), "jbdot's program is the bare one")
    all_heads = ("workload", "dtype", "direction", "jbdot, a call, us", "on the device, us", *WAYS, "operands")
    return f"""## {len(rows)} {title}

Geometric means of the others' times over jbdot's, with the 10th and 90th percentile over workloads; two runs of one
program: {mean(noise)}.

{table(heads, lines)}

![Rate against FLOP per byte]({picture})

<details><summary>All rows: the last columns but one are times over jbdot's</summary>

{table(all_heads, every)}

</details>

### Failed

{table(("workload", "way", "why"), failed)}
"""


def tests(rows: list[Row]) -> str:
    """Outcomes of jbdot's own tests."""
    files = [row for row in rows if "PASSED" in row]
    heads = ("PASSED", "FAILED", "ERROR", "SKIPPED")
    lines = [[row["key"], *(str(row[word]) for word in heads), "no" if row["is_partial"] else "yes"] for row in files]
    bad = [f"- `{shortened(name)}`" for row in files for name in row["bad"]]
    said = [shortened(line) for row in rows for line in row.get("lines", [])]
    return "\n".join(
        ["## Jbdot's own tests on this device", "", table(("file", *map(str.lower, heads), "to the end"), lines), ""]
        + (["Not passed:", "", *bad, ""] if bad else [])
        + (
            ["<details><summary>What pytest said</summary>", "", "```", *said, "```", "", "</details>", ""]
            if said
            else []
        )
    )


def left(rows: list[Row]) -> str:
    """What the time was too short for."""
    return table(
        ("part", "not reached", "of"), [[row["key"], str(row["left"]), str(row["of"])] for row in rows if row["left"]]
    )


# Pictures.


def choice_figure(rows: list[Row], title: str) -> Figure:
    """A line for each case: the time of each lowering over that of direct, and the one that "auto" takes."""
    names = list(dict.fromkeys(name for row in rows for name in row["same"] if name != "direct"))
    markers = dict(zip(names, "sD^vPXo*<>hp", strict=False))
    figure = Figure(figsize=(12, 2 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for line, row in enumerate(rows):
        for name in row["same"]:
            over = ratio(row, name, "direct")
            if over and name in markers and not is_wrong(row, name):
                colour = STYLES.get(row["dtype"], ("#555555", ""))[0]
                axes.plot(over, line, markers[name], color=colour, markersize=5, markeredgewidth=0)
        if over := ratio(row, row["auto"], "direct"):
            axes.plot(over, line, "o", markerfacecolor="none", markeredgecolor="black", markersize=9)
    axes.axvline(1, color="#999999", linewidth=0.8)
    axes.set(xscale="log", xlabel="time over that of direct, one lax.dot_general (left is faster; ring: auto)")
    axes.set_yticks(range(len(rows)), [shortened(row["dot"], 90) for row in rows], fontsize=6)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#E4E4E4")
    dtypes = dict.fromkeys(row["dtype"] for row in rows)
    handles = [Line2D([], [], linestyle="", marker=markers[n], color="#555555", label=n) for n in names]
    handles += [Line2D([], [], linewidth=4, color=STYLES[dtype][0], label=dtype) for dtype in dtypes if dtype in STYLES]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False)
    figure.suptitle(title)
    return figure


def roofline_figure(rows: list[Row], found: dict[str, dict[str, Row]], title: str) -> Figure:
    """Rates of the bare dot against FLOP per byte, a panel for each dtype, under the limits measured here."""
    dtypes = [dtype for dtype in STYLES if any(row["dtype"] == dtype for row in rows)]
    figure = Figure(figsize=(4 * max(1, len(dtypes)), 4.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(dtypes)), squeeze=False, sharey=True)
    rates = {
        key: row["work"] / statistics.median(row.get("device_us") or row["us"]) / 1e3
        for key, row in found.get("limits", {}).items()
        if "work" in row
    }
    for axes, dtype in zip(panels.flat, dtypes, strict=False):
        points = [(row, way(row, "bare" if "workload" in row else "direct")) for row in rows if row["dtype"] == dtype]
        for row, measured in points:
            times = measured.get("device_us") or measured.get("us")
            if times:
                marker = "o" if "workload" in row else "x"
                rate = row["flops"] / statistics.median(times) / 1e3
                axes.plot(row["flops"] / row["bytes"], rate, marker, color=STYLES[dtype][0], markersize=4)
        peak, memory = rates.get(f"gemm {dtype}"), rates.get("memory read")
        if peak and memory:
            x = [0.1, peak / memory, 1e4]
            axes.plot(x, [min(peak, memory * each) for each in x], color="black", linewidth=1)
        axes.set(xscale="log", yscale="log", title=dtype, xlabel="FLOP per byte", ylabel="GFLOP/s")
        axes.grid(color="#EEEEEE")
    figure.suptitle(f"{title}: the bare dot of workloads (dots) and random contractions (crosses)")
    return figure


def write(path: Path) -> list[Path]:
    """Writes the report of a results file and its pictures beside it."""
    facts, found = load(path)
    parts = {name: [row for row in rows.values() if "failed" not in row] for name, rows in found.items()}
    title = f"{facts['device']}, jax {facts['machine']['jax']}"
    cases = parts.get("choice", []), parts.get("workloads", [])
    pictures = {"choice": choice_figure(cases[0], title)} if cases[0] else {}
    if cases[0] or cases[1]:
        pictures["roofline"] = roofline_figure([*cases[1], *cases[0]], found, title)
    if parts.get("quick"):
        pictures["quick"] = roofline_figure(parts["quick"], found, f"{title}, {QUICK}")
    files = {name: path.with_name(f"{path.stem}-{name}.png") for name in pictures}
    for name, picture in pictures.items():
        picture.savefig(files[name], dpi=110)
    text = [
        INTRODUCTION.format(device=facts["device"], jax=facts["machine"]["jax"], inputs=facts["inputs"].capitalize())
    ]
    more = {"runtime": facts["runtime"], "XLA_FLAGS": facts["XLA_FLAGS"], **facts["machine"]}
    text.append(table(("fact", "value"), [[name, str(value) or "-"] for name, value in more.items()]) + "\n")
    sections: dict[str, Any] = {
        "arithmetic": arithmetic,
        "plan": plans,
        "limits": lambda rows: limits(rows, facts["device"]),
        "int8": int8,
        "choice": lambda rows: choice(rows, files["choice"].name),
        "experts": experts,
        "workloads": lambda rows: workloads(rows, files["roofline"].name),
        "quick": lambda rows: workloads(rows, files["quick"].name, QUICK),
        "tests": tests,
    }
    text += [section(parts[name]) for name, section in sections.items() if parts.get(name)]
    failed = [row for rows in found.values() for row in rows.values() if "failed" in row]
    text.append(f"## Not reached, or failed as a whole\n\n{left(parts.get('left', []))}\n")
    text += [f"- {row['part']}: {row['failed']}" for row in failed]
    report = path.with_suffix(".md")
    report.write_text("\n".join(text))
    return [report, *files.values()]


def reports(folder: Path) -> Iterable[Path]:
    """The results files of a folder."""
    return sorted(folder.glob("gpu-*.jsonl"))


def main() -> None:
    """Makes the reports again."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the results are")
    for path in reports(parser.parse_args().results):
        print(*write(path), sep="\n")


if __name__ == "__main__":
    main()
