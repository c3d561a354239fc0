"""A plan in words and tables: what `print` shows of a `ShardingPlan`."""

import math
from typing import Final

from jax import numpy as jnp

from jbdot.core.errors import array_text
from jbdot.core.text import bytes_text, paragraph, table, unbroken
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import itemsize
from jbdot.many_devices.candidates import Candidate
from jbdot.many_devices.cost import Estimate
from jbdot.many_devices.decision import Decision

SHOWN: Final = 8  # candidates in a printed plan


def text(plan: Decision) -> str:
    """Writes all of it: operands, result, candidates, what is taken and why, its steps, the lower bound."""
    mesh = ", ".join(f"{name}={size}" for name, size in plan.mesh.shape.items())
    arrays = [
        f"{array_text(name, x.shape, x.dtype)} {partition_spec.code(x.sharding.spec)}"
        for name, x in (("lhs", plan.lhs), ("rhs", plan.rhs), ("out", plan.out))
    ]
    arrays[-1] += " (chosen by the plan)" if plan.open else ""
    figures = plan.hardware.name
    least = f"No way that cuts the work into equal boxes sends less than {bytes_text(round(plan.bound))}."
    parts = [
        paragraph(f"{plan.contraction} on {mesh} of {figures}"),
        "\n".join(paragraph(array, 2) for array in arrays),
        candidates(plan),
        paragraph(why(plan), 2),
        steps(plan),
        *([paragraph(least, 2)] if round(plan.bound) else []),
        paragraph(f"Bytes are counted, for each device; times, in us, are estimates from figures of {figures}.", 2),
    ]
    return "\n\n".join(parts)


def why(plan: Decision) -> str:
    """Says why the winner is taken, and in which dtypes its operands and its sums over devices are sent."""
    return " ".join(filter(None, (_taken(plan), _operands(plan), _sums(plan))))


def _taken(plan: Decision) -> str:
    if plan.is_plain:
        same = "nothing has to be sent" if not plan.sent else "operands are only gathered, as XLA does by itself"
        return f"Taken: plain jit, as {same}{_repeated(plan)}."
    plain, _ = plan.plain
    least, _ = min(plan.candidates, key=lambda pair: (pair[0].sent, pair[1].total_us))
    taken = f"Taken: {plan.winner.name}, which sends {bytes_text(plan.sent)}{_repeated(plan)}"
    if plain.sent < plan.sent and plain.flops > plan.winner.flops:
        sent, times = bytes_text(plain.sent), _times(plain, plan)
        return f"{taken}: plain jit sends an estimated {sent}, but each device does {times} the work."
    if least.sent < plan.sent:
        more = least.flops > plan.winner.flops
        but = (
            f"has each device do {_times(least, plan)} the work" if more else "is expected to take over a fifth longer"
        )
        return f"{taken}: {least.name} sends {bytes_text(least.sent)}, but {but}."
    return taken + (f", plain jit an estimated {bytes_text(plain.sent)}." if plain.sent != plan.sent else ".")


def _repeated(plan: Decision) -> str:
    """Says what is said of work that several devices do."""
    way, (plain, _) = plan.winner, plan.plain
    share = plan.task.flops / math.prod(plan.mesh.shape.values())
    if way.flops > plain.flops:
        return f", and has each device do {way.flops / plain.flops:.3g} times the work of plain jit"
    if way.flops > share:
        as_plain = "" if plan.is_plain else ", as plain jit does"
        return f", and has each device do {way.flops / share:.3g} times its share of the work{as_plain}"
    return ""


def _times(way: Candidate, plan: Decision) -> str:
    return f"{way.flops / plan.winner.flops:.3g} times"


def _operands(plan: Decision) -> str:
    """Says which operands a TPU rounds before it sends them."""
    arrays = ("lhs", plan.lhs, plan.winner.lhs), ("rhs", plan.rhs, plan.winner.rhs)
    rounded = [name for name, x, way in arrays if way.sent and way.start.dtype != jnp.dtype(x.dtype).name]
    if not rounded:
        return ""
    are = "are" if len(rounded) > 1 else "is"
    return (
        f"{' and '.join(rounded)} {are} sent as bfloat16, to which XLA's TPU compiler rounds float32 first at this "
        'precision; precision="highest" keeps float32, and sends twice of it.'
    )


def _sums(plan: Decision) -> str:
    """Says in what dtype floats are added over devices, how precise that is, and what the other way would cost."""
    narrow, wide = plan.task.dtype, plan.accumulated
    out = plan.winner.out
    sent = sum(step.sent(block) for step, block in zip(out.steps, out.blocks, strict=False) if step.sums)
    if not sent or not jnp.issubdtype(narrow, jnp.floating):
        return ""
    used = plan.task.sum_dtype
    head = f"Sums over devices are sent in {used}"
    if used != narrow:
        more = sent - sent * itemsize(narrow) // itemsize(used)
        return (
            f"{head}, by sum_dtype, and keep {_bits(used)} bits; {narrow}, as plain jit sends them, would keep "
            f"{_bits(narrow)} bits, and send {bytes_text(abs(more))} {'less' if more >= 0 else 'more'}."
        )
    if wide == narrow:
        return ""
    more = sent * itemsize(wide) // itemsize(used) - sent
    return (
        f"{head}, as plain jit sends them: each is rounded to {_bits(used)} bits before it is added to others; "
        f'sum_dtype="{wide}" would keep {_bits(wide)} bits, and send {bytes_text(more)} more.'
    )


def _bits(dtype: str) -> int:
    return jnp.finfo(dtype).nmant + 1


def candidates(plan: Decision) -> str:
    """Returns the table of candidates: what each sends and takes, and under it how its arrays move."""
    rows = [("way", "sent", "FLOPs", "temporary", "compute", "sending", "total")]
    rows += [_row(way.name, way, estimate) for way, estimate in plan.candidates[:SHOWN]]
    rows.append(_row("plain jit", *plan.plain))
    return table(rows, ["", *(_moves(way, plan.open) for way, _ in (*plan.candidates[:SHOWN], plan.plain))])


def steps(plan: Decision) -> str:
    """Returns the table of the steps of the way that is taken."""
    rows = [("step", "of", "along", "sent", "each device then has")]
    for name, way in plan.winner.ways:
        for step, before, after in zip(way.steps, way.blocks, way.blocks[1:], strict=False):
            sent, local = bytes_text(step.sent(before)), array_text("", after.local, after.dtype)
            rows.append((step.kind, name, " ".join(step.axes), sent, local))
        if name == "rhs":
            product = plan.winner.out.start
            local = array_text("", product.local, product.dtype)
            rows.append(("contraction", "lhs, rhs", "", bytes_text(0), local))
    return table(rows)


def _row(name: str, way: Candidate, estimate: Estimate) -> tuple[str, ...]:
    times = (estimate.compute_us, estimate.communication_us, estimate.total_us)
    return name, bytes_text(way.sent), f"{way.flops:.3g}", bytes_text(way.temporary), *(f"{us:,.1f}" for us in times)


def _moves(way: Candidate, is_open: bool) -> str:
    """Says how a candidate moves each array, and the sharding of its result where the plan chooses that."""
    moves = [
        f"{name} {', '.join(' '.join((step.kind, *step.axes)) for step in side.steps)}"
        for name, side in way.ways
        if side.steps
    ]
    end = unbroken(f"result {partition_spec.code(partition_spec.written(way.out.end.sharding))}")
    return "; ".join([*moves, *([end] if is_open else [])])
