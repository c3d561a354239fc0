"""What XLA's compilers are known to get wrong in the versions of jaxlib that jbdot runs on, with or without jbdot."""

import dataclasses
from typing import Final

import jaxlib.version

JAXLIB: Final[tuple[int, ...]] = tuple(jaxlib.version.__version_info__)


@dataclasses.dataclass(frozen=True)
class Miscompilation:
    """A defect of XLA's.

    Attributes:
        issue: Where it was reported in public, or that it was not.
        fixed: The first jaxlib that is right; None where none is known.
        what: What is wrong, as a clause.
        cure: What keeps clear of it: jbdot's own dots, and code without jbdot.
    """

    issue: str
    fixed: tuple[int, ...] | None
    what: str
    cure: str


_SPARED: Final = "jbdot's own dots keep clear of it; for all else "
# Of the library that XLA's CPU compiler gives sums to, with the products that it fuses into them.
_WITHOUT_IT: Final = _SPARED + "set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type="  # with no value

KNOWN: Final = (
    Miscompilation(
        "jax#39103",
        (0, 11, 0),
        "jit on CPU gives wrong elements of sums over products and dots that are fused into them",
        _WITHOUT_IT,
    ),
    Miscompilation(
        "jax#39257, jax#40412",
        (0, 11, 1),
        "jit on CPU crashes, hangs or gives wrong elements in sums over products of rank 7 or more",
        _WITHOUT_IT,
    ),
    Miscompilation(
        "found here",
        (0, 11, 1),
        "jit on CPU ends the process where the result of a batched dot has a layout constraint and is transposed",
        _SPARED + "put no constraint there",
    ),
    Miscompilation(
        "found here",
        None,
        'jit on CPU refuses to run some batched bfloat16 dots with preferred_element_type="float32" whose result is '
        "transposed (DotThunk: BF16 x BF16 = F32)",
        "With or without jbdot, cast the operands of such a dot to float32",
    ),
    Miscompilation(
        "found here",
        None,
        "on a GPU, dots of int8 matrices to int32 over an odd size may come out twice as large (H100, jaxlib 0.11.2: "
        "sizes 3 and 33; 17, 77, 129 and 1001 were right)",
        _SPARED + 'pad that axis with zeros to a multiple of 4; so with lowering="direct"',
    ),
)

RIGHT_SUMS: Final = JAXLIB >= (0, 11, 1)
RIGHT_PINS: Final = JAXLIB >= (0, 11, 1)


def here(jaxlib_version: tuple[int, ...] = JAXLIB) -> tuple[Miscompilation, ...]:
    """Lists the defects that the installed jaxlib has."""
    return tuple(known for known in KNOWN if known.fixed is None or jaxlib_version < known.fixed)


def text(known: Miscompilation) -> str:
    """Writes a defect and its cure on one line."""
    fixed = f"; right from jaxlib {'.'.join(map(str, known.fixed))}" if known.fixed else ""
    return f"{known.what} ({known.issue}{fixed}). {known.cure}"
