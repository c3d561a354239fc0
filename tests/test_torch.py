"""PyTorch's products beyond the records: forms of calls, many operands, numbers that scale, layers."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jbdot
from jbdot import torch

RNG = np.random.default_rng(0)
RECORD = json.loads((Path(__file__).parent / "data" / "torch_layers_2_13.json").read_text())


def array(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.integers(-4, 5, shape), dtype)


def values(*shape, number):
    """Sixteenths, as tests/data/record_torch_layers.py makes them."""
    count = math.prod(shape)
    return jnp.asarray((((7 * np.arange(count) + 3 * number + 1) % 11 - 5) / 16).reshape(shape), jnp.float32)


# einsum


def test_einsum_takes_an_equation_a_list_or_lists_of_numbers():
    x, y = array(2, 3), array(3, 4)
    want = np.asarray(x) @ np.asarray(y)
    np.testing.assert_array_equal(torch.einsum("ij,jk->ik", x, y), want)
    np.testing.assert_array_equal(torch.einsum("ij,jk", [x, y]), want)
    np.testing.assert_array_equal(torch.einsum("i j , j k -> k i", (x, y)), want.T)
    np.testing.assert_array_equal(torch.einsum(x, [0, 1], y, [1, 2]), want)
    np.testing.assert_array_equal(torch.einsum(x, [..., 51], y, (51, 26), [26, ...]), want.T)
    # 0 to 25 are capitals, which are sorted before the others.
    np.testing.assert_array_equal(torch.einsum(x, [30, 1], y, [1, 26]), want.T)
    np.testing.assert_array_equal(torch.einsum(x, [26, 0]), x.T)


# An equation, the shapes of its operands, and what NumPy is asked: it broadcasts no letter, and sums no `...`.
EQUATIONS = [
    ("ii->i", [(3, 3)], "ii->i", [(3, 3)]),
    ("...i->...", [(2, 3)], "ai->a", [(2, 3)]),
    ("...i->i", [(2, 3)], "ai->i", [(2, 3)]),
    ("iij,ij->i", [(2, 2, 3), (1, 3)], "iij,ij->i", [(2, 2, 3), (2, 3)]),
    ("...i,...i->...", [(2, 1, 3), (5, 1)], "abi,bi->ab", [(2, 5, 3), (5, 3)]),
    ("...,...->", [(2, 1), (3,)], "ab,b->", [(2, 3), (3,)]),
    ("i,ij,jk->k", [(3,), (3, 4), (4, 5)], "i,ij,jk->k", [(3,), (3, 4), (4, 5)]),
    ("sg,xga,xgb,gs->sab", [(2, 5), (4, 5, 3), (4, 5, 3), (5, 2)], "sg,xga,xgb,gs->sab", None),
    ("ij,ij,ij->i", [(2, 3), (2, 3), (1, 1)], "ij,ij,ij->i", [(2, 3)] * 3),
    ("...a,ab,...b,c->c...", [(7, 2), (2, 3), (7, 3), (4,)], "da,ab,db,c->cd", None),
    (
        "a,b,c,d,abcd->",
        [(2,), (3,), (1,), (2,), (2, 3, 4, 2)],
        "a,b,c,d,abcd->",
        [(2,), (3,), (4,), (2,), (2, 3, 4, 2)],
    ),
]


@pytest.mark.parametrize(("equation", "shapes", "numpys", "stretched"), EQUATIONS)
def test_einsum_of_any_number_is_numpys(equation, shapes, numpys, stretched):
    operands = [array(*shape) for shape in shapes]
    want = np.einsum(numpys, *map(np.broadcast_to, operands, stretched or shapes))
    np.testing.assert_array_equal(torch.einsum(equation, *operands), want)
    np.testing.assert_array_equal(jax.jit(lambda *x: torch.einsum(equation, *x))(*operands), want)


def test_einsum_of_three_has_gradients_and_vmaps():
    x, a, y = array(3), array(3, 4), array(4)
    dx, da, dy = jax.grad(lambda *each: torch.einsum("i,ij,j->", *each), (0, 1, 2))(x, a, y)
    np.testing.assert_array_equal(dx, a @ y)
    np.testing.assert_array_equal(da, jnp.outer(x, y))
    np.testing.assert_array_equal(dy, x @ a)
    many = jax.vmap(lambda x: torch.einsum("i,ij,j->", x, a, y))(array(5, 3))
    assert many.shape == (5,)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("equation", "shapes", "dtypes", "want"),
    [
        ("ij->j", [(2, 3)], ["int8"], "int64"),
        ("ij->j", [(1, 3)], ["bool"], "int64"),
        ("ij->ji", [(2, 3)], ["bool"], "bool"),
        ("i,j->", [(2,), (3,)], ["int32", "int8"], "int64"),
        ("i,i->i", [(3,), (3,)], ["bool", "bool"], "bool"),
        ("i,i->i", [(3,), (3,)], ["int32", "float32"], "float32"),
        ("ij,jk->ik", [(2, 1), (1, 4)], ["int8", "uint8"], "int16"),
        ("ij,jk->k", [(2, 3), (3, 4)], ["int32", "int64"], "int64"),
        ("ij,j,j->i", [(2, 3), (3,), (3,)], ["int8"] * 3, "int8"),
        ("ij,jk->i", [(2, 3), (3, 4)], ["int32", "int32"], None),  # one is summed by itself, to int64
        ("i,i->", [(3,), (3,)], ["bool", "bool"], None),
        ("i,i->", [(3,), (3,)], ["float32", "float64"], None),
    ],
)
def test_dtypes_of_einsum(equation, shapes, dtypes, want):
    """As PyTorch 2.13.0 answered."""
    operands = [array(*shape).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    if want is None:
        with pytest.raises(TypeError, match=r"torch\.einsum: "):
            torch.einsum(equation, *operands)
    else:
        assert torch.einsum(equation, *operands).dtype == want


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: torch.einsum("ij,jk->ik", x), ValueError, "'ij,jk->ik' has 2, there are 1"),
        (lambda x: torch.einsum("ij,jk->i->k", x, x), ValueError, "one '->'"),
        (lambda x: torch.einsum("i.j->ij", x), ValueError, "letters, commas"),
        (lambda x: torch.einsum("......", x), ValueError, "one ellipsis at most"),
        (lambda x: torch.einsum("i,j->ij", x, x), ValueError, "operand 0 has rank 2 for the 1 labels 'i'"),
        (lambda x: torch.einsum("ij->iz", x), ValueError, "'z' of 'ij->iz' is in none"),
        (lambda x: torch.einsum("ij->ii", x), ValueError, "repeats one"),
        (lambda x: torch.einsum("ii->i", x), ValueError, "axis 1 of operand 0 has size 3"),
        (lambda x: torch.einsum("ij,jk->ik", x, x), ValueError, "size 3, axis 0 of operand 1 has size 2"),
        (lambda x: torch.einsum("ij,kj,ki->", x, x, x), ValueError, "operand 2"),
        (lambda x: torch.einsum("ij"), ValueError, "come with operands"),
        (lambda x: torch.einsum(x), ValueError, "come with its labels"),
        (lambda x: torch.einsum(x, [0, 52]), ValueError, "0 to 51"),
        (lambda x: torch.einsum(x, ["i", "j"]), TypeError, "'i' of"),
        (lambda x: torch.einsum(x, "ij"), TypeError, "got a str"),
        (lambda x: torch.einsum(3, x), TypeError, "got a int"),
        (lambda x: torch.einsum("ij,jk", x, [[1.0]]), TypeError, "got a list"),
    ],
)
def test_what_einsum_refuses(call, error, words):
    with pytest.raises(error, match=r"torch\.einsum: ") as caught:
        call(array(2, 3))
    assert words in str(caught.value)


# Other calls


def test_a_vector_is_for_matmul():
    with pytest.raises(ValueError, match=r"To the same call .*torch\.matmul gives \(3,\)"):
        jbdot.tensorflow.matmul(array(3, 4), array(4))
    assert torch.matmul(array(4), array(2, 4, 5)).shape == (2, 5)


def test_multi_dot_takes_the_cheapest_order():
    chain = [array(2, 50), array(50, 3), array(3, 40), array(40)]
    want = np.linalg.multi_dot([np.asarray(x) for x in chain])
    np.testing.assert_array_equal(torch.multi_dot(chain), want)
    jaxpr = jax.make_jaxpr(lambda *x: torch.multi_dot(x))(*chain)
    assert [equation.outvars[0].aval.shape for equation in jaxpr.eqns] == [(3,), (50,), (2,)]
    with pytest.raises(ValueError, match=r"multi_dot: .*axis 1 of tensors\[0\] has size 50, axis 0 of tensors\[1\]"):
        torch.multi_dot([chain[0], chain[2]])
    with pytest.raises(TypeError, match=r"multi_dot: the arrays must come as a list"):
        torch.multi_dot(chain[0])


def test_what_beta_leaves_out_is_not_read():
    nan, x, y = jnp.full((3, 5), jnp.nan), array(3, 4), array(4, 5)
    np.testing.assert_array_equal(torch.addmm(nan, x, y, beta=0), x @ y)
    np.testing.assert_array_equal(torch.addmm(nan, x, y, beta=0.0, alpha=np.float32(2)), 2 * (x @ y))
    assert jnp.isnan(torch.addmm(nan, x, y, beta=1e-9)).all()


def test_numbers_are_cut_to_integers():
    x, y, added = array(3, 4, dtype=jnp.int8), array(4, 5, dtype=jnp.int8), array(5, dtype=jnp.int8)
    np.testing.assert_array_equal(torch.addmm(added, x, y, beta=0.9, alpha=-2.7), -2 * (x @ y))
    unsigned = [each.astype(jnp.uint8) for each in (added, x, y)]
    np.testing.assert_array_equal(torch.addmm(*unsigned, alpha=-1), unsigned[0] - unsigned[1] @ unsigned[2])
    for scale in (300, math.nan, -129):
        with pytest.raises(ValueError, match=r"torch\.addmm: beta and alpha must be numbers of the result's dtype"):
            torch.addmm(added, x, y, alpha=scale)
    with pytest.raises(ValueError, match="real number: beta=1j"):
        torch.addmm(array(5), array(3, 4), array(4, 5), beta=1j)
    with pytest.raises(TypeError, match="alpha is a str"):
        torch.addmm(added, x, y, alpha="2")
    with pytest.raises(TypeError, match="only the operands may be traced: alpha is"):
        jax.jit(lambda alpha: torch.addmm(added, x, y, alpha=alpha))(2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sixteen_bits_are_rounded_once(dtype):
    normal = np.random.default_rng(1).standard_normal
    x, y, added = (jnp.asarray(normal(shape), dtype) for shape in ((32, 64), (64, 5), (32, 5)))
    exact = 0.5 * np.asarray(added, np.float64) + 3 * (np.asarray(x, np.float64) @ np.asarray(y, np.float64))
    found = torch.addmm(added, x, y, beta=0.5, alpha=3)
    assert found.dtype == dtype
    assert np.mean(np.asarray(found) == exact.astype(dtype)) > 0.98  # PyTorch: 0.99; rounded twice it were 0.75


def test_what_is_added_must_fit():
    x, y = array(3, 4), array(4, 5)
    with pytest.raises(ValueError, match=r"torch\.addmm: .*broadcast to the result: input has shape \(2, 5\)"):
        torch.addmm(array(2, 5), x, y, beta=0)
    with pytest.raises(TypeError, match=r"torch\.linear: .*bias is float16"):
        torch.linear(x, y.T, array(5, dtype=jnp.float16))
    with pytest.raises(ValueError, match=r"torch\.baddbmm: the operands must have ranks 3 and 3: batch1 has rank 2"):
        torch.baddbmm(array(3, 5), x, y)
    with pytest.raises(ValueError, match=r"torch\.bilinear: .*input1 has 4, input2 has 4"):
        torch.bilinear(x, x, array(2, 4, 5))


def test_nothing_is_written_into():
    for call in (
        lambda out: torch.mm(array(2, 3), array(3, 4), out=out),
        lambda out: torch.tensordot(array(2, 3), array(2, 3), 2, out),
        lambda out: torch.addbmm(array(4), array(5, 2, 3), array(5, 3, 4), out=out),
    ):
        assert call(None).dtype == jnp.float32
        with pytest.raises(ValueError, match="out must be None"):
            call(array(2, 4))


def test_scalars():
    """PyTorch refuses them but in inner, where it multiplies; the records have them as vectors of one element."""
    assert torch.outer(jnp.float32(2), array(4)).shape == (1, 4)
    assert torch.matmul(jnp.float32(2), jnp.float32(3)) == torch.inner(jnp.float32(2), jnp.float32(3)) == 6
    with pytest.raises(ValueError, match=r"torch\.inner: .*Multiply by a scalar with \*"):
        torch.inner(jnp.float32(2), array(4))


# Layers


def multi_head_attention(x, heads, in_weight, in_bias, out_weight, out_bias, mask):
    """What `torch.nn.MultiheadAttention` computes of itself, as torch/nn/functional.py does it."""
    steps, samples, features = x.shape
    size = features // heads
    q, k, v = jnp.split(torch.linear(x, in_weight, in_bias), 3, axis=-1)
    q, k, v = (each.reshape(steps, samples * heads, size).swapaxes(0, 1) for each in (q, k, v))
    weights = jax.nn.softmax(torch.baddbmm(mask, q / math.sqrt(size), k.swapaxes(-2, -1)), axis=-1)
    out = torch.bmm(weights, v).swapaxes(0, 1).reshape(steps * samples, features)
    out = torch.linear(out, out_weight, out_bias).reshape(steps, samples, features)
    return out, weights.reshape(samples, heads, steps, steps).mean(axis=1)


def test_multi_head_attention_is_pytorchs():
    weights = values(24, 8, number=1), values(24, number=2), values(8, 8, number=3), values(8, number=4)
    mask = jnp.triu(jnp.full((4, 4), -jnp.inf), 1)

    def layer(x):
        return multi_head_attention(x, 2, *weights, mask)

    x, record = values(4, 2, 8, number=0), RECORD["attention"]
    out, attention = layer(x)
    np.testing.assert_allclose(out, record["out"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(attention, record["weights"], rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(layer(x)[0] ** 2))(x)
    np.testing.assert_allclose(gradient, record["gradient"], rtol=1e-5, atol=1e-6)


def test_bilinear_is_pytorchs():
    weight, bias, x2 = values(2, 4, 5, number=2), values(2, number=3), values(3, 5, number=1)
    x1, record = values(3, 4, number=0), RECORD["bilinear"]
    np.testing.assert_allclose(torch.bilinear(x1, x2, weight, bias), record["out"], rtol=1e-6)
    gradient = jax.grad(lambda x1: jnp.sum(torch.bilinear(x1, x2, weight, bias) ** 2))(x1)
    np.testing.assert_allclose(gradient, record["gradient"], rtol=1e-5)
