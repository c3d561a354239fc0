"""The way of plain jit: bytes as XLA's compiler for CPUs sends them, and what its compiler for TPUs was seen to do."""

import random

import jax
import pytest
from jax import numpy as jnp
from jax.sharding import NamedSharding
from meshes import mesh

from jbdot import hlo
from jbdot.core.contraction import Contraction
from jbdot.devices.links import Links
from jbdot.hardware import known, of_topology
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Block
from jbdot.many_devices.collectives import is_gathered, is_scattered, is_tiled
from jbdot.many_devices.plain_jit import Laid, plain_way
from jbdot.many_devices.task import Task

GEMM, BATCHED = "m k, k n -> m n", "b m k, b k n -> b m n"
TEXTS = GEMM, BATCHED, "m j k, j k n -> n m", "a b m k, a b k n -> a m b n", "b h q d, b h k d -> b h q k"


def task_of(text, shapes, specs, sizes, dtype="bfloat16"):
    c = Contraction.parse(text)
    *operands, out = (None if spec is None else tuple(tuple(axes) for axes in spec.split(",")) for spec in specs)
    blocks = (Block.of(shape, dtype, cut, sizes) for shape, cut in zip(shapes, operands, strict=True))
    return Task(c, sizes, *blocks, out, c.out_shape(*shapes), dtype, dtype)


def drawn(seed):
    """A contraction with shardings, and a mesh of eight devices."""
    draw = random.Random(seed)
    c = Contraction.parse(draw.choice(TEXTS))
    shape = draw.choice([(2, 4), (4, 2), (2, 2, 2), (8,)])
    sizes = dict(zip("xyz", shape, strict=False))
    lengths = {label: draw.choice((16, 32, 64)) for label in (*c.dot_out, *c.contracting)}
    specs = []
    for labels in (c.lhs, c.rhs, c.out):
        cut = [""] * len(labels)
        for axis in draw.sample([*sizes], len(sizes)):
            if draw.random() < 0.75:
                cut[draw.randrange(len(cut))] += axis
        specs.append(",".join(cut))
    specs[2] = None if draw.random() < 0.4 else specs[2]
    shapes = [tuple(lengths[label] for label in labels) for labels in (c.lhs, c.rhs)]
    return shape, task_of(str(c), shapes, specs, sizes, "float32")


@pytest.mark.parametrize("seed", range(10))
def test_bytes_are_those_that_are_compiled(seed, monkeypatch):
    """Of XLA for CPUs, which has the same partitioner, and none of the passes for TPUs."""
    monkeypatch.setattr("jbdot.many_devices.plain_jit.SCATTERED", ())
    shape, task = drawn(seed)
    on = mesh(shape)
    args = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(on, partition_spec.written(x.sharding)))
        for x in (task.lhs, task.rhs)
    ]
    end = None if task.out is None else NamedSharding(on, partition_spec.written(task.out))
    made = jax.jit(lambda x, y: jnp.einsum(task.contraction.einsum, x, y), out_shardings=end).lower(*args).compile()
    way = plain_way(task, Links.of(task.mesh, known("cpu")))
    assert way.sent == hlo.bytes_sent(made.as_text())
    assert way.flops == hlo.dot_flops(made.as_text())
    if end is not None:
        assert way.out.end.sharding == task.out


# Compiled by XLA's compiler for TPUs of libtpu 0.0.44 and read off: bytes of each device, bfloat16.
SEEN = {
    ("v5e:4x4", GEMM, "xy,", "xy,", "xy,"): ["all-gather"],
    ("v5e:4x4", GEMM, ",xy", ",", None): ["all-gather"],  # and every device does all of the work
    ("v5e:4x4", GEMM, ",xy", "xy,", "x,y"): ["all-reduce"],  # of all of a square: no scatter
    ("v5e:4x4", GEMM, "x,y", "y,x", "x,"): ["all-gather", "all-reduce"],
    ("v5e:4x4", GEMM, "x,", ",", "y,x"): ["permute"],
    ("v5e:4x4", BATCHED, "y,,x", "x,,", "y,,x"): ["permute", "all-gather", "permute"],
    ("v5p:4x4x4", GEMM, "xy,", "xy,", "xy,"): ["all-reduce"],  # a gather over all of three dimensions
    ("v5p:4x4x4", BATCHED, ",,y", ",y,", ",,y"): ["reduce-scatter"],
    ("v5p:4x4x4", GEMM, "y,x", "x,", ",x"): ["reduce-scatter", "all-gather"],
    ("v5p:4x4x4", BATCHED, ",x,", ",,", "xy,,"): ["all-to-all", "permute"],
}
SENT = [31457280, 31457280, 62914560, 18874368, 8388608, 41943040, 66060288, 125829120, 9437184, 3670016]


@pytest.mark.parametrize(("case", "sent"), [*zip(SEEN, SENT, strict=True)])
def test_what_the_compiler_for_tpus_does(case, sent):
    topology, text, *specs = case
    sizes = {"x": 4, "y": 4} if topology == "v5e:4x4" else {"x": 4, "y": 16}
    shape = (4096, 4096) if text == GEMM else (256, 512, 512)
    task = task_of(text, [shape, shape], specs, sizes)
    way = plain_way(task, Links.of(sizes, of_topology(topology)))
    steps = [step.kind for _, side in way.ways for step in side.steps if step.kind != "slice"]
    assert steps == SEEN[case]
    assert way.sent == sent


def test_scatters_over_a_whole_slice():
    """Compiled for v5e, v5p and v6e slices of these sides, 4096 by 4096 in bfloat16."""
    stay = (), (4,), (2, 2), (2, 4), (4, 8), (8, 16)
    become_all_reduces = (4, 4), (8, 8), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4)
    assert all(map(is_scattered, stay))
    assert not any(map(is_scattered, become_all_reduces))


def test_gathers_over_a_whole_slice():
    """Likewise: those over three sides of 4 and more are added, in frames of zeros."""
    assert all(map(is_gathered, ((), (4,), (4, 4), (16, 16), (2, 2, 2), (2, 4, 4))))
    assert not any(map(is_gathered, ((4, 4, 4), (4, 4, 8))))


@pytest.mark.parametrize(
    ("dtype", "whole", "added"),
    [("bfloat16", (64, 160, 192, 256, 320, 512), (128, 384, 640)), ("float32", (64, 128, 192, 320), ())],
)
def test_sums_are_scattered_along_lanes_in_parts_of_whole_registers(dtype, whole, added):
    """Compiled for v4, v5e, v5p and v6e; a matrix whose parts are of no whole lanes is laid out the other way."""
    c = Contraction.parse("k m, k n -> m n")
    for part in (*whole, *added):
        sizes = {"x": 4, "y": 4}
        lhs = Block.of((1024, 1024), dtype, (("x",), ("y",)), sizes)
        rhs = Block.of((1024, 4 * part), dtype, (("x",), ()), sizes)
        task = Task(c, sizes, lhs, rhs, (("y",), ("x",)), (1024, 4 * part), dtype, dtype)
        links = Links.of(sizes, known("v5e"))
        found, fixed = (plain_way(task, links, laid=laid).out.steps for laid in (None, Laid(1, is_free=False)))
        assert [step.kind for step in found] == (["all-reduce", "slice"] if part in added else ["reduce-scatter"])
        assert (fixed[0].kind == "reduce-scatter") == is_tiled(part, dtype)
        turned = plain_way(task, links, laid=Laid(0, is_free=False)).out.steps
        assert [step.kind for step in turned] == ["reduce-scatter"]


def test_a_constraint_on_the_dot_keeps_its_result_from_being_cut_further():
    task = task_of(GEMM, [(64, 64)] * 2, ["x,", ",", ",y"], {"x": 4, "y": 4})
    links = Links.of(task.mesh, known("v5e"))
    free, bound = plain_way(task, links), plain_way(task, links, constrained=True)
    assert [step.kind for step in free.out.steps] == ["all-gather"]
    assert [step.kind for step in bound.lhs.steps] == ["all-gather"]
    assert bound.flops == 4 * free.flops


def test_parts_of_mesh_axes_are_told_as_axes():
    task = task_of(GEMM, [(4096, 4096)] * 2, ["y,x", "x,", ",x"], {"x": 4, "y": 16})
    way = plain_way(task, Links.of(task.mesh, known("v5p")))
    assert {axis for _, side in way.ways for step in side.steps for axis in step.axes} <= {"x", "y"}
    assert way.name == "m on y, k on x"
