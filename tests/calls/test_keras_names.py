"""The lines for Keras' other names, held to what the real Keras gave."""

import importlib
import inspect
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.experimental import sparse

from jbdot import keras, keras_tf1
from jbdot.calls.front_door import DIALECTS

RECORDS = json.loads((Path(__file__).parents[1] / "data" / "keras_names.json").read_text())
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "how-to" / "port.md"
VERSIONS = {"2.2.4": "keras_tf1", "2.21.0": "keras"}
CHANCE = ("random_", "truncated_", "dropout")
OWN = """is_tensor to_dense function name_scope print_tensor gradients dropout update update_add update_sub
moving_average_update"""
PORTED = """cast expand_dims shape reshape sum floatx concatenate permute_dimensions arange int_shape sqrt square tile
ones_like argmax zeros_like ndim max gather epsilon mean exp softmax map_fn l2_normalize stack tanh squeeze bias_add
batch_flatten one_hot temporal_padding"""  # of 22 files in 11 public repositories


def array(record):
    dtype = {"float": np.float32, "int": np.int32, "bool": bool, "text": str}[record["kind"]]
    return np.array(record["values"], dtype).reshape(record["shape"])


def functions(dialect):
    """Each line as a function with K's own arguments."""
    known = {"jax": jax, "jnp": jnp, "np": np, "key": jax.random.key(0)}
    lines = DIALECTS[dialect].lines
    found = {}
    for call, line in lines.items():
        name, _, arguments = call.removesuffix(")").partition("(")
        found[name] = eval(f"lambda {arguments}: ({line}\n)", known)
    assert len(found) == len(lines)
    return found


def ported_file():
    """The ported file of the guide to ports, as it stands there."""
    file = {}
    exec(re.search(r"```python\n(from jax import numpy as jnp\n.*?)```", PAGE.read_text(), re.DOTALL)[1], file)
    return {"attention": file["attention"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_line_gives_what_keras_gave(version):
    """Shapes, kinds of dtypes and values of 160 calls; of random numbers not the values."""
    known = (
        functions(VERSIONS[version])
        | ported_file()
        | {name: jnp.asarray(array(x)) for name, x in RECORDS["inputs"].items()}
    )
    wrong = {}
    for call, record in RECORDS[version].items():
        if record is None:
            continue
        found = np.asarray(eval(call.replace(", 'channels_last'", ""), {}, known))
        want = array(record)
        kind = {"b": "bool", "i": "int", "f": "float", "U": "text"}[found.dtype.kind]
        if (kind, found.shape) != (record["kind"], want.shape):
            wrong[call] = kind, found.shape, record["kind"], want.shape
        elif kind == "float" and not call.startswith(CHANCE):
            if not np.allclose(found, want, rtol=2e-5, atol=2e-6):
                wrong[call] = found, want
        elif kind != "float" and not np.array_equal(found, want):
            wrong[call] = found, want
    assert not wrong


def test_each_line_is_held_to_a_record_or_to_a_test_of_its_own():
    called = {call.partition("(")[0] for call in RECORDS["2.2.4"]}
    for dialect in VERSIONS.values():
        assert set(functions(dialect)) - called == set(OWN.split())


def test_lines_that_no_record_holds(capfd):
    K = functions("keras")
    x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    assert K["is_tensor"](x)
    assert not K["is_tensor"](2.0)
    assert K["is_sparse"](sparse.BCOO.fromdense(x))
    assert np.array_equal(K["to_dense"](sparse.BCOO.fromdense(x)), x)
    assert np.array_equal(K["function"](None, lambda x: 2 * x)(x), 2 * x)
    assert np.array_equal(K["gradients"](lambda x: jnp.sum(x**2), x), 2 * x)

    @jax.jit
    def scoped(x):
        with K["name_scope"]("here"):
            return x + 1

    assert "here/add" in scoped.lower(x).as_text(debug_info=True)
    for name, want in (("update", 3 * x), ("update_add", 4 * x), ("update_sub", -2 * x)):
        assert np.array_equal(K[name](x, 3 * x), want)
    assert np.array_equal(K["moving_average_update"](x, 3 * x, 0.5), 2 * x)
    K["print_tensor"](x[0], "x is")
    jax.effects_barrier()
    assert "x is [1. 0.]" in capfd.readouterr().out


def test_lines_of_chance():
    """By moments of 40,000 numbers, which the key fixes."""
    K = functions("keras")
    shape = 200, 200
    for name in ("random_normal", "random_normal_variable"):
        x = K[name](shape, 3.0, 0.5)
        assert abs(x.mean() - 3) < 0.02
        assert abs(x.std() - 0.5) < 0.02
    x = K["truncated_normal"](shape, 3.0, 0.5)
    assert abs(x.mean() - 3) < 0.02
    assert 0.98 < abs(x - 3).max() <= 1.0
    for name in ("random_uniform", "random_uniform_variable"):
        x = K[name](shape, 1.0, 3.0)
        assert 1 <= x.min() < 1.01
        assert 2.99 < x.max() < 3
    for name in ("random_binomial", "random_bernoulli"):
        x = K[name](shape, 0.25)
        assert {*np.unique(x).tolist()} == {0.0, 1.0}
        assert abs(x.mean() - 0.25) < 0.02
    x = K["dropout"](jnp.full(shape, 3.0), 0.25)
    assert {*np.unique(x).tolist()} == {0.0, 4.0}
    assert abs(x.mean() - 3) < 0.05


@pytest.mark.parametrize("dialect", [keras, keras_tf1])
def test_a_dialect_of_keras_answers_a_name_with_its_line(dialect):
    for name in PORTED.split():
        assert not hasattr(dialect, name)
        with pytest.raises(AttributeError, match=rf"has no {name}: .* With jnp for jax\.numpy, {name}\(.*\) is:  .+"):
            getattr(dialect, name)
    for name in inspect.getmembers(dialect, callable):
        assert name[0] not in functions(dialect.__name__.rpartition(".")[2])


def test_the_two_traps():
    with pytest.raises(AttributeError, match=r"jnp\.maximum\(jnp\.sum\(x\*\*2, axis, keepdims=True\), 1e-12\)"):
        _ = keras_tf1.l2_normalize
    with pytest.raises(AttributeError, match=r"epsilon\(\) is:  1e-7$"):
        _ = keras_tf1.epsilon
    with pytest.raises(ImportError, match=r"cannot import name 'cast' from 'jbdot\.keras_tf1'"):
        exec("from jbdot.keras_tf1 import cast")
    assert importlib.import_module("jbdot.keras_tf1") is keras_tf1
