"""Importing: nothing that is optional is needed, and no file imports one that stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jbdot

HOUSE = Path(jbdot.__file__).parent
# From the ground up: a file imports what stands in its own row, or below. A name is a folder, or a file at the top.
FLOORS = (
    ("core", "timing", "hlo", "processes"),
    ("hardware", "one_device", "compilers"),
    ("devices",),
    ("many_devices",),
    ("programs",),
    ("calls",),
    ("keras", "keras_tf1", "mxnet", "tensorflow", "theano", "torch"),
    ("__init__",),
    ("command", "__main__"),
)

SCRIPT = """
import sys
import jax
before = set(sys.modules)
import jbdot
new = {name.split(".")[0] for name in set(sys.modules) - before}
frameworks = {"tensorflow", "tf_keras", "theano", "mxnet", "torch", "keras"}
extras = {"matplotlib", "typer", "rich", "optax", "sklearn"}
print(sorted(new & (frameworks | extras)))
print("jax.experimental.sparse" in set(sys.modules) - before)
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("jax", "jaxlib", "chex")))
"""


def run(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)


def test_no_framework_and_no_extra_is_imported():
    frameworks, sparse, of_jax = run("-c", SCRIPT).stdout.splitlines()
    assert frameworks == "[]"
    assert sparse == "False"
    assert of_jax == "[]"  # no part of JAX that `import jax` leaves out


def test_without_its_packages_the_command_says_what_to_install_and_doctor_what_is_missing():
    script = "import sys; sys.modules['typer'] = None; sys.argv = ['jbdot', *sys.argv[1:]]; import jbdot.command.cli"
    command = [sys.executable, "-c", script]
    done = subprocess.run([*command, "explain"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "jbdot: the command needs typer. pip install typer rich\n")
    assert "extra cli" in run("-c", script, "doctor").stdout


def test_importing_leaves_no_backend_started():
    script = "import jbdot; from jax._src import xla_bridge; print(len(xla_bridge._backends))"
    assert run("-c", script).stdout.strip() == "0"


def imported(file):
    """The modules of jbdot that a file imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "jbdot":
            for name in (alias.name for alias in node.names):
                module = HOUSE.parent / node.module.replace(".", "/") / name
                ways = (
                    module.with_suffix(".py"),
                    module / "__init__.py",
                    module.parent.with_suffix(".py"),
                    module.parent / "__init__.py",
                )
                yield next(way for way in ways if way.is_file())
        elif isinstance(node, ast.Import):
            yield from (HOUSE / "__init__.py" for alias in node.names if alias.name == "jbdot")


GRAPH = {file: {other for other in imported(file) if other != file} for file in HOUSE.rglob("*.py")}
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def floor_of(file):
    return FLOOR[file.relative_to(HOUSE).parts[0].removesuffix(".py")]


def test_no_file_imports_one_that_stands_above_it():
    assert len(GRAPH) > 60
    upward = [(file, other) for file, others in GRAPH.items() for other in others if floor_of(other) > floor_of(file)]
    assert not upward


def test_no_files_import_one_another_in_a_circle():
    left = dict(GRAPH)
    while free := [file for file, others in left.items() if not others & left.keys()]:
        left = {file: others for file, others in left.items() if file not in free}
    assert not left


def test_at_most_twenty_one_things_stand_at_the_top():
    assert len([path for path in HOUSE.iterdir() if path.name != "__pycache__"]) <= 21


@pytest.mark.parametrize("name", jbdot.__all__)
def test_no_function_hides_a_module(name):
    is_module = (HOUSE / f"{name}.py").exists() or (HOUSE / name).is_dir()
    assert is_module == isinstance(getattr(jbdot, name), type(jbdot))
