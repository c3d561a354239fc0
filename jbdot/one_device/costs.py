"""What the lowerings of a dot take on a CPU, as a fitted model estimates it: nothing is timed to choose.

`features` says in numbers how a dot looks to XLA's CPU backend: its sizes, its bytes, and how its axes lie in memory.
For each lowering a sum of small trees over them gives the logarithm of its time over that of "direct", and one more the
time of "direct" itself. The trees are data (`costs.npz`): `python -m benchmarks.fit` makes them of random contractions
that were timed, every lowering of each, on more than one machine, and with more than one version of JAX: XLA's kernels
changed with jaxlib 0.12. An estimate that was far off on contractions kept back from the fit is doubted as much
(`doubt`).
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import jax
import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from jbdot.one_device.dot_spec import DotSpec

FILE: Final = Path(__file__).with_name("costs.npz")
DTYPES: Final = ("bool", "int8", "int16", "uint8", "bfloat16", "float16", "float32", "float64", "complex64")
TIME: Final = "us"  # the trees that give the time of "direct" itself, in microseconds
TIMED: Final = (*DTYPES, "uint16", "uint32", "int64", "float8_e4m3fn", "float8_e5m2")  # what the tables have, or alike
FEWEST: Final = 1 << 13  # multiply-adds of what was timed
HAS_NEW_KERNELS: Final = jax.__version_info__ >= (0, 12)
_NONE: Final = -1.0  # of a feature that a dot has not

Axes = Sequence[tuple[str, int]]  # (label, size), major to minor


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the model says of one lowering of a dot on a CPU.

    Attributes:
        lowering: Its name.
        us: A call, in microseconds.
        gain: How many times faster than "direct".
        doubt: By what factor such gains were off on contractions that were not fitted, the root mean square.
    """

    lowering: str
    us: float
    gain: float
    doubt: float


def knows(spec: DotSpec) -> bool:
    """Says whether dots of this dtype were timed, and of so few multiply-adds: fewer are over before one could gain."""
    return spec.lhs_dtype in TIMED and spec.batch * spec.m * spec.n * spec.k >= FEWEST


def machines() -> list[str]:
    """Names the machines that the trees were fitted on."""
    with np.load(FILE) as file:
        return file["machines"].tolist()


@functools.lru_cache(maxsize=4096)
def estimates(spec: DotSpec, names: tuple[str, ...]) -> tuple[Estimate, ...]:
    """Estimates these lowerings of a dot, fastest first; those that the model does not know are left out."""
    trees = Trees.stored()
    logs = dict(zip(trees.names, trees(features(spec)), strict=True))
    direct_us = math.exp(logs[TIME])
    found = [Estimate("direct", direct_us, 1.0, 1.0)] if "direct" in names else []
    for name in names:
        if name in logs and name != TIME:
            log, doubt = logs[name], math.exp(trees.doubts[name])
            found.append(Estimate(name, direct_us * math.exp(log), math.exp(-log), doubt))
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
        doubts: The root mean square of what each was off by out of the fit, also a logarithm.
    """

    names: tuple[str, ...]
    asked: NDArray[np.uint8]
    borders: NDArray[np.float32]
    leaves: NDArray[np.float32]
    biases: NDArray[np.float32]
    doubts: dict[str, float]

    def __call__(self, x: NDArray[np.float32]) -> list[float]:
        """Evaluates every sum on the features of one dot."""
        levels = self.asked.shape[2]
        at = (x[self.asked] > self.borders) @ (1 << np.arange(levels))
        found = np.take_along_axis(self.leaves, at[:, :, None], axis=2)[:, :, 0].sum(1) + self.biases
        return found.tolist()

    @staticmethod
    @functools.cache
    def stored() -> "Trees":
        """Reads the trees that were fitted."""
        with np.load(FILE) as file:
            names = tuple(file["names"].tolist())
            doubts = dict(zip(names, file["doubts"].tolist(), strict=True))
            arrays = (file[part] for part in ("asked", "borders", "leaves", "biases"))
            asked, borders, leaves, biases = arrays
            return Trees(names, asked, borders, leaves.astype(np.float32), biases, doubts)


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
        *_moved(spec),
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


def _moved(spec: DotSpec) -> list[float]:
    """Counts what "pinned" copies, as the operands stand and with rhs first."""
    c = spec.contraction
    lhs_stays = c.lhs == c.batch + c.lhs_free + c.contracting
    rhs_stays = c.rhs in (c.batch + c.rhs_free + c.contracting, c.batch + c.contracting + c.rhs_free)
    lhs_turns = c.lhs in (c.batch + c.lhs_free + c.contracting, c.batch + c.contracting + c.lhs_free)
    rhs_turns = c.rhs == c.batch + c.rhs_free + c.contracting
    left, right = math.prod(spec.lhs), math.prod(spec.rhs)
    stays = left * (not lhs_stays) + right * (not rhs_stays)
    turns = left * (not lhs_turns) + right * (not rhs_turns) + math.prod(spec.out)
    return [_log(stays), _log(turns), float(min(spec.m, spec.n) > 1 and turns < stays)]
