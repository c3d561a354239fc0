"""Lowers the dots of a function, of a block or of a decorated method by jbdot, also of code that never heard of it.

A function is called as it is, in a context that marks the dots which are traced in it (`mark`): nothing of it is read,
copied or interpreted.
"""

import functools
import types
from collections.abc import Callable
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, overload

import jax
import numpy as np
from jax.core import Tracer

from jbdot.core.errors import BadType, BadValue, Refusal
from jbdot.hardware import Hardware
from jbdot.hardware import known as known_hardware
from jbdot.one_device import jax_internals, mark
from jbdot.one_device.choice import known
from jbdot.one_device.lowerings import LoweringName
from jbdot.one_device.report import Report
from jbdot.programs.step_plan import TRIES, StepPlan, StepPlans

P = ParamSpec("P")
R = TypeVar("R")

# What a report traces. All else passes through a function as it is: flags, names, None, modules.
_ARRAYS: Final = (jax.Array, np.ndarray, np.generic, Tracer, *jax_internals.references())

_JITTED: Final = type(jax.jit(lambda: None))

GradDtype = Literal["operand", "result"] | None


@overload
def optimize(
    f: Callable[P, R], *, lowering: LoweringName = "auto", grad_dtype: GradDtype = None, tries: int = TRIES
) -> "Optimized[P, R]": ...


@overload
def optimize(
    f: LoweringName | None = None, *, lowering: LoweringName = "auto", grad_dtype: GradDtype = None
) -> "Optimization": ...


def optimize(
    f: Callable[..., Any] | str | None = None,
    *,
    lowering: str = "auto",
    grad_dtype: GradDtype = None,
    tries: int = TRIES,
) -> Any:
    """Lowers every dot of a function by jbdot: `optimize(f)(*args) = f(*args)`, each `lax.dot_general` by a lowering.

    A function (`optimize(f)`), a decorator (`@optimize`) and a context (`with optimize():`). The dots of jit, scan,
    while_loop, cond, checkpoint, shard_map, custom_jvp and custom_vjp are lowered too, and those of their derivatives,
    however deep, inside and outside of the call. The program stays JAX's: the jaxpr has lax's own dots, marked by the
    context of their equations, and only what the backend is handed differs. So bits may differ from plain JAX's where
    another lowering than "direct" is chosen: sums are added in another order, in no fewer bits.

    A jitted function whose arguments are cut over several devices, on a mesh of Auto axes, is planned as a whole when
    it is first called: arguments and results stay where they are, arrays between are placed anew where the compiled
    program then sends less or is estimated to take less time, and is worse in nothing (`Optimized.plan`). Else it runs
    as it is. Contexts, and functions that are jitted around it, compile nothing.

    Contexts nest, and the inner one counts: `with optimize("direct"):` switches it off for a block. Kernels
    (`pallas_call`) keep their own dots.

    Args:
        f: Any function, also one already transformed: a jitted train step, `jax.grad(loss)`. Without it, or with the
            name of a lowering, the result is a context and a decorator.
        lowering: "auto", which chooses for each dot by its sizes and backend; or the name of a lowering, for those
            dots that it fits, "auto" for the others. A dot that names its own lowering keeps it.
        grad_dtype: The dtype that gradients of dots are summed to, of jbdot's calls and plans too: "result", the dtype
            of the forward dot's result, is JAX's way; "operand" is the operand's own where that is wider, so that the
            gradient of a float32 weight in a bfloat16 dot is not rounded to bfloat16. None leaves it to the context
            around, else to JAX. `optimize("direct", grad_dtype="operand")` changes nothing else.
        tries: How many planned programs are compiled, beside the plain one, for a jitted function on a mesh; 0 plans
            and compiles nothing.

    Returns:
        An `Optimized`: f, to call and transform, with `report(*args)`, which lists the dots; of a jitted f also
        `plan`, and its `lower`, `trace` and `eval_shape`. Or an `Optimization`.

    Raises:
        TypeError: f is not callable, or lowering no string.
        ValueError: There is no such lowering, grad_dtype is none of its words, or tries is no count.

    Example:
        >>> from jbdot import optimize
        >>> import jax, jax.numpy as jnp
        >>> def loss(w, x):
        ...     return jnp.sum(jnp.tanh(x @ w) ** 2)
        >>> step = jax.jit(optimize(jax.grad(loss)))
        >>> step(jnp.ones((4, 3)), jnp.ones((2, 4))).shape
        (4, 3)
        >>> with optimize():
        ...     out = jax.jit(loss)(jnp.ones((4, 3)), jnp.ones((2, 4)))
        >>> [str(dot.contraction) for dot in optimize(loss).report(jnp.ones((4, 3)), jnp.ones((2, 4)))]
        ['m k, k n -> m n']
    """
    try:
        if f is None or isinstance(f, str):
            return Optimization(lowering if f is None else f, grad_dtype)
        return Optimized(f, lowering, grad_dtype, tries)
    except Refusal as refusal:
        said = f"f={f!r}, lowering={lowering!r}" + (f", grad_dtype={grad_dtype!r}" if grad_dtype is not None else "")
        raise refusal.told("optimize", said) from None


class Optimization:
    """A context in which dots are lowered by jbdot, and a decorator. Made by `optimize`."""

    def __init__(self, lowering: Any, grad_dtype: Any = None) -> None:
        self._lowering, self._grad_dtype = known(lowering), mark.known_grad_dtype(grad_dtype)
        self._entered = list[Any]()

    def __enter__(self) -> "Optimization":
        context = mark.marked(self._lowering, grad_dtype=self._grad_dtype)
        context.__enter__()
        self._entered.append(context)
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)

    def __call__(self, f: Callable[P, R]) -> "Optimized[P, R]":
        """Returns the function, its dots lowered so."""
        return Optimized(f, self._lowering, self._grad_dtype)


class Optimized(Generic[P, R]):
    """A function whose dots are lowered by jbdot. `__wrapped__` is the function as it was; so are its attributes."""

    def __init__(self, f: Callable[P, R], lowering: Any = "auto", grad_dtype: Any = None, tries: Any = 0) -> None:
        if not callable(f):
            raise BadType("f must be callable", f"got a {type(f).__name__}", "Give the function, not its result")
        if not isinstance(tries, int) or tries < 0:
            raise BadValue("tries must be a whole number, 0 or more", f"tries={tries!r}")
        self._f, self._lowering, self._grad_dtype = f, known(lowering), mark.known_grad_dtype(grad_dtype)
        self._plans = StepPlans(f, tries) if type(f) is _JITTED else None
        functools.update_wrapper(self, f, updated=())  # names and words; an object's attributes stay its own

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function in the context that marks its dots."""
        with mark.marked(self._lowering, grad_dtype=self._grad_dtype):
            run = self._f if self._plans is None else self._plans.of(args, kwargs)
            return run(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> "Optimized[..., Any]":
        return self if instance is None else self._of(types.MethodType(self._f, instance))

    def _of(self, f: Callable[..., Any]) -> "Optimized[..., Any]":
        """Wraps another function with the same settings."""
        return Optimized(f, self._lowering, self._grad_dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._f, name)
        if name not in ("lower", "trace", "eval_shape"):
            return value
        return self._of(value)  # they call the function too

    def plan(
        self, *args: Any, topology: str | None = None, hardware: Hardware | str | None = None, **kwargs: Any
    ) -> StepPlan:
        """Plans a call of a jitted function on a mesh, and says what it sends before and after, without running it.

        Arguments, results, and the user's own constraints stay where they are. Arrays between are placed by a layout of
        the whole program, found as `plan_program` finds one. The compiler is asked for the plain program and for
        `tries` planned ones; one of these is taken if it sends no more bytes, computes no more than 1.02 times the
        FLOPs, needs no more than 1.1 times the temporaries, takes no longer by the compiler's own estimate (which there
        is for TPUs alone), and is better in bytes or in time by at least a hundredth.

        Args:
            *args: The call's arguments, or `jax.ShapeDtypeStruct`s with a `NamedSharding`.
            topology: What is compiled for, such as "v5e:4x4", with none of it here; by default the devices of the mesh,
                and then a call runs what is planned.
            hardware: Whose figures estimates are from, or a name that `jbdot.hardware.known` knows.
            **kwargs: Likewise, by name.

        Raises:
            TypeError: The function was not made by `jax.jit`.
            ValueError, ImportError, RuntimeError: As of `communication`.
        """
        try:
            if self._plans is None:
                raise BadType(
                    "only a function that jax.jit made is planned as a whole",
                    f"got a {type(self._f).__name__}",
                    "Give optimize(jax.jit(step)); what is within other functions is lowered as it stands",
                )
            figures = known_hardware(hardware) if isinstance(hardware, str) else hardware
            with mark.marked(self._lowering, grad_dtype=self._grad_dtype):
                return self._plans.plan(args, kwargs, topology, figures)
        except Refusal as refusal:
            raise refusal.told("Optimized.plan", getattr(self, "__name__", "")) from None

    def report(self, *args: Any, platform: str | None = None, **kwargs: Any) -> Report:
        """Lists the dots of a call, and how each will be lowered, without running anything.

        Args:
            args: The call's arguments; a `jax.ShapeDtypeStruct` will do for an array. Other leaves, Python numbers
                included, reach the function untouched.
            platform: "cpu", "cuda" (or "gpu"), "rocm" or "tpu"; by default where JAX runs.
            kwargs: Likewise, by name.

        Returns:
            A `Report`: print it, or iterate over its rows. It is of one device: a dot that XLA cuts for several
            runs as it stands, one inside `shard_map` is listed with the sizes of one shard.
        """
        function: Callable[..., Any] = self.__call__
        arrays, call = _parted((args, kwargs), (*_ARRAYS, jax.ShapeDtypeStruct))

        def of_arrays(*arrays: Any) -> list[Any]:
            args, kwargs = call(arrays)
            return _parted(function(*args, **kwargs), _ARRAYS)[0]

        jaxpr = jax.make_jaxpr(of_arrays)(*arrays)
        return Report.of(getattr(self, "__name__", type(self._f).__name__), jaxpr, platform or jax.default_backend())


def _parted(tree: Any, kinds: tuple[type, ...]) -> tuple[list[Any], Callable[..., Any]]:
    """Returns the arrays among the leaves, and a function that puts others in their places."""
    leaves, structure = jax.tree.flatten(tree)
    taken = [isinstance(leaf, kinds) for leaf in leaves]
    left = [None if found else leaf for leaf, found in zip(leaves, taken, strict=True)]

    def rebuild(arrays: Any) -> Any:
        given = iter(arrays)
        return structure.unflatten(next(given) if found else leaf for leaf, found in zip(left, taken, strict=True))

    return [leaf for leaf, found in zip(leaves, taken, strict=True) if found], rebuild
