"""The tensordot that Theano and TensorFlow share: transpose, flatten to matrices, multiply."""

import math

from jbdot.contraction import BATCH, CONTRACTING, LHS_FREE, RHS_FREE, Axes, Contraction, names
from jbdot.errors import BadValue
from jbdot.planned import AS_IS, Entry, Operand, Planned


def tensordot(a: Operand, b: Operand, a_axes: Axes, b_axes: Axes, batch: int = 0) -> Planned:
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
    contracted = ("k",) if merged else names(CONTRACTING, len(a_axes))
    shared = names(BATCH, batch)
    a_free, b_free = (
        [axis for axis in range(batch, operand.ndim) if axis not in axes]
        for operand, axes in ((a, a_axes), (b, b_axes))
    )
    lhs_free, rhs_free = names(LHS_FREE, len(a_free)), names(RHS_FREE, len(b_free))
    out = (*shared, *lhs_free, *rhs_free)
    if merged:
        leading = tuple((axis,) for axis in range(batch))
        lhs = Entry(fold=(*leading, *((axis,) for axis in a_free), a_axes))
        rhs = Entry(fold=(*leading, b_axes, *((axis,) for axis in b_free)))
        return Planned(Contraction((*shared, *lhs_free, "k"), (*shared, "k", *rhs_free), out), lhs, rhs)
    lhs_at = dict(zip((*range(batch), *a_free, *a_axes), (*shared, *lhs_free, *contracted), strict=True))
    rhs_at = dict(zip((*range(batch), *b_free, *b_axes), (*shared, *rhs_free, *contracted), strict=True))
    labels = tuple(lhs_at[axis] for axis in range(a.ndim)), tuple(rhs_at[axis] for axis in range(b.ndim))
    return Planned(Contraction(*labels, out), AS_IS, AS_IS)
