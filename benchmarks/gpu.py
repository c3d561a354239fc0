"""One GPU in a few minutes: what is fast on it, and whether what jbdot says of it is true (`python -m benchmarks.gpu`).

In this order, each part until its share of `--seconds` is over, and what a part leaves goes to the next:

1. arithmetic: each dtype and precision beside models of arithmetic, and beside what `explain` says;
2. plan: plans over a mesh of one device;
3. limits: rates of square products, and of reading and copying memory;
4. int8: which sizes a bare dot of int8 is wrong for, what it gives there, and what is right;
5. choice: random contractions by every lowering that fits, beside the one that "auto" takes;
6. experts: `lax.ragged_dot`, jbdot's loop over groups, which is for CPUs, and a dense dot of the same FLOPs;
7. workloads: jbdot, a bare `lax.dot_general`, `jnp.einsum` and `jnp.matmul`, as in the suite;
8. quick: the same workloads, compiled without Triton's kernels, which takes a tenth of the time;
9. tests: some of jbdot's own, on this device, in a process that is ended in time.

Each row is written to results/gpu-DEVICE-jax-VERSION.jsonl as soon as it is there. The same command run again goes on
where it stopped, with its seconds anew; then it writes the report and its pictures.

A time is of a block of calls that are sent one after the other, the last awaited: what a program gets that keeps the
device busy. The operands are the same random numbers at several places, taken in turn, of 128 MB in all where that
takes no more than 16 of them: a row says how many, and how many bytes. Compiling is timed apart, of several programs
at once; what takes too long there is left, and a row says so. By the profiler, each row also has what the device took
for one call, from its first kernel to the end of its last: that is without what it takes to send a call. What the least
of calls takes, one addition, is under "limits".
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import rich.console
from jax import numpy as jnp

import jbdot
from benchmarks import gpu_experts, gpu_int8, gpu_report
from benchmarks.device_trace import device_us
from benchmarks.drawn import LARGE, MEDIUM, drawn
from benchmarks.gpu_arithmetic import Asked, asked, judged
from benchmarks.peers import told
from benchmarks.report import whole_lines
from benchmarks.timing import Block, block_us, in_turns, jbdot_source, machine, threads
from benchmarks.workloads import WAYS, WORKLOADS, Case
from jbdot.hardware import known
from jbdot.one_device.choice import candidates, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.one_device.measure import platform

DTYPES: Final = ("float32", "bfloat16", "float16", "int8")
RANDOM_DTYPES: Final = ("float32", "float32", "bfloat16", "bfloat16", "float16", "int8")
SEED: Final = 20261128
CASES: Final = 60
SECONDS: Final = 240.0
BLOCK_MS: Final = (2.0, 2.0)
PLACES: Final = 16  # at most, for operands
PLACES_BYTES: Final = 128 << 20  # in all, if so many places are enough for that
SAMPLE: Final = 1 << 20  # numbers of a result that are compared
CHUNK: Final = 8  # cases that are compiled together, then timed, then profiled
COMPILING_S: Final = 25.0  # for the programs of so many cases: what is not compiled by then is left, and said
WITHOUT_TRITON: Final = {"xla_gpu_enable_triton_gemm": False}
RUNS: Final = 8  # of each program while the profiler looks
PROFILED_US: Final = 1000.0  # up to which a call is profiled: beyond it what it takes to send it is little
SLOW: Final = 30  # times the fastest of a case: beyond it a lowering is timed once
ENDING_S: Final = 12.0  # left for pytest to say what failed
AGAIN: Final = "bare again"
# Exact on whole numbers, whatever the device sums in; or about what transformations and lowerings do.
TESTS: Final = (
    "tests/one_device/test_lowerings.py",
    "tests/one_device/test_accuracy.py",
    "tests/one_device/test_lowering_rule.py",
    "tests/whole/test_transforms.py",
    "tests/whole/test_conformance.py",
)
ROOT: Final = Path(__file__).parents[1]

Row = dict[str, Any]
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        share: Of the seconds.
        keys: The names of its rows.
        rows: Makes the rows of some keys, one by one; asks whether time is over before each.
    """

    share: float
    keys: Sequence[str]
    rows: Callable[[Sequence[str], Callable[[], bool]], Iterator[Row]]


# Arithmetic, plan, limits.


def arithmetic_rows(keys: Sequence[str], is_over: Callable[[], bool]) -> Iterator[Row]:
    """A row for each dot whose arithmetic is asked for; several are compiled at once."""
    wanted = [one for one in asked() if str(one) in keys]
    with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
        for chunk in chunks(wanted, 2 * threads()):
            if is_over():
                return
            yield from pool.map(_arithmetic, chunk)


def _arithmetic(one: Asked) -> Row:
    with jax.enable_x64(True):
        said = one.said(jax.default_backend())
        try:
            got: Any = np.asarray(jax.jit(one.run)(*map(jnp.asarray, one.operands())))
        except Exception as error:  # of a compiler, of any kind: that it refuses is what is asked
            got = told(error)
        return {"key": str(one), **judged(one, got, said)}


def int8_rows(keys: Sequence[str], is_over: Callable[[], bool]) -> Iterator[Row]:
    """A row for each size and way of a dot of int8."""
    wanted = [one for one in gpu_int8.asked() if str(one) in keys]
    with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
        for chunk in chunks(wanted, 2 * threads()):
            if is_over():
                return
            yield from pool.map(gpu_int8.row, chunk)


PLANS: Final = {
    "matrices": ("m k, k n -> m n", (4096, 4096), (4096, 4096), "bfloat16"),
    "batch, k leads": ("b k m, b k n -> b m n", (64, 256, 256), (64, 256, 256), "float32"),
}


def plan_rows(keys: Sequence[str], is_over: Callable[[], bool]) -> Iterator[Row]:
    """Plans over a mesh of the one device: what they say, whether they are right, and their time beside the dot's."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    for key in keys:
        if is_over():
            return
        text, *shapes, dtype = PLANS[key]
        placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        operands = [jax.device_put(x, placed) for x in numbers(shapes, dtype)]
        try:
            kind = known(jax.devices()[0].device_kind).short or "h100"
        except ValueError:  # none is published: the plan is made with another's figures
            kind = "h100"
        made = jbdot.plan_sharding(text, *operands, hardware=kind)
        calls = {
            "plan": functools.partial(jax.jit(made), *operands),
            "plain": functools.partial(jax.jit(functools.partial(jbdot.contract, text, lowering="direct")), *operands),
        }
        far = distance(*(np.asarray(call()) for call in calls.values()))
        times, _ = in_turns({name: block(call) for name, call in calls.items()}, 0.0, BLOCK_MS)
        facts = {"hardware": kind, "said": str(made), "way": made.winner.name, "sent": made.sent}
        yield {"key": key, **facts, "far": far, "us": times}


def limits_rows(keys: Sequence[str], is_over: Callable[[], bool]) -> Iterator[Row]:
    """The rates that large operations reach, and the time of the least of calls."""
    for key in keys:
        if is_over():
            return
        kind, _, name = key.partition(" ")
        if kind == "gemm":
            x, y = (jnp.asarray(z) for z in numbers([(GEMM, GEMM)] * 2, name))
            wanted = jnp.int32 if name == "int8" else None
            function = jax.jit(lambda x, y, wanted=wanted: jax.lax.dot(x, y, preferred_element_type=wanted))
            work, unit = 2 * GEMM**3, "FLOP/s"
        elif kind == "memory":
            x = jnp.asarray(np.ones(MEMORY // 4, np.float32))
            function, y = {"read": (jax.jit(lambda x, y: x.sum()), 0), "copy": (jax.jit(lambda x, y: x + y), 1)}[name]
            work, unit = MEMORY * (2 if name == "copy" else 1), "bytes/s"
        else:
            x, y, work, unit = jnp.ones(()), 1, 1, "calls/s"
            function = jax.jit(lambda x, y: x + y)
        times, _ = in_turns({key: block(functools.partial(function, x, y))}, 0.0, BLOCK_MS)
        (traced,) = profiled([functools.partial(function, x, y)])
        yield {"key": key, "work": work, "unit": unit, "us": times[key], **traced}


GEMM: Final = 8192
MEMORY: Final = 1 << 30
LIMITS: Final = (*(f"gemm {dtype}" for dtype in DTYPES), "memory read", "memory copy", "least call")


# Choice and workloads: cases of several programs each.


@dataclasses.dataclass
class Programs:
    """A case to compile and to time.

    Attributes:
        key: Its row's.
        functions: What to compile, by name.
        operands: Of all of them, in NumPy.
        facts: What else its row says.
        sets: The operands on the device, at several places.
        lowered: What is compiled, by name.
        same: For each name the first that is the same program.
        measures: What was found, by the name of a program that others may share.
    """

    key: str
    functions: dict[str, Function]
    operands: list[np.ndarray]
    facts: Row
    sets: list[list[jax.Array]] = dataclasses.field(default_factory=list)
    lowered: dict[str, Any] = dataclasses.field(default_factory=dict)
    same: dict[str, str] = dataclasses.field(default_factory=dict)
    measures: dict[str, Row] = dataclasses.field(default_factory=dict)
    calls: dict[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)

    def prepare(self) -> None:
        """Puts the operands onto the device, and lowers the programs: each text once."""
        size = sum(x.nbytes for x in self.operands)
        places = max(1, min(PLACES, -(-PLACES_BYTES // size)))
        self.facts |= {"places": places, "places_bytes": places * size}
        self.sets = [[jax.device_put(x) for x in self.operands] for _ in range(places)]
        texts: dict[str, str] = {}
        for name, function in self.functions.items():
            try:
                lowered = jax.jit(function).lower(*self.sets[0])
            except Exception as error:  # the others are worth having
                self.measures[name], self.same[name] = {"failed": told(error)}, name
                continue
            first = texts.setdefault(program_text(lowered.as_text()), name)
            self.same[name] = first
            if first == name:
                self.lowered[name] = lowered

    def take(self, name: str, found: tuple[Any, float] | str) -> None:
        """Keeps a compiled program, or why there is none."""
        if isinstance(found, str):
            self.measures[name] = {"failed": found}
            return
        compiled, took_ms = found
        self.measures[name] = {"compile_ms": round(took_ms, 1)}
        with_analysis = compiled.memory_analysis()
        if with_analysis is not None:
            self.measures[name]["temp_bytes"] = with_analysis.temp_size_in_bytes
        places = itertools.cycle(self.sets)
        self.calls[name] = lambda: compiled(*next(places))

    def run(self, check: Callable[[dict[str, list[np.ndarray]]], dict[str, Any]]) -> None:
        """Runs each once, compares the results, and times in turns what is not very slow."""
        results: dict[str, list[np.ndarray]] = {}
        once: dict[str, float] = {}
        for name, call in list(self.calls.items()):
            try:
                results[name] = [np.asarray(x) for x in jax.tree.leaves(call())]
                once[name] = min(block_us(call, 1, jax.block_until_ready) for _ in range(2))
            except Exception as error:  # such as too little memory
                self.measures[name] |= {"failed": told(error)}
                del self.calls[name]
        for name, far in check(results).items():
            self.measures[name] |= {"far": far}
        least = min(once.values(), default=0.0)
        quick = {name: block(self.calls[name]) for name in once if once[name] < max(SLOW * least, 1e3)}
        for name in once.keys() - quick.keys():
            self.measures[name] |= {"us": [once[name]], "calls": 1}
        if self.same.get("bare") in quick:
            quick[AGAIN], self.measures[AGAIN] = block(self.calls[self.same["bare"]]), {}
        if quick:
            times, calls = in_turns(quick, 0.0, BLOCK_MS)
            for name, found in times.items():
                self.measures[name] |= {"us": [round(us, 3) for us in found], "calls": calls[name]}

    def row(self) -> Row:
        """What is stored."""
        return {"key": self.key, **self.facts, "same": self.same, "ways": self.measures}


def program_text(text: str) -> str:
    """A lowered program without its name, and without marks that say only who wrote it."""
    text = re.sub(r"module @\S+", "module", text)
    return re.sub(r" \{mhlo\.frontend_attributes = \{[^}]*\}\}", "", text)


def compile_all(cases: Sequence[Programs], options: Row) -> None:
    """Compiles the programs of some cases at once, in bounded time: nothing stops one that takes longer."""
    pool = concurrent.futures.ThreadPoolExecutor(threads())
    pending = {
        pool.submit(compiled, case.lowered[name], options): (case, name) for case in cases for name in case.lowered
    }
    done, _ = concurrent.futures.wait(pending, COMPILING_S)
    pool.shutdown(wait=False, cancel_futures=True)
    for future, (case, name) in pending.items():
        case.take(name, future.result() if future in done else f"not compiled in {COMPILING_S:g} s")


def compiled(lowered: Any, options: Row) -> tuple[Any, float] | str:
    """Compiles one program: it and the milliseconds that this took, or why it cannot be."""
    start = time.perf_counter()
    try:
        return lowered.compile(compiler_options=options or None), 1e3 * (time.perf_counter() - start)
    except Exception as error:  # the others are worth having
        return told(error)


def measured_cases(
    cases: Iterator[Programs],
    is_over: Callable[[], bool],
    check: Callable[[Programs], Any],
    options: Row | None = None,
) -> Iterator[Row]:
    """Compiles some cases at once, times one after the other, profiles them, and goes on with the next."""
    for chunk in chunks(cases, CHUNK):
        if is_over():
            return
        for case in chunk:
            case.prepare()
        compile_all(chunk, options or {})
        for case in chunk:
            case.run(check(case))
        traced = [(case.measures[name], call) for case in chunk for name, call in case.calls.items()]
        traced = [(row, call) for row, call in traced if np.median(row.get("us", [np.inf])) < PROFILED_US]
        for (row, _), found in zip(traced, profiled([call for _, call in traced]), strict=True):
            row |= found
        yield from (case.row() for case in chunk)


def choice_cases(keys: Sequence[str]) -> Iterator[Programs]:
    """Random contractions, every other one of a size for a GPU, by every lowering that fits."""
    for key in keys:
        spec, where = spec_of(key), platform()
        auto = chosen(spec, where)
        names = candidates(spec)
        functions = {name: functools.partial(LOWERINGS[name], spec) for name in names}
        facts = {"dot": str(spec), "dtype": spec.lhs_dtype, "flops": spec.flops, "auto": auto.lowering}
        facts |= {"bytes": bytes_of(spec), "untrusted": [n for n in names if not LOWERINGS[n].is_trusted(spec, where)]}
        yield Programs(key, functions, numbers([spec.lhs, spec.rhs], spec.lhs_dtype), facts)


def spec_of(key: str) -> DotSpec:
    """The contraction of a key: a number and a seed, so that any of them is drawn without the others."""
    _, number, _, seed = key.split()
    rng = random.Random(f"{seed} {number}")
    return drawn(rng, rng.choice(RANDOM_DTYPES), LARGE if int(number) % 2 else MEDIUM)


def choice_check(case: Programs) -> Callable[[dict[str, list[np.ndarray]]], dict[str, Any]]:
    """Compares with the bare dot; of int8 the bare dot is compared with NumPy."""

    def far(results: dict[str, list[np.ndarray]]) -> dict[str, Any]:
        direct = results.get("direct")
        if direct is None:
            return {}
        found = {name: distance(got[0], direct[0]) for name, got in results.items() if name != "direct"}
        spec = spec_of(case.key)
        if spec.lhs_dtype == "int8" and spec.flops <= 1 << 29:
            exact = np.einsum(spec.contraction.einsum, *(x.astype("float64") for x in case.operands))
            found["direct"] = distance(direct[0], exact)
        return found

    return far


def experts_cases(keys: Sequence[str]) -> Iterator[Programs]:
    """Ragged dots, and gradients of theirs."""
    for key in keys:
        facts = {"flops": gpu_experts.flops(key)}
        yield Programs(key, gpu_experts.functions(key), gpu_experts.operands(key, numbers), facts)


def experts_check(_: Programs) -> Callable[[dict[str, list[np.ndarray]]], dict[str, Any]]:
    """Compares the loop with lax."""

    def far(results: dict[str, list[np.ndarray]]) -> dict[str, Any]:
        has_both = "lax" in results and "grouped" in results
        return {"grouped": max(map(distance, results["grouped"], results["lax"]))} if has_both else {}

    return far


def workload_cases(keys: Sequence[str], small: bool) -> Iterator[Programs]:
    """The suite's cases, in every JAX way."""
    by_key = {workload_key(case): case for case in workloads()}
    for key in keys:
        case = by_key[key]
        case = dataclasses.replace(case, workload=case.workload.small()) if small else case
        task = case.task
        shapes = [*task["shapes"], task["out"]] if case.is_gradient else task["shapes"]
        facts = {**case.key, "flops": case.flops, "bytes": case.bytes}
        functions = {way: case.function(way) for way in WAYS}
        yield Programs(key, functions, numbers(shapes, case.dtype), facts)


def workload_check(case: Programs) -> Callable[[dict[str, list[np.ndarray]]], dict[str, Any]]:
    """Compares each way with the bare dot."""

    def far(results: dict[str, list[np.ndarray]]) -> dict[str, Any]:
        bare = results.get(case.same.get("bare", ""))
        others = {} if bare is None else results
        return {name: max(map(distance, got, bare)) for name, got in others.items() if got is not bare}

    return far


def workloads() -> list[Case]:
    """All in the dtypes at hand, forward ones first; of each family one, then the second of each, and so on."""
    seen: dict[str, int] = {}
    order: dict[str, int] = {}
    for workload in WORKLOADS:
        order[workload.name] = seen[workload.family] = seen.get(workload.family, -1) + 1
    found = [
        Case(workload, dtype, direction)
        for workload in WORKLOADS
        for dtype in workload.dtypes
        if dtype in DTYPES
        for direction in workload.directions(dtype)
    ]
    return sorted(found, key=lambda case: (case.is_gradient, order[case.workload.name]))


def workload_key(case: Case) -> str:
    return "; ".join(case.key.values())


# Tests.


def tests_rows(keys: Sequence[str], end: float, device_platform: str) -> Iterator[Row]:
    """Runs test files on this device, in a process that is told to end in time; a row for each file."""
    variables = {
        "JBDOT_TEST_PLATFORMS": device_platform,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # others' plugins may warn, and a warning is an error
    }
    command = [sys.executable, "-m", "pytest", *keys, "-v", "-p", "no:cacheprovider", "--tb=line", "--color=no"]
    has_workers = jax.devices()[0].platform != "cpu" and threads() >= 8 and importlib.util.find_spec("xdist")
    command += ["-p", "xdist.plugin", "-n", "6", "--dist", "loadfile"] if has_workers else []
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    start = time.monotonic()
    if start > end:
        return
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, **pipes) as process:
        try:
            text, _ = process.communicate(timeout=max(1.0, end - time.monotonic()))
            is_whole = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # then pytest says what failed so far
            is_whole = False
            try:
                text, _ = process.communicate(timeout=8)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                text, _ = process.communicate()
    took_s = round(time.monotonic() - start, 1)
    text = text.replace(sys.prefix, "...").replace(str(ROOT), "...")
    outcomes = outcomes_of(text)
    for key in keys:
        mine = {name: outcome for name, outcome in outcomes.items() if name.startswith(key)}
        counts = {word: list(mine.values()).count(word) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
        bad = [name for name, outcome in mine.items() if outcome in ("FAILED", "ERROR")]
        is_partial = not is_whole or not mine
        yield {"key": key, **counts, "is_partial": is_partial, "bad": bad, "all_took_s": took_s}
    if not outcomes:
        print(text[-3000:], file=sys.stderr)
    reasons = [line[:300] for line in text.splitlines() if re.match(r"E  |FAILED|ERROR|.*\.py:\d+: ", line)]
    yield {"key": "what pytest said", "lines": reasons[:200], "end": text[-3000:]}


def outcomes_of(text: str) -> dict[str, str]:
    """The outcome of each test, from what `pytest -v` says, with workers or without."""
    words = "PASSED|FAILED|ERROR|SKIPPED"
    pattern = rf"^(?:\[gw\d+\]\s+\[ *\d+%\] )?(?:({words}) (\S.*)|(tests/\S.*?) ({words})\b.*)$"
    found: dict[str, str] = {}
    for match in re.finditer(pattern, text, re.MULTILINE):
        first, name, other, second = match.groups()
        found.setdefault((name or other).split(" - ")[0].strip(), first or second)
    return found


# The run.


def numbers(shapes: Sequence[tuple[int, ...]], dtype: str) -> list[np.ndarray]:
    """Random numbers, the same for the same shapes: standard normal, or whole numbers of the dtype's full range."""
    pool = _pool("whole" if "int" in dtype else "normal")
    found: list[np.ndarray] = []
    for index, shape in enumerate(shapes):
        size = int(np.prod(shape))
        flat = np.resize(pool[997 * index :], size)
        found.append(flat.astype(jnp.dtype(dtype)).reshape(shape))
    return found


@functools.cache
def _pool(kind: str) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    count = (1 << 22) + 1  # odd, so that no two rows of a matrix begin alike
    return rng.standard_normal(count, np.float32) if kind == "normal" else rng.integers(-128, 128, count, np.int8)


def profiled(calls: list[Callable[[], Any]]) -> list[dict[str, Any]]:
    """What the profiler says of each call; where there is none that works, why."""
    try:
        return device_us(calls, RUNS)
    except Exception as error:  # the times of calls are worth having
        return [{"unprofiled": told(error)} for _ in calls]


def block(call: Callable[[], Any]) -> Block:
    """Blocks of calls that are sent one after the other, the last awaited, after one that is not counted."""

    def run(calls: int) -> float:
        jax.block_until_ready(call())
        return block_us(call, calls, jax.block_until_ready)

    return run


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The rms difference over the rms value; of whole numbers the part of them that differ. Of a million at most."""
    step = got.size // SAMPLE + 1
    got, want = (x.reshape(-1)[:: step + 1 - step % 2] for x in (got, want))  # odd, so that every column is among them
    if got.dtype.kind in "iub":
        return float(np.mean(got != want))
    got, want = (x.astype("float64") for x in (got, want))
    scale = np.linalg.norm(want)
    return float(np.linalg.norm(got - want) / scale) if scale else 0.0


def bytes_of(spec: DotSpec) -> int:
    """Of operands and result, once."""
    size = jnp.dtype(spec.lhs_dtype).itemsize
    return size * int(np.prod(spec.lhs) + np.prod(spec.rhs)) + jnp.dtype(spec.dtype).itemsize * int(np.prod(spec.out))


def chunks(items: Any, size: int) -> Iterator[list[Any]]:
    """Lists of so many items, the last of fewer."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def parts(asked_for: argparse.Namespace, end: float) -> dict[str, Part]:
    """All parts, in order."""
    random_keys = [f"random {i} seed {asked_for.seed}" for i in range(asked_for.count)]
    named = [workload_key(case) for case in workloads() if re.search(asked_for.only, case.workload.name)]
    device_platform = {"gpu": "cuda,cpu"}.get(jax.default_backend(), jax.default_backend())

    def measured_workloads(keys: Sequence[str], over: Callable[[], bool], options: Row | None = None) -> Iterator[Row]:
        return measured_cases(workload_cases(keys, asked_for.small), over, workload_check, options)

    return {
        "arithmetic": Part(0.09, [str(one) for one in asked()], arithmetic_rows),
        "plan": Part(0.01, list(PLANS), plan_rows),
        "limits": Part(0.04, list(LIMITS), limits_rows),
        "int8": Part(0.05, [str(one) for one in gpu_int8.asked()], int8_rows),
        "choice": Part(0.36, random_keys, lambda keys, over: measured_cases(choice_cases(keys), over, choice_check)),
        "experts": Part(
            0.04,
            gpu_experts.keys(asked_for.small),
            lambda keys, over: measured_cases(experts_cases(keys), over, experts_check),
        ),
        "workloads": Part(0.10, named, measured_workloads),
        "quick": Part(0.18, named, lambda keys, over: measured_workloads(keys, over, WITHOUT_TRITON)),
        "tests": Part(0.13, asked_for.tests, lambda keys, over: tests_rows(keys, end - ENDING_S, device_platform)),
    }


def facts() -> Row:
    """What all rows have in common."""
    return {
        "machine": {**machine(), "jbdot_source": jbdot_source(), "threads": threads()},
        "device": jax.devices()[0].device_kind,
        "runtime": " ".join(jax.devices()[0].client.platform_version.split()),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "inputs": "standard normal numbers; whole numbers of int8's full range",
    }


def file_name(device: str) -> str:
    """The stem of all files of a device."""
    return f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-jax-{jax.__version__}"


def opened(path: Path, now: Row, fresh: bool) -> set[tuple[str, str]]:
    """Begins a file, or reads which rows one has.

    Raises:
        SystemExit: It was measured with other versions, on another machine, or of another state of jbdot.
    """
    if fresh or not path.exists() or not whole_lines(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now) + "\n")
    os.truncate(path, sum(len(line.encode()) + 1 for line in whole_lines(path)))
    stored, *rows = (json.loads(line) for line in whole_lines(path))
    differing = [f"  {name}: {stored.get(name)}\n  now: {now[name]}" for name in now if stored.get(name) != now[name]]
    if differing:
        raise SystemExit("\n".join([f"{path} was measured otherwise:", *differing, "--fresh starts over."]))
    return {(row["part"], row["key"]) for row in rows if not row.get("is_partial")}


def run(options: argparse.Namespace, console: rich.console.Console) -> Path:
    """Measures until the seconds are over, and writes each row."""
    start = time.monotonic()
    end = start + options.seconds
    path = options.results / f"{file_name(jax.devices()[0].device_kind)}.jsonl"
    done, share = opened(path, facts(), options.fresh), 0.0
    with path.open("a") as file:
        for name, part in parts(options, end).items():
            share += part.share
            due = start + options.seconds * share
            left = [key for key in part.keys if (name, key) not in done]
            if name not in options.parts or not left:
                continue
            count = 0
            try:
                for row in part.rows(left, lambda due=due: time.monotonic() > due):
                    print(json.dumps({"part": name, **row}), file=file, flush=True)
                    count += row["key"] in left and not row.get("is_partial")
            except Exception as error:  # the other parts are worth having
                trace = traceback.format_exc()
                row = {"part": name, "key": "failed", "failed": told(error), "traceback": trace}
                print(json.dumps(row), file=file, flush=True)
                console.print(trace, highlight=False, markup=False)
            at = time.monotonic() - start
            missed = max(0, len(left) - count)
            print(
                json.dumps({"part": "left", "key": name, "left": missed, "of": len(part.keys)}), file=file, flush=True
            )
            console.print(f"{at:6.1f} s  {name}: {count} rows of {len(left)}", highlight=False)
    return path


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it (%(default)s)")
    names = ("arithmetic", "plan", "limits", "int8", "choice", "experts", "workloads", "quick", "tests")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="some of " + ", ".join(names))
    parser.add_argument("--seed", type=int, default=SEED, help="of the random contractions (%(default)s)")
    parser.add_argument("--count", type=int, default=CASES, help="of random contractions (%(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name has a match")
    parser.add_argument("--tests", nargs="*", default=list(TESTS), help="test files")
    parser.add_argument("--small", action="store_true", help="workloads of tiny sizes, to try the command itself")
    parser.add_argument("--fresh", action="store_true", help="start over, instead of going on")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where to write")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Measures, and writes the rows, the report and its pictures."""
    options = arguments().parse_args(args)
    console = rich.console.Console(stderr=True)
    os.environ.setdefault("JBDOT_TUNED", "off")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the tests' process needs memory too
    path = run(options, console)
    for written in gpu_report.write(path):
        console.print(f"written: {written}", highlight=False)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a program that is still being compiled is not waited for
