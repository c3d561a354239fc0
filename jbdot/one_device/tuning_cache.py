"""What `jbdot.tune` found on this machine: a small file of lines, one for each dot that was timed, or for the machine.

Lines are only ever added, each by a single write, so that several processes may tune at once; the last line of a dot
holds. `JBDOT_TUNED` names the file, or is "off". By default it is `jbdot/tuned.jsonl` in the user's cache folder.

A process reads the file once, and again when it tunes: so that what was compiled, what is compiled and what `explain`
says are chosen by the same lines. Where several processes run one program (`jax.process_count() > 1`) none is asked:
they must all lower the same, and each has a file of its own.
"""

import dataclasses
import functools
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax

from jbdot.one_device import costs
from jbdot.one_device.costs import Machine
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.timing import processor, processor_kind

VARIABLE: Final = "JBDOT_TUNED"
_LOGS: Final = ("offsets", "doubts")  # of a machine's line

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
    found = (_measured.get(dot) if measured else None) or (_read(file).dots.get(dot) if file is not None else None)
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
    _add({"key": key(spec, kind), "lowering": lowering, "gain": round(gain, 3)})


def machine(exported: bool = False) -> Machine:
    """Returns what estimates are corrected by on this machine's CPU: what `jbdot.tune()` measured, or what is shipped.

    Args:
        exported: Whether the program is exported: what was measured here is not asked for what may run elsewhere.
    """
    if jax.process_count() > 1:  # which may have CPUs of different kinds, and must all lower the same
        return _shipped("")
    file = None if exported else path()
    return (None if file is None else _measured_machine(file)) or _shipped(processor_kind())


def keep_machine(offsets: Mapping[str, float], doubts: Mapping[str, float], cases: int) -> None:
    """Adds what was measured of this machine's CPU; nothing where tuning is switched off.

    Args:
        offsets: As in `Machine`.
        doubts: Likewise.
        cases: How many dots were timed.
    """
    found = {"offsets": offsets, "doubts": doubts}
    rounded = {what: {name: round(log, 3) for name, log in logs.items()} for what, logs in found.items()}
    _add({"machine": _machine_key(), "cases": cases} | rounded)


@functools.cache
def _shipped(kind: str) -> Machine:
    return costs.shipped(kind)


@functools.lru_cache(maxsize=4)
def _measured_machine(file: Path) -> Machine | None:
    """Returns what the file's last line of this machine says."""
    last = _read(file).machines.get(_machine_key())
    return None if last is None else _shipped(processor_kind()).measured(*last)


def _machine_key() -> str:
    return f"{device_kind('cpu')}, jax {jax.__version__}"


def _add(record: dict[str, Any]) -> None:
    """Adds a line; nothing where tuning is switched off."""
    file = path()
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record)
    # The line break before it ends a line that a process may have left half written.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), "ab", buffering=0) as out:
        out.write(f"\n{line}\n".encode())


def read_again() -> bool:
    """Reads the file anew: whether it names another lowering for any dot, or another machine, than it did."""
    file = path()
    if file is None:
        return False
    before = _read(file)
    _read.cache_clear()
    _measured_machine.cache_clear()
    after = _read(file)
    named = (before.dots.get(dot, ("", 0))[0] != after.dots.get(dot, ("", 0))[0] for dot in before.dots | after.dots)
    return before.machines != after.machines or any(named)


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


@dataclasses.dataclass(frozen=True)
class _Lines:
    """What a file says: of each dot a lowering and its gain; of each machine offsets, doubts, and of how many cases."""

    dots: dict[str, tuple[str, float]] = dataclasses.field(default_factory=dict[str, tuple[str, float]])
    machines: dict[str, tuple[dict[str, float], dict[str, float], int]] = dataclasses.field(
        default_factory=dict[str, tuple[dict[str, float], dict[str, float], int]]
    )

    def add(self, record: Any) -> None:
        """Reads a line."""
        if "machine" in record:
            offsets, doubts = ({str(name): float(log) for name, log in record[what].items()} for what in _LOGS)
            self.machines[str(record["machine"])] = offsets, doubts, int(record["cases"])
        elif record["lowering"] in LOWERINGS:  # another version of jbdot may know others
            self.dots[str(record["key"])] = str(record["lowering"]), float(record["gain"])


@functools.lru_cache(maxsize=4)
def _read(file: Path) -> _Lines:
    """Reads the file; warns of lines that are no records, and leaves them out."""
    found, bad = _Lines(), 0
    try:
        lines = file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        warnings.warn(f"jbdot: {file} cannot be read, and is left aside: {error}", stacklevel=2)
        return found
    for line in filter(None, lines):
        try:
            found.add(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
    if bad:
        warnings.warn(f"jbdot: {bad} damaged lines of {file} are left aside; jbdot.tune writes anew", stacklevel=2)
    return found
