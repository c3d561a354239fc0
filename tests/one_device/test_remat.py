"""Every checkpoint policy x every kind of block: the same residuals, the same dots, the same moves as lax's own dot."""

import collections

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

import jbdot

RNG = np.random.default_rng(0)
POLICIES = jax.checkpoint_policies
# Each policy of JAX: those that are made of names or of others, with some.
CASES = {
    "none": None,
    "everything": POLICIES.everything_saveable,
    "nothing": POLICIES.nothing_saveable,
    "dots": POLICIES.dots_saveable,
    "checkpoint_dots": POLICIES.checkpoint_dots,
    "dots without batch": POLICIES.dots_with_no_batch_dims_saveable,
    "checkpoint_dots without batch": POLICIES.checkpoint_dots_with_no_batch_dims,
    "offload dots": POLICIES.offload_dot_with_no_batch_dims("device", "pinned_host"),
    "any but names": POLICIES.save_anything_except_these_names("hidden"),
    "any names but": POLICIES.save_any_names_but_these("hidden"),
    "only names": POLICIES.save_only_these_names("hidden"),
    "names and offload": POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=["hidden"],
        names_which_can_be_offloaded=["out"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "either": POLICIES.save_from_both_policies(POLICIES.dots_saveable, POLICIES.save_only_these_names("hidden")),
}


def array(*shape):
    return jnp.asarray(RNG.integers(-2, 3, shape), jnp.float32) / 4


def of_lax(x, y):
    return lax.dot_general(x, y, (((x.ndim - 1,), (0,)), ((), ())))


def batched(x, y):
    return lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))))


W = [array(4, 4) for _ in range(3)]


def mlp(dot, batched):
    def block(x, w):
        hidden = checkpoint_name(jnp.tanh(dot(x, w)), "hidden")
        return checkpoint_name(jnp.sin(dot(hidden, W[1])), "out")

    return block, (array(3, 4), W[0])


def attention(dot, batched):
    def block(x, w):
        q, k, v = (dot(x, w * scale) for scale in (1, 2, 3))
        weights = checkpoint_name(jax.nn.softmax(batched(q, k.swapaxes(1, 2))), "hidden")
        return checkpoint_name(batched(weights, v), "out")

    return block, (array(2, 3, 4), W[0])


def lora(dot, batched):
    def block(x, w):
        low = checkpoint_name(dot(x, w[:, :2]), "hidden")
        return checkpoint_name(jnp.tanh(dot(x, W[1]) + dot(low, W[2][:2])), "out")

    return block, (array(3, 4), W[0])


def scan(dot, batched):
    def block(x, w):
        return lax.scan(lambda x, _: (checkpoint_name(jnp.tanh(dot(x, w)), "hidden"), None), x, None, length=3)[0]

    return block, (array(3, 4), W[0])


BLOCKS = {"mlp": mlp, "attention": attention, "lora": lora, "scan": scan}


def counted(f, *args):
    """Every primitive of a gradient's jaxpr, with shapes, at any depth: its residuals are among them."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name, tuple(str(x.aval) for x in (*equation.invars, *equation.outvars))
            for inner in core.jaxprs_in_params(equation.params):
                yield from walk(getattr(inner, "jaxpr", inner))

    return collections.Counter(walk(jax.make_jaxpr(f)(*args).jaxpr))


def gradient(block, policy):
    return jax.grad(lambda *args: jnp.sum(jax.checkpoint(block, policy=policy)(*args)), (0, 1))


def compare(block, policy, found, args, value=True):
    want = counted(gradient(block, policy), *args)
    for name, f in found.items():
        assert counted(f, *args) == want, name
        if value:
            want_values = gradient(block, policy)(*args)
            for got, wanted in zip(jax.jit(f)(*args), want_values, strict=True):
                np.testing.assert_allclose(got, wanted, 1e-5, 1e-6)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("policy", CASES)
def test_as_lax(name, policy):
    policy = CASES[policy]
    block, args = BLOCKS[name](of_lax, batched)
    ours, _ = BLOCKS[name](lambda x, y: jbdot.dot(x, y), lambda x, y: jbdot.contract("b m k, b k n -> b m n", x, y))
    found = {
        "jbdot.dot": gradient(ours, policy),
        "grad(optimize)": jax.grad(
            jbdot.optimize(lambda *a: jnp.sum(jax.checkpoint(block, policy=policy)(*a))), (0, 1)
        ),
        "optimize(grad)": jbdot.optimize(gradient(block, policy)),
    }
    offloads = "offload" in str(policy)
    compare(block, policy, found, args, value=not offloads)


@pytest.mark.parametrize("policy", CASES)
def test_flax_remat(policy):
    policy = CASES[policy]

    class Block(nn.Module):
        dot: object = lax.dot_general

        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, dot_general=self.dot)(jnp.tanh(nn.Dense(4, dot_general=self.dot)(x)))

    x = array(3, 4)
    plain, ours = (nn.remat(Block, policy=policy)(dot=dot) for dot in (lax.dot_general, jbdot.dot_general))
    weights = plain.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, ours.init(jax.random.key(0), x), weights))

    def loss(model):
        return lambda weights: jnp.sum(model.apply(weights, x))

    want = counted(jax.grad(loss(plain)), weights)
    for f in (jax.grad(loss(ours)), jax.grad(jbdot.optimize(loss(plain))), jbdot.optimize(jax.grad(loss(plain)))):
        assert counted(f, weights) == want


def test_no_policy_is_left_out():
    """A JAX that has another one is told here."""
    assert {name for name in dir(POLICIES) if name[0].islower()} == {
        "checkpoint_dots",
        "checkpoint_dots_with_no_batch_dims",
        "dots_saveable",
        "dots_with_no_batch_dims_saveable",
        "everything_saveable",
        "nothing_saveable",
        "offload_dot_with_no_batch_dims",
        "save_and_offload_only_these_names",
        "save_any_names_but_these",
        "save_anything_except_these_names",
        "save_from_both_policies",
        "save_only_these_names",
    }


@pytest.mark.parametrize("setting", ["jax_remat3", "jax_custom_vjp3", "jax_custom_jvp3"])
@pytest.mark.parametrize("name", BLOCKS)
def test_other_implementations_of_jax(setting, name):
    if setting not in jax.config.values:
        pytest.skip(f"this JAX has no {setting}")

    @jax.custom_vjp
    def with_rule(x, w):
        return jnp.tanh(x @ w)

    with_rule.defvjp(
        lambda x, w: (with_rule(x, w), (x, w)),
        lambda kept, g: (g @ kept[1].T, kept[0].reshape(-1, 4).T @ g.reshape(-1, 4)),
    )
    policy = POLICIES.dots_saveable
    jax.config.update(setting, True)
    try:
        block, args = BLOCKS[name](of_lax, batched)
        ours, _ = BLOCKS[name](lambda x, y: jbdot.dot(x, y), lambda x, y: jbdot.contract("b m k, b k n -> b m n", x, y))
        compare(
            block, policy, {"ours": gradient(ours, policy), "optimize": jbdot.optimize(gradient(block, policy))}, args
        )
        rule = jax.grad(lambda x, w: jnp.sum(with_rule(x, w)), (0, 1))
        assert counted(jbdot.optimize(rule), *args) == counted(rule, *args)
    finally:
        jax.config.update(setting, False)
        jax.clear_caches()
