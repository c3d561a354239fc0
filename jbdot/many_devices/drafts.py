"""What each way to spread a task sends and takes at least, before its routes are found: of all ways at once.

On four mesh axes a contraction of five labels has a thousand ways. Each is a column of a few arrays: for each label the
set of mesh axes that cut it, as a number with one bit for each axis, so that what belongs to a set stands in a table.
The collectives counted are those of a direct route: sums, one all-to-all of what goes from one label to another, then
gathers, label by label. Where a route has to permute blocks, or to exchange them twice, it may take other mesh axes
than these, and the cheapest count.
"""

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jbdot.core.labels import Labels
from jbdot.devices.links import KINDS, Links
from jbdot.many_devices.block import Block, MeshAxes, Sharding, itemsize
from jbdot.many_devices.task import Task

Array = NDArray[Any]  # the last axis is of drafts; one before it of labels, or of collectives


class Leg(NamedTuple):
    """What one array goes through at least.

    Attributes:
        bytes: That a device has of it while it multiplies.
        sent: By each device.
        moves: Whether a mesh axis goes from one of its labels to another.
    """

    bytes: int
    sent: int
    moves: bool


class Draft(NamedTuple):
    """A way before its routes are found: which mesh axes share out which label, and the least that it sends.

    Attributes:
        number: Its place among the drafts.
        axes: For each label of `Drafts.labels` its mesh axes, in the mesh's order.
        partial: The mesh axes along which devices have partial sums.
        flops: Of each device.
        legs: Of lhs, of rhs, and of the result.
    """

    number: int
    axes: tuple[MeshAxes, ...]
    partial: MeshAxes
    flops: int
    legs: tuple[Leg, Leg, Leg]

    @property
    def sent(self) -> int:
        """Counts the bytes that each device sends."""
        return sum([leg.sent for leg in self.legs])

    @property
    def touched(self) -> int:
        """Counts the bytes that each device reads and writes while it multiplies."""
        return sum([leg.bytes for leg in self.legs])

    @property
    def gathers(self) -> bool:
        """Says whether no mesh axis has to go from one label of an operand to another."""
        return not (self.legs[0].moves or self.legs[1].moves)


class Collectives(NamedTuple):
    """Collectives of one kind: for each draft one, or a column of them.

    Attributes:
        kind: As in `links.KINDS`; "either" for a gather or an exchange.
        along: Their mesh axes, 0 for no collective; with the bit `Drafts.any` any of them, those that are cheapest.
        sent: Bytes that each device sends.
    """

    kind: str
    along: Array
    sent: Array


class Journey(NamedTuple):
    """What one array goes through at least, in each draft.

    Attributes:
        held: Bytes that a device has of it while it multiplies.
        moved: Mesh axes that go from one of its labels to another.
        steps: Its collectives.
        traded: Where blocks may be permuted first so that mesh axes trade places.
        others: The collectives then.
    """

    held: Array
    moved: Array
    steps: Sequence[Collectives] = ()
    traded: Array | bool = False
    others: Sequence[Collectives] = ()

    @property
    def sent(self) -> Array:
        """Counts the bytes that each device sends."""
        return self._least(lambda step: step.sent)

    def us(self, prices: Mapping[str, Array]) -> Array:
        """Says what that takes, by what each kind takes to start and for each byte, along each set of mesh axes."""
        return self._least(lambda step: prices[step.kind][0, step.along] + prices[step.kind][1, step.along] * step.sent)

    def _least(self, cost: Callable[[Collectives], Array]) -> Array:
        direct, other = (
            self.held * 0 + sum(np.atleast_2d(cost(step)).sum(0) for step in steps)
            for steps in (self.steps, self.others)
        )
        return np.where(self.traded & (other < direct), other, direct)


class Drafts:
    """Every way of a task, without those for which a size does not divide."""

    def __init__(self, task: Task) -> None:
        c, axes = task.contraction, task.axes
        self.task, self.labels = task, c.dot_out + c.contracting
        self.names = [tuple(a for at, a in enumerate(axes) if number >> at & 1) for number in range(1 << len(axes))]
        self.parts = np.array([math.prod([task.mesh[axis] for axis in names]) for names in self.names], np.int64)
        self.any = len(self.names)
        self.sizes = np.array([task.sizes[label] for label in self.labels], np.int64)[:, None]
        every = list(itertools.product(range(len(self.labels) + 1), repeat=len(axes)))
        choices = np.array(every, np.int64).reshape(len(every), len(axes))
        cuts = (choices == np.arange(len(self.labels))[:, None, None]) @ (1 << np.arange(len(axes)))
        self.cuts = cuts[:, (self.sizes % self.parts[cuts] == 0).all(0) & self._stays(cuts)]
        self.partial, self.used = self._summed(self.cuts), _union(self.cuts)
        self.journeys = self._operand(c.lhs, task.lhs), self._operand(c.rhs, task.rhs), self._result()
        self.sent: Array = np.sum([each.sent for each in self.journeys], axis=0)
        self.touched: Array = np.sum([each.held for each in self.journeys], axis=0)

    def __iter__(self) -> Iterator[Draft]:
        return iter(self._drafts)

    @functools.cached_property
    def _drafts(self) -> list[Draft]:
        legs = (map(Leg, each.held.tolist(), each.sent.tolist(), (each.moved > 0).tolist()) for each in self.journeys)
        cuts = ([self.names[number] for number in row] for row in self.cuts.T.tolist())
        flops = [self.task.flops // parts for parts in self.parts.tolist()]
        rows = zip(cuts, self.partial.tolist(), self.used.tolist(), zip(*legs, strict=True), strict=True)
        return [
            Draft(number, tuple(axes), self.names[partial], flops[used], found)
            for number, (axes, partial, used, found) in enumerate(rows)
        ]

    def us(self, links: Links) -> Array:
        """Says what each leg takes at least, and what the arithmetic takes: a row for each draft."""
        prices, rate, dtype = self._prices(links), links.hardware.compute_us, self.task.lhs.dtype
        flops = np.array([rate(self.task.flops // parts, dtype, 0) for parts in self.parts.tolist()])
        compute = np.maximum(flops[self.used], self.touched * rate(0, dtype, 1))
        return np.stack([*(each.us(prices) for each in self.journeys), compute], axis=1)

    def _prices(self, links: Links) -> dict[str, Array]:
        """Says what each kind takes to start, and for each byte: along each set of mesh axes, then along its best part.

        Blocks are permuted along two mesh axes or more. Exchanges of which only the least is known are two.
        """
        exact = {kind: np.array([(0.0, 0.0), *(links.line(kind, names) for names in self.names[1:])]) for kind in KINDS}
        exact["either"] = np.minimum(exact["all-gather"], exact["all-to-all"])
        many = np.array([len(names) > 1 for names in self.names])[:, None]
        least = {**exact, "permute": np.where(many, exact["permute"], math.inf)}
        least["all-to-all"] = exact["all-to-all"] * [2, 1]
        for kind, price in least.items():
            price = np.where(np.arange(self.any)[:, None], price, math.inf)
            for at in range(len(self.task.axes)):
                without = np.arange(self.any) & ~(1 << at)
                price = np.minimum(price, price[without])
            least[kind] = np.concatenate([exact[kind], price]).T
        return least

    def _stays(self, cuts: Array) -> Array:
        """Says whether mesh axes of contracting labels stay where they are, as sums are to be completed in one way."""
        c, task = self.task.contraction, self.task
        sides = (c.lhs, task.lhs), (c.rhs, task.rhs)
        sharded = [pair for labels, block in sides for pair in zip(labels, block.sharding, strict=True)]
        stay = [axis for label, axes in sharded for axis in axes if label in c.contracting]
        return self._set(stay if task.reduce else ()) & ~self._summed(cuts) == 0

    def _summed(self, cuts: Array) -> Array:
        return _union(cuts[len(self.task.contraction.dot_out) :])

    def _set(self, axes: Collection[str]) -> int:
        return sum(1 << at for at, axis in enumerate(self.task.axes) if axis in axes)

    def _operand(self, labels: Labels, block: Block) -> Journey:
        """Says how an operand gets to where it is multiplied."""
        size, here, there, begins = self._cut(labels, block.sharding)
        item = itemsize(block.dtype)
        held = (size // self.parts[here]).prod(0) * item
        return self._journey(held, size, there, here, begins, item)

    def _result(self) -> Journey:
        """Says how the result gets from where it is made; where that is open, only its sums are completed."""
        task, partial = self.task, self.partial
        size, here, there, begins = self._cut(task.contraction.out, task.out or ((),) * len(task.shape))
        item = itemsize(task.dtype)
        held = (size // self.parts[here]).prod(0) * np.where(partial, itemsize(task.sum_dtype), item)
        if task.reduce == "unreduced":
            return Journey(held, partial & 0)
        if task.out is not None:
            found = self._journey(held, size, here, there, begins, item, partial)
            return found._replace(steps=[*self._sums(size, here, there, begins, held), *found.steps])
        if task.reduce == "all_reduce":
            return Journey(held, partial & 0, [Collectives("all-reduce", partial, self._share(2 * held, partial))])
        cheapest = np.where(partial, partial | self.any, 0)
        return Journey(held, partial & 0, [Collectives("reduce-scatter", cheapest, self._share(held, partial))])

    def _cut(self, labels: Labels, sharding: Sharding) -> tuple[Array, Array, Array, Array]:
        """Lists, for each label, its size, the sets that cut it in drafts and in a sharding, and which begin that."""
        named = [(self.labels.index(label), axes) for label, axes in zip(labels, sharding, strict=True) if label]
        at = np.array([number for number, _ in named], np.int64)
        there = np.array([self._set(axes) for _, axes in named], np.int64)[:, None]
        begins = [{*axes[: len(names)]} == {*names} for _, axes in named for names in self.names]
        size, here = self.sizes[at], self.cuts[at]
        return size, here, np.broadcast_to(there, here.shape), np.array(begins, bool).reshape(-1, self.any)

    def _share(self, sent: Array, along: Array) -> Array:
        """Returns all of it but a device's own part."""
        return sent * (self.parts[along] - 1) // self.parts[along]

    def _goal(self, size: Array, first: Array, last: Array, begins: Array) -> Array:
        """Says where exchanges and gathers lead: to the end, or to the whole array, which is sliced then.

        It is gathered whole where a size does not divide, where two labels trade mesh axes, and where a label is left
        and come to while other mesh axes are in the way.
        """
        begun, ended = _union(first), _union(last)
        left, come = first & ~last, last & ~first
        moves = (first[:, None] & last & ~last[:, None]) > 0  # from one label to another
        stay: Array = first & last
        kept = np.take_along_axis(begins, stay, 1)
        between = (left & ~ended > 0) | (come & ~begun > 0) | ~kept
        stuck = ((left & ended > 0) & (come & begun > 0) & between).any(0) | (moves & moves.swapaxes(0, 1)).any((0, 1))
        return np.where(stuck | (size % self.parts[first | last] != 0).any(0), 0, last)

    def _sums(self, size: Array, first: Array, last: Array, begins: Array, held: Array) -> list[Collectives]:
        """Sums are scattered along those mesh axes that are to cut the result, one after another, and added whole."""
        task, ended = self.task, _union(self._goal(size, first, last, begins))
        scattered = self.partial & ended if task.reduce != "all_reduce" else self.partial & 0
        whole = self.partial & ~scattered
        order = [self._set([axis]) for axes in task.out or () for axis in sorted(axes, key=task.slow.__contains__)]
        turns = np.array(order, np.int64)[:, None] & scattered
        sliced = held // self.parts[ended & ~_union(first) & ~self.partial]
        parts = np.multiply.accumulate(self.parts[turns], axis=0)
        return [
            Collectives("reduce-scatter", turns, self._share(sliced * self.parts[turns] // parts, turns)),
            Collectives("all-reduce", whole, self._share(2 * (sliced // self.parts[scattered]), whole)),
        ]

    def _journey(
        self, held: Array, size: Array, first: Array, last: Array, begins: Array, item: int, partial: Any = 0
    ) -> Journey:
        """Bounds the way from one sharding to another, sums apart.

        Blocks that keep their shape are permuted. Else what goes from one label to another is exchanged, once where no
        label is both left and come to. Blocks are permuted where mesh axes that stay do not come first in their label,
        and where some leave it to all devices, or as others are sliced, and others come. Last, labels are gathered, one
        after another.
        """
        along, some = _union(first) | _union(last), _union(first) | _union(last) | self.any
        start, end = size // self.parts[first], size // self.parts[last]
        swapped = (start == end).all(0) & (first != last).any(0) & (partial == 0)
        goal = np.where(swapped, first, self._goal(size, first, last, begins))
        begun, ended = _union(first), _union(goal)
        stay: Array = first & goal
        left, come = first & ~goal, goal & ~first
        moved, gone = _union(left & ended), left & ~ended
        crossed = (gone > 0) & (come > 0) | (left & ended > 0) & (come & ~begun > 0)
        crossed = (crossed | ~np.take_along_axis(begins, stay, 1)).any(0) & ~swapped
        twice = ((left & ended > 0) & (come & begun > 0)).any(0)
        block = start.prod(0) * item // self.parts[ended & ~begun]
        grown = block * np.multiply.accumulate(self.parts[gone], axis=0)
        steps = [
            Collectives(
                "permute", np.where(crossed, some, np.where(swapped, along, 0)), np.where(crossed | swapped, block, 0)
            ),
            Collectives("all-to-all", np.where(twice, some, moved), np.where(twice, block, self._share(block, moved))),
            Collectives("all-gather", gone, self._share(grown, gone)),
        ]
        missing = (end.prod(0) - np.minimum(start, end).prod(0)) * item
        others = [
            Collectives("permute", some, start.prod(0) * item),
            Collectives("either", np.where(missing, some, 0), missing),
        ]
        moved = _union(first & _union(last) & ~last)
        return Journey(held, moved, steps, crossed & (partial == 0), others)


def _union(sets: Array) -> Array:
    """Returns all mesh axes of some sets, along the first axis."""
    return np.bitwise_or.reduce(sets, axis=0)
