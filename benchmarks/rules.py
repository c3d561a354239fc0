"""Measures every rule on its own case, for `jbdot/one_device/measured.json` (`python -m benchmarks.rules`).

Each case is timed side by side with one `lax.dot_general`, in alternating blocks, on random operands (standard normal;
integers from -9 to 9). The file keeps the figures of every version of JAX that it was made with; this command replaces
those of the version at hand. Rules for TPUs are not timed: see `python -m benchmarks.tpu`.
"""

import argparse
import json
from pathlib import Path

import jax
import rich.console
import rich.progress
import rich.table
from jax import numpy as jnp

from jbdot.core.contraction import Contraction
from jbdot.one_device import rules, tuning_cache
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.measure import measure
from jbdot.one_device.rules import Rule

FILE = Path(rules.__file__).parent / "measured.json"
SUMS = {
    "int8": "int32",
    "uint8": "uint32",
    "float8_e4m3fn": "float32",
}  # the result's dtype where it is not the operands'


def request_of(rule: Rule) -> DotSpec:
    """The dot of a rule's case."""
    labels, lhs, rhs, dtype = rule.case
    operands = (jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape in (lhs, rhs))
    out = jax.ShapeDtypeStruct((), jnp.dtype(SUMS.get(dtype, dtype)))
    return DotSpec.of(*operands, out, Contraction.parse(labels).dimension_numbers, None)


def measured(rule: Rule, seconds: float) -> dict[str, object]:
    """Times a rule's lowering against the bare dot."""
    found = {timing.lowering: timing for timing in measure(request_of(rule), ("direct", rule.lowering), seconds)}
    mine = found[rule.lowering]
    return {
        "gain": round(mine.gain.median, 2),
        "p10": round(mine.gain.p10, 2),
        "p90": round(mine.gain.p90, 2),
        "direct_us": round(found["direct"].us.median, 1),
        "us": round(mine.us.median, 1),
        "source": f"measured on {tuning_cache.device_kind('cpu')}, jax {jax.__version__}",
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring for each rule")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    figures = json.loads(FILE.read_text())
    console = rich.console.Console()
    table = rich.table.Table("rule", "lowering", "case", "bare, us", "us", "times faster (10 % to 90 %)")
    jax.config.update("jax_enable_x64", True)
    for rule in rich.progress.track(rules.CPU, "measuring", console=rich.console.Console(stderr=True)):
        if rule.fits(request_of(rule)):
            found = measured(rule, options.seconds)
            figures.setdefault(rule.name, {})[jax.__version__] = found
            spread = f"{found['gain']} ({found['p10']} to {found['p90']})"
            table.add_row(
                rule.name, rule.lowering, str(request_of(rule)), *(str(found[k]) for k in ("direct_us", "us")), spread
            )
    console.print(table)
    if not options.no_save:
        FILE.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
