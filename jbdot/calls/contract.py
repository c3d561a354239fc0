"""The core's own front doors: a contraction said by its labels or its dimension numbers."""

import contextlib
import operator
from collections.abc import Sequence
from typing import Any, Final

import jax
from jax import lax

from jbdot.calls.front_door import is_array, perform, plans
from jbdot.calls.many_operands import perform_all, reads
from jbdot.core.contraction import Contraction
from jbdot.one_device import jax_internals
from jbdot.one_device.call_plan import CallPlan, Operand
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.lowerings import LoweringName
from jbdot.one_device.mark import called

_LAX_RAISES: Final = (TypeError, ValueError, IndexError, NotImplementedError, jax_internals.sharding_error())


def contract(
    contraction: Contraction | str,
    *operands: Any,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies arrays as a contraction says.

    `contract("b m k, b k n -> b m n", lhs, rhs)` is `out[b,m,n] = sum_k lhs[b,m,k] * rhs[b,k,n]`. More than two are
    multiplied two at a time, in the order that is estimated to take the least time. That is chosen anew where the
    program is lowered, from the sizes that stand there, after `vmap`, in gradients too; not with "direct".

    Args:
        contraction: A `Contraction`, or its string: labels with spaces between, or einsum's
            letters ("bmk,bkn->bmn"); `1` is a unit axis, `...` stands for axes that broadcast.
        operands: Arrays, each with an axis for each label of its term: two most often; one, which is summed and
            transposed; or any number.
        precision: As in `lax.dot_general`, for every product.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`, for the result's own axes.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array with an axis for each label of `contraction.out`, of the dtype of `lax.dot_general`. Products on the way
        have that dtype too.

    Raises:
        TypeError: contraction is neither a Contraction nor a string, or an operand is no array.
        ValueError: The string is malformed, has not a term for each operand, or a rank or size does not fit the labels.

    Differs: `dot_general` names axes by number.

    Example:
        >>> from jbdot import contract
        >>> import jax.numpy as jnp
        >>> contract("batch query d, batch key d -> batch query key", jnp.ones((2, 3, 8)), jnp.ones((2, 5, 8))).shape
        (2, 3, 5)
        >>> contract("i,ij,jk->k", jnp.ones(3), jnp.ones((3, 4)), jnp.ones((4, 5))).shape
        (5,)
    """
    settings = precision, preferred_element_type, out_sharding, lowering
    if len(operands) != 2:
        return perform_all(contract, operands, (contraction,), settings)
    lhs, rhs = operands
    return perform(contract, lhs, rhs, (contraction,), settings, contraction)


@plans(contract)
def _contract(lhs: Operand, rhs: Operand, contraction: Any) -> CallPlan:
    return CallPlan(_contract_all((lhs, rhs), contraction), sparse=lhs.sparse or rhs.sparse)


@reads(contract)
def _contract_all(operands: Sequence[Operand], contraction: Any) -> Contraction:
    if isinstance(contraction, Contraction):
        return contraction
    return Contraction.parse(contraction, *(x.shape for x in operands))


def dot_general(
    lhs: Any,
    rhs: Any,
    dimension_numbers: Any,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    *,
    out_sharding: Any = None,
    lowering: LoweringName | None = None,
) -> jax.Array:
    """Multiplies two arrays as dimension numbers say: `lax.dot_general`, through a `Contraction`.

    Takes what `lax.dot_general` takes, and can stand where a library lets a `dot_general` be
    injected: `flax.linen.Dense(dot_general=jbdot.dot_general)`.

    Args:
        lhs: Array of any rank.
        rhs: Array of any rank.
        dimension_numbers: `((lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch))`, each a
            sequence of 0-based axes, not negative.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`.
        lowering: "auto", "direct" or the name of a lowering; None is "auto", or what an
            `optimize` context around the call says.

    Returns:
        Array (batch..., lhs' other axes..., rhs' other axes...) of the dtype of `lax.dot_general`.

    Raises:
        TypeError, ValueError, ShardingTypeError: Whatever `lax.dot_general` raises for the call, in jbdot's words; and
            ValueError where the named lowering does not fit.

    Differs: `contract` names axes by label.
    Source: `jax.lax.dot_general`.

    Example:
        >>> from jbdot import dot_general
        >>> import jax.numpy as jnp
        >>> dot_general(jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5)), (((2,), (1,)), ((0,), (0,)))).shape
        (2, 3, 5)
    """
    settings = precision, preferred_element_type, out_sharding, lowering
    # What is traced, and what is an array to a library alone that has put its own dot in the place of lax's.
    if not (is_array(lhs) and is_array(rhs)) and (lowering is None or str(lowering) == "direct"):
        # What lax refuses is said below, in our words; what a library's own dot raises is its own.
        with contextlib.suppress(*(() if jax_internals.is_patched() else _LAX_RAISES)), called(lowering):
            return lax.dot_general(
                lhs, rhs, dimension_numbers, precision, preferred_element_type, out_sharding=out_sharding
            )
    try:
        return perform(dot_general, lhs, rhs, (dimension_numbers,), settings, key=dimension_numbers)
    except _LAX_RAISES as error:
        raise _as_lax(error, lhs, rhs, (dimension_numbers, *settings)) from error.__cause__


def _as_lax(error: Exception, lhs: Any, rhs: Any, arguments: tuple[Any, ...]) -> Exception:
    """Puts the same words in the class of error that `lax.dot_general` raises for the call, where it refuses too."""
    numbers, precision, preferred_element_type, out_sharding, _ = arguments
    try:
        jax.eval_shape(
            lambda lhs, rhs: lax.dot_general(
                lhs, rhs, numbers, precision, preferred_element_type, out_sharding=out_sharding
            ),
            lhs,
            rhs,
        )
    except Exception as lax_error:
        is_other = type(lax_error) in _LAX_RAISES and not isinstance(error, type(lax_error))
        return type(lax_error)(str(error)) if is_other else error
    return error


@plans(dot_general)
def _dot_general(lhs: Operand, rhs: Operand, dimension_numbers: Any) -> CallPlan:
    try:  # lax takes a bare number for one axis
        numbers = tuple(tuple(_axes(axes) for axes in pair) for pair in dimension_numbers)
    except TypeError:
        numbers = dimension_numbers  # of another form: refused in the contraction's words
    return CallPlan(Contraction.from_dimension_numbers(numbers, lhs.ndim, rhs.ndim), sparse=lhs.sparse or rhs.sparse)


def _axes(axes: Any) -> tuple[int, ...]:
    return (operator.index(axes),) if hasattr(axes, "__index__") else tuple(map(operator.index, axes))
