"""Libraries that walk or patch JAX, each with jbdot in it. They are the extra `peers`; what does not import is skipped.

A library's own warnings are its own affair here.
"""

import dataclasses
import importlib
import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax import numpy as jnp

import jbdot
from jbdot.one_device import lowerings, mark

pytestmark = pytest.mark.filterwarnings("default")
RNG = np.random.default_rng(0)
X, W = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((3, 4), (4, 4)))


def peer(name):
    """The library, or a skip that says why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:  # each has its own way of not fitting a JAX
        return pytest.skip(f"{name} does not import here: {type(error).__name__}: {error}")


@pytest.fixture
def lowered(monkeypatch):
    """How many dots were lowered by "reduced"."""
    seen = []

    def reduced(spec, lhs, rhs):
        seen.append(spec)
        return lowerings.reduced(spec, lhs, rhs)

    monkeypatch.setitem(
        lowerings.LOWERINGS, "reduced", dataclasses.replace(lowerings.LOWERINGS["reduced"], function=reduced)
    )
    return seen


@pytest.fixture
def everywhere(lowered):
    jbdot.optimize_everything("reduced")
    yield lowered
    jbdot.optimize_everything(None)


def same(got, want, rounding=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rounding, rounding), got, want)


WRAPS = {
    "direct": lambda f: jbdot.optimize(f, lowering="direct"),
    "auto": jbdot.optimize,
    "reduced": lambda f: jbdot.optimize(f, lowering="reduced"),
}
every_wrap = pytest.mark.parametrize("wrap", WRAPS)


# State.


def trained(wrap, where):
    """Three losses and the state of an NNX model with BatchNorm and Dropout."""
    rngs = nnx.Rngs(0)
    layers = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
    model = nnx.Sequential(*layers, nnx.Linear(8, 2, rngs=rngs))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def loss(model, x):
        return jnp.mean(model(x) ** 2)

    def step(model, optimizer, x):
        value, gradient = nnx.value_and_grad(wrap(loss) if where == "loss" else loss)(model, x)
        optimizer.update(model, gradient)
        return value

    step = nnx.jit(wrap(step) if where == "step" else step)
    if where == "jit":
        step = wrap(step)
    losses = [float(step(model, optimizer, X)) for _ in range(3)]
    return losses, jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@every_wrap
@pytest.mark.parametrize("where", ["step", "loss", "jit"])
def test_nnx_trains(wrap, where, lowered):
    want = trained(lambda f: f, None)
    got = trained(WRAPS[wrap], where)
    assert want[0][0] != want[0][1]
    if wrap == "direct":
        assert got[0] == want[0]  # to the bit
        jax.tree.map(np.testing.assert_array_equal, got[1], want[1])
    same(got, want)
    assert bool(lowered) == (wrap == "reduced")


@every_wrap
def test_linen_inside_a_compact_method(wrap, lowered):
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))
            return nn.Dense(2)(x)

    class Inside(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = WRAPS[wrap](nn.Dense(3))(x)
            x = WRAPS[wrap](lambda x: nn.BatchNorm(use_running_average=False)(x))(x)
            return nn.Dense(2)(x)

    class Method(nn.Module):
        @nn.compact
        @jbdot.optimize(lowering=wrap)
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x))
            return nn.Dense(2)(x)

    want = Plain().init_with_output(jax.random.key(0), X)
    for model in (Inside(), Method()):
        same(model.init_with_output(jax.random.key(0), X), want)
        same(WRAPS[wrap](model.init_with_output)(jax.random.key(0), X), want)
        out, _ = jax.jit(lambda variables, x, model=model: model.apply(variables, x, mutable="batch_stats"))(want[1], X)
        same(out, want[0])
    assert bool(lowered) == (wrap == "reduced")


@every_wrap
def test_haiku(wrap, lowered):
    hk = peer("haiku")

    def net(x):
        return hk.Linear(2)(hk.dropout(hk.next_rng_key(), 0.3, hk.nets.MLP([8, 4])(x)))

    plain, ours = hk.transform(net), hk.transform(WRAPS[wrap](net))
    weights = plain.init(jax.random.key(0), X)
    same(ours.init(jax.random.key(0), X), weights)
    same(jax.jit(ours.apply)(weights, jax.random.key(1), X), plain.apply(weights, jax.random.key(1), X))
    assert bool(lowered) == (wrap == "reduced")


@every_wrap
def test_equinox(wrap, lowered):
    eqx = peer("equinox")
    model = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0))

    def loss(model, x):
        return jnp.sum(jax.vmap(model)(x) ** 2)

    want = eqx.filter_jit(eqx.filter_value_and_grad(loss))(model, X)
    same(eqx.filter_jit(WRAPS[wrap](eqx.filter_value_and_grad(loss)))(model, X), want)
    same(eqx.filter_jit(eqx.filter_value_and_grad(WRAPS[wrap](loss)))(model, X), want)
    assert bool(lowered) == (wrap == "reduced")


# A whole program without an edit.


def keras_program():
    keras = peer("keras")
    keras.utils.set_random_seed(0)
    x, y = (RNG_OF_KERAS.normal(size=size).astype("float32") for size in ((32, 6, 4), (32, 3)))
    left, right = keras.Input((6, 4)), keras.Input((4, 5))
    dot = keras.layers.Flatten()(keras.layers.Dot((2, 1))([left, right]))
    model = keras.Model([left, right], keras.layers.Dense(3)(dot))
    model.compile("sgd", "mse")
    other = x[:, :4, :1] * np.ones((1, 1, 5), "float32")
    history = model.fit([x, other], y, epochs=2, batch_size=8, verbose=0, shuffle=False)
    return history.history["loss"], model.predict([x, other], verbose=0)


RNG_OF_KERAS = np.random.default_rng(1)


def numpyro_program():
    numpyro = peer("numpyro")
    from numpyro import distributions
    from numpyro.infer import MCMC, NUTS

    def model(x, y=None):
        weights = numpyro.sample("w", distributions.Normal(jnp.zeros(4), 1).to_event(1))
        numpyro.sample("y", distributions.Normal(x @ weights, 1), obs=y)

    chain = MCMC(NUTS(model), num_warmup=10, num_samples=10, progress_bar=False)
    chain.run(jax.random.key(0), X, X[:, 0])
    return np.asarray(chain.get_samples()["w"]).shape


def haiku_program():
    hk = peer("haiku")
    net = hk.transform(lambda x: hk.nets.MLP([8, 2])(x))
    weights = net.init(jax.random.key(0), X)
    return jax.jit(jax.value_and_grad(lambda weights: jnp.sum(net.apply(weights, None, X) ** 2)))(weights)


@pytest.mark.parametrize("program", [keras_program, numpyro_program, haiku_program])
def test_a_program_gains_without_an_edit(program, everywhere):
    global RNG_OF_KERAS
    RNG_OF_KERAS = np.random.default_rng(1)
    got = program()
    assert everywhere  # its dots were lowered as the process asks
    jbdot.optimize_everything(None)
    everywhere.clear()
    RNG_OF_KERAS = np.random.default_rng(1)
    same(got, program())
    assert not everywhere


def test_keras_layers_as_without_jbdot(lowered):
    keras = peer("keras")
    layer = keras.layers.Dense(3)
    want = np.asarray(layer(X))
    np.testing.assert_array_equal(np.asarray(jbdot.optimize(layer, lowering="direct")(X)), want)
    same(np.asarray(jbdot.optimize(layer, lowering="reduced")(X)), want)
    assert lowered


# Walkers and patches.


def test_qwix_quantizes_the_same_dots():
    qwix = peer("qwix")

    class Model(nn.Module):
        dot: object = lax.dot_general

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, dot_general=self.dot)(x)
            return nn.Dense(2, dot_general=self.dot)(jnp.tanh(x))

    rules = [qwix.QuantizationRule(weight_qtype=jnp.int8, act_qtype=jnp.int8)]
    results = []
    for dot in (lax.dot_general, jbdot.dot_general):
        model = Model(dot=dot)
        quantized = qwix.quantize_model(model, qwix.PtqProvider(rules))
        weights = quantized.init(jax.random.key(0), X)
        jaxpr = str(jax.make_jaxpr(lambda weights, x, q=quantized: q.apply(weights, x))(weights, X))
        results.append((quantized.apply(weights, X), jaxpr.count("dot_general["), jaxpr.count("i8[")))
        optimized = jbdot.optimize(lambda weights, x, q=quantized: q.apply(weights, x), lowering="direct")
        np.testing.assert_array_equal(optimized(weights, X), results[0][0])
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]
    assert results[0][2] > 0


def test_quax():
    quax = peer("quax")
    lora = importlib.import_module("quax.examples.lora")
    value = lora.LoraArray(W, rank=2, stop_gradient=False, key=jax.random.key(0))
    want = quax.quaxify(lambda x, w: x @ w)(X, value)
    same(quax.quaxify(lambda x, w: jbdot.dot(x, w))(X, value), want)
    same(quax.quaxify(jbdot.optimize(lambda x, w: x @ w))(X, value), want)


def test_folx():
    folx = peer("folx")

    def f(x):
        return jnp.sum(jnp.tanh(x[None] @ W) @ W)

    want = folx.forward_laplacian(f)(X[0])
    for g in (jbdot.optimize(f), lambda x: jnp.sum(jbdot.dot(jnp.tanh(jbdot.dot(x[None], W)), W))):
        got = folx.forward_laplacian(g)(X[0])
        same((got.x, got.dense_jacobian, got.laplacian), (want.x, want.dense_jacobian, want.laplacian))


def test_kfac():
    kfac = peer("kfac_jax")

    def loss(weights, batch):
        out = jbdot.dot(jnp.tanh(jbdot.dot(batch, weights[0])), weights[1])
        kfac.register_squared_error_loss(out, jnp.zeros_like(out))
        return jnp.mean(out**2)

    tags = kfac.tag_graph_matcher.auto_register_tags(loss, ([W, W], X)) if hasattr(kfac, "tag_graph_matcher") else None
    assert tags is None or "dense" in str(jax.make_jaxpr(tags)([W, W], X))


def test_diffrax(lowered):
    diffrax = peer("diffrax")

    def solved(w):
        term = diffrax.ODETerm(lambda t, y, _: jnp.tanh(y @ w))
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.25, X).ys.sum()

    want = jax.jit(jax.grad(solved))(W)
    same(jax.jit(jbdot.optimize(jax.grad(solved), lowering="reduced"))(W), want)
    same(jax.jit(jax.grad(jbdot.optimize(solved, lowering="reduced")))(W), want)
    assert lowered


def test_numpyro_in_a_context(lowered):
    peer("numpyro")
    with jbdot.optimize("reduced"):
        assert numpyro_program() == (10, 4)
    assert lowered
    assert mark.of({}) == "direct"
