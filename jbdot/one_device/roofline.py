"""What a device can do at best, as measured: FLOPs in a large matrix product, bytes read from memory, a second."""

import functools
import math
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jbdot.one_device.dot_spec import DotSpec
from jbdot.timing import rounds

_SIDE: Final = 1024  # of the matrix product: compute-bound on every device, and short
_SECONDS: Final = 0.3  # of measuring each
_BYTES: Final = 256 << 20  # read to measure bandwidth: far more than any cache


@functools.cache
def peak_flops(dtype: str, out: str) -> float:
    """Measures the FLOP/s of the best of three spellings of a 1024 x 1024 x 1024 product of standard normals.

    Args:
        dtype: The operands' dtype.
        out: The result's.
    """
    draw = np.random.default_rng(0)
    x, y = (jnp.asarray(draw.standard_normal((_SIDE, _SIDE)) * 3, dtype) for _ in range(2))
    calls: dict[str, Any] = {}
    for lhs, rhs in ((1, 0), (1, 1), (0, 0)):
        numbers = (((lhs,), (rhs,)), ((), ()))
        dot = functools.partial(lax.dot_general, dimension_numbers=numbers, preferred_element_type=jnp.dtype(out))
        calls[f"{lhs}{rhs}"] = functools.partial(jax.jit(dot), x, y)
    best_us = min(min(times) for times in rounds(calls, _SECONDS).values())
    return 2 * _SIDE**3 * (4 if dtype.startswith("complex") else 1) / best_us * 1e6


@functools.cache
def bandwidth() -> float:
    """Measures the bytes a second that a sum over 256 MiB of float32 reads."""
    x = jnp.zeros(_BYTES // 4, jnp.float32)
    (times,) = rounds({"read": functools.partial(jax.jit(jnp.sum), x)}, _SECONDS).values()
    return _BYTES / min(times) * 1e6


def limit_us(spec: DotSpec) -> float:
    """Bounds a dot's time, in microseconds: its FLOPs at the peak, or its operands and result from memory once.

    Operands that fit in a cache may be read faster than that.
    """
    moved = math.prod(spec.lhs) * jnp.dtype(spec.lhs_dtype).itemsize
    moved += math.prod(spec.rhs) * jnp.dtype(spec.rhs_dtype).itemsize
    moved += math.prod(spec.out) * jnp.dtype(spec.dtype).itemsize
    return 1e6 * max(spec.flops / peak_flops(spec.lhs_dtype, spec.dtype), moved / bandwidth())
