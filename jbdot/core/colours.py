"""One colour for each role of a label, in every picture and table."""

from typing import Final

from jbdot.core.contraction import Contraction

# One colour for each role, told apart by the colour-blind too (Okabe and Ito).
COLOURS: Final = {
    "batch": "#56B4E9",
    "contracting": "#D55E00",
    "lhs free": "#009E73",
    "rhs free": "#CC79A7",
    "summed": "#E69F00",
    "unit": "#BBBBBB",
}


def part(c: Contraction, label: str | None) -> str:
    """Returns the role of a label, free ones by operand, those behind the first as of rhs: what `COLOURS` has it by."""
    role = c.role(None if label == "1" else label)
    return f"{'lhs' if label in c.lhs else 'rhs'} free" if role == "free" else role
