"""The edge: what is cached, what is told apart, what operands may be."""

import inspect

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.experimental import sparse

import jbdot
from jbdot import keras, keras_tf1, tensorflow
from jbdot.calls import front_door
from jbdot.calls.front_door import PLANNERS, SETTINGS, extra_defaults, operand_names, public_name
from jbdot.one_device import call_plan


def test_every_front_door_has_the_three_keywords():
    sparse_only = "tensorflow.sparse_dense_matmul"
    for door in PLANNERS:
        if isinstance(door, type) or public_name(door) in (sparse_only, "dot_general"):
            continue
        parameters = inspect.signature(door).parameters
        for name in ("precision", "preferred_element_type", "out_sharding"):
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY, public_name(door)
            assert parameters[name].default is None


def test_dot_general_has_laxs_signature():
    ours, theirs = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (jbdot.dot_general, jax.lax.dot_general)
    )
    assert ours == [*theirs, ("lowering", inspect.Parameter.KEYWORD_ONLY, None)]


def test_planners_take_the_public_arguments():
    beside = {*SETTINGS, "operands", "inputs", "out", "bias"}  # a plan is of two operands, and adds nothing
    beside |= {"name", "optimize", "grad_a", "grad_b", "forward_stype", "alpha"}  # and does nothing with these
    for door in PLANNERS:
        public = [
            name for name, each in inspect.signature(door).parameters.items() if each.kind is not each.VAR_KEYWORD
        ]
        public = [name for name in public if name != "trainable"]
        planned = [*operand_names(door), *extra_defaults(door)]
        assert set(planned) >= set(public) - beside, public_name(door)


def test_public_functions_are_documented():
    for door in PLANNERS:
        text = inspect.getdoc(door) or ""
        for part in ("Args:", "Raises:", "Differs:", "Example:"):
            assert part in text, f"{public_name(door)} lacks {part}"


OPERANDS = {
    "jax": lambda shape: jnp.ones(shape),
    "numpy": lambda shape: np.ones(shape, np.float32),
    "sparse": lambda shape: sparse.BCOO.fromdense(jnp.ones(shape)),
}


@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize("arguments", [([[1], [0]],), (np.array([[1], [0]]),)], ids=["list", "array"])
def test_one_plan_for_one_kind_of_call(kind, arguments, monkeypatch):
    """Eager calls of one kind are planned, traced and compiled once, whatever the operands are held in."""
    runs = []
    run = call_plan.CallPlan.run
    monkeypatch.setattr(call_plan.CallPlan, "run", lambda *args: runs.append(args) or run(*args))
    x = OPERANDS[kind]((7 + len(kind), 3))  # of a shape that no other test has compiled
    for _ in range(3):
        if kind == "sparse":
            jbdot.contract("iz,zj->ij" if isinstance(arguments[0], list) else "io,oj->ij", x, jnp.ones((3, 4)))
        else:
            tensorflow.tensordot(x, jnp.ones((3, 4)), *arguments, precision="highest")
    assert len(runs) == 1


def test_a_list_that_changes_later_changes_no_plan():
    axes = [3, 2]
    assert keras.batch_dot(jnp.ones((2, 3, 6, 4)), jnp.ones((2, 5, 4, 6)), axes).shape == (2, 3, 6, 5, 6)
    axes[:] = [2, 3]
    assert keras.batch_dot(jnp.ones((3, 3, 6, 4)), jnp.ones((3, 5, 4, 6)), [3, 2]).shape == (3, 3, 6, 5, 6)


def test_numbers_that_compare_equal_are_told_apart():
    x = jnp.ones((3, 3))
    assert keras.batch_dot(x, x, 1).shape == (3, 1)
    assert keras.batch_dot(x, x, True).shape == (3, 1)
    with pytest.raises(TypeError):
        keras.batch_dot(x, x, 1.0)
    with pytest.raises(TypeError):
        keras.batch_dot(x, x, (1, 1.0))


def test_arguments_that_cannot_be_hashed():
    x, y = jnp.ones((3, 2, 4)), jnp.ones((3, 4, 5))
    for _ in range(2):
        assert keras.batch_dot(x, y, np.array([2, 1])).shape == (3, 2, 5)
        assert keras.batch_dot(x, jnp.ones((3, 2, 4)), np.array([1, 1])).shape == (3, 4, 4)
    with pytest.raises(TypeError):
        keras_tf1.batch_dot(x, y, {1, 2})


def test_operands_from_numpy_and_scalars():
    assert jbdot.dot(np.ones((2, 3), np.float32), jnp.ones((3, 4))).shape == (2, 4)
    assert jbdot.theano.dot(2.0, jnp.ones((2, 3))).shape == (2, 3)
    assert jbdot.dot(x=np.ones((2, 3)), y=np.ones((3, 4))).dtype == jnp.float32


def test_settings_reach_lax():
    x, y = jnp.ones((2, 3), jnp.int8), jnp.ones((3, 4), jnp.int8)
    assert jbdot.contract("ij,jk->ik", x, y, preferred_element_type=jnp.int32).dtype == jnp.int32
    jaxpr = jax.make_jaxpr(lambda x, y: keras.dot(x, y, precision="highest"))(jnp.ones((2, 3)), jnp.ones((3, 4)))
    assert jaxpr.eqns[0].params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    for precision in (["highest", "default"], ("highest", "default"), jax.lax.Precision.HIGH):
        keras.dot(jnp.ones((2, 3)), jnp.ones((3, 4)), precision=precision)


def test_x64_turned_on_later_is_seen():
    x = np.ones((2, 3))
    assert jbdot.dot(x, x.T).dtype == jnp.float32
    with jax.enable_x64(True):
        assert jbdot.dot(x, x.T).dtype == jnp.float64
        assert jbdot.theano.dot(np.ones((2, 3), np.int32), np.ones((3, 2), np.float32)).dtype == jnp.float64
    assert jbdot.theano.dot(np.ones((2, 3), np.int32), np.ones((3, 2), np.float32)).dtype == jnp.float32


def test_a_dialect_says_where_the_rest_of_its_framework_is():
    from jbdot import keras_tf1, theano

    has = r"keras_tf1 has no expand_dims: .* the products alone, Dot, backend, batch_dot, dot, layers\. "
    has += r".*: {2}jnp\.expand_dims\(x, axis\)"
    with pytest.raises(AttributeError, match=has):
        _ = keras_tf1.expand_dims
    with pytest.raises(AttributeError, match=r"jbdot\.theano has no softmax: .* See jax\.nn\.softmax\."):
        _ = theano.softmax
    with pytest.raises(AttributeError, match=r"See jax\.numpy, jax\.nn and keras\.ops\."):
        _ = keras_tf1.get_session
    assert not hasattr(keras_tf1, "__path__")


def test_other_dialects_are_asked_the_same_call():
    x, y = jnp.ones((10, 12, 4, 5)), jnp.ones((10, 12, 5, 8))
    answers = {public_name(door): answer for door, answer in front_door.others(jbdot.batch_dot, x, y, (None,))}
    assert answers["keras.batch_dot"].out_shape(x.shape, y.shape) == (10, 12, 4, 12, 8)
    assert "tensorflow.einsum" not in answers  # which needs an equation
    assert "keras_tf1.batch_dot" not in answers


WIDE = {"float64": 0.1, "int64": 2**40, "uint64": 2**40, "complex128": 0.1j}


@pytest.mark.parametrize("dtype", WIDE)
def test_64_bit_arrays_keep_their_dtype_with_x64_off(dtype):
    """As lax and jnp have it: an array that was made under x64 is not narrowed afterwards, one of NumPy is."""
    with jax.enable_x64(True):
        x = jnp.full((3, 3), WIDE[dtype], dtype)
    want = np.full((3, 3), 3 * np.array(WIDE[dtype], dtype) ** 2)
    numbers = (((1,), (0,)), ((), ()))
    calls = [
        lambda x: jax.lax.dot_general(x, x, numbers),  # what the others are held to
        lambda x: jbdot.dot_general(x, x, numbers),
        lambda x: jbdot.contract("i k, k j -> i j", x, x),
        lambda x: jbdot.contract("i k, k j -> j i", x, x),
        lambda x: jbdot.theano.dot(x, x),
        jbdot.optimize(lambda x: jbdot.theano.dot(x, x)),
        jbdot.optimize(lambda x: jax.lax.dot_general(x, x, numbers)),
        jbdot.optimize(lambda x: jbdot.contract("i k, k j -> i j", x, x), lowering="unrolled"),
    ]
    if dtype != "uint64":
        calls += [lambda x: keras.dot(x, x), lambda x: tensorflow.matmul(x, x), lambda x: keras_tf1.dot(x, x)]
    for call in calls:
        for run in (call, jax.jit(call)):
            assert run(x).dtype == dtype
            np.testing.assert_allclose(run(x), want, rtol=1e-15)
    explained = jbdot.explain(jbdot.theano.dot, x, x)
    assert (explained.dtype, explained.dot_spec.lhs_dtype) == (dtype, dtype)
    assert f"{dtype}[3,3]" in str(explained)
    (row,) = jbdot.optimize(lambda x: jbdot.theano.dot(x, x)).report(x)
    assert row.dot_spec.dtype == dtype
    narrow = np.full((3, 3), WIDE[dtype] if dtype.startswith(("float", "complex")) else 2, dtype)
    assert jbdot.theano.dot(narrow, narrow).dtype == jax.dtypes.canonicalize_dtype(dtype)


def test_mixed_64_bit_arrays_with_x64_off():
    with jax.enable_x64(True):
        x = {dtype: jnp.full((3, 3), 2, dtype) for dtype in WIDE}
    y = jnp.full((3, 3), 2, jnp.float32)
    for dtype in WIDE:
        want = jax.lax.dot_general(x[dtype], y, (((1,), (0,)), ((), ()))).dtype
        for call in (lambda x: jbdot.contract("i k, k j -> i j", x, y), lambda x: jbdot.theano.dot(x, y)):
            for run in (call, jax.jit(call), jbdot.optimize(call)):
                assert run(x[dtype]).dtype == want
                np.testing.assert_array_equal(run(x[dtype]), np.full((3, 3), 12))
        assert jbdot.explain("i k, k j -> i j", x[dtype], y).dtype == want


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # as lax warns
def test_a_preferred_float64_with_x64_off_is_float32():
    x = jnp.ones((3, 3))
    assert jbdot.contract("i k, k j -> i j", x, x, preferred_element_type="float64").dtype == jnp.float32
    assert jbdot.explain("i k, k j -> i j", x, x, preferred_element_type="float64").dtype == jnp.float32
    assert jbdot.dot(x, x, preferred_element_type=np.float64).dtype == jnp.float32


def test_every_dialect_is_public_and_has_functions_and_a_framework():
    modules = {name for name in jbdot.__all__ if isinstance(getattr(jbdot, name), type(jbdot))}
    assert front_door.DIALECTS.keys() == modules
    for name, dialect in front_door.DIALECTS.items():
        assert dialect.module is getattr(jbdot, name)
        assert dialect.functions
        assert dialect.framework
