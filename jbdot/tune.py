"""Times the lowerings of a dot on the device at hand, and keeps the fastest for `"auto"` to use."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from jbdot import front_door, tuned
from jbdot.choice import candidates, chosen
from jbdot.contract import contract
from jbdot.contraction import Contraction
from jbdot.errors import BadType, BadValue, Refusal
from jbdot.lowerings import LOWERINGS
from jbdot.optimize import optimize
from jbdot.request import Request
from jbdot.table import table
from jbdot.timing import Spread, Track, ratios, rounds

_SURE: Final = 1.03  # a lowering has to be this much faster than one lax.dot_general, in nine rounds of ten, to win


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
class Tuned:
    """What was found for one dot: every lowering's timing, and the winner.

    Attributes:
        request: The dot.
        device: The device's kind.
        timings: One for each lowering that can carry the dot out, fastest first.
        winner: The lowering that `"auto"` uses from now on.
        before: The one that it would have used.
    """

    request: Request
    device: str
    timings: tuple[Timing, ...]
    winner: str
    before: str

    def __str__(self) -> str:
        rows = [("lowering", "us a call (10 % to 90 %)", "times faster", "compile, ms")]
        rows += [(t.lowering, str(t.us), str(t.gain), f"{t.compile_ms:.0f}") for t in self.timings]
        kept = f"kept: {self.winner}" + ("" if self.winner == self.before else f" (the rules said {self.before})")
        return f"{self.request} on {self.device}\n\n{table(rows)}\n\n  {kept}"

    __repr__ = __str__


def tune(function: Callable[..., Any] | Contraction | str, *args: Any, seconds: float = 1.0) -> list[Tuned]:
    """Times every lowering of the dots in a call, and keeps the winners.

    From then on `"auto"` uses them for dots of the same contraction, sizes, dtypes and precision on this kind of
    device with this version of JAX, in this process and in those that start later, on machines of one process. Where a
    choice changes, JAX's caches are cleared, so that functions that were compiled before are compiled anew; what
    `jax.jit(f).lower(...).compile()` gave stays as it is. Exported programs do not depend on it. What is found is in a
    file: `JBDOT_TUNED` names it, or is "off"; see `jbdot.tuned`.

    Args:
        function: What to call: a front door, a `Contraction` or its string, or any function, whose every dot is
            tuned.
        args: Its arguments, arrays or `jax.ShapeDtypeStruct`s. Only shapes and dtypes matter: operands are drawn
            at random (standard normal; integers from -9 to 9).
        seconds: About how long to measure each dot.

    Returns:
        A `Tuned` for each different dot: print it for the table.

    Raises:
        TypeError: function cannot be called.
        ValueError: The call holds no dot, or as function itself.

    Example:
        >>> from jbdot import tune
        >>> import jax.numpy as jnp
        >>> (found,) = tune("b m k, b k -> b m", jnp.ones((8, 4, 4)), jnp.ones((8, 4)), seconds=0.01)
        >>> found.timings[0].us.median > 0
        True
    """
    if isinstance(function, (Contraction, str)):
        function = functools.partial(contract, function)
    try:
        if not hasattr(seconds, "__float__") or seconds <= 0:
            raise BadValue("seconds must be a number above 0", f"seconds={seconds!r}")
        if not callable(function):
            raise BadType("function must be callable, a Contraction or its string", f"got a {type(function).__name__}")
        found = list(dict.fromkeys(row.request for row in optimize(function).report(*args)))
        if not found:
            raise BadValue("the call must hold a dot of dense arrays", "its jaxpr has none")
    except Refusal as refusal:
        raise refusal.told("tune", f"{len(args)} arguments") from None
    results = [_tuned(request, seconds, track) for request, track in _tracked(found)]
    front_door.forget()
    if tuned.read_again():
        jax.clear_caches()  # what was compiled before was chosen by other lines
    return results


def _tuned(request: Request, seconds: float, track: Track) -> Tuned:
    before = chosen(request, platform()).lowering
    timings = measure(request, candidates(request), seconds, track)
    sure = [timing for timing in timings if timing.lowering == "direct" or timing.gain.p10 > _SURE]
    winner = min(sure, key=lambda timing: timing.us.median)
    kind = tuned.device_kind(platform())
    tuned.keep(request, kind, winner.lowering, winner.gain.median)
    return Tuned(request, kind, tuple(timings), winner.lowering, before)


def measure(request: Request, names: Iterable[str], seconds: float, track: Track = iter) -> list[Timing]:
    """Times lowerings of a dot side by side on random operands, fastest first."""
    lhs, rhs = operands(request)
    compiled = {name: compiled_lowering(request, name, lhs, rhs) for name in names}
    times = rounds({name: call for name, (call, _) in compiled.items()}, seconds, track=track)
    gains = ratios(times, "direct")
    found = [Timing(name, compiled[name][1], Spread.of(times[name]), gains[name]) for name in compiled]
    return sorted(found, key=lambda timing: timing.us.median)


def operands(request: Request) -> tuple[jax.Array, jax.Array]:
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

    return array(request.lhs, request.lhs_dtype), array(request.rhs, request.rhs_dtype)


def compiled_lowering(request: Request, name: str, lhs: jax.Array, rhs: jax.Array) -> tuple[Callable[[], Any], float]:
    """Compiles a lowering for these operands: the call, and the milliseconds that compiling took."""
    lowered = jax.jit(functools.partial(LOWERINGS[name], request)).lower(lhs, rhs)
    start = time.perf_counter()
    compiled = lowered.compile()
    return functools.partial(compiled, lhs, rhs), (time.perf_counter() - start) * 1e3


def platform() -> str:
    """What lowering rules call the default backend: JAX says "gpu" for two of them."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


def _tracked(found: list[Request]) -> Iterable[tuple[Request, Track]]:
    """Pairs each dot with a progress bar for its rounds, where rich is installed and someone is looking."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield from ((request, iter) for request in found)
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for number, request in enumerate(found, 1):
            yield request, functools.partial(bar.track, description=f"dot {number} of {len(found)}")
