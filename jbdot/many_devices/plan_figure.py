"""Draws a `ShardingPlan`: the devices of its mesh, and what each holds of every array before and after each step.

One pair of axes covers a figure, and is measured in inches, downwards.
"""

import base64
import dataclasses
import functools
import html
import io
import itertools
import uuid
from typing import TYPE_CHECKING, Any, Final

from jbdot.core.colours import COLOURS, part
from jbdot.core.contraction import Contraction
from jbdot.core.errors import array_text
from jbdot.core.text import bytes_text
from jbdot.many_devices.decision import Decision
from jbdot.many_devices.partition_spec import code
from jbdot.many_devices.plan_frames import Panel, Place, Side, Stage, panels, segments, sides, stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_Point = tuple[float, float]
_MARGIN: Final = 0.3
_SMALL: Final = 7.5  # points, of what stands at cells and bars
_LINE: Final = 0.14  # inches from one line of small text to the next
_BAR: Final = 0.5  # the length of an axis
_PITCH: Final = 0.145  # from one axis to the next
_PAD: Final = 0.06  # inside a cell
_GAP: Final = 0.18  # between cells
_THIN: Final = 0.018  # a piece is drawn no thinner
_DARK, _GREY, _EMPTY = "#222222", "#666666", "#E9E9E9"
_NAMES: Final = {"lhs free": "free, of lhs", "rhs free": "free, of rhs", "unit": "of length 1"}


def draw(plan: Decision) -> "Figure":
    """Draws what a plan does: for each array a row of panels, one at the start and one after each step.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows, sheet = panels(plan), _Sheet.of(plan)
    width, height = sheet.panel
    across, down, head = width + sheet.between, height + 0.45, 1.25
    shelves = _shelves([len(row) for row in rows.values()])
    columns, lines = max(at + len(row) for (_, at), row in zip(shelves, rows.values(), strict=True)), shelves[-1][0] + 1
    figure, axes = _paper(sheet.width(columns * across - sheet.between, *_head_lines(plan)), head + lines * down)
    _head(axes, sheet, plan)
    for (line, column), (name, row) in zip(shelves, rows.items(), strict=True):
        left, top = _MARGIN + column * across, head + line * down
        axes.text(left, top, _array(plan, name), fontsize=10, weight="bold", va="center")
        for x, panel in zip(itertools.count(left, across), row, strict=False):
            _panel(axes, sheet, panel, x, top + 0.15)
            if panel.steps:
                _move(axes, sheet, panel.move, x + width, top + 0.15)
    return figure


def _shelves(lengths: list[int]) -> list[tuple[int, int]]:
    """Places each row of panels, as (line, column): two rows share a line where no line gets longer by it."""
    most, places, line, column = max(2, *lengths), list[tuple[int, int]](), 0, 0
    for length in lengths:
        if column + length > most:
            line, column = line + 1, 0
        places.append((line, column))
        column += length
    return places


def page(plan: Decision) -> str:
    """Writes a plan as HTML: its tables, and its stages one at a time, which arrow keys step through."""
    tables = f"<pre>{html.escape(str(plan))}</pre>"
    try:
        sheet, shown = _Sheet.of(plan), stages(plan)
    except ImportError:
        return tables
    name = f"jbdot-{uuid.uuid4().hex[:8]}"
    items = [_item(sheet, stage, number, name) for number, stage in enumerate(shown)]
    return f"{tables}<style>{_STYLE}</style><div class='jbdot-stages'>{''.join(items)}</div>"


_STYLE: Final = (
    ".jbdot-stages{display:flex;flex-wrap:wrap;align-items:center;background:white;color:black;max-width:1100px}"
    ".jbdot-stages>div{display:none;order:1;width:100%}.jbdot-stages img{max-width:100%}"
    ".jbdot-stages>input:checked+label+div{display:block}.jbdot-stages>label{margin-right:1em}"
)


def _item(sheet: "_Sheet", stage: Stage, number: int, name: str) -> str:
    """Writes a stage: its button, and its picture as a document of its own, so that names of pictures do not clash."""
    file = io.BytesIO()
    _stage(sheet, stage, number).savefig(file, format="svg")
    picture = base64.b64encode(file.getvalue()).decode()
    button, text = f"{name}-{number}", html.escape(stage.text)
    return (
        f"<input type='radio' name='{name}' id='{button}'{'' if number else ' checked'}>"
        f"<label for='{button}'>{number + 1}. {html.escape(stage.name)}</label>"
        f"<div><img alt='{text}' src='data:image/svg+xml;base64,{picture}'></div>"
    )


def _stage(sheet: "_Sheet", stage: Stage, number: int) -> "Figure":
    """Draws all three arrays at one time, and what happens next."""
    width, height = sheet.panel
    across = width + 0.3
    figure, axes = _paper(sheet.width(3 * across - 0.3), height + 1.2)
    axes.text(_MARGIN, 0.25, f"{number + 1}.  {stage.text}", fontsize=11, weight="bold", va="center")
    _legend(axes, sheet, 0.55)
    for left, name, panel in zip(itertools.count(_MARGIN, across), ("lhs", "rhs", "out"), stage.panels, strict=False):
        axes.text(left, 0.95, name, fontsize=10, weight="bold", va="center")
        if panel is None:
            _note(axes, "not yet", left, 1.24, va="center")
        else:
            still = panel if stage.active == name else dataclasses.replace(panel, steps=())
            _panel(axes, sheet, still, left, 1.1)
    return figure


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """Sizes in inches, the same for all panels of a plan."""

    contraction: Contraction
    rows: Side
    columns: Side
    gutter: float  # for labels, left of the bars
    cell: _Point
    margin: _Point  # for the names of rows and columns, and the panel's title
    panel: _Point
    between: float  # for what happens between two panels
    legend: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, plan: Decision) -> "_Sheet":
        """Computes the size of every part of the figure from what will be drawn."""
        _needs_matplotlib()
        c, found = plan.contraction, panels(plan)
        shown = [panel for row in found.values() for panel in row]
        rows, columns = sides(plan.mesh.shape)
        names = [[side.name(place) for place in side.places] for side in (rows, columns)]
        gutter = max(_width(label or "1") for panel in shown for label in ("", *panel.labels)) + 0.05
        cell = (
            max(gutter + _BAR + 2 * _PAD, *map(_width, names[1])),
            _PITCH * max(1, *(len(panel.labels) for panel in shown)) + 2 * _PAD,
        )
        margin = (
            max(map(_width, names[0])) + _beside(rows),
            0.27 + _LINE * max(1, len(columns.mesh)) + _beside(columns),
        )
        grid = [_at(side, size)[-1] + size for side, size in zip((columns, rows), cell, strict=True)]
        texts = [text for panel in shown for text in (panel.held, panel.title)]
        heads = [_width(_array(plan, name), 11.5) for name, row in found.items() if len(row) == 1]
        width = max(margin[0] + max(grid[0], *map(_width, texts)), *heads, 0)
        between = max((_width(panel.move) for panel in shown if panel.steps), default=0.0) + 0.4
        panel = width, margin[1] + grid[1] + 0.1 + 2 * _LINE
        return cls(c, rows, columns, gutter, cell, margin, panel, between, _legend_of(c, shown))

    def width(self, content: float, *lines: str) -> float:
        """Measures the width of a figure with lines of large text above."""
        legend = sum(0.5 + _width(text) for text, _ in self.legend)
        return max(content, legend, *(_width(line, 13.5) for line in lines)) + 2 * _MARGIN

    def spots(self) -> list[tuple[float, float, Place]]:
        """Says where the cell of each device begins in a panel, and its coordinates."""
        lefts, tops = _at(self.columns, self.cell[0]), _at(self.rows, self.cell[1])
        return [
            (self.margin[0] + left, self.margin[1] + top, {**row, **column})
            for top, row in zip(tops, self.rows.places, strict=True)
            for left, column in zip(lefts, self.columns.places, strict=True)
        ]


def _beside(side: Side) -> float:
    """Measures the room between cells and the names beside them, for arrows that pass others by."""
    return 0.2 if len(side.mesh) > 1 else 0.06


def _at(side: Side, size: float) -> list[float]:
    """Says where cells begin along a side: with more room where some are left out."""
    return [0.0, *itertools.accumulate(size + _GAP * (2.2 if gap else 1.0) for gap in side.gaps)]


def _paper(width: float, height: float) -> "tuple[Figure, Axes]":
    """Makes a figure, and axes all over it, in inches, downwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def _needs_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ImportError(
            "jbdot.ShardingPlan.plot: matplotlib draws the picture, and is not installed. pip install matplotlib"
        ) from None


@functools.lru_cache(maxsize=1024)
def _width(text: str, size: float = _SMALL) -> float:
    """Inches that a text takes."""
    from matplotlib.textpath import TextPath

    return max(
        (TextPath((0, 0), line, size=size).get_extents().x1 / 72 for line in text.split("\n") if line), default=0
    )


def _array(plan: Decision, name: str) -> str:
    x: Any = getattr(plan, name)
    return f"{name}  {array_text('', x.shape, x.dtype)}  {code(x.sharding.spec)}"


def _head_lines(plan: Decision) -> tuple[str, str]:
    """Says what is planned, and what it sends."""
    rows, columns = sides(plan.mesh.shape)
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.shape.items())
    cut = f"  (rows {' '.join(rows.mesh)}, columns {' '.join(columns.mesh)})" if len(plan.mesh.shape) > 2 else ""
    what = f"{str(plan.contraction).strip()}   on mesh {mesh}{cut}"
    sent, plain = bytes_text(plan.sent), bytes_text(plan.plain[0].sent)
    if plan.is_plain:
        return what, f"plain jit, {plan.winner.name}: each device is expected to send {sent}"
    return what, f"{plan.winner.name}: each device sends {sent}; under plain jit it is expected to send {plain}"


def _head(axes: "Axes", sheet: _Sheet, plan: Decision) -> None:
    what, sent = _head_lines(plan)
    axes.text(_MARGIN, 0.28, what, fontsize=12, weight="bold", va="center")
    axes.text(_MARGIN, 0.55, sent, fontsize=10, va="center")
    _legend(axes, sheet, 0.85)


def _legend_of(c: Contraction, shown: list[Panel]) -> tuple[tuple[str, str], ...]:
    """Says what colours and marks mean: text, and a role or a mark."""
    roles = dict.fromkeys(part(c, label) for panel in shown for label in panel.labels)
    found = [(_NAMES.get(role, role), role) for role in COLOURS if role in roles]
    found.append(("not on this device", ""))
    if any(panel.partial for panel in shown):
        found.append(("partial sums", "partial"))
    if any(panel.talking for panel in shown):
        found.append(("devices that send to each other next", "talk"))
    return tuple(found)


def _legend(axes: "Axes", sheet: _Sheet, top: float) -> None:
    left = _MARGIN
    for text, mark in sheet.legend:
        if mark == "talk":
            _arrow(axes, [(left, top), (left + 0.24, top)])
        else:
            colour = COLOURS.get(mark, _GREY if mark else _EMPTY)
            _bar(axes, (left, top, 0.22), colour, [(0, 1)], mark == "partial")
        axes.text(left + 0.3, top, text, fontsize=_SMALL, va="center")
        left += 0.5 + _width(text)


def _panel(axes: "Axes", sheet: _Sheet, panel: Panel, left: float, top: float) -> None:
    """Returns the grid of devices at one time: names of rows and columns, cells, who talks to whom, what each has."""
    axes.text(left + sheet.margin[0], top + 0.14, panel.title, fontsize=8.5, va="center")
    spots = sheet.spots()
    width, height = sheet.cell
    for x, y, device in spots:
        _cell(axes, sheet, panel, device, left + x, top + y)
    above, beside = top + sheet.margin[1] - _beside(sheet.columns), left + sheet.margin[0] - _beside(sheet.rows)
    for x, _, device in spots[: len(sheet.columns.places)]:
        _note(axes, sheet.columns.name(device), left + x + width / 2, above, va="bottom", ha="center")
    for _, y, device in spots[:: len(sheet.columns.places)]:
        _note(axes, sheet.rows.name(device), beside, top + y + height / 2, va="center", ha="right")
    _links(axes, sheet, panel, left + sheet.margin[0], top + sheet.margin[1])
    bottom = top + spots[-1][1] + height + 0.06
    _note(axes, panel.held, left + sheet.margin[0], bottom, va="top", ha="left", color=_DARK)


def _cell(axes: "Axes", sheet: _Sheet, panel: Panel, device: Place, left: float, top: float) -> None:
    """Draws a device: a bar for each axis of the array, filled where the device holds something."""
    from matplotlib.patches import Rectangle

    width, height = sheet.cell
    axes.add_patch(Rectangle((left, top), width, height, fc="white", ec=_DARK, lw=0.8))
    y = top + (height - _PITCH * len(panel.labels)) / 2
    for dim, (label, size) in enumerate(zip(panel.labels, panel.block.shape, strict=True)):
        middle, colour = y + _PITCH * (dim + 0.5), COLOURS[part(sheet.contraction, label)]
        _note(axes, label or "1", left + _PAD, middle + 0.037, va="baseline", ha="left", color=_DARK)
        pieces = [(first / size, last / size) for first, last in segments(panel.block, dim, device) if size]
        place = left + _PAD + sheet.gutter, middle, width - 2 * _PAD - sheet.gutter
        _bar(axes, place, colour, pieces, bool(panel.partial))
    if not panel.labels:  # one number
        _bar(axes, (left + width / 2 - 0.05, top + height / 2, 0.1), _GREY, [(0, 1)], bool(panel.partial))


def _bar(axes: "Axes", place: tuple[float, float, float], colour: str, pieces: list[_Point], partial: bool) -> None:
    """Draws an axis of an array: grey, with the pieces that are held in colour, hatched if they are partial sums."""
    from matplotlib.patches import Rectangle

    left, middle, width = place
    axes.add_patch(Rectangle((left, middle - 0.05), width, 0.1, fc=_EMPTY, lw=0))
    hatch: dict[str, Any] = {"hatch": "//////", "ec": "white"} if partial else {}
    for first, last in pieces:
        length = max(width * (last - first), _THIN)
        corner = left + min(width * first, width - length), middle - 0.05
        axes.add_patch(Rectangle(corner, length, 0.1, fc=colour, lw=0, **hatch))


def _links(axes: "Axes", sheet: _Sheet, panel: Panel, left: float, top: float) -> None:
    """Arrows between devices that talk, and dots where devices are left out."""
    width, height = sheet.cell
    lefts, tops = ([at + left for at in _at(sheet.columns, width)], [at + top for at in _at(sheet.rows, height)])
    for before, after in sheet.columns.pairs(panel.talking):
        for y in tops:
            _arrow(axes, _path(lefts, before, after, width, y, height))
    for before, after in sheet.rows.pairs(panel.talking):
        for x in lefts:
            _arrow(axes, [(x, y) for y, x in _path(tops, before, after, height, x, width)])
    for (before, after), gap in zip(itertools.pairwise(lefts), sheet.columns.gaps, strict=True):
        for y in tops if gap else ():
            _dots(axes, (before + width + after) / 2, y + height / 2, "\u2026")
    for (before, after), gap in zip(itertools.pairwise(tops), sheet.rows.gaps, strict=True):
        for x in lefts if gap else ():
            _dots(axes, x + width / 2, (before + height + after) / 2, "\u22ee")


def _path(starts: list[float], before: int, after: int, length: float, across: float, breadth: float) -> list[_Point]:
    """Draws an arrow from one cell to another: straight to the next, round those between to others."""
    if after == before + 1:
        return [(starts[before] + length, across + breadth / 2), (starts[after], across + breadth / 2)]
    turn = before % 4  # those that pass one another take lanes of their own
    level = across - 0.04 - 0.03 * turn
    ends = [start + length * (0.8 - 0.2 * turn) for start in (starts[before], starts[after])]
    return [(ends[0], across), (ends[0], level), (ends[1], level), (ends[1], across)]


def _arrow(axes: "Axes", points: list[_Point], ends: str = "<|-|>", thick: float = 0.9) -> None:
    """Draws an arrow along a path."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    style = f"{ends},head_length={2.9 * thick},head_width={1.6 * thick}"
    path = Path(points)
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle=style, mutation_scale=1, lw=thick, color=_DARK, zorder=3))


def _dots(axes: "Axes", x: float, y: float, text: str) -> None:
    box = {"boxstyle": "square,pad=0.05", "fc": "white", "lw": 0}
    axes.text(x, y, text, fontsize=9, ha="center", va="center", color=_GREY, bbox=box, zorder=4)


def _move(axes: "Axes", sheet: _Sheet, text: str, left: float, top: float) -> None:
    """Says what happens between two panels."""
    y = top + sheet.margin[1] + (sheet.panel[1] - sheet.margin[1] - 2 * _LINE) / 2
    _arrow(axes, [(left + 0.1, y), (left + sheet.between - 0.1, y)], "-|>", 2.0)
    first, rest = text.split("\n", 1)
    middle = left + sheet.between / 2
    _note(axes, first, middle, y - 0.08, va="bottom", ha="center", color=_DARK, weight="bold")
    _note(axes, rest, middle, y + 0.08, va="top", ha="center", color=_DARK)


def _note(axes: "Axes", text: str, x: float, y: float, **style: Any) -> None:
    settings: dict[str, Any] = {"fontsize": _SMALL, "color": _GREY, "linespacing": 1.25, **style}
    axes.text(x, y, text, **settings)
