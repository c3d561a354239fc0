"""Tables and numbers as plain text."""

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lines up columns, two spaces in.

    Example:
        >>> print(table([("label", "size"), ("b", "10")]))
          label  size
          b      10
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
