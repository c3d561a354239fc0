"""Draws what a program sends: a bar for each line of the source, and the time of a call in parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from jbdot.core.colours import COLOURS
from jbdot.core.text import bytes_text
from jbdot.programs.communication_row import CommunicationRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN: Final = 12  # lines
_PARTS: Final = {
    "forward": COLOURS["lhs free"],
    "backward": COLOURS["contracting"],
    "recomputed": COLOURS["summed"],
    "": COLOURS["batch"],
}
_COMPUTE: Final = COLOURS["unit"]


def draw(rows: Sequence[CommunicationRow], computing_us: float | None, title: str) -> "Figure":
    """Draws a report.

    Args:
        rows: Of the report.
        computing_us: What all but sending takes, where that is known.
        title: What stands above.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "jbdot.communication(...).plot: matplotlib draws the picture, and is not installed. pip install matplotlib"
        ) from None
    lines = _lines(rows)
    figure = Figure(figsize=(9.5, 2.6 + 0.42 * max(1, len(lines))), layout="constrained")
    sent, time = figure.subplots(2, 1, height_ratios=[max(1, len(lines)), 1.2])
    _bars(sent, lines)
    _times(time, rows, computing_us)
    figure.legend(loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle(title, fontsize=12)
    return figure


def _lines(rows: Sequence[CommunicationRow]) -> dict[str, dict[str, int]]:
    """Sums what each line sends, by pass; the lines that send most, the most first."""
    lines: dict[str, dict[str, int]] = {}
    for row in rows:
        parts = lines.setdefault(row.where, {})
        parts[row.part] = parts.get(row.part, 0) + row.sent
    most = sorted(lines, key=lambda where: -sum(lines[where].values()))[:_SHOWN]
    return {where: lines[where] for where in most}


def _bars(axes: Any, lines: dict[str, dict[str, int]]) -> None:
    for place, parts in enumerate(lines.values()):
        left = 0.0
        for name in (name for name in _PARTS if name in parts):
            axes.barh(place, parts[name] / 1e6, left=left, color=_PARTS[name])
            left += parts[name] / 1e6
        axes.text(left, place, f" {bytes_text(sum(parts.values()))}", va="center", fontsize=9)
    axes.set_yticks(range(len(lines)), list(lines), fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("MB that each device sends in a call")


def _times(axes: Any, rows: Sequence[CommunicationRow], computing_us: float | None) -> None:
    compute = (computing_us or 0.0) / 1e3
    axes.barh(0, compute, color=_COMPUTE, label="computing")
    left = compute
    for name, colour in _PARTS.items():
        ms = sum(row.us for row in rows if row.part == name) / 1e3
        if ms:
            axes.barh(0, ms, left=left, color=colour, label=f"sending, {name or 'no gradient'}")
            left += ms
    axes.set_yticks([0], ["a call"])
    axes.set_xlabel("ms, estimated, if nothing is sent beside other work")
