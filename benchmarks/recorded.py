"""Twenty programs as people write them, none of which heard of jbdot: what `jbdot.optimize` is measured on.

Each is a function of nothing that gives (function, operands): the function is to be jitted, operands are drawn standard
normal from one seed, scaled so that results stay in range. A call takes 1 to some 100 ms on 2 cores.
"""

from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def drawn(*shapes: tuple[int, ...], dtype: str = "float32") -> tuple[jax.Array, ...]:
    """Arrays standard normal, each divided by the root of its size before the last axis."""
    rng = np.random.default_rng(0)
    return tuple(
        jnp.asarray(rng.standard_normal(shape, np.float32) / (shape[-2] if len(shape) > 1 else 1) ** 0.5, dtype)
        for shape in shapes
    )


def descended(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A step of gradient descent on the first argument."""

    def step(params: Any, *args: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, *args)
        return value, jax.tree.map(lambda p, g: p - (0.01 * g).astype(p.dtype), params, gradient)

    return step


def attend(q: Any, k: Any, v: Any) -> Any:
    """Attention, heads beside the features."""
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def block(params: Any, x: Any) -> Any:
    """A transformer block of 4 heads without normalization."""
    wq, wk, wv, wo, up, down = params
    q, k, v = (jnp.einsum("btm,mhd->bthd", x, w.reshape(w.shape[0], 4, -1)) for w in (wq, wk, wv))
    x = x + jnp.einsum("bthd,hdm->btm", attend(q, k, v), wo.reshape(4, -1, wo.shape[-1]))
    return x + jax.nn.gelu(x @ up) @ down


def transformer(dtype: str) -> Program:
    """A training step of two blocks."""
    shapes = [(128, 128)] * 4 + [(128, 512), (512, 128)]
    params = [drawn(*shapes, dtype=dtype)] * 2

    def loss(params: Any, x: Any) -> Any:
        for one in params:
            x = block(one, x)
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    return descended(loss), (params, *drawn((8, 64, 128), dtype=dtype))


def mlp() -> Program:
    """A training step of a perceptron of four layers."""

    def loss(params: Any, x: Any) -> Any:
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean(jnp.square(x))

    return descended(loss), (drawn(*[(256, 256)] * 4), *drawn((512, 256)))


def lora() -> Program:
    """A training step of low-rank adapters beside a frozen matrix."""

    def loss(params: Any, w: Any, x: Any) -> Any:
        a, b = params
        return jnp.mean(jnp.square(x @ w + x @ a @ b))

    return descended(loss), (drawn((512, 8), (8, 512)), *drawn((512, 512), (1024, 512)))


def recurrent() -> Program:
    """Gradients of a recurrent network over 64 steps."""

    def loss(params: Any, xs: Any) -> Any:
        w, u = params
        state, _ = lax.scan(lambda h, x: (jnp.tanh(h @ w + x @ u), None), jnp.zeros((32, 128)), xs)
        return jnp.mean(jnp.square(state))

    return descended(loss), (drawn((128, 128), (64, 128)), *drawn((64, 32, 64)))


def gated() -> Program:
    """Gradients of a gated recurrent unit, mapped over its batch."""

    def cell(params: Any, h: Any, x: Any) -> Any:
        wz, uz, wh, uh = params
        z = jax.nn.sigmoid(h @ wz + x @ uz)
        return (1 - z) * h + z * jnp.tanh(h @ wh + x @ uh)

    def one(params: Any, xs: Any) -> Any:
        return lax.scan(lambda h, x: (cell(params, h, x), None), jnp.zeros(64), xs)[0]

    def loss(params: Any, xs: Any) -> Any:
        return jnp.mean(jnp.square(jax.vmap(one, (None, 0))(params, xs)))

    return descended(loss), (drawn((64, 64), (32, 64), (64, 64), (32, 64)), *drawn((64, 32, 32)))


def capsules() -> Program:
    """Routing between capsules, three rounds."""

    def route(w: Any, u: Any) -> Any:
        hat = jnp.einsum("ijdk,bik->bjid", w, u)
        logits = jnp.zeros(hat.shape[:3])
        for _ in range(3):
            v = jnp.einsum("bji,bjid->bjd", jax.nn.softmax(logits, 1), hat)
            v = v / (1 + jnp.linalg.norm(v, axis=-1, keepdims=True))
            logits = logits + jnp.einsum("bjd,bjid->bji", v, hat)
        return v

    return descended(lambda w, u: jnp.mean(jnp.square(route(w, u)))), drawn((288, 10, 16, 8), (16, 288, 8))


def decode() -> Program:
    """One token of decoding with a cache of keys and values in bfloat16."""

    def step(q: Any, keys: Any, values: Any) -> Any:
        weights = jax.nn.softmax(jnp.einsum("bhd,bshd->bhs", q, keys))
        return jnp.einsum("bhs,bshd->bhd", weights, values)

    return step, drawn((8, 12, 64), (8, 1024, 12, 64), (8, 1024, 12, 64), dtype="bfloat16")


def kalman() -> Program:
    """4,096 Kalman filters of four states, over 16 steps."""

    def filtered(p: Any, x: Any, f: Any, z: Any) -> Any:
        def step(carry: Any, z: Any) -> Any:
            x, p = carry
            x, p = f @ x, f @ p @ f.T + 0.01 * jnp.eye(4)
            gain = p / (1 + jnp.trace(p))
            return (x + gain @ (z - x), p - gain @ p), None

        return lax.scan(step, (x, p), z)[0]

    p, x, f, z = drawn((4096, 4, 4), (4096, 4), (4096, 4, 4), (4096, 16, 4))
    return jax.vmap(filtered), (p @ p.swapaxes(1, 2), x, f / 2, z)


def factorized() -> Program:
    """A gradient step of matrix factorization."""

    def loss(params: Any, ratings: Any) -> Any:
        users, items = params
        return jnp.mean(jnp.square(users @ items.T - ratings))

    return descended(loss), (drawn((1024, 32), (768, 32)), *drawn((1024, 768)))


def power() -> Program:
    """Power iteration on a covariance."""

    def iterate(x: Any, v: Any) -> Any:
        covariance = x.T @ x
        return lax.fori_loop(0, 20, lambda _, v: jnp.linalg.qr(covariance @ v)[0], v)

    return iterate, drawn((2048, 256), (256, 8))


def gaussian() -> Program:
    """The gradient of a Gaussian process' marginal likelihood."""

    def loss(scale: Any, x: Any, y: Any) -> Any:
        square = jnp.sum(x * x, 1)
        kernel = jnp.exp(-(scale[0] ** 2) * (square[:, None] + square[None] - 2 * x @ x.T)) + 0.1 * jnp.eye(len(x))
        factor = jnp.linalg.cholesky(kernel)
        solved = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return jnp.sum(solved**2) + jnp.sum(jnp.log(jnp.diag(factor)))

    return jax.value_and_grad(loss), drawn((1,), (256, 8), (256, 1))


def experts() -> Program:
    """A training step of a layer of eight experts with soft routing."""

    def loss(params: Any, x: Any) -> Any:
        gate, up, down = params
        weights = jax.nn.softmax(x @ gate)
        hidden = jax.nn.relu(jnp.einsum("td,edf->tef", x, up))
        return jnp.mean(jnp.square(jnp.einsum("te,tef,efd->td", weights, hidden, down)))

    return descended(loss), (drawn((64, 8), (8, 64, 128), (8, 128, 64)), *drawn((512, 64)))


def linear_attention() -> Program:
    """Gradients of attention without a softmax."""

    def loss(params: Any, x: Any) -> Any:
        q, k, v = (jnp.einsum("btm,mhd->bthd", x, w) for w in params)
        state = jnp.einsum("bthd,bthe->bhde", jax.nn.elu(k) + 1, v)
        return jnp.mean(jnp.square(jnp.einsum("bthd,bhde->bthe", jax.nn.elu(q) + 1, state)))

    return descended(loss), (drawn(*[(128, 4, 32)] * 3), *drawn((8, 256, 128)))


def mixer() -> Program:
    """A training step of a mixer block: one product along tokens, one along features."""

    def loss(params: Any, x: Any) -> Any:
        a, b, c, d = params
        x = x + jnp.einsum("us,bsf->buf", b.T, jax.nn.gelu(jnp.einsum("ts,btf->bsf", a, x)))
        return jnp.mean(jnp.square(x + jax.nn.gelu(x @ c) @ d))

    return descended(loss), (drawn((64, 128), (128, 64), (128, 256), (256, 128)), *drawn((16, 64, 128)))


def convolutional() -> Program:
    """A training step of a convolution, and a matrix behind it."""

    def loss(params: Any, x: Any) -> Any:
        kernel, w = params
        x = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(jnp.square(jax.nn.relu(x).reshape(len(x), -1) @ w))

    return descended(loss), (drawn((3, 3, 8, 16), (3136, 10)), *drawn((32, 28, 28, 8)))


def graph() -> Program:
    """A training step of a network on dense graphs."""

    def loss(params: Any, edges: Any, x: Any) -> Any:
        for w in params:
            x = jax.nn.relu(jnp.einsum("bij,bjf,fg->big", edges, x, w))
        return jnp.mean(x)

    return descended(loss), (drawn((64, 64), (64, 64)), *drawn((32, 64, 64), (32, 64, 64)))


def hessian() -> Program:
    """The Hessian of a small logistic regression."""

    def loss(w: Any, x: Any) -> Any:
        return jnp.mean(jnp.logaddexp(0, x @ w)) + jnp.sum(w * w)

    return jax.hessian(loss), drawn((64,), (2048, 64))


def checkpointed() -> Program:
    """A training step of eight layers, each recomputed but for its dots."""

    def loss(params: Any, x: Any) -> Any:
        def layer(x: Any, w: Any) -> Any:
            return jnp.tanh(x @ w), None

        policy = jax.checkpoint_policies.dots_saveable
        return jnp.mean(lax.scan(jax.checkpoint(layer, policy=policy), x, params)[0] ** 2)

    return descended(loss), (*drawn((8, 128, 128)), *drawn((256, 128)))


PROGRAMS: Final[dict[str, Callable[[], Program]]] = {
    "mlp": mlp,
    "transformer, float32": lambda: transformer("float32"),
    "transformer, bfloat16": lambda: transformer("bfloat16"),
    "lora": lora,
    "recurrent": recurrent,
    "gated": gated,
    "capsules": capsules,
    "decode, bfloat16": decode,
    "kalman": kalman,
    "factorized": factorized,
    "power": power,
    "gaussian": gaussian,
    "experts": experts,
    "linear attention": linear_attention,
    "mixer": mixer,
    "convolutional": convolutional,
    "graph": graph,
    "hessian": hessian,
    "checkpointed": checkpointed,
    "mapped mlp": lambda: (jax.vmap(mlp()[0], (0, None)), ([jnp.stack([w, w]) for w in mlp()[1][0]], mlp()[1][1])),
}
