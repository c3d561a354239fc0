"""Reads what JAX says of an array's sharding, and writes it again."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from jbdot.core.errors import BadType, BadValue
from jbdot.core.labels import Labels, Shape
from jbdot.many_devices.block import MeshAxes, Sharding


def read(spec: Any, ndim: int, mesh: Mapping[str, int], name: str) -> Sharding:
    """Reads a PartitionSpec: for each axis of an array the mesh axes that cut it, the slowest first.

    Raises:
        TypeError: It is no PartitionSpec.
        ValueError: It is longer than the array's rank, names an axis twice or one that the mesh has not, or leaves
            one open.

    Example:
        >>> read(PartitionSpec("x", None, ("y", "z")), 4, {"x": 2, "y": 2, "z": 2}, "lhs")
        (('x',), (), ('y', 'z'), ())
    """
    if not isinstance(spec, PartitionSpec):
        remedy = "Such as jax.sharding.PartitionSpec('x', None)"
        raise BadType(f"the sharding of {name} must be a PartitionSpec", repr(spec), remedy)
    if len(spec) > ndim:
        raise BadValue(f"the PartitionSpec of {name} must not be longer than its rank", f"{spec} for rank {ndim}")
    if getattr(spec, "unreduced", None):
        remedy = "Reduce it with jax.reshard"
        if name == "out":
            remedy = 'Leave unreduced= out of it, and give reduce="unreduced"'
        raise BadValue(f"the PartitionSpec of {name} must hold complete sums", code(spec), remedy)
    if any(entry is PartitionSpec.UNCONSTRAINED for entry in spec):
        raise BadValue(f"the PartitionSpec of {name} must leave no axis unconstrained", str(spec))
    found = tuple(_axes(entry) for entry in spec) + ((),) * (ndim - len(spec))
    named = [axis for axes in found for axis in axes]
    for axis in named:
        if axis not in mesh:
            raise BadValue(
                "a PartitionSpec must name axes of the mesh", f"{axis!r} of {name}, and the mesh has {listed(mesh)}"
            )
        if named.count(axis) > 1:
            raise BadValue(
                "a mesh axis must cut one axis of an array only", f"{axis!r} stands twice in {spec} of {name}"
            )
    return found


def divided(sharding: Sharding, shape: Shape, mesh: Mapping[str, int], name: str) -> None:
    """Checks that every axis is cut in equal parts.

    Raises:
        ValueError: One is not. JAX cuts no array otherwise.
    """
    for dim, axes in enumerate(sharding):
        parts = 1
        for axis in axes:
            parts *= mesh[axis]
        if shape[dim] % parts:
            raise BadValue(
                "a mesh axis must cut an axis of an array in equal parts",
                f"axis {dim} of {name} has size {shape[dim]}, for {parts} parts along {', '.join(axes)}",
                "Pad the array, or shard another of its axes",
            )


def cutting(sharding: Sharding, mesh: Mapping[str, int]) -> Sharding:
    """Leaves out the mesh axes of one device, which cut nothing."""
    return tuple(tuple[str, ...](axis for axis in axes if mesh[axis] > 1) for axes in sharding)


def written(sharding: Sharding) -> PartitionSpec:
    """Writes a PartitionSpec.

    Example:
        >>> written((("x",), (), ("y", "z"), ())) == PartitionSpec("x", None, ("y", "z"))
        True
    """
    entries = [axes[0] if len(axes) == 1 else axes or None for axes in sharding]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def of_labels(places: Mapping[str, Any], labels: Labels) -> PartitionSpec:
    """Writes what a map from label to mesh axes says of an array's axes.

    Raises:
        ValueError: It names a label that the array has not.

    Example:
        >>> of_labels({"b": "data", "n": ("x", "y")}, ("b", "m", "n")) == PartitionSpec("data", None, ("x", "y"))
        True
    """
    for label in places:
        if label not in labels:
            raise BadValue("a label that is placed must be one of the result's", f"{label!r} is not in {labels}")
    return written(tuple(_axes(places.get(label)) if label is not None else () for label in labels))


def code(spec: PartitionSpec) -> str:
    """Writes a PartitionSpec as code: `P('x', None)`.

    Example:
        >>> code(PartitionSpec("x", None, ("y", "z")))
        "P('x', None, ('y', 'z'))"
    """
    entries = [repr(entry) for entry in spec.partitions]
    if spec.unreduced:
        entries.append(f"unreduced={{{', '.join(map(repr, sorted(spec.unreduced)))}}}")
    return f"P({', '.join(entries)})"


def mesh_of(x: Any) -> Any:
    """Returns the mesh that an array is on; None where it names none."""
    sharding = getattr(x, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def mesh_here(mesh: Any) -> Any:
    """Returns the mesh of `jax.set_mesh`, as JAX asks for, in the place of an abstract one with its axes."""
    here = jax.sharding.get_abstract_mesh()
    same = (here.axis_names, here.axis_sizes, here.axis_types) == (mesh.axis_names, mesh.axis_sizes, mesh.axis_types)
    return here if isinstance(mesh, AbstractMesh) and same else mesh


def is_at(sharding: NamedSharding, planned: NamedSharding, ndim: int) -> bool:
    """Says whether two shardings cut an array's axes by the same mesh axes, however their specs are written."""
    return read(sharding.spec, ndim, planned.mesh.shape, "x") == read(planned.spec, ndim, planned.mesh.shape, "x")


def explicit(mesh: Any) -> MeshAxes:
    """Returns the axes of a mesh that are Explicit.

    Example:
        >>> from jax.sharding import AbstractMesh, AxisType
        >>> explicit(AbstractMesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit, AxisType.Auto)))
        ('x',)
    """
    pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in pairs if kind == AxisType.Explicit)


def _axes(entry: Any) -> MeshAxes:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def listed(names: Mapping[str, int]) -> str:
    """Writes the axes of a mesh with their sizes."""
    return ", ".join(f"{name}={size}" for name, size in names.items())
