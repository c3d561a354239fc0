"""The dot that is planned where it is lowered: a JAX primitive with `lax.dot_general`'s parameters and a plan.

What a backend runs is decided when the program is lowered for it, from the sizes that stand there then: after
vmap has added its axes, after shard_map has cut the operands, for each platform of an export. So one traced
function is right on CPU, GPU and TPU, and the contractions of a gradient are planned as any other. All else that
JAX asks of a primitive is answered by `lax.dot_general`'s own rules, whose dots are then planned in their turn.
"""

import collections
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax
from jax import core as jax_core
from jax import lax
from jax.extend import core, source_info_util
from jax.interpreters import ad, batching, mlir, partial_eval

from jbdot.choice import check, chosen
from jbdot.lowerings import direct
from jbdot.request import Request, swapped_precision

# Named as lax's, for whoever reads a jaxpr: it has the same parameters, and `plan`.
dot_general_p: Final = core.Primitive("dot_general")
_PARAMS: Final = ("dimension_numbers", "precision", "preferred_element_type", "out_sharding")
_lax: Final[Any] = jax.jit(lax.dot_general, static_argnames=_PARAMS)


def dot_general(
    lhs: Any,
    rhs: Any,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    plan: str = "auto",
) -> jax.Array:
    """Multiplies as `lax.dot_general` does, by a lowering that is chosen for each backend.

    `lax.dot_general` itself is traced for the call, so that its checks, its errors and its defaults are these;
    JAX keeps the trace, and a second call of the same kind costs a lookup.
    """
    if plan == "direct":
        return lax.dot_general(
            lhs, rhs, dimension_numbers, precision, preferred_element_type, out_sharding=out_sharding
        )
    traced = _lax.trace(
        lhs,
        rhs,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    if plan != "auto":
        (out,) = traced.jaxpr.out_avals
        check(Request.of(lhs, rhs, out, dimension_numbers, precision), plan)
    return _evaluate(_planned(traced.jaxpr, plan), lhs, rhs)


@functools.lru_cache(maxsize=1024)
def _planned(jaxpr: Any, plan: str) -> Any:
    return with_equations(jaxpr, [planned_equation(equation, plan) for equation in equations(jaxpr)])


def straightened(jaxpr: Any) -> Any:
    """The same jaxpr, where a transpose that only turns a planned dot's result around is gone, its operands swapped.

    Gradients are full of them, as lax writes the dot with the cotangent first. XLA folds such a transpose into the
    dot by itself; what it then runs is another dot than the one that was chosen for.
    """
    found = equations(jaxpr)
    given_back = getattr(jaxpr, "jaxpr", jaxpr).outvars
    uses = collections.Counter(id(x) for variables in (given_back, *(e.invars for e in found)) for x in variables)
    made = {id(e.outvars[0]): e for e in found if e.primitive is dot_general_p and _is_free(e.params)}
    turned: dict[int, Any] = {}  # by what is replaced: None for the dot, the new dot for the transpose
    for equation in found:
        dot = made.get(id(equation.invars[0])) if equation.primitive is lax.transpose_p else None
        if dot is not None and uses[id(dot.outvars[0])] == 1 and _turns(dot, equation.params["permutation"]):
            turned[id(dot)], turned[id(equation)] = None, _swapped(dot, equation.outvars)
    changed = [turned.get(id(equation), equation) for equation in found]
    return with_equations(jaxpr, [equation for equation in changed if equation is not None])


def _is_free(params: dict[str, Any]) -> bool:
    """Whether a dot may be said in another way: it is not asked to stand as it is, and no axis has a place to be."""
    return params["plan"] != "direct" and params["out_sharding"] is None


def _turns(dot: Any, permutation: tuple[int, ...]) -> bool:
    """Whether a permutation puts the free axes of rhs, in their order, before those of lhs."""
    (lhs_contracting, _), (lhs_batch, _) = dot.params["dimension_numbers"]
    batch, rank = len(lhs_batch), dot.outvars[0].aval.ndim
    last = dot.invars[0].aval.ndim - len(lhs_contracting)
    return batch < last < rank and tuple(permutation) == (*range(batch), *range(last, rank), *range(batch, last))


def _swapped(dot: Any, outvars: Any) -> Any:
    """The same dot with rhs first, marked `turned`: where it is lowered as it stands, it stands as it was written."""
    params = {**_reversed(dot.params), "turned": True}
    return dot.replace(invars=dot.invars[::-1], outvars=outvars, params=params)


def _reversed(params: dict[str, Any]) -> dict[str, Any]:
    """A dot's parameters for its operands the other way round."""
    (lc, rc), (lb, rb) = params["dimension_numbers"]
    precision = swapped_precision(params["precision"])
    return {**params, "dimension_numbers": ((rc, lc), (rb, lb)), "precision": precision}


def planned_equation(equation: Any, plan: str) -> Any:
    """Puts the planned dot where lax's stands."""
    if equation.primitive is not lax.dot_general_p:
        return equation
    return equation.replace(primitive=dot_general_p, params={**equation.params, "plan": plan})


def equations(jaxpr: Any) -> list[Any]:
    """The equations of a jaxpr, open or closed."""
    return list(getattr(jaxpr, "jaxpr", jaxpr).eqns)


def with_equations(jaxpr: Any, changed: list[Any]) -> Any:
    """The same jaxpr, open or closed, with other equations."""
    if getattr(jaxpr, "jaxpr", jaxpr) is jaxpr:
        return jaxpr.replace(eqns=changed)
    return jaxpr.replace(jaxpr=jaxpr.jaxpr.replace(eqns=changed))


def _evaluate(jaxpr: Any, *args: Any) -> Any:
    # The dot is the caller's: its line in the source, not that of lax's trace.
    (out,) = jax_core.eval_jaxpr(getattr(jaxpr, "jaxpr", jaxpr), jaxpr.consts, *args, propagate_source_info=False)
    return out


def _replanned(rule: Callable[..., Any], plan: str, *args: Any) -> Any:
    """Runs one of lax's rules with each dot in it planned."""
    jaxpr = jax.make_jaxpr(rule)(*args)
    found = [planned_equation(equation, plan) for equation in equations(jaxpr)]
    return _evaluate(straightened(with_equations(jaxpr, found)), *args)


@dot_general_p.def_effectful_abstract_eval
def _abstract(lhs: Any, rhs: Any, *, plan: str, turned: bool = False, **params: Any) -> Any:
    del plan, turned
    return lax.dot_general_p.abstract_eval(lhs, rhs, **params)


_run: Final[Any] = jax.jit(dot_general_p.bind, static_argnames=(*_PARAMS, "plan", "turned"))


@dot_general_p.def_impl
def _impl(lhs: Any, rhs: Any, *, plan: str, turned: bool = False, **params: Any) -> Any:
    if jax.config.jax_disable_jit:  # then nothing is lowered, and there is nothing to plan
        return lax.dot_general_p.bind(lhs, rhs, **params)
    return _run(lhs, rhs, plan=plan, turned=turned, **params)


def _batch(axis: Any, args: Any, dims: Any, *, plan: str, turned: bool = False, **params: Any) -> Any:
    del turned
    found: list[Any] = []

    def rule(*args: Any) -> Any:
        out, dim = batching.fancy_primitive_batchers[lax.dot_general_p](axis, args, dims, **params)
        found.append(dim)
        return out

    out = _replanned(rule, plan, *args)
    return out, found[0]


def _transpose(side: int, cotangent: Any, lhs: Any, rhs: Any, *, plan: str, turned: bool = False, **params: Any) -> Any:
    """The gradient of one operand is a dot of the cotangent and the other, of other axes: planned anew."""
    del plan, turned
    unknown = ad.UndefinedPrimal((lhs, rhs)[side].aval)

    def rule(cotangent: Any, known: Any) -> Any:
        operands = (known, unknown) if side else (unknown, known)
        return ad.primitive_transposes[lax.dot_general_p](cotangent, *operands, **params)[side]

    return _replanned(rule, "auto", cotangent, lhs if side else rhs)


def _remat(saveable: Any, unknown: Any, instantiated: Any, equation: Any) -> Any:
    """What `jax.checkpoint` keeps: its policy is asked as of lax's dot, so that `dots_saveable` saves this one."""
    left = [x for x, known in zip(equation.invars, instantiated, strict=True) if not known and hasattr(x, "count")]
    if any(unknown):
        return None, equation, [True], [True], left
    params = {name: value for name, value in equation.params.items() if name not in ("plan", "turned")}
    kept = saveable(lax.dot_general_p, *(x.aval for x in equation.invars), **params)
    if kept is True or type(kept).__name__ == "SaveableType":
        return equation, None, [False], [False], []
    return equation, equation, [False], [True], left


def _lower(context: Any, lhs: Any, rhs: Any, *, platform: str, plan: str, turned: bool = False, **params: Any) -> Any:
    (left, right), (out,) = context.avals_in, context.avals_out
    request = Request.of(left, right, out, params["dimension_numbers"], params["precision"])
    if _is_local(context):
        exported = context.module_context.lowering_parameters.for_export
        lowering = chosen(request, platform, plan, exported).function
    else:
        lowering = direct
    if lowering is direct:
        run: Callable[..., Any] = functools.partial(_bare, turned, **params)
    else:
        run = functools.partial(lowering, request)
    return mlir.lower_fun(run, multiple_results=False)(context, lhs, rhs)


def _bare(turned: bool, lhs: Any, rhs: Any, **params: Any) -> Any:
    """Lax's own dot; of one that was turned, as it was before."""
    if not turned:
        return lax.dot_general_p.bind(lhs, rhs, **params)
    back = _reversed(params)
    out = lax.dot_general_p.bind(rhs, lhs, **back)
    (rhs_contracting, _), (batch, _) = back["dimension_numbers"]
    first, last = len(batch), rhs.ndim - len(rhs_contracting)
    return lax.transpose(out, (*range(first), *range(last, out.ndim), *range(first, last)))


def _is_local(context: Any) -> bool:
    """Whether the sizes are what one device has: one device in all, or a shard_map over all of the mesh."""
    axes = context.module_context.axis_context
    if hasattr(axes, "mesh"):
        return axes.mesh.size == 1 or set(axes.manual_axes) == set(axes.mesh.axis_names)
    return getattr(axes, "num_devices", 1) == 1


# JAX says where in the source an operation comes from: where the user called jbdot.
source_info_util.register_exclusion(str(Path(__file__).parent))
ad.defbilinear(dot_general_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))
batching.fancy_primitive_batchers[dot_general_p] = _batch
partial_eval.partial_eval_jaxpr_custom_rules[dot_general_p] = _remat
mlir.register_lowering(dot_general_p, functools.partial(_lower, platform="other"))
for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(dot_general_p, functools.partial(_lower, platform=_platform), platform=_platform)
