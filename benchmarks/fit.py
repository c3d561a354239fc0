"""Fits what lowerings take (`jbdot/one_device/costs.npz`) to tables of timed contractions (`python -m benchmarks.fit`).

Needs CatBoost beside jbdot's extras (`pip install catboost`): nothing that jbdot needs to run. Tables are those of
results/lowerings-MACHINE-jax-VERSION.jsonl.gz, made by `python -m benchmarks.regret --table`: a random contraction a
line, with the microseconds of every lowering. JAX before 0.12 and from then on are two eras. Before it writes, it says
how well such trees choose on what was kept back: a part of the rows in turn, and each whole machine in turn.
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

from jbdot.one_device import choice, costs
from jbdot.one_device.costs import FILE, TIME, Estimate, Trees, features
from jbdot.one_device.dot_spec import DotSpec

RESULTS: Final = Path(__file__).parent / "results"
JUDGED: Final = RESULTS / "fit.json"
TREES, LEVELS, RATE = 200, 6, 0.1
RANGE: Final = (-3.0, 2.0)  # of logarithms that are fitted: beyond, a lowering is as good or as bad as it gets
FEWEST: Final = 30  # timings of a lowering, below which it is left out
FOLDS: Final = 4
KEPT_BACK: Final = "other rows of all"
NEW, OLD = "new", "old"  # from jax 0.12, and before


@dataclasses.dataclass(frozen=True)
class Timed:
    """A contraction of a table: its dot, the machine, the era of XLA's kernels, and microseconds by lowering."""

    spec: DotSpec
    machine: str
    era: str
    us: dict[str, tuple[float, float, float]]

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
    x = np.stack([features(row.spec, row.era == NEW) for row in rows])
    targets = {TIME: np.log([row.us["direct"][1] for row in rows])}
    for name in sorted({name for row in rows for name in row.us} - {"direct"}):
        over = [row.us[name][1] / row.us["direct"][1] if name in row.us else math.nan for row in rows]
        if np.isfinite(over).sum() >= FEWEST:
            targets[name] = np.clip(np.log(over), *RANGE)
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


def trees_of(parts: dict[str, Any], doubts: dict[str, float]) -> Trees:
    """The trees as jbdot reads them."""
    arrays = (parts[name] for name in ("asked", "borders", "leaves", "biases"))
    asked, borders, leaves, biases = arrays
    return Trees(parts["names"], asked, borders, leaves.astype(np.float32), biases, doubts)


def doubts_of(trees: Trees, rows: Sequence[Timed]) -> dict[str, float]:
    """The root mean square of what logarithms were off by, on rows that were not fitted."""
    errors: dict[str, list[float]] = {name: [] for name in trees.names}
    for row in rows:
        for name, log in zip(trees.names, trees(features(row.spec, row.era == NEW)), strict=True):
            if name == TIME:
                errors[name].append(log - math.log(row.us["direct"][1]))
            elif name in row.us:
                errors[name].append(log - max(RANGE[0], min(RANGE[1], math.log(row.us[name][1] / row.us["direct"][1]))))
    return {name: float(np.sqrt(np.mean(np.square(found)))) if found else 1.0 for name, found in errors.items()}


def choices(trees: Trees, rows: Iterable[Timed]) -> list[str]:
    """What `auto` would take of each row by these trees."""
    found: list[str] = []
    for row in rows:
        logs = dict(zip(trees.names, trees(features(row.spec, row.era == NEW)), strict=True))
        estimates = [
            Estimate(
                name,
                math.exp(logs.get(name, 0.0)),
                math.exp(-logs.get(name, 0.0)),
                math.exp(trees.doubts.get(name, 0.0)),
            )
            for name in choice.safe(row.spec)
            if name in row.us and (name in logs or name == "direct")
        ]
        found.append(choice.surest(estimates).lowering)
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


def kept_back(rows: Sequence[Timed]) -> tuple[dict[str, float], dict[tuple[str, str], tuple[list[Timed], list[str]]]]:
    """Fits all but a part, in turn: doubts, and what would be chosen of the rows of each machine and era."""
    order = random.Random(0).sample(range(len(rows)), len(rows))
    parts = [[rows[at] for at in order[fold::FOLDS]] for fold in range(FOLDS)]
    squares: dict[str, list[float]] = {}
    found: dict[tuple[str, str], tuple[list[Timed], list[str]]] = {}
    fits = [fitted([row for other in range(FOLDS) if other != fold for row in parts[other]]) for fold in range(FOLDS)]
    for part, fit in zip(parts, fits, strict=True):
        for name, doubt in doubts_of(trees_of(fit, {}), part).items():
            squares.setdefault(name, []).append(doubt**2)
    doubts = {name: math.sqrt(statistics.mean(all_squares)) for name, all_squares in squares.items()}
    for part, fit in zip(parts, fits, strict=True):
        for row, name in zip(part, choices(trees_of(fit, doubts), part), strict=True):
            mine, names = found.setdefault((row.era, row.machine), ([], []))
            mine.append(row)
            names.append(name)
    return doubts, found


def main() -> None:
    """Fits, says how well, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", type=Path, help="default: all of results/lowerings-*.jsonl.gz")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    rows = [row for path in options.tables or sorted(RESULTS.glob("lowerings-*.jsonl.gz")) for row in table(path)]
    console, printed = (
        rich.console.Console(),
        rich.table.Table("jax", "fitted on", "judged on", "cases", "regret", "gain", "over 1.3", "slower"),
    )
    doubts, found = kept_back(rows)
    said = [
        {"jax": era, "fitted on": KEPT_BACK, "judged on": name} | judged(*one)
        for (era, name), one in sorted(found.items())
    ]
    machines = sorted({row.machine for row in rows})
    for name in machines if len(machines) > 1 else ():
        fit = fitted([row for row in rows if row.machine != name])
        for era in sorted({row.era for row in rows if row.machine == name}):
            held = [row for row in rows if (row.machine, row.era) == (name, era)]
            over = judged(held, choices(trees_of(fit, doubts), held))
            said.append({"jax": era, "fitted on": "the other machine", "judged on": name} | over)
    for row in said:
        numbers = (f"{row['regret']:.3f}", f"{row['gain']:.3f}", f"{row['over 1.3']:.1%}", str(row["slower"]))
        printed.add_row(row["jax"], row["fitted on"], row["judged on"], str(row["cases"]), *numbers)
    parts = fitted(rows)
    parts |= {"doubts": [doubts.get(name, 1.0) for name in parts["names"]], "machines": machines}
    console.print(printed)
    if not options.no_save:
        np.savez_compressed(FILE, **{part: np.asarray(value) for part, value in parts.items()})
        JUDGED.write_text(json.dumps(said, indent=1) + "\n")
        console.print(
            f"written: {FILE.name}, {FILE.stat().st_size:,} bytes; features: {costs.features(rows[0].spec).size}"
        )


if __name__ == "__main__":
    main()
