"""What `jbdot.tune` found on this machine: a small file of lines, one for each dot that was timed.

Lines are only ever added, each by a single write, so that several processes may tune at once; the last line of a dot
holds. `JBDOT_TUNED` names the file, or is "off". By default it is `jbdot/tuned.jsonl` in the user's cache folder.

A process reads the file once, and again when it tunes: so that what was compiled, what is compiled and what `explain`
says are chosen by the same lines. Where several processes run one program (`jax.process_count() > 1`) none is asked:
they must all lower the same, and each has a file of its own.
"""

import functools
import json
import os
import warnings
from pathlib import Path
from typing import Final

import jax

from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.timing import processor

VARIABLE: Final = "JBDOT_TUNED"

_measured: Final[dict[str, tuple[str, float]]] = {}  # what this process timed for dots that are lowered as "measured"


def path() -> Path | None:
    """Returns the file; None where tuning is switched off."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return None if named.lower() in ("", "0", "off", "none") else Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    return Path(cache) / "jbdot" / "tuned.jsonl"


def choice(spec: DotSpec, platform: str, measured: bool = False) -> tuple[str, float, str] | None:
    """Looks a dot up: (lowering, gain, where that was measured).

    Args:
        spec: The dot.
        platform: Where it will run.
        measured: Whether what this process has timed for "measured" counts too.
    """
    kind = device_kind(platform)
    if not kind or jax.process_count() > 1:
        return None
    file, dot = path(), key(spec, kind)
    found = (_measured.get(dot) if measured else None) or (_read(file).get(dot) if file is not None else None)
    return None if found is None else (found[0], found[1], f"tuned on {kind}, jax {jax.__version__}")


def keep_measured(spec: DotSpec, platform: str, lowering: str, gain: float) -> None:
    """Keeps what was found for a dot that is lowered as "measured": in this process, and in the file for others."""
    kind = device_kind(platform)
    _measured[key(spec, kind)] = lowering, gain
    try:
        keep(spec, kind, lowering, gain)
    except OSError as error:
        warnings.warn(f"jbdot: {path()} cannot be written, and what was timed is kept here only: {error}", stacklevel=2)


def keep(spec: DotSpec, kind: str, lowering: str, gain: float) -> None:
    """Adds what was found for a dot; nothing where tuning is switched off."""
    file = path()
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"key": key(spec, kind), "lowering": lowering, "gain": round(gain, 3)})
    # The line break before it ends a line that a process may have left half written.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), "ab", buffering=0) as out:
        out.write(f"\n{line}\n".encode())


def read_again() -> bool:
    """Reads the file anew: whether it names another lowering for any dot than it did."""
    file = path()
    if file is None:
        return False
    before = _read(file)
    _read.cache_clear()
    after = _read(file)
    return any(before.get(dot, ("", 0))[0] != after.get(dot, ("", 0))[0] for dot in {**before, **after})


def key(spec: DotSpec, kind: str) -> str:
    """Makes what a dot is found again by: contraction, sizes, dtypes, precision, device kind, JAX's version."""
    (lc, rc), (lb, rb) = spec.dimension_numbers
    return "; ".join(
        (
            f"{spec.lhs_dtype}{list(spec.lhs)} {spec.rhs_dtype}{list(spec.rhs)} -> {spec.dtype}",
            f"contracting {list(lc)} {list(rc)}, batch {list(lb)} {list(rb)}, precision {spec.precision}",
            kind,
            f"jax {jax.__version__}",
        )
    )


@functools.cache
def device_kind(platform: str) -> str:
    """Names the device of a platform that this process has, a CPU with its cores; empty where it has none."""
    if platform == "cpu":
        return f"{processor()}, {os.cpu_count()} cores"
    if jax.default_backend() == ("gpu" if platform in ("cuda", "rocm") else platform):
        return jax.devices()[0].device_kind
    return ""


@functools.lru_cache(maxsize=4)
def _read(file: Path) -> dict[str, tuple[str, float]]:
    """Reads the file; warns of lines that are no records, and leaves them out."""
    found: dict[str, tuple[str, float]] = {}
    bad = 0
    try:
        lines = file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        warnings.warn(f"jbdot: {file} cannot be read, and is left aside: {error}", stacklevel=2)
        return {}
    for line in filter(None, lines):
        try:
            record = json.loads(line)
            if record["lowering"] in LOWERINGS:  # another version of jbdot may know others
                found[str(record["key"])] = str(record["lowering"]), float(record["gain"])
        except (ValueError, KeyError, TypeError):
            bad += 1
    if bad:
        warnings.warn(f"jbdot: {bad} damaged lines of {file} are left aside; jbdot.tune writes anew", stacklevel=2)
    return found
