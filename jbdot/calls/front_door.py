"""The edge: from what a user called to a plan, and from the plan to the answer.

A front door is a public function and, beside it, its planner: the same arguments with
`Operand`s for arrays, in plain Python, giving a `CallPlan` or raising a `Refusal`. `perform`
joins the two. An eager call looks its plan up and runs it as one compiled function; under a
JAX transformation the plan runs in the open, so that nothing but its steps is traced.
"""

import copy
import dataclasses
import functools
import inspect
import itertools
import marshal
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, Final, NoReturn

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.core import Tracer

from jbdot import hardware
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, BadValue, Refusal, array_text, kind_text, value_text
from jbdot.core.text import bytes_text
from jbdot.many_devices import partition_spec
from jbdot.many_devices.sharding_plan import plan_sharding
from jbdot.one_device import jax_internals
from jbdot.one_device.call_plan import CallPlan, Operand, UnsaidSharding, canonical, read

Planner = Callable[..., CallPlan]
Settings = tuple[Any, Any, Any, str | None]
SETTINGS: Final[dict[str, Any]] = {  # what every front door takes beside its own arguments
    "precision": None,
    "preferred_element_type": None,
    "out_sharding": None,
    "lowering": None,
}
PLANNERS: Final[dict[Callable[..., Any], Planner]] = {}
DIALECTS: Final[dict[str, "Dialect"]] = {}  # by name, in the order in which a reader meets them
RUNS: Final[dict[Any, Callable[..., jax.Array]]] = {}  # compiled calls, by function, arguments and settings
_MOST_RUNS: Final = 4096
# Inline when called inside another trace, so that no nested jit is left. From JAX 0.12 on `True` inlines only where the
# program is lowered: JAX_EARLY is what `True` was.
_INLINE: Final[Any] = True if (_inline := getattr(jax, "Inline", None)) is None else _inline.JAX_EARLY
_UNSET: Final[Settings] = (None, None, None, None)
_NAMED: Final = 4  # front doors, or shardings, in an error message
_ARRAYS: Final = (jax.Array, np.ndarray, np.generic, bool, int, float, complex, list, tuple)  # the last two: refused
CONCRETE: Final[set[type]] = set()  # array classes seen so far that are no tracers: they take the fast path
_PLANNED: Final[dict[Any, CallPlan]] = {}  # plans of calls that were traced, by all that a planner is told


@dataclasses.dataclass(frozen=True)
class Dialect:
    """A framework whose products a module speaks.

    Attributes:
        module: The module.
        framework: The framework and its versions, as a table's head has it.
        lines: What to write in JAX for the framework's other names, by the call: for Keras, `keras_names`.
    """

    module: ModuleType
    framework: str
    lines: Mapping[str, str]

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """Lists its front doors."""
        return [door for door in PLANNERS if door.__module__ == self.module.__name__]


def speaks(name: str, framework: str, lines: Mapping[str, str] = MappingProxyType({})) -> None:
    """Registers a module as the dialect of a framework.

    Args:
        name: The module's `__name__`.
        framework: The framework and its versions.
        lines: What to write in JAX for the framework's other names, by the call.
    """
    module = sys.modules[name]
    DIALECTS[name.rpartition(".")[2]] = Dialect(module, framework, lines)
    vars(module)["__getattr__"] = functools.partial(absent, module)  # unseen by type checkers, which then help
    vars(module)["__dir__"] = lambda: [*vars(module)["__all__"]]  # what a prompt offers for `K.<TAB>`


def namespace(dialect: str, name: str, **members: Any) -> ModuleType:
    """Makes a module of a dialect's, such as `keras.layers`, that is read and imported from as in the framework.

    Args:
        dialect: The dialect's `__name__`.
        name: What the module is called there.
        members: What it has, by name.
    """
    for called, member in members.items():
        if callable(member) and member.__name__.startswith("_"):  # it has another name in the dialect itself
            member.__name__, member.__qualname__ = called, f"{name}.{called}"
    module = ModuleType(f"{dialect}.{name}", f"What `{dialect}` has under the framework's `{name}`.")
    vars(module).update(members, __all__=sorted(members), __dir__=lambda: sorted(members))
    vars(module)["__getattr__"] = functools.partial(absent, module)
    sys.modules[module.__name__] = module
    return module


def without_effect(function: Callable[..., Any], **given: Any) -> None:
    """Refuses an argument that would mean something here, and is not the one value that changes nothing.

    Args:
        function: The front door.
        given: What is given, and what changes nothing, by name.

    Raises:
        ValueError: The two differ.
    """
    for name, (value, nothing) in given.items():
        if value is not nothing and value not in (nothing, None):
            cure = "An array of JAX is not written into: use what the call returns" if name == "out" else "Leave it out"
            facts = f"{_written(name, value)}, where only {nothing!r} is what happens here"
            refusal = BadValue("an argument must not ask for what jbdot does not do", facts, cure)
            raise refusal.told(public_name(function), "")


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
    settings: Settings = _UNSET,
    key: Any = None,
) -> jax.Array:
    """Answers a call of the front door `function`: plans it once for each kind of call, then runs the plan.

    Args:
        function: The public function, which has a planner.
        lhs: The first operand.
        rhs: The second operand.
        arguments: The other arguments, in the function's order.
        settings: precision, preferred_element_type and out_sharding as in `lax.dot_general`, the last for the
            result's own axes, and the lowering: None, "auto", "direct" or a name.
        key: What to find the arguments again by, where 1, 1.0 and True mean the same in them; by
            default their bytes, which tell those apart and take lists.
    """
    try:
        if type(lhs) in CONCRETE and type(rhs) in CONCRETE:
            # All that stands between an eager call and its compiled dot: a microsecond or two. The operands'
            # shapes and dtypes are left to jit's own cache.
            try:
                known = marshal.dumps(arguments, 2) if key is None else key
                run = RUNS.get((function, known, settings, getattr(lax.dot_general, "__code__", None)))
            except (TypeError, ValueError):  # an argument that cannot be looked up
                run = None
            if run is not None:
                return run(lhs, rhs)
        return _answer(function, lhs, rhs, arguments, settings, key)
    except Refusal as refusal:
        raise refused(refusal, function, lhs, rhs, arguments, settings) from None


def _answer(
    function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...], settings: Settings, key: Any
) -> jax.Array:
    """Answers a first call with these arguments, and every call under a JAX transformation: the slow path."""
    lhs, rhs = as_array(lhs), as_array(rhs)
    settings = read(*settings)
    if jax_internals.is_patched() or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((lhs, rhs))):
        return _planned(function, lhs, rhs, arguments, key).run(lhs, rhs, *settings)
    found = lookup(function, arguments, settings, key)
    if found is None:
        return _compiled(plan(function, lhs, rhs, arguments), settings, function.__name__)(lhs, rhs)
    kept = copy.deepcopy(arguments)  # a list may change in its owner's hands, and new shapes are planned later
    return kept_run(found, (lhs, rhs), lambda lhs, rhs: plan(function, lhs, rhs, kept).run(lhs, rhs, *settings))


def kept_run(found: Any, operands: tuple[Any, ...], run: Callable[..., jax.Array]) -> jax.Array:
    """Runs what a call does as a compiled function, which the next such call finds again by `found`."""
    compiled = RUNS.get(found)
    if compiled is None:
        if len(RUNS) >= _MOST_RUNS:
            RUNS.clear()
        function, *_ = found
        RUNS[found] = compiled = jitted(run, function.__name__)
    CONCRETE.update(type(x) for x in operands if not is_sparse(x))
    return compiled(*operands)


@functools.lru_cache(maxsize=_MOST_RUNS)
def _compiled(planned: CallPlan, settings: Settings, name: str) -> Callable[..., jax.Array]:
    return jitted(lambda lhs, rhs: planned.run(lhs, rhs, *settings), name)


def jitted(run: Callable[..., jax.Array], name: str) -> Callable[..., jax.Array]:
    """Compiles a function that profiles and logs name as what the user called."""
    run.__name__ = run.__qualname__ = name
    return jax.jit(run, inline=_INLINE)


def forget() -> None:
    """Lets go of every compiled call, so that the next is planned and chosen for anew."""
    RUNS.clear()
    _compiled.cache_clear()


def lookup(function: Callable[..., Any], arguments: tuple[Any, ...], settings: Settings, key: Any) -> Any:
    """Says what a call is found again by; None for arguments that cannot be."""
    try:
        # With the code of lax's dot: a library may put its own in that place, and is to be asked at every call.
        code = getattr(lax.dot_general, "__code__", None)
        found = function, marshal.dumps(arguments, 2) if key is None else key, settings, code
        hash(found)
    except (TypeError, ValueError):
        return None
    return found if _is_plain(arguments) else None


def _is_plain(value: Any) -> bool:
    """Says whether equal keys mean equal values, as they do not for arrays."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    exact = value is None or value.__class__ in (bool, int, float, str, Contraction)
    return exact or isinstance(value, (type, np.dtype))


def _planned(function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...], key: Any) -> CallPlan:
    """Plans a traced call, once for each kind of call of dense arrays."""
    if is_sparse(lhs) or is_sparse(rhs):
        return plan(function, lhs, rhs, arguments)
    try:
        known = marshal.dumps(arguments, 2) if key is None else key
        found = function, known, lhs.shape, lhs.dtype, rhs.shape, rhs.dtype, jax.config.jax_enable_x64
        planned = _PLANNED.get(found)
    except (TypeError, ValueError):  # an argument that cannot be looked up
        return plan(function, lhs, rhs, arguments)
    if planned is None:
        planned = plan(function, lhs, rhs, arguments)
        if _is_plain(arguments):
            if len(_PLANNED) >= _MOST_RUNS:
                _PLANNED.clear()
            _PLANNED[found] = planned
    return planned


def plan(function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...] = ()) -> CallPlan:
    """Plans a call; operands need only have shape and dtype.

    Raises:
        Refusal: The call breaks a rule of the front door.
    """
    left, right = operand_names(function)
    for (name, default), value in zip(extra_defaults(function).items(), arguments, strict=True):
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            raise BadType(
                "only the operands may be traced",
                f"{name} is",
                f"Name it to jax.jit as static, and give it hashable: jax.jit(f, static_argnames={name!r}), a tuple "
                "for a list",
            )
        if isinstance(default, bool) and getattr(value, "size", 1) != 1:
            raise BadValue("a flag must be true or false", f"{name}={value!r}")
    planned = PLANNERS[function](operand(left, lhs), operand(right, rhs), *arguments)
    if (is_sparse(lhs) or is_sparse(rhs)) and not planned.sparse:
        raise BadType(
            "the operands must be dense arrays here",
            "a BCOO is given",
            "Make it dense with .todense(), or give it to dot, sparse_dense_matmul or keras.batch_dot",
        )
    planned.contraction.sizes(planned.lhs.shape(lhs.shape), planned.rhs.shape(rhs.shape), names=(left, right))
    return planned


def refused(
    refusal: Refusal,
    function: Callable[..., Any],
    lhs: Any,
    rhs: Any,
    arguments: tuple[Any, ...],
    settings: Settings = _UNSET,
) -> Exception:
    """Makes the exception for a refused call, with the front doors that do answer it, with the same settings."""
    left, right = operand_names(function)
    call = [_written(name, x) for name, x in ((left, lhs), (right, rhs))]
    call += [
        f"{name}={value!r}" if isinstance(value, (np.ndarray, np.generic)) else _written(name, value)
        for name, value in given(function, arguments).items()
    ]
    remedies = [_sharding_advice(refusal)] if isinstance(refusal, UnsaidSharding) else []
    if hasattr(lhs, "shape") and hasattr(rhs, "shape"):
        found = (
            f"{public_name(door)} gives {planned.out_shape(lhs.shape, rhs.shape)}"
            for door, planned in others(function, lhs, rhs, arguments)
            if isinstance(planned, CallPlan) and _runs(planned, lhs, rhs, settings)
        )
        answers = list(itertools.islice(found, _NAMED))
        if answers:
            remedies.append(f"To the same call {', '.join(answers)}")
    return refusal.told(public_name(function), ", ".join(call), remedies)


def _sharding_advice(refusal: UnsaidSharding) -> str:
    """Returns the shardings that the result may have, as code, with what each has to send."""
    lhs, rhs = refusal.operands
    try:
        outputs = plan_sharding(refusal.contraction, lhs, rhs, hardware=hardware.known("cpu")).outputs
    except ValueError:  # a mesh that says too little
        return "Name it: out_sharding=jax.sharding.PartitionSpec(...)"
    named = [
        f"out_sharding={partition_spec.code(spec)} (sends {bytes_text(way.sent)})" for spec, way in outputs.items()
    ]
    return (
        f"Name one, P being jax.sharding.PartitionSpec, with what each device has to send: {', '.join(named[:_NAMED])}"
    )


def _runs(planned: CallPlan, lhs: Any, rhs: Any, settings: Settings) -> bool:
    """Says whether a plan is carried out with these settings, of these operands: it is traced."""
    try:
        jax.eval_shape(lambda lhs, rhs: planned.run(lhs, rhs, *read(*settings)), lhs, rhs)
    except Exception:  # whoever refuses, the function is no answer
        return False
    return True


def _written(name: str, value: Any) -> str:
    """Writes an argument of a call: an array by its dtype and shape, anything else as `value_text` does."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return array_text(name, value.shape, value.dtype, is_sparse(value))
    return f"{name}={value_text(value)}"


def others(
    function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...]
) -> list[tuple[Callable[..., Any], CallPlan | Refusal]]:
    """Asks every other front door the same call: the plan it would make, or why it refuses.

    One that has no such argument as the call gives, or needs one that it does not give, cannot be
    called so and is left out. Those of the same name come first.
    """
    asked = given(function, arguments)
    found: list[tuple[Callable[..., Any], CallPlan | Refusal]] = []
    for door in sorted(PLANNERS, key=lambda door: door.__name__ != function.__name__):
        # What is told its axes, as contract and dot_general are, says nothing of a framework.
        if door is function or door.__module__ == "jbdot.calls.contract":
            continue
        defaults = extra_defaults(door)
        needed = {name for name, default in defaults.items() if default is inspect.Parameter.empty}
        if not needed <= asked.keys() <= defaults.keys():
            continue
        try:
            found.append((door, plan(door, lhs, rhs, tuple((defaults | asked).values()))))
        except Refusal as refusal:
            found.append((door, refusal))
    return found


def absent(dialect: ModuleType, name: str) -> NoReturn:
    """Says where to find what a dialect has not: it has its framework's products alone.

    Raises:
        AttributeError: Always; it is the `__getattr__` of every dialect.
    """
    if name.startswith("__"):  # what Python itself looks for
        raise AttributeError(f"module {dialect.__name__!r} has no attribute {name!r}", name=name, obj=dialect)
    products = ", ".join(dir(dialect))
    raise AttributeError(
        f"{dialect.__name__} has no {name}: of its framework it has the products alone, {products}. "
        f"{_in_jax(dialect, name)}",
        name=name,
        obj=dialect,
    )


def _in_jax(dialect: ModuleType, name: str) -> str:
    """Says what to write in JAX for a name that a dialect has not."""
    for call, line in DIALECTS[dialect.__name__.split(".")[1]].lines.items():
        if call.partition("(")[0] == name:
            return f"With jnp for jax.numpy, {call} is:  {line}"
    libraries = [library.__name__ for library in (jnp, jax.nn) if hasattr(library, name)]
    return f"See {libraries[0]}.{name}." if libraries else "See jax.numpy, jax.nn and keras.ops."


def public_name(function: Callable[..., Any]) -> str:
    """Names a front door as users write it after `jbdot.`: "keras.batch_dot"."""
    return f"{function.__module__}.{function.__qualname__}".removeprefix("jbdot.").removeprefix("calls.contract.")


@functools.cache
def operand_names(function: Callable[..., Any]) -> tuple[str, str]:
    """Returns the names of the two operands, as the front door's framework has them."""
    first, second, *_ = inspect.signature(PLANNERS[function]).parameters
    return first, second


@functools.cache
def extra_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Lists the arguments beside the operands and `lax.dot_general`'s own, in the planner's order, with defaults."""
    _, _, *extra = inspect.signature(PLANNERS[function]).parameters
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in extra}


def given(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Returns the arguments that differ from their defaults, by name."""
    named = zip(extra_defaults(function).items(), arguments, strict=True)
    return {name: value for (name, default), value in named if value is not default}


def bound(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any, tuple[Any, ...]]:
    """Sorts a call's arguments into its two operands and the others, in the planner's order.

    Raises:
        TypeError: The call does not fit the function's signature.
    """
    left, right = operand_names(function)
    try:
        call = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        names = ", ".join(inspect.signature(function).parameters)
        raise BadType(f"the call must fit {public_name(function)}({names})", str(error)) from None
    call.apply_defaults()
    found = call.arguments
    listed = [name for name, each in inspect.signature(function).parameters.items() if each.kind is each.VAR_POSITIONAL]
    operands = found[listed[0]] if listed else (found[left], found[right])
    if len(operands) != 2:
        raise BadType(
            "the product must be of two operands here",
            f"{len(operands)} given",
            f"Call {public_name(function)} itself, or multiply two at a time",
        )
    return *operands, tuple(found[name] for name in extra_defaults(function))


def worded(refusal: Refusal, function: Callable[..., Any], call: dict[str, Any]) -> Exception:
    """Makes the exception for a refused call of any number of arrays, by name."""
    return refusal.told(public_name(function), ", ".join(_written(name, x) for name, x in call.items()))


def as_array(x: Any) -> Any:
    """Takes an operand as it comes: a JAX or NumPy array, a BCOO or a scalar.

    Raises:
        TypeError: It is something else, such as a list.
    """
    if isinstance(x, jax.Array) or is_sparse(x):
        return x
    if isinstance(x, (list, tuple)) or not (hasattr(x, "__array__") or isinstance(x, (bool, int, float, complex))):
        raise BadType("an operand must be an array", f"got a {kind_text(x)}", _cure(x))
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError, OverflowError):
        dtype = getattr(x, "dtype", type(x).__name__)
        raise BadType("an operand must be an array of numbers", f"got {dtype}", "Convert it to numbers first") from None


def _cure(x: Any) -> str:
    """Says what to give in the place of what is no array."""
    if isinstance(x, str):
        return "A string goes first: einsum(equation, x, y), contract(contraction, lhs, rhs)"
    if isinstance(x, (list, tuple)):
        return "Make one of arrays by jax.numpy.stack, of numbers by jax.numpy.asarray, of a shape by jax.numpy.zeros"
    return "Give an array of JAX or NumPy, or a number"


def is_array(x: Any) -> bool:
    """Says whether x holds values, as an array of JAX or NumPy, a scalar or a BCOO does, and a tracer does not."""
    if type(x) in CONCRETE:
        return True
    return not isinstance(x, Tracer) and (isinstance(x, _ARRAYS) or is_sparse(x))


def is_sparse(x: Any) -> bool:
    """Says whether x is a `jax.experimental.sparse.BCOO`; costs no import of it."""
    return type(x).__name__ == "BCOO"


def operand(name: str, x: Any) -> Operand:
    """Takes of an operand what planning knows of it.

    Raises:
        TypeError: Its dtype is none of numbers.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.extended):  # a key
        cure = "jax.random.key_data gives the numbers of a key"
        raise BadType("an operand must be an array of numbers", f"{name} has dtype {x.dtype}", cure)
    canonical(x.dtype, f"{name} is ")
    return Operand(name, tuple(x.shape), jnp.dtype(x.dtype), is_sparse(x))
