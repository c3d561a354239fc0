"""TensorFlow's products, 2.21: those of `tf`, `tf.linalg` and `tf.sparse`, and `tf.batch_matmul` of TensorFlow 0.12.

Source: tensorflow/python/ops/math_ops.py, special_math_ops.py and sparse_ops.py, and the CPU kernels.
"""

import dataclasses
import operator
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.calls import axis_pairs
from jbdot.calls.axis_pairs import check_pair
from jbdot.calls.dialect_dtypes import NUMBERS, TENSORFLOW_2, Dtypes
from jbdot.calls.front_door import namespace, perform, plans, speaks
from jbdot.calls.many_operands import perform_all, reads
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadType, BadValue
from jbdot.core.labels import Axes, broadcast, read
from jbdot.one_device.call_plan import AS_IS, CallPlan, Operand, OperandSteps, canonical
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "TensorFlow 2.21")
__all__ = ["batch_matmul", "einsum", "linalg", "matmul", "matvec", "sparse", "sparse_dense_matmul", "tensordot"]

_EINSUM = Dtypes(NUMBERS, BadValue)
_BYTES = {"int8", "uint8"}


def matmul(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    transpose_b: bool = False,
    adjoint_a: bool = False,
    adjoint_b: bool = False,
    a_is_sparse: bool = False,
    b_is_sparse: bool = False,
    output_type: Any = None,
    grad_a: bool = False,
    grad_b: bool = False,
    name: str | None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches: all axes but the last two are batch axes, and broadcast.

    `out[b,c,m,n] = sum_k a[b,c,m,k] * b[b,c,k,n]`.

    Args:
        a: Array (batch..., M, K), of rank 2 or more.
        b: Array (batch..., K, N), of rank 2 or more and of a's dtype. Of matrices, one may be
            bfloat16 and the other float32.
        transpose_a: a is (batch..., K, M).
        transpose_b: b is (batch..., N, K).
        adjoint_a: a is (batch..., K, M), and is conjugated.
        adjoint_b: b is (batch..., N, K), and is conjugated.
        a_is_sparse: A hint that many elements of a are 0, without effect here; a is a matrix.
        b_is_sparse: Likewise for b.
        output_type: The dtype of the result: int32 where both operands are 8-bit integers,
            bfloat16 where one is bfloat16 and the other an 8-bit integer, else the operands' own.
        grad_a: A hint for TensorFlow's own gradients, without effect here.
        grad_b: Likewise.
        name: The name of TensorFlow's operation, without effect here.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (broadcast batch..., M, N) of the operands' dtype, or `output_type`.

    Raises:
        ValueError: A rank is below 2, the sizes K differ, batch sizes do not broadcast, an operand
            is to be both transposed and adjoint, or TensorFlow has no product of these dtypes.
        TypeError: Booleans are to be conjugated.

    Differs: `keras_tf1.batch_dot` does not broadcast; `mxnet.batch_dot` takes no matrices.
    Source: `tf.linalg.matmul`, TensorFlow 2.21.

    Example:
        >>> from jbdot.tensorflow import matmul
        >>> import jax.numpy as jnp
        >>> matmul(jnp.ones((9, 1, 4, 2)), jnp.ones((8, 2, 5))).shape
        (9, 8, 4, 5)
    """
    arguments = (transpose_a, transpose_b, adjoint_a, adjoint_b, a_is_sparse, b_is_sparse, output_type)
    return perform(matmul, a, b, arguments, (precision, preferred_element_type, out_sharding, lowering), key=arguments)


@plans(matmul)
def _matmul(
    a: Operand,
    b: Operand,
    transpose_a: bool,
    transpose_b: bool,
    adjoint_a: bool,
    adjoint_b: bool,
    a_is_sparse: bool,
    b_is_sparse: bool,
    output_type: Any,
) -> CallPlan:
    for operand, transpose, adjoint in ((a, transpose_a, adjoint_a), (b, transpose_b, adjoint_b)):
        if transpose and adjoint:
            raise BadValue(
                "an operand must be transposed or adjoint, not both",
                f"both flags are set for {operand.name}",
                "The adjoint transposes too",
            )
    hinted = bool(a_is_sparse or b_is_sparse)
    batched = max(a.ndim, b.ndim) > 2 and not hinted
    # Each kernel knows one of the two: the other is made of it and a conjugation, which refuses booleans.
    for operand, conjugated in ((a, transpose_a if batched else adjoint_a), (b, transpose_b if batched else adjoint_b)):
        if conjugated and operand.dtype == jnp.bool_:
            raise BadType("only numbers can be conjugated", f"{operand.name} is bool", "Cast it first")
    entries, dtype, most = _matmul_dtypes(a, b, batched, hinted, output_type)
    for operand in (a, b):
        if operand.ndim < 2 or (most is not None and operand.ndim > most):
            needed = "must be matrices where a sparse flag is set" if hinted else "must have rank 2 or more"
            raise BadValue(f"the operands {needed}", f"{a.name} has rank {a.ndim}, {b.name} has rank {b.ndim}")
    turned_a, turned_b = bool(transpose_a or adjoint_a), bool(transpose_b or adjoint_b)
    check_pair(a, b, a.ndim - 1 - turned_a, b.ndim - 2 + turned_b)
    lhs, rhs, batch = broadcast(a.shape[:-2], b.shape[:-2], operands=(a.name, b.name))
    contraction = Contraction(
        (*lhs, "k", "m") if turned_a else (*lhs, "m", "k"),
        (*rhs, "n", "k") if turned_b else (*rhs, "k", "n"),
        (*batch, "m", "n"),
    )
    lhs_entry, rhs_entry = (
        dataclasses.replace(entry, conjugate=bool(adjoint) and operand.is_complex)
        for entry, operand, adjoint in ((entries[0], a, adjoint_a), (entries[1], b, adjoint_b))
    )
    return CallPlan(contraction, lhs_entry, rhs_entry, dtype)


def _matmul_dtypes(
    a: Operand, b: Operand, batched: bool, hinted: bool, output_type: Any
) -> tuple[tuple[OperandSteps, OperandSteps], str | None, int | None]:
    """Picks a kernel as TensorFlow does: casts, the result's dtype if not theirs, the highest rank it takes."""
    most = 2 if hinted else None
    kinds = {a.dtype.name, b.dtype.name}
    if not batched and (kinds == {"bfloat16", "float32"} or (hinted and kinds <= {"bfloat16", "float32"})):
        return TENSORFLOW_2.enter_matmul(a, b), None, most  # SparseMatMul, which looks at no output_type
    wanted = None if output_type is None else canonical(output_type)
    if wanted is None or (wanted == a.dtype == b.dtype):
        (TENSORFLOW_2.batch_matmul if batched else TENSORFLOW_2.matmul).check(a, b)
        return (AS_IS, AS_IS), None, most
    # BatchMatMulV3 from here on, which looks at no hint.
    if wanted == jnp.int32 and kinds <= _BYTES:
        # 8-bit integers of two signs have one dtype that holds both: multiply in the result's.
        cast = OperandSteps("int32") if len(kinds) == 2 else AS_IS
        return (cast, cast), "int32", None
    if wanted == jnp.bfloat16 and "bfloat16" in kinds and kinds - {"bfloat16"} <= _BYTES:
        lhs, rhs = (AS_IS if operand.dtype == wanted else OperandSteps("bfloat16") for operand in (a, b))
        return (lhs, rhs), None, None
    raise BadValue(
        "output_type must be int32 for two 8-bit integers, bfloat16 for bfloat16 with an 8-bit integer, "
        "else the operands' own dtype",
        f"{a.name} is {a.dtype.name}, {b.name} is {b.dtype.name}, output_type is {wanted.name}",
        "preferred_element_type asks for a wider result",
    )


def matvec(
    a: Any,
    b: Any,
    transpose_a: bool = False,
    adjoint_a: bool = False,
    a_is_sparse: bool = False,
    b_is_sparse: bool = False,
    name: str | None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices by vectors, in batches that broadcast.

    `out[b,c,m] = sum_k a[b,c,m,k] * b[b,c,k]`.

    Args:
        a: Array (batch..., M, K), of rank 2 or more.
        b: Array (batch..., K), of rank 1 or more and of a's dtype.
        transpose_a: a is (batch..., K, M).
        adjoint_a: a is (batch..., K, M), and is conjugated.
        a_is_sparse: A hint that many elements of a are 0, without effect here; a is a matrix.
        b_is_sparse: Likewise for b, which is a vector.
        name: The name of TensorFlow's operation, without effect here.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (broadcast batch..., M) of the operands' dtype.

    Raises:
        ValueError: A rank is too low, the sizes K differ, batch sizes do not broadcast, a is to be both transposed and
            adjoint, or TensorFlow has no product of these dtypes.
        TypeError: Booleans are to be conjugated.

    Differs: `matmul` takes matrices.
    Source: `tf.linalg.matvec`, TensorFlow 2.21.

    Example:
        >>> from jbdot.tensorflow import matvec
        >>> import jax.numpy as jnp
        >>> matvec(jnp.ones((9, 4, 2)), jnp.ones(2)).shape
        (9, 4)
    """
    arguments = (transpose_a, adjoint_a, a_is_sparse, b_is_sparse)
    return perform(matvec, a, b, arguments, (precision, preferred_element_type, out_sharding, lowering), arguments)


@plans(matvec)
def _matvec(
    a: Operand, b: Operand, transpose_a: bool, adjoint_a: bool, a_is_sparse: bool, b_is_sparse: bool
) -> CallPlan:
    if b.ndim < 1 or a.ndim < 2:
        raise BadValue(
            "a must have rank 2 or more, and b rank 1 or more",
            f"{a.name} has rank {a.ndim}, {b.name} has rank {b.ndim}",
        )
    column = dataclasses.replace(b, shape=(*b.shape, 1))
    planned = _matmul(a, column, transpose_a, False, adjoint_a, False, a_is_sparse, b_is_sparse, None)
    c = planned.contraction
    lhs, rhs, out = (tuple(label for label in side if label != "n") for side in (c.lhs, c.rhs, c.out))
    return dataclasses.replace(planned, contraction=Contraction(lhs, rhs, out))


def batch_matmul(
    x: Any,
    y: Any,
    adj_x: bool = False,
    adj_y: bool = False,
    name: str | None = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches, as TensorFlow before 1.0 did: batch axes are equal in both operands.

    `out[b,c,m,n] = sum_k x[b,c,m,k] * y[b,c,k,n]`.

    Args:
        x: Array (batch..., M, K), of rank 3 or more.
        y: Array (batch..., K, N), of x's rank and dtype.
        adj_x: x is (batch..., K, M), and is conjugated.
        adj_y: y is (batch..., N, K), and is conjugated.
        name: The name of TensorFlow's operation, without effect here.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch..., M, N) of the operands' dtype.

    Raises:
        ValueError: The ranks differ or are below 3, batch sizes or the sizes K differ, or TensorFlow has no product of
            these dtypes.

    Differs: `matmul`, which replaced it, broadcasts batch axes and takes matrices.
    Source: `tf.batch_matmul`, TensorFlow 0.12, by its documentation.

    Example:
        >>> from jbdot.tensorflow import batch_matmul
        >>> import jax.numpy as jnp
        >>> batch_matmul(jnp.ones((9, 2, 4)), jnp.ones((9, 2, 5)), adj_x=True).shape
        (9, 4, 5)
    """
    flags = (adj_x, adj_y)
    return perform(batch_matmul, x, y, flags, (precision, preferred_element_type, out_sharding, lowering), flags)


@plans(batch_matmul)
def _batch_matmul(x: Operand, y: Operand, adj_x: bool, adj_y: bool) -> CallPlan:
    if x.ndim != y.ndim or x.ndim < 3:
        raise BadValue(
            "both operands must have one rank, 3 or more",
            f"{x.name} has rank {x.ndim}, {y.name} has rank {y.ndim}",
        )
    for axis, (left, right) in enumerate(zip(x.shape[:-2], y.shape[:-2], strict=True)):
        if left != right:
            raise BadValue(
                "the batch axes must have equal sizes",
                f"axis {axis} of {x.name} has size {left}, of {y.name} {right}",
                "tensorflow.matmul broadcasts a size of 1",
            )
    return _matmul(x, y, False, False, adj_x, adj_y, False, False, None)


def tensordot(
    a: Any,
    b: Any,
    axes: Any,
    name: str | None = None,
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
        b: Array of any rank, of a's dtype; bfloat16 with float32 gives float32.
        axes: A number N (the last N axes of a, the first N of b, in order), or a pair of axes or
            of equally long lists of axes, 0-based, negative from the end. Where only the products
            of the contracted sizes agree, both sides are flattened and contracted, as TensorFlow does.
        name: The name of TensorFlow's operation, without effect here.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (a's other axes, b's other axes) of the operands' dtype.

    Raises:
        ValueError: Contracted sizes differ, a number is negative or too large, lists differ in
            length, an axis repeats, or TensorFlow has no product of these dtypes.
        IndexError: An axis is beyond the rank.
        TypeError: An axis is not an int.

    Differs: `theano.tensordot` refuses negative axes and promotes dtypes.
    Source: `tf.tensordot`, TensorFlow 2.21.

    Example:
        >>> from jbdot.tensorflow import tensordot
        >>> import jax.numpy as jnp
        >>> tensordot(jnp.ones((2, 3, 4)), jnp.ones((4, 3, 5)), [[1, 2], [1, 0]]).shape
        (2, 5)
    """
    return perform(tensordot, a, b, (axes,), (precision, preferred_element_type, out_sharding, lowering))


@plans(tensordot)
def _tensordot(a: Operand, b: Operand, axes: Any) -> CallPlan:
    a_axes, b_axes = _tensordot_axes(a, b, axes)
    planned = axis_pairs.tensordot(a, b, a_axes, b_axes)
    lhs, rhs = TENSORFLOW_2.enter_matmul(a, b)
    return CallPlan(
        planned.contraction,
        OperandSteps(lhs.dtype, fold=planned.lhs.fold),
        OperandSteps(rhs.dtype, fold=planned.rhs.fold),
    )


def einsum(
    equation: Any,
    *inputs: Any,
    name: str | None = None,
    optimize: Any = "greedy",
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies any number of arrays as an einsum equation says.

    `einsum("bij,bjk->bik", x, y)` is `out[b,i,k] = sum_j x[b,i,j] * y[b,j,k]`. More than two are multiplied two at a
    time, in the order that `jbdot.contract` finds.

    Args:
        equation: A term of letters for each array, such as "bij,bjk->bik". A label that stands twice in one
            term reads the diagonal; one that only one term has, and the result has not, is summed
            there. The axes of `...` broadcast; those of letters do not. Without `->` the result
            has, sorted, the labels that stand once.
        inputs: Arrays of one dtype, each with an axis for each label of its term.
        name: The name of TensorFlow's operation, without effect here.
        optimize: How TensorFlow orders more than two, without effect here: least estimated time decides.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array with an axis for each label of the result, of the operands' dtype.

    Raises:
        ValueError: The equation is malformed, does not fit the operands, or TensorFlow has no
            product of these dtypes.
        TypeError: The equation is no string, or an operand is no array.

    Differs: `jbdot.contract` reads the same equations, labels of several letters too, in any dtype.
    Source: `tf.einsum`, TensorFlow 2.21.

    Example:
        >>> from jbdot.tensorflow import einsum
        >>> import jax.numpy as jnp
        >>> einsum("...ij,jk->...ik", jnp.ones((7, 2, 3)), jnp.ones((3, 4))).shape
        (7, 2, 4)
    """
    settings = precision, preferred_element_type, out_sharding, lowering
    if len(inputs) != 2:
        return perform_all(einsum, inputs, (equation,), settings)
    x, y = inputs
    return perform(einsum, x, y, (equation,), settings, equation)


@plans(einsum)
def _einsum(x: Operand, y: Operand, equation: Any) -> CallPlan:
    return CallPlan(_einsum_all((x, y), equation))


@reads(einsum)
def _einsum_all(inputs: Sequence[Operand], equation: Any) -> Contraction:
    if not isinstance(equation, str):
        raise BadType("the equation must be a string", f"got a {type(equation).__name__}")
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not re.fullmatch(r"([a-zA-Z,]|\.\.\.)*", terms) or not re.fullmatch(r"([a-zA-Z]|\.\.\.)*", result):
        raise BadValue("an equation must consist of letters, commas, '...' and one '->'", repr(equation))
    if not arrow:
        labels = re.findall(r"\.\.\.|[a-zA-Z]", terms)
        result = "".join(sorted(label for label in set(labels) if labels.count(label) == 1))
    shapes, operands = [x.shape for x in inputs], [x.name for x in inputs]
    contraction = Contraction(*read(f"{terms}->{result}", shapes, operands))
    contraction.sizes(*shapes, names=operands)
    for x in inputs:
        _EINSUM.check(inputs[0], x)
    return contraction


def sparse_dense_matmul(
    sp_a: Any, b: Any, adjoint_a: bool = False, adjoint_b: bool = False, name: str | None = None
) -> jax.Array:
    """Multiplies a sparse matrix by a dense one; the sparse one is never made dense.

    `out[m,n] = sum_k sp_a[m,k] * b[k,n]`, the sum running over the stored elements.

    Args:
        sp_a: A `jax.experimental.sparse.BCOO` (M, K).
        b: Array (K, N), of sp_a's dtype.
        adjoint_a: sp_a is (K, M), and is conjugated.
        adjoint_b: b is (N, K), and is conjugated.
        name: The name of TensorFlow's operation, without effect here.

    Returns:
        Array (M, N) of the operands' dtype.

    Raises:
        ValueError: An operand is no matrix, the sizes K differ, or TensorFlow has no sparse product of the dtypes.
        TypeError: sp_a is not sparse.

    Differs: `matmul(a_is_sparse=True)` takes a dense array that happens to have zeros.
    Source: `tf.sparse.sparse_dense_matmul`, TensorFlow 2.21.

    Example:
        >>> from jbdot.tensorflow import sparse_dense_matmul
        >>> import jax.numpy as jnp
        >>> from jax.experimental import sparse
        >>> sparse_dense_matmul(sparse.BCOO.fromdense(jnp.eye(3)), jnp.ones((3, 4))).shape
        (3, 4)
    """
    return perform(sparse_dense_matmul, sp_a, b, (adjoint_a, adjoint_b))


@plans(sparse_dense_matmul)
def _sparse_dense_matmul(sp_a: Operand, b: Operand, adjoint_a: bool, adjoint_b: bool) -> CallPlan:
    if not sp_a.sparse or b.sparse:
        wrong = "b is sparse" if sp_a.sparse else "sp_a is a dense array"
        raise BadType(
            "sp_a must be a BCOO and b a dense array",
            wrong,
            "jax.experimental.sparse.BCOO.fromdense makes one; matmul takes dense arrays",
        )
    TENSORFLOW_2.sparse.check(sp_a, b)
    if (sp_a.ndim, b.ndim) != (2, 2):
        raise BadValue(
            "the operands of a sparse product must be matrices",
            f"{sp_a.name} has rank {sp_a.ndim}, {b.name} has rank {b.ndim}",
        )
    check_pair(sp_a, b, 0 if adjoint_a else 1, 1 if adjoint_b else 0)
    contraction = Contraction(
        ("k", "m") if adjoint_a else ("m", "k"), ("n", "k") if adjoint_b else ("k", "n"), ("m", "n")
    )
    lhs, rhs = (
        OperandSteps(conjugate=bool(adjoint) and operand.is_complex)
        for operand, adjoint in ((sp_a, adjoint_a), (b, adjoint_b))
    )
    return CallPlan(contraction, lhs, rhs, sparse=True)


def _tensordot_axes(a: Operand, b: Operand, axes: Any) -> tuple[Axes, Axes]:
    """Reads axes as `tf.tensordot`: a number, or a pair of axes or of lists."""
    if isinstance(axes, (int, np.integer)):
        count = int(axes)
        for operand, refusal in ((a, BadValue), (b, BadIndex)):
            if not 0 <= count <= operand.ndim:
                raise refusal(
                    "a number of axes must not be negative, nor larger than a rank",
                    f"axes={count}, {operand.name} has rank {operand.ndim}",
                )
        return tuple(range(a.ndim - count, a.ndim)), tuple(range(count))
    if type(axes) in (float, complex, str):
        raise BadType("axes must be a number or a pair", f"got a {type(axes).__name__}")
    if not isinstance(axes, (list, tuple)):  # TensorFlow makes a tensor of it, and takes its first two rows
        rows = np.asarray(axes)
        if rows.dtype.kind not in "iuf" or rows.ndim < 2 or len(rows) < 2:
            raise BadValue("axes must be a number or a pair", f"got a {type(axes).__name__}")
        axes = tuple(rows[:2].astype(np.int32))
    pair: list[Any] = list(axes)
    if len(pair) != 2:
        raise BadValue("axes must be a number or a pair", f"there are {len(pair)}")
    if all(isinstance(item, (int, np.integer)) for item in pair):
        pair = [[item] for item in pair]
    try:
        first, second = (list(item) for item in pair)
    except TypeError:
        raise BadType("axes must be two ints or two lists", f"got {[type(item).__name__ for item in pair]}") from None
    if len(first) != len(second):
        raise BadValue(
            "as many axes of one operand as of the other must be contracted",
            f"{first} of {a.name}, {second} of {b.name}",
        )
    listed = [isinstance(item, (list, tuple)) for item in pair]
    return _counted_from_front(a, first, listed[0]), _counted_from_front(b, second, listed[1])


def _counted_from_front(operand: Operand, axes: list[Any], listed: bool) -> Axes:
    """Counts axes from the front; TensorFlow looks those of a list up in Python, others in a kernel of its own."""
    try:
        found = [operator.index(axis) for axis in axes]
    except TypeError:
        raise BadType("an axis must be an int", f"{axes} of {operand.name}") from None
    for axis in found:
        if axis >= operand.ndim or axis < -2 * operand.ndim:
            raise (BadIndex if listed else BadValue)(
                "an axis must lie within its operand's rank",
                f"axis {axis} of {operand.name}, which has rank {operand.ndim}",
            )
    if min(found, default=0) < -operand.ndim:
        raise BadValue(
            "an axis must lie within its operand's rank",
            f"axis {min(found)} of {operand.name}, which has rank {operand.ndim}",
        )
    front = tuple(axis % operand.ndim for axis in found)
    if len(set(front)) != len(front):
        raise BadValue("an axis must be contracted once only", f"{axes} of {operand.name} repeat one")
    return front


linalg = namespace(__name__, "linalg", einsum=einsum, matmul=matmul, matvec=matvec, tensordot=tensordot)
sparse = namespace(__name__, "sparse", sparse_dense_matmul=sparse_dense_matmul)
