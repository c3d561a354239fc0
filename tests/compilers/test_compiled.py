"""The real compiler, where it is installed: what it answers, and what is said where it is not."""

import importlib.metadata
import importlib.util

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jbdot
from jbdot import hlo
from jbdot.compilers import compiled
from jbdot.hardware import known, of_topology
from jbdot.many_devices.partition_spec import written

MESH = AbstractMesh((4, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
installed = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jbdot[tpu]")


def array(spec, shape=(1024, 1024)):
    return jax.ShapeDtypeStruct(shape, "bfloat16", sharding=NamedSharding(MESH, spec))


@installed
def test_a_program_of_explicit_collectives():
    gather = jax.shard_map(
        lambda x: lax.all_gather(x, "x", tiled=True), mesh=MESH, in_specs=P("x"), out_specs=P(), check_vma=False
    )
    made = jbdot.compile_for("v5e:4x4", gather, array(P("x")))
    assert [one.kind for one in made.collectives] == ["all-gather"]
    assert made.bytes_sent == 3 * 1024 * 1024 * 2 // 4
    assert (made.device_kind, made.devices) == ("TPU v5 lite", 16)
    assert "v5e:4x4" in str(made)


@installed
@pytest.mark.parametrize("end", [P(("x", "y")), P(None, ("x", "y")), P("x")])
def test_sums_are_scattered_and_not_reduced_and_sliced(end):
    tokens = array(P(("x", "y")), (4096, 1024))
    plan = jbdot.plan_sharding("t d, t f -> d f", tokens, tokens, end, hardware=known("TPU v5 lite"))
    assert plan.winner.name == "t on x y"
    made = jbdot.compile_for("v5e:4x4", plan.local, tokens, tokens, out=plan.spec)
    assert {one.kind for one in made.collectives} <= {"reduce-scatter", "all-reduce"}
    assert made.bytes_sent == plan.sent


@installed
@pytest.mark.parametrize(
    ("dtype", "shape", "specs", "name"),
    [
        ("bfloat16", (2048, 4096, 1024), (P(("x", "y")), P("x", "y"), P("y", "x")), "k on x y"),
        ("bfloat16", (2048, 4096, 1024), (P(("x", "y")), P("x", "y"), P("y", "x")), "n on y, k on x"),
        ("bfloat16", (256, 2048, 256), (P(("x", "y")), P("y"), P(None, "y")), "k on y x"),  # narrow parts
        ("int8", (512, 1024, 512), (P(None, "x"), P("x"), P("x")), "k on x"),  # of which the compiler scatters no sums
        ("float16", (512, 1024, 512), (P(None, "x"), P("x"), P("x")), "k on x"),
        ("bfloat16", (4, 1024, 512), (P(None, "x"), P("x"), P("x")), "k on x"),  # parts of one row
        ("bfloat16", (4, 1024, 40), (P(None, "x"), P("x"), P("x")), "k on x"),
        # of a batch, with a gather behind it
        ("bfloat16", (1024, 512, 512, 32), (P("x"), P("y", None, "x"), P(None, None, "y")), "b on x, k on y"),
    ],
)
def test_a_scatter_stays_one(dtype, shape, specs, name):
    """The compiler makes an all-reduce, twice the bytes, of a scatter that is said in another way."""
    on, (m, k, n, *batch), (left, right, end) = AbstractMesh((4, 2), ("x", "y")), shape, specs
    lhs, rhs = (
        jax.ShapeDtypeStruct((*batch, *size), dtype, sharding=NamedSharding(on, spec))
        for size, spec in (((m, k), left), ((k, n), right))
    )
    text = "b m k, b k n -> b m n" if batch else "m k, k n -> m n"
    plan = jbdot.plan_sharding(text, lhs, rhs, end, hardware=known("TPU v5 lite"))
    (way, *_) = (way for way in plan.same_result if way.name == name)
    assert jbdot.compile_for("v5e:2x4", plan.by_way(way), lhs, rhs, out=plan.spec).bytes_sent == way.sent


@installed
@pytest.mark.parametrize(
    ("topology", "size", "specs"),
    [
        ("v5e:4x4", 16, (P(None, "x"), P("x"))),
        ("v5p:4x4x4", 64, (P(None, "x"), P("x"))),
        ("v5p:4x4x4", 64, (P("x"),) * 2),
    ],
)
def test_what_goes_over_a_whole_slice_is_kept(topology, size, specs):
    """In turns; of a scatter over it, and of a gather over all of three sides, the compiler makes an all-reduce."""
    on = AbstractMesh((size,), ("x",), axis_types=(AxisType.Auto,))
    lhs, rhs = (jax.ShapeDtypeStruct((1024, 1024), "bfloat16", sharding=NamedSharding(on, spec)) for spec in specs)
    plan = jbdot.plan_sharding("m k, k n -> m n", lhs, rhs, P("x"), hardware=of_topology(topology))
    (way, *_) = (way for way in plan.same_result if way.name == ("m on x" if specs[0] == specs[1] else "k on x"))
    made = jbdot.compile_for(topology, plan.by_way(way), lhs, rhs, out=P("x"))
    assert {one.kind for one in made.collectives} <= {"reduce-scatter", "all-gather"}
    assert made.bytes_sent == way.sent


@installed
@pytest.mark.parametrize(
    ("dtype", "wanted", "itemsize"), [("bfloat16", None, 2), ("bfloat16", "float32", 4), ("int8", None, 1)]
)
def test_plain_jit_sends_sums_in_the_results_dtype(dtype, wanted, itemsize):
    """As a plan does by default."""
    lhs, rhs = (
        jax.ShapeDtypeStruct((512, 512), dtype, sharding=array(spec).sharding) for spec in (P(None, "x"), P("x"))
    )
    plan = jbdot.plan_sharding(
        "m k, k n -> m n", lhs, rhs, P(), reduce="all_reduce", preferred_element_type=wanted, hardware=known("cpu")
    )

    def plain(x, y):
        return jax.lax.dot(x, y, preferred_element_type=wanted)

    made = jbdot.compile_for("v5e:4x4", plain, lhs, rhs, out=P())
    assert [one.kind for one in made.collectives] == ["all-reduce"]
    assert made.bytes_sent == 2 * 512 * 512 * itemsize * 3 // 4
    assert plan.plain[0].out.start.dtype == plan.winner.out.start.dtype == (wanted or dtype)


@installed
@pytest.mark.parametrize("precision", [None, "highest", ("default", "highest")])
def test_float32_operands_are_counted_as_they_are_sent(precision):
    """Gathered and exchanged: as bfloat16 where the product would round them anyway."""
    on = AbstractMesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    lhs, rhs = (
        jax.ShapeDtypeStruct((512, 512), "float32", sharding=NamedSharding(on, spec))
        for spec in (P(None, ("x", "y")), P("x", "y"))
    )
    text, end, kinds = "m k, k n -> m n", P("y", "x"), set()
    plan = jbdot.plan_sharding(text, lhs, rhs, end, hardware=known("TPU v5 lite"), precision=precision)
    for way in plan.same_result[:3]:
        kinds |= {step.kind for _, side in way.ways for step in side.steps}
        assert jbdot.compile_for("v5e:2x2", plan.by_way(way), lhs, rhs, out=end).bytes_sent == way.sent, way.name
    made = jbdot.compile_for("v5e:2x2", lambda x, y: jax.lax.dot(x, y, precision=precision), lhs, rhs, out=end)
    assert made.bytes_sent == plan.plain[0].sent
    assert {"all-gather", "all-to-all"} <= kinds


@installed
def test_plain_jit_scatters_what_it_adds_along_one_mesh_axis():
    on = AbstractMesh((4,), ("x",), axis_types=(AxisType.Auto,))
    lhs, rhs = (
        jax.ShapeDtypeStruct(shape, "bfloat16", sharding=NamedSharding(on, spec))
        for shape, spec in (((2048, 4096), P(None, "x")), ((4096, 1024), P("x")))
    )
    plan = jbdot.plan_sharding("m k, k n -> m n", lhs, rhs, P("x"), hardware=known("TPU v5 lite"))
    programs = plan.by_compiler, plan.by_way(plan.winner)
    sent = [jbdot.compile_for("v5e:2x2", program, lhs, rhs, out=P("x")).bytes_sent for program in programs]
    assert sent == [plan.plain[0].sent, plan.sent] == [3145728] * 2


@installed
def test_what_a_plan_counts_is_what_is_compiled():
    size = (64, 256, 256)
    lhs, rhs = array(P(None, None, ("x", "y")), size), array(P(None, ("x", "y")), size)
    plan = jbdot.plan_sharding("b m k, b k n -> b m n", lhs, rhs, P(("x", "y")), hardware=known("TPU v5 lite"))
    compiler = compiled.Compiler("v5e:4x4")
    assert compiler.compile(plan.local, lhs, rhs, out=plan.spec).bytes_sent == plan.sent
    plain = compiler.compile(lambda x, y: jnp.einsum("bmk,bkn->bmn", x, y), lhs, rhs, out=plan.spec)
    assert plain.bytes_sent >= 15 * plan.sent
    assert plain.argument_bytes == 2 * 64 * 256 * 256 * 2 // 16


@installed
def test_the_compilers_own_choice_of_a_result_is_told():
    made = jbdot.compile_for("v5e:4x4", jnp.matmul, array(P("x")), array(P(None, "y")))
    assert written((("x",), ("y",))) == made.out
    assert made.bytes_sent == 0
    assert made.estimated_us > 0


@installed
def test_a_result_whose_layout_the_program_says():
    x = jax.ShapeDtypeStruct((256, 128), "float32")
    made = jbdot.compile_for("v5e:2x2", lambda x: with_layout_constraint(x @ x.T, Layout(major_to_minor=(1, 0))), x)
    assert made.flops == 2 * 256 * 256 * 128
    assert "f32[256,256]{0,1" in made.text


@installed
def test_what_the_compiler_refuses_is_said_and_it_goes_on():
    with pytest.raises(ValueError, match="v9:4x4"):
        jbdot.compile_for("v9:4x4", jnp.matmul, array(P("x")), array(P()))
    with pytest.raises(ValueError, match="16"):
        jbdot.compile_for("v5e:2x2", jnp.matmul, array(P("x")), array(P()))
    assert jbdot.compile_for("v5e:4x4", jnp.tanh, array(P("x"))).bytes_sent == 0


@installed
def test_one_that_hangs_is_ended_and_the_next_starts_anew():
    with pytest.raises(RuntimeError, match=r"has not answered after 0\.001 s, and was ended"):
        jbdot.compile_for("v5e:4x4", jnp.sin, array(P("x")), timeout_s=0.001)
    assert jbdot.compile_for("v5e:4x4", jnp.tanh, array(P("x"))).devices == 16


@installed
def test_what_is_compiled_is_what_jit_would_compile():
    """Lanes, whose pinned layouts no export has, are chosen for a TPU here too."""
    batch = jax.ShapeDtypeStruct((16 * 8192, 8, 8), "bfloat16", sharding=NamedSharding(MESH, P(("x", "y"))))
    local = jax.shard_map(jbdot.matmul, mesh=MESH, in_specs=P(("x", "y")), out_specs=P(("x", "y")), check_vma=False)
    bare = jax.shard_map(jnp.matmul, mesh=MESH, in_specs=P(("x", "y")), out_specs=P(("x", "y")), check_vma=False)
    compiler = compiled.Compiler("v5e:4x4")
    chosen, plain = (compiler.compile(function, batch, batch) for function in (local, bare))
    assert 2 * chosen.estimated_cycles < plain.estimated_cycles
    assert plain.flops == 2 * 8192 * 8**3


@installed
def test_slices_and_meshes_that_share_an_axis_of_the_torus():
    two = AbstractMesh((2, 16), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    rows = jax.ShapeDtypeStruct((1024, 1024), "float32", sharding=NamedSharding(two, P("x")))
    across = jbdot.compile_for("v5e:4x4", lambda x: x, rows, out=P(), num_slices=2)
    assert across.collectives == (hlo.Collective("all-gather", 2, 16, 2 << 20, 4 << 20, across_slices=True),)
    assert across.order == "the first axis goes across slices"
    eight = AbstractMesh((2, 8), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    split = jax.ShapeDtypeStruct((1024, 1024), "float32", sharding=NamedSharding(eight, P("x")))
    assert "share an axis" in jbdot.compile_for("v6e:4x4", jnp.tanh, split).order


def test_a_missing_compiler_is_said_with_what_to_install(monkeypatch):
    found = importlib.metadata.version

    def version(name):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match=r"the TPU compiler must be installed.*pip install 'libtpu=="):
        jbdot.compile_for("v5e:4x4", jnp.tanh, array(P("x")))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "libtpu" else found(name))
    with pytest.raises(ImportError, match=r"must be the one that jaxlib was built with: libtpu is 0\.0\.1"):
        jbdot.compile_for("v5e:4x4", jnp.tanh, array(P("x")))


@installed
@pytest.mark.parametrize("topology", ["v5e:3x5", "v5e:2x2x2x2"])
def test_a_topology_that_there_is_not_is_refused_with_the_compilers_reason(topology):
    with pytest.raises(ValueError, match=r"there must be such a topology.*, and says: [A-Z].*Name v4, v5e"):
        jbdot.compile_for(topology, jnp.matmul, array(P()), array(P()))
