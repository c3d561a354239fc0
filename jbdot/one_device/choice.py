"""Which lowering a dot gets on which backend, and why.

`chosen` is the one place of decision. It looks at the lowering that the user names, then at what `jbdot.tune` measured
on this machine, then at the rules of the backend: the first that fits. Where none fits, the dot runs as it stands. The
rules are in `backends.py`, each beside the case that it was measured on.
"""

import dataclasses
import zlib
from typing import Any, Final

from jax import numpy as jnp

from jbdot.core.errors import BadType, BadValue
from jbdot.one_device import rules, tuning_cache
from jbdot.one_device.dot_spec import Request, kind
from jbdot.one_device.lowerings import LOWERINGS, PINS, Lowering

PLATFORMS: Final = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}  # backends, and what lowering calls them
NAMES: Final = ("auto", *LOWERINGS)
# Only where they are known to be right: on an H100 (jax 0.11.2) the int8 dot of "shifted" gave wrong sums.
ON_CPU: Final = ("shifted",)
HASH: Final = "hash"  # some lowering that fits: for tests of a whole process


@dataclasses.dataclass(frozen=True)
class Choice:
    """A lowering, and why it was chosen.

    Attributes:
        lowering: Its name.
        why: The reason, as a clause.
        gain: How many times faster than one `lax.dot_general` `case` was measured or estimated; None where nothing was
            gained or measured.
        source: What the gain comes from, such as "measured, jax 0.12.0.1".
        case: What the gain is of: the one case that a rule was measured on, of which this dot may be far in dtype and
            size, such as "int8[64,128,128] by int8[64,128,128], float32 was not measured"; or "this dot" when tuned.
    """

    lowering: str
    why: str
    gain: float | None = None
    source: str = ""
    case: str = ""

    @property
    def function(self) -> Lowering:
        """What runs."""
        return LOWERINGS[self.lowering]

    def __str__(self) -> str:
        gain = f": {self.gain:.2g} times faster on {self.case} ({self.source})" if self.gain else ""
        return f"{self.lowering}, {self.why}{gain}"


def chosen(request: Request, platform: str, lowering: str = "auto", exported: bool = False) -> Choice:
    """Chooses the lowering of a dot on a platform: "cpu", "cuda", "rocm" or "tpu".

    Args:
        request: The dot.
        platform: Where it will run.
        lowering: "auto", or a name: it gives way where a transformation has left nothing to lower so.
        exported: Whether the program is exported: `jax.export` refuses pinned layouts, and what was tuned here is not
            asked for what may run elsewhere.
    """
    if lowering == HASH:
        return _hashed(request, platform, exported)
    if lowering != "auto" and not misfit(request, lowering) and _is_trusted(lowering, platform):
        if exported and lowering in PINS:
            return Choice("direct", "as jax.export refuses pinned layouts")
        return Choice(lowering, "as asked")
    if not _can_choose(request):
        return Choice("direct", "as only lax.dot_general carries out such sizes, dtypes or algorithms")
    found = (
        None if exported else tuning_cache.choice(request, platform)
    )  # an exported program is for other machines too
    if found is not None and not misfit(request, found[0]) and _is_trusted(found[0], platform):
        lowering, gain, source = found
        return Choice(lowering, "as jbdot.tune found", gain if lowering != "direct" else None, source, "this dot")
    for rule in rules.RULES.get(platform, ()):
        if rule.fits(request) and not (exported and rule.lowering in PINS):
            gain, source = rules.measured(rule)
            return Choice(rule.lowering, rule.why, gain, source, rule.measured_case(request))
    return Choice("direct", "as it stands: no other way is known to be faster")


def _hashed(request: Request, platform: str, exported: bool) -> Choice:
    fits = [name for name in candidates(request) if _is_trusted(name, platform)]
    names = [name for name in fits if not (exported and name in PINS)]
    return Choice(names[zlib.crc32(str(request).encode()) % len(names)], "as the hash of the dot has it")


def _is_trusted(lowering: str, platform: str) -> bool:
    return platform == "cpu" or lowering not in ON_CPU


def check(request: Request, lowering: Any) -> None:
    """Checks a lowering that a user names for a dot.

    Raises:
        TypeError: It is no string.
        ValueError: There is no such lowering, or it does not fit the dot.
    """
    known(lowering)
    broken = "" if lowering == "auto" else misfit(request, lowering)
    if broken:
        raise BadValue(
            f"lowering={lowering!r} must fit the contraction", f"it {broken}", 'lowering="auto" chooses one that does'
        )


def known(lowering: Any, hashed: bool = False) -> str:
    """Checks that there is such a lowering.

    Args:
        lowering: A name.
        hashed: Whether "hash" is one too.

    Raises:
        TypeError: It is no string.
        ValueError: There is none.
    """
    names = (*NAMES, HASH) if hashed else NAMES
    if not isinstance(lowering, str):
        raise BadType("lowering must be the name of a lowering", f"got {lowering!r}", f"One of {', '.join(names)}")
    if lowering not in names:
        raise BadValue(
            "lowering must be the name of a lowering", f"there is no {lowering!r}", f"One of {', '.join(names)}"
        )
    return lowering


def candidates(request: Request) -> list[str]:
    """The lowerings that can carry a dot out, "direct" first."""
    return [name for name in LOWERINGS if not misfit(request, name)]


def misfit(request: Request, lowering: str) -> str:
    """Says why a lowering cannot carry a dot out; nothing where it can."""
    if lowering == "direct":
        return ""
    if not _can_choose(request):
        return "needs known sizes that are not 0, operands of one dtype, and no named algorithm"
    narrow_vector = (
        (request.m == 1 or request.n == 1) and jnp.dtype(request.lhs_dtype).itemsize <= 2,
        "needs a vector (an operand without free axes of size over 1) of 8 or 16-bit numbers: wider ones would be "
        "summed in an order that loses more than that of kernels for vectors",
    )
    needs = {
        "padded": narrow_vector,
        "fused": narrow_vector,
        "looped": (request.batch > 1, "needs a batch of over 1"),
        "unrolled": (request.k <= rules.UNROLLED, f"needs a contracted size of at most {rules.UNROLLED}"),
        "lanes": (
            request.k <= rules.UNROLLED and bool(request.contraction.batch),
            f"needs a batch, and a contracted size of at most {rules.UNROLLED}",
        ),
        "widened": (request.lhs_dtype.startswith("float8"), "needs 8-bit floats"),
        "shifted": (
            request.lhs_dtype == "uint8" and "int" in request.dtype and "64" not in request.dtype,
            "needs uint8 operands and an integer result of at most 32 bits",
        ),
        "split": (request.k % 2 == 0, "needs a contracted size that is a multiple of 2"),
    }
    fits, need = needs.get(lowering, (True, ""))
    return "" if fits else need


def _can_choose(request: Request) -> bool:
    return (
        request.is_static
        and request.is_plain
        and request.lhs_dtype == request.rhs_dtype
        and request.lhs_dtype not in ("bool", "int4", "uint4", "int2", "uint2")
        and kind(request.lhs_dtype) == kind(request.dtype)  # else lax cuts off the sum, and a lowering its operands
        and 0 not in (*request.lhs, *request.rhs)
    )
