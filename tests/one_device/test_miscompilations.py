"""What XLA's CPU compiler gets wrong in some versions of jaxlib: said, and kept clear of."""

import functools
import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jbdot
from jbdot.command import doctor
from jbdot.one_device import miscompilations
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS


def test_each_is_said_until_it_is_fixed():
    versions = {(0, 10, 2): 5, (0, 11, 0): 4, (0, 11, 1): 2, (0, 12, 0, 1): 2}
    assert {version: len(miscompilations.here(version)) for version in versions} == versions
    assert (len(miscompilations.here()) > 2) != miscompilations.RIGHT_SUMS


def test_doctor_names_them(monkeypatch):
    monkeypatch.setattr(miscompilations, "here", lambda: miscompilations.KNOWN)
    said = [text for name, text in doctor.found() if name == "known miscompilation"]
    assert "(jax#39103; right from jaxlib 0.11.0)" in said[0]
    assert "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=" in said[1]
    assert "on a GPU, dots of int8 matrices to int32 over an odd size" in said[-1]
    assert "H100, jaxlib 0.11.2" in said[-1]


@pytest.mark.parametrize("lowering", ["auto", "reduced"])
def test_a_sum_over_the_first_axis_is_right(lowering):
    """Three quarters of the elements were wrong on jaxlib 0.10.2, on some CPUs."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(128, 8)).astype("f"), draw.normal(size=(8, 16, 128, 64)).astype("f")
    out = jbdot.contract("t e, e b t d -> b t d", x, y, lowering=lowering)
    np.testing.assert_allclose(out[15, 127, 63], 6.3511611, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(out, "float64").sum(), 342.1123, rtol=1e-4)
    np.testing.assert_allclose(out, np.einsum("te,ebtd->btd", x, y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lowering", ["auto", "reduced"])
def test_a_sum_of_high_rank_is_right(lowering):
    """It ended the process on jaxlib 0.10.2 and 0.11.0."""
    sizes = {"a": 6, "b": 32, "c": 4, "d": 2, "e": 4, "f": 32, "g": 6}
    x, y = (jnp.ones([sizes[label] for label in labels]) for labels in ("bcdeag", "fcegdab"))
    contract = functools.partial(jbdot.contract, "b c d e a g, f c e g d a b -> f a d e c b", lowering=lowering)
    out = jax.jit(contract)(x, y)
    assert out.shape == (32, 6, 2, 4, 4, 32)
    assert (out == 6).all()


# Found by the fuzzer: rank 8 hung on jaxlib 0.10.2 and was wrong on 0.11.0; the other was wrong on 0.10.2.
@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        ("yuzp,vonbp->yzunovb", {"p": 9, "y": 1, "z": 4, "u": 9, "n": 1, "o": 3, "v": 2, "b": 13}),
        ("hyig,ogxkt->ohxykti", {"g": 4, "y": 3, "i": 16, "h": 17, "x": 1, "k": 1, "o": 3, "t": 2}),
    ],
)
def test_what_the_fuzzer_found_is_right(labels, sizes):
    draw = np.random.default_rng(0)
    operands = labels.split("->")[0].split(",")
    x, y = (draw.integers(-2, 3, [sizes[label] for label in side]) for side in operands)
    want = np.einsum(labels, x, y)
    contract = functools.partial(jbdot.contract, labels, preferred_element_type="float32", lowering="reduced")
    for dtype in ("bfloat16", "float16"):
        np.testing.assert_array_equal(contract(jnp.asarray(x, dtype), jnp.asarray(y, dtype)), want)


@pytest.mark.skipif(miscompilations.RIGHT_SUMS, reason="the library is right")
@pytest.mark.parametrize("lowering", ["reduced", "split"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_sum_of_ours_is_given_to_a_library_that_is_wrong(lowering, dtype):
    numbers = ((2,), (2,)), ((0,), (0,))
    lhs, rhs = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((8, 64, 512), (8, 32, 512)))
    spec = DotSpec.of(lhs, rhs, jax.ShapeDtypeStruct((), dtype), numbers, None)
    text = jax.jit(functools.partial(LOWERINGS[lowering], spec)).lower(lhs, rhs).compile().as_text()
    for name in re.findall(r"calls=(%[\w.]+).*__ynn_fusion", text):  # dots it gets right
        body = text.partition(f"{name} (")[2].partition("\n}")[0]
        assert body
        assert " reduce(" not in body


@pytest.mark.parametrize("lowering", ["pinned", "widened", "shifted"])
def test_a_pinned_result_that_is_transposed_ends_no_process(lowering):
    """Two such dots ended the process on jaxlib 0.10.2 and 0.11.0, whose compiler turned them around after all."""
    dtype, out = {
        "pinned": ("int8", "int8"),
        "widened": ("float8_e4m3fn", "float32"),
        "shifted": ("uint8", "int32"),
    }[lowering]
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 3, (8, 2, 64)), draw.integers(0, 3, (8, 8, 2))

    @jax.jit
    def turned(x, y):
        dots = [
            jbdot.contract(text, x, y, preferred_element_type=out, lowering=lowering)
            for text in ("k b m, k n b -> n m b", "k b m, k n b -> n m b", "k b m, n k b -> b m n")
        ]
        return [jnp.transpose(dot, turn) for dot in dots for turn in ((2, 0, 1), (2, 1, 0), (0, 2, 1))]

    wanted = [np.einsum(text, x, y) for text in ("kbm,knb->nmb", "kbm,knb->nmb", "kbm,nkb->bmn")]
    wanted = [dot.transpose(turn) for dot in wanted for turn in ((2, 0, 1), (2, 1, 0), (0, 2, 1))]
    for dot, want in zip(turned(jnp.asarray(x, dtype), jnp.asarray(y, dtype)), wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(dot, "int64"), want)


def test_two_pinned_dots_with_turned_results_compile():
    x, y = jnp.ones((8, 2, 64), "int8"), jnp.ones((8, 8, 2), "int8")

    @jax.jit
    def turned(pairs):
        contract = functools.partial(jbdot.contract, "k b m, k n b -> n m b", lowering="pinned")
        return [jnp.transpose(contract(x, y), (2, 0, 1)) for x, y in pairs]

    for out in turned([(x, y), (x + x, y)]):
        assert out.shape == (2, 8, 64)
        assert int(out[0, 0, 0]) in (8, 16)
