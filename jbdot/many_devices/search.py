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
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from jbdot.devices.links import Links
from jbdot.many_devices import collective_matmul
from jbdot.many_devices.candidates import Places, Ways
from jbdot.many_devices.cost import WORTH, Weighed, estimated, route_us
from jbdot.many_devices.drafts import Array, Draft
from jbdot.many_devices.route import Route

FEW: Final = 64  # drafts: as many, or fewer, are all weighed, as on one and two mesh axes
SIDES: Final = ("lhs", "rhs")
CLOSE: Final = 1 - 1e-9  # sums of times differ by their order


class Bound(NamedTuple):
    """A way of which some is exact and the rest a bound.

    Attributes:
        draft: What it is of.
        sent: Bytes that each device sends at least.
        total_us: What the whole way takes at least.
        us: That of lhs, of rhs, of the result, and of the arithmetic.
        places: For each label its mesh axes in order; None where the order is open.
        exact: How many of the operands' routes have been found.
    """

    draft: Draft
    sent: int
    total_us: float
    us: Array
    places: Places | None = None
    exact: int = 0


Order = Callable[[int, float, float], tuple[float, float]]  # of ways: by FLOPs of each device, bytes and time


class Search:
    """The ways of one task on the links of one mesh, the most promising first."""

    def __init__(self, ways: Ways, links: Links) -> None:
        self.ways, self.links = ways, links
        self._times: dict[int, float] = {}

    def sensible(self, redundant: bool = True, silent: bool = False) -> list[Weighed]:
        """Returns the ways that may be taken: no other sends fewer bytes or is expected to be faster.

        Args:
            redundant: Whether several devices may do the same work. Where the result's sharding is open none does,
                unless nothing else is left.
            silent: Whether those that send nothing are to be preferred, whatever they take.
        """
        drafts, us = self.ways.drafts, self.ways.drafts.us(self.links)
        rows = zip(drafts, drafts.sent.tolist(), _total_us(us, drafts.touched).tolist(), us, strict=True)
        bounds = [Bound(*row) for row in rows if redundant or row[0].flops == self.ways.share]
        if silent:
            quiet: list[Weighed] = []
            self._explored([bound for bound in bounds if not bound.sent], quiet, _bytes, (0, math.inf))
            if quiet := [pair for pair in quiet if not pair[0].sent]:
                return quiet
        found: list[Weighed] = []
        own: list[Bound] = []
        some, fewest = FEW if len(bounds) <= FEW else 0, 0
        while bounds and not found:
            fewest = min(bound.draft.flops for bound in bounds)
            own = self._explored([bound for bound in bounds if bound.draft.flops == fewest], found, _bytes, some=some)
            bounds = [bound for bound in bounds if bound.draft.flops > fewest]
        if not found:
            return found

        def time(flops: int, sent: float, us: float) -> tuple[float, float]:
            return us / (1 if flops == fewest else WORTH), sent  # repeated work has to be faster by a fifth

        _, lean = min(found, key=lambda pair: (pair[0].sent, pair[1].total_us))
        repeating = [] if self.ways.task.out is None else bounds
        left = self._explored([*own, *repeating], found, time, (WORTH * lean.total_us, math.inf))
        own, repeating = ([b for b in left if (b.draft.flops == fewest) is alone] for alone in (True, False))
        self._explored(repeating, found, time, some=some)
        best, _ = min(found, key=lambda pair: time(pair[0].flops, pair[0].sent, pair[1].total_us))
        if best.flops > fewest:  # than every other way by a fifth, those too that have been left out so far
            self._explored(own, found, time)
        return found

    def _explored(
        self,
        left: list[Bound],
        found: list[Weighed],
        order: Order,
        limit: tuple[float, float] = (math.inf, math.inf),
        some: int = 0,
    ) -> list[Bound]:
        """Estimates the ways that may come first, and within the limit; gives those that are left.

        Args:
            left: The ways to look at.
            found: Where the estimated ones go.
            order: Of what a way sends and takes.
            limit: Where a way must come before.
            some: How many to estimate in any case.
        """
        best = min([limit, *(order(way.flops, way.sent, estimate.total_us) for way, estimate in found)])
        count = itertools.count()
        heap = [(order(bound.draft.flops, bound.sent, bound.total_us), next(count), bound) for bound in left]
        heapq.heapify(heap)
        while heap and (some > 0 or heap[0][0] <= best):
            *_, bound = heapq.heappop(heap)
            if bound.exact < len(SIDES):
                for closer in self._closer(bound):
                    heapq.heappush(heap, (order(closer.draft.flops, closer.sent, closer.total_us), next(count), closer))
                continue
            some -= 1
            for way in self.ways.at(bound.places or {}, bound.draft):
                estimate = estimated(way, self.ways.task, self.links)
                found.append((way, estimate))
                best = min(best, order(way.flops, way.sent, estimate.total_us))
        return [bound for *_, bound in heap]

    def _closer(self, bound: Bound) -> Iterator[Bound]:
        """Returns the same with the route of one more operand, in each order that is open."""
        at = bound.exact
        for places in self.ways.ordered(bound.draft) if bound.places is None else [bound.places]:
            way = self.ways.operand(SIDES[at], places)
            if way is not None:
                us = bound.us.copy()
                us[at] = self._us(way)
                sent, total = bound.sent + way.sent - bound.draft.legs[at].sent, _total_us(us, bound.draft.touched)
                yield Bound(bound.draft, sent, float(total), us, places, at + 1)

    def _us(self, way: Route) -> float:
        if id(way) not in self._times:
            self._times[id(way)] = route_us(way, self.links)
        return self._times[id(way)]


def _bytes(flops: int, sent: float, us: float) -> tuple[float, float]:
    del flops
    return sent, us


def _total_us(us: Array, touched: Any) -> Array:
    """Says what all legs and the arithmetic take together; a ring may hide the ones behind the other."""
    moving, compute = us[..., :-1].sum(-1), us[..., -1]
    beside = np.asarray(touched) > 2 * collective_matmul.LEAST
    return CLOSE * np.where(beside, np.maximum(moving, compute), moving + compute)
