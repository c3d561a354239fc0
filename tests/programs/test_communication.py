"""What programs send, by bytes that are counted by hand, on eight CPU devices; and by the TPU compiler, where it is."""

import functools
import importlib.util
import inspect

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import mesh

import jbdot
from jbdot import hlo

ON = mesh((4, 2))
PART = 16 * 32 * 4  # bytes of a float32 [64, 32] in four parts
installed = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jbdot[tpu]")


def struct(shape, spec=None, on=ON, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=None if spec is None else NamedSharding(on, spec))


def line(function, words):
    """Where in this file a line of a function is that has these words."""
    lines, first = inspect.getsourcelines(function)
    return f"test_communication.py:{first + next(at for at, text in enumerate(lines) if words in text)} "


def rows(report):
    """The rows by their lines, of which each has one; what is sent in all is what the compiled text says."""
    assert report.sent == sum(one.times * one.sent for one in hlo.collectives(report.text, open_trips=1))
    found = {(row.where, row.kind): row for row in report}
    assert len(found) == len(report)
    return found


def test_each_collective_has_its_line_its_axes_and_its_bytes():
    @functools.partial(jax.shard_map, mesh=ON, in_specs=P("x"), out_specs=P(), check_vma=False)
    def talk(x):
        a = lax.psum(x, "x")
        b = lax.psum(x * 2, ("x", "y")).sum()
        c = lax.all_gather(x * 3, "y", tiled=True).sum()
        d = lax.psum_scatter(x * 4, "x", tiled=True).sum()
        e = lax.all_to_all(x * 5, "x", 0, 0, tiled=True)
        f = lax.ppermute(x * 6, "x", [(0, 1), (1, 2), (2, 3), (3, 0)])
        return a, b, c, d, e.sum(0), f.sum(0)

    report = jbdot.communication(talk, struct((64, 32)))
    found = rows(report)
    wanted = {
        ('psum(x, "x")', "all-reduce"): (("x",), 2 * PART * 3 // 4),
        ("psum(x * 2", "all-reduce"): (("x", "y"), 2 * PART * 7 // 8),
        ("all_gather", "all-gather"): (("y",), PART),
        ("psum_scatter", "reduce-scatter"): (("x",), PART * 3 // 4),
        ("all_to_all", "all-to-all"): (("x",), PART * 3 // 4),
        ("ppermute", "collective-permute"): (("x",), PART),
    }
    for (words, kind), (axes, sent) in wanted.items():
        row = found[f"{line(talk, words)}(talk)", kind]
        assert (row.axes, row.sent, row.times, row.part) == (axes, sent, 1, ""), words
    assert len(found) == len(wanted)
    assert report.mesh == {"x": 4, "y": 2}
    assert "8 x cpu" in str(report)


def test_data_parallel_gradients_are_one_row_for_each_line_with_donated_parameters():
    def loss(w, x):
        hidden = x @ w["in"]
        return jnp.mean((hidden @ w["out"]) ** 2)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, x):
        return jax.tree.map(lambda p, g: p - g, w, jax.grad(loss)(w, x))

    weights = {"in": struct((64, 32), P()), "out": struct((32, 16), P())}
    report = jbdot.communication(step, weights, struct((128, 64), P("x")))
    found = rows(report)
    first, second = (found[f"{line(loss, words)}(loss)", "all-reduce"] for words in ('w["in"]', 'w["out"]'))
    assert (first.sent, second.sent) == (2 * 64 * 32 * 4 * 3 // 4, 2 * 32 * 16 * 4 * 3 // 4)
    assert (first.part, first.operation) == ("backward", "dot_general")
    assert first.array in ("float32[64,32]", "float32[32,64]")  # as the compiler likes
    assert (first.merged, second.merged) == (2, 2)  # the compiler has joined them
    assert first.us > second.us > 0
    assert report.alias_bytes == (64 * 32 + 32 * 16) * 4
    assert report.output_bytes - report.alias_bytes in range(0, 33)  # a pointer to each result
    assert report.memory_bytes - report.argument_bytes - report.temp_bytes in range(0, 33)
    assert report.flops == (2 + 1 + 1) * 2 * 32 * 64 * 32 // 2 + 3 * 2 * 32 * 32 * 16
    assert "has the shape of a parameter" in report.advice


def test_an_argument_that_is_gathered_is_named_by_the_line_that_needs_it():
    def forward(params, x):
        return x @ params["w"]

    report = jbdot.communication(forward, {"w": struct((64, 32), P("x"))}, struct((128, 64), P("x")))
    (row,) = rows(report).values()
    assert (row.kind, row.argument, row.sent) == ("all-gather", "params['w']", 3 * PART)
    assert row.where == f"{line(forward, '@')}(forward)"
    assert "params['w'] is kept in parts over x" in report.advice


def test_layers_are_one_row_be_they_a_scan_or_a_loop():
    @functools.partial(jax.shard_map, mesh=ON, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    def scanned(x):
        return lax.scan(lambda x, _: (jnp.sin(lax.psum(x, "y")), None), x, length=5)[0]

    @functools.partial(jax.shard_map, mesh=ON, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    def looped(x):
        for _ in range(3):
            x = jnp.sin(lax.psum(x, "y"))
        return x

    for function, times in ((scanned, 5), (looped, 3)):
        (row,) = rows(jbdot.communication(function, struct((64, 32)))).values()
        assert (row.times, row.sent, row.axes) == (times, times * PART, ("y",))


def test_what_is_recomputed_says_so():
    @jax.checkpoint
    def layer(x, w):
        return jnp.tanh(x @ w), None

    def loss(w, x):
        return jnp.sum(lax.scan(layer, x, w)[0] ** 2)

    report = jbdot.communication(jax.grad(loss), struct((3, 32, 32), P(None, "x")), struct((8, 32), P()))
    parts = {row.part: row for row in report if row.where == f"{line(layer, 'x @ w')}(layer)"}
    assert parts.keys() >= {"forward", "recomputed"}
    assert parts["forward"].times == parts["recomputed"].times == 3
    assert "jax.checkpoint sends" in report.advice


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    @functools.partial(jax.shard_map, mesh=ON, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    def search(x):
        return lax.while_loop(lambda x: lax.pmax(x.sum(), ("x", "y")) < 9, lambda x: lax.psum(x, "x"), x)

    report = jbdot.communication(search, struct((64, 32)))
    row = max(report, key=lambda row: row.sent)
    assert (row.times, row.sent, row.is_open) == (1, 2 * PART * 3 // 4, True)
    assert "1 or more" in str(report)
    with pytest.raises(hlo.Unreadable):
        hlo.bytes_sent(report.text)


def test_explicit_axes_and_a_part_of_an_axis():
    on = mesh((4, 2), kind="Explicit")

    def step(x, w):
        return jnp.dot(x, w, out_sharding=P("x", None))

    report = jbdot.communication(step, struct((8, 64), P("x", "y"), on), struct((64, 32), P("y"), on))
    (row,) = rows(report).values()
    assert (row.kind, row.axes, row.sent) == ("all-reduce", ("y",), 2 * 32 * 4)  # over two: what is given


def test_without_collectives_nothing_is_sent():
    report = jbdot.communication(jnp.sin, struct((8, 8), P("x")))
    assert (report.sent, len(report), report.advice) == (0, 0, "Nothing is sent.")
    assert str(report)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: jbdot.communication(3),
            TypeError,
            "communication: the program must be a function: int. Give the step",
        ),
        (lambda: jbdot.communication(jnp.sin, struct((8,))), ValueError, "communication: a program must be on a mesh"),
        (
            lambda: jbdot.communication(jnp.sin, struct((8,), P("x"), AbstractMesh((4,), ("x",)))),
            ValueError,
            "without a topology the mesh must be of devices that are here",
        ),
        (
            lambda: jbdot.communication(jnp.sin, struct((8,), P("x")), topology="moon:4"),
            ValueError,
            "communication: a topology must name a kind of device: 'moon:4'",
        ),
    ],
)
def test_refusals(call, kind, words):
    with pytest.raises(kind) as told:
        call()
    assert words in str(told.value)


@installed
def test_for_a_topology_the_compiler_of_its_devices_answers():
    on = AbstractMesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def step(w, x):
        return w - jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

    args = struct((512, 512), P(None, "y"), on, "bfloat16"), struct((1024, 512), P("x"), on, "bfloat16")
    report = jbdot.communication(jax.jit(step, donate_argnums=0), *args, topology="v5e:2x2")
    row = next(row for row in report if row.kind != "all-gather")
    assert (row.axes, row.part, row.array) == (("x",), "backward", "bfloat16[512,256]")
    assert row.sent == 2 * 512 * 256 * 2 // 2
    assert report.sent == hlo.bytes_sent(report.text)
    assert report.alias_bytes == report.output_bytes
    assert report.fits
    assert report.estimated_us
    assert report.hardware.name == "TPU v5e"
    assert "of 16 GB" in str(report)


@installed
def test_what_does_not_fit_is_refused_in_words():
    on = AbstractMesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def step(x):
        return lax.with_sharding_constraint(jnp.sin(x), NamedSharding(on, P())) @ x.T

    with pytest.raises(RuntimeError, match=r"it does not fit: .*exceeds available HBM \(15.75G\)"):
        jbdot.communication(step, struct((1 << 17, 1 << 17), P("x"), on, "bfloat16"), topology="v5e:2x2")
