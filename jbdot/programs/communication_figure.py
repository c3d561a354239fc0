"""Draws what a program sends: bars for each line of the source, the time of a call, and each device's memory."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from jbdot.core.text import bytes_text
from jbdot.programs import figure_bars
from jbdot.programs.communication_row import CommunicationRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN: Final = 10  # lines
_PASSES: Final = ("forward", "recomputed", "backward", "")
_PART: Final = 0.005  # of all that is sent: lines of less are not drawn
_GAP: Final = 0.6  # between the bars of two lines, where a bar takes 1

Bars = dict[str, dict[str, Counter[str]]]  # by line and pass, the bytes of each kind


def draw(
    title: str,
    rows: Sequence[CommunicationRow],
    computing_us: float | None,
    sizes: Mapping[str, int | None],
    limit: float,
) -> "Figure":
    """Draws a report.

    Args:
        title: What stands above.
        rows: Of the report.
        computing_us: What all but sending takes, where that is known.
        sizes: The bytes of arguments, results in a place of their own, and temporaries, where they are known.
        limit: The bytes that a device has.

    Raises:
        ImportError: matplotlib is not installed.
    """
    lines = _lines(rows)
    tall = 0.26 * (sum(map(len, lines.values())) + _GAP * len(lines)) + 0.2
    figure = figure_bars.blank("communication", 10, 3.2 + tall)
    sent, time, memory = figure.subplots(3, 1, height_ratios=[tall, 0.4, 0.4])
    _sent(sent, lines)
    _time(time, rows, computing_us or 0.0)
    _memory(memory, sizes, limit)
    figure_bars.legend(figure)
    figure.suptitle(title, fontsize=12)
    return figure


def _lines(rows: Sequence[CommunicationRow]) -> Bars:
    """Sums what each line sends, by pass and kind; the lines that send most, the most first."""
    lines: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        lines[row.where][row.part][row.kind] += row.sent
    totals = Counter({where: sum(map(Counter.total, passes.values())) for where, passes in lines.items()})
    most = [where for where, sent in totals.most_common(_SHOWN) if sent >= _PART * totals.total()]
    return {where: {part: lines[where][part] for part in _PASSES if part in lines[where]} for where in most}


def _sent(axes: Any, lines: Bars) -> None:
    most = max((kinds.total() for passes in lines.values() for kinds in passes.values()), default=0)
    name, unit = figure_bars.byte_unit(most)
    middles, at = list[float](), 0.0
    for passes in lines.values():
        middles.append(at + (len(passes) - 1) / 2)
        for place, (part, kinds) in enumerate(passes.items()):
            parts = {kind: (sent / unit, figure_bars.colour(kind)) for kind, sent in figure_bars.in_order(kinds)}
            end = figure_bars.bar(axes, at + place, parts, 0.86)
            figure_bars.said(axes, end, at + place, " ".join(filter(None, (bytes_text(kinds.total()), part))))
        at += len(passes) + _GAP
    figure_bars.tidy(axes)
    axes.set_yticks(middles, list(lines), fontsize=9)
    axes.set_ylim(max(at - _GAP, 1) - 0.4, -0.6)
    axes.margins(x=0.18)
    axes.set_xlabel(f"{name} that each device sends in a call", fontsize=9)


def _time(axes: Any, rows: Sequence[CommunicationRow], computing_us: float) -> None:
    kinds: dict[str, float] = defaultdict(float)
    for row in rows:
        kinds[row.kind] += row.us
    whole = computing_us + sum(kinds.values())
    name, unit = figure_bars.time_unit(whole)
    parts = {"computing": (computing_us / unit, figure_bars.COMPUTING)}
    parts |= {kind: (us / unit, figure_bars.colour(kind)) for kind, us in figure_bars.in_order(kinds)}
    end = figure_bars.bar(axes, 0, parts)
    figure_bars.said(axes, end, 0, figure_bars.time_text(whole))
    _alone(axes, "a call", end, f"{name}, estimated, if nothing is sent beside other work")


def _memory(axes: Any, sizes: Mapping[str, int | None], limit: float) -> None:
    known = {name: size for name, size in sizes.items() if size is not None}
    whole = sum(known.values())
    name, unit = figure_bars.byte_unit(whole)
    end = figure_bars.bar(axes, 0, figure_bars.memory_parts(known, unit))
    text, shade = bytes_text(whole), figure_bars.DARK
    if whole > limit:
        text, shade = f"{text}: does not fit", figure_bars.colour("all-reduce")
    figure_bars.said(axes, end, 0, text, color=shade)
    more = "" if len(known) == len(sizes) else " but for temporaries, which are known once it is compiled"
    _alone(axes, "memory", end, f"{name} of each device{more}")
    figure_bars.limited(axes, whole, limit, unit)


def _alone(axes: Any, name: str, end: float, label: str) -> None:
    figure_bars.tidy(axes)
    axes.set_yticks([0], [name], fontsize=9)
    axes.set_ylim(0.6, -0.6)
    axes.set_xlim(0, 1.18 * end or 1)
    axes.set_xlabel(label, fontsize=9)
