"""Small training steps of whole programs: a function, and its state and batch as shapes or arrays."""

import functools

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def stepped(loss):
    """A step of gradient descent with momentum."""

    def step(params, momentum, batch):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        momentum = jax.tree.map(lambda m, g: 0.5 * m + g, momentum, gradient)
        return jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum), momentum, value

    return step


def mlp(inner=64, outer=32, samples=32):
    params = [{"w": struct(a, b), "b": struct(b)} for a, b in ((outer, inner), (inner, outer))]

    def loss(params, batch):
        x = jax.nn.relu(batch["x"] @ params[0]["w"] + params[0]["b"])
        return jnp.mean((x @ params[1]["w"] + params[1]["b"] - batch["y"]) ** 2)

    return stepped(loss), params, {"x": struct(samples, outer), "y": struct(samples, outer)}


def norm(x, w):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * w


def attention(p, x):
    h = norm(x, p["norm"])
    q, k, v = (jnp.einsum("bsd,dhk->bshk", h, p[name]) for name in "qkv")
    mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
    a = jax.nn.softmax(jnp.where(mask, jnp.einsum("bshk,bthk->bhst", q, k), -1e9))
    return x + jnp.einsum("bhst,bthk,hkd->bsd", a, v, p["o"])


def feed_forward(p, x):
    return x + jnp.einsum("bsf,fd->bsd", jax.nn.silu(jnp.einsum("bsd,df->bsf", x, p["up"])), p["down"])


def experts(p, x):
    count = p["up"].shape[0]
    gates = jax.nn.softmax(jnp.einsum("bsd,de->bse", x, p["router"]))
    hot = jax.nn.one_hot(jnp.argmax(gates, -1), count)
    place = jax.nn.one_hot(((jnp.cumsum(hot, 1) - 1) * hot).astype(int), 2 * x.shape[1] // count) * hot[..., None]
    given = jnp.einsum("bsec,bsd->ebcd", place, x)
    made = jnp.einsum("ebcf,efd->ebcd", jax.nn.silu(jnp.einsum("ebcd,edf->ebcf", given, p["up"])), p["down"])
    return x + jnp.einsum("bsec,bse,ebcd->bsd", place, gates, made)


def transformer(d=16, heads=4, k=4, f=32, vocabulary=24, layers=2, samples=8, length=8, count=0):
    e = (count,) if count else ()
    layer = {
        "norm": struct(layers, d),
        **{name: struct(layers, d, heads, k) for name in "qkv"},
        "o": struct(layers, heads, k, d),
        "up": struct(layers, *e, d, f),
        "down": struct(layers, *e, f, d),
        **({"router": struct(layers, d, count)} if count else {}),
    }
    params = {"layers": layer, "embedding": struct(vocabulary, d), "out": struct(d, vocabulary)}

    @jax.checkpoint
    def block(x, p):
        return (experts if count else feed_forward)(p, attention(p, x)), None

    def loss(params, batch):
        x = lax.scan(block, params["embedding"][batch["tokens"]], params["layers"])[0]
        logits = x @ params["out"]
        own = jnp.take_along_axis(logits, batch["next"][..., None], -1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - own)

    tokens = struct(samples, length, dtype="int32")
    return stepped(loss), params, {"tokens": tokens, "next": tokens}


def lstm(d=16, h=16, samples=16, length=4):
    params = {"x": struct(d, 4, h), "h": struct(h, 4, h), "b": struct(4, h)}

    def cell(params, state, x):
        hidden, memory = state
        z = jnp.einsum("bd,dgh->gbh", x, params["x"]) + jnp.einsum("bd,dgh->gbh", hidden, params["h"])
        i, f, g, o = z + params["b"][:, None]
        memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)
        return (hidden, memory), hidden

    def loss(params, batch):
        start = jnp.zeros((batch["x"].shape[1], params["h"].shape[0]))
        _, made = lax.scan(functools.partial(cell, params), (start, start), batch["x"])
        return jnp.mean((made - batch["y"]) ** 2)

    return stepped(loss), params, {"x": struct(length, samples, d), "y": struct(length, samples, h)}


def arrays(shapes, seed=0, highest=20):
    """Arrays of these shapes: small random floats, and integers below a number."""
    rng = np.random.default_rng(seed)

    def made(x):
        if jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, highest, x.shape), x.dtype)
        return jnp.asarray(rng.normal(size=x.shape) / 4, x.dtype)

    return jax.tree.map(made, shapes)
