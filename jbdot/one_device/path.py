"""A product of any number of arrays, two at a time: the order that is estimated to take the least time.

A path is a list of contractions of two arrays each. Which is best depends on all sizes: "i,ij,jk->k" is two products
of a vector by a matrix for one vector, and the product of the two matrices first for a million of them.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jax

from jbdot.core.contraction import Contraction
from jbdot.core.errors import BadValue
from jbdot.core.labels import Labels, Shape
from jbdot.one_device import mark
from jbdot.one_device.call_plan import CallPlan, arranged, canonical, reduced
from jbdot.one_device.dot_spec import DotSpec

_MOST: Final = 6  # operands of which every order is looked at; of more, opt_einsum finds one
_UNKNOWN: Final = 64


class Rates(NamedTuple):
    """What an estimate of a product's time takes a platform to do. They are round figures: only ratios matter.

    Attributes:
        flops: FLOPs a microsecond in a large float32 product.
        near: Bytes a microsecond that are read and written where all fit in a cache.
        far: The same, of memory.
        cache: Bytes of the cache.
        start_us: Of one operation.
        product_us: Of one product of a batch, where it is a call of its own.
        side: The size of an axis at which half of `flops` is reached.
    """

    flops: float
    near: float
    far: float
    cache: float
    start_us: float
    product_us: float
    side: float


RATES: Final = {
    "cpu": Rates(flops=1e5, near=4e4, far=1e4, cache=4e6, start_us=2.0, product_us=0.1, side=6.0),
    "cuda": Rates(flops=3e8, near=5e6, far=2.5e6, cache=4e7, start_us=3.0, product_us=0.0, side=64.0),
    "tpu": Rates(flops=1.9e8, near=8e5, far=8e5, cache=0.0, start_us=1.0, product_us=0.0, side=64.0),
}


class Sizes(NamedTuple):
    """The sizes of one product of two arrays, in elements.

    Attributes:
        batch: Of the axes of both and the result.
        m: Of the free axes of lhs.
        n: Of the free axes of rhs.
        k: Of the contracted axes.
    """

    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """Counts 2 FLOPs for each multiply-add, and 1 where nothing is summed."""
        return (2 if self.k > 1 else 1) * self.batch * self.m * self.n * self.k

    @property
    def elements(self) -> int:
        """Counts the elements of both operands and the result."""
        return self.batch * (self.m * self.k + self.n * self.k + self.m * self.n)

    def us(self, itemsize: int, platform: str) -> float:
        """Estimates the time that a product takes, in microseconds, as the larger of arithmetic and memory.

        Args:
            itemsize: Bytes of an element.
            platform: As in `chosen`; one without figures is taken as "cpu".
        """
        rates = RATES.get(platform, RATES["cpu"])
        moved = itemsize * self.elements
        memory = moved / (rates.near if moved < rates.cache else rates.far)
        if self.k == 1 or self.m == self.n == 1 or 1 in (self.m, self.n):  # nothing is read twice
            return rates.start_us + max(memory, self.flops / (rates.flops / 8))
        slow = math.prod(1 + rates.side / side for side in (self.m, self.n, self.k))
        arithmetic = self.flops / rates.flops * slow * max(1, itemsize / 4)
        return rates.start_us + max(memory, arithmetic) + (self.batch * rates.product_us if self.batch > 1 else 0)


@dataclasses.dataclass(frozen=True)
class Step:
    """One product of a path.

    Attributes:
        lhs: The place of its first operand: the operands are counted from 0, then the results of the steps before.
        rhs: The place of its second.
        contraction: Their labels, and the result's.
        sizes: Its sizes.
        us: The estimate of its time, in microseconds.
    """

    lhs: int
    rhs: int
    contraction: Contraction
    sizes: Sizes
    us: float

    @property
    def result(self) -> int:
        """Counts the elements of what it gives."""
        return self.sizes.batch * self.sizes.m * self.sizes.n


@dataclasses.dataclass(frozen=True)
class ContractionPath:
    """A contraction of any number of operands, as products of two.

    Attributes:
        contraction: The labels of all operands, and of the result.
        steps: The products, in their order; none for one operand.

    Example:
        >>> from jbdot import Contraction
        >>> from jbdot.one_device.path import best
        >>> chain = Contraction.parse("i,ij,jk->k")
        >>> print(*(step.contraction for step in best(chain, ((200,), (200, 200), (200, 200)), "cpu").steps), sep="; ")
        i, i j -> j; j, j k -> k
    """

    contraction: Contraction
    steps: tuple[Step, ...]

    @property
    def flops(self) -> int:
        """Counts the FLOPs of all steps."""
        return sum(step.sizes.flops for step in self.steps)

    @property
    def us(self) -> float:
        """Adds up the estimates of the steps' times."""
        return sum(step.us for step in self.steps)

    @property
    def largest(self) -> int:
        """Counts the elements of the largest intermediate; 0 without any."""
        return max((step.result for step in self.steps[:-1]), default=0)

    def out_dtype(self, operands: Sequence[Any], preferred_element_type: Any = None) -> Any:
        """Gives the dtype that all products have: the one that is asked for, or as lax promotes two at a time."""
        if preferred_element_type is not None:
            return canonical(preferred_element_type)
        return functools.reduce(CallPlan(Contraction((), (), ())).out_dtype, (x.dtype for x in operands))

    def dot_specs(self, operands: Sequence[Any], precision: Any = None, dtype: Any = None) -> list[DotSpec]:
        """Describes each product, of operands of these shapes and dtypes: of `dtype`, or of what they promote to."""
        wanted = self.out_dtype(operands, dtype)
        arrays, found = list(operands), list[DotSpec]()
        for step in self.steps:
            lhs, rhs, planned = arrays[step.lhs], arrays[step.rhs], CallPlan(step.contraction)
            found.append(planned.dot_spec(lhs, rhs, precision, wanted))
            arrays.append(jax.ShapeDtypeStruct(planned.out_shape(lhs.shape, rhs.shape), wanted))
        return found

    def run(
        self,
        operands: Sequence[Any],
        precision: Any = None,
        preferred_element_type: Any = None,
        out_sharding: Any = None,
        lowering: str | None = None,
    ) -> jax.Array:
        """Multiplies, a step after the other. Every intermediate has the result's dtype.

        Raises:
            TypeError, ValueError: As `CallPlan.run`.
        """
        dtype = self.out_dtype(operands, preferred_element_type)
        if not self.steps:
            return _alone(operands[0].astype(dtype), self.contraction, out_sharding, lowering)
        arrays = list(operands)
        with mark.of_path(lowering):
            for at, step in enumerate(self.steps, 1):
                sharding = out_sharding if at == len(self.steps) else None
                lhs, rhs = arrays[step.lhs], arrays[step.rhs]
                arrays.append(CallPlan(step.contraction).run(lhs, rhs, precision, dtype, sharding, lowering))
        return arrays[-1]


def _alone(x: Any, c: Contraction, out_sharding: Any, lowering: str | None) -> jax.Array:
    """Reads diagonals of one operand, sums and transposes it: no dot."""
    if out_sharding is not None or lowering not in (None, "auto", "direct"):
        raise BadValue(
            "out_sharding and lowering must be left out of a contraction of one operand", "it has no product"
        )
    kept = tuple(dict.fromkeys(label for label in c.terms[0] if label is not None and label in c.out))
    return arranged(reduced(x, c.terms[0], kept), kept, c.out)


@functools.lru_cache(maxsize=4096)
def best(c: Contraction, shapes: tuple[Shape, ...], platform: str, itemsize: int = 4) -> ContractionPath:
    """Finds the path that is estimated to take the least time.

    Args:
        c: The labels.
        shapes: The operands' shapes.
        platform: Where it will run, as in `chosen`.
        itemsize: Bytes of an element.
    """
    # An export for any size is taken as one of a size in the middle.
    sizes = {label: size if type(size) is int else _UNKNOWN for label, size in c.sizes(*shapes).items()}
    if len(c.terms) > _MOST:
        return of_pairs(c, sizes, _by_opt_einsum(c, sizes), platform, itemsize)
    return of_pairs(c, sizes, _least(c, sizes, platform, itemsize), platform, itemsize)


def of_pairs(
    c: Contraction, sizes: Mapping[str, int], pairs: Sequence[tuple[int, int]], platform: str, itemsize: int
) -> ContractionPath:
    """Makes a path of pairs of places, counted as in `Step`."""
    terms: list[Labels] = [*c.terms]
    left = set(range(len(terms)))
    steps: list[Step] = []
    for lhs, rhs in pairs:
        left -= {lhs, rhs}
        needed = set(c.out).union(*(terms[at] for at in left))
        kept = tuple(dict.fromkeys(label for label in (*terms[lhs], *terms[rhs]) if label in needed and label))
        out = c.out if not left else Contraction(terms[lhs], terms[rhs], kept).dot_out
        step = Contraction(terms[lhs], terms[rhs], out)
        found = _sizes(step, sizes)
        steps.append(Step(lhs, rhs, step, found, found.us(itemsize, platform)))
        left.add(len(terms))
        terms.append(out)
    return ContractionPath(c, tuple(steps))


def _sizes(step: Contraction, sizes: Mapping[str, int]) -> Sizes:
    sides = step.batch, step.lhs_free, step.rhs_free, step.contracting
    return Sizes(*(math.prod(sizes[label] for label in labels) for labels in sides))


def _least(c: Contraction, sizes: Mapping[str, int], platform: str, itemsize: int) -> list[tuple[int, int]]:
    """Looks at every order: of each set of operands the best way to multiply them, from the smaller sets up."""
    count = len(c.terms)
    labels = [frozenset(label for label in term if label is not None) for term in c.terms]
    out = frozenset(label for label in c.out if label is not None)

    def kept(members: int) -> frozenset[str]:
        inside = frozenset[str]().union(*(labels[at] for at in range(count) if members >> at & 1))
        outside = out.union(*(labels[at] for at in range(count) if not members >> at & 1))
        return inside & outside

    def cost(one: frozenset[str], other: frozenset[str], both: frozenset[str]) -> float:
        sides = one & other & both, one - other, other - one, (one & other) - both
        return Sizes(*(math.prod(sizes[label] for label in side) for side in sides)).us(itemsize, platform)

    kept_of = {members: kept(members) for members in range(1, 1 << count)}
    found: dict[int, tuple[float, int]] = {1 << at: (0.0, 0) for at in range(count)}  # time, and one of its two parts
    for members in sorted(range(1, 1 << count), key=int.bit_count):
        if members in found:
            continue
        first = members & -members  # stands on the left, so that each pair of parts is seen once
        parts = [part for part in _parts(members) if part & first]
        costs = [
            (found[part][0] + found[rest][0] + cost(kept_of[part], kept_of[rest], kept_of[members]), part)
            for part in parts
            if (rest := members ^ part)
        ]
        found[members] = min(costs)
    return _pairs(found, count)


def _parts(members: int) -> list[int]:
    """Lists the sets of some, and not all, of these members."""
    bits = [1 << at for at in range(members.bit_length()) if members >> at & 1]
    return [sum(part) for size in range(1, len(bits)) for part in itertools.combinations(bits, size)]


def _pairs(found: Mapping[int, tuple[float, int]], count: int) -> list[tuple[int, int]]:
    """Writes a tree of sets as pairs of places."""
    pairs: list[tuple[int, int]] = []

    def place(members: int) -> int:
        part = found[members][1]
        if not part:
            return members.bit_length() - 1
        both = place(part), place(members ^ part)
        pairs.append(both)
        return count + len(pairs) - 1

    if count > 1:
        place((1 << count) - 1)
    return pairs


def _by_opt_einsum(c: Contraction, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    import opt_einsum  # what few call for

    shapes = [tuple(sizes[label] for label in term if label is not None) for term in c.terms]
    found, _ = opt_einsum.contract_path(c.einsum, *shapes, shapes=True, optimize="auto")
    places = list(range(len(c.terms)))
    pairs: list[tuple[int, int]] = []
    for chosen in found:
        lhs, rhs = (places.pop(at) for at in sorted(chosen, reverse=True))
        pairs.append((rhs, lhs))
        places.append(len(c.terms) + len(pairs) - 1)
    return pairs
