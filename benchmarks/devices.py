"""Many devices: parts of models, planned by jbdot and as plain jit, side by side (`python -m benchmarks.devices`).

Each workload is one contraction or a short chain, on a mesh, with a sharding for each operand and for the result. It is
said twice from these same facts: by `jbdot.plan_sharding`, a plan for each contraction, and as plain jit, `jnp.einsum`
with `out_shardings`. Both are compiled, compared, and timed in turns with one device's product of square matrices, for
1, 2, 4, 8, ... devices: strong scaling (all devices share one size) and weak (each adds an eighth of it). Each number
of devices is a process. Each row is written to results/devices-jax-VERSION.jsonl as soon as it is measured; the same
command run again goes on where it was stopped, and makes the report and its picture.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import rich.console
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jbdot
from benchmarks import __main__ as suite
from benchmarks import devices_report as report
from benchmarks.peers import told
from benchmarks.timing import in_turns, jbdot_source, machine, ratio, spread, threads
from jbdot import Contraction, ShardingPlan, hardware, hlo
from jbdot.many_devices import partition_spec

SCALINGS: Final = ("strong", "weak")
BETWEEN: Final[dict[str, Callable[[Any], Any]]] = {"gelu": jax.nn.gelu, "softmax": jax.nn.softmax}
VIRTUAL: Final = (1, 2, 4, 8)  # CPU devices
QUICK: Final = (1, 4)
PRESETS: Final = ("tiny", "small", "large")
TINY: Final = 16  # the longest label, for tests
SQUARE: Final = {"tiny": 16, "small": 768, "large": 8192}  # of the product that shows one device's peak
PARTS: Final = 8  # of the size of strong scaling: what each device has in weak scaling
TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.05}  # of the largest entry
BUDGET_S: Final = 0.5


@dataclasses.dataclass(frozen=True)
class Workload:
    """A contraction, or a chain of them, over a mesh.

    In a chain each contraction takes the result of the one before as its left operand; how that is sharded is left
    open to both programs.

    Attributes:
        name: The part of a model, then how it is spread.
        what: What moves, as a reader of the field would expect it.
        texts: The contractions; behind a label stands, after a slash, what cuts it: "t/data d, d f/data+model -> t f".
        sizes: The length of each label on CPUs and on accelerators.
        grows: The label whose length grows with the devices in weak scaling.
        between: What is done to the result of one contraction before the next; a key of `BETWEEN`.
    """

    name: str
    what: str
    texts: tuple[str, ...]
    sizes: dict[str, tuple[int, int]]
    grows: str
    between: str = ""

    @functools.cached_property
    def contractions(self) -> tuple[Contraction, ...]:
        """The chain, parsed."""
        return tuple(Contraction.parse(re.sub(r"/[\w+]+", "", text)) for text in self.texts)

    @functools.cached_property
    def axes(self) -> tuple[str, ...]:
        """The mesh's axes."""
        marks = re.findall(r"/([\w+]+)", " ".join(self.texts))
        return tuple(sorted({axis for mark in marks for axis in mark.split("+")}))

    @functools.cached_property
    def specs(self) -> tuple[PartitionSpec, ...]:
        """Of the operands: both of the first contraction, then the right one of each; and of the last result."""
        sides = [[_spec(array) for array in re.split(r",|->", text)] for text in self.texts]
        return (sides[0][0], *(rhs for _, rhs, _ in sides), sides[-1][-1])


def _spec(array: str) -> PartitionSpec:
    marks = [label.partition("/")[2] for label in array.split()]
    return partition_spec.written(tuple(tuple(filter(None, mark.split("+"))) for mark in marks))


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload of some size on so many devices: a row of the results."""

    workload: Workload
    scaling: str
    devices: int
    preset: str = "small"

    @property
    def key(self) -> dict[str, Any]:
        """What a row is found again by."""
        return {"workload": self.workload.name, "scaling": self.scaling, "devices": self.devices}

    @property
    def mesh(self) -> dict[str, int]:
        """The length of each mesh axis: of two, the first is the shorter one."""
        if len(self.workload.axes) == 1:
            return {self.workload.axes[0]: self.devices}
        short = max(size for size in range(1, math.isqrt(self.devices) + 1) if self.devices % size == 0)
        return dict(zip(self.workload.axes, (short, self.devices // short), strict=True))

    @property
    def dtype(self) -> str:
        """What accelerators are made for, and what CPUs are."""
        return "bfloat16" if self.preset == "large" else "float32"

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """The length of each label."""
        found = {label: both[self.preset == "large"] for label, both in self.workload.sizes.items()}
        if self.preset == "tiny":
            found = {label: min(size, TINY) for label, size in found.items()}
        if self.scaling == "weak":
            found[self.workload.grows] = found[self.workload.grows] * self.devices // PARTS
        return found

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the operands."""
        first, *_ = self.workload.contractions
        arrays = (first.lhs, *(c.rhs for c in self.workload.contractions))
        return tuple(tuple(self.sizes[label] for label in labels) for labels in arrays)

    @property
    def flops(self) -> int:
        """Of all contractions, over the devices: 2 for each multiply-add."""
        labels = [{*c.lhs, *c.rhs} for c in self.workload.contractions]
        return sum(2 * math.prod(self.sizes[label] for label in each) for each in labels) // self.devices

    def placed(self, mesh: Mesh) -> tuple[list[jax.ShapeDtypeStruct], NamedSharding]:
        """The operands, and where the result is wanted."""
        *specs, end = (NamedSharding(mesh, spec) for spec in self.workload.specs)
        pairs = zip(self.shapes, specs, strict=True)
        return [jax.ShapeDtypeStruct(shape, self.dtype, sharding=spec) for shape, spec in pairs], end

    def plans(self, mesh: Mesh) -> list[ShardingPlan]:
        """A plan for each contraction; what stands between two is left to the first of them."""
        (lhs, *others), end = self.placed(mesh)
        found: list[ShardingPlan] = []
        for c, rhs in zip(self.workload.contractions, others, strict=True):
            out = end.spec if len(found) + 1 == len(others) else None
            found.append(jbdot.plan_sharding(c, lhs, rhs, out))
            lhs = found[-1].out
        return found

    def chained(self, steps: Iterable[Callable[[Any, Any], Any]]) -> Callable[..., Any]:
        """The workload, its contractions said by these functions."""
        between = BETWEEN.get(self.workload.between, lambda x: x)
        first, *others = steps

        def run(lhs: Any, rhs: Any, *more: Any) -> Any:
            x = first(lhs, rhs)
            for step, other in zip(others, more, strict=True):
                x = step(between(x), other)
            return x

        return run

    def plain(self) -> Callable[..., Any]:
        """The workload as one writes it without a planner."""
        return self.chained(functools.partial(jnp.einsum, c.einsum) for c in self.workload.contractions)


# What is measured, in a process with so many devices.


class Program(suite.Program):
    """A function compiled for operands on a mesh, with what its compiled text says that it sends."""

    def __init__(self, function: Callable[..., Any], args: list[jax.Array], out: Any = None) -> None:
        start = time.perf_counter()
        self._compiled = jax.jit(function, out_shardings=out).lower(*args).compile()
        self._args = args
        memory, cost = self._compiled.memory_analysis(), self._compiled.cost_analysis()
        self.facts = {
            "compile_ms": round(1e3 * (time.perf_counter() - start), 3),
            "temp_bytes": getattr(memory, "temp_size_in_bytes", None),
            "flops": (cost or {}).get("flops"),
            **in_text(self._compiled.as_text()),
        }


def in_text(text: str) -> dict[str, Any]:
    """Bytes that each device sends and the collectives that send them, read in compiled text; none where unreadable."""
    try:
        found = Counter[str]()
        for each in hlo.collectives(text):
            found[each.kind] += each.times
        return {"sent": hlo.bytes_sent(text), "collectives": found}
    except hlo.Unreadable as error:
        return {"sent": None, "collectives": {told(error): 1}}


def on_mesh(case: Case) -> Mesh:
    """The mesh of a case, over the first devices."""
    shape, names = tuple(case.mesh.values()), tuple(case.mesh)
    kinds = (AxisType.Auto,) * len(names)
    return jax.make_mesh(shape, names, axis_types=kinds, devices=jax.devices()[: case.devices])


def operands(case: Case, mesh: Mesh) -> list[jax.Array]:
    """Standard normal operands, made where they belong; those after the first over the root of what is summed."""
    placed, _ = case.placed(mesh)

    def make() -> list[jax.Array]:
        found: list[jax.Array] = []
        for number, x in enumerate(placed):
            contracting = case.workload.contractions[max(0, number - 1)].contracting
            scale = math.prod(case.sizes[label] for label in contracting) ** -0.5 if number else 1.0
            found.append((scale * jax.random.normal(jax.random.key(number), x.shape)).astype(x.dtype))
        return found

    return jax.jit(make, out_shardings=[x.sharding for x in placed])()


@functools.cache
def square(n: int, dtype: str) -> Program:
    """What one device does best: a product of square matrices."""
    draw = np.random.default_rng(0).standard_normal
    return Program(jnp.matmul, [jax.device_put(draw((n, n)).astype(dtype), jax.devices()[0]) for _ in range(2)])


def measured(case: Case, budget_s: float) -> dict[str, Any]:
    """Measures a case: both programs and one device's product, in turns.

    Raises:
        AssertionError: Both programs do not compute the same.
    """
    mesh = on_mesh(case)
    args, end = operands(case, mesh), case.placed(mesh)[1]
    start = time.perf_counter()
    plans = case.plans(mesh)
    plan_ms = round(1e3 * (time.perf_counter() - start), 3)
    programs = {"plan": Program(case.chained(plans), args, end), "plain": Program(case.plain(), args, end)}
    error = compared(programs["plan"](), programs["plain"](), TOLERANCE[case.dtype])
    programs["square"] = square(SQUARE[case.preset], case.dtype)
    gc.collect()
    times, calls = in_turns({name: program.block for name, program in programs.items()}, budget_s)
    found = {
        name: program.facts | {"us": spread(times[name]), "calls": calls[name]} for name, program in programs.items()
    }
    return {
        "rounds": len(times["plan"]),
        "planned": {"ms": plan_ms, **counted(plans)},
        **found,
        "ratio": ratio(times["plan"], times["plain"]),
        "of_square": {name: rate(case, times[name], times["square"]) for name in ("plan", "plain")},
        "error": error,
        "same_program": programs["plan"].text() == programs["plain"].text(),
    }


def rate(case: Case, times: list[float], squares: list[float]) -> dict[str, float]:
    """FLOP/s of each device, over those of one device alone in the same round."""
    part = case.flops / (2 * SQUARE[case.preset] ** 3)
    return spread([part * alone / us for us, alone in zip(times, squares, strict=True)])


def counted(plans: Sequence[ShardingPlan]) -> dict[str, Any]:
    """What plans say of themselves: the way of each, its collectives, bytes, and what plain jit is expected to send."""
    moves = [
        {"step": number, "of": name, "kind": step.kind, "axes": step.axes, "sent": step.sent(block)}
        for number, plan in enumerate(plans)
        for name, way in plan.winner.ways
        for step, block in zip(way.steps, way.blocks, strict=False)
        if step.axes and step.kind != "slice"
    ]
    return {
        "ways": ["plain jit" if plan.is_plain else plan.winner.name for plan in plans],
        "results": [partition_spec.code(plan.spec) for plan in plans],
        "moves": moves,
        "sent": sum(plan.sent for plan in plans),
        "plain_sent": sum(plan.plain[0].sent for plan in plans),
        "estimate_us": sum(plan.estimate.total_us for plan in plans),
    }


def compared(found: jax.Array, expected: jax.Array, tolerance: float) -> float:
    """The largest difference, over the largest entry.

    Raises:
        AssertionError: It is above the tolerance.
    """
    error = float(jax.jit(lambda x, y: jnp.abs(x - y).max() / jnp.abs(y).max())(found, expected))
    if not error <= tolerance:
        raise AssertionError(f"plan and plain jit differ by {error:.2g} of the largest entry")
    return error


def row(case: Case, budget_s: float) -> dict[str, Any]:
    """A row; of a case that fails, its reason."""
    facts = {**case.key, "mesh": case.mesh, "sizes": case.sizes, "dtype": case.dtype, "budget_s": budget_s}
    facts |= {"flops": case.flops, "square_flops": 2 * SQUARE[case.preset] ** 3}
    try:
        return facts | measured(case, budget_s)
    except Exception as error:  # the other rows are worth having
        return facts | {"failed": told(error)}


def facts_of_devices() -> dict[str, Any]:
    """What the devices are, and the published peak of each where one is known."""
    device = jax.devices()[0]
    facts = {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()}
    with contextlib.suppress(ValueError):
        if device.platform != "cpu":
            facts["peak"] = {dtype: hardware.of(device).rate(dtype) for dtype in TOLERANCE}
    return {**machine(), **facts, "jbdot_source": jbdot_source(), "threads": threads()}


def serve() -> None:
    """Measures what is asked for, a line each, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a compiler prints is no answer
    print(json.dumps(facts_of_devices()), file=answers)
    gc.disable()
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        case = Case(NAMED[asked["workload"]], asked["scaling"], asked["devices"], asked["preset"])
        print(json.dumps(row(case, asked["budget_s"])), file=answers)


# The run.


class Lost(Exception):
    """A process with devices ended."""


class Worker:
    """A process with so many CPU devices, or with what other devices there are.

    Attributes:
        facts: What its devices are.

    Raises:
        Lost: It did not start.
    """

    def __init__(self, devices: int) -> None:
        self.devices = devices
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.devices", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # an interrupt at the terminal is left to us
            env={"JBDOT_TUNED": "off", **os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            cwd=Path(__file__).parent.parent,
        )
        self.facts = self._answer()

    def row(self, case: Case, budget_s: float) -> dict[str, Any]:
        """Has a case measured."""
        asked = {**case.key, "preset": case.preset, "budget_s": budget_s}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError), self._process as process:
            process.kill()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise Lost(f"the process with {self.devices} devices ended with status {self._process.wait()}")
        return json.loads(line)


class Workers:
    """One worker at a time: a device may be in use by one process only."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the one that runs."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def on(self, devices: int) -> Worker:
        """The one with so many devices; the one before is ended."""
        if self._worker is None or self._worker.devices != devices:
            self.close()
            self._worker = Worker(devices)
        return self._worker

    def row(self, case: Case, budget_s: float) -> dict[str, Any]:
        """Has a case measured; a process that ends is a failure of the row."""
        try:
            return self.on(case.devices).row(case, budget_s)
        except Lost as lost:
            self.close()
            return {**case.key, "failed": str(lost)}


def counts(facts: dict[str, Any], asked: list[int] | None, quick: bool) -> list[int]:
    """The numbers of devices: as asked, else 1, 2, 4, ...; as far as there are any, but for CPU devices."""
    if facts["platform"] == "cpu":
        return asked or list(QUICK if quick else VIRTUAL)
    some = asked or [*itertools.takewhile(lambda n: n < facts["count"], (2**i for i in range(20))), facts["count"]]
    return [count for count in some if count <= facts["count"]]


def cases(options: argparse.Namespace, facts: dict[str, Any]) -> list[Case]:
    """Every case, by number of devices: a process for each."""
    chosen = [workload for workload in WORKLOADS if re.search(options.only, workload.name)]
    some = itertools.product(counts(facts, options.devices, options.quick), chosen, options.scalings)
    return [Case(workload, scaling, devices, facts["preset"]) for devices, workload, scaling in some]


def opened(path: Path, facts: dict[str, Any], fresh: bool) -> report.Run:
    """The run that a file holds, or a new one.

    Raises:
        SystemExit: The file was measured with other versions or on other devices.
    """
    if fresh or not path.exists() or not report.whole_lines(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts) + "\n")
    os.truncate(path, sum(len(line) + 1 for line in report.whole_lines(path)))
    stored = report.load(path)
    pairs = {name: (stored.facts.get(name), value) for name, value in facts.items()}
    differing = [f"  {name}: {was}, now {value}" for name, (was, value) in pairs.items() if was != value]
    if differing:
        raise SystemExit("\n".join([f"{path} was measured otherwise:", *differing, "--fresh starts over."]))
    return stored


def is_stored(case: Case, stored: report.Run, budget_s: float) -> bool:
    """Whether a row is there, with as many rounds."""
    found = stored.measured.get(tuple(case.key.values()))
    return found is not None and found["budget_s"] >= budget_s


def run(options: argparse.Namespace, console: rich.console.Console) -> tuple[Path, int]:
    """Measures what is asked for and not there yet; answers where that is and how many rows failed."""
    with Workers() as workers, suite.progress(console) as bar:
        facts = workers.on(1).facts
        on_cpu = facts["platform"] == "cpu"
        facts["preset"] = options.preset or ("small" if on_cpu else "large")
        path = options.results / f"devices{'' if on_cpu else '-' + facts['platform']}-jax-{jax.__version__}.jsonl"
        stored, wanted = opened(path, facts, options.fresh), cases(options, facts)
        left = [case for case in wanted if not is_stored(case, stored, options.budget)]
        task = bar.add_task("", total=len(wanted), completed=len(wanted) - len(left))
        failed = 0
        with path.open("a") as file:
            for case in left:
                bar.update(task, description=", ".join(map(str, case.key.values())) + " devices", refresh=True)
                found = workers.row(case, options.budget)
                failed += "failed" in found
                print(json.dumps(found), file=file, flush=True)
                bar.advance(task)
    return path, failed


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser("python -m benchmarks.devices", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name has a match")
    parser.add_argument("--devices", type=numbers, metavar="1,2,4", help="numbers of devices")
    parser.add_argument("--scalings", type=suite.names_among(SCALINGS), default=SCALINGS, help="strong or weak")
    parser.add_argument("--preset", choices=PRESETS, help="sizes; small on CPUs, large in bfloat16 on accelerators")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds of timing for each row (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="few rounds, on 1 and 4 CPU devices")
    parser.add_argument("--fresh", action="store_true", help="start over, instead of going on")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where to write")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Measures, and writes the rows, the report and its picture."""
    options = arguments().parse_args(args)
    if options.serve:
        serve()
        return 0
    options.budget = 0.0 if options.quick else options.budget
    console = rich.console.Console(stderr=True)
    try:
        path, failed = run(options, console)
    except KeyboardInterrupt:
        console.print("Stopped. What was measured is kept; the same command, without --fresh, goes on from there.")
        return 130
    for written in report.write(path):
        console.print(f"written: {written}", highlight=False)
    return 1 if failed else 0


_TOKENS: Final = {"t": (4096, 16384), "d": (512, 4096), "f": (1024, 16384)}  # more tokens than features
_FEATURES: Final = {"t": (512, 4096), "d": (1024, 4096), "f": (4096, 16384)}
_HEADS: Final = {"b": (8, 8), "h": (8, 16), "q": (256, 2048), "k": (256, 2048), "d": (64, 128)}
_LONG: Final = {"b": (1, 1), "h": (16, 64), "q": (512, 4096), "k": (512, 4096), "d": (64, 128)}
_EXPERTS: Final = {"e": (16, 64), "c": (256, 1024), "d": (256, 2048), "f": (512, 4096)}
_GRADIENT: Final = {"t": (2048, 16384), "d": (1024, 4096), "f": (1024, 16384)}
_GELU: Final = {"sizes": _TOKENS, "grows": "t", "between": "gelu"}
_WIDE: Final = {"sizes": _FEATURES, "grows": "f", "between": "gelu"}
_SOFTMAX: Final = {"sizes": _HEADS, "between": "softmax"}

WORKLOADS: Final = (
    Workload("MLP, data-parallel", "nothing moves", ("t/data d, d f -> t f", "t f, f d -> t/data d"), **_GELU),
    Workload(
        "MLP, tensor-parallel", "sums are added whole", ("t d, d f/model -> t f", "t f, f/model d -> t d"), **_WIDE
    ),
    Workload(
        "MLP, sequence-parallel",
        "tokens are gathered, sums scattered",
        ("t/model d, d f/model -> t f", "t f, f/model d -> t/model d"),
        **_WIDE,
    ),
    Workload("MLP, FSDP", "weights are gathered", ("t/data d, d/data f -> t f", "t f, f/data d -> t/data d"), **_GELU),
    Workload(
        "MLP, FSDP and tensor-parallel",
        "weights are gathered along one mesh axis, sums added along the other",
        ("t/data d, d/data f/model -> t f", "t f, f/model d/data -> t/data d"),
        **_GELU,
    ),
    Workload(
        "attention, data-parallel",
        "nothing moves",
        ("b/data q h d, b/data k h d -> b h q k", "b h q k, b/data k h d -> b/data q h d"),
        grows="b",
        **_SOFTMAX,
    ),
    Workload(
        "attention, tensor-parallel",
        "nothing moves",
        ("b q h/model d, b k h/model d -> b h q k", "b h q k, b k h/model d -> b q h/model d"),
        grows="h",
        **_SOFTMAX,
    ),
    Workload(
        "attention, sequence-parallel",
        "keys and values are gathered, or heads exchanged",
        ("b q/seq h d, b k/seq h d -> b h q k", "b h q k, b k/seq h d -> b q/seq h d"),
        grows="h",
        **{**_SOFTMAX, "sizes": _LONG},
    ),
    Workload("weight gradient, data-parallel", "sums are added whole", ("t/data d, t/data f -> d f",), _GRADIENT, "t"),
    Workload("weight gradient, FSDP", "sums are scattered", ("t/data d, t/data f -> d/data f",), _GRADIENT, "t"),
    Workload(
        "experts, tokens in place",
        "nothing moves: an expert-parallel batch_dot",
        ("e/expert c d, e/expert d f -> e/expert c f",),
        _EXPERTS,
        "e",
    ),
    Workload(
        "experts, tokens by device",
        "tokens are exchanged, there and back",
        ("e c/expert d, e/expert d f -> e c f", "e c f, e/expert f d -> e c/expert d"),
        _EXPERTS,
        "e",
        "gelu",
    ),
    Workload(
        "retrieval, sharded corpus",
        "queries are gathered",
        ("q/corpus d, c/corpus d -> q c/corpus",),
        {"q": (64, 1024), "d": (128, 128), "c": (65536, 1 << 20)},
        "c",
    ),
    Workload(
        "batch_dot, cut along k, wanted by batch",
        "both operands are exchanged",
        ("b m k/x, b k/x n -> b/x m n",),
        {"b": (32, 64), "m": (256, 2048), "k": (256, 2048), "n": (256, 2048)},
        "b",
    ),
    Workload(
        "gemm, cut along k, wanted in tiles",
        "sums are scattered, or operands exchanged and gathered",
        ("m k/x+y, k/x+y n -> m/x n/y",),
        {"m": (1024, 8192), "k": (2048, 8192), "n": (1024, 8192)},
        "k",
    ),
)
NAMED: Final = {workload.name: workload for workload in WORKLOADS}


if __name__ == "__main__":
    sys.exit(main())
