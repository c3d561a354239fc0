"""Every lowering gives lax.dot_general's result: exactly on integers, in shape and dtype always."""

import functools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax import numpy as jnp

import jbdot
from jbdot.core.contraction import Contraction
from jbdot.one_device.choice import candidates, misfit
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import EVEN, LOWERINGS
from jbdot.one_device.measure import platform
from jbdot.one_device.miscompilations import RIGHT_PINS

RNG = np.random.default_rng(0)
CASES = (
    "bmk,bkn->bmn",
    "bkm,bkn->bmn",
    "bkm,bnk->bmn",
    "kmb,nkb->bmn",
    "bmcd,cbdn->bmn",
    "bk,bkn->bn",
    "bmk,bk->bm",
    "bk,bk->b",
    "mk,kn->mn",
    "k,k->",
    "bm,bn->bmn",
    "bqhd,bkhd->bhqk",
    "hd,skhd->hsk",
)
SIZES = dict(zip("bmknqhdcs", (32, 3, 4, 5, 3, 2, 4, 2, 3), strict=True))
DTYPES = (
    ("float32", None),
    ("bfloat16", None),
    ("float16", "float32"),
    ("int8", "int32"),
    ("int8", None),
    ("uint8", "uint32"),
    ("uint8", None),
    ("float8_e4m3fn", "float32"),
    ("float8_e5m2", None),
    ("complex64", None),
    ("float32", "float64"),
)


def ask(labels, dtype, out=None, precision=None, sizes=SIZES):
    """A request for a contraction, and integer-valued operands."""
    c = Contraction.parse(labels)
    low, high = (0, 200) if dtype == "uint8" else (-3, 4)
    lhs, rhs = (
        jnp.asarray(RNG.integers(low, high, [sizes[label] for label in side]), dtype) for side in (c.lhs, c.rhs)
    )
    result = jax.ShapeDtypeStruct((), out or dtype)
    return DotSpec.of(lhs, rhs, result, c.dimension_numbers, precision), lhs, rhs


def check(spec, lhs, rhs):
    """Compiles all that can carry the dot out as one program, and compares."""
    names = [name for name in candidates(spec) if LOWERINGS[name].is_trusted(spec, platform())]
    want, *others = jax.jit(lambda x, y: [LOWERINGS[name](spec, x, y) for name in names])(lhs, rhs)
    for name, got in zip(names[1:], others, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("labels", CASES)
def test_equals_lax_dot_general(labels):
    check(*ask(labels, "int32"))


@pytest.mark.parametrize("labels", ["bkm,bnk->bmn", "bmk,bk->bm"])
@pytest.mark.parametrize(("dtype", "out"), DTYPES)
def test_equals_lax_dot_general_in_every_dtype(labels, dtype, out, x64):
    spec, lhs, rhs = ask(labels, dtype, out)
    assert spec.dtype == lax.dot_general(lhs, rhs, spec.dimension_numbers, None, out).dtype.name
    check(spec, lhs, rhs)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_equals_lax_dot_general_whatever_the_axes(data):
    """Any order of up to two batch, contracting and free axes on each side."""
    count = st.integers(0, 2)
    groups = [pool[: data.draw(count)] for pool in ("bc", "kr", "mi", "nu")]
    batch, contracting, left, right = groups
    lhs = "".join(data.draw(st.permutations(batch + contracting + left)))
    rhs = "".join(data.draw(st.permutations(batch + contracting + right)))
    sizes = {label: data.draw(st.integers(1, 4)) for label in "bckrminu"}
    spec, x, y = ask(f"{lhs},{rhs}->{batch}{left}{right}", "int32", sizes=sizes)
    check(spec, x, y)


def test_a_loop_over_a_batch_that_no_block_divides():
    check(*ask("bmk,bkn->bmn", "int32", sizes=SIZES | {"b": 97}))


@pytest.mark.parametrize("k", [3, 33])
@pytest.mark.parametrize("labels", CASES)
def test_an_odd_contracted_size_is_padded_to_the_same_sum(labels, k):
    spec, lhs, rhs = ask(labels, "int8", "int32", sizes=SIZES | {"b": 2, "k": k, "c": 3, "d": k})
    if spec.k == 1 or spec.k % 2 == 0:
        assert "needs int8 operands and an odd contracted size" in misfit(spec, "evened")
        return
    jaxpr = jax.make_jaxpr(functools.partial(LOWERINGS["evened"], spec))(lhs, rhs)
    (dot,) = (equation for equation in jaxpr.eqns if equation.primitive is lax.dot_general_p)
    assert math.prod(dot.invars[0].aval.shape[axis] for axis in spec.dimension_numbers[0][0]) % EVEN == 0
    got = jax.jit(functools.partial(LOWERINGS["evened"], spec))(lhs, rhs)
    want = np.einsum(spec.contraction.einsum, np.asarray(lhs, "int64"), np.asarray(rhs, "int64"))
    np.testing.assert_array_equal(got, want)


def test_8_bit_floats_are_rounded_once():
    """273 lies nearer to 288 than to 256: rounded to bfloat16 first it is 272, and would go to 256."""
    x, y = jnp.full((8, 39), 7, "float8_e4m3fn"), jnp.ones((39, 8), "float8_e4m3fn")
    out = jbdot.contract("m k, k n -> m n", x, y, lowering="widened")
    assert out.dtype == "float8_e4m3fn"
    assert np.all(out.astype("float32") == 288)


@pytest.mark.parametrize(("dtype", "out"), [("float32", "int32"), ("bfloat16", "int32"), ("complex64", "float32")])
@pytest.mark.parametrize("labels", ["bmk,bkn->bmn", "bk,bk->b"])
def test_a_sum_of_another_kind_is_cut_at_the_end(labels, dtype, out):
    """1.5 * 1.5 four times is 9, cut first 4; the real part of (1 + 2i) * (1 + 2i) four times is -12, cut first 4."""
    spec, lhs, rhs = ask(labels, dtype, out, sizes={"b": 1 << 14, "m": 4, "n": 4, "k": 4})
    lhs, rhs = (jnp.full_like(x, 1 + 2j if "complex" in dtype else 1.5) for x in (lhs, rhs))
    assert candidates(spec) == ["direct"]
    found = jbdot.contract(labels, lhs, rhs, preferred_element_type=out)
    assert found.dtype == out
    assert np.all(found == (-12 if "complex" in dtype else 9))


INTEGERS = (
    *(
        ("int8", "int8"),
        ("int8", "int16"),
        ("int8", "int32"),
        ("int8", "uint32"),
        ("uint8", "uint8"),
        ("uint8", "int32"),
    ),
    *(("int16", "int16"), ("int16", "int32"), ("uint16", "uint16"), ("uint32", "uint32"), ("bool", "bool")),
)


@pytest.mark.parametrize(("dtype", "out"), INTEGERS)
@pytest.mark.parametrize("labels", ["bmk,bkn->bmn", "km,nk->mn", "bk,bk->b"])
def test_integers_of_any_width_wrap_alike(labels, dtype, out):
    """Full range, so that sums and products wrap; NumPy's in the result's own width."""
    sizes = {"b": 2, "m": 3, "n": 4, "k": 40}
    lhs_labels, rhs_labels = labels.split("->")[0].split(",")
    rng = np.random.default_rng(0)

    def draw(of):
        shape = [sizes[label] for label in of]
        if dtype == "bool":
            return rng.random(shape) < 0.1
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)

    x, y = draw(lhs_labels), draw(rhs_labels)
    spec, *_ = ask(labels, dtype, out, sizes=sizes)
    got = jax.jit(functools.partial(LOWERINGS["wrapped"], spec))(x, y)
    wide = np.einsum(labels, x.astype("int64"), y.astype("int64"))
    assert got.dtype == out
    np.testing.assert_array_equal(got, wide > 0 if out == "bool" else wide.astype(out))
    np.testing.assert_array_equal(got, LOWERINGS["direct"](spec, jnp.asarray(x), jnp.asarray(y)))


def test_what_a_lowering_needs():
    matrices, *_ = ask("mk,kn->mn", "float32")
    found = [name for name in candidates(matrices) if name != "blas"]  # where jbdot-native is installed
    assert found == ["direct", "swapped", "pinned", "reduced", "unrolled", "split"]
    assert "free axis on both" in misfit(ask("mk,k->m", "float32")[0], "swapped")
    assert "needs numbers" in misfit(ask("mk,kn->mn", "bool")[0], "reduced")
    assert candidates(ask("mk,kn->mn", "bool")[0]) == ["direct", "wrapped"]
    assert "at most 32 bits" in misfit(
        DotSpec((2, 3), (3, 2), *("int64",) * 2, (((1,), (0,)), ((), ())), "int64"), "wrapped"
    )
    assert "vector" in misfit(matrices, "padded")
    assert "batch" in misfit(matrices, "looped")
    odd, *_ = ask("mk,kn->mn", "float32", sizes=SIZES | {"k": 65})
    assert "at most 64" in misfit(odd, "unrolled")
    assert "multiple of 2" in misfit(odd, "split")
    unlike = (
        ask("mk,kn->mn", "float32", "bool"),
        ask("mk,kn->mn", "float32", sizes=SIZES | {"m": 0}),
    )
    for spec, *_ in unlike:
        assert candidates(spec) == ["direct"]
    named, *_ = ask("mk,kn->mn", "bfloat16", precision=lax.DotAlgorithmPreset.BF16_BF16_F32)
    assert candidates(named) == ["direct"]


def test_layouts_are_pinned_of_the_result_and_of_operands_that_have_to_move():
    for labels, pins in {"bmk,bkn->bmn": 1, "bmk,bnk->bmn": 1, "bkm,bkn->bmn": 2, "kmb,nkb->bmn": 3}.items():
        spec, lhs, rhs = ask(labels, "float32")
        jaxpr = str(jax.make_jaxpr(lambda x, y, r=spec: LOWERINGS["pinned"](r, x, y))(lhs, rhs))
        assert jaxpr.count("layout_constraint[") == pins - (not RIGHT_PINS)  # a batched result, where XLA is wrong


@pytest.mark.parametrize("name", [name for name in LOWERINGS if name in ("pinned", "looped", "reduced", "unrolled")])
def test_no_lowering_sums_in_fewer_bits(name):
    """1 + 2^-11 + 2^-11 in halves: 1 if each step is rounded, more if the sum is held in 32 bits."""
    sizes = SIZES | {"k": 3, "m": 1, "n": 1}
    spec, lhs, rhs = ask("bmk,bkn->bmn", "float16", sizes=sizes)
    row = jnp.asarray([1, 2**-11, 2**-11], "float16")
    lhs, rhs = jnp.broadcast_to(row, lhs.shape), jnp.ones_like(rhs)
    assert (jax.jit(functools.partial(LOWERINGS[name], spec))(lhs, rhs) > 1).all()
