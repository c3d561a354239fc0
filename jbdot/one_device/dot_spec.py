"""What is asked of a backend: one `lax.dot_general`, its sizes, dtypes and precision."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import jax
from jax import lax
from jax import numpy as jnp

from jbdot.core.contraction import Contraction, DimensionNumbers
from jbdot.core.errors import BadValue, array_text
from jbdot.core.labels import Shape

_SUMS: Final = {"bfloat16": "float32", "float16": "float32", "int8": "int32", "int16": "int32", "int4": "int32"}
_SUMS_UNSIGNED: Final = {"uint8": "uint32", "uint16": "uint32", "uint4": "uint32"}
_KINDS: Final = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


def kind(dtype: Any) -> int:
    """Numbers a dtype's kind: booleans, integers, floats, complex. Each holds the values of those before it."""
    return next(number for number, each in enumerate(_KINDS) if jnp.issubdtype(jnp.dtype(dtype), each))


def accumulator(dtype: str) -> str:
    """Names the dtype that a sum is held in while it grows, for terms and results of this dtype.

    Integers wrap, so that wider sums end in the same bits; floats of 8 and 16 bits are summed in 32 bits, as every XLA
    backend sums them.

    Example:
        >>> accumulator("bfloat16"), accumulator("float64")
        ('float32', 'float64')
    """
    if dtype.startswith("float8"):
        return "float32"
    return _SUMS.get(dtype) or _SUMS_UNSIGNED.get(dtype) or dtype


@dataclasses.dataclass(frozen=True)
class DotSpec:
    """One dot as it reaches a backend: static facts only, and what follows from them.

    Attributes:
        lhs: The left operand's shape.
        rhs: The right operand's shape.
        lhs_dtype: The name of its dtype.
        rhs_dtype: The name of its dtype.
        dimension_numbers: As in `lax.dot_general`.
        dtype: The name of the result's dtype.
        precision: As in `lax.dot_general`.

    Example:
        >>> r = DotSpec((8, 4, 5), (8, 5, 6), "float32", "float32", (((2,), (1,)), ((0,), (0,))), "float32")
        >>> r.batch, r.m, r.k, r.n, r.out
        (8, 4, 5, 6, (8, 4, 6))
    """

    lhs: Shape
    rhs: Shape
    lhs_dtype: str
    rhs_dtype: str
    dimension_numbers: DimensionNumbers
    dtype: str
    precision: Any = None

    @classmethod
    def of(cls, lhs: Any, rhs: Any, out: Any, dimension_numbers: DimensionNumbers, precision: Any) -> "DotSpec":
        """Reads a spec off the operands and the result, or what stands for them; the precision as a jaxpr has it."""
        (lc, rc), (lb, rb) = dimension_numbers
        numbers = (tuple(lc), tuple(rc)), (tuple(lb), tuple(rb))
        names = (jnp.dtype(x.dtype).name for x in (lhs, rhs, out))
        left, right, result = names
        given = None if precision is None else known_precision(precision)
        return cls(tuple(lhs.shape), tuple(rhs.shape), left, right, numbers, result, given)

    def cast(self, dtype: str, out: str | None = None) -> "DotSpec":
        """Returns the same dot of operands of another dtype."""
        return dataclasses.replace(self, lhs_dtype=dtype, rhs_dtype=dtype, dtype=out or self.dtype)

    @functools.cached_property
    def swapped(self) -> "DotSpec":
        """Returns the same dot with rhs first, so that its result has rhs' free axes before lhs'."""
        (lc, rc), (lb, rb) = self.dimension_numbers
        numbers, precision = ((rc, lc), (rb, lb)), swapped_precision(self.precision)
        return DotSpec(self.rhs, self.lhs, self.rhs_dtype, self.lhs_dtype, numbers, self.dtype, precision)

    @functools.cached_property
    def turn(self) -> tuple[int, ...] | None:
        """Gives the permutation that puts rhs' free axes before those of lhs in the result; None without such axes."""
        if not self.is_static or min(self.m, self.n) < 2:
            return None
        batch, last = len(self.contraction.batch), len(self.out)
        first = batch + len(self.contraction.lhs_free)
        return (*range(batch), *range(first, last), *range(batch, first))

    def beneath(self, operands: Iterable[Any], transposed: Callable[[Any], Any]) -> tuple["DotSpec", list[Any]]:
        """Looks beneath the transposes that XLA folds into the dot: the same dot of their operands, and these.

        Args:
            operands: Lhs and rhs, as something stands for them.
            transposed: Gives what one is the transpose of, and the permutation; None where it is none.
        """
        spec, found = self, list(operands)
        for side, value in enumerate(found):
            order: tuple[int, ...] | None = None
            while (made := transposed(value)) is not None:
                value, permutation = made
                order = tuple(permutation if order is None else (permutation[axis] for axis in order))
            folded = None if order is None else spec.untransposed(side, order)
            if folded is not None:
                spec, found[side] = folded, value
        return spec, found

    def untransposed(self, side: int, permutation: tuple[int, ...]) -> "DotSpec | None":
        """Returns the same dot of what an operand is the transpose of, where XLA folds that into the dot; else None.

        It folds what turns the rows and columns of a matrix around: one free and one contracting axis, behind or
        between batch axes that stay (`TransposeFolding::IsRowColumnTransposeDotOperand`).

        Args:
            side: 0 for lhs, 1 for rhs.
            permutation: How it was transposed: its axis i was axis `permutation[i]`.
        """
        contracting, batch = (pair[side] for pair in self.dimension_numbers)
        shape = (self.lhs, self.rhs)[side]
        if len(contracting) != 1 or len(shape) != len(batch) + 2 or any(permutation[axis] != axis for axis in batch):
            return None
        made = tuple(shape[permutation.index(axis)] for axis in range(len(shape)))
        turned = (permutation[contracting[0]],)
        both = (turned, self.dimension_numbers[0][1]) if side == 0 else (self.dimension_numbers[0][0], turned)
        operand = {"lhs": made} if side == 0 else {"rhs": made}
        return dataclasses.replace(self, **operand, dimension_numbers=(both, self.dimension_numbers[1]))

    def __str__(self) -> str:
        lhs, rhs = array_text("", self.lhs, self.lhs_dtype), array_text("", self.rhs, self.rhs_dtype)
        return f"{self.contraction}: {lhs}, {rhs} -> {array_text('', self.out, self.dtype)}"

    @functools.cached_property
    def contraction(self) -> Contraction:
        """Gives the axes labels."""
        return Contraction.from_dimension_numbers(self.dimension_numbers, len(self.lhs), len(self.rhs))

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Returns the length of each label."""
        return self.contraction.sizes(self.lhs, self.rhs)

    def size(self, labels: tuple[str, ...]) -> int:
        """Returns the product of the labels' lengths."""
        return math.prod(self.sizes[label] for label in labels)

    @functools.cached_property
    def batch(self) -> int:
        """Counts the elements of all batch axes."""
        return self.size(self.contraction.batch)

    @functools.cached_property
    def m(self) -> int:
        """Counts the elements of all free axes of lhs."""
        return self.size(self.contraction.lhs_free)

    @functools.cached_property
    def n(self) -> int:
        """Counts the elements of all free axes of rhs."""
        return self.size(self.contraction.rhs_free)

    @functools.cached_property
    def k(self) -> int:
        """Counts the elements of all contracting axes."""
        return self.size(self.contraction.contracting)

    @functools.cached_property
    def out(self) -> Shape:
        """Returns the result's shape."""
        return self.contraction.out_shape(self.lhs, self.rhs)

    @functools.cached_property
    def flops(self) -> int:
        """Counts 2 FLOPs for each multiply-add of real numbers, 8 of complex ones."""
        return self.contraction.flops(self.lhs, self.rhs) * (4 if self.dtype.startswith("complex") else 1)

    @functools.cached_property
    def sum_dtype(self) -> str:
        """Returns the accumulator dtype: never narrower than `lax.dot_general`'s, nor than the operands."""
        found = accumulator(self.dtype)
        wider = jnp.dtype(self.lhs_dtype).itemsize > jnp.dtype(found).itemsize
        return self.lhs_dtype if wider else found  # operands are narrowed by no one before they are multiplied

    @functools.cached_property
    def is_static(self) -> bool:
        """Says whether every size is a number, as it is not in an export for any batch size."""
        sizes: tuple[Any, ...] = (*self.lhs, *self.rhs)
        return all(isinstance(size, int) for size in sizes)

    @functools.cached_property
    def is_plain(self) -> bool:
        """Says whether the arithmetic is the dtypes' own: no named algorithm, which only a dot can carry out."""
        return all(precision is None or isinstance(precision, lax.Precision) for precision in self.precisions)

    @property
    def precisions(self) -> tuple[Any, ...]:
        """Says what is asked of each operand."""
        return self.precision if type(self.precision) is tuple else (self.precision,)  # `lax.DotAlgorithm` is one too


# What `precision=` takes: JAX's own words, for editors and type checkers; a test holds them to JAX.
_Word = Literal["default", "high", "highest", "fastest", "bfloat16", "bfloat16_3x", "tensorfloat32", "float32"]
_PresetWord = Literal[
    "DEFAULT",
    "ANY_F8_ANY_F8_F32",
    "ANY_F8_ANY_F8_F32_FAST_ACCUM",
    "ANY_F8_ANY_F8_ANY",
    "ANY_F8_ANY_F8_ANY_FAST_ACCUM",
    "F16_F16_F16",
    "F16_F16_F32",
    "BF16_BF16_BF16",
    "BF16_BF16_F32",
    "BF16_BF16_F32_X3",
    "BF16_BF16_F32_X6",
    "BF16_BF16_F32_X9",
    "TF32_TF32_F32",
    "TF32_TF32_F32_X3",
    "F32_F32_F32",
    "F64_F64_F64",
]
PrecisionLike = (
    _Word
    | _PresetWord
    | lax.Precision
    | lax.DotAlgorithm
    | lax.DotAlgorithmPreset
    | tuple[_Word, _Word]
    | tuple[lax.Precision, lax.Precision]
    | None
)


def swapped_precision(precision: Any) -> Any:
    """Returns the precision of the same dot with rhs first."""
    if isinstance(precision, lax.DotAlgorithm):
        return precision._replace(
            lhs_precision_type=precision.rhs_precision_type,
            rhs_precision_type=precision.lhs_precision_type,
            lhs_component_count=precision.rhs_component_count,
            rhs_component_count=precision.lhs_component_count,
        )
    return precision[::-1] if isinstance(precision, tuple) else precision


def known_precision(precision: Any) -> Any:
    """Reads a precision as JAX does: names, and JAX's setting where none is given.

    Raises:
        ValueError: There is no such precision, or not one or two of them.

    Example:
        >>> known_precision("highest")
        Precision.HIGHEST
    """
    if precision is None:
        precision = jax.config.jax_default_matmul_precision
    if isinstance(precision, (tuple, list)) and len(precision) == 2:
        if not any(isinstance(each, (tuple, list)) for each in precision):
            return tuple(known_precision(each) for each in precision)
    elif precision is None or isinstance(precision, (lax.Precision, lax.DotAlgorithm, lax.DotAlgorithmPreset)):
        return precision
    elif isinstance(precision, str):
        with contextlib.suppress(ValueError):
            return lax.Precision(precision)
        if precision in lax.DotAlgorithmPreset.__members__:
            return lax.DotAlgorithmPreset[precision]
    raise BadValue(
        "precision must be one that JAX knows",
        repr(precision),
        'Such as "default", "high", "highest", None, or a pair of them, one for each operand',
    )
