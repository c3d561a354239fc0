"""Shardy, run from Python, in the form in which XLA runs it: on each JAX that is tested."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jbdot.core.errors import Refusal
from jbdot.programs import propagation

ON = AbstractMesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


def struct(shape, *spec):
    return jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(ON, P(*spec)))


def module(function, *args):
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cpu",)).compiler_ir("stablehlo")


def of(found, name):
    return [one for one in propagation.operations(found) if one.name == name]


def test_a_dot_says_how_it_is_cut_and_what_is_moved_for_it():
    found = module(lambda x, w: jnp.tanh(x @ w), struct((64, 32), "x"), struct((32, 16), "x", "y"))
    assert propagation.propagated(found) == []
    assert [propagation.shardings_of(one) for one in of(found, "stablehlo.dot_general")] == [[(("x",), ("y",))]]
    propagation.moved(found)
    (gather,) = of(found, "sdy.all_gather")
    assert propagation.axes_in(str(gather.attributes["gathering_axes"])) == ("x",)
    assert propagation.shardings_of(gather) == [((), ("y",))]


def test_what_is_called_stands_where_it_is_called_and_says_from_which_call():
    @jax.jit
    def inner(x):
        return jnp.sin(x) + 1

    @jax.jit
    def outer(x):
        return inner(x) * inner(x + 2)

    found = module(lambda x: outer(x) + outer(x * 3), struct((64,), "x"))
    calls = propagation.propagated(found)
    assert len(calls) == 6
    assert sorted(before < 0 for before, _ in calls) == [False] * 4 + [True] * 2
    assert len(of(found, "func.func")) == 1
    assert len(of(found, "stablehlo.sine")) == 4
    assert all(propagation.shardings_of(one) == [(("x",),)] for one in of(found, "stablehlo.sine"))


@pytest.mark.parametrize("function", [lax.square, lax.erf, lax.erf_inv, lambda x: jnp.nextafter(x, 1 + x)])
def test_what_xla_writes_out_before_shardy_sees_it_is_cut_as_what_it_is_of(function):
    found = module(lambda x: jnp.sin(function(x)), struct((64, 32), "x", "y"))
    propagation.propagated(found)
    (sine,) = of(found, "stablehlo.sine")
    assert propagation.shardings_of(sine) == [(("x",), ("y",))]


def test_the_largest_are_found_on_whole_rows():
    found = module(lambda x: lax.top_k(x, 2), struct((64, 32), "x", "y"))
    propagation.propagated(found)
    propagation.moved(found)
    (gather,) = of(found, "sdy.all_gather")
    assert propagation.axes_in(str(gather.attributes["gathering_axes"])) == ("y",)


def test_what_a_scan_keeps_for_the_backward_pass_is_cut_as_it_is_made():
    """As XLA has it; without a broadcast to one more axis being a reshape it is cut as the gradients are."""

    def loss(w, x):
        return jnp.sum(lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0] ** 2)

    w = struct((3, 32, 32), None, "x", "y")
    found = module(lambda w, x: w - jax.grad(loss)(w, x), w, struct((64, 32), "x"))
    propagation.propagated(found)
    forward = of(found, "stablehlo.while")[0]
    kept = [
        sharding
        for value, sharding in zip(forward.results, propagation.shardings_of(forward), strict=True)
        if propagation.shape_of(value) == (3, 64, 32)
    ]
    assert kept
    assert all(sharding[1] == ("x",) for sharding in kept)


def test_operations_stand_in_the_order_in_which_xla_walks_them():
    """From the results back, operands first to last: what is cut first is cut so where two ways stand against it."""

    def step(x):
        a, b = jnp.sin(x), jnp.cos(x)
        return jnp.tanh(b) - jnp.exp(a), a

    found = module(lambda x: lax.scan(lambda c, _: step(c), x, None, 3), struct((64,), "x"))
    propagation.propagated(found)
    (loop,) = of(found, "stablehlo.while")
    body = [one.operation.name.removeprefix("stablehlo.") for one in loop.regions[1].blocks[0].operations]
    assert [name for name in body if name in ("sine", "cosine", "tanh", "exponential", "subtract")] == [
        "cosine",
        "tanh",
        "sine",
        "exponential",
        "subtract",
    ]


@pytest.mark.parametrize("selects", [False, True])
def test_the_gradient_of_take_along_axis_is_a_select_where_the_compiler_makes_it_one(selects):
    """Logits stay cut over words then; a gradient of rows of a table is a scatter all the same."""

    def loss(logits, table, tokens):
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
        return jnp.sum(picked) + jnp.sum(table[tokens] ** 2)

    tokens = jax.ShapeDtypeStruct((8, 16), "int32", sharding=NamedSharding(ON, P("x")))
    found = module(jax.grad(loss, (0, 1)), struct((8, 16, 64), None, None, "y"), struct((64, 32)), tokens)
    propagation.propagated(found, selects=selects)
    shapes = [propagation.shape_of(one.results[0]) for one in of(found, "stablehlo.scatter")]
    assert shapes == [(64, 32)] if selects else sorted(shapes) == [(8, 16, 64), (64, 32)]
    cut = [propagation.shardings_of(one) for one in of(found, "stablehlo.select")]
    assert ([(("x",), (), ("y",))] in cut) == selects


def test_attributes_are_read_in_all_their_forms():
    text = '#sdy.sharding_per_value<[<@mesh, [{"x", ?}, {"y":(1)2}p0], replicated={"z"}>, <@mesh_0, []>]>'
    assert propagation.shardings_in(text) == [(("x",), ("y:(1)2",)), ()]
    assert propagation.axes_in('#sdy<list_of_axis_ref_lists[{"x"}, {}]>') == ("x",)


def test_without_shardy_it_says_what_is_lost(monkeypatch):
    monkeypatch.setattr(propagation, "_PROPAGATE", ("builtin.module(no-such-pass)",))
    found = module(jnp.sin, struct((64,), "x"))
    with pytest.raises(
        Refusal, match=r"where jaxlib runs Shardy from Python.*no-such-pass.*Leave compiled=False out"
    ) as told:
        propagation.propagated(found)
    assert isinstance(told.value, RuntimeError)
