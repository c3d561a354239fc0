"""A capsule network as code written for Keras 2.2.4 has it.

Every contraction in it is a `jbdot.keras_tf1` call; those of the capsule layer are of the kind that
no later Keras reads the same way. Training needs optax, the digits scikit-learn: the extra `demo`.

Source: S. Sabour, N. Frosst and G. E. Hinton, "Dynamic routing between capsules", 2017.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from jbdot import keras_tf1

Params = dict[str, jax.Array]
BatchDot = Callable[[Any, Any, list[int]], jax.Array]
Step = Callable[[Params, Any, jax.Array, jax.Array, jax.Array], tuple[Params, Any, jax.Array, jax.Array]]

SIDE, CLASSES = 8, 10  # of the digits: pixels, and how many kinds
FILTERS, CHANNELS, PRIMARY_SIZE, CAPSULE_SIZE, HIDDEN = 64, 6, 8, 16, 128  # of the network
PRIMARY: Final = CHANNELS * (SIDE - 4) ** 2  # capsules left by two 3 x 3 convolutions
BATCH, LEARNING_RATE = 32, 2e-3
RECONSTRUCTION: Final = 2.0  # weight of the mean squared error; the paper's 0.4 leaves 64 pixels blurred
EPSILON: Final = 1e-7  # keras.backend.epsilon()


class Digits(NamedTuple):
    """Scans of digits: images (n, 8, 8) with ink from 0 to 1, and labels (n,)."""

    images: jax.Array
    labels: jax.Array


class Epoch(NamedTuple):
    """What one pass over the training digits came to: mean loss, share of right answers, time since the start."""

    number: int
    loss: float
    train_accuracy: float
    held_out_accuracy: float
    seconds: float


def squash(vectors: jax.Array) -> jax.Array:
    """Shrinks each vector to a length below 1: `v |v|^2 / (1 + |v|^2) / |v|`, along the last axis."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * squared / (1 + squared) / jnp.sqrt(squared + EPSILON)


def predictions(inputs: jax.Array, weights: jax.Array, batch_dot: BatchDot = keras_tf1.batch_dot) -> jax.Array:
    """Predicts each output capsule from each input capsule: `u_hat[b,o,i,e] = sum_d inputs[b,i,d] * weights[o,i,e,d]`.

    From inputs (batch, n_in, d_in) and weights (n_out, n_in, d_out, d_in) to (batch, n_out, n_in, d_out).
    """
    # Keras 2.2.4: K.tile(K.expand_dims(inputs, 1), [1, n_out, 1, 1])
    tiled = jnp.tile(inputs[:, None], (1, weights.shape[0], 1, 1))
    # Keras 2.2.4: K.map_fn(lambda x: K.batch_dot(x, W, [2, 3]), elems=tiled)
    return jax.vmap(lambda x: batch_dot(x, weights, [2, 3]))(tiled)


def route(
    u_hat: jax.Array, routings: int = 3, batch_dot: BatchDot = keras_tf1.batch_dot
) -> tuple[jax.Array, jax.Array]:
    """Routes predictions to the output capsules that they agree with.

    Each time `c = softmax_o(b)`, `o[b,o,e] = squash(sum_i c[b,o,i] * u_hat[b,o,i,e])`, and then
    `b[b,o,i] += sum_e o[b,o,e] * u_hat[b,o,i,e]`. As in the Keras layer, gradients flow through
    every routing; none is stopped.

    Args:
        u_hat: Predictions (batch, n_out, n_in, d_out).
        routings: How many times, 1 or more.
        batch_dot: Whose `batch_dot` to call.

    Returns:
        The output capsules (batch, n_out, d_out), and the coupling coefficients c that made
        them (batch, n_out, n_in), which sum to 1 over n_out.
    """
    b = jnp.zeros(u_hat.shape[:3], u_hat.dtype)
    c = jax.nn.softmax(b, axis=1)
    o = squash(batch_dot(c, u_hat, [2, 2]))  # Keras 2.2.4: squash(K.batch_dot(c, u_hat, [2, 2]))
    for _ in range(routings - 1):
        b += batch_dot(o, u_hat, [2, 3])  # Keras 2.2.4: b += K.batch_dot(o, u_hat, [2, 3])
        c = jax.nn.softmax(b, axis=1)
        o = squash(batch_dot(c, u_hat, [2, 2]))
    return o, c


def capsule_layer(
    inputs: jax.Array, weights: jax.Array, routings: int = 3, batch_dot: BatchDot = keras_tf1.batch_dot
) -> jax.Array:
    """Makes output capsules (batch, n_out, d_out) of input capsules (batch, n_in, d_in): `route(predictions(...))`."""
    return route(predictions(inputs, weights, batch_dot), routings, batch_dot)[0]


def init(seed: int) -> Params:
    """Draws the network's weights: normal with variance 2 / fan-in, Glorot's for the capsules; biases 0."""
    shapes = {
        "conv": (9, FILTERS),
        "primary": (9 * FILTERS, CHANNELS * PRIMARY_SIZE),
        "capsules": (CLASSES, PRIMARY, CAPSULE_SIZE, PRIMARY_SIZE),
        "hidden": (CLASSES * CAPSULE_SIZE, HIDDEN),
        "pixels": (HIDDEN, SIDE * SIDE),
    }
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    variance = {
        name: 2 / (PRIMARY_SIZE + CAPSULE_SIZE) if name == "capsules" else 2 / shape[0]
        for name, shape in shapes.items()
    }
    weights = {
        name: jax.random.normal(key, shapes[name], jnp.float32) * variance[name] ** 0.5
        for name, key in zip(shapes, keys, strict=True)
    }
    return weights | {
        f"{name}_bias": jnp.zeros(shape[-1], jnp.float32) for name, shape in shapes.items() if name != "capsules"
    }


def convolve(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Convolves (batch, height, width, channels) with 3 x 3 x channels, flat in kernel (9 * channels, filters).

    `out[b,i,j,f] = bias[f] + sum_uvc images[b,i+u,j+v,c] * kernel[uvc,f]`
    """
    height, width = images.shape[1] - 2, images.shape[2] - 2
    patches = jnp.concatenate([images[:, u : u + height, v : v + width] for u in range(3) for v in range(3)], axis=-1)
    return keras_tf1.dot(patches, kernel) + bias


def encode(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads images (batch, 8, 8): the digit capsules (batch, 10, 16) and their couplings (batch, 10, n_in)."""
    features = jax.nn.relu(convolve(images[..., None], params["conv"], params["conv_bias"]))
    primary = convolve(features, params["primary"], params["primary_bias"]).reshape(len(images), PRIMARY, PRIMARY_SIZE)
    return route(predictions(squash(primary), params["capsules"]))


def lengths(capsules: jax.Array) -> jax.Array:
    """Measures capsules, from 0 to 1: how surely each one's digit is there. (batch, 10, 16) gives (batch, 10)."""
    return jnp.sqrt(jnp.sum(capsules**2, axis=-1) + EPSILON)


def decode(params: Params, capsules: jax.Array, labels: jax.Array) -> jax.Array:
    """Draws images (batch, 8, 8) from the capsules (batch, 10, 16) of the labels (batch,), the others masked."""
    masked = (capsules * jax.nn.one_hot(labels, CLASSES, dtype=capsules.dtype)[..., None]).reshape(len(capsules), -1)
    hidden = jax.nn.relu(keras_tf1.dot(masked, params["hidden"]) + params["hidden_bias"])
    return jax.nn.sigmoid(keras_tf1.dot(hidden, params["pixels"]) + params["pixels_bias"]).reshape(-1, SIDE, SIDE)


def loss(params: Params, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Averages the margin loss and the weighted error of the redrawn images over the batch; and the share right.

    `sum_o T[o] max(0, 0.9 - |v[o]|)^2 + 0.5 (1 - T[o]) max(0, |v[o]| - 0.1)^2`, T one-hot labels.
    """
    capsules, _ = encode(params, images)
    present, length = jax.nn.one_hot(labels, CLASSES, dtype=capsules.dtype), lengths(capsules)
    margin = present * jax.nn.relu(0.9 - length) ** 2 + 0.5 * (1 - present) * jax.nn.relu(length - 0.1) ** 2
    error = jnp.mean((decode(params, capsules, labels) - images) ** 2)
    return jnp.mean(jnp.sum(margin, axis=-1)) + RECONSTRUCTION * error, jnp.mean(jnp.argmax(length, axis=-1) == labels)


def shifted(images: jax.Array, key: jax.Array) -> jax.Array:
    """Moves each image (batch, 8, 8) by -1, 0 or 1 pixel down and across, with no ink coming in."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1)))
    starts = jax.random.randint(key, (len(images), 2), 0, 3)
    return jax.vmap(lambda image, start: jax.lax.dynamic_slice(image, start, (SIDE, SIDE)))(padded, starts)


def make_step(optimizer: Any) -> Step:
    """Compiles one step of training: (params, state, images, labels, key) to (params, state, loss, accuracy)."""
    (optax,) = need("optax")

    @jax.jit
    def step(
        params: Params, state: Any, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[Params, Any, jax.Array, jax.Array]:
        (value, accuracy), grads = jax.value_and_grad(loss, has_aux=True)(params, shifted(images, key), labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value, accuracy

    return step


def load_digits() -> tuple[Digits, Digits]:
    """Loads scikit-learn's 1,797 handwritten digits, and holds out a fifth: always the same, all classes alike."""
    datasets, selection = need("sklearn.datasets", "sklearn.model_selection")
    scans = datasets.load_digits()
    images, labels = scans.images / 16, scans.target
    kept, held_out = selection.train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, test = (
        Digits(jnp.asarray(images[i], jnp.float32), jnp.asarray(labels[i], jnp.int32)) for i in (kept, held_out)
    )
    return train, test


@jax.jit
def accuracy(params: Params, digits: Digits) -> jax.Array:
    """Returns the share of digits whose own capsule is the longest."""
    lengths_of = jax.lax.map(lambda image: lengths(encode(params, image[None])[0])[0], digits.images, batch_size=BATCH)
    return jnp.mean(jnp.argmax(lengths_of, axis=-1) == digits.labels)


def train(
    digits: Digits, held_out: Digits, epochs: int, seed: int, advance: Callable[[Epoch | None], None]
) -> tuple[Params, list[Epoch]]:
    """Trains by Adam with a cosine schedule: the weights after the last epoch, and the epochs.

    What is held out is measured each epoch and steers nothing. An epoch leaves out what its last
    full batch left over. `advance` is called after each step, with the last finished epoch.
    """
    (optax,) = need("optax")
    steps = len(digits.labels) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, epochs * steps))
    params, step, history, start = init(seed), make_step(optimizer), list[Epoch](), time.perf_counter()
    state = optimizer.init(params)
    for number in range(1, epochs + 1):
        order, *keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), steps + 1)
        batches = jax.random.permutation(order, len(digits.labels))[: steps * BATCH].reshape(steps, BATCH)
        measured: list[tuple[jax.Array, jax.Array]] = []
        for batch, key in zip(batches, keys, strict=True):
            params, state, *result = step(params, state, digits.images[batch], digits.labels[batch], key)
            measured.append((result[0], result[1]))
            advance(history[-1] if history else None)
        means = np.mean(np.asarray(measured), axis=0)
        history.append(
            Epoch(
                number, float(means[0]), float(means[1]), float(accuracy(params, held_out)), time.perf_counter() - start
            )
        )
    return params, history


def need(*names: str) -> list[Any]:
    """Imports packages of the extra `demo`.

    Raises:
        ImportError: One is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ImportError(
            f"jbdot demo: it needs {error.name}, which is not installed. pip install optax scikit-learn matplotlib"
        ) from error
