"""Measures this machine's CPU: how far the estimates of lowerings are off on dots that are timed here.

A few dozen dots of several contractions and dtypes are timed, every lowering of each. What the trees of `costs.py` are
off by for a lowering and a kind of numbers, drawn towards 0 where few were timed, corrects them from then on; what
remains is how far they are doubted.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import jax

from jbdot.core.contraction import Contraction
from jbdot.core.text import paragraph, table
from jbdot.one_device import costs, measure, tuning_cache
from jbdot.one_device.choice import candidates
from jbdot.one_device.costs import TIME, Machine, Trees, features, offset_name
from jbdot.one_device.dot_spec import DotSpec
from jbdot.timing import Track

SECONDS: Final = 25.0  # of measuring a machine
A_DOT_S: Final = 0.1  # of timing one of its dots
FEW: Final = 3  # timings that an offset of none weighs as much as
FIRST: Final = 10  # timings that a doubt from before weighs as much as
DOTS: Final = (
    ("b m k, b k n -> b m n", (32, 24, 32), (32, 32, 64)),
    ("b m k, b k -> b m", (64, 100, 32), (64, 32)),
    ("k m, k n -> m n", (2000, 8), (2000, 16)),
    ("m b k, k b n -> b m n", (64, 12, 16), (16, 12, 48)),
    ("m k, k n -> m n", (128, 96), (96, 200)),
    ("b k m, b k -> b m", (32, 48, 200), (32, 48)),
    ("b m k, b n k -> b m n", (64, 16, 48), (64, 24, 48)),
    ("b h k, b s h k -> b h s", (8, 4, 32), (8, 256, 4, 32)),
    ("b k m, b k n -> b m n", (16, 64, 32), (16, 64, 32)),
    ("m k, k n -> m n", (20000, 3), (3, 5)),
    ("b k, b k -> b", (500, 200), (500, 200)),
    ("b m k, b k n -> b m n", (1024, 4, 4), (1024, 4, 4)),
    ("m k, k -> m", (1000, 256), (256,)),
)  # contractions and shapes
DTYPES: Final = ("float32", "bfloat16", "float16", "float64", "complex64", "int8")
Errors = Mapping[str, float]  # of one dot, by lowering: the logarithm of what was timed less what was estimated


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was measured of this machine's CPU.

    Attributes:
        device: Its kind, as tuned dots have it.
        cases: How many dots were timed.
        seconds: How long that took.
        before: What estimates were corrected by and how far they were doubted.
        after: What they are from now on.
    """

    device: str
    cases: int
    seconds: float
    before: Machine
    after: Machine

    def __str__(self) -> str:
        rows = [("lowering", "corrected by, times", "doubted, times", "before")]
        for name, doubt in sorted(self.after.doubts.items()):
            logs = [log for what, log in self.after.offsets.items() if what.split()[0] == name]
            if logs:
                by = " to ".join(dict.fromkeys(f"{math.exp(log):.2f}" for log in (min(logs), max(logs))))
                rows.append((name, by, f"{math.exp(doubt):.2f}", f"{math.exp(self.before.doubts[name]):.2f}"))
        head = paragraph(f"{self.cases} dots timed in {self.seconds:.0f} s on {self.device}")
        said = "corrected by: what estimates are multiplied with, by the kind of numbers; doubted: what is still off"
        return f"{head}\n\n{table(rows)}\n\n{paragraph(said, 2)}"

    __repr__ = __str__


def calibrate(seconds: float = SECONDS, track: Track = iter) -> Calibration:
    """Times dots for so long, and keeps what estimates are off by, in the file of tuned dots."""
    before, start = tuning_cache.machine(), time.perf_counter()
    errors: list[tuple[str, Errors]] = []
    every = dots()
    for at in track(range(len(every))):
        if time.perf_counter() - start < seconds:
            errors += ((every[at].lhs_dtype, found) for found in _errors(every[at]))
    fresh = dataclasses.replace(before, offsets={})
    offsets, doubts = corrections(errors, fresh)
    tuning_cache.keep_machine(offsets, doubts, len(errors))
    after = fresh.measured(offsets, doubts, len(errors))
    taken = time.perf_counter() - start
    return Calibration(tuning_cache.device_kind("cpu"), len(errors), taken, before, after)


def dots() -> list[DotSpec]:
    """Lists the dots that a machine is measured by: neighbours are of other contractions and other dtypes."""
    return [
        _dot(*DOTS[at], DTYPES[(at + turn) % len(DTYPES)]) for turn in range(len(DTYPES)) for at in range(len(DOTS))
    ]


def _dot(labels: str, lhs: tuple[int, ...], rhs: tuple[int, ...], dtype: str) -> DotSpec:
    numbers = Contraction.parse(labels).dimension_numbers
    return DotSpec(lhs, rhs, dtype, dtype, numbers, "int32" if dtype == "int8" else dtype)


def _errors(spec: DotSpec) -> Iterator[Errors]:
    """Times the lowerings of a dot that the trees know: what each is off by; nothing where "direct" does not run."""
    trees = Trees.stored()
    with jax.enable_x64(spec.lhs_dtype == "float64"):
        names = [name for name in candidates(spec) if name in trees.names]
        made = measure.Candidates.of(spec, ["direct", *names])
        if "direct" not in made.calls:
            return
        timed = made.hopeless()
        rest = [name for name in made.calls if name not in timed]
        timed |= {timing.lowering: timing.us.median for timing in measure.timed(made, rest, A_DOT_S)}
    said = dict(zip(trees.names, trees(features(spec)), strict=True)) | {"direct": 0.0}
    yield {
        name: costs.clipped(math.log(us / timed["direct"])) - said[name]
        for name, us in timed.items()
        if name != "direct"
    } | {TIME: math.log(timed["direct"]) - said[TIME]}


def corrections(errors: Sequence[tuple[str, Errors]], machine: Machine) -> tuple[dict[str, float], dict[str, float]]:
    """Makes offsets and doubts of what estimates were off by.

    offset = sum(errors) / (count + FEW) of a lowering and a kind of numbers;
    doubt^2 = (sum((error - offset)^2) + FIRST * doubt_before^2) / (count + FIRST) of a lowering

    Args:
        errors: Of each dot its dtype, and what its lowerings are off by.
        machine: What is doubted before.
    """
    of: dict[str, list[float]] = {}
    for dtype, found in errors:
        for name, error in found.items():
            of.setdefault(offset_name(name, dtype), []).append(error)
    offsets = {name: sum(found) / (len(found) + FEW) for name, found in of.items()}
    left: dict[str, list[float]] = {}
    for name, found in of.items():
        left.setdefault(name.split()[0], []).extend(error - offsets[name] for error in found)
    squares = {name: sum(error**2 for error in found) for name, found in left.items()}
    doubts = {
        name: math.sqrt((squares[name] + FIRST * machine.doubts[name] ** 2) / (len(found) + FIRST))
        for name, found in left.items()
    }
    return offsets, doubts
