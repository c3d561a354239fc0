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
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jbdot.core.labels import Labels
from jbdot.many_devices import collective_matmul
from jbdot.many_devices.block import Block, MeshAxes, Sharding
from jbdot.many_devices.collectives import AllReduce
from jbdot.many_devices.drafts import Draft, Drafts
from jbdot.many_devices.route import Route, route
from jbdot.many_devices.task import Task

Places = Mapping[str, MeshAxes]  # for each label the mesh axes that share it out, the slowest first
MOST_ORDERS: Final = 3  # in which one label is cut by several mesh axes


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
        """Counts the bytes that each device sends."""
        return self.lhs.sent + self.rhs.sent + self.out.sent

    @functools.cached_property
    def temporary(self) -> int:
        """Counts the bytes that each device holds at most beside its parts of the operands and the result."""
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
        """Says which label each mesh axis shares out: "m on x, k on y"."""
        named = [f"{label} on {' '.join(axes)}" for label, axes in self.places.items() if axes]
        ring = "" if self.ring is None else f", {self.ring} round a ring"
        return (", ".join(named) or "all on every device") + ring

    @property
    def ways(self) -> tuple[tuple[str, Route], ...]:
        """Returns the three routes, by name."""
        return ("lhs", self.lhs), ("rhs", self.rhs), ("out", self.out)


class Ways:
    """The ways of one task. Routes that several of them share are found once."""

    def __init__(self, task: Task) -> None:
        c = task.contraction
        self.task, self.labels = task, c.dot_out + c.contracting
        self._routes: dict[Any, Route | None] = {}

    @functools.cached_property
    def drafts(self) -> Drafts:
        """Says what each way costs at least."""
        return Drafts(self.task)

    @property
    def share(self) -> int:
        """Counts the FLOPs of each device where none does another's work."""
        return self.task.flops // math.prod(self.task.mesh.values())

    def of(self, draft: Draft) -> Iterator[Candidate]:
        """Lists the candidates of one draft: each order of the mesh axes, each sharding that the result may have."""
        return (way for places in self.ordered(draft) for way in self.at(places, draft))

    def ordered(self, draft: Draft) -> Iterator[Places]:
        """Lists, for each label, the mesh axes that cut it, in each order in which they may."""
        cuts = zip(self.labels, draft.axes, strict=True)
        for orders in itertools.product(*[self._orders(label, axes) for label, axes in cuts]):
            yield dict(zip(self.labels, orders, strict=True))

    def _orders(self, label: str, axes: MeshAxes) -> list[MeshAxes]:
        """Lists the orders in which mesh axes may cut a label: as they do somewhere, or else as in the mesh."""
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
        """Returns the candidates in one order: for each sharding that the result may have, and each ring."""
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
        """Says how an operand, "lhs" or "rhs", gets to where it is multiplied."""
        end = sharding_of(places, getattr(self.task.contraction, side))
        if (side, end) not in self._routes:
            task = self.task
            self._routes[side, end] = route(getattr(task, side), end, slow=task.slow, sides=task.sides)
        return self._routes[side, end]

    def _out(self, start: Block, end: Sharding, partial: MeshAxes, scatter: bool) -> Route | None:
        """Says how the result gets from where it is made to a sharding."""
        task, key = self.task, (start.factors, end, partial, scatter)
        if task.reduce == "unreduced":
            return Route(start) if end == start.sharding and partial else None
        if key not in self._routes:
            self._routes[key] = route(start, end, partial, scatter, task.dtype, task.slow, task.sides)
        return self._routes[key]


def candidates(task: Task) -> Iterator[Candidate]:
    """Lists every way, without those for which a size does not divide."""
    ways = Ways(task)
    return (way for draft in ways.drafts for way in ways.of(draft))


def _ends(task: Task, start: Block, partial: MeshAxes) -> Iterator[tuple[Sharding, bool]]:
    """Returns the result's shardings that may follow, and whether its sums are scattered."""
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
    """Says whether sums are completed as they are asked for."""
    return task.reduce != "reduce_scatter" or (not any(isinstance(step, AllReduce) for step in out.steps) and scatter)


def sharding_of(places: Places, labels: Labels) -> Sharding:
    """Returns the mesh axes of an array's labels.

    Example:
        >>> sharding_of({"m": ("x",), "k": ()}, ("m", None, "k"))
        (('x',), (), ())
    """
    return tuple(() if label is None else places[label] for label in labels)
