"""The demo's capsule layer against the real Keras 2.2.4, and the demo itself."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp
from rich.console import Console

from jbdot import keras, keras_tf1
from jbdot.command import capsules, demo

RECORD = Path(__file__).parents[1] / "data" / "capsule_keras_2_2_4.json"

# The three calls of the layer, recorded with n_out 5, n_in 12, d_in 8, d_out 6 and a batch of 4: operands and axes,
# the shape in Keras 2.2.4, and since.
CALLS = [
    pytest.param((5, 12, 8), (5, 12, 6, 8), [2, 3], (5, 12, 6), (5, 12, 12, 6), id="u_hat"),
    pytest.param((4, 5, 12), (4, 5, 12, 6), [2, 2], (4, 5, 6), (4, 5, 5, 6), id="outputs"),
    pytest.param((4, 5, 6), (4, 5, 12, 6), [2, 3], (4, 5, 12), (4, 5, 5, 12), id="agreement"),
]


@pytest.fixture(scope="module")
def record():
    """What tests/data/record_capsule_keras.py had Keras 2.2.4 compute."""
    arrays = json.loads(RECORD.read_text())
    assert arrays.pop("versions")["keras"] == "2.2.4"
    dtype = arrays.pop("dtype")
    return {name: np.asarray(array, dtype) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def digits():
    return capsules.load_digits()


def test_predictions_match_keras(record):
    np.testing.assert_allclose(capsules.predictions(record["inputs"], record["weights"]), record["u_hat"], rtol=1e-5)


@pytest.mark.parametrize("routings", [1, 2, 3])
def test_every_routing_matches_keras(record, routings):
    outputs, couplings = capsules.route(jnp.asarray(record["u_hat"]), routings)
    np.testing.assert_allclose(outputs, record["outputs"][routings - 1], rtol=1e-5)
    np.testing.assert_allclose(couplings, record["couplings"][routings - 1], rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_layer_and_gradients_match_keras(record, compiled):
    def power(inputs, weights):
        outputs = capsules.capsule_layer(inputs, weights)
        return jnp.sum(outputs**2), outputs

    gradients = jax.grad(power, (0, 1), has_aux=True)
    (of_inputs, of_weights), outputs = (jax.jit(gradients) if compiled else gradients)(
        jnp.asarray(record["inputs"]), jnp.asarray(record["weights"])
    )
    np.testing.assert_allclose(outputs, record["outputs"][-1], rtol=1e-5)
    # Some elements are sums that cancel to a millionth of the largest: those are held to its float32 rounding.
    for gradient, name in ((of_inputs, "grad_inputs"), (of_weights, "grad_weights")):
        np.testing.assert_allclose(gradient, record[name], rtol=1e-5, atol=2e-6 * np.abs(record[name]).max())


@pytest.mark.parametrize(("x", "y", "axes", "then", "since"), CALLS)
def test_later_keras_reads_the_calls_otherwise(x, y, axes, then, since):
    assert keras_tf1.batch_dot(jnp.ones(x), jnp.ones(y), axes).shape == then
    assert keras.batch_dot(jnp.ones(x), jnp.ones(y), axes).shape == since


def test_later_keras_refuses_the_layer(record):
    with pytest.raises(ValueError, match=r"keras\.batch_dot: .*axis 2 of x .* 5, axis 3 of y .* 12.*keras_tf1"):
        capsules.capsule_layer(record["inputs"], record["weights"], batch_dot=keras.batch_dot)


def test_capsule_calls_are_those_of_the_layer(record):
    *calls, (layer, then, since) = demo.capsule_calls(record["inputs"], record["weights"])
    assert [row[0] for row in calls] == [f"batch_dot({x}, {y}, {axes})" for x, y, axes, *_ in (p.values for p in CALLS)]
    assert [row[1:] for row in calls] == [(str(then), str(since)) for *_, then, since in (p.values for p in CALLS)]
    assert layer == "capsule_layer((4, 12, 8), (5, 12, 6, 8))"
    assert then == "(4, 5, 6)"
    assert "jbdot.keras_tf1.batch_dot" in since


def test_examples_agree_with_numpy():
    rows = demo.examples(jax.local_devices())
    assert [answer for _, answer, off in rows if off is not None] == [
        *["(10, 12, 4, 8)"] * 2,
        *["(3, 5)"] * 2,
        "(2, 3, 7, 5)",
        "(1, 2, 3, 8, 7, 5)",
        "(1, 2, 8, 7, 5)",
        *["(9, 8, 7, 4, 5)"] * 2,
    ]
    assert max(off for *_, off in rows if off is not None) < 1e-5
    call, error, off = rows[-1]
    assert call == "dot((3, 4, 5, 2), (2, 5, 3, 7))"
    assert "axis 3 of x has size 2, axis 2 of y has size 3" in error
    assert off is None


def test_a_fifth_of_the_digits_is_held_out(digits):
    train, held_out = digits
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    assert float(train.images.min()) == 0.0
    assert float(train.images.max()) == 1.0
    assert not {image.tobytes() for image in np.asarray(held_out.images)} & {
        image.tobytes() for image in np.asarray(train.images)
    }
    assert set(np.bincount(held_out.labels)) <= {35, 36, 37}


def test_convolve_is_a_convolution():
    rng = np.random.default_rng(0)
    images, kernel, bias = (rng.standard_normal(shape, np.float32) for shape in ((2, 6, 5, 3), (27, 4), (4,)))
    expected = jax.lax.conv_general_dilated(
        images, kernel.reshape(3, 3, 3, 4), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(
        capsules.convolve(jnp.asarray(images), kernel, bias), expected + bias, rtol=1e-5, atol=1e-5
    )


def test_shifts_move_an_image_by_up_to_a_pixel():
    images = jnp.zeros((64, 8, 8)).at[:, 3, 4].set(1.0)
    moved = np.asarray(capsules.shifted(images, jax.random.key(0)))
    assert {tuple(np.argwhere(image)[0]) for image in moved} == {(i, j) for i in (2, 3, 4) for j in (3, 4, 5)}


def test_a_few_steps_lower_the_loss(digits):
    images, labels = (array[:16] for array in digits[0])
    optimizer = optax.adam(capsules.LEARNING_RATE)
    params, step, losses = capsules.init(0), capsules.make_step(optimizer), []
    state = optimizer.init(params)
    for _ in range(8):
        params, state, loss, share = step(params, state, images, labels, jax.random.key(0))
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    assert 0 <= float(share) <= 1


def test_run_prints_tables_and_saves_a_picture(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    result = demo.run(tmp_path / "new" / "folder", epochs=1, console=console)
    picture = tmp_path / "new" / "folder" / "capsules.png"
    assert result["picture"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(picture.parent.iterdir()) == [picture]  # nothing half written is left beside it
    assert result["accuracy"] > 0.5  # chance is 0.1
    assert result["difference"] < 1e-5
    assert result["seconds"] > 0
    printed = console.file.getvalue()
    assert "batch_dot((10, 12, 4, 5), (10, 12, 5, 8))" in printed
    assert "batch_dot((32, 10, 96), (32, 10, 96, 16), " in printed
    assert "  [2, 2])" in printed  # brackets are no markup
    assert "contracted axes must have equal sizes: axis 2 of x has size 10, axis 3 of y has size 96" in " ".join(
        printed.split()
    )
    assert max(map(len, printed[: printed.index("Picture: ")].splitlines())) <= 80  # a path stays whole
    assert f"{result['accuracy']:.2%} of 360 held-out digits" in printed


def test_a_missing_package_is_named_with_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "optax", None)
    with pytest.raises(ImportError, match=r"optax.*pip install optax"):
        demo.run(tmp_path)
