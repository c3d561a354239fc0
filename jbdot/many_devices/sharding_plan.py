"""Plans a contraction over a mesh: lists the ways, estimates what each costs, and runs the best.

What is sent is counted, not estimated; times are estimates (`estimate`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
from jax import numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, BadValue, Refusal, array_text
from jbdot.core.text import bytes_text
from jbdot.devices.links import Links
from jbdot.hardware import Hardware, known
from jbdot.many_devices import collective_matmul, partition_spec, plan_report
from jbdot.many_devices.block import Block, Sharding
from jbdot.many_devices.candidates import Candidate, Ways
from jbdot.many_devices.cost import chosen
from jbdot.many_devices.decision import Decision, Settings
from jbdot.many_devices.plan_primitive import PlanCall, carried_out
from jbdot.many_devices.search import Search
from jbdot.many_devices.task import Task
from jbdot.one_device import mark
from jbdot.one_device.call_plan import CallPlan, canonical
from jbdot.one_device.choice import check, misfit
from jbdot.one_device.dot_spec import DotSpec, PrecisionLike, kind, known_precision
from jbdot.one_device.lowerings import LoweringName
from jbdot.one_device.numerics import moved_as

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reduce = Literal["all_reduce", "reduce_scatter", "unreduced", "forbid"]


class ShardingPlan(Decision):
    """How a contraction is shared out over a mesh: a table to print, and a function to call.

    What was decided, and its figures, are the attributes of `Decision`.
    """

    def __call__(self, lhs: Any, rhs: Any) -> jax.Array:
        """Runs the plan.

        Raises:
            TypeError, ValueError: An operand has another shape, dtype or sharding than was planned for.
        """
        try:
            for name, x, planned in (("lhs", lhs, self.lhs), ("rhs", rhs, self.rhs)):
                _check_operand(name, x, planned)
        except Refusal as refusal:
            raise refusal.told("ShardingPlan", str(self.contraction)) from None
        return carried_out(self.primitive, lhs, rhs)

    @functools.cached_property
    def primitive(self) -> PlanCall:
        """Returns the static parameter of its primitive."""
        return PlanCall(self, self.local, lambda side: self.gradient(side).primitive)

    def local(self, lhs: Any, rhs: Any) -> jax.Array:
        """Returns the contraction as planned, without rules of its own for derivatives."""
        if partition_spec.explicit(self.mesh):  # a tangent, such as one of jacfwd's basis, may be replicated
            lhs, rhs = (
                x
                if partition_spec.is_at(jax.typeof(x).sharding, planned.sharding, x.ndim)
                else jax.reshard(x, planned.sharding)
                for x, planned in ((lhs, self.lhs), (rhs, self.rhs))
            )
        return self.by_compiler(lhs, rhs) if self.is_plain else self.by_way(self.winner)(lhs, rhs)

    def by_way(self, way: Candidate) -> Callable[[Any, Any], jax.Array]:
        """Returns the contraction by one of the candidates whose result is sharded as the plan's."""
        specs = tuple(x.sharding.spec for x in (self.lhs, self.rhs))
        mesh = partition_spec.mesh_here(self.mesh)
        return jax.shard_map(self.by(way), mesh=mesh, in_specs=specs, out_specs=self.spec, check_vma=False)

    def by(self, way: Candidate) -> Callable[[Any, Any], jax.Array]:
        """Makes the per-device function of one way, for `shard_map`."""
        settings, planned, out = self.settings, CallPlan(self.contraction), way.out.start

        def dot(lhs: jax.Array, rhs: jax.Array, dtype: Any) -> jax.Array:
            wanted = jnp.dtype(dtype)
            made = wanted if self.out.dtype != jnp.bool_ else self.out.dtype  # a dot of bools counts nothing
            made = None if made == planned.out_dtype(lhs.dtype, rhs.dtype) else made  # asked for, 64 bits are narrowed
            lowering = self._lowering(planned, lhs, rhs, made)
            out = planned.run(lhs, rhs, settings.precision, made, None, lowering)
            return out if out.dtype == wanted else out.astype(wanted)

        def run(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
            if way.ring is None:
                return way.out.run(dot(way.lhs.run(lhs), way.rhs.run(rhs), out.dtype))
            is_lhs = way.ring == "lhs"
            moving, x = (way.lhs, lhs) if is_lhs else (way.rhs, rhs)
            other = way.rhs.run(rhs) if is_lhs else way.lhs.run(lhs)
            made = collective_matmul.multiplied(moving, x, other, is_lhs, out, self.contraction, self.accumulated, dot)
            return way.out.run(made)

        return run

    def _lowering(self, planned: CallPlan, lhs: Any, rhs: Any, dtype: Any) -> str | None:
        """Returns the lowering that was named, or "auto" for a part, or a gradient, that it does not fit."""
        named = self.settings.lowering
        if named in (None, "auto"):
            return named
        return "auto" if misfit(planned.dot_spec(lhs, rhs, self.settings.precision, dtype), named) else named

    def by_compiler(self, lhs: Any, rhs: Any) -> jax.Array:
        """Returns the contraction as one dot, which XLA partitions."""
        settings, planned = self.settings, CallPlan(self.contraction)
        explicit = bool(partition_spec.explicit(self.mesh))
        sharding = self.out.sharding if explicit else None
        made = None if self.out.dtype == planned.out_dtype(lhs.dtype, rhs.dtype) else self.out.dtype
        lowering = self._lowering(planned, lhs, rhs, made)
        out = planned.run(lhs, rhs, settings.precision, made, sharding, lowering)
        return out if explicit else jax.lax.with_sharding_constraint(out, self.out.sharding)

    @property
    def backward(self) -> tuple["ShardingPlan", "ShardingPlan"]:
        """Returns the plans of both gradients, lhs' first, in the dtype that `grad_dtype` of `optimize` asks for."""
        return self.gradient(0), self.gradient(1)

    def gradient(self, side: int) -> "ShardingPlan":
        """Plans the gradient of lhs, for side 0, or of rhs.

        It has the dtype of this plan's result, as in JAX, and is cast to the operand's after it; within
        `optimize(grad_dtype="operand")` it has the operand's own where that is wider.
        """
        operand = (self.lhs, self.rhs)[side]
        key = side, mark.grad_dtype(operand.dtype, self.out.dtype)
        if key not in self._gradients:
            c, other = self.contraction, (self.rhs, self.lhs)[side]
            to = Contraction(c.out, c.lhs if side else c.rhs, c.rhs if side else c.lhs)
            self._gradients[key] = self._planned(to, self.out, other, operand, key[1])
        return self._gradients[key]

    @functools.cached_property
    def _gradients(self) -> dict[Any, "ShardingPlan"]:
        return {}

    def _planned(self, contraction: Contraction, lhs: Any, rhs: Any, out: Any, dtype: Any) -> "ShardingPlan":
        # A pair of precisions is of operands that the gradients do not have.
        precision = None if isinstance(self.settings.precision, tuple) else self.settings.precision
        # A dtype that is asked for is narrowed where x64 is off, and the operands' own is not.
        asked = None if CallPlan(contraction).out_dtype(lhs.dtype, rhs.dtype) == dtype else dtype.name
        settings = dataclasses.replace(self.settings, reduce=None, dtype=asked, precision=precision)
        end = partition_spec.read(out.sharding.spec, out.ndim, self.mesh.shape, "out")
        return _plan(contraction, lhs, rhs, self.mesh, end, self.hardware, settings)

    def __str__(self) -> str:
        return plan_report.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from jbdot.many_devices.plan_figure import page

        return page(self)

    def plot(self) -> "Figure":
        """Draws what each device of the mesh holds of every array, before and after each step.

        Needs matplotlib: the extra `plot`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from jbdot.many_devices.plan_figure import draw

        return draw(self)

    @property
    def why(self) -> str:
        """Says why the winner is taken."""
        return plan_report.why(self)


def plan_sharding(
    contraction: Contraction | str,
    lhs: Any,
    rhs: Any,
    out: PartitionSpec | Mapping[str, Any] | None = None,
    *more: Any,
    reduce: Reduce | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    sum_dtype: Any = None,
    hardware: Hardware | str | None = None,
    lowering: LoweringName | None = None,
    redundant_compute: bool = True,
) -> ShardingPlan:
    """Plans a contraction of sharded arrays: which mesh axis shares out which label, and the collectives that follow.

    Args:
        contraction: A `Contraction` or its string. Every label must be in two of lhs, rhs and the result.
        lhs: An array, or a `jax.ShapeDtypeStruct`, with a `NamedSharding`; without one it is taken as replicated.
        rhs: Likewise, on the same mesh.
        out: The result's PartitionSpec, or a map from its labels to mesh axes; None leaves it to the plan.
        more: None: a plan is of two operands.
        reduce: How sums over a sharded contracting label are completed: "all_reduce" (every device along its mesh axes
            gets them), "reduce_scatter" (each gets a part), or "unreduced": not at all, partial sums are left to JAX
            (on meshes with Explicit axes; without gradients). "forbid" refuses every communication. None chooses.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        sum_dtype: What partial sums are sent in. By default the result's dtype, as plain jit sends them: each device's
            sum is accumulated as by `lax.dot_general`, and rounded before it is sent. "float32" keeps the sums of
            16-bit floats as they were accumulated, at twice the bytes.
        hardware: Figures of the devices, or a name that `hardware.known` knows, such as "v5e"; by default those that
            are published for the mesh's `device_kind`.
        lowering: Of each device's own dot: "auto", "direct" or a name, "auto" where a part does not fit it; None is
            "auto".
        redundant_compute: Whether several devices may do the same work. They do it only where that is expected to be
            faster by a fifth than every way in which each does its own part, and the plan says so. False forbids it.

    Returns:
        A `ShardingPlan`: print it; call it with the operands, eagerly or under jit, grad and vmap.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: A label, a size or a mesh axis does not fit; or something would be sent, where that is forbidden.

    Differs: `contract` leaves all of this to XLA.

    Example:
        >>> import jax
        >>> from jbdot import plan_sharding
        >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P
        >>> from jbdot.hardware import known
        >>> mesh = AbstractMesh((4, 4), ("x", "y"))
        >>> def array(spec):
        ...     return jax.ShapeDtypeStruct((64, 1024, 1024), "bfloat16", sharding=NamedSharding(mesh, spec))
        >>> lhs, rhs = array(P(None, None, ("x", "y"))), array(P(None, ("x", "y")))
        >>> p = plan_sharding("b m k, b k n -> b m n", lhs, rhs, P(("x", "y")), hardware=known("TPU v5 lite"))
        >>> p.winner.name, p.sent, p.plain[0].sent
        ('b on x y', 15728640, 251658240)
    """
    call = ""
    try:
        _check_two(contraction, more)
        for name, x in (("lhs", lhs), ("rhs", rhs)):
            if not hasattr(x, "shape") or not hasattr(x, "dtype"):
                raise BadType(
                    f"{name} must be an array or a jax.ShapeDtypeStruct",
                    f"got a {type(x).__name__}",
                    "Of a shape: jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))",
                )
        call = f"{array_text('lhs', lhs.shape, lhs.dtype)}, {array_text('rhs', rhs.shape, rhs.dtype)}, {contraction}"
        if reduce is not None and reduce not in get_args(Reduce):
            raise BadValue("reduce must be one of " + ", ".join(map(repr, get_args(Reduce))), f"got {reduce!r}")
        if not isinstance(contraction, Contraction):
            contraction = Contraction.parse(contraction, tuple(lhs.shape), tuple(rhs.shape))
        figures: Any = known(hardware) if isinstance(hardware, str) else hardware
        if not isinstance(figures, (Hardware, type(None))):
            raise BadType("hardware must be a jbdot.hardware.Hardware, or a name", f"got a {type(figures).__name__}")
        mesh = _mesh(lhs, rhs)
        names = [None if x is None else canonical(x).name for x in (preferred_element_type, sum_dtype)]
        settings = Settings(known_precision(precision), names[0], names[1], reduce, lowering, redundant_compute)
        if lowering is not None:
            check(CallPlan(contraction).dot_spec(lhs, rhs, settings.precision, preferred_element_type), lowering)
        end = _end(out, contraction, mesh)
        return _plan(contraction, lhs, rhs, mesh, end, figures, settings)
    except Refusal as refusal:
        raise refusal.told("plan_sharding", call) from None


def _check_two(contraction: Any, more: tuple[Any, ...]) -> None:
    """Refuses a contraction of more operands than two, or of one."""
    count = len(contraction.terms) if isinstance(contraction, Contraction) else 2
    if isinstance(contraction, str):
        count = contraction.partition("->")[0].count(",") + 1
    if count != 2 or more:
        raise BadValue(
            "a plan must be of a contraction of two operands",
            f"'{contraction}' is of {count}" if count != 2 else f"{len(more)} arguments come after out",
            "Plan the products that jbdot.explain shows as its path, one after the other",
        )


def _mesh(lhs: Any, rhs: Any) -> Any:
    meshes = [mesh for mesh in map(partition_spec.mesh_of, (lhs, rhs)) if mesh is not None]
    if not meshes:
        raise BadValue(
            "an operand must say where it is",
            "neither has a NamedSharding",
            "Give arrays, or jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))",
        )
    if meshes[0] != meshes[-1]:
        raise BadValue("both operands must be on one mesh", f"{meshes[0]} and {meshes[-1]}")
    if len(set(meshes[0].axis_types)) > 1:
        kinds = zip(meshes[0].axis_names, meshes[0].axis_types, strict=True)
        raise BadValue(
            "the axes of the mesh must be of one kind",
            ", ".join(f"{name!r} is {each.name}" for name, each in kinds),
            "Make all of them Auto, or all Explicit, with axis_types=",
        )
    return meshes[0]


def _end(out: Any, c: Contraction, mesh: Any) -> Sharding | None:
    if out is None:
        return None
    if isinstance(out, NamedSharding):
        out = out.spec
    spec = partition_spec.of_labels(out, c.out) if isinstance(out, Mapping) else out
    return partition_spec.read(spec, len(c.out), mesh.shape, "out")


def _plan(
    c: Contraction, lhs: Any, rhs: Any, mesh: Any, end: Sharding | None, hardware: Hardware | None, settings: Settings
) -> ShardingPlan:
    _check_labels(c)
    left, right = (_placed(name, x, mesh) for name, x in (("lhs", lhs), ("rhs", rhs)))
    links = Links.of(mesh, hardware)
    task = _task(c, left, right, mesh, end, settings, links)
    ways = Ways(task)
    found = Search(ways, links).sensible(settings.redundant_compute, settings.reduce == "forbid")
    if not found and not settings.redundant_compute:
        raise BadValue(
            "redundant_compute=False allows no repeated work",
            "there is no way that gives each device its own part",
            "Allow it, or pad axes to sizes that the mesh axes divide",
        )
    if not found:
        raise BadValue(
            "the sums must be completed as they are asked for",
            f"no sharding of the result fits reduce={settings.reduce!r}",
            "Leave out open, or name a PartitionSpec that has the mesh axes of the contracting labels",
        )
    best, plain, is_plain = chosen(found, ways, links)
    if settings.reduce == "forbid":
        _check_silent(best[0][0])
    spec = partition_spec.written(best[0][0].out.end.sharding if end is None else end)
    dtype = jnp.dtype(best[0][0].out.end.dtype)
    if settings.reduce == "unreduced":
        spec, is_plain = _unreduced(spec, best[0][0], c, mesh), False
    out = jax.ShapeDtypeStruct(task.shape, dtype, sharding=NamedSharding(mesh, spec))
    return ShardingPlan(
        contraction=c,
        mesh=mesh,
        lhs=left,
        rhs=right,
        out=out,
        candidates=tuple(best),
        plain=plain,
        is_plain=is_plain,
        open=end is None,
        hardware=links.hardware,
        settings=settings,
        task=task,
    )


def _unreduced(spec: PartitionSpec, way: Candidate, c: Contraction, mesh: Any) -> PartitionSpec:
    """Writes a PartitionSpec that says along which mesh axes sums are still to be added."""
    if partition_spec.explicit(mesh) != tuple(mesh.axis_names):
        raise BadValue(
            'reduce="unreduced" needs a mesh with Explicit axes',
            f"they are {', '.join(map(str, mesh.axis_types))}",
            "Make it with axis_types=(jax.sharding.AxisType.Explicit, ...)",
        )
    return PartitionSpec(*spec, unreduced=frozenset(axis for label in c.contracting for axis in way.places[label]))


def _task(
    c: Contraction, lhs: Any, rhs: Any, mesh: Any, end: Sharding | None, settings: Settings, links: Links
) -> Task:
    """Returns the contraction on mesh axes of more than one device, the others cutting nothing."""
    dot_spec = CallPlan(c).dot_spec(lhs, rhs, settings.precision, settings.dtype)
    shape, sizes = c.out_shape(tuple(lhs.shape), tuple(rhs.shape)), dict(mesh.shape)
    if end is not None:
        partition_spec.divided(end, shape, sizes, "out")
    dtypes = _moved_as(c, dot_spec, settings, links, math.prod(sizes.values()))
    left, right = (
        Block.of(
            x.shape,
            dtype,
            partition_spec.cutting(partition_spec.read(x.sharding.spec, x.ndim, sizes, name), sizes),
            sizes,
        )
        for name, x, dtype in (("lhs", lhs, dtypes[0]), ("rhs", rhs, dtypes[1]))
    )
    natural = CallPlan(c).out_dtype(lhs.dtype, rhs.dtype)
    sums = _sum_dtype(dot_spec, natural, settings, math.prod(sizes.values()))
    reduce = None if settings.reduce == "forbid" else settings.reduce
    out = None if end is None else partition_spec.cutting(end, sizes)
    slow = tuple(axis.name for axis in links.axes if axis.crosses)
    sides = links.sides([axis.name for axis in links.axes if not axis.crosses])
    return Task(c, sizes, left, right, out, shape, dot_spec.dtype, sums, reduce, slow, sides)


def _moved_as(c: Contraction, dot_spec: DotSpec, settings: Settings, links: Links, devices: int) -> tuple[str, str]:
    """Names the dtypes in which lhs and rhs are sent: by a lowering that is named, their own."""
    named = settings.lowering not in (None, "auto", "direct")
    lhs, rhs = moved_as(dot_spec, "" if named else links.hardware.compiler, devices)
    return (rhs, lhs) if CallPlan(c).is_turned else (lhs, rhs)


def _check_labels(c: Contraction) -> None:
    twice = [label for side in (c.lhs, c.rhs) for label in side if label is not None and side.count(label) > 1]
    if c.summed or twice:
        raise BadValue(
            "each label must be in two of lhs, rhs and the result, once in each",
            f"'{c}' has {', '.join(dict.fromkeys([*c.summed, *twice]))}",
            "Sum the operand, or take its diagonal, before",
        )


def _check_silent(way: Candidate) -> None:
    if not way.sent:
        return
    moved = [
        f"{name} {bytes_text(side.sent)} by {', '.join(step.kind for step in side.steps)}"
        for name, side in way.ways
        if side.sent
    ]
    raise BadValue(
        'reduce="forbid" allows no communication',
        f"the best way sends, for each device, {'; '.join(moved)}",
        "Shard the operands so that contracting labels are whole and batch labels agree, or allow it",
    )


def _check_operand(name: str, x: Any, planned: jax.ShapeDtypeStruct) -> None:
    asked = f"{array_text(name, planned.shape, planned.dtype)} {partition_spec.code(planned.sharding.spec)}"
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise BadType(f"{name} must be an array", f"got a {type(x).__name__}")
    if tuple(x.shape) != tuple(planned.shape) or jnp.dtype(x.dtype) != jnp.dtype(planned.dtype):
        raise BadValue(
            "operands must be as they were planned for", f"got {array_text(name, x.shape, x.dtype)}, planned {asked}"
        )
    if not isinstance(x, Tracer) and isinstance(planned.sharding.mesh, AbstractMesh):
        raise BadValue(
            "a plan that is run must be for a mesh of devices",
            f"{name} is given to a plan for an abstract mesh",
            "Plan with the arrays themselves, or for a mesh that jax.make_mesh gives",
        )
    if _is_elsewhere(x, planned.sharding):
        at = jax.typeof(x).sharding if isinstance(x, Tracer) else getattr(x, "sharding", None)
        where = f"at {partition_spec.code(at.spec)}" if isinstance(at, NamedSharding) else "on no mesh"
        raise BadValue(
            "operands must be where they were planned for",
            f"{name} is {where}, planned {asked}",
            "Plan with the arrays themselves, or move them with jax.device_put or jax.reshard first",
        )


def _is_elsewhere(x: Any, planned: Any) -> bool:
    """Says whether an array is elsewhere than planned for; of traced ones on Auto axes nothing is known."""
    if isinstance(x, Tracer):
        return bool(partition_spec.explicit(planned.mesh)) and not partition_spec.is_at(
            jax.typeof(x).sharding, planned, x.ndim
        )
    if not isinstance(getattr(x, "sharding", None), NamedSharding):
        return bool(partition_spec.explicit(planned.mesh))  # on Auto axes what is nowhere is placed, as by jax.jit
    return not x.sharding.is_equivalent_to(planned, x.ndim)


def _placed(name: str, x: Any, mesh: Any) -> jax.ShapeDtypeStruct:
    """Reads shape, dtype and sharding of an operand; one that names no mesh is taken as replicated."""
    named = getattr(x, "sharding", None)
    spec = named.spec if isinstance(named, NamedSharding) else PartitionSpec()
    sharding = partition_spec.read(spec, len(x.shape), mesh.shape, name)
    partition_spec.divided(sharding, tuple(x.shape), mesh.shape, name)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, partition_spec.written(sharding)))


def _sum_dtype(dot_spec: DotSpec, natural: Any, settings: Settings, devices: int) -> str:
    """Says what partial sums are sent in: the result's dtype, as plain jit sends them, where no other is asked for.

    Bools are added as counts of devices, in the smallest dtype that holds them.

    Raises:
        TypeError: The result's dtype cannot hold the operands' products, or the sums' dtype cannot hold the result.
    """
    out, asked = jnp.dtype(dot_spec.dtype), settings.sum_dtype
    if kind(out) < kind(natural):
        raise BadType(
            "preferred_element_type must be of the operands' kind, or a wider one",
            f"{out.name} cannot hold sums of {natural.name}, which the devices add",
            "Leave it out, and convert the result with astype",
        )
    if out == jnp.bool_:
        if asked not in (None, "bool") or settings.reduce == "unreduced":
            given = 'reduce="unreduced"' if asked in (None, "bool") else f"sum_dtype={asked!r}"
            raise BadType("bools must be added as bools", given, "Leave it out, or convert an operand to integers")
        return next(name for name in ("uint8", "uint16", "uint32") if devices <= jnp.iinfo(name).max)
    sums = jnp.dtype(asked or out)
    if kind(sums) != kind(out) or _is_unsigned(sums) != _is_unsigned(out):
        raise BadType("sum_dtype must be of the result's kind", f"{sums.name} cannot hold sums of {out.name}")
    if jnp.issubdtype(out, jnp.integer) and jnp.iinfo(sums).bits < jnp.iinfo(out).bits:
        raise BadType("sum_dtype must have the bits of integers", f"{sums.name} cannot hold sums of {out.name}")
    return sums.name


def _is_unsigned(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.unsignedinteger)
