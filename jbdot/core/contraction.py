"""The one object: which axes of two arrays are batch, contracting and free.

Every dot, matmul, tensordot and two-operand einsum is a `Contraction`: three tuples of
axis labels, one for each operand and one for the result. Only the labels are stored;
roles, dimension numbers, shapes, costs and formulas are read off them.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

from jbdot.core.errors import BadType, BadValue
from jbdot.core.labels import (
    BATCH,
    CONTRACTING,
    LHS_FREE,
    RHS_FREE,
    SPARE,
    Axes,
    Labels,
    Shape,
    checked,
    is_letter,
    names,
    read,
    written,
)

DimensionNumbers = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """Says how the axes of two arrays pair up, for `out = sum over contracting of lhs * rhs`.

    A label that both operands and the result have is *batch*. One that only the operands
    share is *contracting*: paired and summed. One that an operand and the result have is
    *free*. A label of one operand alone is summed there, before the product (einsum's
    `"ij,jk->k"`); one that stands twice in an operand reads its diagonal. `None` marks a
    unit axis: dropped from an operand, inserted in the result.

    Args:
        lhs: A label for each axis of the left operand.
        rhs: A label for each axis of the right operand.
        out: A label for each axis of the result, each at most once.

    Raises:
        TypeError: A label is neither a string nor None.
        ValueError: A label is not a word, stands twice in `out`, or is in no operand.

    Example:
        >>> from jbdot import Contraction
        >>> c = Contraction(("b", "m", "k"), ("b", "k", "n"), ("b", "m", "n"))
        >>> print(c)
        b m k, b k n -> b m n
        >>> c.batch, c.contracting, c.lhs_free, c.rhs_free
        (('b',), ('k',), ('m',), ('n',))
        >>> c.dimension_numbers
        (((2,), (1,)), ((0,), (0,)))
        >>> c.out_shape((10, 4, 5), (10, 5, 8))
        (10, 4, 8)
    """

    lhs: Labels
    rhs: Labels
    out: Labels

    def __post_init__(self) -> None:
        for name in ("lhs", "rhs", "out"):
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        kept = [label for label in self.out if label is not None]
        for label in kept:
            if label not in self.lhs and label not in self.rhs:
                raise BadValue("each label of the result must be in an operand", f"{label!r} of '{self}' is in neither")
        if len(set(kept)) != len(kept):
            raise BadValue("a label must stand only once in the result", f"'{self}' repeats one")

    @functools.cached_property
    def _hash(self) -> int:  # asked for on every call that plans: the labels are walked once
        return hash((self.lhs, self.rhs, self.out))

    def __hash__(self) -> int:
        return self._hash

    # Other ways to write one.

    @classmethod
    def parse(cls, text: str, lhs_shape: Shape | None = None, rhs_shape: Shape | None = None) -> "Contraction":
        """Reads `"b m k, b k n -> b m n"`, or einsum's `"bmk,bkn->bmn"`.

        Where a space stands between two labels, labels are words; else each letter is one, as
        in einsum, and a word in parentheses: `"(row), (row) -> "`. `1` is a unit axis. Without
        `->` the result has, sorted, the letters that stand once; words must say their result.
        An ellipsis needs the operands' shapes, which say how many axes it stands for; those
        broadcast as in NumPy.

        Raises:
            ValueError: The text is no contraction of two operands.

        Example:
            >>> from jbdot import Contraction
            >>> Contraction.parse("bmk,bkn->bmn")
            Contraction.parse('b m k, b k n -> b m n')
            >>> print(Contraction.parse("...ij,...jk->...ik", (7, 2, 3), (3, 4)))
            A i j, j k -> A i k
        """
        return cls(*read(text, lhs_shape, rhs_shape))

    @classmethod
    def from_dimension_numbers(cls, dimension_numbers: Any, lhs_ndim: int, rhs_ndim: int) -> "Contraction":
        """Names the axes of `lax.dot_general`'s dimension numbers, which are 0-based and not negative.

        Raises:
            ValueError: An axis is out of range or has two roles, or paired lists differ in length.

        Example:
            >>> from jbdot import Contraction
            >>> print(Contraction.from_dimension_numbers((((2,), (1,)), ((0,), (0,))), 3, 3))
            b m k, b k n -> b m n
        """
        (lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch) = _checked_numbers(
            dimension_numbers, lhs_ndim, rhs_ndim
        )
        paired = names(BATCH, len(lhs_batch)) + names(CONTRACTING, len(lhs_contracting))
        lhs_of = dict(zip(lhs_batch + lhs_contracting, paired, strict=True))
        rhs_of = dict(zip(rhs_batch + rhs_contracting, paired, strict=True))
        lhs_free, rhs_free = names(LHS_FREE, lhs_ndim - len(lhs_of)), names(RHS_FREE, rhs_ndim - len(rhs_of))
        lhs_rest, rhs_rest = iter(lhs_free), iter(rhs_free)
        return cls(
            tuple(lhs_of[axis] if axis in lhs_of else next(lhs_rest) for axis in range(lhs_ndim)),
            tuple(rhs_of[axis] if axis in rhs_of else next(rhs_rest) for axis in range(rhs_ndim)),
            paired[: len(lhs_batch)] + lhs_free + rhs_free,
        )

    # Roles, read off the labels. The example is always "b m k, b k n -> b m n".

    @functools.cached_property
    def batch(self) -> tuple[str, ...]:
        """Lists the labels of both operands and the result, in the result's order: `("b",)`."""
        return _once(label for label in self.out if label in self.lhs and label in self.rhs)

    @functools.cached_property
    def contracting(self) -> tuple[str, ...]:
        """Lists the labels of both operands that the result has not, in lhs' order: `("k",)`."""
        return _once(label for label in self.lhs if label in self.rhs and label not in self.out)

    @functools.cached_property
    def lhs_free(self) -> tuple[str, ...]:
        """Lists the labels of lhs and the result alone, in lhs' order: `("m",)`."""
        return _once(label for label in self.lhs if label in self.out and label not in self.rhs)

    @functools.cached_property
    def rhs_free(self) -> tuple[str, ...]:
        """Lists the labels of rhs and the result alone, in rhs' order: `("n",)`."""
        return _once(label for label in self.rhs if label in self.out and label not in self.lhs)

    @functools.cached_property
    def summed(self) -> tuple[str, ...]:
        """Lists the labels of one operand alone, which are summed before the product: `()`."""
        return _once(label for label in (*self.lhs, *self.rhs) if label not in (*self.out, *self.contracting))

    def role(self, label: str | None) -> str:
        """Names the role of a label: batch, contracting, free, summed or unit."""
        for role in ("batch", "contracting", "lhs_free", "rhs_free", "summed"):
            if label in getattr(self, role):
                return role[-4:] if role.endswith("free") else role
        return "unit"

    # What `lax.dot_general` is told.

    @functools.cached_property
    def lhs_kept(self) -> tuple[str, ...]:
        """Lists the labels of lhs once unit, summed and repeated axes are gone: `("b", "m", "k")`."""
        return _once(label for label in self.lhs if label not in self.summed)

    @functools.cached_property
    def rhs_kept(self) -> tuple[str, ...]:
        """Lists the labels of rhs once unit, summed and repeated axes are gone: `("b", "k", "n")`."""
        return _once(label for label in self.rhs if label not in self.summed)

    @functools.cached_property
    def dimension_numbers(self) -> DimensionNumbers:
        """Gives `lax.dot_general`'s numbers: `((lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch))`.

        Axes are counted in `lhs_kept` and `rhs_kept`: `(((2,), (1,)), ((0,), (0,)))`.
        """
        contracting = _positions(self.contracting, self.lhs_kept), _positions(self.contracting, self.rhs_kept)
        batch = _positions(self.batch, self.lhs_kept), _positions(self.batch, self.rhs_kept)
        return contracting, batch

    @functools.cached_property
    def dot_out(self) -> tuple[str, ...]:
        """Lists the labels of what `lax.dot_general` returns: batch, lhs free, rhs free: `("b", "m", "n")`."""
        return self.batch + self.lhs_free + self.rhs_free

    @functools.cached_property
    def is_turned(self) -> bool:
        """Says whether the result has rhs' free labels before lhs', so that swapped operands give its order: no."""
        turned = self.batch + self.rhs_free + self.lhs_free
        return self.dot_out != turned == tuple(label for label in self.out if label is not None)

    @functools.cached_property
    def permutation(self) -> Axes:
        """Says where each label of the result stands in `dot_out`: `(0, 1, 2)`."""
        return _positions(_once(self.out), self.dot_out)

    # Sizes and costs, once shapes are known.

    def sizes(self, lhs_shape: Shape, rhs_shape: Shape, names: tuple[str, str] = ("lhs", "rhs")) -> dict[str, int]:
        """Maps each label to its length, and checks that the two shapes agree on it.

        Raises:
            ValueError: A rank or a size does not fit the labels.
        """
        sizes: dict[str, int] = {}
        first: dict[str, str] = {}
        for name, labels, shape in zip(names, (self.lhs, self.rhs), (lhs_shape, rhs_shape), strict=True):
            if len(labels) != len(shape):
                raise BadValue(
                    "an operand must have one axis for each of its labels",
                    f"{name} has rank {len(shape)} for the {len(labels)} labels '{written(labels)[0]}'",
                )
            for axis, (label, size) in enumerate(zip(labels, shape, strict=True)):
                here = f"axis {axis} of {name} has size {size}"
                if label is None:
                    if size != 1:
                        raise BadValue("a unit axis must have size 1", here)
                elif sizes.setdefault(label, size) != size:
                    role = "contracted" if self.role(label) == "contracting" else self.role(label)
                    raise BadValue(
                        f"the {role} axes must have equal sizes", f"{first[label]}, {here} ({label!r} in '{self}')"
                    )
                else:
                    first.setdefault(label, here)
        return sizes

    def out_shape(self, lhs_shape: Shape, rhs_shape: Shape) -> Shape:
        """Gives the result's shape: the size of each label of `out`, 1 for a unit axis."""
        sizes = self.sizes(lhs_shape, rhs_shape)
        return tuple(1 if label is None else sizes[label] for label in self.out)

    def flops(self, lhs_shape: Shape, rhs_shape: Shape) -> int:
        """Counts 2 FLOP for each multiply-add: twice the product of the sizes of `dot_out` and `contracting`."""
        sizes = self.sizes(lhs_shape, rhs_shape)
        return 2 * math.prod(sizes[label] for label in self.dot_out + self.contracting)

    def bytes(self, lhs_shape: Shape, rhs_shape: Shape, itemsizes: tuple[int, int, int]) -> tuple[int, int]:
        """Gives (bytes read, bytes written) when each operand is read once and the result is written once.

        Args:
            itemsizes: Bytes per element of lhs, rhs and the result.
        """
        lhs, rhs, out = itemsizes
        read = math.prod(lhs_shape) * lhs + math.prod(rhs_shape) * rhs
        return read, math.prod(self.out_shape(lhs_shape, rhs_shape)) * out

    # Ways to read one.

    def __str__(self) -> str:
        lhs, rhs, out = written(self.lhs, self.rhs, self.out)
        return f"{lhs}, {rhs} -> {out}"

    def __repr__(self) -> str:
        return f"Contraction.parse({str(self)!r})"

    @functools.cached_property
    def einsum(self) -> str:
        """Writes the einsum string, without unit axes: `"bmk,bkn->bmn"`. A label that is a word gets a letter."""
        labels = _once((*self.lhs, *self.rhs))
        spare = (letter for letter in SPARE if letter not in labels)
        letters = {label: label if is_letter(label) else next(spare) for label in labels}
        lhs, rhs, out = (
            "".join(letters[label] for label in side if label is not None) for side in (self.lhs, self.rhs, self.out)
        )
        return f"{lhs},{rhs}->{out}"

    def formula(self, lhs: str = "lhs", rhs: str = "rhs", out: str = "out") -> str:
        """Writes the contraction with indices: `out[b,m,n] = sum_k lhs[b,m,k] * rhs[b,k,n]`."""
        summed = self.contracting + self.summed
        total = f"sum_{{{','.join(summed)}}} " if len(summed) > 1 else f"sum_{summed[0]} " if summed else ""
        return f"{out}{_indexed(self.out)} = {total}{lhs}{_indexed(self.lhs)} * {rhs}{_indexed(self.rhs)}"


def _checked_numbers(dimension_numbers: Any, lhs_ndim: int, rhs_ndim: int) -> DimensionNumbers:
    try:
        (lc, rc), (lb, rb) = (tuple(tuple(int(axis) for axis in axes) for axes in pair) for pair in dimension_numbers)
    except (TypeError, ValueError):
        raise BadType(
            "dimension_numbers must be ((lhs_contracting, rhs_contracting), (lhs_batch, rhs_batch)), of sequences",
            f"given {dimension_numbers!r}",
        ) from None
    for role, left, right in (("contracting", lc, rc), ("batch", lb, rb)):
        if len(left) != len(right):
            raise BadValue(f"{role} axes must come in pairs", f"{list(left)} of lhs, {list(right)} of rhs")
    for name, axes, ndim in (("lhs", lb + lc, lhs_ndim), ("rhs", rb + rc, rhs_ndim)):
        for axis in axes:
            if not 0 <= axis < ndim:
                raise BadValue(
                    "an axis must lie between 0 and its operand's rank", f"axis {axis} of {name}, which has rank {ndim}"
                )
        if len(set(axes)) != len(axes):
            raise BadValue("an axis must have one role only", f"{list(axes)} of {name} repeats one")
    return (lc, rc), (lb, rb)


def _positions(labels: tuple[str, ...], among: tuple[str, ...]) -> Axes:
    return tuple(among.index(label) for label in labels)


def _once(labels: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(label for label in dict.fromkeys(labels) if label is not None)


def _indexed(labels: Labels) -> str:
    return f"[{','.join('0' if label is None else label for label in labels)}]" if labels else ""
