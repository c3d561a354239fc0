"""The suite: every workload, in jbdot and in everything else, beside what the machine can do (`python -m benchmarks`).

For each workload, dtype and direction: jbdot, a bare `lax.dot_general`, `jnp.einsum`, `jnp.matmul`, and, in processes
of their own, PyTorch, TensorFlow and Keras 3 on JAX, all in turns. A second compiled copy of the bare dot runs
beside the first: what lies between the two is noise. Each row is written to results/suite-jax-VERSION.jsonl as
soon as it is measured; the same command run again goes on where it was stopped.
"""

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import rich.console
import rich.progress
import rich.table
from jax import numpy as jnp

from benchmarks import report
from benchmarks.compare import normalized
from benchmarks.limits import Track, limit
from benchmarks.limits import measured as measured_limits
from benchmarks.peers import DISTRIBUTION, Lost, Peer, Task, magnitudes, operands, told
from benchmarks.timing import Block, cache_bytes, in_turns, jbdot_source, machine, ratio, spread, threads, warm_block_us
from benchmarks.workloads import DIRECTIONS, EVERY, WAYS, Case, cases

PEERS: Final = ("torch", "tensorflow", "keras")
AGAIN: Final = "bare again"
TOLERANCE: Final = {"bfloat16": 0.05, "float16": 0.05}  # of mean magnitudes: TensorFlow sums float16 in 16 bits
BUDGET_S: Final = 1.0


class Program:
    """A case in one of the JAX ways, compiled for its operands."""

    def __init__(self, case: Case, way: str, args: list[jax.Array]) -> None:
        start = time.perf_counter()
        self._compiled = jax.jit(case.function(way)).lower(*args).compile()
        self._args = args
        self.facts = {
            "compile_ms": round(1e3 * (time.perf_counter() - start), 3),
            "temp_bytes": self._compiled.memory_analysis().temp_size_in_bytes,
        }

    def __call__(self) -> Any:
        """Runs it, and returns when it is done."""
        return jax.block_until_ready(self._compiled(*self._args))

    def block(self, calls: int) -> float:
        """Microseconds a call, for so many."""
        return warm_block_us(self, calls)

    def text(self) -> str:
        """What runs: the compiled text, with names that say only where they first stand."""
        return normalized(self._compiled.as_text())


class Peers:
    """The peers that have an interpreter, and why the others take no part."""

    def __init__(self, pythons: dict[str, str | None]) -> None:
        self._pythons = pythons
        self.running: dict[str, Peer] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Peers":
        for name, python in self._pythons.items():
            try:
                if python is None:
                    raise Lost(name, f"this interpreter has none; --{name}-python names one that has")
                self.running[name] = Peer(name, python, threads())
                self.facts[name] = self.running[name].facts
            except Lost as lost:
                self.facts[name] = {"unable": lost.reason}
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.running.values():
            peer.close()

    def replace(self, name: str) -> None:
        """Starts a new process for one that was lost, where that is possible."""
        self.running.pop(name).close()
        try:
            self.running[name] = Peer(name, self._pythons[name], threads())
        except Lost as lost:
            self.facts[name] = {"unable": lost.reason}

    def prepared(self, task: Task, expected: list[float], without: dict[str, str]) -> dict[str, dict[str, Any]]:
        """What each says of a task; one whose results are not the expected ones is unable."""
        answers = {name: {"unable": reason} for name, reason in without.items()}
        for name, peer in self.running.items():
            if name in without:
                continue
            answers[name] = peer.prepare(task)
            found = answers[name].pop("magnitudes", expected)
            if not np.allclose(found, expected, rtol=TOLERANCE.get(task["dtype"], 1e-3)):
                answers[name] = {"unable": f"mean magnitudes are {found}, jbdot's {expected}"}
        return answers


def measured(case: Case, peers: Peers, budget_s: float, without: dict[str, str]) -> dict[str, Any]:
    """Measures a case in every way, in turns, without the peers that are named with a reason.

    Raises:
        Lost: A peer's process ended.
    """
    with jax.enable_x64(case.dtype == "float64"):
        args = [jnp.asarray(x).astype(case.dtype) for x in operands(case.task)]
        programs = {name: Program(case, name, args) for name in WAYS}
        programs[AGAIN] = Program(case, "bare", args)
        expected = magnitudes([np.asarray(x) for x in jax.tree.leaves(programs["jbdot"]())])
        answers = peers.prepared(case.task, expected, without)
        blocks: dict[str, Block] = {name: program.block for name, program in programs.items()}
        blocks |= {name: peers.running[name].block for name, answer in answers.items() if "unable" not in answer}
        gc.collect()
        times, calls = in_turns(blocks, budget_s)
    facts = {name: program.facts for name, program in programs.items()} | answers
    measures = {name: {"us": spread(found), "calls": calls[name]} for name, found in times.items()}
    return {
        "rounds": len(times["jbdot"]),
        "ways": {name: facts[name] | measures.get(name, {}) for name in facts},
        "ratios": {name: ratio(times["jbdot"], found) for name, found in times.items() if name not in ("jbdot", AGAIN)},
        "noise": ratio(times[AGAIN], times["bare"]),
        "best": min(report.SPELLINGS, key=lambda name: measures[name]["us"]["median"]),
        "same_program": programs["jbdot"].text() == programs["bare"].text(),
    }


def row(case: Case, peers: Peers, budget_s: float, limits: dict[str, Any]) -> dict[str, Any]:
    """Measures a case; where a peer is lost on the way, once more without it."""
    facts = {**case.key, "budget_s": budget_s, "flops": case.flops, "bytes": case.bytes, "limit": limit(case, limits)}
    without: dict[str, str] = {}
    while True:
        try:
            return facts | measured(case, peers, budget_s, without)
        except Lost as lost:
            without[lost.name] = lost.reason
            peers.replace(lost.name)
        except Exception as error:  # the other rows are worth having
            return facts | {"failed": told(error)}


def facts_of_run(peers: Peers) -> dict[str, Any]:
    """What all rows of a file have in common."""
    variables = {name: os.environ.get(name, "") for name in ("GLIBC_TUNABLES", "JBDOT_TUNED", "XLA_FLAGS")}
    more = {"jbdot_source": jbdot_source(), "threads": threads(), "cache_bytes": cache_bytes(), **variables}
    return {"machine": {**machine(), **more}, "peers": peers.facts, "inputs": DISTRIBUTION}


def opened(path: Path, facts: dict[str, Any], fresh: bool, track: Track) -> report.Run:
    """The run that a file holds, or a new one, for which the limits are measured.

    Raises:
        SystemExit: The file was measured with other versions, on another machine or beside other peers.
    """
    stored = None if fresh or not path.exists() else report.load(path)
    if stored is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, "limits": measured_limits(track)}) + "\n")
        return report.load(path)
    os.truncate(path, sum(len(line) + 1 for line in report.whole_lines(path)))
    differing = [
        f"  {name}: {stored.facts[name]}\n  now: {facts[name]}" for name in facts if stored.facts[name] != facts[name]
    ]
    if differing:
        raise SystemExit("\n".join([f"{path} was measured otherwise:", *differing, "--fresh starts over."]))
    return stored


def run(options: argparse.Namespace, console: rich.console.Console) -> int:
    """Measures what is asked for and not there yet; answers how many rows failed."""
    wanted = cases(options.only, options.dtypes, options.directions)
    path = options.results / f"suite-jax-{jax.__version__}.jsonl"
    pythons = {name: None if options.no_peers else vars(options)[f"{name}_python"] for name in PEERS}
    with Peers(pythons) as peers, progress(console) as bar:
        for name, facts in peers.facts.items():
            if "unable" in facts:
                console.print(f"without {name}: {facts['unable']}", highlight=False, markup=False)
        stored = opened(path, facts_of_run(peers), options.fresh, bar.track)
        left = [case for case in wanted if tuple(case.key.values()) not in stored.measured]
        task = bar.add_task("", total=len(wanted), completed=len(wanted) - len(left))
        failed = 0
        with path.open("a") as file:
            for case in left:
                bar.update(task, description=", ".join(case.key.values()), refresh=True)
                found = row(case, peers, options.budget, stored.facts["limits"])
                failed += "failed" in found
                print(json.dumps(found), file=file, flush=True)
                bar.advance(task)
    return failed


def progress(console: rich.console.Console) -> rich.progress.Progress:
    """A bar that is drawn between rows only: a thread that draws would be measured too."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", table_column=rich.table.Column(ratio=1, no_wrap=True)),
        rich.progress.BarColumn(20),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        auto_refresh=False,
        expand=True,
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads whose name has a match")
    parser.add_argument("--dtypes", type=names_among(EVERY), default=EVERY, help="some of " + ",".join(EVERY))
    parser.add_argument("--directions", type=names_among(DIRECTIONS), default=DIRECTIONS, help="forward or gradient")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds of timing for each row (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="start over, instead of going on")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where to write")
    parser.add_argument("--no-peers", action="store_true", help="only what runs in this process")
    for name in PEERS:
        here = sys.executable if importlib.util.find_spec(name) else None
        parser.add_argument(f"--{name}-python", default=here, metavar="PYTHON", help=f"an interpreter that has {name}")
    return parser


def names_among(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads names with commas between."""

    def read(text: str) -> list[str]:
        found = text.split(",")
        if not set(found) <= set(known):
            raise argparse.ArgumentTypeError(f"some of {', '.join(known)}, with commas between")
        return found

    return read


def main(args: Sequence[str] | None = None) -> int:
    """Measures, and writes the rows, the report and its pictures."""
    options = arguments().parse_args(args)
    console = rich.console.Console(stderr=True)
    os.environ.setdefault("JBDOT_TUNED", "off")  # what jbdot chooses by its rules, unless told to use a file
    gc.disable()
    gc.freeze()  # so that collecting before a row looks at no module
    try:
        failed = run(options, console)
    except KeyboardInterrupt:
        console.print("Stopped. What was measured is kept; the same command, without --fresh, goes on from there.")
        return 130
    finally:
        gc.unfreeze()
        gc.enable()
    for path in report.write(options.results):
        console.print(f"written: {path}", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
