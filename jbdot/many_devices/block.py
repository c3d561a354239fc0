"""What each device of a mesh holds of an array: which mesh axes cut which of its axes, and in what order.

An axis of the array is written as factors, one for each mesh axis that cuts it at some time, the first varying slowest,
and a rest that stays in one piece. A factor is *spread*: each device holds one of its indices; or *held*: each device
holds all. Gathering a mesh axis turns one factor from spread to held wherever it stands, so that steps need not undo
each other in order, and what lies in between is still known exactly.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from jbdot.core.labels import Shape

MeshAxes = tuple[str, ...]
Sharding = tuple[MeshAxes, ...]  # for each axis of an array the mesh axes that cut it, the slowest first
Factor = tuple[str, bool]  # a mesh axis, and whether it is spread


@dataclasses.dataclass(frozen=True)
class Block:
    """A device's part of an array.

    Attributes:
        shape: The whole array's.
        dtype: The name of its dtype.
        factors: For each axis of the array, its factors.
        mesh: The length of each mesh axis.

    Example:
        >>> b = Block.of((8, 6), "float32", (("x", "y"), ()), {"x": 2, "y": 2})
        >>> b.local, b.bytes, b.sharding
        ((2, 6), 48, (('x', 'y'), ()))
        >>> gathered = b.turned(["x"], spread=False)  # each device holds two pieces that are not neighbours
        >>> gathered.local, gathered.view
        ((4, 6), (2, 1, 2, 6))
    """

    shape: Shape
    dtype: str
    factors: tuple[tuple[Factor, ...], ...]
    mesh: Mapping[str, int] = dataclasses.field(hash=False)

    @classmethod
    def of(cls, shape: Shape, dtype: Any, sharding: Sharding, mesh: Mapping[str, int]) -> "Block":
        """Returns the part that a sharding leaves on each device."""
        factors = tuple(tuple((axis, True) for axis in axes) for axes in sharding)
        return cls(tuple(shape), dtype if isinstance(dtype, str) else jnp.dtype(dtype).name, factors, mesh)

    @functools.cached_property
    def local(self) -> Shape:
        """Returns the shape of what a device holds."""
        return tuple(
            size // math.prod([self.mesh[axis] for axis, spread in factors if spread])
            for size, factors in zip(self.shape, self.factors, strict=True)
        )

    @functools.cached_property
    def bytes(self) -> int:
        """Counts the bytes that a device holds."""
        return math.prod(self.local) * itemsize(self.dtype)

    @functools.cached_property
    def sharding(self) -> Sharding:
        """Returns the mesh axes that are spread, for each axis of the array."""
        return tuple(tuple(axis for axis, spread in factors if spread) for factors in self.factors)

    @functools.cached_property
    def at(self) -> dict[str, tuple[int, int]]:
        """Says where the factor of each spread mesh axis stands: (axis of the array, position among its factors)."""
        return {
            axis: (dim, position)
            for dim, factors in enumerate(self.factors)
            for position, (axis, spread) in enumerate(factors)
            if spread
        }

    @property
    def view(self) -> Shape:
        """Gives the local shape with an axis for every factor, of length 1 where it is sharded, and for each rest."""
        sizes: list[int] = []
        for size, factors in zip(self.shape, self.factors, strict=True):
            sizes += [1 if spread else self.mesh[axis] for axis, spread in factors]
            sizes.append(size // math.prod(self.mesh[axis] for axis, _ in factors))
        return tuple(sizes)

    def view_axis(self, dim: int, position: int) -> int:
        """Says which axis of `view` a factor is."""
        return sum(len(factors) + 1 for factors in self.factors[:dim]) + position

    def place(self, axis: str, dim: int) -> int:
        """Says which axis of `view` the factor of a mesh axis is, in an axis of the array."""
        return self.view_axis(dim, [name for name, _ in self.factors[dim]].index(axis))

    def turned(self, axes: Sequence[str], spread: bool, dim: int | None = None) -> "Block":
        """Marks the factors of these mesh axes as sharded or replicated, in one axis of the array or in all."""
        factors = [
            tuple([(axis, spread if axis in axes else was) for axis, was in cut]) if dim in (None, number) else cut
            for number, cut in enumerate(self.factors)
        ]
        return self.cut(tuple(factors))

    def cut(self, factors: tuple[tuple[Factor, ...], ...]) -> "Block":
        """Returns the block with other factors."""
        return Block(self.shape, self.dtype, factors, self.mesh)

    def prepared(self, dim: int, axes: Sequence[str]) -> "Block":
        """Splits an axis of the array by these mesh axes, still replicated, behind the factors that are in use."""
        factors = self.factors[dim]
        if set(axes) <= {name for name, _ in factors}:
            return self
        while factors and not factors[-1][1]:  # held, and in one piece with the rest: of no more use
            factors = factors[:-1]
        names = [name for name, _ in factors]
        factors += tuple((axis, False) for axis in axes if axis not in names)
        return self.cut((*self.factors[:dim], factors, *self.factors[dim + 1 :]))

    def parts(self, dim: int) -> int:
        """Says into how many parts an axis of the array is cut."""
        return math.prod([self.mesh[axis] for axis, spread in self.factors[dim] if spread])

    def divides(self, dim: int, axes: Sequence[str]) -> bool:
        """Says whether an axis of the array can be cut by these mesh axes beside its own factors, in equal parts."""
        names = dict.fromkeys([*(name for name, _ in self.factors[dim]), *axes])
        return self.shape[dim] % math.prod([self.mesh[axis] for axis in names]) == 0

    @property
    def is_even(self) -> bool:
        """Says whether each axis of the array is a whole number of its factors, spread or held."""
        return all(
            size % math.prod([self.mesh[axis] for axis, _ in factors]) == 0
            for size, factors in zip(self.shape, self.factors, strict=True)
        )

    @property
    def is_whole(self) -> bool:
        """Says whether a device holds one piece of each axis: no replicated factor before a sharded one."""
        return all(list(factors) == sorted(factors, key=lambda factor: not factor[1]) for factors in self.factors)


@functools.cache
def itemsize(dtype: str) -> int:
    """Counts the bytes of one element."""
    return jnp.dtype(dtype).itemsize


def reshaped(x: jax.Array, shape: Shape) -> jax.Array:
    """Reshapes x, unless it has that shape."""
    return x if x.shape == tuple(shape) else lax.reshape(x, shape)
