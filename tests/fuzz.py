"""Draws contractions, lowerings, plans and transformations, and compares what they give with NumPy in exact integers.

    python -m tests.fuzz --seed 0 --results 20000 --out found.jsonl

A result is one lowering of one contraction, or one plan, under one transformation. It is drawn from the seed and its
number alone. Results are made in a child process, as a compiler that is wrong may end the process: a crash and a hang
are findings as a wrong value is, and the next child goes on behind them. What the bare dot gets wrong under the same
transformation is XLA's own, and is listed apart. `--out` keeps a line for each result, and goes on where it ends. With
XLA_FLAGS=--xla_backend_optimization_level=0 it takes two thirds of the time; fusions are the same.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import math
import os
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 60  # without a word from the child: it hangs
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FLOATS = {  # the largest integer up to which all are exact
    "float8_e4m3fn": 16,
    "float8_e5m2": 8,
    "float8_e4m3b11fnuz": 16,
    "float16": 1 << 11,
    "bfloat16": 1 << 8,
    "float32": 1 << 24,
    "float64": 1 << 53,
    "complex64": 1 << 24,
    "complex128": 1 << 53,
}
INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "int4", "uint4")
WIDER = {  # other results that a dot may be asked for
    "int8": ("int32", "int16"),
    "uint8": ("uint32", "int32"),
    "int16": ("int32",),
    "float16": ("float32",),
    "bfloat16": ("float32",),
    "float8_e4m3fn": ("float32", "bfloat16"),
    "float8_e5m2": ("float32",),
    "float32": ("float64",),
}
# Dtypes that lowerings are made for come often, the others now and then.
DTYPES = ("float32",) * 6 + ("bfloat16", "float16", "int8", "uint8") * 2 + (*FLOATS, *INTEGERS)
TRANSFORMS = ("call", "jit", "grad", "vmap", "optimize", "turned", "summed", "beside")
MESHES = ((2,), (4,), (8,), (1, 8), (2, 2), (2, 4), (4, 2), (2, 2, 2), (1, 2, 4), (2, 1, 2, 2))


@dataclasses.dataclass(frozen=True)
class Case:
    """One contraction of arrays of integers, and what is done with it.

    Attributes:
        number: What it is drawn from, beside the seed.
        lhs: A letter for each axis.
        rhs: Likewise.
        out: Likewise.
        sizes: Of each letter.
        dtype: Of both operands.
        wanted: Of the result; None leaves it to the operands.
        transform: One of `TRANSFORMS`.
        seed: Of the integers, and of what the transformation draws.
    """

    number: int
    lhs: str
    rhs: str
    out: str
    sizes: dict[str, int]
    dtype: str
    wanted: str | None
    transform: str
    seed: list[int]

    @property
    def text(self) -> str:
        """The contraction, as jbdot writes it."""
        return f"{' '.join(self.lhs)}, {' '.join(self.rhs)} -> {' '.join(self.out)}"

    @property
    def wide(self) -> bool:
        """Whether it needs 64-bit types."""
        return any("64" in (name or "") and name != "complex64" for name in (self.dtype, self.wanted)) or (
            self.dtype == "complex128"
        )

    def shape(self, labels: str) -> tuple[int, ...]:
        """The sizes of some labels."""
        return tuple(self.sizes[label] for label in labels)

    def __str__(self) -> str:
        sizes = " ".join(f"{label}={size}" for label, size in self.sizes.items())
        wanted = f" to {self.wanted}" if self.wanted else ""
        return f"'{self.text}', {sizes}, {self.dtype}{wanted}, under {self.transform}, drawn from {self.seed}"


def drawn(seed: int, number: int, elements: int = 1 << 17, work: int = 1 << 21) -> Case:
    """Draws a case: of any ranks up to 8, with so many elements in an array and so many products at most."""
    draw = np.random.default_rng([seed, number])
    most = int(draw.choice([1, 2, 4, 6, 8], p=[0.03, 0.17, 0.25, 0.25, 0.3]))
    lhs_rank, rhs_rank = (int(draw.integers(max(1, most - 3), most + 1)) for _ in range(2))
    shared = int(draw.integers(0, min(lhs_rank, rhs_rank) + 1))
    while lhs_rank + rhs_rank - 2 * shared > 8:
        shared += 1
    letters = [str(letter) for letter in draw.permutation(list(LETTERS))]
    both, left = letters[:shared], letters[shared:lhs_rank]
    right = letters[lhs_rank : lhs_rank + rhs_rank - shared]
    batch = [label for label in both if draw.random() < 0.4]
    while len(batch) + len(left) + len(right) > 8:
        batch.pop()
    free = [label for label in (*left, *right) if draw.random() > 0.03]  # now and then one is summed by itself
    out = [*batch, *free]
    if draw.random() < 0.6:
        out = [str(label) for label in draw.permutation(out)]
    lhs, rhs = ("".join(draw.permutation(list(labels))) for labels in (both + left, both + right))
    used = [*both, *left, *right]
    usual = [1, 2, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 12, 16, 16, 17, 24, 31, 32, 32, 33, 48, 63, 64, 64]
    sizes = {label: int(draw.choice(usual)) for label in used}
    if draw.random() < 0.03:
        sizes[str(draw.choice(used))] = 0
    elements = min(elements, int(2 ** draw.uniform(2, math.log2(elements) + 2)))
    work = min(work, int(2 ** draw.uniform(4, math.log2(work) + 2)))

    def product(labels: Any) -> int:
        return math.prod(max(1, sizes[label]) for label in labels)

    while max(map(product, (lhs, rhs, out))) > elements or product(used) > work:
        label = str(draw.choice([label for label in used if sizes[label] > 1]))
        sizes[label] = max(1, sizes[label] // 2 + int(draw.integers(0, 2)) * (sizes[label] > 3))
    dtype = str(draw.choice(DTYPES))
    alone = any(label not in out for label in (*left, *right))  # it is summed first, in the operand's own dtype
    wanted = str(draw.choice(WIDER[dtype])) if dtype in WIDER and not alone and draw.random() < 0.25 else None
    transform = str(draw.choice(TRANSFORMS))
    if transform == "grad" and (dtype not in FLOATS or (wanted or dtype) not in FLOATS):
        transform = "jit"
    if dtype == "bool" and transform == "summed":
        transform = "jit"
    if transform == "optimize" and alone:
        transform = "jit"
    return Case(number, lhs, rhs, "".join(out), sizes, dtype, wanted, transform, [seed, number])


def einsum(formula: str, *arrays: np.ndarray) -> np.ndarray:
    """The sum of products in exact integers; of booleans, whether any is true."""
    if arrays[0].dtype == bool:
        return np.einsum(formula, *(x.astype(np.int64) for x in arrays)) > 0
    return np.einsum(formula, *arrays)


def integers(draw: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Integers that an operand of this dtype holds."""
    if dtype == "bool":
        return draw.random(shape) < 0.4
    small = {"int4": (-4, 4), "uint4": (0, 8), "uint8": (0, 256), "int8": (-127, 128)}
    low, high = small.get(dtype, (0, 9) if dtype.startswith("u") else (-4, 5))
    x = draw.integers(low, high, shape)
    return x + 1j * draw.integers(low, high, shape) if dtype.startswith("complex") else x


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is done with a product of two arrays: its arguments, what must come out, and the function of the product."""

    arrays: list[np.ndarray]
    want: list[np.ndarray]
    around: Callable[[Callable[[Any, Any], Any]], Callable[..., list[Any]]]
    axes: tuple[int | None, ...] = (None, None)  # of both operands, that a vmap maps


def trial(case: Case) -> Trial:
    """Draws what is done with a case's product."""
    import jax
    from jax import lax

    draw = np.random.default_rng(case.seed)
    lhs, rhs, out = case.lhs, case.rhs, case.out
    formula = f"{lhs},{rhs}->{out}"
    if case.transform == "grad":
        # An axis that is summed in one operand alone gets one cotangent for all of its elements.
        ones = [np.ones(case.shape(labels), np.int64) for labels in (lhs, rhs)]
        backward = [(f"{out},{rhs},{lhs}->{lhs}", (2, 1, 3)), (f"{out},{lhs},{rhs}->{rhs}", (2, 0, 4))]
        arrays, want = exact(draw, case, (lhs, rhs, out), [(formula, (0, 1)), *backward], ones)

        def grad(product: Any) -> Any:
            def run(x: Any, y: Any, ct: Any) -> list[Any]:
                made, back = jax.vjp(product, x, y)
                return [made, *back(ct)]

            return run

        return Trial(arrays[:3], want, grad)
    if case.transform == "vmap":
        extra = next(letter for letter in LETTERS if letter not in case.sizes)
        sides = {0: (0,), 1: (1,), 2: (0, 1)}[int(draw.integers(0, 3))]
        axes = [
            int(draw.integers(0, len(labels) + 1)) if side in sides else None for side, labels in enumerate((lhs, rhs))
        ]
        wide = dataclasses.replace(case, sizes=case.sizes | {extra: int(draw.integers(1, 4))})
        left, right = (
            labels if axis is None else labels[:axis] + extra + labels[axis:]
            for labels, axis in zip((lhs, rhs), axes, strict=True)
        )
        arrays, want = exact(draw, wide, (left, right), [(f"{left},{right}->{extra}{out}", (0, 1))])
        return Trial(arrays, want, lambda product: lambda x, y: [jax.vmap(product, axes)(x, y)], tuple(axes))
    if case.transform == "summed":
        kept = "".join(label for label in out if draw.random() < 0.5)
        gone = tuple(axis for axis, label in enumerate(out) if label not in kept)
        arrays, want = exact(draw, case, (lhs, rhs), [(formula, (0, 1)), (f"{lhs},{rhs}->{kept}", (0, 1))])
        return Trial(arrays, want[1:], lambda product: lambda x, y: [lax.reduce_sum(product(x, y), gone)])
    arrays, want = exact(draw, case, (lhs, rhs), [(formula, (0, 1))])
    if case.transform == "turned":
        turns = [tuple(int(axis) for axis in draw.permutation(len(labels))) for labels in (lhs, rhs, out)]
        arrays = [x.transpose(np.argsort(turn)) for x, turn in zip(arrays, turns, strict=False)]

        def turned(product: Any) -> Any:
            def run(x: Any, y: Any) -> list[Any]:
                return [lax.transpose(product(lax.transpose(x, turns[0]), lax.transpose(y, turns[1])), turns[2])]

            return run

        return Trial(arrays, [want[0].transpose(turns[2])], turned)
    if case.transform == "beside" and not case.dtype.startswith(("uint", "bool")):  # what XLA may fuse with the product
        return Trial(arrays, want, lambda product: lambda x, y: [-product(-x, y)])
    return Trial(arrays, want, lambda product: lambda x, y: [product(x, y)])


def exact(
    draw: np.random.Generator,
    case: Case,
    operands: tuple[str, ...],
    formulas: list[tuple[str, tuple[int, ...]]],
    others: list[np.ndarray] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draws operands of integers, with as many set to 0 as it takes for every sum to be exact; and the sums."""
    arrays = [integers(draw, case.shape(labels), case.dtype) for labels in operands]
    others = others or []
    limits = [FLOATS[name] for name in (case.dtype, case.wanted or case.dtype) if name in FLOATS]
    while limits:
        sizes = [np.abs(x.real) + np.abs(x.imag) for x in (*arrays, *others)]
        found = [einsum(formula, *(sizes[index] for index in which)) for formula, which in formulas]
        for labels, x in zip(operands[:2], arrays, strict=False):  # an axis of one operand alone is summed first
            alone = [
                axis for axis, label in enumerate(labels) if (*operands[0], *operands[1], *case.out).count(label) == 1
            ]
            found += [np.abs(x).sum(tuple(alone))] if alone else []
        if max([0, *(int(x.max()) for x in (*found, *sizes) if x.size)]) <= min(limits):
            break
        arrays = [x * (draw.random(x.shape) < 0.6) for x in arrays]
    return arrays, [einsum(formula, *((*arrays, *others)[index] for index in which)) for formula, which in formulas]


def product(case: Case, lowering: str) -> Callable[[Any, Any], Any]:
    """The product by a lowering, as the case's transformation calls it."""
    from jax import lax

    import jbdot

    def contract(x: Any, y: Any) -> Any:
        return jbdot.contract(case.text, x, y, preferred_element_type=case.wanted, lowering=lowering)

    def bare(x: Any, y: Any) -> Any:
        c = jbdot.Contraction.parse(case.text)
        dot = lax.dot_general(x, y, c.dimension_numbers, preferred_element_type=case.wanted)
        return lax.transpose(dot, c.permutation)

    return jbdot.optimize(bare, lowering=lowering) if case.transform == "optimize" else contract


def names(case: Case) -> list[str]:
    """The lowerings of a case, the bare dot first."""
    import jax

    from jbdot.core.contraction import Contraction
    from jbdot.one_device import choice
    from jbdot.one_device.call_plan import CallPlan

    c = Contraction.parse(case.text)
    operands = [jax.ShapeDtypeStruct(case.shape(labels), case.dtype) for labels in (case.lhs, case.rhs)]
    return [*choice.candidates(CallPlan(c).dot_spec(*operands, None, case.wanted)), "auto"]


def compared(got: list[Any], want: list[np.ndarray]) -> str:
    """Says what differs; nothing where all is as it must be."""
    for index, (found, exact) in enumerate(zip(got, want, strict=True)):
        found = np.asarray(found)
        exact = exact.astype(found.dtype)  # integers wrap
        if found.shape != exact.shape:
            return f"result {index} has shape {found.shape}, not {exact.shape}"
        wrong = np.argwhere(~np.asarray(found == exact, bool))
        if len(wrong):
            at = tuple(map(int, wrong[0]))
            return (
                f"result {index}: {len(wrong)} of {exact.size} elements wrong; [{at}] is {found[at]}, not {exact[at]}"
            )
    return ""


def tried(case: Case, lowering: str, made: Trial) -> str:
    """Runs one result: what is wrong with it, or nothing."""
    import jax

    run = made.around(product(case, lowering))
    dtypes = [case.dtype, case.dtype, case.wanted or case.dtype]
    operands = [jax.numpy.asarray(x, name) for x, name in zip(made.arrays, dtypes, strict=False)]
    return compared((run if case.transform == "call" else jax.jit(run))(*operands), made.want)


def lowerings(seed: int, number: int, only: str | None) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """The results of a number: of each its name, the case in words, and what tries it."""
    import jax

    case = drawn(seed, number)
    with jax.enable_x64(case.wide):
        made = trial(case)
        for name in names(case):
            if only in (None, name) or name == "direct":
                yield name, str(case), lambda name=name: tried(case, name, made)


class Refused(Exception):
    """A plan that is refused in our words: no result."""


def plans(seed: int, number: int, only: str | None) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """The result of a number: a plan of a random mesh, shardings and settings, under a transformation."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from jbdot.many_devices.sharding_plan import plan_sharding

    del only
    case = drawn(seed, number, elements=1 << 12, work=1 << 16)
    draw = np.random.default_rng([seed, number, 1])
    if any((case.lhs + case.rhs + case.out).count(label) == 1 for label in case.sizes) or case.dtype.endswith("int4"):
        return  # which a plan does not take
    even = {label: size if draw.random() < 0.2 or not size else -(-size // 4) * 4 for label, size in case.sizes.items()}
    if math.prod(max(1, size) for size in even.values()) <= 1 << 18:
        case = dataclasses.replace(case, sizes=even)
    transform = str(draw.choice(["call", "jit", "vmap", "grad"]))
    if transform == "grad" and (case.dtype not in FLOATS or (case.wanted or case.dtype) not in FLOATS):
        transform = "jit"
    case = dataclasses.replace(case, transform=transform)
    shape = MESHES[int(draw.integers(len(MESHES)))]
    kind = AxisType.Explicit if draw.random() < 0.4 else AxisType.Auto
    mesh = jax.make_mesh(shape, tuple("xyzw"[: len(shape)]), axis_types=(kind,) * len(shape))

    def spec(labels: str) -> PartitionSpec:
        cuts: list[list[str]] = [[] for _ in labels]
        for axis in draw.permutation(list(mesh.shape)):
            dim = int(draw.integers(-1, len(labels)))
            if dim >= 0 and case.sizes[labels[dim]] % math.prod(mesh.shape[a] for a in (*cuts[dim], axis)) == 0:
                cuts[dim].append(str(axis))
        return PartitionSpec(*(tuple(cut) or None for cut in cuts))

    specs = [spec(case.lhs), spec(case.rhs)]
    out = spec(case.out) if draw.random() < 0.7 else None
    settings = {
        "reduce": [None, None, None, "all_reduce", "reduce_scatter"][int(draw.integers(5))],
        "lowering": [None, "auto", "direct"][int(draw.integers(3))],
    }
    words = f"{case}; mesh {dict(mesh.shape)} of {kind.name}, lhs {specs[0]}, rhs {specs[1]}, out {out}, {settings}"

    def attempt() -> str:
        with jax.enable_x64(case.wide), jax.set_mesh(mesh):
            made = trial(case)
            structs = [
                jax.ShapeDtypeStruct(case.shape(labels), case.dtype, sharding=NamedSharding(mesh, end))
                for labels, end in zip((case.lhs, case.rhs), specs, strict=True)
            ]
            try:
                plan = plan_sharding(case.text, *structs, out, preferred_element_type=case.wanted, **settings)
            except ValueError as error:
                raise Refused(str(error)) from error
            run = made.around(plan)
            ends = [specs[0], specs[1], plan.spec]
            dtypes = [case.dtype, case.dtype, case.wanted or case.dtype]
            for side, axis in enumerate(made.axes):
                if axis is not None:
                    ends[side] = PartitionSpec(*ends[side][:axis], None, *ends[side][axis:])
            operands = [
                jax.device_put(jax.numpy.asarray(x, name), NamedSharding(mesh, end))
                for x, name, end in zip(made.arrays, dtypes, ends, strict=False)
            ]
            return compared((run if transform == "call" else jax.jit(run))(*operands), made.want)

    yield "plan", words, attempt


KINDS = {"lowerings": lowerings, "plans": plans}


# The child: tries one result after another, and says before and after each what it is at.


def serve(kind: str, seed: int, number: int, done: list[str], only: str | None, numbers: int) -> None:
    """Tries results from a number on, but those of it that are done."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    if kind == "plans":
        jax.config.update("jax_num_cpu_devices", 8)
    for at in range(number, number + numbers):
        try:
            for name, case, attempt in KINDS[kind](seed, at, only):
                if at == number and name in done:
                    continue
                say({"number": at, "name": name, "case": case})
                try:
                    wrong = attempt()
                    say({"number": at, "name": name, "state": "wrong" if wrong else "ok", "case": case, "what": wrong})
                except Refused as error:
                    if not str(error).startswith("plan_sharding: "):
                        say({"number": at, "name": name, "state": "error", "case": case, "what": str(error)})
                except Exception as error:
                    what = f"{type(error).__name__}: {error}"[:600]
                    say({"number": at, "name": name, "state": "error", "case": case, "what": what})
        except Exception:
            say({"number": at, "name": "", "state": "error", "case": "drawing", "what": traceback.format_exc()[-600:]})
        say({"number": at, "name": None})
    say({"number": number + numbers, "name": None, "state": "rest"})


def say(record: dict[str, Any]) -> None:
    """A line for the parent."""
    print(json.dumps(record), flush=True)


# The parent: starts children, reads what they say, and counts.


def results(
    kind: str,
    seed: int,
    number: int = 0,
    done: list[str] | None = None,
    only: str | None = None,
    numbers: int = 100,
    seconds: float = SECONDS,
) -> Iterator[dict[str, Any]]:
    """The records of results from a number on, without end; a crash or hang of the child is one too."""
    done = list(done or [])
    while True:
        command = [sys.executable, __file__, "--child", kind, "--seed", str(seed), "--number", str(number)]
        command += ["--done", ",".join(done), "--numbers", str(numbers), *(["--lowering", only] if only else [])]
        at, ended = None, "crash"
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            for line in lines(child, seconds):
                if line is None:
                    ended = "hang"
                    child.kill()
                    break
                record = json.loads(line)
                if record.get("state") == "rest" or record["name"] is None:
                    ended = "rest" if "state" in record else ended
                    number, done, at = record["number"] + ("state" not in record), [], None
                elif "state" not in record:
                    at = record
                else:
                    at = None
                    done.append(record["name"])
                    yield record
            words = child.stderr.read().decode(errors="replace").strip() if child.stderr else ""
        if ended == "rest":
            continue
        what = words[-600:] if ended == "crash" else f"nothing for {seconds} s"
        if at is None:
            raise RuntimeError(f"the child ended between results, at number {number}: {what}")
        done.append(at["name"])
        yield {**at, "state": ended, "what": f"exit status {child.returncode}; {what}"}


def lines(child: subprocess.Popen[bytes], seconds: float) -> Iterator[bytes | None]:
    """What a child says; None where it says nothing for so long."""
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    rest = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not waiting.select(seconds):
                yield None
                return
            found = child.stdout.read()
            if not found:
                return
            *whole, rest = (rest + found).split(b"\n")
            yield from whole


def counted(records: Iterator[dict[str, Any]], count: int, bad: set[int] | None = None) -> Iterator[dict[str, Any]]:
    """So many results, each with whether it is XLA's own: the bare dot of the same number was wrong as well."""
    bare: set[int] = set(bad or ())
    for record in records:
        if record["state"] != "ok":
            if record["name"] == "direct":
                bare.add(record["number"])
            if record["number"] in bare:
                record = {**record, "state": "bare"}
        yield record
        count -= 1
        if not count:
            return


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=int, default=1000)
    parser.add_argument("--only", choices=KINDS, default="lowerings")
    parser.add_argument("--lowering", help="this one alone, beside the bare dot")
    parser.add_argument("--out", type=Path, help="keeps a line for each result; goes on where it ends")
    parser.add_argument("--number", type=int, default=0, help="begin at this number")
    parser.add_argument("--numbers", type=int, default=100, help=argparse.SUPPRESS)  # of a child
    parser.add_argument("--done", default="", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        done = asked.done.split(",")
        serve(asked.child, asked.seed, asked.number, done, asked.lowering, asked.numbers)
        return 0
    before: list[dict[str, Any]] = []
    if asked.out and asked.out.exists():
        before = [json.loads(line) for line in asked.out.read_text().splitlines()]
    number = before[-1]["number"] if before else asked.number
    done = [record["name"] for record in before if record["number"] == number]
    bad = {record["number"] for record in before if record["name"] == "direct" and record["state"] != "ok"}
    states = collections.Counter(record["state"] for record in before)
    left, start = asked.results - len(before), time.monotonic()
    with asked.out.open("a") if asked.out else contextlib.nullcontext() as out:
        found = results(asked.only, asked.seed, number, done, asked.lowering, asked.numbers)
        for record in counted(found, left, bad) if left > 0 else ():
            states[record["state"]] += 1
            if out:
                print(json.dumps(record if record["state"] != "ok" else {**record, "case": ""}), file=out, flush=True)
            if record["state"] != "ok":
                print(
                    f"{record['state']}: {record['name']} of {record['number']}: {record['case']}\n  {record['what']}"
                )
    print(f"seed {asked.seed}: {dict(states)}, {time.monotonic() - start:.0f} s")
    return 1 if set(states) - {"ok", "bare"} else 0


if __name__ == "__main__":
    sys.exit(main())
