"""The rows of a report of what each device holds where it holds most: arrays alike of one line of the source."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from jbdot import hlo
from jbdot.core.text import bytes_text
from jbdot.programs.communication_row import array, common, operation, part, short, source


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """Arrays of one shape that a device holds at once, for one line of the source.

    Attributes:
        role: "argument", "result" or "temporary".
        source: The user's line and the function around it, as of a `CommunicationRow`; empty of an argument.
        part: "forward", "backward" or "recomputed"; empty outside of a gradient.
        operation: JAX's name of the operation that makes it; empty of an argument.
        argument: The argument that it is, with a star for a number where several are alike.
        array: Its part on a device, such as "bfloat16[32,128]".
        count: How many there are.
        bytes: Of all of them, with what fills tiles up on TPUs.
    """

    role: str
    source: str
    part: str
    operation: str
    argument: str
    array: str
    count: int
    bytes: int

    @property
    def where(self) -> str:
        """Returns the line without its folder, or the argument."""
        return self.argument or short(self.source) or "an unknown line"

    @property
    def arrays(self) -> str:
        """Says which arrays they are, and how many."""
        return f"{self.count} x {self.array}" if self.count > 1 else self.array

    @property
    def what(self) -> str:
        """Says in a line whose they are."""
        return ", ".join(filter(None, (self.where, self.part, self.operation and f"by {self.operation}")))

    @property
    def cells(self) -> tuple[str, ...]:
        """Returns a row as text."""
        return bytes_text(self.bytes), self.role, self.arrays


def memory_rows_of(held: Iterable[hlo.Held], named: Callable[[str], str]) -> list[MemoryRow]:
    """Makes the rows of what is held at once, most bytes first; those that are alike are one.

    Args:
        held: The arrays.
        named: Gives the name of an argument by that in the compiled text.
    """
    joined: dict[Any, list[MemoryRow]] = collections.defaultdict(list)
    for one in held:
        row = _row(one, named)
        key = dataclasses.replace(row, argument=re.sub(r"\b\d+\b", "*", row.argument), count=0, bytes=0)
        joined[key].append(row)
    return sorted(map(_joined, joined.values()), key=lambda row: (-row.bytes, row.role, row.where, row.array))


def _row(one: hlo.Held, named: Callable[[str], str]) -> MemoryRow:
    origin = one.origin
    return MemoryRow(
        role=one.role,
        source=source(origin.frames),
        part=part(origin.op_name),
        operation=operation(origin.op_name),
        argument=named(origin.argument) if origin.argument else "",
        array=array(origin.shape),
        count=one.count,
        bytes=one.bytes,
    )


def _joined(rows: list[MemoryRow]) -> MemoryRow:
    return dataclasses.replace(
        rows[0],
        argument=common([row.argument for row in rows]),
        count=sum(row.count for row in rows),
        bytes=sum(row.bytes for row in rows),
    )
