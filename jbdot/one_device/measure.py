"""Times the lowerings of one dot side by side on the device at hand."""

import concurrent.futures
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.one_device import mark, tuning_cache
from jbdot.one_device.choice import candidates
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.timing import Call, Spread, Track, ratios, rounds

SURE: Final = 1.03  # a lowering has to be this much faster than one lax.dot_general, in nine rounds of ten, to win
HOPELESS: Final = 8.0  # times the fastest: not timed again
SECONDS: Final = 0.3  # of timing a dot that is lowered as "measured", and once more to compile

_running: Final = threading.Lock()  # one measurement at a time: two would disturb each other


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


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The lowerings of one dot as compiled calls, and random operands for them.

    Attributes:
        operands: Both.
        calls: By lowering.
        compile_ms: Compiling each, in milliseconds.
        refused: What the backend said of those that it does not run.
    """

    operands: tuple[jax.Array, jax.Array]
    calls: dict[str, Call]
    compile_ms: dict[str, float]
    refused: dict[str, str]

    @classmethod
    def of(cls, spec: DotSpec, names: Iterable[str] = ()) -> "Candidates":
        """Compiles lowerings of a dot, all that fit if none is named, and runs each once."""
        arrays = operands(spec)
        made = cls(arrays, {}, {}, {})
        for name in names or candidates(spec):
            try:
                call, compile_ms = compiled_lowering(spec, name, *arrays)
                jax.block_until_ready(call())
            except jax.errors.JaxRuntimeError as error:  # a backend has not every kernel that it accepts
                made.refused[name] = str(error)
                continue
            made.calls[name], made.compile_ms[name] = call, compile_ms
        return made

    def hopeless(self, times: float = HOPELESS, keeps: Iterable[str] = ("direct",)) -> dict[str, float]:
        """Times each call once, and gives the microseconds of those so many times slower than the fastest."""
        once = {name: _once_us(call) for name, call in self.calls.items()}
        least = min(once.values(), default=0.0)
        return {name: us for name, us in once.items() if us > times * least and name not in keeps}


def _once_us(call: Call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return (time.perf_counter() - start) * 1e6


def measure(spec: DotSpec, names: Iterable[str], seconds: float, track: Track = iter) -> list[Timing]:
    """Times lowerings of a dot side by side on random operands, fastest first; none that the backend refuses."""
    made = Candidates.of(spec, names)
    return timed(made, made.calls, seconds, track)


def timed(made: Candidates, names: Iterable[str], seconds: float, track: Track = iter) -> list[Timing]:
    """Times these of the candidates side by side, fastest first."""
    times = rounds({name: made.calls[name] for name in names}, seconds, track=track)
    gains = ratios(times, "direct" if "direct" in times else next(iter(times)))
    found = [Timing(name, made.compile_ms[name], Spread.of(times[name]), gains[name]) for name in times]
    return sorted(found, key=lambda timing: timing.us.median)


def surest(timings: Iterable[Timing]) -> Timing:
    """Returns the fastest of those that are surely faster than "direct", which is one of them."""
    sure = [timing for timing in timings if timing.lowering == "direct" or timing.gain.p10 > SURE]
    return min(sure, key=lambda timing: timing.us.median)


def measure_once(spec: DotSpec, on: str) -> None:
    """Times the lowerings of a dot that is being lowered as "measured", if it was not timed before on this machine.

    What wins is kept in this process, and in the file of `jbdot.tune` for others. Nothing is timed for a platform that
    is not here, in programs of several processes, nor while another dot is timed.
    """
    if on != platform() or jax.process_count() > 1 or tuning_cache.choice(spec, on, measured=True) is not None:
        return
    names = candidates(spec)
    if len(names) == 1 or not _running.acquire(blocking=False):
        return
    try:
        said = f"jbdot: timing {len(names)} lowerings of {spec}"
        if sys.stderr.isatty():
            print(said, file=sys.stderr, flush=True)
        # In a thread of its own: what JAX is set to where the program is lowered does not reach there.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            won = pool.submit(winner, spec, names).result()
        if won is not None:
            tuning_cache.keep_measured(spec, on, won.lowering, won.gain.median)
    finally:
        _running.release()


def winner(spec: DotSpec, names: list[str]) -> Timing | None:
    """Times lowerings of a dot, and returns the one that is taken where it is lowered as "measured"; None for none."""
    wide = any(name in ("float64", "complex128", "int64", "uint64") for name in (spec.lhs_dtype, spec.dtype))
    with jax.enable_x64(wide):
        made = Candidates.of(spec, names)
        if "direct" not in made.calls:
            return None
        hopeless = made.hopeless()
        return surest(timed(made, [name for name in made.calls if name not in hopeless], SECONDS))


def operands(spec: DotSpec) -> tuple[jax.Array, jax.Array]:
    """Draws operands: standard normal, integers from -9 to 9, or as many true as false."""
    draw = np.random.default_rng(0)

    def array(shape: tuple[int, ...], name: str) -> jax.Array:
        dtype = jnp.dtype(name)
        if name == "bool":
            return jnp.asarray(draw.random(shape) < 0.5)
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
    with mark.marked("direct"):  # its own dots are not chosen for, whatever is said of the process
        lowered = jax.jit(functools.partial(LOWERINGS[name], spec)).lower(lhs, rhs)
    start = time.perf_counter()
    compiled = lowered.compile()
    return functools.partial(compiled, lhs, rhs), (time.perf_counter() - start) * 1e3


def platform() -> str:
    """Says what lowering rules call the default backend: JAX says "gpu" for two of them."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend
