"""What jbdot adds around its dot: eager calls, tracing, importing (`python -m benchmarks.dispatch`).

Eager: a front-door call of (4,4,5) x (4,5,8) float32 against a warm `jax.jit` of the bare
`lax.dot_general` on the same arrays, in alternating blocks of calls, so that the machine's drift
hits both. The arrays are uniform in [0, 1); on arrays of this size the arithmetic is nothing and
the call is everything, so there is no limit of FLOP/s or bytes/s to state: the bare call is it.
Tracing: `jax.make_jaxpr` of a function with 100 calls, against 100 of `jnp.einsum`; and of the gradient of such a
function, plain, under one vmap and under two, against 100 of `lax.dot_general`.
Importing: `import jbdot` after `import jax`, in fresh processes.

Compiled text is compared in tests/whole/test_transforms.py: there it is equal, not measured.
"""

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import rich.markup
import rich.progress
import rich.table
from jax import lax
from jax import numpy as jnp

import jbdot
from benchmarks.timing import block_us, machine, spread
from jbdot import Contraction

BOUNDS = {"eager": 1.3, "einsum": 0.5, "trace": 1.5, "import_s": 0.2}
GRADIENTS = {"jbdot.dot_general": 1.1, "jbdot.optimize": 1.1, "jbdot.dot": 1.35, "jbdot.batch_dot": 1.35}  # bounds
NUMBERS = (((2,), (1,)), ((0,), (0,)))
LABELS = "b m k, b k n -> b m n"
RESULTS = Path(__file__).parent / "results"


def calls(x: jax.Array, y: jax.Array) -> dict[str, Callable[[], Any]]:
    """Every way to say the product, each as a call without arguments."""
    contraction = Contraction.parse(LABELS)
    return {
        "jbdot.batch_dot(x, y)": lambda: jbdot.batch_dot(x, y),
        "jbdot.batch_dot(x, y, [2, 1])": lambda: jbdot.batch_dot(x, y, [2, 1]),
        "keras.batch_dot(x, y, axes=[2, 1])": lambda: jbdot.keras.batch_dot(x, y, axes=[2, 1]),
        "jbdot.matmul(x, y)": lambda: jbdot.matmul(x, y),
        "theano.batched_dot(x, y)": lambda: jbdot.theano.batched_dot(x, y),
        "theano.batched_tensordot(x, y, [[2], [1]])": lambda: jbdot.theano.batched_tensordot(x, y, [[2], [1]]),
        "tensorflow.einsum(...)": lambda: jbdot.tensorflow.einsum("bmk,bkn->bmn", x, y),
        "mxnet.batch_dot(x, y)": lambda: jbdot.mxnet.batch_dot(x, y),
        "jbdot.contract(text, x, y)": lambda: jbdot.contract(LABELS, x, y),
        "jbdot.contract(contraction, x, y)": lambda: jbdot.contract(contraction, x, y),
        "jbdot.dot_general(x, y, ...)": lambda: jbdot.dot_general(x, y, NUMBERS),
        "jnp.matmul(x, y)": lambda: jnp.matmul(x, y),
        "jnp.einsum(...)": lambda: jnp.einsum("bmk,bkn->bmn", x, y),
    }


def chains(v: jax.Array, a: jax.Array, b: jax.Array) -> dict[str, Callable[[], Any]]:
    """Every way to multiply a vector by two matrices in one call."""
    return {
        "jbdot.contract(text, v, a, b)": lambda: jbdot.contract("i,ij,jk->k", v, a, b),
        "tensorflow.einsum(text, v, a, b)": lambda: jbdot.tensorflow.einsum("i,ij,jk->k", v, a, b),
        "jnp.einsum(text, v, a, b)": lambda: jnp.einsum("i,ij,jk->k", v, a, b),
    }


def eager(blocks: int, repeats: int, track: Callable[..., Any]) -> list[dict[str, Any]]:
    """Measures each call beside the bare one, blocks of both in turn."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.random(shape, np.float32)) for shape in ((4, 4, 5), (4, 5, 8)))
    bare = jax.jit(lambda x, y: lax.dot_general(x, y, NUMBERS))
    wait = jax.block_until_ready
    v, a, b = (jnp.asarray(rng.random(shape, np.float32)) for shape in ((4,), (4, 5), (5, 8)))
    both = jax.jit(lambda v, a, b: lax.dot(lax.dot(v, a), b))
    ways = {name: (call, lambda: bare(x, y)) for name, call in calls(x, y).items()}
    ways |= {name: (call, lambda: both(v, a, b)) for name, call in chains(v, a, b).items()}
    rows: list[dict[str, Any]] = []
    for name, (call, alone) in track(ways.items(), total=16, description="eager calls"):
        few = max(repeats // 10, 10) if "jnp.einsum" in name else repeats
        block_us(alone, repeats, wait), block_us(call, few, wait)  # compile and warm up
        pairs = [(block_us(alone, repeats, wait), block_us(call, few, wait)) for _ in range(blocks)]
        rows.append({"call": name, "bare_us": spread([a for a, _ in pairs]), "call_us": spread([b for _, b in pairs])})
        rows[-1]["ratio"] = spread([b / a for a, b in pairs])
    return rows


def trace_ms(dot: Callable[..., Any], x: Any, y: Any) -> float:
    """Milliseconds to trace 100 calls, each on the result of the one before."""

    def hundred(x: Any, y: Any) -> Any:
        for _ in range(100):
            x = dot(x, y)
        return x

    start = time.perf_counter_ns()
    jax.make_jaxpr(hundred)(x, y)
    return (time.perf_counter_ns() - start) / 1e6


def tracing(rounds: int, track: Callable[..., Any]) -> list[dict[str, Any]]:
    """Measures tracing, every way in turn in each round."""
    x, y = jax.ShapeDtypeStruct((4, 4, 5), jnp.float32), jax.ShapeDtypeStruct((4, 5, 5), jnp.float32)
    ways: dict[str, Callable[..., Any]] = {
        "jnp.einsum": lambda x, y: jnp.einsum("bmk,bkn->bmn", x, y),
        "jbdot.batch_dot": jbdot.batch_dot,
        "keras.batch_dot": jbdot.keras.batch_dot,
        "jbdot.matmul": jbdot.matmul,
        "theano.batched_dot": jbdot.theano.batched_dot,
        "jbdot.contract": lambda x, y: jbdot.contract(LABELS, x, y),
        "lax.dot_general": lambda x, y: lax.dot_general(x, y, NUMBERS),
    }
    for dot in ways.values():
        trace_ms(dot, x, y)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in track(range(rounds), description="tracing"):
        for name, dot in ways.items():
            times[name].append(trace_ms(dot, x, y))
    einsum = times["jnp.einsum"]
    return [
        {
            "calls": f"100 x {name}",
            "ms": spread(found),
            "ratio": spread([a / b for a, b in zip(found, einsum, strict=True)]),
        }
        for name, found in times.items()
    ]


def hundred(dot: Callable[..., Any]) -> Callable[..., Any]:
    """The sum of the result of 100 products, each of the one before."""

    def function(x: Any, y: Any) -> Any:
        for _ in range(100):
            x = dot(x, y)
        return x.sum()

    return function


def gradients(rounds: int, track: Callable[..., Any]) -> list[dict[str, Any]]:
    """Measures tracing the gradient of 100 calls, plain and under vmaps, every way in turn in each round."""

    def matrix(x: Any, y: Any) -> Any:
        return lax.dot_general(x, y, (((1,), (0,)), ((), ())))

    def batch(x: Any, y: Any) -> Any:
        return lax.dot_general(x, y, NUMBERS)

    small, large = jax.ShapeDtypeStruct((5, 5), jnp.float32), jax.ShapeDtypeStruct((4, 5, 5), jnp.float32)
    ways = {  # with the way of lax that each is measured against
        "jbdot.dot_general": (hundred(lambda x, y: jbdot.dot_general(x, y, NUMBERS)), hundred(batch), large),
        "jbdot.optimize": (jbdot.optimize(hundred(batch)), hundred(batch), large),
        "jbdot.dot": (hundred(jbdot.dot), hundred(matrix), small),
        "jbdot.batch_dot": (hundred(jbdot.batch_dot), hundred(batch), large),
    }
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in track(range(rounds), description="tracing gradients"):
        for (name, (ours, theirs, shape)), vmaps in itertools.product(ways.items(), range(3)):
            pair = tuple(gradient_ms(function, shape, vmaps) for function in (ours, theirs))
            times.setdefault((name, vmaps), []).append(pair)
    return [
        {
            "calls": f"gradient of 100 x {name}, {vmaps} vmaps",
            "bound": GRADIENTS[name],
            "ms": spread([ours for ours, _ in found]),
            "ratio": spread([ours / theirs for ours, theirs in found]),
        }
        for (name, vmaps), found in times.items()
    ]


def gradient_ms(function: Callable[..., Any], shape: jax.ShapeDtypeStruct, vmaps: int) -> float:
    """Milliseconds to trace a gradient under so many vmaps over the first operand."""
    gradient, x = jax.grad(function, (0, 1)), shape
    for _ in range(vmaps):
        gradient, x = jax.vmap(gradient, (0, None)), jax.ShapeDtypeStruct((2, *x.shape), x.dtype)
    start = time.perf_counter_ns()
    jax.make_jaxpr(lambda x, y: gradient(x, y))(x, shape)
    return (time.perf_counter_ns() - start) / 1e6


def importing(rounds: int, track: Callable[..., Any]) -> dict[str, float]:
    """Measures `import jbdot` after `import jax`, in seconds."""
    script = "import time, jax; start = time.perf_counter(); import jbdot; print(time.perf_counter() - start)"
    runs = track(range(rounds), description="importing")
    return spread(
        [float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout) for _ in runs]
    )


def report(results: dict[str, Any], console: rich.console.Console) -> None:
    """Prints the results with their bounds."""
    cell = lambda found: f"{found['median']:.2f} ({found['p10']:.2f} to {found['p90']:.2f})"  # noqa: E731
    table = rich.table.Table(
        "eager call", "us", "bare jit, us", f"ratio (bound {BOUNDS['eager']})", title="median (p10 to p90)"
    )
    for row in results["eager"]:
        table.add_row(rich.markup.escape(row["call"]), cell(row["call_us"]), cell(row["bare_us"]), cell(row["ratio"]))
    console.print(table)
    table = rich.table.Table("tracing", "ms", f"of jnp.einsum's (bound {BOUNDS['trace']})")
    for row in results["tracing"]:
        table.add_row(row["calls"], cell(row["ms"]), cell(row["ratio"]))
    console.print(table)
    table = rich.table.Table("tracing", "ms", "of lax.dot_general's", "bound")
    for row in results["gradients"]:
        table.add_row(row["calls"], cell(row["ms"]), cell(row["ratio"]), str(row["bound"]))
    console.print(table)
    console.print(
        f"import jbdot, after jax: {cell(results['import_s'])} s (bound {BOUNDS['import_s']} s)", highlight=False
    )


def main() -> None:
    """Measures, prints, and writes results/dispatch-jax-VERSION.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=100, help="blocks of calls for each figure")
    parser.add_argument("--repeats", type=int, default=100, help="calls in a block")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    console = rich.console.Console()
    console = rich.console.Console(width=max(console.width, 112))
    gc.disable()
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as bar:
        results = {
            "machine": machine(),
            "eager": eager(options.blocks, options.repeats, bar.track),
            "tracing": tracing(max(options.blocks // 5, 2), bar.track),
            "gradients": gradients(max(options.blocks // 10, 2), bar.track),
            "import_s": importing(max(options.blocks // 10, 2), bar.track),
        }
    report(results, console)
    if not options.no_save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"dispatch-jax-{jax.__version__}.json"
        path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
