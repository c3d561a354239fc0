"""The namespaces of the frameworks, and what stands in them alone, against NumPy."""

import importlib

import numpy as np
import pytest
from jax import numpy as jnp

from jbdot import explain, keras, mxnet, tensorflow, theano, torch


def array(*shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(sum(shape)).integers(-3, 4, shape), dtype)


def test_they_are_read_and_imported_as_in_the_frameworks():
    assert tensorflow.linalg.matmul is tensorflow.matmul
    assert importlib.import_module("jbdot.torch.nn.functional").linear is torch.linear
    assert theano.tensor.batched_dot is theano.batched_dot
    assert mxnet.nd.linalg.gemm2 is mxnet.linalg.gemm2
    assert tensorflow.sparse.sparse_dense_matmul is tensorflow.sparse_dense_matmul
    assert torch.linalg.vecdot is torch.vecdot
    from jbdot.keras.layers import Dot, dot

    assert Dot(axes=1)([jnp.ones((2, 3)), jnp.ones((2, 3))]).shape == dot([jnp.ones((2, 3)), jnp.ones((2, 3))], 1).shape
    with pytest.raises(AttributeError, match=r"jbdot\.tensorflow\.linalg has no svd"):
        _ = tensorflow.linalg.svd
    with pytest.raises(AttributeError, match=r"keras\.backend has no squeeze: .*jnp\.squeeze\(x, axis\)"):
        _ = keras.backend.squeeze
    assert dir(mxnet.linalg) == ["gemm", "gemm2"]


def test_tensorflow_matvec_and_batch_matmul():
    a, b = array(4, 1, 2, 3), array(5, 3)
    want = np.einsum("bcmk,ck->bcm", np.broadcast_to(a, (4, 5, 2, 3)), b)
    np.testing.assert_array_equal(tensorflow.matvec(a, b, name="scores"), want)
    turned = tensorflow.linalg.matvec(jnp.swapaxes(a, -1, -2), b, transpose_a=True)
    np.testing.assert_array_equal(turned, want)
    z = (array(2, 3) + 1j * array(2, 3)).astype("complex64")
    np.testing.assert_array_equal(
        tensorflow.matvec(z, array(2, dtype="complex64"), adjoint_a=True), np.conj(z).T @ array(2)
    )
    x, y = array(4, 3, 2), array(4, 5, 3)
    want = np.einsum("bkm,bnk->bmn", x, y)
    np.testing.assert_array_equal(tensorflow.batch_matmul(x, y, adj_x=True, adj_y=True), want)
    for call, said in (
        (lambda: tensorflow.matvec(jnp.ones(3), jnp.ones(3)), "a must have rank 2 or more"),
        (lambda: tensorflow.matvec(jnp.ones((2, 3)), jnp.ones(4)), "contracted axes must have equal sizes"),
        (lambda: tensorflow.batch_matmul(x, y[:1], adj_x=True, adj_y=True), "matmul broadcasts a size of 1"),
        (lambda: tensorflow.batch_matmul(x[0], y[0]), "rank, 3 or more"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("axis", [-2, 0, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_mxnet_gemm(axis, turned):
    x, y, c = array(4, 2, 3), array(4, 3, 5), array(4, 2, 5)
    product = np.einsum("bmk,bkn->bmn", x, y)
    left, right = (jnp.swapaxes(z, -1, -2) if turned else z for z in (x, y))
    move = (lambda z: np.moveaxis(np.asarray(z), -2, axis)) if axis >= 0 else np.asarray
    flags = {"transpose_a": turned, "transpose_b": turned, "axis": axis}
    found = mxnet.linalg.gemm2(move(left), move(right), alpha=2.0, name="x", **flags)
    np.testing.assert_array_equal(found, 2 * move(product))
    found = mxnet.nd.linalg.gemm(move(left), move(right), move(c), alpha=2.0, beta=-1.0, **flags)
    np.testing.assert_array_equal(found, 2 * move(product) - move(c))


def test_mxnet_as_numpy():
    for shapes in (
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (4, 3, 5)),
        ((2, 3), (5, 3, 4)),
        ((), (2, 3)),
        ((2, 4, 3), (3, 2)),
    ):
        x, y = (array(*shape) for shape in shapes)
        np.testing.assert_array_equal(mxnet.np.dot(x, y), np.dot(x, y))
        if x.ndim:
            np.testing.assert_array_equal(mxnet.np.matmul(x, y), np.matmul(x, y))
    np.testing.assert_array_equal(
        mxnet.np.matmul(array(4, 1, 2, 3), array(6, 3, 5)), np.matmul(array(4, 1, 2, 3), array(6, 3, 5))
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: mxnet.nd.dot(jnp.ones(3), jnp.ones(3), out=jnp.ones(1)),
            "what jbdot does not do: out float32.1., where only None",
        ),
        (
            lambda: mxnet.batch_dot(jnp.ones((1, 2, 2)), jnp.ones((1, 2, 2)), forward_stype="csr"),
            "forward_stype='csr', where only 'default'",
        ),
        (lambda: mxnet.linalg.gemm(jnp.ones((3, 2)), jnp.ones((2, 5)), jnp.ones(5)), "C must have the shape and dtype"),
        (
            lambda: mxnet.linalg.gemm2(jnp.ones((3, 2)), jnp.ones((2, 5)), axis=1),
            "rows must stand before the last axis",
        ),
        (lambda: mxnet.linalg.gemm2(jnp.ones((3, 2)), jnp.ones((2, 5)), axis=1.5), "an axis must be an int"),
        (lambda: mxnet.linalg.gemm2(jnp.ones(3), jnp.ones(3)), "rank, 2 or more"),
        (lambda: mxnet.np.matmul(jnp.ones(()), jnp.ones(3)), "a is a scalar"),
        (lambda: mxnet.np.dot(jnp.ones(3), jnp.ones(3, "int32")), "both operands must be float32"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_what_has_no_effect():
    x = jnp.ones((2, 3))
    assert tensorflow.matmul(x, x, transpose_b=True, grad_a=True, name="a").shape == (2, 2)
    assert tensorflow.tensordot(x, x, 2, name="a").shape == ()
    assert tensorflow.einsum("ij,kj->ik", x, x, name="a", optimize="optimal").shape == (2, 2)
    assert mxnet.dot(x, x, transpose_b=True, forward_stype="default", name="a").shape == (2, 2)
    assert explain(tensorflow.matmul, (2, 3), (3, 4), name="a").shape == (2, 4)
