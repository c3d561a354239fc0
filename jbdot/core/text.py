"""Tables, paragraphs and numbers as plain text, at most 80 columns wide."""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, Final

WIDTH: Final = 80  # columns of everything that is printed

_NO_BREAK: Final = "\u00a0"


def table(rows: Sequence[Sequence[str]], below: Sequence[str] = ()) -> str:
    """Lines up columns, two spaces in; a long cell goes on in its column's next line, so that 80 columns hold all.

    Args:
        rows: The cells of each row, its head first.
        below: For each row lines that stand under it, over the whole width; the empty string for none.

    Example:
        >>> print(table([("label", "size"), ("b", "10")]))
          label  size
          b      10
        >>> print(table([("way", "sent"), ("b on x", "15 MB")], ["", "lhs all-to-all x"]))
          way     sent
          b on x  15 MB
              lhs all-to-all x
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    room = WIDTH - 2 * len(widths)
    widest = max((n for n in range(1, room + 1) if sum(min(width, n) for width in widths) <= room), default=1)
    lines: list[str] = []
    for row, text in itertools.zip_longest(rows, below, fillvalue=""):
        columns = [wrapped(cell, widest) for cell in row]
        for cells in itertools.zip_longest(*columns, fillvalue=""):
            padded = (cell.ljust(min(width, widest)) for cell, width in zip(cells, widths, strict=True))
            lines.append(f"  {'  '.join(padded)}".rstrip())
        lines += [paragraph(line, 6) for line in text.splitlines()]
    return "\n".join(lines)


def paragraph(text: str, indent: int = 0) -> str:
    """Breaks text into lines of at most 80 columns; what follows the first is two columns further in.

    Example:
        >>> print(paragraph("a sum over " + "several " * 9 + "axes", 2))
          a sum over several several several several several several several several
            several axes
    """
    first, *others = wrapped(text, WIDTH - indent - 2 if len(text) > WIDTH - indent else WIDTH)
    return "\n".join([" " * indent + first, *(" " * (indent + 2) + line for line in others)])


def wrapped(text: str, width: int) -> list[str]:
    """Breaks text at spaces, and a word that is too long behind a comma or a slash, else where it must.

    Example:
        >>> wrapped("x float32[10,12,4,5] P('x')", 12)
        ['x', 'float32[10,', '12,4,5]', "P('x')"]
    """
    lines: list[str] = []
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
        while len(line) > width:
            cut = 1 + max(line.rfind(mark, 1, width) for mark in ",/") or width
            lines.append(line[:cut])
            line = line[cut:]
        lines.append(line)
    return [line.replace(_NO_BREAK, " ") for line in lines] or [""]


def unbroken(text: str) -> str:
    """Marks text that is not to be broken at its spaces, such as a sharding.

    Example:
        >>> wrapped(f"result {unbroken('P(None, x)')}", 12)
        ['result', 'P(None, x)']
    """
    return text.replace(" ", _NO_BREAK)


def bytes_text(number: int) -> str:
    """Writes a number of bytes.

    Example:
        >>> bytes_text(15728640)
        '15.7 MB'
        >>> bytes_text(999_600_000), bytes_text(999)
        ('1 GB', '999 B')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def number_text(number: Any) -> str:
    """Writes a whole number with commas, and a size that is not known yet as it is.

    Example:
        >>> number_text(1234567)
        '1,234,567'
    """
    return f"{number:,}" if isinstance(number, int) else str(number)


def rounded_text(number: float) -> str:
    """Writes three digits of a number, or all of its whole ones.

    Example:
        >>> rounded_text(2.236), rounded_text(22046.3), rounded_text(0.0699)
        ('2.24', '22,046', '0.0699')
    """
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
