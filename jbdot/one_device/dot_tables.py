"""Where JAX keeps what it knows of a dot: every table with an entry for `lax.dot_general_p`, found by looking.

jbdot's dots are lax's own, so that each of these holds for them. `tests/one_device/test_dot_tables.py` has an example
of each; a JAX that has a table more is told by `jbdot doctor`, and fails nothing.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jax import lax

# Modules that `import jax` does not load, and that have such tables.
_MODULES: Final = (
    "jax.experimental.checkify",
    "jax.experimental.jet",
    "jax.experimental.sparse",
    "jax.experimental.roofline",
    "jax.experimental.roofline.rooflines",
    "jax.experimental.pallas",
    "jax._src.pallas.cost_estimate",
    "jax._src.pallas.mosaic.lowering",
    "jax._src.pallas.triton.lowering",
    "jax._src.pallas.fuser",
    "jax._src.pallas.fuser.block_spec",
)
# What is known, by the module's and the table's name.
KNOWN: Final[dict[str, str]] = {
    "jax._src.checkify.error_checks": "checkify: looks for nan in results",
    "jax._src.core.pp_eqn_rules": "how a jaxpr is printed",
    "jax._src.interpreters.ad.primitive_jvps": "forward-mode derivatives",
    "jax._src.interpreters.ad.primitive_transposes": "gradients",
    "jax._src.interpreters.ad.fancy_transposes": "gradients",
    "jax._src.interpreters.batching.fancy_primitive_batchers": "vmap",
    "jax._src.interpreters.mlir._lowerings": "lowering: jbdot's rule stands before JAX's own",
    "jax._src.interpreters.mlir._uncacheable_primitives": "lowering: jbdot's rule sees the program around a dot",
    "jax._src.interpreters.remat.rules": "jax.checkpoint, by tracing",
    "jax._src.pallas.cost_estimate._cost_rules": "the cost of a kernel",
    "jax._src.pallas.fuser.block_spec.eval_rules": "fused kernels",
    "jax._src.pallas.fuser.block_spec.pull_block_spec_rules": "fused kernels",
    "jax._src.pallas.fuser.block_spec.push_block_spec_rules": "fused kernels",
    "jax._src.pallas.fuser.block_spec.usage_rules": "fused kernels",
    "jax._src.pallas.mosaic.lowering.lowering_rules[TC]": "kernels for TPUs",
    "jax._src.pallas.triton.lowering.triton_lowering_rules": "kernels for GPUs",
    "jax.experimental.jet.jet_rules": "Taylor series",
    "jax.experimental.roofline.roofline._rooflines": "estimates of time",
    "jax.experimental.sparse.transform._BCOO_STANDARD_PRIMITIVES": "sparsify",
    "jax.experimental.sparse.transform._BCSR_STANDARD_PRIMITIVES": "sparsify",
    "jax.experimental.sparse.transform.sparse_rules_bcoo": "sparsify",
    "jax.experimental.sparse.transform.sparse_rules_bcsr": "sparsify",
}


def tables() -> list[str]:
    """Returns the names of all tables of the installed JAX with an entry for `lax.dot_general_p`.

    Example:
        >>> "jax.experimental.jet.jet_rules" in tables()
        True
    """
    for name in _MODULES:
        with contextlib.suppress(Exception):  # for a backend that this machine cannot load
            importlib.import_module(name)
    found: dict[int, str] = {}
    for name, module in sorted(sys.modules.items()):
        if name == "jax" or name.startswith("jax."):
            for attribute, value in list(vars(module).items()):
                for where, table in _nested(f"{name}.{attribute}", value):
                    found.setdefault(id(table), where)
    return sorted(found.values())


def new(found: list[str] | None = None) -> list[str]:
    """Lists the tables that are not known here; it looks for all unless they are given."""
    return [name for name in (tables() if found is None else found) if name not in KNOWN]


def _nested(name: str, value: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Yields a table, and the tables in it."""
    if isinstance(value, (set, frozenset)):
        if lax.dot_general_p in value:
            yield name, value
        return
    if not isinstance(value, Mapping) or not depth:
        return
    if lax.dot_general_p in list(value):
        yield name, value
    for key, inner in list(value.items()):
        if isinstance(inner, Mapping):
            yield from _nested(f"{name}[{key!r}]", inner, depth - 1)
