"""Says what a call of any number of operands does: its labels, its path, what each product costs, and a picture."""

import dataclasses
import html
from typing import TYPE_CHECKING, Any, Final

import jax
from jax import numpy as jnp

from jbdot.calls.call_figure import notebook_svg
from jbdot.calls.meaning import axes_of, latex_array, latex_label
from jbdot.core.contraction import Contraction
from jbdot.core.errors import array_text
from jbdot.core.text import bytes_text, number_text, paragraph, table
from jbdot.one_device.call_plan import Operand
from jbdot.one_device.choice import Choice
from jbdot.one_device.path import ContractionPath

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


_HEAD: Final = ("gives", "of", "elements", "FLOPs", "us", "lowering", "labels")


@dataclasses.dataclass(frozen=True)
class PathExplanation:
    """What a call with one operand, or with more than two, means, before anything runs: tables, and a picture.

    Attributes:
        function: The front door's name, such as "contract".
        contraction: The labels of all operands, and of the result.
        operands: Their names, shapes and dtypes.
        arguments: The other arguments that were given, by name.
        shape: The result's shape.
        dtype: The dtype of the result, and of every product on the way.
        paths: For each backend ("cpu", "gpu", "tpu") the order of the products that is estimated to take the least
            time there.
        lowerings: For each backend how each product is lowered.
    """

    function: str
    contraction: Contraction
    operands: tuple[Operand, ...]
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    dtype: Any
    paths: dict[str, ContractionPath]
    lowerings: dict[str, tuple[Choice, ...]]

    @property
    def backend(self) -> str:
        """Names the backend whose path is shown: the one of this process."""
        return jax.default_backend()

    @property
    def path(self) -> ContractionPath:
        """Returns the path on the backend of this process."""
        return self.paths[self.backend]

    @property
    def formula(self) -> str:
        """Returns the formula with indices: `out[k] = sum_{i,j} x0[i] * x1[i,j] * x2[j,k]`."""
        return self.contraction.formula()

    @property
    def einsum(self) -> str:
        """Returns the einsum string."""
        return self.contraction.einsum

    @property
    def latex(self) -> str:
        """Returns the formula in LaTeX."""
        c = self.contraction
        summed = c.contracting + c.summed
        total = rf"\sum_{{{','.join(map(latex_label, summed))}}} " if summed else ""
        terms = [latex_array(f"x{at}", term) for at, term in enumerate(c.terms)]
        return rf"{latex_array('out', c.out)} = {total}" + r"\, ".join(terms)

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the length of each label, in elements."""
        return self.contraction.sizes(*(x.shape for x in self.operands))

    @property
    def flops(self) -> int:
        """Counts the FLOPs of the path: 2 for each multiply-add, 1 for a product without a sum; 4 times, if complex."""
        return self.path.flops * (4 if jnp.issubdtype(self.dtype, jnp.complexfloating) else 1)

    @property
    def largest(self) -> int:
        """Counts the bytes of the largest result on the way; 0 where there is none."""
        return self.path.largest * self.dtype.itemsize

    def rows(self) -> list[tuple[str, ...]]:
        """Makes a row for each label: (label, role, its axes of each operand, its axis of the result, size)."""
        c, sizes = self.contraction, self.sizes
        every = dict.fromkeys(label for side in (c.out, *c.terms) for label in side)
        return [
            (
                label or "1",
                c.role(label),
                *(axes_of(label, side) for side in (*c.terms, c.out)),
                number_text(sizes[label]) if label else "1",
            )
            for label in sorted(every, key=lambda label: label is None)
        ]

    @property
    def head(self) -> tuple[str, ...]:
        """Returns the names of the columns of `rows`."""
        return "label", "role", *(f"of {x.name.replace('operand ', 'x')}" for x in self.operands), "of out", "size"

    def steps(self) -> list[tuple[str, ...]]:
        """Makes a row for each product: its name, of what, elements, FLOPs, microseconds, lowering, and its labels."""
        path, count = self.path, len(self.operands)
        names = [f"x{at}" for at in range(count)] + [f"t{at}" for at in range(len(path.steps) - 1)] + ["out"]
        return [
            (
                names[at],
                f"{names[step.lhs]} {names[step.rhs]}",
                number_text(step.result),
                number_text(step.sizes.flops),
                f"{step.us:.3g}",
                choice.lowering,
                str(step.contraction),
            )
            for at, (step, choice) in enumerate(zip(path.steps, self.lowerings[self.backend], strict=True), count)
        ]

    def facts(self) -> list[tuple[str, str]]:
        """Says what stands below the labels: (name, text)."""
        loop = self.contraction.flops(*(x.shape for x in self.operands))
        facts = [
            ("labels", str(self.contraction)),
            ("einsum", self.einsum),
            ("result", array_text("", self.shape, self.dtype)),
            (
                "FLOPs",
                f"{number_text(self.flops)}; {number_text(loop)} in one loop over all labels" if self.flops else "",
            ),
            ("largest intermediate", f"{bytes_text(self.largest)}" if self.largest else ""),
            *((f"order on {name}", self._order(path)) for name, path in self.paths.items() if self._differs(path)),
        ]
        return [(name, text) for name, text in facts if text]

    def _order(self, path: ContractionPath) -> str:
        return "; ".join(str(step.contraction) for step in path.steps)

    def _differs(self, path: ContractionPath) -> bool:
        pairs = [[(step.lhs, step.rhs) for step in each.steps] for each in (path, self.path)]
        return pairs[0] != pairs[1]

    def call(self) -> str:
        """Returns the call as it was made, with shapes for arrays."""
        arrays = [array_text(x.name.replace("operand ", "x"), x.shape, x.dtype) for x in self.operands]
        return f"{self.function}({', '.join([f'{name}={value!r}' for name, value in self.arguments.items()] + arrays)})"

    @property
    def title(self) -> str:
        """Says what the table of products is of."""
        if not self.path.steps:
            return "one operand: no product"
        return (
            f"the products, in the order that is estimated to take the least time on {self.backend}, chosen anew where "
            "the program is lowered"
        )

    def parts(self) -> list[str]:
        """Says what is printed: the call, the formula, a table of the labels, one of the products, one of facts."""
        steps = self.steps()
        products = table([_HEAD[:-1], *(row[:-1] for row in steps)], ["", *(row[-1] for row in steps)])
        return [
            paragraph(self.call()),
            paragraph(self.formula, 2),
            table([self.head, *self.rows()]),
            paragraph(self.title, 2) + ("\n" + products if steps else ""),
            table(self.facts()),
        ]

    def __str__(self) -> str:
        return "\n\n".join(self.parts())

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        def lines(rows: list[tuple[str, ...]], tag: str = "td") -> str:
            return "".join(
                f"<tr>{''.join(f'<{tag} style=text-align:left>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"
                for row in rows
            )

        products = f"<p>{html.escape(self.title)}</p>"
        if self.path.steps:
            products += f"<table>{lines([_HEAD], 'th')}{lines(self.steps())}</table>"
        return (
            f"<p><code>{html.escape(self.call())}</code></p><p><code>{html.escape(self.formula)}</code></p>"
            f"{notebook_svg(self.plot)}<table>{lines([self.head], 'th')}{lines(self.rows())}</table>"
            f"{products}<table>{lines(self.facts())}</table>"
        )

    def plot(self, path: "str | Path | None" = None) -> "Figure":
        """Draws the path as a tree: the operands below, each product above what it multiplies, the result on top.

        Args:
            path: Where to save the picture too.

        Raises:
            ImportError: matplotlib is not installed: the extra `plot` brings it.
        """
        from jbdot.calls.path_figure import draw

        figure = draw(self.path, self.sizes, f"{self.einsum} on {self.backend}: {number_text(self.flops)} FLOPs")
        if path is not None:
            figure.savefig(path)
        return figure
