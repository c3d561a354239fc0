"""What `jbdot demo` shows: examples of dot, batch_dot and matmul, then a capsule network that learns real digits.

Needs the extra `demo`: optax, scikit-learn, matplotlib, typer and rich.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import chex
import jax
import numpy as np
from jax import numpy as jnp

import jbdot
from jbdot import keras, keras_tf1
from jbdot.command import capsules as net
from jbdot.command import files
from jbdot.command.capsules import BATCH, CLASSES, PRIMARY, PRIMARY_SIZE, SIDE, BatchDot, Digits, Epoch, Params, need
from jbdot.core.text import paragraph, table

if TYPE_CHECKING:
    from rich.console import Console

# Of each example: functions that answer alike, shapes of the operands. The last is an error.
EXAMPLES: Final = (
    ("batch_dot matmul", (10, 12, 4, 5), (10, 12, 5, 8)),
    ("dot matmul", (3, 4), (4, 5)),
    ("dot", (2, 3, 4), (7, 4, 5)),
    ("dot", (1, 2, 3, 4), (8, 7, 4, 5)),
    ("dot", (1, 2, 4), (8, 7, 4, 5)),
    ("batch_dot matmul", (9, 8, 7, 4, 2), (9, 8, 7, 2, 5)),
    ("dot", (3, 4, 5, 2), (2, 5, 3, 7)),
)

_LONG: Final = 50  # characters of a message, which stands below its row


def examples(devices: Sequence[Any], seed: int = 0) -> list[tuple[str, str, float | None]]:
    """Runs the examples on every device, with random float32 operands and NumPy in float64 beside them.

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
        return net.capsule_layer(inputs, weights, batch_dot=door)

    jax.eval_shape(lambda *operands: layer(batch_dot, *operands), inputs, weights)
    ask(f"capsule_layer({inputs.shape}, {weights.shape})", layer, inputs, weights)
    return [(call, *answers) for call, answers in rows.items()]


def draw(params: Params, history: list[Epoch], held_out: Digits) -> Any:
    """Draws the training, held-out digits as their longest capsules redraw them, and one digit's routing."""
    (figures,) = need("matplotlib.figure")
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
    capsules, couplings = jax.jit(net.encode)(params, images)
    redrawn = net.decode(params, capsules, jnp.argmax(net.lengths(capsules), axis=-1))
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
    """Runs the examples, asks `keras` the capsule layer's calls, trains the network and saves `capsules.png`.

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
        ValueError: The folder cannot be made.
    """
    consoles, progresses, *_ = need("rich.console", "rich.progress", "optax", "sklearn", "matplotlib")
    try:
        directory.mkdir(parents=True, exist_ok=True)  # before the work, which takes a minute
    except OSError as error:
        raise ValueError(f"{directory} cannot be made: {error.strerror}. Name another folder.") from None
    screen, start, devices = console or consoles.Console(), time.perf_counter(), jax.local_devices()

    def show(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        short = [tuple("an error:" if len(cell) > _LONG else cell for cell in row) for row in rows]
        below = ["", *("\n".join(cell for cell in row if len(cell) > _LONG) for row in rows)]
        lines = f"{paragraph(title)}\n\n{table([columns, *short], below)}\n"
        screen.print(lines, soft_wrap=True, highlight=False, markup=False)

    on = f"{len(devices)} x {devices[0].device_kind} ({os.cpu_count()} CPU cores), jax {jax.__version__}"
    answers = examples(devices, seed)
    rows = [(call, answer, "" if off is None else f"{off:.0e}") for call, answer, off in answers]
    show(f"Examples on {on}", ("call", "gives", "off NumPy by"), rows)
    inputs = jax.ShapeDtypeStruct((BATCH, PRIMARY, PRIMARY_SIZE), jnp.float32)
    calls = capsule_calls(inputs, jax.eval_shape(net.init, seed)["capsules"])
    show("The capsule layer's calls", ("call", "jbdot.keras_tf1", "jbdot.keras"), calls)

    digits, held_out = net.load_digits()
    with progresses.Progress(console=screen) as progress:
        task = progress.add_task("compiling", total=epochs * (len(digits.labels) // BATCH))

        def advance(last: Epoch | None) -> None:
            told = f"{last.held_out_accuracy:.1%} of held-out digits right; done" if last else "first epoch; done"
            progress.update(task, advance=1, description=told)

        params, history = net.train(digits, held_out, epochs, seed, advance)
    rows = [
        (str(number), f"{loss:.4f}", f"{training:.2%}", f"{unseen:.2%}", f"{seconds:.1f}")
        for number, loss, training, unseen, seconds in history
        if number % max(1, epochs // 10) == 0 or number == epochs
    ]
    show("Training", ("epoch", "loss", "training", "held out", "seconds"), rows)

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
