"""Multiplies .npy files: memory-mapped in, whole or not at all out."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.errors import Refusal, array_text
from jbdot.front_door import bound, plan, refused
from jbdot.planned import Planned

PIECE_BYTES: Final = 1 << 26  # of the largest array, so much is in a piece


def multiply(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    out: Path,
    *,
    overwrite: bool = False,
    track: Callable[[list[Any]], Iterable[Any]] = iter,
) -> str:
    """Answers a call of a front door whose operands are .npy files, into a .npy file.

    Large arrays are read, multiplied and written in pieces along the result's first axis. 64-bit
    files turn JAX's x64 on, as it would halve their precision otherwise.

    Args:
        function: A front door.
        args: The call's arguments, paths for the operands.
        out: The result's path.
        overwrite: Whether `out` may be replaced.
        track: Wraps the list of pieces, to show progress.

    Returns:
        The result as "float32[2,3]".

    Raises:
        ValueError: A file is missing, corrupt or unsuitable, `out` exists, or as in `function`.
        TypeError, IndexError: As in `function`.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists. Say overwrite (--overwrite), or name another file.")
    lhs, rhs, arguments = bound(function, args, {})
    x, y = load(Path(lhs)), load(Path(rhs))
    if any(array.dtype.itemsize == (16 if array.dtype.kind == "c" else 8) for array in (x, y)):
        jax.config.update("jax_enable_x64", True)
    try:
        planned = plan(function, x, y, arguments)
        shape, dtype = planned.out_shape(x.shape, y.shape), np.dtype(planned.out_dtype(x.dtype, y.dtype))
        save(out, lambda path: _write(path, planned, x, y, shape, dtype, track), overwrite)
    except Refusal as refusal:
        raise refused(refusal, function, x, y, arguments) from None
    return array_text("", shape, dtype.name)


def load(path: Path) -> Any:
    """Opens a .npy file of numbers without reading it.

    Raises:
        ValueError: It is missing, corrupt, or holds pickled objects, several arrays or no numbers.
    """
    if not path.is_file():
        raise ValueError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}.")
    try:
        array = np.load(path, mmap_mode="r" if path.stat().st_size else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        pickled = "pickle" in str(error) or "Python objects" in str(error)
        why = (
            "holds pickled objects or no array; pickles are refused, as they can run code"
            if pickled
            else f"cannot be read as .npy: {error}"
        )
        raise ValueError(f"{path} {why}.") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} holds several arrays. Save the one that is meant with numpy.save.")
    if array.dtype.kind not in "biufc":
        raise ValueError(
            f"{path} holds {array.dtype}, which is no number that NumPy knows. Save bfloat16 and the like as float32."
        )
    return array


def save(path: Path, write: Callable[[str], None], overwrite: bool) -> None:
    """Has a file written beside its place, and moves it there when it is whole.

    Raises:
        ValueError: The folder does not exist or cannot be written, or the file exists.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no folder. Make it first.")
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from None
    os.close(handle)
    try:
        write(beside)
        if path.exists() and not overwrite:
            raise ValueError(f"{path} has appeared meanwhile. Say overwrite (--overwrite), or name another file.")
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        if os.path.exists(beside):
            os.unlink(beside)


def _write(
    path: str,
    planned: Planned,
    x: Any,
    y: Any,
    shape: tuple[int, ...],
    dtype: Any,
    track: Callable[[list[Any]], Iterable[Any]],
) -> None:
    step = jax.jit(lambda lhs, rhs: planned.run(lhs, rhs))
    if 0 in shape:  # nothing to map
        with open(path, "wb") as file:
            np.save(file, np.asarray(step(x, y)))
        return
    result = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    parts = list(_pieces(planned, x, y, shape, dtype))
    # What every piece needs whole is put on the device once.
    whole = {name: jnp.asarray(array) for name, array, index in (("x", x, 1), ("y", y, 2)) if parts[0][index] is None}
    for target, left, right in track(parts):
        result[target] = np.asarray(step(x[left] if left else whole["x"], y[right] if right else whole["y"]))
    result.flush()


def _pieces(planned: Planned, x: Any, y: Any, shape: tuple[int, ...], dtype: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Slices of the result's first axis, with the slices of each operand, None for all of it."""
    c = planned.contraction
    largest = max(int(np.prod(shape)) * dtype.itemsize, x.nbytes, y.nbytes)
    label = c.out[0] if c.out else None
    rearranged = any(entry.fold or entry.stretch for entry in (planned.lhs, planned.rhs))
    if label is None or rearranged or max(c.lhs.count(label), c.rhs.count(label)) > 1 or largest <= PIECE_BYTES:
        yield ..., None, None
        return
    rows = max(1, shape[0] * PIECE_BYTES // largest)
    for start in range(0, shape[0], rows):
        part = slice(start, min(start + rows, shape[0]))
        left, right = (
            tuple(part if other == label else slice(None) for other in side) if label in side else None
            for side in (c.lhs, c.rhs)
        )
        yield part, left, right


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
