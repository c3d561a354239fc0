"""Multiplying .npy files: right numbers, whole or nothing, nothing lost."""

import errno
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import jbdot
from jbdot.calls import front_door
from jbdot.command import files


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
    ("function", "x", "y", "dtype"),
    [
        (jbdot.batch_dot, (7, 3, 4), (7, 4, 5), np.int32),
        (jbdot.dot, (7, 4), (4, 5), np.float32),
        (jbdot.dot, (2, 3), (3, 70), np.int32),  # a large second operand: the result's last axis is cut
        (jbdot.dot, (40, 3), (3, 40), np.float32),  # a large result: both are
        (jbdot.matmul, (3, 1, 7, 4), (5, 4, 6), np.int32),
        (jbdot.mxnet.dot, (7, 4), (4, 5), np.float32),
    ],
)
def test_in_parts(saved, tmp_path, function, x, y, dtype):
    x, y = integers(*x, dtype=dtype), integers(*y, dtype=dtype)
    counted = []
    arguments = (saved("x.npy", x), saved("y.npy", y))
    files.multiply(function, arguments, tmp_path / "whole.npy")
    files.multiply(function, arguments, tmp_path / "out.npy", memory=160, track=counting(counted))
    assert counted[0][0] > 1
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert left_of(tmp_path, "x.npy", "y.npy", "whole.npy", "out.npy") == set()


def test_parts_fit_in_memory():
    x, y = np.empty((512, 64, 32), np.float32), np.empty((512, 32, 16), np.float32)
    product = files.Product.of(front_door.plan(jbdot.batch_dot, x, y, (None,)), x, y)
    each = sum(array[0].nbytes for array in (x, y)) + 64 * 16 * 4
    assert product.part(512 * each) == {"b": 512, "m": 64, "n": 16}  # all of it fits
    assert product.part(100 * each) == {"b": 64, "m": 64, "n": 16}
    assert product.part(each - 1)["b"] == 1
    assert product.part(0) == {"b": 1, "m": 1, "n": 1}
    assert files.free_bytes() > 0


def counting(counted):
    def track(parts, finished):
        counted.append((len(parts), finished))
        return parts

    return track


def stopping(after):
    def track(parts, finished):
        yield from parts[:after]
        raise KeyboardInterrupt

    return track


def left_of(folder, *names):
    return {path.name for path in folder.iterdir()} - set(names)


# A run that is stopped.


@pytest.fixture
def stopped(saved, tmp_path):
    """Files, the call, and its result where 3 of 7 parts are finished."""
    x, y = integers(7, 3, 4), integers(7, 4, 5)
    arguments = (saved("x.npy", x), saved("y.npy", y))
    with pytest.raises(KeyboardInterrupt):
        files.multiply(jbdot.batch_dot, arguments, tmp_path / "out.npy", memory=200, track=stopping(3))
    return arguments, tmp_path / "out.npy", x @ y


def test_it_goes_on_where_it_was(stopped):
    arguments, out, want = stopped
    assert not out.exists()
    counted = []
    files.multiply(jbdot.batch_dot, arguments, out, memory=300, track=counting(counted))  # as it was cut before
    assert counted == [(4, 3)]
    np.testing.assert_array_equal(np.load(out), want)
    assert left_of(out.parent) == {"x.npy", "y.npy", "out.npy"}


def test_it_goes_on_after_a_kill(saved, tmp_path):
    x, y = integers(7, 3, 4), integers(7, 4, 5)
    arguments = (saved("x.npy", x), saved("y.npy", y))
    out = saved("out.npy", integers(3))
    killed = f"""
import os, signal, jax, jbdot
from jbdot.command import files
jax.config.update("jax_platforms", "cpu")
def track(parts, finished):
    for part in parts:
        if part == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield part
out = files.Path({str(out)!r})
files.multiply(jbdot.batch_dot, {tuple(map(str, arguments))}, out, overwrite=True, memory=200, track=track)
"""
    process = subprocess.run([sys.executable, "-c", killed], timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(np.load(out), integers(3))  # what was there before
    counted = []
    files.multiply(jbdot.batch_dot, arguments, out, overwrite=True, memory=200, track=counting(counted))
    assert counted == [(4, 3)]
    np.testing.assert_array_equal(np.load(out), x @ y)
    assert left_of(tmp_path) == {"x.npy", "y.npy", "out.npy"}


def test_a_line_that_was_cut_short_does_not_count(stopped):
    arguments, out, want = stopped
    journal = out.with_name(".out.npy.journal")
    journal.write_text(journal.read_text()[:-1])
    counted = []
    files.multiply(jbdot.batch_dot, arguments, out, track=counting(counted))
    assert counted == [(5, 2)]
    np.testing.assert_array_equal(np.load(out), want)


def test_parts_of_another_call_are_refused(stopped, saved):
    arguments, out, want = stopped

    def refuses(said, function, *given):
        with pytest.raises(ValueError, match=f"begun by another call: its {said}.*--fresh"):
            files.multiply(function, given, out, memory=200)

    x, y = arguments
    refuses("call was keras_tf1.batch_dot", jbdot.keras.batch_dot, x, y)
    refuses(
        "call was .* is now keras_tf1.batch_dot with {'axes': 2}",
        jbdot.batch_dot,
        x,
        saved("z.npy", integers(7, 5, 4)),
        2,
    )
    refuses("y was .*y.npy", jbdot.batch_dot, x, saved("z.npy", np.load(y)))
    os.utime(x, ns=(0, 0))
    refuses("x was .*x.npy of .* bytes, changed at", jbdot.batch_dot, x, y)
    refuses("x was .*x.npy of 464 bytes", jbdot.batch_dot, saved("x.npy", integers(7, 2, 4)), y)
    counted = []
    saved("x.npy", 2 * integers(7, 3, 4))
    files.multiply(jbdot.batch_dot, arguments, out, fresh=True, memory=200, track=counting(counted))
    assert counted == [(7, 0)]
    np.testing.assert_array_equal(np.load(out), 2 * want)


def test_two_runs_do_not_write_one_result(stopped):
    arguments, out, want = stopped

    def another(parts, finished):
        with pytest.raises(ValueError, match="is being written by another run"):
            files.multiply(jbdot.batch_dot, arguments, out, memory=200)
        return parts

    files.multiply(jbdot.batch_dot, arguments, out, memory=200, track=another)
    np.testing.assert_array_equal(np.load(out), want)


def test_parts_without_room_begin_anew(stopped):
    arguments, out, want = stopped
    out.with_name(".out.npy.parts").write_bytes(b"")
    counted = []
    files.multiply(jbdot.batch_dot, arguments, out, memory=200, track=counting(counted))
    assert counted == [(7, 0)]
    np.testing.assert_array_equal(np.load(out), want)


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


def test_failure_leaves_nothing_behind(saved, tmp_path, monkeypatch):
    x, y = saved("x.npy", integers(2, 3)), saved("y.npy", integers(2, 3))
    with pytest.raises(ValueError, match=r"keras_tf1\.dot: the contracted axes"):
        files.multiply(jbdot.dot, (x, y), tmp_path / "out.npy")
    with pytest.raises(KeyboardInterrupt):  # before any part is finished
        files.multiply(jbdot.batch_dot, (x, y, 1), tmp_path / "out.npy", memory=20, track=stopping(0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match=r"out\.npy cannot be written: No space left"):
        files.multiply(jbdot.batch_dot, (x, y, 1), tmp_path / "out.npy", memory=20)
    assert left_of(tmp_path) == {"x.npy", "y.npy"}


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
