"""Times the lowerings of a dot on the device at hand, and keeps the fastest for `"auto"` to use."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable
from typing import Any, overload

import jax

from jbdot.calls import front_door
from jbdot.calls.contract import contract
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, BadValue, Refusal
from jbdot.core.text import paragraph, table
from jbdot.one_device import tuning_cache
from jbdot.one_device.calibration import SECONDS, Calibration, calibrate
from jbdot.one_device.choice import candidates, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.measure import Timing, measure, platform, surest
from jbdot.programs.optimize import optimize
from jbdot.timing import Track


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was found for one dot: every lowering's timing, and the winner.

    Attributes:
        dot_spec: The dot.
        device: The device's kind.
        timings: One for each lowering that can carry the dot out, fastest first.
        winner: The lowering that `"auto"` uses from now on.
        before: The one that it would have used.
    """

    dot_spec: DotSpec
    device: str
    timings: tuple[Timing, ...]
    winner: str
    before: str

    def __str__(self) -> str:
        rows = [("lowering", "us a call (10 % to 90 %)", "times faster", "compile, ms")]
        rows += [(t.lowering, str(t.us), str(t.gain), f"{t.compile_ms:.0f}") for t in self.timings]
        kept = f"kept: {self.winner}" + ("" if self.winner == self.before else f" (the estimates said {self.before})")
        return f"{paragraph(f'{self.dot_spec} on {self.device}')}\n\n{table(rows)}\n\n{paragraph(kept, 2)}"

    __repr__ = __str__


@overload
def tune(*, seconds: float | None = None) -> Calibration: ...


@overload
def tune(function: Callable[..., Any] | Contraction | str, *args: Any, seconds: float | None = None) -> list[Tuned]: ...


def tune(
    function: Callable[..., Any] | Contraction | str | None = None, *args: Any, seconds: float | None = None
) -> list[Tuned] | Calibration:
    """Times every lowering of the dots in a call, and keeps the winners; without a call measures the machine.

    From then on `"auto"` uses them for dots of the same contraction, sizes, dtypes and precision on this kind of
    device with this version of JAX, in this process and in those that start later, on machines of one process. Where a
    choice changes, JAX's caches are cleared, so that functions that were compiled before are compiled anew; what
    `jax.jit(f).lower(...).compile()` gave stays as it is. Exported programs do not depend on it. What is found is in a
    file: `JBDOT_TUNED` names it, or is "off".

    Without a function some dozen dots of several dtypes are timed on this machine's CPU, and what the estimates of
    lowerings are off by there corrects them from then on, for dots that were not tuned themselves. It is for kinds of
    CPU that jbdot was not fitted on (`jbdot doctor` says whether yours was).

    Args:
        function: What to call: a front door, a `Contraction` or its string, or any function, whose every dot is
            tuned; None for the machine.
        args: Its arguments, arrays or `jax.ShapeDtypeStruct`s. Only shapes and dtypes matter: operands are drawn
            at random (standard normal; integers from -9 to 9).
        seconds: About how long to measure each dot, by default 1; of the machine in all, by default 25.

    Returns:
        A `Tuned` for each different dot, or a `Calibration` of the machine: print it for the table.

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
        if seconds is not None and not (hasattr(seconds, "__float__") and seconds > 0):
            raise BadValue("seconds must be a number above 0", f"seconds={seconds!r}")
        if function is None and not args:
            results = _calibrated(SECONDS if seconds is None else seconds)
        else:
            results = [_tuned(spec, seconds or 1.0, track) for spec, track in _tracked(_dots(function, args))]
    except Refusal as refusal:
        raise refusal.told("tune", f"{len(args)} arguments") from None
    front_door.forget()
    if tuning_cache.read_again():
        jax.clear_caches()  # what was compiled before was chosen by other lines
    return results


def _dots(function: Any, args: tuple[Any, ...]) -> list[DotSpec]:
    """Lists the different dots of a call."""
    if not callable(function):
        raise BadType("function must be callable, a Contraction or its string", f"got a {type(function).__name__}")
    specs = (row.dot_spec for row in optimize(function).report(*args))
    found = list(dict.fromkeys(spec for spec in specs if isinstance(spec, DotSpec)))
    if not found:
        raise BadValue("the call must hold a dot of dense arrays", "its jaxpr has none")
    return found


def _calibrated(seconds: float) -> Calibration:
    """Measures the machine, where that is its CPU's own process."""
    if platform() != "cpu":
        cure = "Give tune a function; what a GPU's or TPU's dots get is not estimated from here"
        raise BadValue("a machine is measured on its CPU", f"JAX computes on {platform()!r} here", cure)
    with _progress() as bar:
        return calibrate(seconds, functools.partial(bar, "measuring the machine"))


def _tuned(spec: DotSpec, seconds: float, track: Track) -> Tuned:
    before = chosen(spec, platform()).lowering
    timings = measure(spec, candidates(spec), seconds, track)
    winner = surest(timings)
    kind = tuning_cache.device_kind(platform())
    tuning_cache.keep(spec, kind, winner.lowering, winner.gain.median)
    return Tuned(spec, kind, tuple(timings), winner.lowering, before)


def _tracked(found: list[DotSpec]) -> Iterable[tuple[DotSpec, Track]]:
    """Pairs each dot with a progress bar for its rounds."""
    with _progress() as bar:
        for number, spec in enumerate(found, 1):
            yield spec, functools.partial(bar, f"dot {number} of {len(found)}")


@contextlib.contextmanager
def _progress() -> Generator[Callable[[str, Iterable[int]], Iterable[int]], None, None]:
    """Opens progress bars, where rich is installed and someone is looking: a function of what is said and followed."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda _, steps: steps
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield lambda said, steps: bar.track(steps, description=said)
