"""A program whose arrays are told where they are, as by `jax.lax.with_sharding_constraint` behind an operation."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
from jax.sharding import NamedSharding

from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Sharding
from jbdot.programs.labels import Array, Block, Flow, Inner, Operation
from jbdot.programs.layout import Layout
from jbdot.programs.layout_cost import Costs

_NEAR: Final = 40  # equations within which what was moved for one is kept for another

At = Callable[[Array], NamedSharding | None]
Before = Callable[[Operation], tuple[NamedSharding | None, ...]]


def constrained(closed: Any, steps: Block, at: At, before: Before) -> Any:
    """Returns a closed jaxpr with constraints on results of its operations, and on what its loops carry.

    Args:
        closed: A closed jaxpr.
        steps: What it does, as `Flow.steps`.
        at: The sharding of an array; None leaves it alone.
        before: The shardings that an operation needs its operands at; None leaves one where it is.
    """
    return type(closed)(_Constraints(at, before).jaxpr(closed.jaxpr, steps), closed.consts)


def placed(
    closed: Any,
    flow: Flow,
    costs: Costs,
    layout: Layout,
    mesh: Any,
    moved: bool = True,
    told: frozenset[Array] | None = None,
) -> Any:
    """Returns a closed jaxpr whose arrays are where a layout has them.

    Args:
        closed: A closed jaxpr.
        flow: What it does.
        costs: Says where a dot has its operands.
        layout: Of all its arrays.
        mesh: Of devices, or abstract; its axes are Auto.
        moved: Whether the operands of a dot are told where they are for it; else XLA finds it by its result.
        told: The arrays that are told where they are; by default all `Flow.anchors`.
    """
    told = flow.anchors if told is None else told

    def named(sharding: Sharding) -> NamedSharding:
        return NamedSharding(mesh, partition_spec.written(sharding))

    def at(array: Array) -> NamedSharding | None:
        return named(costs.home(layout, array)) if array in told else None

    def before(operation: Operation) -> tuple[NamedSharding | None, ...]:
        if operation.fuses or not moved:
            return ()
        pairs = zip(operation.ins, costs.operands(layout, operation), strict=True)
        return tuple(
            None if sharding == costs.home(layout, array) else named(sharding) for (array, _), sharding in pairs
        )

    return constrained(closed, flow.steps, at, before)


class _Constraints:
    """Rewrites jaxprs: around each equation come the constraints on its operands and results."""

    def __init__(self, at: At, before: Before) -> None:
        self._at, self._before = at, before

    def jaxpr(self, jaxpr: Any, steps: Block, first: Sequence[tuple[Any, Array]] = ()) -> Any:
        """Rewrites a jaxpr, and begins with the constraints on variables that it is given."""
        now: dict[Any, Any] = {}
        equations: list[Any] = []

        def told(variable: Any, sharding: NamedSharding, source: Any) -> Any:
            equation = _constraint(variable.aval, sharding)
            changed = {} if source is None else {"source_info": source.source_info, "ctx": source.ctx}
            equations.append(equation.replace(invars=[variable], **changed))
            return equation.outvars[0]

        def after(variable: Any, array: Array, source: Any) -> None:
            sharding = self._at(array) if array.shape else None
            if sharding is not None:
                now[variable] = told(variable, sharding, source)

        for variable, array in first:
            after(variable, array, None)
        moved: dict[tuple[Any, NamedSharding], tuple[int, Any]] = {}
        for place, (equation, step) in enumerate(zip(jaxpr.eqns, steps, strict=True)):
            operands = [x if _is_literal(x) else now.get(x, x) for x in equation.invars]
            if isinstance(step, Inner):
                equations.append(equation.replace(invars=operands, params=self._params(equation, step)))
                continue
            for number, sharding in enumerate(self._before(step)):
                if sharding is None or _is_literal(operands[number]):
                    continue
                key = operands[number], sharding
                if key not in moved or place - moved[key][0] > _NEAR:
                    moved[key] = place, told(operands[number], sharding, equation)
                operands[number] = moved[key][1]
            equations.append(equation.replace(invars=operands))
            for variable, (array, _) in zip(equation.outvars, step.outs, strict=True):
                after(variable, array, equation)
        results = [x if _is_literal(x) else now.get(x, x) for x in jaxpr.outvars]
        return jaxpr.replace(eqns=equations, outvars=results)

    def _params(self, equation: Any, step: Inner) -> dict[str, Any]:
        """Rewrites the jaxprs among an equation's parameters."""
        params = dict(equation.params)
        blocks = iter(step.blocks)
        for name, value in params.items():
            if name == "cond_jaxpr" or not step.blocks:
                continue
            if hasattr(value, "eqns"):
                params[name] = self._within(value, next(blocks), step)
            elif isinstance(value, tuple) and value and hasattr(value[0], "eqns"):
                params[name] = tuple(self._within(each, next(blocks), step) for each in value)
        return params

    def _within(self, value: Any, block: Block, step: Inner) -> Any:
        jaxpr = getattr(value, "jaxpr", value)
        made = self.jaxpr(jaxpr, block, list(zip(jaxpr.invars[step.before :], step.carried, strict=False)))
        return type(value)(made, value.consts) if hasattr(value, "jaxpr") else made


def _is_literal(variable: Any) -> bool:
    return hasattr(variable, "val")


def _constraint(aval: Any, sharding: NamedSharding) -> Any:
    """Makes the equation of a constraint, of variables of its own."""
    shape = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.make_jaxpr(lambda x: jax.lax.with_sharding_constraint(x, sharding))(shape).jaxpr.eqns[0]
