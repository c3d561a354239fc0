"""Records what the real Keras 2.2.4 computes for four models: run under Python 3.6 with TensorFlow 1.13.1.

    python record_keras_models.py

It writes keras_models_2_2_4.json beside itself. colab/port_keras_to_jax.ipynb quotes the layers below to the letter and
ports them; tests/whole/test_ported_models.py holds the ports to the record. Inputs and weights are normal random
numbers of two decimals, so that they can be written down; gradients are those of the sum of the squared outputs.
"""

# ruff: noqa: B905 (the zip of Python 3.6 is never strict)

import json
import os

import keras
import keras.backend as K
import numpy as np
import tensorflow as tf
from keras.layers import Activation, Concatenate, Conv1D, Dense, Dot, Input, Layer, Reshape
from keras.models import Model

HERE = os.path.dirname(os.path.abspath(__file__))


def squash(vectors):
    squared = K.sum(K.square(vectors), -1, keepdims=True)
    return squared / (1 + squared) / K.sqrt(squared + K.epsilon()) * vectors


class Capsules(Layer):
    def __init__(self, number, size, routings=3, **kwargs):
        super().__init__(**kwargs)
        self.number, self.size, self.routings = number, size, routings

    def build(self, input_shape):
        _, self.inputs, in_size = input_shape
        shape = (self.number, self.inputs, self.size, in_size)
        self.W = self.add_weight(name="W", shape=shape, initializer="normal")
        super().build(input_shape)

    def call(self, x):
        x = K.tile(K.expand_dims(x, 1), [1, self.number, 1, 1])
        u_hat = K.map_fn(lambda sample: K.batch_dot(sample, self.W, [2, 3]), elems=x)
        b = tf.zeros([K.shape(x)[0], self.number, self.inputs])
        for i in range(self.routings):
            c = tf.nn.softmax(b, axis=1)
            o = squash(K.batch_dot(c, u_hat, [2, 2]))
            if i < self.routings - 1:
                b += K.batch_dot(o, u_hat, [2, 3])
        return o

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.number, self.size


class SelfAttention(Layer):
    def __init__(self, heads, size, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size

    def build(self, input_shape):
        shape = (input_shape[-1], self.heads * self.size)
        self.Wq = self.add_weight(name="Wq", shape=shape, initializer="normal")
        self.Wk = self.add_weight(name="Wk", shape=shape, initializer="normal")
        self.Wv = self.add_weight(name="Wv", shape=shape, initializer="normal")
        super().build(input_shape)

    def split(self, x):
        x = K.reshape(x, (-1, K.shape(x)[1], self.heads, self.size))
        return K.permute_dimensions(x, (0, 2, 1, 3))

    def call(self, x):
        q = self.split(K.dot(x, self.Wq))
        k = self.split(K.dot(x, self.Wk))
        v = self.split(K.dot(x, self.Wv))
        a = K.softmax(K.batch_dot(q, k, axes=[3, 3]) / self.size**0.5)
        o = K.batch_dot(a, v, axes=[3, 2])
        o = K.permute_dimensions(o, (0, 2, 1, 3))
        return K.reshape(o, (-1, K.shape(o)[1], self.heads * self.size))

    def compute_output_shape(self, input_shape):
        return input_shape[0], input_shape[1], self.heads * self.size


def matching(letters, size, negatives):
    query = Input((letters,))
    documents = [Input((letters,)) for _ in range(1 + negatives)]
    read_query = Dense(size, activation="tanh")
    read_document = Dense(size, activation="tanh")
    q = read_query(query)
    cosines = [Dot(axes=1, normalize=True)([q, read_document(d)]) for d in documents]
    r = Reshape((1 + negatives, 1))(Concatenate()(cosines))
    r = Conv1D(1, 1, use_bias=False)(r)
    p = Activation("softmax")(Reshape((1 + negatives,))(r))
    return Model([query, *documents], p)


class BiAttention(Layer):
    def build(self, input_shape):
        size = input_shape[0][-1]
        self.wh = self.add_weight(name="wh", shape=(size, 1), initializer="normal")
        self.wu = self.add_weight(name="wu", shape=(size, 1), initializer="normal")
        self.whu = self.add_weight(name="whu", shape=(size,), initializer="normal")
        super().build(input_shape)

    def call(self, inputs):
        h, u = inputs
        s = K.batch_dot(h * self.whu, u, axes=[2, 2])
        s += K.dot(h, self.wh) + K.permute_dimensions(K.dot(u, self.wu), (0, 2, 1))
        to_question = K.batch_dot(K.softmax(s), u)
        to_context = K.batch_dot(K.softmax(K.max(s, axis=2)), h, axes=[1, 1])
        to_context = K.expand_dims(to_context, 1)
        return K.concatenate([h, to_question, h * to_question, h * to_context])

    def compute_output_shape(self, input_shape):
        return input_shape[0][0], input_shape[0][1], 4 * input_shape[0][2]


def listed(array):
    """Writes each float32 as the shortest decimal that is read back as the same."""
    return [listed(row) for row in array] if np.ndim(array) else float(str(array))


def drawn(random, shape):
    return np.round(random.randn(*shape), 2).astype("float32")


def record(model, input_names, weight_names, batch=2, seed=0):
    random = np.random.RandomState(seed)
    inputs = [drawn(random, (batch, *K.int_shape(tensor)[1:])) for tensor in model.inputs]
    weights = [drawn(random, weight.shape) for weight in model.get_weights()]
    model.set_weights(weights)
    tensors = model.inputs + model.weights
    gradients = K.gradients(K.sum(K.square(model.output)), tensors)
    output, gradients = K.get_session().run([model.output, gradients], dict(zip(model.inputs, inputs)))
    names = input_names + weight_names
    assert len(names) == len(tensors)
    return {
        "inputs": dict(zip(input_names, map(listed, inputs))),
        "weights": dict(zip(weight_names, map(listed, weights))),
        "output": listed(output),
        "gradients": dict(zip(names, map(listed, gradients))),
    }


def layered(layer, *shapes):
    inputs = [Input(shape) for shape in shapes]
    return Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0]))


def main():
    models = {
        "capsules": record(layered(Capsules(3, 2), (4, 2)), ["x"], ["W"]),
        "self_attention": record(layered(SelfAttention(2, 2), (3, 4)), ["x"], ["Wq", "Wk", "Wv"]),
        "matching": record(
            matching(4, 3, negatives=2),
            ["query", "positive", "negative_1", "negative_2"],
            ["query_kernel", "query_bias", "document_kernel", "document_bias", "gamma"],
        ),
        "bi_attention": record(layered(BiAttention(), (4, 2), (3, 2)), ["h", "u"], ["wh", "wu", "whu"]),
    }
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    with open(os.path.join(HERE, "keras_models_2_2_4.json"), "w") as file:
        json.dump({"versions": versions, "dtype": "float32", "models": models}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
