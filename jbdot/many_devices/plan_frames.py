"""What is on the pictures of a `ShardingPlan`: which devices are shown, and what each holds at which time.

Nothing here draws; `mesh_picture` does.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from jbdot.core.errors import array_text
from jbdot.core.labels import Labels
from jbdot.core.text import bytes_text
from jbdot.many_devices.block import Block, MeshAxes, itemsize
from jbdot.many_devices.collectives import Cast, Slice, Step
from jbdot.many_devices.decision import Decision

Place = Mapping[str, int]  # an index along each of some mesh axes
MOST: Final = 4  # devices that are shown along one mesh axis


def segments(block: Block, dim: int, device: Place) -> list[tuple[int, int]]:
    """Returns the indices of an axis that a device holds, as pieces from the first to behind the last.

    Example:
        >>> block = Block.of((8, 6), "float32", (("x", "y"), ()), {"x": 2, "y": 2})
        >>> segments(block, 0, {"x": 0, "y": 1})
        [(2, 4)]
        >>> segments(block.turned(["x"], spread=False), 0, {"x": 0, "y": 1})
        [(2, 4), (6, 8)]
    """
    firsts, length = [0], block.shape[dim]
    for axis, spread in block.factors[dim]:
        length //= block.mesh[axis]
        parts = [device[axis]] if spread else range(block.mesh[axis])
        firsts = [first + part * length for first in firsts for part in parts]
    pieces: list[tuple[int, int]] = []
    for first in firsts:
        if pieces and pieces[-1][1] == first:
            pieces[-1] = (pieces[-1][0], first + length)
        else:
            pieces.append((first, first + length))
    return pieces


@dataclasses.dataclass(frozen=True)
class Side:
    r"""One side of the grid of devices: those along some mesh axes, the last varying fastest.

    Attributes:
        mesh: The length of each of these mesh axes.

    Example:
        >>> side = Side({"x": 2, "y": 2})
        >>> [side.name(place) for place in side.places]
        ['x=0\ny=0', 'x=0\ny=1', 'x=1\ny=0', 'x=1\ny=1']
        >>> side.pairs(("x",))
        [(0, 2), (1, 3)]
        >>> [place["x"] for place in Side({"x": 16}).places], Side({"x": 16}).gaps
        ([0, 1, 2, 15], [False, False, True])
    """

    mesh: Mapping[str, int]

    @property
    def places(self) -> list[dict[str, int]]:
        """Lists the places that are shown: all, or the first few and the last."""
        indices = [self._shown(size) for size in self.mesh.values()]
        return [dict(zip(self.mesh, index, strict=True)) for index in itertools.product(*indices)]

    def _shown(self, size: int) -> list[int]:
        if math.prod(self.mesh.values()) <= MOST:
            return [*range(size)]
        return [*range(MOST - 1 if len(self.mesh) == 1 else 1), size - 1]

    @property
    def gaps(self) -> list[bool]:
        """Says, between each place and the next, whether some are left out."""
        numbers = [self._number(place) for place in self.places]
        return [after - before > 1 for before, after in itertools.pairwise(numbers)]

    def _number(self, place: Place) -> int:
        number = 0
        for axis, size in self.mesh.items():
            number = number * size + place[axis]
        return number

    def pairs(self, axes: MeshAxes) -> list[tuple[int, int]]:
        """Says which of those that are shown are next to each other in a group of devices along these mesh axes."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, place in enumerate(self.places):
            key = tuple(index for axis, index in place.items() if axis not in axes)
            groups.setdefault(key, []).append(number)
        return [pair for group in groups.values() for pair in itertools.pairwise(group)]

    def name(self, place: Place) -> str:
        """Says what stands beside it: where it is along these mesh axes."""
        return "\n".join(f"{axis}={place[axis]}" for axis in self.mesh)


def sides(mesh: Mapping[str, int]) -> tuple[Side, Side]:
    """Returns the mesh axes along rows and along columns: cut in two where the grid is nearest to a square.

    Example:
        >>> [tuple(side.mesh) for side in sides({"x": 2, "y": 1, "z": 2, "w": 4})]
        [('x', 'z'), ('w',)]
    """
    axes = [(axis, size) for axis, size in mesh.items() if size > 1]
    ways = [(dict(axes[:cut]), dict(axes[cut:])) for cut in range(len(axes) + 1)]
    rows, columns = min(ways, key=lambda way: max(math.prod(side.values()) for side in way))
    return Side(rows), Side(columns)


@dataclasses.dataclass(frozen=True)
class Panel:
    """What every device holds of an array at one time.

    Attributes:
        array: "lhs", "rhs" or "out".
        labels: Of its axes.
        block: What a device holds, in the dtype that it is sent in.
        dtype: What it is held in: an operand's own at the start, which a TPU may round before it sends it.
        partial: Mesh axes along which what devices hold are partial sums.
        title: When this is.
        steps: What follows: slices, or one other step, and casts behind it; none at the end.
    """

    array: str
    labels: Labels
    block: Block
    dtype: str
    partial: MeshAxes
    title: str
    steps: tuple[Step, ...]

    @property
    def sent(self) -> int:
        """Counts the bytes that each device sends in what follows."""
        return self.steps[0].sent(self.block) if self.steps else 0

    @property
    def talking(self) -> MeshAxes:
        """Returns the mesh axes along which devices then send to one another."""
        return self.steps[0].axes if self.sent else ()

    @property
    def move(self) -> str:
        """Says what follows, in lines: kind, mesh axes, bytes, casts."""
        axes = [axis for step in self.steps for axis in step.axes]
        casts = [f"then {_kind(step)}" for step in self.steps[1:] if isinstance(step, Cast)]
        along = [f"along {' '.join(axes)}"] if axes else []
        return "\n".join([_kind(self.steps[0]), *along, bytes_text(self.sent), *casts])

    @property
    def held(self) -> str:
        """Says what each device has, in two lines."""
        pieces = "" if self.block.is_whole else ", in pieces"
        sums = ", partial sums" if self.partial else ""
        size = math.prod(self.block.local) * itemsize(self.dtype)
        return f"{array_text('', self.block.local, self.dtype)}\n{bytes_text(size)}{pieces}{sums}"


def panels(plan: Decision) -> dict[str, list[Panel]]:
    """Makes, for each array, a panel at the start and after each step."""
    c, way = plan.contraction, plan.winner
    partial = tuple(axis for label in c.contracting for axis in way.places.get(label, ()))
    labels = {"lhs": c.lhs, "rhs": c.rhs, "out": c.out}
    given = {"lhs": plan.lhs.dtype.name, "rhs": plan.rhs.dtype.name, "out": way.out.start.dtype}
    return {
        name: _row(name, labels[name], route, given[name], partial if name == "out" else ()) for name, route in way.ways
    }


def _row(name: str, labels: Labels, route: Any, dtype: str, partial: MeshAxes) -> list[Panel]:
    title = "after the dot" if name == "out" else "as given"
    row, block = list[Panel](), route.start
    for group in (*_groups(route.steps), ()):
        row.append(Panel(name, labels, block, dtype, partial, title, group))
        for step in group:
            block = step.after(block)
            dtype = block.dtype
        if group and group[0].sums:
            partial = tuple(axis for axis in partial if axis not in group[0].axes)
        title = f"after {_kind(group[0])}" if group else ""
    return row


def _groups(steps: Iterable[Step]) -> list[tuple[Step, ...]]:
    """Steps that make one picture: slices in a row, and a cast with what is before it."""
    groups: list[tuple[Step, ...]] = []
    for step in steps:
        slices = groups and isinstance(step, Slice) and isinstance(groups[-1][-1], Slice)
        if slices or (groups and isinstance(step, Cast)):
            groups[-1] = (*groups[-1], step)
        else:
            groups.append((step,))
    return groups


@dataclasses.dataclass(frozen=True)
class Stage:
    """All three arrays at one time.

    Attributes:
        name: In a word or two, what happens next.
        text: The same in full.
        panels: Of lhs, rhs and the result; None before there is one.
        active: The array that moves next; empty where none does.
    """

    name: str
    text: str
    panels: tuple[Panel, Panel, Panel | None]
    active: str = ""


def stages(plan: Decision) -> list[Stage]:
    """Says what happens, one after another: both operands move, each device multiplies, the result moves."""
    lhs, rhs, out = panels(plan).values()
    first = [_stage((panel, rhs[0], None), panel) for panel in lhs[:-1]]
    second = [_stage((lhs[-1], panel, None), panel) for panel in rhs[:-1]]
    dot = Stage("the dot", "the dot: each device multiplies what it holds", (lhs[-1], rhs[-1], None))
    third = [_stage((lhs[-1], rhs[-1], panel), panel) for panel in out[:-1]]
    return [*first, *second, dot, *third, Stage("the result", "the result", (lhs[-1], rhs[-1], out[-1]))]


def _stage(shown: tuple[Panel, Panel, Panel | None], panel: Panel) -> Stage:
    text = panel.move.replace("\nalong", " along").replace("\n", ", ")
    return Stage(f"{panel.array}: {_kind(panel.steps[0])}", f"{panel.array}: {text}", shown, panel.array)


def _kind(step: Step) -> str:
    return f"cast to {step.dtype}" if isinstance(step, Cast) else step.kind
