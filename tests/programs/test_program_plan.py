"""Plans of whole programs: what they say, and that the planned program gives what it gives on one device."""

import dataclasses
import importlib.util
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import steps
from jax import lax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.backends.backend_agg import FigureCanvasAgg
from meshes import mesh

import jbdot
from jbdot.hardware import known
from jbdot.programs import witness

ON = mesh((4, 2))
SLOW = dataclasses.replace(known("v5e"), peak={"float32": 1e9}, start_us=0.0, hop_us=0.0)  # what is small is cut too
PROGRAMS = {
    "mlp": steps.mlp(),
    "transformer": steps.transformer(),
    "experts": steps.transformer(count=4, layers=1),
    "lstm": steps.lstm(),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_three_planned_steps_give_what_one_device_gives(name):
    step, params, batch = PROGRAMS[name]
    plan = jbdot.plan_program(step, ON, params, params, batch, hardware=SLOW)
    assert plan.state == (0, 1)
    assert any(any(sharding) for sharding in plan.arrays.values())
    planned, alone = plan(step), jax.jit(step)
    ours = theirs = (steps.arrays(params), jax.tree.map(jnp.zeros_like, steps.arrays(params)))
    for seed in range(3):
        given = steps.arrays(batch, seed + 1)
        *ours, loss = planned(*ours, given)
        *theirs, wanted = alone(*theirs, given)
        np.testing.assert_allclose(loss, wanted, rtol=2e-5)
    for one, other, sharding in zip(
        jax.tree.leaves(ours), jax.tree.leaves(theirs), jax.tree.leaves(plan.out_shardings), strict=False
    ):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
        assert one.sharding.is_equivalent_to(sharding, one.ndim)
    for given, back in zip(jax.tree.leaves(plan.in_shardings[:2]), jax.tree.leaves(plan.out_shardings), strict=False):
        assert given == back


@pytest.mark.parametrize("between", ["unclear", "free"])
def test_told_of_fewer_arrays_a_plan_gives_the_same(between):
    step, params, batch = PROGRAMS["lstm"]
    plan = jbdot.plan_program(step, ON, params, params, batch, hardware=SLOW)
    plan = dataclasses.replace(plan, between=between)
    args = steps.arrays((params, params, batch))
    made = str(jax.make_jaxpr(plan(step))(*args))
    assert ("sharding_constraint" in made) == (between == "unclear")
    for one, other in zip(jax.tree.leaves(plan(step)(*args)), jax.tree.leaves(jax.jit(step)(*args)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


def large(samples=65536):
    return steps.mlp(8192, 2048, samples)


def test_what_is_printed():
    step, params, batch = large()
    plan = jbdot.plan_program(step, {"data": 4, "model": 4}, params, params, batch, hardware="v5e")
    text = str(plan)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("step on data=4, model=4 of TPU v5e: ")
    for words in ("axis 0 of batch['x']", "params[*]['w']", "layouts were estimated", "donate_argnums=(0, 1)"):
        assert words in " ".join(text.split())
    assert "FSDP over data model" in " ".join(text.split())
    assert repr(plan) == text
    assert "<table>" in plan._repr_html_()


def test_what_is_drawn():
    step, params, batch = large()
    memory = 400e6
    plan = jbdot.plan_program(step, {"data": 4, "model": 4}, params, params, batch, hardware="v5e", memory=memory)
    figure = plan.plot()
    FigureCanvasAgg(figure).draw()
    arrays, time, sent, needed = figure.axes
    names = [text.get_text() for text in arrays.get_yticklabels()]
    assert "params[0]['w']  and 1 alike" in names
    ways = {axis: plan.mesh.shape[axis] for axis in ("data", "model")}
    for row, name in enumerate(names):
        cut = plan.arrays[name.partition("  and")[0]]
        boxes = [text.get_text() for text in arrays.texts if text.get_position()[1] == row]
        parts = [math.prod(ways[axis] for axis in axes) for axes in cut]
        assert [int(text.partition(" / ")[2] or 1) for text in boxes] == parts
    rows = [text.get_text().replace("\n", " ") for text in time.get_yticklabels()]
    assert rows[0] == f"taken: {plan.winner.name}"
    assert rows[1] in [each.name for each in plan.candidates]
    assert time.get_yticklabels()[0].get_weight() == "bold"
    cost = plan.winner.cost
    units = {"GB": 1e9, "MB": 1e6, "ms": 1e3}
    for axes, whole in ((time, cost.total_us), (sent, cost.bytes_sent), (needed, cost.memory_bytes)):
        bars = [patch.get_width() for patch in axes.patches if patch.get_y() == -0.31]
        assert sum(bars) * units[axes.get_xlabel()[:2]] == pytest.approx(whole, rel=1e-2)
    (limit,) = {line.get_xdata()[0] for line in needed.lines}
    assert limit * units[needed.get_xlabel()[:2]] == pytest.approx(memory)
    said = [text.get_text() for text in needed.texts]
    assert said[-1] == "at most 400 MB"
    fit = [each.cost.memory_bytes <= memory for each in plan.candidates if each.cost.total_us <= 3 * cost.total_us]
    assert sum(text.endswith("too much") for text in said) == fit[:8].count(False) > 0


def test_nothing_of_the_picture_is_cut():
    step, params, batch = PROGRAMS["experts"]
    figure = jbdot.plan_program(step, {"data": 4, "model": 2}, params, params, batch, hardware="v5e").plot()
    FigureCanvasAgg(figure).draw()
    width, height = figure.bbox.width, figure.bbox.height
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_plans_are_the_same_each_time():
    step, params, batch = large()
    first, second = (
        jbdot.plan_program(step, {"x": 2, "y": 4}, params, params, batch, hardware="v5e") for _ in range(2)
    )
    assert str(first) == str(second)
    assert first.specs == second.specs


def test_specs_stand_where_the_arguments_do():
    step, params, batch = large()
    plan = jbdot.plan_program(step, {"x": 2, "y": 4}, params, params, batch, hardware="v5e")
    is_spec = lambda x: isinstance(x, P)  # noqa: E731
    assert jax.tree.structure(plan.specs, is_leaf=is_spec) == jax.tree.structure((params, params, batch))
    assert plan.specs[0] == plan.specs[1]
    assert {x.mesh.shape == {"x": 2, "y": 4} for x in jax.tree.leaves(plan.in_shardings)} == {True}


def test_less_memory_has_parameters_cut_that_would_be_whole():
    step, params, batch = steps.mlp(4096, 4096, 1 << 18)
    alone, tight = (
        jbdot.plan_program(step, {"x": 8}, params, params, batch, hardware="v5p", memory=memory)
        for memory in (64e9, 3e9)
    )
    assert alone.winner.cost.memory_bytes > tight.memory >= tight.winner.cost.memory_bytes
    assert tight.winner.cost.total_us >= alone.winner.cost.total_us


def test_what_is_fixed_stays():
    step, params, batch = large()
    fixed = {"batch": "y", "params": [{"w": P(None, "x"), "b": None}, None]}
    plan = jbdot.plan_program(step, {"x": 2, "y": 4}, params, params, batch, hardware="v5e", fixed=fixed)
    assert plan.specs[2] == {"x": P("y"), "y": P("y")}
    assert plan.specs[0][0]["w"] == P(None, "x")
    assert plan.out_shardings[0][0]["w"].spec == P(None, "x")
    assert "P('y'), fixed" in str(plan)


def test_a_mesh_of_explicit_axes_is_taken_as_auto_and_shapes_may_be_arrays():
    step, params, batch = steps.mlp(8, 8, 8)
    plan = jbdot.plan_program(step, mesh((4, 2), kind="Explicit"), *steps.arrays((params, params, batch)))
    assert plan.hardware.name == "CPU"
    assert set(plan.mesh.axis_types) == {jax.sharding.AxisType.Auto}
    loss = plan(step, donate_argnums=plan.state)(*steps.arrays((params, params, batch)))[2]
    np.testing.assert_allclose(loss, jax.jit(step)(*steps.arrays((params, params, batch)))[2], rtol=1e-5)


def test_numbers_are_arguments_and_a_gradient_is_no_state():
    def gradient(w, x, scale):
        return jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w) * scale))(w)

    w, x = steps.struct(512, 512), steps.struct(4096, 512)
    plan = jbdot.plan_program(gradient, {"x": 8}, w, x, 0.5, hardware="v5e")
    assert plan.state == ()
    assert plan.specs[2] == P()
    assert plan.winner.cost.output_bytes > 0
    assert plan.out_shardings.spec == plan.specs[0]


def test_random_keys_and_the_state_of_optax_are_arguments():
    optax = pytest.importorskip("optax")
    transform = optax.adamw(1e-2)

    def step(w, state, x, key):
        def loss(w):
            kept = jax.random.bernoulli(key, 0.5, x.shape)
            return jnp.mean((jnp.where(kept, x, 0) @ w) ** 2)

        updates, state = transform.update(jax.grad(loss)(w), state, w)
        return optax.apply_updates(w, updates), state

    w, x = steps.arrays((steps.struct(16, 16), steps.struct(64, 16)))
    args = w, transform.init(w), x, jax.random.key(0)
    plan = jbdot.plan_program(step, ON, *args, hardware=SLOW)
    assert plan.state == (0, 1)
    for one, other in zip(jax.tree.leaves(plan(step)(*args)), jax.tree.leaves(jax.jit(step)(*args)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class State(NamedTuple):
    w: Any
    key: Any
    count: Any
    mean: Any


def updated(state, x, rate):
    """A step that is skipped now and then, draws from a key of numbers, and gives a mean that it has not read."""
    key, now = jax.random.split(state.key)

    def taken(w):
        return w - rate * jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w)

    w = lax.cond(state.count % 3 == 0, lambda w: w, taken, state.w)
    w = w + jax.random.normal(now, w.shape)
    return rate * jnp.sum(w), State(w, key, state.count + 1, jnp.mean(x, 0))


def test_state_comes_back_through_branches_and_loops_and_what_is_drawn_anew_with_the_rest_of_it():
    key, count = steps.struct(2, dtype="uint32"), steps.struct(dtype="int32")
    state = State(steps.struct(16, 8), key, count, steps.struct(16))
    plan = jbdot.plan_program(updated, {"x": 8}, state, steps.struct(64, 16), 0.5, hardware=SLOW)
    assert plan.state == (0,)  # the number comes back as no number
    assert plan.traced.tied == (None, 0, 1, 2, 3)
    assert plan.specs[0].key == P()

    def scanned(w, xs):
        return lax.scan(lambda w, x: (w - x.T @ (x @ w), None), w, xs)[0]

    def decoded(w, cache, x):
        def layer(x, given):
            w, cache = given
            cache = lax.dynamic_update_index_in_dim(cache, x, 0, 1)
            return x + jnp.einsum("bld,de->be", cache, w), cache

        return lax.scan(layer, x, (w, cache))

    assert jbdot.plan_program(scanned, {"x": 8}, SQUARE, steps.struct(4, 64, 64), hardware=SLOW).state == (0,)
    shapes = steps.struct(3, 16, 16), steps.struct(3, 8, 32, 16), steps.struct(8, 16)
    assert jbdot.plan_program(decoded, {"x": 8}, *shapes, hardware=SLOW).state == (1, 2)  # a cache, layer by layer
    assert jbdot.plan_program(jax.grad(lambda w: jnp.sum(w @ w)), {"x": 8}, SQUARE, hardware=SLOW).state == ()


def test_a_step_of_nnx_is_planned_as_it_is_written():
    nnx = pytest.importorskip("flax.nnx")
    optax = pytest.importorskip("optax")
    model = nnx.Linear(16, 32, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x):
        loss, gradient = nnx.value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)
        optimizer.update(model, gradient)
        return loss

    x = jnp.ones((64, 16))
    plan = jbdot.plan_program(step, ON, model, optimizer, x, hardware=SLOW)
    assert plan.state == (0, 1)
    assert "donate it, donate_argnums=(0, 1) where it is jitted" in " ".join(str(plan).split())
    assert jax.tree.structure(plan.out_shardings) == jax.tree.structure(0)
    placed = jax.tree.map(jax.device_put, (model, optimizer, x), plan.in_shardings)
    for _ in range(2):
        np.testing.assert_allclose(step(*placed), step(model, optimizer, x), rtol=1e-5)
    for one, other in zip(jax.tree.leaves(placed[0]), jax.tree.leaves(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="that changes none in place"):
        plan(step)


def test_functions_and_numbers_within_a_model_are_part_of_the_program():
    model = {"w": steps.struct(16, 16), "activation": jnp.tanh, "scale": 2.0}

    def step(model, x):
        assert isinstance(model["scale"], float)
        x = model["activation"](x @ model["w"] * model["scale"])
        return {**model, "w": model["w"] - x.T @ x}, jnp.sum(x)

    plan = jbdot.plan_program(step, {"x": 8}, model, steps.struct(64, 16), hardware=SLOW, fixed={"model": P("x")})
    assert plan.specs[0] == {"w": P("x"), "activation": None, "scale": None}
    state, loss = plan.out_shardings
    assert [state[name] for name in model] == [plan.in_shardings[0][name] for name in model]
    assert loss.spec == P()


def test_an_interrupt_gives_the_best_so_far(monkeypatch):
    from jbdot.programs.layout_cost import Costs

    step, params, batch = large()
    of, count = Costs.of, []

    def interrupted(self, layout):
        count.append(layout)
        if len(count) == 40:
            raise KeyboardInterrupt
        return of(self, layout)

    monkeypatch.setattr(Costs, "of", interrupted)
    plan = jbdot.plan_program(step, {"x": 2, "y": 4}, params, params, batch, hardware="v5e")
    assert plan.looked < 40
    assert plan.winner.cost.total_us == min(each.cost.total_us for each in plan.candidates)


def step_of(x, w):
    return x @ w


SQUARE = steps.struct(64, 64)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: jbdot.plan_program(3, {"x": 8}), TypeError, "plan_program: the program must be a function: int"),
        (lambda: jbdot.plan_program(step_of, None, SQUARE, SQUARE), TypeError, "mesh must be a jax.sharding.Mesh"),
        (lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE), ValueError, "or come with hardware="),
        (
            lambda: jbdot.plan_program(lambda x, way: x @ x, ON, SQUARE, "w", hardware=SLOW)(step_of),
            ValueError,
            "ProgramPlan: a plan that is run must be of a function of arrays, in pytrees, that changes none in place",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 7}, SQUARE, SQUARE, hardware="v5e"),
            ValueError,
            "a mesh axis must divide an axis of an argument: x=7, and the axes have sizes 64",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE, hardware="v5e", memory=1000),
            ValueError,
            "a layout must fit into the memory of a device: the one that needs least, ",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE, hardware="v5e", fixed={"z": "x"}),
            ValueError,
            "fixed must name parameters of the function: 'z' is none of x, w",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE, hardware="v5e", fixed={"x": ["x", "x"]}),
            ValueError,
            "what is fixed must have the structure of the argument",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE, hardware="v5e", fixed={"x": "q"}),
            ValueError,
            "a PartitionSpec must name axes of the mesh: 'q' of x",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE, hardware=3),
            TypeError,
            "hardware must be a jbdot.hardware.Hardware, or a name",
        ),
        (
            lambda: jbdot.plan_program(lambda x: jax.pure_callback(np.sin, x, x), {"x": 8}, SQUARE, hardware="v5e"),
            ValueError,
            "plan_program: the program must not call the host: pure_callback at ",
        ),
        (
            lambda: jbdot.plan_program(step_of, {"x": 8}, SQUARE, SQUARE, hardware="v5e")(step_of),
            ValueError,
            "ProgramPlan: a plan that is run must be for a mesh of devices",
        ),
        (
            lambda: jbdot.plan_program(step_of, ON, SQUARE, SQUARE)(lambda x, w: x @ w.T)(*steps.arrays([SQUARE] * 2)),
            ValueError,
            "ProgramPlan: a plan must be given the function that it is of",
        ),
    ],
)
def test_refusals(call, kind, words):
    with pytest.raises(kind) as told:
        call()
    assert words in str(told.value)


def test_what_is_short_says_how_much_and_what_frees_it():
    step, params, batch = steps.mlp(8192, 8192, 1024)
    with pytest.raises(ValueError, match=r"too much: arguments .* temporaries .*More devices, or a state") as told:
        jbdot.plan_program(step, {"x": 2}, params, params, batch, hardware="v5e", memory=3e8)
    assert "of 300 MB of TPU v5e" in str(told.value)


def test_an_abstract_mesh_with_figures_is_enough():
    on = AbstractMesh((4, 2), ("x", "y"))
    plan = jbdot.plan_program(step_of, on, SQUARE, SQUARE, hardware=known("v5p"))
    assert isinstance(plan.in_shardings[0], NamedSharding)
    assert plan.hardware.name == "TPU v5p"


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jbdot[tpu]")
def test_the_compiler_sends_what_was_planned():
    def step(w, x):
        return w - jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

    w, x = steps.struct(1024, 512), steps.struct(65536, 1024)
    plan = jbdot.plan_program(step, {"x": 2, "y": 2}, w, x, hardware="v5e")
    report = plan.compile_for("v5e:2x2")
    assert report.flops == plan.winner.cost.flops
    assert report.alias_bytes == report.output_bytes
    assert abs(report.sent - plan.winner.cost.bytes_sent) <= 0.02 * report.sent
    assert report.argument_bytes == plan.winner.cost.argument_bytes


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jbdot[tpu]")
def test_the_compiler_is_the_witness(monkeypatch):
    monkeypatch.setattr(witness, "_FEW", 1)

    def step(w, x):
        return w - jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

    w, x = steps.struct(1024, 512), steps.struct(4096, 1024)
    plan = jbdot.plan_program(step, {"x": 4}, w, x, topology="v5e:2x2")
    times = [each.report.step_us for each in plan.witnesses]
    assert times == sorted(times)
    assert plan.compile_for("v5e:2x2").step_us == times[0]


def test_there_must_be_such_a_topology():
    with pytest.raises(ValueError, match=r"plan_program: .*v5x:2x2"):
        jbdot.plan_program(step_of, {"x": 4}, SQUARE, SQUARE, topology="v5x:2x2")
