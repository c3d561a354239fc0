"""Each rule that can break, and the facts in its message."""

import functools
import importlib
import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from meshes import mesh

import jbdot
from jbdot import keras, keras_tf1, mxnet, tensorflow, theano
from jbdot.calls import front_door


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


CASES = [
    # too low a rank
    (lambda: keras_tf1.dot(ones(3), ones(3)), ValueError, "x has rank 1, y has rank 1"),
    (lambda: keras.batch_dot(ones(3), ones(3, 4)), ValueError, "x has rank 1"),
    (lambda: tensorflow.matmul(ones(3), ones(3, 4)), ValueError, "a has rank 1, b has rank 2"),
    (lambda: keras_tf1.dot(ones(2, 3, 4), ones(4)), IndexError, "y has rank 1"),
    (lambda: theano.batched_dot(jnp.float32(1), ones(3)), TypeError, "a is a scalar"),
    (lambda: mxnet.batch_dot(ones(3, 4), ones(4, 5)), ValueError, "lhs has rank 2"),
    # contracted sizes differ
    (lambda: keras_tf1.dot(ones(3, 4), ones(5, 6)), ValueError, "axis 1 of x has size 4, axis 0 of y has size 5"),
    (
        lambda: tensorflow.matmul(ones(2, 3, 4), ones(2, 5, 6)),
        ValueError,
        "axis 2 of a has size 4, axis 1 of b has size 5",
    ),
    (lambda: theano.dot(ones(3, 4), ones(5, 6)), ValueError, "axis 1 of a has size 4, axis 0 of b has size 5"),
    (lambda: mxnet.dot(ones(3, 4), ones(5, 6)), ValueError, "axis 1 of lhs has size 4, axis 0 of rhs has size 5"),
    (
        lambda: tensorflow.einsum("ij,jk->ik", ones(2, 3), ones(4, 5)),
        ValueError,
        "axis 1 of x has size 3, axis 0 of y has size 4",
    ),
    (
        lambda: tensorflow.tensordot(ones(2, 3), ones(4, 5), 1),
        ValueError,
        "axis 1 of a has size 3, axis 0 of b has size 4",
    ),
    (lambda: theano.batched_tensordot(ones(), ones(), [[], []]), IndexError, "x is a scalar"),
    # batch sizes differ
    (lambda: keras.batch_dot(ones(2, 3), ones(5, 3)), ValueError, "axis 0 of x has size 2, axis 0 of y has size 5"),
    (
        lambda: keras_tf1.batch_dot(ones(2, 3, 4), ones(5, 4, 6)),
        ValueError,
        "axis 0 of x has size 2, axis 0 of y has size 5",
    ),
    (
        lambda: tensorflow.matmul(ones(2, 3, 4), ones(5, 4, 6)),
        ValueError,
        "axis 0 of a has size 2, axis 0 of b has size 5",
    ),
    (
        lambda: tensorflow.einsum("i...,j...->ij...", ones(2, 3), ones(4, 5)),
        ValueError,
        "axis 1 of x has size 3, axis 1 of y has size 5",
    ),
    (lambda: tensorflow.einsum("ij...,j->i...", ones(2), ones(2)), ValueError, "x has rank 1 for 'i j ...'"),
    (lambda: theano.batched_dot(ones(2, 3), ones(5, 3)), TypeError, "axis 0 of a has size 2, axis 0 of b has size 5"),
    # axes
    (lambda: keras.batch_dot(ones(2, 3), ones(2, 3), axes=2), IndexError, "axis 2 of x, which has rank 2"),
    (lambda: keras.batch_dot(ones(2, 3), ones(2, 3), axes=0), ValueError, "axis 0 of x"),
    (lambda: keras.batch_dot(ones(2, 3), ones(2, 3), axes=(1, 0)), ValueError, "axis 0 of y"),
    (lambda: keras.batch_dot(ones(2, 3), ones(2, 3), axes=1.0), TypeError, "a float"),
    (lambda: keras.batch_dot(ones(2, 3), ones(2, 3), axes=[[1], [1]]), ValueError, "axes hold a list"),
    (lambda: keras_tf1.batch_dot(ones(2, 3), ones(2, 3), axes=(1,)), IndexError, "(1,)"),
    (lambda: keras_tf1.Dot(axes="1"), TypeError, "got a str"),
    (lambda: keras.Dot(axes=(1, 2, 3)), ValueError, "axes=(1, 2, 3)"),
    (lambda: keras.Dot(axes=1)(ones(2, 3)), ValueError, "list of two arrays"),
    (lambda: theano.tensordot(ones(2, 3), ones(3, 2), [[-1], [0]]), ValueError, "axes [-1] of a"),
    (lambda: tensorflow.tensordot(ones(2, 3), ones(3, 2), [[1, 1], [0, 0]]), ValueError, "repeat one"),
    # dtypes
    (lambda: keras_tf1.dot(ones(2, 3, dtype=jnp.int8), ones(3, 2, dtype=jnp.int8)), TypeError, "x is int8"),
    (lambda: tensorflow.matmul(ones(2, 3), ones(3, 2, dtype=jnp.int32)), ValueError, "a is float32, b is int32"),
    (lambda: mxnet.dot(ones(2, 3, dtype=jnp.float16), ones(3, 2, dtype=jnp.float16)), ValueError, "lhs is float16"),
    (lambda: tensorflow.matmul(ones(2, 3), ones(3, 2), output_type=jnp.int32), ValueError, "output_type is int32"),
    (lambda: keras_tf1.Dot(1, normalize=True)([ones(2, 3, dtype=jnp.int32)] * 2), TypeError, "x is int32"),
    # flags
    (
        lambda: jbdot.matmul(ones(2, 3), ones(3, 2), transpose_a=True, adjoint_a=True),
        ValueError,
        "both flags are set for a",
    ),
    (lambda: mxnet.dot(ones(3), ones(3), transpose_a=True), ValueError, "transpose_a=True"),
    # what is given in the wrong place or form
    (lambda: keras.Dot(axes=1)([ones(2, 3)] * 3), ValueError, "got a list of 3"),
    (lambda: keras_tf1.Dot(axes=1)([ones(2, 3)]), ValueError, "got a list of 1"),
    (lambda: keras.dot(ones(3), ones(3)), ValueError, "Of a vector x[None] makes a row, x[:, None] a column"),
    (lambda: keras_tf1.dot(ones(3, 4), ones(4)), ValueError, "y[:, None] a column"),
    (
        lambda: tensorflow.einsum(ones(2, 3), "ij,jk", ones(3, 4)),
        TypeError,
        "x='ij,jk', y float32[3,4], equation float32[2,3]. A string goes first",
    ),
    (lambda: jbdot.dot((2, 3), ones(3, 4)), TypeError, "of a shape by jax.numpy.zeros"),
    (lambda: jbdot.dot(None, ones(3, 4)), TypeError, "got a NoneType"),
    (lambda: jbdot.explain(jbdot.dot, (None, 3), (3, 4)), TypeError, "got (None, 3)"),
    (
        lambda: jbdot.explain(jbdot.dot, "2x3", (3, 4)),
        TypeError,
        "a shape must be a tuple of ints of 0 or more: got '2x3'",
    ),
    (
        lambda: jbdot.explain("batch_dot", (2, 3), (3, 4)),
        ValueError,
        "a function is given as it is, such as jbdot.batch_dot",
    ),
    (lambda: jbdot.tune(jbdot.dot, (2, 3), (3, 4)), TypeError, "of a shape by jax.numpy.zeros"),
    (
        lambda: jbdot.plan_sharding("m k, k n -> m n", (8, 8), (8, 8)),
        TypeError,
        "got a tuple. Of a shape: jax.ShapeDtypeStruct",
    ),
    (lambda: jbdot.explain(keras.Dot, (2, 3), (2, 3)), TypeError, "got the class Dot"),
    (lambda: jbdot.explain(keras.Dot(1), (2, 3), (2, 3), (2, 3)), ValueError, "got a tuple of 3"),
    (lambda: jbdot.explain(jnp.dot, (2, 3), (3, 4)), TypeError, "jbdot.optimize(function).report"),
    (lambda: jbdot.tune(jbdot.dot, ones(2, 3), ones(3, 4), seconds="1"), ValueError, "seconds='1'"),
    (
        lambda: jbdot.dot(ones(2, 3), ones(3, 4), preferred_element_type=[1]),
        TypeError,
        "preferred_element_type=[1]",
    ),
    (lambda: jbdot.dot(ones(2, 3), ones(3, 4), precision=7), ValueError, "precision must be one that JAX knows: 7"),
    (lambda: jbdot.dot(ones(2, 3), ones(3, 4), precision=("high",) * 3), ValueError, "or a pair of them"),
    (lambda: jbdot.dot(jax.random.key(0), ones(3, 4)), TypeError, "x has dtype key<fry>"),
    (
        lambda: jbdot.dot(np.array(["2020-01-01"], "datetime64[D]"), ones(1, 4)),
        TypeError,
        "got datetime64[D]; x datetime64[D][1]",
    ),
    (lambda: jbdot.dot(np.array([[1, None]], object), ones(2, 4)), TypeError, "got object; x object[1,2]"),
    (
        lambda: tensorflow.matmul(ones(2, 3), ones(3, 4), transpose_b=np.array([True, False])),
        ValueError,
        "transpose_b=array([ True, False])",
    ),
    (
        lambda: jbdot.plan_sharding(5, ones(2, 3), ones(3, 4)),
        TypeError,
        "contraction must be a Contraction or its string: got a int",
    ),
    # the core
    (
        lambda: jbdot.contract("b m k, b k n -> b m n", ones(2, 3, 4), ones(2, 5, 6)),
        ValueError,
        "axis 2 of lhs has size 4",
    ),
    (lambda: jbdot.contract(5, ones(2), ones(2)), TypeError, "got a int"),
    (
        lambda: jbdot.dot_general(ones(2, 3), ones(3, 2), (((1,), (0, 1)), ((), ()))),
        TypeError,
        "[1] of lhs, [0, 1] of rhs",
    ),
    (lambda: jbdot.dot_general(ones(2, 3), ones(3, 2), (((-1,), (0,)), ((), ()))), TypeError, "axis -1 of lhs"),
    (lambda: jbdot.dot_general(ones(2, 3), ones(3, 2), (1, 0)), TypeError, "dimension_numbers"),
    (lambda: jbdot.dot([1, 2], ones(2)), TypeError, "got a list of 2; x=[1, 2], y float32[2]"),
    (
        lambda: tensorflow.matmul([ones(2, 3)] * 2, ones(3, 4)),
        TypeError,
        "got a list of 2; a=<list of 2>, b float32[3,4]",
    ),
    (lambda: keras.dot([[1.0] * 300] * 300, ones(300, 4)), TypeError, "of arrays by jax.numpy.stack, of numbers by"),
    (lambda: keras.dot([[1.0] * 300] * 300, ones(300, 4)), TypeError, "x=<list of 300>, y float32[300,4]. Make one"),
    (lambda: jbdot.explain(keras.dot, [[1.0] * 300] * 300, (3, 4)), TypeError, "got <list of 300>"),
    (lambda: jbdot.dot(np.array(["a"]), ones(2)), TypeError, "numbers"),
    (lambda: jbdot.dot(ones(2, 3), ones(3, 2), preferred_element_type="big"), TypeError, "'big'"),
    (
        lambda: jbdot.contract(
            "ij,jk->ik", ones(2, 3, dtype="int32"), ones(3, 2, dtype="int32"), preferred_element_type="int8"
        ),
        TypeError,
        "preferred_element_type=int8",
    ),
    (lambda: jbdot.dot(ones(2, 3), ones(3, 2), precision="exact"), ValueError, "that JAX knows: 'exact'"),
    (lambda: tensorflow.sparse_dense_matmul(ones(2, 3), ones(3, 2)), TypeError, "sp_a is a dense array"),
]


@pytest.mark.parametrize(("call", "kind", "fact"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_refusals(call, kind, fact):
    with pytest.raises(kind, match=re.escape(fact)) as error:
        call()
    assert type(error.value) is kind
    assert re.match(r"[\w.]+: .+\.$", str(error.value), re.DOTALL)


ODD_AXES = (
    "12",
    1.0,
    {1: 2},
    {1, 2},
    np.array([[1, 2], [2, 1]]),
    np.array([1.5, 2]),
    (None, "a"),
    [[1], [2]],
    (1,),
    (),
    10**20,
)


PYTHONS = "index out of range|object is not|object cannot|object has no|not supported between|invalid literal|argument"


@pytest.mark.parametrize("axes", ODD_AXES, ids=repr)
@pytest.mark.parametrize("door", [keras.batch_dot, keras_tf1.batch_dot, theano.batched_tensordot, tensorflow.tensordot])
def test_odd_axes_are_answered_or_refused_in_our_words(door, axes):
    arrays = ones(3, 3, 3), ones(3, 3), ones(3), ones()
    for x, y in (*zip(arrays, arrays, strict=True), (ones(3, 3), ones()), (ones(), ones(3, 3))):
        refusal = None
        try:
            door(x, y, axes)
        except (ValueError, TypeError, LookupError) as error:
            refusal = error.args[0]
        assert refusal is None or refusal.startswith(f"{door.__module__.removeprefix('jbdot.')}.{door.__name__}: ")
        assert not re.search(PYTHONS, refusal or "")


def test_template():
    with pytest.raises(ValueError) as error:
        keras.batch_dot(ones(8, 10, 10, 16), ones(8, 10, 1152, 16), axes=[2, 3])
    assert str(error.value) == (
        "keras.batch_dot: the contracted axes must have equal sizes: "
        "axis 2 of x has size 10, axis 3 of y has size 16; "
        "x float32[8,10,10,16], y float32[8,10,1152,16], axes=[2, 3]. "
        "The operands share their leading sizes (8, 10): Keras up to 2.2.4 on TensorFlow took all leading axes as "
        "batch, and code written for it needs jbdot.keras_tf1.batch_dot, in this call and in those that made its "
        "operands."
    )


def test_another_dialects_answer_is_named():
    with pytest.raises(ValueError, match=r"keras\.batch_dot gives \(2, 4, 5, 8\)"):
        keras_tf1.batch_dot(ones(2, 4, 3), ones(2, 5, 3, 8))


def test_errors_come_while_tracing():
    with pytest.raises(ValueError, match=r"keras_tf1\.dot: the contracted axes"):
        jax.make_jaxpr(jbdot.dot)(ones(3, 4), ones(5, 6))
    with pytest.raises(ValueError, match=r"keras_tf1\.dot: the contracted axes"):
        jax.eval_shape(jbdot.dot, jax.ShapeDtypeStruct((3, 4), jnp.float32), jax.ShapeDtypeStruct((5, 6), jnp.float32))


def test_the_same_message_eager_and_traced():
    texts = []
    for run in (jbdot.dot, jax.jit(jbdot.dot)):
        with pytest.raises(ValueError) as error:
            run(ones(3, 4), ones(5, 6))
        texts.append(str(error.value))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("door", "argument"),
    [
        (keras_tf1.batch_dot, [2, 1]),
        (keras.batch_dot, (2, 1)),
        (keras.batch_dot, 1),
        (tensorflow.tensordot, 1),
        (theano.tensordot, 1),
        (mxnet.dot, True),
        (jbdot.matmul, True),
        (jbdot.dot_general, (((2,), (1,)), ((0,), (0,)))),
    ],
)
def test_traced_axes_are_refused_with_the_cure(door, argument):
    with pytest.raises(TypeError, match=r"only the operands may be traced: \w+ is; .*static_argnames=") as error:
        jax.jit(door)(ones(2, 3, 4), ones(2, 4, 5), argument)
    assert "\n" not in str(error.value)


def test_static_axes_are_taken():
    step = jax.jit(keras.batch_dot, static_argnames="axes")
    assert step(ones(2, 3, 4), ones(2, 4, 5), axes=(2, 1)).shape == (2, 3, 5)
    assert step(ones(2, 3, 4), ones(2, 4, 5), (2, 1)).shape == (2, 3, 5)


def test_an_operand_survives_a_refused_call():
    x = ones(3, 4)
    with pytest.raises(ValueError):
        jbdot.dot(x, ones(5, 6))
    np.testing.assert_array_equal(x, np.ones((3, 4)))


def test_an_ambiguous_result_on_explicit_axes_is_named_as_code_with_bytes():
    on = mesh((2, 4), kind="Explicit")
    with jax.set_mesh(on):
        x = jax.device_put(jnp.ones((16, 8, 32)), NamedSharding(on, PartitionSpec(None, None, ("x", "y"))))
        y = jax.device_put(jnp.ones((16, 32, 8)), NamedSharding(on, PartitionSpec(None, ("x", "y"))))
        with pytest.raises(ValueError, match="must say how the result is sharded") as refused:
            jbdot.batch_dot(x, y)
        found = re.findall(r"out_sharding=(P\(.*?\)) \(sends ([\d.]+ \w+)\)", str(refused.value))
        assert len(found) == 4
        assert found[0][1] == "3.58 kB"
        for code, _ in found:  # as code to paste
            named = eval(code, {"P": PartitionSpec})
            assert jax.eval_shape(functools.partial(jbdot.batch_dot, out_sharding=named), x, y).shape == (16, 8, 8)


UNFIT = {
    "precision": ("exact", [], {}, 3.5, (1, 2), [["high"], "high"], np.array([1, 2]), "BF16_BF16"),
    "preferred_element_type": ([], {}, "big", 3, "U1", len, np.array([1, 2])),
    "out_sharding": ([], {}, 3, "x", ("x",), np.array([1, 2])),
    "lowering": ([], {}, 3, "padded", "shifted", "fastest", np.array([1, 2])),
}
CALLS = {
    "contract": lambda x, **kwargs: jbdot.contract("i j, j k -> i k", x, x, **kwargs),
    "keras_tf1.dot": lambda x, **kwargs: jbdot.dot(x, x, **kwargs),
    "tensorflow.einsum": lambda x, **kwargs: tensorflow.einsum("ij,jk->ik", x, x, **kwargs),
    "dot_general": lambda x, **kwargs: jbdot.dot_general(x, x, (((1,), (0,)), ((), ())), **kwargs),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in UNFIT for value in UNFIT[name]], ids=repr)
@pytest.mark.parametrize("door", CALLS)
def test_a_setting_of_another_kind_is_refused_in_our_words_and_no_other_function_is_named(door, name, value):
    def call(x):
        return CALLS[door](x, **{name: value})

    for run in (call, jax.jit(call), jax.grad(lambda x: call(x).sum())):
        with pytest.raises((TypeError, ValueError)) as refused:
            run(ones(3, 3))
        said = str(refused.value)
        assert said.startswith(f"{door}: ")
        assert "dtype must be" in said or f"{name}" in said
        assert "To the same call" not in said


def test_explain_refuses_the_same_settings():
    for name, values in UNFIT.items():
        for value in values:
            with pytest.raises((TypeError, ValueError), match=r"^keras_tf1\.dot: ") as refused:
                jbdot.explain(jbdot.dot, (3, 3), (3, 3), **{name: value})
            assert "To the same call" not in str(refused.value)


def test_a_function_is_named_only_where_it_answers_with_the_same_settings():
    x, y = ones(2, 4, 3), ones(2, 5, 3, 8)
    with pytest.raises(ValueError, match=r"keras\.batch_dot gives \(2, 4, 5, 8\), keras\.dot gives"):
        keras_tf1.batch_dot(x, y)
    with pytest.raises(ValueError) as refused:
        keras_tf1.batch_dot(x, y, lowering="looped")  # which needs a batch: that of keras.dot has none
    named = str(refused.value).partition("To the same call ")[2]
    assert named == "keras.batch_dot gives (2, 4, 5, 8), theano.batched_dot gives (2, 4, 5, 8)."
    for door in (keras, theano):
        assert getattr(door, "batch_dot", theano.batched_dot)(x, y, lowering="looped").shape == (2, 4, 5, 8)
    letters = np.array([["a"]])
    with pytest.raises(TypeError, match=r"got <U1; x <U1\[1,1\], y <U1\[1,1\]\. Convert it to numbers first\.$"):
        jbdot.dot(letters, letters)


def test_no_function_is_named_where_explicit_axes_leave_every_result_open():
    on = mesh((2, 4), kind="Explicit")
    with jax.set_mesh(on):
        x = jax.device_put(jnp.ones((16, 8, 32)), NamedSharding(on, PartitionSpec(None, None, "x")))
        y = jax.device_put(jnp.ones((16, 32, 8)), NamedSharding(on, PartitionSpec(None, "x")))
        for run in (jbdot.batch_dot, jax.jit(jbdot.batch_dot)):
            with pytest.raises(ValueError, match="must say how the result is sharded") as refused:
                run(x, y)
            assert "To the same call" not in str(refused.value)


def broken(*args, **kwargs):
    raise TypeError("a mistake of ours")


@pytest.mark.parametrize(
    "where",
    [
        "one_device.call_plan.called",
        "one_device.call_plan.arranged",
        "one_device.call_plan._dot_sharding",
        "one_device.lowering_rule.chosen",
        "calls.keras_shared.dot",
    ],
)
def test_a_mistake_of_ours_is_not_worded_as_the_users(where, monkeypatch):
    module, name = where.rsplit(".", 1)
    monkeypatch.setattr(importlib.import_module(f"jbdot.{module}"), name, broken)
    for call in (keras.dot, jax.jit(lambda x, y: keras.dot(x, y)), jax.grad(lambda x, y: keras.dot(x, y).sum())):
        jax.clear_caches()
        front_door.forget()
        front_door._PLANNED.clear()
        with pytest.raises(TypeError) as raised:
            call(ones(7, 9), ones(9, 11))
        assert str(raised.value) == "a mistake of ours"


def test_a_changed_jax_is_not_worded_as_the_users_mistake(monkeypatch):
    dot_general = jax.lax.dot_general

    def changed(lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None):
        return dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)

    monkeypatch.setattr(jax.lax, "dot_general", changed)
    with pytest.raises(TypeError, match=r"^[^:]*changed\(\) got an unexpected keyword argument 'out_sharding'"):
        jax.jit(lambda x, y: keras.dot(x, y))(ones(7, 13), ones(13, 11))
