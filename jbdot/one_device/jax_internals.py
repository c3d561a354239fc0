"""What jbdot asks of JAX beyond its public names: one function for each contract, each with a test of its own.

A JAX that has changed one of them costs a warning, once, and dots that are lowered as they stand; nothing else.
"""

import contextlib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final

import jax

Rule = Callable[..., Any]

_NOTES: Final = "jbdot"
_CHANGED: Final = (AttributeError, ImportError, KeyError, TypeError, ValueError, NotImplementedError)


def _contract(fallback: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes of a reading of JAX's insides one that warns, and gives `fallback`, where JAX has changed them."""

    def guard(read: Callable[..., Any]) -> Any:
        @functools.wraps(read)
        def guarded(*args: Any) -> Any:
            try:
                return read(*args)
            except _CHANGED as error:
                _warn(read.__name__, f"{type(error).__name__}: {error}")
                return fallback() if fallback in (dict, list) else fallback

        vars(guarded)["fallback"] = fallback  # for tests
        return guarded

    return guard


@functools.cache
def _warn(contract: str, error: str) -> None:
    warnings.warn(
        f"jbdot: jax {jax.__version__} has changed what jax_internals.{contract} reads ({error}); dots that need it "
        "run as lax.dot_general has them",
        stacklevel=4,
    )


@_contract(None)
def put_before(primitive: Any, rule: Rule) -> None:
    """Puts a lowering rule before JAX's own ones, which it is given as `before`, and the platform as `platform`.

    It is not cached: a cached one is lowered apart, and sees nothing of what is beside the equation. JAX's rules that
    are for one platform each go behind the one for all, as several that are not cached fail where a program is lowered
    for several platforms.
    """
    from jax._src import effects
    from jax._src.interpreters import mlir

    per_platform, tables = mlir.lower_per_platform, mlir._platform_specific_lowerings  # pyright: ignore[reportPrivateUsage]
    rules = {name: table[primitive].rule for name, table in tables.items() if primitive in table}
    rules = {name: functools.partial(rule, before=own, platform=name) for name, own in rules.items()}
    own = mlir._lowerings[primitive].rule  # pyright: ignore[reportPrivateUsage]
    default = functools.partial(rule, before=own, platform=None)
    none = effects.no_effects

    def lowered(context: Any, *values: Any, **params: Any) -> Any:
        context = context.replace(avals_out=list(context.avals_out))
        return per_platform(context, str(primitive), rules, default, none, *values, **params)

    mlir.register_lowering(primitive, lowered, cacheable=False)
    for table in tables.values():
        table.pop(primitive, None)


@_contract(None)
def tell_transposes(primitive: Any, told: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> None:
    """Has JAX's own transpose rules of a primitive of two operands told what `told` makes of its parameters.

    Args:
        primitive: A bilinear one, such as `lax.dot_general_p`.
        told: Gives the parameters, by the abstract value of the operand that the cotangent is for, and its own.
    """
    from jax._src.interpreters import ad

    kinds = ad.UndefinedPrimal, ad.GradAccum

    def after(own: Rule) -> Rule:
        def transposed(cotangent: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
            return own(cotangent, lhs, rhs, **told((lhs if isinstance(lhs, kinds) else rhs).aval, params))

        return transposed

    for table in (ad.primitive_transposes, ad.fancy_transposes):
        table[primitive] = after(table[primitive])


@_contract(dict)
def metadata() -> dict[str, Any]:
    """Reads the XLA metadata in force: of the contexts around, or, in a derivative rule, of its equation."""
    from jax._src import xla_metadata_lib

    return xla_metadata_lib.current_xla_metadata() or {}


@_contract(dict)
def metadata_of(equation_context: Any) -> dict[str, Any]:
    """Returns the XLA metadata that was in force where an equation was traced."""
    return equation_context.xla_metadata or {}


@_contract(dict)
def metadata_of_lowered(context: Any) -> dict[str, Any]:
    """Returns the same, of the equation that is being lowered."""
    return context.jaxpr_eqn_ctx.xla_metadata or {}


@_contract("other")
def platform(context: Any) -> str:
    """Returns the platform that an equation is lowered for; "other" for several at once."""
    platforms = context.platforms or context.module_context.platforms
    return platforms[0] if len(platforms) == 1 else "other"


@_contract(True)
def is_exported(context: Any) -> bool:
    """Says whether the program is exported."""
    return context.module_context.lowering_parameters.for_export


@_contract(False)
def is_local(context: Any) -> bool:
    """Says whether the sizes are what one device has: one device in all, or a shard_map over all of the mesh."""
    axes = context.module_context.axis_context
    if hasattr(axes, "mesh"):
        return axes.mesh.size == 1 or set(axes.manual_axes) == set(axes.mesh.axis_names)
    return axes.num_devices == 1


@_contract(False)
def is_in_kernel() -> bool:
    """Says whether what is being lowered belongs to a Pallas kernel that is interpreted: Pallas has called for it."""
    if "jax._src.pallas.pallas_call" not in sys.modules:
        return False
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("jax._src.pallas."):
            return True
        frame = frame.f_back
    return False


@_contract(None)
def surroundings() -> tuple[Any, Any, dict[Any, Any]] | None:
    """Returns the jaxpr that is being lowered, its equation, and the values of its variables so far, by variable."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "jaxpr_subcomp":
        frame = frame.f_back
    if frame is None:
        raise NotImplementedError("no jaxpr_subcomp calls a lowering rule")
    local = frame.f_locals
    return local["jaxpr"], local["eqn"], local["env"]


@_contract(None)
def blank(context: Any) -> Any:
    """Returns a value of the result's type that nobody will read."""
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir  # pyright: ignore[reportPrivateImportUsage]
    from jax._src.lib.mlir.dialects import hlo

    (aval,) = context.avals_out
    scalar = mlir.ir_constant(aval.dtype.type(0))
    return hlo.broadcast(scalar, ir.DenseI64ArrayAttr.get(aval.shape)) if aval.shape else scalar


@_contract(dict)
def notes(context: Any) -> dict[Any, Any]:
    """Returns a dict that lives as long as the module that is being lowered."""
    return context.module_context.cached_primitive_lowerings.setdefault(_NOTES, {})


@_contract(None)
def transposed(value: Any) -> tuple[Any, tuple[int, ...]] | None:
    """Says what a value is the transpose of, and the permutation; None where it is made otherwise."""
    operation = getattr(value.owner, "operation", value.owner)
    if getattr(operation, "name", "") != "stablehlo.transpose":
        return None
    return operation.operands[0], tuple(operation.attributes["permutation"])


@_contract(None)
def anchored(value: Any) -> Any:
    """Returns the same value, as the result of an operation that XLA drops; `reattached` gives it another operand."""
    from jax._src.lib.mlir.dialects import hlo

    return hlo.reshape(value.type, value)


@_contract(True)
def is_used(anchor: Any) -> bool:
    """Says whether something in the program reads an anchor already."""
    return any(True for _ in anchor.uses)


def before(anchor: Any) -> Any:
    """Opens a context in which operations are put before an anchor."""
    from jax._src.lib.mlir import ir  # pyright: ignore[reportPrivateImportUsage]

    return ir.InsertionPoint(anchor.owner)


def reattached(anchor: Any, value: Any) -> None:
    """Gives an anchor, and with it all that reads it, another value."""
    anchor.owner.operands[0] = value


@_contract(None)
def exclude_from_tracebacks(folder: str) -> None:
    """Has JAX name the user's line that called jbdot, not a line of this folder, as the source of an operation."""
    from jax._src import source_info_util

    source_info_util.register_exclusion(folder)


@_contract(contextlib.nullcontext())
def of_no_line() -> Any:
    """Opens a context whose operations come from no line, so that they are said to come from where it is called."""
    from jax._src import source_info_util
    from jax._src.lib import xla_client  # pyright: ignore[reportPrivateImportUsage]

    return source_info_util.user_context(xla_client.Traceback())


@_contract(list)
def inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    """Returns the jaxprs among an equation's parameters."""
    from jax.extend import core  # `import jax` does not load it

    return list(core.jaxprs_in_params(params))


@_contract("")
def source(equation: Any) -> str:
    """Names the user's line that an equation comes from, "/home/me/train.py:12:8 (loss)"; empty where none is known."""
    from jax._src import source_info_util

    return source_info_util.summarize(equation.source_info)


@_contract(None)
def ragged_dot_primitive() -> Any:
    """Returns the primitive of `lax.ragged_dot` and `lax.ragged_dot_general`."""
    from jax._src.lax import lax

    return lax.ragged_dot_general_p


def primitive(name: str) -> Any:
    """Makes a new JAX primitive."""
    try:
        from jax._src.core import Primitive
    except ImportError:  # the public name, which `import jax` does not load
        from jax.extend.core import Primitive
    return Primitive(name)


@_contract(False)
def lowered_by(primitive: Any, rule: Rule) -> bool:
    """Registers the lowering rule of a primitive of ours, which writes with `written`; whether JAX has both."""
    from jax.interpreters import mlir

    _ = mlir.lower_fun
    mlir.register_lowering(primitive, rule)
    return True


def written(context: Any, function: Callable[..., Any], *values: Any) -> Any:
    """Writes what a function of arrays does into the program that is being lowered: its one result, or several."""
    from jax.interpreters import mlir

    return mlir.lower_fun(function, multiple_results=False)(context, *values)


@_contract(None)
def bilinear(primitive: Any, transposes: tuple[Rule, Rule], batch: Rule) -> None:
    """Registers the derivatives of a primitive that is linear in each of two operands, and its rule for vmap."""
    from jax.interpreters import ad, batching

    ad.defbilinear(primitive, *transposes)
    batching.fancy_primitive_batchers[primitive] = batch


def run_jaxpr(jaxpr: Any, *operands: Any) -> Any:
    """Runs a closed jaxpr, or what stands for one."""
    from jax.core import eval_jaxpr

    return eval_jaxpr(getattr(jaxpr, "jaxpr", jaxpr), jaxpr.consts, *operands)


@_contract(())
def references() -> tuple[type, ...]:
    """Returns the classes of arrays that can be written to."""
    return (jax.Ref,)


@_contract(None)
def spmd_name(axis: Any) -> Any:
    """Returns the `spmd_axis_name` of a vmap, by what its batching rules are told of its axis."""
    return axis.spmd_name


@_contract(False)
def is_patched() -> bool:
    """Says whether a library has put its own in the place of `lax.dot_general`: a function, or code into JAX's."""
    from jax._src.lax import lax

    code = getattr(jax.lax.dot_general, "__code__", None)
    return code is None or code.co_filename != lax.__file__


@_contract(RuntimeError)
def sharding_error() -> type[Exception]:
    """Returns the class of error that JAX raises where the operands' shardings leave open how a result is sharded."""
    from jax._src import core

    return core.ShardingTypeError


@_contract(None)
def remat_as_dot(primitive: Any, params: Callable[..., dict[str, Any]]) -> None:
    """Tells both implementations of `jax.checkpoint` that a primitive is a dot: what its policy saves of dots is saved.

    Args:
        primitive: One of two operands and one result.
        params: Gives the parameters of the `lax.dot_general` that it stands for, by its own.
    """
    from jax._src.interpreters import partial_eval, remat

    def saved(policy: Any, *operands: Any, **given: Any) -> bool:
        asked = policy is not None and policy(jax.lax.dot_general_p, *operands, **params(**given))
        return asked is True or type(asked).__name__ == "SaveableType"

    def of_jaxpr(policy: Any, unknown: Any, instantiated: Any, equation: Any) -> Any:
        left = [
            x for x, known in zip(equation.invars, instantiated, strict=True) if not known and not hasattr(x, "val")
        ]
        if any(unknown):
            return None, equation, [True], [True], left
        if saved(policy, *(x.aval for x in equation.invars), **equation.params):
            return equation, None, [False], [False], []
        return equation, equation, [False], [True], left

    def of_trace(trace: Any, lhs: Any, rhs: Any, **given: Any) -> Any:
        from jax._src.ad_checkpoint import primal_left_tangent_right

        def again(lhs: Any, rhs: Any) -> Any:
            return primitive.bind(lhs, rhs, **given)

        def tangents(out: Any, lhs: Any, rhs: Any) -> Any:
            return primal_left_tangent_right(out, again(lhs, rhs))

        out = again(lhs, rhs)
        keeps = saved(getattr(trace, "policy", trace), jax.typeof(lhs), jax.typeof(rhs), **given)
        if jax.__version_info__ >= (0, 12):  # what is kept is given apart from what uses it
            return (out, out, tangents) if keeps else (out, (), lambda _, lhs, rhs: again(lhs, rhs))
        return out, functools.partial(tangents, out) if keeps else again

    partial_eval.partial_eval_jaxpr_custom_rules[primitive] = of_jaxpr
    remat.rules[primitive] = of_trace


@_contract(None)
def put_module(lowered: Any, module: bytes) -> None:
    """Has a lowered program compiled as another module, in bytecode, of the same arguments and results."""
    own = lowered.compiler_ir()
    _ = lowered._lowering._hlo  # else it is kept elsewhere
    lowered._lowering._hlo = type(own).parse(module, context=own.context)
