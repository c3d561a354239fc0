"""What a layout of a program costs: each device's arithmetic and memory traffic, what is sent, and memory. Estimates.

Every operation is done where its operands and results are: along each mesh axis one of its dimensions is cut, or none,
whichever takes the least time with what has to be moved for it. Elementwise work goes along with its neighbours, as
XLA fuses it: what is written to memory is what a dot or another operation of its own reads or gives, and what is kept.
"""

import dataclasses
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np
from jax import numpy as jnp

from jbdot.devices.links import Links
from jbdot.many_devices.block import MeshAxes, Sharding
from jbdot.many_devices.collectives import SCATTERED, is_gathered, is_scattered
from jbdot.programs.labels import Array, Dims, Flow, Operation, Turn
from jbdot.programs.layout import Layout

Places = Mapping[str, Hashable]  # of each mesh axis the dimension of an operation that it cuts

_ADDS: Final = ("add", "add_any")
_PASSES: Final = ("convert_element_type", "reshape", "transpose", "squeeze", "copy")
_SCATTERED: Final = tuple(jnp.dtype(dtype).name for dtype in SCATTERED)


@dataclasses.dataclass(frozen=True)
class Move:
    """A collective that a layout has done.

    Attributes:
        kind: One of `jbdot.devices.links.KINDS`.
        axes: Of the mesh.
        sent: Bytes that each device sends each time.
        us: What that takes, estimated.
    """

    kind: str
    axes: MeshAxes
    sent: float
    us: float


@dataclasses.dataclass(frozen=True)
class LayoutCost:
    """What a layout costs each device in a call. Estimates, by published figures.

    Attributes:
        compute_us: Arithmetic, or the memory that it reads and writes, the longer.
        sending_us: Collectives, one after another.
        sent: Bytes, by kind of collective and mesh axes.
        flops: Of dots and convolutions.
        argument_bytes: Of all arguments.
        output_bytes: Of results that do not take the place of an argument.
        temp_bytes: Of what is between, at most at a time.
    """

    compute_us: float
    sending_us: float
    sent: Mapping[tuple[str, MeshAxes], float]
    flops: float
    argument_bytes: int
    output_bytes: int
    temp_bytes: int

    @property
    def total_us(self) -> float:
        """Returns the time of a call, if nothing is sent beside other work."""
        return self.compute_us + self.sending_us

    @property
    def memory_bytes(self) -> int:
        """Returns the bytes that a device needs."""
        return self.argument_bytes + self.output_bytes + self.temp_bytes

    @property
    def bytes_sent(self) -> int:
        """Returns the bytes that each device sends."""
        return round(sum(self.sent.values()))


@dataclasses.dataclass(frozen=True)
class _Done:
    """An operation, done in one way: its own time, and the moves of each operand and result."""

    us: float
    flops: float
    places: Places
    moves: tuple[tuple[int, Hashable, tuple[Move, ...]], ...]  # the array's number, where it goes, and how
    held: int  # bytes of operands that were gathered


@dataclasses.dataclass(frozen=True)
class _Row:
    """Operations that are the same but for which arrays they are of: repeated layers."""

    operation: Operation
    arrays: tuple[int, ...]  # the numbers of the shapes and labels of operands and results
    classes: tuple[int, ...]  # arrays of one class are moved once for all their uses
    count: int
    moments: tuple[int, ...]
    once: float  # how often what it adds up is completed, where all devices get it: outside of a loop that sums it


class Costs:
    """Estimates layouts of one program on one mesh.

    Args:
        flow: The program.
        mesh: The sizes of its axes.
        links: What can be sent along them.
        tied: Of each result the number of the argument whose place it takes; None of others.
        pinned: Shardings of arguments, by number, that are not the layout's to choose.
        results: Likewise of results; of one that takes the place of an argument it is the argument's.
    """

    def __init__(
        self,
        flow: Flow,
        mesh: Mapping[str, int],
        links: Links,
        tied: tuple[int | None, ...],
        pinned: Mapping[int, Sharding],
        results: Mapping[int, Sharding] | None = None,
    ) -> None:
        self.mesh = {axis: size for axis, size in mesh.items() if size > 1}
        self._flow, self._links = flow, links
        self._kinds: dict[Hashable, int] = {}  # of an array: its labels and shape, and its sharding where it is pinned
        self._shapes: list[tuple[tuple[int | None, ...], tuple[int, ...], Sharding | None]] = []
        self._pins = {flow.results[at]: sharding for at, sharding in (results or {}).items()}
        self._pins |= {flow.arguments[at]: sharding for at, sharding in pinned.items()}
        for result, at in zip(flow.results, tied, strict=True):
            if at is not None and at in pinned:
                self._pins[result] = pinned[at]
        self._done: dict[Hashable, _Done] = {}
        self._known: dict[Hashable, LayoutCost] = {}
        self._rows = self._grouped()
        self._memory = _Memory(flow, tied, self._kind)

    def of(self, layout: Layout) -> LayoutCost:
        """Estimates a layout."""
        if layout.key not in self._known:
            self._known[layout.key] = self._estimated(layout)
        return self._known[layout.key]

    def operands(self, layout: Layout, operation: Operation) -> tuple[Sharding, ...]:
        """Returns where the operands of an operation are for it, moved from where the layout has them."""
        arrays = (*operation.ins, *operation.outs)
        homes = tuple(self.home(layout, array) for array, _ in arrays)
        places = self._best(operation, homes).places
        ranks: dict[Hashable, list[str]] = {}
        for (_, dims), home in zip(arrays, homes, strict=True):  # as some array has them, and then as the mesh has them
            for dim, axes in zip(dims, home, strict=True):
                if dim is not None:
                    ranks[dim] = max(ranks.get(dim, []), [axis for axis in axes if places.get(axis) == dim], key=len)
        for axis, dim in places.items():
            if axis not in ranks.setdefault(dim, []):
                ranks[dim].append(axis)
        return tuple(
            tuple(tuple(ranks.get(dim, ())) if dim is not None else () for dim in dims) for _, dims in operation.ins
        )

    def unclear(self, layout: Layout) -> frozenset[Array]:
        """Returns the results that are elsewhere than their operands say, or of which those say two things.

        Where the compiler's propagation puts the others is clear. A dot whose operands are cut by one mesh axis along
        two of its dimensions, as by FSDP, can be done in either way.
        """
        found: set[Array] = set()
        for operation in self._flow.operations:
            said: dict[str, set[Hashable]] = defaultdict(set)
            for array, dims in operation.ins:
                for dim, axes in zip(dims, self.home(layout, array), strict=True):
                    for axis in axes:
                        said[axis].add(dim)
            for array, dims in operation.outs:
                at = {axis: dim for dim, axes in zip(dims, self.home(layout, array), strict=True) for axis in axes}
                for axis in self.mesh:
                    dims_said = said[axis]
                    clear = dims_said <= {at.get(axis)} or (
                        len(dims_said) == 1 and axis not in at and dims_said <= operation.summed
                    )
                    if not clear:
                        found.add(array)
        return frozenset(found)

    def home(self, layout: Layout, array: Array) -> Sharding:
        """Returns where a layout has an array."""
        return self._pins.get(array) or layout.sharding(self._flow.labels(array), array.shape, self.mesh)

    def __len__(self) -> int:
        return len(self._known)

    def _estimated(self, layout: Layout) -> LayoutCost:
        homes = [pin or layout.sharding(labels, shape, self.mesh) for labels, shape, pin in self._shapes]
        sent: dict[tuple[str, MeshAxes], float] = defaultdict(float)
        compute = sending = flops = 0.0
        held = np.zeros(len(self._flow.operations) + 1)
        seen: set[Hashable] = set()
        for number, row in enumerate(self._rows):
            places = tuple(homes[at] for at in row.arrays)
            key = number, places
            done = self._done.get(key)
            if done is None:
                done = self._done[key] = self._best(row.operation, places)
            times = row.count * row.operation.times
            compute += done.us * times
            flops += done.flops * times
            for at, to, moves in done.moves:
                shared = row.classes[at], to
                if shared in seen:
                    continue
                seen.add(shared)
                for move in moves:
                    often = row.count * row.once if _is_sum(row.operation, at, move) else times
                    sent[move.kind, move.axes] += move.sent * often
                    sending += move.us * often
            if done.held:
                held[list(row.moments)] = done.held
        local = np.array(
            [
                math.prod(shape) / math.prod(self.mesh[axis] for axes in home for axis in axes)
                for (_, shape, _), home in zip(self._shapes, homes, strict=True)
            ]
        )
        traffic, arguments, outputs, temporary = self._memory.of(local, held)
        compute += 1e6 * traffic / self._links.hardware.memory_bytes_per_s
        return LayoutCost(compute, sending, dict(sent), flops, arguments, outputs, temporary)

    # Grouping what is alike.

    def _kind(self, array: Array) -> int:
        labels = self._flow.labels(array)
        key = labels, array.shape, self._pins.get(array)
        if key not in self._kinds:
            self._kinds[key] = len(self._shapes)
            self._shapes.append(key)
        return self._kinds[key]

    def _grouped(self) -> list[_Row]:
        """Joins operations that are alike, with operands and results that are used alike."""
        operations = self._flow.operations
        base: dict[Hashable, int] = {}
        alike: list[int] = []
        uses: dict[Array, list[int]] = {}
        for operation in operations:
            arrays = [array for array, _ in (*operation.ins, *operation.outs)]
            dims = tuple(dims for _, dims in (*operation.ins, *operation.outs))
            kinds = tuple((self._kind(array), array.dtype) for array in arrays)
            alike.append(base.setdefault((operation.name, dims, kinds, operation.times, operation.summed), len(base)))
            for array, _ in operation.ins:
                uses.setdefault(array, []).append(alike[-1])
        roots, self._outside = _sums(operations, self._flow.turns)
        classes: dict[Hashable, int] = {}
        rows: dict[Hashable, list[int]] = {}
        named: dict[Hashable, tuple[int, ...]] = {}
        for at, operation in enumerate(operations):
            found = [
                classes.setdefault((self._kind(array), array.dtype, *uses.get(array, ())), len(classes))
                for array in (*(x for x, _ in operation.ins), *(roots.get(x, x) for x, _ in operation.outs))
            ]
            key = alike[at], tuple(found)
            named[key] = tuple(
                -1 - number if place >= len(operation.ins) else number for place, number in enumerate(found)
            )
            rows.setdefault(key, []).append(at)

        return [
            _Row(
                operations[moments[0]],
                tuple(self._kind(x) for x, _ in (*operations[moments[0]].ins, *operations[moments[0]].outs)),
                named[key],
                len(moments),
                tuple(moments),
                self._once(operations[moments[0]]),
            )
            for key, moments in rows.items()
        ]

    # One operation.

    def _once(self, operation: Operation) -> float:
        """Says how often what an operation adds up is completed: outside of a loop that only sums it."""
        return min((self._outside.get(x, operation.times) for x, _ in operation.outs), default=1.0)

    def _best(self, operation: Operation, homes: tuple[Sharding, ...]) -> _Done:
        """Does an operation in the way that takes the least time."""
        often = self._once(operation) / (operation.times or 1)
        arrays = (*operation.ins, *operation.outs)
        if not any(axes for home in homes for axes in home):
            return self._carried(operation, homes, {})
        sizes: dict[Hashable, int] = {}
        wanted: dict[str, list[Hashable]] = {axis: [None] for axis in self.mesh}
        for (array, dims), home in zip(arrays, homes, strict=True):
            for size, dim, axes in zip(array.shape, dims, home, strict=True):
                if dim is None or dim in operation.whole or size == 1:
                    continue
                sizes[dim] = math.gcd(sizes.get(dim, 0), size)
                for axis in axes:
                    if dim not in wanted[axis]:
                        wanted[axis].append(dim)
        best: _Done | None = None
        fewest = math.inf
        for chosen in itertools.product(*wanted.values()):
            places = {axis: dim for axis, dim in zip(wanted, chosen, strict=True) if dim is not None}
            parts: Counter[Hashable] = Counter()
            for axis, dim in places.items():
                parts[dim] = (parts[dim] or 1) * self.mesh[axis]
            if any(sizes[dim] % count for dim, count in parts.items()):
                continue
            done = self._carried(operation, homes, places)
            us = done.us + sum(
                move.us * (often if _is_sum(operation, at, move) else 1)
                for at, _, moves in done.moves
                for move in moves
            )
            if us < fewest:
                best, fewest = done, us
        if best is None:
            raise AssertionError("an operation can be done by every device")
        return best

    def _carried(self, operation: Operation, homes: tuple[Sharding, ...], places: Places) -> _Done:
        """Does an operation with these of its dimensions cut."""
        moves: list[tuple[int, Hashable, tuple[Move, ...]]] = []
        share = math.prod([self.mesh[axis] for axis in places])
        touched, held = 0.0, 0
        for at, ((array, dims), home) in enumerate(zip(operation.ins, homes, strict=False)):
            cut = _cut(dims, places)
            done, local = self._moved(array, home, cut)
            touched += local
            if done:
                moves.append((at, tuple(sorted(cut.items())), done))
                held += round(local)
        count = len(operation.ins)
        for at, ((array, dims), home) in enumerate(zip(operation.outs, homes[count:], strict=True)):
            cut = _cut(dims, places)
            partial = [axis for axis, dim in places.items() if dim in operation.summed and axis not in cut]
            done, local = self._completed(array, home, cut, partial)
            touched += local
            if done:
                moves.append((count + at, (tuple(sorted(cut.items())), *partial), done))
        flops = operation.flops / share
        us = 0.0
        if not operation.fuses:
            dtype = operation.ins[0][0].dtype if operation.ins else "float32"
            us = self._links.hardware.compute_us(flops, dtype, touched)
        return _Done(us, flops, places, tuple(moves), held)

    def _moved(self, array: Array, home: Sharding, cut: Mapping[str, int]) -> tuple[tuple[Move, ...], float]:
        """Moves an operand from where it is to where it is needed, and says what a device then has of it."""
        at = {axis: dim for dim, axes in enumerate(home) for axis in axes}
        size = math.prod(array.shape) * array.item_bytes
        local = size / math.prod([self.mesh[axis] for axis in at])
        moves: list[Move] = []
        turned = tuple(axis for axis in at if axis in cut and cut[axis] != at[axis])
        gathered = tuple(axis for axis in at if axis not in cut)
        for axis in turned:
            moves.append(
                self._move("all-to-all", (axis,), local * (self.mesh[axis] - 1) / self.mesh[axis], array.dtype)
            )
        local /= math.prod([self.mesh[axis] for axis in cut if axis not in at])  # each takes its part first
        if gathered:
            count = math.prod(self.mesh[axis] for axis in gathered)
            local *= count
            moves.append(self._move("all-gather", gathered, local * (count - 1) / count, array.dtype))
        return tuple(moves), local

    def _completed(
        self, array: Array, home: Sharding, cut: Mapping[str, int], partial: list[str]
    ) -> tuple[tuple[Move, ...], float]:
        """Adds up a result, and moves it where it is wanted."""
        at = {axis: dim for dim, axes in enumerate(home) for axis in axes}
        local = made = math.prod(array.shape) * array.item_bytes / math.prod([self.mesh[axis] for axis in cut])
        moves: list[Move] = []
        for kind, axes in (
            ("reduce-scatter", tuple(axis for axis in partial if axis in at)),
            ("all-reduce", tuple(axis for axis in partial if axis not in at)),
        ):
            if axes:
                count = math.prod(self.mesh[axis] for axis in axes)
                each = local * (count - 1) / count
                moves.append(self._move(kind, axes, each if kind == "reduce-scatter" else 2 * each, array.dtype))
                local /= count if kind == "reduce-scatter" else 1
        for axis in cut:
            if axis in at and at[axis] != cut[axis]:
                moves.append(
                    self._move("all-to-all", (axis,), local * (self.mesh[axis] - 1) / self.mesh[axis], array.dtype)
                )
        local /= math.prod([self.mesh[axis] for axis in at if axis not in cut and axis not in partial])
        gathered = tuple(axis for axis in cut if axis not in at)
        if gathered:
            count = math.prod(self.mesh[axis] for axis in gathered)
            moves.append(self._move("all-gather", gathered, local * (count - 1), array.dtype))
        return tuple(moves), made

    def _move(self, kind: str, axes: MeshAxes, sent: float, dtype: str) -> Move:
        """Makes a collective as XLA does: over some slices of a torus it adds all where parts would do."""
        sides = self._links.sides(axes)
        scattered = is_scattered(sides) and (not self._links.hardware.torus or dtype in _SCATTERED)
        if (kind == "reduce-scatter" and not scattered) or (kind == "all-gather" and not is_gathered(sides)):
            kind, sent = "all-reduce", 2 * sent
        return Move(kind, axes, sent, self._links.time_us(kind, sent, axes))


def _is_sum(operation: Operation, at: int, move: Move) -> bool:
    """Says whether a collective completes a result: of what a loop only adds to, once after it."""
    return move.kind == "all-reduce" and at >= len(operation.ins)


def _cut(dims: Dims, places: Places) -> dict[str, int]:
    """Says which axis of an array each mesh axis cuts, where the dimensions of its operation are cut so."""
    return {axis: dims.index(dim) for axis, dim in places.items() if dim in dims}


def _sums(operations: tuple[Operation, ...], turns: tuple[Turn, ...]) -> tuple[dict[Array, Array], dict[Array, float]]:
    """Finds the results that are only added to others of their kind: all are completed as one, by the last sum.

    What a loop only adds to, turn by turn, is completed when it ends: of such results it says too how often that is.
    """
    uses = Counter(array for operation in operations for array, _ in operation.ins)
    partial = {turn.begin for turn in turns if uses[turn.begin] == 1 and not uses[turn.end]}
    ends = {turn.end: turn.out for turn in turns if turn.begin in partial}
    parents: dict[Array, Array] = {}
    for operation in operations:
        ins, out = [array for array, _ in operation.ins], operation.outs[0][0] if operation.outs else None
        if out is None:
            continue
        if operation.summed:
            partial.add(out)
        elif (operation.name in _ADDS or operation.name in _PASSES) and all(
            array in partial and uses[array] == 1 for array in ins
        ):
            partial.add(out)
            parents |= dict.fromkeys(ins, out)
            if out in ends and operation.name in _ADDS:
                partial.add(ends[out])
                parents[out] = ends[out]

    roots: dict[Array, Array] = {}
    outside: dict[Array, float] = {}
    after = {turn.out: turn.times for turn in turns}
    for array in partial:
        root = array
        while root in parents:
            root = parents[root]
            if root in after:
                outside[array] = after[root]
        roots[array] = root
    return roots, outside


class _Memory:
    """What is alive at each operation, and what is read and written."""

    def __init__(self, flow: Flow, tied: tuple[int | None, ...], kind: Any) -> None:
        operations = flow.operations
        heavy = np.cumsum([not operation.fuses for operation in operations] + [False])
        made = {array: operation for operation in operations for array, _ in operation.outs}
        fused, heavily = Counter[Array](), Counter[Array]()
        times: dict[Array, float] = {}
        for operation in operations:
            for array, _ in operation.ins:
                (fused if operation.fuses else heavily)[array] += 1
            for array, _ in (*operation.ins, *operation.outs):
                times.setdefault(array, operation.times)
        lives, kept = dict(flow.lives), set(flow.arguments)
        for operation in reversed(operations):  # a view lives in what it is of
            if operation.moves and operation.ins:
                (source, _), (view, _) = operation.ins[0], operation.outs[0]
                if source in lives and view in lives:
                    lives[source] = lives[source][0], max(lives[source][1], lives[view][1])
        replaced = {result for result, at in zip(flow.results, tied, strict=True) if at is not None}
        rows: list[tuple[int, int, int, int]] = []
        weights: list[tuple[int, float]] = []
        for array, (first, last) in lives.items():
            maker = made.get(array)
            if maker is not None and maker.moves:
                continue
            crosses = heavy[min(last, len(operations)) - 1] > heavy[first] if last > first else False
            stored = array in kept or maker is None or not maker.fuses or heavily[array] or crosses
            if not stored:
                continue
            writes = 1 if maker is not None else 0
            reads = 1 if fused[array] else 0
            if maker is not None and not maker.fuses:
                writes = 0  # counted with the operation
            weights.append((kind(array), array.item_bytes * (writes + reads) * times.get(array, 0.0)))
            if array not in kept and array not in replaced:
                rows.append((kind(array), first, last, array.item_bytes))
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self._traffic = weights
        self._arguments = [(kind(array), array.item_bytes) for array in flow.arguments]
        seen: set[Array] = set(flow.arguments)
        self._outputs = [
            (kind(array), array.item_bytes)
            for array, at in zip(flow.results, tied, strict=True)
            if at is None and array not in seen
        ]
        self._length = len(operations) + 2

    def of(self, local: Any, held: Any) -> tuple[float, int, int, int]:
        """Returns bytes read and written, and of arguments, of results and of what is between at most.

        Args:
            local: Elements that a device has of each kind of array.
            held: Bytes that are gathered for each operation.
        """
        traffic = sum(local[at] * weight for at, weight in self._traffic)
        arguments, outputs = (sum(local[at] * size for at, size in rows) for rows in (self._arguments, self._outputs))
        kinds, first, last, size = self._rows.T
        change = np.zeros(self._length)
        bytes_ = local[kinds] * size
        np.add.at(change, np.maximum(first, 0), bytes_)
        np.add.at(change, np.minimum(last + 1, self._length - 1), -bytes_)
        alive = np.cumsum(change)
        alive[: len(held)] += held
        return float(traffic), round(arguments), round(outputs), round(alive.max())
