"""`ragged_dot`: rows in groups, each multiplied by its group's matrix."""

from typing import Any, Literal

import jax
from jax import lax

from jbdot.core.errors import BadType, BadValue, Refusal, array_text
from jbdot.one_device import jax_internals
from jbdot.one_device.dot_spec import PrecisionLike
from jbdot.one_device.mark import called


def ragged_dot(
    lhs: Any,
    rhs: Any,
    group_sizes: Any,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    group_offset: Any = None,
    out_sharding: Any = None,
    *,
    lowering: Literal["auto", "direct"] | None = None,
) -> jax.Array:
    """Multiplies each row by the matrix of its group: the rows of a group stand together, the groups in order.

    `out[m,n] = sum_k lhs[m,k] * rhs[g(m),k,n]`, where rows 0 to group_sizes[0] - 1 are of group 0, the next
    group_sizes[1] of group 1, and so on: tokens that were sorted by expert. Rows beyond the last group are 0. On a
    CPU, XLA multiplies every row by every group's matrix; here a group's rows meet its matrix alone, in gradients and
    under vmap too, where that is less. The equation in the jaxpr is lax's own.

    Args:
        lhs: Array (m, k).
        rhs: Array (g, k, n).
        group_sizes: Integers (g), none negative, known only when the program runs.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        group_offset: To be left out: no lowering of JAX's has it.
        out_sharding: As in `lax.ragged_dot`.
        lowering: "auto", or "direct" for JAX's own lowering; None is "auto", or what an `optimize` context around the
            call says.

    Returns:
        Array (m, n) of the dtype of `lax.ragged_dot`.

    Raises:
        TypeError, ValueError: lax refuses the arrays or a setting, or `lowering` or `group_offset` is another.

    Differs: In a row of a group whose matrix is finite, infinities and nan of other groups' matrices leave no nan.
    Source: `jax.lax.ragged_dot`.

    Example:
        >>> from jbdot import ragged_dot
        >>> import jax.numpy as jnp
        >>> tokens, experts = jnp.ones((6, 4)), jnp.arange(3.0)[:, None, None] * jnp.ones((3, 4, 2))
        >>> ragged_dot(tokens, experts, jnp.array([1, 3, 2]))[:, 0]
        Array([0., 4., 4., 4., 8., 8.], dtype=float32)
    """
    try:
        if lowering not in (None, "auto", "direct"):
            raise BadValue('lowering of a ragged dot must be "auto" or "direct"', f"got {lowering!r}")
        if group_offset is not None:
            raise BadValue("group_offset must be left out", "no lowering of JAX's has it")
        try:
            with called(lowering):
                return lax.ragged_dot(
                    lhs, rhs, group_sizes, precision, preferred_element_type, out_sharding=out_sharding
                )
        except (TypeError, ValueError, NotImplementedError, jax_internals.sharding_error()) as error:
            kind, said = BadType if isinstance(error, TypeError) else BadValue, " ".join(str(error).split())
            raise kind("lax.ragged_dot must take these arrays and settings", said.rstrip(".")) from error
    except Refusal as refusal:
        arrays = {"lhs": lhs, "rhs": rhs, "group_sizes": group_sizes}
        said = (_text(name, each) for name, each in arrays.items())
        raise refusal.told("ragged_dot", ", ".join(said)) from refusal.__cause__


def _text(name: str, x: Any) -> str:
    return array_text(name, x.shape, x.dtype) if hasattr(x, "shape") else f"{name} a {type(x).__name__}"
