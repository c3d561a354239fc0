"""What both Keras dialects share: the dot and the layer.

Nothing here is a front door; `keras_tf1` and `keras` hold only how they differ.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
from jax import numpy as jnp

from jbdot.calls.axis_pairs import check_pair
from jbdot.calls.dialect_dtypes import Dtypes, TensorFlow
from jbdot.calls.front_door import perform, public_name
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadType, BadValue, Refusal
from jbdot.core.labels import DOT_LHS, DOT_RHS, names
from jbdot.one_device.call_plan import CallPlan, Operand, canonical
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName


def dot(x: Operand, y: Operand, backend: TensorFlow) -> CallPlan:
    """Plans `K.dot`: Keras flattened to matrices where a rank is above 2, and multiplied those."""
    if x.sparse or y.sparse:
        return _sparse_dot(x, y, backend)
    flattened = x.ndim > 2 or y.ndim > 2
    if flattened:
        for operand, needed in ((x, 1), (y, 2)):
            if operand.ndim < needed:
                raise BadIndex(
                    "the contracted axes must exist, the last of x and the last but one of y",
                    f"{operand.name} has rank {operand.ndim}",
                )
    lhs_entry, rhs_entry = backend.enter_matmul(x, y)
    if not flattened and (x.ndim, y.ndim) != (2, 2):
        low = next(operand.name for operand in (x, y) if operand.ndim < 2)
        raise BadValue(
            "an operand must have rank 2 or more",
            f"{x.name} has rank {x.ndim}, {y.name} has rank {y.ndim}",
            f"Of a vector {low}[None] makes a row, {low}[:, None] a column; a scalar is multiplied by with *",
        )
    lhs, rhs = (*names(DOT_LHS, x.ndim - 1), "r"), names(DOT_RHS, y.ndim - 1)
    rhs = (*rhs[:-1], "r", rhs[-1])
    check_pair(x, y, x.ndim - 1, y.ndim - 2)
    return CallPlan(Contraction(lhs, rhs, (*lhs[:-1], *rhs[:-2], rhs[-1])), lhs_entry, rhs_entry)


def _sparse_dot(x: Operand, y: Operand, backend: TensorFlow) -> CallPlan:
    if max(x.ndim, y.ndim) > 2 and y.ndim < 2:
        raise BadIndex("y must have an axis before its last", f"{y.name} has rank {y.ndim}")
    if y.sparse or x.ndim > 2 or y.ndim > 2:
        raise backend.sparse_operand(
            "a sparse operand must be the first one, and both must have rank 2",
            ", ".join(f"{each.name} has rank {each.ndim}{' (sparse)' if each.sparse else ''}" for each in (x, y)),
        )
    backend.sparse.check(x, y)
    if (x.ndim, y.ndim) != (2, 2):
        raise BadValue(
            "the operands of a sparse product must be matrices",
            f"{x.name} has rank {x.ndim}, {y.name} has rank {y.ndim}",
        )
    check_pair(x, y, 1, 0)
    backend.sparse.check_kernel(x)
    return CallPlan(Contraction(("a", "r"), ("r", "i"), ("a", "i")), sparse=True)


class DotLayer:
    """`keras.layers.Dot`, around the `batch_dot` of its module.

    What every layer of Keras is told and a product has no use for is taken, and does nothing: `name`, `trainable`, and
    the others of `_OF_EVERY_LAYER`.
    """

    def __init__(
        self,
        axes: Any,
        normalize: bool = False,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
        **others: Any,
    ) -> None:
        try:
            check_layer_axes(axes)
            unknown = others.keys() - _OF_EVERY_LAYER
            if unknown:
                raise BadType(
                    "a layer must be told what Keras' layers take",
                    f"it takes no {', '.join(sorted(unknown))}",
                    f"Dot takes axes, normalize, name, trainable, dtype, {', '.join(sorted(_OF_EVERY_LAYER))}",
                )
            self.dtype = None if dtype is None else canonical(dtype, "dtype=").name
        except Refusal as refusal:
            raise refusal.told(public_name(type(self)), f"axes={axes!r}") from None
        self.axes, self.normalize = axes, normalize

    def __call__(
        self,
        inputs: Sequence[Any],
        *,
        precision: PrecisionLike = None,
        preferred_element_type: Any = None,
        out_sharding: Any = None,
        lowering: LoweringName | None = None,
    ) -> jax.Array:
        """Answers for a list of two arrays."""
        x, y = self.operands(inputs)
        return perform(type(self), x, y, self.arguments, (precision, preferred_element_type, out_sharding, lowering))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Returns what its planner is told beside the operands."""
        return self.axes, self.normalize, self.dtype

    def operands(self, inputs: Any) -> tuple[Any, Any]:
        """Takes the two operands out of the list that the layer is called with.

        Raises:
            ValueError: It is no list of two.
        """
        is_list = isinstance(inputs, (list, tuple))
        if not is_list or len(inputs) != 2:
            refusal = BadValue(
                "the layer must be called with a list of two arrays",
                f"got a {type(inputs).__name__}" + (f" of {len(inputs)}" if is_list else ""),
                "Call it as Dot(axes)([x, y])",
            )
            raise refusal.told(public_name(type(self)), f"axes={self.axes!r}")
        return inputs[0], inputs[1]


# What `Layer.__init__` of Keras 2 and 3 takes beside name, trainable and dtype.
_OF_EVERY_LAYER: Final = {
    "activity_regularizer",
    "autocast",
    "batch_input_shape",
    "batch_size",
    "dynamic",
    "input_dim",
    "input_dtype",
    "input_shape",
    "weights",
}


def check_layer_axes(axes: Any) -> None:
    """Refuses axes that the layer's constructor refused."""
    if isinstance(axes, int):
        return
    if not isinstance(axes, (list, tuple)):
        raise BadType("axes must be an int or a pair of ints", f"got a {type(axes).__name__}")
    kinds = [type(axis).__name__ for axis in axes]
    if len(kinds) != 2 or not all(isinstance(axis, int) for axis in axes):
        raise BadValue("axes must be an int or a pair of ints", f"got {kinds}")


def autocast(dtype: str | None, *operands: Operand) -> tuple[Operand, ...]:
    """Gives floating operands the dtype of a Keras 2 layer, float32 unless it has another."""
    return tuple(
        dataclasses.replace(operand, dtype=jnp.dtype(dtype or "float32"))
        if jnp.issubdtype(operand.dtype, jnp.floating)
        else operand
        for operand in operands
    )


def dot_layer(
    x: Operand, y: Operand, axes: Any, normalize: bool, batch_dot: Callable[..., CallPlan], normalizable: Dtypes
) -> CallPlan:
    """Plans `Dot(axes, normalize)([x, y])`: checks the axes, normalizes, and leaves the rest to `batch_dot`."""
    check_layer_axes(axes)
    pair = (axes, axes) if isinstance(axes, int) else tuple(axes)
    for operand, axis in zip((x, y), pair, strict=True):
        if operand.ndim == 0 and isinstance(axes, int) and axes < 0:
            raise BadValue("an operand must have an axis to contract", f"{operand.name} is a scalar")
        # An int below 0 counts modulo the rank, a pair is indexed as it stands.
        if not (isinstance(axes, int) and axis < 0) and not -operand.ndim <= axis < operand.ndim:
            raise BadIndex(
                "an axis must lie within its operand's rank",
                f"axis {axis} of {operand.name}, which has rank {operand.ndim}",
            )
    x_axis, y_axis = (axis % operand.ndim for operand, axis in zip((x, y), pair, strict=True))
    check_pair(x, y, x_axis, y_axis)
    for operand in (x, y) if normalize else ():
        normalizable.check(operand, operand)
    planned = batch_dot(x, y, [x_axis, y_axis])
    if not normalize:
        return planned
    for operand in (x, y):
        normalizable.check_kernel(operand)
    return dataclasses.replace(
        planned,
        lhs=dataclasses.replace(planned.lhs, normalize=x_axis),
        rhs=dataclasses.replace(planned.rhs, normalize=y_axis),
    )
