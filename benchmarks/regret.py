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

`--lowering measured` judges what `lowering="measured"` finds in the place of "auto", timing the dot anew.

`--topology v5e:2x2` asks the TPU compiler instead, with no TPU here: every lowering is compiled for one such device,
and its own estimate stands for both runs. It counts no asynchronous copies, so that none is believed under the time of
reading the operands and writing the result once (`jbdot.hardware`). Nothing of it ever ran. Sums of products that would
take a vector unit far longer than the dot is estimated to take are not compiled: the bound stands under "once".
"""

import argparse
import functools
import gzip
import importlib.metadata
import json
import math
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
from jax import lax
from jax import numpy as jnp

from benchmarks import regret_report
from benchmarks.drawn import drawn
from benchmarks.fit import spec_of
from benchmarks.report import whole_lines
from benchmarks.timing import jbdot_source, machine
from jbdot import hardware, hlo
from jbdot.compilers.compiled import ESTIMATED, compile_for
from jbdot.one_device import mark, tpu_costs
from jbdot.one_device.choice import AUTO, MEASURED, candidates, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.measure import Candidates, platform, winner
from jbdot.timing import Spread, processor, ratios, rounds

RESULTS: Final = Path(__file__).parent / "results"
DTYPES: Final = (
    *("float32",) * 4,
    *("bfloat16",) * 2,
    *("float16", "float64", "int8", "uint8", "complex64", "float8_e4m3fn"),
)
TPU_DTYPES: Final = (*("float32",) * 2, *("bfloat16",) * 3, *("int8",) * 2)
TPU_LOWERINGS: Final = ("direct", "pinned", "padded", "reduced", "unrolled", "split", "lanes")  # no other was ever best
SUMS_OF_PRODUCTS: Final = ("reduced", "unrolled", "lanes")
PRODUCTS_A_CYCLE: Final = 4096  # of a TPU's vector unit at most: 8 x 128 lanes, four instructions
HOPELESS: Final = 1.5  # times "direct" at least: not compiled
COMPILE_S: Final = 60.0  # the longest that a lowering may take to compile: else it is refused
WIDE_SUMS: Final = 0.25  # of bfloat16 dots, for which TPUs are asked for a float32 result
SECONDS: Final = 0.2  # of timing a run of a case
SURE: Final = 0.95  # a paired ratio whose 90th percentile is under it is a loss
EINSUM: Final = "jnp.einsum"
Row = dict[str, Any]


def random_dots(seed: int, count: int, dtypes: tuple[str, ...]) -> Iterator[DotSpec]:
    """Draws dots."""
    rng = random.Random(seed)
    return (drawn(rng, rng.choice(dtypes)) for _ in range(count))


def random_tpu_dots(seed: int, count: int) -> Iterator[DotSpec]:
    """Draws dots of the dtypes that TPUs have units for; some of bfloat16 are summed to float32, as models ask."""
    rng = random.Random(seed)
    for spec in random_dots(seed, count, TPU_DTYPES):
        is_wide = spec.lhs_dtype == "bfloat16" and rng.random() < WIDE_SUMS
        yield spec.cast("bfloat16", "float32") if is_wide else spec


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


def taken(spec: DotSpec, lowering: str) -> str:
    """The lowering that "auto" takes for a dot here, or that "measured" finds."""
    if lowering == AUTO:
        return chosen(spec, platform()).lowering
    won = winner(spec, candidates(spec))
    return "direct" if won is None else won.lowering


def measured(spec: DotSpec, seconds: float, auto: str, only: tuple[str, ...] = ()) -> Row:
    """Times a dot: both runs, and the ratios of what is taken ("auto") over "direct" and over einsum in each."""
    made = Candidates.of(spec, only)
    calls = dict(made.calls)
    einsum = functools.partial(jnp.einsum, spec.contraction.einsum, preferred_element_type=spec.dtype)
    calls[EINSUM] = functools.partial(jax.jit(einsum).lower(*made.operands).compile(), *made.operands)
    hopeless = made.hopeless(keeps=("direct", auto))
    row = row_of(spec) | {"auto": auto, "refused": made.refused, "once": hopeless, "runs": []}
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


def estimated(spec: DotSpec, topology: str, names: Iterable[str] = TPU_LOWERINGS) -> Row:
    """Has a dot compiled by every lowering for one device that is not here: a row as of `measured`, of estimates."""
    found, bare, refused, once = {}, {}, {}, {}
    least, clock_ghz = least_us(spec, topology), hardware.of_topology(topology).clock_ghz
    with tpu_costs.lowered_for(topology.partition(":")[0]):
        auto = chosen(spec, "tpu").lowering
    summed = spec.batch * spec.m * spec.n * spec.k / PRODUCTS_A_CYCLE / clock_ghz / 1e3
    for name in dict.fromkeys([*names, auto]):
        if name not in candidates(spec):
            continue
        if name != auto and name in SUMS_OF_PRODUCTS and summed > HOPELESS * found.get("direct", math.inf):
            once[name] = round(summed, 3)
            continue
        try:
            made = compile_for(topology, functools.partial(_dot, spec, name), *_operands(spec), timeout_s=COMPILE_S)
            cycles = hlo.estimated_cycles(made.text)
        except (RuntimeError, hlo.Unreadable) as error:
            refused[name] = str(error)
            continue
        found[name] = round(max(made.estimated_us or 0.0, least), 3)
        bare[name] = round(max(cycles / clock_ghz / 1e3, least), 3)
    run = {
        "us": {name: [us] * 3 for name, us in found.items()},
        "of auto": {name: [round(us / found[auto], 3)] * 3 for name, us in found.items() if auto in found},
    }
    return row_of(spec) | {"auto": auto, "refused": refused, "once": once, "runs": [run, run], "compiler": bare}


def compiler(topology: str) -> Row:
    """What estimates hold for."""
    return {"topology": topology, "libtpu": importlib.metadata.version("libtpu"), "figures": ESTIMATED}


def least_us(spec: DotSpec, topology: str) -> float:
    """Gives the time of reading the operands and writing the result once, in microseconds."""
    arrays = (spec.lhs, spec.lhs_dtype), (spec.rhs, spec.rhs_dtype), (spec.out, spec.dtype)
    moved = sum(math.prod(shape) * jnp.dtype(dtype).itemsize for shape, dtype in arrays)
    return 1e6 * moved / hardware.of_topology(topology).memory_bytes_per_s


def _operands(spec: DotSpec) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return jax.ShapeDtypeStruct(spec.lhs, spec.lhs_dtype), jax.ShapeDtypeStruct(spec.rhs, spec.rhs_dtype)


def _dot(spec: DotSpec, lowering: str, lhs: Any, rhs: Any) -> Any:
    with mark.marked(lowering):
        return lax.dot_general(
            lhs, rhs, spec.dimension_numbers, spec.precision, preferred_element_type=jnp.dtype(spec.dtype)
        )


def is_loss(row: Row, name: str) -> bool:
    """Whether "auto" was slower than this in both runs, beyond the spread."""
    return row["auto"] != name and all(
        run["of auto"][name][0] > 1 / SURE for run in row["runs"] if name in run["of auto"]
    )


def again(row: Row, seconds: float) -> Row:
    """Times "auto" and what it lost to once more, in a second process."""
    names = [name for name in ("direct", EINSUM) if is_loss(row, name)]
    code = "import json, sys; from benchmarks import regret; regret.child(*json.loads(sys.argv[1]))"
    asked = json.dumps([row_of(spec_of(row)), seconds, row["auto"]])
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return row | {"again": found["runs"], "sure": [name for name in names if is_loss(found, name)]}


def child(asked: Row, seconds: float, auto: str) -> None:
    """Prints one row: what the second process runs."""
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(measured(spec_of(asked), seconds, auto, ("direct", auto))))


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
    parser.add_argument("--topology", help="of TPUs that are not here, such as v5e:2x2: by the compiler's estimates")
    parser.add_argument("--lowering", choices=(AUTO, MEASURED), default=AUTO, help="what takes a lowering")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of timing each run of a case")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--fresh", action="store_true", help="time all anew")
    parser.add_argument("--table", action="store_true", help="add the rows to the table that is fitted")
    options = parser.parse_args()
    os.environ["JBDOT_TUNED"] = "off"
    jax.config.update("jax_enable_x64", not options.topology)
    count = options.count or 1000
    if options.dots:
        name, dots = options.dots.stem, list(stored_dots(options.dots, options.count))
    elif options.topology:
        name, dots = f"seed-{options.seed}", list(random_tpu_dots(options.seed, count))
    else:
        name, dots = f"seed-{options.seed}", list(random_dots(options.seed, count, tuple(options.dtypes)))
    kind = f"tpu-{options.topology.partition(':')[0]}" if options.topology else ""
    name = "-".join(filter(None, (kind, "" if options.lowering == AUTO else options.lowering, name)))
    path = options.results / f"regret-{name}-jax-{jax.__version__}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh or not path.exists():
        facts = machine() | {"jbdot_source": jbdot_source(), "seconds": options.seconds}
        path.write_text(json.dumps(facts | (compiler(options.topology) if kind else {})) + "\n")
    done = len(whole_lines(path)) - 1
    with path.open("a") as file:
        tracked = rich.progress.track(
            dots[done:], f"{len(dots) - done} dots", console=rich.console.Console(stderr=True)
        )
        for spec in tracked:
            if kind:
                row = estimated(spec, options.topology)
            else:
                row = measured(spec, options.seconds, taken(spec, options.lowering))
            if not kind and any(is_loss(row, other) for other in ("direct", EINSUM)):
                row = again(row, options.seconds)
            file.write(json.dumps(row) + "\n")
            file.flush()
    rows = [json.loads(line) for line in whole_lines(path)][1:]
    if options.table:
        kind = kind or re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
        print(table(options.results / f"lowerings-{kind}-jax-{jax.__version__}.jsonl.gz", rows[done:]))
    for written in regret_report.write(path):
        print(written)


if __name__ == "__main__":
    main()
