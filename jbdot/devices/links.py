"""How long a collective takes along the axes of a mesh, by the published figures of its devices.

All that comes out is an estimate: bytes over the rates of `Hardware`, and a latency for each step. A group of devices
is nested: cores of one chip, chips of one slice (or GPUs of one node), slices (or nodes). Bytes given are those that
each device sends by the algorithm that sends fewest; where groups are nested, every level sends its share of them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Final

from jax.sharding import AbstractMesh, Mesh

from jbdot.core.errors import BadValue
from jbdot.core.text import table
from jbdot.devices import topology
from jbdot.devices.topology import Axis, Span
from jbdot.hardware import Hardware

KINDS: Final = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "permute")


@dataclasses.dataclass(frozen=True)
class Links:
    """What a mesh can send along each of its axes.

    Attributes:
        hardware: The figures of one device.
        axes: The axes of the mesh.
        slice_shape: Chips of one slice along each dimension of the torus.

    Example:
        >>> from jbdot.devices.links import Links
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
                raise BadValue("sizes of axes must come with hardware=", f"given {dict(mesh)}", topology.SAY_HARDWARE)
            return cls(*topology.assumed(tuple(mesh.items()), hardware))
        return cls(*topology.read(mesh, hardware))

    def group(self, axes: str | Sequence[str]) -> Axis:
        """Joins axes to the group of devices that a collective over them has.

        Raises:
            ValueError: The mesh has no such axis.
        """
        names = (axes,) if isinstance(axes, str) else tuple(axes)
        if names not in self._groups:
            by_name = {axis.name: axis for axis in self.axes}
            for name in names:
                if name not in by_name:
                    raise BadValue("an axis must be one of the mesh", f"{name!r} is none of {list(by_name)}")
            self._groups[names] = _joined([by_name[name] for name in names])
        return self._groups[names]

    @functools.cached_property
    def _groups(self) -> dict[tuple[str, ...], Axis]:
        return {}

    def sides(self, axes: str | Sequence[str]) -> tuple[int, ...]:
        """Returns the sides of a slice, in chips, where these mesh axes take all of one; else ()."""
        group = self.group(axes)
        is_whole = not group.crosses and group.near == math.prod(self.slice_shape)
        return tuple(span.size for span in group.spans) if is_whole else ()

    def time_us(self, kind: str, bytes_sent: float, axes: str | Sequence[str], parts: tuple[int, ...] = ()) -> float:
        """Estimates the time of one collective.

        Args:
            kind: One of `KINDS`. A permute over one axis is a shift to the next device; over several it is any.
            bytes_sent: By each device, by the algorithm that sends fewest: of an array of V bytes in n parts,
                V (n - 1)/n for all-gather and reduce-scatter, twice that for all-reduce, V (n - 1)/n^2 for all-to-all,
                V/n for permute.
            axes: The mesh axes that it runs over.
            parts: Of a gather or scatter over a slice in two turns: devices along all its sides but one, and the rest.

        Raises:
            ValueError: There is no such kind, or no such axis.
        """
        if kind not in KINDS:
            raise BadValue("a collective must be of a known kind", f"{kind!r} is none of {', '.join(KINDS)}")
        group = self.group(axes)
        if not parts:
            return self._time_us(kind, bytes_sent, group)
        first, others = (
            dataclasses.replace(group, size=size, spans=spans, cores=cores)
            for size, spans, cores in zip(parts, (group.spans[:-1], group.spans[-1:]), (1, group.cores), strict=True)
        )
        most = bytes_sent * group.size / (group.size - 1) * (first.size - 1) / first.size  # where the most is left
        return self._time_us(kind, most, first) + self._time_us(kind, bytes_sent - most, others)

    def _time_us(self, kind: str, bytes_sent: float, group: Axis) -> float:
        if group.size == 1:
            return 0.0
        moved = {"all-to-all": self._exchanged_s, "permute": self._permuted_s}.get(kind, self._gathered_s)
        turns = 2 if kind == "all-reduce" else 1  # a reduce-scatter, then an all-gather
        return self.hardware.start_us + turns * self._latency_us(kind, group) + 1e6 * moved(bytes_sent, group)

    def line(self, kind: str, axes: str | Sequence[str]) -> tuple[float, float]:
        """Gives a collective's time to start, and for each byte that a device sends: `time_us` is their sum.

        Example:
            >>> from jbdot.devices.links import Links
            >>> from jbdot.hardware import known
            >>> links = Links.of({"x": 4, "y": 4}, known("TPU v5 lite"))
            >>> start, each = links.line("all-gather", "x")
            >>> round(start + 1e6 * each, 6) == round(links.time_us("all-gather", 1e6, "x"), 6)
            True
        """
        many, start = 1e15, self.time_us(kind, 0, axes)  # bytes, beside which latencies are nothing
        return start, (self.time_us(kind, many, axes) - start) / many

    def bytes_per_s(self, axes: str | Sequence[str]) -> float:
        """Gives the bytes a second that each device sends along these axes in a long all-gather."""
        group = self.group(axes)
        return math.inf if group.size == 1 else 1 / self._gathered_s(1.0, group)

    def hops(self, axes: str | Sequence[str]) -> int:
        """Returns the longest way within one slice or node, in steps of a torus or of a ring behind a switch."""
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


def _joined(axes: Sequence[Axis]) -> Axis:
    """Joins several axes to one group: places that share a dimension interleave, and there is no next device."""
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


def _giga(rate: float) -> str:
    return "-" if math.isinf(rate) else f"{rate / 1e9:.4g}"
