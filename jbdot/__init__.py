"""jbdot: multiplies arrays along chosen axes, exactly as each framework meant it."""

from jbdot import keras, keras_tf1, mxnet, tensorflow, theano
from jbdot.calls.contract import contract, dot_general
from jbdot.calls.explanation import Explanation, explain
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
