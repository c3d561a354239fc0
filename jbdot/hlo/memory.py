"""The arrays that a device holds at once where it holds most, by the schedule of a compiled module.

The text has no addresses, but it stands in the order in which it runs. An array is held from where it is made to where
it, or what only names it anew, is read last. It takes no place of its own where XLA writes in place: what a loop
carries, an update of a slice, a result that a donated argument gives its place to, and an elementwise operation on what
is read there for the last time. What stands in the fast memory of a core, or at the host, is not counted.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from jbdot.hlo.instruction import NAME, Instruction, plain, tiled_bytes
from jbdot.hlo.module import branches, parts
from jbdot.hlo.origins import Origin, Origins

_ALIAS: Final = re.compile(r"\{(\d*)\}: \((\d+), \{\}")  # a result, and the operand or argument whose place it takes
_ONE: Final = re.compile(r"[a-z]\w*\[[\d,<=]*\](?:\{[^}]*\})?")
_ELSEWHERE: Final = re.compile(r"S\([1-9]\d*\)")
_SAME: Final = frozenset(("bitcast", "optimization-barrier", "add-dependency"))
_FREE: Final = frozenset(("constant", "partition-id", "replica-id", "after-all"))
_WHOLE: Final = frozenset(  # not written where an operand is read
    ("dot", "convolution", "all-gather", "reduce-scatter", "all-to-all", "sort", "transpose", "copy", "custom-call")
)


@dataclasses.dataclass(frozen=True)
class Held:
    """Arrays alike that a device holds at once.

    Attributes:
        origin: One of them.
        role: "argument", "result" or "temporary".
        count: How many there are.
    """

    origin: Origin
    role: str
    count: int = 1

    @property
    def bytes(self) -> int:
        """Counts the bytes of all of them, with what fills tiles up."""
        return self.origin.given * self.count


@dataclasses.dataclass(eq=False)
class _Array:
    """An array in memory: the line that writes it, what it takes, and from where to where it is held."""

    body: str
    line: Instruction
    shape: str
    first: int
    role: str = "temporary"
    last: int = -1

    def __post_init__(self) -> None:
        self.size = 0 if _ELSEWHERE.search(self.shape) else tiled_bytes(self.shape)


_Elements = list[tuple[_Array, ...]]  # of each element of a tuple the arrays in it; an array that stands alone is one


class Memory(Origins):
    """A module, and what is held in it."""

    def peak(self) -> tuple[Held, ...]:
        """Returns what is held where most is, the most bytes first; arguments are held all the time."""
        lines = [line for line in self.computations[self.entry].values() if line.opcode == "parameter"]
        lines.sort(key=lambda line: int(line.inside))
        arguments = [_Array(self.entry, line, line.shape, 0, "argument") for line in lines]
        run = _Run(self, self.entry, [[(array,)] for array in arguments])
        aliases = self.head.partition("input_output_alias=")[2].partition("entry_computation_layout")[0]
        run.given_back({int(result or 0) for result, _ in _ALIAS.findall(aliases)})
        return self._merged([*arguments, *run.most()])

    def _merged(self, arrays: Iterable[_Array]) -> tuple[Held, ...]:
        found: collections.Counter[tuple[Origin, str]] = collections.Counter()
        for array in arrays:
            body = self.computations[array.body]
            origin = self.origin(body, array.line, plain(array.shape), array.size)
            if array.role == "argument":
                origin = Origin(origin.shape, origin.given, argument=self.argument(body, array.line))
            found[origin, array.role] += 1
        held = (Held(origin, role, count) for (origin, role), count in found.items())
        return tuple(sorted(held, key=lambda one: -one.bytes))


class _Run:
    """A computation as it runs: the arrays that each name stands for, and those that it makes."""

    def __init__(self, module: Memory, name: str, given: Sequence[_Elements]) -> None:
        self.module, self.name, self.given = module, name, given
        self.values: dict[str, _Elements] = {}
        self.made: list[_Array] = []
        self.within: dict[int, list[_Array]] = {}  # what a computation that is called holds while it runs
        lines = module.computations[name]
        for at, line in enumerate(lines.values()):
            self.values[line.name] = self._value(at, line)
            for array in itertools.chain.from_iterable(itertools.chain(*self._operands(line))):
                array.last = max(array.last, at) if array in self.made else array.last
        self.root = next(self.values[line.name] for line in lines.values() if line.is_root)
        self._share()

    def most(self, without: Iterable[_Array] = ()) -> list[_Array]:
        """Returns what is held at most, besides what was given and some that are counted elsewhere."""
        left_out = set(map(id, without))
        own = [array for array in self.made if array.size and id(array) not in left_out]
        best, most = list[_Array](), 0
        for at in sorted({array.first for array in own} | self.within.keys()):
            held = [array for array in own if array.first <= at <= array.last] + self.within.get(at, [])
            if (size := sum(array.size for array in held)) > most:
                best, most = held, size
        return best

    def given_back(self, in_place: set[int]) -> None:
        """Holds results to the end; those in the place of an argument take none of their own."""
        for number, element in enumerate(self.root):
            for array in element:
                if array.role != "argument":
                    array.role, array.last = "result", len(self.values)
                    array.size = 0 if number in in_place else array.size

    def _operands(self, line: Instruction) -> list[_Elements]:
        return [self.values.get(operand, []) for operand in line.operands]

    def _value(self, at: int, line: Instruction) -> _Elements:
        """Says which arrays a line gives, and notes those that it makes."""
        of, opcode = self._operands(line), line.opcode
        if opcode == "parameter":
            return self.given[int(line.inside)]
        if opcode == "tuple":
            return [tuple(itertools.chain(*elements)) for elements in of]
        if opcode == "get-tuple-element":
            return of[0][line.index : line.index + 1] if len(of[0]) > 1 else of[0]
        if opcode in _SAME:
            return of[0]
        if opcode in _FREE:
            return [()]
        if opcode == "while":
            return self._loop(at, line, of[0])
        if opcode == "conditional":
            runs = [_Run(self.module, name, [given]) for name, given in zip(branches(line), of[1:], strict=True)]
            self.within[at] = max((run.most() for run in runs), key=lambda held: sum(array.size for array in held))
        if opcode == "call":
            return self._call(at, line, of)
        if opcode.endswith("-done"):
            return self._done(line, of[0])
        return self._new(at, line, of)

    def _loop(self, at: int, line: Instruction, carried: _Elements) -> _Elements:
        """Gives what the loop carries, in its place; an array that it makes anew is for the line that makes it."""
        run = _Run(self.module, parts(line)[1], [carried])
        ends = [array for element in run.root for array in element]
        self.within[at] = run.most(without=ends)
        for before, after in zip(carried, run.root, strict=False):
            if len(before) == len(after) == 1 and after[0] in run.made and before[0].role == "temporary":
                before[0].body, before[0].line = after[0].body, after[0].line
        return carried

    def _call(self, at: int, line: Instruction, of: list[_Elements]) -> _Elements:
        (name,) = (name for name in NAME.findall(line.attributes) if name in self.module.computations)
        run = _Run(self.module, name, of)
        ends = [array for element in run.root for array in element if array in run.made]
        self.within[at] = run.most(without=ends)
        for array in ends:
            array.first = array.last = at
        self.made += ends
        return run.root

    def _done(self, line: Instruction, started: _Elements) -> _Elements:
        """Gives the result of what was started: the second of its parts, the first of a copy, all of an all-reduce."""
        if line.opcode == "all-reduce-done":
            return started
        result = started[0 if line.opcode == "copy-done" else min(1, len(started) - 1)]
        return [(array,) for array in result] if line.shape.startswith("(") else [result]

    def _new(self, at: int, line: Instruction, of: list[_Elements]) -> _Elements:
        pieces = _pieces(line.shape)
        kept = self._kept(line)
        if line.opcode.endswith("-start") and line.opcode != "all-reduce-start":
            kept = {1 if line.opcode == "copy-start" else 0: 0}
        found: _Elements = []
        for number, piece in enumerate(pieces):
            place = of[kept[number]] if number in kept and kept[number] < len(of) else []
            if len(place) == 1:
                for array in place[0]:
                    if array.role == "temporary" and not line.opcode.endswith("-start"):
                        array.body, array.line = self._written(line, number)
                found.append(place[0])
                continue
            element = tuple(_Array(self.name, line, one, at, last=at) for one in _ONE.findall(piece))
            self.made += element
            found.append(element)
        return found

    def _kept(self, line: Instruction) -> dict[int, int]:
        """Says which results of a line are written in the place of which operand: updates of slices, and the like."""
        if line.opcode == "dynamic-update-slice":
            return {0: 0}
        aliases = line.attributes.partition("output_to_operand_aliasing=")[2].partition("}}")[0]
        if aliases:
            return {int(result or 0): int(operand) for result, operand in _ALIAS.findall(aliases)}
        if line.opcode != "fusion":
            return {}
        body = self.module.computations[self._fused(line)]
        found = {number: _updated(body, end) for number, end in enumerate(_ends(body))}
        return {number: operand for number, operand in found.items() if operand is not None}

    def _written(self, line: Instruction, number: int) -> tuple[str, Instruction]:
        """Returns what a line writes into an array in place: of an update of a slice, what made the slice."""
        computations = self.module.computations
        name, found = self.name, line
        if line.opcode == "fusion":
            name = self._fused(line)
            found = _ends(computations[name])[number]
        while found.opcode in ("dynamic-update-slice", *_SAME, "copy", "convert", "reshape"):
            found = computations[name][found.operands[found.opcode == "dynamic-update-slice"]]
            if found.opcode == "parameter" and name != self.name:
                name, found = self.name, computations[self.name][line.operands[int(found.inside)]]
        op_name, frames = self.module.sources.of(found.attributes)
        return (name, found) if op_name and frames else (self.name, line)

    def _fused(self, fusion: Instruction) -> str:
        return next(name for name in NAME.findall(fusion.attributes) if name in self.module.computations)

    def _share(self) -> None:
        """Lets an elementwise operation write where it reads what nothing reads after it."""
        given_up = set[int]()
        by_end: dict[int, list[_Array]] = {}
        for array in self.made:
            by_end.setdefault(array.last, []).append(array)
        kept = {id(array) for element in self.root for array in element}
        for array in self.made:
            if array.line.opcode in _WHOLE or (
                array.line.opcode == "fusion" and "kind=kLoop" not in array.line.attributes
            ):
                continue
            for other in by_end.get(array.first, []):
                is_free = id(other) not in given_up and id(other) not in kept and other.first < array.first
                if is_free and other.size == array.size and other is not array:
                    other.last = array.first - 1
                    given_up.add(id(other))
                    break


def _pieces(shape: str) -> list[str]:
    """Splits the shape of a tuple into those of its elements.

    Example:
        >>> _pieces("((f32[8]{0}), bf16[4,2]{1,0}, u32[])"), _pieces("f32[4,2]{1,0}")
        (['(f32[8]{0})', 'bf16[4,2]{1,0}', 'u32[]'], ['f32[4,2]{1,0}'])
    """
    if not shape.startswith("("):
        return [shape]
    found, depth, start = list[str](), 0, 1
    for place, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or not depth:
            found.append(shape[start:place].strip())
            start = place + 1
    return [re.sub(r"/\*.*?\*/", "", one) for one in found]


def _ends(body: Mapping[str, Instruction]) -> list[Instruction]:
    """Returns what makes each result of a computation."""
    root = next(line for line in body.values() if line.is_root)
    return [body[operand] for operand in root.operands] if root.opcode == "tuple" else [root]


def _updated(body: Mapping[str, Instruction], line: Instruction) -> int | None:
    """Says which parameter of a fusion an update of a slice is written into; None of another operation."""
    is_update = False
    while line.opcode in ("bitcast", "dynamic-update-slice"):
        is_update |= line.opcode == "dynamic-update-slice"
        line = body[line.operands[0]]
    return int(line.inside) if is_update and line.opcode == "parameter" else None
