"""Multiplying .npy files: right numbers, whole or nothing, nothing lost."""

import jax
import numpy as np
import pytest

import jbdot
from jbdot import files


@pytest.fixture
def saved(tmp_path):
    def save(name, array):
        np.save(tmp_path / name, array)
        return tmp_path / name

    return save


def integers(*shape, dtype=np.float32):
    return np.random.default_rng(0).integers(-4, 5, shape).astype(dtype)


def test_in_one_piece(saved, tmp_path):
    x, y = integers(2, 3, 4), integers(2, 4, 5)
    text = files.multiply(jbdot.batch_dot, (saved("x.npy", x), saved("y.npy", y)), tmp_path / "out.npy")
    assert text == "float32[2,3,5]"
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), x @ y)


@pytest.mark.parametrize(
    ("function", "x", "y"),
    [(jbdot.batch_dot, (7, 3, 4), (7, 4, 5)), (jbdot.dot, (7, 4), (4, 5)), (jbdot.mxnet.dot, (7, 4), (4, 5))],
)
def test_in_pieces(saved, tmp_path, monkeypatch, function, x, y):
    monkeypatch.setattr(files, "PIECE_BYTES", 64)
    x, y = integers(*x), integers(*y)
    tracked = []
    arguments = (saved("x.npy", x), saved("y.npy", y))
    files.multiply(function, arguments, tmp_path / "out.npy", track=lambda parts: tracked.append(len(parts)) or parts)
    assert tracked[0] > 1
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), x @ y)


def test_64_bits_stay(saved, tmp_path):
    x = np.full((1, 1), 1 + 2.0**-40)
    try:
        files.multiply(jbdot.dot, (saved("x.npy", x), saved("y.npy", x)), tmp_path / "out.npy")
    finally:
        jax.config.update("jax_enable_x64", False)
    assert np.load(tmp_path / "out.npy") == x * x


def test_size_zero(saved, tmp_path):
    files.multiply(jbdot.dot, (saved("x.npy", integers(0, 3)), saved("y.npy", integers(3, 4))), tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (0, 4)


def test_an_existing_file_is_kept(saved, tmp_path):
    x, out = saved("x.npy", integers(2, 2)), saved("out.npy", integers(3))
    with pytest.raises(ValueError, match="exists"):
        files.multiply(jbdot.dot, (x, x), out)
    np.testing.assert_array_equal(np.load(out), integers(3))
    files.multiply(jbdot.dot, (x, x), out, overwrite=True)
    assert np.load(out).shape == (2, 2)


def test_failure_leaves_nothing_behind(saved, tmp_path):
    x, y = saved("x.npy", integers(2, 3)), saved("y.npy", integers(2, 3))

    def interrupted(parts):
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match=r"keras_tf1\.dot: the contracted axes"):
        files.multiply(jbdot.dot, (x, y), tmp_path / "out.npy")
    with pytest.raises(KeyboardInterrupt):
        files.multiply(jbdot.batch_dot, (x, y, 1), tmp_path / "out.npy", track=interrupted)
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "y.npy"}


def test_unsuitable_files(saved, tmp_path):
    good = saved("x.npy", integers(2, 2))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "cut.npy").write_bytes(good.read_bytes()[:-4])
    (tmp_path / "text.npy").write_text("not an array, and long enough to be looked at")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=1, b=2)
    saved("names.npy", np.array(["a"]))
    for name, fact in {
        "absent.npy": "does not exist",
        ".": "is a folder",
        "empty.npy": "cannot be read",
        "cut.npy": "cannot be read",
        "text.npy": "pickles are refused",
        "pickle.npy": "pickles are refused",
        "several.npz": "several arrays",
        "names.npy": "no number",
    }.items():
        with pytest.raises(ValueError, match=fact) as error:
            files.multiply(jbdot.dot, (tmp_path / name, good), tmp_path / "out.npy")
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(ValueError, match="is no folder"):
        files.multiply(jbdot.dot, (good, good), tmp_path / "absent" / "out.npy")
