"""Says what a call does: formula, roles of axes, shapes, cost, and what every other dialect makes of it."""

import dataclasses
import html
import io
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import jax
from jax import numpy as jnp

from jbdot.arithmetic import arithmetic, missing
from jbdot.choice import PLATFORMS, Choice, check, chosen
from jbdot.contract import contract
from jbdot.contraction import Contraction
from jbdot.errors import BadType, Refusal, array_text
from jbdot.front_door import (
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
from jbdot.mesh_axes import mesh_of
from jbdot.planned import Operand, Planned, canonical, read
from jbdot.request import Request
from jbdot.sharded import sharded
from jbdot.sharding_plan import ShardingPlan
from jbdot.table import table

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

# One colour for each role, told apart by the colour-blind too (Okabe and Ito).
COLOURS: Final = {
    "batch": "#56B4E9",
    "contracting": "#D55E00",
    "lhs free": "#009E73",
    "rhs free": "#CC79A7",
    "summed": "#E69F00",
    "unit": "#BBBBBB",
}


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a call of a front door does, before anything runs.

    Attributes:
        function: The front door's name, such as "keras_tf1.batch_dot".
        planned: The contraction, and how the operands enter it.
        lhs: The first operand's name, shape and dtype.
        rhs: The second operand's.
        arguments: The other arguments that were given, by name.
        shape: The result's shape.
        dtype: The result's dtype.
        request: The dot that it comes down to; None for a sparse operand.
        lowerings: For each backend ("cpu", "gpu", "tpu") the lowering that runs there on one device, and why; none
            for a backend that refuses the dot, as `arithmetic` says, nor for a sparse operand.
        over_mesh: How it is spread where the operands are on a mesh; None where they are on one device.
        arithmetic: For each backend the arithmetic that the dtypes and the precision really get.
        elsewhere: For every other front door that can be called with these arguments its name, and the result's
            shape for the same call or why it refuses.
    """

    function: str
    planned: Planned
    lhs: Operand
    rhs: Operand
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    dtype: Any
    request: Request | None
    lowerings: dict[str, Choice]
    arithmetic: dict[str, str]
    over_mesh: ShardingPlan | None
    elsewhere: tuple[tuple[str, tuple[int, ...] | str], ...]

    @property
    def contraction(self) -> Contraction:
        """The labels."""
        return self.planned.contraction

    @property
    def formula(self) -> str:
        """The formula with indices: `out[b,m,n] = sum_k x[b,m,k] * y[b,k,n]`."""
        return self.contraction.formula(self.lhs.name, self.rhs.name)

    @property
    def einsum(self) -> str:
        """The einsum string."""
        return self.contraction.einsum

    @property
    def dimension_numbers(self) -> Any:
        """What `lax.dot_general` is told."""
        return self.contraction.dimension_numbers

    @property
    def sizes(self) -> dict[str, int]:
        """The length of each label, in elements."""
        return self.contraction.sizes(self.planned.lhs.shape(self.lhs.shape), self.planned.rhs.shape(self.rhs.shape))

    @property
    def flops(self) -> int:
        """FLOPs: 2 for each multiply-add, 8 for a complex one."""
        real = self.contraction.flops(self.planned.lhs.shape(self.lhs.shape), self.planned.rhs.shape(self.rhs.shape))
        return real * (4 if self.is_complex else 1)

    @property
    def is_complex(self) -> bool:
        """Whether numbers are complex."""
        return jnp.issubdtype(self.dtype, jnp.complexfloating)

    @property
    def bytes_read(self) -> int:
        """Bytes of both operands, each read once."""
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in (self.lhs, self.rhs))

    @property
    def bytes_written(self) -> int:
        """Bytes of the result, written once."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def flops_per_byte(self) -> float:
        """FLOPs for each byte read or written; 0 where nothing is."""
        return self.flops / max(self.bytes_read + self.bytes_written, 1)

    @property
    def latex(self) -> str:
        r"""The formula in LaTeX: `\mathrm{out}_{b,m,n} = \sum_{k} x_{b,m,k}\, y_{b,k,n}`."""
        c = self.contraction
        summed = c.contracting + c.summed
        total = rf"\sum_{{{','.join(map(_latex_label, summed))}}} " if summed else ""
        terms = (
            _latex_array(name, labels)
            for name, labels in (("out", c.out), (self.lhs.name, c.lhs), (self.rhs.name, c.rhs))
        )
        out, lhs, rhs = terms
        return rf"{out} = {total}{lhs}\, {rhs}"

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each label: (label, role, axis of lhs, axis of rhs, axis of the result, size)."""
        c, sizes = self.contraction, self.sizes
        labels: list[str | None] = list(dict.fromkeys(label for label in (*c.out, *c.lhs, *c.rhs) if label is not None))
        if None in (*c.lhs, *c.rhs, *c.out):
            labels.append(None)
        return [
            (
                label or "1",
                c.role(label),
                *(_axes_of(label, side) for side in (c.lhs, c.rhs, c.out)),
                _number(sizes[label]) if label else "1",
            )
            for label in labels
        ]

    def facts(self) -> list[tuple[str, str]]:
        """What stands below the labels: (name, text)."""
        entering = ((self.lhs.name, self.planned.lhs), (self.rhs.name, self.planned.rhs))
        steps = [f"{name} {step}" for name, entry in entering for step in entry.steps()]
        each = "8 for each complex" if self.is_complex else "2 for each"
        facts = [
            ("labels", str(self.contraction)),
            ("einsum", self.einsum),
            ("dimension_numbers", str(self.dimension_numbers)),
            ("before the dot", "; ".join(steps)),
            ("runs as", "bcoo_dot_general" if self.planned.sparse else ""),
            *((f"on {name} runs", str(choice)) for name, choice in self.lowerings.items()),
            *((f"arithmetic on {name}", text) for name, text in self.arithmetic.items()),
            ("result", array_text("", self.shape, self.dtype)),
            ("FLOPs", f"{_number(self.flops)} ({each} multiply-add)"),
            ("bytes", f"{_number(self.bytes_read)} read, {_number(self.bytes_written)} written"),
            ("FLOPs per byte", _ratio(self.flops, self.bytes_read + self.bytes_written)),
        ]
        return [(name, text) for name, text in facts if text]

    def answers(self) -> list[tuple[str, str]]:
        """What every other front door makes of the call: (name, text); nothing of a contraction, which none takes."""
        if "contraction" in self.arguments:
            return []
        return [
            (name, str(found) if isinstance(found, tuple) else f"refuses: {found}") for name, found in self.elsewhere
        ]

    @property
    def head(self) -> tuple[str, ...]:
        """The names of the columns of `rows`."""
        return "label", "role", f"axis of {self.lhs.name}", f"axis of {self.rhs.name}", "axis of out", "size"

    def call(self) -> str:
        """The call as it was made, with shapes for arrays."""
        arrays = [array_text(x.name, x.shape, x.dtype, x.sparse) for x in (self.lhs, self.rhs)]
        return f"{self.function}({', '.join(arrays + [f'{name}={value!r}' for name, value in self.arguments.items()])})"

    def __str__(self) -> str:
        answers = self.answers()
        parts = (
            self.call(),
            f"  {self.formula}",
            table([self.head, *self.rows()]),
            table(self.facts()),
            *([] if self.over_mesh is None else [f"over the mesh: {self.over_mesh}"]),
            *(["  the same call elsewhere\n" + table(answers)] if answers else []),
        )
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        over_mesh = "" if self.over_mesh is None else f"<pre>{html.escape(str(self.over_mesh))}</pre>"
        labels = "".join(_html_row(row, colour=COLOURS[self.colour(row[0])]) for row in self.rows())
        answers = "".join(map(_html_row, self.answers()))
        return (
            f"<p><code>{html.escape(self.call())}</code></p><p><code>{html.escape(self.formula)}</code></p>"
            f"{self._svg()}"
            f"<table>{_html_row(self.head, tag='th')}{labels}</table>"
            f"<table>{''.join(map(_html_row, self.facts()))}</table>"
            f"{over_mesh}{answers and f'<p><b>The same call elsewhere</b></p><table>{answers}</table>'}"
        )

    def _svg(self) -> str:
        """The picture for a notebook; nothing where matplotlib is missing."""
        try:
            figure = self.plot()
        except ImportError:
            return ""
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
        svg = file.getvalue()
        return f"<div style='max-width:760px;background:white'>{svg[svg.index('<svg') :]}</div>"

    def colour(self, label: str | None) -> str:
        """Names the colour of a label: its role, free ones by operand."""
        return part(self.contraction, None if label == "1" else label)

    def plot(self, path: "str | Path | None" = None) -> "Figure":
        """Draws both operands and the result as blocks of axes, coloured by role, contracting axes joined.

        Args:
            path: Where to save the picture too.

        Raises:
            ImportError: matplotlib is not installed: the extra `plot` brings it.
        """
        from jbdot.picture import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path)
        return figure


def explain(function: Callable[..., Any] | Contraction | str, *args: Any, **kwargs: Any) -> Explanation:
    """Says what a call would do, without doing it.

    Args:
        function: A front door, such as `jbdot.batch_dot`, a `Dot` layer, or a `Contraction` or its string.
        args: The call's arguments. An operand may be an array, a `jax.ShapeDtypeStruct`, or a
            shape as a tuple of ints (float32 then).
        kwargs: Likewise, by name.

    Returns:
        An `Explanation`: print it, let a notebook show it, or take its `latex` and `plot()`.

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
    settings = {name: kwargs.pop(name, default) for name, default in SETTINGS.items()}
    try:
        if isinstance(function, type):
            name = function.__name__
            raise BadType("a layer must be made before it is called", f"got the class {name}", f"Give {name}(axes=1)")
        if type(function) in PLANNERS:  # a layer, called with a list: its class has the planner
            inputs = args[0] if len(args) == 1 else kwargs.pop("inputs", args)
            layer: Any = function
            lhs, rhs = layer.operands(inputs)
            function, arguments = type(function), tuple(vars(function).values())
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
            "explain", ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
        ) from None
    try:
        read(*settings.values())
        planned = plan(function, lhs, rhs, arguments)
        shape = planned.out_shape(lhs.shape, rhs.shape)
        request = planned.request(lhs, rhs, settings["precision"], settings["preferred_element_type"])
        lowering = settings["lowering"] or "auto"
        if not planned.sparse:
            check(request, lowering)
    except Refusal as refusal:
        raise refused(refusal, function, lhs, rhs, arguments, tuple(settings.values())) from None
    left, right = operand_names(function)
    platforms = {} if planned.sparse else PLATFORMS
    choices = {
        name: chosen(request, platform, lowering) for name, platform in platforms.items() if not missing(request, name)
    }
    arithmetics = {
        name: arithmetic(request, name, choices[name].lowering) if name in choices else missing(request, name)
        for name in platforms
    }
    return Explanation(
        public_name(function),
        planned,
        Operand(left, tuple(lhs.shape), jnp.dtype(lhs.dtype), is_sparse(lhs)),
        Operand(right, tuple(rhs.shape), jnp.dtype(rhs.dtype), is_sparse(rhs)),
        given(function, arguments),
        shape,
        jnp.dtype(request.dtype),
        None if planned.sparse else request,
        choices,
        arithmetics,
        _over_mesh(function, lhs, rhs, arguments, settings),
        tuple(
            (public_name(door), answer.out_shape(lhs.shape, rhs.shape) if isinstance(answer, Planned) else str(answer))
            for door, answer in others(function, lhs, rhs, arguments)
        ),
    )


def part(c: Contraction, label: str | None) -> str:
    """The role of a label, free ones by operand: what `COLOURS` knows it by."""
    role = c.role(label)
    return f"{'lhs' if label in c.lhs else 'rhs'} free" if role == "free" else role


def _over_mesh(
    function: Callable[..., Any], lhs: Any, rhs: Any, arguments: tuple[Any, ...], settings: dict[str, Any]
) -> ShardingPlan | None:
    """The plan of a call over the mesh that its operands are on, where that has several devices and figures."""
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
                f"got {x!r}",
                "Put a number for a size that is not known; an operand may also be an array",
            )
        return jax.ShapeDtypeStruct(tuple(map(operator.index, sizes)), jnp.float32)
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, canonical(x.dtype), sharding=x.sharding)
    return as_array(x)


def _html_row(row: tuple[str, ...], tag: str = "td", colour: str = "") -> str:
    """A row of a table, its first cell a heading, and coloured if asked."""
    shade = f";background:{colour};color:black" if colour else ""
    first = f"<th style='text-align:left{shade}'>{html.escape(row[0])}</th>"
    return f"<tr>{first}{''.join(f'<{tag} style=text-align:left>{html.escape(text)}</{tag}>' for text in row[1:])}</tr>"


def _axes_of(label: str | None, labels: tuple[str | None, ...]) -> str:
    return ", ".join(str(axis) for axis, other in enumerate(labels) if other == label)


def _ratio(flops: Any, moved: Any) -> str:
    return (
        f"{flops / max(moved, 1):.3g}"
        if isinstance(flops, int) and isinstance(moved, int)
        else f"({flops}) / ({moved})"
    )


def _number(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else str(number)


def _latex_label(label: str | None) -> str:
    return "0" if label is None else _latex_name(label)


def _latex_array(name: str, labels: tuple[str | None, ...]) -> str:
    return _latex_name(name) + (f"_{{{','.join(map(_latex_label, labels))}}}" if labels else "")


def _latex_name(name: str) -> str:
    return name if len(name) == 1 else rf"\mathrm{{{name}}}".replace("_", r"\_")
