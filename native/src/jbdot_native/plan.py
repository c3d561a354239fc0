"""Which calls of BLAS a dot is: one matrix product of strided axes, and loops around it.

BLAS reads a matrix whose rows or columns are next to each other in memory, with any distance between them. So axes
that lie side by side alike wherever they stand are merged first; then one axis of lhs, one of rhs and one contracted
axis are the matrix product, and all others are looped over. An operand that would leave small products in long loops is
transposed by XLA before.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

Numbers = Any  # dimension_numbers, as of `lax.dot_general`
Order = tuple[int, ...]

# Nanoseconds, roughly, on two cores of a server: only what they are beside each other counts.
CALL_NS: Final = 150.0  # of one call of BLAS
COPY_NS: Final = 1.0  # of an element that is transposed
PRODUCT_NS: Final = 0.02  # of a multiply-add in a large matrix product
SMALL: Final = 4  # rows, columns or terms at which a kernel reaches half of its rate


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of the dot, or several merged: its size, and its stride in lhs, rhs and result, 0 where it is not."""

    size: int
    strides: tuple[int, int, int]

    def within(self, other: "Axis") -> bool:
        """Says whether this axis, the inner one, and another, the outer one, are one axis of more elements."""
        return all(outer == self.size * inner for inner, outer in zip(self.strides, other.strides, strict=True))


NO_AXIS: Final = Axis(1, (0, 0, 0))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The calls of a dot.

    Attributes:
        lhs_order: The permutation that lhs is transposed by before; None where it stays as it is.
        rhs_order: The same of rhs.
        m: The axis of lhs' rows in the matrix product.
        n: That of rhs' columns.
        k: The one that is contracted.
        loops: Axes that are looped over.
        sums: Contracted axes that are looped over: their products are added.
    """

    lhs_order: Order | None
    rhs_order: Order | None
    m: Axis
    n: Axis
    k: Axis
    loops: tuple[Axis, ...]
    sums: tuple[Axis, ...]

    @property
    def numbers(self) -> list[int]:
        """Returns what the library is told: `Plan::read` of blas.cc reads it."""
        m, n, k = self.m.strides, self.n.strides, self.k.strides
        product = [self.m.size, self.n.size, self.k.size, m[0], k[0], k[1], n[1], m[2], n[2]]
        return [
            *product,
            len(self.loops),
            *(x for axis in (*self.loops, *self.sums) for x in (axis.size, *axis.strides)),
        ]

    def ns(self, copied: int) -> float:
        """Estimates its time: to choose among plans, not to be told."""
        calls = math.prod(axis.size for axis in (*self.loops, *self.sums))
        sizes = (self.m.size, self.n.size, self.k.size)
        small = math.prod(1 + SMALL / size for size in sizes)
        return calls * (CALL_NS + PRODUCT_NS * math.prod(sizes) * small) + COPY_NS * copied


def plan(lhs: Sequence[int], rhs: Sequence[int], numbers: Numbers) -> Plan:
    """Chooses the calls of a dot of row-major operands, and of a row-major result as `lax.dot_general` has it.

    Args:
        lhs: The shape.
        rhs: The shape.
        numbers: The dot's dimension numbers.

    Example:
        >>> plan((8, 32, 4), (8, 32, 5), (((1,), (1,)), ((0,), (0,)))).numbers
        [4, 5, 32, 1, 4, 5, 1, 5, 1, 1, 8, 128, 160, 20]
    """
    lhs_orders, rhs_orders = (_orders(lhs, numbers, 0), _orders(rhs, numbers, 1))
    found: list[tuple[float, Plan]] = []
    for lhs_order, rhs_order in itertools.product(lhs_orders, rhs_orders):
        copied = (math.prod(lhs) if lhs_order else 0) + (math.prod(rhs) if rhs_order else 0)
        groups = _groups(lhs, rhs, numbers, lhs_order, rhs_order)
        for product in itertools.product(*((*group, NO_AXIS) for group in groups[1:])):
            if _is_called(*product):
                made = _with(lhs_order, rhs_order, groups, product)
                found.append((made.ns(copied), made))
    return min(found, key=lambda pair: pair[0])[1]


def out_shape(lhs: Sequence[int], rhs: Sequence[int], numbers: Numbers) -> list[int]:
    """Returns the shape of the result: the batch axes, lhs' free axes, rhs' free axes."""
    batch = (*numbers[1][0], *_free(len(lhs), numbers, 0))
    return [*(lhs[axis] for axis in batch), *(rhs[axis] for axis in _free(len(rhs), numbers, 1))]


def _free(count: int, numbers: Numbers, side: int) -> list[int]:
    return [axis for axis in range(count) if axis not in (*numbers[0][side], *numbers[1][side])]


def _orders(shape: Sequence[int], numbers: Numbers, side: int) -> list[Order | None]:
    """Lists how an operand may be transposed: not at all, or to (batch, free, contracting)."""
    contracting, batch = numbers[0][side], numbers[1][side]
    order = (*batch, *_free(len(shape), numbers, side), *contracting)
    return [None] if order == tuple(range(len(shape))) else [None, order]


def _groups(
    lhs: Sequence[int], rhs: Sequence[int], numbers: Numbers, lhs_order: Order | None, rhs_order: Order | None
) -> tuple[list[Axis], list[Axis], list[Axis], list[Axis]]:
    """Returns the batch axes, lhs' free axes, rhs' free axes and the contracting axes, merged where they can be."""
    (lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch) = numbers
    lhs_strides, rhs_strides = _strides(lhs, lhs_order), _strides(rhs, rhs_order)
    lhs_free, rhs_free = _free(len(lhs), numbers, 0), _free(len(rhs), numbers, 1)
    out_strides = iter(_strides(out_shape(lhs, rhs, numbers), None))
    batch = [
        Axis(lhs[i], (lhs_strides[i], rhs_strides[j], next(out_strides)))
        for i, j in zip(lhs_batch, rhs_batch, strict=True)
    ]
    rows = [Axis(lhs[i], (lhs_strides[i], 0, next(out_strides))) for i in lhs_free]
    columns = [Axis(rhs[i], (0, rhs_strides[i], next(out_strides))) for i in rhs_free]
    contracting = [
        Axis(lhs[i], (lhs_strides[i], rhs_strides[j], 0)) for i, j in zip(lhs_contracting, rhs_contracting, strict=True)
    ]
    return _merged(batch), _merged(rows), _merged(columns), _merged(contracting)


def _strides(shape: Sequence[int], order: Order | None) -> list[int]:
    """Returns each axis' stride in an array whose axes lie in this order, row-major."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order or range(len(shape))):
        strides[axis] = step
        step *= shape[axis]
    return strides


def _merged(axes: list[Axis]) -> list[Axis]:
    """Merges axes that lie side by side alike in every array, and drops those of one element."""
    merged: list[Axis] = []
    for axis in sorted((axis for axis in axes if axis.size > 1), key=lambda axis: axis.strides, reverse=True):
        if merged and axis.within(merged[-1]):
            axis = Axis(axis.size * merged.pop().size, axis.strides)
        merged.append(axis)
    return merged


def _is_called(m: Axis, n: Axis, k: Axis) -> bool:
    """Says whether BLAS can be called for a product of these axes."""
    lhs_lies = 1 in (m.strides[0], k.strides[0])
    rhs_lies = 1 in (n.strides[1], k.strides[1])
    if m is NO_AXIS or n is NO_AXIS:  # gemv: vectors may have any stride
        return (lhs_lies or m is NO_AXIS) and (rhs_lies or n is NO_AXIS)
    return lhs_lies and rhs_lies and n.strides[2] == 1


def _with(
    lhs_order: Order | None,
    rhs_order: Order | None,
    groups: tuple[list[Axis], list[Axis], list[Axis], list[Axis]],
    product: tuple[Axis, ...],
) -> Plan:
    batch, rows, columns, contracting = groups
    m, n, k = product
    loops = (*batch, *_others(rows, m), *_others(columns, n))
    return Plan(lhs_order, rhs_order, m, n, k, loops, tuple(_others(contracting, k)))


def _others(axes: list[Axis], taken: Axis) -> Iterator[Axis]:
    return (axis for axis in axes if axis is not taken)
