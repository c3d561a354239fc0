"""A collective operation of a compiled module, and the arrays that it moves."""

import dataclasses
from collections.abc import Iterable
from typing import Final

from jbdot.hlo.instruction import Unreadable
from jbdot.hlo.origins import Origin

KINDS: Final = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation, as one device sees it. Bytes are those of the elements, without padding.

    Two are equal where they send the same in the same way, from wherever in the source they are.

    Attributes:
        kind: One of `KINDS`.
        group: How many devices take part together; of a permutation, how many send to another.
        groups: How many such groups there are.
        operand_bytes: What a device gives; of a ragged all-to-all, at most.
        result_bytes: What a device gets.
        times: How often it runs.
        across_slices: Whether it goes from slice to slice, over the network of the data center.
        origins: The arrays that it moves: several where the compiler has merged collectives.
        devices: Positions in the mesh of devices that talk: one group, or the pairs of a permutation. Empty across
            slices.
        beside: Whether it is started and ended apart, so that other work may run beside it.
        is_open: Whether a loop around it has a length that is not in the text.

    Example:
        >>> from jbdot.hlo import Collective
        >>> gather = Collective("all-gather", group=4, groups=4, operand_bytes=256, result_bytes=1024, times=3)
        >>> print(gather)
        3 x all-gather over 4 groups of 4, 256 to 1,024 bytes: 768 sent each time
    """

    kind: str
    group: int
    groups: int
    operand_bytes: int
    result_bytes: int
    times: int = 1
    across_slices: bool = False
    origins: tuple[Origin, ...] = dataclasses.field(default=(), compare=False, repr=False)
    devices: tuple[tuple[int, ...], ...] = dataclasses.field(default=(), compare=False, repr=False)
    beside: bool = dataclasses.field(default=False, compare=False, repr=False)
    is_open: bool = dataclasses.field(default=False, compare=False, repr=False)

    @property
    def sent(self) -> int:
        """Counts the bytes that a device sends each time, by the algorithm that sends fewest, rounded up."""
        if self.group < 2:
            return 0
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.operand_bytes
        whole = self.result_bytes if self.kind == "all-gather" else self.operand_bytes
        twice = 2 if self.kind == "all-reduce" else 1
        return -(-twice * whole * (self.group - 1) // self.group)

    def __str__(self) -> str:
        where = f"{self.groups} groups of {self.group}" if self.groups > 1 else str(self.group)
        where += " across slices" if self.across_slices else ""
        size = f"{self.operand_bytes:,} to {self.result_bytes:,} bytes"
        return f"{self.times} x {self.kind} over {where}, {size}: {self.sent:,} sent each time"


def total(found: Iterable[Collective]) -> int:
    """Counts the bytes that a device sends in all of them."""
    return sum(one.times * one.sent for one in found)


def with_result(
    kind: str, group: int, groups: int, given: int, devices: tuple[tuple[int, ...], ...] = ()
) -> Collective:
    """Reads a collective with the bytes of its result."""
    got = {"all-gather": given * group, "reduce-scatter": given // max(1, group)}.get(kind, given)
    return Collective(kind, group, groups, given, got, devices=devices)


def scattered(one: Collective, result_bytes: int, shape: str) -> Collective:
    """Returns the reduce-scatter that a fusion named `all-reduce-scatter` is, of what the fusion is given."""
    if one.kind != "all-reduce" or result_bytes * one.group != one.operand_bytes:
        raise Unreadable(f"a scatter of {one.operand_bytes} bytes over {one.group} gives {result_bytes}")
    origins = one.origins
    if len(origins) == 1:  # within it the array has another shape
        origins = (dataclasses.replace(origins[0], shape=shape),)
    return dataclasses.replace(one, kind="reduce-scatter", result_bytes=result_bytes, origins=origins)
