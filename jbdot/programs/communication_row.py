"""The rows of a report of what a program sends: the arrays of its collectives, joined by the line that they are for."""

import collections
import dataclasses
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from jbdot import hlo
from jbdot.core.text import bytes_text
from jbdot.devices.links import Links

_TIMED: Final = {
    "collective-permute": "permute",
    "collective-broadcast": "permute",
    "ragged-all-to-all": "all-to-all",
}
_DTYPES: Final = {"pred": "bool", "bf16": "bfloat16"}
_KINDS: Final = {"f": "float", "s": "int", "u": "uint", "c": "complex"}
_LIBRARIES: Final = ("/site-packages/", "/dist-packages/", f"{sysconfig.get_path('stdlib')}/")


@dataclasses.dataclass(frozen=True)
class CommunicationRow:
    """Collectives of one kind that move like arrays for one line of the source.

    Attributes:
        source: The user's line and the function around it, as "/home/me/train.py:12 (loss)": the innermost that is in
            no library; empty where it is not known.
        part: "forward", "backward" or "recomputed" (by `jax.checkpoint`, in the backward pass); empty outside of a
            gradient.
        operation: JAX's name of the operation that needs it, such as "dot_general".
        argument: The argument of the program that is moved, such as `params["w"]`; with a star for a number,
            `params[*]["w"]`, for several that are alike but for it; empty where any other array is moved.
        array: What a device gives each time, such as "bfloat16[32,128]".
        kind: One of `jbdot.hlo.KINDS`.
        axes: Of the mesh. Of an axis that is used in part "x/2": groups of 2 along x.
        times: How often it runs.
        sent: Bytes that each device sends, all times together.
        us: Microseconds that it takes, all times together: an estimate, with nothing else on the links.
        merged: How many arrays at most the compiler moves with it in one collective.
        beside: Whether other work may run beside it.
        is_open: Whether it is in a loop of unknown length, of which one trip is counted.
        cut: From which sharding to which the array goes, such as "P('x') to P()"; empty where that is not known.
        planned: Bytes that the dots of this line would send in this pass, all times together, if each was planned by
            `jbdot.plan_sharding` for the shardings that it has here; None where that are no fewer, and of other
            operations.
    """

    source: str
    part: str
    operation: str
    argument: str
    array: str
    kind: str
    axes: tuple[str, ...]
    times: int
    sent: int
    us: float
    merged: int = 1
    beside: bool = False
    is_open: bool = False
    cut: str = ""
    planned: int | None = None

    @property
    def where(self) -> str:
        """Returns the line without its folder."""
        return short(self.source) or "an unknown line"

    @property
    def what(self) -> str:
        """Says in a line what is moved, and how."""
        array = f"{self.argument}, {self.array}" if self.argument else self.array
        parts = [f"{self.kind} over {' '.join(self.axes) or 'no axis'} of {array}"]
        parts += [f"from {self.cut}"] if self.cut else []
        parts += [f"by {self.operation}"] if self.operation else []
        parts += [f"{self.merged} arrays in one collective"] if self.merged > 1 else []
        parts += ["beside other work"] if self.beside else []
        parts += ["in a loop of unknown length, counted once"] if self.is_open else []
        parts += (
            []
            if self.planned is None
            else [f"the dots of this line, planned by jbdot, send {bytes_text(self.planned)}"]
        )
        return ", ".join(parts)


def rows_of(
    found: Iterable[hlo.Collective], links: Links, mesh: Mapping[str, int], named: Any
) -> list[CommunicationRow]:
    """Makes the rows of a program's collectives: one for each array, those that are alike joined.

    Args:
        found: The collectives.
        links: What times are from.
        mesh: The sizes of its axes.
        named: Gives the name of an argument by that in the compiled text.
    """
    joined: dict[tuple[Any, ...], list[CommunicationRow]] = collections.defaultdict(list)
    for one in found:
        for row in _rows(one, links, mesh, named):
            key = row.source, row.part, row.operation, row.array, row.kind, row.axes, row.is_open
            joined[key].append(row)
    return sorted(map(_joined, joined.values()), key=lambda row: (-row.sent, -row.us, row.source, row.what))


def _rows(one: hlo.Collective, links: Links, mesh: Mapping[str, int], named: Any) -> Iterator[CommunicationRow]:
    """Makes a row of each array of a collective; its bytes and its time are shared out by what each array gives."""
    axes = axes_of(one, mesh)
    whole = [name.partition("/")[0] for name in axes]
    us = links.time_us(_TIMED.get(one.kind, one.kind), one.sent, whole) if one.sent and whole else 0.0
    given = sum(origin.given for origin in one.origins) or 1
    before = 0
    for origin in one.origins or (hlo.Origin(f"{one.operand_bytes} bytes", given),):
        sent = one.sent * (before + origin.given) // given - one.sent * before // given
        before += origin.given
        yield CommunicationRow(
            source=source(origin.frames),
            part=part(origin.op_name),
            operation=operation(origin.op_name),
            argument=named(origin.argument),
            array=array(origin.shape),
            kind=one.kind,
            axes=axes,
            times=one.times,
            sent=one.times * sent,
            us=one.times * us * origin.given / given,
            merged=len(one.origins),
            beside=one.beside,
            is_open=one.is_open,
            cut=origin.cut,
        )


def _joined(rows: list[CommunicationRow]) -> CommunicationRow:
    return dataclasses.replace(
        rows[0],
        argument=common([row.argument for row in rows]),
        times=sum(row.times for row in rows),
        sent=sum(row.sent for row in rows),
        us=sum(row.us for row in rows),
        merged=max(row.merged for row in rows),
        beside=all(row.beside for row in rows),
        cut=rows[0].cut if len({row.cut for row in rows}) == 1 else "",
    )


def explained(
    rows: Iterable[CommunicationRow], expected: Iterable[CommunicationRow], planned: Mapping[tuple[str, str], int]
) -> list[CommunicationRow]:
    """Says beside rows what is known before a program is compiled.

    Args:
        rows: The rows.
        expected: Those of the same program that say how arrays are cut.
        planned: For a line and a pass the bytes that its dots would send if they were planned.
    """
    cuts: dict[tuple[Any, ...], set[str]] = collections.defaultdict(set)
    for row in expected:
        cuts[row.source, row.part, row.axes, row.sent].add(row.cut)
    rows, found = list(rows), list[CommunicationRow]()
    sent: collections.Counter[tuple[str, str]] = collections.Counter()
    for row in rows:
        sent[row.source, row.part] += row.sent if "dot" in row.operation else 0
    for row in rows:
        line = row.source, row.part
        cut = cuts.get((row.source, row.part, row.axes, row.sent), {""})
        fewer = "dot" in row.operation and planned.get(line, sent[line]) < sent[line]
        found.append(
            dataclasses.replace(
                row,
                cut=row.cut or (next(iter(cut)) if len(cut) == 1 else ""),
                planned=planned[line] if fewer else None,
            )
        )
    return found


def common(arguments: list[str]) -> str:
    """Writes one name for several arguments that are alike but for numbers; nothing where one is no argument.

    Example:
        >>> common(["params[0]['w']", "params[1]['w']"]), common(["a", "b"]), common(["a", ""])
        ("params[*]['w']", 'a and others', '')
    """
    if not all(arguments):
        return ""
    alike = {re.sub(r"\b\d+\b", "*", name) for name in arguments}
    if len(set(arguments)) == 1:
        return arguments[0]
    return alike.pop() if len(alike) == 1 else f"{arguments[0]} and others"


def axes_of(one: hlo.Collective, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Names the mesh axes along which the devices of a collective talk, by their positions in the mesh.

    Example:
        >>> from jbdot.hlo import Collective
        >>> mesh = {"x": 2, "y": 4}
        >>> axes_of(Collective("all-gather", 4, 2, 8, 32, devices=((0, 1, 2, 3),)), mesh)
        ('y',)
        >>> axes_of(Collective("all-gather", 4, 2, 8, 32, devices=((0, 2, 4, 6),)), mesh)
        ('x', 'y/2')
    """
    most = dict.fromkeys(mesh, 1)
    for devices in one.devices:
        places = zip(*(_place(device, mesh) for device in devices), strict=True)
        most = {name: max(most[name], len(set(along))) for name, along in zip(mesh, places, strict=True)}
    whole = one.kind == "collective-permute"  # pairs along an axis tell nothing of how much of it is used
    return tuple(name if whole or n == mesh[name] else f"{name}/{n}" for name, n in most.items() if n > 1)


def _place(device: int, mesh: Mapping[str, int]) -> list[int]:
    place: list[int] = []
    for size in reversed([*mesh.values()]):
        device, at = divmod(device, size)
        place.insert(0, at)
    return place


def source(frames: Iterable[hlo.Frame]) -> str:
    """Writes the innermost line that is in no library, or the innermost of all: "/home/me/train.py:12 (loss)"."""
    frames = list(frames)
    for frame in [frame for frame in frames if not any(part in frame.file for part in _LIBRARIES)] or frames:
        return f"{frame.file}:{frame.line}" + (f" ({frame.function.rpartition('.')[2]})" if frame.function else "")
    return ""


def short(source: str) -> str:
    """Writes a line of the source without its folder; a notebook's cell, whose file is called by a number, as a cell.

    Example:
        >>> short("/home/me/train.py:12 (loss)"), short("/tmp/ipykernel_7/3163.py:2 (loss)")
        ('train.py:12 (loss)', 'cell:2 (loss)')
    """
    _, _, name = source.rpartition("/")
    return re.sub(r"^\d+\.py", "cell", name) if "/ipykernel_" in source else name


def part(op_name: str) -> str:
    """Says in which part of a gradient an operation is.

    Example:
        >>> part("jit(step)/transpose(jvp())/dot_general"), part("jit(step)/jvp()/dot_general"), part("jit(step)/add")
        ('backward', 'forward', '')
    """
    if "rematted_computation" in op_name:
        return "recomputed"
    return "backward" if "transpose(" in op_name else "forward" if "jvp(" in op_name else ""


def operation(op_name: str) -> str:
    """Returns the last part of JAX's name of an operation; of names that the compiler has joined, of the last one.

    Example:
        >>> operation("jit(f)/jvp()/jit(fft)"), operation("jit(f)/(jvp()/reduce_sum:transpose(jvp())/mul)")
        ('jit(fft)', 'mul')
    """
    _, slash, name = op_name.rpartition("/")
    closing = name.count(")") - name.count("(")
    return name[: len(name) - max(0, closing)] if slash else ""


def array(shape: str) -> str:
    """Writes an array of a compiled program as JAX does.

    Example:
        >>> array("bf16[32,128]"), array("s32[]"), array("8 x f32[4]"), array("f8e4m3fn[2]")
        ('bfloat16[32,128]', 'int32[]', '8 x float32[4]', 'float8_e4m3fn[2]')
    """
    count, _, one = shape.rpartition(" ")
    dtype, bracket, sizes = one.partition("[")
    found = re.fullmatch(r"([fsuc])(\d+)(e\w+)?", dtype)
    if dtype in _DTYPES:
        dtype = _DTYPES[dtype]
    elif found:
        dtype = f"{_KINDS[found[1]]}{found[2]}{'_' + found[3] if found[3] else ''}"
    return f"{count} {dtype}{bracket}{sizes}".lstrip()
