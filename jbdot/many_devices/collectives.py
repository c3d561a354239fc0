"""The steps by which an array gets from one sharding to another: each says what it sends, and does it.

Bytes are those that each device sends by the algorithm that sends fewest, p being the number of devices in a group:
all-gather (p - 1) times what a device has before, reduce-scatter and all-to-all (p - 1)/p of it, all-reduce twice that,
a permutation all of it. A slice sends nothing.

Some collectives over a whole slice the TPU compiler makes all-reduces of, which send twice as much (`is_scattered`,
`is_gathered`). A plan's go in turns there, along one mesh axis after another or, where one takes the whole slice, along
one of its sides after the other: that sends no more than all at once, and is kept.
"""

import dataclasses
import math
from typing import Any, ClassVar, Final, Protocol

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jbdot.many_devices.block import Block, Factor, MeshAxes, reshaped
from jbdot.one_device.dot_spec import accumulator
from jbdot.one_device.lowerings import LANES

SUBLANES: Final = 8  # rows of a TPU's register: of parts of no more rows the compiler scatters no sums
SCATTERED: Final = (jnp.bfloat16, jnp.float32)  # what XLA's TPU compiler has reduce-scatters of


def is_scattered(sides: tuple[int, ...]) -> bool:
    """Says whether sums over a whole slice of these sides, or less of it, are scattered, not all-reduced and cut."""
    return len(sides) < 2 or (len(sides) == 2 and (sides[0] != sides[1] or sides[0] == 2))


def is_tiled(part: int, dtype: str) -> bool:
    """Says whether parts of the axis that is last in memory are of whole registers of a TPU, of 32 bits a lane."""
    return part * jnp.dtype(dtype).itemsize % (4 * LANES) == 0


def is_gathered(sides: tuple[int, ...]) -> bool:
    """Says whether parts over a whole slice of these sides, or less of it, are gathered, not added in frames."""
    return len(sides) < 3 or 2 in sides


class Step(Protocol):
    """One step: static facts, what it makes of a block, what it costs, and how it is done.

    Attributes:
        kind: Its name.
        silent: Whether devices send nothing.
        sums: Whether partial sums are added.
    """

    kind: ClassVar[str]
    silent: ClassVar[bool]
    sums: ClassVar[bool]

    @property
    def axes(self) -> MeshAxes:
        """Returns the mesh axes that it runs along."""
        ...

    def after(self, block: Block) -> Block:
        """Says what a device holds afterwards."""
        ...

    def sent(self, block: Block) -> int:
        """Counts the bytes that each device sends."""
        ...

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Carries the step out, inside a `shard_map`."""
        ...


def _group(block: Block, axes: MeshAxes) -> int:
    return math.prod(block.mesh[axis] for axis in axes)


def _together(parts: tuple[int, ...]) -> list[list[list[int]] | None]:
    """Lists for each turn along one mesh axis, numbered by its parts, which devices go together; None for all at once.

    Example:
        >>> _together((2, 3))
        [[[0, 3], [1, 4], [2, 5]], [[0, 1, 2], [3, 4, 5]]]
    """
    numbers = np.arange(math.prod(parts)).reshape(parts)
    return [np.moveaxis(numbers, turn, -1).reshape(-1, size).tolist() for turn, size in enumerate(parts)] or [None]


@dataclasses.dataclass(frozen=True)
class Slice:
    """Each device keeps its part of an axis: no communication."""

    axes: MeshAxes
    dim: int
    kind: ClassVar[str] = "slice"
    silent: ClassVar[bool] = True
    sums: ClassVar[bool] = False

    def after(self, block: Block) -> Block:
        """Shards the factors."""
        return block.prepared(self.dim, self.axes).turned(self.axes, True, self.dim)

    def sent(self, block: Block) -> int:
        """Counts no bytes: nothing is sent."""
        del block
        return 0

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Takes this device's index of each factor."""
        block = block.prepared(self.dim, self.axes)
        x = reshaped(x, block.view)
        for axis in self.axes:
            x = lax.dynamic_slice_in_dim(x, lax.axis_index(axis), 1, block.place(axis, self.dim))
        return reshaped(x, self.after(block).local)


@dataclasses.dataclass(frozen=True)
class AllGather:
    """Each device gets the parts of all others along these mesh axes, wherever their factors stand.

    Attributes:
        axes: The mesh axes.
        parts: How many devices of its one mesh axis take part in each turn, the slowest first; () for all at once.
    """

    axes: MeshAxes
    parts: tuple[int, ...] = ()
    kind: ClassVar[str] = "all-gather"
    silent: ClassVar[bool] = False
    sums: ClassVar[bool] = False

    def after(self, block: Block) -> Block:
        """Replicates the factors."""
        return block.turned(self.axes, False)

    def sent(self, block: Block) -> int:
        """Counts (p - 1) times what a device has."""
        return block.bytes * (_group(block, self.axes) - 1)

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Gathers along the one axis where the parts are neighbours, else along a new one that is then put in place."""
        after = self.after(block)
        dim = _neighbours(block, self.axes)
        if dim is not None:
            return self._gathered(x, dim)
        x = self._gathered(jnp.expand_dims(reshaped(x, block.view), 0), 0)
        return reshaped(_put(x, block, {axis: block.at[axis][0] for axis in self.axes}), after.local)

    def _gathered(self, x: jax.Array, dim: int) -> jax.Array:
        for groups in reversed(_together(self.parts)):
            x = lax.all_gather(x, self.axes, axis=dim, tiled=True, axis_index_groups=groups)
        return x


@dataclasses.dataclass(frozen=True)
class AllToAll:
    """Mesh axes that cut some axes of the array cut others instead, all in one exchange.

    Attributes:
        moves: Each mesh axis, the axis of the array that it cuts before, and the one that it cuts after. None is both
            left and come to.
    """

    moves: tuple[tuple[str, int, int], ...]
    kind: ClassVar[str] = "all-to-all"
    silent: ClassVar[bool] = False
    sums: ClassVar[bool] = False

    @property
    def axes(self) -> MeshAxes:
        """Returns the mesh axes that it runs along."""
        return tuple(axis for axis, _, _ in self.moves)

    def after(self, block: Block) -> Block:
        """Replicates the factors where they were, and shards them where they go."""
        block = self._prepared(block)
        for axis, source, dim in self.moves:
            block = block.turned((axis,), False, source).turned((axis,), True, dim)
        return block

    def sent(self, block: Block) -> int:
        """Counts (p - 1)/p of what a device has."""
        p = _group(block, self.axes)
        return block.bytes * (p - 1) // p

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Cuts the axes where the factors go into parts, sends each its way, and puts what comes in place."""
        after, block = self.after(block), self._prepared(block)
        (_, source, dim), *_ = self.moves
        if _neighbours(block, self.axes) == source and _neighbours(after, self.axes) == dim:
            return lax.all_to_all(x, self.axes, dim, source, tiled=True)
        x = reshaped(x, block.view)
        places = [block.place(axis, dim) for axis, _, dim in self.moves]
        x = jnp.moveaxis(x, places, range(len(places)))  # the parts in front, the axes they leave behind gone
        x = x.reshape(_group(block, self.axes), *x.shape[len(places) :])
        x = lax.all_to_all(x, self.axes, 0, 0, tiled=True)
        x = x.reshape(*(block.mesh[axis] for axis in self.axes), *x.shape[1:])
        x = jnp.expand_dims(x, [place + len(places) for place in sorted(places)])
        x = x.reshape(_group(block, self.axes), *x.shape[len(places) :])
        return reshaped(_put(x, block, {axis: source for axis, source, _ in self.moves}), after.local)

    def _prepared(self, block: Block) -> Block:
        for dim in dict.fromkeys(dim for _, _, dim in self.moves):
            block = block.prepared(dim, [axis for axis, _, to in self.moves if to == dim])
        return block


@dataclasses.dataclass(frozen=True)
class ReduceScatter:
    """Partial sums are added along mesh axes, and each device keeps its part of an axis of the array.

    It goes along one mesh axis after another, which sends as much as all at once.

    Attributes:
        axes: The mesh axes.
        dim: The axis of the array.
        slow: Those of the mesh axes that leave a slice or node: they come last, when the least is left to send.
        parts: How many devices take part in each turn along a mesh axis that is a whole slice; () for all at once.
    """

    axes: MeshAxes
    dim: int
    slow: MeshAxes = ()
    parts: tuple[int, ...] = ()
    kind: ClassVar[str] = "reduce-scatter"
    silent: ClassVar[bool] = False
    sums: ClassVar[bool] = True

    def after(self, block: Block) -> Block:
        """Shards the factors."""
        return block.prepared(self.dim, self.axes).turned(self.axes, True, self.dim)

    def sent(self, block: Block) -> int:
        """Counts (p - 1)/p of what a device has."""
        p = _group(block, self.axes)
        return block.bytes * (p - 1) // p

    def turns(self, block: Block) -> list[tuple[str, int]]:
        """Returns the mesh axes in their order, each with the bytes that a device sends along it."""
        found: list[tuple[str, int]] = []
        left = block.bytes
        for axis in sorted(self.axes, key=self.slow.__contains__):
            found.append((axis, left * (block.mesh[axis] - 1) // block.mesh[axis]))
            left //= block.mesh[axis]
        return found

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Puts the parts in front, and scatters along them; where that is not kept, sends each its way and adds.

        The TPU compiler makes all-reduces of scatters along other axes if parts are narrow, or if the dot or another
        collective is turned along with them: a barrier keeps those apart, and parts are matrices, so that there is no
        other layout of a batch to agree on. Parts of few rows, as of vectors, are made matrices of a register's width.
        Those that stay small, and of dtypes that it never scatters, are exchanged, which sends as much, and added by
        the device that they are for.
        """
        after, block = self.after(block), block.prepared(self.dim, self.axes)
        places = [block.place(axis, self.dim) for axis, _ in self.turns(block)]
        x = jnp.moveaxis(reshaped(x, block.view), places, range(len(places)))
        rows, columns = math.prod(after.local[:-1]), after.local[-1]
        if rows <= SUBLANES and rows * columns % LANES == 0:
            rows, columns = rows * columns // LANES, LANES
        x = reshaped(x, (*x.shape[: len(places)], rows, columns))
        x = lax.optimization_barrier(x)
        for axis, _ in self.turns(block):
            if x.dtype not in SCATTERED or rows <= SUBLANES:
                x = _added(lax.all_to_all(x, axis, 0, 0, tiled=True))
                continue
            parts = self.parts_along(axis, block)
            x = reshaped(x, (*(parts or x.shape[:1]), *x.shape[1:]))
            for groups in _together(parts):
                x = lax.psum_scatter(x, axis, scatter_dimension=0, tiled=False, axis_index_groups=groups)
        return reshaped(x, after.local)

    def parts_along(self, axis: str, block: Block) -> tuple[int, ...]:
        """Says in which turns it goes along one of its mesh axes; () for all at once."""
        is_whole = axis not in self.slow and block.mesh[axis] == math.prod(self.parts)
        return self.parts if is_whole and jnp.dtype(block.dtype) in SCATTERED else ()


def _added(parts: jax.Array) -> jax.Array:
    """Sums along the first axis, in the dtype that sums of this one are held in."""
    wide = accumulator(parts.dtype.name)
    if wide == parts.dtype.name:  # as it is: asked for, 64 bits are narrowed
        return lax.reduce_sum(parts, (0,))
    return lax.reduce_sum(parts.astype(wide), (0,)).astype(parts.dtype)


@dataclasses.dataclass(frozen=True)
class AllReduce:
    """Partial sums are added along mesh axes, and each device gets all of them."""

    axes: MeshAxes
    kind: ClassVar[str] = "all-reduce"
    silent: ClassVar[bool] = False
    sums: ClassVar[bool] = True

    def after(self, block: Block) -> Block:
        """Returns the block as it is."""
        return block

    def sent(self, block: Block) -> int:
        """Counts 2 (p - 1)/p of what a device has: a reduce-scatter and an all-gather."""
        p = _group(block, self.axes)
        return 2 * block.bytes * (p - 1) // p

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Adds; a barrier keeps the TPU compiler from doing so before a scatter that comes first."""
        del block
        return lax.psum(lax.optimization_barrier(x), self.axes)


@dataclasses.dataclass(frozen=True)
class Permute:
    """Devices hand whole blocks to one another, so that axes are cut by other mesh axes or in another order."""

    factors: tuple[tuple[Factor, ...], ...]
    axes: MeshAxes
    kind: ClassVar[str] = "permute"
    silent: ClassVar[bool] = False
    sums: ClassVar[bool] = False

    def after(self, block: Block) -> Block:
        """Returns the factors that were asked for."""
        return dataclasses.replace(block, factors=self.factors)

    def sent(self, block: Block) -> int:
        """Counts all that a device has."""
        return block.bytes

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Sends each block where it belongs."""
        return lax.ppermute(x, self.axes, perm=self.pairs(block))

    def pairs(self, block: Block) -> list[tuple[int, int]]:
        """Lists who sends to whom, numbered along the mesh axes; whoever has already what it needs sends to itself."""
        coordinates = np.indices([block.mesh[axis] for axis in self.axes]).reshape(len(self.axes), -1)
        has, needs = (_piece(one, self.axes, coordinates) for one in (block, self.after(block)))
        stays = np.flatnonzero(has == needs)
        senders, receivers = (np.flatnonzero(has != needs) for _ in range(2))
        senders, receivers = (
            senders[np.argsort(has[senders], kind="stable")],
            receivers[np.argsort(needs[receivers], kind="stable")],
        )
        return [
            *zip(stays.tolist(), stays.tolist(), strict=True),
            *zip(senders.tolist(), receivers.tolist(), strict=True),
        ]


@dataclasses.dataclass(frozen=True)
class Cast:
    """Sums that are complete are rounded to the result's dtype; no communication."""

    dtype: str
    axes: MeshAxes = ()
    kind: ClassVar[str] = "cast"
    silent: ClassVar[bool] = True
    sums: ClassVar[bool] = False

    def after(self, block: Block) -> Block:
        """Returns the same part in another dtype."""
        return dataclasses.replace(block, dtype=self.dtype)

    def sent(self, block: Block) -> int:
        """Counts no bytes: nothing is sent."""
        del block
        return 0

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Rounds."""
        del block
        return x.astype(self.dtype)


def _piece(block: Block, axes: MeshAxes, coordinates: Any) -> Any:
    """Numbers the piece of the array that each device has."""
    number = np.zeros(coordinates.shape[1], np.int64)
    for factors in block.factors:
        for axis, spread in factors:
            if spread and axis in axes:
                number = number * block.mesh[axis] + coordinates[axes.index(axis)]
    return number


def _neighbours(block: Block, axes: MeshAxes) -> int | None:
    """Finds the axis of the array in which the sharded factors of these mesh axes stand first, in order; else None."""
    places = [block.at.get(axis) for axis in axes]
    dim = places[0][0] if places[0] else None
    return dim if dim is not None and places == [(dim, position) for position in range(len(axes))] else None


def _put(x: jax.Array, block: Block, dims: dict[str, int]) -> jax.Array:
    """Puts parts, stacked along a first axis, where the factors of their mesh axes stand, each in an axis of `dims`."""
    parts = [block.mesh[axis] for axis in dims]
    places = [block.place(axis, dim) for axis, dim in dims.items()]
    x = x.reshape(*parts, *x.shape[1:])
    x = lax.squeeze(x, [len(parts) + place for place in places])
    return _interleaved(x, len(parts), places)


def _interleaved(x: jax.Array, parts: int, places: list[int]) -> jax.Array:
    """Moves the first axes to these places among the others."""
    total = x.ndim
    rest = iter(range(parts, total))
    at = {place: index for index, place in enumerate(places)}
    return lax.transpose(x, [at[axis] if axis in at else next(rest) for axis in range(total)])
