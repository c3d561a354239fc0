"""Says what a ragged dot does: its labels, what it costs, and how it is lowered on each backend."""

import dataclasses
import functools
import html
import math
from typing import Any, cast

import jax
from jax import numpy as jnp

from jbdot.calls.meaning import axes_of
from jbdot.calls.ragged_dot import ragged_dot
from jbdot.core.errors import array_text
from jbdot.core.text import number_text, paragraph, table
from jbdot.one_device import ragged
from jbdot.one_device.choice import PLATFORMS, Choice
from jbdot.one_device.ragged import RaggedSpec


@dataclasses.dataclass(frozen=True)
class RaggedExplanation:
    """What a call of `ragged_dot` means, before anything runs: tables to print.

    Attributes:
        spec: Its sizes, dtypes and precision.
        lowerings: For each backend ("cpu", "gpu", "tpu") the lowering, and why.
    """

    spec: RaggedSpec
    lowerings: dict[str, Choice]

    @classmethod
    def of(cls, *args: Any, lowering: str | None = None, **kwargs: Any) -> "RaggedExplanation":
        """Reads it off a call, of arrays or what stands for them; a tuple of ints is a shape, of float32 or sizes.

        Raises:
            TypeError, ValueError: As `ragged_dot`.
        """
        call = functools.partial(ragged_dot, lowering=cast(Any, lowering), **kwargs)
        jaxpr = jax.make_jaxpr(call)(*map(_abstract, args, ("float32", "float32", "int32"))).jaxpr
        (equation,) = (each for each in jaxpr.eqns if each.primitive.name == "ragged_dot_general")
        arrays, out = tuple(variable.aval for variable in equation.invars), equation.outvars[0].aval
        decided = {
            name: ragged.decided(arrays, out, equation.params, platform, lowering or "auto")
            for name, platform in PLATFORMS.items()
        }
        return cls(decided["cpu"][0], {name: choice for name, (_, choice) in decided.items()})

    @property
    def formula(self) -> str:
        """Returns the formula with indices; g(m) is the group of a row m."""
        return "out[m,n] = sum_k lhs[m,k] * rhs[g(m),k,n]"

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the result's shape."""
        return self.spec.out

    @property
    def flops(self) -> int:
        """Counts FLOPs: 2 for each multiply-add of a row with the matrix of its group."""
        return self.spec.flops

    @property
    def bytes_read(self) -> int:
        """Counts the bytes of rows, matrices and sizes, each read once."""
        spec = self.spec
        arrays = ((spec.lhs, spec.lhs_dtype), (spec.rhs, spec.rhs_dtype), (spec.sizes, spec.sizes_dtype))
        return sum(math.prod(shape) * jnp.dtype(dtype).itemsize for shape, dtype in arrays)

    @property
    def bytes_written(self) -> int:
        """Counts the bytes of the result, written once."""
        return math.prod(self.shape) * jnp.dtype(self.spec.dtype).itemsize

    @property
    def head(self) -> tuple[str, ...]:
        """Returns the names of the columns of `rows`."""
        return "label", "role", "of lhs", "of rhs", "of sizes", "of out", "size"

    def rows(self) -> list[tuple[str, ...]]:
        """Makes a row for each label: its role, its axes, its size."""
        c, lengths = self.spec.contraction, self.spec.lengths
        roles = {self.spec.row: "row", "g": "group"}
        every = dict.fromkeys(label for side in (c.out, *c.terms) for label in side)
        return [
            (
                str(label),
                roles.get(str(label)) or self.spec.one.role(label),
                *(axes_of(label, side) for side in (*c.terms, c.out)),
                number_text(lengths[label]),
            )
            for label in every
        ]

    def facts(self) -> list[tuple[str, str]]:
        """Says what stands below the labels: (name, text)."""
        return [
            *((f"on {name} runs", str(choice)) for name, choice in self.lowerings.items()),
            ("result", array_text("", self.shape, self.spec.dtype)),
            ("FLOPs", f"{number_text(self.flops)} (2 for each multiply-add of a row with its group's matrix)"),
            ("bytes", f"{number_text(self.bytes_read)} read, {number_text(self.bytes_written)} written"),
        ]

    def call(self) -> str:
        """Returns the call as it was made, with shapes for arrays."""
        spec = self.spec
        arrays = (("lhs", spec.lhs, spec.lhs_dtype), ("rhs", spec.rhs, spec.rhs_dtype))
        said = [array_text(*array) for array in (*arrays, ("group_sizes", spec.sizes, spec.sizes_dtype))]
        return f"ragged_dot({', '.join(said)})"

    def parts(self) -> list[str]:
        """Says what is printed: the call, the formula, a table of the labels, one of facts."""
        formula = paragraph(f"{self.formula}, where g(m) is the group of row m", 2)
        return [paragraph(self.call()), formula, table([self.head, *self.rows()]), table(self.facts())]

    def __str__(self) -> str:
        return "\n\n".join(self.parts())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _abstract(x: Any, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(x, dtype) if isinstance(x, tuple) else x
