"""Where the devices of a mesh are: along each of its axes, the dimensions of the torus, the slices, the cores.

Where devices say where they are, a few along each axis are looked at. Where they do not, a good layout is assumed, and
the same lines are drawn of places that are made up.
"""

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from jax.sharding import AbstractMesh

from jbdot.core.errors import BadValue
from jbdot.hardware import Hardware, of

SAY_HARDWARE: Final = 'Say whose figures to use: hardware=jbdot.hardware.known("TPU v5p")'
_PREFIX: Final = 32  # devices at the start of an axis that are all looked at, which shows neighbours
_SPREAD: Final = 16  # and about as many over all of it


class Place(NamedTuple):
    """Where a device is: its slice or node; then its coordinates on the torus and its core, or () behind a switch."""

    node: int
    coords: tuple[int, ...]


class Span(NamedTuple):
    """How many places of one dimension of the torus a group takes up, and how far apart they are."""

    dimension: int
    size: int
    stride: int


Line = Mapping[int, Place]  # those devices along an axis that were looked at, by position


@dataclasses.dataclass(frozen=True)
class Axis:
    """How the devices along an axis of a mesh, or along several, are placed.

    Attributes:
        name: Of the mesh axis.
        size: Devices along it.
        cores: Of one chip that it runs over.
        nodes: Slices or nodes that it runs over.
        spans: Dimensions of the torus that it runs over.
        step: Links from a device to the next, the median along the axis.
        leap: Links from a device to the next, the most along the axis and from its end to its start.
    """

    name: str
    size: int
    cores: int = 1
    nodes: int = 1
    spans: tuple[Span, ...] = ()
    step: float = 0.0
    leap: int = 0

    @property
    def near(self) -> int:
        """Chips of one slice, or devices of one node."""
        return max(1, self.size // self.cores // self.nodes)

    @property
    def crosses(self) -> bool:
        """Says whether it leaves the slice or node, over a network that is slow."""
        return self.nodes > 1


Places = tuple[Hardware, tuple[Axis, ...], tuple[int, ...]]  # figures, axes of the mesh, chips of one slice


@functools.lru_cache(maxsize=256)
def read(mesh: Any, hardware: Hardware | None) -> Places:
    """Looks at a few devices along each axis of a mesh, or assumes where they are."""
    if isinstance(mesh, AbstractMesh):
        device = mesh.abstract_device
        if hardware is None and device is None:
            raise BadValue("an AbstractMesh must have a device, or come with hardware=", f"{mesh}", SAY_HARDWARE)
        return assumed(tuple(mesh.shape.items()), hardware or of(device))
    sizes = tuple(zip(mesh.axis_names, mesh.devices.shape, strict=True))
    first = mesh.devices[(0,) * mesh.devices.ndim]
    hardware = hardware or of(first)
    is_another = hardware.kinds and first.device_kind not in hardware.kinds
    if is_another or (hardware.torus and getattr(first, "coords", None) is None):
        return assumed(sizes, hardware)
    lines = [
        {at: _place(mesh.devices[(*(0,) * axis, at, *(0,) * (len(sizes) - axis - 1))]) for at in _looked(size)}
        for axis, (_, size) in enumerate(sizes)
    ]
    return _axes(sizes, lines, _place(mesh.devices[(-1,) * len(sizes)]), hardware)


def _place(device: Any) -> Place:
    """Reads where a device is: TPUs have coordinates, and a slice where there are several; others have processes.

    CPU devices say that they are in slice 0, whatever machine they are on.
    """
    coords, core, node = (getattr(device, name, None) for name in ("coords", "core_on_chip", "slice_index"))
    if coords is not None and core is not None:  # a GPU has coordinates in some JAX, and no core
        return Place(node or 0, (*coords, core))
    is_cpu = getattr(device, "platform", None) == "cpu"
    return Place(device.process_index if node is None or is_cpu else node, ())


def _looked(size: int) -> list[int]:
    """Picks at most 64 positions along an axis: its start, and its end, which has the last place in every dimension.

    Powers of two between them: whatever the period at which a coordinate goes up, one lies in its second period.
    """
    powers = (2**power for power in range(size.bit_length()))
    some = {*range(_PREFIX), *range(0, size, max(1, size // _SPREAD)), *powers, size - 1}
    return sorted(at for at in some if at < size)


def _axes(sizes: Sequence[tuple[str, int]], lines: Sequence[Line], last: Place, hardware: Hardware) -> Places:
    """Puts together what was seen: of each axis the line that starts at the first device, and the mesh's last."""
    seen = [last.coords, *(place.coords for line in lines for place in line.values())]
    *shape, _ = (max(values) - min(values) + 1 for values in zip(*seen, strict=True)) if last.coords else (0,)
    shape, dimensions = tuple(shape), len(shape)
    axes: list[Axis] = []
    for (name, size), line in zip(sizes, lines, strict=True):
        found = _spans(line)
        cores = math.prod(span.size for span in found if span.dimension == dimensions)
        on_torus = tuple(span for span in found if span.dimension < dimensions)
        steps = _steps(line, size, shape, hardware) if on_torus else [0]
        axes.append(Axis(name, size, cores, _nodes(line, size, found), on_torus, statistics.median(steps), max(steps)))
    return hardware, tuple(axes), shape


def _spans(line: Line) -> tuple[Span, ...]:
    """Returns the dimensions in which a line has several places; the last dimension is the core."""
    found: list[Span] = []
    for dimension, values in enumerate(zip(*(place.coords for place in line.values()), strict=True)):
        seen = sorted(set(values))
        if len(seen) > 1:
            stride = min(right - left for left, right in itertools.pairwise(seen))
            found.append(Span(dimension, (seen[-1] - seen[0]) // stride + 1, stride))
    return tuple(found)


def _nodes(line: Line, size: int, spans: tuple[Span, ...]) -> int:
    """Slices or nodes along a line: counted; where it is long, by how many devices the first of them holds."""
    away = [at for at, place in line.items() if place.node != line[0].node]
    if not away or len(line) == size:
        return len({place.node for place in line.values()})
    return math.ceil(size / (math.prod(span.size for span in spans) if spans else away[0]))


def _steps(line: Line, size: int, shape: tuple[int, ...], hardware: Hardware) -> list[int]:
    """Links from each device to the next, and from the last to the first, as far as they are looked at."""

    def distance(left: Place, right: Place) -> int:
        links = 0
        for here, there, extent in zip(left.coords, right.coords, shape, strict=False):
            away = abs(here - there)
            links += min(away, extent - away) if hardware.wraps(extent, shape) else away
        return links

    pairs = ((line[at], line[(at + 1) % size]) for at in line if (at + 1) % size in line)
    return [distance(left, right) for left, right in pairs if left.node == right.node] or [0]


# Assuming a layout: the same lines, of places that are made up.


@functools.lru_cache(maxsize=256)
def assumed(sizes: tuple[tuple[str, int], ...], hardware: Hardware) -> Places:
    """Assumes a layout as good as it can be, of axes of these names and sizes."""
    if not hardware.torus:
        node, inner = hardware.node or math.inf, math.prod(size for _, size in sizes)
        strides = [inner := inner // size for _, size in sizes]
        lines = [
            {at: Place(int(at * stride // node), ()) for at in _looked(size)}
            for (_, size), stride in zip(sizes, strides, strict=True)
        ]
        return _axes(sizes, lines, Place(0, ()), hardware)
    layout = _layout([size for _, size in sizes], hardware)
    lines = [
        {at: Place(0, _coords(spans, hardware.torus, at)) for at in _looked(size)}
        for (_, size), spans in zip(sizes, layout, strict=True)
    ]
    # A mesh that is laid out so is as regular as its lines: how far they go adds up.
    ends = [line[size - 1].coords for (_, size), line in zip(sizes, lines, strict=True)]
    last = tuple(map(sum, zip(*ends, strict=True))) or (0,) * (hardware.torus + 1)
    return _axes(sizes, lines, Place(0, last), hardware)


def _layout(sizes: list[int], hardware: Hardware) -> list[list[Span]]:
    """Spreads mesh axes over the dimensions of a torus, so that the longest dimension is as short as it can be.

    Devices of one chip follow one another along one of the axes, the last that is as good as any.
    """
    each = hardware.devices_per_chip
    layouts: list[list[list[Span]]] = []
    for along in [axis for axis, size in enumerate(sizes) if size % each == 0][::-1]:
        cores = [each if axis == along else 1 for axis in range(len(sizes))]
        layouts.append(_spread(sizes, cores, hardware.torus))
    layouts = layouts or [_spread(sizes, [1] * len(sizes), hardware.torus)]
    return min(
        layouts, key=lambda layout: max((span.size * span.stride for spans in layout for span in spans), default=1)
    )


def _spread(sizes: list[int], cores: list[int], dimensions: int) -> list[list[Span]]:
    """Puts each part of each axis, the longest axis first, on the dimension that is shortest so far."""
    parts = _parts([size // core for size, core in zip(sizes, cores, strict=True)], dimensions)
    extents = [1] * dimensions
    spans: list[list[Span]] = [[Span(dimensions, core, 1)] for core in cores]
    for axis in sorted(parts, key=lambda axis: -math.prod(parts[axis])):
        for size in parts[axis]:
            dimension = extents.index(min(extents))
            extents[dimension] *= size
            spans[axis].insert(0, Span(dimension, size, 1))
    inner = [1] * (dimensions + 1)
    for axis in reversed(range(len(sizes))):  # where axes share a dimension, the later lies closer together
        spans[axis] = [span._replace(stride=inner[span.dimension]) for span in spans[axis]]
        for span in spans[axis]:
            inner[span.dimension] *= span.size
    return spans


def _parts(chips: list[int], dimensions: int) -> dict[int, list[int]]:
    """Cuts the longest axes in as many parts as there are dimensions left for: [4, 16] is [4], [4, 4] in three."""
    longest = sorted((axis for axis, size in enumerate(chips) if size > 1), key=lambda axis: -chips[axis])
    count = dict.fromkeys(longest, 1)
    for _ in range(dimensions - len(count) if count else 0):
        count[max(count, key=lambda axis: chips[axis] ** (1 / count[axis]))] += 1
    return {axis: _even(chips[axis], parts) for axis, parts in count.items()}


def _even(size: int, count: int) -> list[int]:
    """Factors of a size, as many and as equal as asked: `_even(128, 3)` is [8, 4, 4]."""
    factors = [1] * count
    for prime in sorted(_primes(size), reverse=True):
        factors[factors.index(min(factors))] *= prime
    return sorted(factors, reverse=True)


def _primes(size: int) -> Iterable[int]:
    prime = 2
    while size > 1:
        if size % prime == 0:
            yield prime
            size //= prime
        else:
            prime += 1


def _coords(spans: Sequence[Span], dimensions: int, at: int) -> tuple[int, ...]:
    """Returns the coordinates of a position along an axis, the last span going up fastest."""
    coords = [0] * (dimensions + 1)
    for span in reversed(spans):
        at, digit = divmod(at, span.size)
        coords[span.dimension] += digit * span.stride
    return tuple(coords)
