"""jbdot: multiplies arrays along chosen axes, exactly as each framework meant it."""

import functools

from jbdot import keras, keras_tf1, lowering_rule, mark, mxnet, tensorflow, theano, transpose_rule
from jbdot.contract import contract, dot_general
from jbdot.contraction import Contraction
from jbdot.explain import Explanation, explain
from jbdot.front_door import absent
from jbdot.keras_tf1 import batch_dot, dot
from jbdot.mark import optimize_everything
from jbdot.optimize import optimize
from jbdot.sharded import sharded
from jbdot.sharding_plan import ShardingPlan, plan_sharding
from jbdot.tensorflow import matmul
from jbdot.tune import tune
from jbdot.witness import compile_for

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
