"""What the lowerings of a dot take on a CPU, as a fitted model estimates it: nothing is timed to choose.

`features` says in numbers how a dot looks to XLA's CPU backend: its sizes, its bytes, and how its axes lie in memory.
For each lowering a sum of small trees over them gives the logarithm of its time over that of "direct", and one more the
time of "direct" itself. The trees are data (`costs.npz`): `python -m benchmarks.fit` makes them of random contractions
that were timed, every lowering of each, on more than one machine, and with more than one version of JAX: XLA's kernels
changed with jaxlib 0.12. An estimate that was far off on contractions kept back from the fit is doubted as much; on a
kind of CPU that was not fitted, as much as estimates were off on a machine whose rows were all kept back (`Machine`).
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import jax
import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import moved

FILE: Final = Path(__file__).with_name("costs.npz")
DTYPES: Final = ("bool", "int8", "int16", "uint8", "bfloat16", "float16", "float32", "float64", "complex64")
TIME: Final = "us"  # the trees that give the time of "direct" itself, in microseconds
TIMED: Final = (*DTYPES, "uint16", "uint32", "int64", "float8_e4m3fn", "float8_e5m2")  # what the tables have, or alike
FEWEST: Final = 1 << 13  # multiply-adds of what was timed
HAS_NEW_KERNELS: Final = jax.__version_info__ >= (0, 12)
RANGE: Final = (-3.0, 2.0)  # of the logarithms that are fitted
SURE: Final = 1.02  # times faster than "direct" that a lowering has to be estimated at least
CAUTION: Final = 0.5  # the part of an estimate's doubt that is added to that where its kind of CPU was fitted
FAR_CAUTION: Final = 1.0  # and elsewhere
_NONE: Final = -1.0  # of a feature that a dot has not

Axes = Sequence[tuple[str, int]]  # (label, size), major to minor


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a model says of one lowering of a dot.

    Attributes:
        lowering: Its name.
        us: A call, in microseconds.
        gain: How many times faster than "direct".
        doubt: By what factor such gains were off on contractions that were not fitted, the root mean square.
        margin: How many times faster it has to be estimated to be taken.
    """

    lowering: str
    us: float
    gain: float = 1.0
    doubt: float = 1.0
    margin: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Machine:
    """What estimates are corrected by on a kind of CPU, and how far they are doubted there.

    log(us) = trees' + offset, margin = SURE * exp(caution * doubt)

    Attributes:
        said: What is known of the machine, as a clause.
        doubts: For each sum of the trees the root mean square of what it was off by, a logarithm.
        caution: The part of a doubt that a lowering has to be faster by.
        offsets: By "LOWERING KIND" what the trees are off by for numbers of a kind, a logarithm, where that was
            measured.
    """

    said: str
    doubts: Mapping[str, float]
    caution: float
    offsets: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])

    def measured(self, offsets: Mapping[str, float], doubts: Mapping[str, float], cases: int) -> "Machine":
        """Makes the machine that was measured: offsets, doubts where a lowering was timed, and of how many dots."""
        said = f"estimates are corrected by {cases} dots that were timed here (`jbdot tune --machine`)"
        known = {name: doubts.get(name, doubt) for name, doubt in self.doubts.items()}
        return dataclasses.replace(self, said=said, offsets=offsets, doubts=known)

    def estimate(self, lowering: str, log: float, direct_us: float, dtype: str) -> Estimate:
        """Makes an estimate of what the trees say: the logarithm of a lowering's time over that of "direct"."""
        direct_us *= math.exp(self.offsets.get(offset_name(TIME, dtype), 0.0))
        if lowering == "direct":
            return Estimate(lowering, direct_us)
        log += self.offsets.get(offset_name(lowering, dtype), 0.0)
        doubt = math.exp(self.doubts[lowering])
        return Estimate(lowering, direct_us * math.exp(log), math.exp(-log), doubt, SURE * doubt**self.caution)


def offset_name(lowering: str, dtype: str) -> str:
    """Names what a machine's offset is of: a lowering, and a kind of numbers that the same kernels take."""
    kind = "integer" if "int" in dtype or dtype == "bool" else dtype.partition("_")[0]
    return f"{lowering} {kind}"


def shipped(kind: str) -> Machine:
    """Returns what jbdot brings along for a kind of CPU, as `timing.processor_kind` says it; "" is one nobody knows."""
    with np.load(FILE) as file:
        kinds = file["kinds"].tolist()
        names, doubts = file["names"].tolist(), file["doubts" if kind in kinds else "far"].tolist()
    known = dict(zip(names, doubts, strict=True))
    if kind in kinds:
        return Machine("estimates were fitted on this kind of CPU", known, CAUTION)
    said = "no CPU of this kind was timed: estimates are doubted more (`jbdot tune --machine`)"
    return Machine(said, known, FAR_CAUTION)


def clipped(log: float) -> float:
    """Cuts the logarithm of a lowering's time over that of "direct": beyond, it is as good or as bad as it gets."""
    return max(RANGE[0], min(RANGE[1], log))


def knows(spec: DotSpec) -> bool:
    """Says whether dots of this dtype were timed, and of so few multiply-adds: fewer are over before one could gain."""
    return spec.lhs_dtype in TIMED and spec.batch * spec.m * spec.n * spec.k >= FEWEST


def machines() -> list[str]:
    """Names the machines that the trees were fitted on."""
    with np.load(FILE) as file:
        return file["machines"].tolist()


@functools.lru_cache(maxsize=4096)
def estimates(spec: DotSpec, names: tuple[str, ...], machine: Machine) -> tuple[Estimate, ...]:
    """Estimates these lowerings of a dot, fastest first; those that the model does not know are left out."""
    trees = Trees.stored()
    return ranked(dict(zip(trees.names, trees(features(spec)), strict=True)), spec, names, machine)


def ranked(logs: dict[str, float], spec: DotSpec, names: Iterable[str], machine: Machine) -> tuple[Estimate, ...]:
    """Makes estimates of what trees say of a dot, fastest first."""
    direct_us = math.exp(logs[TIME])
    logs = logs | {"direct": 0.0}
    found = (machine.estimate(name, logs[name], direct_us, spec.lhs_dtype) for name in names if name in logs)
    return tuple(sorted(found, key=lambda estimate: estimate.us))


@dataclasses.dataclass(frozen=True)
class Trees:
    """Sums of symmetric trees: each level of a tree asks one question of all its branches.

    value[l] = bias[l] + sum_t leaves[l, t, sum_d 2^d * (x[asked[l, t, d]] > border[l, t, d])]

    Attributes:
        names: What each sum l is of.
        asked: The number of a feature, for each sum, tree and level.
        borders: What it is compared with.
        leaves: Logarithms, by sum, tree and leaf.
        biases: A logarithm for each sum.
    """

    names: tuple[str, ...]
    asked: NDArray[np.uint8]
    borders: NDArray[np.float32]
    leaves: NDArray[np.float32]
    biases: NDArray[np.float32]

    def __call__(self, x: NDArray[np.float32]) -> list[float]:
        """Evaluates every sum on the features of one dot."""
        levels = self.asked.shape[2]
        at = (x[self.asked] > self.borders) @ (1 << np.arange(levels))
        found = np.take_along_axis(self.leaves, at[:, :, None], axis=2)[:, :, 0].sum(1) + self.biases
        return found.tolist()

    @staticmethod
    @functools.cache
    def stored(path: Path = FILE) -> "Trees":
        """Reads trees that were fitted."""
        with np.load(path) as file:
            names = tuple(file["names"].tolist())
            arrays = (file[part] for part in ("asked", "borders", "leaves", "biases"))
            asked, borders, leaves, biases = arrays
            return Trees(names, asked, borders, leaves.astype(np.float32), biases)


def features(spec: DotSpec, new: bool = HAS_NEW_KERNELS) -> NDArray[np.float32]:
    """Says in numbers how a dot looks to XLA's CPU backend; sizes and distances are logarithms to base 2.

    Axes of size 1 are left out, and axes that lie side by side in the same order wherever they are count as one.

    Args:
        spec: The dot.
        new: Whether XLA has the kernels that came with jaxlib 0.12.
    """
    lhs, rhs, out = _merged(spec)
    contracting = set(spec.contraction.contracting)
    larger, smaller = (lhs, rhs) if math.prod(spec.lhs) > math.prod(spec.rhs) else (rhs, lhs)
    written = [*larger, *(axis for axis in smaller if axis not in larger)]  # as "reduced" has its products
    found = [
        float(new),
        *_sizes(spec),
        *(float(spec.lhs_dtype == dtype) for dtype in DTYPES),
        *(float(spec.lhs_dtype.startswith(kind)) for kind in ("float8", "int", "uint")),
        *_operand(spec, lhs, spec.contraction.lhs_free),
        *_operand(spec, rhs, spec.contraction.rhs_free),
        float(larger is lhs),
        float(len(out)),
        *_last(out, 2, contracting, (lhs, rhs)),
        *_last(written, 3, contracting, (smaller, larger, out)),
        *_sum(written, contracting),
        *_copied(spec),
    ]
    return np.asarray(found, np.float32)


def _log(size: float) -> float:
    return math.log2(size) if size > 1 else 0.0


def _merged(spec: DotSpec) -> tuple[Axes, Axes, Axes]:
    """Lists the axes of lhs, rhs and the result, without those of size 1, those side by side everywhere as one."""
    c, sizes = spec.contraction, spec.sizes
    arrays = [[label for label in labels if label and sizes[label] > 1] for labels in (c.lhs, c.rhs, c.dot_out)]
    before: dict[str, set[str | None]] = {}
    for labels in arrays:
        for left, label in zip([None, *labels], labels, strict=False):
            before.setdefault(label, set()).add(left)
    role = {label: number for number, group in enumerate(_groups(spec)) for label in group}
    found: list[Axes] = []
    for labels in arrays:
        axes: list[tuple[str, int]] = []
        last = None
        for label in labels:
            joins = last is not None and before[label] == {last} and role[label] == role[last]
            if joins:
                axes[-1] = (axes[-1][0], axes[-1][1] * sizes[label])
            else:
                axes.append((label, sizes[label]))
            last = label
        found.append(axes)
    return found[0], found[1], found[2]


def _groups(spec: DotSpec) -> tuple[tuple[str, ...], ...]:
    c = spec.contraction
    return c.batch, c.lhs_free, c.rhs_free, c.contracting


def _sizes(spec: DotSpec) -> list[float]:
    """Gives sizes of roles and of arrays, in elements and bytes, and by what vector registers divide them."""
    b, m, n, k = spec.batch, spec.m, spec.n, spec.k
    width, wide = jnp.dtype(spec.lhs_dtype).itemsize, jnp.dtype(spec.dtype).itemsize
    left, right, out = b * m * k, b * k * n, b * m * n
    logs = (b, m, n, k, b * m * n * k, left, right, out, (left + right) * width + out * wide)
    more = (max(m, n), min(m, n), m * n, m * n * k, left / right, out / max(left, right))
    return [
        *(_log(size) for size in logs),
        *(math.log2(size) for size in more),
        *(_log(math.gcd(size, 16)) for size in (k, n, m)),
        float(width),
        float(wide),
    ]


def _distances(axes: Axes) -> dict[str, int]:
    """Gives how far apart neighbours on each axis lie, in elements."""
    found, distance = {}, 1
    for label, size in reversed(axes):
        found[label] = distance
        distance *= size
    return found


def _operand(spec: DotSpec, axes: Axes, free: Iterable[str]) -> list[float]:
    """Says in which order an operand's roles lie, and how far apart neighbours of each are."""
    c = spec.contraction
    role = dict.fromkeys(c.batch, "b") | dict.fromkeys(free, "f") | dict.fromkeys(c.contracting, "k")
    order = "".join(role[label] for label, _ in axes)
    distance, sizes = _distances(axes), dict(axes)
    found = [float(order.endswith(one)) for one in "bfk"] + [float(order.startswith(one)) for one in "bk"]
    for one in "bfk":
        last = next((label for label, _ in reversed(axes) if role[label] == one), None)
        found += [_log(distance[last]), _log(sizes[last])] if last is not None else [_NONE, _NONE]
    stands = order in ("bfk", "bf", "bk", "b", "fk", "f", "k", "bkf", "kf", "")  # as a dot can take it
    return [
        *found,
        float(len(axes)),
        float(order.count("b") == order.startswith("b")),
        float(order in ("bfk", "fk", "bk", "bf", "f", "b", "k")),
        float(stands),
        0.0 if stands else _log(math.prod(sizes.values())),
        _log(axes[-1][1]) if axes else 0.0,
    ]


def _last(axes: Axes, count: int, contracting: set[str], others: Sequence[Axes]) -> list[float]:
    """Describes the last axes: whether contracted, how long, and how far apart neighbours lie in other arrays."""
    distances = [_distances(other) for other in others]
    found: list[float] = []
    for number in range(1, count + 1):
        if len(axes) < number:
            found += [_NONE] * (2 + len(others))
            continue
        label, size = axes[-number]
        found += [float(label in contracting), _log(size)]
        found += [_log(distance[label]) + 1 if label in distance else _NONE for distance in distances]
    return found


def _sum(axes: Axes, contracting: set[str]) -> list[float]:
    """Says how sums lie in the products of "reduced": along the last axis or before others."""
    summed = [size for label, size in axes if label in contracting]
    behind = 1
    for label, size in reversed(axes):
        if label in contracting:
            break
        behind *= size
    return [float(len(summed)), float(bool(summed) and summed[-1] % 8 == 0), float(behind == 1), _log(behind)]


def _copied(spec: DotSpec) -> list[float]:
    """Counts what "pinned" copies, as the operands stand and with rhs first."""
    stays, turns = moved(spec), moved(spec.swapped) + math.prod(spec.out)
    return [_log(stays), _log(turns), float(min(spec.m, spec.n) > 1 and turns < stays)]
