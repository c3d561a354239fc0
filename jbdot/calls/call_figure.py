"""Draws an `Explanation`: operands above, result below, axes as blocks coloured by role."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from jbdot.calls.meaning import Meaning
from jbdot.core.colours import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEP: Final = 1.15  # from one block of an array to the next, in blocks
_GAP: Final = 1.7  # between the two operands
_TOP: Final = 2.6  # the operands' height above the result
_LEVEL: Final = 0.55  # from one sum's bracket to the next
_NAMES: Final = {"lhs free": "free, of {lhs}", "rhs free": "free, of {rhs}", "summed": "summed alone"}


def draw(explanation: Meaning) -> "Figure":
    """Draws the picture of a call.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "jbdot.explain(...).plot: matplotlib draws the picture, and is not installed. pip install matplotlib"
        ) from None
    e = explanation
    c = e.contraction
    lhs_at = [_STEP * i for i in range(len(c.lhs))]
    start = lhs_at[-1] + _STEP + _GAP if lhs_at else _GAP
    rhs_at = [start + _STEP * i for i in range(len(c.rhs))]
    width = (rhs_at[-1] if rhs_at else start) + 1
    out_start = (width - _STEP * len(c.out) + (_STEP - 1)) / 2
    out_at = [out_start + _STEP * i for i in range(len(c.out))]
    left, right, bottom = min(0.0, out_start) - 0.6, max(width, out_start + _STEP * len(c.out)) + 0.6, -2.1
    names_at = _TOP + 1.55 + _LEVEL * len(c.contracting)
    top = names_at + 1.0
    figure = Figure(figsize=(max(6.5, (right - left) * 0.72), (top - bottom) * 0.72), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")

    shapes = {"lhs": e.planned.lhs.shape(e.lhs.shape), "rhs": e.planned.rhs.shape(e.rhs.shape)}
    for i, label in enumerate(c.out):
        if label is not None:
            for at, labels in ((lhs_at, c.lhs), (rhs_at, c.rhs)):
                _flow(axes, e, [at[j] for j, other in enumerate(labels) if other == label], out_at[i], label)
    for label in c.contracting:
        _join(
            axes,
            lhs_at[c.lhs.index(label)],
            rhs_at[c.rhs.index(label)],
            len(c.contracting) - c.contracting.index(label),
            label,
        )
    _blocks(axes, e, lhs_at, _TOP, c.lhs, shapes["lhs"])
    _blocks(axes, e, rhs_at, _TOP, c.rhs, shapes["rhs"])
    _blocks(axes, e, out_at, 0.0, c.out, e.shape)
    for name, at, first, shape, height in (
        (e.lhs.name, lhs_at, 0.0, shapes["lhs"], names_at),
        (e.rhs.name, rhs_at, start, shapes["rhs"], names_at),
        ("out", out_at, out_start, e.shape, -0.65),
    ):
        _title(axes, name, shape, (at[0] + at[-1] + 1) / 2 if at else first + 0.5, height)
    axes.text((left + right) / 2, bottom + 0.65, f"${e.latex}$", ha="center", va="center", fontsize=16)
    _legend(axes, e)
    return figure


def notebook_svg(plot: Callable[[], "Figure"]) -> str:
    """Writes a picture as a notebook shows it; nothing where matplotlib is missing."""
    try:
        figure = plot()
    except ImportError:
        return ""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    return f"<div style='max-width:760px;background:white'>{svg[svg.index('<svg') :]}</div>"


def _blocks(axes: "Axes", e: Meaning, at: list[float], y: float, labels: Any, shape: Any) -> None:
    """Draws an array: a block for each axis with its label and size, and its number beside it."""
    from matplotlib.patches import FancyBboxPatch

    for axis, (x, label, size) in enumerate(zip(at, labels, shape, strict=True)):
        style = "round,pad=0,rounding_size=0.12"
        axes.add_patch(
            FancyBboxPatch(
                (x + 0.06, y + 0.06),
                0.88,
                0.88,
                boxstyle=style,
                fc=COLOURS[e.colour(label)],
                ec="black",
                lw=1.1,
                zorder=3,
            )
        )
        axes.text(
            x + 0.5,
            y + 0.62,
            label or "1",
            ha="center",
            va="center",
            fontsize=15 if len(label or "1") < 3 else 9,
            weight="bold",
            zorder=4,
        )
        axes.text(
            x + 0.5, y + 0.27, str(size), ha="center", va="center", fontsize=10 if len(str(size)) < 6 else 7, zorder=4
        )
        axes.text(
            x + 0.5,
            y - 0.2 if y == 0.0 else y + 1.12,
            f"axis {axis}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="#666666",
            zorder=4,
        )


def _title(axes: "Axes", name: str, shape: Any, middle: float, height: float) -> None:
    """Returns the name and shape of an array; of a scalar there is nothing else to see."""
    text = (
        f"{name}  ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})" if len(shape) else f"{name}, a scalar"
    )
    axes.text(middle, height, text, ha="center", va="center", fontsize=12, weight="bold")


def _flow(axes: "Axes", e: Meaning, sources: list[float], target: float, label: str) -> None:
    """Lines from an operand's axis down to the result's."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    for source in sources:
        bend = (_TOP + 1) / 2
        path = Path(
            [(source + 0.5, _TOP), (source + 0.5, bend), (target + 0.5, bend), (target + 0.5, 1.0)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        axes.add_patch(
            PathPatch(path, fc="none", ec=COLOURS[e.colour(label)], lw=3, alpha=0.75, zorder=1, capstyle="round")
        )


def _join(axes: "Axes", left: float, right: float, level: int, label: str) -> None:
    """Draws a bracket over two contracting axes, with the sum over them."""
    high, low = _TOP + 1.0 + _LEVEL * level, _TOP + 1.28
    axes.plot(
        [left + 0.5, left + 0.5, right + 0.5, right + 0.5],
        [low, high, high, low],
        color=COLOURS["contracting"],
        lw=3,
        solid_joinstyle="round",
    )
    box = {"boxstyle": "round,pad=0.22", "fc": "white", "ec": COLOURS["contracting"], "lw": 1.2}
    axes.text(
        (left + right + 1) / 2, high, f"sum over {label}", ha="center", va="center", fontsize=10, zorder=5, bbox=box
    )


def _legend(axes: "Axes", e: Meaning) -> None:
    from matplotlib.patches import Patch

    c = e.contraction
    found = dict.fromkeys(e.colour(label) for label in (*c.out, *c.lhs, *c.rhs))
    order = [role for role in COLOURS if role in found]
    handles = [
        Patch(fc=COLOURS[role], ec="black", label=_NAMES.get(role, role).format(lhs=e.lhs.name, rhs=e.rhs.name))
        for role in order
    ]
    axes.legend(
        handles=handles, loc="upper center", ncols=len(handles), frameon=False, fontsize=10, bbox_to_anchor=(0.5, 1.0)
    )
    axes.set_title(e.function, fontsize=13)
