"""The package alone: its plans, its results against NumPy, and OpenBLAS' number of threads."""

import concurrent.futures
import functools
import math
import threading

import jax
import jbdot_native
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jbdot_native import library
from jbdot_native.plan import NO_AXIS, out_shape, plan

DTYPES = jbdot_native.DTYPES
MATRICES = (((1,), (0,)), ((), ()))


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def numbers_of(lhs, rhs, out):
    """Dimension numbers of a contraction by labels, and the order of its result."""
    batch = [label for label in lhs if label in rhs and label in out]
    summed = [label for label in lhs if label in rhs and label not in out]
    free = [label for label in lhs + rhs if label not in batch + summed]
    both = [tuple(tuple(side.index(label) for label in group) for side in (lhs, rhs)) for group in (summed, batch)]
    return tuple(both), "".join(batch + free)


def check(text, sizes, dtype="float32", rng=None):
    """Whole numbers, so that sums are exact in any order."""
    rng = rng or np.random.default_rng(0)
    lhs, rhs, out = text.replace("->", ",").split(",")
    numbers, order = numbers_of(lhs, rhs, out)

    def draw(labels):
        shape = [sizes[label] for label in labels]
        real = rng.integers(-3, 4, shape)
        return (real + 1j * rng.integers(-3, 4, shape) if "complex" in dtype else real).astype(dtype)

    x, y = draw(lhs), draw(rhs)
    assert jbdot_native.fits(x, y, x.dtype)
    got = jax.jit(functools.partial(jbdot_native.dot_general, dimension_numbers=numbers))(x, y)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.einsum(f"{lhs},{rhs}->{order}", x, y, optimize=True))
    return plan(x.shape, y.shape, numbers)


def test_it_works_here():
    assert jbdot_native.problem() == ""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_equals_numpy_whatever_the_axes(dtype, seed):
    """Any order of up to two batch, contracting and free axes on each side."""
    rng = np.random.default_rng([seed, DTYPES.index(dtype)])
    batch, summed, left, right = (pool[: rng.integers(0, 3)] for pool in ("bc", "kr", "mi", "nu"))
    lhs, rhs = ("".join(rng.permutation(list(axes))) for axes in (batch + summed + left, batch + summed + right))
    sizes = {label: int(rng.choice([1, 2, 3, 5, 8, 17])) for label in "bckrminu"}
    check(f"{lhs},{rhs}->{batch}{left}{right}", sizes, dtype, rng)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("mk,kn->mn", {"m": 301, "k": 130, "n": 67}),  # rows in pieces
        ("km,nk->mn", {"m": 67, "k": 130, "n": 301}),  # columns in pieces
        ("bmk,bkn->bmn", {"b": 3, "m": 130, "k": 65, "n": 70}),
        ("km,kn->mn", {"k": 9001, "m": 4, "n": 3}),  # a long sum in pieces
        ("k,k->", {"k": 20_001}),
        ("mk,k->m", {"m": 1000, "k": 300}),
        ("k,kn->n", {"k": 300, "n": 1000}),
        ("bmk,bk->bm", {"b": 64, "m": 40, "k": 33}),
    ],
)
def test_what_is_shared_out_over_threads_equals_numpy(text, sizes, dtype):
    check(text, sizes, dtype)


@pytest.mark.parametrize(
    ("text", "calls", "copies"),
    [
        ("mk,kn->mn", 1, 0),
        ("km,nk->mn", 1, 0),
        ("bmk,bkn->bmn", 8, 0),
        ("bkm,bnk->bmn", 8, 0),
        ("mbk,nbk->bmn", 8, 0),  # a batch axis may stand anywhere but last
        ("bmik,kn->bmin", 1, 0),  # rows merge
        ("mkr,krn->mn", 1, 0),  # so do contracted axes
        ("mkb,bkn->bmn", 8, 1),  # it is last: neither rows nor columns lie together
        ("bmk,bk->bm", 8, 0),
    ],
)
def test_operands_are_read_as_they_lie(text, calls, copies):
    sizes = {"b": 8, "m": 40, "i": 3, "k": 20, "r": 6, "n": 30}
    found = check(text, sizes)
    assert math.prod(axis.size for axis in (*found.loops, *found.sums)) == calls
    assert (found.lhs_order is not None) + (found.rhs_order is not None) == copies


def test_a_plan_of_one_element():
    found = plan((1, 1), (1, 1), MATRICES)
    assert (found.m, found.n, found.k, found.loops, found.sums) == (NO_AXIS, NO_AXIS, NO_AXIS, (), ())
    assert out_shape((1, 1), (1, 1), MATRICES) == [1, 1]


def test_what_does_not_fit():
    def fits(lhs, rhs, dtype, other=None):
        return jbdot_native.fits(jax.ShapeDtypeStruct(lhs, dtype), jax.ShapeDtypeStruct(rhs, other or dtype), dtype)

    assert fits((2, 3), (3, 4), "float32")
    assert not fits((2, 3), (3, 4), "bfloat16")
    assert not fits((2, 3), (3, 4), "float32", "float64")
    assert not fits((2, 0), (0, 4), "float32")
    assert not fits((1 << 16, 1 << 15), (1 << 15, 4), "float32")  # BLAS counts in 32 bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(5, 7, 60), (70, 66, 90), (1, 90, 70), (90, 1, 70), (3, 2, 9000)], ids=lambda size: str(size)
)
def test_it_is_as_accurate_as_lax(m, n, k, dtype):
    """Twice lax's largest error for any layout, and one rounding: as many bits, in an order of BLAS' own."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    if "complex" in dtype:
        x, y = x + 1j * rng.standard_normal((m, k)), y + 1j * rng.standard_normal((k, n))
    x, y = x.astype(dtype), y.astype(dtype)
    wide = np.clongdouble if "complex" in dtype else np.longdouble
    exact = np.einsum("mk,kn->mn", x.astype(wide), y.astype(wide))

    def error(product, left, right):
        """Of lhs contracted on axis `left` and rhs on axis `right`."""
        lhs, rhs = x if left == 1 else x.T.copy(), y if right == 0 else y.T.copy()
        got = jax.jit(functools.partial(product, dimension_numbers=(((left,), (right,)), ((), ()))))(lhs, rhs)
        return float(np.max(np.abs(np.asarray(got) - exact)))

    layouts = [(left, right) for left in (0, 1) for right in (0, 1)]
    bound = 2 * max(error(lax.dot_general, *layout) for layout in layouts)
    rounding = float(np.finfo(dtype).eps * np.max(np.abs(exact)))
    for layout in layouts:
        assert error(jbdot_native.dot_general, *layout) <= bound + rounding


def test_the_same_call_twice_gives_the_same_bits():
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype("float32") for shape in ((9001, 5), (9001, 4)))
    call = jax.jit(lambda x, y: jbdot_native.dot_general(x, y, (((0,), (0,)), ((), ()))))
    first = np.asarray(call(x, y))
    np.testing.assert_array_equal(first, call(x, y))
    np.testing.assert_allclose(first, x.T.astype("float64") @ y, rtol=1e-5, atol=1e-3)


@pytest.fixture
def openblas():
    """What reads and sets the number of threads, which is 3 for this test."""
    read, change = library.threads()
    before = read()
    change(3)
    yield read, change
    change(before)


def test_openblas_runs_in_one_thread_and_is_left_as_it_was(openblas):
    read, _ = openblas
    x = jnp.ones((1500, 1500))
    call = jax.jit(lambda x: jbdot_native.dot_general(x, x, MATRICES)).lower(x).compile()
    done, seen = threading.Event(), set()

    def run():
        jax.block_until_ready(call(x))
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.is_set():
        seen.add(read())
    thread.join()
    assert seen <= {1, 3}
    assert 1 in seen
    assert read() == 3


def test_calls_from_many_threads_at_once(openblas):
    read, _ = openblas
    x = np.arange(600.0).reshape(30, 20) % 7
    call = jax.jit(lambda x: jbdot_native.dot_general(x, x, (((1,), (1,)), ((), ()))))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: np.asarray(call(x)), range(64)))
    for each in found:
        np.testing.assert_array_equal(each, x @ x.T)
    assert read() == 3


def test_another_blas_is_said_to_be_no_openblas(monkeypatch):
    monkeypatch.setattr(library, "openblas", lambda: object())
    with pytest.raises(AttributeError, match="no OpenBLAS"):
        library.threads()


def test_a_library_that_this_jax_would_refuse_is_not_given_to_it():
    major, minor = library.here()
    library.check_version((major, 1), (major, minor))
    for version in ((major, minor + 1), (major + 1, 0)):
        with pytest.raises(ImportError, match="--no-build-isolation"):
            library.check_version(version, (major, minor))


def test_gradients_are_jbdots_to_take():
    x = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: jbdot_native.dot_general(x, x, MATRICES).sum())(x)
