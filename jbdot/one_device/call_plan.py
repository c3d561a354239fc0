"""What a front door decided, and the dumb path that carries it out.

Reading `CallPlan.run` from top to bottom is following the data from operands to result. The dot itself is
`lax.dot_general`, marked so that jbdot lowers it, or `bcoo_dot_general` for sparse operands.
"""

import contextlib
import dataclasses
import functools
import math
from typing import Any, Final

import jax
from jax import dtypes, lax
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jbdot.core.contraction import Contraction, DimensionNumbers
from jbdot.core.errors import BadType, BadValue, Refusal
from jbdot.core.labels import Axes, Labels, Shape
from jbdot.one_device import jax_internals
from jbdot.one_device.choice import check, known
from jbdot.one_device.dot_spec import DotSpec, known_precision, swapped_precision
from jbdot.one_device.mark import called


@dataclasses.dataclass(frozen=True)
class Operand:
    """What planning knows of an array: static facts only."""

    name: str
    shape: Shape
    dtype: Any
    sparse: bool = False

    @property
    def ndim(self) -> int:
        """Counts the axes."""
        return len(self.shape)

    @property
    def is_complex(self) -> bool:
        """Says whether conjugating it changes anything."""
        return jnp.issubdtype(self.dtype, jnp.complexfloating)


@dataclasses.dataclass(frozen=True)
class OperandSteps:
    """How an operand enters the contraction: the steps that its dialect asks for, in this order, none by default.

    Attributes:
        dtype: Cast to the dtype of this name. (A name: `numpy.dtype("float64") == None` is True.)
        conjugate: Take the complex conjugate.
        normalize: Divide by the L2 norm along this axis, floored at 1e-6 (Keras' `l2_normalize`).
        stretch: Broadcast to this shape.
        fold: Merge each of these groups of axes into one axis.
    """

    dtype: str | None = None
    conjugate: bool = False
    normalize: int | None = None
    stretch: Shape | None = None
    fold: tuple[Axes, ...] | None = None

    def shape(self, shape: Shape) -> Shape:
        """Gives the shape that an operand of `shape` enters with."""
        shape = self.stretch or shape
        if self.fold is None:
            return shape
        return tuple(math.prod(shape[axis] for axis in group) for group in self.fold)

    def out_dtype(self, dtype: Any) -> Any:
        """Gives the dtype that an operand of `dtype` enters with."""
        return jnp.dtype(dtype) if self.dtype is None else canonical(self.dtype)

    def steps(self) -> list[str]:
        """Describes the steps, for `explain`."""
        steps = (
            f"cast to {self.dtype}" if self.dtype is not None else "",
            "conjugated" if self.conjugate else "",
            f"divided by its L2 norm along axis {self.normalize}" if self.normalize is not None else "",
            f"broadcast to {self.stretch}" if self.stretch is not None else "",
            f"axes merged as {self.fold}" if self.fold is not None else "",
        )
        return [step for step in steps if step]


AS_IS = OperandSteps()


class UnsaidSharding(BadValue):
    """Operands on Explicit mesh axes leave the result's sharding open, and `out_sharding` is not given.

    Attributes:
        contraction: The dot's own, of the axes that it keeps.
        operands: Their shapes, dtypes and shardings.
    """

    def __init__(self, rule: str, facts: str, c: Contraction, operands: tuple[Any, Any]) -> None:
        self.contraction = Contraction(c.lhs_kept, c.rhs_kept, c.out)
        self.operands = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.typeof(x).sharding) for x in operands)
        super().__init__(rule, facts)


@dataclasses.dataclass(frozen=True)
class CallPlan:
    """One contraction, how each operand enters it, and the name of the result's dtype where it is not theirs."""

    contraction: Contraction
    lhs: OperandSteps = AS_IS
    rhs: OperandSteps = AS_IS
    dtype: str | None = None
    sparse: bool = False

    def out_shape(self, lhs: Shape, rhs: Shape) -> Shape:
        """Gives the result's shape for operands of these shapes."""
        return self.contraction.out_shape(self.lhs.shape(lhs), self.rhs.shape(rhs))

    def out_dtype(self, lhs: Any, rhs: Any) -> Any:
        """Gives the result's dtype for operands of these dtypes, a float64 array's own with x64 off too, as JAX has it.

        What the dialect casts to, and names for the result, is canonical for the x64 setting.
        """
        if self.dtype is not None:
            return canonical(self.dtype)
        lhs, rhs = self.lhs.out_dtype(lhs), self.rhs.out_dtype(rhs)
        if lhs == rhs:
            return lhs
        with jax.enable_x64(True):  # else it is asked of narrower dtypes than these
            return jax.eval_shape(_scalar_dot, jax.ShapeDtypeStruct((), lhs), jax.ShapeDtypeStruct((), rhs)).dtype

    @property
    def is_turned(self) -> bool:
        """Says whether the result has rhs' free axes before lhs', so that with rhs first no transpose is left."""
        return self.contraction.is_turned and not self.sparse

    @property
    def swapped(self) -> "CallPlan":
        """Returns the same with rhs first."""
        c = self.contraction
        return dataclasses.replace(self, contraction=Contraction(c.rhs, c.lhs, c.out), lhs=self.rhs, rhs=self.lhs)

    @property
    def is_bare(self) -> bool:
        """Says whether no operand needs a step of its dialect, a squeeze, a diagonal or a sum before the dot."""
        c = self.contraction
        return (self.lhs, self.rhs, c.lhs, c.rhs) == (AS_IS, AS_IS, c.lhs_kept, c.rhs_kept)

    def entered(self, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        """Takes the operands through the steps of their dialect, and drops the axes that the dot does not keep."""
        c = self.contraction
        lhs, rhs = _enter(lhs, self.lhs), _enter(rhs, self.rhs)
        return reduced(lhs, c.lhs, c.lhs_kept), reduced(rhs, c.rhs, c.rhs_kept)

    def dot_spec(self, lhs: Any, rhs: Any, precision: Any = None, preferred_element_type: Any = None) -> DotSpec:
        """Describes the one `lax.dot_general` that `run` performs for operands of these shapes and dtypes."""
        if self.is_turned:
            return self.swapped.dot_spec(rhs, lhs, swapped_precision(precision), preferred_element_type)
        c = self.contraction
        sizes = c.sizes(self.lhs.shape(lhs.shape), self.rhs.shape(rhs.shape))
        wanted = self.dtype if preferred_element_type is None else preferred_element_type
        shapes = (tuple(sizes[label] for label in kept) for kept in (c.lhs_kept, c.rhs_kept))
        dtypes = self.lhs.out_dtype(lhs.dtype), self.rhs.out_dtype(rhs.dtype)
        left, right = (jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
        dtype = self.out_dtype(lhs.dtype, rhs.dtype) if wanted is None else canonical(wanted)
        return DotSpec.of(left, right, jax.ShapeDtypeStruct((), dtype), c.dimension_numbers, known_precision(precision))

    def run(
        self,
        lhs: Any,
        rhs: Any,
        precision: Any = None,
        preferred_element_type: Any = None,
        out_sharding: Any = None,
        lowering: str | None = None,
    ) -> jax.Array:
        """Carries the plan out: entries, unit and summed axes, the dot, the result's order, unit axes.

        Raises:
            TypeError, ValueError: `lax.dot_general` refuses the precision, element type or sharding, or the named
                lowering does not fit.
        """
        if self.is_turned and lowering != "direct":
            return self.swapped.run(
                rhs, lhs, swapped_precision(precision), preferred_element_type, out_sharding, lowering
            )
        c = self.contraction
        wanted = self.dtype if preferred_element_type is None else preferred_element_type
        shape, dtype = _promise(self, lhs.shape, rhs.shape, lhs.dtype, rhs.dtype, wanted, jax.config.jax_enable_x64)
        if self.sparse:
            lhs, rhs = _enter(lhs, self.lhs), _enter(rhs, self.rhs)
            out = _sparse_dot(lhs, rhs, c, (precision, wanted, out_sharding, lowering))
        else:
            if lowering not in (None, "direct"):
                check(self.dot_spec(lhs, rhs, precision, preferred_element_type), lowering)
            lhs, rhs = self.entered(lhs, rhs)
            out = _dot(lhs, rhs, c, (precision, wanted, out_sharding, lowering))
            out = arranged(out, c.dot_out, c.out)
        if out.shape != shape or out.dtype != dtype:
            import chex  # who keeps the promise pays nothing for it

            chex.assert_trees_all_equal_shapes_and_dtypes(out, jax.ShapeDtypeStruct(shape, dtype))
        return out


@functools.lru_cache(maxsize=4096)
def _promise(planned: CallPlan, lhs: Shape, rhs: Shape, left: Any, right: Any, wanted: Any, x64: bool) -> Any:
    """Returns the shape and dtype that the result will have."""
    del x64  # what `canonical` reads
    return planned.out_shape(lhs, rhs), planned.out_dtype(left, right) if wanted is None else canonical(wanted)


def _dot(lhs: Any, rhs: Any, c: Contraction, settings: tuple[Any, Any, Any, str | None]) -> jax.Array:
    """Runs `lax.dot_general`, with its checks, its errors and its defaults, in the context that marks it."""
    precision, wanted, out_sharding, lowering = settings
    sharding = _dot_sharding(out_sharding, c)
    context = called(lowering)
    try:
        with context:
            return lax.dot_general(lhs, rhs, c.dimension_numbers, precision, wanted, out_sharding=sharding)
    except _REFUSED as error:
        asked = {"precision": precision, "preferred_element_type": wanted, "out_sharding": sharding}
        given = {name: value for name, value in asked.items() if value is not None}
        lax_error = _asked_of_lax(lhs, rhs, c.dimension_numbers, given)
        if lax_error is None:  # not about the call: ours, or a JAX that has changed
            raise
        raise _refusal(lax_error, c, (lhs, rhs), given) from error


_REFUSED: Final = (TypeError, ValueError, NotImplementedError, jax_internals.sharding_error())


def _asked_of_lax(lhs: Any, rhs: Any, numbers: DimensionNumbers, given: dict[str, Any]) -> Exception | None:
    """Says what lax says to a dot by itself, with nothing of ours around it and nothing that the call does not say."""
    try:
        jax.eval_shape(functools.partial(lax.dot_general, dimension_numbers=numbers, **given), lhs, rhs)
    except _REFUSED as error:
        return error
    return None


def _refusal(error: Exception, c: Contraction, operands: tuple[Any, Any], given: dict[str, Any]) -> Refusal:
    """Says what `lax.dot_general` refused."""
    if isinstance(error, jax_internals.sharding_error()):
        return UnsaidSharding("the operands' shardings must say how the result is sharded", str(error), c, operands)
    asked = ", ".join(f"{name}={value}" for name, value in given.items())
    kind = BadType if isinstance(error, TypeError) else BadValue
    said = " ".join(str(error).split())  # on one line
    return kind(f"lax.dot_general must take these operands{' with ' if asked else ''}{asked}", said)


def read(precision: Any, preferred_element_type: Any, out_sharding: Any, lowering: Any) -> tuple[Any, ...]:
    """Takes the settings of a call as they come: hashable, and each of its kind.

    Raises:
        TypeError, ValueError: One is of another kind.
    """
    if precision is not None:
        known_precision(precision)
    if preferred_element_type is not None:
        canonical(preferred_element_type, "preferred_element_type=")
    if out_sharding is not None and not isinstance(out_sharding, (NamedSharding, PartitionSpec)):
        raise BadType("out_sharding must be a PartitionSpec or a NamedSharding", f"got {out_sharding!r}")
    if lowering is not None:
        known(lowering)
    return (
        tuple(precision) if isinstance(precision, list) else precision,
        preferred_element_type,
        out_sharding,
        lowering,
    )


def canonical(dtype: Any, name: str = "") -> Any:
    """Returns the dtype that JAX uses for this one, of an argument: float64 is float32 unless x64 is on."""
    with contextlib.suppress(TypeError, ValueError):
        found = dtypes.canonicalize_dtype(jnp.dtype(dtype))
        if jnp.issubdtype(found, jnp.number) or found == jnp.bool_:
            return found
    raise BadType("a dtype must be one that JAX knows", f"{name}{dtype!r}")


def _enter(x: Any, entry: OperandSteps) -> Any:
    if hasattr(x, "indices"):  # BCOO: what is elementwise acts on the stored elements
        return type(x)(
            (_enter(x.data, entry), x.indices),
            shape=x.shape,
            indices_sorted=x.indices_sorted,
            unique_indices=x.unique_indices,
        )
    if entry.dtype is not None:
        x = lax.convert_element_type(x, canonical(entry.dtype))
    if entry.conjugate:
        x = lax.conj(x)
    if entry.normalize is not None:
        axis = entry.normalize % x.ndim
        square = lax.real(x) ** 2 + lax.imag(x) ** 2 if jnp.iscomplexobj(x) else x * x
        norm = lax.expand_dims(jnp.sum(square, axis), (axis,))
        x = x * lax.rsqrt(lax.max(norm, jnp.full_like(norm, 1e-12))).astype(x.dtype)
    if entry.stretch is not None:
        x = lax.broadcast_in_dim(x, entry.stretch, tuple(range(x.ndim)))
    if entry.fold is not None:
        x = lax.reshape(x, entry.shape(x.shape), tuple(axis for group in entry.fold for axis in group))
    return x


def reduced(x: jax.Array, labels: Labels, kept: tuple[str, ...]) -> jax.Array:
    """Drops unit axes, reads diagonals of repeated labels, sums what only this operand has."""
    units = tuple(axis for axis, label in enumerate(labels) if label is None)
    if units:
        x = lax.squeeze(x, units)
    left = [label for label in labels if label is not None]
    for label in dict.fromkeys(left):
        while left.count(label) > 1:
            first = left.index(label)
            again = left.index(label, first + 1)
            x = _diagonal(x, first, again)
            del left[again]
    summed = tuple(axis for axis, label in enumerate(left) if label not in kept)
    if not summed:
        return x
    return lax.reduce_or(x, summed) if x.dtype == jnp.bool_ else lax.reduce_sum(x, summed)  # as dots of booleans do


def _diagonal(x: jax.Array, axis: int, other: int) -> jax.Array:
    """Reads x[..i..i..] into axis `axis`: of a flattened square, every (n+1)th element."""
    n = x.shape[axis]
    rest = [a for a in range(x.ndim) if a not in (axis, other)]
    flat = lax.reshape(x, (*(x.shape[a] for a in rest), n * n), (*rest, axis, other))
    picked = lax.slice_in_dim(flat, 0, n * n, n + 1, axis=len(rest))
    order = list(range(len(rest)))
    order.insert(axis, len(rest))
    return lax.transpose(picked, order)


def arranged(x: jax.Array, labels: tuple[str, ...], out: Labels) -> jax.Array:
    """Brings axes that have these labels into the order of the result's, and puts its unit axes in."""
    order = tuple(labels.index(label) for label in out if label is not None)
    if order != tuple(range(len(order))):
        x = lax.transpose(x, order)
    units = tuple(axis for axis, label in enumerate(out) if label is None)
    return lax.expand_dims(x, units) if units else x


def _dot_sharding(out_sharding: Any, c: Contraction) -> Any:
    """Says of the dot's result what `out_sharding` says of the final one, of each axis: jax 0.10.2 cannot vmap less."""
    spec = out_sharding.spec if isinstance(out_sharding, NamedSharding) else out_sharding
    if not isinstance(spec, PartitionSpec) or len(spec) > len(c.out):
        return out_sharding  # lax says what is wrong with it
    named = dict(zip(c.out, tuple(spec), strict=False))
    spec = PartitionSpec(*(named.get(label) for label in c.dot_out), unreduced=spec.unreduced, reduced=spec.reduced)
    return NamedSharding(out_sharding.mesh, spec) if isinstance(out_sharding, NamedSharding) else spec


def _sparse_dot(lhs: Any, rhs: jax.Array, c: Contraction, settings: tuple[Any, Any, Any, str | None]) -> jax.Array:
    from jax.experimental import sparse  # a quarter of a second: only who has a BCOO pays it

    *asked, lowering = settings
    if any(setting is not None for setting in asked) or lowering not in (None, "auto", "direct"):
        raise BadValue(
            "precision, preferred_element_type, out_sharding and lowering must be left out with a sparse operand",
            "bcoo_dot_general takes none of them",
        )
    (_, _), (lhs_batch, rhs_batch) = c.dimension_numbers
    lhs, rhs = (_batched(x, axes) for x, axes in ((lhs, lhs_batch), (rhs, rhs_batch)))
    out = sparse.bcoo_dot_general(lhs, rhs, dimension_numbers=c.dimension_numbers)
    if hasattr(out, "indices"):  # of two sparse operands
        return sparse.sparsify(functools.partial(arranged, labels=c.dot_out, out=c.out))(out)
    return arranged(jnp.asarray(out), c.dot_out, c.out)


def _batched(x: Any, batch: Axes) -> Any:
    """Gives the batch axes of a BCOO entries of their own, as products of such axes need them."""
    from jax.experimental import sparse

    if not hasattr(x, "indices") or x.n_batch >= len(batch):
        return x
    return sparse.bcoo_update_layout(x, n_batch=len(batch), on_inefficient=None)


def _scalar_dot(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Stands for a dot of two dtypes where JAX is asked for its result's; it never runs."""
    numbers = (((), ()), ((), ()))
    return lax.dot_general_p.bind(
        lhs, rhs, dimension_numbers=numbers, precision=None, preferred_element_type=None, out_sharding=None
    )
