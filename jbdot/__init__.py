"""jbdot: multiplies arrays along chosen axes, exactly as each framework meant it."""

import contextlib

from jbdot import keras, keras_tf1, mxnet, tensorflow, theano, torch
from jbdot.calls.contract import contract, dot_general
from jbdot.calls.explanation import Explanation, explain
from jbdot.calls.ragged_dot import ragged_dot
from jbdot.calls.sharded import sharded
from jbdot.calls.tuning import tune
from jbdot.compilers.compiled import compile_for
from jbdot.core.contraction import Contraction
from jbdot.keras_tf1 import batch_dot, dot
from jbdot.many_devices.sharding_plan import ShardingPlan, plan_sharding
from jbdot.one_device import lowering_rule, mark, transpose_rule
from jbdot.one_device.mark import optimize_everything
from jbdot.programs.communication import communication
from jbdot.programs.optimize import optimize
from jbdot.programs.program_plan import ProgramPlan, plan_program
from jbdot.tensorflow import matmul

__version__: str  # read off the package's metadata where it is asked for


def _attribute(name: str) -> str:
    """Reads `__version__` off the package's metadata, which takes longer than all that an import does.

    Raises:
        AttributeError: There is no such name, or jbdot is imported from a folder that was not installed.
    """
    from importlib import metadata

    if name == "__version__":
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version("jbdot")
    raise AttributeError(f"module 'jbdot' has no attribute {name!r}", name=name)


lowering_rule.install()
transpose_rule.install()
mark.read_variable()
vars()["__getattr__"] = _attribute  # unseen by type checkers, which then help
vars()["__dir__"] = lambda: [*__all__, "__version__"]

__all__ = [
    "Contraction",
    "Explanation",
    "ProgramPlan",
    "ShardingPlan",
    "batch_dot",
    "communication",
    "compile_for",
    "contract",
    "dot",
    "dot_general",
    "explain",
    "keras",
    "keras_tf1",
    "matmul",
    "mxnet",
    "optimize",
    "optimize_everything",
    "plan_program",
    "plan_sharding",
    "ragged_dot",
    "sharded",
    "tensorflow",
    "theano",
    "torch",
    "tune",
]
