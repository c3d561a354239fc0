"""The compiler as witness: which layouts are compiled, which is taken, and what is said of it. Nothing is compiled."""

import dataclasses

import pytest
import steps

import jbdot
from jbdot.hardware import known
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.layout import Layout
from jbdot.programs.layout_cost import LayoutCost
from jbdot.programs.layout_search import Candidate
from jbdot.programs.program_plan import ProgramPlan
from jbdot.programs.witness import witnessed


def report(us, memory=100):
    return CommunicationReport(
        function="step",
        mesh={"x": 8},
        hardware=known("v5e"),
        compiled_for="v5e:2x4",
        rows=(),
        held=(),
        argument_bytes=memory,
        output_bytes=0,
        alias_bytes=0,
        temp_bytes=0,
        flops=1,
        estimated_us=us,
        argument_sizes=frozenset(),
        versions={},
        text="",
    )


def candidate(name, us, memory=100):
    return Candidate(name, Layout({"x": ()}), LayoutCost(us, 0.0, {}, 1.0, memory, 0, 0))


def asked_of(candidates, times, limit=1000, clear=()):
    """Witnesses candidates by a table of times; gives what was asked, and what came of it."""
    asked = []

    def compiled(one, between):
        asked.append((one.name, between))
        given = times.get((one.name, between), times.get(one.name))
        if isinstance(given, BaseException):
            raise given
        return given if isinstance(given, CommunicationReport) else report(given)

    return asked, witnessed(candidates, limit, lambda one: one.name in clear, compiled, "v5e:2x4")


def test_the_first_is_compiled_in_each_way_and_the_next_in_the_best_and_so_is_the_winner():
    few = [candidate("a", 10.0), candidate("b", 11.0), candidate("c", 12.0), candidate("d", 13.0)]
    times = {("a", "moved"): 30.0, ("a", "unclear"): 20.0, ("a", "free"): 25.0, "b": 15.0, "c": 40.0}
    asked, found = asked_of(few, times)
    each = [("a", "moved"), ("a", "unclear"), ("a", "free"), ("b", "unclear"), ("c", "unclear")]
    assert asked == [*each, ("b", "moved"), ("b", "free")]
    assert (found[0].candidate.name, found[3].candidate.name) == ("b", "a")
    asked, _ = asked_of(few, {**times, "b": 50.0})
    assert asked == each


def test_of_what_is_clear_nothing_is_told():
    few = [candidate("a", 10.0), candidate("b", 11.0)]
    asked, _ = asked_of(few, dict.fromkeys("ab", 1.0), clear="a")
    assert asked == [("a", "unclear"), ("b", "moved")]
    asked, _ = asked_of(few, dict.fromkeys("ab", 1.0), clear="b")
    assert asked == [("a", "moved"), ("a", "unclear"), ("a", "free"), ("b", "unclear")]


def test_one_of_which_all_is_clear_is_among_the_few():
    few = [candidate(name, us) for us, name in enumerate("abcdef", 10)]
    asked, _ = asked_of(few, dict.fromkeys("abcdef", 1.0), clear="ef")
    assert [name for name, _ in asked] == ["a", "a", "a", "b", "e"]


def test_what_is_far_slower_or_larger_is_not_compiled():
    few = [candidate("a", 10.0), candidate("slow", 16.0), candidate("large", 11.0, 1300), candidate("near", 11.0, 1200)]
    asked, _ = asked_of(few, dict.fromkeys(("a", "near"), 10.0))
    assert {name for name, _ in asked} == {"a", "near"}


def test_what_fits_comes_before_what_is_faster_and_a_refusal_is_last():
    few = [candidate("a", 10.0), candidate("b", 11.0), candidate("c", 12.0)]
    times = {"a": report(5.0, memory=2000), "b": report(9.0), "c": RuntimeError("does not fit")}
    _, found = asked_of(few, times)
    assert [each.candidate.name for each in found] == ["b", "b", "b", "a", "a", "a", "c"]
    assert found[-1].refused == "does not fit"
    assert found[-1].cells == ("refused", "", "")


def test_an_interrupt_leaves_what_there_is_and_before_the_first_it_is_one():
    few = [candidate("a", 10.0), candidate("b", 11.0)]
    _, found = asked_of(few, {"a": 7.0, "b": KeyboardInterrupt()})
    assert [each.candidate.name for each in found] == ["a"] * 3
    with pytest.raises(KeyboardInterrupt):
        asked_of(few, {"a": KeyboardInterrupt()})


def planned(monkeypatch, time):
    """Plans with a compiler that takes what `time` says of a plan."""

    def compile_for(self, topology, timeout_s=300.0):
        given = time(self)
        if isinstance(given, Exception):
            raise given
        return report(given)

    monkeypatch.setattr(ProgramPlan, "compile_for", compile_for)
    step, params, batch = steps.mlp(8192, 2048, 65536)
    return jbdot.plan_program(step, {"x": 2, "y": 4}, params, params, batch, topology="v5e:2x4")


def test_a_plan_takes_what_the_compiler_finds_best_and_shows_it_beside_its_estimates(monkeypatch):
    plan = planned(monkeypatch, lambda plan: 1e3 if plan.between == "free" else 2e3)
    assert plan.hardware.name == "TPU v5e"
    assert plan.between == "free"
    assert plan.winner == plan.witnesses[0].candidate
    text = str(plan)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "1 ms a call, estimated by the compiler" in words
    assert "candidates, compiled for v5e:2x4" in words
    assert f"and {len(plan.witnesses)} programs compiled. By the compiler's text the winner takes 1 ms" in words
    assert "told of all arrays, takes 2 times as long" in words or "takes 1 times as long" in words
    assert "compiled for v5e:2x4" in plan._repr_html_()
    assert dataclasses.replace(plan, winner=plan.candidates[-1]).specs != plan.specs


def test_where_the_compiler_refuses_all_it_is_told(monkeypatch):
    with pytest.raises(RuntimeError) as told:
        planned(monkeypatch, lambda plan: RuntimeError("out of memory"))
    words = "plan_program: the compiler must take one of the layouts that are estimated best: it refuses "
    assert words in str(told.value)
    assert "out of memory" in str(told.value)
