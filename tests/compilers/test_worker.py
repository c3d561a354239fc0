"""What runs in a compiler's process, here on the CPU: the module that it is given is the one that it compiles."""

import io

import jax
import pytest
from jax import numpy as jnp

from jbdot.compilers import worker
from jbdot.one_device import jax_internals


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setattr(worker, "_devices", lambda topology, num_slices: jax.devices("cpu"))
    module = io.BytesIO()
    jax.jit(lambda x: jnp.sin(x) + 1).lower(jnp.ones(3)).compiler_ir().operation.write_bytecode(module)
    x = (3,), "float32", None
    return {"topology": "", "num_slices": 1, "mesh": None, "module": module.getvalue(), "args": [x], "results": [x]}


def test_the_module_is_compiled(task):
    answer = worker._attempt(task)
    assert "sine" in answer["text"]
    assert (answer["argument_bytes"], answer["output_bytes"]) == (12, 12)


def test_a_stand_in_is_never_reported_as_the_program(task, monkeypatch):
    monkeypatch.setattr(jax_internals, "put_module", lambda lowered, module: None)  # of a JAX that keeps it elsewhere
    assert worker._attempt(task)["failed"].startswith(f"NotImplementedError: jax {jax.__version__} compiles no module")
