"""Products along chosen axes by SciPy's BLAS, called from XLA's own threads: jbdot's lowering "blas"."""

from typing import Any, Final

import jax
import numpy as np
from jax import lax

from jbdot_native.library import TARGET, problem
from jbdot_native.plan import out_shape, plan

__all__ = ["DTYPES", "dot_general", "fits", "problem"]

DTYPES: Final = ("float32", "float64", "complex64", "complex128")
_LARGEST: Final = 2**31 - 1  # of BLAS' integers


def fits(lhs: Any, rhs: Any, dtype: Any) -> bool:
    """Says whether `dot_general` takes two operands and a result of a dtype, here.

    Args:
        lhs: An array, or what has its shape and dtype.
        rhs: The same.
        dtype: The result's.
    """
    alike = lhs.dtype == rhs.dtype == dtype and lhs.dtype in DTYPES
    small = all(0 < np.prod(x.shape, dtype=object) <= _LARGEST for x in (lhs, rhs))
    return alike and small and not problem()


def dot_general(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any) -> jax.Array:
    """Multiplies as `lax.dot_general` does, on a CPU, by BLAS.

    It is one call of XLA's FFI, without derivatives and without rules for vmap: jbdot calls it where both are done.

    Args:
        lhs: float32, float64, complex64 or complex128.
        rhs: Of the same dtype.
        dimension_numbers: As of `lax.dot_general`.

    Returns:
        The batch axes, lhs' free axes and rhs' free axes, in the operands' dtype, in which products are summed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.arange(6.0).reshape(3, 2)
        >>> dot_general(x, x, (((0,), (0,)), ((), ()))).tolist()
        [[20.0, 26.0], [26.0, 35.0]]
    """
    out = jax.ShapeDtypeStruct(out_shape(lhs.shape, rhs.shape, dimension_numbers), lhs.dtype)
    made = plan(lhs.shape, rhs.shape, dimension_numbers)
    lhs = lhs if made.lhs_order is None else lax.transpose(lhs, made.lhs_order)
    rhs = rhs if made.rhs_order is None else lax.transpose(rhs, made.rhs_order)
    return jax.ffi.ffi_call(TARGET, out)(lhs, rhs, plan=np.array(made.numbers, np.int64))
