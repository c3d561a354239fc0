"""How a marked dot is lowered: a rule before JAX's own, which dots without a mark still get.

Here everything is known that will run: the sizes after vmap, or of one shard; the platform; and, as the rule sees the
program that is being written, the transposes beside the dot. XLA folds a transpose that made an operand, and one
that turns the result around, into the dot, and what it runs is another dot than the one that was written. So what is
chosen for is the dot with these transposes in it. One that turns the result is lowered after the dot: then the dot
is said again, turned, and what reads the result as it stands after that has it turned back.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Final

import jax
from jax import lax
from jax.core import ShapedArray

from jbdot.core.errors import BadValue, array_text
from jbdot.one_device import jax_internals, mark, ragged
from jbdot.one_device.choice import MEASURED, Choice, check_kept, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.one_device.measure import measure_once
from jbdot.one_device.path import ContractionPath
from jbdot.one_device.ragged import RaggedSpec
from jbdot.one_device.reordering import reordered

_WIDE: Final = ("float64", "complex128", "int64", "uint64")


@dataclasses.dataclass(eq=False)
class _Dot:
    """A dot that is being lowered.

    Attributes:
        context: JAX's, of its equation.
        operands: The values that it multiplies, without the transposes that made them.
        dot_spec: The same, as static facts.
        as_written: The dot with these transposes apart.
        platform: Where it will run.
        lowering: What its mark says.
        direct: What lowers it as it was written, by JAX's own rule.
        anchor: Its result.
        turned: The result turned around, once it was asked for.
    """

    context: Any
    operands: list[Any]
    dot_spec: DotSpec
    as_written: DotSpec
    platform: str
    lowering: str
    direct: Any
    anchor: Any = None
    turned: Any = None

    @functools.cached_property
    def choice(self) -> Choice:
        """Gives what is chosen for it as it stands."""
        return self._chosen(self.dot_spec)

    @functools.cached_property
    def turned_choice(self) -> Choice:
        """Gives what is chosen where its result is turned around."""
        return self._chosen(self.dot_spec.swapped)

    def _chosen(self, spec: DotSpec) -> Choice:
        check_kept(spec, self.platform, self.lowering)
        exported = jax_internals.is_exported(self.context)
        if self.lowering == MEASURED and not exported:
            measure_once(spec, self.platform)
        return chosen(spec, self.platform, self.lowering, exported)

    def lowered(self) -> Any:
        """Writes it into the program, and notes where, as long as a turned result would be lowered in another way."""
        is_direct, r = self.choice.lowering == "direct", self.dot_spec
        as_written = self.choice if self.as_written is r else self._chosen(self.as_written)
        if is_direct and as_written.lowering == "direct":
            out = self.direct()
        else:
            out = _written(self.context, self.choice, r, *self.operands)
        if r.turn is not None and not (is_direct and self.turned_choice.lowering == "direct"):
            anchor = jax_internals.anchored(out)
            if anchor is not None:
                self.anchor = out = anchor
                jax_internals.notes(self.context)[out] = self
        return out

    def lowered_turned(self) -> Any:
        """Writes it again with rhs first; who reads the result as it stands has that turned back."""
        if self.turned is None:
            with jax_internals.before(self.anchor):
                spec, (lhs, rhs) = self.dot_spec.swapped, self.operands
                self.turned = _written(self.context, self.turned_choice, spec, rhs, lhs)
                (back,) = _steps(self.context, _back, ((self.turned, spec.out, spec.dtype),), spec)
                jax_internals.reattached(self.anchor, back)
        return self.turned


def _back(spec: DotSpec, out: Any) -> Any:
    """Returns the result of a turned dot, as of the dot that was written."""
    assert spec.turn is not None  # else it was not turned
    return lax.transpose(out, spec.turn)


def _lower_dot(context: Any, lhs: Any, rhs: Any, *, before: Any, platform: str | None, **params: Any) -> Any:
    metadata = jax_internals.metadata_of_lowered(context)
    lowering = mark.of(metadata)
    where = platform or jax_internals.platform(context)
    is_local = jax_internals.is_local(context)
    if not is_local and lowering in LOWERINGS and LOWERINGS[lowering].is_kept:
        raise _cut(lowering, context)
    if lowering == "direct" or not is_local or jax_internals.is_in_kernel():
        return before(context, lhs, rhs, **params)
    if mark.has_any_order(metadata):
        done = _lower_reordered(context, where)
        if done is not None:
            return done
    (left, right), (out,) = context.avals_in, context.avals_out
    written = DotSpec.of(left, right, out, params["dimension_numbers"], params["precision"])
    spec, operands = written.beneath((lhs, rhs), jax_internals.transposed)
    direct = functools.partial(_only, before, context, lhs, rhs, **params)
    return [_Dot(context, operands, spec, written, where, lowering, direct).lowered()]


def _cut(lowering: str, context: Any) -> Exception:
    lhs, rhs = (array_text("", aval.shape, aval.dtype) for aval in context.avals_in)
    refusal = BadValue(
        "a dot with this lowering must not be cut over devices by XLA",
        "its sums would be too",
        "Call it inside jax.shard_map, where each device has a dot of its own",
    )
    return refusal.told("optimize or a call", f"{lhs}, {rhs}, lowering={lowering!r}")


def _lower_reordered(context: Any, platform: str) -> Any:
    """Lowers a product of a call of many operands whose order is another now; None for one that stays as it is."""
    around = jax_internals.surroundings()
    if around is None:
        return None
    jaxpr, equation, values = around
    key = "reordered", id(jaxpr), platform
    found = jax_internals.notes(context)
    if key not in found:  # with the jaxpr, so that no other gets its id
        found[key] = reordered(jaxpr, platform), jaxpr
    orders, _ = found[key]
    tree = orders.get(id(equation))
    if tree is None:
        return None
    if tree.last is not equation:
        return [jax_internals.blank(context)]

    def run(path: ContractionPath, *leaves: Any) -> Any:
        return path.run(leaves, tree.precision, tree.dtype)

    operands = tuple((values[leaf], leaf.aval.shape, leaf.aval.dtype.name) for leaf in tree.leaves)
    return _traced(context, run, operands, tree.path, mark.in_order(), tree.dtype.name)


def _only(before: Any, context: Any, *args: Any, **params: Any) -> Any:
    """Returns the one result of a rule of JAX's, which may give it in a list."""
    out = before(context, *args, **params)
    return out[0] if isinstance(out, (list, tuple)) else out


def _lower_transpose(context: Any, x: Any, *, before: Any, platform: str | None, permutation: Any) -> Any:
    del platform
    transpose = functools.partial(_only, before, context, permutation=permutation)
    if jax_internals.metadata_of_lowered(context).get(mark.OPTIMIZED) == "direct":  # a step of another dot's lowering
        return [transpose(x)]
    dot = jax_internals.notes(context).get(x)
    if dot is None or tuple(permutation) != dot.dot_spec.turn or (dot.turned is None and jax_internals.is_used(x)):
        return [transpose(x)]  # of a result that is also read as it stands, XLA leaves the dot alone
    return [dot.lowered_turned()]


def _lower_ragged(
    context: Any, lhs: Any, rhs: Any, sizes: Any, *, before: Any, platform: str | None, **params: Any
) -> Any:
    lowering = mark.of(jax_internals.metadata_of_lowered(context))
    where = platform or jax_internals.platform(context)
    if lowering == "direct" or not jax_internals.is_local(context) or jax_internals.is_in_kernel():
        return before(context, lhs, rhs, sizes, **params)
    spec, choice = ragged.decided(context.avals_in, context.avals_out[0], params, where, lowering)
    if choice.lowering == "direct":
        return before(context, lhs, rhs, sizes, **params)

    def run(spec: RaggedSpec, *operands: Any) -> Any:
        with jax.named_scope(f"ragged_dot.{choice.lowering}"):
            return ragged.grouped(spec, *operands)

    operands = (*_typed(spec.dot, lhs, rhs), (sizes, spec.sizes, spec.sizes_dtype))
    return _traced(context, run, operands, spec, mark.marked("auto"), spec.dot.dtype)  # its dots are chosen for


def _written(context: Any, choice: Choice, spec: DotSpec, lhs: Any, rhs: Any) -> Any:
    """Writes a lowering into the program, in a scope that profiles show: its steps once for all equal dots."""

    def run(spec: DotSpec, lhs: Any, rhs: Any) -> Any:
        with jax.named_scope(f"dot_general.{choice.lowering}"):
            return _steps_p.bind(lhs, rhs, lowering=choice.lowering, spec=spec)

    (out,) = _steps(context, run, _typed(spec, lhs, rhs), spec)
    return out


# What a dot is lowered to, as one equation: JAX keeps its text in a module, and writes it again for the next such dot.
_steps_p: Final = jax_internals.primitive("steps")
_steps_p.def_abstract_eval(lambda *_, lowering, spec: ShapedArray(spec.out, jax.numpy.dtype(spec.dtype)))


def _lower_steps(context: Any, lhs: Any, rhs: Any, *, lowering: str, spec: DotSpec) -> Any:
    def run(spec: DotSpec, lhs: Any, rhs: Any) -> Any:
        with jax_internals.of_no_line():  # the next such dot is on another one
            return LOWERINGS[lowering](spec, lhs, rhs)

    return _steps(context, run, _typed(spec, lhs, rhs), spec)


def _typed(spec: DotSpec, lhs: Any, rhs: Any) -> tuple[tuple[Any, Any, str], ...]:
    """Values with their shapes and dtypes."""
    return (lhs, spec.lhs, spec.lhs_dtype), (rhs, spec.rhs, spec.rhs_dtype)


def _steps(context: Any, function: Any, operands: tuple[tuple[Any, Any, str], ...], spec: DotSpec) -> Any:
    """Writes steps of a lowering: its dots are not chosen for again."""
    return _traced(context, function, operands, spec, mark.marked("direct"), spec.dtype)


def _traced(
    context: Any, function: Any, operands: tuple[tuple[Any, Any, str], ...], first: Any, marks: Any, dtype: str
) -> Any:
    """Writes what a function of arrays does, whatever JAX is set to where the program is lowered.

    Args:
        context: JAX's, of the equation.
        function: Of `first` and the operands.
        operands: Values with their shapes and dtypes.
        first: What the function is given first.
        marks: The context that its dots are traced in.
        dtype: The result's.
    """
    values = [value for value, _, _ in operands]
    context = context.replace(avals_in=[ShapedArray(shape, jax.numpy.dtype(dtype)) for _, shape, dtype in operands])
    wide = any(name in _WIDE for name in (*(name for *_, name in operands), dtype))
    promotion, ranks = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(wide), promotion, ranks, marks:
        return jax_internals.written(context, functools.partial(function, first), *values)


def install() -> None:
    """Puts the rules before JAX's own."""
    jax_internals.exclude_from_tracebacks(str(Path(__file__).parents[1]))
    if jax_internals.lowered_by(_steps_p, _lower_steps):
        jax_internals.put_before(lax.dot_general_p, _lower_dot)
        jax_internals.put_before(lax.transpose_p, _lower_transpose)
        if jax_internals.ragged_dot_primitive() is not None:
            jax_internals.put_before(jax_internals.ragged_dot_primitive(), _lower_ragged)
