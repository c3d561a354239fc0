"""Plans on eight CPU devices: every way gives the right numbers, gradients too; what is sent, chosen and refused."""

import itertools
import random

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import integers, mesh, shardings, struct, together

from jbdot.core.contraction import Contraction
from jbdot.hardware import known
from jbdot.many_devices.partition_spec import written
from jbdot.many_devices.plan_frames import panels
from jbdot.many_devices.sharding_plan import plan_sharding

GEMM = "m k, k n -> m n"
BATCH = "b m k, b k n -> b m n"
SHAPES = {GEMM: ((16, 32), (32, 24)), BATCH: ((16, 8, 32), (16, 32, 8))}
V5E = known("TPU v5 lite")


def planned(text, on, lhs, rhs, out=None, dtype="float32", shapes=None, **options):
    left, right = shapes or SHAPES[text]
    operands = struct(left, dtype, on, lhs), struct(right, dtype, on, rhs)
    return plan_sharding(text, *operands, None if out is None else written(out), hardware=V5E, **options)


def cases(text, count, seed=0):
    """Shardings of both operands and the result, drawn at random; an open result now and then."""
    left, right = SHAPES[text]
    rank = len(Contraction.parse(text).out)
    every = [shardings("xy", len(left)), shardings("xy", len(right)), [None, *shardings("xy", rank)]]
    found = list(itertools.product(*every))
    return random.Random(seed).sample(found, count)


@pytest.mark.parametrize("text", SHAPES)
def test_every_way_gives_the_right_numbers(text):
    on = mesh((2, 4))
    lhs, rhs = (integers(shape, seed) for seed, shape in enumerate(SHAPES[text]))
    want = np.einsum(Contraction.parse(text).einsum, lhs, rhs)
    runs, names = [], []
    for left, right, out in cases(text, 8):
        plan = planned(text, on, left, right, out)
        for way, _ in random.Random(0).sample(plan.candidates, min(6, len(plan.candidates))):
            runs.append((plan.by(way), (left, right), way.out.end.sharding, (0, 1)))
            names.append((left, right, out, way.name))
    for got, name in zip(together(on, runs)(lhs, rhs), names, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=str(name))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_plan_is_a_function_of_sharded_arrays(kind):
    on = mesh((2, 4), kind=kind)
    left, right = ((), (), ("x", "y")), ((), ("x", "y"), ())
    lhs = jax.device_put(integers(SHAPES[BATCH][0]), NamedSharding(on, written(left)))
    rhs = jax.device_put(integers(SHAPES[BATCH][1], 1), NamedSharding(on, written(right)))
    with jax.set_mesh(on):
        plan = plan_sharding(BATCH, lhs, rhs, P(("x", "y")), hardware=V5E)
        want = np.asarray(lhs) @ np.asarray(rhs)
        out, (d_lhs, d_rhs) = jax.value_and_grad(lambda x, y: (plan(x, y) ** 2).sum() / 2, (0, 1))(lhs, rhs)
        assert out == (want**2).sum() / 2
        np.testing.assert_array_equal(d_lhs, want @ np.asarray(rhs).mT)
        np.testing.assert_array_equal(d_rhs, np.asarray(lhs).mT @ want)
        assert d_lhs.sharding.is_equivalent_to(lhs.sharding, 3)  # gradients come back where their operands are
        assert d_rhs.sharding.is_equivalent_to(rhs.sharding, 3)
        both = jax.jit(jax.vmap(plan))(jnp.stack([lhs, lhs + 1]), jnp.stack([rhs, rhs]))
        np.testing.assert_array_equal(both[1], (np.asarray(lhs) + 1) @ np.asarray(rhs))
        _, steps = jax.lax.scan(lambda carry, _: (carry, plan(*carry)), (lhs, rhs), None, length=2)
        np.testing.assert_array_equal(steps[1], want)
    assert plan(lhs, rhs).sharding.is_equivalent_to(NamedSharding(on, P(("x", "y"))), 3)


# The four cases that everyone knows, after the scaling book.

V4 = AbstractMesh((4, 4), ("x", "y"))
BIG = {"dtype": "bfloat16", "shapes": ((8192, 8192), (8192, 8192))}


def moved(plan):
    return [(name, step.kind) for name, way in plan.winner.ways for step in way.steps if step.kind != "cast"]


def test_no_contracting_axis_sharded_sends_nothing():
    plan = planned(GEMM, V4, (("x",), ()), ((), ("y",)), **BIG)
    assert plan.sent == 0
    assert plan.is_plain
    assert plan.spec == P("x", "y")


def test_one_contracting_axis_sharded():
    plan = planned(GEMM, V4, ((), ("x",)), ((), ()), ((), ()), **BIG)
    assert plan.sent > 0


def test_both_contracting_axes_sharded_the_same():
    plan = planned(GEMM, V4, ((), ("x",)), (("x",), ()), reduce="all_reduce", **BIG)
    assert [step for step in moved(plan) if step[1] != "slice"] == [("out", "all-reduce")]
    assert plan.sent == 2 * 8192 * 8192 // 4 * 2 * 3 // 4  # bfloat16 sums, the other mesh axis shared out as well
    scattered = planned(GEMM, V4, ((), ("x",)), (("x",), ()), reduce="reduce_scatter", **BIG)
    assert ("out", "reduce-scatter") in moved(scattered)


def test_both_free_axes_on_one_mesh_axis():
    plan = planned(GEMM, V4, (("x",), ()), ((), ("x",)), (("x",), ()), **BIG)
    assert moved(plan)
    assert plan.spec == P("x")


# What it must reach, by count; `benchmarks.plans` holds it against compiled text.


def test_both_contracting_sharded_and_the_result_by_batch():
    left, right, out = ((), (), ("x", "y")), ((), ("x", "y"), ()), (("x", "y"), (), ())
    for shape, least in (((4, 4), 15), ((4, 16), 32)):  # plain jit's sums are scattered where sides differ
        on = AbstractMesh(shape, ("x", "y"))
        size = (64, 1024, 1024)
        plan = planned(BATCH, on, left, right, out, dtype="bfloat16", shapes=(size, size))
        assert moved(plan) == [("lhs", "all-to-all"), ("rhs", "all-to-all")]
        assert plan.sent * least <= plan.plain[0].sent


def test_contracting_and_contracting_to_both_axes():
    plan = planned(GEMM, V4, ((), ("x", "y")), (("x", "y"), ()), (("x",), ("y",)), **BIG)
    assert plan.sent * 4 <= plan.plain[0].sent


def test_an_open_result_makes_no_device_do_anothers_work():
    for left, right in itertools.product(shardings("xy", 2), repeat=2):
        plan = planned(GEMM, V4, left, right, **BIG)
        assert plan.winner.flops == 2 * 8192**3 // 16


def test_repeated_work_is_said_and_can_be_forbidden():
    """Megatron's output projection: to gather both operands repeats the work of a whole mesh axis."""
    text, shapes = "b s g r k, g r k d -> b s d", ((16, 4096, 8, 4, 128), (8, 4, 128, 4096))
    ends = (("x",), (), ("y",), (), ()), (("y",), (), (), ()), (("x",), (), ())
    plan = planned(text, V4, *ends, dtype="bfloat16", shapes=shapes)
    assert plan.winner.flops == plan.task.flops // 16
    assert "sends 151 MB: b on x, lhs round a ring sends 126 MB, but has each device do 4 times the work." in plan.why
    assert all(
        way.flops == plan.winner.flops
        for way, _ in planned(text, V4, *ends, dtype="bfloat16", shapes=shapes, redundant_compute=False).candidates
    )
    small = planned(GEMM, V4, (("x",), ()), ((), ()), ((), ()), "bfloat16", ((64, 64), (64, 64)))
    assert "has each device do 4 times its share of the work, as plain jit does" in small.why
    scattered = planned(GEMM, V4, ((), ("x",)), (("x",), ()), ((), ()), shapes=((16, 64), (64, 16)))
    assert "has each device do 4 times its share of the work, as plain jit does" in scattered.why
    with pytest.raises(ValueError, match="redundant_compute=False allows no repeated work: there is no way"):
        planned(GEMM, V4, ((), ()), ((), ()), shapes=((3, 5), (5, 7)), redundant_compute=False)


def test_forbid_takes_a_way_that_sends_nothing_where_there_is_one():
    plan = planned(GEMM, V4, (("x",), ()), ((), ()), (("x",), ()), reduce="forbid", **BIG)
    assert plan.sent == 0


@pytest.mark.parametrize(
    ("dtype", "wanted", "sent"),
    [
        ("bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", "float32"),
        ("float16", None, "float16"),
        ("float32", "bfloat16", "bfloat16"),
        ("float8_e4m3fn", None, "float8_e4m3fn"),
        ("int8", None, "int8"),
        ("int8", "int32", "int32"),
    ],
)
def test_partial_sums_are_sent_in_the_results_dtype_as_plain_jit_sends_them(dtype, wanted, sent):
    """`test_witness` compiles plain jit and holds its sums against this."""
    left, right = ((), ("x", "y")), (("x", "y"), ())
    asked = {"dtype": dtype, "shapes": BIG["shapes"], "preferred_element_type": wanted}
    plan = planned(GEMM, V4, left, right, reduce="reduce_scatter", **asked)
    assert plan.winner.out.start.dtype == sent
    assert plan.plain[0].out.start.dtype == sent


def test_wide_sums_cost_bytes_and_the_plan_says_so():
    ends = ((), ("x",)), (("x",), ()), (("x",), ())
    small = {"dtype": "bfloat16", "shapes": ((2048, 4096), (4096, 1024))}
    on = AbstractMesh((4,), ("x",))
    narrow, wide = planned(GEMM, on, *ends, **small), planned(GEMM, on, *ends, sum_dtype="float32", **small)
    assert (narrow.sent, wide.sent) == (3145728, 6291456)
    assert narrow.plain[0].sent == wide.plain[0].sent == 3145728  # plain jit knows of no sum_dtype
    assert "which sends 6.29 MB, plain jit an estimated 3.15 MB." in wide.why
    assert "Sums over devices are sent in bfloat16, as plain jit sends them: each is rounded to 8 bits" in narrow.why
    assert narrow.why.endswith('sum_dtype="float32" would keep 24 bits, and send 3.15 MB more.')
    assert "Sums over devices are sent in float32, by sum_dtype, and keep 24 bits" in wide.why
    assert wide.why.endswith("bfloat16, as plain jit sends them, would keep 8 bits, and send 3.15 MB less.")
    assert "Sums" not in planned(GEMM, on, *ends, **{**small, "dtype": "float32"}).why


def test_partial_sums_can_be_left_to_jax():
    on = mesh((2, 4), kind="Explicit")
    lhs = jax.device_put(integers((16, 32)), NamedSharding(on, P("x", "y"))).astype("bfloat16")
    rhs = jax.device_put(integers((32, 24), 1), NamedSharding(on, P("y"))).astype("bfloat16")
    assert plan_sharding(GEMM, lhs, rhs, reduce="unreduced", hardware=V5E).out.dtype == "bfloat16"  # as JAX leaves them
    plan = plan_sharding(GEMM, lhs, rhs, reduce="unreduced", sum_dtype="float32", hardware=V5E)
    assert plan.sent == 0
    assert plan.spec.unreduced == {"y"}
    assert plan.out.dtype == "float32"
    assert "P('x', unreduced={'y'})" in str(plan)
    assert "sends less than" not in str(plan)  # nothing has to be sent
    with jax.set_mesh(on):
        got = jax.jit(lambda x, y: jax.sharding.reshard(plan(x, y), P("x")))(lhs, rhs)
        np.testing.assert_array_equal(got, np.asarray(lhs, np.float32) @ np.asarray(rhs, np.float32))
        with pytest.raises(ValueError, match="a result that is differentiated must have its sums complete"):
            jax.grad(lambda x, y: jax.sharding.reshard(plan(x, y), P("x")).sum())(lhs, rhs)
    with pytest.raises(ValueError, match='reduce="unreduced" needs a mesh with Explicit axes'):
        planned(GEMM, mesh((2, 4)), ((), ("x",)), (("x",), ()), reduce="unreduced")


def test_a_sum_that_sixteen_bits_lose_is_right_in_wide_sums():
    on = mesh((8,))
    lhs = jnp.ones((8, 4096), "bfloat16")
    plan = plan_sharding(
        GEMM,
        jax.device_put(lhs, NamedSharding(on, P(None, "x"))),
        jax.device_put(lhs.T + jnp.bfloat16(2**-7), NamedSharding(on, P("x"))),
        P(),
        reduce="all_reduce",
        sum_dtype="float32",
        hardware=V5E,
    )
    got = plan(jax.device_put(lhs, plan.lhs.sharding), jax.device_put(lhs.T + jnp.bfloat16(2**-7), plan.rhs.sharding))
    np.testing.assert_array_equal(got.astype("float32"), 4096 + 32)


def test_bools_are_added_as_bools():
    """Each device has 512 products that are true: their count is 0 in eight bits, and 8 devices have true sums."""
    on = mesh((2, 4))
    some = np.random.default_rng(0).random((8, 4096)) < 0.5
    lhs = np.concatenate([np.ones((4, 4096), bool), np.zeros((2, 4096), bool), some[:2]])
    rhs = np.concatenate([np.ones((4096, 4), bool), some.T[:, 2:6]], axis=1)
    want = np.asarray(lhs, int) @ np.asarray(rhs, int) > 0
    runs, names = [], []
    for left, right, out in (
        (((), ("x", "y")), (("x", "y"), ()), (("x",), ("y",))),
        (((), ("x", "y")), (("x", "y"), ()), ((), ())),
        (((), ("x",)), (("y",), ()), (("y",), ())),
    ):
        plan = planned(GEMM, on, left, right, out, dtype="bool", shapes=(lhs.shape, rhs.shape))
        assert plan.out.dtype == "bool"
        for way, _ in plan.candidates:
            if way.places["k"]:
                runs.append((plan.by(way), (left, right), way.out.end.sharding, (0, 1)))
                names.append((left, right, out, way.name))
    kinds = {step.kind for way, _ in plan.candidates for step in way.out.steps}
    assert {"all-reduce", "reduce-scatter"} <= kinds
    for got, name in zip(together(on, runs)(lhs, rhs), names, strict=True):
        assert got.dtype == "bool", name
        np.testing.assert_array_equal(got, want, err_msg=str(name))


@pytest.mark.parametrize(
    ("dtype", "options", "said"),
    [
        ("complex64", {"sum_dtype": "float32"}, "sum_dtype must be of the result's kind: float32 cannot hold"),
        (
            "float32",
            {"sum_dtype": "int32"},
            "int32 cannot hold sums of float32",
        ),
        ("float32", {"sum_dtype": "uint8"}, "sum_dtype must be of the result's kind"),
        ("float32", {"sum_dtype": "bool"}, "sum_dtype must be of the result's kind"),
        ("int32", {"sum_dtype": "float32"}, "sum_dtype must be of the result's kind"),
        ("int32", {"sum_dtype": "uint32"}, "sum_dtype must be of the result's kind"),
        ("int32", {"sum_dtype": "int8"}, "sum_dtype must have the bits of integers: int8 cannot hold sums of int32"),
        ("int8", {"sum_dtype": "int8", "preferred_element_type": "int32"}, "must have the bits of integers"),
        ("bool", {"sum_dtype": "int32"}, "bools must be added as bools: sum_dtype='int32'"),
        ("bool", {"reduce": "unreduced"}, 'bools must be added as bools: reduce="unreduced"'),
        ("complex64", {"preferred_element_type": "bfloat16"}, "preferred_element_type must be of the operands' kind"),
        ("float32", {"preferred_element_type": "int32"}, "int32 cannot hold sums of float32"),
        ("int8", {"preferred_element_type": "bool"}, "bool cannot hold sums of int8"),
        ("float32", {"sum_dtype": "wide"}, "a dtype must be one that JAX knows: 'wide'"),
    ],
)
def test_sums_in_a_dtype_that_cannot_hold_them_are_refused(dtype, options, said):
    with pytest.raises(TypeError, match="plan_sharding: .*" + said):
        planned(GEMM, V4, ((), ("x",)), (("x",), ()), dtype=dtype, **options)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("int8", {}),
        ("int8", {"preferred_element_type": "float32"}),
        ("bool", {"preferred_element_type": "int32"}),
        ("complex64", {}),
        ("float32", {"sum_dtype": "bfloat16"}),
    ],
)
def test_sums_in_a_dtype_that_holds_them_are_plain_jits(dtype, options):
    on = mesh((2, 4))
    lhs, rhs = (abs(integers(shape, seed)) % 2 for seed, shape in enumerate(SHAPES[GEMM]))
    lhs, rhs = (jnp.asarray(x, dtype) * jnp.asarray(1j if dtype == "complex64" else 1, dtype) for x in (lhs, rhs))
    wanted = options.get("preferred_element_type")
    want = jax.lax.dot_general(lhs, rhs, (((1,), (0,)), ((), ())), preferred_element_type=wanted)
    plan = planned(GEMM, on, ((), ("x", "y")), (("x", "y"), ()), ((), ("x",)), dtype=dtype, **options)
    got = plan(*(jax.device_put(x, at.sharding) for x, at in ((lhs, plan.lhs), (rhs, plan.rhs))))
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_no_way_cuts_an_axis_below_one_element():
    on = AbstractMesh((2, 2, 2, 2), tuple("xyzw"))
    shapes = (16, 8, 15, 6), (8, 16, 2, 15)
    left, right = ((), ("y", "w", "x"), (), ("z",)), (("w", "y"), ("x",), ("z",), ())
    plan = planned("c b a d, b c e a -> a e d", on, left, right, ((), ("w",), ("y",)), shapes=shapes)
    assert all(0 not in block.view for way, _ in plan.candidates for _, side in way.ways for block in side.blocks)


def test_a_mesh_of_axes_of_two_kinds_is_refused():
    kinds = (jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto)
    on = AbstractMesh((2, 4), ("x", "y"), axis_types=kinds)
    with pytest.raises(ValueError, match="the axes of the mesh must be of one kind: 'x' is Explicit, 'y' is Auto"):
        planned(GEMM, on, (("x",), ("y",)), (("y",), ()))


def test_work_does_not_grow_with_devices(monkeypatch):
    """Planning looks at mesh axes, never at devices."""
    looked = []
    monkeypatch.setattr(AbstractMesh, "devices", property(lambda self: looked.append(self)), raising=False)
    on = AbstractMesh((16, 16, 24), ("x", "y", "z"))
    size = (3072, 1536, 1536)
    plan = planned(BATCH, on, ((), (), ("x", "y")), (("z",), (), ()), dtype="bfloat16", shapes=(size, size))
    assert plan.winner.flops == 2 * 3072 * 1536**3 // 6144
    assert not looked


def test_one_device_and_axes_of_one_device():
    for shape in ((1,), (1, 1), (1, 8)):
        on = AbstractMesh(shape, "xy"[: len(shape)])
        plan = planned(GEMM, on, (("x",), ()), ((), ()))
        assert plan.sent == 0
        assert plan.is_plain
        assert "sends less than" not in str(plan)


def test_what_is_printed():
    plan = planned(GEMM, V4, ((), ("x", "y")), (("x", "y"), ()), (("x",), ("y",)), **BIG)
    text = str(plan)
    for part in (
        "x=4, y=4",
        "TPU v5e",
        "P('x', 'y')",
        "plain jit",
        "all-to-all x",
        "estimates",
        "MB",
        plan.winner.name,
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reduce": "never"}, "reduce must be one of 'all_reduce', 'reduce_scatter', 'unreduced', 'forbid'"),
        ({"reduce": "forbid"}, 'reduce="forbid" allows no communication: the best way sends, for each device, out'),
        ({"out": P("x", "y", "x")}, "must not be longer than its rank"),
        ({"out": P("x", "x")}, "a mesh axis must cut one axis of an array only"),
        (
            {"out": P("x", unreduced={"y"})},
            'must hold complete sums: .*Leave .* out of it, and give reduce="unreduced"',
        ),
        ({"hardware": 5}, "hardware must be a jbdot.hardware.Hardware, or a name: got a int"),
        ({"hardware": "TPU v99"}, "the device must be of a kind whose figures are known: 'TPU v99'"),
        ({"out": P("w")}, "a PartitionSpec must name axes of the mesh: 'w' of out, and the mesh has x=4, y=4"),
        ({"out": {"q": "x"}}, "a label that is placed must be one of the result's: 'q'"),
        ({"out": P(P.UNCONSTRAINED)}, "must leave no axis unconstrained"),
        ({"contraction": "m k, k n -> m"}, "each label must be in two of lhs, rhs and the result"),
        ({"contraction": "m k, j n -> m n"}, "each label must be in two of lhs, rhs and the result"),
        ({"lhs": jax.ShapeDtypeStruct((64, 64), "float32"), "rhs": jnp.ones((64, 64))}, "neither has a NamedSharding"),
        ({"lhs": [[1.0]]}, "lhs must be an array or a jax.ShapeDtypeStruct: got a list"),
        (
            {"lhs": struct((6, 64), "float32", V4, (("x",), ()))},
            "axis 0 of lhs has size 6, for 4 parts along x; .* Pad the array",
        ),
        (
            {"rhs": struct((64, 64), "float32", AbstractMesh((2,), ("x",)), ((), ()))},
            "both operands must be on one mesh",
        ),
    ],
)
def test_what_is_refused(change, said):
    arguments = {
        "contraction": GEMM,
        "lhs": struct((64, 64), "float32", V4, ((), ("x",))),
        "rhs": struct((64, 64), "float32", V4, (("x",), ())),
        "hardware": V5E,
        **change,
    }
    with pytest.raises((TypeError, ValueError), match="plan_sharding: .*" + said.replace("(", r"\(")):
        plan_sharding(**arguments)


def test_hardware_has_names():
    arguments = GEMM, struct((64, 64), "float32", V4, ((), ("x",))), struct((64, 64), "float32", V4, (("x",), ()))
    for name in ("v5e", "TPU v5e", "TPU v5 lite"):
        assert plan_sharding(*arguments, hardware=name).hardware is V5E


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_operands_that_are_nowhere_are_refused_where_jax_cannot_place_them(kind):
    kinds = (getattr(jax.sharding.AxisType, kind),) * 2
    lhs, rhs = (integers(shape) for shape in SHAPES[GEMM])
    ends = (("x",), ()), ((), ("y",))
    abstract = planned(GEMM, AbstractMesh((2, 4), ("x", "y"), axis_types=kinds), *ends)
    with pytest.raises(ValueError, match="a plan that is run must be for a mesh of devices: lhs is given to a plan"):
        abstract(lhs, rhs)
    plan = planned(GEMM, mesh((2, 4), kind=kind), *ends)
    if kind == "Auto":
        np.testing.assert_array_equal(plan(lhs, rhs), lhs @ rhs)
        return
    with pytest.raises(ValueError, match=r"lhs is on no mesh, planned lhs float32\[16,32\] P\('x'\)"):
        plan(lhs, jnp.asarray(rhs))


def test_a_plan_for_an_abstract_mesh_takes_the_devices_that_it_finds():
    lhs, rhs = (integers(shape) for shape in SHAPES[GEMM])
    left, right = ((), ("x",)), (("x",), ())
    plan = planned(GEMM, AbstractMesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2), left, right)
    assert not plan.is_plain
    with pytest.raises(ValueError, match="must find its devices where it is compiled: there is one device here, and"):
        jax.jit(plan)(lhs, rhs)
    on = mesh((2, 4))
    placed = [jax.device_put(x, NamedSharding(on, written(at))) for x, at in ((lhs, left), (rhs, right))]
    np.testing.assert_array_equal(jax.jit(plan)(*placed), lhs @ rhs)
    with jax.set_mesh(on):
        np.testing.assert_array_equal(jax.jit(plan)(lhs, rhs), lhs @ rhs)


def test_float32_operands_are_counted_as_a_tpu_sends_them():
    """As bfloat16, at the precision that rounds them so; sums, and everything on other devices, as float32."""
    left, right, end = ((), ("x", "y")), (("x", "y"), ()), (("x",), ("y",))
    narrow, wide, short = (
        planned(GEMM, V4, left, right, end, dtype, BIG["shapes"], precision=precision)
        for dtype, precision in (("float32", None), ("float32", "highest"), ("bfloat16", None))
    )
    assert 2 * narrow.task.lhs.bytes == wide.task.lhs.bytes == 2 * short.task.lhs.bytes
    assert narrow.task.sum_dtype == narrow.winner.out.start.dtype == narrow.out.dtype == "float32"
    assert narrow.plain[0].lhs.start.dtype == narrow.plain[0].rhs.start.dtype == "bfloat16"
    assert narrow.sent < wide.sent
    said = "lhs and rhs are sent as bfloat16, to which XLA's TPU compiler rounds float32 first at this precision"
    assert said in narrow.why
    assert "sent as bfloat16, to which" not in wide.why + short.why
    given, *_, multiplied = panels(narrow)["lhs"]
    assert given.held.startswith("float32")
    assert multiplied.held.startswith("bfloat16")
    on = struct(BIG["shapes"][0], "float32", V4, left), struct(BIG["shapes"][1], "float32", V4, right)
    assert plan_sharding(GEMM, *on, written(end), hardware=known("h100")).task.lhs == wide.task.lhs
    named = planned(GEMM, V4, left, right, end, "float32", BIG["shapes"], lowering="reduced")
    assert named.task.lhs == wide.task.lhs  # without a matrix unit


def test_precision_is_read_once_as_jax_has_it():
    plan = planned(GEMM, mesh((2, 4)), ((), ()), ((), ()), precision="highest")
    assert plan.settings.precision is jax.lax.Precision.HIGHEST
    with jax.default_matmul_precision("highest"):
        plan = planned(GEMM, mesh((2, 4)), ((), ()), ((), ()))
    assert plan.settings.precision is jax.lax.Precision.HIGHEST


def test_operands_that_are_elsewhere_are_refused():
    on = mesh((8,))
    plan = planned(GEMM, on, (("x",), ()), ((), ()))
    lhs, rhs = (integers(shape) for shape in SHAPES[GEMM])
    np.testing.assert_array_equal(plan(lhs, rhs), lhs @ rhs)  # what has no sharding is placed
    moved_away = jax.device_put(lhs, NamedSharding(on, P(None, "x")))
    with pytest.raises(ValueError, match=r"lhs is at P\(None, 'x'\), planned lhs float32\[16,32\] P\('x'\)"):
        plan(moved_away, rhs)
    with pytest.raises(ValueError, match=r"got lhs float32\[8,32\]"):
        plan(lhs[:8], rhs)
    with pytest.raises(TypeError, match="lhs must be an array: got a list"):
        plan([1.0], rhs)


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex128"])
def test_64_bit_arrays_keep_their_dtype_with_x64_off(dtype):
    on = mesh((4,), ("x",))
    with jax.enable_x64(True):
        whole = jnp.full((8, 8), 3, dtype)
    x, y = (jax.device_put(whole, NamedSharding(on, spec)) for spec in (P(None, "x"), P("x")))
    for out in (P(), P("x")):
        plan = plan_sharding("m k, k n -> m n", x, y, out)
        assert plan.out.dtype == plan(x, y).dtype == dtype
        np.testing.assert_array_equal(plan(x, y), np.full((8, 8), 72))
        if dtype == "float64":
            (gradient,) = jax.linear_transpose(lambda x, plan=plan: plan(x, y), x)(plan(x, y))
            assert gradient.dtype == dtype
            np.testing.assert_array_equal(gradient, np.full((8, 8), 8 * 3 * 72))


def test_a_lowering_is_refused_where_it_does_not_fit_the_dot_and_gives_way_to_a_part():
    on = mesh((4,))
    lhs, rhs = (struct((8, 8), "bool", on, ((), ())),) * 2
    with pytest.raises(ValueError, match="plan_sharding: lowering='pinned' must fit the contraction"):
        plan_sharding("m k, k n -> m n", lhs, rhs, lowering="pinned")
    x, y = integers((4, 8)), integers((8, 4), 1)
    lhs, rhs = struct(x.shape, "float32", on, ((), ("x",))), struct(y.shape, "float32", on, (("x",), ()))
    plan = plan_sharding("m k, k n -> m n", lhs, rhs, lowering="split", reduce="all_reduce")
    operands = (jax.device_put(a, b.sharding) for a, b in ((x, lhs), (y, rhs)))
    np.testing.assert_array_equal(plan(*operands), x @ y)  # each device's k is 2
    odd = struct((4, 12), "float32", on, ((), ("x",))), struct((12, 4), "float32", on, (("x",), ()))
    plan = plan_sharding("m k, k n -> m n", *odd, lowering="split", reduce="all_reduce")
    x, y = integers((4, 12)), integers((12, 4), 1)
    operands = [jax.device_put(a, b.sharding) for a, b in zip((x, y), odd, strict=True)]
    np.testing.assert_array_equal(plan(*operands), x @ y)  # and here 3, which cannot be split
    np.testing.assert_array_equal(jax.grad(lambda x, y: plan(x, y).sum())(*operands), np.ones((4, 4)) @ y.T)
