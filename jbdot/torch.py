"""PyTorch's products: those of `torch`, `torch.linalg` and `torch.nn.functional`, PyTorch 2.13.

Source: aten/src/ATen/native/Linear.cpp, LinearAlgebra.cpp and Blas.cpp, torch/functional.py, and the CPU kernels.
Operands have one dtype, which the result has too; no kernel multiplies booleans. A product is summed in 32 bits
where the operands have 16, and rounded once, as PyTorch does on CPU. A scalar counts as a vector of one element in
`matmul`, `dot`, `vdot` and `outer`; PyTorch itself refuses it there.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp
from jax.core import Tracer

from jbdot.calls import torch_rules as rules
from jbdot.calls.axis_pairs import check_pair
from jbdot.calls.contract import contract
from jbdot.calls.front_door import as_array, namespace, perform, plans, speaks, worded
from jbdot.calls.many_operands import perform_all, reads
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadType, BadValue, Refusal
from jbdot.core.labels import CONTRACTING, LHS_FREE, RHS_FREE, broadcast, names
from jbdot.one_device.call_plan import CallPlan, Operand, OperandSteps, canonical
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "PyTorch 2.13")
__all__ = [
    "addbmm",
    "addmm",
    "addmv",
    "baddbmm",
    "bilinear",
    "bmm",
    "dot",
    "einsum",
    "inner",
    "linalg",
    "linear",
    "matmul",
    "mm",
    "multi_dot",
    "mv",
    "nn",
    "outer",
    "tensordot",
    "vdot",
    "vecdot",
]

_ROWS_BY_COLUMNS: Final = Contraction(("m", "k"), ("k", "n"), ("m", "n"))
_IN_BATCHES: Final = Contraction(("b", "m", "k"), ("b", "k", "n"), ("b", "m", "n"))


def matmul(
    input: Any,
    other: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies vectors, matrices or batches of matrices: all axes but the last two are batch axes, and broadcast.

    `out[b,m,n] = sum_k input[b,m,k] * other[b,k,n]`; of a vector the axis `m`, or `n`, is left out.

    Args:
        input: Array (batch..., M, K), or (K,).
        other: Array (batch..., K, N), or (K,), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (broadcast batch..., M, N), without M or N for a vector, of the operands' dtype.

    Raises:
        ValueError: The sizes K differ, or batch sizes do not broadcast.
        TypeError: The dtypes differ, or PyTorch does not multiply them: bool, uint16, uint32, uint64.

    Differs: `tensorflow.matmul` takes no vectors.
    Source: `torch.matmul`, and `@` of tensors, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import matmul
        >>> import jax.numpy as jnp
        >>> matmul(jnp.ones((9, 1, 4, 2)), jnp.ones((8, 2, 5))).shape, matmul(jnp.ones(4), jnp.ones((4, 5))).shape
        ((9, 8, 4, 5), (5,))
    """
    rules.check_out(matmul, out)
    return perform(matmul, input, other, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(matmul)
def _matmul(input: Operand, other: Operand) -> CallPlan:
    rules.NUMBERS.check(input, other)
    (input, lhs_steps), (other, rhs_steps) = rules.vector(input), rules.vector(other)
    check_pair(input, other, input.ndim - 1, max(other.ndim - 2, 0))
    lhs, rhs, batch = broadcast(input.shape[:-2], other.shape[:-2], operands=(input.name, other.name))
    rows, columns = ("m",) * (input.ndim > 1), ("n",) * (other.ndim > 1)
    contraction = Contraction((*lhs, *rows, "k"), (*rhs, "k", *columns), (*batch, *rows, *columns))
    return CallPlan(contraction, lhs_steps, rhs_steps)


def mm(
    input: Any,
    mat2: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies two matrices.

    `out[m,n] = sum_k input[m,k] * mat2[k,n]`.

    Args:
        input: Array (M, K).
        mat2: Array (K, N), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M, N) of the operands' dtype.

    Raises:
        ValueError: An operand is no matrix, or the sizes K differ.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `matmul` takes vectors and batches.
    Source: `torch.mm`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import mm
        >>> import jax.numpy as jnp
        >>> mm(jnp.ones((3, 4)), jnp.ones((4, 5))).shape
        (3, 5)
    """
    rules.check_out(mm, out)
    return perform(mm, input, mat2, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(mm)
def _mm(input: Operand, mat2: Operand) -> CallPlan:
    rules.check_ranks(input, mat2, 2, 2)
    rules.NUMBERS.check(input, mat2)
    check_pair(input, mat2, 1, 0)
    return CallPlan(_ROWS_BY_COLUMNS)


def bmm(
    input: Any,
    mat2: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches: axis 0 is the batch, equal in both operands.

    `out[b,m,n] = sum_k input[b,m,k] * mat2[b,k,n]`.

    Args:
        input: Array (B, M, K).
        mat2: Array (B, K, N), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (B, M, N) of the operands' dtype.

    Raises:
        ValueError: An operand has not rank 3, the sizes B differ, which do not broadcast, or the sizes K differ.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `matmul` broadcasts batches.
    Source: `torch.bmm`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import bmm
        >>> import jax.numpy as jnp
        >>> bmm(jnp.ones((10, 3, 4)), jnp.ones((10, 4, 5))).shape
        (10, 3, 5)
    """
    rules.check_out(bmm, out)
    return perform(bmm, input, mat2, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(bmm)
def _bmm(input: Operand, mat2: Operand) -> CallPlan:
    return _batches(input, mat2, _IN_BATCHES)


def _summed_bmm(batch1: Operand, batch2: Operand) -> CallPlan:
    return _batches(batch1, batch2, Contraction(("b", "m", "k"), ("b", "k", "n"), ("m", "n")))


def _batches(lhs: Operand, rhs: Operand, contraction: Contraction) -> CallPlan:
    rules.check_ranks(lhs, rhs, 3, 3)
    rules.NUMBERS.check(lhs, rhs)
    rules.check_batch(lhs, rhs)
    check_pair(lhs, rhs, 2, 1)
    return CallPlan(contraction)


def mv(
    input: Any,
    vec: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies a matrix by a vector.

    `out[m] = sum_k input[m,k] * vec[k]`.

    Args:
        input: Array (M, K).
        vec: Array (K,), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M,) of the operands' dtype.

    Raises:
        ValueError: input is no matrix, vec is no vector, or the sizes K differ.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `matmul` takes any ranks.
    Source: `torch.mv`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import mv
        >>> import jax.numpy as jnp
        >>> mv(jnp.ones((3, 4)), jnp.ones(4)).shape
        (3,)
    """
    rules.check_out(mv, out)
    return perform(mv, input, vec, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(mv)
def _mv(input: Operand, vec: Operand) -> CallPlan:
    rules.check_ranks(input, vec, 2, 1)
    rules.NUMBERS.check(input, vec)
    check_pair(input, vec, 1, 0)
    return CallPlan(Contraction(("m", "k"), ("k",), ("m",)))


def dot(
    input: Any,
    tensor: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies two vectors of one size, and sums.

    `out = sum_k input[k] * tensor[k]`.

    Args:
        input: Array (K,).
        tensor: Array (K,), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Scalar of the operands' dtype.

    Raises:
        ValueError: An operand is no vector, or the sizes K differ.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: every other dialect's `dot` takes more than vectors; `vdot` conjugates input.
    Source: `torch.dot`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import dot
        >>> import jax.numpy as jnp
        >>> dot(jnp.asarray([2.0, 3.0]), jnp.asarray([2.0, 1.0])).item()
        7.0
    """
    rules.check_out(dot, out)
    return perform(dot, input, tensor, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(dot)
def _dot(input: Operand, tensor: Operand) -> CallPlan:
    (input, lhs), (tensor, rhs) = rules.vector(input), rules.vector(tensor)
    rules.check_ranks(input, tensor, 1, 1)
    rules.NUMBERS.check(input, tensor)
    check_pair(input, tensor, 0, 0)
    return CallPlan(Contraction(("k",), ("k",), ()), lhs, rhs)


def vdot(
    input: Any,
    other: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies the conjugate of a vector by a vector of its size, and sums.

    `out = sum_k conj(input[k]) * other[k]`.

    Args:
        input: Array (K,), conjugated.
        other: Array (K,), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Scalar of the operands' dtype.

    Raises:
        ValueError: An operand is no vector, or the sizes K differ.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `jnp.vdot` flattens its operands; `dot` conjugates nothing.
    Source: `torch.vdot`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import vdot
        >>> import jax.numpy as jnp
        >>> vdot(jnp.asarray([1 + 2j]), jnp.asarray([3 + 1j])).item()
        (5-5j)
    """
    rules.check_out(vdot, out)
    return perform(vdot, input, other, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(vdot)
def _vdot(input: Operand, other: Operand) -> CallPlan:
    planned = _dot(input, other)
    return dataclasses.replace(planned, lhs=dataclasses.replace(planned.lhs, conjugate=input.is_complex))


def inner(
    input: Any,
    other: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along the last axis of each operand.

    `out[m,i,n,u] = sum_k input[m,i,k] * other[n,u,k]`.

    Args:
        input: Array (..., K).
        other: Array (..., K), of input's dtype.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (input's other axes, other's other axes) of the operands' dtype.

    Raises:
        ValueError: The sizes K differ, or one operand alone is a scalar, which PyTorch multiplies by: write `*`.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `linear` is the same for a matrix of weights.
    Source: `torch.inner`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import inner
        >>> import jax.numpy as jnp
        >>> inner(jnp.ones((2, 3, 4)), jnp.ones((5, 4))).shape
        (2, 3, 5)
    """
    rules.check_out(inner, out)
    return perform(inner, input, other, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(inner)
def _inner(input: Operand, other: Operand) -> CallPlan:
    if input.ndim == other.ndim == 0:
        return rules.elementwise(Contraction((), (), ()), input, other)
    for operand in (input, other):
        if operand.ndim == 0:
            raise BadValue(
                "an operand must have rank 1 or more", f"{operand.name} is a scalar", "Multiply by a scalar with *"
            )
    rules.NUMBERS.check(input, other)
    check_pair(input, other, input.ndim - 1, other.ndim - 1)
    left, right = names(LHS_FREE, input.ndim - 1), names(RHS_FREE, other.ndim - 1)
    return CallPlan(Contraction((*left, "k"), (*right, "k"), (*left, *right)))


def outer(
    input: Any,
    vec2: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies each element of one vector by each of another.

    `out[m,n] = input[m] * vec2[n]`.

    Args:
        input: Array (M,).
        vec2: Array (N,).
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M, N) of the dtype that both promote to; booleans give booleans.

    Raises:
        ValueError: An operand is no vector.
        TypeError: PyTorch does not promote the dtypes: one is uint16, uint32 or uint64 and the other is not.

    Differs: `jnp.outer` flattens its operands.
    Source: `torch.outer`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import outer
        >>> import jax.numpy as jnp
        >>> outer(jnp.ones(4), jnp.ones(3)).shape
        (4, 3)
    """
    rules.check_out(outer, out)
    return perform(outer, input, vec2, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(outer)
def _outer(input: Operand, vec2: Operand) -> CallPlan:
    (input, lhs), (vec2, rhs) = rules.vector(input), rules.vector(vec2)
    rules.check_ranks(input, vec2, 1, 1)
    return rules.elementwise(Contraction(("m",), ("n",), ("m", "n")), input, vec2, lhs, rhs)


def vecdot(
    x: Any,
    y: Any,
    *,
    dim: int = -1,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies the conjugate of x by y along one axis; the others broadcast.

    `out[b] = sum_k conj(x[b,k]) * y[b,k]`, for `dim=-1`.

    Args:
        x: Array of floats or complex numbers, conjugated.
        y: Array of x's dtype, which broadcasts with it.
        dim: The axis of the broadcast operands that is summed, negative from the end. Two vectors have one, and
            whatever is given is ignored.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array of the broadcast shape without the axis `dim`, of the operands' dtype.

    Raises:
        ValueError: The shapes do not broadcast, or two vectors differ in size.
        TypeError: The dtypes differ, or are not float or complex; or dim is no int.
        IndexError: The operands have no axis dim.

    Differs: `jnp.vecdot` takes integers, and wants the axis in both operands.
    Source: `torch.linalg.vecdot`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import vecdot
        >>> import jax.numpy as jnp
        >>> vecdot(jnp.ones((3, 4)), jnp.ones((2, 3, 4)), dim=0).shape
        (3, 4)
    """
    rules.check_out(vecdot, out)
    return perform(vecdot, x, y, (dim,), (precision, preferred_element_type, out_sharding, lowering))


@plans(vecdot)
def _vecdot(x: Operand, y: Operand, dim: Any) -> CallPlan:
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)):
        raise BadType("an axis must be an int", f"dim={dim!r}")
    rules.FLOATS.check(x, y)
    if x.ndim == y.ndim == 1:
        check_pair(x, y, 0, 0)
        dim = 0
    lhs, rhs, full = broadcast(x.shape, y.shape, operands=(x.name, y.name))
    rank = max(len(full), 1)
    if not -rank <= dim < rank:
        raise BadIndex(
            "an axis must lie within its operand's rank", f"dim={dim} of both, which broadcast to rank {rank}"
        )
    kept = full[: dim % rank] + full[dim % rank + 1 :]
    return CallPlan(Contraction(lhs, rhs, kept), OperandSteps(conjugate=x.is_complex))


def tensordot(
    a: Any,
    b: Any,
    dims: Any = 2,
    out: None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along several axes of each operand.

    `out[m,n] = sum_{k,r} a[m,k,r] * b[k,r,n]` for `dims=2`.

    Args:
        a: Array of any rank.
        b: Array of any rank, of a's dtype.
        dims: A number N (the last N axes of a, the first N of b, in order), or a pair of equally long lists of axes,
            0-based, negative from the end. An axis of size 1 broadcasts: the other operand is summed along its own.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (a's other axes, b's other axes) of the operands' dtype.

    Raises:
        ValueError: Contracted sizes differ and neither is 1, the number is negative or larger than a rank, the lists
            differ in length, or an axis repeats.
        IndexError: An axis is beyond the rank.
        TypeError: The dtypes differ, PyTorch does not multiply them, or dims is of another form.

    Differs: `tensorflow.tensordot` takes a pair of ints, and no broadcast axes.
    Source: `torch.tensordot`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import tensordot
        >>> import jax.numpy as jnp
        >>> tensordot(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 5)), dims=([1, 2], [1, 0])).shape
        (2, 5)
    """
    rules.check_out(tensordot, out)
    return perform(tensordot, a, b, (dims,), (precision, preferred_element_type, out_sharding, lowering))


@plans(tensordot)
def _tensordot(a: Operand, b: Operand, dims: Any) -> CallPlan:
    a_axes, b_axes = rules.tensordot_axes(a, b, dims)
    rules.NUMBERS.check(a, b)
    summed = names(CONTRACTING, len(a_axes))
    left, right = names(LHS_FREE, a.ndim - len(a_axes)), names(RHS_FREE, b.ndim - len(b_axes))
    of_a, of_b = dict(zip(a_axes, summed, strict=True)), dict(zip(b_axes, summed, strict=True))
    for axis, other in zip(a_axes, b_axes, strict=True):
        if a.shape[axis] != b.shape[other]:  # one of the two is 1, and dropped
            if b.shape[other] == 1:
                del of_b[other]
            else:
                del of_a[axis]
    contraction = Contraction(
        rules.labelled(a.ndim, of_a, left, a_axes), rules.labelled(b.ndim, of_b, right, b_axes), left + right
    )
    return CallPlan(contraction)


def einsum(
    equation: Any,
    *operands: Any,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies any number of arrays as an einsum equation says.

    `einsum("bij,bjk->bik", x, y)` is `out[b,i,k] = sum_j x[b,i,j] * y[b,j,k]`.

    Args:
        equation: A term of letters for each operand, such as "bij,bjk->bik". A label that stands twice in one term
            reads the diagonal. Axes of one label have one size, or size 1, which broadcasts; so do the axes of
            `...`, which are summed where the result has no `...`. Without `->` the result has the axes of `...`
            and then, sorted, the labels that stand once.
        operands: Arrays with an axis for each label of their term, or one list of them. In the other form there is
            no equation, and after each array stand its labels as a list of numbers from 0 to 51 and `Ellipsis`;
            those of the result may end the call.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array with an axis for each label of the result, of the operands' dtype. Operands that are multiplied and not
        summed over a shared label promote; integers that are summed in one operand alone give int64.

    Raises:
        ValueError: The equation is malformed, or does not fit the operands.
        TypeError: A product that is summed is of different dtypes, or PyTorch does not multiply them; or the call has
            another form.

    Differs: `tensorflow.einsum` broadcasts the axes of `...` alone. More than two floats of one dtype are multiplied in
        the order that `jbdot.contract` finds; others from left to right, as PyTorch does without opt_einsum.
    Source: `torch.einsum`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import einsum
        >>> import jax.numpy as jnp
        >>> einsum("bn,anm,bm->ba", jnp.ones((2, 3)), jnp.ones((4, 3, 5)), jnp.ones((2, 5))).shape
        (2, 4)
        >>> einsum(jnp.ones((2, 3)), [0, 1], jnp.ones((3, 4)), [1, 2], [2, 0]).shape
        (4, 2)
    """
    settings = (precision, preferred_element_type, out_sharding, lowering)
    try:
        equation, arrays = rules.einsum_call(equation, operands)
        if len(arrays) != 2:
            arrays = [as_array(x) for x in arrays]
            terms, result = rules.einsum_terms(equation, [x.shape for x in arrays])
            if len(arrays) == 1:
                return rules.of_one(arrays[0], terms[0], result)
            dtype, *others = {x.dtype for x in arrays}
            if others or not jnp.issubdtype(dtype, jnp.inexact):  # the result's dtype depends on the order
                return _in_pairs(arrays, terms, result, settings)
            return perform_all(einsum, arrays, (equation,), settings)
    except Refusal as refusal:
        call = {"equation": equation} | {f"operand {at}": x for at, x in enumerate(operands)}
        raise worded(refusal, einsum, call) from None
    return perform(einsum, arrays[0], arrays[1], (equation,), settings, key=equation)


@plans(einsum)
def _einsum(x: Operand, y: Operand, equation: Any) -> CallPlan:
    (left, right), result = rules.einsum_terms(equation, [x.shape, y.shape])
    return rules.pair(x, y, left, right, result)


@reads(einsum)
def _einsum_all(operands: Sequence[Operand], equation: Any) -> Contraction:
    return rules.contraction(equation, [x.shape for x in operands])


def _in_pairs(arrays: list[Any], terms: list[rules.Term], result: rules.Term, settings: Any) -> jax.Array:
    """Multiplies from left to right; each product keeps the labels that the result has, or an operand still to come."""
    sizes = rules.einsum_sizes(terms, [x.shape for x in arrays])
    # An axis of size 1 that broadcasts does not keep a label alive.
    alive = [
        {label for label, size in zip(term, x.shape, strict=True) if size == sizes[label]}
        for term, x in zip(terms, arrays, strict=True)
    ]
    spelt = ["".join(term) for term in terms]
    product, labels = arrays[0], spelt[0]
    *rest, last = range(1, len(arrays))
    for at in rest:
        needed = set(result).union(*alive[at + 1 :])
        kept = "".join(label for label in dict.fromkeys(labels + spelt[at]) if label in needed)
        equation = f"{labels},{spelt[at]}->{kept}"
        product = perform(einsum, product, arrays[at], (equation,), (*settings[:2], None, settings[3]), key=equation)
        labels = kept
    equation = f"{labels},{spelt[last]}->{''.join(result)}"
    return perform(einsum, product, arrays[last], (equation,), settings, key=equation)


def multi_dot(
    tensors: Any,
    *,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies a chain of matrices, in the order that is estimated to take the least time.

    `out[m,n] = sum_{k,r} tensors[0][m,k] * tensors[1][k,r] * tensors[2][r,n]`, and so on.

    Args:
        tensors: A list of two or more arrays of one dtype: matrices, whose inner sizes agree. The first may be a row
            vector, the last a column vector, and the result has no axis for it.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M, N) of the operands' dtype, without M or N for a vector.

    Raises:
        ValueError: There are fewer than two, one has another rank, or neighbouring sizes differ.
        TypeError: It is no list, the dtypes differ, or PyTorch does not multiply them.

    Differs: `matmul` takes two, and batches.
    Source: `torch.linalg.multi_dot`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import multi_dot
        >>> import jax.numpy as jnp
        >>> multi_dot([jnp.ones((3, 100)), jnp.ones((100, 5)), jnp.ones((5, 2))]).shape
        (3, 2)
    """
    rules.check_out(multi_dot, out)
    try:
        arrays = rules.chain(tensors)
    except Refusal as refusal:
        listed = tensors if isinstance(tensors, (list, tuple)) else [tensors]
        raise worded(refusal, multi_dot, {f"tensors[{at}]": x for at, x in enumerate(listed)}) from None
    return perform_all(multi_dot, arrays, (), (precision, preferred_element_type, out_sharding, lowering))


@reads(multi_dot)
def _multi_dot(tensors: Sequence[Operand]) -> Contraction:
    inner = names(CONTRACTING, len(tensors) - 1)
    pairs: list[tuple[str, ...]] = [*itertools.pairwise(("m", *inner, "n"))]
    if tensors[0].ndim == 1:
        pairs[0] = inner[:1]
    if tensors[-1].ndim == 1:
        pairs[-1] = inner[-1:]
    return Contraction(*pairs, tuple(label for label in (*pairs[0], *pairs[-1]) if label in ("m", "n")))


def linear(
    input: Any,
    weight: Any,
    bias: Any = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies by the transpose of a matrix of weights, and adds a bias.

    `out[m,n] = sum_k input[m,k] * weight[n,k] + bias[n]`.

    Args:
        input: Array (..., K).
        weight: Array (N, K), or (K,) without a bias, of input's dtype.
        bias: Array (N,) of input's dtype, or any that broadcasts to the result; None adds nothing.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (..., N) of the operands' dtype, without N for a vector of weights.

    Raises:
        ValueError: The sizes K differ, input is a scalar, weight has another rank, or the bias does not broadcast.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `matmul` takes the weights as (K, N).
    Source: `torch.nn.functional.linear`, PyTorch 2.13, and what `torch.nn.Linear` calls.

    Example:
        >>> from jbdot.torch import linear
        >>> import jax.numpy as jnp
        >>> linear(jnp.ones((2, 3, 4)), jnp.ones((5, 4)), jnp.ones(5)).shape
        (2, 3, 5)
    """
    settings = (precision, preferred_element_type, out_sharding, lowering)
    if bias is None:
        return perform(linear, input, weight, (), settings, key=())
    return _sum(linear, _biased, {"bias": bias, "input": input, "weight": weight}, (1, 1), settings)


@plans(linear)
def _linear(input: Operand, weight: Operand) -> CallPlan:
    if input.ndim == 0:
        raise BadValue("an operand must have rank 1 or more", "input is a scalar", "Multiply by a scalar with *")
    if weight.ndim not in (1, 2):
        raise BadValue("weight must be a matrix, or a vector", f"it has rank {weight.ndim}")
    rules.NUMBERS.check(input, weight)
    check_pair(input, weight, input.ndim - 1, weight.ndim - 1)
    left, right = names(LHS_FREE, input.ndim - 1), ("n",) * (weight.ndim - 1)
    return CallPlan(Contraction((*left, "k"), (*right, "k"), (*left, *right)))


def _biased(input: Operand, weight: Operand) -> CallPlan:
    if weight.ndim != 2:
        raise BadValue("weight must be a matrix where there is a bias", f"it has rank {weight.ndim}")
    return _linear(input, weight)


def bilinear(
    input1: Any,
    input2: Any,
    weight: Any,
    bias: Any = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies two vectors of each batch with each matrix of weights, and adds a bias.

    `out[b,n] = sum_{k,r} input1[b,k] * weight[n,k,r] * input2[b,r] + bias[n]`.

    Args:
        input1: Array (batch..., K).
        input2: Array (batch..., R), of input1's dtype.
        weight: Array (N, K, R), likewise.
        bias: Array (N,), likewise; None adds nothing.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch..., N) of the operands' dtype.

    Raises:
        ValueError: Ranks, batch sizes, K, R or N differ.
        TypeError: The dtypes differ, or PyTorch does not multiply them.

    Differs: `linear` has one input.
    Source: `torch.nn.functional.bilinear`, PyTorch 2.13, and what `torch.nn.Bilinear` calls.

    Example:
        >>> from jbdot.torch import bilinear
        >>> import jax.numpy as jnp
        >>> bilinear(jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((5, 3, 4))).shape
        (2, 5)
    """
    try:
        first, second, weights = (as_array(x) for x in (input1, input2, weight))
        added = None if bias is None else as_array(bias)
        rules.check_bilinear(first, second, weights, added)
    except Refusal as refusal:
        call = {"input1": input1, "input2": input2, "weight": weight} | ({} if bias is None else {"bias": bias})
        raise worded(refusal, bilinear, call) from None
    out = einsum(
        "...k,nkr,...r->...n",
        first,
        weights,
        second,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
        lowering=lowering,
    )
    return out if added is None else out + added


def baddbmm(
    input: Any,
    batch1: Any,
    batch2: Any,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches, and adds an array.

    `out[b,m,n] = beta * input[b,m,n] + alpha * sum_k batch1[b,m,k] * batch2[b,k,n]`.

    Args:
        input: Array that broadcasts to the result, of the operands' dtype.
        batch1: Array (B, M, K).
        batch2: Array (B, K, N), of batch1's dtype.
        beta: A number, cut to an integer for integers; where it is 0, nothing of input is read, not even nan.
        alpha: A number, likewise cut.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (B, M, N) of the operands' dtype.

    Raises:
        ValueError: A rank is not 3, the sizes B or K differ, input does not broadcast, or beta or alpha is no number
            of the dtype.
        TypeError: The dtypes differ, PyTorch does not multiply them, or beta or alpha is no number.

    Differs: `bmm` adds nothing; `addbmm` sums over the batch.
    Source: `torch.baddbmm`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import baddbmm
        >>> import jax.numpy as jnp
        >>> baddbmm(jnp.ones(5), jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5)), beta=0.5, alpha=2)[0, 0, 0].item()
        8.5
    """
    rules.check_out(baddbmm, out)
    settings = (precision, preferred_element_type, out_sharding, lowering)
    arrays = {"input": input, "batch1": batch1, "batch2": batch2}
    return _sum(baddbmm, _bmm, arrays, (beta, alpha), settings)


def addmm(
    input: Any,
    mat1: Any,
    mat2: Any,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies two matrices, and adds an array.

    `out[m,n] = beta * input[m,n] + alpha * sum_k mat1[m,k] * mat2[k,n]`.

    Args:
        input: Array that broadcasts to the result, of the operands' dtype.
        mat1: Array (M, K).
        mat2: Array (K, N), of mat1's dtype.
        beta: A number, cut to an integer for integers; where it is 0, nothing of input is read, not even nan.
        alpha: A number, likewise cut.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M, N) of the operands' dtype.

    Raises:
        ValueError: A rank is not 2, the sizes K differ, input does not broadcast, or beta or alpha is no number of
            the dtype.
        TypeError: The dtypes differ, PyTorch does not multiply them, or beta or alpha is no number.

    Differs: `mm` adds nothing.
    Source: `torch.addmm`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import addmm
        >>> import jax.numpy as jnp
        >>> addmm(jnp.full(5, jnp.nan), jnp.ones((3, 4)), jnp.ones((4, 5)), beta=0)[0, 0].item()
        4.0
    """
    rules.check_out(addmm, out)
    settings = (precision, preferred_element_type, out_sharding, lowering)
    arrays = {"input": input, "mat1": mat1, "mat2": mat2}
    return _sum(addmm, _mm, arrays, (beta, alpha), settings)


def addmv(
    input: Any,
    mat: Any,
    vec: Any,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies a matrix by a vector, and adds an array.

    `out[m] = beta * input[m] + alpha * sum_k mat[m,k] * vec[k]`.

    Args:
        input: Array (M,), (1,) or scalar, of the operands' dtype.
        mat: Array (M, K).
        vec: Array (K,), of mat's dtype.
        beta: A number, cut to an integer for integers; where it is 0, nothing of input is read, not even nan.
        alpha: A number, likewise cut.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M,) of the operands' dtype.

    Raises:
        ValueError: A rank differs, the sizes K differ, input does not broadcast, or beta or alpha is no number of
            the dtype.
        TypeError: The dtypes differ, PyTorch does not multiply them, or beta or alpha is no number.

    Differs: `mv` adds nothing.
    Source: `torch.addmv`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import addmv
        >>> import jax.numpy as jnp
        >>> addmv(jnp.ones(3), jnp.ones((3, 4)), jnp.ones(4)).shape
        (3,)
    """
    rules.check_out(addmv, out)
    settings = (precision, preferred_element_type, out_sharding, lowering)
    arrays = {"input": input, "mat": mat, "vec": vec}
    return _sum(addmv, _mv, arrays, (beta, alpha), settings)


def addbmm(
    input: Any,
    batch1: Any,
    batch2: Any,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches, sums over the batch, and adds an array.

    `out[m,n] = beta * input[m,n] + alpha * sum_{b,k} batch1[b,m,k] * batch2[b,k,n]`. 16-bit floats are rounded once,
    and not after each matrix as in PyTorch.

    Args:
        input: Array that broadcasts to the result, of the operands' dtype.
        batch1: Array (B, M, K).
        batch2: Array (B, K, N), of batch1's dtype.
        beta: A number, cut to an integer for integers; where it is 0, nothing of input is read, not even nan.
        alpha: A number, likewise cut.
        out: None: there is no array to write into.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (M, N) of the operands' dtype.

    Raises:
        ValueError: A rank is not 3, the sizes B or K differ, input does not broadcast, or beta or alpha is no number
            of the dtype.
        TypeError: The dtypes differ, PyTorch does not multiply them, or beta or alpha is no number.

    Differs: `baddbmm` keeps the batch.
    Source: `torch.addbmm`, PyTorch 2.13.

    Example:
        >>> from jbdot.torch import addbmm
        >>> import jax.numpy as jnp
        >>> addbmm(jnp.ones(5), jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5)))[0, 0].item()
        9.0
    """
    rules.check_out(addbmm, out)
    settings = (precision, preferred_element_type, out_sharding, lowering)
    arrays = {"input": input, "batch1": batch1, "batch2": batch2}
    return _sum(addbmm, _summed_bmm, arrays, (beta, alpha), settings)


def _sum(
    function: Callable[..., Any],
    planner: Callable[[Operand, Operand], CallPlan],
    arrays: dict[str, Any],
    scales: tuple[Any, Any],
    settings: tuple[Any, Any, Any, Any],
) -> jax.Array:
    """Returns `beta * added + alpha * product`, of the first array and the other two, rounded once.

    What `beta = 0` leaves out is not read.
    """
    precision, wanted, out_sharding, lowering = settings
    given = {name: x for name, x in zip(("beta", "alpha"), scales, strict=True) if isinstance(x, Tracer) or x != 1}
    try:
        taken = {name: as_array(x) for name, x in arrays.items()}
        (name, added), left, right = taken.items()
        planned = planner(*(Operand(side, x.shape, x.dtype) for side, x in (left, right)))
        lhs, rhs = left[1], right[1]
        shape = planned.out_shape(lhs.shape, rhs.shape)
        rules.check_added(name, added, lhs.dtype, shape)
        dtype = jnp.dtype(lhs.dtype if wanted is None else canonical(wanted))
        beta, alpha = rules.scale("beta", scales[0], dtype), rules.scale("alpha", scales[1], dtype)
    except Refusal as refusal:
        raise worded(refusal, function, arrays | given) from None
    wide = jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype
    out = perform(
        contract, lhs, rhs, (planned.contraction,), (precision, wide, out_sharding, lowering), key=planned.contraction
    )
    if alpha != 1:
        out = out * alpha.astype(wide)
    if beta != 0:
        out = out + (added.astype(wide) if beta == 1 else added.astype(wide) * beta.astype(wide))
    return out.astype(dtype)


linalg = namespace(__name__, "linalg", matmul=matmul, multi_dot=multi_dot, vecdot=vecdot)
functional = namespace(__name__, "nn.functional", bilinear=bilinear, linear=linear)
nn = namespace(__name__, "nn", functional=functional)
