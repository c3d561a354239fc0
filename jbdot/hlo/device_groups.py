"""Which devices take part in a collective together, in whatever way the text writes it."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Final

from jbdot.hlo.instruction import Unreadable

_LISTED: Final = re.compile(r"\breplica_groups=\{((?:\{[^}]*\},?)*)\}")
_RANGE: Final = re.compile(r"\breplica_groups=\[(\d+),(\d+)\]<=")
_RESHAPED: Final = re.compile(r"\breplica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_AXES: Final = re.compile(r"\breplica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


def groups_of(attributes: str, devices: int) -> tuple[int, int]:
    """Says how many devices a group has, and how many groups there are."""
    if found := _RANGE.search(attributes):
        return int(found[2]), int(found[1])
    if found := _AXES.search(attributes):
        sizes = {axis: int(size) for axis, size in (pair.split("=") for pair in found[1].split(","))}
        group = math.prod(_axis_size(axis, sizes) for axis in found[2].split(",") if axis)
        return group, math.prod(sizes.values()) // group
    if found := _LISTED.search(attributes):
        return listed(found[1]) if found[1] else (devices, 1)
    raise Unreadable(f"groups of devices are not known: {attributes[:120]}")


def listed(groups: str) -> tuple[int, int]:
    """Returns the same of groups in braces: `{0,1},{2,3}`."""
    sizes = [len(group.split(",")) for group in _BRACES.findall(groups)]
    if len(set(sizes)) != 1:
        raise Unreadable(f"groups differ in size: {groups[:120]}")
    return sizes[0], len(sizes)


def _axis_size(axis: str, sizes: dict[str, int]) -> int:
    """Returns the size of an axis, `'x'`, or of a part of it: `'x':(2)4` is 4, after 2."""
    return int(axis.rpartition(")")[2]) if ":(" in axis else sizes[axis]


def senders(pairs: str, to: str) -> int:
    """Says how many devices send to another, in `{0,1},{1,0}`."""
    return len({source for source, target in (pair.split(to) for pair in _BRACES.findall(pairs)) if source != target})


def members(attributes: str, devices: int) -> tuple[int, ...]:
    """Returns the first group of devices that is written."""
    if found := _RESHAPED.search(attributes):
        count, size, sizes, order = found.groups()
        shape = [int(each) for each in sizes.split(",")]
        axes = [int(each) for each in order.split(",")] if order else list(range(len(shape)))
        return tuple(itertools.islice(_turned(shape, axes), int(size))) if int(count) else ()
    if found := _AXES.search(attributes):
        names = [pair.split("=") for pair in found[1].split(",")]
        sizes = [int(size) for _, size in names]
        cut = {axis.split(":")[0]: axis for axis in found[2].split(",") if axis}
        order = _order(found[0])
        return tuple(order[at] if order else at for at in _along(sizes, [cut.get(name) for name, _ in names]))
    listed = _LISTED.search(attributes)
    return integers(listed[1])[0] if listed and listed[1] else tuple(range(devices))


def _order(mesh: str) -> list[int]:
    """Reads the devices of a mesh that does not count them in order, listed or as a range that is turned."""
    if found := re.search(r"device_ids=\(([\d,]+)\)", mesh):
        return [int(device) for device in found[1].split(",")]
    if found := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", mesh):
        shape = [int(size) for size in found[1].split(",")]
        return list(
            _turned(shape, [int(axis) for axis in found[2].split(",")] if found[2] else list(range(len(shape))))
        )
    return []


def _turned(shape: list[int], axes: list[int]) -> Iterator[int]:
    """Counts through an array of these sizes, its axes in another order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in axes]
    for place in itertools.product(*(range(shape[axis]) for axis in axes)):
        yield sum(at * stride for at, stride in zip(place, strides, strict=True))


def _along(sizes: list[int], cut: list[str | None]) -> Iterator[int]:
    """Gives the group of a mesh's first device: along axes, `'x'`, or along parts of them, `'x':(2)4`."""
    steps: list[list[int]] = []
    for axis, (size, entry) in enumerate(zip(sizes, cut, strict=True)):
        stride = math.prod(sizes[axis + 1 :])
        if entry and ":(" in entry:
            before, part = (int(number) for number in entry.partition(":(")[2].split(")"))
            stride, size = stride * (size // before // part), part
        steps.append([at * stride for at in range(size)] if entry else [0])
    return map(sum, itertools.product(*steps))


def integers(listed: str) -> tuple[tuple[int, ...], ...]:
    """Reads `{0,1},{2,3}`."""
    return tuple(tuple(int(number) for number in one.split(",")) for one in _BRACES.findall(listed))
