"""What a program sends, as a report: a row for each line of the source, memory, compute beside sending, in words."""

import collections
import dataclasses
import html
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from jax.sharding import PartitionSpec

from jbdot.compilers.compiled import ESTIMATED
from jbdot.core.text import bytes_text, number_text, paragraph, rounded_text, table
from jbdot.hardware import Hardware
from jbdot.programs import advice
from jbdot.programs.communication_row import CommunicationRow
from jbdot.programs.memory_row import MemoryRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN: Final = 12  # rows that are printed
HELD: Final = 6  # arrays that are printed


@dataclasses.dataclass(frozen=True)
class CommunicationReport:
    """What each device sends in a call of a program, and for which line of the source. Figures are of one device.

    Bytes and memory are read off the compiled program; where it is not compiled, bytes are expected by a model, and
    temporaries are not known. Times are estimates: of collectives from the published figures of links, of the rest the
    compiler's own where it has one, else the FLOPs of its dots at the device's peak.

    Attributes:
        function: The program's name.
        mesh: The sizes of the mesh's axes.
        hardware: The figures that times are from.
        compiled_for: The topology or the devices here; empty where it is not compiled.
        rows: A `CommunicationRow` for each line, kind and array, most bytes first.
        held: A `MemoryRow` for each kind of array that a device holds where it holds most, most bytes first: read off
            the schedule (`jbdot.hlo.held_at_peak`).
        argument_bytes: Of all arguments.
        output_bytes: Of all results.
        alias_bytes: Of results that take the place of donated arguments.
        temp_bytes: Of all that is between, at most at a time; None where it is not compiled.
        flops: Of the dots; None where the compiled program does not tell.
        estimated_us: What the compiler estimates for all but the collectives; None where it has no estimates.
        argument_sizes: The sizes that a device has of each argument, also without the axis of stacked layers, the
            smallest first: by them a gradient of a parameter is known, which the compiler may transpose.
        versions: Of jax, jaxlib and the compiler.
        results: The PartitionSpec of each result, None where one cannot say it; empty where it is not compiled.
        text: The compiled program; empty where it is not compiled.
    """

    function: str
    mesh: Mapping[str, int]
    hardware: Hardware = dataclasses.field(repr=False)
    compiled_for: str
    rows: tuple[CommunicationRow, ...]
    held: tuple[MemoryRow, ...]
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int | None
    flops: int | None
    estimated_us: float | None
    argument_sizes: frozenset[tuple[int, ...]] = dataclasses.field(repr=False)
    versions: Mapping[str, str]
    results: tuple[PartitionSpec | None, ...] = dataclasses.field(default=(), repr=False, kw_only=True)
    text: str = dataclasses.field(repr=False)

    @property
    def sent(self) -> int:
        """Counts the bytes that a device sends."""
        return sum(row.sent for row in self.rows)

    @property
    def sending_us(self) -> float:
        """Sums the estimated times of all collectives, one after another."""
        return sum(row.us for row in self.rows)

    @property
    def compute_us(self) -> float | None:
        """Returns the time of all but the collectives: the compiler's estimate, or else the dots at the peak."""
        return self.peak_us if self.estimated_us is None else self.estimated_us

    @property
    def peak_us(self) -> float | None:
        """Returns the time of the dots' FLOPs at the peak for bfloat16."""
        return None if self.flops is None else 1e6 * self.flops / self.hardware.rate("bfloat16")

    @property
    def step_us(self) -> float:
        """Sums both: the time of a call if nothing is sent beside other work."""
        return self.sending_us + (self.compute_us or 0.0)

    @property
    def memory_bytes(self) -> int:
        """Counts the bytes that a device needs: arguments, results in a place of their own, and what is between.

        Without what is between where that is not known.
        """
        return self.argument_bytes + self.output_bytes - self.alias_bytes + (self.temp_bytes or 0)

    @property
    def fits(self) -> bool:
        """Says whether that is as much as the device has, or less."""
        return self.memory_bytes <= self.hardware.memory_bytes

    @property
    def advice(self) -> str:
        """Says in words what to change first."""
        found = "" if self.fits else advice.memory(self.argument_bytes, self.temp_bytes or 0, self.held)
        return " ".join(filter(None, (found, advice.sending(self.rows, self.compute_us, self.argument_sizes))))

    def compare(self, other: "CommunicationReport") -> "Comparison":
        """Compares with the report of another way to do the same: what is saved, and where."""
        return Comparison(self, other)

    def plot(self) -> "Figure":
        """Draws what each line sends, by pass and kind, the time of a call, and the memory of a device.

        Needs matplotlib: the extra `plot`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from jbdot.programs.communication_figure import draw

        mesh = ", ".join(f"{name}={size}" for name, size in self.mesh.items())
        on = f"{self.function} on {mesh} of {self.hardware.name}"
        title = f"{on}: each device sends {bytes_text(self.sent)}\n{self._made}"
        sizes = {
            "arguments": self.argument_bytes,
            "results": self.output_bytes - self.alias_bytes,
            "temporaries": self.temp_bytes,
        }
        return draw(title, self.rows, self.compute_us, sizes, self.hardware.memory_bytes)

    @property
    def _made(self) -> str:
        return f"compiled for {self.compiled_for}" if self.compiled_for else "expected before it is compiled"

    @property
    def title(self) -> str:
        """Says in a line what is reported."""
        sent = f"each device sends {bytes_text(self.sent)} in an estimated {self.sending_us:,.0f} us"
        return f"{self.subject}: {sent}"

    @property
    def subject(self) -> str:
        """Names the program, and what it is compiled for."""
        mesh = ", ".join(f"{name}={size}" for name, size in self.mesh.items())
        return f"{self.function} on {mesh} of {self.hardware.name}, {self._made}"

    def share(self, row: CommunicationRow) -> float:
        """Gives the part of the call's time that a row takes, if nothing is sent beside other work."""
        return row.us / self.step_us if self.step_us else 0.0

    def cells(self, row: CommunicationRow) -> tuple[str, ...]:
        """Returns a row as text."""
        times = f"{number_text(row.times)} or more" if row.is_open else number_text(row.times)
        return row.where, row.part or "-", times, bytes_text(row.sent), f"{row.us:,.0f}", f"{self.share(row):.1%}"

    @property
    def head(self) -> tuple[str, ...]:
        """Returns the names of the columns."""
        return "where", "pass", "times", "sent", "us", "of the call"

    @property
    def memory(self) -> list[tuple[str, str]]:
        """Returns the rows of the table of memory."""
        needed, has = bytes_text(self.memory_bytes), self.hardware.memory_bytes
        rows = [
            ("arguments", bytes_text(self.argument_bytes)),
            ("results", bytes_text(self.output_bytes)),
            *([("of these in place", bytes_text(self.alias_bytes))] if self.alias_bytes else []),
            ("temporaries", _known(self.temp_bytes)),
        ]
        if has == float("inf"):
            return [*rows, ("together", needed)]
        of = f"{needed} of {bytes_text(int(has))}" + (" without temporaries" if self.temp_bytes is None else "")
        return [*rows, ("together", of if self.fits else f"does not fit: {of}")]

    @property
    def time(self) -> list[tuple[str, str]]:
        """Returns the rows of the table of time."""
        rows = [("sending", f"{self.sending_us:,.0f} us, estimated, one collective after another")]
        if self.flops is not None:
            peak = f"{self.peak_us or 0:,.0f} us at {self.hardware.rate('bfloat16') / 1e12:,.4g} TFLOP/s"
            rows.append(("dots", f"{number_text(self.flops)} FLOPs, {peak}"))
        if self.estimated_us is not None:
            rows.append(("all but sending", f"{self.estimated_us:,.0f} us, {ESTIMATED}"))
        if self.compute_us:
            rows.append(("sending / computing", rounded_text(self.sending_us / self.compute_us)))
        return rows

    def __str__(self) -> str:
        shown, left = self.rows[:SHOWN], self.rows[SHOWN:]
        parts = [paragraph(self.title)]
        if shown:
            parts.append(table([self.head, *map(self.cells, shown)], ["", *(row.what for row in shown)]))
        if left:
            more = bytes_text(sum(row.sent for row in left))
            parts.append(paragraph(f"and {len(left)} more rows, {more} together: `rows` has them", 2))
        parts.append(f"memory of each device\n{table(self.memory)}")
        if self.held:
            held = self.held[:HELD]
            rows = table([row.cells for row in held], [row.what for row in held])
            parts.append(f"the largest that are held at once, where most is\n{rows}")
        parts += [f"time\n{table(self.time)}", paragraph(self.advice)]
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return str(self)

    def __iter__(self) -> Iterator[CommunicationRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def _repr_html_(self) -> str:
        rows = [(*self.cells(row), row.what) for row in self.rows]
        tables = [_html([(*self.head, "what"), *rows]), _html(self.memory, "td"), _html(self.time, "td")]
        tables.insert(2, _html([(*row.cells, row.what) for row in self.held[:HELD]], "td"))
        head, words = (f"<p>{html.escape(text)}</p>" for text in (self.title, self.advice))
        return head + tables[0] + words + "".join(tables[1:])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two reports side by side.

    Attributes:
        before: The one.
        after: The other.
    """

    before: CommunicationReport
    after: CommunicationReport

    @property
    def saved(self) -> int:
        """Counts the bytes that a device sends less."""
        return self.before.sent - self.after.sent

    @property
    def rows(self) -> list[tuple[str, str, str, int, int]]:
        """Returns the file and function, pass, kind, and bytes sent before and after, by how much they differ.

        Lines are joined by the function that they stand in, as a change moves them.
        """
        before, after = _by_function(self.before), _by_function(self.after)
        found = [(*key, before[key], after[key]) for key in {**before, **after}]
        return sorted((row for row in found if row[3] != row[4]), key=lambda row: (-abs(row[3] - row[4]), row))

    @property
    def tables(self) -> list[str]:
        """Returns the figures side by side, and what is sent otherwise, if anything is, as text."""
        one, two = self.before, self.after
        figures = [
            ("", "before", "after"),
            ("sent", bytes_text(one.sent), bytes_text(two.sent)),
            ("sending, us", f"{one.sending_us:,.0f}", f"{two.sending_us:,.0f}"),
            ("computing, us", *(f"{x.compute_us:,.0f}" if x.compute_us is not None else "?" for x in (one, two))),
            ("FLOPs of dots", *("?" if x.flops is None else f"{x.flops:.3g}" for x in (one, two))),
            ("temporaries", _known(one.temp_bytes), _known(two.temp_bytes)),
            ("memory", bytes_text(one.memory_bytes), bytes_text(two.memory_bytes)),
        ]
        rows = [("in", "pass", "kind", "before", "after")]
        rows += [
            (where, part or "-", kind, bytes_text(old), bytes_text(new)) for where, part, kind, old, new in self.rows
        ]
        return [table(figures), *([table(rows[: SHOWN + 1])] if self.rows else [])]

    def __str__(self) -> str:
        one, two = self.before, self.after
        change = f"{bytes_text(abs(self.saved))} {'less' if self.saved >= 0 else 'more'}"
        head = paragraph(f"{one.function}, and then {two.function}: each device sends {change}")
        parts = [head, *self.tables]
        if one.hardware.name != two.hardware.name:
            parts.append(paragraph(f"before is of {one.hardware.name}, after of {two.hardware.name}"))
        return "\n\n".join(parts)

    __repr__ = __str__


def _known(size: int | None) -> str:
    return "known once it is compiled" if size is None else bytes_text(size)


def _by_function(report: CommunicationReport) -> collections.Counter[tuple[str, str, str]]:
    """Sums the bytes that each function of the source has sent, by pass and kind."""
    found: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for row in report.rows:
        found[re.sub(r":\d+", "", row.where), row.part, row.kind] += row.sent
    return found


def _html(rows: Iterable[tuple[str, ...]], head: str = "th") -> str:
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(itertools.chain([head], itertools.repeat("td")), rows, strict=False)
    ]
    return f"<table>{''.join(lines)}</table>"
