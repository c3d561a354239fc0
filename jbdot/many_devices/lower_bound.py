"""The fewest bytes that a way to spread a contraction can send: one bound that holds whatever is done, one for boxes.

What must arrive. A device ends with a block of the result. Each element of it is a sum over all contracted indices, of
which the device has some factors. Either it gets every factor that is missing for the element, or at least one partial
sum of it. Let R rows and C columns of a block of M by N be made from factors alone, where a missing row of lhs costs a
and a missing column of rhs b: what arrives is M N - R C + a R + b C at least. That is linear in R and in C, and in how
many of the rows are such as the device has a part of: its least value is at a corner, where of each kind all or none
are. Batch elements add up, and on average a device sends what a device gets.

What work needs. Let the multiply-adds be cut into P equal boxes, one for each device: b of the batch indices by m by k
by n, contiguous or not. Its device needs b m k elements of lhs and b k n of rhs, and makes b m n sums. Of a box's b m k
elements it has min(b, b') min(m, m') min(k, k') at most, where b', m', k' are how many indices of each its part of lhs
has; likewise for rhs, and for the sums that may stay where they are, in its block of the result. The others are sent.
The least over all grids, the ways to write P as a product of four, holds for every way that cuts the work so, on any
mesh; ways that do work twice have larger boxes, and need more. (It is the memory-independent bound of Al Daas and
others, Tight memory-independent parallel matrix multiplication communication lower bounds, SPAA 2022, for operands that
are where they are instead of anywhere. By the inequality of Loomis and Whitney, used there and by Irony, Toledo and
Tiskin, J. Parallel Distrib. Comput. 64, 2004, no other shape of w multiply-adds touches fewer than the 3 w^(2/3)
elements of a cube. What memory allows besides is less wherever a device has room for its parts of all three, as here.)
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import numpy as jnp

from jbdot.core.labels import Labels
from jbdot.many_devices.block import Block, Sharding
from jbdot.many_devices.task import Task

Spans = dict[str, tuple[Any, Any]]  # for each label, where each device's part starts and how long it is


def arriving(task: Task, end: Sharding) -> float:
    """Counts the bytes that must arrive at a device, on average, for the result to end in a sharding.

    Example:
        >>> from jbdot.many_devices.block import Block
        >>> from jbdot.many_devices.lower_bound import arriving
        >>> from jbdot.many_devices.task import Task
        >>> from jbdot.core.contraction import Contraction
        >>> mesh, c = {"x": 4}, Contraction.parse("m k, k n -> m n")
        >>> lhs, rhs = (Block.of((8, 8), "float32", sharding, mesh) for sharding in ((("x",), ()), (("x",), ())))
        >>> task = Task(c, mesh, lhs, rhs, None, (8, 8), "float32", "float32")
        >>> arriving(task, (("x",), ()))  # of rhs 3/4 is missing, and a block of the result is a quarter
        64.0
    """
    c = task.contraction
    sizes = [task.mesh[axis] for axis in task.axes]
    axes = np.indices(sizes).reshape(len(sizes), math.prod(sizes))
    out = Block.of(task.shape, task.dtype, end, task.mesh)
    wanted = _spans(c.out, out, task, axes)
    lhs, rhs = (_spans(labels, x, task, axes) for labels, x in ((c.lhs, task.lhs), (c.rhs, task.rhs)))
    item = [jnp.dtype(dtype).itemsize for dtype in (task.lhs.dtype, task.rhs.dtype, task.sum_dtype)]
    both = _common(c.batch, wanted, lhs, rhs)
    left, right = _common(c.batch, wanted, lhs), _common(c.batch, wanted, rhs)
    kinds = {  # how many batch elements a device has parts of, by operand
        (True, True): both,
        (True, False): left - both,
        (False, True): right - both,
        (False, False): _common(c.batch, wanted) - left - right + both,
    }
    total = np.zeros(axes.shape[1])
    for (has_lhs, has_rhs), count in kinds.items():
        rows = _costs(c.lhs_free, c.contracting, wanted, lhs, has_lhs, task, item[0])
        columns = _costs(c.rhs_free, c.contracting, wanted, rhs, has_rhs, task, item[1])
        total += count * _least(rows, columns, item[2])
    return float(total.mean())


def _costs(
    free: Labels, contracting: Labels, wanted: Spans, has: Spans, is_here: bool, task: Task, itemsize: int
) -> tuple[tuple[Any, Any], ...]:
    """Counts rows that a device has a part of, and the others, with the bytes that one of them lacks."""
    rows, whole = _common(free, wanted), math.prod(task.sizes[label] for label in contracting if label)
    here = _common(free, wanted, has) if is_here else rows * 0
    part = _common(contracting, has)
    return (here, (whole - part) * itemsize), (rows - here, whole * itemsize)


def _least(rows: tuple[tuple[Any, Any], ...], columns: tuple[tuple[Any, Any], ...], itemsize: int) -> Any:
    """Returns the least over all corners: of each kind of rows and columns, all made from factors, or none."""
    size = sum(count for count, _ in rows) * sum(count for count, _ in columns)
    found: list[Any] = []
    for corner in itertools.product((0, 1), repeat=4):
        made = [
            sum(on * count for on, (count, _) in zip(some, side, strict=True))
            for some, side in ((corner[:2], rows), (corner[2:], columns))
        ]
        lacking = sum(on * count * cost for on, (count, cost) in zip(corner, (*rows, *columns), strict=True))
        found.append((size - made[0] * made[1]) * itemsize + lacking)
    return np.minimum.reduce(found)


def _common(labels: Labels, *spans: Spans) -> Any:
    """Says how many indices of these labels each device has in all of these spans."""
    number: Any = 1
    for label in labels:
        starts, ends = zip(*((span[label or ""][0], sum(span[label or ""])) for span in spans), strict=True)
        number = number * np.maximum(0, np.minimum.reduce(ends) - np.maximum.reduce(starts))
    return number + np.zeros(next(iter(spans[0].values()))[0].shape) if spans[0] else number


def working(task: Task, end: Sharding) -> float:
    """Counts the bytes that each device must send or get which does an equal box of the work.

    Example:
        >>> from jbdot.many_devices.block import Block
        >>> from jbdot.many_devices.lower_bound import working
        >>> from jbdot.many_devices.task import Task
        >>> from jbdot.core.contraction import Contraction
        >>> mesh, c = {"x": 4}, Contraction.parse("m k, k n -> m n")
        >>> lhs, rhs = (Block.of((8, 8), "float32", sharding, mesh) for sharding in ((("x",), ()), (("x",), ())))
        >>> task = Task(c, mesh, lhs, rhs, None, (8, 8), "float32", "float32")
        >>> working(task, (("x",), ()))  # boxes of 4 x 4 x 8: 8 of lhs and 16 of rhs are elsewhere, 16 sums go
        160.0
    """
    c = task.contraction
    roles = c.batch, c.lhs_free, c.contracting, c.rhs_free
    whole = [math.prod(task.sizes[label] for label in labels if label) for labels in roles]
    sums = min(task.dtype, task.sum_dtype, key=lambda dtype: jnp.dtype(dtype).itemsize)
    blocks = (task.lhs, c.lhs), (task.rhs, c.rhs), (Block.of(task.shape, sums, end, task.mesh), c.out)
    arrays = [
        ([_count(labels, block, at) for labels in roles], jnp.dtype(block.dtype).itemsize) for block, at in blocks
    ]
    boxes = (
        [size / parts for size, parts in zip(whole, grid, strict=True)]
        for grid in _grids(math.prod(task.mesh.values()), len(roles))
        if all(parts <= size for size, parts in zip(whole, grid, strict=True))
    )
    return min((sum(_missing(box, has) * item for has, item in arrays) for box in boxes), default=0.0)


def _missing(box: Sequence[float], has: Sequence[int | None]) -> float:
    """Counts the elements that a box touches and that are elsewhere at best; None for a role that the array has not."""
    sides = [(side, number) for side, number in zip(box, has, strict=True) if number is not None]
    return math.prod(side for side, _ in sides) - math.prod(map(min, sides))


def _count(role: Labels, block: Block, labels: Labels) -> int | None:
    """Says how many indices of a role a device has of an array; None for a role that the array has not."""
    local = dict(zip(labels, block.local, strict=True))
    return math.prod(local[label] for label in role) if all(label in local for label in role) else None


@functools.cache
def _grids(number: int, length: int) -> list[tuple[int, ...]]:
    """Lists every way to write a number as a product of so many, in order.

    Example:
        >>> _grids(4, 2)
        [(1, 4), (2, 2), (4, 1)]
    """
    if length == 1:
        return [(number,)]
    return [
        (first, *rest)
        for first in range(1, number + 1)
        if number % first == 0
        for rest in _grids(number // first, length - 1)
    ]


def least(task: Task, end: Sharding) -> float:
    """Counts the bytes that every way has to send for each device: the larger of both bounds."""
    return max(arriving(task, end), working(task, end))


def _spans(labels: Labels, block: Block, task: Task, axes: Any) -> Spans:
    """Says where each device's part of each label is."""
    spans: Spans = {}
    for label, size, factors, length in zip(labels, block.shape, block.factors, block.local, strict=True):
        number = np.zeros(axes.shape[1], np.int64)
        for axis, _ in factors:
            number = number * task.mesh[axis] + axes[task.axes.index(axis)]
        if label is not None:
            spans[label] = number * length, np.full(axes.shape[1], size if not factors else length)
    return spans
