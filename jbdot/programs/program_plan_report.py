"""A plan of a whole program in words: what is cut, what that costs, what else there was, and why it won."""

import html
import re
from collections import defaultdict
from typing import Final

from jbdot.core.text import bytes_text, paragraph, rounded_text, table, unbroken
from jbdot.many_devices import partition_spec
from jbdot.programs.layout_search import Candidate
from jbdot.programs.program_decision import ProgramDecision
from jbdot.programs.witness import BETWEEN

SHOWN: Final = 8  # candidates that are printed
_NAMED: Final = 3  # arrays that are named in a row


def text(plan: ProgramDecision) -> str:
    """Returns the plan as text."""
    parts = [
        paragraph(title(plan)),
        "what each mesh axis cuts, the first that an array has\n" + table(cuts(plan)),
        "arguments\n" + table(arguments(plan)),
        "candidates, estimated\n" + table(candidates(plan)),
        *([f"candidates, compiled for {plan.topology}\n" + table(witnesses(plan))] if plan.witnesses else []),
        paragraph(why(plan)),
    ]
    if plan.traced.flow.unknown:
        names = ", ".join(f"{name} ({count})" for name, count in plan.traced.flow.unknown.items())
        parts.append(paragraph(f"Not known, and taken as needing their operands whole: {names}."))
    return "\n\n".join(parts)


def title(plan: ProgramDecision) -> str:
    """Says in a line what is planned, and what it is expected to take."""
    cost = plan.winner.cost
    found = plan.witnesses[0].report if plan.witnesses else None
    if found is not None:
        return (
            f"{plan.name} on {partition_spec.listed(plan.mesh.shape)} of {plan.hardware.name}: {plan.winner.name}, "
            f"{_ms(found.step_us)} ms a call, estimated by the compiler; each device sends "
            f"{bytes_text(found.sent)} and needs {_needed(plan, found.memory_bytes)}"
        )
    return (
        f"{plan.name} on {partition_spec.listed(plan.mesh.shape)} of {plan.hardware.name}: {plan.winner.name}, "
        f"{_ms(cost.total_us)} ms a call, estimated; each device sends {bytes_text(cost.bytes_sent)} and needs "
        f"{_memory(plan, plan.winner)}"
    )


def cuts(plan: ProgramDecision) -> list[tuple[str, ...]]:
    """Returns a row for each label that a mesh axis cuts."""
    names = _labels(plan)
    rows = [("axis", "label", "size", "of")]
    for axis, order in plan.winner.layout.orders.items():
        for at, label in enumerate(order):
            sizes, places = names[label]
            rows.append((axis if at == 0 else "", f"{at + 1}", "/".join(map(str, sizes)), places))
        if not order:
            rows.append((axis, "-", "", "nothing"))
    return rows


def _labels(plan: ProgramDecision) -> dict[int, tuple[list[int], str]]:
    """Says of each label its sizes, and the axes of arguments that it is."""
    flow = plan.traced.flow
    sizes: dict[int, list[int]] = defaultdict(list)
    places: dict[int, list[str]] = defaultdict(list)
    for name, array in zip(plan.traced.names, flow.arguments, strict=True):
        for dim, label in enumerate(flow.labels(array)):
            if label is not None:
                sizes[label] += [array.shape[dim]] * (array.shape[dim] not in sizes[label])
                places[label].append(f"axis {dim} of {name}")
    return {label: (sizes[label], _listed(places[label])) for label in sizes}


def _listed(names: list[str]) -> str:
    """Writes a few names, those that differ in a number alone as one with a star, and how many more there are.

    Example:
        >>> _listed(["w[0]", "w[1]", "v"])
        'w[*], v'
    """
    counts: dict[str, list[str]] = defaultdict(list)
    for name in names:
        counts[re.sub(r"\[\d+\]", "[*]", name)].append(name)
    found = [alike if len(same) > 1 else same[0] for alike, same in counts.items()]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def arguments(plan: ProgramDecision) -> list[tuple[str, ...]]:
    """Returns a row for each PartitionSpec, with the arguments that have it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, sharding in plan.arrays.items():
        fixed = ", fixed" if name in plan.fixed else ""
        found[unbroken(partition_spec.code(partition_spec.written(sharding))) + fixed].append(name)
    return [("sharding", "arrays", "of"), *((spec, str(len(names)), _listed(names)) for spec, names in found.items())]


def candidates(plan: ProgramDecision) -> list[tuple[str, ...]]:
    """Returns a row for each candidate, the winner first."""
    rows: list[tuple[str, ...]] = [("layout", "ms: computing + sending", "sent", "memory")]
    shown = [plan.winner, *(each for each in plan.candidates if each.name != plan.winner.name)][:SHOWN]
    for each in shown:
        cost = each.cost
        total, compute, sending = map(_ms, (cost.total_us, cost.compute_us, cost.sending_us))
        needed = bytes_text(cost.memory_bytes) + (", too much" if cost.memory_bytes > plan.memory else "")
        rows.append((each.name, f"{total} = {compute} + {sending}", bytes_text(cost.bytes_sent), needed))
    return rows


def _ms(us: float) -> str:
    return rounded_text(us / 1e3)


def witnesses(plan: ProgramDecision) -> list[tuple[str, ...]]:
    """Returns a row for each candidate that was compiled, the winner first."""
    rows = [("layout", "XLA is told of", "ms: computing + sending", "sent", "memory")]
    for each in plan.witnesses:
        time, sent, memory = each.cells
        short = ", too much" if each.report is not None and each.score(plan.memory)[0] else ""
        rows.append((each.candidate.name, BETWEEN[each.between], time, sent, memory + short))
    return rows


def _memory(plan: ProgramDecision, candidate: Candidate) -> str:
    return _needed(plan, candidate.cost.memory_bytes)


def _needed(plan: ProgramDecision, needed: int) -> str:
    if plan.memory == float("inf"):
        return bytes_text(needed)
    return f"{bytes_text(needed)} of {bytes_text(int(plan.memory))}"


def why(plan: ProgramDecision) -> str:
    """Says why the winner is taken: against the next that fits, and which faster ones do not fit."""
    winner = plan.winner
    if plan.witnesses:
        return _by_compiler(plan)
    others = [each for each in plan.candidates if each.name != winner.name and each.cost != winner.cost]
    fit = [each for each in others if each.cost.memory_bytes <= plan.memory]
    parts = [f"{plan.looked} layouts were estimated."]
    if fit:
        parts.append(_against(winner, min(fit, key=lambda each: each.cost.total_us)))
    faster = [
        each for each in others if each.cost.memory_bytes > plan.memory and each.cost.total_us < winner.cost.total_us
    ]
    for each in faster[:1]:
        parts.append(f"{_capital(each.name)} would be faster, and does not fit: {_memory(plan, each)}.")
    if plan.state:
        how = "plan(step, {})" if plan.traced.is_of_arrays else "{} where it is jitted"
        parts.append(f"Its state is counted once: donate it, {how.format(f'donate_argnums={plan.state}')}.")
    return " ".join(parts)


def _by_compiler(plan: ProgramDecision) -> str:
    """Says what the compiler made of the winner, beside its estimate, and of the next."""
    best, *others = plan.witnesses
    parts = [f"{plan.looked} layouts were estimated, and {len(plan.witnesses)} programs compiled."]
    if best.report is not None:
        said = best.report.step_us
        parts.append(
            f"By the compiler's text the winner takes {_ms(said)} ms (its own estimate, and one of what it sends), "
            f"and was estimated to take {_ms(plan.winner.cost.total_us)}."
        )
        for other in others[:1]:
            if other.report is not None and said:
                ratio = other.report.step_us / said
                told = BETWEEN[other.between]
                parts.append(f"The next, {other.candidate.name}, told of {told}, takes {ratio:.3g} times as long.")
    return " ".join(parts)


def _against(winner: Candidate, other: Candidate) -> str:
    ours, theirs = winner.cost, other.cost
    reasons: list[str] = []
    if theirs.bytes_sent > ours.bytes_sent * 1.01:
        reasons.append(f"sends {bytes_text(theirs.bytes_sent)}, and not {bytes_text(ours.bytes_sent)}")
    elif theirs.sending_us > ours.sending_us * 1.01:
        reasons.append(f"sends for {_ms(theirs.sending_us)} ms, and not {_ms(ours.sending_us)}")
    if theirs.flops > ours.flops * 1.01:
        reasons.append(f"has each device do {theirs.flops / ours.flops:.3g} times the FLOPs")
    elif theirs.compute_us > ours.compute_us * 1.01:
        reasons.append(f"computes for {_ms(theirs.compute_us)} ms, and not {_ms(ours.compute_us)}")
    ratio = theirs.total_us / ours.total_us if ours.total_us else 1.0
    because = f": it {' and '.join(reasons)}" if reasons else ""
    return f"The next that fits, {other.name}, takes {ratio:.3g} times as long{because}."


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def page(plan: ProgramDecision) -> str:
    """Returns the plan for a notebook."""
    tables = "".join(
        f"<p>{head}</p><table>"
        + "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True)
        )
        + "</table>"
        for head, rows in (
            ("What each mesh axis cuts, the first that an array has", cuts(plan)),
            ("Arguments", arguments(plan)),
            ("Candidates, estimated", candidates(plan)),
            *([(f"Candidates, compiled for {plan.topology}", witnesses(plan))] if plan.witnesses else []),
        )
    )
    return f"<p>{html.escape(title(plan))}</p>{tables}<p>{html.escape(why(plan))}</p>"
