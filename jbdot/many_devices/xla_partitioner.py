"""How XLA's partitioner spreads a dot over devices, which goes by structure, not by what is sent.

A model of `xla/service/spmd/dot_handler.cc` (XLA of 2026): `PartitionDot` and what it calls, each method named after
what it follows. Its loops of windowed dots are not in it, nor sizes that do not divide. `xla_reshard` moves arrays.

XLA compares into how many parts labels are cut: mesh axes of one length are alike to it until devices are looked at.
Where a kind of labels (batch, free of one operand, contracting) takes all devices, one rule says what is to be done.
Where one is cut alike in an operand and the result, or in both operands, it splits the devices into groups, and what is
left is a smaller dot within each. That is tried first without moving anything to other groups, then with.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from jbdot.core.contraction import Contraction
from jbdot.core.labels import Labels
from jbdot.many_devices.block import Block, MeshAxes, Sharding
from jbdot.many_devices.collectives import AllReduce, Slice
from jbdot.many_devices.route import Route
from jbdot.many_devices.xla_reshard import Group, Moves, Tiles, joined, rest


@dataclasses.dataclass(frozen=True)
class Array:
    """An operand or the result on its way.

    Attributes:
        labels: Of its axes.
        route: How it got where it is.
    """

    labels: Labels
    route: Route

    @property
    def bytes(self) -> int:
        """Counts the bytes that a device has."""
        return self.route.end.bytes

    def within(self, scope: Collection[str]) -> Sharding:
        """Says how it is cut within groups of devices: by these mesh axes."""
        return tuple([tuple([axis for axis in axes if axis in scope]) for axes in self.route.end.sharding])

    def between(self, scope: Collection[str]) -> Sharding:
        """Says how it is cut into groups: by all other mesh axes."""
        return tuple([tuple([axis for axis in axes if axis not in scope]) for axes in self.route.end.sharding])

    def moved(self, moves: Moves, scope: Collection[str]) -> "Array":
        """Returns the array after steps within groups."""
        between, way = self.between(scope), self.route
        for step, inner in moves:
            way = way.to(step, both(between, inner))
        return Array(self.labels, way)


class Sums(NamedTuple):
    """Partial sums that are added as soon as they are made.

    Attributes:
        axes: The mesh axes that they are added along.
        keeps: For each axis of the result the mesh axes of which a device keeps its part then.
        others: Mesh axes along which they are added after that.
    """

    axes: MeshAxes
    keeps: Sharding = ()
    others: MeshAxes = ()


@dataclasses.dataclass(frozen=True)
class Dot:
    """A dot within groups of devices.

    Attributes:
        lhs: Where lhs is.
        rhs: Where rhs is.
        out: How the result is to be cut within a group.
        between: How it is cut into groups.
        scope: The mesh axes within a group.
        sums: What is to be added, the outermost group's first.
    """

    lhs: Array
    rhs: Array
    out: Sharding
    between: Sharding
    scope: MeshAxes
    sums: tuple[Sums, ...] = ()

    @property
    def sides(self) -> tuple[tuple[Array, Array, bool], tuple[Array, Array, bool]]:
        """Lists each operand, the other one, and whether it is lhs."""
        return (self.lhs, self.rhs, True), (self.rhs, self.lhs, False)


class Spread(NamedTuple):
    """A dot that is spread: its operands where they are multiplied, and the result on its way."""

    lhs: Array
    rhs: Array
    out: Array


class Partitioner:
    """XLA's way with one contraction on one mesh.

    Attributes:
        out: The labels of the result, as the dot gives it.
    """

    def __init__(self, c: Contraction, mesh: Mapping[str, int], sizes: Mapping[str, int], dtype: str) -> None:
        self._mesh, self._dtype, self._tiles = mesh, dtype, Tiles(mesh)
        self.out = c.dot_out
        self._shape = tuple(sizes[label] for label in self.out)
        self._batch, self._lhs_free, self._rhs_free, self._summed = c.batch, c.lhs_free, c.rhs_free, c.contracting

    def spread(self, dot: Dot) -> Spread:
        """Spreads a dot within groups: `PartitionDot`."""
        for strict in (True, False):
            found = (
                self._base(dot, False)
                or self._by_batch(dot, strict)
                or self._by_free(dot, strict)
                or self._by_contracting(dot, strict)
                or self._by_repeating(dot)
                or self._base(dot, True)
            )
            if found is not None:
                return found
        lhs, rhs = (self.moved(x, self._by(self.out, dot.out, x.labels), dot.scope) for x in (dot.lhs, dot.rhs))
        return self._made(dot, lhs, rhs)

    def moved(self, x: Array, end: Sharding, scope: MeshAxes) -> Array:
        """Returns an array that is cut in another way within groups."""
        return x.moved(self._tiles.steps(x.within(scope), end, scope), scope)

    def _gathered(self, x: Array, scope: MeshAxes) -> Array:
        return self.moved(x, ((),) * len(x.labels), scope)

    def _parts(self, labels: Labels, sharding: Sharding, kind: Labels) -> int:
        """Counts the parts into which an array is cut along labels of a kind: `GetPartitionsForDims`."""
        return self._tiles.size(joined(axes for label, axes in zip(labels, sharding, strict=True) if label in kind))

    @staticmethod
    def _by(labels: Labels, sharding: Sharding, others: Labels) -> Sharding:
        """Returns a sharding, by the labels of another array: `TransposeShardingWithCollapsedDims`."""
        at = dict(zip(labels, sharding, strict=True))
        return tuple([at.get(label, ()) for label in others])

    def _made(self, dot: Dot, lhs: Array, rhs: Array, sums: Iterable[Sums] = ()) -> Spread:
        """Returns the dot of what each device has, and its sums."""
        ends = zip((*rhs.labels, *lhs.labels), (*rhs.route.end.sharding, *lhs.route.end.sharding), strict=True)
        at = dict(ends)
        way = Route(Block.of(self._shape, self._dtype, tuple(at[label] for label in self.out), self._mesh))
        for each in (*dot.sums, *sums):
            way = way.to(AllReduce(each.axes), way.end.sharding) if each.axes else way
            for dim, axes in enumerate(each.keeps):
                way = way.to(Slice(axes, dim), _cut(way.end.sharding, dim, axes)) if axes else way
            way = way.to(AllReduce(each.others), way.end.sharding) if each.others else way
        return Spread(lhs, rhs, Array(self.out, way))

    def _ended(self, found: Spread, dot: Dot) -> Spread:
        return found._replace(out=self.moved(found.out, dot.out, dot.scope))

    # One kind of labels takes all devices: PartitionBaseCase.

    def _base(self, dot: Dot, moves: bool) -> Spread | None:
        """Applies one rule; None where none fits. Only at the end may operands move to where the result is."""
        if any(
            self._tiles.repeats(x, dot.scope) for x in (dot.lhs.within(dot.scope), dot.rhs.within(dot.scope), dot.out)
        ):
            return None
        return (
            self._as_batch(dot)
            or self._as_contracting(dot, moves)
            or self._as_free(dot)
            or (self._as_result(dot) if moves else None)
            or self._as_one_is_summed(dot)
        )

    def _takes_all(self, dot: Dot, labels: Labels, sharding: Sharding, kind: Labels) -> bool:
        return self._parts(labels, sharding, kind) == self._tiles.size(dot.scope)

    def _as_batch(self, dot: Dot) -> Spread | None:
        scope, out, batch = dot.scope, dot.out, self._batch
        lhs, rhs = dot.lhs.within(scope), dot.rhs.within(scope)
        if self._takes_all(dot, dot.lhs.labels, lhs, batch) and self._by(dot.lhs.labels, lhs, dot.rhs.labels) == rhs:
            return self._ended(self._made(dot, dot.lhs, dot.rhs), dot)
        found = [
            (x, self.moved(y, self._by(x.labels, x.within(scope), y.labels), scope), is_lhs)
            for x, y, is_lhs in dot.sides
            if self._takes_all(dot, x.labels, x.within(scope), batch)
            and self._takes_all(dot, self.out, out, batch)
            and self._by(x.labels, x.within(scope), self.out) == out
        ]
        return self._of(dot, *found[0]) if found else None

    def _of(self, dot: Dot, x: Array, y: Array, is_lhs: bool, sums: Iterable[Sums] = ()) -> Spread:
        return self._made(dot, *((x, y) if is_lhs else (y, x)), sums)

    def _as_contracting(self, dot: Dot, moves: bool) -> Spread | None:
        if not all(self._takes_all(dot, x.labels, x.within(dot.scope), self._summed) for x, *_ in dot.sides):
            return None
        if not moves and joined(dot.out) and self._tiles.size(joined(dot.out)) != self._tiles.size(dot.scope):
            return None
        lhs_moves = self._elements(dot.lhs, dot.scope) < self._elements(dot.rhs, dot.scope)
        x, y, is_lhs = dot.sides[int(lhs_moves)]
        inner = x.within(dot.scope)
        y = self.moved(y, self._by(x.labels, inner, y.labels), dot.scope)
        return self._ended(self._of(dot, x, y, is_lhs, [Sums(joined(inner))]), dot)

    def _as_free(self, dot: Dot) -> Spread | None:
        for x, y, is_lhs in dot.sides:
            kind, inner = self._lhs_free if is_lhs else self._rhs_free, x.within(dot.scope)
            if self._takes_all(dot, x.labels, inner, kind) and self._by(x.labels, inner, self.out) == dot.out:
                return self._of(dot, x, self._gathered(y, dot.scope), is_lhs)
        return None

    def _as_result(self, dot: Dot) -> Spread | None:
        if not any(
            self._takes_all(dot, self.out, dot.out, kind) for kind in (self._batch, self._lhs_free, self._rhs_free)
        ):
            return None
        lhs, rhs = (self.moved(x, self._by(self.out, dot.out, x.labels), dot.scope) for x, *_ in dot.sides)
        return self._made(dot, lhs, rhs)

    def _as_one_is_summed(self, dot: Dot) -> Spread | None:
        """Spreads an operand cut along contracting labels, and larger than the result, which all devices get."""
        size = math.prod(self._shape) // self._tiles.size(joined(dot.between))
        for x, y, is_lhs in reversed(dot.sides):
            inner = x.within(dot.scope)
            if joined(dot.out) or joined(y.within(dot.scope)) or self._elements(x, dot.scope) <= size:
                continue
            if self._takes_all(dot, x.labels, inner, self._summed):
                y = self.moved(y, self._by(x.labels, inner, y.labels), dot.scope)
                return self._of(dot, x, y, is_lhs, [Sums(joined(inner))])
        return None

    def _elements(self, x: Array, scope: MeshAxes) -> int:
        """Counts the elements of an array that one group of devices has."""
        return math.prod(x.route.start.shape) // self._tiles.size(joined(x.between(scope)))

    # Groups of devices, and a smaller dot within each.

    def _within(self, dot: Dot, lhs: Array, rhs: Array, out: Group, scope: MeshAxes) -> Dot:
        """Returns the dot within groups that the result has."""
        between = both(dot.between, self._tiles.outer(out))
        return dataclasses.replace(dot, lhs=lhs, rhs=rhs, out=out.inner, between=between, scope=scope)

    def _dims(self, labels: Labels, kind: Labels) -> list[int]:
        return [labels.index(label) for label in kind]

    def _recut(self, x: Array, counts: Mapping[int, int], dot: Dot, dims: list[int], groups: Group) -> Sharding:
        """Cuts an operand into other counts along some axes, all devices in turn, in the groups of another."""
        tiles, inner = self._tiles, x.within(dot.scope)
        wanted = [counts.get(dim, tiles.size(axes)) for dim, axes in enumerate(inner)]
        cut = tiles.cut((*joined(inner), *rest(inner, dot.scope)), wanted)
        return tiles.whole(tiles.aligned(tiles.group(cut, dims, dot.scope), groups))

    def _by_batch(self, dot: Dot, strict: bool) -> Spread | None:
        """Groups by batch labels: `PartitionDotGroupOnBatchDims`."""
        scope, tiles, batch = dot.scope, self._tiles, self._batch
        lhs, rhs, wanted = dot.lhs, dot.rhs, self._parts(self.out, dot.out, batch)
        if wanted == 1 or all(self._parts(x.labels, x.within(scope), batch) != wanted for x, *_ in dot.sides):
            return None
        first, second = (tiles.group(x.within(scope), self._dims(x.labels, batch), scope) for x, *_ in dot.sides)
        out = tiles.group(dot.out, self._dims(self.out, batch), scope)
        if first.parts == second.parts and (not strict or first.axes == second.axes):
            if lhs.bytes > rhs.bytes:
                rhs = self.moved(rhs, tiles.whole(tiles.aligned(second, first)), scope)
            else:
                first = tiles.aligned(first, second)
                lhs = self.moved(lhs, tiles.whole(first), scope)
            out = tiles.aligned(out._replace(parts=first.parts), first)
            return self._ended(self.spread(self._within(dot, lhs, rhs, out, first.scope)), dot)
        ends = [self._as_batch_of(x, y, out, dot) for x, y, _ in dot.sides]
        if any(end is None or (strict and end != x.within(scope)) for end, x in zip(ends, (lhs, rhs), strict=True)):
            return None
        lhs, rhs = (self.moved(x, end or (), scope) for end, x in zip(ends, (lhs, rhs), strict=True))
        return self._ended(self.spread(self._within(dot, lhs, rhs, out, out.scope)), dot)

    def _as_batch_of(self, x: Array, y: Array, out: Group, dot: Dot) -> Sharding | None:
        """Returns an operand's sharding with the batch labels of the result: `reshard_to_output_batch`."""
        tiles, inner, dims = self._tiles, x.within(dot.scope), self._dims(x.labels, self._batch)
        if not joined(inner):
            return self._by(self.out, tiles.outer(out), x.labels)
        counts = dict(enumerate(tiles.counts(inner)))
        has, left = self._tiles.size(dot.scope), self._tiles.size(rest(inner, dot.scope))
        counts |= dict(zip(dims, out.parts, strict=True))
        summed = self._dims(x.labels, self._summed)
        free = [dim for dim in counts if dim not in (*dims, *summed)]
        many, few = (math.prod([counts[dim] for dim in some]) for some in (free, summed))
        ratio = math.prod(counts.values()) * left // has
        if ratio > 1:
            if left > 1 and left % ratio == 0:
                left //= ratio
            elif ratio == many and (ratio != few or few == self._parts(y.labels, y.within(dot.scope), self._summed)):
                counts |= dict.fromkeys(free, 1)
            elif ratio == few:
                counts |= dict.fromkeys(summed, 1)
        return self._recut(x, counts, dot, dims, out) if math.prod(counts.values()) * left == has else None

    def _by_free(self, dot: Dot, strict: bool) -> Spread | None:
        """Groups by free labels of one operand: `PartitionDotGroupOnNonContractingDims`."""
        is_lhs, kind = self._matching(dot)
        if not kind:
            return None
        x, y, _ = dot.sides[int(not is_lhs)]
        out = self._tiles.group(dot.out, self._dims(self.out, kind), dot.scope)
        dims = self._dims(x.labels, kind)
        end = self._recut(x, dict(zip(dims, out.parts, strict=True)), dot, dims, out)
        if strict and end != x.within(dot.scope):
            return None
        y = self._repeated(y, x, is_lhs, out, dot)
        x = self.moved(x, end, dot.scope)
        return self.spread(self._within(dot, *((x, y) if is_lhs else (y, x)), out, out.scope))

    def _matching(self, dot: Dot) -> tuple[bool, Labels]:
        """Says whether lhs' free labels make the groups, and which: the others' operand is repeated less then."""
        kinds = self._lhs_free, self._rhs_free
        has = [self._parts(x.labels, x.within(dot.scope), kind) for (x, *_), kind in zip(dot.sides, kinds, strict=True)]
        wanted = [self._parts(self.out, dot.out, kind) for kind in kinds]
        may = [count == want > 1 for count, want in zip(has, wanted, strict=True)]
        if any(may):
            is_lhs = may[0] and (not may[1] or has[0] * dot.rhs.bytes < has[1] * dot.lhs.bytes)
            return is_lhs, kinds[int(not is_lhs)]
        is_lhs = has[0] > 1 and wanted[0] > 1
        if not is_lhs and not (has[1] > 1 and wanted[1] > 1):
            return False, ()
        x, kind = (dot.lhs, self._lhs_free) if is_lhs else (dot.rhs, self._rhs_free)
        at = dict(zip(x.labels, self._tiles.counts(x.within(dot.scope)), strict=True))
        goes = dict(zip(self.out, self._tiles.counts(dot.out), strict=True))
        return is_lhs, tuple(label for label in kind if at[label] == goes[label] > 1)

    def _repeated(self, y: Array, x: Array, is_lhs: bool, out: Group, dot: Dot) -> Array:
        """Returns the other operand, the same in every group."""
        scope, tiles = dot.scope, self._tiles
        group = self._other(y, y.within(scope), x, is_lhs, out, dot)
        if group is None and joined(y.within(scope)):
            expected = self._expected(y, x, dot)
            group = self._other(y, expected, x, is_lhs, out, dot)
            y = self.moved(y, expected, scope) if group is not None else y
        if group is None:
            return self._gathered(y, scope)
        if group.dims == (len(y.labels),):
            return self.moved(y, tiles.whole(group), scope)
        if not tiles.repeats(y.within(scope), scope):
            y = self.moved(y, tiles.whole(group), scope)
        end = tuple([() if dim in group.dims else axes for dim, axes in enumerate(y.within(scope))])
        return self.moved(y, end, scope)

    def _expected(self, y: Array, x: Array, dot: Dot) -> Sharding:
        """Says how the result, and then the other operand, would have an operand cut: `InferDotOperandSharding`."""
        first = self._by(self.out, dot.out, y.labels)
        second = self._by(x.labels, x.within(dot.scope), y.labels)
        longest = tuple([max(pair, key=len) for pair in zip(first, second, strict=True)])
        agree = all(
            axes[: len(cut)] == cut for each in (first, second) for axes, cut in zip(longest, each, strict=True)
        )
        return longest if agree and len({*joined(longest)}) == len(joined(longest)) else first

    def _other(self, y: Array, inner: Sharding, x: Array, is_lhs: bool, out: Group, dot: Dot) -> Group | None:
        """Returns the groups of the other operand: `GetNonContractingPartitionGroupedShardingForOtherOperand`."""
        tiles, rank, count, repeating = self._tiles, len(inner), self._tiles.size(out.axes), rest(inner, dot.scope)
        whole = Group((rank,), (count,), out.axes, out.scope, inner)
        if not joined(inner):
            return whole
        dims: list[int] | None
        if tiles.repeats(inner, dot.scope) and tiles.size(repeating) % count == 0:
            if {*out.axes} <= {*repeating}:
                return whole
            for dim in reversed(range(rank)):  # devices that repeat parts take the place of those that do not
                if {*out.axes} <= {*inner[dim]}:
                    return whole._replace(inner=(*inner[:dim], repeating, *inner[dim + 1 :]))
            dims = [rank]
        else:
            dims = self._grouping(inner, out, dot.scope) or self._to_repeat(y, inner, x, is_lhs, count, dot)
        if dims is None:
            return None
        parts = count if dims == [rank] else None
        return tiles.aligned(tiles.group(inner, dims, dot.scope, parts), out, any_order=True)

    def _to_repeat(self, y: Array, inner: Sharding, x: Array, is_lhs: bool, count: int, dot: Dot) -> list[int] | None:
        """Returns the axes along which the other operand is to be gathered, where counts allow it."""
        free = self._rhs_free if is_lhs else self._lhs_free
        summed, own = (self._parts(y.labels, inner, kind) for kind in (self._summed, free))
        may_sum = summed == count and own == self._parts(self.out, dot.out, free)
        may_free = own == count and self._parts(x.labels, x.within(dot.scope), self._summed) == summed
        out = Block.of(self._shape, self._dtype, both(dot.between, dot.out), self._mesh)
        if may_sum and (not may_free or y.bytes <= out.bytes):
            return self._dims(y.labels, self._summed)
        return self._dims(y.labels, free) if may_free else None

    def _grouping(self, inner: Sharding, groups: Group, scope: MeshAxes) -> list[int] | None:
        """Returns the axes by which an array has these groups: `FindMatchingPartitionedDimsForGrouping`."""
        every = (*inner, rest(inner, scope))
        if not joined(inner) or self._tiles.size(groups.axes) < 2:
            return None
        last = groups.scope[-1] if groups.scope else None
        dims = [dim for dim, axes in enumerate(every) if axes and last not in axes]
        return dims if {*joined(every[dim] for dim in dims)} == {*groups.axes} else None

    def _by_contracting(self, dot: Dot, strict: bool) -> Spread | None:
        """Groups by contracting labels: `PartitionDotGroupOnContractingDims`."""
        left, right = (
            [self._parts(x.labels, x.within(dot.scope), (label,)) for label in self._summed] for x, *_ in dot.sides
        )
        found = None
        if math.prod(left) == math.prod(right) > 1:
            found = self._by_sums(dot, self._summed, strict)
        some = tuple(label for label, one, other in zip(self._summed, left, right, strict=True) if one == other > 1)
        return self._by_sums(dot, some, strict) if found is None and some else found

    def _by_sums(self, dot: Dot, kind: Labels, strict: bool) -> Spread | None:
        """Groups by these contracting labels, whose sums are added: `PartitionDotGroupOnContractingImpl`."""
        is_lhs = dot.lhs.bytes > dot.rhs.bytes
        x, y, _ = dot.sides[int(not is_lhs)]
        groups = self._tiles.group(x.within(dot.scope), self._dims(x.labels, kind), dot.scope)
        dims = self._dims(y.labels, kind)
        end = self._recut(y, dict(zip(dims, groups.parts, strict=True)), dot, dims, groups)
        if strict and end != y.within(dot.scope):
            return None
        y = self.moved(y, end, dot.scope)
        sums, out = self._sums(dot, self._coarser(x, y, groups, dot), groups)
        inner = self._within(dot, *((x, y) if is_lhs else (y, x)), out, groups.scope)
        return self._ended(self.spread(dataclasses.replace(inner, sums=(*dot.sums, sums))), dot)

    def _coarser(self, x: Array, y: Array, groups: Group, dot: Dot) -> Sharding:
        """Gives the result's sharding, or that of the only operand that is cut within groups, if it is a part of it."""
        out, repeating = dot.out, self._tiles.size(rest(dot.out, dot.scope))
        within = [(z.labels, z.within(groups.scope)) for z in (x, y) if joined(z.within(groups.scope))]
        fits = self._tiles.repeats(out, dot.scope) and repeating % self._tiles.size(groups.axes) == 0
        if not joined(out) or fits or len(within) != 1:
            return out
        theirs = self._by(*within[0], self.out)
        return theirs if all(axes[: len(cut)] == cut for cut, axes in zip(theirs, out, strict=True)) else out

    def _sums(self, dot: Dot, out: Sharding, groups: Group) -> tuple[Sums, Group]:
        """Gives what is added and kept, and the result's groups: `GetDotGroupPartitionContractingOutputShardings`."""
        tiles, scope, rank, nothing = self._tiles, dot.scope, len(out), ((),) * len(out)
        count = tiles.size(groups.axes)
        if tiles.repeats(out, scope) and tiles.size(rest(out, scope)) % count == 0:
            group = tiles.group(out, [rank], scope, count)
            return Sums(groups.axes), tiles.aligned(group, groups, any_order=True)
        dims = self._grouping(out, groups, scope)
        if dims:
            group = tiles.group(out, dims, scope)
            keeps = tiles.outer(group)
            return Sums(joined(keeps), keeps, rest(out, scope) if rank in dims else ()), group
        for kind in (self._lhs_free, self._rhs_free, self._batch):
            if joined(out) and self._parts(self.out, out, kind) == count:
                group = tiles.aligned(tiles.group(out, self._dims(self.out, kind), scope), groups)
                return Sums(groups.axes, tiles.outer(group)), group
        return Sums(groups.axes), Group((), (), groups.axes, groups.scope, nothing)

    def _by_repeating(self, dot: Dot) -> Spread | None:
        """Lists each device has all of the operands: `PartitionDotRemovingOutputPartialReplication`."""
        if any(joined(x.within(dot.scope)) for x, *_ in dot.sides) or not self._tiles.repeats(dot.out, dot.scope):
            return None
        group = self._tiles.group(dot.out, [len(self.out)], dot.scope)
        return self.spread(dataclasses.replace(dot, scope=group.scope))


def both(first: Sharding, second: Sharding) -> Sharding:
    """Returns the mesh axes of one sharding, and within its parts those of another."""
    return tuple([(*a, *b) for a, b in zip(first, second, strict=True)])


def _cut(sharding: Sharding, dim: int, axes: MeshAxes) -> Sharding:
    return (*sharding[:dim], (*sharding[dim], *axes), *sharding[dim + 1 :])
