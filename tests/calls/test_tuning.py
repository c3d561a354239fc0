"""Tuning: what is timed, what is kept, and that a damaged or shared file does no harm."""

import dataclasses
import multiprocessing

import jax
import numpy as np
import pytest
from jax import numpy as jnp

import jbdot
from jbdot.calls import tuning
from jbdot.one_device import choice, costs, lowering_rule, tuning_cache
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.measure import Timing
from jbdot.timing import Spread, ratios, rounds

X, Y = jnp.ones((8, 4, 4)), jnp.ones((8, 4))


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "tuned.jsonl"
    monkeypatch.setenv("JBDOT_TUNED", str(path))
    return path


def request_of(*sizes):
    shape = jax.ShapeDtypeStruct(sizes, jnp.float32)
    return DotSpec.of(shape, shape, shape, (((1,), (1,)), ((0,), (0,))), None)


def test_tune_keeps_what_auto_then_uses(file):
    (found,) = jbdot.tune("b m k, b k -> b m", X, Y, seconds=0.05)
    assert {timing.lowering for timing in found.timings} == set(choice.candidates(found.dot_spec))
    assert all(t.us.p10 <= t.us.median <= t.us.p90 and t.compile_ms > 0 for t in found.timings)
    assert file.read_text().count('"lowering"') == 1
    assert choice.chosen(found.dot_spec, "cpu").lowering == found.winner
    assert "kept: " in str(found)


def test_what_is_kept_overrules_the_rules():
    spec = request_of(8, 16)
    kind = tuning_cache.device_kind("cpu")
    assert not choice.chosen(spec, "cpu").source.startswith("tuned on")
    for name in ("reduced", "unrolled"):  # the last holds
        tuning_cache.keep(spec, kind, name, 2.5)
        assert choice.chosen(spec, "cpu").lowering != name  # until the file is read again
        assert tuning_cache.read_again()
        assert not tuning_cache.read_again()
        found = choice.chosen(spec, "cpu")
        assert (found.lowering, found.gain) == (name, 2.5)
        assert "tuned on" in found.source
        assert "2.5 times faster on this dot (tuned on" in str(found)
    assert choice.chosen(request_of(8, 17), "cpu").source != found.source
    assert choice.chosen(spec, "tpu").source != found.source
    assert "unrolled" in str(jbdot.explain(jbdot.contract, "b k, b k -> b", (8, 16), (8, 16)))
    assert choice.chosen(spec, "cpu", "direct").lowering == "direct"


def test_a_compiled_call_is_chosen_for_anew():
    jbdot.contract("b m k, b k -> b m", X, Y)
    (found,) = jbdot.tune(jbdot.keras_tf1.batch_dot, X, X, seconds=0.02)
    assert found.dot_spec.m == 4
    np.testing.assert_array_equal(jbdot.contract("b m k, b k -> b m", X, Y), 4)


def steps(monkeypatch, *names):
    """Counts which lowerings are written into programs."""
    written = []
    for name in names:
        own = lowering_rule.LOWERINGS[name]
        counted = lambda *args, name=name, own=own: written.append(name) or own(*args)  # noqa: E731
        monkeypatch.setitem(lowering_rule.LOWERINGS, name, dataclasses.replace(own, function=counted))
    return written


def test_a_jitted_function_is_lowered_as_explain_says_after_tune(monkeypatch):
    def timed(spec, names, seconds, track):
        return [Timing(name, 1.0, Spread(us, us, us), Spread(9 / us, 9 / us, 9 / us)) for name, us in us_of.items()]

    monkeypatch.setattr(tuning, "measure", timed)
    shapes = (8, 13), (8, 13)
    x, y = map(jnp.ones, shapes)
    f = jax.jit(lambda x, y: jbdot.contract("b k, b k -> b", x, y))
    written = steps(monkeypatch, "unrolled", "reduced")
    for winner in ("unrolled", "reduced"):
        us_of = {"direct": 9.0, winner: 1.0}
        (found,) = jbdot.tune("b k, b k -> b", x, y)
        assert found.winner == winner
        written.clear()
        np.testing.assert_array_equal(f(x, y), 13)
        said = jbdot.explain("b k, b k -> b", *shapes).lowerings["cpu"]
        assert {said.lowering} == set(written) == {winner}
        written.clear()
        np.testing.assert_array_equal(f(x, y), 13)
        assert written == []  # what was compiled is kept


def test_a_line_that_does_not_fit_its_dot_is_not_obeyed(monkeypatch):
    spec = request_of(8, 21)
    tuning_cache.keep(spec, tuning_cache.device_kind("cpu"), "widened", 9.0)  # which computes in bfloat16
    tuning_cache.read_again()
    assert choice.chosen(spec, "cpu").source != f"tuned on {tuning_cache.device_kind('cpu')}, jax {jax.__version__}"
    x = jnp.full((8, 21), 1 + 2**-12)
    got = jax.jit(lambda x: jbdot.contract("b k, b k -> b", x, x))(x)
    np.testing.assert_allclose(got, 21 * (1 + 2**-12) ** 2, rtol=1e-6)
    assert "widened" not in str(jbdot.explain("b k, b k -> b", (8, 21), (8, 21)).lowerings["cpu"])
    monkeypatch.setattr(tuning_cache, "choice", lambda *_, **__: ("shifted", 9.0, "a file"))
    small = DotSpec((8, 4), (4, 8), "uint8", "uint8", (((1,), (0,)), ((), ())), "int32")
    assert choice.chosen(small, "cpu").lowering == "shifted"
    assert choice.chosen(small, "cuda").lowering != "shifted"  # it is not trusted there


def test_no_file_of_this_host_is_asked_for_what_runs_elsewhere(monkeypatch):
    spec = request_of(8, 22)
    tuning_cache.keep(spec, tuning_cache.device_kind("cpu"), "unrolled", 9.0)
    tuning_cache.read_again()
    assert choice.chosen(spec, "cpu").source.startswith("tuned on")
    assert not choice.chosen(spec, "cpu", exported=True).source.startswith("tuned on")
    shape = jax.ShapeDtypeStruct((8, 22), jnp.float32)
    f = jax.jit(lambda x: jbdot.contract("b k, b k -> b", x, x))
    monkeypatch.setattr(costs, "estimates", lambda *_: ())
    written = steps(monkeypatch, "unrolled")
    jax.export.export(f)(shape)
    jax.export.export(f, platforms=("tpu", "cpu"))(shape)
    assert written == []
    f.lower(shape)
    assert written == ["unrolled"]
    for platform in ("tpu", "cuda", "rocm", "other"):
        assert tuning_cache.choice(spec, platform) is None
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert tuning_cache.choice(spec, "cpu") is None
    assert not jbdot.explain("b k, b k -> b", (8, 22), (8, 22)).lowerings["cpu"].source.startswith("tuned on")


def test_any_function_and_shapes_alone_can_be_tuned():
    def model(x, y):
        return jnp.tanh(jnp.einsum("bmk,bk->bm", x, y)) @ jnp.ones((4, 2))

    shapes = jax.ShapeDtypeStruct((8, 4, 4), jnp.bfloat16), jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)
    assert len(jbdot.tune(model, *shapes, seconds=0.02)) == 2
    with pytest.raises(ValueError, match="tune: the call must hold a dot"):
        jbdot.tune(jnp.sin, X)
    with pytest.raises(TypeError, match="tune: function must be callable"):
        jbdot.tune(3, X)


def test_a_damaged_file_is_left_aside_with_a_warning(file):
    spec = request_of(8, 32)
    tuning_cache.keep(spec, tuning_cache.device_kind("cpu"), "reduced", 2.0)
    with file.open("a") as out:
        out.write('{"key": "half a li')
    tuning_cache.keep(request_of(8, 33), tuning_cache.device_kind("cpu"), "reduced", 3.0)  # ends the broken line first
    with pytest.warns(UserWarning, match="1 damaged lines"):
        assert choice.chosen(spec, "cpu").lowering == "reduced"
    assert choice.chosen(request_of(8, 33), "cpu").gain == 3.0
    file.write_bytes(b"\xff\x00 nothing of the kind \n" * 3)
    with pytest.warns(UserWarning, match="3 damaged lines"):
        assert tuning_cache.read_again()
    assert choice.chosen(spec, "cpu").gain != 2.0
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="cannot be read"):
        tuning_cache.read_again()
    assert choice.chosen(spec, "cpu").gain != 2.0


@pytest.mark.parametrize("value", ["off", "", "0"])
def test_off(value, file, monkeypatch):
    spec = request_of(8, 64)
    tuning_cache.keep(spec, tuning_cache.device_kind("cpu"), "reduced", 2.0)
    monkeypatch.setenv("JBDOT_TUNED", value)
    assert tuning_cache.path() is None
    assert choice.chosen(spec, "cpu").gain != 2.0
    tuning_cache.keep(spec, tuning_cache.device_kind("cpu"), "unrolled", 2.0)
    assert "unrolled" not in file.read_text()


def write(count):
    for number in range(count):
        tuning_cache.keep(request_of(8, number + 1), "a device", "reduced", 2.0)


def test_several_processes_at_once(file):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(50,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len([line for line in file.read_text().splitlines() if line]) == 150
    assert len(tuning_cache._read(file).dots) == 50


def test_rounds_are_side_by_side():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = rounds(calls, seconds=0.01, least=4)
    assert {len(found) for found in times.values()} == {len(times["a"])}
    assert len(times["a"]) >= 4
    assert ratios(times, "a")["a"] == Spread(1, 1, 1)


def test_spread():
    spread = Spread.of([float(value) for value in range(11)])
    assert (spread.median, spread.p10, spread.p90) == (5, 1, 9)
    assert Spread.of([2.0]) == Spread(2, 2, 2)
