"""The benchmark of the choice: what it draws, measures, stores and says, and what is fitted to its tables."""

import json

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from benchmarks import fit, regret, regret_report
from benchmarks.fit import Timed
from jbdot.one_device.choice import candidates
from jbdot.one_device.costs import CAUTION, Machine
from jbdot.one_device.dot_spec import DotSpec

SPEC = DotSpec((4, 3), (3, 5), "float32", "float32", (((1,), (0,)), ((), ())), "float32")


def test_draws_are_the_same_for_a_seed():
    first, again, other = (list(regret.random_dots(seed, 30, regret.DTYPES)) for seed in (5, 5, 6))
    assert first == again != other
    assert len({spec.lhs_dtype for spec in first}) > 4


def test_the_dots_of_a_program_are_recorded_and_read(tmp_path):
    def program(x, w):
        return jnp.einsum("bk,kn->nb", x, w).sum()

    found = regret.record(jax.grad(program, 1), jnp.ones((2, 3)), jnp.ones((3, 4)))
    assert found
    path = tmp_path / "dots.json"
    path.write_text(json.dumps(found))
    read = list(regret.stored_dots(path, None))
    assert {tuple(map(tuple, (spec.lhs, spec.rhs))) for spec in read} == {(row["lhs"], row["rhs"]) for row in found}
    assert list(regret.stored_dots(path, 1)) == read[:1] if len(read) == 1 else True


@pytest.fixture(scope="module")
def row():
    return json.loads(json.dumps(regret.measured(SPEC, 0.001, regret.taken(SPEC, "auto"))))


def test_a_dot_is_timed_twice_beside_einsum(row):
    assert len(row["runs"]) == 2
    for run in row["runs"]:
        assert {"direct", "jnp.einsum", row["auto"]} <= set(run["us"])
        assert set(run["us"]) | set(row["once"]) == {*candidates(SPEC), "jnp.einsum"}
        assert run["of auto"][row["auto"]] == [1.0, 1.0, 1.0]
        assert all(0 < low <= middle <= high for low, middle, high in run["us"].values())
    assert fit.spec_of(row) == SPEC
    assert regret_report.best(row) in candidates(SPEC)


def test_a_loss_is_one_in_both_runs():
    def of(*tenths):
        return {"auto": "pinned", "runs": [{"of auto": {"direct": [tenth, 1.5, 2.0]}} for tenth in tenths]}

    assert regret.is_loss(of(1.2, 1.1), "direct")
    assert not regret.is_loss(of(1.2, 1.0), "direct")
    assert not regret.is_loss(of(1.2, 1.1) | {"auto": "direct"}, "direct")


def test_what_is_stored_is_reported(row, tmp_path):
    sure = row | {"sure": ["direct"]}
    path = tmp_path / "regret-seed-1-jax-9.jsonl"
    lines = ({"processor": "a CPU", "jax": "9"}, row, sure)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    report, picture = regret_report.write(path)
    text = report.read_text()
    assert "a CPU, jax 9" in text
    assert "| all | 2 |" in text
    assert text.count(f"`{SPEC}`") == 3  # both among the worst, one surely slower
    assert picture.stat().st_size > 10_000


def test_regret_is_of_the_best_of_the_first_run():
    def us(direct, pinned):
        return {"us": {"direct": [0, direct, 0], "pinned": [0, pinned, 0], "jnp.einsum": [0, 1.0, 0]}}

    one = {"auto": "direct", "runs": [us(10.0, 5.0), us(12.0, 8.0)]}
    assert (regret_report.best(one), regret_report.regret(one), regret_report.gain(one)) == ("pinned", 1.5, 1.0)


def test_a_table_is_read_as_it_was_written(row, tmp_path):
    path = regret.table(tmp_path / "lowerings-some-cpu-jax-0.12.1.jsonl.gz", [row])
    regret.table(path, [row])  # adds
    first, second = fit.table(path)
    assert first == second
    assert (first.spec, first.machine, first.era) == (SPEC, "some-cpu", "new")
    assert "jnp.einsum" not in first.us
    assert first.best_us == min(us[1] for us in first.us.values())


def test_choices_are_judged():
    rows = [Timed(SPEC, "here", "new", {"direct": (9.0, 10.0, 11.0), "pinned": (4.0, 5.0, 6.0)})] * 2
    said = fit.judged(rows, ["direct", "pinned"])
    assert said["regret"] == said["gain"] == pytest.approx(2**0.5)
    assert (said["over 1.3"], said["slower"], said["cases"]) == (0.5, 0, 2)
    slow = [Timed(SPEC, "here", "new", {"direct": (9.0, 10.0, 11.0), "pinned": (20.0, 21.0, 22.0)})]
    assert fit.judged(slow, ["pinned"])["slower"] == 1


def test_the_stored_judgement_is_of_the_stored_tables():
    said = json.loads(fit.JUDGED.read_text())
    for path in fit.RESULTS.glob("lowerings-*.jsonl.gz"):
        rows = fit.table(path)
        (kept,) = (
            row
            for row in said
            if (row["jax"], row["judged on"], row["fitted on"]) == (rows[0].era, rows[0].machine, fit.KEPT_BACK)
        )
        assert kept["cases"] == len(rows)
        assert 1.0 < kept["regret"] < 1.4


def test_trees_are_fitted():
    pytest.importorskip("catboost")
    rng = np.random.default_rng(0)
    rows = []
    for spec in regret.random_dots(3, 80, ("float32",)):
        noise = rng.lognormal(0, 0.01)
        us = {"direct": 100.0, "split": (50.0 if spec.k > 100 else 200.0) * noise}
        rows.append(Timed(spec, "here", "new", {name: (one, one, one) for name, one in us.items()}))
    trees = fit.trees_of(fit.fitted(rows))
    machine = Machine("", dict.fromkeys(trees.names, 0.0), CAUTION)
    assert fit.judged(rows, fit.choices(trees, machine, rows))["regret"] < 1.05
    assert abs(fit.errors_of(trees, rows[0])["split"]) < 0.1
