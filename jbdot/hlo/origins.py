"""Where in the source the arrays of a module are from."""

import dataclasses
import functools
import re
from typing import Final

from jbdot.hlo.instruction import Instruction, is_same
from jbdot.hlo.module import Module
from jbdot.hlo.sources import Frame, Sources

_CARRIED: Final = (
    "remat2",
    "remat",
    "checkpoint",
    "while",
    "optimization_barrier",
    "squeeze",
)  # JAX's names of what computes nothing
_CHANNEL: Final = re.compile(r"\bchannel_id=(\d+)")
_HOLDING: Final = ("tuple", "while", "conditional", "call")  # what reads it does not read each of its parts


@dataclasses.dataclass(frozen=True)
class Origin:
    """An array, and where in the source it is from.

    Attributes:
        shape: What a device gives, or holds, such as "bf16[32,128]".
        given: The bytes of it.
        op_name: JAX's name of the operation, such as "jit(step)/transpose(jvp())/dot_general"; empty where none is
            known.
        argument: The name of the argument of the program that the array is, where it is one.
        frames: The lines that called for it, the innermost first.
        cut: How the array is cut over the mesh before and after, in words; empty where that is not known.
    """

    shape: str
    given: int
    op_name: str = ""
    argument: str = ""
    frames: tuple[Frame, ...] = ()
    cut: str = ""


class Origins(Module):
    """A module that says where its arrays are from."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.sources = Sources(text)

    def origin(
        self, body: dict[str, Instruction], line: Instruction, shape: str, given: int, end: Instruction | None = None
    ) -> Origin:
        """Reads the line of an operation; of what is only carried into a loop or a remat, that of what reads it first.

        An argument has no line. What is started beside a dot is read after its end, which stands in the body then.
        """
        op_name, frames = self.sources.of(line.attributes)
        if not frames or op_name.rpartition("/")[2] in _CARRIED:
            reading, at = self.reader(body, (end or line).name)
            op_name, frames = (reading, at) if at else (op_name, frames)
        return Origin(shape, given, op_name, frames=frames)

    def argument(self, body: dict[str, Instruction], line: Instruction) -> str:
        """Names the argument of the program that a value is, be it cast or laid out anew."""
        while line.opcode != "parameter":
            if len(line.operands) != 1 or not is_same(line, before := body[line.operands[0]]):
                return ""
            line = before
        op_name, _ = self.sources.of(line.attributes)
        return "" if "/" in op_name else op_name

    def reader(self, body: dict[str, Instruction], name: str) -> tuple[str, tuple[Frame, ...]]:
        """Finds the first operation of a known line that reads a value, be it copied, fused or taken apart before."""
        values = {name}
        for line in body.values():
            read = values.intersection(line.operands)
            if not read or line.opcode in _HOLDING:
                continue
            ends = [self._ends[self._starts[of]] for of in self._called(line) if self._starts.get(of) in self._ends]
            if ends:
                values.update(end.name for _, end in ends)
                continue
            op_name, frames = self._reads(line, read)
            if frames and op_name.rpartition("/")[2] not in _CARRIED:
                return op_name, frames
            values.add(line.name)
        return "", ()

    def end(self, collective: Instruction) -> tuple[str, Instruction] | None:
        """Returns what ends a collective that is started beside a dot, and the name of the computation that it is in.

        The parts that start, go on and end have one channel.
        """
        found = _CHANNEL.search(collective.attributes)
        return self._ends.get(found[1]) if found else None

    @functools.cached_property
    def _ends(self) -> dict[str, tuple[str, Instruction]]:
        ended = self._channels("AsyncCollectiveDone")
        return {
            ended[called]: (caller, line)
            for caller, body in self.computations.items()
            for line in body.values()
            for called in self._called(line)
            if called in ended
        }

    @functools.cached_property
    def _starts(self) -> dict[str, str]:
        return self._channels("AsyncCollectiveStart")

    def _channels(self, target: str) -> dict[str, str]:
        """Says for each computation that starts, or ends, a collective which channel that has."""
        return {
            name: found[1]
            for name, body in self.computations.items()
            for line in body.values()
            if f'custom_call_target="{target}"' in line.attributes
            for operand in line.operands
            if (found := _CHANNEL.search(body[operand].attributes))
        }

    def _reads(self, line: Instruction, values: set[str]) -> tuple[str, tuple[Frame, ...]]:
        """Says what reads values: a fusion has the name of its result, and something else within may read them."""
        for called in self._called(line) if line.opcode == "fusion" else ():
            body = self.computations[called]
            for within in body.values():
                if within.opcode == "parameter" and line.operands[int(within.inside)] in values:
                    op_name, frames = self.reader(body, within.name)
                    if frames:
                        return op_name, frames
        return self.sources.of(line.attributes)
