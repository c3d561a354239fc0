"""Every front door under every JAX transformation: one dot_general, no call left behind, the same numbers."""

import chex
import jax
import numpy as np
import pytest
from jax import export, lax
from jax import numpy as jnp
from jax.experimental import sparse
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbdot
from jbdot import keras, keras_tf1, mxnet, tensorflow, theano, torch
from jbdot.calls.front_door import PLANNERS, public_name
from jbdot.one_device.measure import platform as jbdot_platform

RNG = np.random.default_rng(0)


def array(*shape):
    return jnp.asarray(RNG.integers(-4, 5, shape), jnp.float32)


# name: (function of two arrays and k, such as a lowering, the shapes of both, the primitives that it leaves in order)
DOORS = {
    "keras_tf1.dot": (keras_tf1.dot, (2, 3, 4), (7, 4, 5), ["dot_general"]),
    "keras_tf1.batch_dot": (keras_tf1.batch_dot, (3, 6, 4, 5), (3, 6, 5, 2), ["dot_general"]),
    "capsules": (lambda c, u, **k: keras_tf1.batch_dot(c, u, [2, 2], **k), (2, 5, 7), (2, 5, 7, 3), ["dot_general"]),
    "two matrices": (
        lambda x, y, **k: keras_tf1.batch_dot(x, y, 1, **k),
        (3, 4),
        (3, 4),
        ["dot_general", "broadcast_in_dim"],
    ),
    "keras_tf1.Dot": (lambda x, y, **k: keras_tf1.Dot((1, 2))([x, y], **k), (2, 3, 5), (2, 7, 3), ["dot_general"]),
    "keras.dot": (keras.dot, (2, 3, 4), (7, 4, 5), ["dot_general"]),
    "keras.batch_dot": (lambda x, y, **k: keras.batch_dot(x, y, [1, 2], **k), (2, 3, 5), (2, 7, 3), ["dot_general"]),
    "keras.Dot": (lambda x, y, **k: keras.Dot(1)([x, y], **k), (2, 3), (2, 3), ["dot_general", "broadcast_in_dim"]),
    "tensorflow.matmul": (tensorflow.matmul, (2, 3, 4), (2, 4, 5), ["dot_general"]),
    "matmul, broadcast": (tensorflow.matmul, (6, 3, 4), (4, 5), ["dot_general"]),
    "matmul, adjoint": (
        lambda a, b, **k: jbdot.matmul(a, b, adjoint_a=True, **k),
        (2, 4, 3),
        (2, 4, 5),
        ["dot_general"],
    ),
    "tensorflow.tensordot": (
        lambda a, b, **k: tensorflow.tensordot(a, b, [[2, 1], [0, 1]], **k),
        (2, 3, 4),
        (4, 3, 5),
        ["dot_general"],
    ),
    "tensorflow.einsum": (
        lambda a, b, **k: tensorflow.einsum("bij,bjk->bik", a, b, **k),
        (2, 3, 4),
        (2, 4, 5),
        ["dot_general"],
    ),
    "einsum, permuted": (
        lambda a, b, **k: tensorflow.einsum("bij,bjk->kbi", a, b, **k),
        (2, 3, 4),
        (2, 4, 5),
        ["dot_general", "transpose"],
    ),
    "tensorflow.matvec": (tensorflow.matvec, (2, 3, 4), (2, 4), ["dot_general"]),
    "tensorflow.batch_matmul": (tensorflow.batch_matmul, (2, 3, 4), (2, 4, 5), ["dot_general"]),
    "theano.dot": (theano.dot, (2, 3, 4), (7, 4, 5), ["dot_general"]),
    "theano.tensordot": (lambda a, b, **k: theano.tensordot(a, b, 2, **k), (2, 3, 4), (3, 4, 5), ["dot_general"]),
    "theano.batched_dot": (theano.batched_dot, (2, 3, 4), (2, 4, 5), ["dot_general"]),
    "theano.batched_tensordot": (
        lambda x, y, **k: theano.batched_tensordot(x, y, 2, **k),
        (2, 6, 3, 4),
        (2, 3, 4, 5),
        ["dot_general"],
    ),
    "mxnet.dot": (mxnet.dot, (2, 3, 4), (4, 5, 6), ["dot_general"]),
    "mxnet.batch_dot": (
        lambda x, y, **k: mxnet.batch_dot(x, y, transpose_b=True, **k),
        (2, 3, 4),
        (2, 5, 4),
        ["dot_general"],
    ),
    "mxnet.linalg.gemm2": (
        lambda a, b, **k: mxnet.linalg.gemm2(a, b, transpose_b=True, **k),
        (2, 3, 4),
        (2, 5, 4),
        ["dot_general"],
    ),
    "mxnet.np.dot": (mxnet.np.dot, (2, 3, 4), (7, 4, 5), ["dot_general"]),
    "mxnet.np.matmul": (mxnet.np.matmul, (2, 3, 4), (2, 4, 5), ["dot_general"]),
    "torch.matmul": (torch.matmul, (2, 3, 4), (2, 4, 5), ["dot_general"]),
    "torch.mm": (torch.mm, (3, 4), (4, 5), ["dot_general"]),
    "torch.bmm": (torch.bmm, (2, 3, 4), (2, 4, 5), ["dot_general"]),
    "torch.mv": (torch.mv, (3, 4), (4,), ["dot_general"]),
    "torch.dot": (torch.dot, (4,), (4,), ["dot_general"]),
    "torch.vdot": (torch.vdot, (4,), (4,), ["dot_general"]),
    "torch.inner": (torch.inner, (2, 3, 4), (5, 4), ["dot_general"]),
    "torch.outer": (torch.outer, (3,), (4,), ["dot_general"]),
    "torch.vecdot": (torch.vecdot, (3, 4), (3, 4), ["dot_general"]),
    "torch.tensordot": (torch.tensordot, (2, 3, 4), (3, 4, 5), ["dot_general"]),
    "torch.einsum": (
        lambda a, b, **k: torch.einsum("bij,bjk->bik", a, b, **k),
        (2, 3, 4),
        (2, 4, 5),
        ["dot_general"],
    ),
    "torch.linear": (torch.linear, (2, 3, 4), (5, 4), ["dot_general"]),
    "contract": (
        lambda x, y, **k: jbdot.contract("b m k, b k n -> b m n", x, y, **k),
        (2, 3, 4),
        (2, 4, 5),
        ["dot_general"],
    ),
    "dot_general": (
        lambda x, y, **k: jbdot.dot_general(x, y, (((2,), (1,)), ((0,), (0,))), **k),
        (2, 3, 4),
        (2, 4, 5),
        ["dot_general"],
    ),
}
# What the meaning of some asks for after the dot, hand-written.
AFTER = {
    "two matrices": lambda out: lax.expand_dims(out, (1,)),
    "keras.Dot": lambda out: lax.expand_dims(out, (1,)),
    "einsum, permuted": lambda out: lax.transpose(out, (2, 0, 1)),
}
every_door = pytest.mark.parametrize("name", DOORS)


def test_every_front_door_has_a_row():
    """All but the one of sparse operands, which leaves another primitive."""
    assert {public_name(door) for door in PLANNERS} - DOORS.keys() == {"tensorflow.sparse_dense_matmul"}


def setup(name):
    function, x, y, left = DOORS[name]
    return function, array(*x), array(*y), left


def primitives(function, *args):
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*args).eqns]


@every_door
def test_leaves_one_dot_general_and_no_call(name):
    function, x, y, left = setup(name)
    assert primitives(function, x, y) == left
    assert primitives(jax.jit(lambda x, y: function(x, y) + 1), x, y) in (["jit"], ["pjit"])
    # Concrete operands inside a trace leave no call either.
    assert primitives(lambda z: function(x, y) + z, 1.0)[: len(left)] == left


@every_door
def test_direct_compiles_to_the_text_of_lax_dot_general(name):
    function, x, y, _ = setup(name)
    numbers = jax.make_jaxpr(function)(x, y).eqns[0].params["dimension_numbers"]
    after = AFTER.get(name, lambda out: out)

    def dot(x, y):
        return after(lax.dot_general(x, y, numbers))

    ours = jax.jit(lambda x, y: function(x, y, lowering="direct")).lower(x, y).as_text()
    bare = jax.jit(dot).lower(x, y).as_text()
    strip = lambda text: "\n".join(line for line in text.splitlines() if "module @" not in line)  # noqa: E731
    assert strip(ours) == strip(bare)


@every_door
def test_one_trace_for_one_kind_of_call(name):
    function, x, y, _ = setup(name)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def f(x, y):
        return function(x, y)

    f(x, y)
    f(x + 1, y)


@every_door
def test_gradients(name):
    function, x, y, _ = setup(name)
    out, pullback = jax.vjp(function, x, y)
    dx, dy = pullback(jnp.ones_like(out))
    # The sum of a bilinear map is linear in each operand: its gradients give it back, exactly on integers.
    total = jnp.sum(out)
    assert jnp.vdot(dx, x) == total
    assert jnp.vdot(dy, y) == total
    value, slope = jax.jvp(function, (x, y), (x, y))
    np.testing.assert_array_equal(value, out)
    np.testing.assert_array_equal(slope, 2 * out)


@every_door
@pytest.mark.parametrize("axes", [(0, None), (None, 1), (1, 0)])
def test_vmap_over_either_operand_any_axis(name, axes):
    function, x, y, _ = setup(name)
    at_x, at_y = axes
    xs = x if at_x is None else jnp.stack([x, 2 * x, -x], at_x)
    ys = y if at_y is None else jnp.stack([y, y, 3 * y], at_y)
    scale = jnp.asarray(
        [(1, 2, -1) if at_x is not None else (1, 1, 1), (1, 1, 3) if at_y is not None else (1, 1, 1)]
    ).prod(0)
    one = function(x, y)
    many = jax.vmap(function, axes)(xs, ys)
    np.testing.assert_array_equal(many, scale.reshape(3, *[1] * one.ndim) * one)
    assert primitives(jax.vmap(function, axes), xs, ys).count("dot_general") == 1


@every_door
def test_scan_and_remat(name):
    function, x, y, _ = setup(name)
    _, stacked = lax.scan(lambda carry, scale: (carry, function(carry * scale, y)), x, jnp.arange(3.0))
    np.testing.assert_array_equal(stacked[2], 2 * function(x, y))
    gradient = jax.grad(lambda x: jnp.sum(jax.checkpoint(function)(x, y)))(x)
    np.testing.assert_array_equal(gradient, jax.grad(lambda x: jnp.sum(function(x, y)))(x))


def test_hessian():
    x, y = array(3, 4), array(3, 4)
    hessian = jax.hessian(lambda x: jnp.sum(keras_tf1.batch_dot(x, x * y, 1)))(x)
    want = np.zeros((3, 4, 3, 4), np.float32)
    for i, j in np.ndindex(3, 4):
        want[i, j, i, j] = 2 * y[i, j]
    np.testing.assert_array_equal(hessian, want)


@every_door
def test_export_with_an_unknown_batch_size(name):
    function, x, y, _ = setup(name)
    batch = export.symbolic_shape("batch, free")
    shapes = [list(array.shape) for array in (x, y)]
    for shape in shapes if name.split(".")[-1] != "dot" and "tensordot" not in name else shapes[:1]:
        shape[0] = batch[0]
    fixed = ("matmul, broadcast", "mxnet.dot", "tensorflow.tensordot", "theano.tensordot", "contract")
    if name in (*fixed, *(f"torch.{product}" for product in ("mm", "mv", "inner", "outer", "linear"))):
        shapes[1][0] = y.shape[0] if name != "contract" else batch[0]
    if name in ("theano.batched_tensordot", "torch.dot"):
        shapes[1][0] = batch[0]
    args = [jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for shape in shapes]
    for platform in ("cpu", "cuda", "tpu"):
        exported = export.export(jax.jit(lambda x, y: function(x, y)), platforms=[platform])(*args)
        assert exported.mlir_module().count("stablehlo.dot_general") == 1
        if platform == jbdot_platform():
            np.testing.assert_array_equal(exported.call(x, y), function(x, y))


def test_export_for_all_platforms_at_once():
    x, y = array(3, 6, 5), array(3, 5, 2)
    exported = export.export(jax.jit(jbdot.batch_dot), platforms=["cpu", "cuda", "tpu"])(x, y)
    np.testing.assert_array_equal(exported.call(x, y), x @ y)


def test_shard_map():
    mesh = jax.make_mesh((4,), ("x",))
    a, b = array(8, 3, 4), array(8, 4, 5)
    mapped = jax.shard_map(keras_tf1.batch_dot, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    with jax.set_mesh(mesh):
        sharded = (jax.device_put(operand, NamedSharding(mesh, P("x"))) for operand in (a, b))
        np.testing.assert_array_equal(jax.jit(mapped)(*sharded), a @ b)


def test_explicit_mesh_and_out_sharding():
    mesh = jax.make_mesh((4, 2), ("x", "y"))
    a, b = array(8, 6, 4), array(8, 4, 10)
    with jax.set_mesh(mesh):
        sharded = [
            jax.device_put(a, NamedSharding(mesh, P("x", None, "y"))),
            jax.device_put(b, NamedSharding(mesh, P("x", "y", None))),
        ]
        with pytest.raises(ValueError, match=r"keras_tf1\.batch_dot: the operands' shardings must say.*out_sharding"):
            jbdot.batch_dot(*sharded)
        out = jbdot.batch_dot(*sharded, out_sharding=P("x", None, None))
        assert out.sharding.spec == P("x", None, None)
        np.testing.assert_array_equal(out, a @ b)
        # The sharding is said of the result's axes, also where the dot's own come in another order, or fewer.
        turned = jbdot.contract("b m k, b k n -> m n b", *sharded, out_sharding=P(None, "y", "x"))
        assert turned.sharding.spec == P(None, "y", "x")
        np.testing.assert_array_equal(turned, np.transpose(a @ b, (1, 2, 0)))
        rows = jax.device_put(array(8, 4), NamedSharding(mesh, P("x", "y")))
        # What is said of fewer axes is said of each, as jax 0.10.2 cannot vmap it otherwise.
        mapped = jax.jit(jax.vmap(lambda x, y: jbdot.dot(x, y, out_sharding=P())))
        np.testing.assert_array_equal(mapped(a, b), a @ b)
        column = jbdot.batch_dot(rows, rows, 1, out_sharding=P("x", None))
        assert (column.shape, column.sharding.spec) == ((8, 1), P("x", None))


def test_auto_mesh():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    a = jax.device_put(array(8, 3, 4), NamedSharding(mesh, P("x")))
    b = jax.device_put(array(8, 4, 5), NamedSharding(mesh, P("x")))
    np.testing.assert_array_equal(jbdot.batch_dot(a, b), np.asarray(a) @ np.asarray(b))


def test_sparse_stays_sparse_under_jit_and_grad():
    dense, y = array(4, 5), array(5, 3)
    x = sparse.BCOO.fromdense(dense)
    for function in (keras_tf1.dot, keras.dot, theano.dot, tensorflow.sparse_dense_matmul):
        np.testing.assert_array_equal(function(x, y), dense @ y)
        np.testing.assert_array_equal(jax.jit(function)(x, y), dense @ y)
        assert primitives(function, x, y) == ["bcoo_dot_general"]
    for operand in (dense, x, dense):  # a kind of call of its own, also where it is traced
        np.testing.assert_array_equal(jax.jit(lambda x, y: keras.dot(x, y))(operand, y), dense @ y)
        np.testing.assert_array_equal(
            jax.jit(lambda x, y: jbdot.contract("m k, k n -> m n", x, y))(operand, y), dense @ y
        )
    data = jax.grad(lambda data: jnp.sum(keras.dot(sparse.BCOO((data, x.indices), shape=x.shape), y)))(x.data)
    np.testing.assert_array_equal(data, y.sum(1)[x.indices[:, 1]])
    adjoint = tensorflow.sparse_dense_matmul(x, array(4, 2), adjoint_a=True)
    assert adjoint.shape == (5, 2)
    with pytest.raises(ValueError, match="precision"):
        keras.dot(x, y, precision="highest")
    with pytest.raises(TypeError, match="dense arrays here"):
        mxnet.dot(x, y)
