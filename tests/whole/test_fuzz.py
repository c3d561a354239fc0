"""The fuzzer: a few hundred results of each kind, and that it finds what is wrong."""

import itertools

import fuzz
import pytest


@pytest.mark.parametrize(("kind", "count"), [("lowerings", 200), ("plans", 30)])
def test_a_few_hundred_results(kind, count, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles faster; fusions are the same
    bad = [
        record for record in fuzz.counted(fuzz.results(kind, seed=0), count) if record["state"] not in ("ok", "bare")
    ]
    assert not bad


def test_a_case_is_drawn_from_its_seed_and_number():
    cases = [fuzz.drawn(1, number) for number in range(50)]
    assert cases == [fuzz.drawn(1, number) for number in range(50)]
    assert len(set(map(str, cases))) == 50
    assert {max(len(case.lhs), len(case.rhs)) for case in cases} >= {1, 2, 4, 6, 8}


def test_a_wrong_value_is_found():
    case = fuzz.drawn(0, 0)
    made = fuzz.trial(case)
    want = [x.astype(case.dtype) for x in made.want]
    assert fuzz.compared(want, made.want) == ""
    assert "elements wrong" in fuzz.compared([want[0] + 1, *want[1:]], made.want)
    assert "has shape" in fuzz.compared([want[0][None], *want[1:]], made.want)


def test_a_crash_and_a_hang_are_found_and_the_next_child_goes_on(tmp_path, monkeypatch):
    """A stand-in for the child, which ends in the first two results and then tells of the third."""
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys, time, json\n"
        "done = sys.argv[sys.argv.index('--done') + 1].split(',')\n"
        "name = next(name for name in 'abc' if name not in done)\n"
        "print(json.dumps({'number': 7, 'name': name, 'case': ''}), flush=True)\n"
        "os.abort() if name == 'a' else time.sleep(60) if name == 'b' else None\n"
        "print(json.dumps({'number': 7, 'name': name, 'state': 'ok', 'case': ''}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(child))
    found = list(itertools.islice(fuzz.results("lowerings", 0, seconds=5), 3))
    assert [(record["name"], record["state"]) for record in found] == [("a", "crash"), ("b", "hang"), ("c", "ok")]
