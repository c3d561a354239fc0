"""What programs are expected to send before they are compiled: by hand, and beside what the compiler makes of them."""

import collections
import functools

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import mesh

import jbdot
from jbdot.devices.links import Links
from jbdot.hardware import known
from jbdot.programs.forecast import Forecast

ON = mesh((4, 2))
PART = 16 * 32 * 4  # bytes of a float32 [64, 32] in four parts


def struct(shape, *spec, on=ON, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(on, P(*spec)))


def expected(function, *args, **more):
    return jbdot.communication(function, *args, compiled=False, **more)


def by_line(report):
    """The bytes of each line, pass and mesh axis."""
    found = collections.Counter()
    for row in report:
        found[row.where, row.part, row.axes] += row.sent
    return found


def mlp(w, x):
    hidden = jax.nn.relu(x @ w["in"])
    return jnp.mean((hidden @ w["out"]) ** 2)


def train(w, x):
    return jax.tree.map(lambda p, g: p - g, w, jax.grad(mlp)(w, x))


def layers(w, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    return jnp.sum(lax.scan(layer, x, w)[0] ** 2)


def remat(w, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    return jnp.sum(lax.scan(jax.checkpoint(layer), x, w)[0] ** 2)


@functools.partial(jax.shard_map, mesh=ON, in_specs=P("x"), out_specs=P(), check_vma=False)
def talk(x):
    a = lax.psum(x, "x")
    b = lax.psum(x * 2, ("x", "y")).sum()
    c = lax.all_gather(x * 3, "y", tiled=True).sum()
    d = lax.psum_scatter(x * 4, "x", tiled=True).sum()
    e = lax.all_to_all(x * 5, "x", 0, 0, tiled=True)
    f = lax.ppermute(x * 6, "x", [(0, 1), (1, 2), (2, 3), (3, 0)])
    return a, b, c, d, e.sum(0), f.sum(0)


def reduced(x):
    return (x - x.max(-1, keepdims=True)).sum(0)


def gates(w, x):
    i, f, o = jnp.split(x @ w, 3, -1)
    return jax.nn.sigmoid(i) * jnp.tanh(f) + o


def scores(w, x):
    q = x @ w
    k = x @ (2 * w)
    return jnp.einsum("qd,kd->qk", q, k)


def convolved(w, x):
    def conv(x, w, stride):
        return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return jnp.mean(conv(jnp.tanh(conv(x, w["in"], 2)), w["out"], 1) ** 2)


WEIGHTS = {"in": struct((64, 32), "x", "y"), "out": struct((32, 16), "y", "x")}
SAME = {
    "data parallel": (train, {"in": struct((64, 32)), "out": struct((32, 16))}, struct((128, 64), "x")),
    "FSDP and tensor": (train, WEIGHTS, struct((128, 64), "x")),
    "a scan": (jax.grad(layers), struct((3, 32, 32), None, "x"), struct((64, 32), "x")),
    "shard_map": (talk, struct((64, 32), "x")),
    "reductions": (reduced, struct((64, 32), "x", "y")),
    "rows of a table": (
        lambda table, tokens: lax.with_sharding_constraint(table[tokens] * 2, NamedSharding(ON, P(("x", "y")))),
        struct((512, 64), None, ("x", "y")),
        struct((8, 16), ("x", "y"), dtype="int32"),
    ),
    "parts of what is cut": (gates, struct((32, 96), None, "x"), struct((64, 32))),
}


@pytest.mark.parametrize("name", SAME)
def test_each_line_sends_as_much_as_the_compiler_makes_it(name):
    before, after = expected(*SAME[name]), jbdot.communication(*SAME[name])
    old, new = by_line(before), by_line(after)
    large = [key for key in {**old, **new} if max(old[key], new[key]) > 64]  # what is less is a number or two
    assert large
    assert [key for key in large if abs(old[key] - new[key]) > 0.1 * new[key]] == []
    assert before.argument_bytes == after.argument_bytes
    assert before.output_bytes <= after.output_bytes <= before.output_bytes + 64  # a pointer to each result


def test_a_convolution_goes_the_way_of_a_dot_of_its_features():
    """Older XLA names operands that are moved by another line."""

    def step(w, x):
        return jax.tree.map(lambda p, g: p - g, w, jax.grad(convolved)(w, x))

    shapes = {"in": (3, 3, 8, 16), "out": (3, 3, 16, 8)}
    args = {name: struct(shape, None, None, None, "y") for name, shape in shapes.items()}, struct((8, 8, 8, 8), "x")
    before, after = collections.Counter(), collections.Counter()
    for found, report in ((before, expected(step, *args)), (after, jbdot.communication(step, *args))):
        for row in report:
            found[row.part, row.axes, row.kind] += row.sent
    small = [key for key, sent in after.items() if sent < 64]
    assert {key: sent for key, sent in before.items() if key not in small} == {
        key: sent for key, sent in after.items() if key not in small
    }
    assert len(after) > len(small) + 2


def test_what_is_recomputed_says_so():
    parts = {row.part for row in expected(jax.grad(remat), struct((3, 32, 32), None, "x"), struct((64, 32), "x"))}
    assert parts == {"forward", "recomputed", "backward"}


def test_rows_say_what_those_of_a_compiled_program_say():
    report = expected(train, WEIGHTS, struct((128, 64), "x"), hardware="v5e")
    gather = next(row for row in report if row.argument == "w['in']")
    assert (gather.kind, gather.axes, gather.part, gather.operation) == ("all-gather", ("x",), "forward", "dot_general")
    assert (gather.array, gather.sent, gather.times) == ("float32[16,16]", 3 * 16 * 16 * 4, 1)
    assert gather.where.startswith("test_forecast.py:")
    assert "(mlp)" in gather.where
    assert report.flops == (3 * 32 * 64 * 16 + 3 * 32 * 16 * 16) * 2 - 2 * 32 * 64 * 16  # no gradient of x
    assert "expected before it is compiled" in report.title
    assert ("temporaries", "known once it is compiled") in report.memory
    assert "without temporaries" in str(report)
    assert "known once it is compiled" in str(report.compare(report))


def test_rows_say_from_which_sharding_to_which_and_what_a_plan_would_send():
    """Both operands are cut along what is not summed: plain jit gathers one, a plan may send the other, smaller one."""

    def step(x, w):
        return lax.with_sharding_constraint(x @ w, NamedSharding(ON, P()))

    args = struct((64, 256), "x"), struct((256, 64), "y")
    report = expected(step, *args, hardware="v5e")
    plan = jbdot.plan_sharding("m k, k n -> m n", *args, P(), hardware="v5e")
    assert plan.sent < report.sent
    assert {row.planned for row in report} == {plan.sent}
    assert {row.cut for row in report} == {"P('y') to P()", "P('x') to P()"}
    assert "the dots of this line, planned by jbdot, send" in str(report)
    compiled = jbdot.communication(step, *args)
    assert [row.cut for row in compiled if row.sent == report.rows[0].sent] == [report.rows[0].cut]
    assert next(iter(expected(mlp, WEIGHTS, struct((128, 64), "x")))).planned is None  # as few as there can be


def test_no_device_is_needed():
    on = AbstractMesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    args = {"in": struct((64, 32), "x", on=on), "out": struct((32, 16), on=on)}, struct((128, 64), "x", on=on)
    by_name, by_topology = expected(train, *args, hardware="v5e"), expected(train, *args, topology="v5e:2x4")
    assert [row.sent for row in by_name] == [row.sent for row in by_topology]
    assert by_name.hardware.name == by_topology.hardware.name == "TPU v5e"
    with pytest.raises(ValueError, match=r"compiled=False the name of a device will do"):
        expected(train, *args)


def test_explicit_axes_and_donated_arguments():
    on = mesh((4, 2), kind="Explicit")

    def step(x, w):
        return jnp.dot(x, w, out_sharding=P("x", None))

    report = expected(step, struct((8, 64), "x", "y", on=on), struct((64, 32), "y", on=on))
    (row,) = report
    assert (row.kind, row.axes, row.sent) == ("all-reduce", ("y",), 2 * 32 * 4)
    w = struct((64, 32), "x")
    report = expected(jax.jit(lambda w: w * 2, donate_argnums=0), w)
    assert report.alias_bytes == report.output_bytes == PART


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    @functools.partial(jax.shard_map, mesh=ON, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    def search(x):
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: lax.psum(x, "x"), x)

    (row,) = expected(search, struct((64, 32), "x"))
    assert (row.times, row.sent, row.is_open) == (1, 2 * PART * 3 // 4, True)


def test_a_gradient_that_a_loop_adds_up_is_summed_once_after_it_but_on_cpus():
    def loss(w, x):
        return jnp.sum(lax.scan(lambda h, x: (jnp.tanh(x @ w) + h, None), jnp.zeros((64, 32)), x)[0])

    args = struct((32, 32)), struct((5, 64, 32), None, "x")
    for hardware, times in (("v5e", 1), ("cpu", 5)):
        row = next(row for row in expected(jax.grad(loss), *args, hardware=hardware) if row.part == "backward")
        assert (row.kind, row.times, row.sent) == ("all-reduce", times, times * 2 * 32 * 32 * 4 * 3 // 4)


@pytest.mark.parametrize(("hardware", "sums"), [("v5e", 1), ("cpu", 3)])
def test_sums_that_are_added_at_once_are_completed_as_one_but_on_cpus(hardware, sums):
    """The gradient of what three weights read, as in attention; a sum that is added to another array stays alone."""

    def step(w, g, h):
        y = jnp.einsum("bf,df->bd", g, w["q"]) + jnp.einsum("bf,df->bd", g, w["k"]) + jnp.einsum("bf,df->bd", g, w["v"])
        return y, h + jnp.einsum("bf,df->bd", g, w["q"] * 2)

    w = {name: struct((32, 64), None, "x") for name in "qkv"}
    report = expected(step, w, struct((128, 64), None, "x"), struct((128, 32)), hardware=hardware)
    part = 2 * 128 * 32 * 4 * 3 // 4
    assert {row.kind for row in report} == {"all-reduce"}
    assert sorted(by_line(report).values()) == [part, sums * part]


def test_the_branch_that_sends_most_counts():
    @functools.partial(jax.shard_map, mesh=ON, in_specs=(P("x"), P()), out_specs=P("x"), check_vma=False)
    def either(x, n):
        return lax.cond(n > 0, lambda x: lax.psum(x, "x"), lambda x: lax.psum(lax.psum(x, "x"), "y"), x)

    report = expected(either, struct((64, 32), "x"), struct((), dtype="int32"))
    assert report.sent == 2 * PART * 3 // 4 + PART


def test_sizes_that_no_mesh_axis_divides_within():
    """A result of 30 rows that is to be in four parts is padded by XLA."""

    def step(x):
        y = lax.with_sharding_constraint(x[:30], NamedSharding(ON, P("x")))
        return y @ y.T

    assert expected(step, struct((64, 32), "x")).sent > 0


def test_the_lowered_program_stays_as_it_is():
    lowered = jax.jit(train).trace(WEIGHTS, struct((128, 64), "x")).lower()
    before = str(lowered.compiler_ir("stablehlo"))
    Forecast(lowered.compiler_ir("stablehlo"), Links.of(ON, known("v5e")))
    assert str(lowered.compiler_ir("stablehlo")) == before


def test_a_constraint_moves_an_array_before_a_dot_that_reads_it_does():
    """Rows come cut over x, are constrained to be whole, and cost nothing in the dot."""

    def step(x, w):
        return lax.with_sharding_constraint(x, NamedSharding(ON, P())) @ w

    (row,) = expected(step, struct((64, 32), "x"), struct((32, 16), None, "y"))
    assert (row.kind, row.axes, row.sent) == ("all-gather", ("x",), 3 * PART)


def test_an_operand_is_moved_for_the_line_that_made_it():
    """By which newer XLA names it, as well; what an argument gives is moved for the dot."""
    planned = jax.jit(scores, out_shardings=NamedSharding(ON, P("x")))
    args = struct((32, 16)), struct((64, 32), "x")
    (row,) = expected(planned, *args)
    assert row.source.rpartition(":")[2] == f"{scores.__code__.co_firstlineno + 2} (scores)"
    if jax.__version_info__ >= (0, 12):
        assert by_line(expected(planned, *args)) == by_line(jbdot.communication(planned, *args))
    (row,) = expected(lambda w, x: x @ w, struct((32, 16), "x"), struct((64, 32), "x"))
    assert row.argument == "w"
    assert row.operation == "dot_general"


def test_for_tpus_words_are_picked_where_they_are_and_extremes_are_sent_as_narrow_as_they_were():
    """Compiled for v5e:2x4: sums of bfloat16 logits over 4 parts of the words, and their maximum, not the logits."""

    def loss(w, x, tokens):
        logits = jax.nn.log_softmax((x @ w).astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(logits, tokens[..., None], -1))

    args = struct((256, 1024), None, "x", dtype="bfloat16"), struct((8, 128, 256), "y", dtype="bfloat16")
    tokens = struct((8, 128), ("y", "x"), dtype="int32")
    step = jax.jit(jax.grad(loss), out_shardings=args[0].sharding)
    report = expected(step, *args, tokens, hardware="v5e")
    numbers = 4 * 128  # of the tokens of a device
    assert sorted((row.array, row.axes, row.sent) for row in report) == [
        ("bfloat16[256,256]", ("y",), 256 * 256 * 2),
        ("bfloat16[4,128]", ("x",), 2 * numbers * 2 * 3 // 4),
        ("float32[4,128]", ("x",), 2 * numbers * 4 * 3 // 4),
        ("float32[4,128]", ("x",), 2 * numbers * 4 * 3 // 4),
        ("int32[1,128]", ("x",), numbers * 4 * 3 // 4),
    ]
    assert expected(step, *args, tokens, hardware="cpu").sent > 2 * report.sent


def test_rows_in_groups_are_gathered_and_their_products_summed_as_the_tpu_compiler_does():
    """The figures are those of libtpu 0.0.50 for v5e:2x4."""
    sizes, rows = struct((4,), dtype="int32"), 16 * 8 * 4

    def sent(x, w):
        found = expected(lax.ragged_dot, x, w, sizes, hardware="v5e")
        return sorted((row.kind, row.axes, row.sent) for row in found)

    summed = sent(struct((64, 16), "x", "y"), struct((4, 16, 32), None, "y"))
    assert summed == [("all-gather", ("x",), 3 * rows), ("all-reduce", ("y",), 64 * 32 * 4)]
    groups = sent(struct((64, 16), "x"), struct((4, 16, 32), "y"))
    assert groups == [("all-gather", ("x",), 6 * rows), ("all-gather", ("y",), 2 * 16 * 32 * 4)]
