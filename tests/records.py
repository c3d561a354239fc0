"""Conformance records: rebuilds their inputs, calls jbdot, and says how the answer differs.

`data/conformance/README.md` is the specification.
"""

import functools
import gzip
import hashlib
import json
import math
import re
from pathlib import Path

import ml_dtypes
import numpy as np
from jax import numpy as jnp
from jax.experimental import sparse

import jbdot
from jbdot.calls.front_door import DIALECTS

FOLDER = Path(__file__).parent / "data" / "conformance"
FRAMEWORKS = tuple(DIALECTS)  # each has records
NAMES = {"sparse_dot": "dot", "sparse_mm": "sparse_dense_matmul", "mx_dot": "dot", "mx_batch_dot": "batch_dot"}
STANDS_FOR = {"NotImplementedError": "TypeError"}  # no kernel for a dtype
BIG = {
    "int8": 25,
    "uint8": 50,
    "int16": 6000,
    "int32": 400_000_000,
    "int64": 1_700_000_000_000_000_000,
    "float16": 3000,
}

# (framework, id pattern, what jbdot does instead, why): the table of the site's page on conformance, as a test checks.
SIXTEEN_BITS = "sums in 32 bits and rounds once", "TensorFlow 1 rounds each product, or each partial sum, to 16 bits"
DEVIATIONS = (
    ("keras_tf1", "dot-big-*", *SIXTEEN_BITS),
    ("keras_tf1", "batch_dot-big-*", *SIXTEEN_BITS),
    ("keras_tf1", "batch_dot-accum-*", *SIXTEEN_BITS),
    (
        "keras_tf1",
        "batch_dot-b1n-*",
        "broadcasts a batch axis of size 1",
        "TensorFlow 1.13.1 refuses it; 1.14 and 1.15 broadcast",
    ),
    (
        "keras_tf1",
        "batch_dot-adj4-*",
        "broadcasts a batch axis of size 1",
        "TensorFlow 1.13.1 refuses it; 1.14 and 1.15 broadcast",
    ),
    ("keras", "sparse_dot-both-*", "raises ValueError", "Keras recurses until Python stops it: RecursionError"),
    (
        "tensorflow",
        "matmul-sparsespecial-*",
        "multiplies 0 by inf or nan as IEEE 754 does: nan",
        "TensorFlow skips zeros of an operand that is hinted to be sparse; the hint is about speed",
    ),
)


@functools.cache
def load(framework: str) -> list[dict]:
    with gzip.open(FOLDER / f"{framework}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def group(record: dict) -> str:
    return re.sub(r"-\d+$", "", record["id"])


def operand(arg: dict, number: int, fill: str):
    """Rebuilds an input: integer arithmetic on the flat index, then a cast."""
    dtype = np.dtype(ml_dtypes.bfloat16 if arg["dtype"] == "bfloat16" else arg["dtype"])
    i = np.arange(math.prod(arg["shape"]))
    v = (7 * i + 3 * number + 1) % 11 - 5
    match fill:
        case "ones" | "zeros":
            values = np.full(i.shape, fill == "ones")
        case "tiny":
            values = v * 1e-8
        case "frac":
            values = 1 / (v + 7)
        case "special":
            values = np.where(v % 3 == 0, 0, v).astype(float)
            for at, special in ((1, np.inf), (2, np.nan), (5, -np.inf)) if number == 1 else ():
                values[at : at + 1] = special
        case "big":
            exact = [(int(value) + 5 * (dtype.kind == "u")) * BIG[arg["dtype"]] for value in v]
            if dtype.kind in "iu":
                exact = [value % (1 << 8 * dtype.itemsize) for value in exact]
                values = np.array(exact, np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
            else:
                values = np.array(exact)
        case _ if dtype.kind == "b":
            values = v % 2 == 1
        case _ if dtype.kind == "u":
            values = v + 5
        case _ if dtype.kind == "c":
            values = v + 1j * ((5 * i + 2 * number + 3) % 7 - 3)
        case _:
            values = v
    array = jnp.asarray(values.astype(dtype).reshape(arg["shape"]))
    return stored_sparse(array) if arg.get("sparse") else array


def stored_sparse(array):
    """Keeps the elements at the flat positions i mod 3 == 0."""
    at = np.argwhere((np.arange(array.size) % 3 == 0).reshape(array.shape)).reshape(-1, array.ndim)
    return sparse.BCOO((array[tuple(at.T)], jnp.asarray(at, jnp.int32)), shape=array.shape)


def name_of(op: str) -> str:
    """The front door that a record's op is a call of."""
    return "Dot" if op == "dot_layer" else NAMES.get(op, op.removeprefix("t_"))


def answer(framework: str, record: dict):
    """Makes the record's call of jbdot."""
    door = getattr(jbdot, framework)
    args = [operand(arg, number, record["fill"]) for number, arg in enumerate(record["args"])]
    kw = dict(record["kw"])
    if "axes" in kw:
        kw["axes"] = eval(kw["axes"], {"np": np})
    if "output_type" in kw:
        kw["output_type"] = jnp.dtype(kw["output_type"])
    if framework == "torch":
        kw = {name: eval(text, {"np": np}) for name, text in record["kw"].items()}
    match record["op"]:
        case "dot_layer":
            return door.Dot(**kw)(args)
        case "einsum":
            return door.einsum(kw["subscripts"], *args)
        case "t_einsum":
            return door.einsum(kw["equation"], *args)
        case "t_multi_dot":
            return door.multi_dot(args)
        case op:
            return getattr(door, name_of(op))(*args, **kw)


def difference(framework: str, record: dict) -> str | None:
    """Says how jbdot's answer differs from the framework's; None where it does not."""
    try:
        result = answer(framework, record)
    except Exception as error:
        return refusal_difference(framework, record, error)
    if record["status"] != "ok":
        return f"no error, but {result.dtype}{list(result.shape)}; the framework: {record.get('message', '')[:120]}"
    if list(result.shape) != record["shape"] or result.dtype.name != record["dtype"]:
        return f"{result.dtype}{list(result.shape)} for {record['dtype']}{record['shape']}"
    return value_difference(record, np.asarray(result))


def refusal_difference(framework: str, record: dict, error: Exception) -> str | None:
    if record["status"] == "ok":
        return f"{type(error).__name__}: {error}"
    bases = record.get("bases", ())
    builtin = next((STANDS_FOR.get(name, name) for name in bases if name not in ("Exception", "RuntimeError")), "")
    either = ("ValueError", "TypeError") if framework == "torch" else ("ValueError",)  # of a RuntimeError
    if type(error).__name__ not in ((builtin,) if builtin else either):
        return f"{type(error).__name__} for {builtin or ' or '.join(either)}: {error}"
    return (
        None
        if str(error).startswith(f"{framework}.{name_of(record['op'])}: ")
        else f"the message names no function: {error}"
    )


def value_difference(record: dict, result: np.ndarray) -> str | None:
    kind = {"b": "<i8", "i": "<i8", "u": "<i8", "c": "<c16"}.get(result.dtype.kind, "<f8")
    flat = result.astype(kind).ravel()
    listed = record["values"] if "values" in record else record["first"]
    want = np.array([complex(*map(float, v)) if isinstance(v, list) else float(v) for v in listed])
    if kind == "<i8":
        want = np.array([int(v) for v in listed], np.int64)
    got = flat[: len(want)]
    if record["op"] == "dot_layer" or record["fill"] in ("tiny", "frac"):
        tolerance = {"float16": 1e-2, "bfloat16": 2e-2}.get(record["dtype"], 1e-5)
        close = np.allclose(got, want, rtol=tolerance, atol=tolerance * np.max(np.abs(want), initial=0), equal_nan=True)
        return None if close else f"{got[:6]} for {want[:6]}"
    if not np.array_equal(got, want, equal_nan=kind != "<i8"):
        return f"{got[:6]} for {want[:6]}"
    return None if kind == "<c16" or digest(flat) == record["sha256"] else "other values further on"


def digest(flat: np.ndarray) -> str:
    if flat.dtype.kind == "f":
        flat = np.where(np.isnan(flat), np.nan, flat + 0.0)  # every nan the same, and -0.0 as 0.0
    return hashlib.sha256(flat.tobytes()).hexdigest()[:16]
