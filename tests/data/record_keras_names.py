"""Records what functions of the real `keras.backend` give: run under each Keras that is to be recorded.

    python record_keras_names.py

It adds to keras_names.json beside itself what the calls' names stand for, and by the version of Keras each call of
CALLS with the result's shape, kind of dtype and values; or null where this Keras has no such function. `attention` is
the file of Keras in docs/pages/how-to/port.md. Recorded were Keras 2.2.4 on TensorFlow 1.15.5 (Python 3.7) and
tf_keras 2.21 on TensorFlow 2.21 (Python 3.13), both on a CPU.
"""

import json
import os
import re

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "..", "..", "docs", "pages", "how-to", "port.md")
PATH = os.path.join(HERE, "keras_names.json")
CALLS = """
floatx()
epsilon()
image_data_format()
shape(x)
int_shape(x)
get_variable_shape(variable(x))
ndim(x)
dtype(x)
dtype(i)
count_params(variable(x))
is_sparse(x)
constant(2.5)
constant([1, 2])
constant(3, 'int32', (2, 2))
variable([[1, 2]])
variable([1, 2], 'int32')
zeros((2, 3))
ones((2, 3), 'int32')
eye(3)
zeros_like(x)
ones_like(x, 'int32')
arange(5)
arange(2, 8, 3)
arange(1, 4, dtype='float32')
cast(x, 'int32')
cast(x, 'bool')
cast(i, 'float32')
cast_to_floatx([1, 2])
identity(x)
eval(x)
get_value(variable(x))
batch_get_value([variable(x), variable(y)])
abs(x)
sign(x)
round(x)
square(x)
sqrt(x)
exp(x)
log(p)
sin(x)
cos(x)
tanh(x)
pow(x, 3)
clip(x, -1, 1.5)
maximum(x, y)
minimum(x, y)
equal(x, y)
not_equal(x, y)
greater(x, y)
greater_equal(x, y)
less(x, y)
less_equal(x, y)
switch(greater(x, y), x, y)
switch(equal(sum(x), sum(y)), x, y)
in_train_phase(x, y, True)
in_test_phase(x, y, True)
max(x)
max(x, -1, True)
min(x, 0)
sum(x, axis=1)
sum(x, (0, 1), keepdims=True)
prod(x, 0)
mean(x)
mean(x, -1, keepdims=True)
mean(greater(x, y))
var(x, 0)
std(x, 1, True)
any(greater(x, y), 1)
all(greater(x, y), 0)
any(x, 1)
logsumexp(x, 1)
argmax(x)
argmax(x, 0)
argmin(x)
cumsum(x)
cumsum(x, 1)
cumprod(x)
l2_normalize(x)
l2_normalize(x, -1)
l2_normalize(tiny, -1)
batch_normalization(x, p[0], p[1], y[0], y[1])
in_top_k(p, i, 2)
reshape(x, (4, 3))
reshape(x, (2, -1))
transpose(x)
transpose(volume)
permute_dimensions(sequence, (1, 2, 0))
expand_dims(x)
expand_dims(x, 0)
squeeze(expand_dims(x), -1)
flatten(x)
batch_flatten(volume)
concatenate([x, y])
concatenate([x, y], 0)
stack([x, y])
stack([x, y], axis=-1)
repeat(x, 2)
repeat_elements(x, 2, 1)
tile(x, (2, 1))
reverse(x, 1)
reverse(x, (0, 1))
slice(x, (1, 0), (2, 3))
gather(x, i)
gather(x, constant([[0, 2], [1, 1]], 'int32'))
one_hot(i, 4)
temporal_padding(sequence)
temporal_padding(sequence, (2, 0))
spatial_2d_padding(image)
spatial_2d_padding(image, ((1, 2), (0, 1)))
spatial_3d_padding(volume)
resize_images(image, 2, 3, 'channels_last')
resize_volumes(volume, 1, 2, 1, 'channels_last')
bias_add(x, y[0])
bias_add(image, y[0, :2])
relu(x)
relu(x, 0.25)
relu(x, max_value=1)
relu(x, alpha=0.5, threshold=1)
relu(x, 0.5, 1.5, 0.5)
elu(x)
elu(x, 0.5)
softmax(x)
softmax(x, 0)
softplus(x)
softsign(x)
sigmoid(x)
hard_sigmoid(x)
categorical_crossentropy(p, q)
categorical_crossentropy(p, hard)
categorical_crossentropy(p, x, True)
sparse_categorical_crossentropy(i, q)
sparse_categorical_crossentropy(i, hard)
sparse_categorical_crossentropy(i, x, True)
binary_crossentropy(p, q)
binary_crossentropy(p, hard)
binary_crossentropy(p, x, True)
conv1d(sequence, kernel1)
conv1d(sequence, kernel1, 2, 'same')
conv1d(sequence, kernel1, dilation_rate=2)
conv2d(image, kernel2)
conv2d(image, kernel2, (2, 1), 'same')
conv3d(volume, kernel3)
depthwise_conv2d(image, kernel2)
depthwise_conv2d(image, kernel2, (2, 2), 'same')
pool2d(image, (2, 2))
pool2d(image, (2, 2), (2, 2), 'same')
pool3d(volume, (2, 2, 1), (2, 2, 1))
map_fn(lambda row: row * row, x)
foldl(lambda out, row: out * 0.5 + row, x, y[0])
foldr(lambda out, row: out * 0.5 + row, x, y[0])
stop_gradient(x)
random_normal((3, 4), 2.0, 0.5)
random_normal_variable((3, 4), 2.0, 0.5)
truncated_normal((3, 4), 2.0, 0.5)
random_uniform((3, 4), 1.0, 2.0)
random_uniform_variable((3, 4), 1.0, 2.0)
random_binomial((3, 4), 1.0)
random_bernoulli((3, 4), 1.0)
attention(sequence, w, sequence[0, 0], u)
attention(sequence, w, sequence[0, 0], u, mask)
""".strip().splitlines()
SHAPES = {
    "x": (3, 4),
    "y": (3, 4),
    "sequence": (2, 5, 3),
    "image": (2, 4, 5, 2),
    "volume": (2, 3, 3, 3, 2),
    "kernel1": (2, 3, 2),
    "kernel2": (2, 3, 2, 3),
    "kernel3": (2, 2, 2, 2, 1),
}


def inputs():
    """What the calls' names stand for: quarters of integers by a formula, and distributions."""
    made = {}
    for number, (name, shape) in enumerate(sorted(SHAPES.items())):
        n = np.arange(np.prod(shape), dtype=np.int64)
        made[name] = (((7 * n * n + 5 * n + 3 * number) % 19 - 9) / 4).reshape(shape).astype("float32")
    made["p"] = (np.arange(1, 13).reshape(3, 4) / np.arange(1, 13).reshape(3, 4).sum(1, keepdims=True)).astype(
        "float32"
    )
    made["q"] = made["p"][:, ::-1].copy()
    made["hard"] = np.float32([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0.5, 0.5]])
    made["tiny"] = np.float32([[1e-8, 2e-8, 0, 0], [0, 0, 0, 0], [1e-5, 0, 1e-6, 0]])
    made["w"] = made["image"].ravel()[:9].reshape(3, 3)
    made["u"] = made["image"].ravel()[9:12].reshape(3, 1)
    made["mask"] = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
    made["i"] = np.int32([2, 0, 1])
    return made


def recorded(value):
    """The value as JSON has it, to 9 significant digits: all that a float32 has."""
    value = np.asarray(value)
    kind = {"b": "bool", "i": "int", "f": "float", "U": "text"}[value.dtype.kind]
    values = [float(f"{v:.9g}") if kind == "float" else v for v in value.ravel().tolist()]
    return {"shape": list(value.shape), "kind": kind, "values": values}


def main():
    try:
        import tf_keras as keras
    except ImportError:
        import keras
    K = keras.backend
    made = inputs()
    known = {name: getattr(K, name) for name in dir(K)}
    known.update((name, K.constant(value, dtype=value.dtype.name)) for name, value in made.items())
    with open(PAGE) as page:  # the file of Keras in the guide to ports, as it stands there
        text = re.search(r"^from keras import backend as K\n(.*?)^```", page.read(), re.DOTALL | re.MULTILINE)
    exec(text.group(1), dict(known, K=K), known)
    found = {}
    for call in CALLS:
        try:
            value = eval(call, {"__builtins__": {"True": True}}, known)
            if hasattr(value, "initializer"):
                value = K.eval(value)
            elif hasattr(value, "graph") and not hasattr(value, "numpy"):
                value = K.get_session().run(value)
            found[call] = recorded(value)
        except NameError as error:
            print(f"{call}: {error}")
            found[call] = None

    stored = {}
    if os.path.exists(PATH):
        with open(PATH) as file:
            stored = json.load(file)
    stored["inputs"] = {name: recorded(value) for name, value in made.items()}
    stored[keras.__version__] = found
    sections = []
    for name in sorted(stored):
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in stored[name].items())
        sections.append(f"{json.dumps(name)}: {{\n{lines}\n}}")
    with open(PATH, "w") as file:
        file.write("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    main()
