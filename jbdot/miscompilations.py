"""What XLA's CPU compiler is known to get wrong in the versions of jaxlib that jbdot runs on, with or without jbdot."""

import dataclasses
from typing import Final

import jaxlib.version

JAXLIB: Final[tuple[int, ...]] = tuple(jaxlib.version.__version_info__)


@dataclasses.dataclass(frozen=True)
class Miscompilation:
    """One that was reported in public.

    Attributes:
        issue: Where.
        fixed: The first jaxlib that is right.
        what: What is wrong, as a clause.
    """

    issue: str
    fixed: tuple[int, ...]
    what: str


KNOWN: Final = (
    Miscompilation(
        "jax#39103",
        (0, 11, 0),
        "jit on CPU gives wrong elements of sums over products and dots that are fused into them",
    ),
    Miscompilation(
        "jax#39257, jax#40412",
        (0, 11, 1),
        "jit on CPU crashes, hangs or gives wrong elements in sums over products of rank 7 or more",
    ),
)


AVOIDED: Final = "--xla_cpu_experimental_ynn_fusion_type="  # with no value: XLA then keeps that library out
# Both are of the library that XLA's CPU compiler gives sums to, with the products that it fuses into them.
RIGHT_SUMS: Final = max(known.fixed for known in KNOWN) <= JAXLIB


def here(jaxlib_version: tuple[int, ...] = JAXLIB) -> tuple[Miscompilation, ...]:
    """Those that the installed jaxlib has."""
    return tuple(known for known in KNOWN if jaxlib_version < known.fixed)


def text(known: Miscompilation) -> str:
    """One of them in a line, with what spares jbdot's lowerings and what spares the rest."""
    fixed = ".".join(map(str, known.fixed))
    return (
        f"{known.what} ({known.issue}; right from jaxlib {fixed}). jbdot's own sums keep clear of it; for all else "
        f"set XLA_FLAGS={AVOIDED}"
    )
