"""What this machine can do: products of large matrices in each dtype, reading and writing memory.

No workload is faster than the larger of two times: its FLOP at the best rate that XLA reaches on large square
matrices, and its bytes at the best rate that anything here reaches on reading an array. Both are measured.
"""

import concurrent.futures
import functools
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks.peers import operands
from benchmarks.timing import cache_bytes, threads
from benchmarks.workloads import EVERY, Case, Workload

GEMM_SIZES: Final = (512, 1024, 1536)
GEMM_TEXTS: Final = ("ij,jk->ik", "ij,kj->ik")
FAR_BYTES: Final = 256 << 20  # far larger than any cache
NEAR_PART: Final = 4  # an array of a quarter of the largest cache stays in it
SECONDS: Final = 0.25  # for each figure

Track = Callable[..., Iterable[Any]]


def measured(track: Track, dtypes: Iterable[str] = EVERY) -> dict[str, Any]:
    """Measures every limit; `track` is what shows progress, as `rich.progress.track` does."""
    figures: dict[str, Callable[[], dict[str, Any]]] = {
        **{f"gemm {dtype}": lambda dtype=dtype: gemm_peak(dtype) for dtype in dtypes},
        "read memory": lambda: read_rate(FAR_BYTES),
        "read cache": lambda: read_rate(cache_bytes() // NEAR_PART),
        "copy memory": lambda: copy_rate(FAR_BYTES),
        "write fresh memory": lambda: fresh_rate(FAR_BYTES),
    }
    return {name: figures[name]() for name in track(list(figures), description="limits")}


def limit(case: Case, limits: dict[str, Any]) -> dict[str, Any]:
    """The time that a case cannot beat, and what sets it: arithmetic, memory or, where everything fits, cache."""
    in_cache = case.bytes <= cache_bytes()
    near = "cache" if in_cache else "memory"
    times = {
        "arithmetic": 1e6 * case.flops / limits[f"gemm {case.dtype}"]["rate"],
        near: 1e6 * case.bytes / limits[f"read {near}"]["rate"],
    }
    by = max(times, key=lambda name: times[name])
    return {"us": round(times[by], 4), "by": by, "in_cache": in_cache}


def gemm_peak(dtype: str, sizes: Iterable[int] = GEMM_SIZES, seconds: float = SECONDS) -> dict[str, Any]:
    """The best rate of a product of square matrices, in FLOP/s, over sizes and spellings."""
    found: list[tuple[float, str]] = []
    for n, text in itertools.product(sizes, GEMM_TEXTS):
        case = Case(Workload("gemm", "", (text,), {"i": n, "j": n, "k": n}), dtype, "forward")
        with jax.enable_x64(dtype == "float64"):
            args = [jnp.asarray(x).astype(dtype) for x in operands(case.task)]
            compiled = jax.jit(case.function("bare")).lower(*args).compile()
            took_s = best_s(functools.partial(compiled, *args), seconds)
        found.append((case.flops / took_s, f"{text} of {n}x{n}"))
    return _best(found)


def read_rate(size: int, seconds: float = SECONDS) -> dict[str, Any]:
    """The best rate of reading an array of `size` bytes, in bytes/s, over ways to sum it."""
    x = jnp.ones((size // 4096, 1024), jnp.float32)
    ways = {"sum": jnp.sum, "sum of rows": lambda x: x.sum(1), "sum of columns": lambda x: x.sum(0)}
    calls = {f"XLA, {name}": functools.partial(jax.jit(way), x) for name, way in ways.items()}
    found = [(size / best_s(call, seconds), name) for name, call in calls.items()]
    parts = np.array_split(np.ones(size // 4, np.float32), threads())
    with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
        took_s = best_s(lambda: list(pool.map(lambda part: np.dot(part, part), parts)), seconds)
    return _best([*found, (size / took_s, "NumPy, dot with itself on each core")])


def copy_rate(size: int, seconds: float = SECONDS) -> dict[str, Any]:
    """The rate of copying an array of `size` bytes over another, in bytes read and written each second."""
    source, target = (np.array_split(np.ones(size // 4, np.float32), threads()) for _ in range(2))
    with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
        took_s = best_s(lambda: list(pool.map(np.copyto, target, source)), seconds)
    return _best([(2 * size / took_s, "NumPy, copyto on each core")])


def fresh_rate(size: int, seconds: float = SECONDS) -> dict[str, Any]:
    """The rate of writing a result of `size` bytes that XLA asks the system for, page faults included, in bytes/s."""
    filled = jax.jit(lambda x: jnp.full((size // 4096, 1024), x, jnp.float32))
    return _best([(size / best_s(lambda: filled(1.0), seconds), "XLA, a constant")])


def best_s(call: Callable[[], Any], seconds: float = SECONDS) -> float:
    """The shortest of the calls that fit into so many seconds, three at least, after one that is not counted."""
    jax.block_until_ready(call())
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 3 or time.monotonic() < end:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def _best(found: list[tuple[float, str]]) -> dict[str, Any]:
    rate, how = max(found)
    return {"rate": rate, "how": how}
