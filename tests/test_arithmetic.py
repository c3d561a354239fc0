"""What explain says of the arithmetic: by backend, dtype, precision and lowering."""

import jax
import pytest
from jax import lax

from jbdot.arithmetic import arithmetic
from jbdot.request import Request, known_precision


def ask(dtype, precision=None, out=None):
    x = jax.ShapeDtypeStruct((4, 4), dtype)
    return Request.of(x, x, jax.ShapeDtypeStruct((), out or dtype), (((1,), (0,)), ((), ())), precision)


@pytest.mark.parametrize(
    ("request_", "backend", "words"),
    [
        (ask("float32"), "tpu", "1 pass of bfloat16 products"),
        (ask("float32", "high"), "tpu", "3 passes of bfloat16 products"),
        (ask("float32", ("highest", "highest")), "tpu", "6 passes of bfloat16 products"),
        (ask("float32", ("highest", "default")), "tpu", "1 pass of bfloat16 products"),
        (ask("float32"), "gpu", "TF32"),
        (ask("float32", "highest"), "gpu", "products and sums in float32"),
        (ask("float32"), "cpu", "products and sums in float32"),
        (ask("bfloat16"), "cpu", "summed in float32, rounded once to bfloat16"),
        (ask("int8", out="int32"), "gpu", "exact, as far as int32 holds"),
        (ask("float32", lax.DotAlgorithmPreset.BF16_BF16_F32_X3), "tpu", "the algorithm that is named"),
        (ask("float64"), "gpu", "products and sums in float64"),
    ],
)
def test_says_what_is_done(request_, backend, words, x64):
    assert words in arithmetic(request_, backend)


def test_a_sum_of_products_needs_no_matrix_unit():
    assert "products and sums in float32, without matrix units" in arithmetic(ask("float32"), "tpu", "unrolled")


def test_precision_is_read_as_jax_reads_it():
    assert known_precision("highest") == lax.Precision.HIGHEST
    assert known_precision(["default", None]) == (lax.Precision.DEFAULT, None)
    assert known_precision("BF16_BF16_F32") == lax.DotAlgorithmPreset.BF16_BF16_F32
    with jax.default_matmul_precision("high"):
        assert known_precision(None) == lax.Precision.HIGH
    with pytest.raises(ValueError, match="precision must be one that JAX knows: 'exact'"):
        known_precision("exact")
