"""What XLA is expected to do by itself with a contraction: the way of plain jit. A model, held against XLA's compiler.

Shardy says how the result of the dot is cut (`shardy`), XLA's partitioner what is moved (`xla_partitioner`,
`xla_reshard`). Then come the passes of the compiler for the devices: what is added and then cut is scattered, and what
is gathered over a whole slice of three dimensions is an all-reduce of parts in frames of zeros.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, cast

import jax
from jax import numpy as jnp

from jbdot.core.labels import Shape
from jbdot.devices.links import Links
from jbdot.many_devices.block import Block, Factor, MeshAxes, Sharding
from jbdot.many_devices.candidates import Candidate
from jbdot.many_devices.collectives import (
    SCATTERED,
    AllGather,
    AllReduce,
    AllToAll,
    Permute,
    ReduceScatter,
    Slice,
    Step,
    is_gathered,
    is_scattered,
    is_tiled,
)
from jbdot.many_devices.route import Route
from jbdot.many_devices.shardy import propagated
from jbdot.many_devices.task import Task
from jbdot.many_devices.xla_partitioner import Array, Dot, Partitioner, Spread
from jbdot.many_devices.xla_reshard import Uneven, gathered, parted, parts, slices, whole
from jbdot.one_device.lowerings import LANES


class Laid(NamedTuple):
    """How a compiler lays out the result of a dot.

    Attributes:
        last: The axis that is last in memory.
        is_free: Whether another one may be, where parts of that one are of no whole registers.
    """

    last: int
    is_free: bool


def plain_way(task: Task, links: Links, constrained: bool = False, laid: Laid | None = None) -> Candidate:
    """Returns the way that plain jit takes with a task.

    Args:
        task: The contraction on a mesh.
        links: Of the mesh.
        constrained: Whether the dot itself is told the result's sharding, as by `with_sharding_constraint`, not only
            the function that ends with it: Shardy may then cut the dot's result no further.
        laid: How the result is laid out; by default as it is written.
    """
    found = _spread(task, constrained) or _spread(_parted(task), constrained) or _gathered(task)
    laid = laid or Laid(len(task.shape) - 1, is_free=task.contraction.out == task.contraction.dot_out)
    lhs, rhs, out = (_compiled(x.route, links, laid) for x in found)
    at = dict(zip(found.rhs.labels, found.rhs.route.end.sharding, strict=True))
    at |= dict(zip(found.lhs.labels, found.lhs.route.end.sharding, strict=True))
    labels = (*task.contraction.dot_out, *task.contraction.contracting)
    devices = math.prod([lhs.start.mesh[axis] for label in labels for axis in at[label]])
    places = {label: whole(at[label], task.mesh) for label in labels}
    return Candidate(places, lhs, rhs, _ended(out, task), task.flops // devices)


def _ended(way: Route, task: Task) -> Route:
    """Returns the route of the result, which ends on the axes of the task's mesh."""
    sharding = tuple(whole(axes, task.mesh) for axes in way.end.sharding)
    end = Block.of(task.shape, task.dtype, sharding, task.mesh)
    found = Route(way.start if way.steps else end, way.steps)
    vars(found)["blocks"] = (*way.blocks[:-1], end)
    return found


def _spread(task: Task, constrained: bool) -> Spread | None:
    """Returns the dot as Shardy and the partitioner have it, with the result where it is wanted.

    None where that takes parts of mesh axes, for which the task is to be on a mesh of those.
    """
    c, mesh = task.contraction, task.mesh
    scope = tuple(axis for axis, size in mesh.items() if size > 1)
    partitioner = Partitioner(c, mesh, task.sizes, task.dtype)
    lhs, rhs = Array(c.lhs, Route(task.lhs)), Array(c.rhs, Route(task.rhs))
    cut = propagated(task)
    if constrained and task.out is not None:
        cut = tuple(task.out[c.out.index(label)] for label in c.dot_out)
    try:
        found = partitioner.spread(Dot(lhs, rhs, cut, ((),) * len(c.dot_out), scope))
        out = Array(c.out, _turned(found.out.route, task.shape, c.out, c.dot_out))
        return found._replace(out=out if task.out is None else partitioner.moved(out, task.out, scope))
    except Uneven:
        return None


def _gathered(task: Task) -> Spread:
    """Lists every device gets all, does all, and keeps its part, where parts of sizes such as 2 and 3 do not fit."""
    c, nothing = task.contraction, ((),) * len(task.shape)
    lhs, rhs = (
        Array(labels, Route(x)).moved([*gathered(x.sharding, ((),) * len(x.shape))], tuple(task.mesh))
        for labels, x in ((c.lhs, task.lhs), (c.rhs, task.rhs))
    )
    out = Array(c.out, Route(Block.of(task.shape, task.dtype, nothing, task.mesh)))
    return Spread(lhs, rhs, out.moved([*slices(nothing, task.out or nothing)], tuple(task.mesh)))


def _parted(task: Task) -> Task:
    """Returns the task on a mesh whose axes are cut into prime factors, for what XLA gives parts of a mesh axis."""
    mesh = parts(task.mesh)
    lhs, rhs = (Block.of(x.shape, x.dtype, parted(x.sharding, mesh), mesh) for x in (task.lhs, task.rhs))
    out = None if task.out is None else parted(task.out, mesh)
    return dataclasses.replace(task, mesh=mesh, lhs=lhs, rhs=rhs, out=out)


def _turned(way: Route, shape: Shape, labels: tuple[str | None, ...], given: tuple[str, ...]) -> Route:
    """Returns the route of a result whose axes stand in another order than those of the dot."""
    if labels == given:
        return way
    at = {number: labels.index(label) for number, label in enumerate(given)}

    def turned(sharding: Sharding) -> Sharding:
        cut = dict(zip(given, sharding, strict=True))
        return tuple(() if label is None else cut[label] for label in labels)

    found = Route(Block.of(shape, way.start.dtype, turned(way.start.sharding), way.start.mesh))
    for step, block in zip(way.steps, way.blocks[1:], strict=True):
        sharding = turned(block.sharding)
        found = found.to(_step_turned(step, sharding, at), sharding)
    return found


def _step_turned(step: Step, sharding: Sharding, at: Mapping[int, int]) -> Step:
    if isinstance(step, Slice):
        return Slice(step.axes, at[step.dim])
    if isinstance(step, AllToAll):
        return AllToAll(tuple((axis, at[source], at[dim]) for axis, source, dim in step.moves))
    if isinstance(step, Permute):
        return Permute(tuple(tuple[Factor, ...]((axis, True) for axis in axes) for axes in sharding), step.axes)
    return step


@dataclasses.dataclass(frozen=True)
class Framed(AllGather):
    """Each device puts its part into a frame of zeros, and all frames are added: twice the bytes of an all-gather."""

    kind = "all-reduce"

    def sent(self, block: Block) -> int:
        """Counts 2 (p - 1) times what a device has."""
        return 2 * super().sent(block)


@dataclasses.dataclass(frozen=True)
class Along:
    """A step along parts of mesh axes, told by the whole ones."""

    step: Step
    axes: MeshAxes
    kind: str
    silent: ClassVar[bool] = False
    sums: ClassVar[bool] = False

    def after(self, block: Block) -> Block:
        """Returns the shard as after the step."""
        return self.step.after(block)

    def sent(self, block: Block) -> int:
        """Says what the step sends."""
        return self.step.sent(block)

    def run(self, x: jax.Array, block: Block) -> jax.Array:
        """Refuses to run: the compiler does it."""
        raise NotImplementedError


def _compiled(way: Route, links: Links, laid: Laid) -> Route:
    """Returns the route after the passes of the compiler."""
    found, scattered = Route(way.start), False
    following = [*way.steps[1:], None]
    for step, then, before, after in zip(way.steps, following, way.blocks, way.blocks[1:], strict=False):
        sides = _sides(step.axes, before, links)
        if isinstance(step, AllReduce) and isinstance(then, Slice) and {*step.axes} == {*then.axes}:
            scattered = jnp.dtype(before.dtype) in SCATTERED and is_scattered(sides)
            if links.hardware.compiler == "tpu":
                scattered = scattered and _is_laid(before, then, laid)
            if scattered:
                continue
        if isinstance(step, Slice) and scattered:
            step, scattered = ReduceScatter(step.axes, step.dim), False
        if isinstance(step, AllGather) and not is_gathered(sides):
            step = Framed(step.axes)
        axes = whole(step.axes, _names(links))
        if axes != step.axes:
            step = Slice(axes, step.dim) if isinstance(step, Slice) else cast(Step, Along(step, axes, step.kind))
        found = found.to(step, after.sharding)
    if all(isinstance(step, (Slice, AllGather)) for step in found.steps):  # as the steps themselves leave it
        plain = Route(way.start, found.steps)
        return plain if plain.end.sharding == found.end.sharding else found
    return found


def _is_laid(block: Block, then: Slice, laid: Laid) -> bool:
    """Says whether the TPU compiler scatters sums that are cut so: along lanes, in parts of whole registers."""
    part = block.local[then.dim] // math.prod(block.mesh[axis] for axis in then.axes)
    other = laid.is_free and part % LANES != 0
    return then.dim != laid.last or other or is_tiled(part, block.dtype)


def _sides(axes: MeshAxes, block: Block, links: Links) -> tuple[int, ...]:
    """Returns the sides of the slice, in chips, where these mesh axes take all of it; else none."""
    if math.prod(block.mesh[axis] for axis in axes) < math.prod(axis.size for axis in links.axes):
        return ()
    return tuple(span.size for span in links.group(whole(axes, _names(links))).spans)


def _names(links: Links) -> list[str]:
    return [axis.name for axis in links.axes]
