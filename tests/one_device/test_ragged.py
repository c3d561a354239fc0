"""Ragged dots: what the loop over groups gives is what lax gives, whatever the sizes, after every transformation."""

import functools

import jax
import numpy as np
import pytest
from jax import export, lax
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P
from meshes import mesh

from jbdot.one_device import ragged
from jbdot.one_device.ragged import RaggedSpec
from jbdot.programs.optimize import optimize

M, K, N = 70, 8, 6
SIZES = {
    "all rows": (20, 0, 33, 17),
    "fewer": (0, 5, 0, 40),
    "more": (30, 30, 30, 30),
    "none": (0, 0, 0, 0),
    "one has all": (0, 0, 70, 0),
}
G = 4
# Dtypes of the operands and of the result.
DTYPES = (
    ("float32", None),
    ("bfloat16", None),
    ("float16", None),
    ("bfloat16", "float32"),
    ("int8", "int32"),
    ("int8", None),
    ("uint8", "uint32"),
    ("complex64", None),
)


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(ragged, "_is_worth", lambda spec: True)


def array(*shape, dtype="float32", seed=0):
    numbers = np.random.default_rng(seed).integers(0 if dtype[0] == "u" else -4, 5, shape)
    return jnp.asarray(numbers).astype(dtype)


def by_hand(lhs, rhs, sizes):
    """A loop over groups in NumPy, as the definition has it."""
    lhs, rhs = (np.asarray(x, "complex128" if "complex" in str(x.dtype) else "float64") for x in (lhs, rhs))
    out, row = np.zeros((lhs.shape[0], rhs.shape[2]), lhs.dtype), 0
    for group, size in enumerate(sizes):
        rows = slice(row, min(row + size, len(lhs)))
        out[rows] = lhs[rows] @ rhs[group]
        row += size
    return out


def is_grouped(f, *args):
    return "ragged_dot.grouped" in jax.jit(f).lower(*args).as_text(debug_info=True)


@pytest.mark.parametrize(("dtype", "out"), DTYPES)
def test_rows_meet_the_matrix_of_their_group(dtype, out):
    lhs, rhs = array(M, K, dtype=dtype), array(G, K, N, dtype=dtype, seed=1)
    f = functools.partial(lax.ragged_dot, preferred_element_type=out)
    call, want = jax.jit(optimize(f)), jax.eval_shape(f, lhs, rhs, jnp.asarray(SIZES["none"]))
    for sizes in SIZES.values():
        got, exact = call(lhs, rhs, jnp.asarray(sizes)), by_hand(lhs, rhs, sizes)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if dtype == "int8" and out is None:
            exact = exact.astype("int64").astype("int8")  # wraps
        np.testing.assert_array_equal(np.asarray(got, exact.dtype), exact)


def test_integers_wrap_as_in_lax():
    numbers = np.random.default_rng(2).integers(-128, 128, (M + G * N, K)).astype("int8")
    lhs, rhs, sizes = numbers[:M], numbers[M:].reshape(G, K, N), jnp.asarray(SIZES["all rows"])
    np.testing.assert_array_equal(
        jax.jit(optimize(lax.ragged_dot))(lhs, rhs, sizes), jax.jit(lax.ragged_dot)(lhs, rhs, sizes)
    )


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint32"])
def test_sizes_of_any_integer(dtype):
    lhs, rhs, sizes = array(M, K), array(G, K, N), jnp.asarray(SIZES["all rows"], dtype)
    np.testing.assert_array_equal(jax.jit(optimize(lax.ragged_dot))(lhs, rhs, sizes), by_hand(lhs, rhs, sizes))


def test_64_bits():
    with jax.enable_x64(True):
        lhs, rhs, sizes = array(M, K, dtype="float64"), array(G, K, N, dtype="float64"), jnp.asarray(SIZES["fewer"])
        assert sizes.dtype == "int64"
        got = jax.jit(optimize(lax.ragged_dot))(lhs, rhs, sizes)
        assert got.dtype == "float64"
        np.testing.assert_array_equal(got, by_hand(lhs, rhs, SIZES["fewer"]))


# Where the axes stand: shapes of lhs and rhs, the dimension numbers, and the shape of the sizes.
NUMBERS = {
    "rhs contracted last": ((M, K), (G, N, K), ((((1,), (2,)), ((), ())), [0], [0]), (G,)),
    "rows last, groups last": ((K, M), (K, N, G), ((((0,), (0,)), ((), ())), [1], [2]), (G,)),
    "more axes": ((M, 3, K, 2), (G, 2, N, K, 5), ((((2, 3), (3, 1)), ((), ())), [0], [0]), (G,)),
    "an axis before the rows": ((3, M, K), (G, K, N), ((((2,), (1,)), ((), ())), [1], [0]), (3, G)),
    "shared sizes": ((3, M, K), (G, K, N), ((((2,), (1,)), ((), ())), [1], [0]), (G,)),
    "batch": ((2, M, 3, K), (3, G, 2, K, N), ((((3,), (3,)), ((2, 0), (0, 2))), [1], [1]), (3, 2, G)),
    "groups of contracted rows": ((M, K), (M, N), ((((0,), (0,)), ((), ())), [0], []), (G,)),
    "the same, turned": ((K, M), (N, M), ((((1,), (1,)), ((), ())), [1], []), (G,)),
    "the same, with an axis before": ((K, 3, M), (3, M, N), ((((1, 2), (0, 1)), ((), ())), [2], []), (3, G)),
    "the same, in a batch": ((2, M, K), (M, N, 2), ((((1,), (0,)), ((0,), (2,))), [1], []), (2, G)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_axes_may_stand_anywhere(name):
    left, right, numbers, shape = NUMBERS[name]
    lhs, rhs = array(*left), array(*right, seed=1)
    sizes = jnp.asarray(np.random.default_rng(3).multinomial(M - 3, [0.1, 0.5, 0, 0.4], shape[:-1]))

    def f(lhs, rhs, sizes):
        return lax.ragged_dot_general(lhs, rhs, sizes, lax.RaggedDotDimensionNumbers(*numbers))

    assert is_grouped(optimize(f), lhs, rhs, sizes)
    want = jax.jit(f)(lhs, rhs, sizes)
    np.testing.assert_array_equal(jax.jit(optimize(f))(lhs, rhs, sizes), want)
    (row,) = optimize(f).report(lhs, rhs, sizes)
    assert row.dot_spec.out == want.shape
    assert row.contraction.out_shape(lhs.shape, rhs.shape, shape) == want.shape


def test_gradients_and_their_gradients():
    lhs, rhs, sizes = array(M, K), array(G, K, N, seed=1), jnp.asarray(SIZES["fewer"])

    def loss(lhs, rhs):
        return jnp.sum(lax.ragged_dot(lhs, rhs, sizes) ** 2)

    def both(lhs, rhs):
        gradient = jax.grad(loss, (0, 1))
        return gradient(lhs, rhs), jax.jvp(gradient, (lhs, rhs), (lhs, rhs))[1]

    jax.tree.map(np.testing.assert_array_equal, jax.jit(optimize(both))(lhs, rhs), jax.jit(both)(lhs, rhs))
    left, right = jax.jit(optimize(jax.grad(loss, (0, 1))))(lhs, rhs)
    cotangent, row = 2 * by_hand(lhs, rhs, SIZES["fewer"]), 0
    for group, size in enumerate(SIZES["fewer"]):
        rows = slice(row, row + size)
        np.testing.assert_array_equal(left[rows], cotangent[rows] @ np.asarray(rhs[group]).T)
        np.testing.assert_array_equal(right[group], np.asarray(lhs[rows]).T @ cotangent[rows])
        row += size


def test_vmap_remat_and_scan():
    lhs, rhs = array(3, M, K), array(3, G, K, N, seed=1)
    sizes = jnp.asarray([SIZES["all rows"], SIZES["fewer"], SIZES["none"]])

    @jax.checkpoint
    def loss(lhs, rhs, sizes):
        return jnp.sum(lax.ragged_dot(lhs, rhs, sizes) ** 2)

    def scanned(lhs, rhs, sizes):
        return lax.scan(lambda total, each: (total + loss(*each), None), 0.0, (lhs, rhs, sizes))[0]

    each = jax.vmap(jax.value_and_grad(loss, (0, 1)))
    for f in (each, jax.value_and_grad(scanned, (0, 1))):
        assert is_grouped(optimize(f), lhs, rhs, sizes)
        jax.tree.map(np.testing.assert_array_equal, jax.jit(optimize(f))(lhs, rhs, sizes), f(lhs, rhs, sizes))


def test_in_shard_map_and_left_alone_where_xla_cuts():
    lhs, rhs = array(2 * M, K), array(2 * G, K, N, seed=1)
    sizes = jnp.asarray([*SIZES["fewer"], *SIZES["all rows"]])
    experts = mesh((2,))
    mapped = jax.shard_map(lax.ragged_dot, mesh=experts, in_specs=P("x"), out_specs=P("x"))
    assert is_grouped(optimize(mapped), lhs, rhs, sizes)
    want = np.concatenate([by_hand(lhs[:M], rhs[:G], sizes[:G]), by_hand(lhs[M:], rhs[G:], sizes[G:])])
    np.testing.assert_array_equal(jax.jit(optimize(mapped))(lhs, rhs, sizes), want)
    cut = jax.device_put(lhs, jax.sharding.NamedSharding(experts, P("x")))
    assert not is_grouped(optimize(lax.ragged_dot), cut, rhs, sizes)
    np.testing.assert_array_equal(
        jax.jit(optimize(lax.ragged_dot))(cut, rhs, sizes), jax.jit(lax.ragged_dot)(lhs, rhs, sizes)
    )


def test_exports_for_each_platform():
    args = array(M, K), array(G, K, N, seed=1), jnp.asarray(SIZES["fewer"])
    exported = export.export(jax.jit(optimize(lax.ragged_dot)), platforms=["cpu", "tpu"])(*args)
    assert "stablehlo.while" in exported.mlir_module()
    assert "chlo.ragged_dot" in exported.mlir_module()  # the TPU's own
    np.testing.assert_array_equal(exported.call(*args), by_hand(args[0], args[1], SIZES["fewer"]))


def test_what_is_not_finite_stays_in_its_group():
    lhs, rhs, sizes = array(M, K).at[21].set(jnp.nan), array(G, K, N, seed=1), SIZES["all rows"]
    rhs, cotangent = rhs.at[3].set(jnp.inf), array(M, N, seed=2)

    @jax.jit
    @optimize
    def both(lhs, rhs, cotangent):
        out, vjp = jax.vjp(lambda lhs, rhs: lax.ragged_dot(lhs, rhs, jnp.asarray(sizes)), lhs, rhs)
        return out, *vjp(cotangent)

    out, left, right = both(lhs, rhs, cotangent)
    for rows in (out, left):
        assert np.isfinite(np.delete(rows[:53], 21, 0)).all()
    assert np.isfinite(right[jnp.array([0, 1, 3])]).all()
    assert np.isnan(right[2]).all()


def test_sums_are_not_of_fewer_bits():
    """In bfloat16, 256 + 1 is 256: ones that are added in it block by block end there."""
    rows, ones = 4096, jnp.ones((4096, 2), "bfloat16")
    numbers = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])

    def f(lhs, rhs, sizes):
        return lax.ragged_dot_general(lhs, rhs, sizes, numbers)

    got = jax.jit(optimize(f))(ones, ones, jnp.asarray([rows - 128, 128]))
    np.testing.assert_array_equal(np.asarray(got[:, 0, 0], "float32"), [rows - 128, 128])


def test_what_is_left_to_lax():
    lhs, rhs, sizes = array(M, K), array(G, K, N), jnp.asarray(SIZES["all rows"])
    assert not is_grouped(lax.ragged_dot, lhs, rhs, sizes)  # without a mark
    assert not is_grouped(optimize(lax.ragged_dot, lowering="direct"), lhs, rhs, sizes)
    assert is_grouped(optimize(lax.ragged_dot, lowering="pinned"), lhs, rhs, sizes)  # a name is for dots
    assert not is_grouped(optimize(lax.ragged_dot), lhs[:, :0], rhs[:, :0], sizes)
    batch = lax.RaggedDotDimensionNumbers((((2,), (1,)), ((0,), (0,))), [0], [])

    def of_batch(lhs, rhs, sizes):
        return lax.ragged_dot_general(lhs, rhs, sizes, batch)

    assert not is_grouped(optimize(of_batch), array(G, 3, K), array(G, K, N), sizes)
    named = functools.partial(lax.ragged_dot, precision="F32_F32_F32")
    assert not is_grouped(optimize(named), lhs, rhs, sizes)


@pytest.mark.parametrize(
    ("shape", "is_worth"),
    [
        ((4096, 512, 1024, 16), True),
        ((8, 512, 1024, 64), True),
        ((2048, 256, 512, 2), True),
        ((16, 64, 64, 4), False),  # small
        ((64, 1024, 1024, 2), False),  # few rows, few groups
        ((8, 512, 1024, 8), False),
        ((4096, 512, 1024, 1), False),
    ],
)
def test_where_there_is_something_to_save(shape, is_worth, monkeypatch):
    monkeypatch.undo()
    rows, k, n, groups = shape
    report = optimize(lax.ragged_dot).report(
        *(jax.ShapeDtypeStruct(each, "float32") for each in ((rows, k), (groups, k, n))),
        jax.ShapeDtypeStruct((groups,), "int32"),
    )
    assert [row.choice.lowering for row in report] == ["grouped"] * is_worth
    assert [one.kind for one in report.alone] == ["ragged_dot"] * (not is_worth)
    for each in (*report, *report.alone):
        assert each.flops == 2 * rows * k * n


def test_it_reads_as_its_axes():
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((3, M, K), (3, G, K, N), (3, M, N))]
    numbers = lax.RaggedDotDimensionNumbers((((2,), (2,)), ((0,), (0,))), [1], [1])
    spec = RaggedSpec.of(shapes[0], shapes[1], jax.ShapeDtypeStruct((3, G), "int32"), shapes[2], numbers, None)
    assert str(spec.contraction) == "b m k, b g k n, b g -> b m n"
    assert spec.out == (3, M, N)
    said = "float32[3,70,8], float32[3,4,8,6], int32[3,4] -> float32[3,70,6]"
    assert str(spec) == f"ragged b m k, b g k n, b g -> b m n: {said}"
