"""The benchmark of many devices computes what it says, goes on where it stopped, and reports. Nothing here is timed."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import devices, devices_report
from benchmarks.devices import NAMED, WORKLOADS, Case, Lost, Worker, Workers

FACTS = {"platform": "cpu", "kind": "cpu", "count": 1, "jax": jax.__version__, "threads": 2}
GEMM, LONG = "gemm, cut along k, wanted in tiles", "attention, sequence-parallel"


def tiny(name, scaling="strong", count=4):
    return Case(NAMED[name], scaling, count, "tiny")


def test_the_table_is_sound():
    assert len(NAMED) == len(WORKLOADS)
    for workload in WORKLOADS:
        chained = zip(workload.contractions, workload.contractions[1:], strict=False)
        assert all(before.out == after.lhs for before, after in chained)
        assert set(workload.sizes) == {label for c in workload.contractions for label in (*c.lhs, *c.rhs)}
        assert len(workload.axes) in (1, 2)
        assert workload.grows in workload.sizes
        assert (len(workload.texts) == 2) == bool(workload.between)


def test_a_workload_is_read():
    workload = NAMED["MLP, FSDP and tensor-parallel"]
    assert workload.axes == ("data", "model")
    assert workload.specs == (P("data"), P("data", "model"), P("model", "data"), P("data"))
    assert NAMED[GEMM].specs == (P(None, ("x", "y")), P(("x", "y")), P("x", "y"))
    assert [str(c) for c in workload.contractions] == ["t d, d f -> t f", "t f, f d -> t d"]


def test_sizes_and_work():
    strong, weak = ([Case(NAMED[LONG], scaling, count) for count in (1, 2, 8)] for scaling in devices.SCALINGS)
    assert [case.flops for case in strong] == [4 * 16 * 512 * 512 * 64 // count for count in (1, 2, 8)]
    assert len({case.flops for case in weak}) == 1
    assert weak[-1].sizes == strong[-1].sizes
    assert Case(NAMED[GEMM], "strong", 8).mesh == {"x": 2, "y": 4}
    assert Case(NAMED[GEMM], "strong", 6).mesh == {"x": 2, "y": 3}
    assert Case(NAMED[LONG], "strong", 8).mesh == {"seq": 8}
    assert Case(NAMED[LONG], "strong", 8, "large").dtype == "bfloat16"


@pytest.mark.parametrize(
    "name", ["MLP, FSDP and tensor-parallel", LONG, "experts, tokens by device", GEMM, "retrieval, sharded corpus"]
)
def test_both_programs_compute_the_workload(name):
    case = tiny(name)
    mesh = devices.on_mesh(case)
    args, end = devices.operands(case, mesh), case.placed(mesh)[1]
    steps = [lambda x, y, c=c: np.einsum(c.einsum, x, y) for c in case.workload.contractions]
    want = case.chained(steps)(*map(np.asarray, args))
    for function in (case.chained(case.plans(mesh)), case.plain()):
        program = devices.Program(function, args, end)
        np.testing.assert_allclose(program(), want, rtol=1e-4, atol=1e-5)
        assert program().sharding.is_equivalent_to(end, want.ndim)


def test_programs_that_differ_are_a_failure(monkeypatch):
    monkeypatch.setitem(devices.BETWEEN, "gelu", lambda x: x)
    monkeypatch.setattr(Case, "plain", lambda case: case.chained([lambda x, y: x @ y, lambda x, y: 2 * (x @ y)]))
    found = devices.row(tiny("MLP, data-parallel", count=2), 0.0)
    assert found["failed"].startswith("AssertionError: plan and plain jit differ by 0.5")


def test_one_workload_in_a_process_with_two_devices(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    case = tiny("weight gradient, FSDP", count=2)
    with Workers() as workers:
        worker = workers.on(2)
        assert (worker.facts["platform"], worker.facts["count"]) == ("cpu", 2)
        row = json.loads(json.dumps(workers.row(case, 0.0)))
        assert workers.on(2) is worker
        worker._process.kill()
        assert "the process with 2 devices ended" in workers.row(case, 0.0)["failed"]
    assert "failed" not in row
    assert row["mesh"] == {"data": 2}
    assert row["flops"] == 16**3 <= min(row[program]["flops"] for program in ("plan", "plain"))
    assert row["planned"]["ways"] == ["t on data"]
    assert [move["kind"] for move in row["planned"]["moves"]] == ["reduce-scatter"]
    assert row["planned"]["sent"] == row["plan"]["sent"] == 16 * 16 * 4 // 2 == row["plain"]["sent"] // 2
    for program in ("plan", "plain", "square"):
        assert row[program]["us"]["p10"] <= row[program]["us"]["median"] <= row[program]["us"]["p90"]


class Stored(Worker):
    """A worker that measures nothing."""

    def __init__(self, count):
        self.devices, self.facts = count, FACTS | {"count": count}

    def row(self, case, budget_s):
        return sample(case)

    def close(self):
        pass


def spread(median):
    return {"median": median, "p10": 0.9 * median, "p90": 1.1 * median}


def sample(case, ratio=0.5, sent=(100, 400)):
    """A row in which one device's product takes 10 us, and plain jit twenty in all."""
    alone = case.flops / (2 * devices.SQUARE[case.preset] ** 3) / 20 * 10
    texts = {"temp_bytes": 1 << 20, "flops": case.flops, "compile_ms": 10.0, "collectives": {"all-gather": 2}}
    programs = {
        name: {**texts, "us": spread(us), "sent": each}
        for name, us, each in zip(("plan", "plain"), (20 * ratio, 20), sent, strict=True)
    }
    return {
        **{**case.key, "mesh": case.mesh, "dtype": case.dtype, "flops": case.flops, "error": 1e-7, **programs},
        **{"square": {"us": spread(10)}, "square_flops": 2 * devices.SQUARE[case.preset] ** 3},
        **{"ratio": spread(ratio), "of_square": {"plan": spread(alone / ratio), "plain": spread(alone)}},
        "planned": {"ms": 1.0, "ways": ["b on x"], "moves": [{"kind": "all-gather"}], "sent": 100},
        **{"same_program": False, "budget_s": devices.BUDGET_S},
    }


def run(folder, *more):
    return devices.main(["--results", str(folder), "--only", "weight", "--devices", "1,2", "--preset", "tiny", *more])


def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, "Worker", Stored)
    path, count = tmp_path / f"devices-jax-{jax.__version__}.jsonl", []

    def interrupted(worker, case, budget_s):
        count.append(case)
        if len(count) == 3:
            raise KeyboardInterrupt
        return sample(case)

    monkeypatch.setattr(Stored, "row", interrupted)
    assert run(tmp_path) == 130
    assert "goes on from there" in " ".join(capsys.readouterr().err.split())
    stopped = path.read_text()
    assert len(devices_report.load(path).rows) == 2

    path.write_text(stopped + '{"workload": "cut o')
    assert run(tmp_path) == 0
    assert path.read_text().startswith(stopped)
    assert len(count) == 3 + 6
    assert len(devices_report.load(path).measured) == 8
    for suffix in (".md", ".png"):
        assert path.with_suffix(suffix).stat().st_size > 1000

    assert run(tmp_path) == 0
    assert run(tmp_path, "--quick") == 0
    assert len(count) == 9
    assert run(tmp_path, "--budget", "9", "--devices", "2") == 0
    assert len(count) == 9 + 4  # those had fewer rounds
    path.write_text(path.read_text().replace('"threads": 2', '"threads": 64'))
    with pytest.raises(SystemExit, match="threads: 64, now 2"):
        run(tmp_path)
    assert run(tmp_path, "--fresh", "--scalings", "weak") == 0
    assert len(devices_report.load(path).rows) == 4


def test_a_row_that_fails_is_kept_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "Worker", Stored)
    with monkeypatch.context() as patched:
        patched.setattr(Stored, "row", lambda *_: (_ for _ in ()).throw(Lost("it ended")))
        assert run(tmp_path) == 1
    run_of = devices_report.load(tmp_path / f"devices-jax-{jax.__version__}.jsonl")
    assert {row["failed"] for row in run_of.rows.values()} == {"it ended"}
    assert devices_report.write(tmp_path / f"devices-jax-{jax.__version__}.jsonl") == []
    assert run(tmp_path) == 0


def test_numbers_of_devices():
    accelerator = FACTS | {"platform": "tpu", "count": 8}
    assert devices.counts(FACTS, None, False) == [1, 2, 4, 8]
    assert devices.counts(FACTS, None, True) == [1, 4]
    assert devices.counts(FACTS, [3, 16], False) == [3, 16]
    assert devices.counts(accelerator, None, True) == [1, 2, 4, 8]
    assert devices.counts(accelerator | {"count": 1}, None, False) == [1]
    assert devices.counts(accelerator | {"count": 6}, [2, 4, 8], False) == [2, 4]


def test_report(tmp_path):
    slow, quick, even = (tiny(name, count=8) for name in (LONG, GEMM, "MLP, FSDP"))
    rows = [sample(slow, ratio=1.5), sample(quick, ratio=0.5), sample(even, ratio=1.0, sent=(0, 0))]
    rows.append({**tiny("MLP, data-parallel").key, "failed": "RuntimeError: a | b"})
    path = tmp_path / "devices-jax-0.0.1.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (FACTS | {"jax": "0.0.1"}, *rows)))
    assert [each.name for each in devices_report.write(path)] == ["devices-jax-0.0.1.md", "devices-jax-0.0.1.png"]
    text = path.with_suffix(".md").read_text()
    part = lambda heading: text.split(f"## {heading}")[1].split("\n## ")[0]  # noqa: E731
    assert "These devices are virtual: 8 CPU devices at most, all on the same 2 cores" in text
    assert f"| {LONG} | strong | 8 |" in part("Where the plan is slower")
    assert GEMM not in part("Where the plan is slower")
    assert "| b on x | all-gather | 0.000100 | 2 all-gather | 0.000100 | 2 all-gather | 0.000400 | 4.00 |" in part(
        "What"
    )
    assert "| MLP, FSDP | strong | 8 | all-gather | 0.000100 | 2 all-gather | 0 |" in part("What")
    share = 8 * quick.flops / (2 * 16**3) / 20 * 10  # all devices together, in 20 us, over one in 10
    assert f"| {GEMM} | {2 * share:.0%} / {share:.0%} |" in part("Rates")
    assert "a / b" in part("Not measured")
    own = devices_report.load(path)
    own.facts["platform"] = "tpu"
    assert devices_report.of_square(own, rows[1], "plain")["median"] == pytest.approx(share / 8)
