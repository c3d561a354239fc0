"""Neighbouring products of a program, which were one call of many operands: their order is chosen anew.

The order that a call of `contract` was traced in is the best one for the sizes that it saw. After `vmap`, and in the
products of its gradients, others stand there. So where a program is lowered its jaxpr is looked at for trees of such
products, whose inner results nothing else reads; each is one contraction of all its leaves, and gets its best path.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Final

from jax import lax

from jbdot.core.contraction import Contraction
from jbdot.core.labels import Labels
from jbdot.one_device import jax_internals, mark
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.path import ContractionPath, Sizes, best

_SURE: Final = 0.9  # an order is left as it was traced, unless another is estimated to take so much less
_MOST: Final = 16  # leaves of a tree


@dataclasses.dataclass(frozen=True)
class Reordered:
    """A tree of products that is carried out in another order than it was traced in.

    Attributes:
        last: The equation of its last product.
        leaves: What it multiplies, as variables of the jaxpr.
        path: The order.
        precision: Of every product, as a jaxpr has it.
        dtype: Of every product.
    """

    last: Any
    leaves: tuple[Any, ...]
    path: ContractionPath
    precision: Any
    dtype: Any

    @property
    def dot_specs(self) -> list[DotSpec]:
        """Describes each product."""
        return self.path.dot_specs([leaf.aval for leaf in self.leaves], self.precision, self.dtype)


def reordered(jaxpr: Any, platform: str) -> dict[int, Reordered]:
    """Finds the trees of a jaxpr that another order is surely better for.

    Returns:
        By the `id` of an equation: how the whole tree is carried out, for its last product, where it then stands, and
        for those before, where nothing is carried out.
    """
    if not any(map(_is_marked, jaxpr.eqns)):
        return {}
    program = _Program(jaxpr)
    found: dict[int, Reordered] = {}
    for equation in jaxpr.eqns:
        if not _is_marked(equation) or program.parent(equation) is not None:
            continue
        tree = _tree(program, equation, platform)
        if tree is not None:
            found |= {id(product): tree for product in (*program.tree(equation), equation)}
    return found


def _is_marked(equation: Any) -> bool:
    return equation.primitive is lax.dot_general_p and mark.has_any_order(jax_internals.metadata_of(equation.ctx))


class _Program:
    """Who makes the variables of a jaxpr, and who reads them."""

    def __init__(self, jaxpr: Any) -> None:
        self.makers = {id(variable): equation for equation in jaxpr.eqns for variable in equation.outvars}
        self.readers: dict[int, list[Any]] = {}
        for equation in jaxpr.eqns:
            for variable in equation.invars:
                self.readers.setdefault(id(variable), []).append(equation)
        for variable in jaxpr.outvars:
            self.readers.setdefault(id(variable), []).append(None)

    def parent(self, equation: Any) -> Any:
        """Returns the product that alone reads the result of one, perhaps transposed; None where there is no such."""
        (variable,) = equation.outvars
        while True:
            reader, *others = self.readers.get(id(variable), [None])
            if others or reader is None:
                return None
            if reader.primitive is not lax.transpose_p:
                break
            (variable,) = reader.outvars
        return reader if _is_marked(reader) and _setting(reader) == _setting(equation) else None

    def child(self, variable: Any, parent: Any) -> Any:
        """Returns the product whose result, perhaps transposed, a variable is, where `parent` alone reads it."""
        maker = self.makers.get(id(variable))
        while maker is not None and maker.primitive is lax.transpose_p:
            maker = self.makers.get(id(maker.invars[0]))
        return maker if maker is not None and _is_marked(maker) and self.parent(maker) is parent else None

    def tree(self, equation: Any) -> Iterator[Any]:
        """Yields the products of a tree, but for the last."""
        for variable in equation.invars:
            child = self.child(variable, equation)
            if child is not None:
                yield from self.tree(child)
                yield child

    def leaves(self, equation: Any, out: Labels, fresh: Iterator[str]) -> Iterator[tuple[Any, Labels]]:
        """Yields what a tree multiplies, each with its labels, for a result with these labels."""
        for variable, labels in zip(equation.invars, _operand_labels(equation, out, fresh), strict=True):
            child = self.child(variable, equation)
            if child is None:
                yield variable, labels
                continue
            while (maker := self.makers[id(variable)]) is not child:
                order = maker.params["permutation"]
                labels = tuple(labels[order.index(axis)] for axis in range(len(order)))
                variable = maker.invars[0]
            yield from self.leaves(child, labels, fresh)


def _setting(equation: Any) -> tuple[Any, ...]:
    """Gives what all products of a tree have alike."""
    return equation.params["precision"], equation.outvars[0].aval.dtype, equation.params["out_sharding"]


def _operand_labels(equation: Any, out: Labels, fresh: Iterator[str]) -> tuple[Labels, Labels]:
    """Labels the axes of both operands of a dot, by those of its result."""
    (lc, rc), (lb, rb) = equation.params["dimension_numbers"]
    summed = [next(fresh) for _ in lc]
    batch, free = out[: len(lb)], iter(out[len(lb) :])
    found: list[Labels] = []
    for variable, contracted, batched in zip(equation.invars, (lc, rc), (lb, rb), strict=True):
        known = dict(zip((*batched, *contracted), (*batch, *summed), strict=True))
        found.append(tuple(known[axis] if axis in known else next(free) for axis in range(variable.aval.ndim)))
    return found[0], found[1]


def _tree(program: _Program, last: Any, platform: str) -> Reordered | None:
    """Decides for one tree; None where its order stays."""
    products = [*program.tree(last), last]
    if len(products) < 2 or len(products) >= _MOST:
        return None
    fresh = (f"a{number}" for number in itertools.count())
    out = tuple(next(fresh) for _ in last.outvars[0].aval.shape)
    leaves = list(program.leaves(last, out, fresh))
    variables = [variable for variable, _ in leaves]
    precision, dtype, out_sharding = _setting(last)
    shapes = tuple(tuple(variable.aval.shape) for variable in variables)
    if out_sharding is not None or any(_is_literal(variable) for variable in variables) or not _are_known(shapes):
        return None
    path = best(Contraction(*(labels for _, labels in leaves), out), shapes, platform, dtype.itemsize)
    traced = sum(_sizes(equation).us(dtype.itemsize, platform) for equation in products)
    return Reordered(last, tuple(variables), path, precision, dtype) if path.us < _SURE * traced else None


def _is_literal(variable: Any) -> bool:
    return hasattr(variable, "val")


def _are_known(shapes: tuple[Any, ...]) -> bool:
    return all(isinstance(size, int) for shape in shapes for size in shape)


def _sizes(equation: Any) -> Sizes:
    lhs, rhs = equation.invars
    out = equation.outvars[0].aval
    spec = DotSpec.of(lhs.aval, rhs.aval, out, equation.params["dimension_numbers"], equation.params["precision"])
    return Sizes(spec.batch, spec.m, spec.n, spec.k)
