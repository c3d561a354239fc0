"""Where in the source the arrays of a module are from."""

import dataclasses
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

    def origin(self, body: dict[str, Instruction], line: Instruction, shape: str, given: int) -> Origin:
        """Reads the line of an operation; of what is only carried into a loop or a remat, that of what reads it first.

        An argument has no line.
        """
        op_name, frames = self.sources.of(line.attributes)
        if not frames or op_name.rpartition("/")[2] in _CARRIED:
            reading, at = self.reader(body, line.name)
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
        """Finds the first operation of a known line that reads a value, be it copied or taken apart before."""
        values = {name}
        for line in body.values():
            if values.intersection(line.operands) and line.opcode not in _HOLDING:
                op_name, frames = self.sources.of(line.attributes)
                if frames and op_name.rpartition("/")[2] not in _CARRIED:
                    return op_name, frames
                values.add(line.name)
        return "", ()
