"""What a way to spread a contraction is expected to take, and which is taken.

Times are estimates: published figures of the devices (`hardware`), and collectives one after another (`links`).
"""

import dataclasses
import itertools
from typing import Final

from jbdot.devices.links import Links
from jbdot.many_devices.block import Block
from jbdot.many_devices.candidates import Candidate, Ways
from jbdot.many_devices.collectives import AllGather, ReduceScatter, Slice, Step
from jbdot.many_devices.plain_jit import plain_way
from jbdot.many_devices.route import Route
from jbdot.many_devices.task import Task


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a candidate is expected to take.

    Attributes:
        compute_us: Each device's share of the arithmetic.
        communication_us: What is sent, one collective after another.
        total_us: Both, less what overlaps.
    """

    compute_us: float
    communication_us: float
    total_us: float


Weighed = tuple[Candidate, Estimate]
WORTH: Final = 0.8  # of another way's time: what must be expected of one that sends more, or has devices repeat work


def chosen(found: list[Weighed], ways: Ways, links: Links) -> tuple[list[Weighed], Weighed, bool]:
    """Returns the ways, best first; plain jit; and whether that is to be taken.

    The best is the fastest of those that send fewest bytes, or one that sends more and is expected to be faster by a
    fifth. Devices do the same work only where that is expected to be faster by a fifth than every way in which each
    does its own. Plain jit is taken where nothing is sent, or operands are only gathered: XLA does the same then, and
    overlaps it with the dot.
    """
    found = sorted(found, key=lambda pair: (pair[1].total_us, pair[0].sent, pair[0].temporary))
    least = min(way.flops for way, _ in found)
    thrifty = [pair for pair in found if pair[0].flops == least]
    fewest = min(way.sent for way, _ in thrifty)
    lean = next(pair for pair in thrifty if pair[0].sent == fewest)
    first = next(pair for pair in (*thrifty, lean) if pair is lean or pair[1].total_us <= WORTH * lean[1].total_us)
    if found[0][1].total_us <= WORTH * thrifty[0][1].total_us:
        first = found[0]
    found = [first, *(pair for pair in found if pair is not first)]
    told = plain_jit(dataclasses.replace(ways.task, out=first[0].out.end.sharding), links, constrained=True)
    gathers = first[0].ring is None and _is_simple(first[0]) and not first[0].out.steps
    as_good = told[0].sent <= first[0].sent and told[1].total_us <= first[1].total_us
    if told[0].flops <= first[0].flops and as_good and (gathers or not first[0].sent):
        return found, told, True
    return found, plain_jit(ways.task, links), False


def plain_jit(task: Task, links: Links, constrained: bool = False) -> Weighed:
    """Says what XLA is expected to do by itself: a model (`plain_way`), not a promise.

    It gathers operands beside the dot; what it sends of the result comes after.
    """
    way = plain_way(task, links, constrained)
    estimate = estimated(way, task, links)
    after = route_us(way.out, links)
    total = max(estimate.compute_us, estimate.communication_us - after) + after
    return way, dataclasses.replace(estimate, total_us=total)


def _is_simple(way: Candidate) -> bool:
    return all(isinstance(step, (Slice, AllGather)) for operand in (way.lhs, way.rhs) for step in operand.steps)


def estimated(way: Candidate, task: Task, links: Links) -> Estimate:
    """Estimates a candidate: its collectives one after another, and its arithmetic, beside which a ring runs."""
    times = {name: [_step_us(step, block, links) for step, block in _steps(side)] for name, side in way.ways}
    touched = way.lhs.end.bytes + way.rhs.end.bytes + way.out.start.bytes
    compute = links.hardware.compute_us(way.flops, task.lhs.dtype, touched)
    if way.ring is None:
        communication = sum(itertools.chain(*times.values()))
        return Estimate(compute, communication, compute + communication)
    *_, (gather, block) = _steps(getattr(way, way.ring))
    turns = task.mesh[gather.axes[0]]
    times[way.ring].pop()
    hop = links.time_us("permute", block.bytes, gather.axes)
    others, each = sum(itertools.chain(*times.values())), compute / turns
    beside = (turns - 1) * max(hop, each) + each
    return Estimate(compute, others + (turns - 1) * hop, others + beside)


def route_us(way: Route, links: Links) -> float:
    """Says what a route is expected to take, one collective after another."""
    return sum(_step_us(step, block, links) for step, block in _steps(way))


def _steps(side: Route) -> list[tuple[Step, Block]]:
    return list(zip(side.steps, side.blocks, strict=False))


def _step_us(step: Step, block: Block, links: Links) -> float:
    if isinstance(step, ReduceScatter):
        turns = step.turns(block)
        return sum(links.time_us(step.kind, sent, axis, step.parts_along(axis, block)) for axis, sent in turns)
    parts = step.parts if isinstance(step, AllGather) else ()
    return 0.0 if step.silent else links.time_us(step.kind, step.sent(block), step.axes, parts)
