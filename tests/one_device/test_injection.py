"""Flax layers with jbdot's dot put in: the same numbers and gradients, and the planned dot really there."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax import numpy as jnp
from jax.extend import core

import jbdot
from jbdot.one_device import mark
from jbdot.programs.optimize import optimize

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 5, 4)), jnp.float32)
DOT = jbdot.dot_general
HEADS = {"num_heads": 2, "qkv_features": 8}
ATTEND = functools.partial(nn.dot_product_attention, einsum_dot_general=DOT)


def dots(jaxpr):
    """How many dots are marked and how many are not, at any depth."""
    found = np.zeros(2, int)
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p:
            found[int(mark.of(equation.ctx.xla_metadata or {}) == "direct")] += 1
        found += sum(map(dots, core.jaxprs_in_params(equation.params)), np.zeros(2, int))
    return found


def assert_injected(plain, injected, weights, rounding=1e-5):
    """Both are functions of weights and an input; the second leaves a planned dot wherever the first leaves one."""

    def both(f):
        return jax.value_and_grad(lambda weights, x: jnp.sum(jnp.square(f(weights, x))), (0, 1))

    np.testing.assert_allclose(injected(weights, X), plain(weights, X), 1e-6, 1e-6)
    want, got = (jax.jit(both(f))(weights, X) for f in (plain, injected))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rounding, rounding / 10), got, want)
    for wrap in (lambda f: f, both):
        (none, of_lax), (ours, left) = (dots(jax.make_jaxpr(wrap(f))(weights, X)) for f in (plain, injected))
        assert none == left == 0
        assert ours == of_lax > 0


# name: (the layer, as it is and with jbdot's dot)
LINEN = {
    "Dense": (nn.Dense(3), nn.Dense(3, dot_general=DOT)),
    "Dense, class": (nn.Dense(3), nn.Dense(3, dot_general_cls=lambda: DOT)),
    "Dense, bfloat16": (nn.Dense(3, dtype=jnp.bfloat16), nn.Dense(3, dtype=jnp.bfloat16, dot_general=DOT)),
    "DenseGeneral": (nn.DenseGeneral((3, 2), (1, 2)), nn.DenseGeneral((3, 2), (1, 2), dot_general=DOT)),
    "attention": (
        nn.MultiHeadDotProductAttention(**HEADS),
        nn.MultiHeadDotProductAttention(**HEADS, qkv_dot_general=DOT, out_dot_general=DOT, attention_fn=ATTEND),
    ),
    "attention, lowering": (
        nn.MultiHeadDotProductAttention(**HEADS),
        nn.MultiHeadDotProductAttention(
            **HEADS,
            qkv_dot_general=functools.partial(DOT, lowering="reduced"),
            out_dot_general=functools.partial(DOT, lowering="split"),
            attention_fn=optimize(nn.dot_product_attention, lowering="looped"),
        ),
    ),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    plain, injected = LINEN[name]
    weights = plain.init(jax.random.key(0), X)
    assert jax.tree.structure(injected.init(jax.random.key(0), X)) == jax.tree.structure(weights)
    assert_injected(plain.apply, injected.apply, weights, 2**-5 if "bfloat16" in name else 1e-5)


# nnx.dot_product_attention takes no dot: the function itself is planned.
NNX = {
    "Linear": lambda dot, rngs, **_: nnx.Linear(4, 3, rngs=rngs, **({"dot_general": dot} if dot else {})),
    "LinearGeneral": lambda dot, rngs, **_: nnx.LinearGeneral((5, 4), (3, 2), axis=(1, 2), rngs=rngs, dot_general=dot),
    "MultiHeadAttention": lambda dot, rngs, attend: nnx.MultiHeadAttention(
        **HEADS,
        in_features=4,
        decode=False,
        rngs=rngs,
        qkv_dot_general=dot,
        out_dot_general=dot,
        attention_fn=attend,
    ),
}


@pytest.mark.parametrize("name", NNX)
def test_nnx(name):
    plain = NNX[name](None, nnx.Rngs(0), attend=nnx.dot_product_attention)
    injected = NNX[name](DOT, nnx.Rngs(0), attend=optimize(nnx.dot_product_attention))
    weights = nnx.state(plain, nnx.Param)

    def of(layer):
        def f(weights, x):
            graph, _, rest = nnx.split(layer, nnx.Param, ...)
            return nnx.merge(graph, weights, rest)(x)

        return f

    assert_injected(of(plain), of(injected), weights)


def test_a_whole_model():
    model = nn.Sequential([nn.Dense(4), LINEN["attention"][0], nn.LayerNorm(), nn.gelu, nn.Dense(2)])
    weights = model.init(jax.random.key(0), X)
    assert_injected(model.apply, optimize(model.apply), weights)
