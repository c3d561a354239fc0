"""A call of one operand, or of more than two: read as a contraction, and multiplied along a path.

A front door that takes any number has, beside the planner for two operands, a reader for all of them: the same
arguments with a tuple of `Operand`s, giving a `Contraction` or raising a `Refusal`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
from jax import lax
from jax import numpy as jnp
from jax.core import Tracer

from jbdot.calls.front_door import (
    CONCRETE,
    RUNS,
    Settings,
    as_array,
    is_sparse,
    jitted,
    kept_run,
    lookup,
    operand,
    public_name,
    worded,
)
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, Refusal
from jbdot.one_device import jax_internals
from jbdot.one_device.call_plan import read
from jbdot.one_device.choice import PLATFORMS
from jbdot.one_device.path import ContractionPath, best

Reader = Callable[..., Contraction]
READERS: Final[dict[Callable[..., Any], Reader]] = {}


def reads(function: Callable[..., Any]) -> Callable[[Reader], Reader]:
    """Registers the reader of a front door."""

    def register(reader: Reader) -> Reader:
        READERS[function] = reader
        return reader

    return register


def perform_all(
    function: Callable[..., Any], operands: Sequence[Any], arguments: tuple[Any, ...], settings: Settings
) -> jax.Array:
    """Answers a call of a front door with any number of operands: see `jbdot.calls.front_door.perform`.

    Args:
        function: The public function, which has a reader.
        operands: All operands.
        arguments: The other arguments, in the function's order: what a call is found again by.
        settings: precision, preferred_element_type, out_sharding and lowering.
    """
    try:
        if CONCRETE.issuperset(map(type, operands)):
            code = getattr(lax.dot_general, "__code__", None)
            try:
                run = RUNS.get((function, len(operands), arguments, settings, code))
            except TypeError:  # an argument that cannot be looked up
                run = None
            if run is not None:
                return run(*operands)
        return _answer(function, operands, arguments, settings)
    except Refusal as refusal:
        raise refused_all(refusal, function, operands, arguments) from None


def _answer(
    function: Callable[..., Any], operands: Sequence[Any], arguments: tuple[Any, ...], settings: Settings
) -> jax.Array:
    """Answers a first call with these arguments, and every call under a JAX transformation."""
    arrays = [as_array(x) for x in operands]
    settings = read(*settings)

    def run(*arrays: Any) -> jax.Array:
        return path_of(function, arrays, arguments, jax.default_backend()).run(arrays, *settings)

    if jax_internals.is_patched() or any(isinstance(x, Tracer) for x in arrays):
        return run(*arrays)
    if lookup(function, arguments, settings, arguments) is None:
        return jitted(run, function.__name__)(*arrays)
    code = getattr(lax.dot_general, "__code__", None)
    return kept_run((function, len(arrays), arguments, settings, code), tuple(arrays), run)


def contraction_of(function: Callable[..., Any], operands: Sequence[Any], arguments: tuple[Any, ...]) -> Contraction:
    """Reads a call, whose operands need only have shape and dtype.

    Raises:
        Refusal: The call breaks a rule of the front door.
    """
    if any(map(is_sparse, operands)):
        raise BadType("the operands must be dense arrays here", "a BCOO is given", "Make it dense with .todense()")
    given = tuple(operand(f"operand {at}", x) for at, x in enumerate(operands))
    contraction = READERS[function](given, *arguments)
    contraction.sizes(*(x.shape for x in given), names=[x.name for x in given])
    return contraction


def path_of(
    function: Callable[..., Any], operands: Sequence[Any], arguments: tuple[Any, ...], platform: str
) -> ContractionPath:
    """Finds the path of a call on a platform.

    Raises:
        Refusal: The call breaks a rule of the front door.
    """
    contraction = contraction_of(function, operands, arguments)
    itemsize = max(jnp.dtype(x.dtype).itemsize for x in operands)
    return best(contraction, tuple(tuple(x.shape) for x in operands), PLATFORMS.get(platform, platform), itemsize)


def bound_all(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Sorts a call's arguments into its operands, one list of them or several arguments, and the others of the reader.

    Raises:
        TypeError: The call does not fit the function's signature.
    """
    signature = inspect.signature(function)
    try:
        call = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        names = ", ".join(signature.parameters)
        refusal = BadType(f"the call must fit {public_name(function)}({names})", str(error))
        raise refusal.told("explain", ", ".join(map(repr, args))) from None
    listed = next((name for name, each in signature.parameters.items() if each.kind is each.VAR_POSITIONAL), "tensors")
    found = call.get(listed, ())
    if len(found) == 1 and isinstance(found[0], list):
        (found,) = found
    return tuple(found), tuple(call[name] for name in _names(function))


def arguments_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Names the arguments beside the operands."""
    return dict(zip(_names(function), arguments, strict=True))


def _names(function: Callable[..., Any]) -> list[str]:
    _, *names = inspect.signature(READERS[function]).parameters
    return names


def refused_all(
    refusal: Refusal, function: Callable[..., Any], operands: Sequence[Any], arguments: tuple[Any, ...]
) -> Exception:
    """Makes the exception for a refused call of any number of operands."""
    call = arguments_of(function, arguments) | {f"operand {at}": x for at, x in enumerate(operands)}
    return worded(refusal, function, call)
