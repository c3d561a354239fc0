"""No lowering is less accurate than the bare dot: errors against a reference of more bits, and where nan and inf land.

The bare dot's own error depends on the memory order of its operands, as backends sum in another order for each. The
bound is the largest of those, for the same numbers, and one rounding of the largest result or product: a lowering may
reorder a sum, and the compiler decides whether a product is rounded before it is added.
"""

import functools

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from jbdot.one_device.choice import candidates
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS

FORMS = {  # where k stands in lhs and in rhs, after the batch axis
    "bmk,bkn->bmn": (((2,), (1,)), ((0,), (0,))),
    "bkm,bkn->bmn": (((1,), (1,)), ((0,), (0,))),
    "bmk,bnk->bmn": (((2,), (2,)), ((0,), (0,))),
    "bkm,bnk->bmn": (((1,), (2,)), ((0,), (0,))),
}
BATCH, K = 16, 64
DTYPES = ("float32", "bfloat16", "float16", "float64", "complex64")


def inputs(kind, dtype, m, n):
    """lhs (batch, m, k) and rhs (batch, n, k), in NumPy, of the dtype's precision and range."""
    draw = np.random.default_rng(0)
    info = jnp.finfo(dtype)
    x, y = draw.standard_normal((BATCH, m, K)), draw.standard_normal((BATCH, n, K))
    if dtype == "complex64":
        x, y = x + 1j * draw.standard_normal(x.shape), y + 1j * draw.standard_normal(y.shape)
    if kind == "ill-conditioned":  # terms that cancel but for a few bits
        x[..., 1::2], y[..., 1::2] = -x[..., ::2], y[..., ::2] * (1 + 64 * float(info.eps))
    elif kind == "denormal":
        x = x * float(info.tiny) / 4
    elif kind == "huge":
        x, y = np.abs(x) * float(info.max) ** 0.5 / 64, np.abs(y) * float(info.max) ** 0.5 / 64
    elif kind == "inf and nan":
        x[0, 0, 3], x[1, 0, 5], x[2, 0, 0], y[2, 0, 0], x[3, 0, 1], x[3, 0, 2] = (
            np.inf,
            np.nan,
            np.inf,
            0,
            np.inf,
            -np.inf,
        )
    return x, y


@functools.cache
def run(lowering, form, dtype, precision, m, n):
    """A compiled lowering of a form, or None where it does not fit."""
    lhs = (BATCH, K, m) if form.startswith("bk") else (BATCH, m, K)
    rhs = (BATCH, K, n) if ",bk" in form else (BATCH, n, K)
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (lhs, rhs)]
    spec = DotSpec.of(*shapes, jax.ShapeDtypeStruct((), dtype), FORMS[form], precision)
    return jax.jit(functools.partial(LOWERINGS[lowering], spec)) if lowering in candidates(spec) else None


def result(lowering, form, dtype, precision, x, y):
    function = run(lowering, form, dtype, precision, x.shape[1], y.shape[1])
    lhs = jnp.asarray(np.swapaxes(x, 1, 2) if form.startswith("bk") else x, dtype)
    rhs = jnp.asarray(np.swapaxes(y, 1, 2) if ",bk" in form else y, dtype)
    return function and np.asarray(function(lhs, rhs))


def reference(x, y, dtype):
    """The result in extended precision, of operands rounded to dtype first."""
    wide = np.clongdouble if dtype == "complex64" else np.longdouble
    x, y = (np.asarray(jnp.asarray(a, dtype)).astype(wide) for a in (x, y))
    with np.errstate(all="ignore"):
        return np.einsum("bmk,bnk->bmn", x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(6, 5), (8, 1)])
@pytest.mark.parametrize("precision", [None, lax.Precision.HIGHEST])
def test_no_lowering_is_less_accurate_than_the_bare_dot(dtype, m, n, precision, x64):
    kinds = ("random", "ill-conditioned", "denormal", "huge")
    if precision is not None and dtype != "float32":
        pytest.skip("precision is for float32")
    for kind in kinds:
        x, y = inputs(kind, dtype, m, n)
        exact = reference(x, y, dtype)

        def error(got, exact=exact):
            return float(np.max(np.abs(got.astype(exact.dtype) - exact)))

        bare = max(error(result("direct", form, dtype, precision, x, y)) for form in FORMS)
        info = jnp.finfo(dtype)
        largest = max(float(np.max(np.abs(exact))), float(np.max(np.abs(x)) * np.max(np.abs(y))))
        rounding = float(info.eps) * largest + float(info.smallest_subnormal)
        for lowering in LOWERINGS:
            got = result(lowering, "bkm,bkn->bmn", dtype, precision, x, y)
            if got is not None:
                assert error(got) <= bare + rounding, (kind, lowering, error(got), bare, rounding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(6, 5), (1, 8)])
def test_inf_and_nan_land_in_the_same_places(dtype, m, n, x64):
    x, y = inputs("inf and nan", dtype, m, n)
    bare = result("direct", "bkm,bkn->bmn", dtype, None, x, y)
    for lowering in LOWERINGS:
        got = result(lowering, "bkm,bkn->bmn", dtype, None, x, y)
        if got is not None:
            np.testing.assert_array_equal(np.isfinite(got), np.isfinite(bare), err_msg=lowering)
            if dtype != "complex64":  # there the bare dot scales its sums by 1 + 0i, and each infinity becomes nan
                np.testing.assert_array_equal(np.isnan(got), np.isnan(bare), err_msg=lowering)


def test_integers_wrap_to_the_same_bits():
    draw = np.random.default_rng(0)
    lhs, rhs = (jnp.asarray(draw.integers(-128, 128, (BATCH, 6, 64)), jnp.int8) for _ in range(2))
    for dtype in ("int8", "int32"):
        spec = DotSpec.of(lhs, rhs, jax.ShapeDtypeStruct((), dtype), FORMS["bmk,bnk->bmn"], None)
        want, *others = jax.jit(lambda x, y, r=spec: [LOWERINGS[name](r, x, y) for name in candidates(r)])(lhs, rhs)
        for name, got in zip(candidates(spec)[1:], others, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_call_twice_gives_the_same_bits(dtype):
    x, y = inputs("random", dtype, 8, 5)
    for lowering in LOWERINGS:
        first = result(lowering, "bkm,bkn->bmn", dtype, None, x, y)
        if first is not None:
            np.testing.assert_array_equal(first, result(lowering, "bkm,bkn->bmn", dtype, None, x, y), err_msg=lowering)


def test_operands_wider_than_the_result_are_multiplied_as_they_are(x64):
    x, y = jnp.array([[1 + 2.0**-30, 1.0]] * 2), jnp.array([[1.0, -1.0]] * 2)
    numbers = ((1,), (1,)), ((0,), (0,))
    spec = DotSpec.of(x, y, jax.ShapeDtypeStruct((2,), "float32"), numbers, None)
    assert {"unrolled", "reduced", "split"} <= set(candidates(spec))
    for lowering in candidates(spec):
        out = LOWERINGS[lowering](spec, x, y)
        assert out.dtype == "float32"
        assert (out == 2.0**-30).all(), lowering
