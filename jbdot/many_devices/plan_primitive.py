"""A planned contraction as a JAX primitive: bilinear, so that its derivatives are contractions that are planned too.

Forward, a tangent of lhs is multiplied with rhs by the same plan, and likewise for rhs. Backward, the cotangent is
multiplied with the other operand by that operand's own plan (`ShardingPlan.gradient`), and comes back in its sharding.
vmap adds a level: which axes of the operands it maps, the result's always being the first.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any, Final

import jax
from jax import numpy as jnp
from jax.sharding import AbstractMesh

from jbdot.core.errors import BadValue
from jbdot.many_devices.decision import Decision
from jbdot.one_device import jax_internals

Level = tuple[int | None, int | None, Any]  # the axes of lhs and of rhs that one vmap maps, and its spmd_axis_name

plan_p: Final = jax_internals.primitive("sharding_plan")


class _Program:
    """A compiled plan: one for all equal ones, and gone with the last of them."""

    def __init__(self, run: Callable[[Any, Any], jax.Array]) -> None:
        self.compiled: Any = jax.jit(run)


_PROGRAMS: Final[weakref.WeakValueDictionary[Any, _Program]] = weakref.WeakValueDictionary()


@dataclasses.dataclass(frozen=True, eq=False)
class PlanCall:
    """The static parameter of the primitive: a plan, and the vmaps around it.

    Attributes:
        plan: What was decided.
        function: Carries it out, without rules of its own for derivatives.
        gradient: Plans the gradient of lhs, for 0, or of rhs, for 1.
        levels: The vmaps around it, the innermost first.
    """

    plan: Decision
    function: Callable[[Any, Any], jax.Array]
    gradient: Callable[[int], "PlanCall"]
    levels: tuple[Level, ...] = ()

    def run(self, lhs: Any, rhs: Any) -> jax.Array:
        """Returns the function that is traced where the primitive is lowered."""
        function = self.function
        for level in self.levels:
            *in_axes, name = level
            function = jax.vmap(function, in_axes=tuple(in_axes), spmd_axis_name=name)
        return function(lhs, rhs)

    @functools.cached_property
    def key(self) -> Any:
        """Gives what equal plans have in common: all that decides what is run."""
        plan = self.plan
        ends = plan.lhs, plan.rhs, plan.out
        return plan.contraction, plan.mesh, *ends, plan.is_plain, plan.winner, plan.settings, self.levels

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, PlanCall) and self.key == other.key)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.key)

    @functools.cached_property
    def _program(self) -> _Program:
        program = _PROGRAMS.get(self.key)
        if program is None:
            _PROGRAMS[self.key] = program = _Program(self.run)
        return program

    @property
    def compiled(self) -> Any:
        """Returns the same, compiled. JAX keeps its traces by the settings and contexts that they were made in."""
        return self._program.compiled

    def transposed(self, side: int, cotangent: Any, other: Any) -> Any:
        """Returns the cotangent of an operand, 0 for lhs: its own contraction, under the same vmaps."""
        if self.plan.settings.reduce == "unreduced":
            raise BadValue(
                "a result that is differentiated must have its sums complete", 'reduce="unreduced" leaves them'
            ).told("ShardingPlan", str(self.plan.contraction))
        # The cotangent has each vmap's axis first; of an operand that a vmap did not map the sum is wanted.
        levels = tuple((0, level[1 - side], level[2]) for level in self.levels)
        out = carried_out(dataclasses.replace(self.gradient(side), levels=levels), cotangent, other)
        for outer, level in enumerate(self.levels):
            at, mapped = len(self.levels) - 1 - outer, level[side]
            out = out.sum(at) if mapped is None else jnp.moveaxis(out, at, at + mapped)
        dtype = (self.plan.lhs, self.plan.rhs)[side].dtype
        return out if out.dtype == dtype else out.astype(dtype)

    def __str__(self) -> str:
        way = "plain jit" if self.plan.is_plain else self.plan.winner.name
        return f"{self.plan.contraction}; {way}"

    __repr__ = __str__


def carried_out(how: PlanCall, lhs: Any, rhs: Any) -> jax.Array:
    """Runs a plan, under its vmaps, where both operands are as it says."""
    # The jaxpr is for whoever reads one; and for JAX, which finds there the devices that it is for.
    return plan_p.bind(lhs, rhs, how=how, jaxpr=how.compiled.trace(lhs, rhs).jaxpr)


@plan_p.def_impl
def _impl(lhs: Any, rhs: Any, *, how: PlanCall, jaxpr: Any) -> Any:
    del jaxpr
    return how.compiled(lhs, rhs)


@plan_p.def_abstract_eval
def _abstract(lhs: Any, rhs: Any, *, how: PlanCall, jaxpr: Any) -> Any:
    del lhs, rhs, how
    return jaxpr.out_avals[0]


def _batch(axis: Any, operands: Any, dims: Any, *, how: PlanCall, jaxpr: Any) -> Any:
    del jaxpr
    if all(dim is None for dim in dims):
        return carried_out(how, *operands), None
    level = (*dims, jax_internals.spmd_name(axis))
    return carried_out(dataclasses.replace(how, levels=(*how.levels, level)), *operands), 0


def _transpose(side: int, cotangent: Any, lhs: Any, rhs: Any, *, how: PlanCall, jaxpr: Any) -> Any:
    del jaxpr
    return how.transposed(side, cotangent, lhs if side else rhs)


def _lower(context: Any, lhs: Any, rhs: Any, *, how: PlanCall, jaxpr: Any) -> Any:
    mesh, is_spread = how.plan.mesh, not how.plan.is_plain
    if is_spread and isinstance(mesh, AbstractMesh) and mesh.size > 1 and jax_internals.is_local(context):
        raise BadValue(
            "a plan for an abstract mesh must find its devices where it is compiled",
            f"there is one device here, and the mesh has {mesh.size}",
            "Plan for a mesh that jax.make_mesh gives, place the operands on one, or call within jax.set_mesh",
        ).told("ShardingPlan", str(how.plan.contraction))

    def run(*operands: Any) -> Any:
        (out,) = jax_internals.run_jaxpr(jaxpr, *operands)
        return out

    return jax_internals.written(context, run, lhs, rhs)


def _as_dot(*, how: PlanCall, jaxpr: Any) -> dict[str, Any]:
    """Gives the parameters of the one `lax.dot_general` that would do the same, which a policy is asked of."""
    (out,), plan = jaxpr.out_avals, how.plan
    (lc, rc), (lb, rb) = plan.contraction.dimension_numbers
    for lhs, rhs, _ in how.levels:  # each vmap's axis is one more: of the batch where it maps both
        lc, lb = ((axes if lhs is None else tuple(axis + (axis >= lhs) for axis in axes)) for axes in (lc, lb))
        rc, rb = ((axes if rhs is None else tuple(axis + (axis >= rhs) for axis in axes)) for axes in (rc, rb))
        if lhs is not None and rhs is not None:
            lb, rb = (*lb, lhs), (*rb, rhs)
    numbers = ((tuple(lc), tuple(rc)), (tuple(lb), tuple(rb)))
    return {
        "dimension_numbers": numbers,
        "precision": plan.settings.precision,
        "preferred_element_type": out.dtype,
        "out_sharding": None,
    }


jax_internals.bilinear(plan_p, (functools.partial(_transpose, 0), functools.partial(_transpose, 1)), _batch)
jax_internals.lowered_by(plan_p, _lower)
jax_internals.remat_as_dot(plan_p, _as_dot)
