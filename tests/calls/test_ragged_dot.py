"""`ragged_dot`: lax's own, marked."""

import inspect

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jbdot
from jbdot.one_device import ragged

X, Y, SIZES = jnp.ones((6, 4)), jnp.arange(3.0)[:, None, None] * jnp.ones((3, 4, 2)), jnp.array([1, 3, 1])


def test_it_has_the_arguments_of_lax():
    ours, theirs = (inspect.signature(f).parameters for f in (jbdot.ragged_dot, lax.ragged_dot))
    assert [name for name in ours if name != "lowering"] == [*theirs]
    assert all(ours[name].default == each.default for name, each in theirs.items())


def test_the_jaxpr_has_lax_own_equation_marked(monkeypatch):
    monkeypatch.setattr(ragged, "_is_worth", lambda spec: True)
    (bare,), (ours,) = (jax.make_jaxpr(f)(X, Y, SIZES).eqns for f in (lax.ragged_dot, jbdot.ragged_dot))
    assert ours.primitive is bare.primitive
    assert ours.params == bare.params
    assert "stablehlo.while" in jax.jit(jbdot.ragged_dot).lower(X, Y, SIZES).as_text()
    np.testing.assert_array_equal(jbdot.ragged_dot(X, Y, SIZES)[:, 1], [0, 4, 4, 4, 8, 0])
    direct = jax.jit(lambda *args: jbdot.ragged_dot(*args, lowering="direct"))
    assert (
        direct.lower(X, Y, SIZES).as_text().partition("\n")[2]
        == (jax.jit(lambda *args: lax.ragged_dot(*args)).lower(X, Y, SIZES).as_text().partition("\n")[2])
    )


def test_settings_are_laxs():
    out = jbdot.ragged_dot(X.astype("bfloat16"), Y.astype("bfloat16"), SIZES, "highest", "float32")
    assert out.dtype == "float32"


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: jbdot.ragged_dot(X, Y, SIZES, lowering="pinned"), ValueError, "got 'pinned'; lhs float32[6,4]"),
        (lambda: jbdot.ragged_dot(X, Y, SIZES, group_offset=1), ValueError, "group_offset must be left out"),
        (lambda: jbdot.ragged_dot(X, Y[:2], SIZES), TypeError, "dimension size to be 3, got 2; lhs float32[6,4]"),
        (lambda: jbdot.ragged_dot(X, Y, SIZES * 1.0), TypeError, "group_sizes float32[3]"),
        (lambda: jbdot.ragged_dot(X, Y, "3"), TypeError, "group_sizes a str"),
        (lambda: jbdot.ragged_dot(X, Y, SIZES, "exact"), ValueError, "lax.ragged_dot must take"),
    ],
)
def test_what_is_refused(call, error, said):
    with pytest.raises(error, match=r"^ragged_dot: ") as refused:
        call()
    assert said in str(refused.value)
