"""A function and its arguments as a program of arrays, however the function is wrapped."""

import functools

import jax
import pytest
from jax import numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import mesh

from jbdot.core.errors import BadType, BadValue
from jbdot.programs.program import Program

ON = mesh((4, 2))


def struct(shape, spec=None, dtype="float32", on=ON):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=None if spec is None else NamedSharding(on, spec))


def lowered(program):
    return program.traced.lower().as_text()


def test_arrays_anywhere_are_arguments_and_all_else_is_part_of_the_program():
    def step(params, batch, mode, rate):
        assert mode == "train"
        return batch["x"] @ params[1] * rate

    program = Program.of(step, ((None, struct((4, 3), P("x"))), {"x": struct((8, 4))}, "train", 0.5))
    assert program.names == ("params[1]", "batch['x']")
    assert program.name == "step"
    assert [x.shape for x in program.arrays] == [(4, 3), (8, 4)]
    assert program.named("arrays[1]") == "batch['x']"
    assert program.named("something else") == "something else"
    assert "5.000000e-01" in lowered(program)


def test_what_jit_says_of_arguments_and_results_holds():
    @functools.partial(
        jax.jit,
        in_shardings=(NamedSharding(ON, P("x")), None),
        out_shardings=(None, NamedSharding(ON, P(None, "y"))),
        donate_argnums=1,
        static_argnums=2,
    )
    def step(a, b, power):
        return a**power, b + 1

    program = Program.of(step, (struct((8, 4)), struct((8, 4)), 3))
    first, second = program.arrays
    assert first.sharding == NamedSharding(ON, P("x"))
    assert second.sharding is None
    assert program.mesh is ON
    text = lowered(program)
    assert "tf.aliasing_output" in text or "jax.buffer_donor" in text
    assert '{}, {"y"}' in text


def test_random_keys_come_and_go_as_their_numbers():
    def step(key, x):
        return jax.random.split(key), x + jax.random.normal(key, x.shape)

    program = Program.of(step, (jax.random.key(0), struct((8, 4), P("x"))))
    assert [(x.shape, x.dtype.name) for x in program.arrays] == [((2,), "uint32"), ((8, 4), "float32")]
    assert [x.shape for x in program.traced.out_info] == [(2, 2), (8, 4)]


def test_what_is_changed_in_place_is_a_result():
    nnx = pytest.importorskip("flax.nnx")

    @nnx.jit
    def step(model, x):
        model.kernel[...] = model.kernel[...] + jnp.sum(x)
        return jnp.sum(x)

    layer = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
    program = Program.of(step, (layer, struct((8, 4), P("x"))))
    assert sorted(x.shape for x in program.traced.out_info) == [(), (4, 3)]


def test_what_is_put_into_a_dict_is_gone():
    def step(params, x):
        params["w"] = params["w"] + jnp.sum(x)
        return jnp.sum(x)

    program = Program.of(step, ({"w": struct((4, 3))}, struct((8, 4), P("x"))))
    assert [x.shape for x in program.traced.out_info] == [()]


def test_the_mesh_is_the_one_that_something_names():
    spread = jax.shard_map(lambda x: x, mesh=ON, in_specs=P("x"), out_specs=P("x"))
    assert Program.of(spread, (struct((8, 4)),)).mesh.shape == ON.shape

    def constrained(x):
        return jax.lax.with_sharding_constraint(x, NamedSharding(ON, P("y")))

    assert Program.of(jax.jit(constrained), (struct((8, 4)),)).mesh.shape == ON.shape

    def named(x):
        return jax.lax.with_sharding_constraint(x, P("y"))

    assert Program.of(named, (struct((8, 4)),), ON).mesh is ON
    assert Program.of(named, (struct((8, 4), P("x")),)).mesh is ON
    with jax.set_mesh(ON):
        assert Program.of(named, (struct((8, 4), P("x")),)).mesh is ON


def test_explicit_axes():
    on = AbstractMesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)

    def step(x, w):
        return jnp.dot(x, w, out_sharding=P("x", None))

    program = Program.of(step, (struct((8, 4), P("x", "y"), on=on), struct((4, 4), P("y"), on=on)))
    assert program.mesh.shape == {"x": 4, "y": 2}


def test_bad_programs():
    with pytest.raises(BadType, match="the program must be a function"):
        Program.of(3, ())
    with pytest.raises(BadType, match="mesh must be a"):
        Program.of(jnp.sin, (struct((8,)),), "x")
    with pytest.raises(BadValue, match="no argument of sin names one"):
        Program.of(jnp.sin, (struct((8,)),))
    with pytest.raises(BadValue, match="all arguments must be on one mesh: x=4, y=2 and x=8"):
        Program.of(jnp.add, (struct((8,), P("x")), struct((8,), P("x"), on=mesh((8,)))))
