"""What layouts cost: FLOPs, bytes sent and memory, counted by hand."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from jbdot.devices.links import Links
from jbdot.hardware import known
from jbdot.programs.labels import Flow
from jbdot.programs.layout import Layout
from jbdot.programs.layout_cost import Costs


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def cost(function, args, orders, mesh, tied=None, hardware="v5e"):
    flow = Flow.of(jax.make_jaxpr(function)(*args))
    tied = tied or (None,) * len(flow.results)
    return Costs(flow, mesh, Links.of(mesh, known(hardware)), tied, {}).of(Layout(orders))


def large(found):
    """What is sent of arrays, without the sum of a loss."""
    return {key: sent for key, sent in found.sent.items() if sent > 16}


def step(w, x):
    return w - jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)


D, F, B = 0, 1, 2  # labels of the step
ARGS = struct(512, 256), struct(1024, 512)
SIZE, BATCH, MADE = 4 * 512 * 256, 4 * 1024 * 512, 4 * 1024 * 256  # bytes of w, of x and of their product


@pytest.mark.parametrize(
    ("orders", "sent", "parts"),
    [
        ({"x": ()}, {}, 1),
        ({"x": (B,)}, {("all-reduce", ("x",)): 2 * SIZE * 3 / 4}, 4),
        (
            {"x": (B, D)},
            {("all-gather", ("x",)): SIZE * 3 / 4, ("reduce-scatter", ("x",)): SIZE * 3 / 4},
            4,
        ),
        ({"x": (F,)}, {}, 4),
        ({"x": (D,)}, {("all-reduce", ("x",)): 2 * MADE * 3 / 4}, 4),
    ],
)
def test_data_parallel_fsdp_and_tensor_parallel(orders, sent, parts):
    found = cost(step, ARGS, orders, {"x": 4}, (0,))
    assert large(found) == pytest.approx(sent, abs=16)
    assert found.flops == 2 * 2 * 1024 * 512 * 256 / parts
    assert found.bytes_sent == round(sum(found.sent.values()))


def test_memory_is_of_arguments_and_of_what_is_kept():
    whole = cost(step, ARGS, {"x": ()}, {"x": 4}, (0,))
    assert whole.argument_bytes == SIZE + BATCH
    assert whole.output_bytes == 0  # in the place of w
    assert cost(step, ARGS, {"x": ()}, {"x": 4}).output_bytes == SIZE
    assert whole.temp_bytes in range(MADE + SIZE, 3 * MADE + 2 * SIZE)
    cut = cost(step, ARGS, {"x": (B,)}, {"x": 4}, (0,))
    assert cut.argument_bytes == SIZE + BATCH // 4
    assert cut.temp_bytes < whole.temp_bytes


def test_a_scan_counts_each_turn():
    def net(ws, x):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    args = struct(5, 64, 64), struct(256, 64)
    found = cost(net, args, {"x": (1,)}, {"x": 4})  # along what is summed: of each turn's product a device has a sum
    (kind, axes), sent = next(iter(found.sent.items()))
    assert (kind, axes) in {("reduce-scatter", ("x",)), ("all-reduce", ("x",))}
    assert sent >= 5 * 4 * 256 * 64 * 3 / 4
    assert found.flops == 5 * 2 * 256 * 64 * 64 / 4


def test_what_several_dots_need_is_gathered_once_and_their_sum_is_completed_once():
    def three(x, v, w):
        return x @ v, x @ w

    args = struct(256, 64), struct(64, 32), struct(64, 48)
    found = cost(three, args, {"x": (1,), "y": ()}, {"x": 2, "y": 2})
    assert set(found.sent) == {("all-reduce", ("x",))}

    def summed(x, v, y, w):
        return x @ v + y @ w

    args = struct(256, 64), struct(64, 32), struct(256, 48), struct(48, 32)
    found = cost(summed, args, {"x": (1, 3)}, {"x": 2})
    assert found.sent == {("all-reduce", ("x",)): 2 * 4 * 256 * 32 / 2}

    def shared(x, v, w):
        return x @ v, x @ w

    found = cost(shared, (struct(256, 64), struct(64, 32), struct(64, 48)), {"x": (0, 2, 3)}, {"x": 2})
    assert found.sent == {("all-gather", ("x",)): 4 * (64 * 32 + 64 * 48) / 2}


def test_over_a_square_slice_sums_are_not_scattered():
    found = cost(step, ARGS, {"x": (B, D), "y": (B, D)}, {"x": 4, "y": 4}, (0,))
    assert large(found)["all-reduce", ("x", "y")] == pytest.approx(2 * SIZE * 15 / 16, abs=16)
    found = cost(step, ARGS, {"x": (B, D), "y": (B, D)}, {"x": 4, "y": 4}, (0,), "h100")
    assert found.sent["reduce-scatter", ("x", "y")] == SIZE * 15 / 16


def test_an_embedding_is_looked_up_where_it_is():
    def look(table, tokens):
        return table[tokens]

    found = cost(look, (struct(1 << 16, 64), struct(8, 16, dtype="int32")), {"x": (0,)}, {"x": 4})
    assert found.sent == {("all-reduce", ("x",)): 2 * 4 * 8 * 16 * 64 * 3 / 4}


@pytest.mark.parametrize(("width", "hardware"), [(256, "v5e"), (2048, "v6e")])
def test_what_a_loop_adds_up_is_completed_when_it_ends(width, hardware):
    """Each device sums over its samples, also where all samples could be gathered in less time than one sum takes."""

    def recurrent(w, xs):
        def loss(w):
            return jnp.sum(lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), xs[0], xs)[0])

        return w - jax.grad(loss)(w)

    args = struct(width, width), struct(16, 64, width)
    size = 4 * width * width
    flow = Flow.of(jax.make_jaxpr(recurrent)(*args))
    _, samples, _ = flow.labels(flow.arguments[1])
    found = cost(recurrent, args, {"x": (samples,)}, {"x": 4}, (0,), hardware)
    assert found.sent[("all-reduce", ("x",))] == pytest.approx(2 * size * 3 / 4, abs=16)  # and not in each turn
    assert found.flops == 16 * 3 * 2 * 64 * width * width / 4


@pytest.mark.parametrize(
    ("orders", "count"),
    [
        ({"x": (B,)}, 0),  # samples go through all dots, and the gradient is a sum over them
        ({"x": (D,)}, 0),
        (
            {"x": (B, D)},
            2,
        ),  # the product of samples and a matrix that is gathered, and the gradient, which is scattered
    ],
)
def test_which_arrays_are_not_clear_from_their_operands(orders, count):
    flow = Flow.of(jax.make_jaxpr(step)(*ARGS))
    mesh = {"x": 4}
    found = Costs(flow, mesh, Links.of(mesh, known("v5e")), (0,), {}).unclear(Layout(orders))
    dots = {array for operation in flow.operations if operation.flops for array, _ in operation.outs}
    assert len(found & dots) == count
