"""Timing the lowerings of a dot: what a backend refuses is left out, and "measured" times once, and only here."""

import threading

import jax
import numpy as np
import pytest
from jax import export
from jax import numpy as jnp

import jbdot
from jbdot.calls import front_door
from jbdot.one_device import mark, measure, tuning_cache
from jbdot.one_device.choice import candidates, chosen
from jbdot.one_device.dot_spec import DotSpec

NUMBERS = (((2,), (1,)), ((0,), (0,)))
SPEC = DotSpec((4, 3, 6), (4, 6, 5), "float32", "float32", NUMBERS, "float32")
X, Y = (jnp.asarray(np.random.default_rng(0).integers(-4, 5, shape), jnp.float32) for shape in (SPEC.lhs, SPEC.rhs))


@pytest.fixture(autouse=True)
def file(monkeypatch, tmp_path):
    monkeypatch.setenv("JBDOT_TUNED", str(tmp_path / "tuned.jsonl"))
    monkeypatch.setattr(tuning_cache, "_measured", {})
    monkeypatch.setattr(measure, "SECONDS", 0.001)
    front_door.forget()
    jax.clear_caches()
    tuning_cache.read_again()
    yield tmp_path / "tuned.jsonl"
    front_door.forget()
    jax.clear_caches()


@pytest.fixture
def timed(monkeypatch):
    """Lists the dots that are timed, and has "reduced" win."""
    found = []

    def winner(spec, names):
        found.append((spec, threading.current_thread() is threading.main_thread()))
        spread = measure.Spread(1.0, 1.0, 1.0)
        return measure.Timing("reduced", 1.0, spread, measure.Spread(2.0, 2.0, 2.0))

    monkeypatch.setattr(measure, "winner", winner)
    return found


def test_what_a_backend_refuses_is_left_out(monkeypatch):
    compiled = measure.compiled_lowering

    def refuses(spec, name, lhs, rhs):
        if name == "pinned":
            raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: Unsupported element type for DotThunk::Execute")
        return compiled(spec, name, lhs, rhs)

    monkeypatch.setattr(measure, "compiled_lowering", refuses)
    found = measure.measure(SPEC, candidates(SPEC), 0.001)
    assert {timing.lowering for timing in found} == set(candidates(SPEC)) - {"pinned"}
    (tuned,) = jbdot.tune("b m k, b k n -> b m n", X, Y, seconds=0.001)
    assert "pinned" not in str(tuned.timings)
    assert measure.Candidates.of(SPEC, ("direct", "pinned")).refused["pinned"].startswith("UNIMPLEMENTED")


def test_a_measured_dot_is_timed_once_and_kept(timed, file):
    function = jax.jit(lambda x, y: jbdot.batch_dot(x, y, lowering="measured"))
    text = function.lower(X, Y).compile().as_text()
    assert [spec for spec, _ in timed] == [SPEC]
    assert not timed[0][1]  # in a thread of its own
    assert "dot_general.reduced" in text
    np.testing.assert_array_equal(function(X, Y), np.asarray(X) @ np.asarray(Y))
    jax.clear_caches()
    jax.jit(lambda x, y: jbdot.batch_dot(x, y, lowering="measured") + 1).lower(X, Y)
    assert len(timed) == 1
    assert '"reduced"' in file.read_text()
    assert chosen(SPEC, "cpu").lowering != "reduced" or chosen(SPEC, "cpu").why != "as was measured"  # of this process
    assert str(chosen(SPEC, "cpu", "measured")).startswith(
        "reduced, as was measured: 2 times faster on this dot (tuned"
    )
    tuning_cache.read_again()  # as a later process does
    assert chosen(SPEC, "cpu").why == "as was measured"


def test_without_a_file_it_is_kept_in_the_process(timed, monkeypatch):
    monkeypatch.setenv("JBDOT_TUNED", "off")
    for one in (0.0, 1.0):
        jax.jit(lambda x, y, one=one: jbdot.batch_dot(x, y, lowering="measured") + one).lower(X, Y)
    assert len(timed) == 1
    assert chosen(SPEC, "cpu", "measured").lowering == "reduced"


def test_what_is_for_elsewhere_is_not_timed(timed, monkeypatch):
    function = jax.jit(lambda x, y: jbdot.batch_dot(x, y, lowering="measured"))
    export.export(function)(X, Y)
    export.export(function, platforms=["tpu"])(X, Y)
    assert not timed
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    measure.measure_once(SPEC, "cpu")
    assert not timed


def test_explain_does_not_time(timed):
    found = jbdot.explain(jbdot.batch_dot, SPEC.lhs, SPEC.rhs, lowering="measured").lowerings
    assert found["cpu"].lowering in candidates(SPEC)
    jbdot.optimize(lambda x, y: jnp.matmul(x, y), lowering="measured").report(X, Y)
    assert not timed


def test_a_measurement_is_not_in_another(monkeypatch, timed):
    assert measure._running.acquire(blocking=False)
    try:
        measure.measure_once(SPEC, "cpu")
    finally:
        measure._running.release()
    assert not timed


def test_a_whole_process_can_be_measured():
    """Really timed: the candidates' own dots are not measured in turn."""
    mark.optimize_everything("measured")
    try:
        np.testing.assert_array_equal(jax.jit(jnp.matmul)(X, Y), np.asarray(X) @ np.asarray(Y))
        assert tuning_cache.choice(SPEC, "cpu", measured=True)[0] in candidates(SPEC)
    finally:
        mark.optimize_everything(None)


def test_wide_dots_are_timed_in_their_width():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).integers(-4, 5, (3, 5)), jnp.float64)
        got = jax.jit(lambda x: jbdot.contract("m k, n k -> m n", x, x, lowering="measured"))(x)
        np.testing.assert_array_equal(got, np.asarray(x) @ np.asarray(x).T)
        spec = DotSpec((3, 5), (3, 5), "float64", "float64", (((1,), (1,)), ((), ())), "float64")
        assert tuning_cache.choice(spec, "cpu", measured=True) is not None


def test_only_what_is_surely_faster_wins():
    def of(name, us, p10):
        return measure.Timing(name, 1.0, measure.Spread(us, us, us), measure.Spread(100 / us, p10, 100 / us))

    direct = of("direct", 100.0, 1.0)
    assert measure.surest([direct, of("split", 80.0, 1.2)]).lowering == "split"
    assert measure.surest([direct, of("split", 80.0, 1.01)]).lowering == "direct"
