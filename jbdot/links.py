"""How long a collective takes along the axes of a mesh, by the published figures of its devices.

All that comes out is an estimate: bytes over the rates of `Hardware`, and a latency for each step. A group of devices
is nested: cores of one chip, chips of one slice (or GPUs of one node), slices (or nodes). Bytes given are those that
each device sends by the algorithm that sends fewest; where groups are nested, every level sends its share of them.
"""

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from jax.sharding import AbstractMesh, Mesh

from jbdot.errors import BadValue
from jbdot.hardware import Hardware, of
from jbdot.table import table

KINDS: Final = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute")

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
        """Whether it leaves the slice or node, over a network that is slow."""
        return self.nodes > 1


@dataclasses.dataclass(frozen=True)
class Links:
    """What a mesh can send along each of its axes.

    Attributes:
        hardware: The figures of one device.
        axes: The axes of the mesh.
        slice_shape: Chips of one slice along each dimension of the torus.

    Example:
        >>> from jbdot.hardware import known
        >>> links = Links.of({"x": 16, "y": 16}, known("TPU v5 lite"))
        >>> round(links.time_us("all-gather", 15 * 90_000, "x"))  # a ring of 16: 8 hops of 1 us, 5 us to start
        28
        >>> round(links.time_us("all-gather", 255 * 90_000, ("x", "y")))  # on both at once
        148
    """

    hardware: Hardware
    axes: tuple[Axis, ...]
    slice_shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, mesh: Mesh | AbstractMesh | Mapping[str, int], hardware: Hardware | None = None) -> "Links":
        """Looks at a few devices along each axis of a mesh, those in line with its first; cached by mesh.

        Where devices have coordinates or slices, those are read. Where they have none, as in an `AbstractMesh`, or are
        not of the kind that `hardware` describes, a good layout is assumed: a slice as near to a cube as it goes, an
        axis on dimensions of its own, the last axes closest together.

        Args:
            mesh: A mesh, or the sizes of its axes by name.
            hardware: By default what is published for the kind of the mesh's devices.

        Raises:
            ValueError: No figures are known for the devices.
        """
        if isinstance(mesh, Mapping):
            if hardware is None:
                raise BadValue("sizes of axes must come with hardware=", f"given {dict(mesh)}", _SAY_HARDWARE)
            return _assumed(tuple(mesh.items()), hardware)
        return _read(mesh, hardware)

    def group(self, axes: str | Sequence[str]) -> Axis:
        """Joins axes to the group of devices that a collective over them has.

        Raises:
            ValueError: The mesh has no such axis.
        """
        names = (axes,) if isinstance(axes, str) else tuple(axes)
        by_name = {axis.name: axis for axis in self.axes}
        for name in names:
            if name not in by_name:
                raise BadValue("an axis must be one of the mesh", f"{name!r} is none of {list(by_name)}")
        return _joined([by_name[name] for name in names])

    def time_us(self, kind: str, bytes_sent: float, axes: str | Sequence[str]) -> float:
        """Estimates the time of one collective.

        Args:
            kind: One of `KINDS`. A permute over one axis is a shift to the next device; over several it is any.
            bytes_sent: By each device, by the algorithm that sends fewest: of an array of V bytes in n parts,
                V (n - 1)/n for all-gather and reduce-scatter, twice that for all-reduce, V (n - 1)/n^2 for all-to-all,
                V/n for permute.
            axes: The mesh axes that it runs over.

        Raises:
            ValueError: There is no such kind, or no such axis.
        """
        if kind not in KINDS:
            raise BadValue("a collective must be of a known kind", f"{kind!r} is none of {', '.join(KINDS)}")
        group = self.group(axes)
        if group.size == 1:
            return 0.0
        moved = {"all-to-all": self._exchanged_s, "permute": self._permuted_s}.get(kind, self._gathered_s)
        turns = 2 if kind == "all-reduce" else 1  # a reduce-scatter, then an all-gather
        return self.hardware.start_us + turns * self._latency_us(kind, group) + 1e6 * moved(bytes_sent, group)

    def bytes_per_s(self, axes: str | Sequence[str]) -> float:
        """Bytes a second that each device sends along these axes in a long all-gather."""
        group = self.group(axes)
        return math.inf if group.size == 1 else 1 / self._gathered_s(1.0, group)

    def hops(self, axes: str | Sequence[str]) -> int:
        """The longest way within one slice or node, in steps of a torus or of a ring behind a switch."""
        return self._hops(self.group(axes))

    def __str__(self) -> str:
        rows = [("axis", "size", "along", "GB/s a device", "hops")]
        rows += [
            (axis.name, str(axis.size), self._along(axis), _giga(self.bytes_per_s(axis.name)), str(self._hops(axis)))
            for axis in self.axes
        ]
        return f"{self.hardware.name}, estimated\n{table(rows)}"

    # One span: a ring of n chips sends both ways at once, a line of n does not gain by it, as its ends have one link
    # (scaling-book, sharding: 3 shards over one way of 4.5e10 for a line of 4). Chips that lie `stride` apart share
    # each link with the groups between them, and devices of one chip share its links.

    def _is_ring(self, span: Span) -> bool:
        extent = self.slice_shape[span.dimension]
        return span.size * span.stride == extent and self.hardware.wraps(extent, self.slice_shape)

    def _rate(self, span: Span) -> float:
        ways = 2 if self._is_ring(span) else 1
        return ways * self.hardware.link_bytes_per_s / span.stride / self.hardware.devices_per_chip

    # All-gather, nested in N = c n m devices (cores, chips, slices), each with one part. Slices first: a device gets
    # the m - 1 parts of its peers; then chips: (n - 1) m parts; then cores: (c - 1) n m. They add up to N - 1, so that
    # nothing is sent twice. Phases follow one another. A torus uses all its dimensions at once, each for its share of
    # the bytes (scaling-book, sharding: bandwidth times the number of axes). Backwards it is a reduce-scatter.

    def _gathered_s(self, bytes_sent: float, group: Axis) -> float:
        part = bytes_sent / (group.size - 1)
        inside = part * (group.cores - 1) * group.near * group.nodes / self.hardware.core_bytes_per_s
        rate = sum(map(self._rate, group.spans)) or self.hardware.link_bytes_per_s
        between = part * (group.near - 1) * group.nodes / rate
        return inside + between + part * (group.nodes - 1) / self.hardware.network_bytes_per_s

    # All-to-all: each device has a part for each other, and sends it there straight. On a ring of n a part goes
    # floor(n^2/4)/n links on average, n/4 for even n, both ways in use: so a device's links carry n/4 times all that it
    # has for the ring, at the rate of both (scaling-book, sharding: a quarter of an all-gather, which sends n times the
    # bytes). On a line the middle link decides: n/2 devices send half of what they have over it, n/4 times, at the rate
    # of one way. Dimensions of a torus work side by side, and the longest decides.

    def _exchanged_s(self, bytes_sent: float, group: Axis) -> float:
        part = bytes_sent / (group.size - 1)
        inside = part * (group.cores - 1) / self.hardware.core_bytes_per_s
        held = part * group.cores * group.near
        between = held * (group.near - 1) / group.near / self.hardware.link_bytes_per_s
        if group.spans:
            between = held * self._carried(group)
        away = part * group.cores * group.near * (group.nodes - 1)
        return inside + between + away / self.hardware.network_bytes_per_s

    def _carried(self, group: Axis) -> float:
        """Seconds for each byte that a device sends to places of a torus at random."""
        return max(span.size**2 // 4 / span.size / self._rate(span) for span in group.spans)

    # Permute: a device's bytes take one way, over one link at a time. A shift by `step` links has as many messages on
    # each link; what goes anywhere loads the links as an all-to-all does.

    def _permuted_s(self, bytes_sent: float, group: Axis) -> float:
        if group.crosses:
            return bytes_sent / self.hardware.network_bytes_per_s
        if group.near == 1:
            return bytes_sent / self.hardware.core_bytes_per_s
        once = bytes_sent / self.hardware.link_bytes_per_s
        if not group.spans:
            return once
        anywhere = bytes_sent * self._carried(group)
        return max(once, once * group.step if group.step else anywhere)

    # Latency: a step after another. A ring of n reaches all in n/2 steps, a line in n - 1; dimensions add up
    # (scaling-book, sharding: T_min sum_i X_i / 2). Behind a switch a ring takes n - 1 steps (NCCL, tuning.cc), an
    # all-to-all or a permute one. The book takes the longer of latency and bandwidth; steps that wait for one another
    # take the sum, as its question on ICI bandwidth says.

    def _latency_us(self, kind: str, group: Axis) -> float:
        direct = kind in ("all-to-all", "permute")
        near = self._hops(group) if group.spans or not direct else min(group.near - 1, 1)
        if kind == "permute" and group.leap:
            near = group.leap
        far = min(group.nodes - 1, 1) if direct else group.nodes - 1
        return near * self.hardware.hop_us + far * self.hardware.network_hop_us

    def _hops(self, group: Axis) -> int:
        if not group.spans:
            return group.near - 1
        return sum((span.size // 2 if self._is_ring(span) else span.size - 1) * span.stride for span in group.spans)

    def _along(self, axis: Axis) -> str:
        parts = [f"{axis.cores} cores"] if axis.cores > 1 else []
        parts += [f"{'ring' if self._is_ring(span) else 'line'} of {span.size}" for span in axis.spans]
        parts += [f"switch of {axis.near}"] if not axis.spans and axis.near > 1 else []
        return " x ".join(parts + ([f"network of {axis.nodes}"] if axis.crosses else []))


_SAY_HARDWARE: Final = 'Say whose figures to use: hardware=jbdot.hardware.known("TPU v5p")'


def _joined(axes: Sequence[Axis]) -> Axis:
    """One group of several axes: places that share a dimension interleave, and there is no next device."""
    if len(axes) == 1:
        return axes[0]
    spans: dict[int, Span] = {}
    for span in (span for axis in axes for span in axis.spans):
        other = spans.get(span.dimension, Span(span.dimension, 1, span.stride))
        spans[span.dimension] = Span(span.dimension, span.size * other.size, min(span.stride, other.stride))
    return Axis(
        " ".join(axis.name for axis in axes),
        size=math.prod(axis.size for axis in axes),
        cores=math.prod(axis.cores for axis in axes),
        nodes=math.prod(axis.nodes for axis in axes),
        spans=tuple(spans.values()),
    )


# Looking at a mesh.


@functools.lru_cache(maxsize=256)
def _read(mesh: Any, hardware: Hardware | None) -> Links:
    if isinstance(mesh, AbstractMesh):
        device = mesh.abstract_device
        if hardware is None and device is None:
            raise BadValue("an AbstractMesh must have a device, or come with hardware=", f"{mesh}", _SAY_HARDWARE)
        return _assumed(tuple(mesh.shape.items()), hardware or of(device))
    sizes = tuple(zip(mesh.axis_names, mesh.devices.shape, strict=True))
    first = mesh.devices[(0,) * mesh.devices.ndim]
    hardware = hardware or of(first)
    is_another = hardware.kinds and first.device_kind not in hardware.kinds
    if is_another or (hardware.torus and getattr(first, "coords", None) is None):
        return _assumed(sizes, hardware)
    lines = [
        {at: _place(mesh.devices[(*(0,) * axis, at, *(0,) * (len(sizes) - axis - 1))]) for at in _looked(size)}
        for axis, (_, size) in enumerate(sizes)
    ]
    return _links(sizes, lines, _place(mesh.devices[(-1,) * len(sizes)]), hardware)


def _place(device: Any) -> Place:
    """Where a device says it is: TPUs have coordinates, and a slice where there are several; others have processes.

    CPU devices say that they are in slice 0, whatever machine they are on.
    """
    coords, node = getattr(device, "coords", None), getattr(device, "slice_index", None)
    if coords is not None:
        return Place(node or 0, (*coords, device.core_on_chip))
    is_cpu = getattr(device, "platform", None) == "cpu"
    return Place(device.process_index if node is None or is_cpu else node, ())


def _looked(size: int) -> list[int]:
    """At most 64 positions along an axis: its start, and its end, which has the last place in every dimension.

    Powers of two between them: whatever the period at which a coordinate goes up, one lies in its second period.
    """
    powers = (2**power for power in range(size.bit_length()))
    some = {*range(_PREFIX), *range(0, size, max(1, size // _SPREAD)), *powers, size - 1}
    return sorted(at for at in some if at < size)


def _links(sizes: Sequence[tuple[str, int]], lines: Sequence[Line], last: Place, hardware: Hardware) -> Links:
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
    return Links(hardware, tuple(axes), shape)


def _spans(line: Line) -> tuple[Span, ...]:
    """The dimensions in which a line has several places; the last dimension is the core."""
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
def _assumed(sizes: tuple[tuple[str, int], ...], hardware: Hardware) -> Links:
    if not hardware.torus:
        node, inner = hardware.node or math.inf, math.prod(size for _, size in sizes)
        strides = [inner := inner // size for _, size in sizes]
        lines = [
            {at: Place(int(at * stride // node), ()) for at in _looked(size)}
            for (_, size), stride in zip(sizes, strides, strict=True)
        ]
        return _links(sizes, lines, Place(0, ()), hardware)
    layout = _layout([size for _, size in sizes], hardware)
    lines = [
        {at: Place(0, _coords(spans, hardware.torus, at)) for at in _looked(size)}
        for (_, size), spans in zip(sizes, layout, strict=True)
    ]
    # A mesh that is laid out so is as regular as its lines: how far they go adds up.
    ends = [line[size - 1].coords for (_, size), line in zip(sizes, lines, strict=True)]
    last = tuple(map(sum, zip(*ends, strict=True))) or (0,) * (hardware.torus + 1)
    return _links(sizes, lines, Place(0, last), hardware)


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
    """The coordinates of a position along an axis, the last span going up fastest."""
    coords = [0] * (dimensions + 1)
    for span in reversed(spans):
        at, digit = divmod(at, span.size)
        coords[span.dimension] += digit * span.stride
    return tuple(coords)


def _giga(rate: float) -> str:
    return "-" if math.isinf(rate) else f"{rate / 1e9:.4g}"
