"""Which of the many ways to spread a contraction may be taken: found by bounds, most of them without their routes.

On four mesh axes a contraction of five labels has a thousand ways. What each sends at least, and takes at least, is a
few products; routes are exact, and cost a hundred times as much to find. So the most promising way is made exact part
by part: its route of lhs, that of rhs, that of the result. As soon as the most promising one is no better than one that
is exact, no other is. What is left out sends more than the one that sends fewest bytes, and takes longer than the
fastest.
"""

import heapq
import itertools
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from jbdot.devices.links import Links
from jbdot.many_devices import collective_matmul
from jbdot.many_devices.cost import WORTH, Weighed, estimated, route_us
from jbdot.many_devices.reshard import Route
from jbdot.many_devices.strategies import Draft, Places, Ways

FEW: Final = 64  # drafts: as many, or fewer, are all weighed, as on one and two mesh axes
SIDES: Final = ("lhs", "rhs")
BYTES: Final = 0
TIME: Final = 1


class Bound(NamedTuple):
    """A way of which some is exact and the rest a bound.

    Attributes:
        draft: What it is of.
        places: For each label its mesh axes in order; None where the order is open.
        sent: Bytes that each device sends at least: of lhs, of rhs, and of the result.
        us: What that takes at least, and what the arithmetic takes.
        exact: How many of the operands' routes have been found.
    """

    draft: Draft
    places: Places | None
    sent: tuple[float, ...]
    us: tuple[float, ...]
    exact: int = 0

    @property
    def least(self) -> tuple[float, float]:
        """Bytes and time of the whole way; a ring may hide the one behind the other."""
        *moving, compute = self.us
        beside = self.draft.touched > 2 * collective_matmul.LEAST
        return sum(self.sent), max(sum(moving), compute) if beside else sum(self.us)


class Search:
    """The ways of one task on the links of one mesh, the most promising first."""

    def __init__(self, ways: Ways, links: Links) -> None:
        self.ways, self.links = ways, links
        self._times: dict[int, float] = {}

    def sensible(self, redundant: bool = True, silent: bool = False) -> list[Weighed]:
        """The ways that may be taken: no other sends fewer bytes or is expected to be faster.

        Args:
            redundant: Whether several devices may do the same work. Where the result's sharding is open none does,
                unless nothing else is left.
            silent: Whether those that send nothing are to be preferred, whatever they take.
        """
        drafts = [draft for draft in self.ways.drafts if redundant or draft.flops == self.ways.share]
        if silent:
            quiet: list[Weighed] = []
            self._explored(self._bounds([draft for draft in drafts if not draft.sent]), quiet, BYTES, 0.0)
            if quiet := [pair for pair in quiet if not pair[0].sent]:
                return quiet
        thrifty: list[Weighed] = []
        left: list[Bound] = []
        some = FEW if len(drafts) <= FEW else 0
        while drafts and not thrifty:
            fewest = min(draft.flops for draft in drafts)
            left = self._explored(self._bounds(drafts, fewest), thrifty, BYTES, some=some)
            drafts = [draft for draft in drafts if draft.flops > fewest]
        if not thrifty:
            return thrifty
        _, lean = min(thrifty, key=lambda pair: (pair[0].sent, pair[1].total_us))
        left = self._explored(left, thrifty, TIME, WORTH * lean.total_us)
        if self.ways.task.out is None:
            return thrifty
        repeating: list[Weighed] = []
        limit = WORTH * _fastest(thrifty)
        self._explored(self._bounds(drafts), repeating, TIME, limit, some)
        if _fastest(repeating) <= limit:  # than every other way by a fifth, those too that have been left out so far
            self._explored(left, thrifty, TIME, _fastest(repeating) / WORTH)
        return thrifty + repeating

    def _explored(
        self, left: list[Bound], found: list[Weighed], by: int, limit: float = math.inf, some: int = 0
    ) -> list[Bound]:
        """Estimates the ways that may be best by bytes or by time, and within the limit; gives those that are left.

        Args:
            left: The ways to look at.
            found: Where the estimated ones go.
            by: `BYTES` or `TIME`.
            limit: The most that a way may send, or take.
            some: How many to estimate in any case.
        """
        count, best = itertools.count(), limit
        if by == BYTES:
            best = min([limit, *(way.sent for way, _ in found)])
        heap: list[tuple[float, int, Bound]] = [(bound.least[by], next(count), bound) for bound in left]
        heapq.heapify(heap)
        while heap and (some > 0 or heap[0][0] <= best):
            *_, bound = heapq.heappop(heap)
            if bound.exact < len(SIDES):
                for closer in self._closer(bound):
                    heapq.heappush(heap, (closer.least[by], next(count), closer))
                continue
            some -= 1
            for way in self.ways.at(bound.places or {}, bound.draft):
                estimate = estimated(way, self.ways.task, self.links)
                found.append((way, estimate))
                best = min(best, (way.sent, estimate.total_us)[by])
        return [bound for *_, bound in heap]

    def _bounds(self, drafts: list[Draft], flops: int | None = None) -> list[Bound]:
        return [self._bound(draft) for draft in drafts if flops in (None, draft.flops)]

    def _bound(self, draft: Draft) -> Bound:
        compute = self.links.hardware.compute_us(draft.flops, self.ways.task.lhs.dtype, draft.touched)
        moving = (self.links.least_us(leg.sent, leg.steps, leg.along) for leg in draft.legs)
        return Bound(draft, None, tuple(leg.sent for leg in draft.legs), (*moving, compute))

    def _closer(self, bound: Bound) -> Iterator[Bound]:
        """The same with the route of one more operand, in each order that is open."""
        at = bound.exact
        for places in self.ways.ordered(bound.draft) if bound.places is None else [bound.places]:
            way = self.ways.operand(SIDES[at], places)
            if way is not None:
                sent, us = list(bound.sent), list(bound.us)
                sent[at], us[at] = way.sent, self._us(way)
                yield Bound(bound.draft, places, tuple(sent), tuple(us), at + 1)

    def _us(self, way: Route) -> float:
        if id(way) not in self._times:
            self._times[id(way)] = route_us(way, self.links)
        return self._times[id(way)]


def _fastest(found: list[Weighed]) -> float:
    return min((estimate.total_us for _, estimate in found), default=math.inf)
