"""How XLA's partitioner gets an array from one sharding to another, which is not the way that sends fewest bytes.

A model, by `PartitionedHlo::ReshardNoCache` and `TryComplexReshardHandling` of `xla/service/spmd/spmd_partitioner.cc`
(XLA of 2026). Sizes that a sharding does not divide are not looked at. XLA counts into how many parts each axis is cut
and moves devices afterwards: where only their order differs, whole blocks are permuted.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from jbdot.many_devices.block import Factor, MeshAxes, Sharding
from jbdot.many_devices.collectives import AllGather, AllToAll, Permute, Slice, Step

PART: Final = "/"  # between a mesh axis and the number of its part
Counts = tuple[int, ...]
Moves = list[tuple[Step, Sharding]]  # each step, and the sharding after it


class Uneven(Exception):
    """Mesh axes would have to be cut."""


class Group(NamedTuple):
    """Devices in groups, by the axes of an array: those of one group have the same index along some of them.

    Attributes:
        dims: The axes of the array that tell the groups apart; its rank stands for the devices that repeat it.
        parts: Into how many groups along each.
        axes: The mesh axes that tell the groups apart, the slowest first.
        scope: Those within a group.
        inner: How the array is cut within a group.
    """

    dims: tuple[int, ...]
    parts: Counts
    axes: MeshAxes
    scope: MeshAxes
    inner: Sharding


class Tiles:
    """Shardings over some axes of one mesh.

    Example:
        >>> tiles = Tiles({"x": 4, "y": 4})
        >>> [str(step.kind) for step, _ in tiles.steps((("x",), ()), (("y",), ()), ("x", "y"))]
        ['permute']
        >>> [str(step.kind) for step, _ in tiles.steps((("x", "y"), ()), (("x",), ("y",)), ("x", "y"))]
        ['all-to-all']
        >>> [str(step.kind) for step, _ in tiles.steps((("x", "y"), ()), ((), ("y",)), ("x", "y"))]
        ['all-gather', 'slice']
    """

    def __init__(self, mesh: Mapping[str, int]) -> None:
        self.mesh = mesh

    def size(self, axes: Iterable[str]) -> int:
        """Says how many devices mesh axes have."""
        return math.prod([self.mesh[axis] for axis in axes])

    def counts(self, sharding: Sharding) -> Counts:
        """Counts the parts into which each axis is cut."""
        return tuple([self.size(axes) for axes in sharding])

    def cut(self, axes: MeshAxes, counts: Sequence[int]) -> Sharding:
        """Takes mesh axes in turn, so many devices each; the last ones may be left.

        Raises:
            Uneven: A mesh axis would have to be cut.
        """
        found: list[MeshAxes] = []
        for count in counts:
            number = 0
            while self.size(axes[:number]) < count and number < len(axes):
                number += 1
            if self.size(axes[:number]) != count:
                raise Uneven
            found.append(axes[:number])
            axes = axes[number:]
        return tuple(found)

    def group(self, sharding: Sharding, dims: Sequence[int], scope: MeshAxes, parts: int | None = None) -> Group:
        """Groups by axes of an array; by the devices that repeat it only into so many parts."""
        repeating = rest(sharding, scope)
        first: MeshAxes = ()
        if len(sharding) in dims:
            first = self.cut(repeating, [self.size(repeating) if parts is None else parts])[0]
        chosen = [first if dim == len(sharding) else sharding[dim] for dim in dims]
        inner = tuple([() if dim in dims else axes for dim, axes in enumerate(sharding)])
        members = (*joined(inner), *repeating[len(first) :])
        return Group(tuple(dims), self.counts(tuple(chosen)), joined(chosen), members, inner)

    def aligned(self, group: Group, other: Group, any_order: bool = False) -> Group:
        """Returns the group with the devices of another: where they are the same, nothing moves within."""
        same = set(group.axes) == set(other.axes) if any_order else group.axes == other.axes
        inner = group.inner if same else self.cut(other.scope, self.counts(group.inner))
        return group._replace(axes=other.axes, scope=other.scope, inner=inner)

    def whole(self, group: Group) -> Sharding:
        """Returns the sharding over all groups."""
        found = list(group.inner)
        for dim, axes in zip(group.dims, self.cut(group.axes, group.parts), strict=True):
            if dim < len(found):
                found[dim] = (*axes, *found[dim])
        return tuple(found)

    def outer(self, group: Group) -> Sharding:
        """Says how an array is cut into groups."""
        return self.whole(group._replace(inner=((),) * len(group.inner)))

    def steps(self, start: Sharding, end: Sharding, scope: MeshAxes) -> Moves:
        """Returns the steps that XLA takes."""
        found = self._steps(start, end, scope, True)
        assert found is not None
        return found

    def _steps(self, start: Sharding, end: Sharding, scope: MeshAxes, gathers: bool) -> Moves | None:
        """Returns the steps, or None where all would have to be gathered and that is not allowed."""
        if start == end:
            return []
        has, wants = self.counts(start), self.counts(end)
        if not joined(start):
            return list(slices(start, end))
        if joined(end):
            if has == wants:
                return [permuted(start, end)]
            pairs = exchanges(has, wants)
            if pairs is not None:
                return self._exchanged(start, end, pairs)
            found = self._nested(start, end, scope)
            found = self._complex(start, end, scope) if found is None else found
            found = self._grouped(start, end, scope) if found is None else found
            if found is not None or not gathers:
                return found
        nothing: Sharding = ((),) * len(start)
        return [*gathered(start, nothing), *slices(nothing, end)]

    def _nested(self, start: Sharding, end: Sharding, scope: MeshAxes) -> Moves | None:
        """Returns a slice, or a gather, of parts that are nested, and a permutation where devices are not."""
        if self.repeats(start, scope):
            between = self.compatible(start, end, scope)
            if between is not None:
                return [*slices(start, between), *([permuted(between, end)] if between != end else [])]
            between = self._shifted(start, end, scope)
            if between is not None:
                return [*self._to(start, between), *self.steps(between, end, scope)]
        if self.repeats(end, scope):
            between = self.compatible(end, start, scope)
            if between is not None:
                return [*([permuted(start, between)] if between != start else []), *gathered(between, end)]
            between = self._shifted(end, start, scope)
            if between is not None:
                return [*self.steps(start, between, scope), *self._to(between, end)]
        return None

    def _to(self, start: Sharding, end: Sharding) -> Moves:
        return self._exchanged(start, end, exchanges(self.counts(start), self.counts(end)) or [])

    def repeats(self, sharding: Sharding, scope: MeshAxes) -> bool:
        """Says whether some devices, not all, have the same part."""
        return bool(joined(sharding)) and bool(rest(sharding, scope))

    def compatible(self, coarse: Sharding, fine: Sharding, scope: MeshAxes) -> Sharding | None:
        """Finds a sharding of a fine one's counts, whose parts are within a coarse one's; None where there is none."""
        has, wants = self.counts(coarse), self.counts(fine)
        if any(many % few for few, many in zip(has, wants, strict=True)):
            return None
        if all(axes[: len(first)] == first for first, axes in zip(coarse, fine, strict=True)):
            return fine
        more = [many // few for few, many in zip(has, wants, strict=True)]
        added = self.cut(rest(coarse, scope), more)
        return tuple([(*first, *axes) for first, axes in zip(coarse, added, strict=True)])

    def _shifted(self, coarse: Sharding, fine: Sharding, scope: MeshAxes) -> Sharding | None:
        """Goes from a sharding to one whose axes are cut as their left neighbours: the last cut is gone."""
        has, wants = self.counts(coarse), self.counts(fine)
        left = rest(coarse, scope)
        last = max((dim for dim, count in enumerate(wants) if count > 1), default=0)
        if self.repeats(fine, scope) or (*has[1:], self.size(left)) != wants or has[0] != 1:
            return None
        if wants[last] != self.size(left) or (*joined(coarse), *left) != joined(fine):
            return None
        return tuple([() if dim == last else axes for dim, axes in enumerate(fine)])

    def _exchanged(self, start: Sharding, end: Sharding, pairs: list[tuple[int, int]]) -> Moves:
        """Exchanges by all-to-alls: two axes of the array swap counts; several pairs that do not meet at once."""
        found: Moves = []
        now = start
        free: list[tuple[int, int]] = []
        for pair in sorted(pairs, key=lambda pair: pair[1]):
            if not {*pair} & {dim for other in free for dim in other}:
                free.append(pair)
        turns = [free, *([pair] for pair in pairs if pair not in free)] if len(free) > 1 else [[pair] for pair in pairs]
        for turn in turns:
            cut, moves = list(now), list[tuple[str, int, int]]()
            for source, dim in turn:
                head = self.cut(now[source], [self.size(now[dim])])[0]
                tail = now[source][len(head) :]
                cut[source], cut[dim] = head, (*now[dim], *tail)
                moves += [(axis, source, dim) for axis in tail]
            now = tuple(cut)
            found.append((AllToAll(tuple(moves)), now))
        return found if now == end else [*found, permuted(now, end)]

    def _complex(self, start: Sharding, end: Sharding, scope: MeshAxes) -> Moves | None:
        has, wants = self.counts(start), self.counts(end)
        left, right = rest(start, scope), rest(end, scope)
        split = _split(has, wants) if self.size(left) == self.size(right) else None
        if split is not None:
            return self._halved(start, end, scope, *split)
        if right:
            for dim, count in enumerate(has):
                if count > 1 and count * self.size(left) == self.size(right):
                    between = (*start[:dim], (), *start[dim + 1 :])
                    then = self._steps(between, end, scope, False)
                    return None if then is None else [*self.steps(start, between, scope), *then]
        elif left:
            for dim, (few, many) in enumerate(zip(has, wants, strict=True)):
                if few == 1 != many and many % self.size(left) == 0:
                    between = (*start[:dim], left, *start[dim + 1 :])
                    then = self._steps(between, end, scope, False)
                    return None if then is None else [*self.steps(start, between, scope), *then]
        return None

    def _halved(self, start: Sharding, end: Sharding, scope: MeshAxes, at: int, count: int) -> Moves | None:
        """Returns one axis of the array as two, for its slow parts, so many, and its fast ones."""

        def halves(sharding: Sharding) -> Sharding:
            head = self.cut(sharding[at], [count])[0]
            return (*sharding[:at], sharding[at][len(head) :], head, *sharding[at + 1 :])

        def merged(sharding: Sharding) -> Sharding:
            return (*sharding[:at], (*sharding[at + 1], *sharding[at]), *sharding[at + 2 :])

        found = self._steps(halves(start), halves(end), scope, False)
        return None if found is None else [(step, merged(sharding)) for step, sharding in found]

    def _grouped(self, start: Sharding, end: Sharding, scope: MeshAxes) -> Moves | None:
        """Moves within groups, where some axes of the array are cut into as many parts before and after."""
        has, wants = self.counts(start), self.counts(end)
        dims = [dim for dim, (few, many) in enumerate(zip(has, wants, strict=True)) if few == many > 1]
        if not dims:
            return None
        first = self.group(start, dims, scope)
        last = self.aligned(self.group(end, dims, scope), first)
        within = [
            (step, self.whole(first._replace(inner=inner)))
            for step, inner in self.steps(first.inner, last.inner, first.scope)
        ]
        return [*within, *self.steps(self.whole(last), end, scope)]


def parts(mesh: Mapping[str, int]) -> dict[str, int]:
    """Returns the mesh with an axis for each prime factor of one.

    Example:
        >>> parts({"x": 12, "y": 1})
        {'x/0': 2, 'x/1': 2, 'x/2': 3}
    """
    found: dict[str, int] = {}
    for axis, size in mesh.items():
        factor, number = 2, 0
        while size > 1:
            while size % factor == 0:
                found[f"{axis}{PART}{number}"] = factor
                size, number = size // factor, number + 1
            factor += 1
    return found


def parted(sharding: Sharding, mesh: Mapping[str, int]) -> Sharding:
    """Returns a sharding by the axes of `parts`."""
    return tuple(tuple(part for axis in axes for part in mesh if part.rpartition(PART)[0] == axis) for axes in sharding)


def whole(axes: MeshAxes, mesh: Collection[str]) -> MeshAxes:
    """Returns the axes of a mesh that some are, or are parts of.

    Example:
        >>> whole(("y/0", "y/1", "x"), ("x", "y"))
        ('y', 'x')
    """
    return tuple(dict.fromkeys(axis if axis in mesh else axis.rpartition(PART)[0] for axis in axes))


def joined(sharding: Iterable[MeshAxes]) -> MeshAxes:
    """Returns all mesh axes of a sharding."""
    return tuple([axis for axes in sharding for axis in axes])


def rest(sharding: Sharding, scope: MeshAxes) -> MeshAxes:
    """Returns the mesh axes along which devices have the same."""
    used = joined(sharding)
    return tuple([axis for axis in scope if axis not in used])


def permuted(start: Sharding, end: Sharding) -> tuple[Step, Sharding]:
    """Lets whole blocks change hands."""
    factors = tuple(tuple[Factor, ...]((axis, True) for axis in axes) for axes in end)
    return Permute(factors, tuple(dict.fromkeys((*joined(start), *joined(end))))), end


def slices(start: Sharding, end: Sharding) -> Iterator[tuple[Step, Sharding]]:
    """Lists each device keeps its part of what it has."""
    now = list(start)
    for dim, axes in enumerate(end):
        if axes != now[dim]:
            added = axes[len(now[dim]) :]
            now[dim] = axes
            yield Slice(added, dim), tuple(now)


def gathered(start: Sharding, end: Sharding) -> Iterator[tuple[Step, Sharding]]:
    """Lists each device gets the parts of all others, of one axis of the array after another."""
    axes = tuple([axis for axis in joined(start) if axis not in joined(end)])
    if axes:
        yield AllGather(axes), end


def exchanges(has: Counts, wants: Counts) -> list[tuple[int, int]] | None:
    """Pairs of axes of the array, from and to, that are to swap counts; None where that does not do.

    By `GetReshardAllToAllSourceTargetDims`.

    Example:
        >>> exchanges((4, 1), (1, 4)), exchanges((16, 1), (4, 4))
        ([(0, 1)], None)
    """
    if has == wants or sorted(has) != sorted(wants):
        return None
    now = {dim: count for dim, count in enumerate(has) if count != wants[dim]}
    found: list[tuple[int, int]] = []
    while now:
        least = min(now.values())
        to = max(dim for dim, count in now.items() if count == least)
        if wants[to] == least:
            del now[to]
            continue
        if wants[to] % least:
            return None
        sources = [dim for dim, count in now.items() if count == wants[to]]
        better = [dim for dim in sources if (wants[dim] != 1 if least == 1 else wants[dim] == least)]
        source = (better or sources)[0] if better or least != 1 else sources[-1]
        found.append((source, to))
        now[source] = least
        del now[to]
    return found


def _split(has: Counts, wants: Counts) -> tuple[int, int] | None:
    """Says which axis of the array to see as two, and how many slow parts it then has; None where that is of no use."""
    pairs = list(enumerate(zip(has, wants, strict=True)))
    ends = [dim for dim, pair in pairs if min(pair) == 1 != max(pair)]
    both = [
        dim for dim, (few, many) in pairs if few != many and min(few, many) > 1 and max(few, many) % min(few, many) == 0
    ]
    for dim in both:
        for other in ends:
            if has[dim] * has[other] == wants[dim] * wants[other]:
                return dim, min(has[dim], wants[dim])
    return next(((dim, wants[dim]) for dim in both if has[dim] > wants[dim]), None)
