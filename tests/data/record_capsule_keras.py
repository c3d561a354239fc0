"""Records what the real Keras 2.2.4 computes for a capsule layer: run under Python 3.6 with TensorFlow 1.13.1.

    python record_capsule_keras.py

It writes capsule_keras_2_2_4.json beside itself. The weights are integers by a formula, so that
nothing but the layer can differ; tests/command/test_demo.py reads them from the record.
"""

import json
import os

import keras
import keras.backend as K
import numpy as np
import tensorflow as tf

BATCH, N_IN, D_IN, N_OUT, D_OUT, ROUTINGS = 4, 12, 8, 5, 6, 3


def formula(shape, a, b, modulus, scale):
    """Counts 0, 1, 2... to integers from 0 to modulus - 1, centres them and divides by scale."""
    n = np.arange(np.prod(shape), dtype=np.int64)
    return (((n * n * a + n * b) % modulus - modulus // 2) / scale).reshape(shape).astype("float32")


def squash(vectors):
    squared = K.sum(K.square(vectors), -1, keepdims=True)
    return squared / (1 + squared) / K.sqrt(squared + K.epsilon()) * vectors


def listed(array):
    """Rounds to 9 significant digits: all that a float32 has."""
    return json.loads(json.dumps(array.tolist()), parse_float=lambda text: float(f"{float(text):.9g}"))


inputs = K.constant(formula((BATCH, N_IN, D_IN), 3, 7, 31, 16.0))
weights = K.constant(formula((N_OUT, N_IN, D_OUT, D_IN), 5, 11, 37, 32.0))

tiled = K.tile(K.expand_dims(inputs, 1), [1, N_OUT, 1, 1])
u_hat = K.map_fn(lambda x: K.batch_dot(x, weights, [2, 3]), elems=tiled)
b = tf.zeros([BATCH, N_OUT, N_IN])
couplings, outputs = [], []
for _ in range(ROUTINGS):
    c = tf.nn.softmax(b, axis=1)
    o = squash(K.batch_dot(c, u_hat, [2, 2]))
    couplings.append(c)
    outputs.append(o)
    b += K.batch_dot(o, u_hat, [2, 3])
grad_weights, grad_inputs = K.gradients(K.sum(K.square(outputs[-1])), [weights, inputs])

asked = {
    "inputs": inputs,
    "weights": weights,
    "u_hat": u_hat,
    "couplings": couplings,
    "outputs": outputs,
    "grad_inputs": grad_inputs,
    "grad_weights": grad_weights,
}
answers = K.get_session().run(asked)
record = {
    "versions": {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__},
    "dtype": "float32",
}
record.update((name, listed(np.asarray(answers[name]))) for name in asked)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "capsule_keras_2_2_4.json"), "w") as file:
    json.dump(record, file, separators=(",", ":"), sort_keys=True)
    file.write("\n")
