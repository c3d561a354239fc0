"""The table and the picture of `benchmarks.regret`, from what is stored (`python -m benchmarks.regret_report`)."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from benchmarks.fit import spec_of
from benchmarks.report import table, whole_lines

RESULTS: Final = Path(__file__).parent / "results"
FAR: Final = 1.3
ABOVE: Final = 1.02  # times the estimate of "direct": above it
WORST: Final = 25  # cases that are listed
Row = dict[str, Any]


def best(row: Row) -> str:
    """The lowering that was fastest in the first run."""
    first = {name: us[1] for name, us in row["runs"][0]["us"].items() if "." not in name}
    return min(first, key=first.__getitem__)


def us(row: Row, name: str) -> float:
    """Microseconds of a lowering in the second run."""
    return row["runs"][1]["us"][name][1]


def regret(row: Row) -> float:
    """The time of what "auto" took over that of the best."""
    return us(row, row["auto"]) / us(row, best(row))


def gain(row: Row) -> float:
    """How many times faster than "direct" it was."""
    return us(row, "direct") / us(row, row["auto"])


def line(name: str, rows: list[Row]) -> list[str]:
    """A line of the table: means over rows."""
    regrets, gains = [regret(row) for row in rows], [gain(row) for row in rows]
    einsum = [us(row, "jnp.einsum") / us(row, row["auto"]) for row in rows]
    far = sum(one > FAR for one in regrets)
    means = (f"{statistics.geometric_mean(found):.3f}" for found in (regrets, gains, einsum))
    sure = [sum(other in row.get("sure", ()) for row in rows) for other in ("direct", "jnp.einsum")]
    return [name, str(len(rows)), *means, f"{far} ({far / len(rows):.1%})", *map(str, sure)]


HEADS: Final = (
    "of",
    "dots",
    "regret",
    "times direct",
    "times jnp.einsum",
    f"over {FAR} from the best",
    "surely slower than direct",
    "surely slower than jnp.einsum",
)


def tpu_line(name: str, rows: list[Row]) -> list[str]:
    """A line of the table of a TPU that is not here: also the regret by the compiler's figures as they are."""
    regrets, gains = [regret(row) for row in rows], [gain(row) for row in rows]
    bare = [row["compiler"][row["auto"]] / min(row["compiler"].values()) for row in rows]
    far, above = sum(one > FAR for one in regrets), sum(one < 1 / ABOVE for one in gains)
    always = [one * other for one, other in zip(regrets, gains, strict=True)]
    means = (f"{statistics.geometric_mean(found):.3f}" for found in (regrets, always, gains, bare))
    return [name, str(len(rows)), *means, f"{far} ({far / len(rows):.1%})", str(above)]


def tpu_text(rows: list[Row], machine: Row, picture: str) -> str:
    """The report of a TPU that is not here."""
    dtypes = sorted({row["dtype"] for row in rows})
    groups = {"all": rows} | {dtype: [row for row in rows if row["dtype"] == dtype] for dtype in dtypes}
    cases = [
        [
            f"`{spec_of(row)}`",
            row["auto"],
            best(row),
            *(f"{us(row, one):,.4g}" for one in (row["auto"], best(row), "direct")),
        ]
        for row in sorted(rows, key=regret, reverse=True)[:WORST]
    ]
    return f"""# Regret of the choice for {machine["topology"]}, by the TPU compiler's estimates

Written by `python -m benchmarks.regret --topology {machine["topology"]}`. Compiled for one such device, with no TPU
here: all times are {machine["figures"]}. jax {machine["jax"]}, libtpu {machine["libtpu"]}. None is believed
under the time of reading the operands and writing the result once, nor a new layout under what it moves; "as the
compiler says" leaves the latter out. Geometric means.

{table(TPU_HEADS, [tpu_line(name, group) for name, group in groups.items()])}

![How often the choice is how far from the best]({picture})

## The farthest from the best

{table(("dot", "auto", "best", "us, auto", "us, best", "us, direct"), cases)}
"""


TPU_HEADS: Final = (
    "of",
    "dots",
    "regret",
    "regret of direct always",
    "times direct",
    "regret as the compiler says",
    f"over {FAR} from the best",
    "above direct by over 2 %",
)


def text(rows: list[Row], machine: Row, picture: str) -> str:
    """The report."""
    dtypes = sorted({row["dtype"] for row in rows})
    lines = [line("all", rows), *(line(dtype, [row for row in rows if row["dtype"] == dtype]) for dtype in dtypes)]
    worst = sorted(rows, key=regret, reverse=True)[:WORST]
    cases = [
        [
            f"`{spec_of(row)}`",
            row["auto"],
            best(row),
            *(f"{us(row, one):,.4g}" for one in (row["auto"], best(row), "direct")),
            f"{regret(row):.2f}",
        ]
        for row in worst
    ]
    lost = [
        [
            f"`{spec_of(row)}`",
            row["auto"],
            ", ".join(row["sure"]),
            *(f"{us(row, one):,.4g}" for one in (row["auto"], "direct", "jnp.einsum")),
        ]
        for row in rows
        if row.get("sure")
    ]
    facts = ", ".join(
        f"{name} {machine[name]}" for name in ("processor", "jax", "python", "jbdot_source") if name in machine
    )
    return f"""# Regret of the choice on dots that nobody picked

Written by `python -m benchmarks.regret`. {facts}. Geometric means; the best lowering is picked in one run and timed in
another. "Surely": the 90th percentile of the paired ratio is under 0.95 in both runs, and again in a second process.

{table(HEADS, lines)}

![How often the choice is how far from the best]({picture})

## The worst

{table(("dot", "auto", "best", "us, auto", "us, best", "us, direct", "regret"), cases)}

## Surely slower

{table(("dot", "auto", "slower than", "us, auto", "us, direct", "us, einsum"), lost) if lost else "None."}
"""


def figure(rows: list[Row], title: str) -> Figure:
    """The share of dots within each distance of the best: what "auto" takes, and "direct" always."""
    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    for label, found in (
        ("auto", [regret(row) for row in rows]),
        ("direct always", [regret(row) * gain(row) for row in rows]),
    ):
        share = [100 * (number + 1) / len(found) for number in range(len(found))]
        axes.plot(sorted(found), share, label=label)
    axes.set(
        xscale="log", xlim=(0.9, 10), xlabel="time over that of the best lowering", ylabel="% of dots", title=title
    )
    axes.set_xticks([1, 1.3, 2, 3, 5, 10], labels=["1", "1.3", "2", "3", "5", "10"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return drawing


def write(path: Path) -> list[Path]:
    """Writes the report of a results file and its picture beside it."""
    machine, *rows = (json.loads(one) for one in whole_lines(path))
    report, picture = path.with_suffix(".md"), path.with_suffix(".png")
    is_tpu = "topology" in machine
    on = f"compiled for {machine['topology']}, estimated" if is_tpu else machine["processor"]
    figure(rows, f"{len(rows)} dots, {on}, jax {machine['jax']}").savefig(picture, dpi=110)
    report.write_text((tpu_text if is_tpu else text)(rows, machine, picture.name))
    return [report, picture]


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(RESULTS.glob("regret-*.jsonl")):
        write(Path(name))
