"""Plans the dots of a whole function, also of one that never heard of jbdot.

`optimize(f)` traces f, puts the planned dot wherever `lax.dot_general` stands, in the function and in whatever it
calls, loops over, or differentiates by, and runs the result. A jaxpr is changed equation by equation and nothing
else in it: no operation is interpreted here.
"""

import dataclasses
import functools
import html
import re
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core, linear_util, source_info_util

from jbdot.choice import PLATFORMS, Choice, chosen, known
from jbdot.contraction import Contraction
from jbdot.errors import BadType, Refusal, array_text
from jbdot.primitive import dot_general_p, equations, planned_equation, straightened, with_equations
from jbdot.request import Request
from jbdot.table import table

P = ParamSpec("P")
R = TypeVar("R")

# What is traced. All else passes through a function as it is: flags, names, None, modules.
_ARRAYS: Final = (jax.Array, np.ndarray, np.generic, jax.Ref, Tracer)
_JAXPRS: Final[Any] = (core.Jaxpr, getattr(core, "ClosedJaxpr", core.Jaxpr))  # one class since JAX 0.12
# Kernels and partitioned calls: their jaxprs are for other compilers than XLA's, or for their owners' rules.
_SEALED: Final = {
    "pallas_call",
    "core_map",
    "mpmd_map",
    "cudnn_fusion",
    "custom_fusion",
    "fusible",
    "custom_partitioning",
}
_UNCOUNTED: Final = {"while", "custom_linear_solve"}  # what they hold runs as often as the numbers ask
source_info_util.register_exclusion(__file__)  # where a dot comes from is never here
# The jaxprs that were made, by plan, as long as those that they were made of live: JAX keeps the trace of an inner
# jit and compiles by identity, so that an eager call of the same function compiles nothing again.
_MADE: Final[dict[str, weakref.WeakKeyDictionary[Any, Any]]] = {}


def optimize(f: Callable[P, R], *, plan: str = "auto") -> "Optimized[P, R]":
    """Plans every dot of a function: `optimize(f)(*args) = f(*args)`, each `lax.dot_general` in f by a lowering.

    The dots of jit, scan, while_loop, cond, checkpoint, shard_map, custom_jvp and custom_vjp are planned too, and
    those of their derivative rules, however deep. What f is remains: its results, dtypes and weak types, donated
    arguments, shardings, effects, names. Kernels (`pallas_call`) and `custom_partitioning` are left as they are.

    Arrays among the arguments are traced; all other leaves, Python numbers included, reach f untouched, so that
    flags need no `static_argnums`. Each call traces f, as `jax.grad(f)` does: put `jax.jit` around what runs often.

    Args:
        f: Any function that JAX can trace, also one already transformed: a jitted train step, `jax.grad(loss)`.
        plan: "auto", which chooses for each dot by its sizes and backend, or the name of a lowering, for those dots
            that it fits. A dot that names its own plan keeps it. Dots that only a later transformation makes, such
            as those of a gradient taken of the result, are planned automatically.

    Returns:
        An `Optimized`: a function like f, to call and transform, with `report(*args)`, which lists the dots.

    Raises:
        TypeError: f is not callable, or plan no string.
        ValueError: There is no such plan.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def loss(w, x):
        ...     return jnp.sum(jnp.tanh(x @ w) ** 2)
        >>> step = jax.jit(optimize(jax.grad(loss)))
        >>> step(jnp.ones((4, 3)), jnp.ones((2, 4))).shape
        (4, 3)
        >>> [str(dot.contraction) for dot in optimize(loss).report(jnp.ones((4, 3)), jnp.ones((2, 4)))]
        ['m k, k n -> m n']
    """
    try:
        return Optimized(f, plan)
    except Refusal as refusal:
        raise refusal.told("optimize", f"f={f!r}, plan={plan!r}") from None


class Optimized(Generic[P, R]):
    """A function whose dots are planned. `__wrapped__` is the function as it was."""

    def __init__(self, f: Callable[P, R], plan: Any = "auto") -> None:
        if not callable(f):
            raise BadType("f must be callable", f"got a {type(f).__name__}", "Give the function, not its result")
        functools.update_wrapper(self, f, updated=())  # names and words; an object's attributes stay its own
        self._f, self._plan = f, known(plan)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function, its dots planned."""
        jaxpr, arrays, rebuild = _traced(self._f, self._plan, args, kwargs, _ARRAYS)
        return rebuild(core.jaxpr_as_fun(jaxpr)(*arrays))

    def __get__(self, instance: Any, owner: Any = None) -> "Optimized[..., Any]":
        return self if instance is None else Optimized(types.MethodType(self._f, instance), self._plan)

    def report(self, *args: Any, platform: str | None = None, **kwargs: Any) -> "Report":
        """Lists the dots of a call, and what will run for each, without running anything.

        Args:
            args: The call's arguments; a `jax.ShapeDtypeStruct` will do for an array.
            platform: "cpu", "cuda" (or "gpu"), "rocm" or "tpu"; by default where JAX runs.
            kwargs: Likewise, by name.

        Returns:
            A `Report`: print it, or iterate over its rows. It is of one device: a dot that XLA cuts for several
            runs as it stands, one inside `shard_map` is listed with the sizes of one shard.
        """
        jaxpr, _, _ = _traced(self._f, self._plan, args, kwargs, (*_ARRAYS, jax.ShapeDtypeStruct))
        platform = platform or jax.default_backend()
        lowered_for = PLATFORMS.get(platform, platform)
        return Report(getattr(self, "__name__", type(self._f).__name__), platform, tuple(_rows(jaxpr, lowered_for)))


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One dot of a function.

    Attributes:
        source: The line that asked for it and the function around it, as "/home/me/train.py:12 (loss)"; empty where
            JAX does not know.
        times: How often a call runs it: the lengths of the scans around it, multiplied. None in a while loop, and
            where a solver decides. Every branch of a cond counts as if taken.
        request: Its sizes, dtypes and precision.
        choice: The lowering, why, and what it gains.
    """

    source: str
    times: int | None
    request: Request
    choice: Choice

    @property
    def contraction(self) -> Contraction:
        """The labels."""
        return self.request.contraction

    @property
    def flops(self) -> int:
        """FLOPs of running it once."""
        return self.request.flops

    @property
    def operands(self) -> str:
        """Operands and result, as `float32[2,3] float32[3,4] -> float32[2,4]`."""
        r = self.request
        arrays = ((r.lhs, r.lhs_dtype), (r.rhs, r.rhs_dtype), (r.out, r.dtype))
        return "{} {} -> {}".format(*(array_text("", shape, dtype) for shape, dtype in arrays))

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        path, _, where = self.source.rpartition("/")
        gain = f"{self.choice.gain:.2g} ({self.choice.source})" if self.choice.gain else ""
        times = "?" if self.times is None else _number(self.times)
        cells = where or path, times, str(self.contraction), self.operands, _number(self.flops)
        return *cells, self.choice.lowering, gain, self.choice.why


@dataclasses.dataclass(frozen=True)
class Report:
    """The dots of a function, in the order in which it asks for them.

    Attributes:
        function: The function's name.
        platform: Where it would run.
        rows: A `ReportRow` for each dot.
    """

    function: str
    platform: str
    rows: tuple[ReportRow, ...]

    @property
    def flops(self) -> int:
        """FLOPs of a call, as far as it is known how often each dot runs."""
        return sum(row.flops * row.times for row in self.rows if row.times is not None)

    @property
    def head(self) -> tuple[str, ...]:
        """The names of the columns."""
        return "where", "times", "contraction", "operands and result", "FLOPs", "lowering", "times faster", "why"

    @property
    def title(self) -> str:
        """What is reported, in a line."""
        known = "" if all(row.times is not None for row in self.rows) else " where it is known how often they run"
        dots = f"{len(self.rows)} dot{'' if len(self.rows) == 1 else 's'}"
        return f"{self.function} on {self.platform}: {dots}, {_number(self.flops)} FLOPs{known}"

    def __iter__(self) -> Iterator[ReportRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return f"{self.title}\n\n{table([self.head, *(row.cells() for row in self.rows)])}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in cells) + "</tr>"

        rows = "".join(line(row.cells(), "td") for row in self.rows)
        return f"<p><code>{html.escape(self.title)}</code></p><table>{line(self.head, 'th')}{rows}</table>"


def _traced(
    f: Callable[..., Any], plan: str, args: Any, kwargs: Any, kinds: tuple[type, ...]
) -> tuple[Any, list[Any], Callable[..., Any]]:
    """The planned jaxpr of a call, the arrays that it takes, and how the call's result is made of what it gives."""
    arrays, call = _parted((args, kwargs), kinds)
    result: list[Callable[..., Any]] = []

    def of_arrays(*arrays: Any) -> list[Any]:
        args, kwargs = call(arrays)
        outputs, rebuild = _parted(f(*args, **kwargs), _ARRAYS)
        result.append(rebuild)
        return outputs

    jaxpr = jax.make_jaxpr(of_arrays)(*arrays)
    return replanned(jaxpr, plan), arrays, result[0]


def _parted(tree: Any, kinds: tuple[type, ...]) -> tuple[list[Any], Callable[..., Any]]:
    """The arrays among the leaves, and a function that puts others in their places."""
    leaves, structure = jax.tree.flatten(tree)
    taken = [isinstance(leaf, kinds) for leaf in leaves]
    left = [None if found else leaf for leaf, found in zip(leaves, taken, strict=True)]

    def rebuild(arrays: Any) -> Any:
        given = iter(arrays)
        return structure.unflatten(next(given) if found else leaf for leaf, found in zip(left, taken, strict=True))

    return [leaf for leaf, found in zip(leaves, taken, strict=True) if found], rebuild


def replanned(jaxpr: Any, plan: str) -> Any:
    """The same jaxpr, open or closed, with each dot in it planned, and each in the jaxprs of its equations."""
    made = _MADE.setdefault(plan, weakref.WeakKeyDictionary())
    if jaxpr not in made:
        made[jaxpr] = straightened(with_equations(jaxpr, [_equation(equation, plan) for equation in equations(jaxpr)]))
    return made[jaxpr]


def _equation(equation: Any, plan: str) -> Any:
    if equation.primitive.name in _SEALED:
        return equation
    params = {name: _param(value, plan) for name, value in equation.params.items()}
    # The rules of a function with its own are no jaxprs but functions: some give one, the others are called.
    match equation.primitive.name:
        case "custom_jvp_call":
            params["jvp_jaxpr_fun"] = _rewrapped(params["jvp_jaxpr_fun"], _thunk, plan)
        case "custom_vjp_call":
            params["fwd_jaxpr_thunk"] = _rewrapped(params["fwd_jaxpr_thunk"], _thunk, plan)
            params["bwd"] = _rewrapped(params["bwd"], Optimized, plan)
        case "remat_opt":  # of a custom_vjp's forward rule, with optimize_remat
            params["fun_jaxpr_thunk"] = _thunk(params["fun_jaxpr_thunk"], plan)
        case "custom_vmap_call":
            params["rule"] = Optimized(params["rule"], plan)
        case _:
            pass
    return planned_equation(equation.replace(params=params), plan)


def _param(value: Any, plan: str) -> Any:
    if isinstance(value, _JAXPRS):
        return replanned(value, plan)
    if isinstance(value, tuple) and any(isinstance(item, _JAXPRS) for item in value):
        return jax.tree.map(lambda item: _param(item, plan), value)  # a named tuple remains one
    return value


def _rewrapped(rule: Any, wrap: Callable[[Any, str], Any], plan: str) -> Any:
    """A rule as JAX keeps it, around another function."""
    return linear_util.wrap_init(wrap(rule.call_wrapped, plan), debug_info=rule.debug_info)


def _thunk(rule: Callable[..., Any], plan: str) -> Callable[..., Any]:
    """A function that gives a jaxpr, and what belongs to it: the jaxpr is planned."""

    def thunk(*args: Any) -> Any:
        jaxpr, *rest = rule(*args)
        return replanned(jaxpr, plan), *rest

    return thunk


def _rows(jaxpr: Any, platform: str, times: int | None = 1, source: str = "") -> Iterator[ReportRow]:
    """A row for each planned dot in a jaxpr and in the jaxprs of its equations.

    What JAX traced elsewhere, such as a derivative rule, has no line of its own: then it has that of its call.
    """
    for equation in equations(jaxpr):
        name, params = equation.primitive.name, equation.params
        at = re.sub(r":(\d+):\d+ ", r":\1 ", source_info_util.summarize(equation.source_info)) or source
        if equation.primitive is dot_general_p:
            lhs, rhs, out = (x.aval for x in (*equation.invars, *equation.outvars))
            request = Request.of(lhs, rhs, out, params["dimension_numbers"], params["precision"])
            yield ReportRow(at, times, request, chosen(request, platform, params["plan"]))
        elif name not in _SEALED:
            inner = None if times is None or name in _UNCOUNTED else times * params.get("length", 1)
            for inside in core.jaxprs_in_params(params):
                yield from _rows(inside, platform, inner, at)


def _number(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else str(number)
