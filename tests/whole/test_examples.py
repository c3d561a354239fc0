"""The site's examples of dot, batch_dot and matmul, and more of their kind."""

import numpy as np
import pytest
from jax import numpy as jnp

import jbdot


def array(*shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "x", "y", "shape"),
    [
        (jbdot.batch_dot, (10, 12, 4, 5), (10, 12, 5, 8), (10, 12, 4, 8)),
        (jbdot.matmul, (10, 12, 4, 5), (10, 12, 5, 8), (10, 12, 4, 8)),
        (jbdot.dot, (3, 4), (4, 5), (3, 5)),
        (jbdot.matmul, (3, 4), (4, 5), (3, 5)),
        (jbdot.batch_dot, (9, 8, 7, 4, 2), (9, 8, 7, 2, 5), (9, 8, 7, 4, 5)),
        (jbdot.matmul, (9, 8, 7, 4, 2), (9, 8, 7, 2, 5), (9, 8, 7, 4, 5)),
    ],
)
def test_products_of_matrices(function, x, y, shape):
    left, right = array(*x), array(*y, seed=1)
    result = function(jnp.asarray(left), jnp.asarray(right))
    assert result.shape == shape
    np.testing.assert_array_equal(result, left @ right)


@pytest.mark.parametrize(
    ("x", "y", "shape"),
    [
        ((2, 3, 4), (7, 4, 5), (2, 3, 7, 5)),
        ((1, 2, 3, 4), (8, 7, 4, 5), (1, 2, 3, 8, 7, 5)),
        ((1, 2, 4), (8, 7, 4, 5), (1, 2, 8, 7, 5)),
    ],
)
def test_dot_of_higher_ranks(x, y, shape):
    left, right = array(*x), array(*y, seed=1)
    result = jbdot.dot(jnp.asarray(left), jnp.asarray(right))
    assert result.shape == shape
    np.testing.assert_array_equal(result, np.dot(left, right))


def test_formula_by_loops():
    w, x = array(1, 2, 3, 4), array(8, 7, 4, 5, seed=1)
    result = np.asarray(jbdot.dot(jnp.asarray(w), jnp.asarray(x)))
    for a, b, c, i, j, k in np.ndindex(result.shape):
        assert result[a, b, c, i, j, k] == sum(w[a, b, c, r] * x[i, j, r, k] for r in range(4))
    explanation = jbdot.explain(jbdot.dot, w.shape, x.shape)
    assert explanation.formula == "out[a,b,c,i,j,k] = sum_r x[a,b,c,r] * y[i,j,r,k]"


def test_mismatch_is_said_of_the_axes_that_the_user_wrote():
    with pytest.raises(ValueError, match=r"equal sizes: axis 3 of x has size 2, axis 2 of y has size 3") as error:
        jbdot.dot(jnp.ones((3, 4, 5, 2)), jnp.ones((2, 5, 3, 7)))
    assert "x float32[3,4,5,2], y float32[2,5,3,7]" in str(error.value)


def test_names():
    assert jbdot.dot is jbdot.keras_tf1.dot
    assert jbdot.batch_dot is jbdot.keras_tf1.batch_dot
    assert jbdot.matmul is jbdot.tensorflow.matmul


def test_two_kerases_mean_two_things():
    x, y = jnp.ones((10, 12, 4, 5)), jnp.ones((10, 12, 5, 8))
    assert jbdot.keras_tf1.batch_dot(x, y).shape == (10, 12, 4, 8)
    assert jbdot.keras.batch_dot(x, y).shape == (10, 12, 4, 12, 8)
