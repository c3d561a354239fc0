"""Draws a plan of a whole program: where its arrays are cut, and what each candidate takes, sends and needs."""

import math
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from jbdot.core.text import bytes_text, rounded_text
from jbdot.many_devices.block import Sharding
from jbdot.programs import figure_bars
from jbdot.programs.layout_search import Candidate
from jbdot.programs.program_decision import ProgramDecision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN: Final = 8  # candidates
_NEAR: Final = 3.0  # those that take longer than so many times the best would make all other bars short
_FAR: Final = 2.0  # bars of memory go so many times as far as there is
_ARRAYS: Final = 9  # groups of arrays that are cut alike
_NAME: Final = 38  # letters of a line of a name
_AXES: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # of the mesh


def draw(plan: ProgramDecision) -> "Figure":
    """Draws a plan.

    Raises:
        ImportError: matplotlib is not installed.
    """
    near = _NEAR * plan.winner.cost.total_us
    others = (each for each in plan.candidates if each.name != plan.winner.name and each.cost.total_us <= near)
    shown = [plan.winner, *others][:_SHOWN]
    groups = _groups(plan)
    above, below = 0.34 * len(groups) + 0.5, 0.5 * len(shown) + 0.9
    figure = figure_bars.blank("plan_program", 11.5, 1.1 + above + below)
    parts: Any = figure.subfigures(2, 1, height_ratios=[above, below])
    arrays, candidates = parts
    _arrays(arrays.subplots(), plan, groups)
    _candidates(candidates.subplots(1, 3, sharey=True), plan, shown)
    figure_bars.legend(candidates)
    mesh = ", ".join(f"{name}={size}" for name, size in plan.mesh.shape.items())
    cost = plan.winner.cost
    figure.suptitle(
        f"{plan.name} on {mesh} of {plan.hardware.name}: {plan.winner.name}\n{figure_bars.time_text(cost.total_us)} a "
        f"call, {bytes_text(cost.bytes_sent)} sent, {bytes_text(cost.memory_bytes)} needed by each device, estimated",
        fontsize=12,
    )
    return figure


# Where arrays are cut.


def _groups(plan: ProgramDecision) -> list[tuple[str, tuple[int, ...], Sharding]]:
    """Returns arguments of one shape that are cut alike, as the name of the first with how many more there are."""
    found: dict[tuple[tuple[int, ...], Sharding], list[str]] = {}
    for (name, sharding), array in zip(plan.arrays.items(), plan.traced.flow.arguments, strict=True):
        if array.shape:
            found.setdefault((array.shape, sharding), []).append(name)
    bytes_of = Counter({key: len(names) * math.prod(key[0]) for key, names in found.items()})
    largest = {key for key, _ in bytes_of.most_common(_ARRAYS)}
    return [
        (names[0] + (f"  and {len(names) - 1} alike" if len(names) > 1 else ""), *key)
        for key, names in found.items()
        if key in largest
    ]


def _arrays(axes: Any, plan: ProgramDecision, groups: list[tuple[str, tuple[int, ...], Sharding]]) -> None:
    """Draws each axis of an array as a box, in the colours of the mesh axes that cut it."""
    colours = dict(zip(plan.mesh.shape, _AXES * len(plan.mesh.shape), strict=False))
    widest = max((len(shape) for _, shape, _ in groups), default=1)
    for place, (_, shape, sharding) in enumerate(groups):
        for dim, (size, cut) in enumerate(zip(shape, sharding, strict=True)):
            parts = [colours[axis] for axis in cut] or [figure_bars.PALE]
            for at, shade in enumerate(parts):
                axes.barh(place, 0.94 / len(parts), 0.74, dim + 0.94 * at / len(parts), color=shade)
            ways = math.prod(plan.mesh.shape[axis] for axis in cut)
            text = f"{size:,} / {ways}" if cut else f"{size:,}"
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"} if cut else None
            axes.text(dim + 0.47, place, text, ha="center", va="center", fontsize=9, bbox=box)
    for axis, shade in colours.items():
        axes.barh(0, 0, color=shade, label=f"cut over {axis}")
    axes.barh(0, 0, color=figure_bars.PALE, label="whole on each device")
    axes.set_yticks(range(len(groups)), [name for name, *_ in groups], fontsize=9)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(-0.03, max(4, widest))
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9, frameon=False)


# What the candidates take.


def _candidates(panels: Any, plan: ProgramDecision, shown: list[Candidate]) -> None:
    time, sent, memory = panels
    costs = [each.cost for each in shown]
    time_name, us = figure_bars.time_unit(max(cost.total_us for cost in costs))
    sent_name, size = figure_bars.byte_unit(max(cost.bytes_sent for cost in costs))
    memory_name, unit = figure_bars.byte_unit(max(cost.memory_bytes for cost in costs))
    edge = _FAR * plan.memory / unit
    for place, cost in enumerate(costs):
        fits = cost.memory_bytes <= plan.memory
        options = {} if fits else {"alpha": 0.35}
        words = {"color": figure_bars.DARK if fits else figure_bars.GREY, "weight": "bold" if place == 0 else "normal"}
        spent = {
            "computing": (cost.compute_us / us, figure_bars.COMPUTING),
            "sending": (cost.sending_us / us, figure_bars.DARK),
        }
        end = figure_bars.bar(time, place, spent, **options)
        figure_bars.said(time, end, place, rounded_text(cost.total_us / us), **words)
        kinds = Counter[str]()
        for (kind, _), given in cost.sent.items():
            kinds[kind] += round(given)
        given = {kind: (sent / size, figure_bars.colour(kind)) for kind, sent in figure_bars.in_order(kinds)}
        end = figure_bars.bar(sent, place, given, **options)
        figure_bars.said(sent, end, place, rounded_text(cost.bytes_sent / size), **words)
        sizes = {"arguments": cost.argument_bytes, "results": cost.output_bytes, "temporaries": cost.temp_bytes}
        end = figure_bars.bar(memory, place, figure_bars.memory_parts(sizes, unit), **options)
        figure_bars.said(
            memory,
            min(end, edge),
            place,
            f"{rounded_text(cost.memory_bytes / unit)}{'' if fits else ', too much'}",
            **words,
        )
    for axes in panels:
        figure_bars.tidy(axes)
        axes.margins(x=0.22)
        axes.axhspan(-0.45, 0.45, color="#FFF3D6", zorder=-1)  # the winner
    names = [textwrap.fill(each.name, _NAME) for each in shown]
    time.set_yticks(range(len(shown)), [f"taken: {names[0]}", *names[1:]], fontsize=9)
    time.get_yticklabels()[0].set_weight("bold")
    time.set_ylim(len(shown) - 0.4, -0.6)
    time.set_xlabel(f"{time_name} a call, estimated", fontsize=9)
    sent.set_xlabel(f"{sent_name} sent by each device, estimated", fontsize=9)
    memory.set_xlabel(f"{memory_name} needed by each device, estimated", fontsize=9)
    figure_bars.limited(memory, max(cost.memory_bytes for cost in costs), plan.memory, unit)
    memory.set_xlim(0, min(memory.get_xlim()[1], 1.3 * edge))
