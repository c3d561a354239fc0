"""What `jbdot.optimize` of whole steps saves, in layouts that people give them (`python -m benchmarks.optimized`).

Each program of `benchmarks.sharded`, in each of its layouts, on 16 virtual CPU devices (float32) and for v5e:4x4
(bfloat16, where `jax[tpu]` is), compiled as plain jit has it and as `optimize(step).plan` has it: arguments and results
stay where the layout has them. Bytes, FLOPs and temporaries are those of the compiled text, of one device; times are
the TPU compiler's estimate of all but collectives, and an estimate of what those take. Nothing was run.
Rows are appended as they are made; the same command goes on where it was stopped.
"""

import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax

import jbdot
from benchmarks import sharded
from benchmarks.communication import ON, Row, run, written
from jbdot.core.text import bytes_text
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.step_plan import TRIES


def row(program: str, layout: str, on: str, tries: int = TRIES) -> Row:
    """Plans one program."""
    make, layouts = sharded.PROGRAMS[program]
    mesh = sharded.devices() if on == "cpu" else sharded.abstract()
    step, args = make(sharded.Layout(mesh, ON[on], layouts[layout]))
    step = step if hasattr(step, "lower") else jax.jit(step)
    plan = jbdot.optimize(step, tries=tries).plan(*args, topology=None if on == "cpu" else on)
    return {
        "program": program,
        "layout": layout,
        "on": on,
        "before": figures(plan.before),
        "after": figures(plan.after),
        "trials": [[trial.against, trial.report and figures(trial.report)] for trial in plan.trials],
        "seconds": round(plan.seconds, 1),
    }


def figures(report: CommunicationReport) -> Row:
    """Takes what is kept of a report."""
    return {
        "sent": report.sent,
        "flops": report.flops,
        "temporaries": report.temp_bytes,
        "compute_us": report.estimated_us,
        "sending_us": report.sending_us,
    }


def report(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Writes what was found."""
    title = "What optimize saves in whole steps whose shardings are given"
    return "\n".join(written(title, __doc__ or "", rows, facts, lambda here: [summary(here), "", *_table(here)]))


def summary(rows: Sequence[Row]) -> str:
    """Says how much is saved in the mean, and in how many programs."""
    planned = [one for one in rows if one["after"] != one["before"]]
    sent = [one for one in rows if one["before"]["sent"]]
    fewer = _mean(one["before"]["sent"] / one["after"]["sent"] for one in sent)
    taken = _mean(one["before"]["sent"] / one["after"]["sent"] for one in planned)
    times = _mean(_time(one["before"]) / _time(one["after"]) for one in rows if _time(one["after"]))
    worse = sum(one["after"]["sent"] > one["before"]["sent"] for one in rows)
    is_timed = all(one["before"]["compute_us"] for one in rows)
    said = f", and takes {times:.2f} times the estimated time" if is_timed else ""
    return (
        f"{len(planned)} of {len(rows)} steps are planned otherwise, {len(rows) - len(planned)} left alone. In the "
        f"geometric mean plain jit sends {fewer:.2f} times the bytes, of those that are planned {taken:.2f} times"
        f"{said}. More bytes are sent in {worse}."
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.geometric_mean(found) if found else 1.0


def _time(one: Row) -> float:
    return (one["compute_us"] or 0.0) + one["sending_us"]


def _table(rows: Iterable[Row]) -> list[str]:
    head = ["program", "layout", "sent: plain", "planned", "temporaries: plain", "planned", "us: plain", "planned", ""]
    found = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in rows:
        before, after = one["before"], one["after"]
        cells = [one["program"], one["layout"]]
        for name in ("sent", "temporaries"):
            cells += [bytes_text(each[name] or 0) for each in (before, after)]
        cells += [f"{_time(each):,.0f}" if each["compute_us"] else "-" for each in (before, after)]
        found.append(f"| {' | '.join([*cells, _found(one)])} |")
    return found


def _found(one: Row) -> str:
    if one["after"] != one["before"]:
        return "planned"
    against = dict.fromkeys(why for why, _ in one["trials"])
    return "left alone: " + ("; ".join(against) or "no layout is estimated to be better")


def main(arguments: Sequence[str] | None = None) -> int:
    """Plans what is not there yet, and writes the report."""
    return run("optimized", __doc__ or "", row, report, arguments)


if __name__ == "__main__":
    sys.exit(main())
