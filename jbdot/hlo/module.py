"""The computations of a compiled module: what calls what, and how often a loop runs."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Final

from jbdot.hlo.instruction import HEAD, NAME, UNCHANGED, Instruction, Unreadable

_LOOP: Final = re.compile(r"\bcondition=%([\w.\-]+), body=%([\w.\-]+)")
_BRANCHES: Final = re.compile(r"\bbranch_computations=\{([^}]*)\}|\b(?:true|false)_computation=(%[\w.\-]+)")
_KNOWN_TRIPS: Final = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Module:
    """The computations of a module, each a dict of instructions by name."""

    def __init__(self, text: str) -> None:
        self.head = text.partition("\n")[0]
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            if head := HEAD.match(line):
                name = head[2]
                self.computations[name] = {}
                self.entry = name if head[1] else self.entry
            elif name and (instruction := Instruction.read(line)):
                self.computations[name][instruction.name] = instruction
        if not self.entry:
            raise Unreadable("the text has no entry computation")
        self.devices = math.prod(map(int, re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text[:10_000])))
        self.callers = dict(self._loops())  # of each loop's body and condition: where the loop stands

    def _loops(self) -> Iterator[tuple[str, tuple[str, Instruction]]]:
        for caller, body in self.computations.items():
            for instruction in body.values():
                if instruction.opcode == "while":
                    for name in parts(instruction):
                        yield name, (caller, instruction)

    def _called(self, instruction: Instruction) -> list[str]:
        return [name for name in NAME.findall(instruction.attributes) if name in self.computations]

    # What it costs.

    def total(self, known: "Callable[[dict[str, Instruction], Instruction], int | None]") -> int:
        """Sums `cost(instruction)` over the program, times trip counts; one without a cost counts what it calls."""

        @functools.cache
        def of(name: str) -> int:
            return sum(cost(name, instruction) for instruction in self.computations[name].values())

        def cost(caller: str, instruction: Instruction) -> int:
            found = known(self.computations[caller], instruction)
            if found is not None:
                return found
            if instruction.opcode == "while":
                each = of(parts(instruction)[1])
                return each * self.trips(caller, instruction) if each else each
            if instruction.opcode == "conditional":
                return max(map(of, branches(instruction)))
            return sum(map(of, self._called(instruction)))

        return of(self.entry)

    # How often a loop runs.

    def trips(self, caller: str, loop: Instruction) -> int:
        """Reads the trips off a loop's counter: where it starts, by how much it goes up, and below what it stays."""
        if known := _KNOWN_TRIPS.search(loop.attributes):
            return int(known[1])
        condition, body = parts(loop)
        test = self._root(condition)
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            raise Unreadable(f"the condition of {loop.name} is no counter below a number")
        counter, offset = self._linear(condition, test.operands[0])
        if counter is None:
            raise Unreadable(f"the condition of {loop.name} has no counter")
        again, step = self._linear(body, self._root(body).operands[counter])
        if again != counter or step < 1:
            raise Unreadable(f"the counter of {loop.name} does not go up by a number")
        start = self._integer(caller, self._element(caller, loop.operands[0], counter)) + offset
        return max(0, -(-(self._integer(condition, test.operands[1]) - start) // step))

    def _root(self, name: str) -> Instruction:
        return next(line for line in self.computations[name].values() if line.is_root)

    def _linear(self, name: str, value: str) -> tuple[int | None, int]:
        """Reads an integer as a sum: the index of what the loop carries, if any, and a constant."""
        line = self.computations[name][value]
        if line.opcode == "constant" and re.fullmatch(r"-?\d+", line.inside) and re.match(r"[su]\d+\[\]", line.shape):
            return None, int(line.inside)
        if line.opcode in UNCHANGED:
            return self._linear(name, line.operands[0])
        if line.opcode == "get-tuple-element":
            if self.computations[name][line.operands[0]].opcode == "parameter":
                return line.index, 0
            return self._linear(name, self._element(name, line.operands[0], line.index))
        if line.opcode == "add":
            (left, more), (right, rest) = (self._linear(name, operand) for operand in line.operands)
            if left is None or right is None:
                return right if left is None else left, more + rest
        raise Unreadable(f"{value} is no known sum: {line.opcode}")

    def _integer(self, name: str, value: str) -> int:
        """Returns the integer that a value always is, where it stands or where a loop around it was entered."""
        index, offset = self._linear(name, value)
        if index is None:
            return offset
        if name not in self.callers:
            raise Unreadable(f"{value} is given from outside")
        caller, loop = self.callers[name]
        return offset + self._integer(caller, self._element(caller, loop.operands[0], index, loop))

    def _element(self, name: str, value: str, index: int, loop: Instruction | None = None) -> str:
        """Returns the name of an element of a tuple; behind a loop, or inside one, of one that it leaves as it is."""
        if loop and self._linear(body := parts(loop)[1], self._root(body).operands[index]) != (index, 0):
            raise Unreadable(f"{loop.name} changes what it carries at {index}")
        line = self.computations[name][value]
        if line.opcode == "tuple":
            return line.operands[index]
        if line.opcode == "while":
            return self._element(name, line.operands[0], index, line)
        if line.opcode in UNCHANGED:
            return self._element(name, line.operands[0], index)
        raise Unreadable(f"{value} is no known tuple: {line.opcode}")


def parts(loop: Instruction) -> tuple[str, str]:
    """Returns the condition and the body of a loop."""
    found = _LOOP.search(loop.attributes)
    if not found:
        raise Unreadable(f"{loop.name} has no condition and body")
    return found[1], found[2]


def branches(conditional: Instruction) -> list[str]:
    """Names the computations of which a conditional runs one."""
    found = _BRANCHES.findall(conditional.attributes)
    return [name for several, one in found for name in NAME.findall(several or one)]
