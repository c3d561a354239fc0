"""How long a collective takes: by hand for known layouts; and never less for more bytes, hops or slower links."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import ClassVar

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from jbdot.compilers.compiler_process import QUIET
from jbdot.core.errors import BadValue
from jbdot.devices.links import KINDS, Links
from jbdot.devices.profile import profile
from jbdot.devices.topology import Span, _looked, read
from jbdot.hardware import known

V4, V5E, V5P, V7X = (known(kind) for kind in ("TPU v4", "TPU v5 lite", "TPU v5", "TPU7x"))
H100 = known("NVIDIA H100 80GB HBM3")


class Device:
    """As much of a device as planning looks at; counts who was looked at."""

    looked: ClassVar[set[int]] = set()

    def __init__(self, number, kind, coords=None, core=0, slice_index=None, process=0):
        self.id, self.device_kind, self.slice_index, self.process_index = number, kind, slice_index, process
        if coords is not None:
            self._coords, self.core_on_chip = coords, core

    @property
    def coords(self):
        Device.looked.add(self.id)
        return self._coords  # AttributeError where there are none, as on a GPU


@dataclasses.dataclass(eq=False)
class FakeMesh:
    devices: np.ndarray
    axis_names: tuple[str, ...]


def torus(kind, shape, sizes, slices=1, cores=1):
    """A mesh of chips in row-major order: slices, chips, cores."""
    places = [(s, *chip, core) for s in range(slices) for chip in np.ndindex(*shape) for core in range(cores)]
    devices = np.empty(len(places), object)
    for number, (s, *chip, core) in enumerate(places):
        devices[number] = Device(number, kind, chip, core, s if slices > 1 else None, process=number // 4)
    return FakeMesh(devices.reshape(tuple(sizes.values())), tuple(sizes))


def gpus(sizes, node=8, kind="NVIDIA H100 80GB HBM3"):
    devices = np.empty(math.prod(sizes.values()), object)
    devices[:] = [Device(number, kind, process=number // node) for number in range(devices.size)]
    return FakeMesh(devices.reshape(tuple(sizes.values())), tuple(sizes))


def test_coordinates_of_gpus_are_not_those_of_chips():
    """A GPU of jax 0.11.2 says coordinates and no core: an AttributeError without words, on a mesh of one."""
    for sizes in ({"x": 1}, {"x": 16, "y": 2}):
        mesh = gpus(sizes)
        for device in mesh.devices.flat:
            device._coords = (device.id % 8, 0, 0)
        assert read(mesh, None) == read(gpus(sizes), None)


# By hand.


def test_the_books_gather_on_a_line():
    """scaling-book, sharding, pop quiz 2: 3 shards of 8.4 MB one way over 4.5e10, no ring on v5e but of 16: 560 us."""
    links = Links.of({"x": 8, "y": 4}, V5E)
    shard = 512 * 8192 * 2
    assert links.time_us("all-gather", 3 * shard, "y") == pytest.approx(5 + 3 * 1 + 3 * shard / 4.5e10 * 1e6)
    assert links.bytes_per_s("y") == pytest.approx(4.5e10)


def test_a_ring_sends_both_ways():
    links = Links.of({"x": 16, "y": 16}, V5E)
    array = 1 << 28
    gathered = links.time_us("all-gather", array * 15 / 16, "x")
    assert gathered == pytest.approx(5 + 8 + array * 15 / 16 / 9e10 * 1e6)
    assert links.time_us("reduce-scatter", array * 15 / 16, "x") == gathered
    reduced = links.time_us("all-reduce", 2 * array * 15 / 16, "x")
    assert reduced == pytest.approx(5 + 16 + 2 * array * 15 / 16 / 9e10 * 1e6)


def test_turns_along_the_sides_of_a_slice_follow_one_another():
    """As if they were mesh axes: of a scatter over 4 x 4 each side, of a gather over 4 x 4 x 4 two sides and one."""
    one, two, array = Links.of({"x": 16}, V5E), Links.of({"x": 4, "y": 4}, V5E), 1 << 28
    turns = [two.time_us("reduce-scatter", sent, axis) for axis, sent in (("x", array * 3 / 4), ("y", array * 3 / 16))]
    assert one.time_us("reduce-scatter", array * 15 / 16, "x", (4, 4)) == pytest.approx(sum(turns))
    one, two = Links.of({"x": 64}, V4), Links.of({"x": 16, "y": 4}, V4)
    turns = [two.time_us("all-gather", sent, axis) for axis, sent in (("x", array * 15 / 16), ("y", array * 3 / 64))]
    assert one.time_us("all-gather", array * 63 / 64, "x", (16, 4)) == pytest.approx(sum(turns))
    assert (one.sides("x"), two.sides(("x", "y")), two.sides("x")) == ((4, 4, 4), (4, 4, 4), ())


def test_several_axes_use_all_their_links():
    links = Links.of({"x": 4, "y": 4, "z": 4}, V4)
    rates = [links.bytes_per_s(axes) for axes in ("x", ("x", "y"), ("x", "y", "z"))]
    assert rates == pytest.approx([9e10, 1.8e11, 2.7e11])
    assert [links.hops(axes) for axes in ("x", ("x", "y"), ("x", "y", "z"))] == [2, 4, 6]


@pytest.mark.parametrize("size", [4, 8, 16])
def test_all_to_all_takes_a_quarter_of_a_gather_on_a_ring(size):
    """scaling-book, sharding: the same array of V bytes, V/n of it on each device."""
    links = Links.of({"x": size, "y": 4, "z": 4}, dataclasses.replace(V5P, hop_us=0, start_us=0))
    array = 1 << 30
    gathered = links.time_us("all-gather", array * (size - 1) / size, "x")
    exchanged = links.time_us("all-to-all", array / size * (size - 1) / size, "x")
    assert gathered == pytest.approx(array * (size - 1) / size / 1.8e11 * 1e6)
    assert exchanged == pytest.approx(array / 4 / 1.8e11 * 1e6)


def test_all_to_all_on_a_line_waits_for_the_middle_link():
    links = Links.of({"x": 4, "y": 4}, dataclasses.replace(V5E, hop_us=0, start_us=0))
    held = 4e6  # 2 devices send half of it over the middle link
    assert links.time_us("all-to-all", held * 3 / 4, "x") == pytest.approx(held / 4.5e10 * 1e6)
    assert links.time_us("all-to-all", held * 15 / 16, ("x", "y")) == pytest.approx(held / 4.5e10 * 1e6)


def test_a_permute_takes_one_link():
    links = Links.of({"x": 16, "y": 16}, V5E)
    assert links.time_us("permute", 9e6, "x") == pytest.approx(5 + 1 + 9e6 / 4.5e10 * 1e6)
    line = Links.of({"x": 4, "y": 4}, V5E)  # the last sends to the first over all three links, while they are idle
    assert line.time_us("permute", 9e6, "x") == pytest.approx(5 + 3 + 9e6 / 4.5e10 * 1e6)
    assert links.time_us("permute", 9e6, ("x", "y")) > links.time_us("permute", 9e6, "x")  # anywhere


def test_gpus_of_one_node_and_of_several():
    """scaling-book, gpus: (n - 1)/n of the array at 450e9 in a node; the array at 400e9 a node of 8 between nodes."""
    array = 1e9
    node, nodes = Links.of({"x": 8}, H100), Links.of({"x": 32}, H100)
    inside = array * 7 / 8 / 4.5e11 * 1e6
    assert node.time_us("all-gather", array * 7 / 8, "x") == pytest.approx(6.6 + 7 * 0.6 + inside)
    between = array * 3 / 4 / 4e11 * 1e6
    assert nodes.time_us("all-gather", array * 31 / 32, "x") == pytest.approx(
        6.6 + 7 * 0.6 + 3 * 2.7 + inside + between
    )
    assert node.time_us("all-to-all", 1e9, "x") == pytest.approx(6.6 + 0.6 + 1e9 / 4.5e11 * 1e6)
    assert nodes.time_us("permute", 1e9, "x") == pytest.approx(6.6 + 0.6 + 2.7 + 1e9 / 5e10 * 1e6)


def test_the_levels_of_a_gather_send_what_a_flat_one_sends():
    same = dataclasses.replace(V7X, link_bytes_per_s=1e9, core_bytes_per_s=1e9, network_bytes_per_s=1e9)
    same = dataclasses.replace(same, wraparound="never", devices_per_chip=1, start_us=0, hop_us=0, network_hop_us=0)
    links = Links.of(torus("TPU7x", (4, 1, 1), {"x": 16}, slices=2, cores=2), same)
    (axis,) = links.axes
    assert (axis.cores, axis.near, axis.nodes) == (2, 4, 2)
    assert links.time_us("all-gather", 15e6, "x") == pytest.approx(15e3)


def test_one_device_sends_nothing():
    links = Links.of({"x": 1, "y": 4}, V5P)
    assert all(links.time_us(kind, 0, axes) == 0 for kind in KINDS for axes in ("x", (), ("x",)))
    assert links.bytes_per_s("x") == math.inf


def test_what_there_is_not():
    links = Links.of({"x": 2}, V5P)
    with pytest.raises(BadValue, match="'gossip' is none of all-gather"):
        links.time_us("gossip", 1, "x")
    with pytest.raises(BadValue, match=r"'y' is none of \['x'\]"):
        links.time_us("all-gather", 1, ("x", "y"))
    with pytest.raises(BadValue, match="sizes of axes must come with hardware="):
        Links.of({"x": 2})
    with pytest.raises(BadValue, match="must have a device, or come with hardware="):
        Links.of(AbstractMesh((2,), ("x",)))


# Layouts that are assumed.


@pytest.mark.parametrize(
    ("hardware", "sizes", "shape", "spans"),
    [
        (V5P, (4, 16), (4, 4, 4), [(4,), (4, 4)]),
        (V5P, (64,), (4, 4, 4), [(4, 4, 4)]),
        (V5P, (8, 64), (8, 8, 8), [(8,), (8, 8)]),
        (V5P, (128,), (8, 4, 4), [(8, 4, 4)]),
        (V5P, (2, 8), (4, 2, 2), [(2,), (4, 2)]),
        (V5P, (16, 16, 24), (24, 16, 16), [(16,), (16,), (24,)]),
        (V5E, (16,), (4, 4), [(4, 4)]),
        (V5E, (256,), (16, 16), [(16, 16)]),
        (V5E, (8, 1, 4), (8, 4), [(8,), (), (4,)]),
        (V5E, (2, 4, 4), (4, 8), [(2,), (4,), (4,)]),
        (V7X, (8, 16), (4, 4, 4), [(4,), (4, 4)]),
    ],
)
def test_a_good_layout_is_assumed(hardware, sizes, shape, spans):
    links = Links.of(dict(zip("xyz", sizes, strict=False)), hardware)
    assert sorted(links.slice_shape) == sorted(shape)
    assert [tuple(sorted((span.size for span in axis.spans), reverse=True)) for axis in links.axes] == spans


def test_axes_that_share_a_dimension_share_its_links():
    links = Links.of({"x": 2, "y": 8, "z": 8}, V5E)  # x and one other on a dimension of 16, x the farther apart
    x, *_ = links.axes
    assert x.spans == (Span(x.spans[0].dimension, 2, 8),)
    assert links.bytes_per_s("x") == pytest.approx(2 * 4.5e10 / 8)
    both = next(axis for axis in links.axes[1:] if axis.spans[0].dimension == x.spans[0].dimension)
    assert links.bytes_per_s(both.name) == pytest.approx(4.5e10)  # half of the ring: a line
    assert links.bytes_per_s(("x", both.name)) == pytest.approx(9e10)  # together the ring


def test_a_mesh_of_other_devices_is_laid_out_as_the_hardware_asks():
    mesh = jax.make_mesh((2, 4), ("x", "y"))
    assert Links.of(mesh, V5E) == Links.of(mesh.abstract_mesh, V5E) == Links.of({"x": 2, "y": 4}, V5E)
    assert Links.of(mesh) == Links.of(mesh.abstract_mesh) == Links.of(dict(mesh.shape), known("cpu"))
    assert Links.of(mesh).axes is Links.of(mesh).axes  # read once


def test_a_profile_serves_as_hardware():
    mesh = jax.make_mesh((8,), ("x",))
    links = Links.of(mesh, profile(mesh, seconds=0.01, side=16, length=1 << 12))
    assert 0 < links.time_us("all-gather", 1e6, "x") < math.inf


# Layouts that are read.


@pytest.mark.parametrize(
    ("kind", "shape", "sizes"),
    [
        ("TPU v5 lite", (4, 4), {"x": 16}),
        ("TPU v5 lite", (16, 16), {"x": 256}),
        ("TPU v5 lite", (16, 16), {"x": 16, "y": 4, "z": 4}),
        ("TPU v5", (16, 16, 24), {"x": 6144}),
        ("TPU v5", (16, 16, 24), {"x": 16, "y": 384}),
        ("TPU v5", (4, 20, 28), {"x": 2240}),
    ],
)
def test_coordinates_are_read(kind, shape, sizes):
    links = Links.of(torus(kind, shape, sizes))
    assert links.slice_shape == shape
    everything = links.group(tuple(sizes))
    assert [(span.size, span.stride) for span in everything.spans] == [(size, 1) for size in shape]
    assert not everything.crosses


def test_the_order_of_devices_shows():
    snake = [(x, y if x % 2 == 0 else 3 - y) for x in range(4) for y in range(4)]
    devices = np.empty(16, object)
    devices[:] = [Device(number, "TPU v5 lite", (*chip, 0)) for number, chip in enumerate(snake)]
    row_major = Links.of(torus("TPU v5 lite", (4, 4, 1), {"x": 16}))
    snaking = Links.of(FakeMesh(devices, ("x",)))
    assert (snaking.axes[0].step, snaking.axes[0].leap) == (1, 3)
    assert (row_major.axes[0].step, row_major.axes[0].leap) == (1, 6)
    assert snaking.time_us("permute", 1e6, "x") < row_major.time_us("permute", 1e6, "x")


@pytest.mark.parametrize("sizes", [{"x": 16, "y": 16, "z": 24}, {"x": 64, "y": 96}, {"x": 8, "y": 768}])
def test_an_order_that_fits_no_dimension_is_read_too(sizes):
    """Devices by number, the first coordinate going up fastest, in a mesh whose axes are cut otherwise."""
    devices = np.empty(6144, object)
    devices[:] = [Device(number, "TPU v5", chip[::-1]) for number, chip in enumerate(np.ndindex(24, 16, 16))]
    links = Links.of(FakeMesh(devices.reshape(tuple(sizes.values())), tuple(sizes)))
    assert links.slice_shape == (16, 16, 24)
    assert all(5 < links.time_us(kind, 1e6, axes) < 1e5 for kind in KINDS for axes in ("x", "y", tuple(sizes)))


def test_two_cores_of_a_chip_share_its_links():
    links = Links.of(torus("TPU7x", (4, 4, 4), {"x": 4, "y": 32}, cores=2))
    x, y = links.axes
    assert (x.cores, y.cores, y.near) == (1, 2, 16)
    assert links.bytes_per_s("x") == pytest.approx(2 * 9e10 / 2)
    core = Links.of(torus("TPU7x", (4, 4, 4), {"x": 64, "core": 2}, cores=2))
    assert core.bytes_per_s("core") == pytest.approx(V7X.core_bytes_per_s)
    assert core.hops("core") == 0
    assert core.time_us("permute", 54e4, "core") == pytest.approx(5 + 1)


@pytest.mark.parametrize("chips", [(4, 4), (16, 16)])
def test_slices_are_found(chips):
    count = math.prod(chips)
    mesh = torus("TPU v5 lite", (*chips, 1), {"slice": 2, "x": count}, slices=2)
    outer, inner = Links.of(mesh).axes
    assert (outer.nodes, outer.near, inner.nodes, inner.near) == (2, 1, 1, count)
    (both,) = Links.of(torus("TPU v5 lite", (*chips, 1), {"x": 2 * count}, slices=2)).axes
    assert (both.nodes, both.near) == (2, count)
    links = Links.of(mesh)
    assert links.bytes_per_s("slice") == V5E.network_bytes_per_s
    assert links.time_us("all-gather", 1e6, "slice") > 10 * links.time_us("all-gather", 1e6, "x")


@pytest.mark.parametrize("node", [1, 4, 8, 16])
@pytest.mark.parametrize("sizes", [{"x": 64}, {"x": 1024}, {"x": 8, "y": 8}, {"x": 4, "y": 2, "z": 8}])
def test_processes_are_found(sizes, node):
    links = Links.of(gpus(sizes, node))
    everything = links.group(tuple(sizes))
    assert (everything.near, everything.nodes) == (node, math.prod(sizes.values()) // node)
    inner = math.prod(sizes.values())
    for axis in links.axes:
        inner //= axis.size
        assert axis.near == min(axis.size, max(1, node // inner))


def test_slices_of_gpus_are_nodes():
    """JAX numbers hosts as slices: with a process for each GPU they tell who shares a switch."""
    mesh = gpus({"x": 16}, node=1)
    for device in mesh.devices:
        device.slice_index = device.id // 8
    (axis,) = Links.of(mesh).axes
    assert (axis.near, axis.nodes) == (8, 2)


def test_few_devices_are_looked_at():
    for shape, sizes in [
        ((4, 4, 4), {"x": 64}),
        ((16, 16, 24), {"x": 6144}),
        ((16, 16, 24), {"x": 16, "y": 16, "z": 24}),
    ]:
        Device.looked = set()
        Links.of(torus("TPU v5", shape, sizes))
        assert len(Device.looked) <= 64 * len(sizes)


@settings(deadline=None)
@given(st.integers(1, 100_000))
def test_no_line_is_looked_at_in_more_than_64_places(size):
    (axis,) = Links.of({"x": size}, dataclasses.replace(H100, name="counted")).axes
    looked = _looked(size)
    assert axis.size == size
    assert len(looked) <= 64
    assert looked[0] == 0
    assert looked[-1] == size - 1


# Always.

HARDWARE = st.sampled_from([V4, V5E, V5P, V7X, H100, known("cpu")])
SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 16]), min_size=1, max_size=4)
BYTES = st.floats(0, 1e12)


def named(sizes):
    return {f"axis{at}": size for at, size in enumerate(sizes)}


@settings(deadline=None)
@given(HARDWARE, SIZES, st.sampled_from(KINDS), BYTES, BYTES, st.data())
def test_more_bytes_are_never_faster(hardware, sizes, kind, one, other, data):
    links = Links.of(named(sizes), hardware)
    axes = tuple(data.draw(st.sets(st.sampled_from(sorted(named(sizes))))))
    fewer, more = sorted((one, other))
    assert 0 <= links.time_us(kind, fewer, axes) <= links.time_us(kind, more, axes) < math.inf


@settings(deadline=None)
@given(st.sampled_from(KINDS), BYTES, st.integers(1, 8), st.integers(1, 8))
def test_more_hops_are_never_faster(kind, sent, one, other):
    """Rings of whole cubes, and lines: by latency, and by the links between the bytes that an all-to-all sends."""
    fewer, more = sorted((one, other))
    for hardware, each in ((V5P, 4), (dataclasses.replace(V5P, wraparound="never"), 2)):
        short, long = (Links.of({"x": each * size, "y": 4, "z": 4}, hardware) for size in (fewer, more))
        assert short.hops("x") <= long.hops("x")
        assert short.time_us(kind, 0, "x") <= long.time_us(kind, 0, "x")
        if kind == "all-to-all":
            held = [sent * (1 - 1 / (each * size)) for size in (fewer, more)]  # of the same array on each device
            assert short.time_us(kind, held[0], "x") <= long.time_us(kind, held[1], "x") * (1 + 1e-9)


@settings(deadline=None)
@given(st.sampled_from(KINDS), BYTES)
def test_devices_that_lie_apart_are_never_faster(kind, sent):
    line = Links.of(torus("TPU v5", (8, 1, 1), {"far": 2, "near": 4}))
    two, four = (Links.of(torus("TPU v5", (8, 1, 1), {"far": 4, "near": 2})), line)
    for links, axis in ((two, "near"), (four, "far")):
        assert links.group(axis).size == 2
    assert two.time_us(kind, sent, "near") <= four.time_us(kind, sent, "far")


@settings(deadline=None)
@given(HARDWARE, SIZES, st.sampled_from(KINDS), BYTES, st.floats(0.1, 1), st.data())
def test_slower_hardware_is_never_faster(hardware, sizes, kind, sent, part, data):
    axes = tuple(data.draw(st.sets(st.sampled_from(sorted(named(sizes))))))
    slow = dataclasses.replace(
        hardware, link_bytes_per_s=hardware.link_bytes_per_s * part, hop_us=hardware.hop_us / part
    )
    fast_us, slow_us = (Links.of(named(sizes), some).time_us(kind, sent, axes) for some in (hardware, slow))
    assert fast_us <= slow_us * (1 + 1e-9)


@settings(deadline=None)
@given(HARDWARE, SIZES)
def test_every_device_has_a_place_of_its_own(hardware, sizes):
    assume(hardware.torus)
    links = Links.of(named(sizes), hardware)
    everything = links.group(tuple(named(sizes)))
    assert everything.size == math.prod(sizes) == everything.cores * math.prod(s.size for s in everything.spans)
    assert math.prod(links.slice_shape) * everything.cores == everything.size
    assert str(links).count("\n") == len(sizes) + 1


# The compiler's own devices, where it is.

TOPOLOGY = """
import json
from jax.experimental import topologies
from jbdot.devices.links import Links
found = []
for name, sizes, options in (
    ("v5e:4x4", (4, 4), {}), ("v5p:4x4x4", (4, 16), {}), ("tpu7x:4x4x4", (8, 16), {}), ("v5p:16x16x24", (16, 384), {}),
):
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    mesh = topologies.make_mesh(topology, sizes, ("x", "y"))
    links = Links.of(mesh)
    found.append([links.hardware.name, [axis.cores for axis in links.axes], sorted(links.slice_shape),
                  [links.hops("x"), links.hops("y")]])
print(json.dumps(found))
"""


@pytest.mark.skipif(find_spec("libtpu") is None, reason="the TPU compiler is not installed")
def test_devices_of_the_compiler():
    child = subprocess.run(
        [sys.executable, "-c", TOPOLOGY], env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=60
    )
    assert child.returncode == 0, child.stderr
    v5e, v5p, tpu7x, large = json.loads(child.stdout.splitlines()[-1])
    assert v5e == ["TPU v5e", [1, 1], [1, 4, 4], [3, 3]]
    assert v5p == ["TPU v5p", [1, 1], [4, 4, 4], [2, 4]]
    assert tpu7x == ["TPU7x", [2, 1], [4, 4, 4], [2, 4]]
    assert large == ["TPU v5p", [1, 1], [16, 16, 24], [8, 8 + 12]]
