"""What the lowerings of a dot take on a TPU, as a model of the TPU compiler's own estimates has it. No TPU was here.

Trees as those of `costs`, over features of a TPU: what a vector unit and a matrix unit need at least for such a dot,
and memory to read and write it, on each kind of TPU; and how its arrays lie. An array lies in tiles of 8 by 128. Which
two axes those are of, the runtime chooses for each array that enters or leaves a program: where less is filled up
(`Tiles`). So a batch may lie along the lanes, and sums of products over it need no matrix unit, and no copy.

The trees are data (`tpu_costs.npz`): `python -m benchmarks.fit` makes them of random contractions that were compiled by
every lowering (`python -m benchmarks.regret --topology`), for v5e, v5p and v6e. Of another kind of TPU, or of one that
is not known where the program is lowered, the least gain of the three counts.
"""

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import math
from collections.abc import Generator
from pathlib import Path
from typing import Final

import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from jbdot import hardware
from jbdot.core.errors import Refusal
from jbdot.one_device import costs, tuning_cache
from jbdot.one_device.costs import TIME, Estimate, Machine, Trees
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LANES, SUBLANES

Axes = list[tuple[str, int]]  # (label, size), major to minor

FILE: Final = Path(__file__).with_name("tpu_costs.npz")
KINDS: Final = ("v5e", "v5p", "v6e")
DTYPES: Final = {"float32": ("float32",), "bfloat16": ("bfloat16", "float32"), "int8": ("int32",)}  # and of results
CAUTION: Final = 1.0  # the part of an estimate's doubt that a lowering has to be faster by: none may be slower
RANGE: Final = (-1.5, 0.4)  # of the logarithms that are fitted: what is worse is not taken anyway
_WORD: Final = 4  # bytes of a sublane's number: narrower ones are packed
_PRODUCTS: Final = 4096  # of a vector unit, in a cycle

_compiled_for: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("compiled_for", default="")


@contextlib.contextmanager
def lowered_for(kind: str) -> Generator[None, None, None]:
    """Opens a context in which programs are lowered for a kind of TPU that is not here, such as "v5e"."""
    from jax.experimental.xla_metadata import set_xla_metadata  # `import jax` does not load it

    token = _compiled_for.set(kind)
    try:
        with set_xla_metadata(jbdot_tpu=kind):  # so that JAX does not take what it lowered for another
            yield
    finally:
        _compiled_for.reset(token)


def kind_here() -> str:
    """Names the kind of TPU that programs are lowered for, as `jbdot.hardware` has it in short; empty if not known."""
    if named := _compiled_for.get():
        return named
    try:
        return hardware.known(tuning_cache.device_kind("tpu")).short
    except Refusal:
        return ""


def knows(spec: DotSpec) -> bool:
    """Says whether dots of these dtypes were compiled, and of so few multiply-adds."""
    is_large = spec.batch * spec.m * spec.n * spec.k >= costs.FEWEST
    return is_large and spec.dtype in DTYPES.get(spec.lhs_dtype, ())


@functools.lru_cache(maxsize=4096)
def estimates(spec: DotSpec, names: tuple[str, ...], kind: str) -> tuple[Estimate, ...]:
    """Estimates these lowerings of a dot on a kind of TPU, fastest first; those that were not fitted are left out."""
    trees = Trees.stored(FILE)
    found = np.asarray([trees(features(spec, one)) for one in ((kind,) if kind in KINDS else KINDS)])
    time = trees.names.index(TIME)
    logs = dict(zip(trees.names, found.max(0).tolist(), strict=True)) | {TIME: float(found[0, time])}
    return costs.ranked(logs, spec, names, shipped())


@functools.cache
def shipped() -> Machine:
    """Returns how far the estimates are doubted."""
    with np.load(FILE) as file:
        doubts = dict(zip(file["names"].tolist(), file["doubts"].tolist(), strict=True))
    return Machine("estimates are those of the TPU compiler, fitted: no TPU was here", doubts, CAUTION)


def clipped(log: float) -> float:
    """Cuts the logarithm of a lowering's time over that of "direct", as it is fitted."""
    return max(RANGE[0], min(RANGE[1], log))


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How an array lies on a TPU by default.

    Attributes:
        lanes: The axis along the 128 lanes, and its size; ("", 1) where there is none.
        rows: The axis along the rows of a tile.
        elements: Of the array, with what fills its tiles up.
    """

    lanes: tuple[str, int]
    rows: tuple[str, int]
    elements: int

    @classmethod
    def of(cls, axes: Axes, width: int) -> "Tiles":
        """Chooses the two axes that leave least to be filled up, the last two where others are no better.

        Held to the layouts that the compiler gives to arguments, in `tests/one_device/test_tpu_costs.py`.

        Args:
            axes: Of the array.
            width: Bytes of an element: of narrow ones several share a row.
        """
        if len(axes) < 2:
            lanes = axes[0] if axes else ("", 1)
            return cls(lanes, ("", 1), _filled(lanes[1], LANES))
        total, last = math.prod(size for _, size in axes), len(axes) - 1

        def cost(pair: tuple[int, int]) -> tuple[int, bool, int, int]:
            lane, row = pair
            rest = total // (axes[lane][1] * axes[row][1])
            filled = rest * _filled(axes[lane][1], LANES) * _filled(axes[row][1], _rows(axes[row][1], width))
            return filled, pair != (last, last - 1), -lane, -row

        lane, row = min(itertools.permutations(range(len(axes)), 2), key=cost)
        return cls(axes[lane], axes[row], cost((lane, row))[0])


def features(spec: DotSpec, kind: str) -> NDArray[np.float32]:
    """Says in numbers how a dot looks to XLA's TPU compiler: logarithms to base 2, of sizes and of microseconds.

    The larger operand goes first, as the compiler puts operands into the order that it likes.

    Args:
        spec: The dot.
        kind: One of `KINDS`.
    """
    c, b, k = spec.contraction, spec.batch, spec.k
    groups = {"b": c.batch, "k": c.contracting, "m": c.lhs_free, "n": c.rhs_free}
    left, right, out = (
        [(label, spec.sizes[label]) for label in labels if label] for labels in (c.lhs, c.rhs, c.dot_out)
    )
    m, n, is_turned = spec.m, spec.n, math.prod(spec.lhs) < math.prod(spec.rhs)
    if is_turned:
        left, right, m, n = right, left, n, m
        groups["m"], groups["n"] = groups["n"], groups["m"]
    role = {label: name for name, labels in groups.items() for label in labels}
    width, wide = jnp.dtype(spec.lhs_dtype).itemsize, jnp.dtype(spec.dtype).itemsize
    tiles = [Tiles.of(axes, each) for axes, each in ((left, width), (right, width), (out, wide))]
    found = [
        *(float(kind == one) for one in KINDS),
        float(width),
        float(wide),
        *map(_log, (b, m, n, k, b * m * n * k, b * m * k, b * n * k, b * m * n, m * n, b * m, b * n)),
        *_bounds(spec, hardware.known(kind), (b, m, n, k), tiles),
        *_lying(left, tiles[0], role, "bkm"),
        *_lying(right, tiles[1], role, "bkn"),
        *_lying(out, tiles[2], role, "bmn"),
        *_shared(*tiles),
        *_merged(left, role, (b, m, k), tiles[0]),
        *_merged(right, role, (b, n, k), tiles[1]),
        _log(math.gcd(k, 16)),
        _log(max(m, n)),
        _log(min(m, n)),
        *(_log(_filled(size, LANES) / size) for size in (k, m, n)),
        *(float(len(groups[name])) for name in "bkmn"),
        float(is_turned),
    ]
    return np.asarray(found, np.float32)


def _bounds(spec: DotSpec, device: hardware.Hardware, sizes: tuple[int, ...], tiles: list[Tiles]) -> list[float]:
    """Gives what units and memory need at least: of whole tiles, with either operand's rows as the matrix unit's."""
    b, m, n, k = sizes
    cycle_us, bytes_a_us = 1e-3 / device.clock_ghz, device.memory_bytes_per_s / 1e6
    width, wide = jnp.dtype(spec.lhs_dtype).itemsize, jnp.dtype(spec.dtype).itemsize
    moved = [width * tiles[0].elements, width * tiles[1].elements, wide * tiles[2].elements]
    plain = width * b * (m + n) * k + wide * b * m * n
    units = (
        b * _filled(rows, SUBLANES) * _filled(lanes, LANES) * _filled(k, LANES) for rows, lanes in ((m, n), (n, m))
    )
    us = [
        *(count / _PRODUCTS * cycle_us for count in (b * m * n * k, tiles[2].elements * k, tiles[0].elements * n)),
        *(2e6 * count / device.rate(spec.lhs_dtype) for count in units),
        *(count / bytes_a_us for count in (plain, sum(moved), *moved)),
    ]
    return list(map(_log, us))


def _lying(axes: Axes, tiles: Tiles, role: dict[str, str], roles: str) -> list[float]:
    """Says what an array's tiles are of, how much fills them up, and where its contracted axes lie."""
    order = "".join(role[label] for label, _ in axes)
    found = [
        _log(tiles.elements / max(1, math.prod(size for _, size in axes))),
        _log(tiles.lanes[1]),
        _log(tiles.rows[1]),
        float(len(axes)),
    ]
    for label in (tiles.lanes[0], tiles.rows[0], axes[-1][0] if axes else ""):
        found += [float(role.get(label) == one) for one in roles]
    behind = math.prod(size for _, size in axes[order.rfind("k") + 1 :])
    return [*found, float(order.count("b") == order.startswith("b")), _log(behind) if "k" in order else -1.0]


def _shared(left: Tiles, right: Tiles, out: Tiles) -> list[float]:
    """Says which arrays have the same axis along lanes, along rows, or one along the lanes of another's rows."""
    pairs = (left, out), (right, out), (left, right)
    same = [float(getattr(one, place) == getattr(other, place)) for place in ("lanes", "rows") for one, other in pairs]
    return [*same, float(left.lanes == out.rows), float(left.rows == out.lanes)]


def _merged(axes: Axes, role: dict[str, str], sizes: tuple[int, int, int], tiles: Tiles) -> list[float]:
    """Says what an operand is once its axes are merged to three, and whether it has to be laid out anew for that."""
    b, free, k = sizes
    order = "".join(role[label] for label, _ in axes)
    found = [_log(b * _filled(rows, SUBLANES) * _filled(lanes, LANES)) for rows, lanes in ((free, k), (k, free))]
    is_row_major = len(axes) < 2 or (tiles.lanes == axes[-1] and tiles.rows == axes[-2])
    sorts = [sorted(order, key=keys.index) == list(order) for keys in ("bmnk", "bkmn")]
    return [*found, *map(float, sorts), float(is_row_major)]


def _rows(size: int, width: int) -> int:
    """Counts the rows of a tile that an axis of this size lies along: 8, or fewer where it is shorter."""
    return max(_WORD // width, min(SUBLANES, 1 << (size - 1).bit_length()))


def _filled(size: int, tile: int) -> int:
    return -(-size // tile) * tile


def _log(size: float) -> float:
    return math.log2(max(size, 1e-6))
