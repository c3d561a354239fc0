"""A dot of a program whose shardings were propagated, and what plain jit, or a plan of its own, sends for it."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import jax
from jax.sharding import AbstractMesh, NamedSharding

from jbdot.core.contraction import Contraction
from jbdot.devices.links import Links
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block, Sharding
from jbdot.many_devices.candidates import Candidate
from jbdot.many_devices.plain_jit import Laid, plain_way
from jbdot.many_devices.sharding_plan import plan_sharding
from jbdot.many_devices.task import Task
from jbdot.one_device.lowerings import LANES
from jbdot.programs.communication_row import array
from jbdot.programs.propagation import attribute, dtype_of, integers_in, lists_in, shape_of

MULTIPLIED: Final = ("stablehlo.dot_general", "stablehlo.convolution")
_SIDES: Final = re.compile(r"\[([^\]]*)\]x\[([^\]]*)\]->\[([^\]]*)\]")  # dimension numbers of a convolution

Shapes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Dot:
    """A dot of a program, or a convolution: shapes, and how operands and result are cut.

    XLA's partitioner takes a convolution for a dot of batch, features in and features out.

    Attributes:
        contraction: Its labels.
        shapes: Of lhs, rhs and the result.
        dtypes: Likewise, by name.
        shardings: Likewise.
        axes: Likewise, those that the labels are of: all but the space of a convolution.
        laid: How the compiler lays out the result.
    """

    contraction: Contraction
    shapes: Shapes
    dtypes: tuple[str, ...]
    shardings: tuple[Sharding, ...]
    axes: Shapes
    laid: Laid

    @classmethod
    def of(cls, one: Any, at: Mapping[Any, Sharding]) -> "Dot":
        """Reads an operation, with how each value is cut."""
        values = (*one.operands, one.results[0])
        shapes = tuple(shape_of(value) or () for value in values)
        if one.name == "stablehlo.dot_general":
            contraction = _contraction(str(one.attributes["dot_dimension_numbers"]), len(shapes[0]), len(shapes[1]))
            axes, laid = tuple(tuple(range(len(shape))) for shape in shapes), _laid(one, bool(contraction.batch))
        else:
            contraction, axes = _convolution(str(one.attributes["dimension_numbers"]))
            laid = Laid(1, is_free=False)
        dtypes = tuple(array(f"{dtype_of(value)}[]")[:-2] for value in values)
        return cls(contraction, shapes, dtypes, tuple(at[value] for value in values), axes, laid)

    def way(self, links: Links) -> Candidate | None:
        """Returns the way of plain jit.

        None where a part of a mesh axis cuts, or the space of a convolution is cut, where a size is not divided, and
        where groups of features stand apart.
        """
        mesh = {axis.name: axis.size for axis in links.axes}
        blocks: list[Block] = []
        for shape, dtype, sharding, axes in zip(self.shapes, self.dtypes, self.shardings, self.axes, strict=True):
            for at, (size, cut) in enumerate(zip(shape, sharding, strict=True)):
                parts = math.prod(mesh.get(axis, 0) for axis in cut)
                if not parts or size % parts or (cut and at not in axes):
                    return None
            local = tuple(shape[at] for at in axes)
            blocks.append(Block.of(local, dtype, tuple(sharding[at] for at in axes), mesh))
        lhs, rhs, out = blocks
        c = self.contraction
        pairs = [*zip((*c.lhs, *c.rhs, *c.out), (*lhs.shape, *rhs.shape, *out.shape), strict=True)]
        if len({*pairs}) > len({label for label, _ in pairs}):
            return None
        task = Task(c, mesh, lhs, rhs, out.sharding, out.shape, out.dtype, out.dtype)
        return plain_way(task, links, constrained=True, laid=self.laid)

    def planned(self, way: Candidate | None, links: Links) -> int:
        """Counts the bytes that it would send, planned by `plan_sharding` as it is cut; else those of plain jit."""
        if way is None or not way.sent:
            return 0
        mesh = AbstractMesh(tuple(axis.size for axis in links.axes), tuple(axis.name for axis in links.axes))
        lhs, rhs, out = (
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, partition_spec.written(sharding)))
            for shape, dtype, sharding in zip(self.shapes, self.dtypes, self.shardings, strict=True)
        )
        try:
            spec, hardware = out.sharding.spec, links.hardware
            plan = plan_sharding(self.contraction, lhs, rhs, spec, preferred_element_type=out.dtype, hardware=hardware)
        except (TypeError, ValueError):
            return way.sent
        return plan.sent


def _laid(dot: Any, is_batched: bool) -> Laid:
    """Says how a result is laid out: as the only operation that reads it transposes it, lanes filled."""
    value, shape = dot.results[0], shape_of(dot.results[0]) or ()
    uses = [use.owner.operation for use in value.uses]
    while len(uses) == 1 and uses[0].name == "stablehlo.convert":
        uses = [use.owner.operation for use in uses[0].results[0].uses]
    if [one.name for one in uses] != ["stablehlo.transpose"]:
        return Laid(len(shape) - 1, is_free=True)
    filled = [at for at, size in enumerate(shape) if size >= LANES]
    last = integers_in(attribute(uses[0], "permutation"))[-1]
    if is_batched and filled and last not in filled:
        last = filled[-1]
    return Laid(last, is_free=not is_batched)


@functools.lru_cache(maxsize=1024)  # a program has many dots, and few contractions
def _contraction(numbers: str, lhs_ndim: int, rhs_ndim: int) -> Contraction:
    """Reads dimension numbers: `#stablehlo.dot<lhs_batching_dimensions = [0], ...>`."""
    lists = lists_in(numbers)
    contracting, batch = (
        tuple(tuple(lists.get(f"{side}_{kind}_dimensions", ())) for side in ("lhs", "rhs"))
        for kind in ("contracting", "batching")
    )
    return Contraction.from_dimension_numbers((contracting, batch), lhs_ndim, rhs_ndim)


def _convolution(numbers: str) -> tuple[Contraction, Shapes]:
    """Reads dimension numbers, `#stablehlo.conv<[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]>`, but for space."""
    found = _SIDES.search(numbers)
    assert found, numbers
    sides = [side.split(", ") for side in found.groups()]
    axes = tuple(tuple(map(side.index, names)) for side, names in zip(sides, ("bf", "io", "bf"), strict=True))
    return Contraction.from_dimension_numbers((((1,), (0,)), ((), ())), 2, 2), axes
