"""Draws the candidates of a plan of a whole program: their times, and the memory that they need."""

import math
from typing import TYPE_CHECKING, Final

from jbdot.core.colours import COLOURS
from jbdot.programs.program_decision import ProgramDecision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN: Final = 8


def draw(plan: ProgramDecision) -> "Figure":
    """Draws a plan.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "jbdot.plan_program(...).plot: matplotlib draws the picture, and is not installed. pip install matplotlib"
        ) from None
    shown = [plan.winner, *(each for each in plan.candidates if each.name != plan.winner.name)][:_SHOWN]
    figure = Figure(figsize=(10.5, 1.8 + 0.5 * len(shown)), layout="constrained")
    time, memory = figure.subplots(1, 2, sharey=True)
    for place, each in enumerate(shown):
        cost = each.cost
        labels = ("computing", "sending", "arguments", "temporaries") if place == 0 else ("",) * 4
        compute, sending = cost.compute_us / 1e3, cost.sending_us / 1e3
        time.barh(place, compute, color=COLOURS["unit"], label=labels[0])
        time.barh(place, sending, left=compute, color=COLOURS["contracting"], label=labels[1])
        kept, between = cost.argument_bytes / 1e9, (cost.output_bytes + cost.temp_bytes) / 1e9
        memory.barh(place, kept, color=COLOURS["lhs free"], label=labels[2])
        memory.barh(place, between, left=kept, color=COLOURS["batch"], label=labels[3])
    if math.isfinite(plan.memory):
        memory.axvline(plan.memory / 1e9, color="black", linestyle="--")
    time.set_yticks(range(len(shown)), [each.name for each in shown], fontsize=9)
    time.invert_yaxis()
    time.set_xlabel("ms a call, estimated")
    memory.set_xlabel("GB of each device, estimated")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9)
    mesh = ", ".join(f"{name}={size}" for name, size in plan.mesh.shape.items())
    figure.suptitle(f"{plan.name} on {mesh} of {plan.hardware.name}", fontsize=12)
    return figure
