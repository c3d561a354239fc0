"""What a program is expected to send, before it is compiled: from the shardings that Shardy propagates.

A dot, and a convolution whose space is whole, goes the way that the model of plain jit has for it (`plain_jit`), with
its operands and its result cut as they are propagated; what takes rows from a table goes the way of XLA's partitioner.
Every other operation goes the way that Shardy writes down for it. A loop counts as often as its counter says; a sum
that a loop only adds up counts once after it, where the compiler moves it there, and sums that are added to each other
count once. What else the compiler does is not known here: it may merge collectives, take them apart into rings beside
a dot, or send another dtype.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from jax import numpy as jnp

from jbdot import hlo
from jbdot.devices.links import Links
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block, MeshAxes, Sharding
from jbdot.many_devices.candidates import Candidate
from jbdot.programs import propagation
from jbdot.programs.communication_row import part, source
from jbdot.programs.propagated_dot import MULTIPLIED, Dot
from jbdot.programs.propagation import (
    CALL,
    attribute,
    axes_in,
    dtype_of,
    integers_in,
    lists_in,
    shape_of,
    shardings_in,
    shardings_of,
)

_NUMBER: Final = "jbdot.dot"  # an attribute: which dot of the propagated module it is
_SAID: Final[dict[str, str]] = {  # what Shardy puts in
    "sdy.all_gather": "all-gather",
    "sdy.all_reduce": "all-reduce",
    "sdy.reduce_scatter": "reduce-scatter",
    "sdy.all_to_all": "all-to-all",
    "sdy.collective_permute": "collective-permute",
    "sdy.all_slice": "",
    "sdy.replicated_to_unreduced": "",
    "sdy.sharded_to_unreduced": "",
}
_SUMS: Final = ("all-reduce", "reduce-scatter")
_WRITTEN: Final = {  # what a program says itself, within shard_map
    "stablehlo.all_gather": "all-gather",
    "stablehlo.all_reduce": "all-reduce",
    "stablehlo.reduce_scatter": "reduce-scatter",
    "stablehlo.all_to_all": "all-to-all",
    "stablehlo.collective_permute": "collective-permute",
    "stablehlo.collective_broadcast": "collective-broadcast",
}
_KINDS: Final[dict[str, str]] = {"permute": "collective-permute", "ring": "all-gather"}
_SAME: Final = ("stablehlo.convert", "stablehlo.optimization_barrier", "stablehlo.reshape", "stablehlo.transpose")
_MOVED: Final = (*_SAID, *_SAME[1:])
_SLICED: Final = "stablehlo.dynamic_slice"  # as a loop takes the layer that it is at
_NAMED: Final = re.compile(r'loc\((?:"[^"]*:"\()?"([^"]*)"\((?!"[^"]*":\d)')
_CALLED: Final = re.compile(r'"([^"]+)"\("([^"]+)":(\d+):')


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an operation is from: JAX's name of it, and its lines, the innermost first."""

    op_name: str = ""
    frames: tuple[hlo.Frame, ...] = ()

    def of(self, text: str) -> "Place":
        """Reads the location of an operation in code that is called here; it may be told from there on only."""
        named = _NAMED.search(text)
        name = named[1] if named else ""
        frames = tuple(hlo.Frame(file, int(line), function) for function, file, line in _CALLED.findall(text))
        if name.startswith("jit("):
            return Place(name, frames or self.frames)
        return Place("/".join(filter(None, (self.op_name, name))), (*frames, *self.frames))


class Forecast:
    """A lowered program, and what it is expected to send.

    Args:
        module: The lowered module.
        links: Of the mesh.

    Attributes:
        collectives: What is sent, in order, each with how often it runs.
        flops: Of the dots, on each device; not of convolutions.
        output_bytes: Of the results, on each device.
        donated_bytes: Of the arguments whose place results may take.
        used: The dots, each with where it is from and how often it runs.

    Raises:
        RuntimeError: This jaxlib does not run Shardy from Python.
    """

    def __init__(self, module: Any, links: Links) -> None:
        self.mesh, self.links = {axis.name: axis.size for axis in links.axes}, links
        self.flops = 0
        self.used: list[tuple[Dot, Place, int]] = []
        self._scatters = bool(links.hardware.compiler)  # for CPUs XLA adds it all, and cuts the sum
        self._is_tpu = links.hardware.compiler == "tpu"
        self._ways: dict[Dot, Candidate | None] = {}
        self._entered()
        module = propagation.copied(module)
        self._calls = propagation.propagated(module, selects=self._is_tpu)
        self._dots = self._numbered(module)
        propagation.moved(module)
        self._entered()
        main = next(one for one in propagation.operations(module) if one.name == "func.func")
        self._note(main)
        for one in propagation.operations(module):
            if one.name in MULTIPLIED:
                self._moved_for(one)
            elif one.name == "stablehlo.gather" and (axes := _passed(one)):
                self._passing[one.results[0]] = axes
                self._skipped.add(one.operands[0])
        self._names = {value: f"arrays[{at}]" for at, value in enumerate(_block(main).arguments)}
        self.collectives = tuple(self._run(_block(main), Place()))
        self.output_bytes = self._given(main)
        self.donated_bytes = self._donated(main)

    def planned(self) -> "collections.Counter[tuple[str, str]]":
        """Sums for each line and pass the bytes that its dots would send, planned by `plan_sharding` as they are cut.

        A dot that cannot be planned counts what plain jit sends.
        """
        found: collections.Counter[tuple[str, str]] = collections.Counter()
        sent = functools.cache(lambda dot: dot.planned(self._way(dot), self.links))
        for dot, place, times in self.used:
            found[source(place.frames), part(place.op_name)] += times * sent(dot)
        return found

    def _entered(self) -> None:
        self._at: dict[Any, Sharding] = {}  # how each value is cut
        self._before: dict[Any, Any] = {}  # what an argument of a loop's body is when the loop is entered
        self._names: dict[Any, str] = {}  # of the program's arguments
        self._after: list[hlo.Collective] = []  # what is sent once a loop has ended
        self._skipped: set[Any] = set()  # what Shardy moves for a dot, which goes its own way
        self._passing: dict[Any, MeshAxes] = {}  # of what is taken from a table: what cuts the table's rows

    # Shardings.

    def _numbered(self, module: Any) -> list[Dot]:
        """Notes how each dot and its operands are cut, before anything is put between them."""
        from jaxlib.mlir import ir

        found: list[Dot] = []
        for one in propagation.operations(module):
            self._note(one)
            if one.name in MULTIPLIED:
                with module.context:
                    one.attributes[_NUMBER] = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), len(found))
                found.append(Dot.of(one, self._at))
        return found

    def _note(self, one: Any) -> None:
        """Notes how the results of an operation are cut, and what is given to the code inside of it."""
        self._at.update(zip(one.results, shardings_of(one), strict=True))
        if one.name == "func.func":
            said = attribute(one, "arg_attrs") or itertools.repeat({})
            for value, attributes in zip(_block(one).arguments, said, strict=False):
                found = shardings_in(attributes["sdy.sharding"]) if "sdy.sharding" in attributes else []
                self._at[value] = found[0] if found else ((),) * len(shape_of(value) or ())
        elif one.name == "stablehlo.while":
            for region in one.regions:
                self._at.update(zip(region.blocks[0].arguments, shardings_of(one), strict=True))
                self._before.update(zip(region.blocks[0].arguments, one.operands, strict=True))
        elif one.name == "sdy.manual_computation":
            manual = axes_in(str(one.attributes["manual_axes"]))
            for value, sharding in zip(
                _block(one).arguments, shardings_in(one.attributes["in_shardings"]), strict=True
            ):
                self._at[value] = tuple(tuple(axis for axis in axes if axis not in manual) for axes in sharding)

    def _way(self, dot: Dot) -> Candidate | None:
        if dot not in self._ways:
            self._ways[dot] = dot.way(self.links)
        return self._ways[dot]

    # What is sent.

    def _run(self, block: Any, place: Place) -> Iterator[hlo.Collective]:
        done: set[Any] = set()  # what was moved so before: the partitioner does not move it again
        for operation in block.operations:
            one = operation.operation
            self._note(one)
            if one.name == "stablehlo.while":
                yield from self._looped(one, self._place(one, place))
            elif one.name in ("stablehlo.case", "stablehlo.if"):
                ways = [list(self._run(region.blocks[0], self._place(one, place))) for region in one.regions]
                yield from max(ways, key=lambda way: sum(each.times * each.sent for each in way))
            elif one.name == "sdy.manual_computation":
                yield from self._run(_block(one), place)
            elif one.name in MULTIPLIED:
                yield from self._multiplied(one, place, done)
            elif one.name in _SAID:
                yield from self._said(one, place)
            elif one.name == "stablehlo.slice":
                yield from self._sliced(one, place)
            elif one.name == "stablehlo.gather" and one.results[0] in self._passing:
                yield from self._taken(one, self._place(one, place))
            elif one.name in _WRITTEN:
                yield self._written(one, self._place(one, place))

    def _looped(self, loop: Any, place: Place) -> list[hlo.Collective]:
        trips = self._trips(loop)
        before, first = self.flops, len(self.used)
        outer, self._after = self._after, []
        found = list(self._run(loop.regions[1].blocks[0], place))
        after, self._after = self._after, outer
        runs = 1 if trips is None else trips
        self.flops = before + (self.flops - before) * runs
        self.used[first:] = [(dot, at, times * runs) for dot, at, times in self.used[first:]]
        within = (
            dataclasses.replace(one, times=one.times * runs, is_open=one.is_open or trips is None) for one in found
        )
        return [] if trips == 0 else [*within, *after]

    def _trips(self, loop: Any) -> int | None:
        """Reads the trips off a counter that goes up by one, as JAX writes scans; None of another loop."""
        block = loop.regions[0].blocks[0]
        test = [*block.operations][-1].operation.operands[0].owner
        if getattr(test, "name", "") != "stablehlo.compare" or "LT" not in str(test.attributes["comparison_direction"]):
            return None
        first, last = (self._integer(value) for value in test.operands)
        return None if first is None or last is None else max(0, last - first)

    def _integer(self, value: Any) -> int | None:
        """Returns the integer that a value is where a loop is entered."""
        value = self._before.get(value, value)
        while (name := getattr(value.owner, "name", "")) in ("stablehlo.convert", "stablehlo.optimization_barrier"):
            value = value.owner.operands[value.result_number if name.endswith("barrier") else 0]
        found = (
            re.fullmatch(r"dense<(-?\d+)> : .*", str(attribute(value.owner, "value"))) if "constant" in name else None
        )
        return int(found[1]) if found else None

    def _multiplied(self, one: Any, place: Place, done: set[Any]) -> Iterator[hlo.Collective]:
        """Gives what a dot sends by the model of plain jit, and leaves out what Shardy has put in for it."""
        dot = self._dots[one.attributes[_NUMBER].value]
        way = self._way(dot)
        if way is None:
            return
        self._skip_after(one, dot.shardings[2])
        outer, place = place, self._place(one, place)
        if one.name == "stablehlo.dot_general":
            self.flops += way.flops
            self.used.append((dot, place, 1))
        ways = zip((*one.operands, None), (way.lhs, way.rhs, way.out), dot.shapes, dot.axes, strict=True)
        for value, route, shape, axes in ways:
            root, at = (None, place) if value is None else (self._root(value), self._moved_at(value, place, outer))
            for number, (step, block, after) in enumerate(
                zip(route.steps, route.blocks, route.blocks[1:], strict=False)
            ):
                key = root, route.steps[: number + 1]
                if root is None and step.sums and self._is_joined(one.results[0]):
                    continue
                if step.sent(block) and (root is None or key not in done):
                    moved = self._stepped(step, block, after, at, self._argument(root), shape, axes)
                    if root is None and moved.kind == "all-reduce" and self._is_added_up(one):
                        self._after.append(moved)
                    else:
                        yield moved
                done.add(key)

    def _moved_at(self, value: Any, place: Place, outer: Place) -> Place:
        """Says what line an operand is moved for: that of what made it, or of what Shardy puts between.

        What an argument, a loop or a checkpoint gives is moved for the line of the dot.
        """
        step, made = value.owner, value
        while (name := getattr(made.owner, "name", "")) in _SAID or name == "stablehlo.reshape":
            made = made.owner.operands[0]
        if name in ("", _SLICED, "stablehlo.while", "stablehlo.optimization_barrier"):
            return place
        named = next(
            (one for one in (step, made.owner) if _NAMED.search(str(one.location)) or CALL in one.attributes), None
        )
        return place if named is None else self._place(named, outer)

    def _sliced(self, one: Any, place: Place) -> Iterator[hlo.Collective]:
        """Gives what a slice sends along an axis that stays cut: from each distance the part that is not there yet."""
        value, source = one.results[0], one.operands[0]
        starts, strides = (integers_in(attribute(one, name)) for name in ("start_indices", "strides"))
        for dim, (size, left, axes) in enumerate(
            zip(shape_of(source) or (), shape_of(value) or (), self._at[source], strict=True)
        ):
            count = self._size(axes)
            if size == left or count == 1 or self._at[value][dim] != axes or strides[dim] != 1:
                continue
            for length in _moved_parts(size, starts[dim], left, count):
                local = self._local(value)
                local[dim] = length
                shape = f"{dtype_of(value)}[{','.join(map(str, local))}]"
                sent = hlo.byte_count(shape)
                yield self._collective("collective-permute", axes, sent, sent, shape, self._place(one, place), "", "")

    def _taken(self, one: Any, place: Place) -> Iterator[hlo.Collective]:
        """Gives what is sent where each device takes its part of rows from a table: all indices, then what is taken."""
        value, indices, axes = one.results[0], one.operands[1], self._passing[one.results[0]]
        whole, count = self._text(value), self._size(axes)
        cutting = tuple(axis for dim in self._at[indices] for axis in dim if axis in axes)
        if cutting:
            given, text = self._bytes(indices), self._text(indices)
            got = given * self._size(cutting)
            yield self._collective("all-gather", cutting, given, got, text, place, self._argument(indices), "")
        got = self._bytes(value)
        if {axis for dim in self._at[value] for axis in dim}.issuperset(axes):
            yield self._collective("all-to-all", axes, got, got, whole, place, "", "")
        else:
            yield self._collective("all-gather", axes, got // count, got, whole, place, "", "")

    def _is_joined(self, value: Any) -> bool:
        """Says whether a sum is added to another one along the same mesh axes, which is completed for both.

        The compilers for TPUs and GPUs add such sums up before they are completed.
        """
        axes = self._scatters and self._sums(value)
        while axes and len(uses := [*value.uses]) == 1:
            user = uses[0].owner.operation
            if user.name in _SAID:
                value = user.results[0]
                continue
            if user.name != "stablehlo.add" or any(self._sums(other) != axes for other in user.operands):
                return False
            if user.operands[1] == value:
                return True
            value = user.results[0]
        return False

    def _sums(self, value: Any) -> frozenset[tuple[str, str]]:
        """Says along which mesh axes a sum is completed, and of what; empty where not one operation alone reads it."""
        one, name = value.owner, getattr(value.owner, "name", "")
        if len([*value.uses]) != 1:
            return frozenset()
        if name in MULTIPLIED:
            way = self._way(self._dots[one.attributes[_NUMBER].value])
            steps = way.out.steps if way else ()
            return frozenset((name, axis) for step in steps if step.sums for axis in step.axes)
        if name in _SAID:
            made = getattr(one.operands[0].owner, "name", "")
            is_sum = _SAID[name] in _SUMS and value not in self._skipped
            return frozenset((made, axis) for axis in self._along(one)) if is_sum else self._sums(one.operands[0])
        if name == "stablehlo.add":
            first, second = map(self._sums, one.operands)
            return first if first == second else frozenset()
        return frozenset()

    def _is_added_up(self, dot: Any) -> bool:
        """Says whether a loop only adds a sum to what it carries: it is sent once, after the loop."""
        value = dot.results[0]
        while self._scatters and len(uses := [*value.uses]) == 1:
            user = uses[0].owner.operation
            if user.name == "stablehlo.add":
                return any(other in self._before for other in user.operands) and _is_carried(user)
            if user.name not in (*_SAID, *_SAME) or not user.results:
                return False
            value = user.results[0]
        return False

    def _stepped(
        self,
        step: Any,
        block: Block,
        after: Block,
        place: Place,
        argument: str,
        shape: Sequence[int],
        axes: Sequence[int],
    ) -> hlo.Collective:
        """Says what a step sends of an array, of whose axes a block has some."""
        kind = _KINDS.get(str(step.kind), str(step.kind))
        if kind == "reduce-scatter" and not self._scatters:
            kind = "all-reduce"
        local, before, end = list(shape), list[MeshAxes]([()] * len(shape)), list[MeshAxes]([()] * len(shape))
        for at, axis in enumerate(axes):
            local[axis], before[axis], end[axis] = block.local[at], block.sharding[at], after.sharding[at]
        space = math.prod(local) // math.prod(block.local)
        given, got = space * block.bytes, space * (block if kind == "all-reduce" else after).bytes
        text = f"{_short(block.dtype)}[{','.join(map(str, local))}]"
        cut = _cuts(tuple(before), tuple(end), step.axes if step.sums else ())
        return self._collective(kind, step.axes, given, got, text, place, argument, cut)

    def _skip_after(self, one: Any, end: Sharding) -> None:
        value, at = one.results[0], shardings_of(one)[0]
        while len(uses := [*value.uses]) == 1 and (user := uses[0].owner.operation).name in _SAID:
            if at == end and user.name not in ("sdy.all_reduce", "sdy.reduce_scatter"):
                return
            self._skipped.add(user.results[0])
            value, at = user.results[0], shardings_of(user)[0]

    def _said(self, one: Any, place: Place) -> Iterator[hlo.Collective]:
        """Gives what Shardy moves for all but dots."""
        value, source = one.results[0], one.operands[0]
        kind: str = _SAID[one.name]
        if not kind or value in self._skipped or (kind in _SUMS and self._is_joined(value)):
            return
        axes = self._along(one)
        given, got = self._bytes(source), self._bytes(value)
        reader = source.owner if kind in _SUMS else _reader(value)
        if "sharding_constraint" in str(one.location):  # what is constrained is moved for that line
            reader = one
        if kind == "all-reduce" and self._is_scattered(value, axes):
            kind, got = "reduce-scatter", given // self._size(axes)
        if reader is not None and reader.name in MULTIPLIED and kind not in _SUMS:
            place = self._moved_at(value, self._place(reader, place), place)
        else:
            place = self._place(reader or one, place)
        summed = axes if kind in _SUMS else ()
        cut = _cuts(self._at[source], self._at[value], summed)
        text = self._text(source)
        if self._is_tpu and summed and (narrow := _narrow(source)):  # an extreme value is sent as it was before a cast
            wide = hlo.byte_count(f"{dtype_of(source)}[]")
            text = f"{narrow}[{text.partition('[')[2]}"
            given, got = (number * hlo.byte_count(f"{narrow}[]") // wide for number in (given, got))
        yield self._collective(kind, axes, given, got, text, place, self._argument(source), cut)

    def _moved_for(self, dot: Any) -> None:
        """Leaves out what Shardy has put in between an operand, cut as it is propagated, and the dot that reads it."""
        known = self._dots[dot.attributes[_NUMBER].value]
        if self._way(known) is None:
            return
        for value, at in zip(dot.operands, known.shardings, strict=False):
            while _cut(value) not in (None, at) and self._is_for_dots(value):
                self._skipped.add(value)
                value = value.owner.operands[0]

    def _is_for_dots(self, value: Any) -> bool:
        users = (use.owner.operation for use in value.uses)
        return all(user.name in MULTIPLIED or user.results[0] in self._skipped for user in users)

    def _is_scattered(self, value: Any, axes: MeshAxes) -> bool:
        users = [use.owner.operation for use in value.uses]
        return (
            self._scatters
            and len(users) == 1
            and users[0].name == "sdy.all_slice"
            and {*axes_in(str(users[0].attributes["slicing_axes"]))} == {*axes}
        )

    def _along(self, one: Any) -> MeshAxes:
        for name in ("gathering_axes", "reduction_axes", "reduce_scatter_axes", "params"):
            if (found := attribute(one, name)) is not None:
                return axes_in(str(found))
        before, after = (list(itertools.chain(*self._at[value])) for value in (one.operands[0], one.results[0]))
        return tuple(dict.fromkeys([*before, *after]))

    def _written(self, one: Any, place: Place) -> hlo.Collective:
        """Reads a collective that the program says itself."""
        kind = _WRITTEN[one.name]
        given, got = (sum(map(self._bytes, values)) for values in (one.operands, one.results))
        pairs = attribute(one, "source_target_pairs")
        said = pairs if pairs is not None else one.attributes["replica_groups"]
        if "mesh" in str(said) and axes_in(str(said)):
            devices = (tuple(self._group(axes_in(str(said)))),)
        else:
            rows = [tuple(int(device) for device in row if device >= 0) for row in np.asarray(said)]
            devices = tuple(rows) if pairs is not None else tuple(rows[:1])
        group = (
            len({source for source, target in devices if source != target}) if pairs is not None else len(devices[0])
        )
        total = math.prod(self.mesh.values())
        groups = 1 if pairs is not None else total // group
        origin = hlo.Origin(self._text(one.operands[0]), given, place.op_name, "", place.frames)
        return hlo.Collective(kind, group, groups, given, got, origins=(origin,), devices=devices)

    def _collective(
        self,
        kind: str,
        axes: MeshAxes,
        given: int,
        got: int,
        shape: str,
        place: Place,
        argument: str,
        cut: str,
    ) -> hlo.Collective:
        group = self._size(axes)
        origin = hlo.Origin(shape, given, place.op_name, argument, place.frames, cut)
        members = tuple(self._group(axes))
        devices = ((0, members[-1]), (members[-1], 0)) if kind == "collective-permute" else (members,)
        groups = math.prod(self.mesh.values()) // group
        return hlo.Collective(kind, group, groups, given, got, origins=(origin,), devices=devices)

    # Values.

    def _place(self, one: Any, outer: Place) -> Place:
        """Says where an operation is from, be it in code that was called."""
        call = attribute(one, propagation.CALL)
        return (outer if call is None else self._called(call.value, outer)).of(str(one.location))

    def _called(self, number: int, outer: Place) -> Place:
        before, location = self._calls[number]
        return (outer if before < 0 else self._called(before, outer)).of(location)

    def _root(self, value: Any) -> Any:
        """Returns what Shardy has moved for a dot."""
        while value in self._skipped:
            value = value.owner.operands[0]
        return value

    def _argument(self, value: Any) -> str:
        while value is not None and getattr(value.owner, "name", "") in _SAME and value.owner.name != _SAME[1]:
            value = value.owner.operands[0]
        return self._names.get(value, "")

    def _text(self, value: Any) -> str:
        return f"{dtype_of(value)}[{','.join(map(str, self._local(value)))}]"

    def _bytes(self, value: Any) -> int:
        return hlo.byte_count(self._text(value))

    def _local(self, value: Any) -> list[int]:
        shape = shape_of(value) or ()
        return [-(-size // self._size(axes)) for size, axes in zip(shape, self._at[value], strict=True)]

    def _size(self, axes: MeshAxes) -> int:
        return math.prod(self._length(axis) for axis in axes)

    def _length(self, axis: str) -> int:
        return self.mesh[axis] if axis in self.mesh else int(axis.rpartition(")")[2])

    def _group(self, axes: MeshAxes) -> Iterator[int]:
        """Gives the positions of the devices that talk along mesh axes with the first one."""
        steps: list[list[int]] = []
        names = list(self.mesh)
        for axis in axes:
            name, _, part = axis.partition(":(")
            stride = math.prod(self.mesh[other] for other in names[names.index(name) + 1 :])
            if part:
                stride *= self.mesh[name] // int(part.partition(")")[0]) // self._length(axis)
            steps.append([at * stride for at in range(self._length(axis))])
        return map(sum, itertools.product(*steps))

    def _given(self, function: Any) -> int:
        said = attribute(function, "res_attrs") or itertools.repeat({})
        values = [*_block(function).operations][-1].operation.operands
        total = 0
        for value, attributes in zip(values, said, strict=False):
            if "sdy.sharding" in attributes:
                self._at[value] = shardings_in(attributes["sdy.sharding"])[0]
            total += self._bytes(value)
        return total

    def _donated(self, function: Any) -> int:
        said = attribute(function, "arg_attrs") or itertools.repeat({})
        pairs = zip(_block(function).arguments, said, strict=False)
        return sum(
            self._bytes(value)
            for value, attributes in pairs
            if "jax.buffer_donor" in attributes or "tf.aliasing_output" in attributes
        )


def _passed(gather: Any) -> MeshAxes:
    """Names the mesh axes that cut the rows of a table, which Shardy has put together for what takes whole rows."""
    value = gather.operands[0]
    step = value.owner
    if getattr(step, "name", "") != "sdy.all_gather" or len([*value.uses]) != 1:
        return ()
    lists = lists_in(attribute(gather, "dimension_numbers"))
    gathered = [axes_in(dim) for dim in re.findall(r"\{[^{}]*\}", str(step.attributes["gathering_axes"]))]
    rows = lists.get("collapsed_slice_dims", [])
    if lists.get("start_index_map") != rows or "operand_batching_dims" in lists or any(gathered[at] for at in rows):
        return ()
    return tuple(itertools.chain(*gathered))


def _block(one: Any) -> Any:
    return one.regions[0].blocks[0]


def _moved_parts(size: int, start: int, length: int, count: int) -> list[int]:
    """Gives what is moved where an axis and a slice of it are each in equal parts, for each distance of two devices.

    All devices of one distance send alike: from the first to the last element that one of them must.

    Example:
        >>> _moved_parts(16, 0, 4, 4), _moved_parts(8, 0, 4, 2), _moved_parts(96, 0, 32, 4)
        ([1, 1, 1], [2], [24, 8])
    """
    found: dict[int, tuple[int, int]] = {}
    have, get = -(-size // count), -(-length // count)
    for device, owner in itertools.product(range(count), repeat=2):
        first = max(start + device * get, owner * have) - owner * have
        last = min(start + min((device + 1) * get, length), (owner + 1) * have) - owner * have
        if device != owner and first < last:
            low, high = found.get(owner - device, (first, last))
            found[owner - device] = min(low, first), max(high, last)
    return [high - low for _, (low, high) in sorted(found.items())]


def _is_carried(one: Any) -> bool:
    """Says whether the result of an operation is what a loop carries on, and nothing else."""
    users = [use.owner.operation for use in one.results[0].uses]
    return [user.name for user in users] == ["stablehlo.return"]


def _cuts(before: Sharding, after: Sharding, summed: MeshAxes) -> str:
    """Says from which sharding to which an array goes, with sums to complete.

    Example:
        >>> _cuts((("x",), ()), ((), ()), ()), _cuts((("x",), ()), (("x",), ()), ("y",))
        ("P('x') to P()", "sums over y to P('x')")
    """
    end = partition_spec.code(partition_spec.written(after))
    start = f"sums over {' '.join(summed)}" if summed else partition_spec.code(partition_spec.written(before))
    return f"{start} to {end}"


def _cut(value: Any) -> Sharding | None:
    """Says how Shardy has cut what it has moved; None of any other value."""
    return shardings_of(value.owner)[0] if getattr(value.owner, "name", "") in _SAID else None


def _narrow(value: Any) -> str:
    """Returns the narrower dtype that a maximum or minimum was cast from; empty where it was not."""
    made = value.owner
    if getattr(made, "name", "") != "stablehlo.reduce" or len(made.operands) != 2:
        return ""
    within = [each.operation.name for each in _block(made).operations]
    before = made.operands[0].owner
    while getattr(before, "name", "") in _MOVED:
        before = before.operands[0].owner
    if within[0] not in ("stablehlo.maximum", "stablehlo.minimum") or getattr(before, "name", "") != _SAME[0]:
        return ""
    dtypes = [dtype_of(each) for each in (before.operands[0], before.results[0])]
    given, got = (hlo.byte_count(f"{dtype}[]") for dtype in dtypes)
    return dtypes[0] if given < got else ""


def _reader(value: Any) -> Any:
    """Returns the first operation that reads what Shardy has moved, be it reshaped before; None of a result."""
    for use in value.uses:
        user = use.owner.operation
        if user.name in (*_SAID, "stablehlo.reshape"):
            return _reader(user.results[0])
        return None if user.name.endswith("return") else user
    return None


def _short(dtype: str) -> str:
    """Writes a dtype as a compiled text does: "bf16" of "bfloat16"."""
    found = jnp.dtype(dtype)
    if found == jnp.bool_:
        return "pred"
    if dtype.startswith("float8") or dtype.startswith("float4"):
        return dtype.replace("float", "f").replace("_", "")
    letter = "bf" if dtype == "bfloat16" else {"f": "f", "i": "s", "u": "u", "c": "c", "V": "s"}[found.kind]
    return f"{letter}{re.sub(r'[^0-9]', '', dtype)}"
