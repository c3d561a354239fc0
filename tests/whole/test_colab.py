"""The notebooks: each runs from a clean kernel, warnings being errors, and is stored as one whole run left it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

import jbdot

COLAB = Path(__file__).parents[2] / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
NAMES = {
    "understanding_batch_dot",
    "port_keras_to_jax",
    "fast_on_one_device",
    "tpu_pod_from_a_laptop",
    "multi_device_throughput",
    "shard_a_model",
}
HERE = [place for place in (f"/{COLAB.parts[1]}/", str(Path.home())) if len(place) > 2]  # a home may be /
MACHINE = re.compile(  # an absolute path, wherever a word does not go on with it; a kernel's file; a package index
    r"(?:\\n|(?<![\w.~<>/+)]))/[a-z][\w.-]+|/home/|/tmp/|/Users/|ipykernel_\d|pypi|files\.pythonhosted|index-url"
    + "".join(f"|{re.escape(place)}" for place in HERE),
    re.IGNORECASE,
)

_spec = importlib.util.spec_from_file_location("execute", COLAB / "execute.py")
execute = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(execute)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def stored(request):
    return nbformat.read(request.param, as_version=4)


def test_they_are_there():
    assert {path.stem for path in NOTEBOOKS} == NAMES


def test_runs_from_a_clean_kernel(stored):
    execute.execute(stored, {"JAX_PLATFORMS": "cpu"}, warnings_are_errors=True)
    nbformat.validate(stored)
    assert one_run(stored)


def one_run(notebook):
    return [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_outputs_are_of_one_run(stored):
    nbformat.validate(stored)
    outputs = [output for cell in code(stored) for output in cell.outputs]
    assert one_run(stored)
    assert len(outputs) > 5
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) or "<svg" in str(output.get("data")) for output in outputs)


def test_nothing_in_it_is_of_a_machine(stored):
    pictures = re.compile(r"'image/png': '[^']*'")
    assert not MACHINE.findall(pictures.sub("", str(stored)))
    assert "\\x1b" not in str(stored)  # codes for a terminal's colours
    assert stored.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not any(cell.metadata for cell in stored.cells)


def test_sources(stored):
    assert stored.cells[0].cell_type == "markdown"
    assert stored.cells[0].source.startswith("# ")
    assert stored.cells[-1].source.strip()
    for cell in stored.cells:
        assert cell.source
        assert cell.source == "\n".join(line.rstrip() for line in cell.source.strip().splitlines())
    assert code(stored)[0].source == code(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source
    assert "doctor.devices()" in code(stored)[1].source


# What the first cell does: its source, run in a process of its own where things are missing.

MISSING = """
import importlib.metadata, importlib.util, os, runpy, subprocess, sys
find, asked = importlib.util.find_spec, []
importlib.util.find_spec = lambda name: None if name in {missing} else find(name)
importlib.metadata.version = lambda name: {versions}[name]
done = subprocess.CompletedProcess([], {status}, stderr="ERROR")
subprocess.run = lambda command, **_: asked.append(command) or done
os.chdir({folder!r})
exec({source!r})
print(asked and asked[0][1:])
"""


def install(folder, missing, named="", status=0, **versions):
    source = code(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source.replace("%matplotlib inline", "")
    source = source.replace('SOURCE = ""', f"SOURCE = {named!r}")
    program = MISSING.format(missing=missing, versions=versions, folder=str(folder), source=source, status=status)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)


VERSIONS = {"jax": "0.10.3.dev20260101", "jaxlib": "0.10.3", "numpy": "2.3.1"}


def test_first_cell_installs_nothing_here():
    assert install(COLAB, []).stdout == "[]\n"


def test_first_cell_keeps_the_runtimes_jax(tmp_path):
    command = ["-m", "pip", "install", "-q", "a.whl[cli,plot]", "jax==0.10.3.dev20260101", "jaxlib==0.10.3"]
    assert install(tmp_path, ["jbdot"], "a.whl[cli,plot]", **VERSIONS).stdout == f"{[*command, 'numpy==2.3.1']}\n"
    command[4] = "..[cli,plot]"
    assert install(COLAB, ["typer"], **VERSIONS).stdout == f"{[*command, 'numpy==2.3.1']}\n"
    assert install(COLAB, ["jbdot", "jax", "jaxlib", "numpy"]).stdout == f"{command[:5]}\n"


def test_first_cell_says_that_jax_is_too_old(tmp_path):
    assert (
        "RuntimeError: jbdot needs jax 0.10.2 or newer, this runtime has 0.7.2. Choose a newer runtime"
        in install(tmp_path, ["jbdot"], "a.whl", **VERSIONS | {"jax": "0.7.2"}).stderr
    )


def test_first_cell_says_where_jbdot_is_to_come_from(tmp_path):
    cure = "Set SOURCE in the first cell to a wheel, a checkout or a git URL of jbdot."
    last = install(tmp_path, ["jbdot"], **VERSIONS).stderr.splitlines()[-1]
    assert last == f"RuntimeError: jbdot is on no package index yet. {cure}"
    last = install(tmp_path, ["jbdot"], "a.whl", 1, **VERSIONS).stderr.splitlines()[-1]
    assert last == f"RuntimeError: pip could not install 'a.whl'. {cure} pip said: ERROR"


# The runner itself.


def test_an_error_and_a_warning_end_a_run():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import warnings\nwarnings.warn('w')")])
    with pytest.raises(CellExecutionError, match=r"UserWarning.*w"):
        execute.execute(notebook, {"JAX_PLATFORMS": "cpu"}, warnings_are_errors=True)


def test_what_is_this_machines_is_not_stored():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    paths = f"{COLAB.parent}/jbdot/hlo.py, {sys.prefix}/lib, {Path.home()}/.cache, at 0x7f2a10, /tmp/ipykernel_3/4.py"
    stream = nbformat.v4.new_output("stream", name="stderr", text="noise")
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", data={"text/plain": paths}), stream]
    notebook.cells[0].metadata.execution = {"iopub.status.busy": "2026-01-01"}
    notebook.metadata.widgets = {"state": {}}
    execute.clean(notebook)
    assert [output.data["text/plain"] for output in notebook.cells[0].outputs] == [
        "./jbdot/hlo.py, <python>/lib, ~/.cache, at 0x..., <cell>"
    ]
    assert not notebook.cells[0].metadata
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_answers_to_the_exercises():
    notebook = nbformat.read(COLAB / "understanding_batch_dot.ipynb", as_version=4)
    (source,) = (cell.source for cell in code(notebook) if cell.source.startswith("exercises = "))
    (text,) = (cell.source for cell in notebook.cells if cell.source.startswith("<details>"))
    answers = dict(re.findall(r"^\| (\w) \| (.*?) \|", text, re.MULTILINE))
    namespace = {"jbdot": jbdot}
    exec(source, namespace)
    assert list(answers) == list(namespace["exercises"]) == list(namespace["predicted"])
    for letter, (function, *arguments) in namespace["exercises"].items():
        if answers[letter] == "refuses":
            with pytest.raises(ValueError, match="equal sizes"):
                jbdot.explain(function, *arguments)
        else:
            assert jbdot.explain(function, *arguments).shape == eval(answers[letter])
