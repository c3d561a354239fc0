"""The command as a user types it: what it prints, and how it ends."""

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from jbdot.command import cli


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
    assert "keras_tf1.dot(x float32[2,3], y float32[3,4])" in jbdot("explain", "dot", "(2, 3)", "3X4")[1]
    assert "theano.batched_dot(" in jbdot("explain", "batched_dot", "2x3", "2x3")[1]


def test_latex_and_picture(jbdot, tmp_path):
    code, out, _ = jbdot("explain", "tensorflow.einsum", "2x3", "3x4", "--equation", "ij,jk->ik", "--latex")
    assert (code, out) == (0, "\\mathrm{out}_{i,k} = \\sum_{j} x_{i,j}\\, y_{j,k}\n")
    assert jbdot("explain", "dot", "2x3", "3x4", "--plot", tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_any_number_of_operands(jbdot):
    chain = ("200", "200x200", "200x200", "--equation", "i,ij,jk->k")
    code, out, _ = jbdot("explain", "tensorflow.einsum", *chain)
    assert code == 0
    assert "160,000" in out
    assert "i, i j -> j" in out
    assert jbdot("explain", "contract", *chain, "--latex")[1].startswith("\\mathrm{out}_{k}")
    assert jbdot("explain", "contract", "3x4", "--equation", "ij->ji")[0] == 0
    assert "takes two operands, not 3" in jbdot("explain", "batch_dot", "3x4", "3x4", "3x4")[2]
    assert "3 operands takes --equation" in jbdot("explain", "contract", "3", "3", "3")[2]


def test_pytorchs_functions(jbdot):
    """Their operands have one name together, their axes another, and some options stand after the operands alone."""
    for call, result in (
        (("torch.einsum", "2x3", "3x4", "--equation", "ij,jk->ki"), "float32[4,2]"),
        (("torch.tensordot", "2x3", "3x4", "--axes", "[1],[0]"), "float32[2,4]"),
        (("torch.vecdot", "2x3", "3"), "float32[2]"),
        (("torch.linear", "2x3", "4x3"), "float32[2,4]"),
    ):
        code, out, _ = jbdot("explain", *call)
        assert code == 0
        assert result in out


@pytest.mark.parametrize(
    ("args", "fact"),
    [
        (("explain", "dot", "3x4", "5x6"), "axis 1 of x has size 4, axis 0 of y has size 5"),
        (("explain", "nothing", "3x4", "5x6"), "there is no nothing"),
        (("explain", "Dot", "3x4", "5x6"), "Dot is a layer"),
        (("demo", "--out", __file__), "cannot be made: File exists. Name another folder"),
        (("explain", "tensordot", "3x4", "4x6"), "Choose one with --dialect"),
        (("explain", "dot", "3x", "5x6"), "'3x' is no shape"),
        (("explain", "dot", "", "5x6"), "'' is no shape"),
        (("explain", "dot", "(None, 3)", "3x4"), "'(None, 3)' has a size that is not known. Put a number"),
        (("explain", "dot", "2x3", "3x4", "--plot", "/nowhere/p.png"), "/nowhere is no folder"),
        (("bench", "batch_dot", "2x3x4", "2x4x5", "--dtype", "bfloat16"), "the framework must have a kernel"),
        (("explain", "dot", "3x4", "4x5", "--dtype", "float99"), "float99 is no dtype"),
        (("explain", "matmul", "3x4", "4x5", "--axes", "1"), "takes no axes"),
        (("explain", "tensorflow.einsum", "3x4", "4x5"), "needs --equation"),
        (("explain", "einsum", "3x4", "4x5"), "einsum is in tensorflow, torch. Choose one with --dialect."),
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


def test_run_in_parts(jbdot, tmp_path, monkeypatch):
    x, y = (np.arange(float(n), dtype=np.float32).reshape(4, -1, 3) for n in (48, 60))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    args = ("run", "batch_dot", tmp_path / "x.npy", tmp_path / "y.npy", "--axes", "2,2", "--out", tmp_path / "out.npy")
    progress = cli.progress

    def stopped(parts, finished):
        yield from progress(parts[:1], finished)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "progress", stopped)
    assert jbdot(*args, "--memory", "0.2kB")[0] != 0
    monkeypatch.setattr(cli, "progress", progress)
    assert "begun by another call" in jbdot(*args, "--dialect", "keras", "--memory", "0.2kB")[2]
    code, out, err = jbdot(*args, "--memory", "0.2kB")
    assert code == 0
    assert "float32[4,4,5]" in out
    assert "going on: 1 of 4 parts are there" in err
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.einsum("bik,bjk->bij", x, y))
    assert jbdot(*args, "--overwrite", "--fresh", "--memory", "200")[0] == 0


def test_sizes():
    assert [cli.size_of(text) for text in ("100", "2kB", "1.5 MB", "2GiB", "1T")] == [100, 2000, 1500000, 2**31, 10**12]
    for text in ("", "much", "2XB", "-1"):
        with pytest.raises(ValueError, match=r"is no number of bytes\. Write one such as 500MB"):
            cli.size_of(text)


def test_doctor(jbdot):
    code, out, _ = jbdot("doctor")
    assert code == 0
    for fact in ("Python", "jax", "chex", "extra cli", "8 x cpu"):
        assert fact in out


VERBS = ("explain", "bench", "tune", "plan", "comm", "run", "optimize", "doctor", "demo")


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_fits_80_columns(verb):
    shown = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    assert f"Example: jbdot {verb}" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown  # nothing is cut


def test_usage_errors_and_help():
    runner = CliRunner()
    assert runner.invoke(cli.app, ["explain"]).exit_code == 2
    assert re.fullmatch(r"jbdot \d+\.\d+\.\d+\n", runner.invoke(cli.app, ["--version"]).output)
    shown = runner.invoke(cli.app, ["--help"])
    assert all(command in shown.output for command in ("explain", "run", "doctor", "demo"))


def test_bench(jbdot, monkeypatch):
    from jbdot.one_device import roofline

    monkeypatch.setattr(roofline, "limit_us", lambda spec: 1.0)  # measuring the machine takes a second
    monkeypatch.setenv("JBDOT_TUNED", "off")
    args = ("bench", "batch_dot", "2x4x8", "2x4x8", "--axes", "1,1", "--dialect", "keras", "--dtype", "bfloat16")
    code, out, _ = jbdot(*args, "--seconds", "0.02")
    assert code == 0
    for fact in ("keras.batch_dot(x bfloat16[2,4,8]", "direct", "pinned", "jnp.einsum", "(auto)", "limit: 1 us"):
        assert fact in out
    args = ("bench", "contract", "2x4x8", "2x8x4", "--equation", "bmk,bkn->bmn", "--dtype", "int8")
    assert "int32[2,4,4]" in jbdot(*args, "--out-dtype", "int32", "--seconds", "0.02")[1]
    assert jbdot("bench", "batch_dot", "2x4x8", "2x5x8")[0] == 2


def test_tune(jbdot, tmp_path, monkeypatch):
    file = tmp_path / "tuned.jsonl"
    monkeypatch.setenv("JBDOT_TUNED", str(file))
    code, out, _ = jbdot("tune", "batch_dot", "2x4x8", "2x4x8", "--axes", "1,1", "--seconds", "0.02")
    assert code == 0
    assert "kept: " in out
    assert file.read_text().count('"lowering"') == 1
    code, out, _ = jbdot("tune", "--machine", "--seconds", "1e-9")
    assert code == 2
    assert "seconds" in jbdot("tune", "--machine", "--seconds", "1e-9")[2]
    monkeypatch.setattr("jbdot.one_device.calibration.DOTS", ())
    code, out, _ = jbdot("tune", "--machine")
    assert code == 0
    assert "0 dots timed" in out
    assert file.read_text().count('"machine"') == 1
    for args in ((), ("--machine", "dot", "2x3", "3x2"), ("dot", "2x3")):
        assert jbdot("tune", *args)[0] == 2


PLAN = ("plan", "batch_dot", "64x1024x1024", "64x1024x1024", "--mesh", "x=4,y=4", "--lhs", ",,xy", "--rhs", ",xy,")


def test_plan(jbdot, tmp_path):
    code, out, _ = jbdot(*PLAN, "--out", "xy,,", "--plot", str(tmp_path / "plan.png"))
    assert code == 0
    assert out.startswith("keras_tf1.batch_dot(x float32[64,1024,1024], y float32[64,1024,1024])")
    assert "b m k, b k n -> b m n on x=4, y=4 of TPU v5e" in out
    assert "Taken: b on x y, which sends 15.7 MB" in out  # float32 as bfloat16, as a TPU sends it
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    code, out, _ = jbdot(*PLAN, "--dialect", "keras", "--dtype", "bfloat16", "--device", "TPU v5p")
    assert code == 0
    assert out.startswith("keras.batch_dot(x bfloat16[64,1024,1024]")
    assert "bfloat16[64,1024,1024] P(('x', 'y')) (chosen by the plan)" in out
    assert "of TPU v5p" in out


def test_too_little_memory_is_one_line(jbdot, monkeypatch):
    def run(*args, **kwargs):
        raise cli.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")

    monkeypatch.setattr(cli.files, "multiply", run)
    code, _, err = jbdot("run", "dot", "a.npy", "b.npy", "--out", "c.npy")
    assert code == 2
    assert err.startswith("error: there is too little memory for arrays of these sizes: RESOURCE_EXHAUSTED")


def test_the_function_that_is_asked_for_is_planned(jbdot):
    args = ("batch_dot", "16x16x64x64", "16x16x64x64")
    code, out, _ = jbdot("plan", *args, "--mesh", "x=4")
    assert code == 0
    assert "keras_tf1.batch_dot(" in out
    assert "b c m k, b c k n -> b c m n" in out  # and not the five axes of keras.batch_dot
    for command in (("plan", *args, "--mesh", "x=4"), ("explain", *args), ("bench", *args)):
        code, out, err = jbdot(*command, "--dtype", "bfloat16")
        assert (code, out) == (2, "")
        assert "keras_tf1.batch_dot: the framework must have a kernel for the dtype" in err


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (("--mesh", "4x4"), "a mesh must be named as axis=size"),
        (("--mesh", "x=4,x=2"), "a mesh must be named as axis=size"),
        (("--lhs", "z"), "a sharding must name axes of the mesh: 'z' in 'z'"),
        (("--lhs", "x,,x"), "a mesh axis must cut one axis of an array only: 'x' stands twice in P"),
        (("--rhs", ",,,x"), "the PartitionSpec of rhs must not be longer than its rank"),
        (("--dtype", "bfloat16"), "keras_tf1.batch_dot: the framework must have a kernel for the dtype"),
        (("--device", "abacus"), "abacus"),
        (("--topology", "v9:4"), "a topology must name a kind of device: 'v9:4'"),
        (("--reduce", "forbid"), 'reduce="forbid" allows no communication'),
    ],
)
def test_a_plan_that_cannot_be_made(jbdot, change, fact):
    code, _, err = jbdot(*PLAN, *change)
    assert code == 2
    assert fact in " ".join(err.split())


SCRIPT = """
import sys
import helper
import jax, jax.numpy as jnp
x = jnp.ones((3, 4))
text = jax.jit(lambda x: x @ x.T).lower(x).as_text()
print(sys.argv[1:], __name__, helper.VALUE, "dot_general" in text)
if "--fail" in sys.argv:
    raise ValueError("the script's own")
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("VALUE = 7")
    monkeypatch.setattr("sys.path", list(cli.sys.path))
    yield tmp_path / "train.py"
    cli.jbdot.optimize_everything(None)
    cli.sys.modules.pop("helper", None)


def test_optimize_runs_a_script_in_this_process(jbdot, script):
    code, out, err = jbdot("optimize", script, "--epochs", "3", "--lowering=x")
    assert (code, out, err) == (0, "['--epochs', '3', '--lowering=x'] __main__ 7 True\n", "")  # direct by its rules
    code, out, _ = jbdot("optimize", "--lowering", "reduced", script, "a")
    assert (code, out) == (0, "['a'] __main__ 7 False\n")


def test_a_script_fails_as_under_python(jbdot, script):
    code, _, err = jbdot("optimize", script, "--fail")
    assert code == 1
    assert err.startswith(f'Traceback (most recent call last):\n  File "{script}", line 9, in <module>')
    assert err.endswith("ValueError: the script's own\n")
    assert "typer" not in err
    code, _, err = jbdot("optimize", script.parent / "none.py")
    assert (code, "there is no script" in err) == (2, True)
    code, _, err = jbdot("optimize", "--lowering", "fast", script)
    assert (code, "lowering must be the name of a lowering" in err) == (2, True)


CASES = """
import jax
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

def array(shape, spec):
    return jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))

def product(x, w):
    return x @ w

def gathered():
    return product, array((64, 32), P("x")), array((32, 16), P("x"))

def local():
    return product, array((64, 32), P("x")), array((32, 16), P())

def wrong():
    return product, array((64, 32), P("x")), array((31, 16), P())

def bad():
    raise KeyError("the script's own")

def alone():
    return product
"""


@pytest.fixture
def cases(tmp_path, monkeypatch):
    (tmp_path / "cases.py").write_text(CASES)
    monkeypatch.setattr("sys.path", list(cli.sys.path))
    return tmp_path / "cases.py"


def test_comm_says_what_a_program_sends(jbdot, cases, tmp_path):
    code, out, _ = jbdot("comm", f"{cases}:gathered", "--against", f"{cases}:local", "--plot", tmp_path / "p.png")
    assert code == 0
    assert "cases.py:12 (product)" in out
    assert "all-gather over x of w, float32[8,16], from P('x') to P(), by dot_general" in " ".join(out.split())
    assert "each device sends 1.54 kB less" in out
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_comm_tells_the_scripts_errors_and_its_own(jbdot, cases):
    for name, words in (
        ("wrong", "line 12, in product"),  # found while it is traced
        ("bad", 'KeyError: "the script\'s own"'),
    ):
        code, _, err = jbdot("comm", f"{cases}:{name}")
        assert code == 1
        assert err.startswith(f'Traceback (most recent call last):\n  File "{cases}"')
        assert words in err
        assert "typer" not in err
    for case, words in (
        (f"{cases}:alone", "alone() of"),
        (f"{cases}:none", "has no function none"),
        (f"{cases.parent}/none.py:case", "names no function of a script"),
        (str(cases), "names no function of a script"),
    ):
        code, _, err = jbdot("comm", case)
        assert code == 2, err
        assert words in " ".join(err.split())
    code, _, err = jbdot("comm", f"{cases}:local", "--topology", "moon:4")
    assert (code, "a topology must name a kind of device" in err) == (2, True)
