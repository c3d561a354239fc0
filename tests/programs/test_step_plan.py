"""Jitted steps, planned with their arguments and results where they are: the same numbers, better in what is said."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import steps
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import integers, mesh

import jbdot
from jbdot.programs import step_plan
from jbdot.programs.optimize import Optimized

ON = mesh((4, 2))


def put(x, *spec, on=ON):
    return jax.device_put(x, NamedSharding(on, P(*spec)))


def wide(on=ON):
    """Arguments of `descended`: parameters cut over both axes, samples over all devices."""
    params = {
        "up": put(integers((64, 256)), "x", "y", on=on),
        "down": put(integers((256, 64), 1), "y", "x", on=on),
    }
    return params, put(integers((512, 64), 2), ("x", "y"), on=on)


def loss(params, x):
    return jnp.mean((jax.nn.relu(x @ params["up"]) @ params["down"]) ** 2)


def descended(params, x, rate=0.5):
    value, gradient = jax.value_and_grad(loss)(params, x)
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient), value


@functools.cache
def planned():
    """An optimized step and its plan, which is better than plain jit."""
    step = jbdot.optimize(jax.jit(descended))
    return step, step.plan(*wide(), 0.5)


def assert_alike(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6 * float(jnp.abs(other).max()))
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_a_step_that_is_better_planned_gives_what_it_gave_where_it_gave_it():
    step, plan = planned()
    assert plan.is_planned
    assert plan.after.sent < plan.before.sent
    assert plan.after.flops <= 1.02 * plan.before.flops
    assert plan.after.temp_bytes <= 1.1 * plan.before.temp_bytes
    args = wide()
    assert_alike(step(*args, 0.5), jax.jit(descended)(*args, 0.5))
    assert_alike(step(*args, 0.25), jax.jit(descended)(*args, 0.25))  # a number is no part of the plan
    assert_alike(plan(*args, 0.125), jax.jit(descended)(*args, 0.125))


def test_a_call_runs_what_was_planned_and_plans_once(monkeypatch):
    step, plan = planned()
    monkeypatch.setattr(step_plan, "report_of", None)  # nothing is compiled anew
    assert step._plans.of((*wide(), 0.75), {}) is plan


def test_what_is_printed():
    _, plan = planned()
    text = str(plan)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (
        "descended on x=4, y=2 of CPU, compiled for 8 x cpu: arrays between its arguments and results are placed anew",
        "FLOPs of dots",
        "test_step_plan.py (loss) backward all-reduce",
        "taken",
        "in which 3 programs were compiled; nothing was run",
    ):
        assert part in words
    assert repr(plan) == text


def test_a_donated_step_of_a_scanned_and_recomputed_program():
    step, params, batch = steps.transformer(layers=1)
    cut = jax.tree.map(lambda x: P(*[None] * (len(x.shape) - 1), "y") if x.shape[-1] % 2 == 0 else P(), params)
    place = functools.partial(jax.tree.map, lambda spec, x: put(x, *spec), cut, is_leaf=lambda x: isinstance(x, P))
    ours, theirs = (
        (place(steps.arrays(params)), place(jax.tree.map(jnp.zeros_like, steps.arrays(params)))) for _ in range(2)
    )
    optimized = jbdot.optimize(jax.jit(step, donate_argnums=(0, 1)), tries=1)
    plain = jax.jit(step)
    for seed in range(2):
        given = jax.tree.map(lambda x: put(x, *("x",) * bool(x.ndim)), steps.arrays(batch, seed + 1))
        last = ours
        *ours, value = optimized(*ours, given)
        *theirs, wanted = plain(*theirs, given)
        np.testing.assert_allclose(value, wanted, rtol=2e-5)
        assert all(x.is_deleted() for x in jax.tree.leaves(last))
    assert_alike(ours, theirs)


def test_shardings_that_jit_says_hold_for_arrays_that_have_none():
    on_x, on_y = NamedSharding(ON, P("x")), NamedSharding(ON, P(None, "y"))
    f = jax.jit(lambda a, b: jnp.tanh(a @ b), in_shardings=(on_x, on_y), out_shardings=on_y)
    a, b = integers((64, 32)), integers((32, 16), 1)
    plan = jbdot.optimize(f).plan(a, b)
    assert plan.before.rows
    assert_alike(plan(a, b), f(a, b))


def test_static_arguments_keywords_keys_and_none():
    def f(x, w, key, power, other, scale=1.0):
        drawn = jax.random.bernoulli(key, 0.5, (x.shape[0], w.shape[1]))
        return jnp.where(drawn, x @ w, 0.0) ** power * scale, jax.random.split(key)[0]

    jitted = jax.jit(f, static_argnums=3)
    x, w = put(integers((64, 32)), None, "x"), put(integers((32, 16), 1), "x", "y")
    key = jax.random.key(0)
    optimized = jbdot.optimize(jitted, tries=1)
    for power, scale in ((1, 2.0), (2, 2.0), (1, 3.0)):
        ours, theirs = (g(x, w, key, power, None, scale=scale) for g in (optimized, jitted))
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
        assert (jax.random.key_data(ours[1]) == jax.random.key_data(theirs[1])).all()
    assert len(optimized._plans._found) == 2


def test_a_call_on_no_mesh_does_not_make_numbers_static():
    optimized = jbdot.optimize(jax.jit(descended))
    here = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), wide())
    for rate in (0.5, 0.25):
        optimized(*here, rate)
    assert len(optimized._plans._found) == 1


def alone():
    """Calls that are left alone, each with why."""
    x = put(integers((64, 64)), "x", "y")
    explicit = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    typed = put(integers((64, 64)), "x", None, on=explicit)

    def calls_back(a, b):
        jax.debug.callback(lambda _: None, a[0, 0])
        return a @ b

    yield pytest.param(jnp.matmul, (put(integers((64, 64)), "x"), put(integers((64, 64)))), "it sends nothing")
    yield pytest.param(lambda a, b: a @ b.T, (typed, put(integers((64, 64)), None, None, on=explicit)), "not Auto")
    yield pytest.param(calls_back, (x, x), "must not call the host")
    one = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    yield pytest.param(jnp.matmul, (put(integers((8, 8)), "x", on=one),) * 2, "its mesh has one device")


def test_without_tries_only_the_plain_step_is_compiled():
    plan = jbdot.optimize(jax.jit(descended), tries=0).plan(*wide())
    assert not plan.is_planned
    assert "tries=0" in str(plan)


@pytest.mark.parametrize(("function", "args", "why"), list(alone()))
def test_a_step_that_is_left_alone_says_why(function, args, why):
    step = jax.jit(function)
    plan = jbdot.optimize(step).plan(*args)
    assert not plan.is_planned
    assert plan.trials == ()
    assert why in " ".join(str(plan).split())
    assert (plan(*args) == step(*args)).all()


def test_nothing_is_compiled_inside_of_jit_on_one_device_without_tries_or_in_a_context(monkeypatch):
    monkeypatch.setattr(step_plan, "report_of", None)
    step, args = jax.jit(descended), wide()
    assert_alike(jax.jit(jbdot.optimize(step))(*args), step(*args))
    assert_alike(jbdot.optimize(step, tries=0)(*args), step(*args))
    with jbdot.optimize():
        assert_alike(step(*args), step(*args))
    here = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), args)
    assert_alike(jbdot.optimize(step)(*here), step(*here))


def test_where_planning_fails_the_step_runs_as_it_is_and_a_warning_says_so(monkeypatch):
    def broken(*_):
        raise IndexError("of ours")

    monkeypatch.setattr(step_plan, "roles_of", broken)
    args = wide()
    with pytest.warns(RuntimeWarning, match="descended as it is: planning it failed with IndexError: of ours"):
        ours = jbdot.optimize(jax.jit(descended))(*args)
    assert_alike(ours, jax.jit(descended)(*args))


def test_an_error_of_the_function_is_raised_as_it_is():
    @jax.jit
    def wrong(a, b):
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):  # and no warning, which is an error here
        jbdot.optimize(wrong)(*wide())


def test_what_speaks_against_a_planned_step():
    _, plan = planned()
    before = dataclasses.replace(plan.before, estimated_us=100.0)
    row = before.rows[0]

    def against(**changes):
        return step_plan._against(dataclasses.replace(before, **changes), before)

    less = (dataclasses.replace(row, sent=row.sent // 2, us=row.us / 2), *before.rows[1:])
    more = (dataclasses.replace(row, sent=row.sent * 2), *before.rows[1:])
    assert against(rows=less) == ""
    assert against(rows=more) == "sends more"
    assert against(rows=less, flops=2 * before.flops) == "computes 2.00 times as much"
    assert against(rows=less, temp_bytes=2 * before.temp_bytes) == "needs more room between"
    assert against(rows=less, estimated_us=120.0) == "computes 1.20 times as long, by the compiler's estimate"
    assert against() == "is no better"
    slow = (dataclasses.replace(row, sent=row.sent // 2, us=row.us * 2), *before.rows[1:])
    assert against(rows=slow) == "takes longer"


def test_a_plan_for_an_abstract_mesh_is_not_run():
    _, plan = planned()
    abstract = dataclasses.replace(plan, mesh=ON.abstract_mesh)
    with pytest.raises(ValueError, match="StepPlan: a plan that is run must be for a mesh of devices"):
        abstract(*wide(), 0.5)


def test_errors():
    with pytest.raises(TypeError, match=r"only a function that jax\.jit made is planned as a whole"):
        jbdot.optimize(descended).plan(*wide())
    with pytest.raises(ValueError, match="a program must be on a mesh"):
        jbdot.optimize(jax.jit(jnp.matmul)).plan(jnp.ones((2, 2)), jnp.ones((2, 2)))
    for tries in (-1, 1.5):
        with pytest.raises(ValueError, match="tries must be a whole number, 0 or more"):
            jbdot.optimize(descended, tries=tries)
    assert isinstance(jbdot.optimize(descended, tries=0), Optimized)
