"""The labels of a program: axes of its arrays that are cut alike are one label, read off its jaxpr.

Every equation is read as a contraction is: its operands' and results' axes are dimensions of the work, of which some
are summed, and some must be whole. Axes of one dimension are joined, through calls, loops and their carried state.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from jbdot.core.errors import BadValue
from jbdot.core.labels import Shape
from jbdot.one_device import jax_internals

Dims = tuple[Hashable, ...]  # of each axis the dimension of the work that it is; None is an axis by itself, to be whole


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
    """An array of a program.

    Attributes:
        shape: Its sizes.
        dtype: Its name.
        places: What its axes are joined by; -1 for one of size 1, which nothing cuts.
    """

    shape: Shape
    dtype: str
    places: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Returns the bytes of an element."""
        return _item_bytes(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """An equation, as dimensions of work that its operands and results share.

    Attributes:
        name: Of its primitive.
        ins: Each operand, and the dimensions of its axes.
        outs: Likewise of each result.
        summed: Dimensions that are added up: cut, they leave partial sums.
        whole: Dimensions that are not cut.
        times: How often it runs.
        flops: Of one run, if it is a dot or a convolution.
        fuses: Whether it is done with its neighbours, element by element, and writes nothing by itself.
        moves: Whether it only says how an array's elements are arranged.
    """

    name: str
    ins: tuple[tuple[Array, Dims], ...]
    outs: tuple[tuple[Array, Dims], ...]
    summed: frozenset[Hashable] = frozenset()
    whole: frozenset[Hashable] = frozenset()
    times: float = 1.0
    flops: int = 0
    fuses: bool = False
    moves: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Inner:
    """An equation that has jaxprs of its own.

    Attributes:
        blocks: What each of them does, a step for each of its equations; none of one that is left alone.
        carried: What a loop hands from turn to turn, as each turn is given it, and after how many other arguments.
    """

    blocks: tuple["Block", ...]
    carried: tuple[Array, ...] = ()
    before: int = 0


Block = list["Operation | Inner"]


@dataclasses.dataclass(frozen=True, eq=False)
class Turn:
    """An array that a loop hands from turn to turn.

    Attributes:
        begin: As a turn is given it.
        end: As it leaves it.
        out: What comes of the loop.
        times: How often the loop runs as a whole.
    """

    begin: Array
    end: Array
    out: Array
    times: float


@dataclasses.dataclass(frozen=True)
class Flow:
    """A program: its operations in order, those of loops once, and the label of each axis.

    Attributes:
        arguments: Of the program, in order.
        results: Likewise.
        operations: In the order of the jaxpr.
        steps: The same, nested as the jaxpr is: one for each equation.
        lives: Of each array the operation that makes it, -1 for an argument, and the last that needs it.
        unknown: Primitives whose axes are not known, and how many equations are of them.
        turns: What loops carry.
        handed: Pairs of arrays of which the second is the first, as a loop or a branch is given it or gives it back,
            whole or turn by turn.
    """

    arguments: tuple[Array, ...]
    results: tuple[Array, ...]
    operations: tuple[Operation, ...]
    steps: Block = dataclasses.field(repr=False)
    lives: dict[Array, tuple[int, int]] = dataclasses.field(repr=False)
    unknown: dict[str, int]
    turns: tuple["Turn", ...] = dataclasses.field(repr=False)
    handed: tuple[tuple[Array, Array], ...] = dataclasses.field(repr=False)
    _joined: tuple[int, ...] = dataclasses.field(repr=False)
    _scanned: frozenset[int] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, jaxpr: Any) -> "Flow":
        """Reads a closed jaxpr.

        Raises:
            ValueError: It calls the host.

        Example:
            >>> import jax
            >>> from jax import numpy as jnp
            >>> x, w = jnp.ones((8, 4)), jnp.ones((4, 3))
            >>> flow = Flow.of(jax.make_jaxpr(lambda x, w: jnp.tanh(x @ w))(x, w))
            >>> [flow.labels(array) for array in (*flow.arguments, *flow.results)]
            [(0, 1), (1, 2), (0, 2)]
        """
        reader = _Reader()
        arguments, results, steps = reader.program(jaxpr)
        lives = {array: (first, last) for array, (first, last) in reader.lives.items()}
        joined = reader.canonical([*arguments, *results])
        scanned = frozenset(joined[place] for place in reader.scanned)
        operations, turns, handed = tuple(reader.operations), tuple(reader.turns), tuple(reader.handed)
        return cls(arguments, results, operations, steps, lives, dict(reader.unknown), turns, handed, joined, scanned)

    @functools.cached_property
    def anchors(self) -> frozenset[Array]:
        """Returns the arrays that are written to memory: of dots, other work of its own, and loops.

        What is done element by element between them is where they are.
        """
        heavy = [operation for operation in self.operations if not operation.fuses]
        found = {array for operation in heavy for array, _ in (*operation.ins, *operation.outs)}
        return frozenset(found.union(self.carried))

    @functools.cached_property
    def carried(self) -> frozenset[Array]:
        """Returns the arrays that loops hand from turn to turn."""
        return frozenset(_carried(self.steps))

    def labels(self, array: Array) -> tuple[int | None, ...]:
        """Returns the label of each axis; None where it cannot be cut: of size 1, or gone through by a loop."""
        found = (None if place < 0 else self._joined[place] for place in array.places)
        return tuple(None if label in self._scanned else label for label in found)


def _carried(steps: Block) -> Iterator[Array]:
    for step in steps:
        if isinstance(step, Inner):
            yield from step.carried
            for block in step.blocks:
                yield from _carried(block)


class _Reader:
    """Walks through a jaxpr."""

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.operations: list[Operation] = []
        self.lives: dict[Array, list[int]] = {}
        self.scanned: set[int] = set()
        self.unknown: Counter[str] = Counter()
        self.turns: list[Turn] = []
        self.handed: list[tuple[Array, Array]] = []
        self._times = 1.0

    def program(self, jaxpr: Any) -> tuple[tuple[Array, ...], tuple[Array, ...], Block]:
        """Reads all of a program: its arguments, its results and its steps."""
        arguments = tuple(self._new(variable.aval) for variable in jaxpr.jaxpr.invars)
        results, steps = self._inside(jaxpr, arguments)
        self._needed(results)
        return arguments, tuple(results), steps

    def canonical(self, first: Iterable[Array]) -> tuple[int, ...]:
        """Returns the label of each place, numbered from those of these arrays."""
        numbers: dict[int, int] = {}
        for array in first:
            for place in array.places:
                if place >= 0:
                    numbers.setdefault(self._find(place), len(numbers))
        return tuple(numbers.setdefault(self._find(place), len(numbers)) for place in range(len(self.parents)))

    def _new(self, aval: Any, places: Sequence[int] | None = None) -> Array:
        shape = tuple(getattr(aval, "shape", ()))
        if places is None:
            places = [-1 if size == 1 else self._place() for size in shape]
        array = Array(shape, str(getattr(aval, "dtype", "float32")), tuple(places))
        self.lives[array] = [len(self.operations) - 1] * 2
        return array

    def _place(self) -> int:
        self.parents.append(len(self.parents))
        return len(self.parents) - 1

    def _find(self, place: int) -> int:
        while self.parents[place] != place:
            self.parents[place] = self.parents[self.parents[place]]
            place = self.parents[place]
        return place

    def _join(self, places: Iterable[int]) -> None:
        roots = sorted({self._find(place) for place in places if place >= 0})
        for root in roots[1:]:
            self.parents[root] = roots[0]

    def _needed(self, arrays: Iterable[Array]) -> None:
        for array in arrays:
            self.lives[array][1] = len(self.operations)

    def _inside(self, closed: Any, arguments: Sequence[Array]) -> tuple[list[Array], Block]:
        """Reads a jaxpr that is called with arrays, and gives its results and its steps."""
        jaxpr = getattr(closed, "jaxpr", closed)
        here: dict[Any, Array] = dict(zip(jaxpr.invars, arguments, strict=True))
        here |= {variable: self._new(variable.aval) for variable in jaxpr.constvars}

        def read(variable: Any) -> Array:
            return self._new(variable.aval) if hasattr(variable, "val") else here[variable]

        steps: Block = []
        for equation in jaxpr.eqns:
            outs, step = self._equation(equation, [read(variable) for variable in equation.invars])
            here |= zip(equation.outvars, outs, strict=True)
            steps.append(step)
        return [read(variable) for variable in jaxpr.outvars], steps

    def _equation(self, equation: Any, arrays: list[Array]) -> tuple[list[Array], Operation | Inner]:
        name, params = equation.primitive.name, equation.params
        if "callback" in name:
            raise BadValue(
                "the program must not call the host",
                f"{name} at {jax_internals.source(equation) or 'an unknown line'}",
                "Take it out of what is planned: print, log and check outside of the step, or between steps",
            )
        if name in _LOOPS:
            return getattr(self, f"_{name}")(equation, arrays)
        inner = jax_internals.inner_jaxprs(params)
        if len(inner) == 1 and name not in _OPAQUE and len(getattr(inner[0], "jaxpr", inner[0]).invars) == len(arrays):
            outs, steps = self._inside(inner[0], arrays)
            return outs, Inner(() if name in _LEFT else (steps,))
        outs = [self._new(variable.aval) for variable in equation.outvars]
        return outs, self._operation(name, params, arrays, outs)

    def _operation(self, name: str, params: dict[str, Any], arrays: list[Array], outs: list[Array]) -> Operation:
        work = None if name in _OPAQUE else _RULES.get(name, _by_shapes)(params, arrays, outs)
        if work is None:
            self.unknown[name] += 1
            work = Work([_alone(x) for x in arrays], [_alone(x) for x in outs])
        joined: dict[Hashable, list[int]] = {}
        for array, dims in [*zip(arrays, work.ins, strict=True), *zip(outs, work.outs, strict=True)]:
            for place, dim in zip(array.places, dims, strict=True):
                if dim is not None:
                    joined.setdefault(dim, []).append(place)
        for places in joined.values():
            self._join(places)
        if name in _WRAPS:  # the words of a random key stay together
            (x, out), words = (*arrays, *outs), slice(min(map(len, (arrays[0].shape, outs[0].shape))), None)
            self.scanned |= {place for place in (*x.places[words], *out.places[words]) if place >= 0}
        for array in outs:
            self.lives[array][0] = len(self.operations)
        self._needed([*arrays, *outs])
        operation = Operation(
            name,
            tuple(zip(arrays, work.ins, strict=True)),
            tuple(zip(outs, work.outs, strict=True)),
            frozenset(work.summed),
            frozenset(work.whole),
            self._times,
            work.flops,
            work.fuses,
            name in _MOVES,
        )
        self.operations.append(operation)
        return operation

    def _repeated(self, closed: Any, arrays: list[Array], times: float) -> tuple[list[Array], Block]:
        before, self._times = self._times, self._times * times
        outs, steps = self._inside(closed, arrays)
        self._times = before
        return outs, steps

    def _scan(self, equation: Any, arrays: list[Array]) -> tuple[list[Array], Inner]:
        closed = equation.params["jaxpr"]
        inner = getattr(closed, "jaxpr", closed)
        is_x = [len(x.shape) > len(v.aval.shape) for x, v in zip(arrays, inner.invars, strict=True)]
        is_y = [len(o.aval.shape) > len(v.aval.shape) for o, v in zip(equation.outvars, inner.outvars, strict=True)]
        carries = is_y.count(False)
        consts = is_x.count(False) - carries
        outs = [self._new(variable.aval) for variable in equation.outvars]
        given = [
            self._new(v.aval, x.places[1:] if each else x.places)
            for x, v, each in zip(arrays, inner.invars, is_x, strict=True)
        ]
        given[:consts] = arrays[:consts]
        carried = given[consts : consts + carries]
        made, steps = self._repeated(closed, given, equation.params["length"])
        self._carried(arrays[consts:], carried, made[:carries], outs[:carries])
        for end, out in zip(made[carries:], outs[carries:], strict=True):
            for pair in zip(end.places, out.places[1:], strict=True):
                self._join(pair)
        gone = [*arrays[consts + carries :], *outs[carries:]]
        self.handed += [
            *zip(gone, given[consts + carries :], strict=False),
            *zip(made[carries:], outs[carries:], strict=True),
        ]
        self.scanned |= {x.places[0] for x in gone if x.places[0] >= 0}
        self._needed([*arrays, *given[consts:], *made, *outs])
        return outs, Inner((steps,), tuple(carried), consts)

    def _while(self, equation: Any, arrays: list[Array]) -> tuple[list[Array], Inner]:
        """Reads a loop of unknown length as one turn; its condition is left alone."""
        skipped, consts = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        start = arrays[skipped + consts :]
        given = [self._new(variable.aval, x.places) for x, variable in zip(start, equation.outvars, strict=True)]
        outs = [self._new(variable.aval) for variable in equation.outvars]
        made, steps = self._inside(equation.params["body_jaxpr"], [*arrays[skipped : skipped + consts], *given])
        self._carried(start, given, made, outs)
        self._needed([*arrays, *given, *made, *outs])
        return outs, Inner((steps,), tuple(given), consts)

    def _carried(
        self, start: Sequence[Array], given: Sequence[Array], made: Sequence[Array], outs: Sequence[Array]
    ) -> None:
        self.handed += [*zip(start, given, strict=False), *zip(made, outs, strict=True)]
        for begin, end, out in zip(given, made, outs, strict=True):
            for places in zip(begin.places, end.places, out.places, strict=True):
                self._join(places)
            self.lives[out][0] = len(self.operations) - 1  # it is what the last turn has made
            self.turns.append(Turn(begin, end, out, self._times))

    def _cond(self, equation: Any, arrays: list[Array]) -> tuple[list[Array], Inner]:
        """Reads all branches, each as often as the others."""
        branches = equation.params["branches"]
        outs = [self._new(variable.aval) for variable in equation.outvars]
        blocks: list[Block] = []
        for branch in branches:
            found, steps = self._repeated(branch, arrays[1:], 1 / len(branches))
            blocks.append(steps)
            self.handed += zip(found, outs, strict=True)
            for made, out in zip(found, outs, strict=True):
                for pair in zip(made.places, out.places, strict=True):
                    self._join(pair)
            self._needed(found)
        self._needed([*arrays, *outs])
        return outs, Inner(tuple(blocks))


# What each primitive does, as dimensions of work. Sizes tell which axes go through unchanged.


@dataclasses.dataclass(frozen=True)
class Work:
    """The dimensions of an equation's operands and results: see `Operation`."""

    ins: Sequence[Dims]
    outs: Sequence[Dims]
    summed: Iterable[Hashable] = ()
    whole: Iterable[Hashable] = ()
    flops: int = 0
    fuses: bool = False


_Rule = Callable[[dict[str, Any], Sequence[Array], Sequence[Array]], "Work | None"]
_RULES: dict[str, _Rule] = {}
_LOOPS: Final = ("scan", "while", "cond")
_LEFT: Final = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")  # their derivatives are not in the jaxpr
_OPAQUE: Final = ("shard_map", "pallas_call", "custom_call")  # what is inside is of one device, or no jaxpr of JAX
_WRAPS: Final = ("random_wrap", "random_unwrap")  # numbers to random keys, and back
_MOVES: Final = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "copy", "sharding_constraint")


def _rule(*names: str) -> Callable[[_Rule], _Rule]:
    def add(rule: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


def _alone(x: Array) -> Dims:
    return (None,) * len(x.shape)


def _numbers(x: Array) -> Dims:
    return tuple(range(len(x.shape)))


def _same(x: Array, out: Array) -> Dims:
    """Names the axes of an array that have the size of the result's axis in the same place."""
    pairs = zip(x.shape, out.shape, strict=True)
    return tuple(at if size == other else None for at, (size, other) in enumerate(pairs))


def _by_shapes(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work | None:
    """Reads what is done element by element: arrays have axes of the same sizes, or of size 1, or none."""
    ranked = [x.shape for x in (*arrays, *outs) if x.shape]
    if len({*map(len, ranked)}) > 1 or any(len({*sizes} - {1}) > 1 for sizes in zip(*ranked, strict=False)):
        return None
    return Work([_numbers(x) for x in arrays], [_numbers(x) for x in outs], fuses=True)


@_rule("dot_general")
def _dot(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = params["dimension_numbers"]
    lhs, rhs = arrays
    left: list[Hashable] = [("lhs", at) for at in range(len(lhs.shape))]
    right: list[Hashable] = [("rhs", at) for at in range(len(rhs.shape))]
    for at, (i, j) in enumerate(zip(lhs_batch, rhs_batch, strict=True)):
        left[i] = right[j] = ("batch", at)
    for at, (i, j) in enumerate(zip(lhs_sum, rhs_sum, strict=True)):
        left[i] = right[j] = ("sum", at)
    free = [dim for dim in (*left, *right) if isinstance(dim, tuple) and dim[0] in ("lhs", "rhs")]
    batch = [left[i] for i in lhs_batch]
    flops = 2 * math.prod(outs[0].shape) * math.prod(lhs.shape[i] for i in lhs_sum)
    return Work([tuple(left), tuple(right)], [(*batch, *free)], [left[i] for i in lhs_sum], flops=flops)


@_rule("ragged_dot_general", "ragged_dot")
def _ragged(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work | None:
    lhs, rhs = arrays[:2]
    flops = 2 * math.prod(lhs.shape) * rhs.shape[-1]
    if len(lhs.shape) == 2 and len(rhs.shape) == 3 and outs[0].shape == (lhs.shape[0], rhs.shape[2]):
        others = [_alone(x) for x in arrays[2:]]
        return Work([("m", "k"), ("g", "k", "n"), *others], [("m", "n")], ["k"], ["g"], flops)
    if len(lhs.shape) == 2 and len(rhs.shape) == 2 and outs[0].shape[1:] == (lhs.shape[1], rhs.shape[1]):
        others = [_alone(x) for x in arrays[2:]]
        return Work([("m", "k"), ("m", "n"), *others], [("g", "k", "n")], ["m"], ["g"], flops)
    return None


@_rule("conv_general_dilated")
def _convolution(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    numbers = params["dimension_numbers"]
    lhs, rhs, out = (list[Hashable]([None] * len(x.shape)) for x in (*arrays, outs[0]))
    grouped = params["feature_group_count"] > 1 or params["batch_group_count"] > 1
    if params["batch_group_count"] == 1:
        lhs[numbers.lhs_spec[0]] = out[numbers.out_spec[0]] = "batch"
    if not grouped:
        lhs[numbers.lhs_spec[1]] = rhs[numbers.rhs_spec[1]] = "sum"
        rhs[numbers.rhs_spec[0]] = out[numbers.out_spec[1]] = "feature"
    inner = math.prod(arrays[1].shape) // arrays[1].shape[numbers.rhs_spec[0]]
    flops = 2 * math.prod(outs[0].shape) * inner
    for at, (i, j) in enumerate(zip(numbers.lhs_spec[2:], numbers.out_spec[2:], strict=True)):
        if arrays[0].shape[i] == outs[0].shape[j]:
            lhs[i] = out[j] = ("space", at)
    whole = [dim for dim in lhs if isinstance(dim, tuple)]
    return Work([tuple(lhs), tuple(rhs)], [tuple(out)], ["sum"], whole, flops)


@_rule(*_WRAPS, "random_split", "random_bits")
def _random(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Keeps the axes of the keys, which come first; what is made of each comes behind."""
    shared = min(len(arrays[0].shape), len(outs[0].shape))

    def dims(x: Array) -> Dims:
        return tuple(at if at < shared else ("drawn", at) for at in range(len(x.shape)))

    return Work([dims(arrays[0])], [dims(outs[0])], fuses=True)


@_rule("broadcast_in_dim")
def _broadcast(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    x, out = arrays[0], outs[0]
    dims = tuple(
        at if size == out.shape[at] else None for at, size in zip(params["broadcast_dimensions"], x.shape, strict=True)
    )
    return Work([dims, *((),) * (len(arrays) - 1)], [_numbers(out)], fuses=True)


@_rule("transpose")
def _transpose(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    return Work([_numbers(arrays[0])], [tuple(params["permutation"])], fuses=True)


@_rule("squeeze")
def _squeeze(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    gone = params["dimensions"]
    return Work([_numbers(arrays[0])], [tuple(at for at in _numbers(arrays[0]) if at not in gone)], fuses=True)


@_rule("unstack")
def _unstack(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    kept = tuple(at for at in _numbers(arrays[0]) if at != params["axis"] % len(arrays[0].shape))
    return Work([tuple(at if at in kept else None for at in _numbers(arrays[0]))], [kept for _ in outs], fuses=True)


@_rule("expand_dims")
def _expand(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    new = params["dimensions"]
    return Work([tuple(at for at in _numbers(outs[0]) if at not in new)], [_numbers(outs[0])], fuses=True)


@_rule(
    *(f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or", "xor")),
    *("argmax", "argmin"),
)
def _reduction(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    gone = set(params["axes"])
    kept = tuple(at for at in _numbers(arrays[0]) if at not in gone)
    return Work([_numbers(x) for x in arrays], [kept for _ in outs], gone)


@_rule("psum", "pmax", "pmin")
def _collective(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Reduces axes of each array, which a vmap has made of the axis that it names."""
    gone = [axis for axis in params["axes"] if isinstance(axis, int)]
    ins = [tuple((number, at) for at in _numbers(x)) for number, x in enumerate(arrays)]
    kept = [tuple(dim for dim in dims if dim[1] not in gone) for dims in ins]
    return Work(ins, kept, {dim for dims in ins for dim in dims if dim[1] in gone})


@_rule("reshape")
def _reshape(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Joins the slowest axis of what is merged or split with that of what comes of it."""
    before, after = arrays[0].shape, outs[0].shape
    left, right = (list[Hashable]([None] * len(shape)) for shape in (before, after))
    if 0 not in before:
        for at, (i, j) in enumerate(_parts(before, after)):
            left[i] = right[j] = at
    return Work([tuple(left), *((),) * (len(arrays) - 1)], [tuple(right)], fuses=True)


def _parts(before: Shape, after: Shape) -> Iterable[tuple[int, int]]:
    """Lists the slowest axes of the parts of two shapes that have as many elements, without those of size 1."""
    rows = [[(at, size) for at, size in enumerate(shape) if size > 1] for shape in (before, after)]
    while rows[0] and rows[1]:
        (i, left), (j, right) = (row.pop(0) for row in rows)
        yield i, j
        while left != right:
            if left < right:
                left *= rows[0].pop(0)[1]
            else:
                right *= rows[1].pop(0)[1]


@_rule("cumsum", "cumlogsumexp", "cummax", "cummin", "cumprod")
def _cumulative(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    return Work([_numbers(arrays[0])], [_numbers(outs[0])], whole=[params["axis"]])


@_rule("sort")
def _sort(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    return Work([_numbers(x) for x in arrays], [_numbers(x) for x in outs], whole=[params["dimension"]])


@_rule("rev")
def _reverse(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    return Work([_numbers(arrays[0])], [_numbers(outs[0])], whole=params["dimensions"], fuses=True)


@_rule("concatenate")
def _concatenate(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    along = params["dimension"]

    def dims(x: Array) -> Dims:
        return tuple(None if at == along else at for at in range(len(x.shape)))

    return Work([*map(dims, arrays)], [*map(dims, outs)], fuses=True)


@_rule("slice", "dynamic_slice", "pad", "split", "top_k", "reduce_precision")
def _slice(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Keeps the axes that have the same size before and after."""
    x = arrays[0]
    kept = {at for at in range(len(x.shape)) if all(x.shape[at] == out.shape[at] for out in outs)}
    if "axis" in params and "k" in params:
        kept.discard(params["axis"] % len(x.shape))
    dims = tuple(at if at in kept else None for at in range(len(x.shape)))
    return Work([dims, *map(_alone, arrays[1:])], [dims for _ in outs], fuses=True)


@_rule("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum", "select_and_gather_add")
def _window(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    sizes = params["window_dimensions"]
    dims = tuple(at if size == 1 else None for at, size in enumerate(sizes))
    return Work([dims if x.shape else () for x in arrays], [dims for _ in outs])


@_rule("select_and_scatter_add")
def _window_back(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work | None:
    return _window(params, arrays, outs)


@_rule("dynamic_update_slice")
def _update(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Leaves the axes along which a part is replaced where they are: each device replaces what it has of it."""
    out = outs[0]
    return Work([_numbers(out), _same(arrays[1], out), *map(_alone, arrays[2:])], [_numbers(out)])


@_rule("gather")
def _gather(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Looks up slices: along an axis that is cut each device has some of them, and all are added."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    x, indices = arrays
    batch = _batch(numbers.start_indices_batching_dims, indices)
    dims = _operand(x, numbers.operand_batching_dims, numbers.start_indices_batching_dims, numbers.collapsed_slice_dims)
    kept = [at for at in range(len(x.shape)) if dims[at] is None]
    for at in kept:
        dims[at] = ("kept", at) if sizes[at] == x.shape[at] else ("part", at)
    summed = [dim for dim in dims if isinstance(dim, tuple) and dim[0] in ("found", "part")]
    offset = {place: dims[at] if dims[at] == ("kept", at) else None for place, at in _zip(numbers.offset_dims, kept)}
    others = iter(batch[:-1])
    out = tuple(offset[at] if at in offset else next(others) for at in range(len(outs[0].shape)))
    return Work([tuple(dims), batch], [out], summed)


@_rule("scatter", "scatter-add", "scatter_add", "scatter_mul", "scatter-update", "scatter_min", "scatter_max")
def _scatter(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Adds slices, or puts them: along an axis that is cut each device takes those that are its own."""
    numbers = params["dimension_numbers"]
    x, indices, updates = arrays
    batch = _batch(numbers.scatter_indices_batching_dims, indices)
    dims = _operand(
        x, numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, numbers.inserted_window_dims
    )
    window = [at for at in range(len(x.shape)) if dims[at] is None]
    at_window = dict(_zip(numbers.update_window_dims, window))
    for at in window:
        dims[at] = ("kept", at)
    others = iter(batch[:-1])
    moved = tuple(
        (dims[at_window[at]] if size == x.shape[at_window[at]] else None) if at in at_window else next(others)
        for at, size in enumerate(updates.shape)
    )
    lost = {dim for dim in batch if dim is not None} - set(dims)
    return Work([tuple(dims), batch, moved], [tuple(dims)], lost)


def _batch(batching: Sequence[int], indices: Array) -> Dims:
    """Names the axes of indices: those of the batch, others, and the last, which holds the numbers."""
    last = len(indices.shape) - 1
    return tuple(
        None if at == last else ("batch" if at in batching else "index", at) for at in range(len(indices.shape))
    )


def _operand(x: Array, batching: Sequence[int], of: Sequence[int], gone: Sequence[int]) -> list[Hashable]:
    dims: list[Hashable] = [None] * len(x.shape)
    for at, place in zip(batching, of, strict=True):
        dims[at] = ("batch", place)
    for at in gone:
        dims[at] = ("found", at)
    return dims


def _zip(left: Iterable[int], right: Iterable[int]) -> Iterable[tuple[int, int]]:
    return zip(left, right, strict=True)


@_rule("cholesky", "lu", "qr", "eigh", "svd", "triangular_solve", "schur", "eig", "householder_product", "geqrf")
def _linear_algebra(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    """Keeps the axes of the batch, and has the matrices whole."""
    batch = min(len(x.shape) for x in arrays) - 2

    def dims(x: Array) -> Dims:
        return tuple(at if at < batch else None for at in range(len(x.shape)))

    return Work([*map(dims, arrays)], [*map(dims, outs)])


@_rule("fft")
def _fft(params: dict[str, Any], arrays: Sequence[Array], outs: Sequence[Array]) -> Work:
    kept = len(arrays[0].shape) - len(params["fft_lengths"])
    dims = tuple(at if at < kept else None for at in range(len(arrays[0].shape)))
    return Work([dims], [dims])


def _item_bytes(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        return _dtype_bytes(dtype)


def _dtype_bytes(dtype: str) -> int:
    from jax import numpy as jnp

    try:
        return jnp.dtype(dtype).itemsize
    except TypeError:  # a random key
        return 16
