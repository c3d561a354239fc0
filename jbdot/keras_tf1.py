"""`keras.backend` and `keras.layers.Dot` as Keras 2.1.6 to 2.2.4 on TensorFlow 1 had them, and tf.keras 1.x.

Here all leading axes of `batch_dot` are batch axes. Source: keras/backend/tensorflow_backend.py
and keras/layers/merge.py of Keras 2.2.4, tensorflow/python/ops/math_ops.py of TensorFlow 1.13.1.
"""

import dataclasses
import operator
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.calls import keras_names, keras_shared
from jbdot.calls.dialect_dtypes import NUMBERS, Dtypes, TensorFlow
from jbdot.calls.front_door import namespace, perform, plans, public_name, speaks
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadKey, BadType, BadValue, Refusal
from jbdot.core.labels import Labels, Shape, broadcast
from jbdot.one_device.call_plan import AS_IS, CallPlan, Operand, OperandSteps
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "Keras 2.1.6 to 2.2.4 on TensorFlow, tf.keras 1", keras_names.LINES | keras_names.UP_TO_2_2_4)
__all__ = ["Dot", "backend", "batch_dot", "dot", "layers"]

# What the op definitions and CPU kernels of TensorFlow 1.13.1 take. A dtype that a definition lacks is
# a TypeError; one that has no kernel fails when the graph runs.
_ALL_NUMBERS = f"{NUMBERS} uint8 int8 uint16 int16"
_TENSORFLOW = TensorFlow(
    matmul=Dtypes(NUMBERS),
    batch_matmul=Dtypes(NUMBERS, no_kernel="bfloat16"),
    sparse=Dtypes(
        f"{_ALL_NUMBERS} uint32 uint64 bool",
        no_kernel="bfloat16 float16 int8 uint8 int16 uint16 uint32 int64 uint64 bool",
    ),
    sparse_operand=BadType,
)
_MULTIPLY = Dtypes(_ALL_NUMBERS)
_NORMALIZE = Dtypes("bfloat16 float16 float32 float64", no_kernel="bfloat16")


def dot(
    x: Any,
    y: Any,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies along the last axis of x and the last but one of y.

    `out[a,b,c,i,j,k] = sum_r x[a,b,c,r] * y[i,j,r,k]`, for x and y of any rank from 2.

    Args:
        x: Array (..., R), or a BCOO (M, R).
        y: Array (..., R, N), of x's dtype.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (*x.shape[:-1], *y.shape[:-2], N) of the operands' dtype.

    Raises:
        ValueError: The two sizes R differ, or a rank is too low.
        IndexError: An operand has no such axis (a scalar, or a vector y where x has rank 3).
        TypeError: The dtypes differ, or Keras' backend had no product for them.

    Differs: `batch_dot` pairs the leading axes; this takes all pairs of them.
    Source: `keras.backend.dot`, Keras 2.2.4 on TensorFlow 1.13.1; every later Keras agrees.

    Example:
        >>> from jbdot.keras_tf1 import dot
        >>> import jax.numpy as jnp
        >>> dot(jnp.ones((2, 3, 4)), jnp.ones((7, 4, 5))).shape
        (2, 3, 7, 5)
    """
    return perform(dot, x, y, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(dot)
def _dot(x: Operand, y: Operand) -> CallPlan:
    planned = keras_shared.dot(x, y, _TENSORFLOW)
    if max(x.ndim, y.ndim) > 2 and x.shape[-1] == 0:
        raise BadValue(
            "the operands must flatten to matrices, which in TensorFlow 1 they do not with a contracted size of 0",
            f"axis {x.ndim - 1} of {x.name} has size 0",
            "jbdot.keras.dot gives the zeros that this sum is",
        )
    return planned


def batch_dot(
    x: Any,
    y: Any,
    axes: Any = None,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies matrices in batches: all axes but the last two are batch axes, in both operands, and broadcast.

    `out[b,h,m,n] = sum_k x[b,h,m,k] * y[b,h,k,n]`. A batch axis of size 1 broadcasts, as on TensorFlow 1.14 and 1.15;
    those before refuse it. The operand of lower rank is padded
    with axes of size 1 at its end, which are taken out of the result again. Two operands of rank
    2 are multiplied elementwise, broadcasting, and summed along `axes[1]`:
    `out[b,0] = sum_k x[b,k] * y[b,k]`.

    Args:
        x: Array of rank 2 or more.
        y: Array of rank 2 or more, of x's dtype.
        axes: The axis to contract, 0-based: None (last of x, last but one of y), an int for
            both, or a pair. In rank 3 and up, x's last axis is contracted if `axes[0]` names it
            and the last but one for any other value; y's last if `axes[1]` names it. Negative
            axes are not read as the last ones.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch..., M, N) of the operands' dtype; (batch, 1) where both have rank 2.

    Raises:
        ValueError: Contracted or batch sizes differ, a rank is below 2, axes hold a list, or a
            unit axis cannot be dropped.
        TypeError: axes cannot be indexed, the dtypes differ, or there was no product for them.
        IndexError: axes have one element.

    Differs: `jbdot.keras.batch_dot` takes axis 0 alone as batch, and keeps all other axes.
    Source: `keras.backend.batch_dot`, Keras 2.2.4 on TensorFlow 1.13.1.

    Example:
        >>> from jbdot.keras_tf1 import batch_dot
        >>> import jax.numpy as jnp
        >>> batch_dot(jnp.ones((10, 12, 4, 5)), jnp.ones((10, 12, 5, 8))).shape
        (10, 12, 4, 8)
    """
    return perform(batch_dot, x, y, (axes,), (precision, preferred_element_type, out_sharding, lowering))


@plans(batch_dot)
def _batch_dot(x: Operand, y: Operand, axes: Any) -> CallPlan:
    x_axis, y_axis = _axes(x, y, axes)
    rank = max(x.ndim, y.ndim)
    planned = _elementwise(x, y, x_axis, y_axis) if rank == 2 else _batch_matmul(x, y, rank, x_axis, y_axis)
    planned = _squeezed(planned, x, y)
    c = planned.contraction
    return _relabelled(planned, c.lhs, c.rhs, (*c.out, None)) if len(c.out) == 1 else planned


class Dot(keras_shared.DotLayer):
    """Dot product of two arrays' samples: a layer around `keras_tf1.batch_dot`.

    `Dot(axes, normalize)([x, y])` is `batch_dot(x, y, axes)` after checks; negative axes count
    from the end. With `normalize`, x and y are first divided by their L2 norms along the axes:
    `out[b,0] = sum_k x[b,k] * y[b,k] / (|x[b]| |y[b]|)`.

    Args:
        axes: An int for both, or a pair of ints.
        normalize: Whether to divide by the norms (cosine proximity).
        name: Of the layer, without effect here; likewise `dtype`, `trainable` and what else every layer of Keras takes.

    Raises:
        TypeError: axes are neither an int nor a list or tuple; dtypes as in `batch_dot`; a setting is no layer's.
        ValueError: axes are no pair of ints, the sizes along them differ, or as in `batch_dot`.
        IndexError: An axis is out of range.

    Differs: `jbdot.keras.Dot` goes through the later `batch_dot`.
    Source: `keras.layers.Dot`, Keras 2.2.4.

    Example:
        >>> from jbdot.keras_tf1 import Dot
        >>> import jax.numpy as jnp
        >>> Dot(axes=1)([jnp.ones((2, 3)), jnp.ones((2, 3))]).shape
        (2, 1)
    """


@plans(Dot)
def _dot_layer(x: Operand, y: Operand, axes: Any, normalize: bool, dtype: str | None) -> CallPlan:
    del dtype  # the layer computes in its operands' dtype
    return keras_shared.dot_layer(x, y, axes, normalize, _batch_dot, _NORMALIZE)


def _axes(x: Operand, y: Operand, axes: Any) -> tuple[Any, Any]:
    """Reads axes as Keras did: only an int stands for both; anything else is indexed as it comes."""
    if axes is None:
        return x.ndim - 1, y.ndim - 2
    if isinstance(axes, int):
        return axes, axes
    try:
        several = any(isinstance(axis, (list, tuple)) for axis in axes)
        pair = None if several else (axes[0], axes[1])
    except (TypeError, IndexError, KeyError) as error:
        kind = BadIndex if isinstance(error, IndexError) else BadKey if isinstance(error, KeyError) else BadType
        raise kind("axes must be None, an int or a pair of ints", f"{axes!r} is a {type(axes).__name__}") from None
    if pair is None or any(np.size(axis) != 1 for axis in pair):
        raise BadValue(
            "one axis of each operand must be named",
            f"axes={axes!r} hold a list",
            "tensordot contracts several at once; what Keras 1 wrote as ([1], [1]) is (1, 1)",
        )
    return pair


def _elementwise(x: Operand, y: Operand, x_axis: Any, y_axis: Any) -> CallPlan:
    """Plans two matrices: `reduce_sum(x * y)`, where unequal axes transpose x first and the sum runs along y's."""
    _MULTIPLY.check(x, y)
    turned = x_axis != y_axis
    left, right = _padded(x, 2), _padded(y, 2)
    left = left[::-1] if turned else left
    for i, (left_size, right_size) in enumerate(zip(left, right, strict=True)):
        if left_size != right_size and 1 not in (left_size, right_size):
            raise BadValue(
                "two matrices are multiplied elementwise here and must broadcast"
                + (", x transposed as axes name two different axes" if turned else ""),
                f"axis {1 - i if turned else i} of {x.name} has size {left_size}, "
                f"axis {i} of {y.name} has size {right_size}",
                "A product of matrices is keras_tf1.dot",
            )
    lhs, rhs, out = broadcast(left, right, pool="bk")
    summed = _reduced(y_axis if turned else x_axis)
    full = [right_size if left_size == 1 else left_size for left_size, right_size in zip(left, right, strict=True)]
    # Where a size 1 stretches along a summed axis, the sum is of that many products: the operand is broadcast.
    lhs, rhs = (tuple(out[i] if i in summed else side[i] for i in (0, 1)) for side in (lhs, rhs))
    left, right = (tuple(full[i] if i in summed else side[i] for i in (0, 1)) for side in (left, right))
    if turned:
        lhs, left = lhs[::-1], left[::-1]
    x_entry, y_entry = (
        OperandSteps(stretch=shape) if shape != operand.shape else AS_IS for shape, operand in ((left, x), (right, y))
    )
    return CallPlan(Contraction(lhs, rhs, tuple(out[i] for i in (0, 1) if i not in summed)), x_entry, y_entry)


def _reduced(axis: Any) -> tuple[int, ...]:
    """Returns the axes that `tf.reduce_sum(matrix, axis)` sums: all of them for None."""
    if axis is None:
        return (0, 1)
    if isinstance(axis, (np.generic, np.ndarray)) and axis.size == 1:
        axis = int(axis.item())  # TensorFlow casts a scalar that NumPy made, and no other
    try:
        index = operator.index(axis)
    except TypeError:
        raise BadType("an axis must be an int", f"{axis!r} is a {type(axis).__name__}") from None
    if not -2 <= index < 2:
        raise BadValue("an axis of a matrix must be 0 or 1, or -1 or -2", f"axis {index}")
    return (index % 2,)


def _batch_matmul(x: Operand, y: Operand, rank: int, x_axis: Any, y_axis: Any) -> CallPlan:
    """Plans `tf.matmul` with adjoints: whatever does not name the last axis names the one before it."""
    if rank < 2:
        _TENSORFLOW.enter_matmul(x, y)
        raise BadValue("an operand must have rank 2 or more", f"{x.name} has rank {x.ndim}, {y.name} has rank {y.ndim}")
    _TENSORFLOW.batch_matmul.check(x, y)
    adjoint_x, adjoint_y = bool(x_axis != rank - 1), bool(y_axis == rank - 1)
    # TensorFlow 1.14 and 1.15 broadcast batch axes of size 1, and the versions before them refuse them.
    left, right = (_padded(operand, rank)[:-2] for operand in (x, y))
    left, right, batch = broadcast(left, right, operands=(x.name, y.name))
    lhs = (*left, "k", "m") if adjoint_x else (*left, "m", "k")
    rhs = (*right, "n", "k") if adjoint_y else (*right, "k", "n")
    Contraction(lhs, rhs, (*batch, "m", "n")).sizes(_padded(x, rank), _padded(y, rank), names=(x.name, y.name))
    _TENSORFLOW.batch_matmul.check_kernel(x)
    # An axis that Keras put in at an operand's end is not there: its partner, of size 1 too, is a unit axis
    # if it is contracted, and the result's own unit axis if it is not.
    lhs, rhs = lhs[: x.ndim], rhs[: y.ndim]
    lhs, rhs = (
        tuple(None if label == "k" and label not in other else label for label in side)
        for side, other in ((lhs, rhs), (rhs, lhs))
    )
    out = tuple(label if label in lhs or label in rhs else None for label in (*batch, "m", "n"))
    return CallPlan(
        Contraction(lhs, rhs, out),
        OperandSteps(conjugate=adjoint_x and x.is_complex),
        OperandSteps(conjugate=adjoint_y and y.is_complex),
    )


def _squeezed(planned: CallPlan, x: Operand, y: Operand) -> CallPlan:
    """Drops the axes that Keras squeezed after it had padded an operand: each must have size 1."""
    padding = abs(x.ndim - y.ndim)
    first = x.ndim + y.ndim - 3 if x.ndim > y.ndim else x.ndim - 1
    c = planned.contraction
    shape = planned.out_shape(x.shape, y.shape)
    dropped: set[int] = set()
    for axis in range(first, first + padding):
        exists = -len(shape) <= axis < len(shape)
        if not exists or shape[axis] != 1:
            raise BadValue(
                f"with ranks {x.ndim} and {y.ndim} all leading axes are batch axes, and axes {first} to "
                f"{first + padding - 1} of the product {shape}, which Keras drops, must have size 1",
                f"axis {axis} has size {shape[axis]}" if exists else f"there is no axis {axis}",
                "jbdot.keras.batch_dot takes axis 0 alone as batch, and drops nothing",
            )
        dropped.add(axis % len(shape))
    gone = {c.out[axis] for axis in dropped}
    lhs, rhs = (tuple(None if label in gone else label for label in side) for side in (c.lhs, c.rhs))
    return _relabelled(planned, lhs, rhs, tuple(label for axis, label in enumerate(c.out) if axis not in dropped))


def _padded(operand: Operand, rank: int) -> Shape:
    return operand.shape + (1,) * (rank - operand.ndim)


def _relabelled(planned: CallPlan, lhs: Labels, rhs: Labels, out: Labels) -> CallPlan:
    return dataclasses.replace(planned, contraction=Contraction(lhs, rhs, out))


def _layers_dot(
    inputs: Any,
    axes: Any,
    normalize: bool = False,
    *,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
    **settings: Any,
) -> jax.Array:
    """Multiplies two arrays as the layer `Dot(axes, normalize)` does, in its functional form.

    Args:
        inputs: A list of two arrays.
        axes: As in `Dot`.
        normalize: As in `Dot`.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: As in `dot`.
        settings: What the layer takes: `name`, `dtype`.

    Returns:
        Array of `Dot(axes, normalize)(inputs)`.

    Raises:
        TypeError, ValueError, IndexError: As `Dot`.

    Source: `keras.layers.dot`, Keras 2.2.4.
    """
    layer = Dot(axes, normalize, **settings)
    return layer(
        inputs,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
        lowering=lowering,
    )


def _merge(
    inputs: Any,
    mode: str = "sum",
    concat_axis: int = -1,
    dot_axes: Any = -1,
    output_shape: Any = None,
    output_mask: Any = None,
    arguments: Any = None,
    name: str | None = None,
) -> jax.Array:
    """Multiplies two arrays as Keras 1's `merge` does, mode "dot" or "cos".

    "dot" is `batch_dot(x, y, dot_axes)`. "cos" divides it, element by element, by
    `max(sqrt(batch_dot(x, x) * batch_dot(y, y)), 1e-7)`, and puts an axis of size 1 behind the batch. That is the
    cosine only where each product is a number for each sample: of two matrices of vectors (2, 4, 6) along their last
    axes it is (2, 1, 4, 4), divided by products of other rows.

    Args:
        inputs: A list of two arrays.
        mode: "dot" or "cos": the other modes are no products.
        concat_axis: Of another mode, without effect here.
        dot_axes: An int for both, negative from the end of each; or a pair of ints, or of lists of one: ([1], [1]).
        output_shape: Without effect here, as are the others.
        output_mask: Likewise.
        arguments: Likewise.
        name: Likewise.

    Raises:
        ValueError: The mode is no product, or as in `batch_dot`.
        TypeError: dot_axes are neither an int nor a pair, or as in `batch_dot`.

    Source: `keras.layers.merge`, Keras 1.2.2.
    """
    del concat_axis, output_shape, output_mask, arguments, name
    if isinstance(dot_axes, (list, tuple)):  # lists of one axis each came before pairs of ints
        dot_axes = [axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis for axis in dot_axes]
    try:
        keras_shared.check_layer_axes(dot_axes)
        if mode not in ("dot", "cos"):
            line = _MERGES.get(mode, "jax.numpy")
            raise BadValue('mode must be "dot" or "cos"', f"got {mode!r}", f"Of jax.numpy: {line}")
    except Refusal as refusal:
        raise refusal.told(public_name(_merge), f"mode={mode!r}, dot_axes={dot_axes!r}") from None
    x, y = Dot(dot_axes).operands(inputs)
    axes = [dot_axes % np.ndim(x), dot_axes % np.ndim(y)] if isinstance(dot_axes, int) else dot_axes
    if mode == "dot":
        return batch_dot(x, y, axes)
    squares = batch_dot(x, x, axes) * batch_dot(y, y, axes)
    return jnp.expand_dims(batch_dot(x, y, axes) / jnp.maximum(jnp.sqrt(squares), 1e-7), 1)


_MERGES: Final = {
    "sum": "x + y",
    "mul": "x * y",
    "concat": "jnp.concatenate([x, y], concat_axis)",
    "ave": "(x + y) / 2",
    "max": "jnp.maximum(x, y)",
}
backend = namespace(__name__, "backend", batch_dot=batch_dot, dot=dot)
layers = namespace(__name__, "layers", Dot=Dot, dot=_layers_dot, merge=_merge)
