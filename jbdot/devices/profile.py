"""Measures a device kind whose figures are not published."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jbdot.hardware import Hardware
from jbdot.timing import rounds


def profile(mesh: Mesh, seconds: float = 0.5, side: int = 512, length: int = 1 << 22) -> Hardware:
    """Measures a device kind whose figures are not known: all devices of a mesh at once, of one process.

    Nothing calls this by itself. Rates are reached, not peaks; the interconnect counts as a switch.

    Args:
        mesh: Its devices are measured together, so that those that share cores or memory share them here.
        seconds: About how long to measure each figure.
        side: Of the square matrices that are multiplied on each device.
        length: Bytes that each device gathers, and sixteen times that it reads.
    """
    devices = mesh.devices.flatten()
    line = Mesh(devices, ("device",))
    count = len(devices)
    peak = {dtype: _flops(line, dtype, side, seconds) for dtype in ("float32", "bfloat16")}
    start_us = _gather_us(line, count * 4, seconds)
    gathered_us = max(_gather_us(line, length, seconds) - start_us, 1e-3)
    rate = length * (count - 1) / count / gathered_us * 1e6 if count > 1 else math.inf
    return Hardware(
        name=f"{devices[0].device_kind}, measured",
        kinds=(devices[0].device_kind,),
        peak=peak,
        memory_bytes=math.inf,
        memory_bytes_per_s=_read(line, 16 * length, seconds),
        link_bytes_per_s=rate,
        hop_us=0.0,
        start_us=start_us,
        network_bytes_per_s=rate,
        network_hop_us=0.0,
        sources=(f"measured on {count} devices together, jax {jax.__version__}",),
    )


def _flops(line: Mesh, dtype: str, side: int, seconds: float) -> float:
    """Measures the FLOP/s of each device while all multiply."""
    x = _spread(line, np.random.default_rng(0).standard_normal((line.size, side, side)), dtype)
    return 2 * side**3 / _best_us(functools.partial(jax.jit(jnp.matmul), x, x), seconds) * 1e6


def _read(line: Mesh, length: int, seconds: float) -> float:
    """Measures the bytes a second that each device reads while all do."""
    x = _spread(line, np.zeros((line.size, length // 4)), "float32")
    return length / _best_us(functools.partial(jax.jit(functools.partial(jnp.sum, axis=1)), x), seconds) * 1e6


def _gather_us(line: Mesh, length: int, seconds: float) -> float:
    x = _spread(line, np.zeros(length // 4 // line.size * line.size), "float32")
    gather = jax.jit(lambda x: x, out_shardings=NamedSharding(line, PartitionSpec()))
    return _best_us(functools.partial(gather, x), seconds)


def _spread(line: Mesh, x: Any, dtype: str) -> jax.Array:
    return jax.device_put(jnp.asarray(x, dtype), NamedSharding(line, PartitionSpec("device")))


def _best_us(call: Callable[[], Any], seconds: float) -> float:
    """Times calls, each of which waits for the last: collectives that queue up can lock on CPU devices."""
    (times,) = rounds({"call": lambda: jax.block_until_ready(call())}, seconds).values()
    return min(times)
