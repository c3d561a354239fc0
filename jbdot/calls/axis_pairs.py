"""What every tensordot does: it multiplies along pairs of axes, which have equal sizes."""

import math

from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadValue
from jbdot.core.labels import Axes
from jbdot.one_device.call_plan import CallPlan, Operand, OperandSteps


def check_pair(x: Operand, y: Operand, x_axis: int, y_axis: int, remedy: str = "") -> None:
    """Refuses contracted axes of different sizes."""
    if x.shape[x_axis] != y.shape[y_axis]:
        raise BadValue(
            "the contracted axes must have equal sizes",
            f"axis {x_axis} of {x.name} has size {x.shape[x_axis]}, "
            f"axis {y_axis} of {y.name} has size {y.shape[y_axis]}",
            remedy,
        )


def tensordot(a: Operand, b: Operand, a_axes: Axes, b_axes: Axes, batch: int = 0) -> CallPlan:
    """Plans `out = sum over the paired axes of a * b`, the first `batch` axes of both being batch.

    Both frameworks compare the flattened sizes alone. Where those agree and the axes' own sizes
    do not, such as (2, 6) against (3, 4), the operands enter with these axes merged.
    """
    a_sizes, b_sizes = ([operand.shape[axis] for axis in axes] for operand, axes in ((a, a_axes), (b, b_axes)))
    merged = a_sizes != b_sizes
    if merged and (len(a_axes) == 1 or math.prod(a_sizes) != math.prod(b_sizes)):
        pairs = zip(a_axes, a_sizes, b_axes, b_sizes, strict=True)
        raise BadValue(
            "the contracted axes must have equal sizes",
            "; ".join(
                f"axis {i} of {a.name} has size {m}, axis {j} of {b.name} has size {n}"
                for i, m, j, n in pairs
                if m != n
            ),
        )
    leading = tuple(range(batch))
    if not merged:
        return CallPlan(Contraction.from_dimension_numbers(((a_axes, b_axes), (leading, leading)), a.ndim, b.ndim))
    kept = tuple((axis,) for axis in leading)
    a_free, b_free = (
        tuple((axis,) for axis in range(batch, operand.ndim) if axis not in axes)
        for operand, axes in ((a, a_axes), (b, b_axes))
    )
    lhs, rhs = OperandSteps(fold=(*kept, *a_free, a_axes)), OperandSteps(fold=(*kept, b_axes, *b_free))
    numbers = ((batch + len(a_free),), (batch,)), (leading, leading)
    contraction = Contraction.from_dimension_numbers(numbers, batch + len(a_free) + 1, batch + len(b_free) + 1)
    return CallPlan(contraction, lhs, rhs)
