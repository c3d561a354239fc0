"""Draws the path of a contraction as a tree: operands below, products above them, the result on top."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from jbdot.core.colours import COLOURS
from jbdot.core.labels import Labels
from jbdot.core.text import number_text
from jbdot.one_device.path import ContractionPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDE: Final = 2.6  # from one operand to the next
_HIGH: Final = 1.5  # from one product to the next


def draw(path: ContractionPath, sizes: Mapping[str, int], title: str) -> "Figure":
    """Draws the picture of a path.

    Args:
        path: The products.
        sizes: The length of each label.
        title: What stands above.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "jbdot.explain(...).plot: matplotlib draws the picture, and is not installed. pip install matplotlib"
        ) from None
    steps, terms = path.steps, path.contraction.terms
    count = len(terms)
    order = _leaves(steps, count, count + len(steps) - 1)
    places = {at: (_WIDE * column, 0.0) for column, at in enumerate(order)}
    width, height = max(6.5, 0.95 * _WIDE * count), 1.6 + 0.95 * _HIGH * (1 + len(steps))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    for at, step in enumerate(steps, count):
        left, right = places[step.lhs], places[step.rhs]
        x, y = (left[0] + right[0]) / 2, _HIGH * (1 + at - count)
        places[at] = x, y
        for under in (left, right):
            axes.plot([under[0], x], [under[1], y], color="#888888", lw=2, zorder=1)
        axes.text(x, y - 0.5, f"{number_text(step.sizes.flops)} FLOPs", **_SMALL, backgroundcolor="white")
    for at, term in enumerate(terms):
        _box(axes, places[at], f"x{at}", term, sizes, COLOURS["lhs free"])
    for at, step in enumerate(steps, count):
        is_last = at == count + len(steps) - 1
        colour = COLOURS["contracting"] if step.result == path.largest and not is_last else COLOURS["batch"]
        _box(axes, places[at], "out" if is_last else f"t{at - count}", step.contraction.out, sizes, colour)
    axes.set(xlim=(-_WIDE / 2, _WIDE * (count - 0.5)), ylim=(-0.7, _HIGH * len(steps) + 0.9))
    axes.set_title(title, fontsize=12)
    return figure


_SMALL: Final[dict[str, Any]] = {"ha": "center", "va": "center", "fontsize": 9, "zorder": 2}


def _leaves(steps: Any, count: int, at: int) -> list[int]:
    """Lists the operands that a place is made of, from left to right."""
    if at < count:
        return [at]
    step = steps[at - count]
    return _leaves(steps, count, step.lhs) + _leaves(steps, count, step.rhs)


def _box(axes: Any, at: tuple[float, float], name: str, labels: Labels, sizes: Mapping[str, int], colour: str) -> None:
    shape = [sizes[label] if label else 1 for label in labels]
    spelt = " ".join(label or "1" for label in labels) or "scalar"
    text = f"{name}: {spelt}\n{'x'.join(map(str, shape)) or '1'}, {number_text(math.prod(shape))}"
    axes.text(*at, text, **_SMALL | {"zorder": 3}, bbox={"boxstyle": "round,pad=0.4", "fc": colour, "ec": "black"})
