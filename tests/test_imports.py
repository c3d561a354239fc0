"""No framework is imported, nothing that is optional is needed, and importing is quick enough to see."""

import subprocess
import sys

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
    script = "import sys; sys.modules['typer'] = None; sys.argv = ['jbdot', *sys.argv[1:]]; import jbdot.cli"
    command = [sys.executable, "-c", script]
    done = subprocess.run([*command, "explain"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "jbdot: the command needs typer. pip install typer rich\n")
    assert "extra cli" in run("-c", script, "doctor").stdout


def test_importing_leaves_no_backend_started():
    script = "import jbdot; from jax._src import xla_bridge; print(len(xla_bridge._backends))"
    assert run("-c", script).stdout.strip() == "0"
