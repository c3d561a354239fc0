"""Reads the text of a compiled XLA module: what its collectives send, its dots compute, the TPU compiler estimates.

The text is what `compiled.as_text()` gives, from the compilers for TPU, GPU and CPU. Five things in it mislead whoever
counts words, and are minded here:

- A reduce-scatter on a TPU is a fusion named `all-reduce-scatter` that holds an `all-reduce`.
- A collective that runs beside a dot stands in three fusions: the one that starts it, the dot's, the one that ends it.
- A loop's body stands once, and may be unrolled: its counter then goes up by more than one.
- Groups of devices are written as lists, as a reshaped and transposed range, or as axes of a mesh.
- Between slices of TPUs a collective is a `send` to the host, which says what it is part of.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

KINDS: Final = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Unreadable(ValueError):
    """The text has a form that is not known here."""


class NoEstimate(Unreadable):
    """The compiler left an estimate out."""


class Frame(NamedTuple):
    """A line of the source, and the function that it stands in; the empty string where that is not known."""

    file: str
    line: int
    function: str


@dataclasses.dataclass(frozen=True)
class Origin:
    """An array that a collective moves, and where in the source it is from.

    Attributes:
        shape: What a device gives, such as "bf16[32,128]".
        given: The bytes of it.
        op_name: JAX's name of the operation, such as "jit(step)/transpose(jvp())/dot_general"; empty where none is
            known.
        argument: The name of the argument of the program that the array is, where it is one.
        frames: The lines that called for it, the innermost first.
    """

    shape: str
    given: int
    op_name: str = ""
    argument: str = ""
    frames: tuple[Frame, ...] = ()


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


def collectives(text: str, open_trips: int | None = None) -> tuple[Collective, ...]:
    """Finds the collectives of a compiled module, in the order of the text, each once with how often it runs.

    Of a conditional's branches the one that sends most counts.

    Args:
        text: The module.
        open_trips: How many trips count of a loop whose length is not in the text; None refuses such a loop.

    Raises:
        Unreadable: How often a loop with collectives runs is not in the text, or a form is not known.

    Example:
        >>> from jbdot.hlo import collectives
        >>> text = '''HloModule jit_f, num_partitions=8
        ...
        ... ENTRY %main (x: bf16[8,4]) -> bf16[32,4] {
        ...   %x = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
        ...   ROOT %g = bf16[32,4]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
        ... }'''
        >>> [str(found) for found in collectives(text)]
        ['1 x all-gather over 2 groups of 4, 64 to 256 bytes: 192 sent each time']
    """
    module = _Module(text, open_trips)
    return tuple(module.collectives(module.entry))


def bytes_sent(text: str) -> int:
    """Sums what each device sends: `sent` of every collective, as often as it runs."""
    return _total(collectives(text))


def estimated_cycles(text: str) -> int:
    """Sums the estimates of a compiled module, each as often as it runs.

    A fusion has one estimate for all that it holds. What is in a loop counts once a trip, and of a conditional's
    branches the costliest counts. Operations without an estimate, such as asynchronous copies and collectives, count
    nothing.

    Raises:
        NoEstimate: An estimate is below zero, or the largest number, as the compiler says where it has none.
        Unreadable: How often a loop runs is not in the text.
    """
    return _Module(text).total(_estimate)


def dot_flops(text: str) -> int:
    """Sums 2 FLOP for each multiply-add of the dots and convolutions of a compiled module, each as often as it runs.

    (What JAX's `cost_analysis` gives counts a loop's body once.) Of a conditional's branches the costliest counts.

    Raises:
        Unreadable: A library or a kernel of somebody's own computes, or how often a loop runs is not in the text.
    """
    return _Module(text).total(_flops)


def _total(found: Iterable[Collective]) -> int:
    return sum(one.times * one.sent for one in found)


# Instructions.

_HEAD: Final = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE: Final = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_NAME: Final = re.compile(r"%([\w.\-]+)")
_INDEX: Final = re.compile(r"\bindex=(\d+)")
_LOOP: Final = re.compile(r"\bcondition=%([\w.\-]+), body=%([\w.\-]+)")
_BRANCHES: Final = re.compile(r"\bbranch_computations=\{([^}]*)\}|\b(?:true|false)_computation=(%[\w.\-]+)")
_KNOWN_TRIPS: Final = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_UNCHANGED: Final = frozenset(("copy", "copy-start", "copy-done", "bitcast", "convert", "reshape"))


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """A line: `%name = shape opcode(inside), attributes`."""

    name: str
    shape: str
    opcode: str
    inside: str
    attributes: str
    is_root: bool

    @classmethod
    def read(cls, line: str) -> "_Instruction | None":
        found = _LINE.match(line)
        if not found:
            return None
        root, name, shape, opcode, rest = found.groups()
        end = _closing(rest)
        return cls(name, shape, opcode, rest[:end], rest[end + 1 :], bool(root))

    @functools.cached_property
    def operands(self) -> list[str]:
        return _NAME.findall(self.inside)

    @property
    def index(self) -> int:
        found = _INDEX.search(self.attributes)
        if not found:
            raise Unreadable(f"{self.name} has no index")
        return int(found[1])


def _closing(text: str) -> int:
    """Says where the parenthesis closes that stands open before the text."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    raise Unreadable(f"a parenthesis stays open: {text[:80]}")


# Computations.


class _Module:
    """The computations of a module, each a dict of instructions by name."""

    def __init__(self, text: str, open_trips: int | None = None) -> None:
        self.open_trips = open_trips
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            if head := _HEAD.match(line):
                name = head[2]
                self.computations[name] = {}
                self.entry = name if head[1] else self.entry
            elif name and (instruction := _Instruction.read(line)):
                self.computations[name][instruction.name] = instruction
        if not self.entry:
            raise Unreadable("the text has no entry computation")
        self.devices = math.prod(map(int, re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text[:10_000])))
        self.sources = _Sources(text)
        self.callers = dict(self._loops())  # of each loop's body and condition: where the loop stands
        self.collectives = functools.cache(self._collectives)

    def _loops(self) -> Iterator[tuple[str, tuple[str, _Instruction]]]:
        for caller, body in self.computations.items():
            for instruction in body.values():
                if instruction.opcode == "while":
                    for name in _parts(instruction):
                        yield name, (caller, instruction)

    def _called(self, instruction: _Instruction) -> list[str]:
        return [name for name in _NAME.findall(instruction.attributes) if name in self.computations]

    # What it costs.

    def total(self, known: "Callable[[dict[str, _Instruction], _Instruction], int | None]") -> int:
        """Sums `cost(instruction)` over the program, times trip counts; one without a cost counts what it calls."""

        @functools.cache
        def of(name: str) -> int:
            return sum(cost(name, instruction) for instruction in self.computations[name].values())

        def cost(caller: str, instruction: _Instruction) -> int:
            found = known(self.computations[caller], instruction)
            if found is not None:
                return found
            if instruction.opcode == "while":
                each = of(_parts(instruction)[1])
                return each * self.trips(caller, instruction) if each else each
            if instruction.opcode == "conditional":
                return max(map(of, _branches(instruction)))
            return sum(map(of, self._called(instruction)))

        return of(self.entry)

    # What is sent.

    def _collectives(self, name: str) -> list[Collective]:
        return [one for line in self.computations[name].values() for one in self._sent(name, line)]

    def _sent(self, caller: str, instruction: _Instruction) -> list[Collective]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            is_apart = "async_collective_fusion_config" in instruction.attributes
            if is_apart and not self._starts(caller, instruction):
                return []
            one = self._collective(kind, caller, instruction)
            origins = tuple(self._origins(kind, caller, instruction))
            return [dataclasses.replace(one, origins=origins, beside=is_apart or instruction.opcode != kind)]
        if instruction.opcode == "send":
            return self._across(caller, instruction)
        if instruction.opcode == "while":
            return self._looped(caller, instruction)
        if instruction.opcode == "conditional":
            return max(map(self.collectives, _branches(instruction)), key=_total)
        called = self._called(instruction)
        found = [one for name in called for one in self.collectives(name)]
        if any(name.startswith("all-reduce-scatter") for name in called):
            given = _plain(self.computations[caller][instruction.operands[0]].shape)
            found = [_scattered(one, _bytes(instruction.shape), given) for one in found]
        return [self._called_for(self.computations[caller], instruction, one) for one in found]

    def _called_for(self, body: dict[str, _Instruction], call: _Instruction, one: Collective) -> Collective:
        """Gives a collective that has no line the one of what calls it, and the name of the argument."""
        if all(origin.frames for origin in one.origins):
            return one
        op_name, frames = self.sources.of(call.attributes)
        if not frames:
            reading, frames = self._reader(body, call.name)
            op_name = reading or op_name
        argument = self._argument(body, body[call.operands[0]]) if len(call.operands) == len(one.origins) == 1 else ""
        origins = (
            each if each.frames else Origin(each.shape, each.given, op_name, each.argument or argument, frames)
            for each in one.origins
        )
        return dataclasses.replace(one, origins=tuple(origins))

    def _starts(self, name: str, collective: _Instruction) -> bool:
        """Says whether a collective beside a dot starts here: it stands in the dot's fusion and where it ends, too."""
        users = (line for line in self.computations[name].values() if collective.name in line.operands)
        return any('custom_call_target="AsyncCollectiveStart"' in user.attributes for user in users)

    def _looped(self, caller: str, loop: _Instruction) -> list[Collective]:
        condition, body = map(self.collectives, _parts(loop))
        if not condition and not body:
            return []
        try:
            trips, is_open = self.trips(caller, loop), False
        except Unreadable:
            if self.open_trips is None:
                raise
            trips, is_open = self.open_trips, True
        runs = [(one, trips + 1) for one in condition] + [(one, trips) for one in body]
        return [
            dataclasses.replace(one, times=one.times * times, is_open=one.is_open or is_open)
            for one, times in runs
            if times
        ]

    def _collective(self, kind: str, name: str, instruction: _Instruction) -> Collective:
        operands = instruction.operands[:1] if kind == "ragged-all-to-all" else instruction.operands
        given = sum(_bytes(self.computations[name][operand].shape) for operand in operands)
        if kind != "collective-permute":
            group, groups = _groups(instruction.attributes, self.devices)
            return _of(kind, group, groups, given, (_members(instruction.attributes, self.devices),))
        pairs = _PAIRS.search(instruction.attributes)
        if not pairs or "slice_sizes=" in instruction.attributes:
            raise Unreadable(f"{instruction.name} has no pairs, or sends slices of its operands")
        return _of(kind, _senders(pairs[1], ","), 1, given, _integers(pairs[1]))

    def _origins(self, kind: str, name: str, instruction: _Instruction) -> Iterator[Origin]:
        """Says where each array of a collective is from: the parts of a tuple say it each for itself."""
        body, operands = self.computations[name], instruction.operands
        shapes = [body[operand].shape for operand in operands]
        if kind in ("all-to-all", "ragged-all-to-all") and len(operands) > 1:  # parts of one array
            pieces = shapes if kind == "all-to-all" else shapes[:1]
            count = f"{len(pieces)} x " if len(pieces) > 1 else ""
            yield self._origin(body, instruction, count + _plain(shapes[0]), sum(map(_bytes, pieces)))
            return
        for index, (operand, shape) in enumerate(zip(operands, shapes, strict=True)):
            part = self._part(body, instruction.name, index) if len(shapes) > 1 else None
            origin = self._origin(body, part or instruction, _plain(shape), _bytes(shape))
            yield dataclasses.replace(origin, argument=self._argument(body, body[operand]))

    def _part(self, body: dict[str, _Instruction], name: str, index: int) -> "_Instruction | None":
        """Returns what takes an element out of a collective's result."""
        for line in body.values():
            if line.opcode == "get-tuple-element" and line.operands == [name] and line.index == index:
                return line if "op_name=" in line.attributes else None
        return None

    def _origin(self, body: dict[str, _Instruction], line: _Instruction, shape: str, given: int) -> Origin:
        """Reads the line of an operation; of what is only carried into a loop or a remat, that of what reads it first.

        An argument has no line.
        """
        op_name, frames = self.sources.of(line.attributes)
        if not frames or op_name.rpartition("/")[2] in _CARRIED:
            reading, at = self._reader(body, line.name)
            op_name, frames = (reading, at) if at else (op_name, frames)
        return Origin(shape, given, op_name, frames=frames)

    def _argument(self, body: dict[str, _Instruction], line: _Instruction) -> str:
        """Names the argument of the program that a value is, be it cast or laid out anew."""
        while line.opcode != "parameter":
            if len(line.operands) != 1 or not _is_same(line, before := body[line.operands[0]]):
                return ""
            line = before
        op_name, _ = self.sources.of(line.attributes)
        return "" if "/" in op_name else op_name

    def _reader(self, body: dict[str, _Instruction], name: str) -> tuple[str, tuple[Frame, ...]]:
        """Finds the first operation of a known line that reads a value, be it copied or taken apart before."""
        values = {name}
        for line in body.values():
            if values.intersection(line.operands) and line.opcode not in _HOLDING:
                op_name, frames = self.sources.of(line.attributes)
                if frames and op_name.rpartition("/")[2] not in _CARRIED:
                    return op_name, frames
                values.add(line.name)
        return "", ()

    def _across(self, name: str, send: _Instruction) -> list[Collective]:
        """Says what a slice sends to others, through the host; what the host itself is sent is no collective."""
        if "is_host_transfer=true" in send.attributes and "_xla_megascale_" not in send.attributes:
            return []
        found = _ACROSS.search(send.attributes)
        kind = _TRANSFERS.get(found["kind"]) if found else None
        if not found or not kind:
            raise Unreadable(f"{send.name} is no known transfer: {send.attributes[:200]}")
        if kind == "collective-permute":
            group, groups = _senders(found["listed"], "->"), 1
        elif found["slices"]:
            group, groups = len(found["slices"].split(",")), int(found["last"]) - int(found["first"]) + 1
        else:
            group, groups = _listed(found["listed"])
        given = _bytes(self.computations[name][send.operands[0]].shape)
        return [dataclasses.replace(_of(kind, group, groups, given), across_slices=True)]

    # How often a loop runs.

    def trips(self, caller: str, loop: _Instruction) -> int:
        """Reads the trips off a loop's counter: where it starts, by how much it goes up, and below what it stays."""
        if known := _KNOWN_TRIPS.search(loop.attributes):
            return int(known[1])
        condition, body = _parts(loop)
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

    def _root(self, name: str) -> _Instruction:
        return next(line for line in self.computations[name].values() if line.is_root)

    def _linear(self, name: str, value: str) -> tuple[int | None, int]:
        """Reads an integer as a sum: the index of what the loop carries, if any, and a constant."""
        line = self.computations[name][value]
        if line.opcode == "constant" and re.fullmatch(r"-?\d+", line.inside) and re.match(r"[su]\d+\[\]", line.shape):
            return None, int(line.inside)
        if line.opcode in _UNCHANGED:
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

    def _element(self, name: str, value: str, index: int, loop: _Instruction | None = None) -> str:
        """Returns the name of an element of a tuple; behind a loop, or inside one, of one that it leaves as it is."""
        if loop and self._linear(body := _parts(loop)[1], self._root(body).operands[index]) != (index, 0):
            raise Unreadable(f"{loop.name} changes what it carries at {index}")
        line = self.computations[name][value]
        if line.opcode == "tuple":
            return line.operands[index]
        if line.opcode == "while":
            return self._element(name, line.operands[0], index, line)
        if line.opcode in _UNCHANGED:
            return self._element(name, line.operands[0], index)
        raise Unreadable(f"{value} is no known tuple: {line.opcode}")


def _parts(loop: _Instruction) -> tuple[str, str]:
    """Returns the condition and the body of a loop."""
    found = _LOOP.search(loop.attributes)
    if not found:
        raise Unreadable(f"{loop.name} has no condition and body")
    return found[1], found[2]


def _branches(conditional: _Instruction) -> list[str]:
    found = _BRANCHES.findall(conditional.attributes)
    return [name for several, one in found for name in _NAME.findall(several or one)]


# The source.

_OP_NAME: Final = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
_FRAME: Final = re.compile(r"\bstack_frame_id=(\d+)")
_INLINE: Final = re.compile(r'\bsource_file="([^"]*)" source_line=(\d+)')
_ENTRY: Final = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_TABLES: Final = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_NONE: Final = 0  # the number of no frame
_CARRIED: Final = (
    "remat2",
    "remat",
    "checkpoint",
    "while",
    "optimization_barrier",
)  # JAX's names of what computes nothing
_HOLDING: Final = ("tuple", "while", "conditional", "call")  # what reads it does not read each of its parts


class _Sources:
    """The tables at the head of a module: names of files and functions, lines, and which line called which."""

    def __init__(self, text: str) -> None:
        tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
        name = ""
        for line in itertools.islice(text.splitlines(), 1, None):
            if _HEAD.match(line):
                break
            if line.strip() in tables:
                name = line.strip()
            elif name and (entry := _ENTRY.match(line)):
                tables[name][int(entry[1])] = entry[2] or entry[3]
        files, functions, lines, frames = tables.values()
        self._lines: dict[int, Frame] = {}
        for number, written in lines.items():
            has = _numbers(written)
            file, function = files.get(has["file_name_id"], ""), functions.get(has["function_name_id"], "")
            self._lines[number] = Frame(file, has["line"], function)
        self._frames = {number: _numbers(written) for number, written in frames.items()}
        # The first frame has no parent, whatever number is written for that: 0, or all numbers are one too high.
        self._off = self._frames[1].get("parent_frame_id", _NONE) if 1 in self._frames else _NONE

    def of(self, attributes: str) -> tuple[str, tuple[Frame, ...]]:
        """Returns JAX's name of an operation, and its lines, the innermost first."""
        named, at = _OP_NAME.search(attributes), _FRAME.search(attributes)
        op_name = re.sub(r"\\(.)", r"\1", named[1]) if named else ""
        if at:
            return op_name, tuple(self._calls(int(at[1])))
        inline = _INLINE.search(attributes)
        return op_name, (Frame(inline[1], int(inline[2]), ""),) if inline else ()

    def _calls(self, frame: int) -> Iterator[Frame]:
        while frame in self._frames:
            has = self._frames[frame]
            if has["file_location_id"] in self._lines:
                yield self._lines[has["file_location_id"]]
            parent = has.get("parent_frame_id", _NONE) - self._off
            frame = parent if parent < frame else _NONE


def _numbers(written: str) -> dict[str, int]:
    """Reads `a=1 b=2`."""
    return {name: int(number) for name, number in (pair.split("=") for pair in written.split())}


# Costs.

_ESTIMATE: Final = re.compile(r'"estimated_cycles":"(\d+)"')
_ELSEWHERE: Final = re.compile(r'custom_call_target="(__cu|__onednn|tpu_custom_call|triton)')
_CONTRACTED: Final = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
_LABELS: Final = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW: Final = re.compile(r"\bwindow=\{([^}]*)\}")


def _estimate(_: dict[str, _Instruction], instruction: _Instruction) -> int | None:
    found = _ESTIMATE.search(instruction.attributes)
    if found and int(found[1]) >= 1 << 63:
        raise NoEstimate(f"the compiler estimates {int(found[1]) - (1 << 64)} cycles")
    if found and int(found[1]) == (1 << 63) - 1:
        raise NoEstimate("the compiler estimates the most cycles that there can be")
    return int(found[1]) if found else None


def _flops(body: dict[str, _Instruction], instruction: _Instruction) -> int | None:
    if _ELSEWHERE.search(instruction.attributes):
        raise Unreadable(f"{instruction.name} is computed elsewhere")
    if instruction.opcode not in ("dot", "convolution"):
        return None
    lhs, rhs = (_sizes(body[operand].shape) for operand in instruction.operands)
    out = _sizes(instruction.shape)
    if found := _CONTRACTED.search(instruction.attributes):
        return 2 * math.prod(out) * math.prod(lhs[int(dim)] for dim in found[1].split(",") if dim)
    found = _LABELS.search(instruction.attributes)
    if not found:
        raise Unreadable(f"{instruction.name} does not say what it sums")
    left, right, made = (dict(zip(*pair, strict=True)) for pair in zip(found.groups(), (lhs, rhs, out), strict=True))
    return 2 * made["b"] * made["f"] * right["i"] * _products(left, right, made, instruction.attributes)


def _sizes(shape: str) -> list[int]:
    found = _ARRAY.search(shape)
    return [int(size) for size in found[2].split(",") if size] if found else []


def _products(lhs: dict[str, int], rhs: dict[str, int], out: dict[str, int], attributes: str) -> int:
    """Counts the products that a convolution sums along its windows: padding and gaps give none."""
    found = _WINDOW.search(attributes)
    window = dict(pair.split("=") for pair in found[1].split()) if found else {}
    total = 1
    for dim in sorted(label for label in rhs if label.isdigit()):
        each = {name: values.split("x")[int(dim)] for name, values in window.items()}
        if int(each.get("rhs_dilate", 1)) != 1:
            raise Unreadable("a window has gaps")
        stride, gap, pad = (
            int(each.get("stride", 1)),
            int(each.get("lhs_dilate", 1)),
            int(each.get("pad", "0").split("_")[0]),
        )
        starts = (place * stride - pad for place in range(out[dim]))
        last = (lhs[dim] - 1) * gap
        total *= sum(max(0, min(start + rhs[dim] - 1, last) // gap - -(-max(start, 0) // gap) + 1) for start in starts)
    return total


# Collectives.

_ARRAY: Final = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{[^}]*?E\((\d+)\))?")
_BITS: Final = re.compile(r"[a-z]+?(\d+)")
_LISTED: Final = re.compile(r"\breplica_groups=\{((?:\{[^}]*\},?)*)\}")
_RANGE: Final = re.compile(r"\breplica_groups=\[(\d+),(\d+)\]<=")
_RESHAPED: Final = re.compile(r"\breplica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_AXES: Final = re.compile(r"\breplica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_ACROSS: Final = re.compile(
    r'_xla_megascale_target=(?:"\{(?P<slices>[\d,]+)\}x\{(?P<first>\d+):(?P<last>\d+)\}"|\{(?P<listed>.*?\})\}),'
    r'_xla_megascale_transfer_type="(?P<kind>\w+)"'
)
_TRANSFERS: Final = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "RAGGED_ALL_TO_ALL": "ragged-all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
_PAIRS: Final = re.compile(r"\bsource_target_pairs=\{((?:\{[^}]*\},?)*)\}")


def _bytes(shape: str) -> int:
    """Counts the bytes of all arrays of a shape. Elements of fewer than 8 bits take 8, unless it says `E(4)`."""
    return sum(
        -(-math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size) * _bits(dtype, packed) // 8)
        for dtype, sizes, packed in _ARRAY.findall(shape)
    )


def _bits(dtype: str, packed: str) -> int:
    if packed:
        return int(packed)
    if dtype in ("token", "pred"):
        return 8 * (dtype == "pred")
    found = _BITS.match(dtype)
    if not found:
        raise Unreadable(f"{dtype} is no known type")
    return max(8, int(found[1]))


def _groups(attributes: str, devices: int) -> tuple[int, int]:
    """Says how many devices a group has, and how many groups there are."""
    if found := _RANGE.search(attributes):
        return int(found[2]), int(found[1])
    if found := _AXES.search(attributes):
        sizes = {axis: int(size) for axis, size in (pair.split("=") for pair in found[1].split(","))}
        group = math.prod(_axis_size(axis, sizes) for axis in found[2].split(",") if axis)
        return group, math.prod(sizes.values()) // group
    if found := _LISTED.search(attributes):
        return _listed(found[1]) if found[1] else (devices, 1)
    raise Unreadable(f"groups of devices are not known: {attributes[:120]}")


def _listed(groups: str) -> tuple[int, int]:
    """Returns the same of groups in braces: `{0,1},{2,3}`."""
    sizes = [len(group.split(",")) for group in _BRACES.findall(groups)]
    if len(set(sizes)) != 1:
        raise Unreadable(f"groups differ in size: {groups[:120]}")
    return sizes[0], len(sizes)


def _axis_size(axis: str, sizes: dict[str, int]) -> int:
    """Returns the size of an axis, `'x'`, or of a part of it: `'x':(2)4` is 4, after 2."""
    return int(axis.rpartition(")")[2]) if ":(" in axis else sizes[axis]


def _senders(pairs: str, to: str) -> int:
    """Says how many devices send to another, in `{0,1},{1,0}`."""
    return len({source for source, target in (pair.split(to) for pair in _BRACES.findall(pairs)) if source != target})


def _members(attributes: str, devices: int) -> tuple[int, ...]:
    """Returns the first group of devices that is written."""
    if found := _RESHAPED.search(attributes):
        count, size, sizes, order = found.groups()
        shape = [int(each) for each in sizes.split(",")]
        axes = [int(each) for each in order.split(",")] if order else list(range(len(shape)))
        return tuple(itertools.islice(_turned(shape, axes), int(size))) if int(count) else ()
    if found := _AXES.search(attributes):
        names = [pair.split("=") for pair in found[1].split(",")]
        sizes = [int(size) for _, size in names]
        cut = {axis.split(":")[0]: axis for axis in found[2].split(",") if axis}
        order = _order(found[0])
        return tuple(order[at] if order else at for at in _along(sizes, [cut.get(name) for name, _ in names]))
    listed = _LISTED.search(attributes)
    return _integers(listed[1])[0] if listed and listed[1] else tuple(range(devices))


def _order(mesh: str) -> list[int]:
    """Reads the devices of a mesh that does not count them in order, listed or as a range that is turned."""
    if found := re.search(r"device_ids=\(([\d,]+)\)", mesh):
        return [int(device) for device in found[1].split(",")]
    if found := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", mesh):
        shape = [int(size) for size in found[1].split(",")]
        return list(
            _turned(shape, [int(axis) for axis in found[2].split(",")] if found[2] else list(range(len(shape))))
        )
    return []


def _turned(shape: list[int], axes: list[int]) -> Iterator[int]:
    """Counts through an array of these sizes, its axes in another order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in axes]
    for place in itertools.product(*(range(shape[axis]) for axis in axes)):
        yield sum(at * stride for at, stride in zip(place, strides, strict=True))


def _along(sizes: list[int], cut: list[str | None]) -> Iterator[int]:
    """Gives the group of a mesh's first device: along axes, `'x'`, or along parts of them, `'x':(2)4`."""
    steps: list[list[int]] = []
    for axis, (size, entry) in enumerate(zip(sizes, cut, strict=True)):
        stride = math.prod(sizes[axis + 1 :])
        if entry and ":(" in entry:
            before, part = (int(number) for number in entry.partition(":(")[2].split(")"))
            stride, size = stride * (size // before // part), part
        steps.append([at * stride for at in range(size)] if entry else [0])
    return map(sum, itertools.product(*steps))


def _integers(listed: str) -> tuple[tuple[int, ...], ...]:
    """Reads `{0,1},{2,3}`."""
    return tuple(tuple(int(number) for number in one.split(",")) for one in _BRACES.findall(listed))


def _plain(shape: str) -> str:
    """Writes an array's shape without its layout.

    Example:
        >>> _plain("bf16[32,128]{1,0:T(8,128)(2,1)S(1)}")
        'bf16[32,128]'
    """
    return " ".join(f"{dtype}[{sizes}]" for dtype, sizes, _ in _ARRAY.findall(shape))


def _is_same(line: _Instruction, before: _Instruction) -> bool:
    """Says whether an operation gives what it is given, in another dtype or layout; of a fusion by its sizes."""
    if line.opcode != "fusion":
        return line.opcode in _UNCHANGED
    return math.prod(_sizes(line.shape)) == math.prod(_sizes(before.shape)) and "convert" in line.name


def _of(kind: str, group: int, groups: int, given: int, devices: tuple[tuple[int, ...], ...] = ()) -> Collective:
    """Reads a collective with the bytes of its result."""
    got = {"all-gather": given * group, "reduce-scatter": given // max(1, group)}.get(kind, given)
    return Collective(kind, group, groups, given, got, devices=devices)


def _scattered(one: Collective, result_bytes: int, shape: str) -> Collective:
    """Returns the reduce-scatter that a fusion named `all-reduce-scatter` is, of what the fusion is given."""
    if one.kind != "all-reduce" or result_bytes * one.group != one.operand_bytes:
        raise Unreadable(f"a scatter of {one.operand_bytes} bytes over {one.group} gives {result_bytes}")
    origins = one.origins
    if len(origins) == 1:  # within it the array has another shape
        origins = (dataclasses.replace(origins[0], shape=shape),)
    return dataclasses.replace(one, kind="reduce-scatter", result_bytes=result_bytes, origins=origins)
