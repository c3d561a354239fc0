"""What a device can do at best: measured, and put together for one dot."""

import jax
import pytest
from jax import numpy as jnp

from jbdot.one_device import roofline
from jbdot.one_device.dot_spec import DotSpec


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(roofline, "_SIDE", 32)
    monkeypatch.setattr(roofline, "_BYTES", 1 << 16)
    monkeypatch.setattr(roofline, "_SECONDS", 0.01)
    for measured in (roofline.peak_flops, roofline.bandwidth):
        measured.cache_clear()
    yield
    for measured in (roofline.peak_flops, roofline.bandwidth):
        measured.cache_clear()


def test_measures_rates(small):
    assert roofline.peak_flops("float32", "float32") > 1e6
    assert roofline.peak_flops("int8", "int32") > 1e6
    assert roofline.bandwidth() > 1e6


def test_the_limit_is_the_slower_of_the_two(monkeypatch):
    x = jax.ShapeDtypeStruct((100, 100), jnp.float32)
    spec = DotSpec.of(x, x, x, (((1,), (0,)), ((), ())), None)
    monkeypatch.setattr(roofline, "peak_flops", lambda dtype, out: 1e9)
    monkeypatch.setattr(roofline, "bandwidth", lambda: 1e12)
    assert roofline.limit_us(spec) == pytest.approx(2e6 / 1e9 * 1e6)
    monkeypatch.setattr(roofline, "bandwidth", lambda: 1e6)
    assert roofline.limit_us(spec) == pytest.approx(3 * 100 * 100 * 4 / 1e6 * 1e6)
