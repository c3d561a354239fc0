"""The ways to spread one contraction over a mesh: each cuts one label along each mesh axis, and moves what has to move.

A mesh axis can share out the indices of one label of the contraction: a batch or free label, and then every device has
a part of the result; or a contracting one, and then every device has partial sums of all of it. Or of none, and then
devices along it do the same work. That is all there is: with the operands' shardings and the result's, a choice for
each mesh axis says what has to be sent.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from jbdot.core.contraction import Contraction
from jbdot.core.labels import Labels
from jbdot.many_devices import collective_matmul
from jbdot.many_devices.collectives import AllReduce
from jbdot.many_devices.reshard import Route, route
from jbdot.many_devices.shard import Block, MeshAxes, Sharding, itemsize

Places = Mapping[str, MeshAxes]  # for each label the mesh axes that share it out, the slowest first
MOST_ORDERS: Final = 3  # in which one label is cut by several mesh axes


@dataclasses.dataclass(frozen=True)
class Task:
    """A contraction on a mesh, whose operands are somewhere and whose result may be wanted somewhere.

    Attributes:
        contraction: Its labels; none summed in one operand alone, none twice.
        mesh: The length of each mesh axis.
        lhs: What each device has of lhs.
        rhs: What each device has of rhs.
        out: The sharding that the result is to have; None where that is open.
        shape: The result's.
        dtype: The result's, by name.
        sum_dtype: What partial sums are sent in, until they are complete.
        slow: Mesh axes that leave a slice or node.
        reduce: "all_reduce", "reduce_scatter" or "unreduced", where contracting labels are to stay where they are, and
            how their sums are to be completed; else None.
    """

    contraction: Contraction
    mesh: Mapping[str, int] = dataclasses.field(hash=False)
    lhs: Block
    rhs: Block
    out: Sharding | None
    shape: tuple[int, ...]
    dtype: str
    sum_dtype: str
    reduce: str | None = None
    slow: MeshAxes = ()

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """The length of each label."""
        return self.contraction.sizes(self.lhs.shape, self.rhs.shape)

    @functools.cached_property
    def axes(self) -> MeshAxes:
        """The mesh axes that there is a choice for: those of more than one device."""
        return tuple(axis for axis, size in self.mesh.items() if size > 1)

    @functools.cached_property
    def flops(self) -> int:
        """Of the whole contraction."""
        return self.contraction.flops(self.lhs.shape, self.rhs.shape)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way: what each label is shared out along, and how the operands and the result get there.

    Attributes:
        places: For each label its mesh axes.
        lhs: How lhs gets to where it is multiplied.
        rhs: How rhs gets there.
        out: How the result gets from there to where it is wanted.
        flops: Of each device.
        ring: "lhs" or "rhs", whose last gather runs beside the contraction, as a collective matmul; None for none.
    """

    places: Places = dataclasses.field(hash=False)
    lhs: Route
    rhs: Route
    out: Route
    flops: int
    ring: str | None = None

    @functools.cached_property
    def sent(self) -> int:
        """Bytes that each device sends."""
        return self.lhs.sent + self.rhs.sent + self.out.sent

    @functools.cached_property
    def temporary(self) -> int:
        """Bytes that each device holds at most beside its parts of the operands and the result, by a simple count."""
        moved = [
            0 if not way.steps else 2 * way.blocks[-2].bytes if name == self.ring else way.end.bytes
            for name, way in self.ways[:2]
        ]
        after = [a.bytes + b.bytes for a, b in itertools.pairwise(self.out.blocks[:-1])] if self.out.steps else []
        last = self.out.blocks[-2].bytes if self.out.steps else 0
        lhs, rhs = (
            max((block.bytes for block in way.blocks[1 : -1 if name == self.ring else None]), default=0)
            for name, way in self.ways[:2]
        )
        return max(sum(moved) + (self.out.start.bytes if self.out.steps else 0), lhs, rhs, last, *after, 0)

    @property
    def name(self) -> str:
        """Which label each mesh axis shares out: "m on x, k on y"."""
        named = [f"{label} on {' '.join(axes)}" for label, axes in self.places.items() if axes]
        ring = "" if self.ring is None else f", {self.ring} round a ring"
        return (", ".join(named) or "all on every device") + ring

    @property
    def ways(self) -> tuple[tuple[str, Route], ...]:
        """The three routes, by name."""
        return ("lhs", self.lhs), ("rhs", self.rhs), ("out", self.out)


Held = list[tuple[int, int, MeshAxes]]  # an array's labels: number, indices that a device has, mesh axes that cut it


class Leg(NamedTuple):
    """What one array has to go through, by bounds.

    Attributes:
        bytes: That a device has of it while it multiplies.
        sent: By each device at least.
        steps: Collectives that it needs at least.
        along: The mesh axes that these run along.
    """

    bytes: int
    sent: int
    steps: int
    along: frozenset[str]


class Draft(NamedTuple):
    """A way before its routes are found: which mesh axes share out which label, and the least that it costs.

    Attributes:
        axes: For each label of `Ways.labels` its mesh axes, in the mesh's order.
        partial: The mesh axes along which devices have partial sums.
        flops: Of each device.
        legs: Of lhs, of rhs, and of the result.
    """

    axes: tuple[MeshAxes, ...]
    partial: MeshAxes
    flops: int
    legs: tuple[Leg, Leg, Leg]

    @property
    def sent(self) -> int:
        """Bytes that each device sends at least."""
        return sum([leg.sent for leg in self.legs])

    @property
    def touched(self) -> int:
        """Bytes that each device reads and writes while it multiplies."""
        return sum([leg.bytes for leg in self.legs])


class Ways:
    """The ways of one task. Routes that several of them share are found once."""

    def __init__(self, task: Task) -> None:
        c = task.contraction
        self.task, self.labels = task, c.dot_out + c.contracting
        self._routes: dict[Any, Route | None] = {}
        self._legs: dict[Any, Leg] = {}
        self._devices = math.prod(task.mesh.values())
        out = Block.of(task.shape, task.dtype, task.out or ((),) * len(task.shape), task.mesh)
        self._held = [  # of each array: its labels' numbers, how many indices of each a device has, and by which axes
            [
                (self.labels.index(label), size, axes)
                for label, size, axes in zip(labels, block.local, block.sharding, strict=True)
                if label is not None
            ]
            for labels, block in ((c.lhs, task.lhs), (c.rhs, task.rhs), (c.out, out))
        ]

    @functools.cached_property
    def drafts(self) -> list[Draft]:
        """Every way, without those for which a size does not divide."""
        sizes = [self.task.sizes[label] for label in self.labels]
        shared = self._shared(self.task.axes, ((),) * len(sizes), sizes)
        return [self._draft(axes) for axes in shared if self._stays(axes)]

    @property
    def share(self) -> int:
        """FLOPs of each device where none does another's work."""
        return self.task.flops // self._devices

    def gathers(self, draft: Draft) -> bool:
        """Whether no mesh axis has to go from one label of an operand to another."""
        return not any(
            axis in draft.axes[other]
            for held in self._held[:2]
            for at, _, axes in held
            for axis in axes
            for other, *_ in held
            if other != at
        )

    def _shared(self, left: MeshAxes, axes: tuple[MeshAxes, ...], sizes: list[int]) -> Iterator[tuple[MeshAxes, ...]]:
        """Each of the mesh axes that are left shares out one label, of which a device has so much, or none."""
        if not left:
            yield axes
            return
        axis, rest = left[0], left[1:]
        parts = self.task.mesh[axis]
        for at, size in enumerate(sizes):
            if size % parts == 0:
                cut = (*axes[:at], (*axes[at], axis), *axes[at + 1 :])
                yield from self._shared(rest, cut, [*sizes[:at], size // parts, *sizes[at + 1 :]])
        yield from self._shared(rest, axes, sizes)

    def _stays(self, axes: tuple[MeshAxes, ...]) -> bool:
        """Whether mesh axes of contracting labels stay where they are, where sums are to be completed in one way."""
        task, c = self.task, self.task.contraction
        if task.reduce is None:
            return True
        stay = [
            axis
            for labels, block in ((c.lhs, task.lhs), (c.rhs, task.rhs))
            for label, cut in zip(labels, block.sharding, strict=True)
            for axis in cut
            if label in c.contracting
        ]
        return set(stay) <= set(self._partial(axes))

    def _partial(self, axes: tuple[MeshAxes, ...]) -> MeshAxes:
        return tuple([axis for cut in axes[len(self.task.contraction.dot_out) :] for axis in cut])

    def _draft(self, axes: tuple[MeshAxes, ...]) -> Draft:
        partial, used = self._partial(axes), self._parts([axis for cut in axes for axis in cut])
        legs = self._leg(0, axes), self._leg(1, axes), self._leg(2, axes, partial, used)
        return Draft(axes, partial, self.task.flops // used, legs)

    def _leg(self, number: int, axes: tuple[MeshAxes, ...], partial: MeshAxes = (), used: int = 0) -> Leg:
        """What an operand, 0 or 1, or the result, 2, goes through; the same for all ways that cut its labels so."""
        task, held = self.task, self._held[number]
        key = number, tuple([axes[at] for at, *_ in held]), partial, used
        if key not in self._legs:
            dtypes = task.lhs.dtype, task.rhs.dtype, task.sum_dtype if partial else task.dtype
            item = itemsize(dtypes[number])
            size = math.prod([task.sizes[self.labels[at]] // self._parts(axes[at]) for at, *_ in held])
            common = self._common(held, axes)
            if number < 2:
                sent = (size - common) * item
            else:
                sent = self._leaving(size, common, partial, used) * min(item, itemsize(task.dtype))
            self._legs[key] = Leg(size * item, sent, *self._steps(held, axes, number < 2, partial))
        return self._legs[key]

    def _steps(
        self, held: Held, axes: tuple[MeshAxes, ...], comes: bool, partial: MeshAxes
    ) -> tuple[int, frozenset[str]]:
        """How many collectives bring an operand to where it is multiplied, or the result from there, at least.

        Sums come first, along one axis after another where they are scattered. Mesh axes that cut nothing in the end
        are gathered, label by label. Those that go from one label to another, or end in another order, need an exchange
        or a permutation, after which one gather may do.
        """
        task = self.task
        if not comes and (task.out is None or task.reduce == "unreduced"):
            return int(bool(partial) and task.reduce != "unreduced"), frozenset(partial)
        ends = [(there, axes[at]) if comes else (axes[at], there) for at, _, there in held]
        every = frozenset(axis for pair in ends for cut in pair for axis in cut)
        if not all(self._divides(at, {*there, *axes[at]}) for at, _, there in held):  # gathered first, then sliced
            return bool(partial) + any(first for first, _ in ends), every | {*partial}
        where = {axis: number for number, (_, last) in enumerate(ends) for axis in last}
        gone, gathers, moves, grown = set[str](), 0, False, 1.0
        for number, (first, last) in enumerate(ends):
            stay = {axis for axis in first if where.get(axis) == number}
            left = {axis for axis in first if axis not in where}
            known = first if comes else last  # the order of the other is open
            moves |= len(stay) + len(left) < len(first) or {*known[: len(stay)]} != stay
            moves |= bool(left) and len(last) > len(stay)
            gone, gathers, grown = gone | left, gathers + bool(left), grown * self._parts(first) / self._parts(last)
        scattered = [axis for axis in partial if axis in where] if task.reduce != "all_reduce" else []
        sums = len(scattered) + (len(scattered) < len(partial))
        if moves:
            return sums + 1 + (gathers if partial else int(grown > 1)), every | {*partial}
        return sums + gathers, frozenset((*gone, *partial))

    def _parts(self, axes: Collection[str]) -> int:
        return math.prod([self.task.mesh[axis] for axis in axes])

    def _divides(self, label: int, axes: Collection[str]) -> bool:
        return self.task.sizes[self.labels[label]] % self._parts(axes) == 0

    def _common(self, held: Held, axes: tuple[MeshAxes, ...]) -> int:
        """Elements that a device has of an array both where it multiplies and before, or after: at most, on average.

        Where one label is cut by some mesh axes here and by others there, parts meet by chance, and labels that have
        such axes of their own do so independently of one another.
        """
        common, chances, met = 1, 1, set[str]()
        for at, size, there in held:
            here = axes[at]
            common *= min(self.task.sizes[self.labels[at]] // self._parts(here), size)
            if here and there and met.isdisjoint((*here, *there)) and not any(axis in there for axis in here):
                met.update((*here, *there))
                chances *= min(self._parts(here), self._parts(there))
        return -(-common // chances)

    def _leaving(self, out: int, has: int, partial: MeshAxes, used: int) -> int:
        """Elements of the result that a device sends at least, or gets, as many of which it ends up with.

        Each partial sum is sent once at least, by one of the devices that have made it, unless it ends there; and of
        each sum that a device ends with it gets a part.
        """
        task = self.task
        if task.reduce == "unreduced" or (task.out is None and not partial):
            return 0
        if task.out is None:
            return out - out // math.prod([task.mesh[axis] for axis in partial])
        ends = math.prod([size for _, size, _ in self._held[2]])
        return max(out * used // self._devices - has, ends) if partial else ends - has

    def of(self, draft: Draft) -> Iterator[Candidate]:
        """The candidates of one draft: in each order of the mesh axes, for each sharding that the result may have."""
        return (way for places in self.ordered(draft) for way in self.at(places, draft))

    def ordered(self, draft: Draft) -> Iterator[Places]:
        """For each label the mesh axes that cut it, in each order in which they may."""
        cuts = zip(self.labels, draft.axes, strict=True)
        for orders in itertools.product(*[self._orders(label, axes) for label, axes in cuts]):
            yield dict(zip(self.labels, orders, strict=True))

    def _orders(self, label: str, axes: MeshAxes) -> list[MeshAxes]:
        """In which orders mesh axes may cut a label: as they do somewhere, or else as in the mesh."""
        if len(axes) < 2:
            return [axes]
        c, task = self.task.contraction, self.task
        sides = (c.lhs, task.lhs.sharding), (c.rhs, task.rhs.sharding), (c.out, task.out or ())
        seen = [dict(zip(labels, sharding, strict=False)).get(label, ()) for labels, sharding in sides]
        orders = [
            (*(axis for axis in order if axis in axes), *(axis for axis in axes if axis not in order)) for order in seen
        ]
        return list(dict.fromkeys([*orders, axes]))[:MOST_ORDERS]

    def at(self, places: Places, draft: Draft) -> Iterator[Candidate]:
        """The candidates in one order: for each sharding that the result may have, and each ring."""
        task, c = self.task, self.task.contraction
        lhs, rhs = self.operand("lhs", places), self.operand("rhs", places)
        if lhs is None or rhs is None:
            return
        dtype = task.sum_dtype if draft.partial else task.dtype
        start = Block.of(task.shape, dtype, sharding_of(places, c.out), task.mesh)
        partial = tuple(axis for axis in task.axes if axis in draft.partial)
        for end, scatter in _ends(task, start, partial):
            out = self._out(start, end, partial, scatter)
            if out is not None and _keeps(task, out, scatter):
                found = Candidate(places, lhs, rhs, out, draft.flops)
                yield found
                for side, labels in (("lhs", c.lhs), ("rhs", c.rhs)):
                    if collective_matmul.fits(getattr(found, side), labels, c):
                        yield dataclasses.replace(found, ring=side)

    def operand(self, side: str, places: Places) -> Route | None:
        """How an operand, "lhs" or "rhs", gets to where it is multiplied."""
        end = sharding_of(places, getattr(self.task.contraction, side))
        if (side, end) not in self._routes:
            self._routes[side, end] = route(getattr(self.task, side), end)
        return self._routes[side, end]

    def _out(self, start: Block, end: Sharding, partial: MeshAxes, scatter: bool) -> Route | None:
        """How the result gets from where it is made to a sharding."""
        task, key = self.task, (start.factors, end, partial, scatter)
        if task.reduce == "unreduced":
            return Route(start) if end == start.sharding and partial else None
        if key not in self._routes:
            self._routes[key] = route(start, end, partial, scatter, task.dtype, task.slow)
        return self._routes[key]


def candidates(task: Task) -> Iterator[Candidate]:
    """Every way, without those for which a size does not divide."""
    ways = Ways(task)
    return (way for draft in ways.drafts for way in ways.of(draft))


def _ends(task: Task, start: Block, partial: MeshAxes) -> Iterator[tuple[Sharding, bool]]:
    """The result's shardings that may follow, and whether its sums are scattered."""
    whole, scattered = task.reduce != "reduce_scatter", task.reduce not in ("all_reduce", "unreduced")
    if task.out is not None:
        yield from ((task.out, scatter) for scatter in ((True,) if scattered else (False,)))
        return
    if whole or not partial:
        yield start.sharding, False
    for dim in range(len(task.shape)) if partial and scattered else ():
        if start.divides(dim, partial):
            yield (
                tuple((*axes, *partial) if dim == number else axes for number, axes in enumerate(start.sharding)),
                True,
            )


def _keeps(task: Task, out: Route, scatter: bool) -> bool:
    """Whether sums are completed as they are asked for."""
    return task.reduce != "reduce_scatter" or (not any(isinstance(step, AllReduce) for step in out.steps) and scatter)


def sharding_of(places: Places, labels: Labels) -> Sharding:
    """The mesh axes of an array's labels.

    Example:
        >>> sharding_of({"m": ("x",), "k": ()}, ("m", None, "k"))
        (('x',), (), ())
    """
    return tuple(() if label is None else places[label] for label in labels)
