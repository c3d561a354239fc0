"""The path of the data: dtypes, zero sizes, entries, and accumulation no narrower than lax.dot_general's."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jbdot
from jbdot import keras, keras_tf1, tensorflow, theano
from jbdot.one_device.call_plan import OperandSteps

NUMBERS = (((1,), (0,)), ((), ()))
KINDS = [
    "float16",
    "bfloat16",
    "float32",
    "int8",
    "uint8",
    "int16",
    "int32",
    "uint32",
    "bool",
    "complex64",
    "float8_e4m3fn",
    "float8_e5m2",
]


@pytest.mark.parametrize("dtype", KINDS)
def test_dtypes_come_out_as_laxs(dtype):
    x, y = jnp.ones((2, 3), dtype), jnp.ones((3, 4), dtype)
    result = jbdot.contract("ij,jk->ik", x, y)
    want = lax.dot_general(x, y, NUMBERS)
    assert result.dtype == want.dtype
    np.testing.assert_array_equal(np.asarray(result, np.complex64), np.asarray(want, np.complex64))


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("int8", "int32"), ("float8_e4m3fn", "bfloat16")])
def test_mixed_dtypes_as_laxs(dtypes):
    x, y = (jnp.ones((2, 2), dtype) for dtype in dtypes)
    assert jbdot.contract("ij,jk->ik", x, y).dtype == lax.dot_general(x, y, NUMBERS).dtype


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float64", "int64", "complex128"])
def test_64_bits(dtype):
    x = jnp.ones((2, 3), dtype)
    assert keras_tf1.dot(x, x.T).dtype == jnp.dtype(dtype)


@pytest.mark.parametrize(
    ("x", "y", "axes", "shape"), [((0, 3, 4), (0, 4, 5), None, (0, 3, 5)), ((2, 3, 0), (2, 0, 5), None, (2, 3, 5))]
)
def test_size_zero(x, y, axes, shape):
    for door in (keras_tf1.batch_dot, keras.batch_dot):
        result = door(jnp.ones(x), jnp.ones(y), axes)
        assert result.shape == shape
        assert not result.any()


def test_scalars():
    assert jbdot.contract(",->", jnp.float32(3), jnp.float32(4)) == 12
    assert theano.dot(jnp.float32(3), jnp.ones((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_are_no_narrower_than_laxs(dtype):
    """4096 ones sum to 4096 in 32 bits; in bfloat16 they would stop at 256, in float16 at 2048."""
    x = jnp.ones((1, 4096), dtype)
    for result in (
        keras_tf1.batch_dot(x, x, 1),
        keras.batch_dot(x, x, 1),
        theano.batched_dot(x, x),
        theano.dot(x, x.T),
    ):
        assert float(result.ravel()[0]) == 4096


def test_error_against_float64_is_laxs_own():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(64, 64)).astype(np.float32) for _ in range(2))
    ours, theirs = keras_tf1.dot(x, y), lax.dot_general(x, y, NUMBERS)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("x64")
def test_a_cast_to_float64_is_a_cast():
    """`numpy.dtype("float64") == None` is True; a plan that compared dtypes with None lost this cast."""
    x, y = jnp.full((1, 1), 2**24 + 1, jnp.int32), jnp.ones((1, 1), jnp.float32)
    jaxpr = jax.make_jaxpr(theano.dot)(x, y)
    assert [equation.primitive.name for equation in jaxpr.eqns] == ["convert_element_type"] * 2 + ["dot_general"]
    assert theano.dot(x, y)[0, 0] == 2**24 + 1


def test_integers_wrap_around():
    x = jnp.full((1, 4), 100, jnp.int8)
    assert keras_tf1.batch_dot(x, x, 1)[0, 0] == np.int8(np.int64(40000).astype(np.int8))


def test_adjoint_conjugates_and_transpose_does_not():
    x = jnp.asarray([[1 + 2j, 3 - 1j], [0 + 1j, 2 + 2j]], jnp.complex64)
    np.testing.assert_array_equal(tensorflow.matmul(x, x, adjoint_a=True), np.conj(x).T @ x)
    np.testing.assert_array_equal(tensorflow.matmul(x, x, transpose_b=True), x @ x.T)


def test_diagonals_and_sums_of_one_operand():
    x, y = np.arange(18.0, dtype=np.float32).reshape(2, 3, 3), np.arange(12.0, dtype=np.float32).reshape(3, 4)
    for equation in ("bii,ij->bj", "bii,ij->", "bij,jk->k", "bij,kk->b"):
        right = y[:, :3] if "kk" in equation else y
        np.testing.assert_array_equal(tensorflow.einsum(equation, x, right), np.einsum(equation, x, right))


def test_diagonal_keeps_infinities_to_themselves():
    x = jnp.asarray([[1.0, jnp.inf], [jnp.nan, 2.0]])
    np.testing.assert_array_equal(tensorflow.einsum("ii,ij->ij", x, jnp.ones((2, 2))), [[1, 1], [2, 2]])


def test_flattened_sizes_that_agree_are_multiplied_flat():
    x, y = np.arange(36.0, dtype=np.float32).reshape(3, 2, 6), np.arange(60.0, dtype=np.float32).reshape(3, 4, 5)
    for door in (tensorflow.tensordot, theano.tensordot):
        np.testing.assert_array_equal(door(x, y, 2), x.reshape(3, 12) @ y.reshape(12, 5))


def test_normalized_dot_is_the_cosine():
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
    want = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    for layer in (keras_tf1.Dot(1, normalize=True), keras.Dot(-1, normalize=True)):
        np.testing.assert_allclose(layer([x, y])[:, 0], want, rtol=1e-5)
    assert not keras.Dot(1, normalize=True)([jnp.zeros((2, 3)), jnp.zeros((2, 3))]).any()


def test_entry_steps_are_said():
    entry = OperandSteps(dtype=jnp.float32, conjugate=True, normalize=1, stretch=(2, 3), fold=((0, 1),))
    assert len(entry.steps()) == 5
    assert entry.shape((2, 1)) == (6,)
    assert OperandSteps().steps() == []


def test_result_is_checked_against_the_promise(monkeypatch):
    """The promise of shape and dtype is stated by chex, on every plan that runs."""
    planned = jbdot.calls.front_door.plan(jbdot.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
    monkeypatch.setattr("jbdot.one_device.call_plan._promise", lambda *_: ((9, 9), jnp.dtype("float32")))
    with pytest.raises(AssertionError, match="Chex"):
        jax.make_jaxpr(planned.run)(jnp.ones((2, 3)), jnp.ones((3, 4)))


def test_an_axis_that_a_boolean_operand_alone_has_is_reduced_by_any():
    lhs, rhs = jnp.array([[True, True], [False, False]]), jnp.array([True, False])
    out = jbdot.contract("a b, c -> a c", lhs, rhs)
    assert out.dtype == bool
    np.testing.assert_array_equal(out, [[True, False], [False, False]])
