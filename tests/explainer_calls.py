"""Calls to ask the explainer, and what the library and the explainer's trees say of them.

A call is the name of a function, two shapes, and the other arguments by name.
"""

import itertools
import random
import re

import jax
import numpy as np
from records import FRAMEWORKS, load, name_of

import jbdot
from jbdot.calls.front_door import PLANNERS, extra_defaults, plan, public_name
from jbdot.core.errors import Refusal

DOORS = {public_name(door): door for door in PLANNERS}
TORCH_LEFT_OUT = {"t_multi_dot", "t_bilinear"}  # which multiply more than two arrays
SIZES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15)

# Calls: over all shapes that the conformance records have, and random ones.


def recorded():
    """The records' calls on dense arrays, with axes of ints."""
    calls = {}
    for framework in FRAMEWORKS:
        for record in load(framework):
            kw = dict(record["kw"])
            if framework == "torch" and (kw or len(record["args"]) != 2 or record["op"] in TORCH_LEFT_OUT):
                continue
            axes = eval(kw["axes"], {"np": np}) if "axes" in kw else 0
            if not of_ints(axes) or {"a_is_sparse", "b_is_sparse", "output_type"} & kw.keys():
                continue
            if "axes" in kw:
                kw["axes"] = axes
            if "subscripts" in kw:
                kw["equation"] = kw.pop("subscripts")
            op = record["op"].replace("sparse_dot", "dot")
            name = f"{framework}.{name_of(op)}"
            shapes = tuple(tuple(arg["shape"]) for arg in record["args"])
            calls[repr((name, shapes, kw))] = name, shapes, kw
    return list(calls.values())


def of_ints(axes):
    if isinstance(axes, (list, tuple)):
        return all(item is not None and of_ints(item) for item in axes)
    return axes is None or type(axes) is int


def invented(table, count, seed):
    """Random calls, of sizes that are often alike."""
    chance = random.Random(seed)
    names = [name for name in table["functions"] if name != "contract"]
    for _ in range(count):
        name = chance.choice(names)
        function = table["functions"][name]
        pool = chance.choice(((2, 3), (1, 2, 3), (0, 1, 2), (2,)))
        lhs, rhs = (tuple(chance.choices(pool, k=chance.randint(0, 5))) for _ in range(2))
        given = {}
        for argument in function["arguments"]:
            if argument in ("equation", "contraction"):
                given[argument] = chance.choice(table["equations"])
            elif argument != "axes":
                given[argument] = chance.random() < 0.3
            elif argument not in function["defaults"] or chance.random() < 0.9:
                form = chance.choice([*table["tried"]])
                within = ((hole, table["tried"][form][rank]) for hole, rank in holes(form, (len(lhs), len(rhs))))
                ints = {hole: chance.randrange(*some) if some[0] < some[1] else 0 for hole, some in within}
                given["axes"] = shaped(form, ints.get, chance.choice((list, tuple)))
        yield name, (lhs, rhs), given


def ends(table, share, seed):
    """A call that comes to each end of each tree, for a share of the trees."""
    chance = random.Random(seed)
    trees = [
        (name, form, ranks)
        for name, function in table["functions"].items()
        for form in function["trees"]
        for ranks in itertools.product(range(6), repeat=2)
    ]
    for name, form, ranks in chance.sample(trees, int(share * len(trees))):
        function = table["functions"][name]
        left = {argument: [False, True] for argument, default in function["defaults"].items() if argument != "axes"}
        left |= {hole: range(*table["tried"][form][rank]) or [0] for hole, rank in holes(form, ranks)}
        for same, kept in paths(table["nodes"], function["trees"][form][ranks[0]][ranks[1]], {}, left):
            values = {name: chance.choice(some) for name, some in kept.items()}
            given = {argument: values[argument] for argument in function["arguments"] if argument in values}
            if "axes" in function["arguments"]:
                given["axes"] = shaped(form, values.get, chance.choice((list, tuple)))
            elif form:
                given[function["arguments"][0]] = form
            yield name, sized(same, ranks, chance), given


def paths(nodes, number, same, left):
    """Each way down a tree: which sizes are equal on it, and what axes and flags may be."""
    sign, one, other, *children = nodes[number]
    if sign in ("answer", "refusal"):
        yield same, left
    elif sign == "=":
        one, other = end_of(same, one), end_of(same, other)
        equal = {other: one} if isinstance(one, int) else {one: other}
        yield from paths(nodes, children[0], same if one == other else same | equal, left)
        yield from paths(nodes, children[1], same, left)
    else:
        for at, child in enumerate(children):
            kept = [value for value in left[one] if turn(sign, value, other) == at]
            if kept:
                yield from paths(nodes, child, same, left | {one: kept})


def sized(same, ranks, chance):
    """Shapes in which those sizes are equal that have to be, and no others."""
    names = [[f"{side}{axis}" for axis in range(rank)] for side, rank in zip("xy", ranks, strict=True)]
    sizes = iter(chance.sample(SIZES, sum(ranks)))
    fresh = {end_of(same, name): size for name, size in zip(itertools.chain(*names), sizes, strict=True)}
    fresh |= {size: size for size in fresh if isinstance(size, int)}
    return tuple(tuple(fresh[end_of(same, name)] for name in side) for side in names)


def end_of(same, size):
    while size in same:
        size = same[size]
    return size


def turn(sign, value, other):
    """Which child of a question on an axis or a flag."""
    return other.index(value) if sign == "#" else int(not (value < other if sign == "<" else value == other))


def holes(form, ranks):
    """The ints of a form by name, each with the rank of the operand that it is of."""
    names = []
    if form.startswith("(") or form == "i":
        shaped(form, names.append, tuple)
    return [(name, ranks[min(int(name[4:5] or 0), 1)]) for name in names]


def shaped(form, value, kind, name="axes"):
    """Axes of a form; `value` says the int of a name."""
    if form in ("None", "i"):
        return None if form == "None" else value(name)
    parts, depth = [""], 0
    for letter in form[1:-1]:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return kind(shaped(part, value, kind, f"{name}{i}") for i, part in enumerate(parts) if part)


# The library's answers, and the trees'.


def library(name, shapes, given):
    """What the planner says: the result's shape, or the refusal."""
    door = DOORS[name]
    lhs, rhs = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    try:
        planned = plan(door, lhs, rhs, tuple((extra_defaults(door) | given).values()))
    except Refusal as refusal:
        return str(refusal)
    return str(planned.out_shape(lhs.shape, rhs.shape))


def walked(table, name, shapes, given):
    """What the tree says; None where the table ends."""
    function = table["functions"][name]
    values = {**function["defaults"], **given}
    names = {f"{side}{axis}": size for side, shape in zip("xy", shapes, strict=True) for axis, size in enumerate(shape)}
    form = values.get("equation", values.get("contraction", ""))
    if "axes" in values:
        form = form_of(values["axes"], "axes", names)
        if form not in table["tried"] or not tried(table, form, names, shapes):
            return None
    if form not in function["trees"]:
        return None
    names |= {key: value for key, value in values.items() if isinstance(value, bool)}
    node = table["nodes"][function["trees"][form][len(shapes[0])][len(shapes[1])]]
    while node[0] not in ("answer", "refusal"):
        sign, one, other, *children = node
        if sign == "#":
            child = children[other.index(names[one])]
        elif sign == "<":
            child = children[names[one] >= other]
        else:
            child = children[amount(one, names) != amount(other, names)]
        node = table["nodes"][child]
    return written(node[3] if node[0] == "answer" else node[2] + node[3], names)


def form_of(axes, name, names):
    names[name], names[f"{name}:kind"] = axes, type(axes).__name__
    if isinstance(axes, (list, tuple)):
        return f"({','.join(form_of(item, f'{name}{i}', names) for i, item in enumerate(axes))})"
    return "None" if axes is None else "i"


def tried(table, form, names, shapes):
    ints = [(key, value) for key, value in names.items() if key.startswith("axes") and type(value) is int]
    ends = [table["tried"][form][len(shape)] for shape in shapes]
    sides = [ends[min(int(key[4:5] or 0), 1)] for key, _ in ints]
    return all(start <= value < stop for (_, value), (start, stop) in zip(ints, sides, strict=True))


def amount(expression, names):
    if isinstance(expression, int):
        return expression
    return int(np.prod([names[factor] for factor in expression.split("*")]))


def written(text, names):
    def one(place):
        name = place[1]
        return str(names[name] if name in names else amount(name, names))

    return re.sub(r"\{([xy]\d+(?:\*[xy]\d+)*|axes\d*(?::kind)?|\w+_[ab])\}", one, text)


def explained(name, shapes, given):
    """What the library says of a call, in the shape of the page's answer."""
    door = DOORS[name]
    try:
        if isinstance(door, type):
            e = jbdot.explain(door(**given), [*shapes])
        elif name == "contract":
            e = jbdot.explain(door, given["contraction"], *shapes)
        elif "equation" in given:
            e = jbdot.explain(door, given["equation"], *shapes)
        else:
            e = jbdot.explain(door, *shapes, **given)
    except (ValueError, TypeError, IndexError) as error:
        return {"kind": type(error).__name__, "error": str(error)}
    facts = [
        [name, text] for name, text in e.facts() if not name.startswith(("on ", "arithmetic on ", "estimates on "))
    ]
    others = [{"function": name, "text": text} for name, text in e.answers()]
    rows = [[*row] for row in e.rows()]
    return {
        "call": e.call(),
        "shape": str(e.shape),
        "formula": e.formula,
        "head": [*e.head],
        "rows": rows,
        "facts": facts,
        "others": others,
    }


def as_typed(name, shapes, given):
    """A call as the page's `explain` takes it."""
    arguments = {key: repr(value) if key == "axes" else value for key, value in given.items()}
    return {"function": name, "shapes": shapes, "arguments": arguments}
