"""Ragged dots: rows in groups of sizes that are known only when the program runs, each group with a matrix of its own.

XLA's CPU compiler has no kernel for them: `lax.ragged_dot` is written as a dot of every row with every group's matrix,
with zeros where they do not belong together. Here the rows of a group are multiplied block by block by its matrix
alone, in a loop that runs as often as the sizes ask.
"""

import dataclasses
import functools
import math
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jbdot.core.contraction import Contraction
from jbdot.core.errors import array_text
from jbdot.core.labels import Labels, Shape
from jbdot.one_device.choice import Choice, misfit
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS

GROUPED: Final = "grouped"
_GROUP: Final = "g"
_FEWEST_ROWS: Final = 16  # of a block
_MOST_ROWS: Final = 64
_SAVED: Final = 1 << 20  # multiply-adds that the loop has to save: fewer take less time than its steps
_COPIED: Final = 16  # rows whose products take as long as reading and widening a matrix
_SURE: Final = 1.25  # how much more lax has to multiply


@dataclasses.dataclass(frozen=True)
class RaggedSpec:
    """One `lax.ragged_dot_general`, as static facts.

    Attributes:
        dot: The dot that every row would be in, with the groups as one more free axis of rhs where rhs has them.
        ragged: The axis of lhs that is cut into groups.
        group: The axis of rhs that the groups have; None where the groups are of contracted rows, and a result each.
        sizes: The shape of the groups' sizes.
        sizes_dtype: The name of their dtype.
    """

    dot: DotSpec
    ragged: int
    group: int | None
    sizes: Shape
    sizes_dtype: str

    @classmethod
    def of(cls, lhs: Any, rhs: Any, sizes: Any, out: Any, dimension_numbers: Any, precision: Any) -> "RaggedSpec":
        """Reads it off the operands and the result, or what stands for them."""
        dot = DotSpec.of(lhs, rhs, out, dimension_numbers.dot_dimension_numbers, precision)
        (ragged,), group = dimension_numbers.lhs_ragged_dimensions, dimension_numbers.rhs_group_dimensions
        return cls(dot, ragged, group[0] if group else None, tuple(sizes.shape), jnp.dtype(sizes.dtype).name)

    def __str__(self) -> str:
        arrays = ((self.lhs, self.lhs_dtype), (self.rhs, self.rhs_dtype), (self.sizes, self.sizes_dtype))
        operands = ", ".join(array_text("", *array) for array in arrays)
        return f"ragged {self.contraction}: {operands} -> {array_text('', self.out, self.dtype)}"

    @property
    def lhs(self) -> Shape:
        """Gives the shape of lhs."""
        return self.dot.lhs

    @property
    def rhs(self) -> Shape:
        """Gives the shape of rhs."""
        return self.dot.rhs

    @property
    def lhs_dtype(self) -> str:
        """Names the dtype of lhs."""
        return self.dot.lhs_dtype

    @property
    def rhs_dtype(self) -> str:
        """Names the dtype of rhs."""
        return self.dot.rhs_dtype

    @property
    def dtype(self) -> str:
        """Names the dtype of the result."""
        return self.dot.dtype

    @property
    def is_static(self) -> bool:
        """Says whether every size is a number."""
        sizes: tuple[Any, ...] = self.sizes
        return self.dot.is_static and all(isinstance(size, int) for size in sizes)

    @property
    def groups(self) -> int:
        """Counts the groups."""
        return self.sizes[-1]

    @property
    def rows(self) -> int:
        """Counts the rows that are cut into groups."""
        return self.lhs[self.ragged]

    @property
    def block(self) -> int:
        """Counts the rows that are multiplied at a time: as many as a group has, if groups are equal."""
        each = 1 << max(1, self.rows // self.groups).bit_length() - 1
        return min(self.rows, _MOST_ROWS, max(_FEWEST_ROWS, each))

    @functools.cached_property
    def one(self) -> Contraction:
        """Labels the axes as those of a dot with the matrix of one group."""
        (lhs_contracted, rhs_contracted), (lhs_batch, rhs_batch) = self.dot.dimension_numbers
        left = len(self.rhs) if self.group is None else self.group
        rhs_contracted, rhs_batch = (
            tuple(axis - (axis > left) for axis in axes) for axes in (rhs_contracted, rhs_batch)
        )
        numbers = (lhs_contracted, rhs_contracted), (lhs_batch, rhs_batch)
        return Contraction.from_dimension_numbers(numbers, len(self.lhs), len(self.rhs) - (self.group is not None))

    @functools.cached_property
    def labels(self) -> tuple[Labels, Labels]:
        """Gives the labels of lhs and rhs, with the groups' own."""
        lhs, rhs = self.one.terms
        return lhs, rhs if self.group is None else (*rhs[: self.group], _GROUP, *rhs[self.group :])

    @functools.cached_property
    def lengths(self) -> dict[str | None, int]:
        """Returns the length of each label."""
        lhs, rhs = self.labels
        return {**dict(zip(lhs, self.lhs, strict=True)), **dict(zip(rhs, self.rhs, strict=True)), _GROUP: self.groups}

    @functools.cached_property
    def row(self) -> str:
        """Returns the label of the axis that is cut into groups."""
        return str(self.one.lhs[self.ragged])

    @functools.cached_property
    def batch(self) -> tuple[str, ...]:
        """Returns the labels of the batch axes, in the order in which the sizes have them."""
        _, (batch, _) = self.dot.dimension_numbers
        return tuple(str(self.one.lhs[axis]) for axis in batch)

    @functools.cached_property
    def outer(self) -> tuple[str, ...]:
        """Returns the labels of the axes whose every element has groups of its own: batch, and what stands before."""
        (contracted, _), _ = self.dot.dimension_numbers
        axes = self.one.lhs_free if self.group is not None else tuple(str(self.one.lhs[axis]) for axis in contracted)
        return (*self.batch, *axes[: axes.index(self.row)])

    @functools.cached_property
    def contraction(self) -> Contraction:
        """Returns the labels of lhs, rhs, the sizes and the result."""
        sizes = (*(self.outer if len(self.sizes) > 1 else ()), _GROUP)
        out = self.one.out if self.group is not None else (_GROUP, *self.one.out)
        return Contraction(*self.labels, sizes, out)

    @functools.cached_property
    def out(self) -> Shape:
        """Returns the result's shape."""
        return tuple(self.lengths[label] for label in self.contraction.out)

    @property
    def flops(self) -> int:
        """Counts 2 FLOPs for each multiply-add of a row with the matrix of its group."""
        return self.dot.flops // (1 if self.group is None else self.groups)


def decided(operands: Any, out: Any, params: dict[str, Any], platform: str, lowering: str) -> tuple[RaggedSpec, Choice]:
    """Reads a ragged dot off its equation, and chooses how it is lowered: "grouped", or "direct", as JAX has it.

    Args:
        operands: Lhs, rhs and the sizes, or what stands for them.
        out: The result.
        params: The equation's parameters.
        platform: Where it will run.
        lowering: What its mark says: "direct"; other names are of dots, and choose nothing here.
    """
    lhs, rhs, sizes = operands
    spec = RaggedSpec.of(lhs, rhs, sizes, out, params["ragged_dot_dimension_numbers"], params["precision"])
    if lowering == "direct":
        return spec, Choice("direct", "as asked")
    if lowering in LOWERINGS and LOWERINGS[lowering].is_kept:
        return spec, Choice("direct", f"as its dot is then {lowering}")
    if params["group_offset"] is not None:
        return spec, Choice("direct", "as it has a group_offset")
    return spec, chosen(spec, platform)


def chosen(spec: RaggedSpec, platform: str) -> Choice:
    """Chooses how a ragged dot is lowered on a platform."""
    if platform != "cpu":
        return Choice("direct", "as the loop over groups was measured on CPUs only")
    is_of_batch = spec.row in spec.one.batch
    if is_of_batch or not spec.is_static or 0 in spec.sizes or misfit(spec.dot, "reduced"):
        return Choice("direct", "as only lax.ragged_dot_general carries out such sizes, dtypes or algorithms")
    if not _is_worth(spec):
        return Choice("direct", "as there is less to save than a loop over groups takes")
    return Choice(GROUPED, "as XLA multiplies every row by every group's matrix on a CPU")


def _is_worth(spec: RaggedSpec) -> bool:
    """Says whether lax would multiply surely more rows by matrices: all by each, where groups fill their last block."""
    touched = min(spec.groups, spec.rows)
    ours = spec.rows + touched * (spec.block // 2 + _COPIED)
    is_less = spec.rows * spec.groups >= _SURE * ours
    return is_less and spec.flops // 2 * (spec.groups - 1) >= _SAVED


def grouped(spec: RaggedSpec, lhs: jax.Array, rhs: jax.Array, sizes: jax.Array) -> jax.Array:
    """Multiplies the rows of each group by its matrix alone, in blocks; sums are held in the accumulator's dtype."""
    (lhs_labels, rhs_labels), lead = spec.labels, (*spec.outer, spec.row)
    is_of_rows = spec.group is not None
    x, left = _stacked(lhs, lhs_labels, lead)
    y, right = _stacked(rhs, rhs_labels, (*spec.batch, _GROUP) if is_of_rows else lead)
    left, right = (spec.row, *left), right if is_of_rows else (spec.row, *right)
    summed = [label for label in spec.one.contracting if label in left and label in right]
    numbers = tuple(tuple(labels.index(label) for label in summed) for labels in (left, right)), ((), ())
    dot = functools.partial(_dot, numbers, spec.dot.precision, jnp.dtype(spec.dot.sum_dtype))
    rows, widened = _Rows.of(spec, sizes), functools.partial(_widened, spec)
    if is_of_rows:
        return _of_rows(rows, dot, widened(x), y, widened).astype(spec.dtype).reshape(spec.out)
    out = _of_groups(rows, dot, widened(x), widened(y), spec.dot.batch * spec.groups).astype(spec.dtype)
    out = out.reshape(*(spec.lengths[label] for label in spec.batch), spec.groups, *out.shape[1:])
    return jnp.moveaxis(out, len(spec.batch), 0).reshape(spec.out)


def _stacked(x: jax.Array, labels: Labels, lead: tuple[str, ...]) -> tuple[jax.Array, Labels]:
    """Puts some axes first, and merges them into one; gives the labels of the others too."""
    rest = tuple(label for label in labels if label not in lead)
    x = lax.transpose(x, [labels.index(label) for label in (*lead, *rest)])
    return x.reshape(-1, *x.shape[len(lead) :]), rest


def _widened(spec: RaggedSpec, x: jax.Array) -> jax.Array:
    """Gives floats the dtype that they are summed in: not all of 16 bits have a kernel, and then each dot does that."""
    return x.astype(spec.dot.sum_dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _dot(numbers: Any, precision: Any, total: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.dot_general_p.bind(
        x, y, dimension_numbers=numbers, precision=precision, preferred_element_type=total, out_sharding=None
    )


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Where the groups that have rows stand among all rows, and which matrix is theirs.

    Attributes:
        count: How many such groups there are: in what follows, those without rows stand behind them.
        starts: The first row of each.
        ends: The row after its last.
        matrices: The number of its matrix.
        block: How many rows are multiplied at a time.
        most: All rows, also those of no group.
    """

    count: jax.Array
    starts: jax.Array
    ends: jax.Array
    matrices: jax.Array
    block: int
    most: int

    @classmethod
    def of(cls, spec: RaggedSpec, sizes: jax.Array) -> "_Rows":
        """Reads it off the sizes; what reaches beyond the last row is cut there, as in lax."""
        rows, groups = spec.rows, spec.groups
        outer = [spec.lengths[label] for label in spec.outer]
        sizes = sizes.astype(jnp.int32) if sizes.dtype.itemsize < 4 else sizes
        sizes = jnp.clip(sizes, 0, rows).astype(jnp.int32)
        ends = jnp.minimum(jnp.cumsum(jnp.broadcast_to(sizes, (*outer, groups)).reshape(-1, groups), axis=1), rows)
        starts = jnp.concatenate([jnp.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
        first = rows * np.arange(len(ends), dtype=np.int32)[:, None]
        number = np.arange(ends.size, dtype=np.int32)
        shared = math.prod(outer[len(spec.batch) :])  # so many rows of sizes are of the same matrices
        matrices = number // (groups * shared) * groups + number % groups
        order = jnp.argsort((starts == ends).reshape(-1), stable=True)
        count = jnp.sum(starts < ends, dtype=jnp.int32)
        starts, ends = ((places + first).reshape(-1)[order] for places in (starts, ends))
        return cls(count, starts, ends, jnp.asarray(matrices)[order], spec.block, rows * len(first))

    def each_block(self, group: Any, step: Any, carry: Any) -> Any:
        """Runs `step` on the blocks of a group: where a block begins, which of its rows are to be taken, the carry.

        The last block of all begins earlier than it would, so that it does not reach beyond the rows.
        """
        start, end = self.starts[group], self.ends[group]

        def body(state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            row, carry = state
            at = jnp.minimum(row, self.most - self.block)
            each = at + jnp.arange(self.block, dtype=jnp.int32)
            return row + self.block, step(at, (each >= row) & (each < end), carry)

        return lax.while_loop(lambda state: state[0] < end, body, (start, carry))[1]

    def read(self, x: jax.Array, at: jax.Array) -> jax.Array:
        """Reads the block that begins at a row."""
        return lax.dynamic_slice_in_dim(x, at, self.block)


def _of_rows(rows: _Rows, dot: Any, x: jax.Array, y: jax.Array, widened: Any) -> jax.Array:
    """Returns the product of each row of x with the matrix of its group; zeros for rows of no group."""
    made = jax.eval_shape(lambda: dot(x, widened(y[0])))

    def group(number: Any, out: jax.Array) -> jax.Array:
        matrix = widened(lax.dynamic_index_in_dim(y, rows.matrices[number], 0, keepdims=False))

        def step(at: jax.Array, taken: jax.Array, out: jax.Array) -> jax.Array:
            block = jnp.where(_along(taken, out), dot(rows.read(x, at), matrix), rows.read(out, at))
            return lax.dynamic_update_slice_in_dim(out, block, at, 0)

        return rows.each_block(number, step, out)

    return lax.fori_loop(0, rows.count, group, jnp.zeros(made.shape, made.dtype))


def _of_groups(rows: _Rows, dot: Any, x: jax.Array, y: jax.Array, groups: int) -> jax.Array:
    """Returns for each group the sum over its rows of the products of x and y; zeros where it has none."""
    made = jax.eval_shape(dot, x, y)

    def group(number: Any, out: jax.Array) -> jax.Array:
        def step(at: jax.Array, taken: jax.Array, total: jax.Array) -> jax.Array:
            blocks = (rows.read(operand, at) for operand in (x, y))
            return total + dot(*(jnp.where(_along(taken, block), block, jnp.zeros_like(block)) for block in blocks))

        where = rows.matrices[number]
        total = rows.each_block(number, step, lax.dynamic_index_in_dim(out, where, 0, keepdims=False))
        return lax.dynamic_update_index_in_dim(out, total, where, 0)

    return lax.fori_loop(0, rows.count, group, jnp.zeros((groups, *made.shape), made.dtype))


def _along(taken: jax.Array, x: jax.Array) -> jax.Array:
    """Gives a mask of the first axis the rank of an array."""
    return taken.reshape(-1, *(1 for _ in x.shape[1:]))
