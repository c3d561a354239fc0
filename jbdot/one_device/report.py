"""What a function's dots are, and how each will be lowered: read off its jaxpr, nothing is run."""

import dataclasses
import html
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from jax import lax
from jax import numpy as jnp

from jbdot.core.contraction import Contraction
from jbdot.core.errors import array_text
from jbdot.core.text import number_text, paragraph, table
from jbdot.one_device import jax_internals, mark, ragged
from jbdot.one_device.choice import PLATFORMS, Choice, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.ragged import RaggedSpec
from jbdot.one_device.reordering import reordered

# What multiplies and is left alone: by name, as JAX has them.
_ALONE: Final = {
    "conv_general_dilated": "convolution",
    "ragged_dot_general": "ragged_dot",
    "scaled_matmul": "scaled_matmul",
    "bcoo_dot_general": "sparse dot",
    "bcoo_spdot_general": "sparse dot",
    "bcsr_dot_general": "sparse dot",
}
# Kernels: what they hold is for other compilers than XLA's.
_SEALED: Final = {
    "pallas_call": "kernel",
    "core_map": "kernel",
    "mpmd_map": "kernel",
    "cudnn_fusion": "kernel",
    "custom_fusion": "kernel",
    "fusible": "kernel",
}
_UNCOUNTED: Final = {"while", "custom_linear_solve"}  # what they hold runs as often as the numbers ask
_LARGE: Final = 1 << 30  # bytes of a result that is warned of, where it is
_TIMES: Final = 16  # as many times larger than its operands


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One dot of a function.

    Attributes:
        source: The line that asked for it and the function around it, as "/home/me/train.py:12 (loss)"; empty where
            JAX does not know.
        times: How often a call runs it: the lengths of the scans around it, multiplied. None in a while loop, and
            where a solver decides. Every branch of a cond counts as if taken.
        dot_spec: Its sizes, dtypes and precision; of a `lax.ragged_dot` with its groups.
        choice: The lowering, why, and what it gains.
    """

    source: str
    times: int | None
    dot_spec: DotSpec | RaggedSpec
    choice: Choice

    @property
    def contraction(self) -> Contraction:
        """Returns the labels."""
        return self.dot_spec.contraction

    @property
    def flops(self) -> int:
        """Counts the FLOPs of running it once."""
        return self.dot_spec.flops

    @property
    def operands(self) -> str:
        """Operands and result, as `float32[2,3] float32[3,4] -> float32[2,4]`."""
        r = self.dot_spec
        arrays = ((r.lhs, r.lhs_dtype), (r.rhs, r.rhs_dtype), (r.out, r.dtype))
        return "{} {} -> {}".format(*(array_text("", shape, dtype) for shape, dtype in arrays))

    @property
    def operand_bytes(self) -> int:
        """Counts the bytes of both operands."""
        r = self.dot_spec
        return sum(
            math.prod(shape) * jnp.dtype(dtype).itemsize
            for shape, dtype in ((r.lhs, r.lhs_dtype), (r.rhs, r.rhs_dtype))
        )

    @property
    def result_bytes(self) -> int:
        """Counts the bytes of the result."""
        return math.prod(self.dot_spec.out) * jnp.dtype(self.dot_spec.dtype).itemsize

    @property
    def is_large(self) -> bool:
        """Says whether the result is far larger than all operands, and large."""
        return self.dot_spec.is_static and self.result_bytes > max(_LARGE, _TIMES * self.operand_bytes)

    def lines(self) -> tuple[str, ...]:
        """Says what stands below the row: the dot, and what its lowerings are estimated to take."""
        return str(self.contraction), self.operands, self.choice.estimates_text

    def cells(self) -> tuple[str, ...]:
        """Returns the row as text."""
        path, _, where = self.source.rpartition("/")
        choice = self.choice
        gain = f"{choice.gain:.2g} on {choice.case} ({choice.source})" if choice.gain else ""
        times = "?" if self.times is None else number_text(self.times)
        cells = where or path, times, str(self.contraction), self.operands, number_text(self.flops)
        return *cells, choice.lowering, gain, choice.why


@dataclasses.dataclass(frozen=True)
class Alone:
    """Something that multiplies, and that jbdot leaves as it is.

    Attributes:
        kind: What it is: "convolution", "ragged_dot", "kernel".
        source: The line that asked for it.
        times: How often a call runs it, as in `ReportRow`.
        flops: FLOPs of running it once; None where they are not known.
    """

    kind: str
    source: str
    times: int | None
    flops: int | None

    def __str__(self) -> str:
        flops = "unknown" if self.flops is None else number_text(self.flops)
        times = "?" if self.times is None else number_text(self.times)
        return f"{self.kind} at {self.source.rpartition('/')[2] or 'an unknown line'}: {times} times {flops} FLOPs"


@dataclasses.dataclass(frozen=True)
class Report:
    """The dots of a function, in the order in which it asks for them.

    Attributes:
        function: The function's name.
        platform: Where it would run.
        rows: A `ReportRow` for each dot.
        alone: An `Alone` for each thing that multiplies and is no dot, or a kernel.
    """

    function: str
    platform: str
    rows: tuple[ReportRow, ...]
    alone: tuple[Alone, ...] = ()

    @classmethod
    def of(cls, function: str, jaxpr: Any, platform: str) -> "Report":
        """Reads it off a jaxpr."""
        found = list(_found(jaxpr, PLATFORMS.get(platform, platform)))
        rows = tuple(row for row in found if isinstance(row, ReportRow))
        return cls(function, platform, rows, tuple(row for row in found if isinstance(row, Alone)))

    @property
    def flops(self) -> int:
        """Counts the FLOPs of the dots of a call, as far as it is known how often each runs."""
        return sum(row.flops * row.times for row in self.rows if row.times is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Says what is probably not meant: results far larger than all that they are made of."""
        return tuple(
            f"{row.source.rpartition('/')[2] or 'a dot'} has a result of {_bytes(row.result_bytes)}, "
            f"{row.result_bytes // max(1, row.operand_bytes):,} times its operands: {row.operands}"
            for row in self.rows
            if row.is_large
        )

    @property
    def head(self) -> tuple[str, ...]:
        """Returns the names of the columns."""
        return (
            "where",
            "times",
            "contraction",
            "operands and result",
            "FLOPs",
            "lowering",
            "times faster, and on what",
            "why",
        )

    @property
    def title(self) -> str:
        """Says what is reported, in a line."""
        known = "" if all(row.times is not None for row in self.rows) else " where it is known how often they run"
        dots = f"{len(self.rows)} dot{'' if len(self.rows) == 1 else 's'}"
        return f"{self.function} on {self.platform}: {dots}, {number_text(self.flops)} FLOPs{known}"

    @property
    def remarks(self) -> list[str]:
        """Says what is left alone, and what is warned of, a line each."""
        alone = [f"left alone: {one}" for one in self.alone]
        return [*alone, *(f"warning: {warning}" for warning in self.warnings)]

    def __iter__(self) -> Iterator[ReportRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [row.cells() for row in self.rows]
        notes = list(dict.fromkeys(_note(why, gain) for *_, gain, why in cells))
        rows = [("where", "times", "FLOPs", "lowering", "note")]
        rows += [
            (where, times, flops, lowering, str(1 + notes.index(_note(why, gain))))
            for where, times, _, _, flops, lowering, gain, why in cells
        ]
        dots = ["\n".join(filter(None, row.lines())) for row in self.rows]
        said = [paragraph(f"{number}: {note}", 2) for number, note in enumerate(notes, 1)]
        parts = [
            paragraph(self.title),
            table(rows, ["", *dots]),
            "\n".join(said),
            "\n".join(map(paragraph, self.remarks)),
        ]
        return "\n\n".join(filter(None, parts))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        def line(cells: tuple[str, ...], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in cells) + "</tr>"

        rows = "".join(line(row.cells(), "td") for row in self.rows)
        remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in self.remarks)
        head = f"<p><code>{html.escape(self.title)}</code></p>"
        return f"{head}<table>{line(self.head, 'th')}{rows}</table>{remarks}"


def _found(jaxpr: Any, platform: str, times: int | None = 1, source: str = "") -> Iterator[ReportRow | Alone]:
    """Says what multiplies in a jaxpr and in the jaxprs of its equations.

    What JAX traced elsewhere, such as a derivative rule, has no line of its own: then it has that of its call.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    equations, orders = jaxpr.eqns, reordered(jaxpr, platform)
    transposes = {id(equation.outvars[0]): equation for equation in equations if equation.primitive is lax.transpose_p}
    first = {id(variable): equation for equation in reversed(equations) for variable in equation.invars}
    for equation in equations:
        name, params = equation.primitive.name, equation.params
        at = re.sub(r":(\d+):\d+ ", r":\1 ", jax_internals.source(equation)) or source
        if id(equation) in orders:
            order = orders[id(equation)]
            for spec in order.dot_specs if order.last is equation else ():
                yield ReportRow(at, times, spec, chosen(spec, platform, _lowering(equation)))
        elif equation.primitive is lax.dot_general_p:
            yield ReportRow(at, times, *_decided(equation, transposes, first.get(id(equation.outvars[0])), platform))
        elif name == "ragged_dot_general" and (decided := _ragged(equation, platform))[1].lowering != "direct":
            yield ReportRow(at, times, *decided)
        elif name in _SEALED or name in _ALONE:
            yield Alone(_SEALED.get(name) or _ALONE[name], at, times, _flops(equation))
        else:
            inner = None if times is None or name in _UNCOUNTED else times * params.get("length", 1)
            for inside in jax_internals.inner_jaxprs(params):
                yield from _found(inside, platform, inner, at)


def _decided(equation: Any, transposes: dict[int, Any], reader: Any, platform: str) -> tuple[DotSpec, Choice]:
    """Pairs a dot as it is written with what `lowering_rule` will choose for it, with the transposes beside it."""
    (lhs, rhs), (out,), params = equation.invars, equation.outvars, equation.params
    numbers, precision = params["dimension_numbers"], params["precision"]
    written = DotSpec.of(lhs.aval, rhs.aval, out.aval, numbers, precision)
    lowering = _lowering(equation)
    if lowering == "direct":
        return written, Choice("direct", "as asked")

    def transposed(operand: Any) -> Any:
        maker = transposes.get(id(operand))
        return None if maker is None else (maker.invars[0], maker.params["permutation"])

    spec, _ = written.beneath(equation.invars, transposed)
    turned = tuple(reader.params["permutation"]) if reader is not None and reader.primitive is lax.transpose_p else None
    if turned is not None and turned == spec.turn:
        spec = spec.swapped
    return written, chosen(spec, platform, lowering)


def _ragged(equation: Any, platform: str) -> tuple[RaggedSpec, Choice]:
    operands, out = (variable.aval for variable in equation.invars), equation.outvars[0].aval
    return ragged.decided(operands, out, equation.params, platform, _lowering(equation))


def _lowering(equation: Any) -> str:
    return mark.of(jax_internals.metadata_of(equation.ctx))


def _flops(equation: Any) -> int | None:
    """Counts the FLOPs of what is no dot: 2 for each multiply-add; of a kernel what it says itself."""
    shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars) if hasattr(x.aval, "shape")]
    match equation.primitive.name:
        case "conv_general_dilated":
            out_features = equation.params["dimension_numbers"].rhs_spec[0]
            return 2 * math.prod(shapes[2]) * math.prod(shapes[1]) // max(1, shapes[1][out_features])
        case "ragged_dot_general":
            return _ragged(equation, "")[0].flops
        case _:
            said = equation.params.get("cost_estimate")
            return getattr(said, "flops", None)


def _note(why: str, gain: str) -> str:
    """Says why a lowering is taken, and what that gained where it was measured."""
    return f"{why}; times faster: {gain}" if gain else why


def _bytes(number: int) -> str:
    return f"{number / 1e9:,.3g} GB"
