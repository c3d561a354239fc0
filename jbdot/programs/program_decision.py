"""A function as a program of arrays, and what was decided of it."""

import dataclasses
import functools
import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AbstractMesh

from jbdot.devices.links import Links
from jbdot.hardware import Hardware
from jbdot.many_devices.block import Sharding
from jbdot.programs.labels import Array, Flow
from jbdot.programs.layout import Label
from jbdot.programs.layout_search import Candidate
from jbdot.programs.program import changed, is_array
from jbdot.programs.witness import Between, Witnessed


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function as a program of arrays, wherever in its arguments they are; all else is part of the program.

    Attributes:
        jaxpr: Of all its arrays. What the function puts into its arguments in place are results too, the last ones.
        flow: What that does.
        names: Where each argument stands, such as "params['w']".
        owners: Of each argument the number of the function's argument that it stands in.
        places: Of each argument its number among the leaves of the function's arguments.
        structure: Of the function's arguments.
        out: The structure of what the function gives.
        made: Of each leaf of that the number of the result; None of one that is no array.
        tied: Of each result the number of the argument that it is the next state of; None of others.
    """

    jaxpr: Any = dataclasses.field(repr=False)
    flow: Flow = dataclasses.field(repr=False)
    names: tuple[str, ...]
    owners: tuple[int, ...]
    places: tuple[int, ...]
    structure: Any
    out: Any
    made: tuple[int | None, ...]
    tied: tuple[int | None, ...]

    @classmethod
    def of(cls, function: Callable[..., Any], args: Sequence[Any], mesh: Any) -> "Traced":
        """Traces a function."""
        pairs, structure = jax.tree.flatten_with_path(tuple(args))
        is_given = _is_argument if all(_is_argument(leaf) for _, leaf in pairs) else is_array  # as jit has it, or not
        places = tuple(at for at, (_, leaf) in enumerate(pairs) if is_given(leaf))
        given: list[Any] = [leaf for _, leaf in pairs]
        found: list[Any] = []

        def program(*arrays: Any) -> list[Any]:
            leaves = list(given)
            for at, array in zip(places, arrays, strict=True):
                leaves[at] = array
            args = jax.tree.unflatten(structure, leaves)
            made, out = jax.tree.flatten(function(*args))
            found[:] = out, [is_given(x) for x in made]
            return [x for x in (*made, *changed(leaves, args)) if is_given(x)]

        with _on(mesh):
            jaxpr = jax.make_jaxpr(program)(*(_shape(given[at]) for at in places))
        flow, (out, is_made) = Flow.of(jaxpr), found
        parameters = parameters_of(function, len(args))
        paths = [pairs[at][0] for at in places]
        names = tuple(parameters[path[0].idx] + jax.tree_util.keystr(path[1:]) for path in paths)
        owners = tuple(path[0].idx for path in paths)
        numbers = itertools.count()
        made = tuple(next(numbers) if each else None for each in is_made)
        traced = cls(jaxpr, flow, names, owners, places, structure, out, made, ())
        return dataclasses.replace(traced, tied=_tied(traced))

    @property
    def is_of_arrays(self) -> bool:
        """Says whether the function takes arrays and gives arrays, and changes none in place: what `jax.jit` takes."""
        return len(self.places) == self.structure.num_leaves and self.made == tuple(range(len(self.flow.results)))

    def arguments(self, values: Iterable[Any]) -> Any:
        """Returns the function's arguments with a value for each array, and None for all else."""
        found = dict(zip(self.places, values, strict=True))
        return jax.tree.unflatten(self.structure, [found.get(at) for at in range(self.structure.num_leaves)])


@dataclasses.dataclass(frozen=True)
class ProgramDecision:
    """The layouts of a program that were looked at, and the one that is taken.

    Attributes:
        name: Of the function.
        mesh: What the program is planned for; its axes are Auto.
        links: What times are from.
        memory: Bytes that each device may need.
        winner: The layout that is taken.
        candidates: The layouts that have a name, the best first.
        looked: How many layouts were estimated.
        fixed: The PartitionSpecs that were given, by the name of the array.
        function: The program.
        traced: What it does.
        between: What XLA is told of the arrays between arguments and results: all ("moved"), those that are not clear
            from others ("unclear"), or none ("free").
        topology: What candidates were compiled for; empty where none were.
        witnesses: The candidates that were compiled, the best by the compiler, which is the winner, first.
    """

    name: str
    mesh: Any
    links: Links = dataclasses.field(repr=False)
    memory: float
    winner: Candidate
    candidates: tuple[Candidate, ...]
    looked: int
    fixed: Mapping[str, Sharding]
    function: Callable[..., Any] = dataclasses.field(repr=False)
    traced: Traced = dataclasses.field(repr=False)
    between: Between = "moved"
    topology: str = ""
    witnesses: tuple[Witnessed, ...] = ()

    @property
    def hardware(self) -> Hardware:
        """Returns the figures of the devices."""
        return self.links.hardware

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the sizes of the mesh axes of more than one device."""
        return {axis: size for axis, size in self.mesh.shape.items() if size > 1}

    @functools.cached_property
    def arrays(self) -> dict[str, Sharding]:
        """Returns the mesh axes that cut each argument, by its name."""
        flow = self.traced.flow
        return {
            name: self.fixed.get(name) or self.sharding(array)
            for name, array in zip(self.traced.names, flow.arguments, strict=True)
        }

    def sharding(self, array: Array) -> Sharding:
        """Returns the mesh axes that cut each axis of an array, by the layout."""
        return self.winner.layout.sharding(self.traced.flow.labels(array), array.shape, self.sizes)

    @property
    def state(self) -> tuple[int, ...]:
        """Returns the arguments all of whose arrays come back: what `donate_argnums` of `jax.jit` is to be.

        The memory of a plan counts them once.
        """
        back = {at for at in self.traced.tied if at is not None}
        owners = self.traced.owners
        return tuple(sorted({*owners} - {owner for at, owner in enumerate(owners) if at not in back}))


def _on(mesh: Any) -> Any:
    """Opens a context in which PartitionSpecs within the function are of the mesh."""
    return jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh)


def _is_argument(x: Any) -> bool:
    """Says whether `jax.jit` takes it as an array."""
    return is_array(x) or isinstance(x, bool | int | float | complex)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    if isinstance(x, bool | int | float | complex | np.generic):
        return jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(np.asarray(x).dtype), weak_type=True)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.dtypes.canonicalize_dtype(x.dtype)
    return jax.ShapeDtypeStruct(x.shape, dtype, weak_type=bool(getattr(x, "weak_type", False)))


def parameters_of(function: Callable[..., Any], count: int) -> list[str]:
    """Names the parameters that arguments go to."""
    try:
        names = [
            name
            for name, one in inspect.signature(function).parameters.items()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        names = []
    return [*names, *(f"argument {at}" for at in range(len(names), count))][:count]


def _tied(traced: Traced) -> tuple[int | None, ...]:
    """Says of which argument each result is the next state: it is an array as that, and is made from it in place.

    What goes through a dot on its way, as into a gradient, is another array. Where at least half of the arrays of an
    argument come back so, in a result that is built as it is, the others do too: what is drawn or counted anew.
    """
    jaxpr, flow, reached = traced.jaxpr, traced.flow, _reached(traced.flow)
    given, made = (
        [(array.shape, array.dtype, bool(getattr(aval, "weak_type", False))) for aval, array in zip(*pair, strict=True)]
        for pair in ((jaxpr.in_avals, flow.arguments), (jaxpr.out_avals, flow.results))
    )
    labels = [flow.labels(array) for array in flow.arguments]
    tied: dict[int, int] = {}
    for number, result in enumerate(flow.results):
        for at in sorted(reached.get(result, frozenset()).difference(tied.values())):
            if given[at] == made[number] and labels[at] == flow.labels(result):
                tied[number] = at
                break
    for pairs in _alike(traced):
        whole = all(given[at] == made[number] for number, at in pairs)
        if whole and 2 * sum(tied.get(number) == at for number, at in pairs) >= len(pairs):
            tied = {number: at for number, at in tied.items() if at not in dict(pairs).values()} | dict(pairs)
    return tuple(tied.get(number) for number in range(len(flow.results)))


def _alike(traced: Traced) -> Iterator[list[tuple[int, int]]]:
    """Pairs, for each argument of the function, results and arguments that stand in the same places of equal trees."""
    results = [(traced.out, 0), *_children(traced.out)]
    numbers = {place: at for at, place in enumerate(traced.places)}
    for (tree, begin), (out, first) in itertools.product(_children(traced.structure), results):
        if tree == out:
            pairs = ((traced.made[first + at], numbers.get(begin + at)) for at in range(tree.num_leaves))
            yield [(number, at) for number, at in pairs if number is not None and at is not None]


def _children(tree: Any) -> Iterator[tuple[Any, int]]:
    """Gives the trees that a tree is of, and the number of the first leaf of each."""
    first = 0
    for child in tree.children():
        yield child, first
        first += child.num_leaves


def _reached(flow: Flow) -> dict[Array, frozenset[int]]:
    """Says of each array, by their numbers, which arguments it is made from in place."""
    steps = [
        ([array for array, _ in operation.ins], [array for array, _ in operation.outs])
        for operation in flow.operations
        if operation.fuses or operation.name in ("dynamic_update_slice", "scatter")
    ]
    steps += [([given], [taken]) for given, taken in flow.handed]
    readers: dict[Array, list[Array]] = {}
    for ins, outs in steps:
        for array in ins:
            readers.setdefault(array, []).extend(outs)
    found = {array: frozenset({at}) for at, array in enumerate(flow.arguments)}
    waiting = list(found)
    while waiting:
        array = waiting.pop()
        for made in readers.get(array, ()):
            before = found.get(made, frozenset())
            if not found[array] <= before:
                found[made] = before | found[array]
                waiting.append(made)
    return found


def roles_of(traced: Traced) -> tuple[Label | None, list[Label], list[Label]]:
    """Returns the label of samples, those of other axes of data, and those of parameters, of most bytes first."""
    flow = traced.flow
    back = {at for at in traced.tied if at is not None} or _differentiated(traced)
    by_bytes: Counter[Label] = Counter()
    data: Counter[Label] = Counter()
    for at, array in enumerate(flow.arguments):
        for dim, label in enumerate(flow.labels(array)):
            if label is not None and at in back:
                by_bytes[label] += math.prod(array.shape) * array.item_bytes
            elif label is not None:
                data[label] += 1000 * (dim == 0) + 1  # samples come first
    parameters = [label for label, _ in by_bytes.most_common()]
    others = [label for label, _ in data.most_common() if label not in by_bytes]
    return (others[0] if others else None), others[1:], parameters


def _differentiated(traced: Traced) -> set[int]:
    """Finds the arguments that results have the shapes and labels of, as gradients have."""
    flow = traced.flow
    made = {(array.shape, flow.labels(array)) for array in flow.results if array.shape}
    return {at for at, array in enumerate(flow.arguments) if (array.shape, flow.labels(array)) in made}
