"""Shardy, run from Python: how every array of a lowered program is cut, and where it changes. Nothing is compiled.

`jaxlib.mlir` is what JAX lowers with, and no public part of it: all that is asked of its passes stands here.
"""

import contextlib
import functools
import io
import math
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Final

from jbdot.core.errors import Refusal
from jbdot.many_devices.block import Sharding

_PROPAGATE: Final = ("builtin.module(sdy-propagation-pipeline)",)
_MOVE: Final = (
    "builtin.module(func.func(sdy-sharding-constraint-to-reshard))",
    "builtin.module(func.func(sdy-insert-explicit-reshards{enable-full-version=true}))",
    "builtin.module(func.func(sdy-reshard-to-collectives))",
    "builtin.module(cse)",
)
CALL: Final = "jbdot.call"
_CALLS: Final = ("func.call", "call")
_SAID: Final = ("sdy.sharding", "out_sharding", "sharding")  # of any operation, a collective, a constraint
_OF_ONE: Final = re.compile(r"<@[\w.]+, \[((?:\{[^}]*\}(?:p\d+)?(?:, )?)*)\]")
_LISTS: Final = re.compile(r"(\w+) = \[([\d, ]*)\]")
_LETTERS: Final = "ijklmnopqrstuvwxyz"  # of dimensions, in a rule of Shardy's
_OF_DIM: Final = re.compile(r"\{([^}]*)\}")
_AXIS: Final = re.compile(r'"([^"]+)"(?::\((\d+)\)(\d+))?')


class _Unknown(Refusal, RuntimeError):
    kind = RuntimeError


def copied(module: Any) -> Any:
    """Returns a module of its own: JAX keeps the one that it gives, and compiles it when it is asked to."""
    from jaxlib.mlir import ir

    written = io.BytesIO()
    module.operation.write_bytecode(written)
    with module.context:
        return ir.Module.parse(written.getvalue())


def propagated(module: Any, selects: bool = False) -> list[tuple[int, str]]:
    """Writes on every operation of a lowered module how its results are cut, as jit's partitioner has it.

    It is what `sdy.sharding` says. The module is first brought into the form in which XLA hands it to Shardy, on which
    depends what is cut by what.

    Args:
        module: The module, which is changed.
        selects: Whether the compiler selects where it is told to scatter one element along an axis, as for TPUs.

    Returns:
        Of each call that was replaced by its code the number of the call that it was in, -1 for none, and its location.
        The attribute `CALL` of an operation is the number of the call that it came with.

    Raises:
        RuntimeError: This jaxlib does not run Shardy from Python.
    """
    with _shardy():
        calls = _inlined(module)
        _opened(module)
        _reshaped(module)
        if selects:
            _selected(module)
        _ordered(module)
        _ruled(module)
        _run(module, _PROPAGATE)
    return calls


def moved(module: Any) -> None:
    """Puts into a propagated module the collectives by which arrays get from one sharding to another, as Shardy would.

    Raises:
        RuntimeError: This jaxlib does not run Shardy from Python.
    """
    with _shardy():
        _ruled(module)
        _run(module, _MOVE)


@contextlib.contextmanager
def _shardy() -> Generator[None]:
    """Says in words what is lost where jaxlib has another form."""
    try:
        yield
    except Exception as error:
        raise _Unknown(
            "what a program sends can be told before it is compiled where jaxlib runs Shardy from Python",
            f"this one does not: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}",
            "Leave compiled=False out: the compiler answers then",
        ) from error


def _run(module: Any, passes: Sequence[str]) -> None:
    from jaxlib.mlir import passmanager

    with module.context:
        for one in passes:
            passmanager.PassManager.parse(one).run(module.operation)


def _inlined(module: Any) -> list[tuple[int, str]]:
    """Puts the code of each function where it is called; says of each call in which other it was, and where."""
    from jaxlib.mlir import ir

    symbols = ir.SymbolTable(module.operation)
    calls: list[tuple[int, str]] = []
    with module.context:
        number = ir.IntegerType.get_signless(64)
        waiting = [one for one in operations(module) if one.name in _CALLS]
        while waiting:
            call = waiting.pop()
            name = call.attributes["callee"].value
            if call.parent.name == "func.func" and call.parent.attributes["sym_name"].value != "main":
                continue  # it is met again where that function is called
            before = call.attributes[CALL].value if CALL in call.attributes else -1
            calls.append((before, str(call.location)))
            copy = symbols[name].operation.clone(ir.InsertionPoint(call))
            block = copy.regions[0].blocks[0]
            for argument, value in zip(block.arguments, call.operands, strict=True):
                argument.replace_all_uses_with(value)
            *body, end = list(block.operations)
            for one in body:
                one.operation.move_before(call)
                one.operation.attributes[CALL] = ir.IntegerAttr.get(number, len(calls) - 1)
                waiting += [inside for inside in (one.operation, *operations(one.operation)) if inside.name in _CALLS]
            for result, value in zip(call.results, end.operation.operands, strict=True):
                result.replace_all_uses_with(value)
            call.erase()
            copy.erase()
        for one in list(module.body.operations):
            if one.operation.name == "func.func" and one.operation.attributes["sym_name"].value != "main":
                one.operation.erase()
    return calls


def _opened(module: Any) -> None:
    """Takes what a loop leaves as it is out of what it carries, as XLA does: its use within may be cut otherwise."""
    from jaxlib.mlir import ir

    mesh = next((one for one in operations(module) if one.name == "sdy.mesh"), None)
    if mesh is None:
        return
    symbol = mesh.attributes["sym_name"].value
    for loop in [one for one in operations(module) if one.name == "stablehlo.while"]:
        condition, body = (region.blocks[0] for region in loop.regions)
        ends = list(body.operations)[-1].operation
        for at, value in enumerate(loop.operands):
            if ends.operands[at] != body.arguments[at]:
                continue
            dims = ", ".join("{?}" for _ in shape_of(value) or ())
            with module.context:
                free = ir.Operation.create(
                    "sdy.sharding_constraint",
                    results=[value.type],
                    operands=[value],
                    attributes={"sharding": ir.Attribute.parse(f"#sdy.sharding<@{symbol}, [{dims}]>")},
                    ip=ir.InsertionPoint(loop),
                    loc=loop.location,
                ).result
            for argument in (condition.arguments[at], body.arguments[at]):
                argument.replace_all_uses_with(free)
            ends.operands[at] = body.arguments[at]
            loop.results[at].replace_all_uses_with(value)


def _reshaped(module: Any) -> None:
    """Writes what a broadcast does to axes of size 1 as a reshape, as XLA does: shardings go through that first."""
    from jaxlib.mlir import ir

    for one in [one for one in operations(module) if one.name == "stablehlo.broadcast_in_dim"]:
        value, result = one.operands[0], one.results[0]
        given, made = shape_of(value) or (), shape_of(result) or ()
        dims = [int(dim) for dim in re.findall(r"\d+", str(one.attributes["broadcast_dimensions"]).partition(":")[2])]
        kept = [at for at, dim in enumerate(dims) if given[at] == made[dim]]
        with module.context, one.location:
            element = value.type.element_type
            if math.prod(given) == math.prod(made) and given != made:
                value = _reshape(one, value, result.type)
                result.replace_all_uses_with(value)
                one.erase()
            elif len(kept) < len(dims):
                squeezed = ir.RankedTensorType.get([given[at] for at in kept], element)
                one.operands[0] = _reshape(one, value, squeezed)
                one.attributes["broadcast_dimensions"] = ir.DenseI64ArrayAttr.get([dims[at] for at in kept])


def _selected(module: Any) -> None:
    """Writes a scatter of one element along an axis as a select by index: the gradient of `jnp.take_along_axis`."""
    from jaxlib.mlir import ir

    for one in [one for one in operations(module) if one.name == "stablehlo.scatter" and len(one.operands) == 3]:
        into, indices, updates = one.operands
        shape, said = shape_of(into) or (), lists_in(one.attributes["scatter_dimension_numbers"])
        batch, batching, along, window = (
            said.get(name, [])
            for name in (
                "input_batching_dims",
                "scatter_indices_batching_dims",
                "scatter_dims_to_operand_dims",
                "update_window_dims",
            )
        )
        sizes = [shape[dim] for dim in batch]
        if window or len(along) != 1 or sorted([*batch, *along]) != [*range(len(shape))]:
            continue
        if batching != [*range(len(batch))] or math.prod(shape_of(indices) or ()) != math.prod(sizes):
            continue
        with module.context, one.location:
            number, kind = indices.type.element_type, into.type.element_type
            many, truth = ir.RankedTensorType.get(shape, number), ir.IntegerType.get_signless(1)
            dims = {"broadcast_dimensions": ir.DenseI64ArrayAttr.get(batch)}
            wanted, given = (
                _made(one, "broadcast_in_dim", [_reshape(one, value, ir.RankedTensorType.get(sizes, of))], to, **dims)
                for value, of, to in ((indices, number, many), (updates, kind, into.type))
            )
            axis = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), along[0])
            here = _made(one, "iota", [], many, iota_dimension=axis)
            equal = ir.Attribute.parse("#stablehlo<comparison_direction EQ>")
            is_here = _made(
                one, "compare", [wanted, here], ir.RankedTensorType.get(shape, truth), comparison_direction=equal
            )
            one.results[0].replace_all_uses_with(_made(one, "select", [is_here, given, into], into.type))
            one.erase()


def _reshape(before: Any, value: Any, made: Any) -> Any:
    return _made(before, "reshape", [value], made)


def _made(before: Any, name: str, operands: Sequence[Any], made: Any, **attributes: Any) -> Any:
    """Puts an operation before another one, which it is from."""
    from jaxlib.mlir import ir

    if CALL in before.attributes:
        attributes[CALL] = before.attributes[CALL]
    return ir.Operation.create(
        f"stablehlo.{name}",
        results=[made],
        operands=operands,
        attributes=attributes,
        ip=ir.InsertionPoint(before),
        loc=before.location,
    ).result


def _ordered(module: Any) -> None:
    """Puts operations into the order in which XLA walks them: from what nothing reads back, operands first to last.

    Where two ways to cut an array speak against each other, Shardy takes the one that it meets first.
    """
    for block in [region.blocks[0] for one in operations(module) for region in one.regions if len(region.blocks)]:
        *rest, end = (one.operation for one in block.operations)
        made = {value: at for at, one in enumerate(rest) for value in one.results}
        read = [[made[value] for value in _read_by(one) if value in made] for one in rest]
        last = [made[value] for value in end.operands if value in made]
        used = {at for each in (*read, last) for at in each}
        done: set[int] = set()
        waiting = [(at, False) for at in reversed([*(at for at in range(len(rest)) if at not in used), *last])]
        while waiting:
            at, is_read = waiting.pop()
            if is_read:
                rest[at].move_before(end)
            elif at not in done:
                done.add(at)
                waiting += [(at, True), *((before, False) for before in reversed(read[at]))]


def _read_by(one: Any) -> list[Any]:
    """Lists the values that an operation reads, also inside of it."""
    inside = (value for each in operations(one) for value in each.operands) if len(one.regions) else ()
    return [*one.operands, *inside]


def _ruled(module: Any) -> None:
    """Says of the operations of CHLO, which XLA has written out before Shardy sees them, how their axes go together."""
    from jaxlib.mlir import ir

    for one in operations(module):
        rule = _rule(one) if one.name.startswith("chlo.") else ""
        if rule:
            with module.context:
                one.attributes["sdy.sharding_rule"] = ir.Attribute.parse(rule)


def _rule(one: Any) -> str:
    """Writes the rule of an operation, a letter for each dimension of its work; nothing of one that is not known."""
    shapes = [shape_of(value) or () for value in (*one.operands, *one.results)]
    first, count = shapes[0], len(one.operands)
    summed, whole = set[str](), set[str]()
    if one.name == "chlo.ragged_dot":
        terms, summed, whole = _ragged(lists_in(one.attributes["ragged_dot_dimension_numbers"]), shapes)
    elif one.name == "chlo.top_k":
        kept, whole = [f"kept {at}" for at in range(len(first) - 1)], {"given", "found"}
        terms = [[*kept, "given"], [*kept, "found"], [*kept, "found"]]
    elif len({*shapes} - {()}) == 1:
        terms = [[f"kept {at}" for at in range(len(shape))] for shape in shapes]
    else:
        return ""
    sizes = {
        dim: size for dims, shape in zip(terms, shapes, strict=True) for dim, size in zip(dims, shape, strict=True)
    }
    letter = dict(zip(sizes, _LETTERS, strict=False))

    def listed(dims: Iterable[str]) -> str:
        return ", ".join(letter[dim] for dim in dims)

    left, right = (", ".join(f"[{listed(dims)}]" for dims in part) for part in (terms[:count], terms[count:]))
    said = f"({left})->({right}) {{{', '.join(f'{letter[dim]}={size}' for dim, size in sizes.items())}}}"
    for name, some in (("reduction", summed), ("need_replication", whole)):
        said += f" {name}={{{listed(dim for dim in sizes if dim in some)}}}" if some else ""
    return f"#sdy.op_sharding_rule<{said}>"


def _ragged(at: dict[str, list[int]], shapes: Sequence[tuple[int, ...]]) -> tuple[list[list[str]], set[str], set[str]]:
    """Names the dimensions of a ragged dot, of its operands and its result; those that are added up; those kept whole.

    XLA has the rows, which are in groups, whole on each device, and the groups.
    """
    lhs, rhs, sizes = (
        [f"{name} {dim}" for dim in range(len(shape))] for name, shape in zip("abc", shapes, strict=False)
    )
    groups = {rhs[dim] for dim in at.get("rhs_group_dimensions", [])}
    for kind in ("batching", "contracting"):
        for i, j in zip(at.get(f"lhs_{kind}_dimensions", []), at.get(f"rhs_{kind}_dimensions", []), strict=True):
            rhs[j] = lhs[i]
    batch, summed, rows = (
        [lhs[dim] for dim in at.get(f"lhs_{kind}_dimensions", [])] for kind in ("batching", "contracting", "ragged")
    )
    free = [dim for dim in (*lhs, *rhs) if dim not in (*batch, *summed, *groups)]
    each = ["group"] * (len(shapes[3]) - len(batch) - len(free))  # the result has the groups, where rows are added up
    return [lhs, rhs, sizes, [*each, *batch, *free]], {*summed} - {*rows}, {*rows, *groups, *sizes, *each}


def axes_in(text: str) -> tuple[str, ...]:
    """Lists the mesh axes that an attribute names; a part of one as "x:(2)4", of size 4, after 2.

    Example:
        >>> axes_in('#sdy<axis_ref_list{"x", "y":(2)4}>')
        ('x', 'y:(2)4')
    """
    return tuple(f"{name}:({before}){size}" if size else name for name, before, size in _AXIS.findall(text))


def shardings_in(attribute: Any) -> list[Sharding]:
    """Reads the shardings that an attribute holds, one for each value.

    Example:
        >>> shardings_in('#sdy.sharding_per_value<[<@mesh, [{"x", ?}, {}]>, <@mesh, []>]>')
        [(('x',), ()), ()]
    """
    return list(_read(str(attribute)))


@functools.lru_cache(maxsize=4096)  # one layer's shardings are those of all
def _read(text: str) -> tuple[Sharding, ...]:
    return tuple(tuple(axes_in(dim) for dim in _OF_DIM.findall(one)) for one in _OF_ONE.findall(text))


def attribute(operation: Any, name: str) -> Any:
    """Returns an attribute of an operation; None where it has none of the name."""
    return operation.attributes[name] if name in operation.attributes else None  # noqa: SIM401 - it has no get


def lists_in(numbers: Any) -> dict[str, list[int]]:
    """Reads dimension numbers; one of which nothing is said is not there.

    Example:
        >>> lists_in("#stablehlo.scatter<inserted_window_dims = [0, 2], index_vector_dim = 1>")
        {'inserted_window_dims': [0, 2]}
    """
    found = _LISTS.findall(str(numbers))
    return {name: [int(dim) for dim in listed.split(",") if dim.strip()] for name, listed in found}


def integers_in(listed: Any) -> list[int]:
    """Reads a list of an attribute.

    Example:
        >>> integers_in("array<i64: 0, 256>")
        [0, 256]
    """
    return [int(number) for number in re.findall(r"-?\d+", str(listed).partition(":")[2])]


def shardings_of(operation: Any) -> list[Sharding]:
    """Says how each result of an operation is cut; where nothing is said, not at all."""
    said = next((shardings_in(operation.attributes[name]) for name in _SAID if name in operation.attributes), [])
    whole = [((),) * len(shape_of(value) or ()) for value in operation.results]
    return said if len(said) == len(whole) else whole


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Returns the shape of a value; None of what is no array."""
    shape = getattr(value.type, "shape", None)
    return None if shape is None else tuple(shape)


_DTYPES: Final = {"i1": "pred"}


def dtype_of(value: Any) -> str:
    """Names the dtype of a value as a compiled text does: "bf16", "s32", "u8", "pred", "c64"."""
    name = str(value.type.element_type)
    if name.startswith("complex"):
        return f"c{2 * int(name[9:-1])}"
    if name in _DTYPES:
        return _DTYPES[name]
    return name.replace("ui", "u") if name.startswith("ui") else re.sub(r"^i", "s", name).lower()


def operations(module: Any) -> Iterator[Any]:
    """Gives every operation of a module, also those inside of others."""
    for region in module.operation.regions if hasattr(module, "operation") else module.regions:
        for block in region.blocks:
            for one in block.operations:
                yield one.operation
                yield from operations(one.operation)
