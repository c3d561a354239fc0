"""Examples of the reference run when they are pasted: each imports what it uses."""

import ast
import builtins
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

import jbdot

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs/pages/reference").glob("*.md")
NAMED = sorted({name for page in PAGES for name in re.findall(r"^::: (jbdot[\w.]*)", page.read_text(), re.MULTILINE)})


def documented(name):
    """What a line of the reference shows: an object, or a module's public functions and classes."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        module, _, attribute = name.rpartition(".")
        yield getattr(importlib.import_module(module), attribute)
        return
    members = vars(module).items()
    yield from (x for key, x in members if getattr(x, "__module__", "") == name and not key.startswith("_"))


def undefined(source):
    """Names that a source reads and neither imports nor makes."""
    made, read = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
    return read - made


def test_what_is_not_imported_is_seen():
    assert undefined("import jax.numpy as jnp\ndef f(x):\n    return x\nf(jnp.ones(3), y)") == {"y"}


@pytest.mark.parametrize("name", NAMED)
def test_examples_import_what_they_use(name):
    found = list(documented(name))
    assert found
    for x in found:
        for part in (x, *(vars(x).values() if inspect.isclass(x) else ())):
            text = getattr(getattr(part, "__func__", part), "__doc__", None) or ""
            examples = doctest.DocTestParser().get_examples(text)
            assert not undefined("".join(example.source for example in examples)), part


def test_every_public_function_is_in_the_reference():
    shown = {x for name in NAMED for x in documented(name) if callable(x)}
    assert {getattr(jbdot, name) for name in jbdot.__all__ if callable(getattr(jbdot, name))} <= shown


NOUNS = {"Bytes", "Axes", "Devices", "Rows", "Elements", "Products", "Its", "Others", "This", "As", "Ways"}


def described(path):
    """The functions of a file that have a docstring, but for commands, whose help is in the imperative."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.FunctionDef)
            and ast.get_docstring(node)
            and "app." not in ast.unparse(node).split("def")[0]
        ):
            yield node.name, ast.get_docstring(node).splitlines()[0]


def test_the_first_line_of_a_docstring_is_a_sentence_with_a_verb():
    lines = [(path.name, *said) for path in sorted((ROOT / "jbdot").rglob("*.py")) for said in described(path)]
    assert len(lines) > 600
    verbs = [re.match(r"([A-Z][a-z]+s)\b", line) for *_, line in lines]
    assert not [line for line, verb in zip(lines, verbs, strict=True) if verb is None or verb[1] in NOUNS]
