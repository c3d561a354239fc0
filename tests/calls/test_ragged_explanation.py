"""What is said of a ragged dot before it runs."""

import jax
import pytest
from jax import numpy as jnp

import jbdot


def test_a_ragged_dot_is_explained():
    said = jbdot.explain(jbdot.ragged_dot, (4096, 512), (16, 512, 1024), (16,))
    assert said.formula == "out[m,n] = sum_k lhs[m,k] * rhs[g(m),k,n]"
    assert said.shape == (4096, 1024)
    assert said.flops == 2 * 4096 * 512 * 1024
    assert said.bytes_read == 4 * (4096 * 512 + 16 * 512 * 1024 + 16)
    assert said.bytes_written == 4 * 4096 * 1024
    assert {name: choice.lowering for name, choice in said.lowerings.items()} == {
        "cpu": "grouped",
        "gpu": "direct",
        "tpu": "direct",
    }
    assert said.rows() == [
        ("m", "row", "0", "", "", "0", "4,096"),
        ("n", "free", "", "2", "", "1", "1,024"),
        ("k", "contracting", "1", "1", "", "", "512"),
        ("g", "group", "", "0", "0", "", "16"),
    ]
    for text in (str(said), said._repr_html_()):
        assert "ragged_dot(lhs float32[4096,512]" in text
        assert "XLA multiplies every row by every group" in text
    assert max(map(len, str(said).splitlines())) <= 80


def test_settings_arrays_and_refusals_are_those_of_the_call():
    x, y, sizes = jnp.ones((6, 4), "bfloat16"), jnp.ones((3, 4, 2), "bfloat16"), jnp.array([1, 3, 2])
    said = jbdot.explain(jbdot.ragged_dot, x, y, sizes, preferred_element_type="float32", lowering="direct")
    assert said.spec.dtype == "float32"
    assert all(choice.why == "as asked" for choice in said.lowerings.values())
    with pytest.raises(ValueError, match="ragged_dot: lowering of a ragged dot"):
        jbdot.explain(jbdot.ragged_dot, x, y, sizes, lowering="pinned")
    for bad in ((x, jnp.ones((3, 5, 2)), sizes), (x, y, jax.ShapeDtypeStruct((4,), "int32"))):
        with pytest.raises((TypeError, ValueError), match="ragged_dot: "):
            jbdot.explain(jbdot.ragged_dot, *bad)
