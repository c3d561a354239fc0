"""The labels of programs: which axes are cut alike, read off by hand."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from jbdot.core.errors import BadValue
from jbdot.programs.labels import Flow


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def labels(function, *args):
    """Letters for the labels of each argument, and of each result; a dot for an axis that cannot be cut."""
    flow = Flow.of(jax.make_jaxpr(function)(*args))
    assert not flow.unknown
    before, after = (" ".join(written(flow, x) for x in arrays) for arrays in (flow.arguments, flow.results))
    return f"{before} -> {after}"


def written(flow, array):
    letters = ("." if label is None else "abcdefghijklmnop"[label] for label in flow.labels(array))
    return "".join(letters) or "()"


X, W = struct(8, 4), struct(4, 6)


@pytest.mark.parametrize(
    ("function", "args", "wanted"),
    [
        (lambda x, w: jnp.tanh(x @ w) + 1, (X, W), "ab bc -> ac"),
        (lambda x, w: jnp.einsum("bij,bjk->bki", x, w), (struct(2, 3, 4), struct(2, 4, 5)), "abc acd -> adb"),
        (lambda x, b: x + b, (X, struct(4)), "ab b -> ab"),
        (lambda x: x - x.mean(-1, keepdims=True), (X,), "ab -> ab"),
        (lambda x: (x.max(0), jnp.argmin(x, 1)), (X,), "ab -> b a"),
        (lambda x: jnp.swapaxes(x, 0, 1)[:, None], (X,), "ab -> b.a"),
        (lambda x: x.reshape(8, 2, 2), (X,), "ab -> abc"),
        (lambda x: x.reshape(2, 4, 4), (X,), "ab -> acb"),
        (lambda x: x.reshape(32), (X,), "ab -> a"),
        (lambda x: x.reshape(1, 8, 4, 1), (X,), "ab -> .ab."),
        (lambda x, y: jnp.concatenate([x, y], 1), (X, struct(8, 5)), "ab ac -> ad"),
        (lambda x: x[:, 1:3], (X,), "ab -> ac"),
        (lambda x, i: lax.dynamic_slice_in_dim(x, i, 1, 0), (X, struct(dtype="int32")), "ab () -> .b"),
        (lambda x, u: lax.dynamic_update_slice(x, u, (2, 0)), (X, struct(1, 4)), "ab .b -> ab"),
        (lambda t, i: t[i], (X, struct(3, 5, dtype="int32")), "ab cd -> cdb"),
        (
            lambda x, i: jnp.take_along_axis(x, i, 1),
            (X, struct(8, 1, dtype="int32")),
            "ab a. -> a.",
        ),
        (lambda t, i, u: t.at[i].add(u), (X, struct(3, dtype="int32"), struct(3, 4)), "ab c cb -> ab"),
        (lambda x: (jnp.cumsum(x, 1), jnp.sort(x, 0)), (X,), "ab -> ab ab"),
        (lambda x: lax.top_k(x, 2), (X,), "ab -> ac ad"),
        (lambda x: jnp.flip(x, 0), (X,), "ab -> ab"),
        (lambda x: jnp.fft.fft(x).real, (X,), "ab -> ac"),
        (lambda x: lax.linalg.cholesky(x, symmetrize_input=False), (struct(3, 4, 4),), "abc -> ade"),
        (
            lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
            (struct(2, 8, 8, 3), struct(3, 3, 3, 5)),
            "abcd efdg -> abcg",
        ),
        (
            lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"),
            (X,),
            "ab -> ac",
        ),
        (
            lambda x, w, n: lax.ragged_dot(x, w, n),
            (X, struct(3, 4, 5), struct(3, dtype="int32")),
            "ab cbd e -> ad",
        ),
        (lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: jnp.sin(c) * 2, x), (X,), "ab -> ab"),
        (lambda x: lax.cond(True, lambda: x @ x, lambda: x.T), (struct(4, 4),), "aa -> aa"),
        (lambda x: jax.nn.relu(jax.checkpoint(jnp.sin)(x)), (X,), "ab -> ab"),
        (lambda x, w: jax.vmap(jnp.dot, (0, None))(x, w), (X, W), "ab bc -> ac"),
        (lambda x: jax.vmap(lambda row: row - lax.pmean(row, "b"), axis_name="b")(x), (X,), "ab -> ab"),
        (lambda x: tuple(x[:2]), (X,), "ab -> b b"),
        (lambda key: jax.random.split(key)[0], (struct(2, dtype="uint32"),), ". -> ."),
        (lambda key: jax.random.normal(key, (8, 4)), (struct(2, dtype="uint32"),), ". -> bc"),
        (lambda x: x * jax.random.normal(jax.random.key(0), (8, 4)), (X,), "ab -> ab"),
    ],
)
def test_each_kind_of_operation(function, args, wanted):
    assert labels(function, *args) == wanted


def test_a_function_that_is_called_twice_joins_nothing_between_its_calls():
    def mlp(x, v, w):
        return jax.nn.relu(jax.nn.relu(x @ v) @ w)  # relu is one jaxpr for both

    assert labels(mlp, struct(8, 6), struct(6, 6), struct(6, 6)) == "ab bc cd -> ad"


def test_layers_in_a_scan_are_not_cut_and_what_is_carried_is_one_label():
    def net(x, ws, biases):
        return lax.scan(lambda x, layer: (jnp.tanh(x @ layer[0]) + layer[1], x.sum(0)), x, (ws, biases))

    args = struct(8, 4), struct(3, 4, 4), struct(3, 4)
    assert labels(net, *args) == "ab .bb .b -> ab .b"


def test_a_training_step_joins_the_state_with_what_it_becomes():
    def step(w, m, x, y):
        g = jax.grad(lambda w: jnp.sum((jax.nn.gelu(x @ w["in"]) @ w["out"] - y) ** 2))(w)
        m = jax.tree.map(lambda m, g: 0.9 * m + g, m, g)
        return jax.tree.map(lambda w, m: w - 0.1 * m, w, m), m

    w = {"in": struct(4, 6), "out": struct(6, 3)}
    wanted = "ab bc ab bc da dc -> ab bc ab bc"
    assert labels(step, w, w, struct(8, 4), struct(8, 3)) == wanted


def test_attention_has_one_label_twice():
    def attention(x, q, k, v):
        scores = jnp.einsum("sd,dhk,te,ehk->hst", x, q, x, k)
        return x + jnp.einsum("hst,td,dhk,hkd->sd", jax.nn.softmax(scores), x, v, jnp.ones((2, 3, 4)))

    flow = Flow.of(jax.make_jaxpr(attention)(struct(8, 4), *[struct(4, 2, 3)] * 3))
    twice = {
        flow.labels(array)
        for operation in flow.operations
        for array, _ in operation.outs
        if len(array.shape) == 3 and array.shape[1:] == (8, 8)
    }
    assert {found[1] == found[2] == flow.labels(flow.arguments[0])[0] for found in twice} == {True}


def test_dots_know_their_flops_how_often_they_run_and_what_they_sum():
    def net(x, ws):
        return lax.scan(lambda x, w: (x @ w, None), x, ws)[0]

    flow = Flow.of(jax.make_jaxpr(net)(struct(8, 4), struct(3, 4, 4)))
    (dot,) = (operation for operation in flow.operations if operation.flops)
    assert (dot.flops, dot.times, len(dot.summed), dot.fuses) == (2 * 8 * 4 * 4, 3, 1, False)


def test_arrays_live_from_where_they_are_made_to_where_they_are_last_needed():
    def chain(x):
        y = jnp.sin(x)
        return jnp.cos(jnp.tan(y)) + y

    flow = Flow.of(jax.make_jaxpr(chain)(X))
    assert [operation.name for operation in flow.operations] == ["sin", "tan", "cos", "add"]
    (x,), (out,) = flow.arguments, flow.results
    y = flow.operations[0].outs[0][0]
    assert (flow.lives[x], flow.lives[y], flow.lives[out]) == ((-1, 0), (0, 3), (3, 4))


def test_what_is_not_known_has_axes_of_its_own():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(lambda x: x, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))
    flow = Flow.of(jax.make_jaxpr(spread)(X))
    assert flow.unknown == {"shard_map": 1}
    assert written(flow, flow.arguments[0]) + written(flow, flow.results[0]) == "abcd"


def test_a_host_callback_is_refused_with_its_line():
    def step(x):
        jax.debug.print("{}", x.sum())
        return jax.pure_callback(np.sin, x, x)

    with pytest.raises(BadValue, match=r"the program must not call the host: .*test_labels.py:\d+"):
        Flow.of(jax.make_jaxpr(step)(X))
