"""Times calls side by side: in rounds, so that the machine's drift hits all of them alike."""

import dataclasses
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import jax

Call = Callable[[], Any]
Track = Callable[[Iterable[int]], Iterable[int]]

_BLOCK_S: Final = 0.01  # one block of calls: long against the clock, short against the machine's drift


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median with the 10th and 90th percentile."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Reads the percentiles off measured values.

        Example:
            >>> from jbdot.timing import Spread
            >>> Spread.of([1.0, 2.0, 3.0]).median
            2.0
        """
        tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
        return cls(statistics.median(values), tenths[0], tenths[8])

    def __str__(self) -> str:
        found = (self.median, self.p10, self.p90)
        median, p10, p90 = (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in found)
        return f"{median} ({p10} to {p90})"


def rounds(calls: dict[str, Call], seconds: float = 1.0, least: int = 5, track: Track = iter) -> dict[str, list[float]]:
    """Times each call in every round, in an order that turns, and gives microseconds a call, a value a round.

    Args:
        calls: What to time, by name: already compiled, returning arrays to wait for.
        seconds: About how long to measure in all.
        least: Rounds at least.
        track: Wraps the rounds, for a progress bar.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    lengths = {name: max(1, round(_BLOCK_S / max(_block_s(call, 1), 1e-7))) for name, call in calls.items()}
    a_round = sum(_block_s(call, lengths[name]) for name, call in calls.items())
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in track(range(max(least, min(200, round(seconds / max(a_round, 1e-6)))))):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                times[name].append(_block_s(calls[name], lengths[name]) / lengths[name] * 1e6)
    finally:
        if enabled:
            gc.enable()
    return times


def ratios(times: dict[str, list[float]], over: str) -> dict[str, Spread]:
    """Divides times of the same rounds: how many times faster than `over` each call is."""
    return {
        name: Spread.of([base / own for base, own in zip(times[over], found, strict=True)])
        for name, found in times.items()
    }


def _block_s(call: Call, length: int) -> float:
    start = time.perf_counter()
    for _ in range(length):
        out = call()
    jax.block_until_ready(out)  # pyright: ignore[reportPossiblyUnboundVariable]
    return time.perf_counter() - start


def processor() -> str:
    """Names the processor's model, where the system says it."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def processor_kind() -> str:
    """Names the kind of the processor, such as "AuthenticAMD family 25 model 1": hypervisors may hide its name."""
    info = _cpuinfo()
    found = (info.get("vendor_id"), info.get("cpu family"), info.get("model"))
    return "{} family {} model {}".format(*found) if all(found) else processor()


def _cpuinfo() -> dict[str, str]:
    """Reads what Linux says of the first processor; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().partition("\n\n")[0].splitlines() if file.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
