"""`keras.backend` and `keras.layers.Dot` as Keras since 2.2.5, tf.keras 2 and Keras 3's legacy backend have them.

Here axis 0 alone is a batch axis of `batch_dot`, and all others that are not contracted are kept.
Source: tf_keras/src/backend.py and tf_keras/src/layers/merging/dot.py of tf_keras 2.21.
"""

import dataclasses
import operator
from typing import Any

import jax
import numpy as np

from jbdot.calls import keras_names, keras_shared
from jbdot.calls.axis_pairs import check_pair
from jbdot.calls.dialect_dtypes import TENSORFLOW_2, Dtypes
from jbdot.calls.front_door import namespace, perform, plans, speaks
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadType, BadValue
from jbdot.core.labels import LHS_FREE, RHS_FREE, names
from jbdot.one_device.call_plan import CallPlan, Operand
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName

speaks(__name__, "every Keras since 2.2.5", keras_names.LINES | keras_names.SINCE_2_2_5)
__all__ = ["Dot", "backend", "batch_dot", "dot", "layers"]

_NORMALIZE = Dtypes("bfloat16 float16 float32 float64 complex64 complex128", no_square="bool")


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
        y: Array (..., R, N), of x's dtype; bfloat16 with float32 gives float32.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (*x.shape[:-1], *y.shape[:-2], N) of the operands' dtype.

    Raises:
        ValueError: The two sizes R differ, a rank is too low, the dtypes differ or have no product.
        IndexError: An operand has no such axis (a scalar, or a vector y where x has rank 3).

    Differs: from `keras_tf1.dot` in the class of errors about dtypes, and in taking R = 0 in any rank.
    Source: `tf_keras.backend.dot`, tf_keras 2.21.

    Example:
        >>> from jbdot.keras import dot
        >>> import jax.numpy as jnp
        >>> dot(jnp.ones((2, 3, 4)), jnp.ones((7, 4, 5))).shape
        (2, 3, 7, 5)
    """
    return perform(dot, x, y, (), (precision, preferred_element_type, out_sharding, lowering), key=())


@plans(dot)
def _dot(x: Operand, y: Operand) -> CallPlan:
    return keras_shared.dot(x, y, TENSORFLOW_2)


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
    """Multiplies each sample of x with the same sample of y, along one axis of each.

    `out[b,m,i,n,u] = sum_k x[b,m,i,k] * y[b,k,n,u]`, where k stands wherever `axes` say.

    Args:
        x: Array (batch, ...) of rank 2 or more.
        y: Array (batch, ...) of rank 2 or more, of x's dtype.
        axes: The axis to contract, 0-based, negative from the end, not 0: an int for both, a
            pair, or None: the last of x, and the last but one of y (its last if it has rank 2).
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Either operand may be a `BCOO`, as Keras 3's `Dot` takes them on JAX.

    Returns:
        Array (batch, x's other axes, y's other axes) of the operands' dtype; (batch, 1) where
        both have rank 2; a `BCOO` where both are.

    Raises:
        ValueError: A rank is below 2, batch or contracted sizes differ, an axis is 0, axes hold
            a list or more than two, dtypes differ or have no product.
        TypeError: An axis is not an int.
        IndexError: An axis is out of range, or there is one axis only.

    Differs: `jbdot.keras_tf1.batch_dot` takes all leading axes as batch, and multiplies matrices.
    Source: `tf_keras.backend.batch_dot`, tf_keras 2.21.

    Example:
        >>> from jbdot.keras import batch_dot
        >>> import jax.numpy as jnp
        >>> batch_dot(jnp.ones((10, 12, 4, 5)), jnp.ones((10, 12, 5, 8))).shape
        (10, 12, 4, 12, 8)
    """
    return perform(batch_dot, x, y, (axes,), (precision, preferred_element_type, out_sharding, lowering))


@plans(batch_dot)
def _batch_dot(x: Operand, y: Operand, axes: Any) -> CallPlan:
    for operand in (x, y):
        if operand.ndim < 2:
            raise BadValue(
                "an operand must have rank 2 or more",
                f"{operand.name} has rank {operand.ndim}",
                "Add a batch axis with x[None]",
            )
    if x.shape[0] != y.shape[0]:
        raise BadValue(
            "axis 0 is the batch and must have one size in both",
            f"axis 0 of {x.name} has size {x.shape[0]}, axis 0 of {y.name} has size {y.shape[0]}",
        )
    x_axis, y_axis = _axes(x, y, axes)
    check_pair(x, y, x_axis, y_axis, _leading(x, y))
    TENSORFLOW_2.batch_matmul.check(x, y)
    if x_axis < 0 or y_axis < 0:
        return _wrapped(x, y, x_axis, y_axis)
    lhs, rhs = list(names(LHS_FREE, x.ndim - 2)), list(names(RHS_FREE, y.ndim - 2))
    out = ("b", *lhs, *rhs) if lhs or rhs else ("b", None)
    lhs.insert(x_axis - 1, "k")
    rhs.insert(y_axis - 1, "k")
    return CallPlan(Contraction(("b", *lhs), ("b", *rhs), out), sparse=x.sparse or y.sparse)


class Dot(keras_shared.DotLayer):
    """Dot product of two arrays' samples: a layer around `keras.batch_dot`.

    `Dot(axes, normalize)([x, y])` is `batch_dot(x, y, axes)` after checks; floating operands are
    cast to float32, the layer's dtype. With `normalize`, x and y are first divided by their L2
    norms along the axes: `out[b,0] = sum_k x[b,k] * y[b,k] / (|x[b]| |y[b]|)`.

    Args:
        axes: An int for both, or a pair of ints; negative from the end.
        normalize: Whether to divide by the norms (cosine proximity).
        name: Of the layer, without effect here; likewise `trainable` and what else every layer of Keras takes.
        dtype: What floating operands are cast to; None is float32.

    Raises:
        TypeError: axes are neither an int nor a list or tuple, or a setting is none of a layer's.
        ValueError: axes are no pair of ints, the sizes along them differ, or as in `batch_dot`.
        IndexError: An axis is out of range.

    Differs: `jbdot.keras_tf1.Dot` goes through the earlier `batch_dot`, in the operands' dtype. Keras 3's
        own layer promotes two dtypes (float32 by int32 is float32); this refuses them, as tf_keras does.
    Source: `tf_keras.layers.Dot`, tf_keras 2.21.

    Example:
        >>> from jbdot.keras import Dot
        >>> import jax.numpy as jnp
        >>> Dot(axes=1)([jnp.ones((2, 3)), jnp.ones((2, 3))]).shape
        (2, 1)
    """


@plans(Dot)
def _dot_layer(x: Operand, y: Operand, axes: Any, normalize: bool, dtype: str | None) -> CallPlan:
    x32, y32 = keras_shared.autocast(dtype, x, y)
    planned = keras_shared.dot_layer(x32, y32, axes, normalize, _batch_dot, _NORMALIZE)
    cast = {
        side: dataclasses.replace(getattr(planned, side), dtype=new.dtype.name)
        for side, old, new in (("lhs", x, x32), ("rhs", y, y32))
        if old.dtype != new.dtype
    }
    return dataclasses.replace(planned, **cast)


def _axes(x: Operand, y: Operand, axes: Any) -> tuple[int, int]:
    """Reads axes as Keras does; an axis too far below 0 stays negative."""
    if axes is None:
        return x.ndim - 1, 1 if y.ndim == 2 else y.ndim - 2
    if isinstance(axes, int):
        axes = (axes, axes)
    try:
        pair = list(axes)
    except TypeError:
        raise BadType("axes must be None, an int or a pair of ints", f"a {type(axes).__name__}") from None
    if any(isinstance(axis, (list, tuple)) or np.size(axis) != 1 for axis in pair):
        raise BadValue(
            "one axis of each operand must be named", "axes hold a list", "tensordot contracts several at once"
        )
    try:
        found = [operator.index(axis) for axis in pair[:2]]
    except TypeError:
        raise BadType("an axis must be an int", f"axes are {[type(axis).__name__ for axis in pair]}") from None
    if len(found) < 2:
        raise BadIndex("axes must be a pair", f"there is {len(pair)}")
    found[:2] = (axis + operand.ndim if axis < 0 else axis for operand, axis in zip((x, y), found, strict=False))
    if 0 in found + pair[2:]:
        raise BadValue(
            "axis 0 is the batch and must not be contracted",
            f"axes name axis 0 of {x.name if found[0] == 0 else y.name}",
            "Add a batch axis with x[None] if there is none",
        )
    if len(pair) > 2:
        raise BadValue("axes must be a pair", f"there are {len(pair)}")
    for operand, axis in zip((x, y), found, strict=True):
        if not -operand.ndim <= axis < operand.ndim:
            raise BadIndex(
                "an axis must lie within its operand's rank",
                f"axis {axis} of {operand.name}, which has rank {operand.ndim}",
            )
    return found[0], found[1]


def _wrapped(x: Operand, y: Operand, x_axis: int, y_axis: int) -> CallPlan:
    """Says what Keras makes of an axis that is still negative once the rank was added, such as -4 in rank 3.

    Its loops that move the contracted axis into place then build other permutations, which
    pair other axes as batch. The loops are run here on axis numbers.
    """
    # A matrix gets a unit axis (None) beside its contracted one: x in the middle, y at the end.
    xs: list[int | None] = [0, None, 1] if x.ndim == 2 else list(range(x.ndim))
    ys: list[int | None] = [0, 1, None] if y.ndim == 2 else list(range(y.ndim))
    x_axis += x.ndim == 2
    x_order, y_order = list(range(len(xs))), list(range(len(ys)))
    for i in range(x_axis, len(xs) - 1):
        x_order[i] = x_order[i + 1]
    x_order[-1] = x_axis
    for i in range(y_axis, 1, -1):
        y_order[i] = y_order[i - 1]
    y_order[1] = y_axis
    for operand, order in ((x, x_order), (y, y_order)):
        if len({i % len(order) for i in order}) != len(order):
            raise BadValue(
                "an axis must lie within its operand's rank",
                f"the axis given for {operand.name}, which has rank {operand.ndim}, counts from before axis 0",
            )
    x_batch, *x_kept, x_contracted = (xs[i] for i in x_order)
    y_batch, y_contracted, *y_kept = (ys[i] for i in y_order)
    lhs: dict[int | None, str | None] = dict(
        zip([i for i in x_kept if i is not None], names(LHS_FREE, x.ndim), strict=False)
    )
    rhs: dict[int | None, str | None] = dict(
        zip([i for i in y_kept if i is not None], names(RHS_FREE, y.ndim), strict=False)
    )
    batch = [(operand.shape[i] if i is not None else 1) for operand, i in ((x, x_batch), (y, y_batch))]
    lhs[x_batch] = None if batch[0] == 1 != batch[1] else "b"
    rhs[y_batch] = None if batch[1] == 1 != batch[0] else "b"
    lhs[x_contracted] = None if y_contracted is None else "k"
    rhs[y_contracted] = None if x_contracted is None else "k"
    out = ["b" if "b" in (lhs.get(x_batch) if x_batch is not None else None, rhs.get(y_batch)) else None]
    out += [None if i is None else lhs[i] for i in x_kept] + [None if i is None else rhs[i] for i in y_kept]
    dropped = out.pop(1 if x.ndim == 2 else -1) if 2 in (x.ndim, y.ndim) else None
    left, right = tuple(lhs[i] for i in range(x.ndim)), tuple(rhs[i] for i in range(y.ndim))
    left, right = (tuple(None if label == dropped else label for label in side) for side in (left, right))
    return CallPlan(Contraction(left, right, tuple(out)))


def _leading(x: Operand, y: Operand) -> str:
    """Says what to say when the operands share more leading sizes than the batch: older code meant all of them."""
    shared = 0
    while shared < min(x.ndim, y.ndim) and x.shape[shared] == y.shape[shared]:
        shared += 1
    if shared < 2:
        return ""
    return (
        f"The operands share their leading sizes {x.shape[:shared]}: "
        "Keras up to 2.2.4 on TensorFlow took all leading axes as batch, "
        "and code written for it needs jbdot.keras_tf1.batch_dot, in this call and in those that made its operands"
    )


def _layers_dot(
    inputs: Any,
    axes: Any = -1,
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

    Source: `keras.layers.dot`, Keras 3.15; in tf_keras 2.21 axes have no default.
    """
    layer = Dot(axes, normalize, **settings)
    return layer(
        inputs,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
        lowering=lowering,
    )


backend = namespace(__name__, "backend", batch_dot=batch_dot, dot=dot)
layers = namespace(__name__, "layers", Dot=Dot, dot=_layers_dot)
