"""How good the choice of a lowering is on contractions that nobody picked (`python -m benchmarks.regret --seed 1`).

`--seed S --count N` draws contractions (`drawn.py`); `--dots FILE` takes those of a JSON list, as `record` gives it:
one object each with `lhs`, `rhs` (shapes), `dtype`, `rdtype` (of the operands), `dn` (dimension numbers as in
`lax.dot_general`) and `out` (the result's dtype). Every lowering that fits is timed in rounds side by side, on random
operands (standard normal; integers from -9 to 9), compiled, twice: the best is picked in the first run and timed in the
second, as the least of several noisy medians would flatter it. Beside them stands `jnp.einsum`. Regret is the time of
what "auto" takes over that of the best.

Rows go to results/regret-NAME-jax-VERSION.jsonl as they are there, and the same command goes on where it was stopped;
then it writes the report and a picture. Rows where "auto" looks slower than "direct", or than `jnp.einsum`, are timed
once more in a second process: such a loss is sure where both say so. `--table` writes
results/lowerings-MACHINE-jax-VERSION.jsonl.gz of the rows, which `python -m benchmarks.fit` fits.
"""

import argparse
import functools
import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import jax
import rich.console
import rich.progress
from jax import numpy as jnp

from benchmarks import regret_report
from benchmarks.drawn import drawn
from benchmarks.fit import spec_of
from benchmarks.report import whole_lines
from benchmarks.timing import jbdot_source, machine
from jbdot.one_device.choice import chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.measure import Candidates, platform
from jbdot.timing import Spread, processor, ratios, rounds

RESULTS: Final = Path(__file__).parent / "results"
DTYPES: Final = (
    *("float32",) * 4,
    *("bfloat16",) * 2,
    *("float16", "float64", "int8", "uint8", "complex64", "float8_e4m3fn"),
)
SECONDS: Final = 0.2  # of timing a run of a case
SURE: Final = 0.95  # a paired ratio whose 90th percentile is under it is a loss
EINSUM: Final = "jnp.einsum"
Row = dict[str, Any]


def random_dots(seed: int, count: int, dtypes: tuple[str, ...]) -> Iterator[DotSpec]:
    """Draws dots."""
    rng = random.Random(seed)
    return (drawn(rng, rng.choice(dtypes)) for _ in range(count))


def stored_dots(path: Path, count: int | None) -> Iterator[DotSpec]:
    """Reads dots that were recorded: so many of them, drawn once."""
    found = json.loads(path.read_text())
    return map(spec_of, random.Random(0).sample(found, min(count or len(found), len(found))))


def row_of(spec: DotSpec) -> Row:
    """A dot as rows have it."""
    dtypes = {"dtype": spec.lhs_dtype, "rdtype": spec.rhs_dtype, "out": spec.dtype}
    return {"lhs": spec.lhs, "rhs": spec.rhs, "dn": spec.dimension_numbers} | dtypes


def record(function: Callable[..., Any], *args: Any) -> list[Row]:
    """Lists the dots of a program, as `--dots` takes them: shapes and dtypes, nothing of the program itself."""
    import jbdot

    specs = (row.dot_spec for row in jbdot.optimize(function).report(*args))
    return [row_of(spec) for spec in dict.fromkeys(specs) if isinstance(spec, DotSpec)]


def measured(spec: DotSpec, seconds: float, only: tuple[str, ...] = ()) -> Row:
    """Times a dot: both runs, and the ratios of "auto" over "direct" and over einsum in each."""
    auto = chosen(spec, platform()).lowering
    candidates = Candidates.of(spec, only)
    calls = dict(candidates.calls)
    einsum = functools.partial(jnp.einsum, spec.contraction.einsum, preferred_element_type=spec.dtype)
    calls[EINSUM] = functools.partial(jax.jit(einsum).lower(*candidates.operands).compile(), *candidates.operands)
    hopeless = candidates.hopeless(keeps=("direct", auto))
    row = row_of(spec) | {"auto": auto, "refused": candidates.refused, "once": hopeless, "runs": []}
    for _ in range(2):
        times = rounds({name: call for name, call in calls.items() if name not in hopeless}, seconds)
        spreads = {name: Spread.of(found) for name, found in times.items()}
        over = ratios(times, auto)
        row["runs"].append(
            {
                "us": {name: [round(us, 2) for us in (one.p10, one.median, one.p90)] for name, one in spreads.items()},
                "of auto": {
                    name: [round(one.p10, 3), round(one.median, 3), round(one.p90, 3)] for name, one in over.items()
                },
            }
        )
    return row


def is_loss(row: Row, name: str) -> bool:
    """Whether "auto" was slower than this in both runs, beyond the spread."""
    return row["auto"] != name and all(
        run["of auto"][name][0] > 1 / SURE for run in row["runs"] if name in run["of auto"]
    )


def again(row: Row, seconds: float) -> Row:
    """Times "auto" and what it lost to once more, in a second process."""
    names = [name for name in ("direct", EINSUM) if is_loss(row, name)]
    code = "import json, sys; from benchmarks import regret; regret.child(*json.loads(sys.argv[1]))"
    asked = json.dumps([row_of(spec_of(row)), seconds])
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return row | {"again": found["runs"], "sure": [name for name in names if is_loss(found, name)]}


def child(asked: Row, seconds: float) -> None:
    """Prints one row: what the second process runs."""
    jax.config.update("jax_enable_x64", True)
    spec = spec_of(asked)
    print(json.dumps(measured(spec, seconds, ("direct", chosen(spec, platform()).lowering))))


def table(path: Path, rows: Iterable[Row]) -> Path:
    """Writes what `benchmarks.fit` reads."""
    lines: list[str] = []
    for row in rows:
        us = {name: [value] * 3 for name, value in row["once"].items()} | row["runs"][1]["us"]
        us.pop(EINSUM, None)
        lines.append(
            json.dumps({name: row[name] for name in ("lhs", "rhs", "dtype", "out", "dn", "auto")} | {"us": us})
        )
    with gzip.open(path, "at") as file:
        file.write("".join(line + "\n" for line in lines))
    return path


def main() -> None:
    """Times what is not there yet, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="of contractions; default: 1000, or all of --dots")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, help="drawn from; one may be named several times")
    parser.add_argument("--dots", type=Path, help="a JSON list of dots instead of random ones")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing each run of a case")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="time all anew")
    parser.add_argument("--table", action="store_true", help="add the rows to the table that is fitted")
    options = parser.parse_args()
    os.environ["JBDOT_TUNED"] = "off"
    jax.config.update("jax_enable_x64", True)
    if options.dots:
        name, dots = options.dots.stem, list(stored_dots(options.dots, options.count))
    else:
        name, dots = (
            f"seed-{options.seed}",
            list(random_dots(options.seed, options.count or 1000, tuple(options.dtypes))),
        )
    path = options.results / f"regret-{name}-jax-{jax.__version__}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh or not path.exists():
        path.write_text(json.dumps(machine() | {"jbdot_source": jbdot_source(), "seconds": options.seconds}) + "\n")
    done = len(whole_lines(path)) - 1
    with path.open("a") as file:
        tracked = rich.progress.track(
            dots[done:], f"{len(dots) - done} dots", console=rich.console.Console(stderr=True)
        )
        for spec in tracked:
            row = measured(spec, options.seconds)
            if any(is_loss(row, other) for other in ("direct", EINSUM)):
                row = again(row, options.seconds)
            file.write(json.dumps(row) + "\n")
            file.flush()
    rows = [json.loads(line) for line in whole_lines(path)][1:]
    if options.table:
        kind = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
        print(table(options.results / f"lowerings-{kind}-jax-{jax.__version__}.jsonl.gz", rows[done:]))
    for written in regret_report.write(path):
        print(written)


if __name__ == "__main__":
    main()
