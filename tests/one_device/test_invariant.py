"""The lowering "invariant": bits that depend on a row and a column alone."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import mesh

import jbdot
from jbdot.one_device.choice import candidates, check_kept, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import SUMMED_AT_ONCE
from jbdot.one_device.numerics import arithmetic

K = 40  # a step of the loop, and some that are left
ROWS = ((1, 1, 1), (1, 1, 9), (1, 64, 16), (2, 5, 33))  # batch, m, n
DTYPES = ("float32", "bfloat16", "float16", "float64", "complex64", "complex128")
NUMBERS = (((2,), (1,)), ((0,), (0,)))


def array(*shape, dtype="float32", seed=0):
    numbers = np.random.default_rng(seed).standard_normal((2, *shape))
    return jnp.asarray(numbers[0] + 1j * numbers[1] if "complex" in dtype else numbers[0]).astype(dtype)


def by_hand(x, y):
    """The sum as it is written down, in NumPy, which fuses no product with a sum."""
    wide = "complex128" if np.iscomplexobj(x) else "float64"
    x, y = np.asarray(x, wide), np.asarray(y, wide)
    total = np.zeros((x.shape[0], x.shape[1], y.shape[2]), wide)
    for first in range(0, x.shape[2], SUMMED_AT_ONCE):
        terms = []
        for k in range(first, min(first + SUMMED_AT_ONCE, x.shape[2])):
            a, b = x[:, :, k, None], y[:, k, None, :]
            if wide == "complex128":
                terms.append((a.real * b.real - a.imag * b.imag) + 1j * (a.real * b.imag + a.imag * b.real))
            else:
                terms.append(a * b)
        while len(terms) > 1:
            terms = [sum(terms[i + 1 : i + 2], terms[i]) for i in range(0, len(terms), 2)]
        total = total + terms[0]
    return total


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_is_that_of_the_sum_as_it_is_written_down(dtype):
    with jax.enable_x64(dtype in ("float64", "complex128")):
        for batch, m, n in ROWS:
            x, y = array(batch, m, K, dtype=dtype), array(batch, K, n, dtype=dtype, seed=1)
            got = jax.jit(lambda x, y: jbdot.dot_general(x, y, NUMBERS, lowering="invariant"))(x, y)
            assert got.dtype == dtype
            with jax.enable_x64(True):
                np.testing.assert_array_equal(got, jnp.asarray(by_hand(x, y)).astype(dtype))


def test_a_row_has_the_same_bits_alone_in_gradients_too():
    w = array(K, 7, seed=1)

    def f(x):
        return jnp.sum(jnp.tanh(jbdot.contract("m k, k n -> m n", x, w, lowering="invariant")) ** 2)

    x = array(19, K)
    all_rows = jax.jit(jax.grad(f))(x)
    for count in (1, 2, 8):
        np.testing.assert_array_equal(jax.jit(jax.grad(f))(x[:count]), all_rows[:count])
    each = jax.jit(jax.vmap(jax.grad(lambda row: f(row[None]))))(x)
    np.testing.assert_array_equal(each, all_rows)


def test_it_gives_way_to_no_other_after_any_transformation():
    x, y = array(4, 3, K), array(4, K, 5, seed=1)

    @jax.jit
    @jbdot.optimize(lowering="invariant")
    def f(x, y):
        loss = jax.checkpoint(lambda x, y: jnp.sum(lax.dot_general(x, y, NUMBERS) ** 2))
        return jax.vmap(jax.grad(loss, (0, 1)))(x[:, None], y[:, None]), jax.jvp(loss, (x, y), (x, y))

    assert "stablehlo.dot_general" not in f.lower(x, y).as_text()


@pytest.mark.parametrize(("left", "right", "out"), [("bfloat16", "float32", None), ("float32", "float32", "int32")])
def test_dots_of_two_dtypes(left, right, out):
    x, y = array(1, 3, K, dtype=left), array(1, K, 5, dtype=right, seed=1)

    def f(x, y):
        return lax.dot_general(x, y, NUMBERS, preferred_element_type=out)

    got = jax.jit(jbdot.optimize(f, lowering="invariant"))(x, y)
    want = by_hand(np.asarray(x, right), y).astype(got.dtype)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["int8", "bool", "uint32", "float32"])
def test_whole_numbers_and_nothing_at_all(dtype):
    shape = (2, 3, 0) if dtype == "float32" else (2, 3, 4)
    x = jnp.ones(shape, dtype)
    got = jax.jit(lambda x, y: jbdot.dot_general(x, y, NUMBERS, lowering="invariant"))(x, x.swapaxes(1, 2))
    np.testing.assert_array_equal(got, lax.dot_general(x, x.swapaxes(1, 2), NUMBERS))


def test_ragged_dots_too():
    x, y, sizes = array(64, K), array(4, K, 8, seed=1), jnp.array([10, 0, 30, 20])
    ragged = jax.jit(jbdot.optimize(lax.ragged_dot, lowering="invariant"))
    assert "stablehlo.dot_general" not in ragged.lower(x, y, sizes).as_text()
    np.testing.assert_array_equal(ragged(x[:20], y, jnp.array([10, 0, 10, 0])), ragged(x, y, sizes)[:20])


def test_it_is_never_chosen():
    spec = DotSpec((4, K), (K, 5), "float32", "float32", (((1,), (0,)), ((), ())), "float32")
    assert "invariant" not in candidates(spec)
    assert chosen(spec, "cpu", "invariant").lowering == "invariant"
    assert arithmetic(spec, "cpu", "invariant") == (
        "products and sums in float64, rounded once to float32, in an order that the contracted size alone decides"
    )


def test_where_it_cannot_hold_it_is_an_error():
    spec = DotSpec((4, K), (K, 5), "float32", "float32", (((1,), (0,)), ((), ())), "float32")
    with pytest.raises(ValueError, match=r"must hold for every dot.*: it is not known to hold on 'tpu'; m k, k n"):
        check_kept(spec, "tpu", "invariant")
    assert "refused there" in str(chosen(spec, "tpu", "invariant"))
    explained = jbdot.explain(jbdot.matmul, (4, K), (K, 5), lowering="invariant")
    assert explained.lowerings["cpu"].why == "as asked"
    assert "refused there" in explained.lowerings["tpu"].why
    x, y = array(4, K), array(K, 5)
    named = jax.jit(jbdot.optimize(lambda x, y: jnp.dot(x, y, precision="F32_F32_F32"), lowering="invariant"))
    with pytest.raises(ValueError, match="it needs known sizes and no named algorithm"):
        named(x, y)
    over = mesh((2,))
    cut = jax.device_put(x, NamedSharding(over, P("x")))
    dot = jbdot.optimize(jnp.dot, lowering="invariant")
    with pytest.raises(ValueError, match=r"must not be cut over devices by XLA.*float32\[4,40\].*shard_map"):
        jax.jit(dot)(cut, y)
    shards = jax.jit(jax.shard_map(dot, mesh=over, in_specs=(P("x"), P()), out_specs=P("x")))
    np.testing.assert_array_equal(shards(cut, y), jax.jit(dot)(x, y))
