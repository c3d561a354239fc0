"""Multiplies .npy files: memory-mapped in, part by part where they are large, whole or not at all out."""

import dataclasses
import functools
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.calls.front_door import bound, given, operand_names, plan, public_name, refused
from jbdot.command.journal import Journal
from jbdot.core.errors import Refusal, array_text
from jbdot.one_device.call_plan import CallPlan

MOST_BYTES: Final = 1 << 30  # of the operands and the result in one part, by default
Index = tuple[slice, ...]
Part = tuple[Index, Index, Index]  # of the result, of lhs, of rhs
Track = Callable[[list[Any], int], Iterable[Any]]


def multiply(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    out: Path,
    *,
    overwrite: bool = False,
    fresh: bool = False,
    memory: int | None = None,
    track: Track = lambda parts, finished: parts,
) -> str:
    """Answers a call of a front door whose operands are .npy files, into a .npy file.

    What is larger than `memory` is read, multiplied and written in parts along axes of the result, the first before
    others. Finished parts are kept beside `out` with a journal of them, so that the same call goes on after them when
    it was stopped in any way. 64-bit files turn JAX's x64 on, as it would halve their precision otherwise.

    Args:
        function: A front door.
        args: The call's arguments, paths for the operands.
        out: The result's path.
        overwrite: Whether `out` may be replaced; it is when the new result is whole.
        fresh: Whether to begin anew, whatever parts are there.
        memory: Bytes of the operands and the result in one part. By default a quarter of what is free on the device,
            and at most 1 GiB: larger parts are no faster.
        track: Wraps the list of parts that are left, given how many are finished, to show progress.

    Returns:
        The result as "float32[2,3]".

    Raises:
        ValueError: A file is missing, corrupt or unsuitable, `out` exists, parts of another call are there, or as in
            `function`.
        TypeError, IndexError: As in `function`.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists. Say overwrite (--overwrite), or name another file.")
    lhs, rhs, arguments = bound(function, args, {})
    paths = Path(lhs), Path(rhs)
    x, y = map(load, paths)
    if any(array.dtype.itemsize == (16 if array.dtype.kind == "c" else 8) for array in (x, y)):
        jax.config.update("jax_enable_x64", True)
    try:
        product = Product.of(plan(function, x, y, arguments), x, y)
        part = product.part(min(MOST_BYTES, free_bytes() // 4) if memory is None else memory)
        if part == product.sizes and not Journal.path(out).exists():
            save(out, product.write, overwrite)
        else:
            call = _described(function, arguments, paths, product.text)
            _multiply_parts(product, part, call, out, overwrite, fresh, track)
    except Refusal as refusal:
        raise refused(refusal, function, x, y, arguments) from None
    return product.text


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
    _check_folder(path)
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from None
    os.close(handle)
    try:
        write(beside)
        os.chmod(beside, 0o666 & ~_umask())
        _move(beside, path, overwrite)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        if os.path.exists(beside):
            os.unlink(beside)


@dataclasses.dataclass(frozen=True)
class Product:
    """A planned call on arrays in files, and its result's shape and dtype.

    Attributes:
        planned: The plan.
        x: The first operand.
        y: The second.
        shape: The result's.
        dtype: The result's.
    """

    planned: CallPlan
    x: Any
    y: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, planned: CallPlan, x: Any, y: Any) -> "Product":
        """Returns the product of two arrays as planned."""
        return cls(planned, x, y, planned.out_shape(x.shape, y.shape), np.dtype(planned.out_dtype(x.dtype, y.dtype)))

    @property
    def text(self) -> str:
        """Returns the result as "float32[2,3]"."""
        return array_text("", self.shape, self.dtype.name)

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Returns the length of each label of the result that it can be cut along."""
        c = self.planned.contraction
        sizes = c.sizes(self.planned.lhs.shape(self.x.shape), self.planned.rhs.shape(self.y.shape))
        rearranged = any(entry.fold or entry.stretch for entry in (self.planned.lhs, self.planned.rhs))
        once = [label for label in c.out if label is not None and max(c.lhs.count(label), c.rhs.count(label)) < 2]
        return {} if rearranged or 0 in self.shape else {label: sizes[label] for label in once}

    def part(self, memory: int) -> dict[str, int]:
        """Sizes a part: the largest array is halved until all fit, or nothing is left to halve."""
        c, part = self.planned.contraction, dict(self.sizes)
        arrays = [(set(labels), of.nbytes) for labels, of in ((c.lhs, self.x), (c.rhs, self.y))]
        arrays.append((set(c.out), math.prod(self.shape) * self.dtype.itemsize))
        while True:
            share = [math.prod(part[name] / self.sizes[name] for name in part if name in of) for of, _ in arrays]
            held = [size * of for (_, size), of in zip(arrays, share, strict=True)]
            if sum(held) <= memory:
                return part
            by_size = sorted(range(3), key=lambda array: -held[array])
            found = (name for array in by_size for name in part if name in arrays[array][0] and part[name] > 1)
            name = next(found, None)
            if name is None:
                return part
            part[name] = -(-part[name] // 2)

    def parts(self, part: dict[str, int]) -> list[Part]:
        """Returns the slices of the result and of the operands, the result's first axis slowest."""
        c, found = self.planned.contraction, list[Part]()
        for corner in itertools.product(*(range(0, size, part[name]) for name, size in self.sizes.items())):
            at = {name: slice(start, start + part[name]) for name, start in zip(self.sizes, corner, strict=True)}
            of_out, of_x, of_y = (tuple(at.get(name or "", slice(None)) for name in of) for of in (c.out, c.lhs, c.rhs))
            found.append((of_out, of_x, of_y))
        return found

    @functools.cached_property
    def step(self) -> Callable[[Any, Any], jax.Array]:
        """Says what is done to operands or parts of them."""
        return jax.jit(lambda x, y: self.planned.run(x, y))

    def write(self, path: str) -> None:
        """Writes the result in one piece."""
        with open(path, "wb") as file:
            np.save(file, np.asarray(self.step(self.x, self.y)))

    def writer(self, result: Any) -> Callable[[Part], None]:
        """Says what writes parts into an array in a file; what an operand gives to two in a row stays on the device."""
        held: list[tuple[Any, Any]] = [(None, None), (None, None)]

        def write(part: Part) -> None:
            target, *indices = part
            for side, (array, index) in enumerate(zip((self.x, self.y), indices, strict=True)):
                if held[side][0] != index:
                    held[side] = index, jnp.asarray(array[index])
            result[target] = np.asarray(self.step(held[0][1], held[1][1]))
            result.flush()

        return write


def free_bytes() -> int:
    """Counts the bytes that are free on the device: of a CPU, what the system has available."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):  # not Linux
        return 4 * MOST_BYTES


def _multiply_parts(
    product: Product, part: dict[str, int], call: dict[str, str], out: Path, overwrite: bool, fresh: bool, track: Track
) -> None:
    _check_folder(out)
    try:
        with Journal.open(out) as journal:
            if journal.finished() and not fresh:
                journal.check(call)
            if fresh or not journal.finished() or not _fits(journal.data, product):
                journal.begin({**call, "part": part}, functools.partial(_allocate, journal.data, product))
            parts, finished = product.parts(journal.header["part"]), journal.finished()
            write = product.writer(np.load(journal.data, mmap_mode="r+"))
            for number in track([number for number in range(len(parts)) if number not in finished], len(finished)):
                write(parts[number])
                journal.append(str(number))
            _move(journal.data, out, overwrite)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}.") from None


def _described(
    function: Callable[..., Any], arguments: tuple[Any, ...], paths: Iterable[Path], text: str
) -> dict[str, str]:
    """Says what must be the same for parts to belong together."""
    left, right = operand_names(function)
    found = {"call": f"{public_name(function)} with {given(function, arguments)}"}
    for name, path in zip((left, right), paths, strict=True):
        stat = path.stat()
        found[name] = f"{path.resolve()} of {stat.st_size} bytes, changed at {stat.st_mtime_ns} ns"
    return {**found, "result": text, "platform": f"{jax.default_backend()}, jax {jax.__version__}"}


def _allocate(path: Path, product: Product) -> None:
    """Makes the result's file in full, so that a full disk is found now."""
    np.lib.format.open_memmap(path, mode="w+", dtype=product.dtype, shape=product.shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _fits(path: Path, product: Product) -> bool:
    """Says whether a file has room for the result."""
    try:
        array = load(path)
    except ValueError:
        return False
    return (array.shape, array.dtype) == (product.shape, product.dtype)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no folder. Make it first.")


def _move(beside: str | Path, path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise ValueError(f"{path} has appeared meanwhile. Say overwrite (--overwrite), or name another file.")
    os.replace(beside, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
