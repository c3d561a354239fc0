"""The search for a layout: the ones that people name, and from the best of them step by step to better ones."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final

from jbdot.programs.layout import Label, Layout
from jbdot.programs.layout_cost import Costs, LayoutCost

ROLES: Final = ("data parallel", "FSDP", "tensor parallel", "sequence parallel", "sequence and tensor parallel")
_FROM: Final = 3  # layouts that the search starts from
_WORTH: Final = 1e-3  # a step must be better by this part

Score = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layout that was looked at.

    Attributes:
        name: What people call it, such as "FSDP over x, tensor parallel over y"; "searched" for one without a name.
        layout: The labels that each mesh axis cuts.
        cost: What it is estimated to cost.
    """

    name: str
    layout: Layout
    cost: LayoutCost


class LayoutSearch:
    """Searches among the layouts of a program; the same each time.

    Args:
        costs: Estimates a layout.
        sample: The label that samples differ along.
        others: Further labels of what is no parameter, such as positions in a sequence.
        parameters: Labels of the state, those of most bytes first.
        limit: Bytes that a device may need.
        told: Called with the best candidate so far whenever there is a better one, and now and then.
        flops: FLOPs that a device may be given.
        sent: Bytes that it may send.
    """

    def __init__(
        self,
        costs: Costs,
        sample: Label | None,
        others: Sequence[Label],
        parameters: Sequence[Label],
        limit: float,
        told: Callable[[Candidate], None],
        flops: float = math.inf,
        sent: float = math.inf,
    ) -> None:
        self._costs, self._told = costs, told
        self._limits = limit, flops, sent
        self._looked: dict[Hashable, Layout] = {}
        self._sample = () if sample is None else (sample,)
        self._others, self._parameters = tuple(others), tuple(parameters)
        self.named: list[Candidate] = []
        self.best: Candidate | None = None

    def run(self) -> Candidate:
        """Returns the best layout that is found; if it is interrupted, the best so far."""
        try:
            for candidate in self._known():
                self.named.append(candidate)
                self._seen(candidate)
            starts = sorted(self.named, key=lambda each: self.score(each.layout))
            for start in starts[:_FROM]:
                self._seen(self._improved(start))
        except KeyboardInterrupt:
            if self.best is None:
                raise
        if self.best is None:
            raise AssertionError("every mesh has a layout with a name")
        return self.best

    def score(self, layout: Layout) -> Score:
        """Returns what is to be least: by which part the limits are exceeded, and then the time."""
        cost = self._costs.of(layout)
        self._looked[layout.key] = layout
        found = zip((cost.memory_bytes, cost.flops, cost.bytes_sent), self._limits, strict=True)
        return sum(max(0.0, each - limit) / max(limit, 1.0) for each, limit in found if each > limit), cost.total_us

    def ranked(self) -> list[Candidate]:
        """Returns the layouts that were looked at, the best first, and of those that cost the same the first."""
        found: dict[Hashable, Candidate] = {}
        names = {each.layout.key: each.name for each in self.named}
        for layout in sorted(self._looked.values(), key=self.score):
            cost = self._costs.of(layout)
            alike = round(cost.total_us, 3), cost.bytes_sent, cost.memory_bytes
            found.setdefault(alike, Candidate(names.get(layout.key, "searched"), layout, cost))
        return list(found.values())

    def candidate(self, name: str, layout: Layout) -> Candidate:
        """Returns a layout with its costs."""
        return Candidate(name, layout, self._costs.of(layout))

    def _seen(self, candidate: Candidate) -> None:
        if self.best is None or self._is_better(candidate.layout, self.best.layout):
            self.best = candidate
        self._told(self.best)

    def _is_better(self, layout: Layout, than: Layout) -> bool:
        (short, us), (other, most) = self.score(layout), self.score(than)
        return short < other or (short == other and us < most * (1 - _WORTH))

    def _known(self) -> Iterator[Candidate]:
        """Makes the layouts that have a name: a role for each mesh axis."""
        axes = tuple(self._costs.mesh)
        if not axes:
            yield self.candidate("one device", Layout({}))
        for roles in itertools.product(ROLES, repeat=len(axes)) if axes else ():
            if "sequence" in " ".join(roles) and not self._others:
                continue
            layout = Layout({axis: self._order(role) for axis, role in zip(axes, roles, strict=True)})
            for axis, role in zip(axes, roles, strict=True):
                if "tensor" in role:
                    layout = self._spread(layout, axis)
            yield self.candidate(_name(axes, roles), layout)

    def _order(self, role: str) -> tuple[Label, ...]:
        if role == "tensor parallel":
            return ()
        if "sequence" in role:
            return self._others
        return self._sample if role == "data parallel" else (*self._sample, *self._parameters)

    def _spread(self, layout: Layout, axis: str) -> Layout:
        """Adds to a mesh axis, label by label, those of parameters that save most time."""
        while True:
            order = layout.orders[axis]
            end = len(order) - (len(self._others) if order[-len(self._others) :] == self._others else 0)
            more = [
                layout.replaced(axis, (*order[:end], label, *order[end:]))
                for label in self._parameters
                if label not in order
            ]
            best = min(more, key=lambda each: self._time(each), default=layout)
            if not self._time(best) < self._time(layout) * (1 - _WORTH):
                return layout
            layout = best

    def _time(self, layout: Layout) -> float:
        return self._costs.of(layout).total_us

    def _improved(self, start: Candidate) -> Candidate:
        """Takes the step that gains most, again and again, until none gains."""
        layout = start.layout
        while True:
            best = min(self._steps(layout), key=self.score, default=layout)
            if not self._is_better(best, layout):
                return start if layout == start.layout else self.candidate("searched", self.plain(layout))
            layout = best
            self._told(self.best or start)

    def _steps(self, layout: Layout) -> Iterator[Layout]:
        """Lists the layouts next to one: a label more or less on a mesh axis, or elsewhere in its order."""
        labels = sorted({*self._sample, *self._others, *self._parameters})
        for axis, order in layout.orders.items():
            for label in labels:
                others = tuple(other for other in order if other != label)
                if label in order:
                    yield layout.replaced(axis, others)
                for at in range(len(others) + 1):
                    yield layout.replaced(axis, (*others[:at], label, *others[at:]))
        for one, other in itertools.combinations(layout.orders, 2):
            first, second = layout.orders[one], layout.orders[other]
            yield layout.replaced(one, second).replaced(other, first)
            yield layout.replaced(one, second)
            yield layout.replaced(other, first)

    def plain(self, layout: Layout) -> Layout:
        """Leaves out the labels that change nothing."""
        for axis, order in layout.orders.items():
            for label in reversed(order):
                without = layout.replaced(axis, tuple(other for other in layout.orders[axis] if other != label))
                if self.score(without) == self.score(layout):
                    layout = without
        return layout


def _name(axes: Iterable[str], roles: Sequence[str]) -> str:
    """Writes what each axis does: "FSDP over x y"."""
    over: dict[str, list[str]] = {}
    for axis, role in zip(axes, roles, strict=True):
        over.setdefault(role, []).append(axis)
    return ", ".join(f"{role} over {' '.join(names)}" for role, names in over.items())
