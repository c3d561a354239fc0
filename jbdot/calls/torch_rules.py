"""What PyTorch's products share: dtypes, axes of tensordot, equations of einsum, chains, added arrays."""

import dataclasses
import itertools
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp
from jax.core import Tracer

from jbdot.calls.dialect_dtypes import Dtypes
from jbdot.calls.front_door import as_array, public_name
from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadIndex, BadType, BadValue, array_text
from jbdot.core.labels import SPARE, Axes, Labels, Shape, names
from jbdot.one_device.call_plan import AS_IS, CallPlan, Operand, OperandSteps, canonical

FLOATS: Final = Dtypes("bfloat16 float16 float32 float64 complex64 complex128")
NUMBERS: Final = Dtypes(" ".join(("uint8 int8 int16 int32 int64", *FLOATS.allowed)))
_UNPROMOTED: Final = {"uint16", "uint32", "uint64"}  # which PyTorch promotes with none
_LETTERS: Final = string.ascii_uppercase + string.ascii_lowercase  # the labels 0 to 51 of einsum's other form
Term = tuple[str, ...]  # the labels of an operand
_TERM: Final = r"(?: |[a-zA-Z]|\.\.\.)*"


def check_out(function: Callable[..., Any], out: Any) -> None:
    """Refuses an array to write into.

    Raises:
        ValueError: One is given.
    """
    if out is not None:
        refusal = BadValue("out must be None", "an array of JAX is not written into", "Use what the call returns")
        raise refusal.told(public_name(function), f"out={array_text('', np.shape(out), getattr(out, 'dtype', '?'))}")


def check_ranks(x: Operand, y: Operand, left: int, right: int) -> None:
    """Refuses operands of other ranks than these."""
    if (x.ndim, y.ndim) != (left, right):
        raise BadValue(
            f"the operands must have ranks {left} and {right}",
            f"{x.name} has rank {x.ndim}, {y.name} has rank {y.ndim}",
            "matmul takes vectors, matrices and batches",
        )


def check_batch(x: Operand, y: Operand) -> None:
    """Refuses batches of different sizes."""
    if x.shape[0] != y.shape[0]:
        raise BadValue(
            "axis 0 is the batch and must have one size in both",
            f"{x.name} has {x.shape[0]}, {y.name} has {y.shape[0]}",
            "matmul broadcasts a size of 1",
        )


def vector(x: Operand) -> tuple[Operand, OperandSteps]:
    """Takes a scalar as a vector of one element; anything else as it is."""
    return (x, AS_IS) if x.ndim else (dataclasses.replace(x, shape=(1,)), OperandSteps(stretch=(1,)))


def elementwise(
    c: Contraction, x: Operand, y: Operand, lhs: OperandSteps = AS_IS, rhs: OperandSteps = AS_IS
) -> CallPlan:
    """Plans a product that sums over no shared label: its operands promote, as those of `*` do."""
    dtype = _promoted(x, y)
    lhs, rhs = (
        steps if operand.dtype == dtype else dataclasses.replace(steps, dtype=dtype.name)
        for operand, steps in ((x, lhs), (y, rhs))
    )
    return CallPlan(c, lhs, rhs)


def _promoted(x: Operand, y: Operand) -> Any:
    if x.dtype != y.dtype and {x.dtype.name, y.dtype.name} & _UNPROMOTED:
        raise BadType(
            "uint16, uint32 and uint64 must meet no other dtype",
            f"{x.name} is {x.dtype.name}, {y.name} is {y.dtype.name}",
            "Cast one of them first",
        )
    return jnp.promote_types(x.dtype, y.dtype)


# tensordot


def tensordot_axes(a: Operand, b: Operand, dims: Any) -> tuple[Axes, Axes]:
    """Reads dims: a number, or a pair of lists, of axes that have one size, or size 1 in one operand."""
    if hasattr(dims, "shape") and not isinstance(dims, Tracer):
        dims = np.asarray(dims).tolist()
    if isinstance(dims, (int, np.integer)):
        count = int(dims)
        if not 0 <= count <= min(a.ndim, b.ndim):
            raise BadValue(
                "a number of axes must not be negative, nor larger than a rank",
                f"dims={count}, {a.name} has rank {a.ndim}, {b.name} has rank {b.ndim}",
            )
        pair: Any = (range(-count, 0), range(count))
    elif not isinstance(dims, (list, tuple)):
        raise BadType("axes must be a number or a pair", f"got a {type(dims).__name__}")
    elif len(dims) != 2:
        raise BadValue("axes must be a number or a pair", f"there are {len(dims)}")
    elif not all(isinstance(axes, (list, tuple)) for axes in dims):
        raise BadType("axes must be a number or two lists", f"got {[type(axes).__name__ for axes in dims]}")
    else:
        pair = dims
    a_axes, b_axes = (tuple(_axis(axis, operand) for axis in axes) for axes, operand in zip(pair, (a, b), strict=True))
    if len(a_axes) != len(b_axes):
        raise BadValue(
            "as many axes of one operand as of the other must be contracted",
            f"{list(a_axes)} of {a.name}, {list(b_axes)} of {b.name}",
        )
    for i, j in zip(a_axes, b_axes, strict=True):
        i, j = _within(a, i), _within(b, j)
        if a.shape[i] != b.shape[j] and 1 not in (a.shape[i], b.shape[j]):
            raise BadValue(
                "the contracted axes must have equal sizes, or one of the two must be 1",
                f"axis {i} of {a.name} has size {a.shape[i]}, axis {j} of {b.name} has size {b.shape[j]}",
            )
    a_axes, b_axes = tuple(axis % a.ndim for axis in a_axes), tuple(axis % b.ndim for axis in b_axes)
    for operand, axes in ((a, a_axes), (b, b_axes)):
        if len(set(axes)) != len(axes):
            raise BadValue("an axis must be contracted once only", f"{list(axes)} of {operand.name} repeat one")
    return a_axes, b_axes


def _axis(axis: Any, operand: Operand) -> int:
    if not isinstance(axis, (int, np.integer)):
        raise BadType("an axis must be an int", f"{axis!r} of {operand.name}")
    return int(axis)


def _within(operand: Operand, axis: int) -> int:
    if not -operand.ndim <= axis < operand.ndim:
        raise BadIndex(
            "an axis must lie within its operand's rank",
            f"axis {axis} of {operand.name}, which has rank {operand.ndim}",
        )
    return axis % operand.ndim


def labelled(rank: int, summed: Mapping[int, str], free: Sequence[str], axes: Axes) -> Labels:
    """Labels each axis: those of `axes` as `summed` says, a unit axis where it says nothing; the others in order."""
    rest = iter(free)
    return tuple(summed.get(axis) if axis in axes else next(rest) for axis in range(rank))


# einsum


def einsum_call(equation: Any, operands: tuple[Any, ...]) -> tuple[str, list[Any]]:
    """Sorts einsum's three forms into an equation and a list of arrays."""
    if isinstance(equation, str):
        listed = len(operands) == 1 and isinstance(operands[0], (list, tuple))
        arrays = list(operands[0] if listed else operands)
        if not arrays:
            raise BadValue("an equation must come with operands", repr(equation))
        return equation, arrays
    if not hasattr(equation, "shape"):
        raise BadType("the equation must be a string", f"got a {type(equation).__name__}")
    parts = [equation, *operands]
    if len(parts) < 2:
        raise BadValue("an operand without an equation must come with its labels", "there are none", "Give a list")
    result = "" if len(parts) % 2 == 0 else f"->{_letters(parts.pop())}"
    return ",".join(_letters(labels) for labels in parts[1::2]) + result, parts[::2]


def _letters(labels: Any) -> str:
    """Spells a list of numbers as letters."""
    if not isinstance(labels, (list, tuple)):
        raise BadType("the labels of an operand must come as a list", f"got a {type(labels).__name__}")
    for label in labels:
        if label is not Ellipsis and not isinstance(label, (int, np.integer)):
            raise BadType("a label must be a number, or Ellipsis", f"{label!r} of {list(labels)}")
        if label is not Ellipsis and not 0 <= label < len(_LETTERS):
            raise BadValue("a label must be a number from 0 to 51", f"{label!r} of {list(labels)}")
    return "".join("..." if label is Ellipsis else _LETTERS[label] for label in labels)


def einsum_terms(equation: Any, shapes: Sequence[Shape]) -> tuple[list[Term], Term]:
    """Reads an equation: a label for each axis of each operand, and of the result; those of `...` get letters too."""
    if not isinstance(equation, str):
        raise BadType("the equation must be a string", f"got a {type(equation).__name__}")
    inputs, arrow, written = equation.partition("->")
    texts = inputs.split(",")
    if not all(re.fullmatch(_TERM, text) for text in (*texts, written)):
        raise BadValue("an equation must consist of letters, commas, '...' and one '->'", repr(equation))
    tokens = [re.findall(r"\.\.\.|[a-zA-Z]", text) for text in (*texts, written)]
    for found in tokens:
        if found.count("...") > 1:
            raise BadValue("an operand must have one ellipsis at most", repr(equation))
    *terms, result = tokens
    if len(terms) != len(shapes):
        raise BadValue(
            "an equation must have a term for each operand", f"{equation!r} has {len(terms)}, there are {len(shapes)}"
        )
    spans = [_span(at, term, shape) for at, (term, shape) in enumerate(zip(terms, shapes, strict=True))]
    unnamed = list(names("".join(letter for letter in SPARE if letter not in equation), max(spans)))
    if not arrow:
        letters = [label for term in terms for label in term if label != "..."]
        result = ["...", *sorted(label for label in set(letters) if letters.count(label) == 1)]
    found = [_spelt(term, unnamed[len(unnamed) - span :]) for term, span in zip(terms, spans, strict=True)]
    out = _spelt(result, unnamed)
    for label in out:
        if not any(label in term for term in found):
            raise BadValue("each label of the result must be in an operand", f"{label!r} of {equation!r} is in none")
    if len(set(out)) != len(out):
        raise BadValue("a label must stand only once in the result", f"{equation!r} repeats one")
    einsum_sizes(found, shapes)
    return found, out


def _span(at: int, term: list[str], shape: Shape) -> int:
    """Counts the axes that an ellipsis stands for."""
    letters = len(term) - term.count("...")
    span = len(shape) - letters
    if span < 0 or (span and "..." not in term):
        raise BadValue(
            "an operand must have one axis for each of its labels",
            f"operand {at} has rank {len(shape)} for the {letters} labels '{''.join(term)}'",
        )
    return span


def _spelt(term: list[str], unnamed: list[str]) -> Term:
    at = term.index("...") if "..." in term else len(term)
    return (*term[:at], *(unnamed if "..." in term else ()), *term[at + 1 :])


def einsum_sizes(terms: Sequence[Term], shapes: Sequence[Shape]) -> dict[str, int]:
    """Gives the size of each label: all sizes but 1, which broadcasts, are equal, and those within one operand."""
    sizes: dict[str, int] = {}
    where: dict[str, str] = {}
    for at, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        own: dict[str, int] = {}
        for axis, (label, size) in enumerate(zip(term, shape, strict=True)):
            here = f"axis {axis} of operand {at} has size {size}"
            if own.setdefault(label, size) != size:
                raise BadValue("axes of one label in one operand must have equal sizes", f"{here}, {label!r} another")
            known = sizes.setdefault(label, size)
            if known == 1:
                sizes[label], where[label] = size, here
            elif size not in (1, known):
                raise BadValue(
                    "axes of one label must have equal sizes, or size 1", f"{where[label]}, {here} ({label!r})"
                )
            else:
                where.setdefault(label, here)
    return sizes


def contraction(equation: Any, shapes: Sequence[Shape]) -> Contraction:
    """Reads an equation as a contraction of any number of operands: an axis of size 1 that broadcasts is dropped."""
    found, _ = _broadcast(*einsum_terms(equation, shapes), shapes)
    return found


def _broadcast(terms: Sequence[Term], out: Term, shapes: Sequence[Shape]) -> tuple[Contraction, dict[str, int]]:
    sizes = einsum_sizes(terms, shapes)
    whole = (
        tuple(label if size == sizes[label] else None for label, size in zip(term, shape, strict=True))
        for term, shape in zip(terms, shapes, strict=True)
    )
    return Contraction(*whole, out), sizes


def pair(x: Operand, y: Operand, left: Term, right: Term, out: Term) -> CallPlan:
    """Plans one product of einsum: an axis of size 1 that broadcasts is dropped.

    What one operand alone sums is int64, of integers and bools. What both share and sum must be of one dtype that
    PyTorch multiplies; a product without such a label promotes.
    """
    contraction, sizes = _broadcast((left, right), out, (x.shape, y.shape))
    x_steps, y_steps = (_summed(z, term, contraction, sizes) for z, term in zip((x, y), contraction.terms, strict=True))
    x, y = (
        dataclasses.replace(operand, dtype=steps.out_dtype(operand.dtype))
        for operand, steps in ((x, x_steps), (y, y_steps))
    )
    if not any(sizes[label] != 1 for label in contraction.contracting):
        return elementwise(contraction, x, y, x_steps, y_steps)
    NUMBERS.check(x, y)
    return CallPlan(contraction, x_steps, y_steps)


def _summed(operand: Operand, labels: Labels, c: Contraction, sizes: Mapping[str, int]) -> OperandSteps:
    """Casts an operand that is summed by itself as `sum` does: integers and bools to int64."""
    alone = any(label in c.summed and sizes[label] != 1 for label in labels if label is not None)
    exact = not jnp.issubdtype(operand.dtype, jnp.inexact)
    wanted = canonical("int64")
    return OperandSteps(wanted.name) if alone and exact and operand.dtype != wanted else AS_IS


def of_one(x: jax.Array, term: Term, out: Term) -> jax.Array:
    """Reads diagonals of one operand, sums and transposes it."""
    if any(label not in out for label in term) and not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(canonical("int64"))
    numbers = {label: number for number, label in enumerate(dict.fromkeys(term))}
    return jnp.einsum(x, [numbers[label] for label in term], [numbers[label] for label in out])


# multi_dot


def chain(tensors: Any) -> list[jax.Array]:
    """Takes a list of matrices that can be multiplied, the first and the last of which may be vectors."""
    if not isinstance(tensors, (list, tuple)):
        raise BadType("the arrays must come as a list", f"got a {type(tensors).__name__}")
    if len(tensors) < 2:
        raise BadValue("there must be two arrays or more", f"there are {len(tensors)}")
    arrays = [as_array(x) for x in tensors]
    last = len(arrays) - 1
    for at, x in enumerate(arrays):
        if x.ndim != 2 and (x.ndim, at) not in ((1, 0), (1, last)):
            raise BadValue(
                "the first and the last array must be matrices or vectors, those between matrices",
                f"tensors[{at}] has rank {x.ndim}",
            )
    operands = [Operand(f"tensors[{at}]", x.shape, x.dtype) for at, x in enumerate(arrays)]
    for at, (x, y) in enumerate(itertools.pairwise(operands)):
        NUMBERS.check(operands[0], y)
        if x.shape[-1] != y.shape[0]:
            raise BadValue(
                "neighbours must have equal sizes where they meet",
                f"axis {x.ndim - 1} of tensors[{at}] has size {x.shape[-1]}, "
                f"axis 0 of tensors[{at + 1}] has size {y.shape[0]}",
            )
    return arrays


# Added arrays, and bilinear


def check_bilinear(input1: Any, input2: Any, weight: Any, bias: Any) -> None:
    """Refuses what `bilinear` does not multiply."""
    first = Operand("input1", input1.shape, input1.dtype)
    others = [Operand("input2", input2.shape, input2.dtype), Operand("weight", weight.shape, weight.dtype)]
    if bias is not None:
        others.append(Operand("bias", bias.shape, bias.dtype))
    for operand in others:
        NUMBERS.check(first, operand)
    second = others[0]
    if weight.ndim != 3 or first.ndim == 0 or first.ndim != second.ndim or first.shape[:-1] != second.shape[:-1]:
        raise BadValue(
            "both inputs must have the same batch axes before their last, and weight rank 3",
            f"input1 has shape {first.shape}, input2 {second.shape}, weight {weight.shape}",
        )
    if (first.shape[-1], second.shape[-1]) != weight.shape[1:]:
        raise BadValue(
            "the last sizes of the inputs must be those of weight",
            f"input1 has {first.shape[-1]}, input2 has {second.shape[-1]}, axes 1 and 2 of weight {weight.shape[1:]}",
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise BadValue(
            "bias must have the first size of weight", f"bias has shape {bias.shape}, weight has {weight.shape[0]}"
        )


def check_added(name: str, added: Any, dtype: Any, shape: Shape) -> None:
    """Refuses an array of another dtype than the operands', or one that does not broadcast to the result."""
    if added.dtype != dtype:
        raise BadType(
            "what is added must have the operands' dtype",
            f"{name} is {added.dtype}, the operands are {dtype}",
            "Cast it first",
        )
    sizes = zip(reversed(added.shape), reversed(shape), strict=False)
    if added.ndim > len(shape) or any(size not in (1, wanted) for size, wanted in sizes):
        raise BadValue(
            "what is added must broadcast to the result", f"{name} has shape {added.shape}, the result {shape}"
        )


def scale(name: str, value: Any, dtype: Any) -> Any:
    """Takes `beta` or `alpha` as PyTorch does: a number of the result's kind, cut to an integer for integers."""
    if isinstance(value, Tracer):
        raise BadType(
            "only the operands may be traced",
            f"{name} is",
            f"Name it to jax.jit as static: jax.jit(f, static_argnames={name!r})",
        )
    if getattr(value, "shape", None) == ():
        value = np.asarray(value).item()
    if not isinstance(value, (bool, int, float, complex)):
        raise BadType("beta and alpha must be numbers", f"{name} is a {type(value).__name__}")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.asarray(value)
    if value.imag:
        raise BadValue("a real product must be scaled by a real number", f"{name}={value}")
    real = value.real
    if not jnp.issubdtype(dtype, jnp.integer):
        return np.asarray(real)
    limits = jnp.iinfo(dtype)
    least = -int(limits.max) if isinstance(real, int) and not limits.min else int(limits.min)
    if not (math.isfinite(real) and least <= real <= int(limits.max)):
        raise BadValue("beta and alpha must be numbers of the result's dtype", f"{name}={value} for {dtype}")
    return np.asarray(int(real)).astype(dtype)
