"""What is to be spread over a mesh: a contraction, where its operands are, and where its result is wanted."""

import dataclasses
import functools
from collections.abc import Mapping

from jbdot.core.contraction import Contraction
from jbdot.many_devices.block import Block, MeshAxes, Sharding


@dataclasses.dataclass(frozen=True)
class Task:
    """A contraction on a mesh, whose operands are somewhere and whose result may be wanted somewhere.

    Attributes:
        contraction: Its labels; none summed in one operand alone, none twice.
        mesh: The length of each mesh axis.
        lhs: What each device has of lhs.
        rhs: What each device has of rhs.
        out: The sharding that the result is to have; None where that is open.
        shape: The result's.
        dtype: The result's, by name.
        sum_dtype: What partial sums are sent in, until they are complete.
        slow: Mesh axes that leave a slice or node.
        sides: Of a slice of TPUs, in chips; () behind a switch.
        reduce: "all_reduce", "reduce_scatter" or "unreduced", where contracting labels are to stay where they are, and
            how their sums are to be completed; else None.
    """

    contraction: Contraction
    mesh: Mapping[str, int] = dataclasses.field(hash=False)
    lhs: Block
    rhs: Block
    out: Sharding | None
    shape: tuple[int, ...]
    dtype: str
    sum_dtype: str
    reduce: str | None = None
    slow: MeshAxes = ()
    sides: tuple[int, ...] = ()

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Returns the length of each label."""
        return self.contraction.sizes(self.lhs.shape, self.rhs.shape)

    @functools.cached_property
    def axes(self) -> MeshAxes:
        """Returns the mesh axes that there is a choice for: those of more than one device."""
        return tuple(axis for axis, size in self.mesh.items() if size > 1)

    @functools.cached_property
    def flops(self) -> int:
        """Counts the FLOPs of the whole contraction."""
        return self.contraction.flops(self.lhs.shape, self.rhs.shape)
