"""A line of a compiled module: an instruction, and the arrays that it gives."""

import dataclasses
import functools
import math
import re
from typing import Final

HEAD: Final = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
NAME: Final = re.compile(r"%([\w.\-]+)")
_LINE: Final = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_INDEX: Final = re.compile(r"\bindex=(\d+)")
_ARRAY: Final = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{[^}]*?E\((\d+)\))?")
_BITS: Final = re.compile(r"[a-z]+?(\d+)")
_TILED: Final = re.compile(r"\{([\d,]+):T\(([\d,]+)\)")
UNCHANGED: Final = frozenset(("copy", "copy-start", "copy-done", "bitcast", "convert", "reshape"))


class Unreadable(ValueError):
    """The text has a form that is not known here."""


class NoEstimate(Unreadable):
    """The compiler left an estimate out."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line: `%name = shape opcode(inside), attributes`."""

    name: str
    shape: str
    opcode: str
    inside: str
    attributes: str
    is_root: bool

    @classmethod
    def read(cls, line: str) -> "Instruction | None":
        """Reads a line; None where it is no instruction."""
        found = _LINE.match(line)
        if not found:
            return None
        root, name, shape, opcode, rest = found.groups()
        end = _closing(rest)
        return cls(name, shape, opcode, rest[:end], rest[end + 1 :], bool(root))

    @functools.cached_property
    def operands(self) -> list[str]:
        """Returns the names of what it is given."""
        return NAME.findall(self.inside)

    @property
    def index(self) -> int:
        """Says which element of a tuple it takes."""
        found = _INDEX.search(self.attributes)
        if not found:
            raise Unreadable(f"{self.name} has no index")
        return int(found[1])


def _closing(text: str) -> int:
    """Says where the parenthesis closes that stands open before the text."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    raise Unreadable(f"a parenthesis stays open: {text[:80]}")


# Shapes.


def byte_count(shape: str) -> int:
    """Counts the bytes of all arrays of a shape. Elements of fewer than 8 bits take 8, unless it says `E(4)`."""
    return sum(
        -(-math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size) * _bits(dtype, packed) // 8)
        for dtype, sizes, packed in _ARRAY.findall(shape)
    )


def tiled_bytes(shape: str) -> int:
    """Counts the bytes that one array takes in memory: the axes that vary fastest are filled up to whole tiles.

    Example:
        >>> tiled_bytes("bf16[8,125,512]{2,1,0:T(8,128)(2,1)}") == 2 * 8 * 128 * 512
        True
    """
    found = _TILED.search(shape)
    if not found:
        return byte_count(shape)
    sizes = sizes_of(shape)
    for axis, tile in zip(map(int, found[1].split(",")), map(int, reversed(found[2].split(","))), strict=False):
        sizes[axis] = -(-sizes[axis] // tile) * tile
    dtype, _, packed = _ARRAY.findall(shape)[0]
    return -(-math.prod(sizes) * _bits(dtype, packed) // 8)


def _bits(dtype: str, packed: str) -> int:
    if packed:
        return int(packed)
    if dtype in ("token", "pred"):
        return 8 * (dtype == "pred")
    found = _BITS.match(dtype)
    if not found:
        raise Unreadable(f"{dtype} is no known type")
    return max(8, int(found[1]))


def sizes_of(shape: str) -> list[int]:
    """Reads the sizes of an array, of the first one of a tuple."""
    found = _ARRAY.search(shape)
    return [int(size) for size in found[2].split(",") if size] if found else []


def plain(shape: str) -> str:
    """Writes an array's shape without its layout.

    Example:
        >>> plain("bf16[32,128]{1,0:T(8,128)(2,1)S(1)}")
        'bf16[32,128]'
    """
    return " ".join(f"{dtype}[{sizes}]" for dtype, sizes, _ in _ARRAY.findall(shape))


def is_same(line: Instruction, before: Instruction) -> bool:
    """Says whether an operation gives what it is given, in another dtype or layout; of a fusion by its sizes."""
    if line.opcode != "fusion":
        return line.opcode in UNCHANGED
    return math.prod(sizes_of(line.shape)) == math.prod(sizes_of(before.shape)) and "convert" in line.name
