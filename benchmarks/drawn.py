"""Random contractions that nobody picked: up to two axes of each role, in orders that programs have, and in others."""

import dataclasses
import math
import random
from typing import Final

from jbdot.one_device.dot_spec import DotSpec

SIZES: Final = (
    *(2, 3, 4, 5, 6, 8, 8, 10, 12, 16, 16, 20, 24, 32, 32, 48, 64, 64, 96, 100, 128, 128, 200, 256),
    *(384, 512, 768, 1000, 1024, 2000, 2048, 4096),
)
COUNTS: Final = {"b": (0, 0, 1, 1, 1, 2), "m": (0, 1, 1, 1, 2), "n": (0, 1, 1, 1, 2), "k": (1, 1, 1, 2)}
SUMS: Final = {
    "int8": "int32",
    "uint8": "uint32",
    "float8_e4m3fn": "float32",
}  # the result's dtype where it is not the operands'

Axis = tuple[str, int]  # a role, and which of its axes


@dataclasses.dataclass(frozen=True)
class Range:
    """How large a contraction may be.

    Attributes:
        work: The fewest and the most multiply-adds.
        elements: The fewest and the most elements of the largest of operands and result.
    """

    work: tuple[int, int]
    elements: tuple[int, int]

    def holds(self, sizes: dict[Axis, int]) -> bool:
        """Says whether a contraction of these sizes is neither too small nor too large."""

        def count(roles: str) -> int:
            return math.prod(size for (role, _), size in sizes.items() if role in roles)

        largest = max(count("bmk"), count("bkn"), count("bmn"))
        return all(low <= got <= high for got, (low, high) in ((count("bmnk"), self.work), (largest, self.elements)))


MEDIUM: Final = Range((1 << 13, 1 << 28), (1 << 8, 1 << 23))
LARGE: Final = Range((1 << 26, 1 << 35), (1 << 20, 1 << 24))


def drawn(rng: random.Random, dtype: str, within: Range = MEDIUM) -> DotSpec:
    """Draws a contraction: half the time batch axes lead, a quarter they stand as in (b, s, h, d), else anywhere."""
    while True:
        counts = {role: rng.choice(choices) for role, choices in COUNTS.items()}
        sizes = {(role, i): rng.choice(SIZES) for role in "bmnk" for i in range(counts[role])}
        if counts["b"] + counts["m"] + counts["n"] and within.holds(sizes):
            break
    lhs, rhs = ([axis for role in roles for axis in sizes if axis[0] == role] for roles in ("bmk", "bkn"))
    style = rng.random()
    for axes in (lhs, rhs):
        if style < 0.5:
            if rng.random() < 0.5:
                batch, rest = axes[: counts["b"]], axes[counts["b"] :]
                first = rest[0][0] if rest else ""
                turned = [axis for axis in rest if axis[0] != first] + [axis for axis in rest if axis[0] == first]
                axes[:] = batch + turned
        elif style < 0.75:
            if counts["b"] and len(axes) > counts["b"]:
                last = axes.pop(counts["b"] - 1)
                axes.insert(rng.randrange(len(axes)), last)
        else:
            rng.shuffle(axes)
    numbers = tuple(
        tuple(tuple(axes.index(axis) for axis in sizes if axis[0] == role) for axes in (lhs, rhs)) for role in "kb"
    )
    shapes = (tuple(sizes[axis] for axis in axes) for axes in (lhs, rhs))
    return DotSpec(*shapes, dtype, dtype, numbers, SUMS.get(dtype, dtype))
