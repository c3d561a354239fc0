"""Fits what lowerings take (`jbdot/one_device/costs.npz`) to tables of timed contractions (`python -m benchmarks.fit`).

Needs CatBoost beside jbdot's extras (`pip install catboost`): nothing that jbdot needs to run. Tables are those of
results/lowerings-MACHINE-jax-VERSION.jsonl.gz, made by `python -m benchmarks.regret --table`: a random contraction a
line, with the microseconds of every lowering. JAX before 0.12 and from then on are two eras. Before it writes, it says
how well such trees choose on what was kept back: a part of the rows in turn, and each whole machine in turn, as it is
and corrected by what `jbdot tune --machine` would have measured there.
"""

import argparse
import dataclasses
import gzip
import importlib
import json
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import rich.console
import rich.table

from jbdot.one_device import choice, tpu_costs
from jbdot.one_device.calibration import corrections
from jbdot.one_device.costs import CAUTION, FAR_CAUTION, FILE, TIME, Estimate, Machine, Trees, clipped, features
from jbdot.one_device.dot_spec import DotSpec

RESULTS: Final = Path(__file__).parent / "results"
JUDGED: Final = RESULTS / "fit.json"
TREES, LEVELS, RATE = 200, 6, 0.1
FEWEST: Final = 30  # timings of a lowering, below which it is left out
FOLDS: Final = 4
CASES, MOST_WORK = 48, 1 << 23  # of dots that a machine is measured by: so many, of at most so many multiply-adds
KEPT_BACK: Final = "other rows of all"
KINDS: Final = {
    "amd-epyc-zen-3-2-cores": "AuthenticAMD family 25 model 1",
    "intel-xeon-sapphire-rapids-2-cores": "GenuineIntel family 6 model 143",
}  # of processors, as `jbdot.timing.processor_kind` says them
TPU: Final = "tpu-"  # before the kind, in the name of a table
NEW, OLD = "new", "old"  # from jax 0.12, and before


@dataclasses.dataclass(frozen=True)
class Timed:
    """A contraction of a table: its dot, the machine, the era of XLA's kernels, and microseconds by lowering."""

    spec: DotSpec
    machine: str
    era: str
    us: dict[str, tuple[float, float, float]]

    @property
    def is_tpu(self) -> bool:
        """Whether the microseconds are the TPU compiler's, with no TPU."""
        return self.machine.startswith(TPU)

    @property
    def features(self) -> Any:
        """What the trees are asked."""
        if self.is_tpu:
            return tpu_costs.features(self.spec, self.machine.removeprefix(TPU))
        return features(self.spec, self.era == NEW)

    def clipped(self, log: float) -> float:
        """Cuts what is fitted."""
        return tpu_costs.clipped(log) if self.is_tpu else clipped(log)

    @property
    def best_us(self) -> float:
        """Of the fastest lowering."""
        return min(spread[1] for spread in self.us.values())


def tuples(found: Any) -> Any:
    """Lists as tuples, all through."""
    return tuple(map(tuples, found)) if isinstance(found, list) else found


def spec_of(row: dict[str, Any]) -> DotSpec:
    """The dot of a row."""
    lhs, rhs, numbers = (tuples(row[name]) for name in ("lhs", "rhs", "dn"))
    return DotSpec(lhs, rhs, row["dtype"], row.get("rdtype", row["dtype"]), numbers, row["out"])


def table(path: Path) -> list[Timed]:
    """Reads a table; its name says the machine and the version of JAX."""
    machine, _, version = path.name.removeprefix("lowerings-").removesuffix(".jsonl.gz").rpartition("-jax-")
    era = NEW if tuple(map(int, version.split(".")[:2])) >= (0, 12) else OLD
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = (json.loads(line) for line in lines)
    return [
        Timed(spec_of(row), machine, era, {name: tuples(us) for name, us in row["us"].items()})
        for row in rows
        if "direct" in row.get("us", {})
    ]


def fitted(rows: Sequence[Timed]) -> dict[str, Any]:
    """Fits trees for each lowering that was timed often enough, and for the time of "direct"."""
    x = np.stack([row.features for row in rows])
    targets = {TIME: np.log([row.us["direct"][1] for row in rows])}
    for name in sorted({name for row in rows for name in row.us} - {"direct"}):
        over = [
            row.clipped(math.log(row.us[name][1] / row.us["direct"][1])) if name in row.us else math.nan for row in rows
        ]
        if np.isfinite(over).sum() >= FEWEST:
            targets[name] = np.asarray(over)
    parts = {name: _sum(x[np.isfinite(y)], y[np.isfinite(y)]) for name, y in targets.items()}
    stacked = (np.stack([part[number] for part in parts.values()]) for number in range(3))
    biases = np.asarray([part[3] for part in parts.values()], np.float32)
    return dict(zip(("names", "asked", "borders", "leaves", "biases"), (tuple(parts), *stacked, biases), strict=True))


def _sum(x: Any, y: Any) -> tuple[Any, Any, Any, float]:
    """Fits one sum of symmetric trees: features asked, borders, leaves, and the bias."""
    catboost: Any = importlib.import_module("catboost")
    model = catboost.CatBoostRegressor(
        iterations=TREES,
        depth=LEVELS,
        learning_rate=RATE,
        l2_leaf_reg=3,
        random_seed=0,
        thread_count=1,
        verbose=0,
        allow_writing_files=False,
    )
    model.fit(x, y)
    path = RESULTS / "trees.json"
    model.save_model(str(path), format="json")
    stored = json.loads(path.read_text())
    path.unlink()
    asked = np.zeros((TREES, LEVELS), np.uint8)
    borders = np.full((TREES, LEVELS), np.inf, np.float32)
    leaves = np.zeros((TREES, 1 << LEVELS), np.float32)
    scale, (bias,) = stored["scale_and_bias"]
    for number, tree in enumerate(stored["oblivious_trees"]):
        splits = tree["splits"] or []
        asked[number, : len(splits)] = [split["float_feature_index"] for split in splits]
        borders[number, : len(splits)] = [split["border"] for split in splits]
        leaves[number, : len(tree["leaf_values"])] = tree["leaf_values"]
    return asked, borders, (leaves * scale).astype(np.float16), bias


def trees_of(parts: dict[str, Any]) -> Trees:
    """The trees as jbdot reads them."""
    arrays = (parts[name] for name in ("asked", "borders", "leaves", "biases"))
    asked, borders, leaves, biases = arrays
    return Trees(parts["names"], asked, borders, leaves.astype(np.float32), biases)


def errors_of(trees: Trees, row: Timed) -> dict[str, float]:
    """What the logarithms of a row are off by: what was timed less what the trees say."""
    said = dict(zip(trees.names, trees(row.features), strict=True))
    direct = row.us["direct"][1]
    over = {name: math.log(us[1] / direct) for name, us in row.us.items() if name in said}
    found = {name: row.clipped(log) - said[name] for name, log in over.items()}
    return found | {TIME: math.log(direct) - said[TIME]}


def doubts_of(trees: Trees, rows: Sequence[Timed]) -> dict[str, float]:
    """The root mean square of what logarithms were off by, on rows that were not fitted."""
    errors: dict[str, list[float]] = {}
    for row in rows:
        for name, error in errors_of(trees, row).items():
            errors.setdefault(name, []).append(error)
    return {name: math.sqrt(statistics.mean(error**2 for error in errors.get(name, [1.0]))) for name in trees.names}


def choices(trees: Trees, machine: Machine, rows: Iterable[Timed]) -> list[str]:
    """What `auto` would take of each row by these trees."""
    found: list[str] = []
    for row in rows:
        logs = dict(zip(trees.names, trees(row.features), strict=True))
        names = [
            name for name in choice.safe(row.spec, "tpu" if row.is_tpu else "cpu") if name in row.us and name in logs
        ]
        others = (machine.estimate(name, logs[name], 1.0, row.spec.lhs_dtype) for name in names)
        found.append(choice.surest([Estimate("direct", 1.0), *others]).lowering)
    return found


def judged(rows: Sequence[Timed], chosen: Sequence[str]) -> dict[str, Any]:
    """Regret, gain over direct, the share over 1.3, and the share that is slower than direct beyond both spreads."""
    pairs = list(zip(rows, chosen, strict=True))
    regrets = [row.us[name][1] / row.best_us for row, name in pairs]
    gains = [row.us["direct"][1] / row.us[name][1] for row, name in pairs]
    slower = sum(row.us[name][0] > 1.05 * row.us["direct"][2] for row, name in pairs)
    return {
        "cases": len(rows),
        "regret": statistics.geometric_mean(regrets),
        "gain": statistics.geometric_mean(gains),
        "over 1.3": sum(regret > 1.3 for regret in regrets) / len(rows),
        "slower": slower,
    }


def kept_back(rows: Sequence[Timed]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Fits all but a part, in turn: doubts, and how good the choices of each machine and era are."""
    order = random.Random(0).sample(range(len(rows)), len(rows))
    parts = [[rows[at] for at in order[fold::FOLDS]] for fold in range(FOLDS)]
    fits = [
        trees_of(fitted([row for other in range(FOLDS) if other != fold for row in parts[other]]))
        for fold in range(FOLDS)
    ]
    doubts = _root_mean_squares([doubts_of(fit, part) for fit, part in zip(fits, parts, strict=True)])
    machine = Machine("", doubts, tpu_costs.CAUTION if rows[0].is_tpu else CAUTION)
    found: dict[tuple[str, str], tuple[list[Timed], list[str]]] = {}
    for part, fit in zip(parts, fits, strict=True):
        for row, name in zip(part, choices(fit, machine, part), strict=True):
            mine, names = found.setdefault((row.era, row.machine), ([], []))
            mine.append(row)
            names.append(name)
    return doubts, [
        {"jax": era, "fitted on": KEPT_BACK, "judged on": name} | judged(*one)
        for (era, name), one in sorted(found.items())
    ]


def machines_kept_back(rows: Sequence[Timed]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Fits all but a machine, in turn: doubts, and how good the choices on that are, as it is and measured."""
    names = sorted({row.machine for row in rows})
    fits = {name: trees_of(fitted([row for row in rows if row.machine != name])) for name in names}
    held = {name: [row for row in rows if row.machine == name] for name in names}
    doubts = _root_mean_squares([doubts_of(fits[name], held[name]) for name in names])
    far, said = Machine("", doubts, FAR_CAUTION), []
    for name in names:
        for era in sorted({row.era for row in held[name]}):
            mine = [row for row in held[name] if row.era == era]
            said.append(
                {"jax": era, "fitted on": "the other machine", "judged on": name}
                | judged(mine, choices(fits[name], far, mine))
            )
            timed = random.Random(0).sample([row for row in mine if _work(row.spec) < MOST_WORK], CASES)
            errors = [(row.spec.lhs_dtype, errors_of(fits[name], row)) for row in timed]
            rest = [row for row in mine if row not in timed]
            measured = far.measured(*corrections(errors, far), len(timed))
            said.append(
                {"jax": era, "fitted on": f"the other machine, and {CASES} dots of this", "judged on": name}
                | judged(rest, choices(fits[name], measured, rest))
            )
    return doubts, said


def _root_mean_squares(found: Sequence[dict[str, float]]) -> dict[str, float]:
    names = {name: None for one in found for name in one}
    return {name: math.sqrt(statistics.mean(one[name] ** 2 for one in found if name in one)) for name in names}


def _work(spec: DotSpec) -> int:
    return spec.batch * spec.m * spec.n * spec.k


def main() -> None:
    """Fits, says how well, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", type=Path, help="default: all of results/lowerings-*.jsonl.gz")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    rows = [row for path in options.tables or sorted(RESULTS.glob("lowerings-*.jsonl.gz")) for row in table(path)]
    for is_tpu in (False, True):
        mine = [row for row in rows if row.is_tpu == is_tpu]
        if mine:
            fit(mine, tpu_costs.FILE if is_tpu else FILE, is_saved=not options.no_save)


def fit(rows: list[Timed], file: Path, is_saved: bool) -> None:
    """Fits a model, says how well, and writes it: all of CPUs, or all of TPUs."""
    console, printed = (
        rich.console.Console(),
        rich.table.Table("jax", "fitted on", "judged on", "cases", "regret", "gain", "over 1.3", "slower"),
    )
    machines = sorted({row.machine for row in rows})
    doubts, said = kept_back(rows)
    are_cpus = len(machines) > 1 and not rows[0].is_tpu
    far, more = machines_kept_back(rows) if are_cpus else (doubts, [])
    said += more
    for row in said:
        numbers = (f"{row['regret']:.3f}", f"{row['gain']:.3f}", f"{row['over 1.3']:.1%}", str(row["slower"]))
        printed.add_row(row["jax"], row["fitted on"], row["judged on"], str(row["cases"]), *numbers)
    parts = fitted(rows)
    parts |= {
        "doubts": [doubts.get(name, 1.0) for name in parts["names"]],
        "far": [far.get(name, 1.0) for name in parts["names"]],
    }
    parts |= {"machines": machines, "kinds": [KINDS.get(name, "") for name in machines]}
    console.print(printed)
    if is_saved:
        np.savez_compressed(file, **{part: np.asarray(value) for part, value in parts.items()})
        others = [row for row in json.loads(JUDGED.read_text()) if row["judged on"].startswith(TPU) != rows[0].is_tpu]
        JUDGED.write_text(
            json.dumps(sorted([*others, *said], key=lambda row: row["judged on"].startswith(TPU)), indent=1) + "\n"
        )
        console.print(f"written: {file.name}, {file.stat().st_size:,} bytes; features: {rows[0].features.size}")


if __name__ == "__main__":
    main()
