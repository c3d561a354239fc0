"""Parts of pages that are computed from the repository: each function here writes Markdown.

A page asks for one by a line such as `{{ tpu }}`.
"""

import ast
import collections
import fnmatch
import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import sparse

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import records  # noqa: E402

from jbdot.calls import keras_names  # noqa: E402
from jbdot.calls.front_door import PLANNERS, extra_defaults, plan, public_name  # noqa: E402
from jbdot.core.errors import Refusal  # noqa: E402

README = (ROOT / "README.md").read_text()
PAGES = ROOT / "docs" / "pages"
NOTEBOOKS = tuple(ROOT / "colab" / name for name in re.findall(r"\]\(colab/([^)]*)\)", README))  # in a learner's order
FORMAT = (ROOT / "tests" / "data" / "conformance" / "README.md").read_text()


def command(_: str) -> str:
    """The command's help, as typer writes it."""
    asked = [sys.executable, "-m", "typer", "jbdot.command.cli", "utils", "docs", "--name", "jbdot"]
    return subprocess.run(asked, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split("\n", 1)[1]


# Conformance: what the records say, and what jbdot says now.


def conformance(_: str) -> str:
    """For every function of every framework: how many calls were recorded, and how many jbdot answers alike."""
    head = "| function | calls | it answered | it refused | jbdot does the same | jbdot deviates |\n" + "|---" * 6 + "|"
    lines: list[str] = []
    total = collections.Counter[str]()
    for framework, ran in _frameworks():
        lines += [f"\n**`{framework}`**: {ran}\n", head]
        for name, found in sorted(_counted(framework).items()):
            total += found
            lines.append(f"| {name} | {_cells(found)} |")
    lines.append(
        f"\nIn all {total['calls']:,} calls: {total['ok']:,} were answered and {total['refused']:,} refused. "
        f"jbdot does the same in {total['same']:,} and deviates in {total['deviates']:,}."
    )
    return "\n".join(lines)


def _frameworks() -> list[tuple[str, str]]:
    """Each file of records, and the framework that answered, as the records' own README says."""
    rows = re.findall(r"^\| (\w+)\.jsonl\.gz \| ([^|]+?) \|", FORMAT, re.MULTILINE)
    return [(name, re.sub(r" ?\(`.*", "", ran)) for name, ran in rows]


def _cells(found: collections.Counter[str]) -> str:
    names = "calls", "ok", "refused", "same", "deviates"
    return " | ".join(f"{found[name]:,}" if found[name] else "-" for name in names)


def _counted(framework: str) -> dict[str, collections.Counter[str]]:
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with jax.enable_x64(True):
        for record in records.load(framework):
            op = record["op"]
            door = f"`{framework}.{records.name_of(op)}`"
            found[door + " of a BCOO" * (op == "sparse_dot")] += collections.Counter(
                calls=1,
                ok=record["status"] == "ok",
                refused=record["status"] != "ok",
                **{"same" if agrees(framework, record) else "deviates": 1},
            )
    return found


def agrees(framework: str, record: dict[str, Any]) -> bool:
    """Whether jbdot answers a record alike: shape, dtype and kind of refusal; values too where a deviation is known.

    All other values are compared in tests/whole/test_conformance.py, which takes a minute and a compiler.
    """
    if any(framework == name and fnmatch.fnmatch(record["id"], pattern) for name, pattern in _deviations()):
        return records.difference(framework, record) is None
    try:
        found = jax.eval_shape(lambda: records.answer(framework, record))
    except Exception as error:
        return records.refusal_difference(framework, record, error) is None
    return record["status"] == "ok" and (list(found.shape), found.dtype.name) == (record["shape"], record["dtype"])


@functools.cache
def _deviations() -> list[tuple[str, str]]:
    """Framework and pattern of ids, of the page's table, which tests hold equal to the tests' own."""
    section = (PAGES / "reference" / "conformance.md").read_text().split("\n## What differs\n")[1]
    rows = [line.split("|") for line in re.findall(r"^\| `.*$", section, re.MULTILINE)]
    return [(row[1].strip(" `"), pattern) for row in rows for pattern in re.findall(r"`([^`]+)`", row[2])]


# The cheat sheet: calls, as the planners read them.

CALLS: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((3, 4), (4, 5), {}),
    ((2, 3, 4), (2, 4, 5), {}),
    ((2, 3, 4), (7, 4, 5), {}),
    ((2, 3, 4), (4, 7, 5), {}),
    ((10, 12, 4, 5), (10, 12, 5, 8), {}),
    ((5, 3), (5, 3), {}),
    ((3, 4), (4,), {}),
    ((4,), (4,), {}),
    ((32, 20), (32, 30, 20), {"axes": (1, 2)}),
    ((8, 10, 1152), (8, 10, 1152, 16), {"axes": [2, 2]}),
    ((5, 3), (5, 3), {"axes": 1}),
    ((2, 3, 4), (2, 4, 5), {"axes": (2, 1)}),
    ((2, 3, 4), (3, 4, 5), {"axes": 2}),
    ((2, 3, 4), (2, 3, 4, 5), {"axes": 2}),
    ((3, 4, 5), (4, 3, 2), {"axes": [[0, 1], [1, 0]]}),
    ((5, 3, 4), (5, 4, 3), {"axes": [[1, 2], [2, 1]]}),
    ((2, 4, 3), (2, 4, 5), {"transpose_a": True}),
    ((2, 3, 4), (2, 5, 4), {"transpose_b": True}),
    ((4, 3), (4, 5), {"adjoint_a": True}),
    ((3, 4), (5, 4), {"adjoint_b": True}),
    ((2, 3, 4), (2, 4, 5), {"equation": "bij,bjk->bik"}),
    ((2, 5, 8, 16), (2, 7, 8, 16), {"equation": "bqhd,bkhd->bhqk"}),
)


def cheat_sheet(dialect: str) -> str:
    """Every function of a dialect, with calls that it answers: what the planner reads, as labels and for einsum."""
    lines: list[str] = []
    for door in (door for door in PLANNERS if public_name(door).startswith(f"{dialect}.")):
        name = public_name(door)
        there = f"({dialect}.md#jbdot.{name})" if name.count(".") > 1 else f"[jbdot.{name}]"  # a heading of that page
        lines += [f"\n**[`{name}`]{there}**\n", *_calls(door)]
    return "\n".join(lines)


def _calls(door: Callable[..., Any]) -> list[str]:
    """The table of a function's calls; those that it refuses are left out."""
    lines = ["| call | labels | `einsum` | result |", "|---|---|---|---|"]
    defaults = extra_defaults(door)
    needed = {name for name, default in defaults.items() if default is inspect.Parameter.empty}
    for lhs, rhs, given in CALLS:
        if not needed <= given.keys() <= defaults.keys():
            continue
        x, y = (jax.ShapeDtypeStruct(shape, "float32") for shape in (lhs, rhs))
        x = sparse.BCOO.fromdense(jax.numpy.ones(lhs)) if "sparse" in door.__name__ else x
        try:
            planned = plan(door, x, y, tuple((defaults | given).values()))
        except Refusal:
            continue
        c, out = planned.contraction, planned.out_shape(lhs, rhs)
        said = ", ".join([f"{lhs}, {rhs}", *(f"{name}={value!r}" for name, value in given.items())])
        lines.append(f"| {said} | `{str(c).rstrip()}` | `{c.einsum}` | {out} |")
    if len(lines) == 2:
        raise LookupError(f"no call of the cheat sheet is answered by {public_name(door)}")
    return lines


# Ports.


def keras_lines(_: str) -> str:
    """What to write in JAX for each name of `keras.backend` that is no product."""
    lines = ["| in Keras | in JAX |", "|---|---|"]
    for part, versions in (
        (keras_names.LINES, ""),
        (keras_names.UP_TO_2_2_4, ", up to 2.2.4"),
        (keras_names.SINCE_2_2_5, ", since 2.2.5"),
    ):
        lines += [f"| `K.{call}`{versions} | `{line}` |" for call, line in part.items()]
    return "\n".join(lines)


# Messages.


class Rule(NamedTuple):
    """A message of jbdot: its fixed text, with … for what varies, the exception, and the module that raises it."""

    text: str
    kind: str
    module: str


def _refusals(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for each in kind.__subclasses__():
        yield from (each, *_refusals(each))


KINDS = {kind.__name__: kind.kind.__name__ for kind in _refusals(Refusal)}
CARRIED = {"kind", "refusal", "sparse_operand"}  # variables that hold one of several
PLAIN = ("cli", "files", "journal")  # raise ValueError as it is, with sentences


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Every message that jbdot raises on bad input, read off the source."""
    return tuple(dict.fromkeys(rule for path in sorted((ROOT / "jbdot").rglob("*.py")) for rule in _rules(path)))


def _rules(path: Path) -> Iterator[Rule]:
    tree = ast.parse(path.read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args):
            names, text = _names(call.func), _text(call.args[0])
            if path.stem in PLAIN and names == {"ValueError"}:
                yield Rule(text.split(". ")[0].rstrip("."), "ValueError", path.stem)
            elif names & (KINDS.keys() | CARRIED) and "told" not in names and text.strip("…"):
                yield Rule(text, " or ".join(_kinds(names, function)), path.stem)


def _names(node: ast.AST) -> set[str]:
    """The names and attributes in an expression."""
    return {getattr(found, "id", getattr(found, "attr", "")) for found in ast.walk(node)} - {""}


def _kinds(names: set[str], function: ast.FunctionDef) -> list[str]:
    """The exceptions that these names stand for, directly or through a variable of the function."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _names(node.targets[0]) & names & CARRIED:
            names = names - _names(node.targets[0]) | _names(node.value)
        elif isinstance(node, ast.For) and _names(node.target) & names & CARRIED:
            names = names - _names(node.target) | _names(node.iter)
    either = {"TypeError", "ValueError"} if names & CARRIED else set()
    return sorted({KINDS[name] for name in names & KINDS.keys()} | either)


def _text(node: ast.expr) -> str:
    """The text of an expression, with … for what is known when it runs only."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return re.sub("…+", "…", "".join(_text(part) for part in parts))
        case ast.BinOp(left, ast.Add(), right):
            return f"{_text(left)}{_text(right)}"
        case _:
            return "…"


def rule(text: str) -> str:
    """A heading for a message, and below it the exception that carries it and the modules that raise it."""
    found = [rule for rule in rules() if rule.text == text]
    if not found:
        raise LookupError(f"no module raises {text!r}")
    kinds = " or ".join(f"`{kind}`" for kind in sorted({kind for rule in found for kind in rule.kind.split(" or ")}))
    modules = ", ".join(f"jbdot/{module}.py" for module in dict.fromkeys(rule.module for rule in found))
    return f"### {text}\n\n<small>{kinds}, from {modules}</small>\n"


def record(text: str) -> str:
    """What a framework said to a recorded call, and what jbdot says to the same: `{{ record keras dot-seed-004 }}`."""
    framework, name = text.split()
    found = next(record for record in records.load(framework) if record["id"] == name)
    ran = dict(_frameworks())[framework].split(" (same")[0].removesuffix(", Python mode")
    message = re.split(r"\nApply node that|\nAll kernels registered", found["message"])[0].rstrip()
    error = f"{found['error'].split('.')[-1]}: {message}"
    return (
        f"`{_call(found)}` in {ran}:\n\n```pytb\n{error}\n```\n\n"
        f"`jbdot.{framework}`, to the same call:\n\n```pytb\n{_answered(framework, found)}\n```\n"
    )


def _call(found: dict[str, Any]) -> str:
    """A recorded call as code: `K.batch_dot(float32[2,3], float32[3,2], axes=1)`."""
    shapes = [f"{arg['dtype']}[{','.join(map(str, arg['shape']))}]" for arg in found["args"]]
    given = [f"{name}={value}" for name, value in found["kw"].items() if value not in ("None", False, None)]
    if found["op"] == "dot_layer":
        return f"layers.Dot({', '.join(given)})([{', '.join(shapes)}])"
    if found["op"] == "t_einsum":
        return f"torch.einsum({found['kw']['equation']}, {', '.join(shapes)})"
    if found["op"] == "einsum":
        return f"tf.einsum({found['kw']['subscripts']!r}, {', '.join(shapes)})"
    return f"{found['call']}({', '.join(shapes + given)})"


def _answered(framework: str, found: dict[str, Any]) -> str:
    with jax.enable_x64(True):
        try:
            out = jax.eval_shape(lambda: records.answer(framework, found))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return f"{out.dtype.name}{list(out.shape)}"


# Figures.


def tpu(_: str) -> str:
    """How good the choice for TPUs is, by the compiler's estimates of contractions that were drawn later."""
    from benchmarks import regret_report
    from benchmarks.report import whole_lines

    heads = "compiled for", *regret_report.TPU_HEADS[1:]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for path in sorted((ROOT / "benchmarks" / "results").glob("regret-tpu-*.jsonl")):
        machine, *rows = (json.loads(one) for one in whole_lines(path))
        lines.append(f"| {' | '.join(regret_report.tpu_line(machine['topology'].partition(':')[0], rows))} |")
    return "\n".join(lines)


def regret(_: str) -> str:
    """How good the choice is: on what was kept back from the fit, and on contractions drawn later."""
    from benchmarks import regret_report
    from benchmarks.fit import JUDGED, TPU
    from benchmarks.report import whole_lines

    eras = {"old": "0.10.2", "new": "0.12.0.1"}
    lines = [
        "| jax | estimates fitted on | judged on | contractions | regret | times `lax.dot_general` | over 1.3 |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {eras[row['jax']]} | {row['fitted on']} | {row['judged on'].replace('-', ' ')} | {row['cases']:,} "
        f"| {row['regret']:.2f} | {row['gain']:.2f} | {row['over 1.3']:.0%} |"
        for row in json.loads(JUDGED.read_text())
        if not row["judged on"].startswith(TPU)
    ]
    lines += [
        "",
        "Timed anew, with seeds that were not fitted, and on dots of 32 programs written with Flax, Haiku, Equinox, "
        "Keras 3, NumPyro, e3nn, Diffrax, tinygp, Dynamax and Optax (`benchmarks/results/dots-of-programs.json`); the "
        "best lowering is picked in one run and timed in another:",
        "",
        f"| {' | '.join(('on', *regret_report.HEADS))} |",
        "|---" * (len(regret_report.HEADS) + 1) + "|",
    ]
    for path in sorted((ROOT / "benchmarks" / "results").glob("regret-*.jsonl")):
        machine, *rows = (json.loads(one) for one in whole_lines(path))
        if "topology" in machine:
            continue
        name = path.stem.removeprefix("regret-").partition("-jax-")[0]
        on = f"{machine['processor']}, jax {machine['jax']}"
        lines.append(f"| {on} | {' | '.join(regret_report.line(name, rows))} |")
    lines += ["", "Regret is the time of what is chosen over that of the best lowering, in the geometric mean."]
    return "\n".join(lines)


def programs(_: str) -> str:
    """How good plans of whole programs are, by the compiler, beside the layouts that people give them."""
    from benchmarks import programs as benchmark
    from benchmarks.report import whole_lines

    (path,) = (ROOT / "benchmarks" / "results").glob("programs-jax-*.jsonl")
    found = benchmark.outcomes([json.loads(one) for one in whole_lines(path)])
    planned = [one for one in found if one.plan is not None]
    lines = ["| what | how many |", "|---|---|"]
    lines += [f"| {what} | {number} |" for what, number in benchmark.summary(planned)]
    return "\n".join([*lines, "", "Milliseconds of each:", "", *benchmark.each(planned)])


def miscompilations(_: str) -> str:
    """What XLA's CPU compiler is known to get wrong, in which versions of jaxlib, and what keeps clear of it."""
    from jbdot.one_device.miscompilations import KNOWN

    lines = ["| jaxlib | what is wrong | what to do | reported |", "|---|---|---|---|"]
    for known in KNOWN:
        before = f"before {'.'.join(map(str, known.fixed))}" if known.fixed else "all up to the newest that was tested"
        numbers = re.findall(r"jax#(\d+)", known.issue)
        links = ", ".join(f"[#{number}](https://github.com/jax-ml/jax/issues/{number})" for number in numbers)
        lines.append(f"| {before} | {known.what} | {known.cure} | {links or 'no public report'} |")
    return "\n".join(lines)


def algorithms(_: str) -> str:
    """The named algorithms, and which backends take them."""
    from jbdot.one_device.numerics import ALGORITHMS

    names = list(dict.fromkeys(name for taken in ALGORITHMS.values() for name in taken))
    lines = ["| algorithm | CPU | GPU (H100) | TPU |", "|---|---|---|---|"]
    for name in names:
        cells = ("yes" if name in ALGORITHMS[backend] else "refused" for backend in ("cpu", "gpu", "tpu"))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Others of `lax.DotAlgorithmPreset` are refused by all three."])


def notebooks(_: str) -> str:
    """A list of the notebooks that there are, each with its title and the first sentence under it."""
    lines: list[str] = []
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        text = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))
        title, _, rest = text.partition("\n")
        paragraph = rest.strip().split("\n\n")[0].replace("\n", " ")
        about = re.split(r"(?<=[\w`)][.?]) (?=[A-Z`])", paragraph, maxsplit=1)[0].removesuffix(":")
        lines.append(f"- [{title.strip('# ')}](notebooks/{path.stem}.md). {about}".rstrip())
    return "\n".join(lines)
