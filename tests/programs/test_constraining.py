"""Programs whose arrays are told where they are: the same numbers, and constraints where they are asked for."""

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import integers, mesh

from jbdot.one_device import jax_internals
from jbdot.programs.constraining import constrained
from jbdot.programs.labels import Flow

ON = mesh((4, 2))


ROWS = P("x")


def told(function, *args, at=ROWS, before=None):
    """The constrained program, and how often it has a constraint."""
    closed = jax.make_jaxpr(function)(*args)
    sharding, moved = (None if spec is None else NamedSharding(ON, spec) for spec in (at, before))
    made = constrained(
        closed, Flow.of(closed).steps, lambda array: sharding, lambda operation: (moved,) * len(operation.ins)
    )
    run = jax.jit(lambda *args: jax_internals.run_jaxpr(made, *args))
    return run, str(made).count("sharding_constraint")


def test_every_kind_of_jaxpr_is_gone_through_and_gives_the_same():
    @jax.checkpoint
    def layer(x, w):
        return jax.nn.relu(x @ w), jnp.sum(x, 0)

    def program(x, ws):
        x, sums = lax.scan(layer, x, ws)
        return lax.cond(x[0, 0] > 0, lambda x: x + 1, lambda x: x - 1, x), sums[0]

    x, ws = integers((8, 8)), integers((3, 8, 8), 1)
    run, count = told(lambda x: lax.while_loop(lambda x: jnp.sum(x) < 99, lambda x: x @ x.T, x), x)
    assert count >= 2  # on what is carried, and on the product
    np.testing.assert_array_equal(run(x)[0], x @ x.T if np.sum(x) < 99 else x)
    run, count = told(jax.grad(lambda x, ws: sum(map(jnp.sum, program(x, ws))), 1), x, ws)
    assert count > 10
    wanted = jax.grad(lambda x, ws: sum(map(jnp.sum, program(x, ws))), 1)(x, ws)
    np.testing.assert_array_equal(run(x, ws)[0], wanted)


def test_results_are_told_where_they_are_and_operands_where_they_go():
    x, w = integers((8, 8)), integers((8, 8), 1)
    for at, before, count in ((P("x"), None, 1), (None, P(None, "y"), 2), (P("x"), P("y"), 3), (None, None, 0)):
        run, found = told(jnp.matmul, x, w, at=at, before=before)
        assert found == count
        np.testing.assert_array_equal(run(x, w)[0], x @ w)


def test_custom_derivatives_are_left_alone():
    @jax.custom_vjp
    def f(x):
        return x * 2

    f.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 5,))
    closed = jax.make_jaxpr(f)(integers((8,)))
    made = constrained(closed, Flow.of(closed).steps, lambda array: NamedSharding(ON, P("x")), lambda operation: ())
    gradient = jax.grad(lambda x: jnp.sum(jax_internals.run_jaxpr(made, x)[0]))(jnp.ones(8))
    np.testing.assert_array_equal(gradient, 5 * np.ones(8))


def test_a_constraint_has_the_line_of_what_it_is_behind():
    closed = jax.make_jaxpr(jnp.matmul)(integers((8, 8)), integers((8, 8)))
    made = constrained(
        closed, Flow.of(closed).steps, lambda array: NamedSharding(ON, P("x")), lambda operation: (None, None)
    )
    dot, constraint = made.jaxpr.eqns
    assert jax_internals.source(constraint) == jax_internals.source(dot)
