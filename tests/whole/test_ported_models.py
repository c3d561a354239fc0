"""The models that colab/port_keras_to_jax.ipynb ports, against what Keras 2.2.4 computed for them."""

import ast
import json
import re
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
from jax import numpy as jnp

from jbdot import keras, keras_tf1

HERE = Path(__file__).parents[1]
RECORDER = (HERE / "data" / "record_keras_models.py").read_text()
RECORD = json.loads((HERE / "data" / "keras_models_2_2_4.json").read_text())
NOTEBOOK = nbformat.read(HERE.parent / "colab" / "port_keras_to_jax.ipynb", as_version=4)
CODE = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"][1:]


@pytest.fixture(scope="module")
def port():
    """The notebook's functions, by name: its imports and definitions, without all that it does."""
    kept = [
        node
        for source in CODE
        for node in ast.parse(source).body
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
    ]
    namespace = {}
    exec(compile(ast.Module(kept, []), "notebook", "exec"), namespace)
    return namespace


def arrays(found):
    return {name: jnp.array(np.asarray(value, RECORD["dtype"])) for name, value in found.items()}


def arguments(model):
    recorded = RECORD["models"][model]
    return arrays(recorded["inputs"]) | arrays(recorded["weights"])


def check(function, model, **settings):
    """Compares output and gradients: float32 sums in another order, and no more."""

    def power(given):
        output = function(**given, **settings)
        return jnp.sum(output**2), output

    recorded = RECORD["models"][model]
    gradients, output = jax.jit(jax.grad(power, has_aux=True))(arguments(model))
    for ours, theirs in [
        (output, recorded["output"]),
        *((gradients[name], recorded["gradients"][name]) for name in gradients),
    ]:
        theirs = np.asarray(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.max(np.abs(theirs)) + 1e-7)


def test_versions_of_the_record():
    assert RECORD["versions"] == {"keras": "2.2.4", "tensorflow": "1.13.1", "numpy": "1.16.6"}


@pytest.mark.parametrize("model", RECORD["models"])
def test_a_port_computes_what_keras_did(port, model):
    check(port[model], model)


def test_attention_written_anew(port):
    check(port["written_anew"], "self_attention")


@pytest.mark.parametrize("model", ["matching", "bi_attention"])
def test_either_dialect_will_do(port, model):
    check(port[model], model, K=keras)


@pytest.mark.parametrize("model", ["capsules", "self_attention"])
def test_the_later_dialect_refuses(port, model):
    with pytest.raises(ValueError, match=r"code written for it needs jbdot\.keras_tf1\.batch_dot"):
        port[model](**arguments(model), K=keras)


def test_the_check_can_fail(port):
    recorded = RECORD["models"]["bi_attention"]
    given = arguments("bi_attention") | {"output": jnp.asarray(recorded["output"])}
    given |= {f"d_{name}": 1.0001 * array for name, array in arrays(recorded["gradients"]).items()}
    with pytest.raises(AssertionError, match="d_h differs"):
        port["check"](port["bi_attention"], given)


def test_numbers_in_the_notebook_are_the_records(port):
    texts = [text for source in CODE for text in re.findall(r'read\("""(.*?)"""\)', source, re.DOTALL)]
    for text, recorded in zip(texts, RECORD["models"].values(), strict=True):
        found = port["read"](text)
        expected = arrays(recorded["inputs"] | recorded["weights"] | {"output": recorded["output"]})
        expected |= {f"d_{name}": array for name, array in arrays(recorded["gradients"]).items()}
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])


def test_keras_code_in_the_notebook_is_what_ran():
    texts = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
    quoted = [block for text in texts for block in re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)]
    assert len(quoted) == len(RECORD["models"])
    assert all(block in RECORDER for block in quoted)


def test_dialects_are_compared(port, capsys):
    recorded = arguments("self_attention") | {"output": None}
    port["compare_dialects"](port["self_attention"], recorded)
    assert "(2, 2, 3, 3)  (2, 2, 3, 2, 3)" in capsys.readouterr().out
    assert port["keras_tf1"] is keras_tf1
