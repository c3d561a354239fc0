"""Two states of jbdot side by side: the suite, einsum under `optimize`, programs (`python -m benchmarks.compare`).

Each state compiles every program in a process of its own and hands the executables over; then they are timed in turns
in one process that knows no jbdot. A program whose optimized text is the same in both counts as equal, and is not
timed. What is slower in nine rounds of ten is timed again in a second process.
"""

import argparse
import json
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
KINDS: Final = ("suite", "einsum", "program")


def programs(kinds: list[str], only: str) -> Iterator[tuple[str, Callable[[], tuple[Callable[..., Any], Any]]]]:
    """Names, each with a function that gives what is to be jitted, and its operands."""
    from jax import numpy as jnp

    import jbdot
    from benchmarks.peers import operands
    from benchmarks.recorded import PROGRAMS
    from benchmarks.workloads import cases

    def of_case(case: Any, way: str) -> tuple[Callable[..., Any], Any]:
        args = [jnp.asarray(x).astype(case.dtype) for x in operands(case.task)]
        function = case.function(way)
        return (function if way == "jbdot" else jbdot.optimize(function)), args

    for case in cases():
        name = ", ".join(case.key.values())
        for kind, way in (("suite", "jbdot"), ("einsum", "einsum")):
            if kind in kinds and re.search(only, f"{kind}: {name}"):
                yield f"{kind}: {name}", lambda case=case, way=way: of_case(case, way)
    for name, program in PROGRAMS.items() if "program" in kinds else ():
        if re.search(only, f"program: {name}"):
            yield f"program: {name}", lambda program=program: (jbdot.optimize(program()[0]), program()[1])


def compile_all(out: Path, kinds: list[str], only: str) -> None:
    """Compiles every program with the jbdot that this process has, and writes text and executable, one file each."""
    import time

    import jax
    from jax.experimental.serialize_executable import serialize

    for number, (name, make) in enumerate(programs(kinds, only)):
        function, args = make()
        start = time.perf_counter()
        lowered = jax.jit(lambda *args, f=function: f(*args)).lower(*args)
        middle = time.perf_counter()
        compiled = lowered.compile()
        times = {"lower_ms": 1e3 * (middle - start), "compile_ms": 1e3 * (time.perf_counter() - middle)}
        path = out / f"{number:04}.pickle"
        path.write_bytes(pickle.dumps((name, normalized(compiled.as_text()), times, serialize(compiled))))


def normalized(text: str) -> str:
    """What runs: the compiled text without metadata and attributes, and with names that say only where they stand."""
    text = text[re.search(r"^(%|ENTRY)", text, re.MULTILINE).start() :]
    text = re.sub(r", (metadata|frontend_attributes)=\{[^}]*\}", "", text)
    text = re.sub(r"[\w.\-]+: (?=\(*\w+\[)", "", text)
    names: dict[str, str] = {}
    return re.sub(r"%[\w.\-]+", lambda name: names.setdefault(name[0], f"%{len(names)}"), text)


def time_pair(before: Path, after: Path, seconds: float) -> dict[str, float]:
    """The paired ratio of two executables, before over after."""
    import jax
    from jax.experimental.serialize_executable import deserialize_and_load

    from benchmarks.timing import in_turns, ratio, warm_block_us

    jax.block_until_ready(jax.numpy.linalg.qr(jax.numpy.eye(2)))  # registers LAPACK, which an executable may call
    loaded = {}
    for key, path in (("before", before), ("after", after)):
        _, _, _, (payload, in_tree, out_tree) = pickle.loads(path.read_bytes())
        loaded[key] = deserialize_and_load(payload, in_tree, out_tree, execution_devices=jax.devices()[:1])
    import numpy as np

    rng = np.random.default_rng(0)
    (shapes, _) = loaded["before"].args_info
    args = jax.tree.map(lambda x: _drawn(rng, x.shape, x.dtype), shapes)

    def block(compiled: Any) -> Callable[[int], float]:
        return lambda calls: warm_block_us(lambda: jax.block_until_ready(compiled(*args)), calls)

    times, _ = in_turns({key: block(compiled) for key, compiled in loaded.items()}, seconds)
    return {**ratio(times["before"], times["after"]), "us": statistics.median(times["after"])}


def _drawn(rng: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    from jax import numpy as jnp

    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.asarray(rng.integers(-9, 10, shape), dtype)
    scale = (shape[-2] if len(shape) > 1 else 1) ** -0.5
    return jnp.asarray(rng.standard_normal(shape) * scale, dtype)


def child(tree: Path, call: str, *args: Any) -> str:
    """Runs a function of this file in a process whose jbdot is another tree's."""
    code = (
        f"import sys; sys.path.insert(0, {str(tree)!r}); import jbdot; sys.path.insert(0, {str(HERE.parent)!r}); "
        "from pathlib import Path; from benchmarks import compare; "
        f"print(compare.{call}({', '.join(map(_code, args))}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip().splitlines()[-1]


def _code(value: Any) -> str:
    return f"Path({str(value)!r})" if isinstance(value, Path) else repr(value)


def compared(before: Path, after: Path, seconds: float, track: Callable[..., Any]) -> dict[str, Any]:
    """Times what differs; what is surely slower again, in a process of its own."""
    rows: list[dict[str, Any]] = []
    for one, other in track(list(zip(sorted(before.iterdir()), sorted(after.iterdir()), strict=True))):
        (name, text, old, _), (_, new_text, new, _) = (pickle.loads(path.read_bytes()) for path in (one, other))
        row = {"program": name, "is_equal": text == new_text, "before": old, "after": new}
        if text != new_text:
            row["ratio"] = time_pair(one, other, seconds)
            if row["ratio"]["p90"] < 1:
                call = child(HERE.parent, "again", one, other, seconds)
                row["again"] = json.loads(call)
        rows.append(row)
    return {"rows": rows}


def again(before: Path, after: Path, seconds: float) -> str:
    """`time_pair`, as text."""
    return json.dumps(time_pair(before, after, seconds))


def summary(found: dict[str, Any]) -> str:
    """What changed, in lines."""
    lines: list[str] = []
    for kind in KINDS:
        rows = [row for row in found["rows"] if row["program"].startswith(f"{kind}: ")]
        timed = [row for row in rows if "ratio" in row]
        if not rows:
            continue
        ratios = [row["ratio"]["median"] for row in timed] + [1.0] * (len(rows) - len(timed))
        slower = [row for row in timed if row["ratio"]["p90"] < 1 and row.get("again", {"p90": 0})["p90"] < 1]
        faster = [row for row in timed if row["ratio"]["p10"] > 1]
        compile_ratio = statistics.geometric_mean(
            sum(row["after"].values()) / sum(row["before"].values()) for row in rows
        )
        lines.append(
            f"{kind}: {len(rows)} programs, {len(rows) - len(timed)} equal, {len(faster)} surely faster, "
            f"{len(slower)} surely slower; geometric mean {statistics.geometric_mean(ratios):.3f} times faster; "
            f"lowering and compiling {compile_ratio:.2f} of before"
        )
        for row in sorted(timed, key=lambda row: row["ratio"]["median"]):
            r = row["ratio"]
            mark = " SLOWER" if row in slower else " faster" if row in faster else ""
            ratio = f"{r['median']:6.2f} ({r['p10']:.2f} to {r['p90']:.2f})"
            lines.append(f"  {ratio} {r['us']:9.0f} us  {row['program']}{mark}")
    return "\n".join(lines)


def main() -> None:
    """Compiles with both, times, prints; `--out` also writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the other state, such as a git worktree")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--only", default="", help="a regular expression that names must match")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each pair that differs")
    parser.add_argument("--out", type=Path, help="a .json for the rows")
    options = parser.parse_args()
    from benchmarks.timing import machine

    with tempfile.TemporaryDirectory() as folder:
        trees = {"before": options.before.resolve(), "after": HERE.parent}
        for key, tree in trees.items():
            (Path(folder) / key).mkdir()
            child(tree, "compile_all", Path(folder) / key, options.kinds, options.only)
        found = compared(Path(folder) / "before", Path(folder) / "after", options.seconds, iter)
    found["machine"] = machine()
    print(summary(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
