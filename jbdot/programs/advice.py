"""What to change first in a program over a mesh, in words."""

from collections.abc import Collection, Sequence
from typing import Final

from jbdot.core.text import bytes_text, rounded_text
from jbdot.programs.communication_row import CommunicationRow
from jbdot.programs.memory_row import MemoryRow

_LITTLE: Final = 0.1  # of the time of computing: what is sent in less need not be changed
_MUCH: Final = 0.2  # of the bytes sent


def memory(argument_bytes: int, temp_bytes: int, held: Sequence[MemoryRow] = ()) -> str:
    """Says what to do about a program that needs more memory than a device has."""
    most, number, cure = max(
        (
            (
                "argument",
                argument_bytes,
                "cut parameters and the optimizer's state over more axes of the mesh, and donate what is replaced",
            ),
            (
                "temporary",
                temp_bytes,
                "recompute more in the backward pass with jax.checkpoint, or take fewer samples at a time",
            ),
        ),
        key=lambda each: each[1],
    )
    name = {"argument": "arguments", "temporary": "temporaries"}[most]
    found = f"It does not fit, and {name} are the most of it, {bytes_text(number)}: {cure}."
    largest = next((row for row in held if row.role == most), None)
    if largest is None:
        return found
    return f"{found} The largest of them: {largest.arrays} of {largest.where}, {bytes_text(largest.bytes)}."


def sending(
    rows: Sequence[CommunicationRow], computing_us: float | None, argument_sizes: Collection[tuple[int, ...]]
) -> str:
    """Says whether sending limits a call, and what to do about the line that sends most.

    Args:
        rows: Of the report, most bytes first.
        computing_us: What all but sending takes, where that is known.
        argument_sizes: The sizes that a device has of each argument, the smallest first.
    """
    if not rows:
        return "Nothing is sent."
    return " ".join(filter(None, (_limit(rows, computing_us), _first(rows, argument_sizes), _recomputed(rows))))


def _limit(rows: Sequence[CommunicationRow], computing_us: float | None) -> str:
    if not computing_us:
        return ""
    ratio = sum(row.us for row in rows) / computing_us
    if ratio < _LITTLE:
        return f"Sending is {ratio:.0%} of the time of computing: what limits a call is on each device."
    limits = "sending limits a call" if ratio > 1 else "a call gains by less of it, or by what hides it"
    return f"Sending takes {rounded_text(ratio)} times as long as computing: {limits}."


def _first(rows: Sequence[CommunicationRow], argument_sizes: Collection[tuple[int, ...]]) -> str:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.source] = sums.get(row.source, 0) + row.sent
    line = max(sums, key=lambda source: sums[source])
    row = next(row for row in rows if row.source == line)
    share = f"{sums[line] / (sum(sums.values()) or 1):.0%} of all"
    head = f"Look first at {row.where}, which sends {bytes_text(sums[line])}, {share}: most of it is {row.what}."
    return f"{head} {_cure(row, _sizes(row.array) in argument_sizes)}"


def _sizes(array: str) -> tuple[int, ...]:
    """Reads the sizes of an array, the smallest first.

    Example:
        >>> _sizes("float32[64,32]"), _sizes("int32[]")
        ((32, 64), ())
    """
    sizes = array.partition("[")[2].rstrip("]")
    return tuple(sorted(int(size) for size in sizes.split(",") if size))


def _cure(row: CommunicationRow, is_gradient: bool) -> str:
    over = " ".join(row.axes)
    if row.kind in ("all-reduce", "reduce-scatter") and row.part == "backward" and is_gradient:
        if row.kind == "reduce-scatter":
            return "It has the shape of a parameter: gradients that are summed and cut send the fewest bytes so."
        return (
            f"It has the shape of a parameter: a gradient that is summed over {over}. If parameters and the "
            f"optimizer's state are cut over {over} too, they can be scattered in half the bytes, for which parameters "
            "are gathered before they are used."
        )
    if row.kind == "all-reduce":
        return (
            f"What is added there is cut over {over} along the axis that is summed. Cut another axis of it, or have "
            f"the result cut over {over} (jax.lax.with_sharding_constraint), for which half the bytes are sent."
        )
    if row.kind == "all-gather" and row.argument:
        return (
            f"{row.argument} is kept in parts over {over} and gathered for use. Keep it whole along {over} if there is "
            "memory, or cut it along the axis by which its use is cut."
        )
    if row.kind == "all-gather":
        return (
            f"The array comes cut over {over}, and is needed whole there. Cut what it is used with to match, or "
            "constrain it where it is made (jax.lax.with_sharding_constraint) to be cut along another axis."
        )
    if row.kind == "reduce-scatter":
        return f"It sums over {over}, and keeps a part: cut another axis than the summed one to send nothing."
    if row.kind == "collective-permute" and row.beside and "dot" in row.operation:
        return (
            f"These are the steps of a gather or of a sum over {over}, which the compiler has taken apart to run "
            "beside the dot, for as many bytes or some more: over 16 devices 17 parts where 15 would do. Have the "
            "operands cut as the dot needs them to send none."
        )
    return (
        "The array is cut in one way where it is made and in another where it is used: have both agree with "
        "jax.lax.with_sharding_constraint."
    )


def _recomputed(rows: Sequence[CommunicationRow]) -> str:
    again = sum(row.sent for row in rows if row.part == "recomputed")
    if again <= _MUCH * sum(row.sent for row in rows):
        return ""
    return (
        f"jax.checkpoint sends {bytes_text(again)} once more in the backward pass: a policy that saves what these "
        "lines give (jax.checkpoint_policies.save_only_these_names) does not."
    )
