"""Whole programs over a mesh of (data, model), each in the layouts that people give it: what is asked of programs.

A program is a function of its layout, and of sizes, that gives (step, arguments): the arguments are shapes with
NamedShardings, the step is what a user would jit. Sizes are small unless others are given, so that a compiler takes
seconds; `benchmarks.models` has larger ones.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax
from jax import lax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

MESH: Final = {"data": 4, "model": 4}
Made = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a program are.

    Attributes:
        mesh: Of any devices.
        dtype: Of parameters and activations.
        specs: A PartitionSpec for each kind of array, by the program's own names; what does not divide is not cut.
        is_open: Whether arrays that it does not name are the compiler's to place; else they are whole.
        with_adam: Whether steps are of Adam, with parameters in float32; else of plain descent.
    """

    mesh: Mesh | AbstractMesh
    dtype: str
    specs: Mapping[str, P]
    is_open: bool = False
    with_adam: bool = False

    def array(self, kind: str, *shape: int, dtype: Any = None) -> jax.ShapeDtypeStruct:
        """Says what an argument is."""
        is_left = self.is_open and kind not in self.specs
        sharding = None if is_left else self._sharding(kind, shape)
        return jax.ShapeDtypeStruct(shape, dtype or self.dtype, sharding=sharding)

    def kept(self, kind: str, x: Any) -> Any:
        """Constrains an activation, where the layout names it."""
        return lax.with_sharding_constraint(x, self._sharding(kind, x.shape)) if kind in self.specs else x

    def _sharding(self, kind: str, shape: tuple[int, ...]) -> NamedSharding:
        spec = self.specs.get(kind, P())
        cut = [axes if size % self._parts(axes) == 0 else None for size, axes in zip(shape, spec, strict=False)]
        return NamedSharding(self.mesh, P(*cut))

    def _parts(self, axes: Any) -> int:
        return math.prod(self.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))

    def trained(self, loss: Callable[..., Any], params: Any, *data: Any) -> Made:
        """Makes the training step of a loss, and its arguments."""
        if not self.with_adam:
            return descended(loss), (params, *data)
        masters = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float32", sharding=x.sharding), params)
        state = masters, {"first": masters, "second": masters}
        shardings = None if self.is_open else jax.tree.map(lambda x: x.sharding, state)
        step = adam(loss, jax.tree.map(lambda x: x.dtype, params))
        options = {} if shardings is None else {"out_shardings": (*shardings, None)}
        return jax.jit(step, donate_argnums=(0, 1), **options), (*state, *data)


def abstract() -> AbstractMesh:
    """Makes the mesh without devices."""
    return AbstractMesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * len(MESH))


def devices() -> Mesh:
    """Makes the mesh of devices that are here."""
    return jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * len(MESH))


def descended(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a step of gradient descent on the first argument."""

    def step(params: Any, *args: Any) -> Any:
        gradient = jax.grad(loss)(params, *args)
        return jax.tree.map(lambda p, g: p - (0.01 * g).astype(p.dtype), params, gradient)

    return jax.jit(step, donate_argnums=0)


def adam(loss: Callable[..., Any], dtypes: Any) -> Callable[..., Any]:
    """Makes a step of Adam: parameters and both moments in float32, the loss of what they are cast to."""

    def step(params: Any, moments: Any, *data: Any) -> Any:
        def cast(params: Any) -> Any:
            return loss(jax.tree.map(lambda p, dtype: p.astype(dtype), params, dtypes), *data)

        value, gradient = jax.value_and_grad(cast)(params)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments["first"], gradient)
        second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, moments["second"], gradient)
        params = jax.tree.map(lambda p, m, v: p - 1e-3 * m * lax.rsqrt(v + 1e-8), params, first, second)
        return params, {"first": first, "second": second}, value

    return step


def squares(x: Any) -> Any:
    """Sums squares, in float32."""
    return jnp.mean(x.astype(jnp.float32) ** 2)


def mlp(at: Layout, d: int = 512, f: int = 2048, batch: int = 1024) -> Made:
    """Two wide layers."""

    def loss(w: Any, x: Any) -> Any:
        hidden = at.kept("hidden", jax.nn.relu(x @ w["up"]))
        return squares(hidden @ w["down"])

    return at.trained(loss, {"up": at.array("up", d, f), "down": at.array("down", f, d)}, at.array("x", batch, d))


def transformer(at: Layout) -> Made:
    """Three blocks of a decoder in a scan, recomputed in the backward pass, with a head over the vocabulary."""
    d, f, heads, length, batch, words, depth = 256, 1024, 8, 256, 32, 2048, 3

    def block(x: Any, w: Any) -> tuple[Any, None]:
        x = at.kept("x", x)
        q, k, v = (jnp.einsum("bsd,dhe->bshe", x, w[name]) for name in "qkv")
        scores = jnp.einsum("bqhe,bkhe->bhqk", q, k).astype(jnp.float32)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        x = x + jnp.einsum("bhqk,bkhe,hed->bqd", weights, v, w["o"])
        return x + jax.nn.gelu(x @ w["up"]) @ w["down"], None

    def loss(w: Any, tokens: Any) -> Any:
        x = at.kept("x", w["table"][tokens])
        x, _ = lax.scan(jax.checkpoint(block), x, w["blocks"])
        logits = jnp.einsum("bsd,vd->bsv", x, w["table"]).astype(jnp.float32)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1))

    blocks = {
        **{name: at.array("qkv", depth, d, heads, d // heads) for name in "qkv"},
        "o": at.array("o", depth, heads, d // heads, d),
        "up": at.array("up", depth, d, f),
        "down": at.array("down", depth, f, d),
    }
    tokens = at.array("tokens", batch, length, dtype="int32")
    return at.trained(loss, {"blocks": blocks, "table": at.array("table", words, d)}, tokens)


def experts(at: Layout) -> Made:
    """A layer of experts, each of which takes so many of a group's tokens, by one-hot products."""
    groups, tokens, d, f, count, room = 16, 128, 256, 512, 16, 16

    def loss(w: Any, x: Any) -> Any:
        gates = jax.nn.softmax(jnp.einsum("gsd,de->gse", x, w["gate"]).astype(jnp.float32))
        chosen = jax.nn.one_hot(gates.argmax(-1), count)
        place = (jnp.cumsum(chosen, 1) - 1) * chosen
        sent = (chosen[..., None] * jax.nn.one_hot(place.astype(int), room)).astype(x.dtype)  # g s e c
        given = at.kept("given", jnp.einsum("gsec,gsd->egcd", sent, x))
        hidden = jax.nn.relu(jnp.einsum("egcd,edf->egcf", given, w["up"]))
        made = at.kept("given", jnp.einsum("egcf,efd->egcd", hidden, w["down"]))
        weights = sent * gates[..., None].astype(x.dtype)
        return squares(at.kept("x", jnp.einsum("gsec,egcd->gsd", weights, made)))

    params = {
        "gate": at.array("gate", d, count),
        "up": at.array("up", count, d, f),
        "down": at.array("down", count, f, d),
    }
    return at.trained(loss, params, at.array("x", groups, tokens, d))


def lstm(at: Layout, width: int = 256, steps: int = 64, batch: int = 64) -> Made:
    """A recurrent layer."""

    def loss(w: Any, x: Any) -> Any:
        def cell(state: Any, now: Any) -> tuple[Any, Any]:
            h, c = state
            i, f, g, o = jnp.split(now @ w["in"] + h @ w["back"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((batch, width), x.dtype)
        return squares(lax.scan(cell, (zero, zero), x)[1])

    params = {"in": at.array("in", width, 4 * width), "back": at.array("back", width, 4 * width)}
    return at.trained(loss, params, at.array("x", steps, batch, width))


def decode(at: Layout) -> Made:
    """One token of each sequence, against a cache of keys and values."""
    d, heads, length, batch = 512, 16, 1024, 32

    def step(w: Any, cache: Any, x: Any, at_step: Any) -> Any:
        q, k, v = (jnp.einsum("bd,dhe->bhe", x, w[name]) for name in "qkv")
        keys = lax.dynamic_update_slice_in_dim(cache["k"], k[:, None], at_step, 1)
        values = lax.dynamic_update_slice_in_dim(cache["v"], v[:, None], at_step, 1)
        scores = jnp.einsum("bhe,bshe->bhs", q, keys).astype(jnp.float32)
        scores = jnp.where(jnp.arange(length) <= at_step, scores, -1e9)
        made = jnp.einsum("bhs,bshe->bhe", jax.nn.softmax(scores).astype(x.dtype), values)
        return jnp.einsum("bhe,hed->bd", made, w["o"]), {"k": keys, "v": values}

    params = {name: at.array("qkv", d, heads, d // heads) for name in "qkv"} | {
        "o": at.array("o", heads, d // heads, d)
    }
    cache = {name: at.array("cache", batch, length, heads, d // heads) for name in "kv"}
    return jax.jit(step, donate_argnums=1), (
        params,
        cache,
        at.array("x", batch, d),
        at.array("step", dtype="int32"),
    )


def retrieval(at: Layout, d: int = 128, count: int = 16384, batch: int = 256) -> Made:
    """Queries against a corpus that is cut over devices; the best of each row."""

    def best(queries: Any, corpus: Any) -> Any:
        scores = jnp.einsum("qd,nd->qn", queries, corpus)
        return scores.max(-1), jax.nn.softmax(scores.astype(jnp.float32)) @ corpus.astype(jnp.float32)

    return jax.jit(best), (at.array("queries", batch, d), at.array("corpus", count, d))


def unet(at: Layout, channels: int = 16, side: int = 32, batch: int = 32) -> Made:
    """Down, across and up again by convolutions, with a skip."""

    def conv(x: Any, w: Any, stride: int = 1) -> Any:
        return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def loss(w: Any, x: Any) -> Any:
        first = jax.nn.relu(conv(x, w["in"]))
        low = jax.nn.relu(conv(first, w["down"], 2))
        low = jax.nn.relu(conv(low, w["across"]))
        high = jnp.repeat(jnp.repeat(low, 2, 1), 2, 2)
        return squares(conv(jnp.concatenate([high, first], -1), w["out"]))

    params = {
        "in": at.array("w", 3, 3, channels, 4 * channels),
        "down": at.array("w", 3, 3, 4 * channels, 8 * channels),
        "across": at.array("w", 3, 3, 8 * channels, 8 * channels),
        "out": at.array("w", 3, 3, 12 * channels, channels),
    }
    return at.trained(loss, params, at.array("x", batch, side, side, channels))


def graph(at: Layout, nodes: int = 2048, edges: int = 8192, d: int = 128) -> Made:
    """Messages along edges: a gather of nodes, a layer, a sum for each node."""

    def loss(w: Any, x: Any, ends: Any) -> Any:
        for layer in ("first", "second"):
            message = jax.nn.relu(jnp.concatenate([x[ends[0]], x[ends[1]]], -1) @ w[layer])
            x = x + jax.ops.segment_sum(message, ends[1], nodes)
        return squares(x)

    params = {name: at.array("w", 2 * d, d) for name in ("first", "second")}
    return at.trained(loss, params, at.array("x", nodes, d), at.array("ends", 2, edges, dtype="int32"))


_BLOCKS: Final = {  # of a transformer: [layers, in, out]
    "data parallel": {"tokens": P("data")},
    "FSDP": {
        "tokens": P(("data", "model")),
        "qkv": P(None, ("data", "model")),
        "o": P(None, None, None, ("data", "model")),
        "up": P(None, ("data", "model")),
        "down": P(None, None, ("data", "model")),
        "table": P(("data", "model")),
    },
    "tensor": {
        "tokens": P("data"),
        "qkv": P(None, None, "model"),
        "o": P(None, "model"),
        "up": P(None, None, "model"),
        "down": P(None, "model"),
        "table": P("model"),
    },
    "FSDP x tensor": {
        "tokens": P("data"),
        "qkv": P(None, "data", "model"),
        "o": P(None, "model", None, "data"),
        "up": P(None, "data", "model"),
        "down": P(None, "model", "data"),
        "table": P("model", "data"),
        "x": P("data"),
    },
    "sequence": {
        "tokens": P("data"),
        "qkv": P(None, None, "model"),
        "o": P(None, "model"),
        "up": P(None, None, "model"),
        "down": P(None, "model"),
        "table": P("model"),
        "x": P("data", "model"),
    },
}

PROGRAMS: Final[dict[str, tuple[Callable[[Layout], Made], dict[str, dict[str, P]]]]] = {
    "MLP": (
        mlp,
        {
            "data parallel": {"x": P(("data", "model"))},
            "FSDP": {"x": P(("data", "model")), "up": P(("data", "model")), "down": P(None, ("data", "model"))},
            "FSDP x tensor": {"x": P("data"), "up": P("data", "model"), "down": P("model", "data")},
        },
    ),
    "transformer": (transformer, _BLOCKS),
    "experts": (
        experts,
        {
            "expert parallel": {
                "x": P("data"),
                "up": P("data", None, "model"),
                "down": P("data", "model"),
                "given": P("data"),
            },
            "experts over both": {
                "x": P(("data", "model")),
                "up": P(("data", "model")),
                "down": P(("data", "model")),
                "given": P(("data", "model")),
            },
        },
    ),
    "LSTM": (
        lstm,
        {
            "data parallel": {"x": P(None, ("data", "model"))},
            "tensor": {"x": P(None, "data"), "in": P(None, "model"), "back": P(None, "model")},
        },
    ),
    "decode": (
        decode,
        {
            "heads": {
                "x": P("data"),
                "cache": P("data", None, "model"),
                "qkv": P(None, "model"),
                "o": P("model"),
            },
            "long cache": {"cache": P("data", "model"), "x": P("data")},
        },
    ),
    "retrieval": (
        retrieval,
        {"corpus cut": {"corpus": P(("data", "model"))}, "both cut": {"queries": P("data"), "corpus": P("model")}},
    ),
    "U-Net": (
        unet,
        {
            "data parallel": {"x": P(("data", "model"))},
            "channels": {"x": P("data"), "w": P(None, None, None, "model")},
        },
    ),
    "graph": (
        graph,
        {"edges cut": {"ends": P(None, ("data", "model"))}, "nodes cut": {"x": P("data"), "w": P(None, "model")}},
    ),
}
