"""Meshes and shardings as the command is given them: `x=4,y=2` and `x,,y`."""

from collections.abc import Mapping

from jax.sharding import PartitionSpec

from jbdot.core.errors import BadValue
from jbdot.many_devices.partition_spec import listed, written


def parse(text: str, mesh: Mapping[str, int]) -> PartitionSpec:
    """Reads ",,xy" or ",,data+model": what cuts each axis of an array, with commas between.

    Raises:
        ValueError: A name is none of the mesh's.

    Example:
        >>> tuple(parse(",,xy", {"x": 4, "y": 4})), tuple(parse("data,,model", {"data": 2, "model": 4}))
        ((None, None, ('x', 'y')), ('data', None, 'model'))
    """
    found: list[tuple[str, ...]] = []
    for entry in text.split(","):
        names = [name for part in entry.strip().split("+") for name in ([part] if part in mesh else part)]
        for name in names:
            if name not in mesh:
                raise BadValue(
                    "a sharding must name axes of the mesh",
                    f"{entry!r} in {text!r}, and the mesh has {listed(mesh)}",
                    "Write what cuts each axis with commas between, such as ',,xy' or ',,data+model'",
                )
        found.append(tuple(names))
    return written(tuple(found))


def parse_mesh(text: str) -> dict[str, int]:
    """Reads "x=4,y=4".

    Raises:
        ValueError: It has another form.

    Example:
        >>> parse_mesh("x=4,y=16")
        {'x': 4, 'y': 16}
    """
    pairs = [part.split("=") for part in text.split(",")]
    try:
        found = {name.strip(): int(size) for name, size in pairs}
    except ValueError:
        found = {}
    if len(found) < len(pairs) or any(not name.isidentifier() or size < 1 for name, size in found.items()):
        raise BadValue("a mesh must be named as axis=size, with commas between", repr(text), "Such as x=4,y=4")
    return found
