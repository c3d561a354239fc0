"""Published figures: found by device kind, from pages that are named, and what follows from them."""

import dataclasses
import math

import jax
import pytest
from jax.sharding import AbstractMesh

from jbdot.core.errors import BadValue
from jbdot.devices.profile import profile
from jbdot.hardware import KNOWN, Hardware, known, of

V5E, V5P, H100 = known("TPU v5 lite"), known("TPU v5"), known("NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5e", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("TPU v6e", "TPU v6e"),
        ("TPU7x", "TPU7x"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 SXM 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM 80 GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM"),
        ("NVIDIA H200", "NVIDIA H200 SXM"),
        ("NVIDIA B200", "NVIDIA B200"),
        ("cpu", "CPU"),
    ],
)
def test_kinds_are_recognised(kind, name):
    assert known(kind).name == name


def test_the_devices_at_hand_are_known():
    assert of(jax.devices()[0]).name == "CPU"


def test_an_unknown_kind_says_how_to_give_a_profile():
    with pytest.raises(BadValue, match="'TPU v99' is none of 'TPU v4', ") as refused:
        known("TPU v99")
    for remedy in ("jbdot.hardware.Hardware", "dataclasses.replace", "jbdot.devices.profile.profile"):
        assert remedy in str(refused.value)


@pytest.mark.parametrize("some", KNOWN, ids=lambda some: some.name)
def test_every_figure_is_there_and_has_a_source(some):
    figures = [some.memory_bytes, some.memory_bytes_per_s, some.link_bytes_per_s, some.network_bytes_per_s]
    assert all(figure > 0 for figure in [*figures, *some.peak.values()])
    assert some.network_bytes_per_s < some.link_bytes_per_s
    assert all(source.startswith("assumed") or "measured" in source or ", " in source for source in some.sources)
    assert any("https://" in source for source in some.sources) or some.name == "CPU"
    for source in some.sources:
        assert source in " ".join(str(some).split())


def test_kinds_are_told_apart():
    kinds = [kind for some in KNOWN for kind in some.kinds]
    assert len(set(kinds)) == len(kinds)


def test_a_dot_takes_its_flops_or_its_bytes():
    square, vector = 2 * 8192**3, 2 * 8192**2
    assert V5E.compute_us(square, "bfloat16", 3 * 2 * 8192**2) == pytest.approx(square / 1.97e14 * 1e6)
    assert V5E.compute_us(vector, "bfloat16", 2 * 8192**2) == pytest.approx(2 * 8192**2 / 8.19e11 * 1e6)


@pytest.mark.parametrize(
    ("some", "dtype", "rate"),
    [
        (V5P, "float32", 4.59e14),  # one pass, as JAX does by default
        (V5P, "float16", 4.59e14),
        (V5P, "int8", 9.18e14),
        (V5P, "uint4", 9.18e14),
        (V5P, "float64", 4.59e14),
        (V5E, "float8_e4m3fn", 1.97e14),  # widened
        (H100, "float8_e4m3fn", 1.979e15),
        (H100, "float32", 4.947e14),  # TF32
        (H100, "complex64", 4.947e14 / 4),
        (H100, "complex128", 6.69e13 / 4),
        (H100, "int32", 4.947e14),
        (known("cpu"), "int8", 6e10),
        (known("TPU7x"), "bfloat16", 2.307e15 / 2),  # half a chip is a device
    ],
)
def test_rates_by_dtype(some, dtype, rate):
    assert some.rate(dtype) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("kind", "size", "shape", "is_ring"),
    [
        ("TPU v5 lite", 16, (16, 16), True),
        ("TPU v5 lite", 8, (8, 16), False),
        ("TPU v5 lite", 16, (8, 16), True),
        ("TPU v6 lite", 4, (4, 4), False),
        ("TPU v5", 4, (4, 4, 4), True),
        ("TPU v5", 12, (4, 8, 12), True),
        ("TPU v5", 4, (2, 2, 4), False),
        ("TPU v4", 2, (2, 2, 2), False),
        ("NVIDIA H200", 16, (16,), False),
    ],
)
def test_wraparound(kind, size, shape, is_ring):
    assert known(kind).wraps(size, shape) == is_ring


def test_a_core_has_half_of_a_chip():
    def device(kind, cores):
        return AbstractMesh(
            (2,), ("x",), abstract_device=jax.sharding.AbstractDevice(kind, cores, "tpu")
        ).abstract_device

    whole, core = of(device("TPU v4", 2)), of(device("TPU v4", 1))
    assert whole == known("TPU v4")
    assert core.rate("bfloat16") == whole.rate("bfloat16") / 2
    assert core.memory_bytes == whole.memory_bytes / 2
    assert core.devices_per_chip == 2
    assert core.link_bytes_per_s == whole.link_bytes_per_s
    assert of(device("TPU7x", 1)) is known("TPU7x")
    assert of(device("TPU v5 lite", 1)) is V5E


def test_a_figure_can_be_replaced():
    slow = dataclasses.replace(V5E, link_bytes_per_s=1e9)
    assert slow != V5E
    assert slow.rate("int8") == V5E.rate("int8")
    assert isinstance(hash(slow), int)


def test_profile_measures(monkeypatch):
    found = profile(jax.make_mesh((4, 2), ("x", "y")), seconds=0.01, side=16, length=1 << 12)
    assert isinstance(found, Hardware)
    assert found.kinds == ("cpu",)
    assert all(0 < rate < math.inf for rate in (*found.peak.values(), found.memory_bytes_per_s))
    assert 0 < found.link_bytes_per_s < math.inf
    assert found.start_us > 0
    assert "measured on 8 devices" in str(found)


def test_profile_of_one_device_has_no_links(monkeypatch):
    monkeypatch.setattr("jbdot.devices.profile._best_us", lambda call, seconds: 1.0)
    found = profile(jax.sharding.Mesh(jax.devices()[:1], ("x",)), side=4, length=64)
    assert found.link_bytes_per_s == math.inf
    assert found.peak["float32"] == 2 * 4**3 * 1e6
