"""Times the lowerings of one dot side by side on the device at hand."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.timing import Spread, Track, ratios, rounds


@dataclasses.dataclass(frozen=True)
class Timing:
    """One lowering of one dot.

    Attributes:
        lowering: Its name.
        compile_ms: Compiling it, once.
        us: A call, in microseconds: median, 10th and 90th percentile of the rounds.
        gain: How many times faster than "direct" in the same rounds.
    """

    lowering: str
    compile_ms: float
    us: Spread
    gain: Spread


def measure(spec: DotSpec, names: Iterable[str], seconds: float, track: Track = iter) -> list[Timing]:
    """Times lowerings of a dot side by side on random operands, fastest first."""
    lhs, rhs = operands(spec)
    compiled = {name: compiled_lowering(spec, name, lhs, rhs) for name in names}
    times = rounds({name: call for name, (call, _) in compiled.items()}, seconds, track=track)
    gains = ratios(times, "direct")
    found = [Timing(name, compiled[name][1], Spread.of(times[name]), gains[name]) for name in compiled]
    return sorted(found, key=lambda timing: timing.us.median)


def operands(spec: DotSpec) -> tuple[jax.Array, jax.Array]:
    """Draws operands: standard normal, or integers from -9 to 9."""
    draw = np.random.default_rng(0)

    def array(shape: tuple[int, ...], name: str) -> jax.Array:
        dtype = jnp.dtype(name)
        if jnp.issubdtype(dtype, jnp.integer):
            low = 0 if jnp.issubdtype(dtype, jnp.unsignedinteger) else -9
            return jnp.asarray(draw.integers(low, 10, shape), dtype)
        values = draw.standard_normal(shape, np.float32)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            return jnp.asarray(values + 1j * draw.standard_normal(shape, np.float32), dtype)
        return jnp.asarray(values, dtype)

    return array(spec.lhs, spec.lhs_dtype), array(spec.rhs, spec.rhs_dtype)


def compiled_lowering(spec: DotSpec, name: str, lhs: jax.Array, rhs: jax.Array) -> tuple[Callable[[], Any], float]:
    """Compiles a lowering for these operands: the call, and the milliseconds that compiling took."""
    lowered = jax.jit(functools.partial(LOWERINGS[name], spec)).lower(lhs, rhs)
    start = time.perf_counter()
    compiled = lowered.compile()
    return functools.partial(compiled, lhs, rhs), (time.perf_counter() - start) * 1e3


def platform() -> str:
    """Says what lowering rules call the default backend: JAX says "gpu" for two of them."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend
