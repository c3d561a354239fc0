"""A function as a program of arrays, and what was decided of it."""

import dataclasses
import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AbstractMesh

from jbdot.core.errors import BadType, kind_text
from jbdot.devices.links import Links
from jbdot.hardware import Hardware
from jbdot.many_devices.block import Sharding
from jbdot.programs.labels import Array, Flow
from jbdot.programs.layout import Label
from jbdot.programs.layout_search import Candidate
from jbdot.programs.witness import Between, Witnessed


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function as a program of arrays.

    Attributes:
        jaxpr: Of all its arrays.
        flow: What that does.
        names: Where each argument stands, such as "params['w']".
        structure: Of the arguments.
        out: The structure of the results.
        tied: Of each result the number of the argument that it is the next state of; None of others.
    """

    jaxpr: Any = dataclasses.field(repr=False)
    flow: Flow = dataclasses.field(repr=False)
    names: tuple[str, ...]
    structure: Any
    out: Any
    tied: tuple[int | None, ...]

    @classmethod
    def of(cls, function: Callable[..., Any], args: Sequence[Any], mesh: Any) -> "Traced":
        """Traces a function."""
        pairs, structure = jax.tree.flatten_with_path(tuple(args))
        parameters = parameters_of(function, len(args))
        names = tuple(parameters[path[0].idx] + jax.tree_util.keystr(path[1:]) for path, _ in pairs)
        shapes = [_shape(name, leaf) for name, (_, leaf) in zip(names, pairs, strict=True)]
        with _on(mesh):
            jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*jax.tree.unflatten(structure, shapes))
        flow = Flow.of(jaxpr)
        return cls(jaxpr, flow, names, structure, jax.tree.structure(out), _tied(flow))


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
        found, first = list[int](), 0
        for number, argument in enumerate(self.traced.structure.children()):
            if argument.num_leaves and back.issuperset(range(first, first + argument.num_leaves)):
                found.append(number)
            first += argument.num_leaves
        return tuple(found)


def _on(mesh: Any) -> Any:
    """Opens a context in which PartitionSpecs within the function are of the mesh."""
    return jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh)


def _shape(name: str, x: Any) -> jax.ShapeDtypeStruct:
    if isinstance(x, bool | int | float | complex | np.generic):
        return jax.ShapeDtypeStruct((), jax.dtypes.canonicalize_dtype(np.asarray(x).dtype), weak_type=True)
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise BadType(
            "arguments must be arrays or jax.ShapeDtypeStructs, in pytrees",
            f"{name} is a {kind_text(x)}",
            "Give shapes with jax.eval_shape, and all else with functools.partial",
        )
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


def _tied(flow: Flow) -> tuple[int | None, ...]:
    """Says of which argument each result is the next state: it has its shape and labels, and is made from it in place.

    What goes through a dot on its way, as into a gradient, is another array.
    """
    reached: dict[Array, set[int]] = {array: {at} for at, array in enumerate(flow.arguments)}
    for operation in flow.operations:
        if operation.fuses or operation.name in ("dynamic_update_slice", "scatter"):
            found = set[int]().union(*(reached.get(array, ()) for array, _ in operation.ins))
            reached |= {array: found for array, _ in operation.outs if found}
    taken: set[int] = set()
    tied: list[int | None] = []
    for result in flow.results:
        labels = flow.labels(result)
        fit = (
            at
            for at in sorted(reached.get(result, ()))
            if at not in taken
            and (flow.arguments[at].shape, flow.arguments[at].dtype) == (result.shape, result.dtype)
            and flow.labels(flow.arguments[at]) == labels
        )
        tied.append(next(fit, None))
        taken |= {at for at in tied[-1:] if at is not None}
    return tuple(tied)


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
