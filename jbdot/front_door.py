"""The edge: from what a user called to a plan, and from the plan to the answer.

A front door is a public function and, beside it, its planner: the same arguments with
`Operand`s for arrays, in plain Python, giving a `Planned` or raising a `Refusal`. `perform`
joins the two. An eager call looks its plan up and runs it as one compiled function; under a
JAX transformation the plan runs in the open, so that nothing but its steps is traced.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

import jax
from jax import numpy as jnp

from jbdot.errors import BadType, Refusal, array_text
from jbdot.planned import Operand, Planned

Planner = Callable[..., Planned]
PLANNERS: Final[dict[Callable[..., Any], Planner]] = {}
_RUNS: Final[dict[Any, Callable[..., jax.Array]]] = {}
_MOST_RUNS: Final = 4096


def plans(function: Callable[..., Any]) -> Callable[[Planner], Planner]:
    """Registers the planner of a front door."""

    def register(planner: Planner) -> Planner:
        PLANNERS[function] = planner
        return planner

    return register


def perform(
    function: Callable[..., Any],
    lhs: Any,
    rhs: Any,
    arguments: tuple[Any, ...] = (),
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Answers a call of the front door `function`: plans it once for each kind of call, then runs the plan.

    Args:
        function: The public function, which has a planner.
        lhs: The first operand.
        rhs: The second operand.
        arguments: The other arguments, in the function's order.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        out_sharding: As in `lax.dot_general`, for the result's own axes.
    """
    try:
        if isinstance(lhs, jax.core.Tracer) or isinstance(rhs, jax.core.Tracer) or _is_traced_sparse(lhs):
            lhs, rhs = as_array(lhs), as_array(rhs)
            planned = plan(function, lhs, rhs, arguments)
            return planned.run(lhs, rhs, precision=precision, preferred_element_type=preferred_element_type, out_sharding=out_sharding)
        if not (isinstance(lhs, jax.Array) and isinstance(rhs, jax.Array)):
            lhs, rhs = as_array(lhs), as_array(rhs)
        settings = precision, preferred_element_type, out_sharding
        try:
            # A hit costs under 2 us, which is all that may stand between a call and its jitted dot.
            key = function, lhs.shape, lhs.dtype, rhs.shape, rhs.dtype, _key(arguments), settings, is_sparse(lhs)
            run = _RUNS[key]
        except (KeyError, TypeError):
            run = _remember(function, lhs, rhs, arguments, settings)
        return run(lhs, rhs)
    except Refusal as refusal:
        raise refused(refusal, function, lhs, rhs, arguments) from None


def plan(function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...] = ()) -> Planned:
    """Plans a call; operands need only have shape and dtype.

    Raises:
        Refusal: The call breaks a rule of the front door.
    """
    left, right = operand_names(function)
    planned = PLANNERS[function](_operand(left, lhs), _operand(right, rhs), *arguments)
    if is_sparse(rhs) or (is_sparse(lhs) and not planned.sparse):
        raise BadType("operands are dense arrays here", "a BCOO is given", "Make it dense with .todense(), or give it to dot or sparse_dense_matmul")
    planned.contraction.sizes(planned.lhs.shape(lhs.shape), planned.rhs.shape(rhs.shape), (left, right))
    return planned


def refused(refusal: Refusal, function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...]) -> Exception:
    """Makes the exception for a refused call, with the front doors that would answer it."""
    left, right = operand_names(function)
    call = [array_text(name, x.shape, x.dtype, is_sparse(x)) if hasattr(x, "shape") else f"{name}={x!r}" for name, x in ((left, lhs), (right, rhs))]
    call += [f"{name}={value!r}" for name, value in given(function, arguments).items()]
    remedies: list[str] = []
    if hasattr(lhs, "shape") and hasattr(rhs, "shape"):
        answers = [
            f"{public_name(door)} gives {planned.out_shape(lhs.shape, rhs.shape)}"
            for door, planned in others(function, lhs, rhs, arguments)
            if isinstance(planned, Planned)
        ]
        if answers:
            remedies.append(f"To the same call {', '.join(answers[:4])}")
    return refusal.told(public_name(function), ", ".join(call), remedies)


def others(function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...]) -> list[tuple[Callable[..., Any], Planned | Refusal]]:
    """Asks every other front door the same call: the plan it would make, or why it refuses.

    A front door that has no such argument as the call gives, or needs one that it does not
    give, cannot be asked. Those of the same name come first.
    """
    asked = given(function, arguments)
    found: list[tuple[Callable[..., Any], Planned | Refusal]] = []
    for door in sorted(PLANNERS, key=lambda door: door.__name__ != function.__name__):
        defaults = extra_defaults(door)
        needed = {name for name, default in defaults.items() if default is inspect.Parameter.empty}
        if door is function or not needed <= set(asked) <= set(defaults):
            continue
        try:
            found.append((door, plan(door, lhs, rhs, tuple((defaults | asked).values()))))
        except Refusal as refusal:
            found.append((door, refusal))
    return found


def public_name(function: Callable[..., Any]) -> str:
    """Names a front door as users write it after `jbdot.`: "keras.batch_dot"."""
    return f"{function.__module__}.{function.__qualname__}".removeprefix("jbdot.").removeprefix("contract.")


@functools.cache
def operand_names(function: Callable[..., Any]) -> tuple[str, str]:
    """The names of the two operands, as the front door's framework has them."""
    first, second, *_ = inspect.signature(PLANNERS[function]).parameters
    return first, second


@functools.cache
def extra_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments beside the operands and `lax.dot_general`'s own, in the planner's order, with their defaults."""
    _, _, *extra = inspect.signature(PLANNERS[function]).parameters
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in extra}


def given(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments that differ from their defaults, by name."""
    named = zip(extra_defaults(function).items(), arguments, strict=True)
    return {name: value for (name, default), value in named if value is not default}


def as_array(x: Any) -> Any:
    """Takes an operand as it comes: a JAX or NumPy array, a BCOO or a scalar.

    Raises:
        TypeError: It is something else, such as a list.
    """
    if isinstance(x, jax.Array) or is_sparse(x):
        return x
    if isinstance(x, (list, tuple)) or not (hasattr(x, "__array__") or isinstance(x, (bool, int, float, complex))):
        raise BadType("an operand is an array", f"got a {type(x).__name__}", "Make one with jax.numpy.asarray")
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise BadType("an operand is an array of numbers", str(error)) from None


def is_sparse(x: Any) -> bool:
    """Whether x is a `jax.experimental.sparse.BCOO`; costs no import of it."""
    return type(x).__name__ == "BCOO"


def _is_traced_sparse(x: Any) -> bool:
    return is_sparse(x) and any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x))


def _operand(name: str, x: Any) -> Operand:
    return Operand(name, tuple(x.shape), jnp.dtype(x.dtype), is_sparse(x))


def _remember(function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...], settings: Any) -> Callable[..., jax.Array]:
    precision, *rest = settings
    run = _compiled(plan(function, lhs, rhs, arguments), tuple(precision) if isinstance(precision, list) else precision, *rest)
    if len(_RUNS) >= _MOST_RUNS:
        _RUNS.clear()
    try:
        _RUNS[function, lhs.shape, lhs.dtype, rhs.shape, rhs.dtype, _key(arguments), settings, is_sparse(lhs)] = run
    except TypeError:
        pass  # arguments that cannot be hashed, such as arrays, are planned anew each time
    return run


@functools.lru_cache(maxsize=_MOST_RUNS)
def _compiled(planned: Planned, precision: Any, preferred_element_type: Any, out_sharding: Any) -> Callable[..., jax.Array]:
    def dot(lhs: Any, rhs: Any) -> jax.Array:
        return planned.run(lhs, rhs, precision=precision, preferred_element_type=preferred_element_type, out_sharding=out_sharding)

    return jax.jit(dot, inline=True)  # on constants inside a trace, it leaves its steps and no call


def _key(value: Any) -> Any:
    """What a value is in a cache: lists as tuples, and 1, 1.0 and True apart."""
    kind = value.__class__
    if kind is int or value is None:
        return value
    return tuple([_key(item) for item in value]) if kind is list or kind is tuple else (kind, value)
