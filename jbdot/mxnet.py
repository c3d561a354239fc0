"""`mxnet.nd.dot` and `mxnet.nd.batch_dot`, MXNet 1.9.1.

Source: src/operator/tensor/dot-inl.h. MXNet reads a size 0 as "not known yet", and its CPU
kernels multiply float32 and float64.
"""

from typing import Any

import jax

from jbdot.calls.front_door import perform, plans, speaks
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadValue
from jbdot.core.labels import BATCH, LHS_FREE, RHS_FREE, Shape, names
from jbdot.one_device.call_plan import CallPlan, Operand
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "MXNet 1.9.1")
__all__ = ["batch_dot", "dot"]


def dot(
    lhs: Any,
    rhs: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along the last axis of lhs and the first of rhs.

    `out[m,i,n,u] = sum_k lhs[m,i,k] * rhs[k,n,u]`. Two vectors give `out[0]`, of shape (1,).

    Args:
        lhs: Array (..., K), of rank 1 or more, float32 or float64.
        rhs: Array (K, ...), of rank 1 or more, of lhs' dtype.
        transpose_a: Contract the first axis of lhs instead. Nothing for a vector beside a matrix.
        transpose_b: Contract the last axis of rhs instead. Likewise.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (lhs' other axes, rhs' other axes) of the operands' dtype.

    Raises:
        ValueError: The sizes K differ, an operand is a scalar or has a size 0, two vectors are
            to be transposed, or the dtypes differ or are not float32 or float64.

    Differs: every other dialect contracts the last but one axis of rhs.
    Source: `mxnet.nd.dot`, MXNet 1.9.1.

    Example:
        >>> from jbdot.mxnet import dot
        >>> import jax.numpy as jnp
        >>> dot(jnp.ones((2, 3, 4)), jnp.ones((4, 5, 6))).shape
        (2, 3, 5, 6)
    """
    flags = (transpose_a, transpose_b)
    return perform(dot, lhs, rhs, flags, (precision, preferred_element_type, out_sharding, lowering), key=flags)


@plans(dot)
def _dot(lhs: Operand, rhs: Operand, transpose_a: bool, transpose_b: bool) -> CallPlan:
    for operand in (lhs, rhs):
        if operand.ndim == 0:
            raise BadValue(
                "an operand must have rank 1 or more", f"{operand.name} is a scalar", "Multiply by a scalar with *"
            )
    vectors = lhs.ndim == rhs.ndim == 1
    if vectors and (transpose_a or transpose_b):
        raise BadValue(
            "two vectors must not be transposed",
            f"transpose_a={transpose_a}, transpose_b={transpose_b}",
            "Leave the flags out",
        )
    for operand in () if vectors else (lhs, rhs):
        _check_sizes(operand, operand.shape)
    left, right = names(LHS_FREE, lhs.ndim - 1), names(RHS_FREE, rhs.ndim - 1)
    _check_dtypes(lhs, rhs)
    return CallPlan(
        Contraction(
            ("k", *left) if transpose_a else (*left, "k"),
            (*right, "k") if transpose_b else ("k", *right),
            (None,) if vectors else (*left, *right),
        )
    )


def batch_dot(
    lhs: Any,
    rhs: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches: all axes but the last two are batch axes, equal in both operands.

    `out[b,m,n] = sum_k lhs[b,m,k] * rhs[b,k,n]`.

    Args:
        lhs: Array (batch..., M, K), of rank 3 or more, float32 or float64.
        rhs: Array (batch..., K, N), of lhs' rank and dtype.
        transpose_a: lhs is (batch..., K, M).
        transpose_b: rhs is (batch..., N, K).
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch..., M, N) of the operands' dtype.

    Raises:
        ValueError: The ranks differ or are below 3, batch sizes or the sizes K differ, a size is
            0, or the dtypes differ or are not float32 or float64.

    Differs: `tensorflow.matmul` broadcasts batch axes and takes matrices.
    Source: `mxnet.nd.batch_dot`, MXNet 1.9.1.

    Example:
        >>> from jbdot.mxnet import batch_dot
        >>> import jax.numpy as jnp
        >>> batch_dot(jnp.ones((2, 4, 3)), jnp.ones((2, 5, 3)), transpose_b=True).shape
        (2, 4, 5)
    """
    flags = (transpose_a, transpose_b)
    return perform(batch_dot, lhs, rhs, flags, (precision, preferred_element_type, out_sharding, lowering), key=flags)


@plans(batch_dot)
def _batch_dot(lhs: Operand, rhs: Operand, transpose_a: bool, transpose_b: bool) -> CallPlan:
    if lhs.ndim != rhs.ndim or lhs.ndim < 3:
        raise BadValue(
            "both operands must have one rank, 3 or more",
            f"{lhs.name} has rank {lhs.ndim}, {rhs.name} has rank {rhs.ndim}",
        )
    batch = names(BATCH, lhs.ndim - 2)
    left = (*batch, "k", "m") if transpose_a else (*batch, "m", "k")
    right = (*batch, "n", "k") if transpose_b else (*batch, "k", "n")
    contraction = Contraction(left, right, (*batch, "m", "n"))
    contraction.sizes(lhs.shape, rhs.shape, names=(lhs.name, rhs.name))
    # With both flags MXNet settles the contracted size without looking whether it is known.
    settled = "k" if transpose_a and transpose_b else None
    for operand, labels in ((lhs, left), (rhs, right)):
        _check_sizes(
            operand, tuple(size for label, size in zip(labels, operand.shape, strict=True) if label != settled)
        )
    _check_dtypes(lhs, rhs)
    return CallPlan(contraction)


def _check_sizes(operand: Operand, sizes: Shape) -> None:
    if any(size == 0 for size in sizes):
        raise BadValue(
            "every size must be known, and MXNet reads 0 as not known",
            f"{operand.name} has a size 0",
            "jbdot.contract takes size 0",
        )


def _check_dtypes(lhs: Operand, rhs: Operand) -> None:
    if lhs.dtype != rhs.dtype or lhs.dtype.name not in ("float32", "float64"):
        raise BadValue(
            "both operands must be float32, or both float64",
            f"{lhs.name} is {lhs.dtype.name}, {rhs.name} is {rhs.dtype.name}",
            "Cast them first",
        )
