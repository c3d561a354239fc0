"""The lowering "blas": where jbdot-native is installed, and what is said where it is not."""

import jax
import numpy as np
import pytest
from jax import export, lax
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P
from meshes import mesh

import jbdot
from jbdot.command import doctor
from jbdot.one_device import native
from jbdot.one_device.choice import candidates, chosen, misfit
from jbdot.one_device.dot_spec import DotSpec

installed = pytest.mark.skipif(
    native.package() is None or bool(native.package().problem()),
    reason="jbdot-native is not installed, or of no use: `pip install ./native`",
)
TARGET = "jbdot_native_dot"
X, Y = (jnp.asarray(np.random.default_rng(0).integers(-3, 4, (8, 5, 6)), "float32") for _ in range(2))
NUMBERS = (((1,), (1,)), ((0,), (0,)))


def spec(dtype="float32", out=None):
    x = jax.ShapeDtypeStruct((8, 5, 6), dtype)
    return DotSpec.of(x, x, jax.ShapeDtypeStruct((), out or dtype), NUMBERS, None)


def test_without_the_package_nothing_fits_and_it_is_said(monkeypatch):
    monkeypatch.setattr(native, "package", lambda: None)
    assert "blas" not in candidates(spec())
    with pytest.raises(ValueError, match=r"it needs operands .* the package jbdot-native: `pip install ./native`"):
        jbdot.contract("b k m, b k n -> b m n", X, Y, lowering="blas")
    assert chosen(spec(), "cpu", "blas").lowering != "blas"
    assert native.text() in dict(doctor.found()).values()
    assert "not installed" in native.text()


def test_a_library_that_is_of_no_use_is_said_to_be(monkeypatch):
    class Broken:
        problem = staticmethod(lambda: "AttributeError: no OpenBLAS")

    monkeypatch.setattr(native, "package", lambda: Broken)
    assert native.text() == "installed, but of no use: AttributeError: no OpenBLAS"


@installed
def test_which_dtypes_it_takes(x64):
    assert native.text() == 'lowering "blas" on CPUs'
    for dtype in ("float32", "float64", "complex64", "complex128"):
        assert "blas" in candidates(spec(dtype))
    for dtype, out in (("bfloat16", None), ("int8", "int32"), ("float32", "float64")):
        assert misfit(spec(dtype, out), "blas") == native.NEEDS


@installed
def test_it_is_never_chosen_but_where_it_was_timed():
    assert all(chosen(spec(), "cpu", name).lowering != "blas" for name in ("auto", "direct"))
    (found,) = jbdot.tune("b k m, b k n -> b m n", X, Y, seconds=0.001)
    assert "blas" in {timing.lowering for timing in found.timings}


@installed
def test_other_platforms_and_exports_leave_it_out():
    assert chosen(spec(), "cpu", "blas").lowering == "blas"
    assert chosen(spec(), "tpu", "blas").lowering == "direct"
    assert chosen(spec(), "cpu", "blas", exported=True).why == "as jax.export refuses calls of libraries not JAX's own"
    f = jax.jit(jbdot.optimize(lambda x, y: lax.dot_general(x, y, NUMBERS), lowering="blas"))
    assert TARGET not in export.export(f)(X, Y).mlir_module()


def product(x, y):
    return lax.dot_general(x, y, NUMBERS)


def scanned(x, y):
    return lax.scan(lambda total, _: (total + product(x, y), None), jnp.zeros((8, 6, 6)), length=2)[0]


def sharded(x, y):
    return jax.shard_map(product, mesh=mesh((4,), "x"), in_specs=P("x"), out_specs=P("x"))(x, y)


@installed
@pytest.mark.parametrize(
    "function",
    [
        product,
        jax.grad(lambda x, y: jnp.sum(product(x, y) ** 2), argnums=(0, 1)),
        lambda x, y: jax.vmap(product, (None, 0))(x, jnp.stack([y, 2 * y])),
        scanned,
        sharded,
        lambda x, y: jax.checkpoint(product)(x, y),
    ],
    ids=["jit", "grad", "vmap", "scan", "shard_map", "checkpoint"],
)
def test_it_goes_through_transformations(function):
    """Whole numbers: equal to the bit."""
    text = jax.jit(jbdot.optimize(function, lowering="blas")).lower(X, Y).as_text()
    assert TARGET in text
    assert "stablehlo.dot_general" not in text
    got, want = jax.jit(jbdot.optimize(function, lowering="blas"))(X, Y), jax.jit(function)(X, Y)
    jax.tree.map(np.testing.assert_array_equal, got, want)
