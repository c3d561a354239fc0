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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from jbdot import ring
from jbdot.block import Block, MeshAxes, Sharding
from jbdot.collectives import AllReduce
from jbdot.contraction import Contraction
from jbdot.labels import Labels
from jbdot.route import Route, route

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
        sum_dtype: What partial sums are kept in until they are complete.
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
        ring: "lhs" or "rhs", whose last gather runs beside the contraction (see `jbdot.ring`); None for none.
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


def candidates(task: Task) -> Iterator[Candidate]:
    """Every way, without those for which a size does not divide."""
    c = task.contraction
    labels = c.dot_out + c.contracting
    ways = _Ways(task)
    for choice in itertools.product((*labels, None), repeat=len(task.axes)):
        shared = {
            label: tuple(axis for axis, to in zip(task.axes, choice, strict=True) if to == label) for label in labels
        }
        if not _allowed(task, shared):
            continue
        for orders in itertools.product(*(ways.orders(label, axes) for label, axes in shared.items())):
            yield from _ways(task, dict(zip(labels, orders, strict=True)), ways)


class _Ways:
    """Routes of one task, each found once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._found: dict[Any, Route | None] = {}

    def orders(self, label: str, axes: MeshAxes) -> list[MeshAxes]:
        """In which orders mesh axes may cut a label: as they do somewhere, or else as in the mesh."""
        if len(axes) < 2:
            return [axes]
        c, task = self._task.contraction, self._task
        sides = (c.lhs, task.lhs.sharding), (c.rhs, task.rhs.sharding), (c.out, task.out or ())
        seen = [dict(zip(labels, sharding, strict=False)).get(label, ()) for labels, sharding in sides]
        orders = [
            (*(axis for axis in order if axis in axes), *(axis for axis in axes if axis not in order)) for order in seen
        ]
        return list(dict.fromkeys([*orders, axes]))[:MOST_ORDERS]

    def operand(self, side: str, end: Sharding) -> Route | None:
        """How an operand gets to a sharding."""
        if (side, end) not in self._found:
            self._found[side, end] = route(getattr(self._task, side), end)
        return self._found[side, end]


def _allowed(task: Task, shared: Places) -> bool:
    for label, axes in shared.items():
        if task.sizes[label] % math.prod(task.mesh[axis] for axis in axes):
            return False
    if task.reduce is None:
        return True
    stay = [
        axis
        for labels, block in ((task.contraction.lhs, task.lhs), (task.contraction.rhs, task.rhs))
        for label, axes in zip(labels, block.sharding, strict=True)
        for axis in axes
        if label in task.contraction.contracting
    ]
    summed = [axis for label in task.contraction.contracting for axis in shared[label]]
    return set(stay) <= set(summed)


def _ways(task: Task, places: Places, ways: _Ways) -> Iterator[Candidate]:
    c = task.contraction
    lhs = ways.operand("lhs", sharding_of(places, c.lhs))
    rhs = ways.operand("rhs", sharding_of(places, c.rhs))
    if lhs is None or rhs is None:
        return
    partial = tuple(axis for axis in task.axes if any(axis in places[label] for label in c.contracting))
    have = sharding_of(places, c.out)
    dtype = task.sum_dtype if partial else task.dtype
    start = Block.of(task.shape, dtype, have, task.mesh)
    used = math.prod(task.mesh[axis] for axes in places.values() for axis in axes)
    for end, scatter in _ends(task, start, partial):
        if task.reduce == "unreduced":
            out = Route(start) if end == start.sharding and partial else None
        else:
            out = route(start, end, partial, scatter, task.dtype, task.slow)
        if out is not None and _keeps(task, out, scatter):
            found = Candidate(places, lhs, rhs, out, task.flops // used)
            yield found
            for side, labels in (("lhs", c.lhs), ("rhs", c.rhs)):
                if ring.fits(getattr(found, side), labels, c):
                    yield dataclasses.replace(found, ring=side)


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


def least(found: Sequence[Candidate]) -> int:
    """The fewest bytes that any sends."""
    return min(candidate.sent for candidate in found)
