"""What a way to spread a contraction is expected to take, and which is taken.

Times are estimates: published figures of the devices (`hardware`), and collectives one after another (`links`).
"""

import dataclasses
import itertools
from typing import Final

from jax import numpy as jnp

from jbdot.devices.links import Links
from jbdot.many_devices.collectives import SCATTERED, AllGather, AllReduce, Cast, ReduceScatter, Slice, Step
from jbdot.many_devices.drafts import Draft
from jbdot.many_devices.reshard import Route, route
from jbdot.many_devices.shard import Block
from jbdot.many_devices.strategies import Candidate, Ways
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
    """The ways, best first; plain jit; and whether that is to be taken.

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
    plain = plain_jit(found, ways, links)
    gathers = first[0].ring is None and _is_simple(first[0]) and not first[0].out.steps
    as_good = plain[0].sent <= first[0].sent and plain[1].total_us <= first[1].total_us
    return found, plain, plain[0].flops <= first[0].flops and (not first[0].sent or (gathers and as_good))


def plain_jit(found: list[Weighed], ways: Ways, links: Links) -> Weighed:
    """What XLA is expected to do by itself for the sharding of the best way's result: a model, not a promise.

    It moves operands as little as it can, by gathering them; adds partial sums whole, in the result's dtype, and only
    then keeps its part, but scatters what is added along one mesh axis. Held against XLA's TPU compiler that is rough:
    XLA also permutes operands, and groups devices in other ways (`benchmarks.plans` counts how near it comes). What it
    gathers it overlaps with the dot; what it sends of the result comes after.
    """
    task = ways.task
    way = min(_simple(found[0][0], ways), key=_moved, default=found[0][0])
    estimate = estimated(way, task, links)
    after = sum(_step_us(step, block, links) for step, block in _steps(way.out))
    total = max(estimate.compute_us, estimate.communication_us - after) + after
    return way, dataclasses.replace(estimate, total_us=total)


def _simple(best: Candidate, ways: Ways) -> list[Candidate]:
    """The ways that gather operands and add sums whole, with the result as in the best way, that may move least."""
    found: list[Candidate] = []
    is_open, end = ways.task.out is None, best.out.end.sharding
    drafts = [draft for draft in ways.drafts if draft.gathers and (not is_open or draft.flops == best.flops)]
    for draft in sorted(drafts, key=_least_moved):
        if found and _least_moved(draft) > min(map(_moved, found)):
            break
        simple = [way for way in ways.of(draft) if way.out.end.sharding == end and way.ring is None and _is_simple(way)]
        found += [way for way in (_summed_whole(way, ways.task) for way in simple) if way is not None]
    return found


def _moved(way: Candidate) -> tuple[int, int, int]:
    return way.lhs.sent + way.rhs.sent, way.sent, way.flops


def _least_moved(draft: Draft) -> tuple[int, int, int]:
    return draft.legs[0].sent + draft.legs[1].sent, draft.sent, draft.flops


def _is_simple(way: Candidate) -> bool:
    return all(isinstance(step, (Slice, AllGather)) for operand in (way.lhs, way.rhs) for step in operand.steps)


def _summed_whole(way: Candidate, task: Task) -> Candidate | None:
    """The way with its sums in the result's dtype, added whole if they are not scattered along just one mesh axis."""
    sums = [step for step in way.out.steps if isinstance(step, (ReduceScatter, AllReduce))]
    partial = tuple(axis for step in sums for axis in step.axes)
    block = dataclasses.replace(way.out.start, dtype=task.dtype)
    if len(partial) == 1 and isinstance(sums[0], ReduceScatter) and jnp.dtype(task.dtype) in SCATTERED:
        steps = (step for step in way.out.steps if not isinstance(step, Cast))
        return dataclasses.replace(way, out=Route(block, tuple(steps)))
    rest = route(block, way.out.end.sharding)
    if rest is None:
        return None
    first = (AllReduce(partial),) if partial else ()
    return dataclasses.replace(way, out=Route(block, (*first, *rest.steps)))


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
    """What a route is expected to take, one collective after another."""
    return sum(_step_us(step, block, links) for step, block in _steps(way))


def _steps(side: Route) -> list[tuple[Step, Block]]:
    return list(zip(side.steps, side.blocks, strict=False))


def _step_us(step: Step, block: Block, links: Links) -> float:
    if isinstance(step, ReduceScatter):
        return sum(links.time_us(step.kind, sent, axis) for axis, sent in step.turns(block))
    return 0.0 if isinstance(step, (Slice, Cast)) else links.time_us(step.kind, step.sent(block), step.axes)
