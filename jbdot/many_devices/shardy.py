"""The sharding that Shardy gives the result of a dot, before the result goes where it is wanted.

A model, by `AggressiveFactorPropagation` in `shardy/dialect/sdy/transforms/propagation` (Shardy of 2026), for one dot
whose operands are where they are told to be.
"""

import itertools
import math
from collections.abc import Iterable

from jbdot.many_devices.block import MeshAxes, Sharding
from jbdot.many_devices.task import Task


def propagated(task: Task) -> Sharding:
    """Returns the sharding of the dot's result, by the labels of `dot_out`.

    Each label takes the mesh axes of all arrays that have it, as far as they agree, after those that the result is to
    have there. Of labels that want one mesh axis those of the larger array come first, then those of lhs, of rhs, and
    then in the order of the dot.

    Example:
        >>> import jax
        >>> from jbdot.core.contraction import Contraction
        >>> from jbdot.many_devices.block import Block
        >>> x = Block.of((8, 8), "float32", (("x",), ()), {"x": 2, "y": 2})
        >>> y = Block.of((8, 16), "float32", ((), ("x",)), {"x": 2, "y": 2})
        >>> task = Task(Contraction.parse("m k, k n -> m n"), x.mesh, x, y, None, (8, 16), "float32", "float32")
        >>> propagated(task)  # both free labels want x: rhs is larger
        ((), ('x',))
    """
    c = task.contraction
    wanted = dict(zip(c.out, task.out or ((),) * len(c.out), strict=True))
    arrays = [
        (math.prod(block.shape), dict(zip(labels, block.sharding, strict=True)))
        for labels, block in ((c.lhs, task.lhs), (c.rhs, task.rhs))
    ]
    arrays.append((math.prod(task.shape), dict(wanted)))
    order: list[tuple[tuple[int, int, int], str, MeshAxes]] = []
    for number, label in enumerate(c.dot_out):
        axes = _agreed([cut[label] for _, cut in arrays if label in cut])
        sources = [
            (-size, at)
            for at, (size, cut) in enumerate(arrays)
            if axes and label in cut and cut[label][: len(axes)] == axes
        ]
        least, at = min(sources, default=(1, 0))
        order.append(((least, at, number), label, axes))
    for _, label, axes in sorted(order):
        others = {axis for other, cut in wanted.items() if other != label for axis in cut}
        free = tuple(itertools.takewhile(lambda axis: axis not in others, axes))  # noqa: B023 - taken at once
        if len(free) > len(wanted[label]) and free[: len(wanted[label])] == wanted[label]:
            wanted[label] = free
    return tuple(wanted[label] for label in c.dot_out)


def _agreed(cuts: Iterable[MeshAxes]) -> MeshAxes:
    """Returns the longest mesh axes, as far as none is at odds: `getCompatibleMajorAxes`."""
    found: MeshAxes = ()
    grows = True
    for axes in cuts:
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(found, axes, strict=False)))
        if same < min(len(found), len(axes)):
            found, grows = found[:same], False
        elif grows and len(axes) > len(found):
            found = axes
    return found
