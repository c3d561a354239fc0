"""The time that a device itself spent on a call, by JAX's profiler: apart from what it takes to send the call there."""

import bisect
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
from jax.profiler import ProfileData, ProfileOptions, TraceAnnotation

MARK: Final = "call of jbdot's benchmark "  # begins the names of the spans within which a call ran


def device_us(calls: Sequence[Callable[[], Any]], repeats: int) -> list[dict[str, list[float]]]:
    """Runs each call so many times, awaited each time, and gives what the device did meanwhile, as `spans` says it.

    Nothing is found of a call where the profiler shows no device, such as on a CPU.
    """
    options = ProfileOptions()
    options.python_tracer_level, options.host_tracer_level, options.enable_hlo_proto = 0, 1, False
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for index, call in enumerate(calls):
                for _ in range(repeats):
                    with TraceAnnotation(f"{MARK}{index}"):
                        jax.block_until_ready(call())
        found = [spans(ProfileData.from_file(str(path))) for path in Path(folder).rglob("*.xplane.pb")]
    return [next((each[index] for each in found if index in each), {}) for index in range(len(calls))]


def spans(profile: Any) -> dict[int, dict[str, list[float]]]:
    """Reads a profile: for each call, by run, the microseconds from its first kernel to the end of its last.

    Returns:
        By the call's number: "device_us", that time; "busy_us", of it what kernels and copies took; "kernels", how many
        they were. What starts between the start of one run and that of the next is of the first.
    """
    starts: list[tuple[float, int]] = []
    kernels: list[tuple[float, float]] = []
    for plane in profile.planes:
        for line in plane.lines:
            if plane.name.startswith("/device:GPU"):
                if line.name.startswith("Stream"):
                    kernels += [(event.start_ns, event.duration_ns) for event in line.events]
            else:
                marked = (event for event in line.events if event.name.startswith(MARK))
                starts += [(event.start_ns, int(event.name[len(MARK) :])) for event in marked]
    starts.sort()
    kernels.sort()
    ends = [start for start, _ in starts[1:]] + [float("inf")]
    found: dict[int, dict[str, list[float]]] = {}
    for (start, index), end in zip(starts, ends, strict=True):
        within = kernels[bisect.bisect_left(kernels, (start,)) : bisect.bisect_left(kernels, (end,))]
        if within:
            row = found.setdefault(index, {"device_us": [], "busy_us": [], "kernels": []})
            last = max(begun + lasted for begun, lasted in within)
            row["device_us"].append(round((last - within[0][0]) / 1e3, 3))
            row["busy_us"].append(round(sum(lasted for _, lasted in within) / 1e3, 3))
            row["kernels"].append(len(within))
    return found
