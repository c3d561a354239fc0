"""A gather that runs beside the contraction: blocks go round a ring, and each is multiplied while the next is sent.

Each device starts with its own block of an operand, hands it on, and multiplies what comes: after as many steps as
devices it has seen all. Of a free label each block gives a part of the result; of a contracting one, a term of it. The
bytes are those of an all-gather, over one way of the ring; the whole operand is never in memory.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Final

import jax
from jax import lax
from jax import numpy as jnp

from jbdot.core.contraction import Contraction
from jbdot.many_devices.block import Block, reshaped
from jbdot.many_devices.collectives import AllGather
from jbdot.many_devices.route import Route

MOST: Final = 8  # devices in a ring: each step of a longer one is too short to hide what is sent
LEAST: Final = 4 << 20  # bytes of a block: smaller ones are gathered sooner than they go round

Dot = Callable[[jax.Array, jax.Array, Any], jax.Array]  # of parts of both operands, in this dtype


def fits(operand: Route, labels: tuple[str | None, ...], c: Contraction) -> bool:
    """Says whether an operand's last step is a gather of large blocks along one short mesh axis, of no batch label."""
    if not operand.steps or not isinstance(operand.steps[-1], AllGather):
        return False
    (axis, *more), block = operand.steps[-1].axes, operand.blocks[-2]
    label = labels[block.at[axis][0]]
    return not more and block.mesh[axis] <= MOST and block.bytes >= LEAST and label not in c.batch


def multiplied(
    route: Route, x: jax.Array, other: jax.Array, is_lhs: bool, out: Block, c: Contraction, dtype: Any, dot: Dot
) -> jax.Array:
    """Multiplies one operand, on its way, with the other, which is there; gives a device's part of the result.

    Terms are added in `dtype`.
    """
    (axis,), block, whole = route.steps[-1].axes, route.blocks[-2], route.end
    x = Route(route.start, route.steps[:-1]).run(x)
    dim, position = block.at[axis]
    label = (c.lhs if is_lhs else c.rhs)[dim]
    parts, at = _parts(whole, dim), lax.axis_index(axis)
    size = block.mesh[axis]
    back = [(device, (device - 1) % size) for device in range(size)]
    is_free = label in c.out
    dtype = out.dtype if is_free else dtype
    total = jnp.zeros(_split(out.local, c.out.index(label), parts) if is_free else out.local, dtype)
    for step in range(size):
        index = (at + step) % size
        met = other if is_free else _picked(other, (c.rhs if is_lhs else c.lhs).index(label), parts, position, index)
        part = dot(x, met, dtype) if is_lhs else dot(met, x, dtype)
        if is_free:
            place = c.out.index(label)
            shape = _split(part.shape, place, (*parts[:position], 1, *parts[position + 1 :]))
            total = lax.dynamic_update_slice_in_dim(total, reshaped(part, shape), index, place + position)
        else:
            total = total + part
        x = lax.ppermute(x, axis, back) if step + 1 < size else x
    return reshaped(total, out.local).astype(out.dtype)


def _parts(block: Block, dim: int) -> tuple[int, ...]:
    """Returns the axes that `view` has for an axis of the array."""
    first = block.view_axis(dim, 0)
    return block.view[first : first + len(block.factors[dim]) + 1]


def _split(shape: tuple[int, ...], dim: int, parts: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:dim], *parts, *shape[dim + 1 :])


def _picked(x: jax.Array, dim: int, parts: tuple[int, ...], position: int, index: Any) -> jax.Array:
    """Returns the part of an axis that belongs to one index of one of its factors."""
    cut = lax.dynamic_slice_in_dim(reshaped(x, _split(x.shape, dim, parts)), index, 1, dim + position)
    left = math.prod(itertools.chain(parts[:position], parts[position + 1 :]))
    return reshaped(cut, (*x.shape[:dim], left, *x.shape[dim + 1 :]))
