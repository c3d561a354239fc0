"""The rules of each backend: when another lowering than one `lax.dot_general` is faster, and on which case that shows.

For TPUs alone: what a CPU gets is estimated (`costs.py`). Rules are tried from top to bottom. A rule names a case
(contraction, shapes, dtype) of which the compiler's estimates were compared with the bare dot's; the figures are in
`measured.json`, by version of JAX.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax

from jbdot.core.errors import array_text
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LANES, LOWERINGS, filled, lane


@dataclasses.dataclass(frozen=True)
class Rule:
    """When to take another lowering, and why.

    Attributes:
        name: What `measured.json` knows it by.
        lowering: The lowering's name.
        why: The reason, as a clause.
        fits: Whether it is for this dot.
        case: The contraction, both shapes and the dtype that it is measured on.
    """

    name: str
    lowering: str
    why: str
    fits: Callable[[DotSpec], bool]
    case: tuple[str, tuple[int, ...], tuple[int, ...], str]

    def measured_case(self, spec: DotSpec) -> str:
        """Returns the arrays of the case, and whether a dot is of another dtype."""
        _, lhs, rhs, dtype = self.case
        other = "" if spec.lhs_dtype == dtype else f", {spec.lhs_dtype} was not measured"
        return f"{array_text('', lhs, dtype)} by {array_text('', rhs, dtype)}{other}"


def _lanes(r: DotSpec) -> bool:
    """Fits where the compiler's estimates for v5e, v5p and v6e are all better, most where batches are large."""
    if r.lhs_dtype not in ("float32", "bfloat16", "int8") or min(r.m, r.n, r.k) < 2 or r.batch < 2048:
        return False
    full = filled(r, lane(r), LANES)
    return max(r.m, r.n, r.k) <= 16 and r.k <= 2 * min(r.m, r.n) and full >= 0.7 and full * r.batch >= 2000


TPU: Final = (
    Rule("tpu small matrices", "lanes", LOWERINGS["lanes"].why, _lanes,
         ("b m k, b k n -> b m n", (8192, 4, 5), (8192, 5, 8), "bfloat16")),
)  # fmt: skip
RULES: Final[dict[str, tuple[Rule, ...]]] = {"tpu": TPU}


@functools.cache
def _figures() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "measured.json").read_text())


def measured(rule: Rule) -> tuple[float | None, str]:
    """Gives a rule's gain on its case, and where that was measured: this version of JAX, or else the newest."""
    found = _figures().get(rule.name, {})
    if not found:
        return None, ""
    version = jax.__version__ if jax.__version__ in found else max(found)
    return found[version]["gain"], found[version]["source"]
