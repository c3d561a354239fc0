"""How an array gets from one sharding to another: the steps that send fewest bytes, by one rule of thumb.

First what makes blocks smaller (slices, sums that are scattered), then what leaves their size (all-to-all), last what
makes them larger (all-gather). Each axis of the array has one order of factors all the way: the one that it starts with
and the one that it ends with, where either begins the other. Where neither does, whole blocks are permuted between.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Sequence

import jax

from jbdot.many_devices.block import Block, Factor, MeshAxes, Sharding, itemsize
from jbdot.many_devices.collectives import (
    AllGather,
    AllReduce,
    AllToAll,
    Cast,
    Permute,
    ReduceScatter,
    Slice,
    Step,
    is_gathered,
    is_scattered,
)


@dataclasses.dataclass(frozen=True)
class Route:
    """Steps, and the block that they start from.

    Example:
        >>> start = Block.of((8, 6), "float32", (("x", "y"), ()), {"x": 2, "y": 2})
        >>> found = route(start, ((), ("x",)))
        >>> found.steps
        (AllToAll(moves=(('x', 0, 1),)), AllGather(axes=('y',), parts=()))
        >>> found.sent, found.end.local
        (72, (8, 3))
    """

    start: Block
    steps: tuple[Step, ...] = ()

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Says what a device holds before the first step and after each."""
        found = [self.start]
        for step in self.steps:
            found.append(step.after(found[-1]))
        return tuple(found)

    @property
    def end(self) -> Block:
        """Says what a device holds at the end."""
        return self.blocks[-1]

    @functools.cached_property
    def sent(self) -> int:
        """Counts the bytes that each device sends on the way."""
        return sum(step.sent(block) for step, block in zip(self.steps, self.blocks, strict=False))

    def then(self, step: Step) -> "Route":
        """Returns the route with one more step."""
        way = Route(self.start, (*self.steps, step))
        vars(way)["blocks"] = (*self.blocks, step.after(self.end))  # as the property finds them, without going back
        return way

    def to(self, step: Step, sharding: Sharding) -> "Route":
        """Returns the route with one more step, which ends at a sharding that is known."""
        way = Route(self.start, (*self.steps, step))
        block = Block.of(self.start.shape, self.start.dtype, sharding, self.start.mesh)
        vars(way)["blocks"] = (*self.blocks, block)
        return way

    def run(self, x: jax.Array) -> jax.Array:
        """Goes the way with a device's part of an array, inside a `shard_map`."""
        for step, block in zip(self.steps, self.blocks, strict=False):
            x = step.run(x, block)
        return x


def route(
    start: Block,
    end: Sharding,
    partial: MeshAxes = (),
    scatter: bool = True,
    dtype: str | None = None,
    slow: MeshAxes = (),
    sides: tuple[int, ...] = (),
) -> Route | None:
    """Returns the steps from a block to a sharding; None where a size does not divide.

    Args:
        start: What each device has.
        end: The mesh axes that are to cut each axis of the array.
        partial: Mesh axes along which what devices have are partial sums.
        scatter: Whether sums may be scattered; else they are added whole.
        dtype: What the array is rounded to once its sums are complete; as it is by default.
        slow: Mesh axes along which sums are scattered last.
        sides: Of a slice: what goes over all of it goes in turns, where the compiler would keep nothing else.
    """
    cast = Cast(dtype) if dtype not in (None, start.dtype) else None
    found = _best(start, end, partial, scatter, cast, slow)
    return found if found is None or is_scattered(sides) else _in_turns(found, slow, sides)


def _best(
    start: Block, end: Sharding, partial: MeshAxes, scatter: bool, cast: Cast | None, slow: MeshAxes
) -> Route | None:
    ways = [_permuted(start, end, partial, cast)]
    if all(start.divides(dim, axes) for dim, axes in enumerate(end)):
        ways.append(_direct(start, end, partial, scatter, cast, slow))
    found = [way for way in ways if way is not None]
    if not found:
        return _gathered(start, end, partial, cast)
    best = min(found, key=lambda way: way.sent)
    if not partial and any(isinstance(step, Permute) for way in found for step in way.steps):
        least = start.bytes + _missing(start, best.end)  # what is permuted, and what no name can bring
        for axes in itertools.permutations(start.at):
            if best.sent <= least:
                break
            way = _renamed(start, end, axes, cast)
            best = way if way is not None and way.sent < best.sent else best
    return best


def _in_turns(way: Route, slow: MeshAxes, sides: tuple[int, ...]) -> Route:
    """Has what goes over a whole slice go in turns, where the compiler would make an all-reduce of it."""
    mesh, found = way.start.mesh, Route(way.start)
    whole = math.prod([size for axis, size in mesh.items() if axis not in slow])
    most = math.prod(sides[:-1])  # the turn that sends the most goes along all sides but one
    parts = most, whole // most
    for step in way.steps:
        turns: list[Step] = [step]
        if isinstance(step, ReduceScatter) and any(mesh[axis] == whole for axis in step.axes):
            turns = [dataclasses.replace(step, parts=parts)]
        if isinstance(step, AllGather) and not is_gathered(sides) and not {*step.axes} & {*slow}:
            if len(step.axes) == 1 and mesh[step.axes[0]] == whole:
                turns = [AllGather(step.axes, parts)]
            elif math.prod([mesh[axis] for axis in step.axes]) == whole:
                turns = [AllGather((axis,)) for axis in reversed(step.axes)]
        for turn in turns:
            found = found.then(turn)
    return found


def _missing(start: Block, end: Block) -> int:
    """Counts the bytes that a device lacks of its part in the end, however well that fits the part that it has."""
    common = math.prod([min(sizes) for sizes in zip(start.local, end.local, strict=True)])
    return (math.prod(end.local) - common) * itemsize(start.dtype)


def _renamed(start: Block, end: Sharding, axes: MeshAxes, cast: Cast | None) -> Route | None:
    """Blocks are permuted first, so that each mesh axis takes another's place; then the rest of the way is direct."""
    named = dict(zip(start.at, axes, strict=True))
    first = _permuted(start, tuple(tuple(named[axis] for axis in at) for at in start.sharding), (), None)
    then = None if first is None else _direct(first.end, end, (), True, cast)
    if first is None or then is None:
        return None
    # What the second half has prepared is the same block, with factors that are still held.
    permute = Permute(then.start.factors, first.steps[0].axes)
    return Route(start, (permute, *then.steps))


def _permuted(start: Block, end: Sharding, partial: MeshAxes, cast: Cast | None) -> Route | None:
    """Finds one permutation, where blocks keep their shape."""
    goal = Block.of(start.shape, start.dtype, end, start.mesh)
    if partial or cast or goal.local != start.local or goal.sharding == start.sharding:
        return None
    axes = tuple(axis for axis in start.mesh if axis in start.at or axis in goal.at)
    return Route(start, (Permute(goal.factors, axes),))


def _direct(
    start: Block, end: Sharding, partial: MeshAxes, scatter: bool, cast: Cast | None, slow: MeshAxes = ()
) -> Route | None:
    """Slices, scattered sums, all-to-alls, all-gathers; and permutations where orders of factors are at odds."""
    block = start
    for dim, axes in enumerate(end):
        if _agree(start.sharding[dim], axes):
            block = block.prepared(dim, axes)
    way = _shrunk(Route(block), end, partial, scatter, slow)
    way = way.then(cast) if cast else way
    moves = _moves(way.end, end)
    before = [dim for dim, axes in enumerate(end) if set(axes) <= set(way.end.sharding[dim])]
    way = _ordered(way, end, before)
    for group in _grouped(moves):
        way = way.then(AllToAll(tuple((axis, source, dim) for source, dim in group for axis in moves[source, dim])))
    if any(not _begins(way.end, source, end[source]) for source, _ in moves):
        return None
    way = _ordered(way, end, range(len(end)))
    kept = {axis for axes in end for axis in axes}
    for axes in _runs(way.end, tuple(axis for axis in way.end.at if axis not in kept)):
        way = way.then(AllGather(axes))
    arrived = way.end.sharding == end and way.end.is_whole
    return way if arrived and all(block.is_even for block in way.blocks) else None


def _shrunk(way: Route, end: Sharding, partial: MeshAxes, scatter: bool, slow: MeshAxes) -> Route:
    """Puts first what makes blocks smaller."""
    start = way.end
    summed = tuple(axis for axis in partial if not scatter or not any(axis in axes for axes in end))
    fresh = [tuple(axis for axis in axes if axis not in start.at and axis not in partial) for axes in end]
    late = [tuple(axis for axis in axes if axis in partial) for axes in end]
    for dim, axes in enumerate(fresh):
        way = way.then(Slice(axes, dim)) if axes else way
    for dim, axes in enumerate(late):
        last = tuple(axis for axis in axes if axis in slow)
        way = way.then(ReduceScatter(axes, dim, last)) if axes and scatter else way
    way = way.then(AllReduce(summed)) if summed else way
    for dim, axes in enumerate(late):
        way = way.then(Slice(axes, dim)) if axes and not scatter else way
    return way


def _moves(block: Block, end: Sharding) -> dict[tuple[int, int], MeshAxes]:
    """Lists the mesh axes that go from one axis of the array to another."""
    moves: dict[tuple[int, int], MeshAxes] = {}
    for dim, axes in enumerate(end):
        for axis in axes:
            source = block.at[axis][0]
            if source != dim:
                moves[source, dim] = (*moves.get((source, dim), ()), axis)
    return moves


def _grouped(moves: Collection[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Moves in as few exchanges as will do; an axis of the array is left before it is come to, as far as can be.

    Example:
        >>> _grouped([(2, 0), (0, 1)])  # whoever comes to axis 0 is to find it in one piece
        [[(0, 1)], [(2, 0)]]
        >>> _grouped([(1, 0), (2, 0)])
        [[(1, 0), (2, 0)]]
    """
    groups: list[list[tuple[int, int]]] = []
    rest = list(moves)
    while rest:
        free = [move for move in rest if all(source != move[1] for source, _ in rest)]
        groups.append(free or rest[:1])
        rest = [move for move in rest if move not in groups[-1]]
    return groups


def _ordered(way: Route, end: Sharding, dims: Sequence[int]) -> Route:
    """Permutes blocks so that the factors of these axes of the array begin as they are to end."""
    block = way.end
    dims = [dim for dim in dims if not _begins(block, dim, end[dim])]
    if not dims:
        return way
    factors = list(block.factors)
    for dim in dims:
        rest = [axis for axis in block.sharding[dim] if axis not in end[dim]]
        factors[dim] = tuple[Factor, ...]((axis, True) for axis in (*end[dim], *rest))
    axes = tuple(axis for axis in block.mesh if any(axis in block.sharding[dim] for dim in dims))
    return way.then(Permute(tuple(factors), axes))


def _gathered(start: Block, end: Sharding, partial: MeshAxes, cast: Cast | None) -> Route | None:
    """Returns the long way: everything is gathered, then sliced."""
    way = Route(start, (AllReduce(partial),) if partial else ())
    way = way.then(cast) if cast else way
    for axes in _runs(start, tuple(start.at)):
        way = way.then(AllGather(axes))
    for dim, axes in enumerate(end):
        if axes and start.shape[dim] % Block.of(start.shape, start.dtype, end, start.mesh).parts(dim):
            return None
        way = way.then(Slice(axes, dim)) if axes else way
    return way


def _agree(first: MeshAxes, last: MeshAxes) -> bool:
    """Says whether one order begins the other, so that one order of factors serves both."""
    return first[: len(last)] == last or last[: len(first)] == first


def _begins(block: Block, dim: int, axes: MeshAxes) -> bool:
    """Says whether the factors of an axis of the array begin with these."""
    return tuple(axis for axis, _ in block.factors[dim])[: len(axes)] == axes


def _runs(block: Block, axes: MeshAxes) -> list[MeshAxes]:
    """Groups mesh axes that one collective takes: those that stand side by side in one axis of the array."""
    runs: list[MeshAxes] = []
    for axis in sorted(axes, key=lambda axis: block.at[axis]):
        dim, position = block.at[axis]
        if runs and block.at[runs[-1][-1]] == (dim, position - 1):
            runs[-1] = (*runs[-1], axis)
        else:
            runs.append((axis,))
    return runs
