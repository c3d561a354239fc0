"""`theano.tensor`'s dots, Theano 1.0.5.

Source: theano/tensor/basic.py and theano/tensor/blas.py. Mixed dtypes are promoted as in NumPy.
"""

import operator
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.calls import axis_pairs
from jbdot.calls.front_door import namespace, perform, plans, speaks
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadType, BadValue
from jbdot.core.labels import DOT_LHS, DOT_RHS, LHS_FREE, RHS_FREE, Axes, broadcast, names
from jbdot.one_device.call_plan import AS_IS, CallPlan, Operand, OperandSteps
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "Theano 1.0.5")
__all__ = ["batched_dot", "batched_tensordot", "dot", "tensor", "tensordot"]


def dot(
    a: Any,
    b: Any,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along the last axis of a and the last but one of b, as `numpy.dot` does.

    `out[a,b,i,k] = sum_r a[a,b,r] * b[i,r,k]`; a vector b is contracted along its only axis, and
    a scalar multiplies every element.

    Args:
        a: Array of any rank, or a BCOO (M, R).
        b: Array of any rank.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (*a.shape[:-1], *b.shape[:-2], b.shape[-1]) of the dtype that NumPy promotes to.

    Raises:
        ValueError: The contracted sizes differ.

    Differs: `keras_tf1.dot` refuses scalars and vectors beside matrices, and mixed dtypes.
    Source: `theano.tensor.dot`, Theano 1.0.5.

    Example:
        >>> from jbdot.theano import dot
        >>> import jax.numpy as jnp
        >>> dot(jnp.ones((2, 3)), jnp.ones(3)).shape
        (2,)
    """
    return perform(dot, a, b, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(dot)
def _dot(a: Operand, b: Operand) -> CallPlan:
    if a.ndim == 0 or b.ndim == 0:
        kept = names(DOT_LHS if b.ndim == 0 else DOT_RHS, max(a.ndim, b.ndim))
        return _promoted(a, b, Contraction(kept if a.ndim else (), kept if b.ndim else (), kept))
    axis_pairs.check_pair(a, b, a.ndim - 1, max(0, b.ndim - 2))
    lhs, rhs = names(DOT_LHS, a.ndim - 1), names(DOT_RHS, b.ndim - 1)
    return _promoted(
        a,
        b,
        Contraction((*lhs, "r"), (*rhs[:-1], "r", *rhs[-1:]), (*lhs, *rhs)),
        sparse=a.sparse and a.ndim == b.ndim == 2,
    )


def tensordot(
    a: Any,
    b: Any,
    axes: Any = 2,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along several axes of each operand.

    `out[m,n] = sum_{k,r} a[m,k,r] * b[k,r,n]` for `axes=2`.

    Args:
        a: Array of any rank.
        b: Array of any rank.
        axes: A number N (the last N axes of a, the first N of b, in order), or a pair of axes or
            lists of axes, 0-based, not negative. Where only the products of the contracted
            sizes agree, both sides are flattened and contracted, as Theano does.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (a's other axes, b's other axes) of the dtype that NumPy promotes to.

    Raises:
        ValueError: Contracted sizes differ, an axis is out of range, negative or repeated, or
            the lists differ in length.
        IndexError: An axis is further below 0 than the rank.
        TypeError: An axis is not an int.

    Differs: `tensorflow.tensordot` takes negative axes.
    Source: `theano.tensor.tensordot`, Theano 1.0.5.

    Example:
        >>> from jbdot.theano import tensordot
        >>> import jax.numpy as jnp
        >>> tensordot(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 5)), [[1, 2], [1, 0]]).shape
        (2, 5)
    """
    return perform(tensordot, a, b, (axes,), (precision, preferred_element_type, out_sharding, lowering))


@plans(tensordot)
def _tensordot(a: Operand, b: Operand, axes: Any) -> CallPlan:
    a_axes, b_axes = _axes(a, b, axes, batched=False)
    planned = axis_pairs.tensordot(a, b, a_axes, b_axes)
    return _promoted(a, b, planned.contraction, planned.lhs, planned.rhs)


def batched_dot(
    a: Any,
    b: Any,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Takes `dot` of each sample: axis 0 is the batch of both.

    `out[b,m,i,n,u] = sum_k a[b,m,i,k] * b[b,n,k,u]`; where one operand is a vector, it scales
    the other's samples: `out[b,n] = a[b] * b[b,n]`, its axis broadcasting.

    Args:
        a: Array of rank 1 or more.
        b: Array of rank 1 or more.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch, a's other axes, b's other axes) of the dtype that NumPy promotes to.

    Raises:
        TypeError: An operand is a scalar, or the batch sizes differ.
        ValueError: The contracted sizes differ.

    Differs: `keras.batch_dot` lets the axes be chosen; `keras_tf1.batch_dot` has more batch axes.
    Source: `theano.tensor.batched_dot`, Theano 1.0.5.

    Example:
        >>> from jbdot.theano import batched_dot
        >>> import jax.numpy as jnp
        >>> batched_dot(jnp.ones((10, 12, 4, 5)), jnp.ones((10, 12, 5, 8))).shape
        (10, 12, 4, 12, 8)
    """
    return perform(batched_dot, a, b, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(batched_dot)
def _batched_dot(a: Operand, b: Operand) -> CallPlan:
    for operand in (a, b):
        if operand.ndim == 0:
            raise BadType(
                "an operand must have a batch axis", f"{operand.name} is a scalar", "theano.dot multiplies by a scalar"
            )
    if a.ndim == 1 or b.ndim == 1:
        rank = max(a.ndim, b.ndim)
        (first, second, out) = broadcast(a.shape[:1], b.shape[:1], operands=(a.name, b.name))
        kept = names(LHS_FREE if b.ndim == 1 else RHS_FREE, rank - 1)
        return _promoted(
            a, b, Contraction((*first, *kept[: a.ndim - 1]), (*second, *kept[: b.ndim - 1]), (*out, *kept))
        )
    return _batched(a, b, (a.ndim - 1,), (max(1, b.ndim - 2),))


def batched_tensordot(
    x: Any,
    y: Any,
    axes: Any = 2,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Takes `tensordot` of each sample: axis 0 is the batch of both.

    `out[b,m,n] = sum_{k,r} x[b,m,k,r] * y[b,k,r,n]` for `axes=2`.

    Args:
        x: Array of rank 2 or more.
        y: Array of rank 2 or more.
        axes: A number N (the last N axes of x, the N after axis 0 of y), or a pair of axes or
            lists of axes, 0-based and counting the batch, not 0 and not negative.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch, x's other axes, y's other axes) of the dtype that NumPy promotes to.

    Raises:
        ValueError: As in `tensordot`, or an axis is 0.
        TypeError: The batch sizes differ, or an axis is not an int.
        IndexError: An axis is further below 0 than the rank.

    Differs: `tensordot` has no batch.
    Source: `theano.tensor.batched_tensordot`, Theano 1.0.5.

    Example:
        >>> from jbdot.theano import batched_tensordot
        >>> import jax.numpy as jnp
        >>> batched_tensordot(jnp.ones((2, 4, 3)), jnp.ones((2, 5, 3)), [2, 2]).shape
        (2, 4, 5)
    """
    return perform(batched_tensordot, x, y, (axes,), (precision, preferred_element_type, out_sharding, lowering))


@plans(batched_tensordot)
def _batched_tensordot(x: Operand, y: Operand, axes: Any) -> CallPlan:
    return _batched(x, y, *_axes(x, y, axes, batched=True))


def _batched(a: Operand, b: Operand, a_axes: Axes, b_axes: Axes) -> CallPlan:
    for operand in (a, b):
        if operand.ndim == 0:
            raise BadIndex("an operand must have a batch axis", f"{operand.name} is a scalar")
    if a.shape[0] != b.shape[0]:
        raise BadType(
            "axis 0 is the batch and must have one size in both",
            f"axis 0 of {a.name} has size {a.shape[0]}, axis 0 of {b.name} has size {b.shape[0]}",
        )
    planned = axis_pairs.tensordot(a, b, a_axes, b_axes, batch=1)
    return _promoted(a, b, planned.contraction, planned.lhs, planned.rhs)


def _axes(a: Operand, b: Operand, axes: Any, batched: bool) -> tuple[Axes, Axes]:
    """Reads a number of axes, or a pair of axes or of lists of them, as Theano's `_tensordot_as_dot`."""
    if np.isscalar(axes):
        return _counted(a, b, axes, batched)
    try:
        pair = list(axes)
    except TypeError:
        raise BadType("axes must be a number or a pair", f"got a {type(axes).__name__}") from None
    if len(pair) != 2:
        raise BadValue("axes must be a number or a pair", f"there are {len(pair)}")
    first: list[Any]
    second: list[Any]
    first, second = ([item] if isinstance(item, str) or not np.iterable(item) else list(item) for item in pair)
    if len(first) != len(second):
        raise BadValue(
            "as many axes of one operand as of the other must be contracted",
            f"{first} of {a.name}, {second} of {b.name}",
        )
    for operand, listed in ((a, first), (b, second)):
        try:
            beyond = len(listed) > operand.ndim or (bool(listed) and bool(np.max(listed) >= operand.ndim))
        except TypeError:
            raise BadType("an axis must be an int", f"{listed} of {operand.name}") from None
        if beyond:
            raise BadValue(
                "an axis must lie within its operand's rank",
                f"axes {listed} of {operand.name}, which has rank {operand.ndim}",
            )
        if batched and 0 in listed:
            raise BadValue("axis 0 is the batch and must not be contracted", f"axes {listed} of {operand.name}")
    found = tuple(tuple(_index(axis, operand) for axis in listed) for operand, listed in ((a, first), (b, second)))
    for operand, listed in zip((a, b), found, strict=True):
        if any(axis < 0 for axis in listed) or len(set(listed)) != len(listed):
            raise BadValue(
                "an axis must not be negative, nor be named twice",
                f"axes {list(listed)} of {operand.name}",
                "Count from the front",
            )
    return found[0], found[1]


def _counted(a: Operand, b: Operand, axes: Any, batched: bool) -> tuple[Axes, Axes]:
    try:
        count = int(axes)
    except (TypeError, ValueError, OverflowError) as error:
        raise (BadType if isinstance(error, TypeError) else BadValue)(
            "axes must be a number or a pair", repr(axes)
        ) from None
    for operand in (a, b):
        if count > operand.ndim or (batched and count == operand.ndim):
            beside = " beside its batch axis" if batched else ""
            raise BadValue(
                "an operand must have as many axes as are contracted",
                f"{operand.name} has rank {operand.ndim}, {count} axes are contracted{beside}",
            )
    if count < 0:  # Theano reads sizes beyond the shapes, and says so with one error or another
        beyond = count < -1 and a.ndim > 1 and b.ndim > 0 if batched else a.ndim > 0
        raise (BadIndex if beyond else BadValue)("a number of axes must not be negative", f"axes={count}")
    return tuple(range(a.ndim - count, a.ndim)), tuple(range(batched, batched + count))


def _index(axis: Any, operand: Operand) -> int:
    try:
        index = operator.index(axis)
    except TypeError:
        index = None
    if index is None or isinstance(axis, bool):
        raise BadType("an axis must be an int", f"{axis!r} of {operand.name}")
    if index < -operand.ndim:
        raise BadIndex(
            "an axis must lie within its operand's rank",
            f"axis {index} of {operand.name}, which has rank {operand.ndim}",
        )
    return index


def _promoted(
    a: Operand,
    b: Operand,
    contraction: Contraction,
    lhs: OperandSteps = AS_IS,
    rhs: OperandSteps = AS_IS,
    sparse: bool = False,
) -> CallPlan:
    """Casts both operands to the dtype that NumPy promotes them to."""
    if a.dtype == b.dtype:
        return CallPlan(contraction, lhs, rhs, sparse=sparse)
    try:
        dtype = np.promote_types(a.dtype, b.dtype)
    except TypeError:
        dtype = jnp.promote_types(a.dtype, b.dtype)  # Theano had no bfloat16
    lhs, rhs = (
        OperandSteps(dtype.name if operand.dtype != dtype else None, fold=entry.fold)
        for operand, entry in ((a, lhs), (b, rhs))
    )
    return CallPlan(contraction, lhs, rhs, sparse=sparse)


tensor = namespace(
    __name__,
    "tensor",
    batched_dot=batched_dot,
    batched_tensordot=batched_tensordot,
    dot=dot,
    tensordot=tensordot,
)
