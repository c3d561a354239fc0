"""Keras 2.2.4 and its neighbours: what the conformance records do not hold."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jbdot import keras, keras_tf1

RECORDS = json.loads((Path(__file__).parent / "data" / "keras_tf115_broadcast.json").read_text())["records"]


def filled(shape, modulus, less):
    return jnp.asarray((np.arange(np.prod(shape, dtype=int)) % modulus - less).reshape(shape), "float32")


@pytest.mark.parametrize("record", RECORDS, ids=[f"{r['x']} {r['y']} {r['axes']}" for r in RECORDS])
def test_batches_broadcast_as_on_tensorflow_1_15(record):
    x, y = filled(record["x"], 7, 3), filled(record["y"], 5, 2)
    axes = tuple(record["axes"]) if isinstance(record["axes"], list) else record["axes"]
    if "error" in record:
        with pytest.raises(ValueError):
            keras_tf1.batch_dot(x, y, axes=axes)
        return
    found = keras_tf1.batch_dot(x, y, axes=axes)
    assert list(found.shape) == record["shape"]
    assert float(np.asarray(found, "float64").sum()) == record["sum"]
    if record["values"] is not None:
        np.testing.assert_array_equal(np.ravel(found), record["values"])


def test_a_broadcast_batch_has_its_gradient():
    x, y = filled((8, 4, 3), 7, 3), filled((1, 3, 2), 5, 2)
    found = jax.grad(lambda y: keras_tf1.batch_dot(x, y, axes=(2, 1)).sum())(y)
    want = np.einsum("bmk,bmn->kn", x, np.ones((8, 4, 2), "float32"))[None]
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("dialect", [keras, keras_tf1])
def test_the_layer_takes_what_every_layer_takes(dialect):
    x, y = filled((2, 4, 6), 7, 3), filled((2, 4, 6), 5, 2)
    want = dialect.batch_dot(x, y, axes=2)
    layer = dialect.layers.Dot(axes=2, name="scores", dtype="float32", trainable=False, input_shape=(4, 6))
    np.testing.assert_array_equal(layer([x, y]), want)
    np.testing.assert_array_equal(dialect.layers.dot([x, y], axes=2, name="scores"), want)
    unit = dialect.Dot(axes=2, normalize=True)([x, y])
    np.testing.assert_array_equal(dialect.layers.dot([x, y], 2, True), unit)
    np.testing.assert_array_equal(dialect.backend.batch_dot(x, y, axes=2), want)
    with pytest.raises(TypeError, match="it takes no units"):
        dialect.Dot(axes=2, units=3)
    with pytest.raises(TypeError, match="a dtype must be one that JAX knows"):
        dialect.Dot(axes=2, dtype="float17")


def test_dtype_is_what_keras_casts_to():
    x, y = filled((2, 6), 7, 3), filled((2, 6), 5, 2)
    assert keras.Dot(axes=1)([x.astype("bfloat16"), y.astype("bfloat16")]).dtype == jnp.float32
    assert keras.Dot(axes=1, dtype="bfloat16")([x, y]).dtype == jnp.bfloat16
    assert keras_tf1.Dot(axes=1, dtype="float16")([x, y]).dtype == jnp.float32


def test_merge_of_keras_1():
    """By its source, Keras 1.2.2: the cosine has an axis more, and divides by products of other rows."""
    from jbdot.keras_tf1.layers import merge

    x, y = filled((2, 4, 6), 7, 3), filled((2, 4, 6), 5, 2)
    dots = np.einsum("bmk,bnk->bmn", x, y)
    np.testing.assert_array_equal(merge([x, y], mode="dot", dot_axes=-1), dots)
    np.testing.assert_array_equal(merge([x, y], mode="dot", dot_axes=([2], [2])), dots)
    squares = np.einsum("bmk,bnk->bmn", x, x) * np.einsum("bmk,bnk->bmn", y, y)
    cosine = merge([x, y], mode="cos", dot_axes=-1, name="similarity")
    assert cosine.shape == (2, 1, 4, 4)
    with np.errstate(invalid="ignore"):
        want = dots / np.maximum(np.sqrt(squares), np.float32(1e-7))
    np.testing.assert_allclose(cosine[:, 0], want, rtol=1e-6)
    for call, said in (
        (lambda: merge([x, y]), "Of jax.numpy: x"),
        (lambda: merge([x, y], mode="dot", dot_axes=1.5), "axes must be an int or a pair of ints"),
        (lambda: merge([x, y], mode="dot", dot_axes=([1, 2], [1, 2])), "axes must be an int or a pair"),
        (lambda: merge([x], mode="dot"), "a list of two arrays"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            call()
