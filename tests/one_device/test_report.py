"""The report: dots with what they will be lowered by, what is left alone, and what is warned of."""

import re

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from benchmarks.recorded import PROGRAMS
from jbdot.one_device import choice
from jbdot.one_device.costs import Estimate
from jbdot.programs.optimize import optimize


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_what_is_left_alone_is_named_with_its_flops():
    def kernel(x, out):
        out[...] = x[...] @ x[...]

    def f(image, weights, rows, experts, sizes, square):
        out = lax.conv_general_dilated(image, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        ragged = lax.ragged_dot(rows, experts, sizes)
        cost = pl.CostEstimate(flops=77, transcendentals=0, bytes_accessed=0)
        called = pl.pallas_call(kernel, jax.ShapeDtypeStruct((8, 8), jnp.float32), cost_estimate=cost, interpret=True)
        return out.sum() + ragged.sum() + called(square).sum() + (square @ square).sum()

    report = optimize(f).report(
        shaped(2, 5, 5, 3), shaped(3, 3, 3, 4), shaped(6, 4), shaped(2, 4, 7), shaped(2, dtype=jnp.int32), shaped(8, 8)
    )
    assert len(report) == 1
    found = {one.kind: one.flops for one in report.alone}
    assert found == {"convolution": 2 * (2 * 5 * 5 * 4) * 3 * 3 * 3, "ragged_dot": 2 * 6 * 7 * 4, "kernel": 77}
    text = " ".join(str(report).split())
    line = f.__code__.co_firstlineno + 1
    assert f"left alone: convolution at test_report.py:{line} (" in text
    assert "10,800 FLOPs" in text
    assert "<p>left alone: kernel at " in report._repr_html_()


def test_a_result_far_larger_than_its_operands_is_warned_of():
    n = 512
    report = optimize(lambda x: jnp.einsum("ij,ik,il,jk,jl,kl->ij", x, x, x, x, x, x)).report(shaped(n, n))
    (warning,) = (text for text in report.warnings if "275 GB" in text)
    assert re.match(r"test_report\.py:\d+ .* has a result of 275 GB, [\d,]+ times its operands: float32\[", warning)
    assert f"warning: {warning}" in " ".join(str(report).split())
    assert not optimize(lambda x, y: x @ y).report(shaped(n, n), shaped(n, n)).warnings
    assert not optimize(jnp.outer).report(shaped(n), shaped(n)).warnings  # far larger, and small


def of_first_axes(spec, platform, exported=False):
    """Estimates of dots whose lhs is not contracted on its last axis."""
    return (Estimate("reduced", 1.0),) if spec.contraction.lhs[-1] in spec.contraction.lhs_free else ()


@pytest.fixture
def first_axis(monkeypatch):
    """Dots whose lhs is not contracted on its last axis are reduced, all others stand."""
    monkeypatch.setattr(choice, "estimated", of_first_axes)
    monkeypatch.setenv("JBDOT_TUNED", "off")


X, Y = (jnp.asarray(np.random.default_rng(0).integers(-4, 5, shape), jnp.float32) for shape in ((5, 3), (3, 4)))
CASES = {
    "as it stands": (lambda x, y: x @ y, ["direct"]),
    "lhs is a transpose": (lambda x, y: x.T.T @ y, ["direct"]),
    "lhs was turned": (lambda x, y: lax.transpose(x, (1, 0)).T @ y, ["direct"]),
    "lhs turned": (lambda x, y: y.T @ x.T, ["reduced"]),
    "the result is turned": (
        lambda x, y: jnp.swapaxes(lax.dot_general(x.T, y, (((0,), (0,)), ((), ()))), 0, 1),
        ["reduced"],
    ),
    "result and rhs turned": (lambda x, y: (x @ y).T, ["reduced"]),
    "the result is read as it stands first": (lambda x, y: (lambda z: (z + 1, z.T))(x @ y), ["direct"]),
    "gradient": (jax.grad(lambda x, y: (x @ y).sum(), (0, 1)), ["direct", "direct", "reduced"]),
}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_is_lowered(name, first_axis):
    f, want = CASES[name]
    assert sorted(row.choice.lowering for row in optimize(f).report(X, Y)) == sorted(want)
    text = jax.jit(optimize(f)).lower(X, Y).compile().as_text()
    assert ("dot_general.reduced" in text) == ("reduced" in want)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(optimize(f))(X, Y), f(X, Y))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_reported(name):
    """The report of each program of the benchmarks finds its dots, and none without a line."""
    function, operands = PROGRAMS[name]()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
    report = optimize(function).report(*shapes)
    assert report.flops > 0
    assert all("recorded.py" in row.source for row in report)
