"""What was decided for a contraction on a mesh: the ways that were weighed, the one that is taken, and its figures."""

import dataclasses
import functools
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import PartitionSpec

from jbdot.core.contraction import Contraction
from jbdot.hardware import Hardware
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Sharding
from jbdot.many_devices.candidates import Candidate
from jbdot.many_devices.cost import Estimate
from jbdot.many_devices.lower_bound import least
from jbdot.many_devices.task import Task
from jbdot.one_device.call_plan import CallPlan


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a plan was asked for beside the operands."""

    precision: Any
    dtype: str | None
    sum_dtype: str | None
    reduce: str | None
    lowering: str | None
    redundant_compute: bool = True


@dataclasses.dataclass(frozen=True)
class Decision:
    """The ways to share a contraction out over a mesh, and the one that is taken.

    Attributes:
        contraction: Its labels.
        mesh: The mesh.
        lhs: Shape, dtype and sharding that lhs must have.
        rhs: Those that rhs must have.
        out: Those that the result will have.
        candidates: The ways that were weighed, best first, each with its estimate.
        plain: The one that stands for plain jit: what XLA is expected to do by itself with the operands where they are
            and the result where it is wanted, or open, by a model (`plain_jit`): `compile_for` asks the compiler.
        is_plain: Whether plain jit is taken: where nothing is sent, or operands are only gathered, as XLA does itself.
        open: Whether the result's sharding was left to the plan.
        hardware: Whose figures the estimates are from.
        settings: precision, the element type that was asked for, the sum's dtype, the reduction, the local lowering.
        task: What the candidates were made for: all of this, on the mesh axes that cut something.
    """

    contraction: Contraction
    mesh: Any
    lhs: jax.ShapeDtypeStruct
    rhs: jax.ShapeDtypeStruct
    out: jax.ShapeDtypeStruct
    candidates: tuple[tuple[Candidate, Estimate], ...]
    plain: tuple[Candidate, Estimate]
    is_plain: bool
    open: bool
    hardware: Hardware
    settings: Settings
    task: Task

    @property
    def winner(self) -> Candidate:
        """Returns the way that is taken; plain jit is expected to go it by itself where `is_plain`."""
        return self.plain[0] if self.is_plain else self.candidates[0][0]

    @property
    def estimate(self) -> Estimate:
        """Says what it is expected to take."""
        return self.plain[1] if self.is_plain else self.candidates[0][1]

    @property
    def spec(self) -> PartitionSpec:
        """Returns the result's PartitionSpec."""
        return self.out.sharding.spec

    @property
    def sent(self) -> int:
        """Counts the bytes that each device sends."""
        return self.winner.sent

    @functools.cached_property
    def bound(self) -> float:
        """Counts the bytes that each device sends at least, with the work in equal boxes (`lower_bound`)."""
        if self.settings.reduce == "unreduced":
            return 0.0  # the bounds are of complete sums
        return least(self.task, self.winner.out.end.sharding)

    @property
    def outputs(self) -> dict[PartitionSpec, Candidate]:
        """Maps every sharding that was weighed for the result to the way that sends fewest bytes, fewest first."""
        found: dict[Sharding, Candidate] = {}
        for way, _ in self.candidates:
            end = way.out.end.sharding
            found[end] = min(found.get(end, way), way, key=lambda way: way.sent)
        return {partition_spec.written(end): way for end, way in sorted(found.items(), key=lambda item: item[1].sent)}

    @property
    def same_result(self) -> list[Candidate]:
        """Returns the candidates whose result is sharded as the plan's, best first."""
        end = self.winner.out.end.sharding
        return [way for way, _ in self.candidates if way.out.end.sharding == end]

    @functools.cached_property
    def accumulated(self) -> str:
        """Says what each device adds its own terms in: never fewer bits than `lax.dot_general` does."""
        dot_spec = CallPlan(self.contraction).dot_spec(self.lhs, self.rhs, self.settings.precision, self.task.dtype)
        return max(self.task.sum_dtype, dot_spec.sum_dtype, key=lambda dtype: jnp.dtype(dtype).itemsize)
