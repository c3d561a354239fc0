"""Writes the explainer: one page that answers calls as the library does, without a server or a network.

No rule of any dialect is written down here or in the page. A planner is plain Python on shapes, so it is run on sizes
that are not known: each comparison that it makes becomes a question, and both answers are followed. What comes out is
a tree for each function and pair of ranks, with questions such as "is axis 2 of x as long as axis 1 of y", and with
a contraction or a refusal at each end. It holds for all sizes. The page walks the trees, and fills sizes in.
"""

import base64
import functools
import gzip
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import numpy as jnp
from trees import Axis, Flag, NotTabulated, Run, Size, Trees

import jbdot
from jbdot.calls.explanation import Explanation
from jbdot.calls.front_door import DIALECTS, PLANNERS, extra_defaults, operand_names, others, plan, public_name
from jbdot.core.colours import COLOURS
from jbdot.core.errors import Refusal
from jbdot.one_device.call_plan import CallPlan, Operand

HERE = Path(__file__).parent
DTYPE = jnp.dtype("float32")
RANKS = range(6)
SQUARE = jax.ShapeDtypeStruct((2, 2), DTYPE)
LEFT_OUT = {jbdot.dot_general: "its dimension_numbers name every axis: there is nothing to find out"}

# What is asked: for each function every pair of ranks, and every form that its other arguments may have.

INT = int  # an int, in a form of axes
FORMS: tuple[Any, ...] = (None, INT, (), (INT,), (INT,) * 2, (INT,) * 3, ((), ()), ((INT,), (INT,)), ((INT,) * 2,) * 2)
FORMS += (((INT,) * 3,) * 2, ((INT,) * 2, (INT,)), ((INT,), (INT,) * 2), (INT, (INT,)), ((INT,), INT))
EQUATIONS = ("ij,jk->ik", "bij,bjk->bik", "bhqd,bhkd->bhqk", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "...ij,...jk->...ik")
EQUATIONS += ("ij,ij->ij", "i,i->", "i,j->ij", "ij,kj->ik", "bi,bi->b", "btd,df->btf", "abcr,ijrk->abcijk")
ANSWERS: dict[Any, list[Any]] = {}
EXAMPLES = ("index.md", "explanation/examples.md", "tutorial.md")  # pages whose calls the explainer lists
FIXED = {"a_is_sparse", "b_is_sparse", "output_type", "dims", "dim", "axis", "dtype"}  # stay at their defaults


def form_text(form: Any) -> str:
    """The name of a form, such as "((i),(i))" for two lists of one int."""
    return f"({','.join(map(form_text, form))})" if isinstance(form, tuple) else "i" if form is INT else str(form)


def tried(form: Any, rank: int) -> range:
    """The ints that are tried in a form of axes, for an operand of a rank."""
    longest = max((len(part) for part in form if isinstance(part, tuple)), default=0) if isinstance(form, tuple) else 0
    if longest < 2:
        return range(-7, 8)
    if longest == 2:
        return range(-rank if rank < 4 else 0, rank + 1)
    return range(rank if rank < 5 else 0)


def axes_of(form: Any, run: Run, ints: Sequence[range], name: str = "axes") -> Any:
    """Axes of which nothing but their form is known; `ints` are what they may be on lhs and rhs."""
    if form is INT:
        run.left[name] = tuple(ints[0]) or (0,)
        return Axis(run, name)
    if not isinstance(form, tuple):
        return form
    return _listed(name)(
        axes_of(part, run, ints if len(name) > 4 else ints[min(i, 1) :], f"{name}{i}") for i, part in enumerate(form)
    )


@functools.cache
def _listed(name: str) -> type[list[Any]]:
    """Lists that are written as they were given, which may have been as tuples."""
    return type(f"{{{name}:kind}}", (list,), {"__repr__": lambda _: f"{{{name}}}"})


def forms(door: Callable[..., Any]) -> tuple[Any, ...]:
    """What a function is asked with beside the operands and flags: equations, forms of axes, or nothing."""
    names = extra_defaults(door)
    return EQUATIONS if {"equation", "contraction"} & names.keys() else FORMS if "axes" in names else ("",)


def arguments(door: Callable[..., Any], form: Any, run: Run, ints: Sequence[range]) -> tuple[Any, ...]:
    """All arguments but the operands, as unknown as the form leaves them."""
    found: list[Any] = []
    for name, default in extra_defaults(door).items():
        if name == "axes":
            found.append(axes_of(form, run, ints))
        elif name in ("equation", "contraction"):
            found.append(form)
        elif name in FIXED:
            found.append(default)
        else:
            run.left[name] = (False, True)
            found.append(Flag(run, name))
    return tuple(found)


def ending(door: Callable[..., Any], form: Any, ranks: tuple[int, int], run: Run) -> list[Any]:
    """Runs a planner once."""
    lhs, rhs = (
        Operand(f"{{{side}}}", tuple(Size(run, f"{letter}{axis}") for axis in range(rank)), DTYPE)
        for side, letter, rank in zip(("lhs", "rhs"), "xy", ranks, strict=True)
    )
    try:
        planned = plan(door, lhs, rhs, arguments(door, form, run, [tried(form, rank) for rank in ranks]))
    except Refusal as refusal:
        return refused(refusal)
    known = repr(planned), ranks  # all that the words depend on, and cheaper than they are
    if known not in ANSWERS:
        asked = len(run.asked)
        ANSWERS[known] = answered(planned, lhs, rhs)
        if len(run.asked) > asked:
            raise NotTabulated(f"sizes of {planned} are settled only when it is described")
    return ANSWERS[known]


def refused(refusal: Refusal) -> list[Any]:
    """The parts of a refusal's words: the exception, what stands before the call, and what stands behind it."""
    broken = refusal.rule + (f": {refusal.facts}" if refusal.facts else "")
    remedy = str(refusal).removeprefix(broken)
    lost = any(kind.__name__ in broken for kind in (Size, Flag))  # as in "'<' not supported between Size and int"
    if lost or str(refusal.told("F", "C")) != f"F: {broken}; C{remedy}":
        raise NotTabulated(str(refusal))
    return ["refusal", refusal.kind.__name__, broken, remedy]


def answered(planned: CallPlan, lhs: Operand, rhs: Operand) -> list[Any]:
    """What is said of a call that has an answer; sizes are names."""
    shape = planned.out_shape(lhs.shape, rhs.shape)
    e = Explanation("", planned, lhs, rhs, {}, shape, DTYPE, None, {}, {}, None, ())
    return ["answer", e.formula, e.rows(), str(shape), e.facts()]


def elsewhere(door: Callable[..., Any], names: Sequence[str]) -> list[str]:
    """The other functions that can be called with these arguments, in the library's order.

    None for a contraction, which no framework takes.
    """
    if "contraction" in names:
        return []
    some = {"axes": 1, "equation": EQUATIONS[0], "contraction": EQUATIONS[0]}
    given = extra_defaults(door) | {name: some.get(name, True) for name in names}
    return [public_name(other) for other, _ in others(door, SQUARE, SQUARE, tuple(given.values()))]


def layer_errors(door: Callable[..., Any]) -> dict[str, str]:
    """What a layer says when it is made with axes of a form, which is before it has operands."""
    found: dict[str, str] = {}
    for form in FORMS:
        try:
            door(axes_of(form, Run(()), [tried(form, 2)] * 2))
        except (TypeError, ValueError) as error:
            found[form_text(form)] = str(error)
    return found


def function(door: Callable[..., Any], trees: Trees) -> dict[str, Any]:
    """All that the page knows of a function."""
    names = [name for name in extra_defaults(door) if name not in FIXED]
    needed = {name for name, default in extra_defaults(door).items() if default is inspect.Parameter.empty}
    subsets = (names_of for count in range(len(names) + 1) for names_of in itertools.combinations(names, count))
    return {
        "operands": operand_names(door),
        "arguments": names,
        "defaults": {name: extra_defaults(door)[name] for name in names if name not in needed},
        "others": {",".join(given): elsewhere(door, given) for given in subsets if needed <= {*given}},
        **({"built": layer_errors(door)} if isinstance(door, type) else {}),
        "trees": {
            form_text(form): [
                [trees.grow(functools.partial(ending, door, form, (left, right))) for right in RANKS] for left in RANKS
            ]
            for form in forms(door)
        },
    }


def presets() -> list[dict[str, Any]]:
    """The calls that the site makes: those of the home page's table, of the examples, and of error messages there."""
    pages = "\n".join((HERE / "pages" / name).read_text() for name in EXAMPLES)
    own = [
        *re.findall(r"`(\w+)` of \(([\d, ]+)\), \(([\d, ]+)\)(?:, `axes=([^`]+)`)?", pages),
        *re.findall(r"jbdot\.(\w+)\(ones\(([\d, ]+)\), ones\(([\d, ]+)\)()\)", pages),
    ]
    told = r"(\w+\.\w+): [^;\n]+; \w+ float32\[([\d,]+)\], \w+ float32\[([\d,]+)\](?:, axes=([^.\n]+))?\."
    calls = [(public_name(getattr(jbdot, name)), *rest) for name, *rest in own] + re.findall(told, pages)
    read = [(name, *(tuple(re.findall(r"\d+", shape)) for shape in (lhs, rhs)), axes) for name, lhs, rhs, axes in calls]
    return [
        {
            "function": name,
            "shapes": [[int(size) for size in shape] for shape in (lhs, rhs)],
            "arguments": {"axes": axes} if axes else {},
        }
        for name, lhs, rhs, axes in dict.fromkeys(read)
    ]


def table() -> dict[str, Any]:
    """Everything that the page knows."""
    trees = Trees()
    doors = [door for door in PLANNERS if door not in LEFT_OUT]
    return {
        "dtype": DTYPE.name,
        "ranks": max(RANKS),
        "tried": {
            form_text(form): [(tried(form, rank).start, tried(form, rank).stop) for rank in RANKS] for form in FORMS
        },
        "colours": COLOURS,
        "dialects": {name: dialect.framework for name, dialect in DIALECTS.items()},
        "presets": presets(),
        "equations": EQUATIONS,
        "left out": {public_name(door): reason for door, reason in LEFT_OUT.items()},
        "functions": {public_name(door): function(door, trees) for door in doors},
        "nodes": [json.loads(node) for node in trees.nodes],
    }


def write(path: Path) -> None:
    """Writes the page, whole and on its own, to a file."""
    page = (HERE / "explainer" / "index.html").read_text()
    for name in ("style.css", "walk.js", "page.js"):
        page = page.replace(f"/* {name} */", (HERE / "explainer" / name).read_text())
    packed = gzip.compress(json.dumps(table(), separators=(",", ":")).encode(), mtime=0)
    path.write_text(page.replace("TABLE", base64.b64encode(packed).decode()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
