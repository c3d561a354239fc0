"""Models at the sizes that people train, and how they would lay them out by hand (`python -m benchmarks.programs`).

A model is a program of `benchmarks.sharded`, or one of those below, with sizes that are large and sizes that are tiny,
and a PartitionSpec for each kind of array in each layout. Layers are scanned, and recomputed in the backward pass.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax
from jax import lax
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P

from benchmarks import sharded
from benchmarks.sharded import Layout, Made

MESHES: Final = {
    "v5e:4x4": {"data": 4, "model": 4},
    "v6e:4x4": {"data": 4, "model": 4},
    "v5p:4x4x4": {"data": 4, "model": 16},
    "v5e:16x16": {"data": 16, "model": 16},
}
BOTH: Final = ("data", "model")
Sizes = dict[str, int]


# Parts of transformers. Weights of stacked layers are of kinds that say what they multiply.


def norm(x: Any, scale: Any) -> Any:
    """Divides by the root of the mean square, in float32."""
    wide = x.astype(jnp.float32)
    return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale


def attend(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """Attends: several heads of queries share one of keys and values."""
    b, s, heads, e = q.shape
    grouped = q.reshape(b, s, k.shape[2], heads // k.shape[2], e)
    scores = jnp.einsum("bqhge,bkhe->bhgqk", grouped, k).astype(jnp.float32) * e**-0.5
    scores = scores if mask is None else jnp.where(mask, scores, -1e9)
    weights = jax.nn.softmax(scores).astype(q.dtype)
    return jnp.einsum("bhgqk,bkhe->bqhge", weights, v).reshape(q.shape)


def attention(w: Any, x: Any, other: Any = None, causal: bool = True) -> Any:
    """Attends to itself, or to another sequence."""
    y = norm(x, w["norm"])
    source = y if other is None else other
    q = jnp.einsum("bsd,dhe->bshe", y, w["q"])
    k, v = (jnp.einsum("bsd,dhe->bshe", source, w[name]) for name in "kv")
    mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool)) if causal else None
    return x + jnp.einsum("bshe,hed->bsd", attend(q, k, v, mask), w["o"])


def feed_forward(w: Any, x: Any) -> Any:
    """Goes through two gated layers."""
    y = norm(x, w["norm"])
    return x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]


def mixture(at: Layout, w: Any, x: Any) -> Any:
    """Sends each token to one of several experts, which take so many of each sequence."""
    count = w["router"].shape[-1]
    room = 2 * x.shape[1] // count
    y = norm(x, w["norm"])
    gates = jax.nn.softmax(jnp.einsum("bsd,de->bse", y, w["router"]).astype(jnp.float32))
    chosen = jax.nn.one_hot(gates.argmax(-1), count)
    place = ((jnp.cumsum(chosen, 1) - 1) * chosen).astype(int)
    sent = (chosen[..., None] * jax.nn.one_hot(place.sum(-1), room)[:, :, None]).astype(x.dtype)  # b s e c
    given = at.kept("given", jnp.einsum("bsec,bsd->ebcd", sent, y))
    hidden = jax.nn.silu(jnp.einsum("ebcd,edf->ebcf", given, w["up"]))
    made = at.kept("given", jnp.einsum("ebcf,efd->ebcd", hidden, w["down"]))
    return x + jnp.einsum("bsec,ebcd->bsd", sent * gates[..., None].astype(x.dtype), made)


def attention_weights(at: Layout, depth: int, d: int, heads: int, kv: int) -> Any:
    """Says what a stack of layers of attention has."""
    e = d // heads
    return {
        "norm": at.array("norm", depth, d),
        "q": at.array("q", depth, d, heads, e),
        "k": at.array("kv", depth, d, kv, e),
        "v": at.array("kv", depth, d, kv, e),
        "o": at.array("o", depth, heads, e, d),
    }


def feed_forward_weights(at: Layout, depth: int, d: int, f: int) -> Any:
    """Says what a stack of gated layers has."""
    ups = {name: at.array("up", depth, d, f) for name in ("gate", "up")}
    return {"norm": at.array("norm", depth, d), **ups, "down": at.array("down", depth, f, d)}


def cross_entropy(logits: Any, tokens: Any) -> Any:
    """Takes the mean of what the right tokens are given, in float32."""
    logits = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(logits, tokens[..., None], -1))


# The models.


def decoder(
    at: Layout, d: int, f: int, heads: int, kv: int, length: int, batch: int, words: int, depth: int, experts: int = 0
) -> Made:
    """A decoder of text: attention with shared heads of keys, and a gated layer or experts."""

    @jax.checkpoint
    def block(x: Any, w: Any) -> Any:
        x = attention(w["attention"], at.kept("x", x))
        return at.kept("x", mixture(at, w["rest"], x) if experts else feed_forward(w["rest"], x)), None

    def loss(w: Any, tokens: Any) -> Any:
        x, _ = lax.scan(block, at.kept("x", w["table"][tokens]), w["blocks"])
        return cross_entropy(norm(x, w["norm"]) @ w["head"], tokens)

    moe = {
        "norm": at.array("norm", depth, d),
        "router": at.array("norm", depth, d, experts),
        "up": at.array("expert up", depth, experts, d, f),
        "down": at.array("expert down", depth, experts, f, d),
    }
    blocks = {
        "attention": attention_weights(at, depth, d, heads, kv),
        "rest": moe if experts else feed_forward_weights(at, depth, d, f),
    }
    ends = {"table": at.array("table", words, d), "head": at.array("head", d, words), "norm": at.array("norm", d)}
    return at.trained(loss, {"blocks": blocks, **ends}, at.array("tokens", batch, length, dtype="int32"))


def translator(at: Layout, d: int, f: int, heads: int, length: int, batch: int, words: int, depth: int) -> Made:
    """An encoder, and a decoder that attends to what it gives."""

    @jax.checkpoint
    def encode(x: Any, w: Any) -> Any:
        return feed_forward(w["rest"], attention(w["attention"], at.kept("x", x), causal=False)), None

    def loss(w: Any, source: Any, tokens: Any) -> Any:
        encoded, _ = lax.scan(encode, at.kept("x", w["table"][source]), w["encoder"])

        @jax.checkpoint
        def decode(x: Any, w: Any) -> Any:
            x = attention(w["attention"], at.kept("x", x))
            return feed_forward(w["rest"], attention(w["cross"], x, encoded, causal=False)), None

        x, _ = lax.scan(decode, at.kept("x", w["table"][tokens]), w["decoder"])
        return cross_entropy(jnp.einsum("bsd,vd->bsv", x, w["table"]), tokens)

    encoder = {
        "attention": attention_weights(at, depth, d, heads, heads),
        "rest": feed_forward_weights(at, depth, d, f),
    }
    crossed = {**encoder, "cross": attention_weights(at, depth, d, heads, heads)}
    params = {"encoder": encoder, "decoder": crossed, "table": at.array("table", words, d)}
    return at.trained(loss, params, *(at.array("tokens", batch, length, dtype="int32") for _ in range(2)))


def vit(at: Layout, d: int, f: int, heads: int, side: int, patch: int, batch: int, classes: int, depth: int) -> Made:
    """A transformer over patches of images."""
    count = side // patch

    @jax.checkpoint
    def block(x: Any, w: Any) -> Any:
        return feed_forward(w["rest"], attention(w["attention"], at.kept("x", x), causal=False)), None

    def loss(w: Any, images: Any, wanted: Any) -> Any:
        cut = images.reshape(batch, count, patch, count, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = cut.reshape(batch, count * count, patch * patch * 3) @ w["patch"] + w["place"]
        x, _ = lax.scan(block, x, w["blocks"])
        return cross_entropy(norm(x.mean(1), w["norm"]) @ w["head"], wanted)

    params = {
        "blocks": {
            "attention": attention_weights(at, depth, d, heads, heads),
            "rest": feed_forward_weights(at, depth, d, f),
        },
        "patch": at.array("patch", patch * patch * 3, d),
        "place": at.array("norm", count * count, d),
        "norm": at.array("norm", d),
        "head": at.array("head", d, classes),
    }
    images = at.array("tokens", batch, side, side, 3)
    return at.trained(loss, params, images, at.array("tokens", batch, dtype="int32"))


def decode(at: Layout, d: int, f: int, heads: int, kv: int, length: int, batch: int, depth: int) -> Made:
    """One token of each sequence through all layers, against caches of keys and values."""

    def layer(x: Any, given: Any) -> Any:
        w, cache, now = given
        y = norm(x, w["attention"]["norm"])
        q, k, v = (jnp.einsum("bd,dhe->bhe", y, w["attention"][name]) for name in "qkv")
        keys = lax.dynamic_update_slice_in_dim(cache["k"], k[:, None], now, 1)
        values = lax.dynamic_update_slice_in_dim(cache["v"], v[:, None], now, 1)
        made = attend(q[:, None], keys, values, jnp.arange(length) <= now)[:, 0]
        x = x + jnp.einsum("bhe,hed->bd", made, w["attention"]["o"])
        return feed_forward(w["rest"], x), {"k": keys, "v": values}

    def step(w: Any, cache: Any, x: Any, now: Any) -> Any:
        return lax.scan(lambda x, given: layer(x, (*given, now)), x, (w, cache))

    params = {
        "attention": attention_weights(at, depth, d, heads, kv),
        "rest": feed_forward_weights(at, depth, d, f),
    }
    cache = {name: at.array("cache", depth, batch, length, kv, d // heads) for name in "kv"}
    out = None if at.is_open else (at.array("x", batch, d).sharding, jax.tree.map(lambda x: x.sharding, cache))
    options = {} if out is None else {"out_shardings": out}
    return jax.jit(step, donate_argnums=1, **options), (
        params,
        cache,
        at.array("x", batch, d),
        at.array("now", dtype="int32"),
    )


def capsules(at: Layout, lower: int, upper: int, width: int, out: int, batch: int) -> Made:
    """Routes between two layers of capsules by agreement, three times."""

    def squash(s: Any) -> Any:
        norm = jnp.sum(s * s, -1, keepdims=True)
        return s * lax.rsqrt(norm + 1e-6) * norm / (1 + norm)

    def loss(w: Any, x: Any, wanted: Any) -> Any:
        hat = at.kept("hat", jnp.einsum("bik,jiok->bjio", x, w["w"]))
        logits = jnp.zeros(hat.shape[:3], jnp.float32)
        for _ in range(3):
            c = jax.nn.softmax(logits, 1).astype(hat.dtype)
            v = squash(jnp.einsum("bji,bjio->bjo", c, hat))
            logits = logits + jnp.einsum("bjo,bjio->bji", v, hat).astype(jnp.float32)
        lengths = jnp.sqrt(jnp.sum(v.astype(jnp.float32) ** 2, -1) + 1e-6)
        return jnp.mean((lengths - jax.nn.one_hot(wanted, upper)) ** 2)

    params = {"w": at.array("w", upper, lower, out, width)}
    return at.trained(loss, params, at.array("x", batch, lower, width), at.array("x", batch, dtype="int32"))


# How people lay them out.

_CUT: Final = {  # the layout of parameters in a transformer: what FSDP cuts, and what tensor parallel does
    "q": (1, 2),
    "kv": (1, 2),
    "o": (3, 1),
    "up": (1, 2),
    "down": (2, 1),
    "table": (1, 0),
    "head": (0, 1),
    "patch": (1, None),
    "expert up": (2, 3),
    "expert down": (3, 2),
}


def _weights(fsdp: Any = None, tensor: Any = None, experts: Any = None) -> dict[str, P]:
    """Writes the specs of a transformer's weights."""
    found: dict[str, P] = {}
    for kind, (at_rest, in_use) in _CUT.items():
        spec: list[Any] = [None] * (1 + max(x for x in (at_rest, in_use, 0) if x is not None))
        if in_use is not None and not (experts and kind.startswith("expert")):
            spec[in_use] = tensor
        if not (experts == fsdp and kind.startswith("expert")):
            spec[at_rest] = fsdp
        if experts and kind.startswith("expert"):
            spec[1] = experts
        found[kind] = P(*spec)
    return found


_TRANSFORMER: Final = {
    "batch alone": {"tokens": P(BOTH)},
    "data parallel": {"tokens": P(BOTH), "x": P(BOTH)},
    "FSDP": {"tokens": P(BOTH), "x": P(BOTH), **_weights(fsdp=BOTH)},
    "tensor": {"tokens": P("data"), "x": P("data"), **_weights(tensor="model")},
    "FSDP x tensor": {"tokens": P("data"), "x": P("data"), **_weights(fsdp="data", tensor="model")},
    "sequence x tensor": {"tokens": P("data"), "x": P("data", "model"), **_weights(fsdp="data", tensor="model")},
}
_LONG: Final = {
    **{name: _TRANSFORMER[name] for name in ("tensor", "FSDP x tensor", "sequence x tensor")},
    "batch alone": {"tokens": P("data")},
    "data parallel": {"tokens": P("data"), "x": P("data")},
    "FSDP, sequence": {"tokens": P("data", "model"), "x": P("data", "model"), **_weights(fsdp=BOTH)},
}
_EXPERTS: Final = {
    **{name: _TRANSFORMER[name] for name in ("batch alone", "data parallel", "FSDP", "FSDP x tensor")},
    "experts": {"tokens": P(BOTH), "x": P(BOTH), "given": P("model", "data"), **_weights(BOTH, experts="model")}
    | {"expert up": P(None, "model", "data"), "expert down": P(None, "model", None, "data")},
    "experts x tensor": {
        "tokens": P("data"),
        "x": P("data"),
        "given": P("model", "data"),
        **_weights("data", "model", experts="model"),
    },
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, its sizes, and its layouts.

    Attributes:
        make: Gives the step and its arguments.
        sizes: As people have them; those in `each` are of one device.
        tiny: For a test.
        layouts: A PartitionSpec for each kind of array; "batch alone" leaves all else to the compiler.
        tutorial: The layout that a tutorial has for it, if one has.
        on: Two topologies that it is planned for.
        each: Sizes that grow with the mesh.
    """

    make: Callable[..., Made]
    sizes: Sizes
    tiny: Sizes
    layouts: Mapping[str, Mapping[str, P]]
    tutorial: str
    on: tuple[str, str]
    each: tuple[str, ...] = ("batch",)

    def at(self, mesh: Mapping[str, int]) -> Sizes:
        """Gives the sizes on a mesh."""
        devices = math.prod(mesh.values())
        return {name: size * (devices if name in self.each else 1) for name, size in self.sizes.items()}


_TINY: Final = {"d": 32, "f": 64, "heads": 4, "length": 16, "batch": 16, "depth": 2}

MODELS: Final = {
    "decoder, 1B": Model(
        decoder,
        {"d": 2048, "f": 8192, "heads": 16, "kv": 4, "length": 2048, "batch": 4, "words": 32768, "depth": 16},
        {**_TINY, "kv": 2, "words": 64},
        _TRANSFORMER,
        "FSDP",
        ("v5e:4x4", "v6e:4x4"),
    ),
    "decoder, 7B": Model(
        decoder,
        {"d": 4096, "f": 14336, "heads": 32, "kv": 8, "length": 4096, "batch": 1, "words": 32768, "depth": 32},
        {**_TINY, "kv": 2, "words": 64, "depth": 3},
        _TRANSFORMER,
        "FSDP x tensor",
        ("v5e:4x4", "v5e:16x16"),
    ),
    "long context": Model(
        decoder,
        {"d": 2048, "f": 8192, "heads": 16, "kv": 16, "length": 8192, "batch": 4, "words": 32768, "depth": 8},
        {**_TINY, "kv": 4, "words": 64, "batch": 4},
        _LONG,
        "sequence x tensor",
        ("v5e:4x4", "v5p:4x4x4"),
        (),
    ),
    "experts": Model(
        decoder,
        {"d": 2048, "f": 4096, "heads": 16, "kv": 16, "length": 2048, "batch": 2, "words": 32768, "depth": 8}
        | {"experts": 16},
        {**_TINY, "kv": 4, "words": 64, "experts": 4},
        _EXPERTS,
        "experts",
        ("v5e:4x4", "v5p:4x4x4"),
    ),
    "encoder-decoder": Model(
        translator,
        {"d": 1024, "f": 4096, "heads": 16, "length": 1024, "batch": 8, "words": 32768, "depth": 12},
        {**_TINY, "words": 64},
        _TRANSFORMER,
        "FSDP x tensor",
        ("v5e:4x4", "v6e:4x4"),
    ),
    "ViT": Model(
        vit,
        {"d": 1280, "f": 5120, "heads": 16, "side": 256, "patch": 16, "batch": 32, "classes": 1024, "depth": 32},
        {"d": 32, "f": 64, "heads": 4, "side": 16, "patch": 4, "batch": 16, "classes": 16, "depth": 2},
        _TRANSFORMER,
        "data parallel",
        ("v5e:4x4", "v6e:4x4"),
    ),
    "MLP": Model(
        sharded.mlp,
        {"d": 8192, "f": 32768, "batch": 4096},
        {"d": 32, "f": 64, "batch": 32},
        {
            "batch alone": {"x": P(BOTH)},
            "data parallel": {"x": P(BOTH), "hidden": P(BOTH)},
            "FSDP": {"x": P(BOTH), "hidden": P(BOTH), "up": P(BOTH), "down": P(None, BOTH)},
            "tensor": {"x": P("data"), "hidden": P("data", "model"), "up": P(None, "model"), "down": P("model")},
            "FSDP x tensor": {"x": P("data"), "hidden": P("data", "model"), "up": P("data", "model")}
            | {"down": P("model", "data")},
        },
        "FSDP x tensor",
        ("v5e:4x4", "v5e:16x16"),
    ),
    "U-Net": Model(
        sharded.unet,
        {"channels": 64, "side": 128, "batch": 16},
        {"channels": 8, "side": 8, "batch": 16},
        {
            "batch alone": {"x": P(BOTH)},
            "data parallel": {"x": P(BOTH)},
            "FSDP": {"x": P(BOTH), "w": P(None, None, None, BOTH)},
            "channels": {"x": P("data"), "w": P(None, None, None, "model")},
        },
        "",
        ("v5e:4x4", "v6e:4x4"),
    ),
    "graph": Model(
        sharded.graph,
        {"nodes": 65536, "edges": 524288, "d": 512},
        {"nodes": 64, "edges": 256, "d": 16},
        {
            "batch alone": {"ends": P(None, BOTH)},
            "data parallel": {"ends": P(None, BOTH), "x": P()},
            "nodes": {"ends": P(None, BOTH), "x": P(BOTH)},
            "tensor": {"ends": P(None, "data"), "w": P(None, "model")},
            "features": {"ends": P(None, "data"), "x": P(None, "model"), "w": P(None, "model")},
        },
        "",
        ("v5e:4x4", "v5p:4x4x4"),
        (),
    ),
    "retrieval": Model(
        sharded.retrieval,
        {"d": 512, "count": 1 << 22, "batch": 1024},
        {"d": 16, "count": 256, "batch": 32},
        {
            "batch alone": {"queries": P(BOTH)},
            "data parallel": {"queries": P(BOTH), "corpus": P()},
            "corpus cut": {"corpus": P(BOTH)},
            "both cut": {"queries": P("data"), "corpus": P("model")},
        },
        "",
        ("v5e:4x4", "v6e:4x4"),
        (),
    ),
    "LSTM": Model(
        sharded.lstm,
        {"width": 2048, "steps": 128, "batch": 128},
        {"width": 16, "steps": 4, "batch": 32},
        {
            "batch alone": {"x": P(None, BOTH)},
            "data parallel": {"x": P(None, BOTH)},
            "FSDP": {"x": P(None, BOTH), "in": P(BOTH), "back": P(BOTH)},
            "tensor": {"x": P(None, "data"), "in": P(None, "model"), "back": P(None, "model")},
            "FSDP x tensor": {"x": P(None, "data"), "in": P("data", "model"), "back": P("data", "model")},
        },
        "data parallel",
        ("v5e:4x4", "v6e:4x4"),
    ),
    "decoding": Model(
        decode,
        {"d": 4096, "f": 14336, "heads": 32, "kv": 8, "length": 8192, "batch": 4, "depth": 8},
        {"d": 32, "f": 64, "heads": 4, "kv": 2, "length": 16, "batch": 16, "depth": 2},
        {
            "batch alone": {"x": P(BOTH), "cache": P(None, BOTH)},
            "data parallel": {"x": P(BOTH), "cache": P(None, BOTH)},
            "tensor": {"x": P("data"), "cache": P(None, "data", None, "model"), **_weights(tensor="model")},
            "FSDP x tensor": {"x": P("data"), "cache": P(None, "data", None, "model")} | _weights("data", "model"),
            "long cache": {"x": P("data"), "cache": P(None, "data", "model"), **_weights(tensor="model")},
        },
        "",
        ("v5e:4x4", "v5p:4x4x4"),
    ),
    "capsules": Model(
        capsules,
        {"lower": 2048, "upper": 32, "width": 16, "out": 16, "batch": 64},
        {"lower": 32, "upper": 8, "width": 4, "out": 4, "batch": 16},
        {
            "batch alone": {"x": P(BOTH)},
            "data parallel": {"x": P(BOTH)},
            "FSDP": {"x": P(BOTH), "w": P(None, BOTH)},
            "tensor": {"x": P("data"), "w": P("model"), "hat": P("data", "model")},
        },
        "",
        ("v5e:4x4", "v5e:16x16"),
    ),
}


_MEDIUM: Final = {"d": 512, "f": 1024, "heads": 8, "length": 256, "batch": 32, "words": 2048, "depth": 2}
_IMAGES: Final = {"side": 128, "patch": 16, "batch": 64, "classes": 1024, "depth": 2}
# Sizes on 16 devices that are compiled in seconds (`python -m benchmarks.communication --others`).
MEDIUM: Final[dict[str, Sizes]] = {
    "decoder, 1B": {**_MEDIUM, "kv": 4},
    "experts": {**_MEDIUM, "kv": 8, "experts": 16},
    "encoder-decoder": _MEDIUM,
    "ViT": {"d": 512, "f": 1024, "heads": 8, **_IMAGES},
    "capsules": {"lower": 256, "upper": 32, "width": 16, "out": 16, "batch": 128},
    "decoding": {"d": 512, "f": 1024, "heads": 8, "kv": 4, "length": 512, "batch": 64, "depth": 2},
}


def made(name: str, mesh: Any, layout: str = "", sizes: Sizes | None = None, dtype: str = "bfloat16") -> Made:
    """Gives the step of a model and its arguments: in a layout, or with nothing said of where they are."""
    model = MODELS[name]
    at = Layout(mesh, dtype, model.layouts[layout] if layout else {}, layout in ("", "batch alone"), with_adam=True)
    return model.make(at, **(sizes or model.at(dict(mesh.shape))))
