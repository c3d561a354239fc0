"""Any front door over a mesh: its call is planned as `plan_sharding` plans a contraction."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from jax import numpy as jnp
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jbdot.calls import front_door
from jbdot.calls.contract import contract
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, BadValue, Refusal
from jbdot.core.labels import Labels
from jbdot.hardware import Hardware
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Sharding
from jbdot.many_devices.sharding_plan import Reduce, ShardingPlan, plan_sharding
from jbdot.one_device.call_plan import CallPlan, OperandSteps

_KEPT = 1024  # plans, each with its compiled function


class Sharded:
    """A front door whose calls are planned over the mesh of their operands. Made by `sharded`."""

    def __init__(self, function: Callable[..., Any] | Contraction | str, **options: Any) -> None:
        is_labels = isinstance(function, (Contraction, str))
        self._function, self._first = (contract, (function,)) if is_labels else (function, ())
        self._options = options
        if self._function not in front_door.PLANNERS:
            names = [front_door.public_name(door) for door in front_door.PLANNERS if not isinstance(door, type)]
            raise BadType(
                "function must be a front door of jbdot, a Contraction or its string",
                f"got {getattr(function, '__name__', function)!r}",
                f"They are {', '.join(names)}",
            ).told("sharded", "")
        functools.update_wrapper(self, self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """Plans the call, once for each kind of call, and runs it."""
        lhs, rhs, planned, plan = self._planned(args, kwargs)
        if planned.is_bare:
            return plan(lhs, rhs)
        return _entered(planned, plan)(lhs, rhs)

    def plan(self, *args: Any, **kwargs: Any) -> ShardingPlan:
        """Returns the plan of a call: operands may be `jax.ShapeDtypeStruct`s with a sharding."""
        return self._planned(args, kwargs)[-1]

    def _planned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, CallPlan, ShardingPlan]:
        settings = {name: kwargs.pop(name, value) for name, value in front_door.SETTINGS.items() if name in kwargs}
        out = settings.pop("out_sharding", None) or self._options["out"]
        function = self._function
        try:
            lhs, rhs, arguments = front_door.bound(function, (*self._first, *args), kwargs)
        except Refusal as refusal:
            raise refusal.told(front_door.public_name(function), f"{len(args)} arguments") from None
        try:
            planned = front_door.plan(function, lhs, rhs, arguments)
            left, right = front_door.operand_names(function)
            given = (self._options["lhs"], self._options["rhs"])
            lhs_spec, rhs_spec = (
                _spec(name, x, spec) for name, x, spec in zip((left, right), (lhs, rhs), given, strict=True)
            )
            mesh = self._options["mesh"] or next(filter(None, map(_mesh, (lhs, rhs))), None) or _context()
            if mesh is None:
                raise BadValue(
                    "an operand must say where it is",
                    f"neither {left} nor {right} has a NamedSharding, and no mesh is set",
                    "Place them with jax.device_put, or give sharded(..., mesh=, lhs=PartitionSpec(...), rhs=...)",
                )
            c = planned.contraction
            asked = (
                _operand(left, lhs, lhs_spec, planned.lhs, c.lhs, c.lhs_kept, mesh),
                _operand(right, rhs, rhs_spec, planned.rhs, c.rhs, c.rhs_kept, mesh),
            )
        except Refusal as refusal:
            raise front_door.refused(refusal, function, lhs, rhs, arguments) from None
        kept = Contraction(c.lhs_kept, c.rhs_kept, c.out)
        wanted = settings.pop("preferred_element_type", None)
        wanted = planned.dtype if wanted is None else jnp.dtype(wanted).name
        more = {name: self._options[name] for name in ("reduce", "sum_dtype", "hardware", "redundant_compute")}
        if isinstance(out, Mapping):
            out = partition_spec.of_labels(cast("Mapping[str, Any]", out), c.out)
        return (
            lhs,
            rhs,
            planned,
            _kept(kept, *asked, out, tuple({**more, **settings, "preferred_element_type": wanted}.items())),
        )


def sharded(
    function: Callable[..., Any] | Contraction | str,
    out: PartitionSpec | Mapping[str, Any] | None = None,
    *,
    reduce: Reduce | None = None,
    sum_dtype: Any = None,
    hardware: Hardware | str | None = None,
    mesh: Any = None,
    lhs: PartitionSpec | None = None,
    rhs: PartitionSpec | None = None,
    redundant_compute: bool = True,
) -> Sharded:
    """Makes of a front door one that plans its calls over the mesh that the operands are on.

    Args:
        function: A front door, such as `jbdot.batch_dot`; a `Contraction` or its string.
        out: The result's PartitionSpec, or a map from its labels to mesh axes; None leaves it to the plan.
        reduce: As in `plan_sharding`.
        sum_dtype: As in `plan_sharding`.
        hardware: As in `plan_sharding`.
        mesh: The mesh, where the operands do not say: under jit with Auto axes, a trace does not show it.
        lhs: The first operand's PartitionSpec, where it does not say.
        rhs: The second operand's.
        redundant_compute: As in `plan_sharding`.

    Returns:
        A function with the front door's own arguments; its `plan(...)` gives the `ShardingPlan` of a call.

    Raises:
        TypeError, ValueError: As the front door and `plan_sharding`.

    Example:
        >>> import jax
        >>> from jbdot import sharded
        >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P
        >>> import jbdot
        >>> mesh = AbstractMesh((4,), ("x",))
        >>> x = jax.ShapeDtypeStruct((8, 16, 4), "float32", sharding=NamedSharding(mesh, P("x")))
        >>> y = jax.ShapeDtypeStruct((8, 4, 16), "float32", sharding=NamedSharding(mesh, P("x")))
        >>> from jbdot.hardware import known
        >>> sharded(jbdot.batch_dot, hardware=known("TPU v5 lite")).plan(x, y).sent
        0
    """
    options = {"out": out, "reduce": reduce, "sum_dtype": sum_dtype, "hardware": hardware}
    return Sharded(function, **options, mesh=mesh, lhs=lhs, rhs=rhs, redundant_compute=redundant_compute)


@functools.lru_cache(maxsize=_KEPT)
def _kept(c: Contraction, lhs: Any, rhs: Any, out: Any, options: tuple[tuple[str, Any], ...]) -> ShardingPlan:
    return plan_sharding(c, lhs, rhs, out, **dict(options))


@functools.lru_cache(maxsize=_KEPT)
def _entered(planned: CallPlan, plan: ShardingPlan) -> Callable[[Any, Any], jax.Array]:
    def run(lhs: Any, rhs: Any) -> jax.Array:
        return plan(*planned.entered(lhs, rhs))

    return jax.jit(run)


def _spec(name: str, x: Any, given: PartitionSpec | None) -> PartitionSpec:
    """Says where an operand is: as given, as it says itself, or as its type says under a trace with Explicit axes."""
    named = getattr(x, "sharding", None) if not isinstance(x, Tracer) else jax.typeof(x).sharding
    spec = named.spec if isinstance(named, NamedSharding) else None
    if given is not None:
        return given
    if isinstance(x, Tracer) and not _is_explicit(named):
        raise BadValue(
            "an operand must say where it is",
            f"{name} is traced, and its mesh has no Explicit axes, so that nothing is known of its sharding",
            "Give sharded(..., mesh=, lhs=PartitionSpec(...), rhs=...), or make the mesh's axes Explicit",
        )
    return PartitionSpec() if spec is None else spec


def _is_explicit(sharding: Any) -> bool:
    return isinstance(sharding, NamedSharding) and bool(partition_spec.explicit(sharding.mesh))


def _mesh(x: Any) -> Any:
    if isinstance(x, Tracer):
        sharding = jax.typeof(x).sharding
        return (_context() or sharding.mesh) if _is_explicit(sharding) else None
    return partition_spec.mesh_of(x)


def _context() -> Any:
    """Returns the mesh that `jax.set_mesh` has set."""
    for get in (jax.sharding.get_mesh, jax.sharding.get_abstract_mesh):
        try:
            mesh = get()
        except ValueError:  # inside jit
            continue
        if not mesh.empty:
            return mesh
    return None


def _operand(
    name: str, x: Any, spec: PartitionSpec, entry: OperandSteps, labels: Labels, kept: tuple[str, ...], mesh: Any
) -> jax.ShapeDtypeStruct:
    """Says what an operand is once it has entered: shape, dtype and sharding of the labels that it keeps."""
    given = partition_spec.read(spec, len(x.shape), mesh.shape, name)
    partition_spec.divided(given, tuple(x.shape), mesh.shape, name)
    found = _folded(name, _stretched(given, x, entry), entry)
    if entry.normalize is not None and given[entry.normalize % len(x.shape)]:
        raise _cut(name, entry.normalize, "normalized")
    for axis, (label, axes) in enumerate(zip(labels, found, strict=True)):
        if axes and (label not in kept or labels.count(label) > 1):
            raise _cut(name, axis, "summed, or read as a diagonal,")
    at = {label: axis for axis, label in enumerate(labels) if label is not None}
    shape = entry.shape(tuple(x.shape))
    sharding = NamedSharding(mesh, partition_spec.written(tuple(found[at[label]] for label in kept)))
    dtype = x.dtype if entry.dtype is None else entry.dtype
    return jax.ShapeDtypeStruct(tuple(shape[at[label]] for label in kept), jnp.dtype(dtype), sharding=sharding)


def _cut(name: str, axis: int, what: str) -> BadValue:
    return BadValue(
        f"an axis that is {what} must be whole on every device",
        f"axis {axis} of {name} is cut",
        "Reshard it with jax.device_put before: nothing communicates silently",
    )


def _stretched(given: Sharding, x: Any, entry: OperandSteps) -> Sharding:
    return given + ((),) * (len(entry.stretch or x.shape) - len(given))


def _folded(name: str, given: Sharding, entry: OperandSteps) -> Sharding:
    if entry.fold is None:
        return given
    for group in entry.fold:
        for axis in group[1:]:
            if given[axis]:
                raise _cut(name, axis, "merged behind another")
    return tuple(given[group[0]] if group else () for group in entry.fold)
