"""Where in the source an instruction is from."""

import itertools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from jbdot.hlo.instruction import HEAD

_OP_NAME: Final = re.compile(r'\bop_name="((?:[^"\\]|\\.)*)"')
_FRAME: Final = re.compile(r"\bstack_frame_id=(\d+)")
_INLINE: Final = re.compile(r'\bsource_file="([^"]*)" source_line=(\d+)')
_ENTRY: Final = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_TABLES: Final = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_NONE: Final = 0  # the number of no frame


class Frame(NamedTuple):
    """A line of the source, and the function that it stands in; the empty string where that is not known."""

    file: str
    line: int
    function: str


class Sources:
    """The tables at the head of a module: names of files and functions, lines, and which line called which."""

    def __init__(self, text: str) -> None:
        tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
        name = ""
        for line in itertools.islice(text.splitlines(), 1, None):
            if HEAD.match(line):
                break
            if line.strip() in tables:
                name = line.strip()
            elif name and (entry := _ENTRY.match(line)):
                tables[name][int(entry[1])] = entry[2] or entry[3]
        files, functions, lines, frames = tables.values()
        self._lines: dict[int, Frame] = {}
        for number, written in lines.items():
            has = _numbers(written)
            file, function = files.get(has["file_name_id"], ""), functions.get(has["function_name_id"], "")
            self._lines[number] = Frame(file, has["line"], function)
        self._frames = {number: _numbers(written) for number, written in frames.items()}
        # The first frame has no parent, whatever number is written for that: 0, or all numbers are one too high.
        self._off = self._frames[1].get("parent_frame_id", _NONE) if 1 in self._frames else _NONE

    def of(self, attributes: str) -> tuple[str, tuple[Frame, ...]]:
        """Returns JAX's name of an operation, and its lines, the innermost first."""
        named, at = _OP_NAME.search(attributes), _FRAME.search(attributes)
        op_name = re.sub(r"\\(.)", r"\1", named[1]) if named else ""
        if at:
            return op_name, tuple(self._calls(int(at[1])))
        inline = _INLINE.search(attributes)
        return op_name, (Frame(inline[1], int(inline[2]), ""),) if inline else ()

    def _calls(self, frame: int) -> Iterator[Frame]:
        while frame in self._frames:
            has = self._frames[frame]
            if has["file_location_id"] in self._lines:
                yield self._lines[has["file_location_id"]]
            parent = has.get("parent_frame_id", _NONE) - self._off
            frame = parent if parent < frame else _NONE


def _numbers(written: str) -> dict[str, int]:
    """Reads `a=1 b=2`."""
    return {name: int(number) for name, number in (pair.split("=") for pair in written.split())}
