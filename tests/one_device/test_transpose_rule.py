"""What gradients of dots are summed to: lax's own to the bit, or the operand's own dtype where that is asked for."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jbdot
from jbdot import optimize
from tests.meshes import mesh

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 24)), jnp.bfloat16)
W = jnp.asarray(RNG.normal(size=(24, 8)), jnp.float32)
COTANGENT = jnp.asarray(RNG.normal(size=(16, 8)), jnp.bfloat16)
EXACT = np.asarray(X, np.float64).T @ np.asarray(COTANGENT, np.float64)
NUMBERS = (((1,), (0,)), ((), ()))


def of_lax(x, w):
    return lax.dot_general(x, w, NUMBERS, preferred_element_type=jnp.bfloat16)


def of_jbdot(x, w):
    return jbdot.contract("m k, k n -> m n", x, w, preferred_element_type="bfloat16")


def of_dot(x, w):
    return jbdot.dot_general(x, w, NUMBERS, preferred_element_type=jnp.bfloat16)


def weight_gradient(product, x=X, w=W, cotangent=COTANGENT):
    return jax.grad(lambda w: (product(x, w) * cotangent).astype(jnp.float32).sum())(w)


def error(gradient):
    assert gradient.dtype == jnp.float32
    return np.abs(np.asarray(gradient, np.float64) - EXACT).max() / np.abs(EXACT).max()


PRODUCTS = {"lax": of_lax, "contract": of_jbdot, "dot_general": of_dot}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_by_default_gradients_are_lax_own_to_the_bit(product):
    bare = weight_gradient(of_lax)
    np.testing.assert_array_equal(weight_gradient(product), bare)
    np.testing.assert_array_equal(weight_gradient(optimize(product, lowering="direct")), bare)
    assert error(bare) > 1e-4  # rounded to bfloat16 on its way


WAYS = {
    "function": lambda f: weight_gradient(optimize(f, grad_dtype="operand")),
    "direct": lambda f: weight_gradient(optimize(f, lowering="direct", grad_dtype="operand")),
    "gradient": lambda f: optimize(weight_gradient, grad_dtype="operand")(f),
    "decorator": lambda f: weight_gradient(optimize("direct", grad_dtype="operand")(f)),
    "jit inside": lambda f: weight_gradient(jax.jit(optimize(f, grad_dtype="operand"))),
    "jit outside": lambda f: jax.jit(lambda w: weight_gradient(optimize(f, grad_dtype="operand"), w=w))(W),
    "remat": lambda f: weight_gradient(jax.checkpoint(optimize(f, grad_dtype="operand"))),
    "vmap": lambda f: jax.vmap(lambda w: weight_gradient(optimize(f, grad_dtype="operand"), w=w))(W[None])[0],
    "scan": lambda f: weight_gradient(
        lambda x, w: lax.scan(
            lambda c, _: (c + optimize(f, grad_dtype="operand")(x, w), None), 0 * COTANGENT, length=1
        )[0]
    ),
    "transpose": lambda f: jax.linear_transpose(lambda w: optimize(f, grad_dtype="operand")(X, w), W)(COTANGENT)[0],
    "inner direct": lambda f: weight_gradient(optimize(optimize(f, lowering="direct"), grad_dtype="operand")),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("product", [of_lax, of_jbdot])
def test_a_wide_operand_keeps_its_bits_where_that_is_asked_for(way, product):
    assert error(way(product)) < 1e-6


def test_the_inner_word_counts():
    inner = optimize(of_lax, lowering="direct", grad_dtype="result")
    np.testing.assert_array_equal(weight_gradient(optimize(inner, grad_dtype="operand")), weight_gradient(of_lax))


def test_the_rule_asks_for_no_fewer_bits():
    """A bfloat16 operand of a float32 dot has its gradient summed in float32, and rounded once, as in JAX."""

    def product(x, w):
        return lax.dot_general(x, w, NUMBERS, preferred_element_type=jnp.float32)

    def gradient(f):
        return jax.grad(lambda x: (f(x, W) * COTANGENT).sum())

    def sums(f):
        return [
            e.params["preferred_element_type"] for e in jax.make_jaxpr(f)(X).eqns if e.primitive is lax.dot_general_p
        ]

    assert sums(gradient(optimize(product, grad_dtype="operand"))) == sums(gradient(product)) == [jnp.float32] * 2


def test_forward_mode_and_second_derivatives_work():
    f = optimize(of_lax, grad_dtype="operand")
    np.testing.assert_array_equal(jax.jvp(f, (X, W), (X, W))[1], jax.jvp(of_lax, (X, W), (X, W))[1])
    second = jax.hessian(lambda w: (f(X[:2, :2], w) ** 2).astype(jnp.float32).sum())(W[:2, :2])
    exact = jax.hessian(lambda w: ((X[:2, :2].astype(jnp.float32) @ w) ** 2).sum())(W[:2, :2])
    np.testing.assert_allclose(second, exact, rtol=0.02, atol=0.02)


def test_plans_obey_it():
    on = mesh((2,))
    rows, whole = NamedSharding(on, P("x")), NamedSharding(on, P())
    x, w, cotangent = jax.device_put(X, rows), jax.device_put(W, whole), jax.device_put(COTANGENT, rows)
    plan = jbdot.plan_sharding("m k, k n -> m n", x, w, P("x"), preferred_element_type="bfloat16")
    assert plan.backward[1].out.dtype == jnp.bfloat16
    rounded = weight_gradient(plan, x, w, cotangent)
    assert error(rounded) > 1e-4
    assert (rounded == rounded.astype(jnp.bfloat16)).all()
    assert error(weight_gradient(optimize(plan, grad_dtype="operand"), x, w, cotangent)) < 1e-6
    with optimize(grad_dtype="operand"):
        assert plan.backward[1].out.dtype == jnp.float32


@pytest.mark.parametrize("word", ["float32", "Operand", 3, [], jnp.float32])
def test_other_words_are_refused(word):
    with pytest.raises(ValueError, match=r'optimize: grad_dtype must be "operand", "result" or None: got .*'):
        optimize(of_lax, grad_dtype=word)
    with pytest.raises(ValueError, match="grad_dtype must be"):
        optimize(grad_dtype=word)
