"""The one object: which axes of arrays are batch, contracting and free.

Every dot, matmul, tensordot and einsum is a `Contraction`: a tuple of axis labels for each operand, most often two,
and one for the result. Only the labels are stored; roles, dimension numbers, shapes, costs and formulas are read off
them. One of more than two operands is carried out two at a time: see `jbdot.one_device.path`.
"""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
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
    operand_names,
    read,
    written,
)

DimensionNumbers = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]


@dataclasses.dataclass(frozen=True, init=False)
class Contraction:
    """Says how the axes of arrays pair up, for `out = sum over contracting of lhs * rhs`.

    A label that two operands or more and the result have is *batch*. One that operands share and the result has not
    is *contracting*: paired and summed. One that one operand and the result have is *free*. A label of one operand
    alone is summed there, before the product (einsum's `"ij,jk->k"`); one that stands twice in an operand reads its
    diagonal. `None` marks a unit axis: dropped from an operand, inserted in the result.

    Args:
        labels: For each operand a tuple with a label for each of its axes; then one for the result, each label at
            most once. `Contraction(lhs, rhs, out)` is of two operands; there may be one, or any number.

    Attributes:
        terms: The labels of each operand.
        out: The labels of the result.

    Raises:
        TypeError: A label is neither a string nor None.
        ValueError: A label is not a word, stands twice in `out`, or is in no operand; or there is no operand.

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

    terms: tuple[Labels, ...]
    out: Labels

    def __init__(self, *labels: Labels) -> None:
        if len(labels) < 2:
            raise BadValue(
                "a contraction must have the labels of an operand and of the result",
                f"{len(labels)} given",
                "Write Contraction(lhs, rhs, out)",
            )
        *terms, out = map(checked, (*operand_names(len(labels) - 1), "out"), labels)
        terms = tuple(terms)
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "out", out)
        kept = [label for label in out if label is not None]
        for label in kept:
            if not any(label in term for term in terms):
                where = "neither" if len(terms) == 2 else "none"
                raise BadValue("each label of the result must be in an operand", f"{label!r} of '{self}' is in {where}")
        if len(set(kept)) != len(kept):
            raise BadValue("a label must stand only once in the result", f"'{self}' repeats one")

    @functools.cached_property
    def _hash(self) -> int:  # asked for on every call that plans: the labels are walked once
        return hash((self.terms, self.out))

    def __hash__(self) -> int:
        return self._hash

    # Other ways to write one.

    @classmethod
    def parse(cls, text: str, *shapes: Shape | None) -> "Contraction":
        """Reads `"b m k, b k n -> b m n"`, or einsum's `"bmk,bkn->bmn"`, of any number of operands.

        Where a space stands between two labels, labels are words; else each letter is one, as
        in einsum, and a word in parentheses: `"(row), (row) -> "`. `1` is a unit axis. Without
        `->` the result has, sorted, the letters that stand once; words must say their result.
        An ellipsis needs the operands' shapes, which say how many axes it stands for; those
        broadcast as in NumPy.

        Args:
            text: The labels.
            shapes: The shape of each operand, where the text has an ellipsis.

        Raises:
            ValueError: The text is no contraction, or its terms are not as many as the shapes.

        Example:
            >>> from jbdot import Contraction
            >>> Contraction.parse("bmk,bkn->bmn")
            Contraction.parse('b m k, b k n -> b m n')
            >>> print(Contraction.parse("...ij,...jk->...ik", (7, 2, 3), (3, 4)))
            A i j, j k -> A i k
            >>> Contraction.parse("i,ij,jk->k").contracting
            ('i', 'j')
        """
        return cls(*read(text, shapes))

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

    @property
    def lhs(self) -> Labels:
        """Gives the labels of the first operand: `("b", "m", "k")`."""
        return self.terms[0]

    @functools.cached_property
    def rhs(self) -> Labels:
        """Gives the labels of the second of two operands: `("b", "k", "n")`.

        Raises:
            ValueError: There are not two operands.
        """
        self.check_two()
        return self.terms[1]

    def check_two(self) -> None:
        """Refuses what is not of two operands.

        Raises:
            ValueError: It is of one, or of more.
        """
        if len(self.terms) != 2:
            raise BadValue(
                "the contraction must be of two operands here",
                f"'{self}' is of {len(self.terms)}",
                "contract, explain and tensorflow.einsum take any number",
            )

    # Roles, read off the labels. The example is always "b m k, b k n -> b m n".

    @functools.cached_property
    def _counts(self) -> Counter[str | None]:
        """Says how many operands have a label."""
        return Counter(label for term in self.terms for label in set(term))

    @functools.cached_property
    def batch(self) -> tuple[str, ...]:
        """Lists the labels of several operands and the result, in the result's order: `("b",)`."""
        return _once(label for label in self.out if self._counts[label] > 1)

    @functools.cached_property
    def contracting(self) -> tuple[str, ...]:
        """Lists the labels of several operands that the result has not, in lhs' order: `("k",)`."""
        return _once(
            label for term in self.terms for label in term if self._counts[label] > 1 and label not in self.out
        )

    @functools.cached_property
    def lhs_free(self) -> tuple[str, ...]:
        """Lists the labels of lhs and the result alone, in lhs' order: `("m",)`."""
        return _once(label for label in self.lhs if label in self.out and self._counts[label] == 1)

    @functools.cached_property
    def rhs_free(self) -> tuple[str, ...]:
        """Lists the labels of rhs and the result alone, in rhs' order: `("n",)`."""
        return _once(label for label in self.rhs if label in self.out and self._counts[label] == 1)

    @functools.cached_property
    def summed(self) -> tuple[str, ...]:
        """Lists the labels of one operand alone, which are summed before the product: `()`."""
        every = itertools.chain.from_iterable(self.terms)
        return _once(label for label in every if label not in (*self.out, *self.contracting))

    def role(self, label: str | None) -> str:
        """Names the role of a label: batch, contracting, free, summed or unit."""
        for role in ("batch", "contracting", "summed"):
            if label in getattr(self, role):
                return role
        return "unit" if label is None else "free"

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

    def sizes(self, *shapes: Shape, names: Sequence[str] = ()) -> dict[str, int]:
        """Maps each label to its length, and checks that the operands' shapes agree on it.

        Args:
            shapes: The shape of each operand.
            names: What a message calls the operands; lhs and rhs, or their places, by default.

        Raises:
            ValueError: A rank or a size does not fit the labels, or there are not as many shapes as operands.
        """
        if len(shapes) != len(self.terms):
            raise BadValue(
                "a contraction must have a term for each operand",
                f"'{self}' has {len(self.terms)}, the operands are {len(shapes)}",
            )
        sizes: dict[str, int] = {}
        first: dict[str, str] = {}
        for name, labels, shape in zip(names or operand_names(len(shapes)), self.terms, shapes, strict=True):
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

    def out_shape(self, *shapes: Shape) -> Shape:
        """Gives the result's shape: the size of each label of `out`, 1 for a unit axis."""
        sizes = self.sizes(*shapes)
        return tuple(1 if label is None else sizes[label] for label in self.out)

    def flops(self, *shapes: Shape) -> int:
        """Counts 2 FLOP for each multiply-add: twice the product of the sizes of all labels but the summed ones.

        Of more operands it counts one loop over all labels, with a FLOP for each operand. A path of products of two
        does the same with far fewer.
        """
        sizes = self.sizes(*shapes)
        return max(2, len(shapes)) * math.prod(size for label, size in sizes.items() if label not in self.summed)

    def bytes(self, lhs_shape: Shape, rhs_shape: Shape, itemsizes: tuple[int, int, int]) -> tuple[int, int]:
        """Gives (bytes read, bytes written) when each operand is read once and the result is written once.

        Args:
            lhs_shape: The shape of lhs.
            rhs_shape: The shape of rhs.
            itemsizes: Bytes per element of lhs, rhs and the result.
        """
        lhs, rhs, out = itemsizes
        read = math.prod(lhs_shape) * lhs + math.prod(rhs_shape) * rhs
        return read, math.prod(self.out_shape(lhs_shape, rhs_shape)) * out

    # Ways to read one.

    def __str__(self) -> str:
        *terms, out = written(*self.terms, self.out)
        return f"{', '.join(terms)} -> {out}"

    def __repr__(self) -> str:
        return f"Contraction.parse({str(self)!r})"

    @functools.cached_property
    def einsum(self) -> str:
        """Writes the einsum string, without unit axes: `"bmk,bkn->bmn"`. A label that is a word gets a letter."""
        labels = _once(itertools.chain.from_iterable(self.terms))
        spare = (letter for letter in SPARE if letter not in labels)
        letters = {label: label if is_letter(label) else next(spare) for label in labels}
        *terms, out = (
            "".join(letters[label] for label in side if label is not None) for side in (*self.terms, self.out)
        )
        return f"{','.join(terms)}->{out}"

    def formula(self, *operands: str, out: str = "out") -> str:
        """Writes the contraction with indices: `out[b,m,n] = sum_k lhs[b,m,k] * rhs[b,k,n]`.

        Args:
            operands: What to call the operands; lhs and rhs, or x0, x1 and so on, by default.
            out: What to call the result.
        """
        count = len(self.terms)
        called = operands or (operand_names(2) if count == 2 else tuple(f"x{at}" for at in range(count)))
        summed = self.contracting + self.summed
        total = f"sum_{{{','.join(summed)}}} " if len(summed) > 1 else f"sum_{summed[0]} " if summed else ""
        factors = (f"{name}{_indexed(term)}" for name, term in zip(called, self.terms, strict=True))
        return f"{out}{_indexed(self.out)} = {total}{' * '.join(factors)}"


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
