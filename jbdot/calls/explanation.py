"""Says what a call does: formula, roles of axes, shapes, cost, and what every other dialect makes of it."""

import html
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import jax
from jax import numpy as jnp

from jbdot.calls.call_figure import notebook_svg
from jbdot.calls.contract import contract
from jbdot.calls.front_door import (
    PLANNERS,
    SETTINGS,
    as_array,
    bound,
    extra_defaults,
    given,
    is_sparse,
    operand_names,
    others,
    plan,
    public_name,
    refused,
)
from jbdot.calls.many_operands import READERS, arguments_of, bound_all, contraction_of, path_of, refused_all
from jbdot.calls.meaning import Meaning
from jbdot.calls.path_explanation import PathExplanation
from jbdot.calls.ragged_dot import ragged_dot
from jbdot.calls.ragged_explanation import RaggedExplanation
from jbdot.calls.sharded import sharded
from jbdot.core.colours import COLOURS
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadType, Refusal, value_text
from jbdot.many_devices.partition_spec import mesh_of
from jbdot.many_devices.sharding_plan import ShardingPlan
from jbdot.one_device.call_plan import CallPlan, Operand, canonical, read
from jbdot.one_device.choice import PLATFORMS, check, chosen
from jbdot.one_device.numerics import arithmetic, missing

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


class Explanation(Meaning):
    """What a call of a front door does, before anything runs: tables to print, and a picture.

    What it says are the attributes of `Meaning`.
    """

    def _repr_html_(self) -> str:
        over_mesh = "" if self.over_mesh is None else f"<pre>{html.escape(str(self.over_mesh))}</pre>"
        labels = "".join(_html_row(row, colour=COLOURS[self.colour(row[0])]) for row in self.rows())
        answers = "".join(map(_html_row, self.answers()))
        return (
            f"<p><code>{html.escape(self.call())}</code></p><p><code>{html.escape(self.formula)}</code></p>"
            f"{notebook_svg(self.plot)}"
            f"<table>{_html_row(self.head, tag='th')}{labels}</table>"
            f"<table>{''.join(map(_html_row, self.facts()))}</table>"
            f"{over_mesh}{answers and f'<p><b>The same call elsewhere</b></p><table>{answers}</table>'}"
        )

    def plot(self, path: "str | Path | None" = None) -> "Figure":
        """Draws both operands and the result as blocks of axes, coloured by role, contracting axes joined.

        Args:
            path: Where to save the picture too.

        Raises:
            ImportError: matplotlib is not installed: the extra `plot` brings it.
        """
        from jbdot.calls.call_figure import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path)
        return figure


@overload
def explain(function: Contraction | str, lhs: Any, rhs: Any, /, **settings: Any) -> Explanation: ...


@overload
def explain(function: Contraction | str, operand: Any, /, **settings: Any) -> PathExplanation: ...


@overload
def explain(
    function: Contraction | str, first: Any, second: Any, third: Any, /, *others: Any, **settings: Any
) -> PathExplanation: ...


@overload
def explain(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation: ...


def explain(function: Callable[..., Any] | Contraction | str, *args: Any, **kwargs: Any) -> Any:
    """Says what a call would do, without doing it.

    Args:
        function: A front door, such as `jbdot.batch_dot`, a `Dot` layer, or a `Contraction` or its string.
        args: The call's arguments. An operand may be an array, a `jax.ShapeDtypeStruct`, or a
            shape as a tuple of ints (float32 then).
        kwargs: Likewise, by name.

    Returns:
        An `Explanation`: print it, let a notebook show it, or take its `latex` and `plot()`. Of one operand, or of more
        than two, a `PathExplanation`, with the products, their order and what each costs; of `ragged_dot` a
        `RaggedExplanation`.

    Raises:
        TypeError: function is no front door; or as function itself.
        ValueError, IndexError: As function itself, for a call that it refuses.

    Example:
        >>> from jbdot import explain
        >>> import jbdot
        >>> e = explain(jbdot.batch_dot, (10, 12, 4, 5), (10, 12, 5, 8))
        >>> e.formula
        'out[b,c,m,n] = sum_k x[b,c,m,k] * y[b,c,k,n]'
        >>> e.flops, e.bytes_read, e.bytes_written
        (38400, 28800, 15360)
        >>> dict(e.elsewhere)["keras.batch_dot"]
        (10, 12, 4, 12, 8)
        >>> explain("b m k, b k n -> b m n", (2, 3, 4), (2, 4, 5)).shape
        (2, 3, 5)
    """
    if isinstance(function, (Contraction, str)):
        function, args = contract, (function, *args)
    if function is ragged_dot:
        return RaggedExplanation.of(*args, **kwargs)
    if function in READERS:
        operands, arguments = bound_all(function, args, kwargs)
        if len(operands) != 2 or function not in PLANNERS:
            return _of_path(function, operands, arguments, kwargs)
    settings = {name: kwargs.pop(name, default) for name, default in SETTINGS.items()}
    try:
        if isinstance(function, type):
            name = function.__name__
            raise BadType("a layer must be made before it is called", f"got the class {name}", f"Give {name}(axes=1)")
        if type(function) in PLANNERS:  # a layer, called with a list: its class has the planner
            inputs = args[0] if len(args) == 1 else kwargs.pop("inputs", args)
            layer: Any = function
            lhs, rhs = layer.operands(inputs)
            function, arguments = type(function), layer.arguments
        elif function in PLANNERS:
            lhs, rhs, arguments = bound(function, args, kwargs)
        else:
            raise BadType(
                "function must be a front door of jbdot",
                f"got {getattr(function, '__name__', function)!r}",
                f"One of {', '.join(map(public_name, PLANNERS))}; for the dots of any other function there is "
                "jbdot.optimize(function).report",
            )
        lhs, rhs = _abstract(lhs), _abstract(rhs)
    except Refusal as refusal:
        raise refusal.told(
            "explain",
            ", ".join([*map(value_text, args), *(f"{name}={value_text(value)}" for name, value in kwargs.items())]),
        ) from None
    try:
        read(*settings.values())
        planned = plan(function, lhs, rhs, arguments)
        shape = planned.out_shape(lhs.shape, rhs.shape)
        spec = planned.dot_spec(lhs, rhs, settings["precision"], settings["preferred_element_type"])
        lowering = settings["lowering"] or "auto"
        if not planned.sparse:
            check(spec, lowering)
    except Refusal as refusal:
        raise refused(refusal, function, lhs, rhs, arguments, tuple(settings.values())) from None
    left, right = operand_names(function)
    platforms = {} if planned.sparse else PLATFORMS
    choices = {
        name: chosen(spec, platform, lowering) for name, platform in platforms.items() if not missing(spec, name)
    }
    arithmetics = {
        name: arithmetic(spec, name, choices[name].lowering) if name in choices else missing(spec, name)
        for name in platforms
    }
    return Explanation(
        function=public_name(function),
        planned=planned,
        lhs=Operand(left, tuple(lhs.shape), jnp.dtype(lhs.dtype), is_sparse(lhs)),
        rhs=Operand(right, tuple(rhs.shape), jnp.dtype(rhs.dtype), is_sparse(rhs)),
        arguments=given(function, arguments),
        shape=shape,
        dtype=jnp.dtype(spec.dtype),
        dot_spec=None if planned.sparse else spec,
        lowerings=choices,
        arithmetic=arithmetics,
        over_mesh=_over_mesh(function, lhs, rhs, arguments, settings),
        elsewhere=tuple(
            (public_name(door), answer.out_shape(lhs.shape, rhs.shape) if isinstance(answer, CallPlan) else str(answer))
            for door, answer in others(function, lhs, rhs, arguments)
        ),
    )


def _of_path(
    function: Callable[..., Any], operands: Sequence[Any], arguments: tuple[Any, ...], kwargs: dict[str, Any]
) -> PathExplanation:
    """Explains a call of one operand, or of more than two."""
    precision, preferred, _, lowering = (kwargs.get(name) for name in SETTINGS)
    try:
        read(precision, preferred, None, lowering)
        arrays = [_abstract(x) for x in operands]
        contraction = contraction_of(function, arrays, arguments)
        paths = {name: path_of(function, arrays, arguments, name) for name in PLATFORMS}
        (dtype,) = {path.out_dtype(arrays, preferred) for path in paths.values()}
        lowerings = {
            name: tuple(
                chosen(spec, PLATFORMS[name], lowering or "auto") for spec in path.dot_specs(arrays, precision, dtype)
            )
            for name, path in paths.items()
        }
    except Refusal as refusal:
        raise refused_all(refusal, function, operands, arguments) from None
    return PathExplanation(
        function=public_name(function),
        contraction=contraction,
        operands=tuple(Operand(f"operand {at}", tuple(x.shape), jnp.dtype(x.dtype)) for at, x in enumerate(arrays)),
        arguments=arguments_of(function, arguments),
        shape=contraction.out_shape(*(tuple(x.shape) for x in arrays)),
        dtype=jnp.dtype(dtype),
        paths=paths,
        lowerings=lowerings,
    )


def _over_mesh(
    function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...], settings: dict[str, Any]
) -> ShardingPlan | None:
    """Returns the plan of a call over the mesh that its operands are on, where that has several devices and figures."""
    mesh = mesh_of(lhs) or mesh_of(rhs)
    if mesh is None or mesh.size == 1 or isinstance(function, type):
        return None
    left, right = operand_names(function)
    call = {left: lhs, right: rhs, **dict(zip(extra_defaults(function), arguments, strict=True))}
    try:
        return sharded(function, settings["out_sharding"]).plan(**call)
    except ValueError:  # no figures are known for the devices, or nothing can be said of such a call
        return None


def _abstract(x: Any) -> Any:
    """Takes a shape as an array of float32; anything else as it is."""
    if isinstance(x, (tuple, list, str)):
        sizes: list[Any] = [*x]
        if not all(hasattr(size, "__index__") and size >= 0 for size in sizes):
            raise BadType(
                "a shape must be a tuple of ints of 0 or more",
                f"got {value_text(x)}",
                "Put a number for a size that is not known; an operand may also be an array",
            )
        return jax.ShapeDtypeStruct(tuple(map(operator.index, sizes)), jnp.float32)
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, canonical(x.dtype), sharding=x.sharding)
    return as_array(x)


def _html_row(row: tuple[str, ...], tag: str = "td", colour: str = "") -> str:
    """Writes a row of a table, its first cell a heading, and coloured if asked."""
    shade = f";background:{colour};color:black" if colour else ""
    first = f"<th style='text-align:left{shade}'>{html.escape(row[0])}</th>"
    return f"<tr>{first}{''.join(f'<{tag} style=text-align:left>{html.escape(text)}</{tag}>' for text in row[1:])}</tr>"
