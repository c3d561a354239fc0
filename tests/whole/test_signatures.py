"""Each front door takes what the framework's function takes: names, order, defaults, as its source has them."""

import ast
import functools
import inspect
import json
from pathlib import Path

import pytest

import jbdot
from jbdot.calls.front_door import SETTINGS

SIGNATURES = json.loads((Path(__file__).parents[1] / "data" / "signatures.json").read_text())
# Which words a `**kwargs` of the framework takes.
WORDS = {
    "keras.layers.dot": {"normalize"},
    "tensorflow.einsum": {"name", "optimize"},
    "Dot": {"name", "dtype", "trainable"},
    "dot": set(),
}


@pytest.mark.parametrize("row", SIGNATURES, ids=[row["function"] for row in SIGNATURES])
def test_signature(row):
    function = functools.reduce(getattr, row["function"].split("."), jbdot)
    ours = {name: each for name, each in inspect.signature(function).parameters.items() if name not in SETTINGS}
    words = WORDS.get(row["function"]) or WORDS.get(row["function"].rpartition(".")[2], set())
    theirs = [(name, default) for name, default in row["parameters"] if not name.startswith("**")]
    positional = [name for name, each in ours.items() if each.kind is not each.VAR_KEYWORD and name not in words]
    assert positional == [name.lstrip("*") for name, _ in theirs]
    for name, default in theirs:
        if default is not None:
            assert ours[name.lstrip("*")].default == ast.literal_eval(default), name
    if any(name.startswith("**") for name, _ in row["parameters"]):
        assert words <= ours.keys()
        assert words or any(each.kind is each.VAR_KEYWORD for each in ours.values())


def test_the_table_names_its_sources():
    assert len(SIGNATURES) >= 20
    assert all(any(digit.isdigit() for digit in row["source"]) for row in SIGNATURES)
