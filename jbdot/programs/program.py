"""A function and its arguments as a program of arrays: what `jax.jit` would lower, whoever has wrapped the function.

Arrays anywhere in the arguments are the program's arguments. All else (numbers, names, functions, static arguments) is
part of the program. What the function puts into its arguments in place, as Flax's NNX does, is a result.
"""

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import jax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from jbdot.core.errors import BadType, BadValue
from jbdot.one_device import jax_internals

_JITTED: Final = ("jit", "pjit")  # what `jax.jit` is in a jaxpr
_KEYS: Final = ("random_wrap", "random_unwrap")
_GIVE: Final = (
    "Give its arrays as jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec)), or give mesh="
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of arrays, each with the sharding that it comes in, and the mesh.

    Attributes:
        name: Of the function.
        arrays: All arrays among the arguments, in order.
        names: Where each stands, such as "params['w']".
        mesh: What it runs over.
        traced: What `jax.jit(...).trace` gave.
    """

    name: str
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    names: tuple[str, ...]
    mesh: Any
    traced: Any = dataclasses.field(repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any], args: Sequence[Any], mesh: Any = None) -> "Program":
        """Traces a function.

        Args:
            function: What `jax.jit` takes, or gives.
            args: Arrays, or `jax.ShapeDtypeStruct`s, in pytrees.
            mesh: What it runs over; by default the mesh that its arguments, or else the function, name.

        Raises:
            TypeError: It is no function, or the mesh is none.
            ValueError: Nothing names a mesh, or several are named.
        """
        if not callable(function):
            raise BadType(
                "the program must be a function", type(function).__name__, "Give the step, and then its arguments"
            )
        if mesh is not None and not isinstance(mesh, Mesh | AbstractMesh):
            raise BadType("mesh must be a jax.sharding.Mesh or AbstractMesh", repr(mesh))
        flat = _Flat(function, args)
        arrays = flat.arrays
        with _on(mesh or next((x.sharding.mesh for x in flat.arrays if x.sharding is not None), None)):
            traced = _traced(flat, arrays)
            arrays, shardings, donated = said(traced.jaxpr, arrays)
            if donated or shardings is not None or arrays != flat.arrays:
                traced = _traced(flat, arrays, donated, shardings)
        return cls(flat.__name__, arrays, flat.names, mesh_of(mesh, arrays, traced, flat.__name__), traced)

    def named(self, argument: str) -> str:
        """Returns the name of an argument, by the name that the compiled text has for it: "arrays[0]"."""
        found = re.fullmatch(r"arrays\[(\d+)\]", argument)
        return self.names[int(found[1])] if found else argument


class _Flat:
    """The function of the arrays alone, which gives all arrays that come out."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        pairs, self._structure = jax.tree.flatten_with_path(tuple(args))
        self._function, self._leaves = function, [leaf for _, leaf in pairs]
        self._places = [at for at, leaf in enumerate(self._leaves) if is_array(leaf)]
        self._impls = {at: _key_impl(self._leaves[at]) for at in self._places}
        self.arrays = tuple(_abstract(self._leaves[at], self._impls[at]) for at in self._places)
        parameters = _parameters(function, len(args))
        self.names = tuple(_path(parameters, pairs[at][0]) for at in self._places)
        self.__name__ = getattr(function, "__name__", None) or type(function).__name__

    def __call__(self, *arrays: Any) -> list[Any]:
        leaves = list(self._leaves)
        for at, array in zip(self._places, arrays, strict=True):
            leaves[at] = jax.random.wrap_key_data(array, impl=self._impls[at]) if self._impls[at] else array
        args = jax.tree.unflatten(self._structure, leaves)
        made = jax.tree.leaves(self._function(*args))
        found = (x for x in (*made, *changed(leaves, args)) if is_array(x))
        return [jax.random.key_data(x) if _key_impl(x) else x for x in found]


def _traced(
    flat: _Flat, arrays: tuple[jax.ShapeDtypeStruct, ...], donated: tuple[int, ...] = (), shardings: Any = None
) -> Any:
    def program(*arrays: Any) -> list[Any]:
        return flat(*arrays)

    program.__name__ = program.__qualname__ = flat.__name__
    options: dict[str, Any] = {} if shardings is None else {"out_shardings": shardings}
    return cast(Any, jax.jit(program, keep_unused=True, donate_argnums=donated, **options)).trace(*arrays)


def said(
    closed: Any, arrays: tuple[jax.ShapeDtypeStruct, ...]
) -> tuple[tuple[jax.ShapeDtypeStruct, ...], list[Any] | None, tuple[int, ...]]:
    """Reads what a jitted function says of its arguments and results: shardings, and what is donated.

    They stand in the equation that it is, where that is all of the program.

    Args:
        closed: Its closed jaxpr.
        arrays: Its arguments.

    Returns:
        The arguments with their shardings; those of the results, if any is said; the numbers of donated arguments.
    """
    jitted = [equation for equation in closed.jaxpr.eqns if equation.primitive.name not in _KEYS]
    if len(jitted) != 1 or jitted[0].primitive.name not in _JITTED:
        return arrays, None, ()
    (equation,) = jitted
    params, at = equation.params, {id(variable): place for place, variable in enumerate(closed.jaxpr.invars)}
    found, donated = list(arrays), list[int]()
    for variable, sharding, is_donated in zip(
        equation.invars, params["in_shardings"], params["donated_invars"], strict=True
    ):
        place = at.get(id(variable))
        if place is None:
            continue
        if isinstance(sharding, NamedSharding) and arrays[place].sharding is None:
            found[place] = jax.ShapeDtypeStruct(arrays[place].shape, arrays[place].dtype, sharding=sharding)
        donated += [place] * is_donated
    out = {id(variable): sharding for variable, sharding in zip(equation.outvars, params["out_shardings"], strict=True)}
    shardings = [out.get(id(variable)) for variable in closed.jaxpr.outvars]
    shardings = [sharding if isinstance(sharding, NamedSharding) else None for sharding in shardings]
    return tuple(found), shardings if any(shardings) else None, tuple(donated)


def mesh_of(given: Any, arrays: Sequence[jax.ShapeDtypeStruct], traced: Any, name: str) -> Any:
    """Returns the mesh: as given, or of the arguments, or of what the program has within it.

    Raises:
        ValueError: Nothing names a mesh, or several are named.
    """
    of_arrays = [x.sharding.mesh for x in arrays if x.sharding is not None]
    found = [*([] if given is None else [given]), *of_arrays]
    found = found or [mesh for mesh in _meshes(traced.jaxpr) if not mesh.empty]
    if not found:
        raise BadValue(
            "a program must be on a mesh", f"no argument of {name} names one, and nothing within it does", _GIVE
        )
    shapes = list(dict.fromkeys(tuple(mesh.shape.items()) for mesh in found))
    if len(shapes) > 1:
        facts = " and ".join(", ".join(f"{axis}={size}" for axis, size in shape) for shape in shapes)
        raise BadValue("all arguments must be on one mesh", facts)
    return next((mesh for mesh in found if isinstance(mesh, Mesh)), found[0])


def _meshes(jaxpr: Any) -> Iterator[Any]:
    """Finds the meshes of constraints and of shard_maps in a jaxpr."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        for value in equation.params.values():
            if isinstance(value, NamedSharding):
                yield value.mesh
            elif isinstance(value, Mesh | AbstractMesh):
                yield value
        for inside in jax_internals.inner_jaxprs(equation.params):
            yield from _meshes(inside)


def _on(mesh: Any) -> Any:
    """Opens a context in which a mesh is the one that PartitionSpecs are of, where `jax.set_mesh` has named none."""
    if mesh is None or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh)


# Arguments.


def changed(before: Sequence[Any], args: Any) -> list[Any]:
    """Returns what a function has put into the attributes of its arguments, as Flax's NNX does.

    What it puts into a dict or a list is gone when it ends: `jax.jit` gives it copies of these.

    Args:
        before: The leaves of its arguments.
        args: Its arguments, as it has left them.
    """
    now = jax.tree.leaves_with_path(args)
    return [
        leaf
        for old, (path, leaf) in zip(before, now, strict=False)
        if leaf is not old and any(isinstance(key, jax.tree_util.GetAttrKey) for key in path)
    ]


def is_array(x: Any) -> bool:
    """Says whether a leaf of the arguments is an array, or stands for one."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _key_impl(x: Any) -> Any:
    """Names the generator of an array of random keys; None of any other array."""
    if not (is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)):
        return None
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), jax.ShapeDtypeStruct(x.shape, x.dtype))
    return found[0]


def sharding_of(x: Any) -> NamedSharding | None:
    """Returns the sharding of an array, if it is over a mesh."""
    sharding = getattr(x, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None


def _abstract(x: Any, impl: Any) -> jax.ShapeDtypeStruct:
    sharding = sharding_of(x)
    if impl:
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=sharding)


def _parameters(function: Callable[..., Any], count: int) -> list[str]:
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


def _path(parameters: list[str], path: Any) -> str:
    """Writes where an array stands: `params['w']`."""
    return parameters[path[0].idx] + jax.tree_util.keystr(path[1:])
