"""A list of the parts of a result that are on the disk, so that what was interrupted goes on where it ended."""

import contextlib
import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # not on Windows: there two runs may write one result
    fcntl = None


class Journal:
    """What is there of an unfinished result, in two files beside its place: an array that fills up, and a list.

    The first line of the list says of what call the parts are and how it is cut; each line after it is the number of a
    part that is on the disk. A line that a kill has cut short does not count.
    """

    def __init__(self, out: Path, file: TextIO) -> None:
        self.out, self.data, self._file = out, out.with_name(f".{out.name}.parts"), file
        file.seek(0)
        text = file.read()
        whole = text[: text.rfind("\n") + 1]
        file.truncate(len(whole.encode()))
        self._lines = whole.splitlines()
        self.header: dict[str, Any] = json.loads(self._lines[0]) if self._lines else {}

    @classmethod
    def path(cls, out: Path) -> Path:
        """Says where the list of a result is."""
        return out.with_name(f".{out.name}.journal")

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path) -> Generator["Journal", None, None]:
        """Opens the list, for this process alone. At the end it goes where the result is whole, or nothing is."""
        path = cls.path(out)
        with path.open("a+", encoding="utf-8") as file:
            _lock(file, out)
            journal = cls(out, file)
            try:
                yield journal
            finally:
                if not journal.finished():
                    journal.data.unlink(missing_ok=True)
                    path.unlink()

    def finished(self) -> set[int]:
        """Returns the numbers of the parts that are on the disk."""
        return set(map(int, self._lines[1:])) if self.data.exists() else set()

    def begin(self, header: dict[str, Any], allocate: Callable[[], None]) -> None:
        """Forgets all parts."""
        self._file.truncate(0)
        self._lines, self.header = [], header
        allocate()
        self.append(json.dumps(header))

    def append(self, line: str) -> None:
        """Adds a line, and has it on the disk."""
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._lines.append(line)

    def check(self, call: dict[str, str]) -> None:
        """Checks that the parts are of this call.

        Raises:
            ValueError: They are not.
        """
        for name, now in call.items():
            before = self.header.get(name)
            if before != now:
                raise ValueError(
                    f"{self.out} was begun by another call: its {name} was {before}, and is now {now}. Give the same "
                    f"call to finish it, or say fresh (--fresh) to begin anew."
                )


def _lock(file: TextIO, out: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{out} is being written by another run. Wait for it, or name another file.") from None
