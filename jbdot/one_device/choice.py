"""Which lowering a dot gets on which backend, and why.

`chosen` is the one place of decision. It looks at the lowering that the user names, then at what was measured of this
very dot on this machine (`jbdot.tune`, "measured"), then at what the lowerings are estimated to take: on CPUs by a
model (`costs.py`), on TPUs by one of what their compiler estimates (`tpu_costs.py`). Where nothing is surely faster,
the dot runs as it stands.
"""

import dataclasses
import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

from jbdot.core.errors import BadType, BadValue
from jbdot.one_device import costs, tpu_costs, tuning_cache
from jbdot.one_device.costs import Estimate
from jbdot.one_device.dot_spec import DotSpec, kind
from jbdot.one_device.lowerings import LOWERINGS, SPLIT_PIECES, Lowering, is_doubled

PLATFORMS: Final = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}  # backend name: platform name in lowering rules
AUTO: Final = "auto"
MEASURED: Final = "measured"  # as "auto", but what is not known yet of a dot is timed when it is lowered
NAMES: Final = (AUTO, *LOWERINGS, MEASURED)
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
        estimates: What the lowerings of this dot are estimated to take, fastest first, where the choice is by that.
    """

    lowering: str
    why: str
    gain: float | None = None
    source: str = ""
    case: str = ""
    estimates: tuple[Estimate, ...] = ()

    @property
    def function(self) -> Lowering:
        """Returns the lowering itself."""
        return LOWERINGS[self.lowering]

    @property
    def estimates_text(self) -> str:
        """Says what each lowering is estimated to take, and how far such estimates were off; nothing of one alone."""
        if len(self.estimates) < 2:
            return ""
        doubts = sorted(one.doubt for one in self.estimates if one.lowering != "direct")
        off = " to ".join(dict.fromkeys(f"{doubt:.2g}" for doubt in (doubts[0], doubts[-1])))
        times = ", ".join(f"{one.lowering} {_us_text(one.us)}" for one in self.estimates)
        return f"{times} us; such estimates were off by {off} times"

    def __str__(self) -> str:
        gain = f": {self.gain:.2g} times faster on {self.case} ({self.source})" if self.gain else ""
        return f"{self.lowering}, {self.why}{gain}"


def _us_text(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 else f"{us:.2g}"


def chosen(spec: DotSpec, platform: str, lowering: str = "auto", exported: bool = False) -> Choice:
    """Chooses the lowering of a dot on a platform: "cpu", "cuda", "rocm" or "tpu".

    Args:
        spec: The dot.
        platform: Where it will run.
        lowering: "auto", "measured", or a name: it gives way where a transformation has left nothing to lower so.
        exported: Whether the program is exported: `jax.export` refuses pinned layouts, and what was tuned here is not
            asked for what may run elsewhere.
    """
    if lowering == HASH:
        return _hashed(spec, platform, exported)
    if lowering in LOWERINGS and LOWERINGS[lowering].is_kept:
        broken = _unheld(spec, platform, lowering)
        return Choice(lowering, f"as asked, and refused there: it {broken}" if broken else "as asked")
    if lowering == "direct" or (lowering in LOWERINGS and _is_right(spec, platform, lowering)):
        if exported and LOWERINGS[lowering].unexported:
            return Choice("direct", f"as jax.export refuses {LOWERINGS[lowering].unexported}")
        return Choice(lowering, "as asked")
    if not _can_choose(spec):
        return Choice("direct", "as only lax.dot_general carries out such sizes, dtypes or algorithms")
    # An exported program is for other machines too.
    tuned = None if exported else tuning_cache.choice(spec, platform, measured=lowering == MEASURED)
    if tuned is not None and _is_right(spec, platform, tuned[0]):
        lowering, gain, source = tuned
        return Choice(lowering, "as was measured", gain if lowering != "direct" else None, source, "this dot")
    if is_doubled(spec, platform) and min(spec.m, spec.n) > 1:  # vectors are summed, and came out right
        return Choice("evened", "as XLA doubles some sums of int8 over an odd size on GPUs (`jbdot doctor`)")
    found = estimated(spec, platform, exported)
    best = surest(found)
    if best.lowering == "direct":
        return Choice("direct", "as it stands: no other way is surely faster", estimates=found)
    source = f"estimated; such estimates were off by {best.doubt:.2g} times"
    return Choice(best.lowering, LOWERINGS[best.lowering].why, best.gain, source, "this dot", found)


def estimated(spec: DotSpec, platform: str, exported: bool = False) -> tuple[Estimate, ...]:
    """Estimates what the lowerings of a dot take that may be chosen for it; nothing but for CPUs and TPUs."""
    models = {"cpu": costs.knows, "tpu": tpu_costs.knows}
    if platform not in models or not _can_choose(spec) or not models[platform](spec):
        return ()
    names = tuple(name for name in safe(spec, platform) if not (exported and LOWERINGS[name].unexported))
    if platform == "tpu":
        return tpu_costs.estimates(spec, names, "" if exported else tpu_costs.kind_here())
    return costs.estimates(spec, names, tuning_cache.machine(exported))


def safe(spec: DotSpec, platform: str) -> list[str]:
    """Returns the lowerings that a device may get without being asked: they run, are right, and hold as much memory."""
    fitting = (name for name in candidates(spec) if LOWERINGS[name].is_trusted(spec, platform))
    unfit = {"cpu": _may_be_refused, "tpu": _rounds_more}.get(platform, lambda *_: False)
    return [name for name in fitting if not (unfit(spec, name) or _swells(spec, name))]


def _rounds_more(spec: DotSpec, lowering: str) -> bool:
    """Says whether a TPU would round more: one row or column alone is multiplied in float32, pieces in bfloat16."""
    return lowering == "split" and spec.lhs_dtype == "float32" and spec.batch == 1 and min(spec.m, spec.n) == 1


def _swells(spec: DotSpec, lowering: str) -> bool:
    """Says whether it would hold far more memory than the dot: "split" has a result for each piece."""
    wide = SPLIT_PIECES * math.prod(spec.out)
    return lowering == "split" and wide > max(math.prod(spec.lhs), math.prod(spec.rhs))


def _may_be_refused(spec: DotSpec, lowering: str) -> bool:
    """Says whether XLA's CPU backend may refuse it: a batched bfloat16 dot with float32 sums that is turned around."""
    dtype = spec.sum_dtype if lowering == "split" else spec.dtype
    turned = lowering in ("swapped", "pinned", "split", "looped") and spec.batch > 1
    return turned and (spec.lhs_dtype, dtype) == ("bfloat16", "float32")


def surest(found: Sequence[Estimate]) -> Estimate:
    """Returns the estimate that is least, "direct" unless another is less by more than it is doubted."""
    return min(found, key=lambda one: one.us * one.margin, default=Estimate("direct", math.inf))


def check_kept(spec: DotSpec, platform: str, lowering: str) -> None:
    """Refuses a dot that a lowering which gives way to no other cannot carry out.

    Raises:
        ValueError: There is such a dot; it says which.
    """
    broken = _unheld(spec, platform, lowering)
    if broken:
        refusal = BadValue(f"lowering={lowering!r} must hold for every dot that is marked with it", f"it {broken}")
        raise refusal.told("optimize or a call", str(spec))


def _unheld(spec: DotSpec, platform: str, lowering: str) -> str:
    """Says why a lowering that gives way to no other does not hold for a dot; nothing where it does, or gives way."""
    if lowering not in LOWERINGS or not LOWERINGS[lowering].is_kept:
        return ""
    is_trusted = LOWERINGS[lowering].is_trusted(spec, platform)
    return misfit(spec, lowering) or ("" if is_trusted else f"is not known to hold on {platform!r}")


def _is_right(spec: DotSpec, platform: str, lowering: str) -> bool:
    """Says whether a lowering fits a dot, and is known to be right there."""
    return not misfit(spec, lowering) and LOWERINGS[lowering].is_trusted(spec, platform)


def _hashed(spec: DotSpec, platform: str, exported: bool) -> Choice:
    fits = [name for name in candidates(spec) if _is_right(spec, platform, name)] or ["direct"]
    names = [name for name in fits if not (exported and LOWERINGS[name].unexported)]
    return Choice(names[zlib.crc32(str(spec).encode()) % len(names)], "as the hash of the dot has it")


def check(spec: DotSpec, lowering: Any) -> None:
    """Checks a lowering that a user names for a dot.

    Raises:
        TypeError: It is no string.
        ValueError: There is no such lowering, or it does not fit the dot.
    """
    known(lowering)
    broken = "" if lowering in (AUTO, MEASURED) else misfit(spec, lowering)
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


def candidates(spec: DotSpec) -> list[str]:
    """Returns the lowerings that can carry a dot out, "direct" first."""
    return [name for name, known in LOWERINGS.items() if not known.is_kept and not misfit(spec, name)]


def misfit(spec: DotSpec, lowering: str) -> str:
    """Says why a lowering cannot carry a dot out; nothing where it can."""
    if lowering in ("direct", AUTO, MEASURED):
        return ""
    if not LOWERINGS[lowering].is_kept and not _can_choose(spec):
        return "needs known sizes that are not 0, operands of one dtype, and no named algorithm"
    if spec.lhs_dtype == "bool" and not (
        lowering == "wrapped" or LOWERINGS[lowering].is_kept
    ):  # else `or` and `and` would be sums and products
        return "needs numbers"
    return LOWERINGS[lowering].misfit(spec)


def _can_choose(spec: DotSpec) -> bool:
    return (
        spec.is_static
        and spec.is_plain
        and spec.lhs_dtype == spec.rhs_dtype
        and spec.lhs_dtype not in ("int4", "uint4", "int2", "uint2")
        and kind(spec.lhs_dtype) == kind(spec.dtype)  # else lax cuts off the sum, and a lowering its operands
        and 0 not in (*spec.lhs, *spec.rhs)
    )
