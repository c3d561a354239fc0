"""MXNet 1.9.1's products: those of `mxnet.nd`, `mxnet.nd.linalg` and `mxnet.np`.

Source: src/operator/tensor/dot-inl.h. MXNet reads a size 0 as "not known yet", and its CPU
kernels multiply float32 and float64.
"""

from typing import Any

import jax

from jbdot.calls.axis_pairs import check_pair
from jbdot.calls.front_door import as_array, namespace, perform, plans, speaks, without_effect, worded
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, BadValue, Refusal, array_text
from jbdot.core.labels import BATCH, DOT_LHS, DOT_RHS, LHS_FREE, RHS_FREE, Shape, broadcast, names
from jbdot.one_device.call_plan import CallPlan, Operand
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "MXNet 1.9.1")
__all__ = ["batch_dot", "dot", "linalg", "nd", "np"]


def dot(
    lhs: Any,
    rhs: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    forward_stype: str | None = None,
    out: None = None,
    name: str | None = None,
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
        forward_stype: The storage of the result: None or "default", which is dense.
        out: None: there is no array to write into.
        name: The name of MXNet's operation, without effect here.
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
    without_effect(dot, forward_stype=(forward_stype, "default"), out=(out, None))
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
    forward_stype: str | None = None,
    out: None = None,
    name: str | None = None,
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
        forward_stype: The storage of the result: None or "default", which is dense.
        out: None: there is no array to write into.
        name: The name of MXNet's operation, without effect here.
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
    without_effect(batch_dot, forward_stype=(forward_stype, "default"), out=(out, None))
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


def _gemm2(
    A: Any,
    B: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    alpha: float = 1.0,
    axis: int = -2,
    out: None = None,
    name: str | None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches, and scales the product.

    `out[b,m,n] = alpha * sum_k A[b,m,k] * B[b,k,n]`.

    Args:
        A: Array (batch..., M, K), of rank 2 or more, float32 or float64.
        B: Array (batch..., K, N), of A's rank, batch sizes and dtype.
        transpose_a: A is (batch..., K, M).
        transpose_b: B is (batch..., N, K).
        alpha: A number.
        axis: Where the rows stand, in A, B and the result: 0-based, or negative from the end. Columns stand last.
        out: None: there is no array to write into.
        name: The name of MXNet's operation, without effect here.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch..., M, N) of the operands' dtype, with M at `axis`.

    Raises:
        ValueError: The ranks differ or are below 2, sizes differ, the rows would stand last, or the dtypes differ or
            are not float32 or float64.
        TypeError: axis is no int.

    Differs: `batch_dot` has its rows before its columns, and scales nothing.
    Source: `mxnet.nd.linalg.gemm2`, MXNet 1.9.1, by its documentation.

    Example:
        >>> from jbdot.mxnet.linalg import gemm2
        >>> import jax.numpy as jnp
        >>> gemm2(jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5)), alpha=2.0)[0, 0, 0].item()
        8.0
    """
    without_effect(_gemm2, out=(out, None))
    flags = (transpose_a, transpose_b, axis)
    found = perform(_gemm2, A, B, flags, (precision, preferred_element_type, out_sharding, lowering))
    return found if alpha == 1 else found * alpha


@plans(_gemm2)
def _gemm2_plan(A: Operand, B: Operand, transpose_a: bool, transpose_b: bool, axis: Any) -> CallPlan:
    if A.ndim != B.ndim or A.ndim < 2:
        raise BadValue(
            "both operands must have one rank, 2 or more",
            f"{A.name} has rank {A.ndim}, {B.name} has rank {B.ndim}",
        )
    if not hasattr(axis, "__index__"):
        raise BadType("an axis must be an int", f"axis={axis!r}")
    if not -A.ndim <= axis < A.ndim or axis % A.ndim == A.ndim - 1:
        raise BadValue("the rows must stand before the last axis", f"axis={axis}, of rank {A.ndim}")
    batch = names(BATCH, A.ndim - 2)

    def labels(rows: str, columns: str) -> tuple[str, ...]:
        return (*batch[: axis % A.ndim], rows, *batch[axis % A.ndim :], columns)

    lhs, rhs = labels(*("km" if transpose_a else "mk")), labels(*("nk" if transpose_b else "kn"))
    contraction = Contraction(lhs, rhs, labels("m", "n"))
    contraction.sizes(A.shape, B.shape, names=(A.name, B.name))
    _check_dtypes(A, B)
    return CallPlan(contraction)


def _gemm(
    A: Any,
    B: Any,
    C: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    alpha: float = 1.0,
    beta: float = 1.0,
    axis: int = -2,
    out: None = None,
    name: str | None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches, and adds an array: `out = alpha * A B + beta * C`.

    Args:
        A: As in `gemm2`.
        B: As in `gemm2`.
        C: Array of the product's shape and dtype.
        transpose_a: As in `gemm2`.
        transpose_b: As in `gemm2`.
        alpha: A number.
        beta: A number.
        axis: As in `gemm2`.
        out: As in `gemm2`.
        name: As in `gemm2`.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array of C's shape and dtype.

    Raises:
        ValueError: C has another shape or dtype than the product, or as `gemm2`.
        TypeError: As `gemm2`.

    Source: `mxnet.nd.linalg.gemm`, MXNet 1.9.1, by its documentation.
    """
    product = _gemm2(
        A,
        B,
        transpose_a,
        transpose_b,
        alpha,
        axis,
        out,
        name,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
        lowering=lowering,
    )
    try:
        added = as_array(C)
        if (added.shape, added.dtype) != (product.shape, product.dtype):
            raise BadValue(
                "C must have the shape and dtype of the product",
                f"{array_text('C', added.shape, added.dtype)}, {array_text('product', product.shape, product.dtype)}",
            )
    except Refusal as refusal:
        raise worded(refusal, _gemm, {"A": A, "B": B, "C": C}) from None
    return product + beta * added


def _np_dot(
    a: Any,
    b: Any,
    out: None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along the last axis of a and the last but one of b, as `numpy.dot` does.

    `out[a,b,i,k] = sum_r a[a,b,r] * b[i,r,k]`; a vector b is contracted along its only axis, and a scalar multiplies
    every element.

    Args:
        a: Array of any rank, float32 or float64.
        b: Array of any rank, of a's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (*a.shape[:-1], *b.shape[:-2], b.shape[-1]) of the operands' dtype.

    Raises:
        ValueError: The contracted sizes differ, or the dtypes differ or are not float32 or float64.

    Differs: `jnp.dot` is NumPy's own for every dtype.
    Source: `mxnet.np.dot`, MXNet 1.9.1, by its documentation.

    Example:
        >>> from jbdot.mxnet.np import dot
        >>> import jax.numpy as jnp
        >>> dot(jnp.ones((2, 3)), jnp.ones((5, 3, 4))).shape
        (2, 5, 4)
    """
    without_effect(_np_dot, out=(out, None))
    return perform(_np_dot, a, b, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(_np_dot)
def _np_dot_plan(a: Operand, b: Operand) -> CallPlan:
    _check_dtypes(a, b)
    if 0 in (a.ndim, b.ndim):
        lhs, rhs = names(DOT_LHS, a.ndim), names(DOT_RHS, b.ndim)
        return CallPlan(Contraction(lhs, rhs, (*lhs, *rhs)))
    at = max(b.ndim - 2, 0)
    check_pair(a, b, a.ndim - 1, at)
    lhs, rhs = names(DOT_LHS, a.ndim - 1), names(DOT_RHS, b.ndim - 1)
    return CallPlan(Contraction((*lhs, "r"), (*rhs[:at], "r", *rhs[at:]), (*lhs, *rhs)))


def _np_matmul(
    a: Any,
    b: Any,
    out: None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies vectors, matrices or batches of matrices that broadcast, as `numpy.matmul` does.

    `out[b,m,n] = sum_k a[b,m,k] * b[b,k,n]`; of a vector the axis `m`, or `n`, is left out.

    Args:
        a: Array (batch..., M, K), or (K,), float32 or float64.
        b: Array (batch..., K, N), or (K,), of a's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (broadcast batch..., M, N), without M or N for a vector, of the operands' dtype.

    Raises:
        ValueError: The sizes K differ, batch sizes do not broadcast, an operand is a scalar, or the dtypes differ or
            are not float32 or float64.

    Differs: `jnp.matmul` is NumPy's own for every dtype.
    Source: `mxnet.np.matmul`, MXNet 1.9.1, by its documentation.

    Example:
        >>> from jbdot.mxnet.np import matmul
        >>> import jax.numpy as jnp
        >>> matmul(jnp.ones(3), jnp.ones((2, 3, 4))).shape
        (2, 4)
    """
    without_effect(_np_matmul, out=(out, None))
    return perform(_np_matmul, a, b, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(_np_matmul)
def _np_matmul_plan(a: Operand, b: Operand) -> CallPlan:
    _check_dtypes(a, b)
    for operand in (a, b):
        if operand.ndim == 0:
            raise BadValue(
                "an operand must have rank 1 or more", f"{operand.name} is a scalar", "Multiply by a scalar with *"
            )
    check_pair(a, b, a.ndim - 1, max(b.ndim - 2, 0))
    lhs, rhs, batch = broadcast(a.shape[:-2], b.shape[:-2], operands=(a.name, b.name))
    left, right = ("m",) * (a.ndim > 1), ("n",) * (b.ndim > 1)
    return CallPlan(Contraction((*lhs, *left, "k"), (*rhs, "k", *right), (*batch, *left, *right)))


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


linalg = namespace(__name__, "linalg", gemm=_gemm, gemm2=_gemm2)
nd = namespace(__name__, "nd", batch_dot=batch_dot, dot=dot, linalg=linalg)
np = namespace(__name__, "np", dot=_np_dot, matmul=_np_matmul)
