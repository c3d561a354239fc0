"""Other frameworks, each in a process and an interpreter of its own: `python -m benchmarks.peers NAME` serves one.

A peer is told what to compute by a task in plain words, so that its interpreter needs neither jax nor jbdot:
einsum strings, orders of axes, shapes, a dtype. Requests and answers are lines of JSON on its standard input and
output. It is stopped (SIGSTOP) but for its own blocks: threads that spin while they wait for work, as OpenMP's do,
would take a core from whoever is measured next.
"""

# ruff: noqa: D102 - what a framework does in a way of its own is said once, in NumPy

import argparse
import contextlib
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.timing import TRIES, block_us, warm_block_us

Task = dict[str, Any]
Call = Callable[[], Any]
Step = Callable[[Any, Any], Any]

DISTRIBUTION: Final = "standard normal (complex: both parts), int8 uniform from -9 to 9; NumPy's generator, seed 0"
LONGEST_US: Final = 0.3e6  # of a call that is still measured: some peers take seconds for a float16 gradient
GENERATED: Final = {"bfloat16": "float32", "float16": "float32"}  # what is drawn where a framework then casts


def operands(task: Task) -> list[np.ndarray]:
    """Draws a task's operands, and after them the cotangent of its result, as NumPy arrays yet to be cast."""
    rng = np.random.default_rng(0)
    shapes = [*task["shapes"], task["out"]] if task["gradient"] else task["shapes"]
    return [_drawn(rng, tuple(shape), task["dtype"]) for shape in shapes]


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "int8":
        return rng.integers(-9, 10, shape, np.int8)
    if dtype == "complex64":
        return rng.standard_normal((*shape, 2), np.float32).view(np.complex64)[..., 0]
    return rng.standard_normal(shape, GENERATED.get(dtype, dtype))


def chain(steps: Sequence[Step], between: Callable[[Any], Any] | None) -> Callable[..., Any]:
    """Composes contractions: each takes the result of the one before, after `between`, and the next operand."""

    def run(first: Any, *others: Any) -> Any:
        for index, (step, other) in enumerate(zip(steps, others, strict=True)):
            first = step(between(first) if index and between else first, other)
        return first

    return run


def magnitudes(results: Sequence[np.ndarray]) -> list[float]:
    """The mean magnitude of each result: implementations that agree on these computed the same."""
    return [float(np.abs(result).astype(np.float64).mean()) for result in results]


class Unable(Exception):
    """The framework has no such product."""


class NumPy:
    """NumPy; and, but for what its subclasses say otherwise, every other framework."""

    name = "numpy"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.version = np.__version__

    def begin(self, task: Task) -> None:
        """Settings that a task needs."""

    def array(self, x: np.ndarray, dtype: str) -> Any:
        """Takes a NumPy array over, as `dtype`."""
        if dtype == "bfloat16":
            raise Unable("NumPy has no bfloat16")
        return x.astype(dtype)

    def numpy(self, x: Any) -> np.ndarray:
        """Gives a result back."""
        return np.asarray(x)

    def einsum(self, text: str, dtype: str) -> Step:
        """The framework's einsum; int8 is summed in int32."""
        return lambda x, y: np.einsum(text, x, y, dtype=np.int32 if dtype == "int8" else None)

    def matmul(self, dtype: str) -> Step:
        """The framework's matmul; int8 is summed in int32."""
        return lambda x, y: np.matmul(x, y, dtype=np.int32 if dtype == "int8" else None)

    def transposed(self, x: Any, order: Sequence[int]) -> Any:
        """Permutes axes."""
        return x.transpose(order)

    def reshaped(self, x: Any, shape: Sequence[int]) -> Any:
        """Merges or splits axes."""
        return x.reshape(shape)

    def softmax(self, x: Any) -> Any:
        """Along the last axis."""
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def forward(self, function: Callable[..., Any], args: list[Any]) -> Call:
        """A call that computes the function, and returns when it is done."""
        return lambda: function(*args)

    def gradient(self, function: Callable[..., Any], args: list[Any], cotangent: Any, single: bool) -> Call:
        """A call that computes the gradients: of a single contraction they alone, else the result and they."""
        raise Unable("NumPy has no gradients")

    def by_matmul(self, form: dict[str, Any], dtype: str) -> Step:
        """A contraction as a matmul: axes brought into (batch..., m, k) and (batch..., k, n), and the result's back."""
        matmul, (left, right, out) = self.matmul(dtype), (form["lhs"], form["rhs"], form["out"])

        def step(x: Any, y: Any) -> Any:
            x = self.reshaped(self.transposed(x, left["order"]), left["shape"])
            y = self.reshaped(self.transposed(y, right["order"]), right["shape"])
            return self.transposed(self.reshaped(matmul(x, y), out["shape"]), out["order"])

        return step

    def ways(self, task: Task) -> dict[str, Callable[..., Any]]:
        """Every way in which the framework can say a task, as functions of its operands."""
        steps, dtype, softmax = task["steps"], task["dtype"], self.softmax if task["softmax"] else None
        return {
            "einsum": chain([self.einsum(step["einsum"], dtype) for step in steps], softmax),
            "matmul": chain([self.by_matmul(step["matmul"], dtype) for step in steps], softmax),
        }


class Torch(NumPy):
    """PyTorch, eager; the forward pass without autograd's records."""

    name = "torch"

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(threads)
        self.torch, self.version = torch, torch.__version__

    def begin(self, task: Task) -> None:
        self.torch.set_grad_enabled(task["gradient"])

    def array(self, x: np.ndarray, dtype: str) -> Any:
        return self.torch.from_numpy(x).to(getattr(self.torch, dtype))

    def numpy(self, x: Any) -> np.ndarray:
        x = x.detach()
        return (x.float() if x.dtype == self.torch.bfloat16 else x).resolve_conj().numpy()

    def einsum(self, text: str, dtype: str) -> Step:
        def step(x: Any, y: Any) -> Any:
            if dtype == "int8":
                raise Unable("torch.einsum sums int8 in int8")
            return self.torch.einsum(text, x, y)

        return step

    def matmul(self, dtype: str) -> Step:
        return self._int_matmul if dtype == "int8" else self.torch.matmul

    def _int_matmul(self, x: Any, y: Any) -> Any:
        if x.ndim != 2:
            raise Unable("torch sums int8 in int32 for two matrices only, by torch._int_mm")
        return self.torch._int_mm(x, y)

    def transposed(self, x: Any, order: Sequence[int]) -> Any:
        return x.permute(order)

    def softmax(self, x: Any) -> Any:
        return self.torch.softmax(x, -1)

    def gradient(self, function: Callable[..., Any], args: list[Any], cotangent: Any, single: bool) -> Call:
        leaves = [x.requires_grad_() for x in args]
        cotangent = cotangent.conj().resolve_conj()  # then complex gradients are the conjugates of JAX's
        grad = self.torch.autograd.grad
        if single:
            out = function(*leaves)
            return lambda: grad(out, leaves, cotangent, retain_graph=True)

        def call() -> Any:
            out = function(*leaves)
            return out, *grad(out, leaves, cotangent)

        return call


class TensorFlow(NumPy):
    """TensorFlow, under `tf.function`."""

    name = "tensorflow"

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self.tf, self.version = tf, tf.__version__

    def array(self, x: np.ndarray, dtype: str) -> Any:
        return self.tf.cast(self.tf.constant(x), dtype)

    def numpy(self, x: Any) -> np.ndarray:
        return (self.tf.cast(x, "float32") if x.dtype == "bfloat16" else x).numpy()

    def einsum(self, text: str, dtype: str) -> Step:
        def step(x: Any, y: Any) -> Any:
            if dtype == "int8":
                raise Unable("tf.einsum sums int8 in int8")
            return self.tf.einsum(text, x, y)

        return step

    def matmul(self, dtype: str) -> Step:
        return lambda x, y: self.tf.matmul(x, y, output_type="int32" if dtype == "int8" else None)

    def transposed(self, x: Any, order: Sequence[int]) -> Any:
        return self.tf.transpose(x, order)

    def reshaped(self, x: Any, shape: Sequence[int]) -> Any:
        return self.tf.reshape(x, shape)

    def softmax(self, x: Any) -> Any:
        return self.tf.nn.softmax(x)

    def forward(self, function: Callable[..., Any], args: list[Any]) -> Call:
        concrete = self.tf.function(function).get_concrete_function(*args)
        return lambda: concrete(*args)

    def gradient(self, function: Callable[..., Any], args: list[Any], cotangent: Any, single: bool) -> Call:
        def both(cotangent: Any, *args: Any) -> Any:
            with self.tf.GradientTape() as tape:
                tape.watch(args)
                out = function(*args)
            found = tape.gradient(out, args, output_gradients=cotangent)
            return found if single else (out, *found)

        return self.forward(both, [self.tf.math.conj(cotangent), *args])  # as in Torch


class Keras(NumPy):
    """Keras 3 on its JAX backend, under `jax.jit`."""

    name = "keras"

    def __init__(self, threads: int) -> None:
        os.environ["KERAS_BACKEND"] = "jax"
        import jax
        import keras

        self.jax, self.keras, self.version = jax, keras, f"{keras.__version__} on jax {jax.__version__}"

    def begin(self, task: Task) -> None:
        self.jax.config.update("jax_enable_x64", task["dtype"] == "float64")

    def array(self, x: np.ndarray, dtype: str) -> Any:
        return self.jax.numpy.asarray(x).astype(dtype)

    def einsum(self, text: str, dtype: str) -> Step:
        return lambda x, y: self.keras.ops.einsum(text, x, y)

    def softmax(self, x: Any) -> Any:
        return self.keras.ops.softmax(x)

    def ways(self, task: Task) -> dict[str, Callable[..., Any]]:
        """Its einsum, and where that is the workload its layer around the legacy `batch_dot`."""
        ways = {"einsum": super().ways(task)["einsum"]}
        if task["axes"] and task["dtype"] != "int8":
            layer = self.keras.layers.Dot(tuple(task["axes"]), dtype=task["dtype"])
            ways["Dot"] = lambda x, y: layer([x, y]).reshape(task["out"])
        return ways

    def forward(self, function: Callable[..., Any], args: list[Any]) -> Call:
        compiled = self.jax.jit(function).lower(*args).compile()
        return lambda: self.jax.block_until_ready(compiled(*args))

    def gradient(self, function: Callable[..., Any], args: list[Any], cotangent: Any, single: bool) -> Call:
        return self.forward(pullback(self.jax, function, single), [cotangent, *args])


def pullback(jax: Any, function: Callable[..., Any], single: bool) -> Callable[..., Any]:
    """The gradients by `jax.vjp`, of the cotangent and the operands: of a single contraction they alone."""

    def both(cotangent: Any, *args: Any) -> Any:
        out, vjp = jax.vjp(function, *args)
        return vjp(cotangent) if single else (out, *vjp(cotangent))

    return both


FRAMEWORKS: Final[dict[str, Callable[[int], NumPy]]] = {
    framework.name: framework for framework in (NumPy, Torch, TensorFlow, Keras)
}


def fastest(framework: NumPy, task: Task) -> tuple[Call, dict[str, Any]]:
    """Prepares a task in every way that the framework has, and takes the fastest.

    Raises:
        Unable: None of them can do it, or not in the time that a call may take.
    """
    framework.begin(task)
    args = [framework.array(x, task["dtype"]) for x in operands(task)]
    found: list[tuple[float, Call, dict[str, Any]]] = []
    reasons: dict[str, str] = {}
    for way, function in framework.ways(task).items():
        try:
            found.append(tried(framework, task, way, function, args))
        except Exception as error:
            reasons[way] = told(error)
    if not found:
        raise Unable("; ".join(f"{way}: {reason}" for way, reason in reasons.items()))
    us, call, facts = min(found, key=lambda each: each[0])
    if us > LONGEST_US:
        raise Unable(f"a call takes over {LONGEST_US / 1e6} s")
    return call, facts


def tried(
    framework: NumPy, task: Task, way: str, function: Callable[..., Any], args: list[Any]
) -> tuple[float, Call, dict[str, Any]]:
    """One way made ready and called: microseconds a call, the call, what is told of it."""
    start = time.perf_counter_ns()
    if task["gradient"]:
        call = framework.gradient(function, args[:-1], args[-1], len(task["steps"]) == 1)
    else:
        call = framework.forward(function, args)
    ready = time.perf_counter_ns()
    results = call()
    us = (time.perf_counter_ns() - ready) / 1e3
    first_call_ms = round((ready - start) / 1e6 + us / 1e3, 3)
    if us <= LONGEST_US:
        us = min(block_us(call, 1) for _ in range(TRIES))
    results = results if isinstance(results, (list, tuple)) else [results]
    means = magnitudes([framework.numpy(result) for result in results])
    return us, call, {"way": way, "first_call_ms": first_call_ms, "magnitudes": means}


def told(error: BaseException) -> str:
    """An error in one line of readable length."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first[:200] if isinstance(error, Unable) else f"{type(error).__name__}: {first}"[:200]


def serve(name: str, threads: int) -> None:
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a framework prints is no answer
    framework = FRAMEWORKS[name](threads)
    print(json.dumps({"version": framework.version, "python": platform.python_version()}), file=answers)
    gc.disable()
    gc.freeze()  # so that collecting after a task looks at no module
    call: Call = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "task" in request:
                call, answer = fastest(framework, request["task"])
                gc.collect()
            else:
                answer = {"us": warm_block_us(call, request["calls"])}
        except Exception as error:
            answer = {"unable": told(error)}
        print(json.dumps(answer), file=answers)


class Lost(Exception):
    """A peer's process ended, or did not start, or does not go on.

    Attributes:
        name: The peer's.
        reason: What is known of it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class Peer:
    """A framework in a process of its own, which runs only while it is asked something.

    Args:
        name: A key of `FRAMEWORKS`.
        python: The interpreter that has the framework.
        threads: How many the framework may use.

    Raises:
        Lost: It did not start.
    """

    def __init__(self, name: str, python: str, threads: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        path = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        # In a group of its own, an interrupt at the terminal is left to us, and if we die the system wakes and ends it.
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers", name, "--threads", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                process_group=0,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
            )
        except OSError as error:
            self._errors.close()
            raise Lost(name, f"{python}: {error.strerror}") from None
        try:
            self.facts = self._answer()
        except Lost:
            self.close()
            raise

    def prepare(self, task: Task) -> dict[str, Any]:
        """Has a task made ready: what the peer says of it, or the reason why it cannot, under "unable"."""
        return self._ask(task=task)

    def block(self, calls: int) -> float:
        """Microseconds a call, for so many of the prepared task.

        Raises:
            Lost: The process ended, or the call that ran before does not any more.
        """
        answer = self._ask(calls=calls)
        if "us" not in answer:
            raise Lost(self.name, answer["unable"])
        return answer["us"]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError), self._process as process:
            process.kill()
        self._errors.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # why it ended is found where its answer would be
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or [""])[-1]
            raise Lost(self.name, f"it ended with status {self._process.returncode}. {last}"[:200].strip())
        self._signal(signal.SIGSTOP)
        return json.loads(line)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


def main() -> None:
    """Serves the framework that is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(FRAMEWORKS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    serve(options.name, options.threads)


if __name__ == "__main__":
    main()
