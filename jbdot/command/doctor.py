"""What is here: versions, devices and their memory, extras, and what slows large results down.

Needs nothing but jbdot's own dependencies; the command `jbdot doctor` prints it, the notebooks show it.
"""

import importlib.metadata
import os
import platform
from collections import Counter
from typing import Any, Final

import jax

from jbdot import hardware
from jbdot.one_device import costs, dot_tables, mark, miscompilations, native, tuning_cache

EXTRAS: Final = {
    "cli": ("typer", "rich"),
    "plot": ("matplotlib",),
    "tpu": ("libtpu",),
    "demo": ("optax", "scikit-learn"),
    "test": ("pytest", "pytest-xdist", "hypothesis", "nbclient", "ipykernel"),
}


def found() -> list[tuple[str, str]]:
    """Looks, and gives rows: (what, found). JAX's backend is started for it.

    Example:
        >>> [what for what, _ in found()][:4]
        ['Python', 'jbdot', 'jax', 'jaxlib']
    """
    wide = "on" if jax.config.read("jax_enable_x64") else "off (jax_enable_x64): float64 and int64 become 32 bits wide"
    rows = [("64-bit types", wide), ("tuned", str(tuning_cache.path() or f"off ({tuning_cache.VARIABLE})"))]
    if platform.libc_ver()[0] == "glibc" and on_cpu():
        rows.append(("large results", large_results(os.environ.get("GLIBC_TUNABLES", ""))))
    rows += [("known miscompilation", miscompilations.text(known)) for known in miscompilations.here()]
    fitted = f"fitted on {' and '.join(costs.machines())}; here: {tuning_cache.machine().said}"
    rows += [("estimates of lowerings", f"for CPUs, {fitted}")]
    rows += [("jbdot-native", native.text()), ("lowering", mark.process_text()), ("tables of a dot", tables_text())]
    return [*versions(), *((f"extra {extra}", extra_text(extra)) for extra in EXTRAS), *devices(), *rows]


def tables_text() -> str:
    """Says how many of JAX's tables have an entry for a dot, and which of them jbdot has not been tried with."""
    found = dot_tables.tables()
    new = dot_tables.new(found)
    return f"{len(found)} in this JAX, " + (f"new since jbdot was made: {', '.join(new)}" if new else "all known")


def versions() -> list[tuple[str, str]]:
    """Makes rows for Python, jbdot and what it needs."""
    packages = [(name, version(name) or "missing") for name in ("jbdot", "jax", "jaxlib", "numpy", "chex")]
    return [("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"), *packages]


def devices() -> list[tuple[str, str]]:
    """Makes rows for the devices of all processes: how many of each kind, memory, and published figures."""
    rows = [("processor", f"{tuning_cache.device_kind('cpu')}{memory_text(system_bytes())}")]
    try:
        here = sorted(jax.devices(), key=lambda device: device.process_index != jax.process_index())
    except RuntimeError as error:
        return [*rows, ("device", f"missing: {error}")]
    for (name, kind), number in Counter((device.platform, device.device_kind) for device in here).items():
        one = next(device for device in here if device.device_kind == kind)
        rows.append(("device", f"{number} x {name}: {kind}{memory_text(device_bytes(one), ' each')}"))
        rows += [(f"published, {figures.name}", published(figures)) for figures in figures_of(one)]
    if jax.process_count() > 1:
        rows.append(("processes", f"{jax.process_count()}, this one is {jax.process_index()}"))
    return rows


def published(figures: hardware.Hardware) -> str:
    """Writes a device's published figures on one line."""
    return (
        f"{figures.rate('bfloat16') / 1e12:.4g} TFLOP/s in bfloat16, {figures.memory_bytes / 1e9:.4g} GB at "
        f"{figures.memory_bytes_per_s / 1e9:.4g} GB/s, links of {figures.link_bytes_per_s / 1e9:.4g} GB/s one way"
    )


def figures_of(device: Any) -> list[hardware.Hardware]:
    """Returns the published figures of an accelerator; none where none are known."""
    try:
        return [] if device.platform == "cpu" else [hardware.of(device)]
    except ValueError:
        return []


def device_bytes(device: Any) -> int | None:
    """Says what JAX may use of an accelerator's memory; None where the device does not say."""
    return (device.memory_stats() or {}).get("bytes_limit") if device.process_index == jax.process_index() else None


def system_bytes() -> int | None:
    """Returns the system's memory; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not POSIX
        return None


def memory_text(number: int | None, each: str = "") -> str:
    """Writes the memory of a device, to stand behind its name."""
    return f", {number / 1e9:.3g} GB of memory{each}" if number else ""


def extra_text(extra: str) -> str:
    """Says what is there of an extra, and what is missing."""
    there = {package: version(package) for package in EXTRAS[extra]}
    present = ", ".join(f"{package} {number}" for package, number in there.items() if number)
    absent = [package for package, number in there.items() if not number]
    missing = f"missing: {', '.join(absent)}; pip install {' '.join(absent)}" if absent else ""
    return " ".join(filter(None, (present, missing)))


def large_results(tunables: str) -> str:
    """Says what malloc does to results of over a few megabytes, and what to set."""
    if "glibc.malloc.hugetlb=" in tunables or "LD_PRELOAD" in os.environ:
        return f"malloc is set: {tunables or os.environ['LD_PRELOAD']}"
    return (
        "each is fresh memory, and most of the time of a short call is page faults. "
        "Start Python with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (docs/pages/how-to/tune.md: large results)"
    )


def on_cpu() -> bool:
    """Says whether JAX computes on the CPU unless told otherwise."""
    try:
        return jax.default_backend() == "cpu"
    except RuntimeError:
        return False


def version(package: str) -> str | None:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
