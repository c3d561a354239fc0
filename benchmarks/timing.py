"""Timing in turns, and what it was measured on. Nothing is imported here that a peer's interpreter may lack.

Implementations run in blocks of calls, one block of each in every round, in an order that changes: what drifts
on the machine hits all of them, and a ratio is one of two blocks of the same round.
"""

import hashlib
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

ROUNDS: Final = 20  # that a budget is divided by
FEWEST: Final = 7  # rounds, whatever the budget
BLOCK_MS: Final = (5.0, 20.0)  # the least and the most that a block of several calls lasts
TRIES: Final = 3  # by which the time of a call is estimated
CACHE: Final = Path("/sys/devices/system/cpu/cpu0/cache")

Block = Callable[[int], float]  # runs so many calls, answers microseconds for each


def block_us(call: Callable[[], Any], repeats: int, finish: Callable[[Any], Any] = lambda result: result) -> float:
    """Microseconds for each of `repeats` calls in a row, the last awaited by `finish`."""
    start = time.perf_counter_ns()
    for _ in range(repeats - 1):
        call()
    finish(call())
    return (time.perf_counter_ns() - start) / repeats / 1e3


def warm_block_us(call: Callable[[], Any], repeats: int) -> float:
    """The same after one call that is not counted: it brings back what others' blocks took from the caches."""
    call()
    return block_us(call, repeats)


def calls_in_block(block: Block, lasting_us: float) -> int:
    """How many calls a block takes to last so long: from one call, then from the best of some milliseconds of them."""
    each_us = block(1)
    if each_us < lasting_us:
        each_us = min(block(max(1, int(1e3 / each_us))) for _ in range(TRIES))
    return max(1, round(lasting_us / each_us))


def in_turns(
    blocks: Mapping[str, Block], budget_s: float, block_ms: tuple[float, float] = BLOCK_MS
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Runs rounds of one block of each until the budget is spent.

    Args:
        blocks: What to run, by name.
        budget_s: The seconds in all; a few rounds are run whatever they are.
        block_ms: The least and the most that a block of several calls lasts.

    Returns:
        Microseconds a call, by name and round; calls in a block, by name.
    """
    share_ms = 1e3 * budget_s / len(blocks) / ROUNDS
    lasting_us = 1e3 * min(max(share_ms, block_ms[0]), block_ms[1])
    calls = {name: calls_in_block(block, lasting_us) for name, block in blocks.items()}
    times: dict[str, list[float]] = {name: [] for name in blocks}
    order = random.Random(0)
    end = time.monotonic() + budget_s
    while len(next(iter(times.values()))) < FEWEST or time.monotonic() < end:
        for name in order.sample(list(blocks), len(blocks)):
            times[name].append(blocks[name](calls[name]))
    return times, calls


def spread(values: list[float]) -> dict[str, float]:
    """Median with 10th and 90th percentile."""
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
    return {"median": round(statistics.median(values), 4), "p10": round(tenths[0], 4), "p90": round(tenths[8], 4)}


def ratio(times: list[float], others: list[float]) -> dict[str, float]:
    """The spread of ratios of blocks of the same round."""
    return spread([a / b for a, b in zip(times, others, strict=True)])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import jax
    import numpy as np

    from jbdot.timing import processor

    versions = {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jax.lib.__version__}
    devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
    return {**versions, "numpy": np.__version__, "jbdot": jbdot_version(), "devices": devices, "processor": processor()}


def jbdot_version() -> str:
    """The installed version of jbdot, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("jbdot")
    except PackageNotFoundError:
        return "not installed"


def jbdot_source() -> str:
    """A digest of jbdot's files: results of two states of the code are not mixed."""
    import jbdot

    files = sorted(path for path in Path(jbdot.__file__).parent.rglob("*") if path.suffix in (".py", ".json"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def threads() -> int:
    """Cores that this process may use: what XLA takes, and every peer is given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_bytes() -> int:
    """The size of the largest cache, where the system says it; else 32 MiB."""
    sizes = [path.read_text().strip() for path in CACHE.glob("index*/size")]
    return max((int(size[:-1]) << 10 for size in sizes if size.endswith("K")), default=32 << 20)
