"""A capsule network as code written for Keras 2.2.4 has it, trained on real digits: `jbdot demo`.

Every contraction in the network is a `jbdot.keras_tf1` call; those of its capsule layer are of the
kind that no later Keras reads the same way. Needs `pip install 'jbdot[demo]'`.

Source: S. Sabour, N. Frosst and G. E. Hinton, "Dynamic routing between capsules", 2017.
"""

import importlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import chex
import jax
import numpy as np
from jax import numpy as jnp

import jbdot
from jbdot import files, keras, keras_tf1

if TYPE_CHECKING:
    from rich.console import Console

Params = dict[str, jax.Array]
BatchDot = Callable[[Any, Any, list[int]], jax.Array]
Step = Callable[[Params, Any, jax.Array, jax.Array, jax.Array], tuple[Params, Any, jax.Array, jax.Array]]

SIDE, CLASSES = 8, 10  # of the digits: pixels, and how many kinds
FILTERS, CHANNELS, PRIMARY_SIZE, CAPSULE_SIZE, HIDDEN = 64, 6, 8, 16, 128  # of the network
PRIMARY: Final = CHANNELS * (SIDE - 4) ** 2  # capsules left by two 3 x 3 convolutions
BATCH, LEARNING_RATE = 32, 2e-3
RECONSTRUCTION: Final = 2.0  # weight of the mean squared error; the paper's 0.4 leaves 64 pixels blurred
EPSILON: Final = 1e-7  # keras.backend.epsilon()

# Of the article: functions that answer alike, shapes of the operands. The last is an error.
EXAMPLES: Final = (
    ("batch_dot matmul", (10, 12, 4, 5), (10, 12, 5, 8)),
    ("dot matmul", (3, 4), (4, 5)),
    ("dot", (2, 3, 4), (7, 4, 5)),
    ("dot", (1, 2, 3, 4), (8, 7, 4, 5)),
    ("dot", (1, 2, 4), (8, 7, 4, 5)),
    ("batch_dot matmul", (9, 8, 7, 4, 2), (9, 8, 7, 2, 5)),
    ("dot", (3, 4, 5, 2), (2, 5, 3, 7)),
)


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
    """The capsules' lengths, from 0 to 1: how surely each one's digit is there. (batch, 10, 16) gives (batch, 10)."""
    return jnp.sqrt(jnp.sum(capsules**2, axis=-1) + EPSILON)


def decode(params: Params, capsules: jax.Array, labels: jax.Array) -> jax.Array:
    """Draws images (batch, 8, 8) from the capsules (batch, 10, 16) of the labels (batch,), the others masked."""
    masked = (capsules * jax.nn.one_hot(labels, CLASSES, dtype=capsules.dtype)[..., None]).reshape(len(capsules), -1)
    hidden = jax.nn.relu(keras_tf1.dot(masked, params["hidden"]) + params["hidden_bias"])
    return jax.nn.sigmoid(keras_tf1.dot(hidden, params["pixels"]) + params["pixels_bias"]).reshape(-1, SIDE, SIDE)


def loss(params: Params, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The margin loss and the weighted error of the redrawn images, averaged over the batch; and the share right.

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
    (optax,) = _need("optax")

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
    datasets, selection = _need("sklearn.datasets", "sklearn.model_selection")
    scans = datasets.load_digits()
    images, labels = scans.images / 16, scans.target
    kept, held_out = selection.train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, test = (
        Digits(jnp.asarray(images[i], jnp.float32), jnp.asarray(labels[i], jnp.int32)) for i in (kept, held_out)
    )
    return train, test


@jax.jit
def accuracy(params: Params, digits: Digits) -> jax.Array:
    """The share of digits whose own capsule is the longest."""
    lengths_of = jax.lax.map(lambda image: lengths(encode(params, image[None])[0])[0], digits.images, batch_size=BATCH)
    return jnp.mean(jnp.argmax(lengths_of, axis=-1) == digits.labels)


def train(
    digits: Digits, held_out: Digits, epochs: int, seed: int, advance: Callable[[Epoch | None], None]
) -> tuple[Params, list[Epoch]]:
    """Trains by Adam with a cosine schedule: the weights after the last epoch, and the epochs.

    What is held out is measured each epoch and steers nothing. An epoch leaves out what its last
    full batch left over. `advance` is called after each step, with the last finished epoch.
    """
    (optax,) = _need("optax")
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


def examples(devices: Sequence[Any], seed: int = 0) -> list[tuple[str, str, float | None]]:
    """Runs the article's examples on every device, with random float32 operands and NumPy in float64 beside them.

    Each gives the call, the result's shape or the error, and the largest difference over NumPy's largest value.
    """
    rng, rows = np.random.default_rng(seed), list[tuple[str, str, float | None]]()
    for names, *shapes in EXAMPLES:
        x, y = (rng.standard_normal(shape) for shape in shapes)
        for name in names.split():
            call, function = f"{name}({x.shape}, {y.shape})", getattr(jbdot, name)
            placed = [jax.device_put((x.astype(np.float32), y.astype(np.float32)), device) for device in devices]
            try:
                outs = [np.asarray(function(*operands, precision="highest")) for operands in placed]
            except ValueError as error:
                rows.append((call, str(error), None))
                continue
            expected = np.tensordot(x, y, (-1, -2)) if name == "dot" else x @ y
            chex.assert_shape(outs, expected.shape)
            off = np.max(np.abs(np.asarray(outs) - expected)) / np.max(np.abs(expected))
            rows.append((call, str(expected.shape), float(off)))
    return rows


def capsule_calls(inputs: Any, weights: Any) -> list[tuple[str, str, str]]:
    """Asks `keras_tf1` and `keras` each call of the capsule layer, then the whole layer; computes nothing.

    Args:
        inputs: Anything with the shape (batch, n_in, d_in) and dtype of the input capsules.
        weights: Anything with the shape (n_out, n_in, d_out, d_in) and dtype of the weights.

    Returns:
        Each call, and the shape that it gives or the error, first in `keras_tf1`, then in `keras`.
    """
    rows: dict[str, tuple[str, str]] = {}

    def ask(call: str, function: Callable[..., Any], *operands: Any) -> None:
        rows[call] = _said(function, keras_tf1.batch_dot, operands), _said(function, keras.batch_dot, operands)

    def batch_dot(x: Any, y: Any, axes: list[int]) -> jax.Array:
        ask(f"batch_dot({x.shape}, {y.shape}, {axes})", lambda door, x, y: door(x, y, axes), x, y)
        return keras_tf1.batch_dot(x, y, axes)

    def layer(door: BatchDot, inputs: jax.Array, weights: jax.Array) -> jax.Array:
        return capsule_layer(inputs, weights, batch_dot=door)

    jax.eval_shape(lambda *operands: layer(batch_dot, *operands), inputs, weights)
    ask(f"capsule_layer({inputs.shape}, {weights.shape})", layer, inputs, weights)
    return [(call, *answers) for call, answers in rows.items()]


def draw(params: Params, history: list[Epoch], held_out: Digits) -> Any:
    """Draws the training, held-out digits as their longest capsules redraw them, and one digit's routing."""
    (figures,) = _need("matplotlib.figure")
    figure = figures.Figure(figsize=(11, 10), layout="constrained")
    panels = figure.subplot_mosaic([["loss", "right"], ["digits"] * 2, ["routes"] * 2], height_ratios=[4, 3, 3])
    losses, shares, drawings, routes = panels.values()
    number, loss, training, unseen, _ = zip(*history, strict=True)
    losses.plot(number, loss, marker=".")
    losses.set(
        title="Loss: margin and reconstruction", xlabel="epoch", ylabel="mean over the training digits", ylim=(0, None)
    )
    shares.plot(number, 100 * np.asarray(training), marker=".", label="training, shifted by up to a pixel")
    shares.plot(number, 100 * np.asarray(unseen), marker=".", label="held out")
    shares.axhline(97, color="grey", linestyle=":", label="97%")
    shares.set(title=f"{unseen[-1]:.1%} of {len(held_out.labels)} held-out digits", xlabel="epoch", ylabel="right (%)")
    shares.legend(loc="lower right")
    for axes in (losses, shares):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)

    first = np.asarray([np.argmax(held_out.labels == label) for label in range(CLASSES)])
    images = held_out.images[first]
    capsules, couplings = jax.jit(encode)(params, images)
    redrawn = decode(params, capsules, jnp.argmax(lengths(capsules), axis=-1))
    sheet = np.vstack([np.hstack(list(np.pad(row, ((0, 0), (1, 1), (1, 1))))) for row in (images, redrawn)])
    middles = (SIDE + 2) * np.arange(CLASSES) + (SIDE + 1) / 2
    drawings.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    drawings.set_xticks(middles, range(CLASSES))
    drawings.set_yticks(middles[:2], ["scan", "redrawn"])
    drawings.set(title="Held-out digits, and what their longest capsule redraws", xlabel="digit")
    shown = 3
    shares_of = routes.imshow(couplings[shown], aspect="auto", interpolation="nearest", cmap="magma", vmin=0)
    routes.set(
        title=f"Routing of the {shown}: what share of each primary capsule goes to which digit",
        xlabel="primary capsule",
        ylabel="digit capsule",
        yticks=range(CLASSES),
    )
    figure.colorbar(shares_of, ax=routes, label="coupling c")
    return figure


def run(
    directory: Path, *, epochs: int = 40, seed: int = 0, console: "Console | None" = None
) -> dict[str, float | int | str]:
    """Runs the article's examples, asks `keras` the capsule layer's calls, trains the network and saves `capsules.png`.

    Args:
        directory: Where the picture goes; made if need be.
        epochs: Passes over the training digits, 1 or more.
        seed: Of the weights, the order and the shifts. The digits held out are always the same.
        console: Where to print; the terminal if None.

    Returns:
        The accuracy on the held-out digits, the seconds that all this took, the picture's path,
        the largest difference of an example from NumPy, and what it ran with.

    Raises:
        ImportError: A package of the extra `demo` is not installed.
    """
    consoles, progresses, *_ = _need("rich.console", "rich.progress", "optax", "sklearn", "matplotlib")
    screen, start, devices = console or consoles.Console(), time.perf_counter(), jax.local_devices()
    on = f"{len(devices)} x {devices[0].device_kind} ({os.cpu_count()} CPU cores), jax {jax.__version__}"
    answers = examples(devices, seed)
    rows = [(call, answer, "" if off is None else f"{off:.0e}") for call, answer, off in answers]
    screen.print(_table(f"The article's examples on {on}", ("call", "gives", "off NumPy by"), rows))
    inputs = jax.ShapeDtypeStruct((BATCH, PRIMARY, PRIMARY_SIZE), jnp.float32)
    calls = capsule_calls(inputs, jax.eval_shape(init, seed)["capsules"])
    screen.print(_table("The capsule layer's calls", ("call", "jbdot.keras_tf1", "jbdot.keras"), calls))

    digits, held_out = load_digits()
    with progresses.Progress(console=screen) as progress:
        task = progress.add_task("compiling", total=epochs * (len(digits.labels) // BATCH))

        def advance(last: Epoch | None) -> None:
            told = f"{last.held_out_accuracy:.1%} held out" if last else "first epoch"
            progress.update(task, advance=1, description=told)

        params, history = train(digits, held_out, epochs, seed, advance)
    rows = [
        (str(number), f"{loss:.4f}", f"{training:.2%}", f"{unseen:.2%}", f"{seconds:.1f}")
        for number, loss, training, unseen, seconds in history
        if number % max(1, epochs // 10) == 0 or number == epochs
    ]
    screen.print(_table("Training", ("epoch", "loss", "training", "held out", "seconds"), rows))

    directory.mkdir(parents=True, exist_ok=True)
    picture, figure = directory / "capsules.png", draw(params, history, held_out)
    files.save(picture, lambda path: figure.savefig(path, format="png", dpi=120), overwrite=True)
    accuracy, seconds = history[-1].held_out_accuracy, time.perf_counter() - start
    screen.print(f"{accuracy:.2%} of {len(held_out.labels)} held-out digits in {seconds:.0f} s. Picture: {picture}")
    off = max(off for *_, off in answers if off is not None)
    return {
        "accuracy": accuracy,
        "seconds": seconds,
        "picture": str(picture),
        "difference": off,
        "epochs": epochs,
        "on": on,
    }


def _said(function: Callable[..., Any], door: BatchDot, operands: tuple[Any, ...]) -> str:
    try:
        return str(jax.eval_shape(lambda *operands: function(door, *operands), *operands).shape)
    except ValueError as error:
        return str(error)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Any:
    tables, texts = _need("rich.table", "rich.text")
    table = tables.Table(*columns, title=title, title_justify="left", show_lines=max(map(len, sum(rows, ()))) > 60)
    for row in rows:
        table.add_row(*(texts.Text(cell) for cell in row))
    return table


def _need(*names: str) -> list[Any]:
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ImportError(
            f"jbdot.demo: it needs {error.name}, which is not installed. pip install 'jbdot[demo]'."
        ) from error
