"""What a call means: formula, roles of axes, shapes, cost, what will run, and what other dialects answer."""

import dataclasses
import math
from typing import Any

from jax import numpy as jnp

from jbdot.core.colours import part
from jbdot.core.contraction import Contraction
from jbdot.core.errors import array_text
from jbdot.core.text import number_text, paragraph, table
from jbdot.many_devices.sharding_plan import ShardingPlan
from jbdot.one_device.call_plan import CallPlan, Operand
from jbdot.one_device.choice import Choice
from jbdot.one_device.dot_spec import DotSpec


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a call of a front door means: its contraction, its cost, and what will run.

    Attributes:
        function: The front door's name, such as "keras_tf1.batch_dot".
        planned: The contraction, and how the operands enter it.
        lhs: The first operand's name, shape and dtype.
        rhs: The second operand's.
        arguments: The other arguments that were given, by name.
        shape: The result's shape.
        dtype: The result's dtype.
        dot_spec: The dot that it comes down to; None for a sparse operand.
        lowerings: For each backend ("cpu", "gpu", "tpu") the lowering that runs there on one device, and why; none
            for a backend that refuses the dot, as `arithmetic` says, nor for a sparse operand.
        over_mesh: How it is spread where the operands are on a mesh; None where they are on one device.
        arithmetic: For each backend the arithmetic that the dtypes and the precision really get.
        elsewhere: For every other front door that can be called with these arguments its name, and the result's
            shape for the same call or why it refuses.
    """

    function: str
    planned: CallPlan
    lhs: Operand
    rhs: Operand
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    dtype: Any
    dot_spec: DotSpec | None
    lowerings: dict[str, Choice]
    arithmetic: dict[str, str]
    over_mesh: ShardingPlan | None
    elsewhere: tuple[tuple[str, tuple[int, ...] | str], ...]

    @property
    def contraction(self) -> Contraction:
        """Returns the labels."""
        return self.planned.contraction

    @property
    def formula(self) -> str:
        """Returns the formula with indices: `out[b,m,n] = sum_k x[b,m,k] * y[b,k,n]`."""
        return self.contraction.formula(self.lhs.name, self.rhs.name)

    @property
    def einsum(self) -> str:
        """Returns the einsum string."""
        return self.contraction.einsum

    @property
    def dimension_numbers(self) -> Any:
        """Gives what `lax.dot_general` is told."""
        return self.contraction.dimension_numbers

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the length of each label, in elements."""
        return self.contraction.sizes(self.planned.lhs.shape(self.lhs.shape), self.planned.rhs.shape(self.rhs.shape))

    @property
    def flops(self) -> int:
        """Counts FLOPs: 2 for each multiply-add, 8 for a complex one."""
        real = self.contraction.flops(self.planned.lhs.shape(self.lhs.shape), self.planned.rhs.shape(self.rhs.shape))
        return real * (4 if self.is_complex else 1)

    @property
    def is_complex(self) -> bool:
        """Says whether numbers are complex."""
        return jnp.issubdtype(self.dtype, jnp.complexfloating)

    @property
    def bytes_read(self) -> int:
        """Counts the bytes of both operands, each read once."""
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in (self.lhs, self.rhs))

    @property
    def bytes_written(self) -> int:
        """Counts the bytes of the result, written once."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def flops_per_byte(self) -> float:
        """Divides the FLOPs by the bytes read and written; 0 where nothing is."""
        return self.flops / max(self.bytes_read + self.bytes_written, 1)

    @property
    def latex(self) -> str:
        r"""Returns the formula in LaTeX: `\mathrm{out}_{b,m,n} = \sum_{k} x_{b,m,k}\, y_{b,k,n}`."""
        c = self.contraction
        summed = c.contracting + c.summed
        total = rf"\sum_{{{','.join(map(latex_label, summed))}}} " if summed else ""
        terms = (
            latex_array(name, labels)
            for name, labels in (("out", c.out), (self.lhs.name, c.lhs), (self.rhs.name, c.rhs))
        )
        out, lhs, rhs = terms
        return rf"{out} = {total}{lhs}\, {rhs}"

    def rows(self) -> list[tuple[str, ...]]:
        """Makes a row for each label: (label, role, axis of lhs, axis of rhs, axis of the result, size)."""
        c, sizes = self.contraction, self.sizes
        labels: list[str | None] = list(dict.fromkeys(label for label in (*c.out, *c.lhs, *c.rhs) if label is not None))
        if None in (*c.lhs, *c.rhs, *c.out):
            labels.append(None)
        return [
            (
                label or "1",
                c.role(label),
                *(axes_of(label, side) for side in (c.lhs, c.rhs, c.out)),
                number_text(sizes[label]) if label else "1",
            )
            for label in labels
        ]

    def facts(self) -> list[tuple[str, str]]:
        """Says what stands below the labels: (name, text)."""
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
            *((f"estimates on {name}", choice.estimates_text) for name, choice in self.lowerings.items()),
            *((f"arithmetic on {name}", text) for name, text in self.arithmetic.items()),
            ("result", array_text("", self.shape, self.dtype)),
            ("FLOPs", f"{number_text(self.flops)} ({each} multiply-add)"),
            ("bytes", f"{number_text(self.bytes_read)} read, {number_text(self.bytes_written)} written"),
            ("FLOPs per byte", _ratio(self.flops, self.bytes_read + self.bytes_written)),
        ]
        return [(name, text) for name, text in facts if text]

    def answers(self) -> list[tuple[str, str]]:
        """Lists what every other front door makes of the call, as (name, text); nothing of a contraction."""
        if "contraction" in self.arguments:
            return []
        return [
            (name, str(found) if isinstance(found, tuple) else f"refuses: {found}") for name, found in self.elsewhere
        ]

    @property
    def head(self) -> tuple[str, ...]:
        """Returns the names of the columns of `rows`."""
        return "label", "role", f"axis of {self.lhs.name}", f"axis of {self.rhs.name}", "axis of out", "size"

    def call(self) -> str:
        """Returns the call as it was made, with shapes for arrays."""
        arrays = [array_text(x.name, x.shape, x.dtype, x.sparse) for x in (self.lhs, self.rhs)]
        return f"{self.function}({', '.join(arrays + [f'{name}={value!r}' for name, value in self.arguments.items()])})"

    def parts(self) -> list[str]:
        """Says what is printed: the call, the formula, a table of the labels, one of facts, the plan, other answers."""
        answers = self.answers()
        return [
            paragraph(self.call()),
            paragraph(self.formula, 2),
            table([self.head, *self.rows()]),
            table(self.facts()),
            *([] if self.over_mesh is None else [f"over the mesh: {self.over_mesh}"]),
            *(["  the same call elsewhere\n" + table(answers)] if answers else []),
        ]

    def __str__(self) -> str:
        return "\n\n".join(self.parts())

    def __repr__(self) -> str:
        return str(self)

    def colour(self, label: str | None) -> str:
        """Names the colour of a label: its role, free ones by operand."""
        return part(self.contraction, label)


def axes_of(label: str | None, labels: tuple[str | None, ...]) -> str:
    """Names the axes that have a label."""
    return ", ".join(str(axis) for axis, other in enumerate(labels) if other == label)


def _ratio(flops: Any, moved: Any) -> str:
    return (
        f"{flops / max(moved, 1):.3g}"
        if isinstance(flops, int) and isinstance(moved, int)
        else f"({flops}) / ({moved})"
    )


def latex_label(label: str | None) -> str:
    """Writes a label in LaTeX."""
    return "0" if label is None else _latex_name(label)


def latex_array(name: str, labels: tuple[str | None, ...]) -> str:
    """Writes an array with its labels in LaTeX."""
    return _latex_name(name) + (f"_{{{','.join(map(latex_label, labels))}}}" if labels else "")


def _latex_name(name: str) -> str:
    return name if len(name) == 1 else rf"\mathrm{{{name}}}".replace("_", r"\_")
