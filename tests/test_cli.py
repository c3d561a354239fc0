"""The command as a user types it: what it prints, and how it ends."""

import numpy as np
import pytest
from typer.testing import CliRunner

from jbdot import cli


@pytest.fixture
def jbdot(capsys, monkeypatch):
    monkeypatch.setattr(cli, "console", cli.rich.console.Console(width=100))
    monkeypatch.setattr(cli, "errors", cli.rich.console.Console(stderr=True, width=100))

    def run(*args):
        monkeypatch.setattr("sys.argv", ["jbdot", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_explain(jbdot):
    code, out, _ = jbdot("explain", "batch_dot", "10x12x4x5", "10x12x5x8", "--axes", "3,2", "--dialect", "keras")
    assert code == 0
    for fact in (
        "keras.batch_dot(x float32[10,12,4,5]",
        "axes=(3, 2)",
        "float32[10,12,4,12,8]",
        "contracting",
        "keras_tf1.batch_dot",
    ):
        assert fact in out


def test_the_plain_name_is_jbdots_own(jbdot):
    assert "keras_tf1.batch_dot(" in jbdot("explain", "batch_dot", "2x3x4", "2x4x5")[1]
    assert "tensorflow.matmul(" in jbdot("explain", "matmul", "2x3", "4x3", "--transpose-b")[1]
    assert "theano.batched_dot(" in jbdot("explain", "batched_dot", "2x3", "2x3")[1]


def test_latex_and_picture(jbdot, tmp_path):
    code, out, _ = jbdot("explain", "einsum", "2x3", "3x4", "--equation", "ij,jk->ik", "--latex")
    assert (code, out) == (0, "\\mathrm{out}_{i,k} = \\sum_{j} x_{i,j}\\, y_{j,k}\n")
    assert jbdot("explain", "dot", "2x3", "3x4", "--plot", tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "fact"),
    [
        (("explain", "dot", "3x4", "5x6"), "axis 1 of x has size 4, axis 0 of y has size 5"),
        (("explain", "nothing", "3x4", "5x6"), "there is no nothing"),
        (("explain", "tensordot", "3x4", "4x6"), "Choose one with --dialect"),
        (("explain", "dot", "3x", "5x6"), "3x is no shape"),
        (("explain", "dot", "3x4", "4x5", "--dtype", "float99"), "float99 is no dtype"),
        (("explain", "matmul", "3x4", "4x5", "--axes", "1"), "takes no axes"),
        (("explain", "einsum", "3x4", "4x5"), "needs --equation"),
        (("explain", "batch_dot", "3x4", "4x5", "--axes", "(1"), "cannot be read"),
        (("run", "dot", "absent.npy", "absent.npy", "--out", "out.npy"), "absent.npy does not exist"),
    ],
)
def test_mistakes_end_with_one_line(jbdot, args, fact):
    code, out, err = jbdot(*args)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert fact in err
    assert "Traceback" not in err


def test_run(jbdot, tmp_path):
    x, y = (np.arange(float(n), dtype=np.float32).reshape(2, -1, 3) for n in (24, 30))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    args = ("run", "batch_dot", tmp_path / "x.npy", tmp_path / "y.npy", "--axes", "2,2", "--out", tmp_path / "out.npy")
    code, out, _ = jbdot(*args)
    assert code == 0
    assert "float32[2,4,5]" in out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.einsum("bik,bjk->bij", x, y))
    assert "exists" in jbdot(*args)[2]
    assert jbdot(*args, "--overwrite")[0] == 0


def test_doctor(jbdot):
    code, out, _ = jbdot("doctor")
    assert code == 0
    for fact in ("Python", "jax", "chex", "extra cli", "8 x cpu"):
        assert fact in out


def test_usage_errors_and_help():
    runner = CliRunner()
    assert runner.invoke(cli.app, ["explain"]).exit_code == 2
    shown = runner.invoke(cli.app, ["--help"])
    assert all(command in shown.output for command in ("explain", "run", "doctor", "demo"))


def test_bench(jbdot, monkeypatch):
    from jbdot import limits

    monkeypatch.setattr(limits, "limit_us", lambda request: 1.0)  # measuring the machine takes a second
    monkeypatch.setenv("JBDOT_TUNED", "off")
    args = ("bench", "batch_dot", "2x4x8", "2x4x8", "--axes", "1,1", "--dtype", "bfloat16", "--seconds", "0.02")
    code, out, _ = jbdot(*args)
    assert code == 0
    for fact in ("keras.batch_dot(x bfloat16[2,4,8]", "direct", "pinned", "jnp.einsum", "choice", "limit: 1 us"):
        assert fact in out
    args = ("bench", "contract", "2x4x8", "2x8x4", "--equation", "bmk,bkn->bmn", "--dtype", "int8")
    assert "int32[2,4,4]" in jbdot(*args, "--out-dtype", "int32", "--seconds", "0.02")[1]
    assert jbdot("bench", "batch_dot", "2x4x8", "2x5x8")[0] == 2


def test_doctor_says_what_malloc_does(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in cli.large_results("")
    assert "malloc is set" in cli.large_results("glibc.malloc.hugetlb=1")
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert "malloc is set: libjemalloc.so" in cli.large_results("")
