"""jbdot: multiplies arrays along chosen axes, exactly as each framework meant it."""

import functools

from jbdot import keras, keras_tf1, mxnet, tensorflow, theano
from jbdot.calls.contract import contract, dot_general
from jbdot.calls.explanation import Explanation, explain
from jbdot.calls.front_door import absent
from jbdot.calls.sharded import sharded
from jbdot.calls.tuning import tune
from jbdot.compilers.compiled import compile_for
from jbdot.core.contraction import Contraction
from jbdot.keras_tf1 import batch_dot, dot
from jbdot.many_devices.sharding_plan import ShardingPlan, plan_sharding
from jbdot.one_device import lowering_rule, mark, transpose_rule
from jbdot.one_device.mark import optimize_everything
from jbdot.one_device.optimize import optimize
from jbdot.tensorflow import matmul

lowering_rule.install()
transpose_rule.install()
mark.read_variable()
for _dialect in (keras, keras_tf1, mxnet, tensorflow, theano):
    vars(_dialect)["__getattr__"] = functools.partial(absent, _dialect)  # unseen by type checkers, which then help

__all__ = [
    "Contraction",
    "Explanation",
    "ShardingPlan",
    "batch_dot",
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
    "plan_sharding",
    "sharded",
    "tensorflow",
    "theano",
    "tune",
]
