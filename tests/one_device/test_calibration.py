"""Measuring the machine: what it is measured by, what that corrects, where it is not asked."""

import math

import jax
import pytest

import jbdot
import jbdot.command.doctor
from jbdot.one_device import calibration, choice, costs, tuning_cache
from jbdot.one_device.calibration import FEW, FIRST, corrections, dots
from jbdot.one_device.choice import candidates
from jbdot.one_device.costs import CAUTION, FAR_CAUTION, SURE, TIME, Estimate, Machine, estimates, offset_name, shipped

KNOWN = "AuthenticAMD family 25 model 1"
SPEC = dots()[0]


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    path = tmp_path / "tuned.jsonl"
    monkeypatch.setenv("JBDOT_TUNED", str(path))
    return path


def test_the_dots_of_a_machine_are_of_each_contraction_and_dtype():
    found = dots()
    assert len(found) == len(set(found)) == len(calibration.DOTS) * len(calibration.DTYPES)
    first = found[: len(calibration.DOTS)]  # what is timed where there is little time
    assert {spec.lhs_dtype for spec in first} == set(calibration.DTYPES)
    assert all(costs.knows(spec) and len(candidates(spec)) > 1 for spec in found)
    assert all(spec.batch * spec.m * spec.n * spec.k < 1 << 23 for spec in found)


def test_corrections_are_means_drawn_to_nothing_and_what_is_left_is_doubted():
    before = Machine("", {"split": 0.4, "pinned": 0.3, TIME: 0.5}, 1.0)
    errors = [("float32", {"split": 0.6, TIME: 1.0}), ("float32", {"split": 0.2}), ("int8", {"split": -0.4})]
    offsets, doubts = corrections(errors, before)
    assert offsets == pytest.approx(
        {"split float32": 0.8 / (2 + FEW), "split integer": -0.4 / (1 + FEW), f"{TIME} float32": 1 / (1 + FEW)}
    )
    left = (0.6 - offsets["split float32"], 0.2 - offsets["split float32"], -0.4 - offsets["split integer"])
    assert doubts["split"] == pytest.approx(math.sqrt((sum(one**2 for one in left) + FIRST * 0.4**2) / (3 + FIRST)))
    assert "pinned" not in doubts
    assert before.measured(offsets, doubts, 3).doubts == {**doubts, "pinned": 0.3}


def test_an_estimate_is_corrected_and_doubted_by_its_machine():
    doubts = dict.fromkeys((TIME, "split"), math.log(1.5))
    plain = Machine("", doubts, 0.5)
    assert plain.estimate("direct", 0.0, 10.0, "float32") == Estimate("direct", 10.0)
    found = plain.estimate("split", math.log(0.5), 10.0, "float32")
    assert (found.us, found.gain, found.doubt) == pytest.approx((5.0, 2.0, 1.5))
    assert found.margin == pytest.approx(SURE * math.sqrt(1.5))
    offsets = {"split float32": math.log(1.2), f"{TIME} float32": math.log(3)}
    corrected = plain.measured(offsets, {"split": 0.0}, 5)
    found = corrected.estimate("split", math.log(0.5), 10.0, "float32")
    assert (found.us, found.gain, found.doubt, found.margin) == pytest.approx((18.0, 1 / 0.6, 1.0, SURE))
    assert corrected.estimate("split", math.log(0.5), 10.0, "int8").us == pytest.approx(5.0)
    assert offset_name("split", "uint16") == offset_name("split", "int8") != offset_name("split", "bfloat16")


def test_a_kind_of_cpu_that_was_not_fitted_is_doubted_more():
    known, other, nobody = shipped(KNOWN), shipped("a VAX 780"), shipped("")
    assert (known.caution, other.caution) == (CAUTION, FAR_CAUTION)
    assert dict(other.doubts) == dict(nobody.doubts) != dict(known.doubts)
    assert "no CPU of this kind was timed" in other.said
    pair = [{one.lowering: one for one in estimates(SPEC, ("direct", "pinned", "split"), m)} for m in (known, other)]
    assert pair[0]["pinned"].us == pair[1]["pinned"].us
    assert pair[0]["pinned"].margin < pair[1]["pinned"].margin


def test_what_was_measured_is_kept_and_asked_for(file, monkeypatch):
    before = tuning_cache.machine()
    tuning_cache.keep_machine({"split float32": 1.0}, {"split": 0.125}, 7)
    assert tuning_cache.machine() is before  # until the file is read again
    assert tuning_cache.read_again()
    found = tuning_cache.machine()
    assert tuning_cache.machine() is found
    assert (found.offsets, found.doubts["split"]) == ({"split float32": 1.0}, 0.125)
    assert "7 dots that were timed here" in found.said
    assert tuning_cache.machine(exported=True).offsets == {}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert dict(tuning_cache.machine().doubts) == dict(shipped("").doubts)  # all processes must lower the same
    monkeypatch.undo()
    file.write_text('{"machine": "half", "offsets": 3}\n')
    monkeypatch.setenv("JBDOT_TUNED", str(file))
    with pytest.warns(UserWarning, match="1 damaged lines"):
        tuning_cache.read_again()
    assert tuning_cache.machine().offsets == {}


def test_offsets_decide(monkeypatch):
    """A lowering that is said to be far faster here is taken, and one that is far slower is not."""
    names = [name for name in choice.safe(SPEC, "cpu") if name in shipped(KNOWN).doubts]
    for name in names:
        offsets = {offset_name(other, "float32"): 3.0 for other in names} | {offset_name(name, "float32"): -6.0}
        machine = shipped(KNOWN).measured(offsets, {}, 1)
        monkeypatch.setattr(tuning_cache, "machine", lambda _=False, machine=machine: machine)
        assert choice.chosen(SPEC, "cpu").lowering == name
    worse = shipped(KNOWN).measured({offset_name(name, "float32"): 6.0 for name in names}, {}, 1)
    monkeypatch.setattr(tuning_cache, "machine", lambda _=False: worse)
    assert choice.chosen(SPEC, "cpu").lowering == "direct"


def test_tune_without_a_function_measures_the_machine(file, monkeypatch):
    monkeypatch.setattr(calibration, "DOTS", (("k, k n -> n", (64,), (64, 128)),))
    monkeypatch.setattr(calibration, "A_DOT_S", 0.01)
    monkeypatch.setattr(calibration, "DTYPES", ("float32", "int8"))
    found = jbdot.tune()
    assert found.cases == 2
    assert file.read_text().count('"machine"') == 1
    assert {name.split()[1] for name in found.after.offsets} == {"float32", "integer"}
    assert dict(tuning_cache.machine().offsets) == pytest.approx(dict(found.after.offsets), abs=1e-3)
    assert "2 dots timed in" in str(found)
    assert "2 dots that were timed here" in str(dict(jbdot.command.doctor.found()))
    assert jbdot.tune(seconds=1e-9).cases == 0  # no time: nothing is known, and nothing is corrected
    assert tuning_cache.machine().offsets == {}
    monkeypatch.setattr("jbdot.calls.tuning.platform", lambda: "tpu")
    with pytest.raises(ValueError, match="tune: a machine is measured on its CPU"):
        jbdot.tune()
    with pytest.raises(ValueError, match="seconds must be a number above 0"):
        jbdot.tune(seconds=0)


def test_estimates_are_said_beside_the_choice():
    explained = jbdot.explain("b m k, b k n -> b m n", (32, 24, 32), (32, 32, 64))
    text = explained.lowerings["cpu"].estimates_text
    assert all(f"{name} " in text for name in choice.safe(SPEC, "cpu") if name in ("direct", *shipped("").doubts))
    assert "such estimates were off by" in text
    assert "estimates on cpu" in dict(explained.facts())
    assert "estimates on gpu" not in dict(explained.facts())
    report = jbdot.optimize(jax.numpy.matmul).report(*(jax.ShapeDtypeStruct((96, 96), "float32"),) * 2)
    assert "such estimates were off by" in " ".join(str(report).split())
    assert jbdot.explain("k, k -> ", (4,), (4,)).lowerings["cpu"].estimates_text == ""  # nothing is estimated
