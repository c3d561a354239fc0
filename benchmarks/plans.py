"""Plans against plain jit by the real TPU compiler, with no TPU (`python -m benchmarks.plans`, where `jax[tpu]` is).

Every combination of input shardings of a gemm and of a batch_dot on two mesh axes, with results given and free: both
programs are compiled, and what each device sends, holds and computes is read off the compiled text. All is bfloat16,
and the settings are the defaults: sums are sent in bfloat16, as plain jit sends them. Rows are appended as they are
compiled, in an order that is shuffled once; the same command goes on where it was stopped, for as long as `--seconds`
says. Where a stored row's plan is no longer the plan, its half is compiled anew; `--fresh` compiles all, as after a
step itself has changed.
"""

import argparse
import dataclasses
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import jax
import rich.console
import rich.progress
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import jbdot
from benchmarks.timing import machine
from jbdot import hardware
from jbdot.command import mesh_text
from jbdot.compilers.compiled import Compiler
from jbdot.core.contraction import Contraction
from jbdot.many_devices import partition_spec

RESULTS: Final = Path(__file__).parent / "results"
TOPOLOGIES: Final = {"v5e:4x4": (4, 4), "v5p:4x4x4": (4, 16), "v5e:16x16": (16, 16), "v6e:4x4": (4, 4)}
TEXTS: Final = {"m k, k n -> m n": ((4096, 4096),) * 2, "b m k, b k n -> b m n": ((256, 512, 512),) * 2}
NEVER_MORE: Final = 1.001  # bytes over plain jit's
FASTER: Final = 0.8  # of plain jit's estimated time: what allows more
ROOM: Final = 1.1  # temporary bytes over plain jit's
BOUND: Final = 2.0  # times the lower bound
TWICE: Final = 1.5  # times its share of the work: what some rows count of sums over devices is less
PROGRAMS: Final = ("plain", "plan")
NUMBERS: Final = ("plain jit sends", "plan sends", "bound", "plain jit's temporaries", "plan's")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A contraction, where its operands are, and where its result is wanted: PartitionSpecs in short."""

    topology: str
    text: str
    lhs: str
    rhs: str
    out: str | None

    def __str__(self) -> str:
        return f"{self.topology} {self.text}: {self.lhs or '-'}; {self.rhs or '-'} -> {self.out}"


def cases() -> list[Case]:
    """All pairs of input shardings, each with an open result and with one that is drawn."""
    draw = random.Random(0)
    found: list[Case] = []
    for topology, text in itertools.product(TOPOLOGIES, TEXTS):
        c = Contraction.parse(text)
        outs = specs(len(c.out))
        for lhs, rhs in itertools.product(specs(len(c.lhs)), specs(len(c.rhs))):
            found += [Case(topology, text, lhs, rhs, None), Case(topology, text, lhs, rhs, draw.choice(outs))]
    draw.shuffle(found)
    return [*named(), *found]


def drawn(seed: int, count: int) -> list[Case]:
    """Cases that are drawn at random, each with one result."""
    draw, found = random.Random(seed), list[Case]()
    while len(found) < count:
        topology, text = draw.choice(list(TOPOLOGIES)), draw.choice(list(TEXTS))
        c = Contraction.parse(text)
        lhs, rhs, out = (draw.choice(specs(len(labels))) for labels in (c.lhs, c.rhs, c.out))
        found.append(Case(topology, text, lhs, rhs, draw.choice((None, out))))
    return found


def named() -> list[Case]:
    """The cases that a promise names, on every topology."""
    gemm, batched = TEXTS
    return [
        case
        for topology in TOPOLOGIES
        for case in (
            Case(topology, batched, ",,xy", ",xy,", "xy,,"),
            Case(topology, gemm, "xy,", "xy,", "xy,"),
            Case(topology, gemm, ",xy", "xy,", "x,y"),
            Case(topology, gemm, ",xy", ",", None),
        )
    ]


def specs(rank: int) -> list[str]:
    """Each mesh axis on one of the axes, or on none."""
    found = (
        ",".join("".join(axis for axis, at in zip("xy", dims, strict=True) if at == dim) for dim in range(rank))
        for dims in itertools.product(range(-1, rank), repeat=2)
    )
    return list(found)


def case_of(one: Row) -> Case:
    """The case that a row is of."""
    return Case(*(one[field.name] for field in dataclasses.fields(Case)))


def plan_of(case: Case) -> jbdot.ShardingPlan:
    """The plan of a case, for the devices of its topology."""
    mesh = AbstractMesh(TOPOLOGIES[case.topology], ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    operands = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, mesh_text.parse(spec, mesh.shape)))
        for shape, spec in zip(TEXTS[case.text], (case.lhs, case.rhs), strict=True)
    )
    out = None if case.out is None else mesh_text.parse(case.out, mesh.shape)
    figures = hardware.of_topology(case.topology)
    return jbdot.plan_sharding(case.text, *operands, out, hardware=figures)


def row(case: Case, compiler: Compiler, known: Row | None = None) -> Row:
    """Compiles both programs of a case, or those of them that are not known."""
    plan = plan_of(case)
    einsum = plan.contraction.einsum
    out = None if case.out is None else plan.spec

    def plain(lhs: Any, rhs: Any) -> Any:
        return jnp.einsum(einsum, lhs, rhs)

    found = facts_of(case, plan)
    found["plain"] = known["plain"] if known else figures(compiler, plain, plan, out)
    found["plan"] = known["plan"] if known and same(known, found) else figures(compiler, plan.local, plan, plan.spec)
    return found


def facts_of(case: Case, plan: jbdot.ShardingPlan) -> Row:
    """What is known of a case before anything is compiled."""
    return {
        **dataclasses.asdict(case),
        "way": plan.winner.name,
        "is_plain": plan.is_plain,
        "spec": partition_spec.code(plan.spec),
        "counted": plan.sent,
        "bound": round(plan.bound),
        "estimated_us": round(plan.estimate.total_us, 1),
        "flops": plan.contraction.flops(plan.lhs.shape, plan.rhs.shape),
        "plain_expected": plan.plain[0].sent,
        "trades": min(way.sent for way, _ in plan.candidates) < plan.sent,
    }


def same(known: Row, found: Row) -> bool:
    """Whether a stored row's plan is the plan still."""
    return all(known[name] == found[name] for name in ("way", "is_plain", "spec", "counted"))


def figures(compiler: Compiler, function: Any, plan: jbdot.ShardingPlan, end: PartitionSpec | None) -> Row:
    """What a device sends, holds beside its arrays, and computes, by the compiled text; or why there is none."""
    try:
        made = compiler.compile(function, plan.lhs, plan.rhs, out=end)
    except Exception as error:  # the other rows are worth having
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return {
        "sent": made.bytes_sent,
        "temp_bytes": made.temp_bytes,
        "flops": made.flops,
        "collectives": [str(one) for one in made.collectives],
        "compile_s": made.compile_s,
    }


# What is promised, and what is kept of it.


def readable(found: Iterable[Row]) -> list[Row]:
    """The rows of which both programs were compiled and read."""
    return [one for one in found if "failed" not in one["plain"] and "failed" not in one["plan"]]


def more_bytes(one: Row) -> bool:
    """Whether the plan sends more than plain jit, and says neither that nor that it is faster."""
    return not _less(*_sent(one)) and not one["trades"] and one["counted"] <= one["plain_expected"]


def more_room(one: Row) -> bool:
    """Whether the plan holds over a tenth more than plain jit, all arrays counted."""
    return one["plan"]["temp_bytes"] > ROOM * one["plain"]["temp_bytes"] + (1 << 20)


def twice_the_work(one: Row) -> bool:
    """Whether devices do one another's work, where the result was left open."""
    devices = math.prod(TOPOLOGIES[one["topology"]])
    return one["out"] is None and bool(one["plan"]["flops"]) and one["plan"]["flops"] * devices > TWICE * one["flops"]


def summary(found: list[Row]) -> list[tuple[str, str]]:
    """The facts of all rows, as (what, how many)."""
    whole = readable(found)
    opened = [one for one in whole if one["out"] is None]
    gains = [
        one["plain"]["sent"] / one["plan"]["sent"] for one in whole if one["plan"]["sent"] and one["plain"]["sent"]
    ]
    spread = [one for one in whole if not one["is_plain"]]
    agrees = [one for one in spread if _less(one["counted"], one["plain_expected"]) == _less(*_sent(one))]
    exact = [one for one in spread if abs(one["plan"]["sent"] - one["counted"]) <= 0.01 * one["counted"]]
    traded = [one for one in whole if not _less(*_sent(one)) and not more_bytes(one)]
    twice = f"{sum(map(twice_the_work, opened))} of {len(opened)}; plain jit: {sum(map(_redundant, opened))}"
    guessed = [_over(one["plain_expected"], one["plain"]["sent"]) for one in whole]
    near = sum(one["plan"]["sent"] <= BOUND * one["bound"] + 1024 for one in whole)
    return [
        ("combinations compiled", f"{len(whole)} of {len(found)} asked"),
        ("plain jit's bytes over the plan's: geometric mean, most", f"{_mean(gains)}, {max(gains, default=0):.3g}"),
        ("the compiled plan sends what was counted, within 1 %", f"{len(exact)} of {len(spread)}"),
        ("the plan sends more than plain jit, and does not say so", str(sum(map(more_bytes, whole)))),
        (
            "the plan sends more, and says so: it is expected to be faster by a fifth, or does less work",
            str(len(traded)),
        ),
        ("the plan needs over 10 % more temporary memory", str(sum(map(more_room, whole)))),
        ("open results for which devices do one another's work", twice),
        ("the plan sends at most twice the lower bound", f"{near} of {len(whole)}"),
        (
            "plain jit's bytes are estimated within 10 %, within a factor of two",
            f"{sum(over <= 1.1 for over in guessed)}, {sum(over <= 2 for over in guessed)} of {len(whole)}",
        ),
        ("model and compiler agree which sends less", f"{len(agrees)} of {len(spread)}"),
    ]


def _sent(one: Row) -> tuple[int, int]:
    return one["plan"]["sent"], one["plain"]["sent"]


def _less(plan: int, plain: int) -> bool:
    return plan <= NEVER_MORE * plain


def _redundant(one: Row) -> bool:
    return one["out"] is None and twice_the_work({**one, "plan": one["plain"]})


def _over(one: int, other: int) -> float:
    """By which factor the larger is over the smaller."""
    return max(one, other, 1) / max(1, min(one, other))


def _mean(values: list[float]) -> str:
    return f"{statistics.geometric_mean(values):.3g}" if values else "-"


def report(found: list[Row], facts: Row) -> str:
    """The report, as markdown."""
    whole = readable(found)
    lines = [
        "# Plans against plain jit, by the TPU compiler",
        "",
        "Written by `python -m benchmarks.plans`. Bytes are those that each device sends, by the compiled text;",
        "nothing was run on a TPU. bfloat16, default settings: sums are sent in bfloat16, as plain jit sends them.",
        f"{', '.join(f'{name} {value}' for name, value in facts.items())}.",
        "",
        "| what | how many |",
        "|---|---|",
        *(f"| {what} | {number} |" for what, number in summary(found)),
        "",
        "## The cases that a promise names",
        "",
        *_table([one for one in whole if case_of(one) in named()]),
        "",
        "## Largest gains",
        "",
        *_table(sorted(whole, key=lambda one: -one["plain"]["sent"] / max(1, one["plan"]["sent"]))[:15]),
        "",
        "## Plans that send more than plain jit",
        "",
        *_table([one for one in whole if not _less(*_sent(one))]),
        "",
        "## Plans that need over 10 % more temporary memory",
        "",
        *_table([one for one in whole if more_room(one)]),
        "",
        "## Over twice the lower bound",
        "",
        *_table([one for one in whole if one["plan"]["sent"] > BOUND * one["bound"] + 1024]),
    ]
    return "\n".join(lines) + "\n"


def _table(found: Iterable[Row]) -> Iterator[str]:
    head = "topology", "contraction", "lhs", "rhs", "result", "way", *(f"{name}, MB" for name in NUMBERS)
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for one in found:
        specs = (f"`{one[name]}`" if one[name] is not None else "open" for name in ("lhs", "rhs", "out"))
        bytes_ = (one["plain"]["sent"], one["plan"]["sent"], one["bound"], *(one[p]["temp_bytes"] for p in PROGRAMS))
        way = "plain jit" if one["is_plain"] else one["way"]
        cells = (one["topology"], one["text"], *specs, way, *(f"{number / 1e6:.3g}" for number in bytes_))
        yield f"| {' | '.join(cells)} |"


def main() -> int:
    """Compiles what is not there yet, and writes the report."""
    parser = argparse.ArgumentParser("python -m benchmarks.plans", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600, help="stop after so long (%(default)s)")
    parser.add_argument("--cases", type=int, default=320, help="compile so many of all (%(default)s)")
    parser.add_argument("--topologies", nargs="+", choices=TOPOLOGIES, default=list(TOPOLOGIES))
    parser.add_argument("--fresh", action="store_true", help="start over, instead of going on")
    parser.add_argument("--random", action="store_true", help="other cases, drawn at random, into a file of their own")
    parser.add_argument("--seed", type=int, default=0, help="of --random (%(default)s)")
    options = parser.parse_args()
    name = f"plans-random-{options.seed}" if options.random else "plans"
    path = RESULTS / f"{name}-jax-{jax.__version__}.jsonl"
    if options.fresh:
        path.unlink(missing_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    known = {case_of(one): one for one in map(json.loads, lines)}
    end = time.monotonic() + options.seconds
    console = rich.console.Console(stderr=True)
    compilers = {topology: Compiler(topology) for topology in options.topologies}
    every = drawn(options.seed, options.cases) if options.random else cases()
    asked = [case for case in every if case.topology in options.topologies][: options.cases]
    with rich.progress.Progress(console=console) as bar, path.open("a") as file:
        for case in bar.track(asked, description="compiling"):
            if time.monotonic() > end:
                break
            known[case] = row(case, compilers[case.topology], known.get(case))
            print(json.dumps(known[case]), file=file, flush=True)
    found = list(known.values())
    path.write_text("".join(f"{json.dumps(one)}\n" for one in found))  # one row for each case
    facts = {name: machine()[name] for name in ("jax", "jaxlib", "jbdot")}
    path.with_suffix(".md").write_text(report(found, facts))
    console.print(f"written: {path.with_suffix('.md')}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
