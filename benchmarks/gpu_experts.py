"""Rows in groups, each times its group's matrix: `lax.ragged_dot`, jbdot's loop, one dense dot of the same FLOPs."""

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jbdot.one_device import ragged
from jbdot.one_device.mark import marked
from jbdot.one_device.ragged import RaggedSpec

SIZES: Final = ((4096, 512, 1024, 16), (2048, 256, 512, 8), (1024, 256, 256, 64))  # rows, k, n, groups
SMALL: Final = ((64, 16, 24, 4),)
DTYPES: Final = ("float32", "bfloat16")
NUMBERS: Final = lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), (0,), (0,))
WAYS: Final = ("lax", "grouped", "dense")


def keys(small: bool = False) -> list[str]:
    """Names the cases: `rows x k x n, groups, dtype, direction`."""
    return [
        f"{rows} x {k} x {n}, {groups}, {dtype}, {direction}"
        for rows, k, n, groups in (SMALL if small else SIZES)
        for dtype in DTYPES
        for direction in ("forward", "gradient")
    ]


def functions(key: str) -> dict[str, Callable[..., Any]]:
    """What is compared: functions of the rows, the groups' matrices and the groups' sizes."""
    direction = key.split(", ")[-1]
    forward = {"lax": _lax, "grouped": _grouped, "dense": _dense}
    if direction == "forward":
        return dict(forward)
    return {name: functools.partial(_gradients, function) for name, function in forward.items()}


def operands(key: str, numbers: Callable[..., list[np.ndarray]]) -> list[np.ndarray]:
    """Draws rows and matrices, and sizes of groups that fill the rows."""
    sizes, groups, dtype, _ = key.split(", ")
    rows, k, n = map(int, sizes.split(" x "))
    cuts = np.sort(np.random.default_rng(7).integers(0, rows + 1, int(groups) - 1))
    counts = np.diff(np.concatenate([[0], cuts, [rows]])).astype(np.int32)
    return [*numbers([(rows, k), (int(groups), k, n)], dtype), counts]


def flops(key: str) -> int:
    """Counts 2 for each multiply-add of a row with the matrix of its group, three times as many with both gradients."""
    sizes, _, _, direction = key.split(", ")
    return 2 * math.prod(map(int, sizes.split(" x "))) * (3 if direction == "gradient" else 1)


def _lax(x: Any, y: Any, sizes: Any) -> Any:
    with marked("direct"):
        return lax.ragged_dot(x, y, sizes)


@jax.custom_vjp
def _grouped(x: Any, y: Any, sizes: Any) -> Any:
    return _loop(NUMBERS, x, y, sizes, (x.shape[0], y.shape[2]))


def _forward(x: Any, y: Any, sizes: Any) -> Any:
    return _grouped(x, y, sizes), (x, y, sizes)


def _backward(kept: Any, out: Any) -> Any:
    x, y, sizes = kept
    of_rows = lax.RaggedDotDimensionNumbers((((1,), (2,)), ((), ())), (0,), (0,))
    of_groups = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())
    return _loop(of_rows, out, y, sizes, x.shape), _loop(of_groups, x, out, sizes, y.shape), None


_grouped.defvjp(_forward, _backward)


def _loop(numbers: Any, lhs: Any, rhs: Any, sizes: Any, shape: tuple[int, ...]) -> Any:
    spec = RaggedSpec.of(lhs, rhs, sizes, jax.ShapeDtypeStruct(shape, lhs.dtype), numbers, None)
    return ragged.grouped(spec, lhs, rhs, sizes)


def _dense(x: Any, y: Any, _: Any) -> Any:
    return jnp.matmul(x, y[0])


def _gradients(function: Callable[..., Any], x: Any, y: Any, sizes: Any) -> Any:
    out, pull = jax.vjp(lambda x, y: function(x, y, sizes), x, y)
    return out, *pull(out)
