"""The suite of benchmarks computes what it says, goes on where it stopped, and reports. Nothing here is timed."""

import copy
import json
import pickle
import sys

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from benchmarks import __main__ as suite
from benchmarks import compare, limits, report
from benchmarks.peers import FRAMEWORKS, Lost, NumPy, Peer, chain, operands
from benchmarks.timing import in_turns
from benchmarks.workloads import WAYS, WORKLOADS, Case, Workload, cases

GATES = {
    "attention, bqhd": [(4, 128, 12, 64)] * 3,
    "matrix-vector, 1024 of 128x128": [(1024, 128, 128), (1024, 128)],
    "batched gemm, lhs contracted on its first free axis": [(64, 128, 128)] * 2,
    "row-wise dot, 16384x256": [(16384, 256)] * 2,
    "long contraction, first axes": [(65536, 4)] * 2,
}
SMALL = "batch_dot, ranks 2 and 3, axes 1 and 1"
LIMITS = {
    **{f"gemm {dtype}": {"rate": 2e11, "how": "stored"} for dtype in report.STYLES},
    **{f"read {near}": {"rate": rate, "how": "stored"} for near, rate in (("memory", 3e10), ("cache", 6e10))},
}


def integers(case):
    rng = np.random.default_rng(1)
    shapes = [*case.workload.shapes, case.workload.out] if case.is_gradient else case.workload.shapes
    return [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]


def answers(case, args):
    """What each JAX way gives, all compiled as one program."""
    return jax.jit(lambda *args: {way: jax.tree.leaves(case.function(way)(*args)) for way in WAYS})(*args)


def test_the_table_is_sound():
    names = [workload.name for workload in WORKLOADS]
    assert len(set(names)) == len(names)
    assert len(cases()) <= 310
    for workload in WORKLOADS:
        chained = zip(workload.contractions, workload.contractions[1:], strict=False)
        assert all(before.out == after.lhs for before, after in chained)
        assert set(workload.sizes) == set("".join(workload.texts)) - set(",->")
    shapes = {workload.name: workload.shapes for workload in WORKLOADS}
    assert {name: shapes[name] for name in GATES} == GATES


def test_cases_are_chosen_by_name_dtype_and_direction():
    chosen = cases("^attention, b", ["float32", "int8"], ["gradient"])
    assert [case.workload.name for case in chosen] == ["attention, bqhd", "attention, bhqd"]
    assert {(case.dtype, case.direction) for case in chosen} == {("float32", "gradient")}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_every_way_computes_the_workload(workload):
    case = Case(workload.small(), "float32", "forward")
    args = integers(case)
    by_numpy = [function(*args) for function in NumPy(1).ways(case.task).values()]
    for way, (found,) in answers(case, args).items():
        assert found.shape == case.workload.out
        for want in by_numpy:
            np.testing.assert_allclose(found, want, rtol=1e-5 if workload.softmax else 0, err_msg=way)


@pytest.mark.parametrize(
    "name", ["attention, bqhd", "bilinear, x W y", "matrix-vector, from the left", "K.dot, rank 4"]
)
def test_every_way_has_the_same_gradients(name):
    (workload,) = (workload for workload in WORKLOADS if workload.name == name)
    case = Case(workload.small(), "float32", "gradient")
    found = answers(case, integers(case))
    assert len(found["bare"]) == len(case.workload.shapes) + (not case.is_single)
    for leaves in found.values():
        for leaf, want in zip(leaves, found["bare"], strict=True):
            np.testing.assert_allclose(leaf, want, rtol=1e-4, atol=1e-4 if workload.softmax else 0)


def test_int8_is_summed_in_int32():
    case = Case(Workload("int8", "", ("mk,kn->mn",), {"m": 2, "k": 64, "n": 3}), "int8", "forward")
    x, y = (np.full(shape, 9, np.int8) for shape in case.workload.shapes)
    for (found,) in answers(case, (x, y)).values():
        assert found.dtype == jnp.int32
        assert (found == 64 * 81).all()


def test_costs():
    single = Workload("gemm", "", ("mk,kn->mn",), {"m": 2, "k": 3, "n": 5})
    assert Case(single, "float32", "forward").flops == 60
    assert Case(single, "complex64", "gradient").flops == 60 * 2 * 4
    assert Case(single, "bfloat16", "forward").bytes == 2 * (6 + 15 + 10)
    assert Case(single, "int8", "forward").bytes == 6 + 15 + 4 * 10
    assert Case(single, "float32", "gradient").bytes == 4 * (2 * (6 + 15) + 10)
    chained = Workload("two", "", ("mk,kn->mn", "mn,no->mo"), {"m": 2, "k": 3, "n": 5, "o": 7})
    assert Case(chained, "float32", "gradient").flops == 3 * (60 + 140)
    assert Case(chained, "float32", "gradient").bytes == 4 * 2 * (6 + 15 + 35 + 14)


def test_operands_are_the_same_for_all_and_as_said():
    case = Case(Workload("gemm", "", ("mk,kn->mn",), {"m": 60, "k": 50, "n": 2}), "complex64", "gradient")
    first, again = operands(case.task), operands(case.task)
    assert [x.shape for x in first] == [(60, 50), (50, 2), (60, 2)]
    assert all((x == y).all() and x.dtype == np.complex64 for x, y in zip(first, again, strict=True))
    assert abs(first[0].real.std() - 1) < 0.1
    whole = operands(case.task | {"dtype": "int8", "gradient": False})
    assert (whole[0].min(), whole[0].max(), len(whole)) == (-9, 9, 2)


def test_between_stands_between_contractions_only():
    assert chain([np.add, np.add], np.negative)(1, 2, 5) == 2


def test_turns_give_every_name_a_time_in_every_round():
    counted = []
    times, calls = in_turns({"slow": lambda n: 30000.0, "quick": lambda n: counted.append(n) or 500.0}, 0.0)
    assert calls == {"slow": 1, "quick": 10}
    assert len(times["slow"]) == len(times["quick"]) >= 5


def test_two_copies_of_a_program_have_one_text():
    case = Case(Workload("gemm", "", ("bmk,bkn->bmn",), {"b": 2, "m": 3, "k": 4, "n": 5}), "float32", "gradient")
    args = [jnp.asarray(x) for x in integers(case)]
    texts = [suite.Program(case, "bare", args).text() for _ in range(2)]
    assert texts[0] == texts[1]
    other = Case(Workload("gemm", "", ("bmk,bnk->bmn",), {"b": 2, "m": 3, "k": 4, "n": 5}), "float32", "gradient")
    assert suite.Program(other, "bare", [jnp.asarray(x) for x in integers(other)]).text() != texts[0]


def test_a_peer_answers_says_what_it_cannot_and_is_missed_when_it_ends():
    peer = Peer("numpy", sys.executable, 1)
    try:
        assert peer.facts["version"] == np.__version__
        case = Case(Workload("gemm", "", ("mk,kn->mn",), {"m": 8, "k": 4, "n": 5}), "float32", "forward")
        answer = peer.prepare(case.task)
        want = np.abs(np.matmul(*operands(case.task))).mean()
        np.testing.assert_allclose(answer["magnitudes"], [want], rtol=1e-6)
        assert answer["way"] in ("einsum", "matmul")
        assert peer.block(3) > 0
        assert "NumPy has no gradients" in peer.prepare(case.task | {"gradient": True})["unable"]
        assert "NumPy has no bfloat16" in peer.prepare(case.task | {"dtype": "bfloat16"})["unable"]
        peer._process.kill()
        with pytest.raises(Lost, match=r"numpy.*ended"):
            peer.block(1)
    finally:
        peer.close()


def test_a_peer_that_does_not_start_is_lost():
    with pytest.raises(Lost, match="No such file"):
        Peer("numpy", "no-such-interpreter", 1)
    missing = next(name for name in FRAMEWORKS if name != "numpy" and not suite.importlib.util.find_spec(name))
    with pytest.raises(Lost, match="No module named"):
        Peer(missing, sys.executable, 1)


def test_a_lost_peer_is_replaced_and_the_case_measured_without_it():
    case = Case(next(w for w in WORKLOADS if w.name == SMALL).small(), "float32", "forward")
    with suite.Peers({"numpy": sys.executable, "torch": None}) as peers:
        assert "--torch-python" in peers.facts["torch"]["unable"]
        first = suite.row(case, peers, 0.0, LIMITS)
        assert set(first["ratios"]) == {"bare", "einsum", "matmul", "numpy"}
        lost = peers.running["numpy"]
        lost._process.kill()
        again = suite.row(case, peers, 0.0, LIMITS)
        assert "ended" in again["ways"]["numpy"]["unable"]
        assert peers.running["numpy"] is not lost
        assert set(suite.row(case, peers, 0.0, LIMITS)["ratios"]) == set(first["ratios"])


def run_suite(folder, *more):
    return suite.main(
        ["--results", str(folder), "--no-peers", "--budget", "0", "--only", SMALL, "--dtypes", "float32", *more]
    )


def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite, "measured_limits", lambda track: LIMITS)
    monkeypatch.setenv("JBDOT_TUNED", "off")
    path = tmp_path / f"suite-jax-{jax.__version__}.jsonl"
    row, count = suite.row, []

    def interrupted(*args):
        count.append(args)
        if len(count) == 2:
            raise KeyboardInterrupt
        return row(*args)

    monkeypatch.setattr(suite, "row", interrupted)
    assert run_suite(tmp_path) == 130
    assert "goes on from there" in " ".join(capsys.readouterr().err.split())
    stopped = path.read_text()
    assert [len(report.load(path).rows), stopped.count("\n")] == [1, 2]

    path.write_text(stopped + '{"workload": "cut o')
    assert run_suite(tmp_path) == 0
    finished = path.read_text()
    assert finished.startswith(stopped)
    assert [key[2] for key in report.load(path).rows] == ["forward", "gradient"]
    assert (tmp_path / "report.md").exists()

    assert run_suite(tmp_path) == 0
    assert path.read_text() == finished
    assert len(count) == 3

    other = json.loads(finished.splitlines()[0]) | {"inputs": "zeros"}
    path.write_text(json.dumps(other) + "\n")
    with pytest.raises(SystemExit, match="zeros"):
        run_suite(tmp_path)
    assert run_suite(tmp_path, "--fresh", "--directions", "forward") == 0
    assert list(report.load(path).rows) == [(SMALL, "float32", "forward")]


def test_a_case_that_fails_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "measured_limits", lambda track: LIMITS)
    monkeypatch.setenv("JBDOT_TUNED", "off")
    with monkeypatch.context() as patched:
        patched.setitem(WAYS, "einsum", lambda *args: 1 / 0)
        assert run_suite(tmp_path, "--directions", "forward") == 1
    run = report.load(tmp_path / f"suite-jax-{jax.__version__}.jsonl")
    assert [row["failed"] for row in run.rows.values()] == ["ZeroDivisionError: division by zero"]
    assert not run.measured
    assert run_suite(tmp_path, "--directions", "forward") == 0


def spread(median, width=1.1):
    return {"median": median, "p10": median / width, "p90": median * width}


def sample_row(name, dtype, direction, bare, torch, noise=1.02):
    ways = {
        way: {"us": spread(100 * ratio), "calls": 9, "compile_ms": 20.0, "temp_bytes": 0} for way, ratio in bare.items()
    }
    ways |= {
        "torch": {"us": spread(100 / torch), "way": "matmul", "calls": 9},
        "tensorflow": {"unable": "no int8 | none"},
    }
    ratios = {way: spread(1 / bare[way]) for way in report.SPELLINGS} | {"torch": spread(torch)}
    return {
        **{"workload": name, "dtype": dtype, "direction": direction, "flops": 2 << 20, "bytes": 1 << 20},
        **{"limit": {"us": 17.5, "by": "cache", "in_cache": True}, "rounds": 9, "ways": ways, "ratios": ratios},
        **{"noise": {"median": 1.0, "p10": 0.98, "p90": noise}, "best": min(report.SPELLINGS, key=bare.get)},
        "same_program": False,
    }


def times(bare, einsum=1.5, matmul=1.5):
    return {"jbdot": 1.0, "bare": bare, "einsum": einsum, "matmul": matmul, "bare again": bare}


def test_report(tmp_path):
    peers = {"torch": {"version": "2"}, "tensorflow": {"version": "2"}, "keras": {"unable": "not here"}}
    facts = {"machine": {"jax": "0.0.1", "GLIBC_TUNABLES": ""}, "peers": peers, "inputs": "normal", "limits": LIMITS}
    rows = [
        sample_row("gemm, quick", "float32", "forward", times(2.0), torch=0.5),
        sample_row("gemm, slow", "bfloat16", "gradient", times(0.8), torch=1.25),
        sample_row("gemm, within noise", "int8", "forward", times(0.9), torch=0.9, noise=1.2),
        {"workload": "gemm, broken", "dtype": "int8", "direction": "forward", "failed": "RuntimeError: no"},
    ]
    lines = [json.dumps(line) + "\n" for line in (facts, *rows)]
    (tmp_path / "suite-jax-0.0.1.jsonl").write_text("".join(lines) + lines[1][:40])
    second = copy.deepcopy(facts)
    second["machine"]["jax"] = "0.0.2"
    (tmp_path / "suite-jax-0.0.2.jsonl").write_text(json.dumps(second) + "\n" + lines[1])
    written = report.write(tmp_path)
    names = [f"{name}-jax-0.0.{i}.png" for name in ("families", "roofline", "workloads") for i in (1, 2)]
    assert sorted(path.name for path in written) == sorted(["report.md", *names])
    assert all(path.stat().st_size > 1000 for path in written)

    text = (tmp_path / "report.md").read_text()
    part = lambda heading: text.split(f"### {heading}")[1].split("\n### ")[0]  # noqa: E731
    assert part("Slower than the best XLA spelling: 1 of 3 rows").count("| gemm") == 1
    assert "| gemm, slow | bfloat16 | gradient | bare dot_general | 1.25 (1.14..1.38) |" in text
    assert "| gemm, slow |" in part("Losses to PyTorch")
    assert "| gemm, quick |" not in part("Losses to PyTorch")
    assert "None." in part("Losses to TensorFlow")
    assert "gemm, broken: RuntimeError: no" in part("Not measured")
    assert "no int8 / none" in part("Not measured")
    assert "| Keras 3 on JAX | all | both | all | not here |" in part("Not measured")
    assert "| forward | float32 | 2.00 (2.00..2.00), n=1 |" in part("Speed-up, geometric means")
    assert "17.5, cache, fits in cache | 18%" in part("Every workload")


def test_nothing_stored_is_no_report(tmp_path):
    (tmp_path / "suite-jax-0.0.1.jsonl").write_text('{"machine": {"j')
    assert report.write(tmp_path) == []


def test_limits_are_rates_and_bound_a_case(monkeypatch):
    monkeypatch.setattr(limits, "cache_bytes", lambda: 32 << 20)
    assert limits.gemm_peak("float64", sizes=(16,), seconds=0)["rate"] > 0
    for rate in (limits.read_rate, limits.copy_rate, limits.fresh_rate):
        assert rate(1 << 16, seconds=0)["rate"] > 0
    far = Case(next(w for w in WORKLOADS if w.name == "matrix-vector, 4096x4096"), "float32", "forward")
    assert limits.limit(far, LIMITS) == {"us": round(1e6 * far.bytes / 3e10, 4), "by": "memory", "in_cache": False}
    near = Case(next(w for w in WORKLOADS if w.name == "K.dot, rank 3"), "float32", "forward")
    assert limits.limit(near, LIMITS) == {"us": round(1e6 * near.flops / 2e11, 4), "by": "arithmetic", "in_cache": True}


def test_two_states_are_compared(tmp_path):
    """This tree beside itself: every program is equal, and one that is made to differ is timed and told."""
    (before, after) = (tmp_path / key for key in ("before", "after"))
    for folder in (before, after):
        folder.mkdir()
        compare.compile_all(folder, ["program"], "lora|decode")
    found = compare.compared(before, after, 0.01, iter)
    assert [row["is_equal"] for row in found["rows"]] == [True, True]
    assert compare.summary(found).startswith("program: 2 programs, 2 equal, 0 surely faster, 0 surely slower")
    path = sorted(after.iterdir())[0]
    name, text, times, executable = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps((name, f"{text} ", times, executable)))
    (row,) = (row for row in compare.compared(before, after, 0.01, iter)["rows"] if not row["is_equal"])
    assert row["program"] == "program: lora"
    assert row["ratio"]["median"] > 0
