"""What the TPU compiler expects of each lowering, with no TPU (`python -m benchmarks.tpu`, where `jax[tpu]` is).

XLA's TPU compiler, from the libtpu that this jaxlib pins, compiles each program for one chip of each kind in a child
process. It writes `estimated_cycles` beside each operation that it schedules; their sum is the figure here, and no
TPU has confirmed it. Known of it: sums along an axis are put up to 4 times too high, copies within vector memory too
low, and asynchronous copies at nothing. Arrays enter and leave in the layouts that JAX gives them by default, unless
a case says "row-major". An operand that is small in its trailing axes lies with its batch along the lanes by default.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jax
import rich.console
import rich.progress
import rich.table
from jax import lax
from jax import numpy as jnp
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

import jbdot
from jbdot import Contraction
from jbdot.compilers.compiled import ESTIMATED
from jbdot.compilers.compiler_process import QUIET
from jbdot.hlo import Unreadable, estimated_cycles
from jbdot.one_device.choice import candidates, chosen
from jbdot.one_device.dot_spec import DotSpec

RESULTS: Final = Path(__file__).parent / "results"
# kind: a topology to ask for, and the clock in GHz: peak FLOP/s over the multiply-adds of the matrix units.
KINDS: Final = {"v5e": ("v5e:2x2", 1.5), "v5p": ("v5p:2x2x1", 1.75), "v6e": ("v6e:2x2", 1.75)}
LOWERINGS: Final = ("direct", "auto", "lanes", "reduced")
NEVER_ABOVE: Final = 1.0  # cycles of "auto" over those of the bare dot, everywhere
AT_LEAST: Final = {(4, 5, 8): 5.0, (8, 8, 8): 2.0}  # the bare dot's over those of "auto", by (m, k, n), for batches
FEWEST: Final = 8192  # elements of a batch for which that is promised

Row = dict[str, Any]
Shape = tuple[int, ...]
Dot = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program around one contraction.

    Attributes:
        text: The contraction.
        lhs: Shape of the left operand.
        rhs: Shape of the right operand.
        dtype: Of the operands; int8 is summed in int32.
        precision: As in `lax.dot_general`.
        program: A name of `PROGRAMS`.
        layout: "default", or "row-major" for all that enters and leaves.
    """

    text: str
    lhs: Shape
    rhs: Shape
    dtype: str = "bfloat16"
    precision: str | None = None
    program: str = "alone"
    layout: str = "default"

    def __str__(self) -> str:
        said = [self.text, f"{self.lhs} x {self.rhs}".replace(" ", ""), self.dtype, self.precision]
        said += [self.program if self.program != "alone" else None, self.layout if self.layout != "default" else None]
        return ", ".join(part for part in said if part)


NN: Final = "b m k, b k n -> b m n"
TWO: Final = "a b m k, a b k n -> a b m n"
MV: Final = "b m k, b k -> b m"
FLOATS: Final = ("bfloat16", "float32")
UNEVEN: Final = ((8, 3, 16), (16, 16, 2), (3, 16, 3), (8, 16, 3), (24, 16, 3), (4, 32, 4), (8, 8, 128))  # m, k, n


def square(batch: int, n: int, *dtypes: str) -> list[Case]:
    """A batch of n x n times n x n."""
    return [Case(NN, (batch, n, n), (batch, n, n), dtype) for dtype in dtypes]


def cases() -> list[Case]:
    """Sizes, dtypes, orders of axes; then programs and layouts around the contraction that gains most."""
    tiny = (8192, 4, 5), (8192, 5, 8)
    found = [Case(NN, (batch, 4, 5), (batch, 5, 8), dtype) for batch in (64, 512, 8192, 65536) for dtype in FLOATS]
    for batch in (64, 512, 2048, 8192):
        for n in (2, 4, 8, 16, 32):
            found += square(batch, n, *FLOATS, *(("int8",) if n in (8, 16) else ()))
    found += [*square(65536, 4, *FLOATS), *square(65536, 8, *FLOATS), *square(512, 64, *FLOATS)]
    found += [
        *(Case(text, (8192, 8, 8), (8192, 8, 8)) for text in ("b k m, b k n -> b m n", "b m k, b n k -> b m n")),
        *(Case(TWO, (*batch, 4, 5), (*batch, 5, 8)) for batch in ((64, 128), (1024, 8), (90, 91), (10, 12))),
        Case(TWO, (20, 110, 16, 16), (20, 110, 16, 16), "float32"),
        *(Case(NN, (8192, m, k), (8192, k, n)) for m, k, n in UNEVEN),
        *(Case(NN, (2048, m, k), (2048, k, n)) for m, k, n in UNEVEN),
        *(Case(MV, (b, n, n), (b, n), dtype) for b, n in ((8192, 8), (512, 64), (1024, 128)) for dtype in FLOATS),
        Case("b k, b k -> b", (16384, 256), (16384, 256)),
    ]
    found += [Case(NN, *tiny, program=program) for program in PROGRAMS if program != "alone"]
    found += [Case(NN, *tiny, layout="row-major"), Case(NN, (512, 64, 64), (512, 64, 64), layout="row-major")]
    for text, shape in (("m k, k n -> m n", (1024, 1024)), (NN, (64, 128, 128)), (NN, (8192, 8, 8))):
        found += [Case(text, shape, shape, "float32", precision) for precision in ("high", "highest")]
    return [*found, Case("m k, k n -> m n", (1024, 1024), (1024, 1024), "float32"), *square(64, 128, "float32")]


def elementwise(dot: Dot) -> Dot:
    return lambda x, y: jnp.tanh(dot(jnp.tanh(x), jnp.tanh(y)))


def gradient(dot: Dot) -> Dot:
    return jax.grad(lambda x, y: jnp.sum(jnp.tanh(dot(x, y)).astype("float32")), (0, 1))


def vmapped(dot: Dot) -> Dot:
    """A second batch axis, of 4."""
    return lambda x, y: jax.vmap(dot)(*(z.reshape(4, -1, *z.shape[1:]) for z in (x, y)))


def projected(dot: Dot) -> Dot:
    """The left operand comes out of a matrix product, whose rows are cut into matrices."""

    def program(x: Any, y: Any) -> Any:
        rows = x.reshape(len(x), -1)
        return dot((rows @ rows[: rows.shape[1]]).reshape(x.shape), y)

    return program


def softmax(dot: Dot) -> Dot:
    return lambda x, y: jax.nn.softmax(dot(x, y), axis=-1)


def loop(dot: Dot) -> Dot:
    return lambda x, y: lax.map(lambda scale: dot(x * scale, y), jnp.arange(8, dtype=x.dtype))


PROGRAMS: Final[dict[str, Callable[[Dot], Dot]]] = {
    "alone": lambda dot: dot,
    **{program.__name__: program for program in (elementwise, gradient, vmapped, projected, softmax, loop)},
}


# Compiling, in a child process for each kind of TPU.


def child(kind: str) -> None:
    """Compiles the cases of standard input, a line each, for one kind; answers a line each."""
    topology, clock_ghz = KINDS[kind]
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    facts = {"kind": kind, "device_kind": device.device_kind, "topology": topology, "clock_ghz": clock_ghz}
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        case, lowerings = json.loads(line)
        print(json.dumps(compiled(Case(**case), lowerings, device)), flush=True)


def compiled(case: Case, lowerings: list[str], device: Any) -> Row:
    """Compiles a case by each lowering that fits it; a program that two of them give, once."""
    spec = _request(case)
    fitting = [name for name in lowerings if name in ("auto", *candidates(spec))]
    programs = {name: _lowered(case, name, device) for name in fitting}
    texts = {name: program.as_text() for name, program in programs.items()}
    found = {text: _figures(programs[name]) for text, name in {texts[name]: name for name in fitting}.items()}
    figures = {name: found[texts[name]] for name in fitting}
    return {**dataclasses.asdict(case), "chosen": chosen(spec, "tpu").lowering, "lowerings": figures}


def _request(case: Case) -> DotSpec:
    operands = [jax.ShapeDtypeStruct(shape, case.dtype) for shape in (case.lhs, case.rhs)]
    contraction = Contraction.parse(case.text)
    out = jax.ShapeDtypeStruct(contraction.out_shape(*(x.shape for x in operands)), _summed(case) or case.dtype)
    precision = case.precision and lax.Precision(case.precision)
    return DotSpec.of(*operands, out, contraction.dimension_numbers, precision)


def _summed(case: Case) -> str | None:
    return "int32" if case.dtype == "int8" else None


def _lowered(case: Case, lowering: str, device: Any) -> Any:
    def dot(x: Any, y: Any) -> Any:
        options = {"precision": case.precision, "preferred_element_type": _summed(case), "lowering": lowering}
        return jbdot.contract(case.text, x, y, **options)

    def placed(x: Any) -> Any:
        place = SingleDeviceSharding(device)
        return Format(Layout(tuple(range(x.ndim))), place) if case.layout == "row-major" else place

    program = PROGRAMS[case.program](dot)
    operands = [jax.ShapeDtypeStruct(shape, case.dtype) for shape in (case.lhs, case.rhs)]
    places = jax.tree.map(placed, (tuple(operands), jax.eval_shape(program, *operands)))
    return jax.jit(program, in_shardings=places[0], out_shardings=places[1]).lower(*operands)


def _figures(lowered: Any) -> Row:
    start = time.perf_counter()
    ready = lowered.compile()
    figures: Row = {"compile_s": round(time.perf_counter() - start, 3)}
    figures["temp_bytes"] = ready.memory_analysis().temp_size_in_bytes
    try:
        return {"cycles": estimated_cycles(ready.as_text()), **figures}
    except Unreadable as reason:
        return {"no_estimate": str(reason), **figures}


def compile_all(kind: str, asked: Iterable[Case], lowerings: Iterable[str]) -> Iterator[Row]:
    """Runs a child over the cases: first its facts, then a row for each case."""
    command = [sys.executable, "-m", "benchmarks.tpu", "--child", kind]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env={**os.environ, **QUIET}, **pipes) as process:
        lines = [json.dumps([dataclasses.asdict(case), list(lowerings)]) for case in asked]
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n".join(lines))
        process.stdin.close()
        rows = 0
        for rows, line in enumerate(process.stdout):  # noqa: B007
            yield json.loads(line)
    if rows < len(lines):
        raise RuntimeError(f"the {kind} compiler stopped at case {rows} of {len(lines)}: is jax[tpu] installed?")


# Saying it.


def gain(row: Row, lowering: str) -> float | None:
    """The bare dot's estimated cycles over a lowering's."""
    bare, other = (row["lowerings"].get(name, {}).get("cycles") for name in ("direct", lowering))
    return bare / other if bare and other else None


def broken(row: Row) -> str:
    """What a row breaks of the promises; nothing where it keeps them."""
    found = gain(row, "auto")
    if found is None:
        return ""
    if found < NEVER_ABOVE:
        return f"auto is above the bare dot: {found:.2f}"
    batch, *rest = row["lhs"]
    least = AT_LEAST.get((*rest, row["rhs"][-1]), 0.0) if row["text"] == NN and batch >= FEWEST else 0.0
    alone = (row["program"], row["layout"]) == ("alone", "default")
    return f"auto gains {found:.2f}, below {least}" if alone and found < least else ""


def table(facts: Row, rows: list[Row], lowerings: list[str]) -> rich.table.Table:
    """The rows of one kind: the bare dot's time, and what each lowering gains."""
    others = [name for name in lowerings if name != "direct"]
    title = f"{facts['device_kind']}: {ESTIMATED}"
    made = rich.table.Table("contraction", "bare dot, us", *others, "chosen", title=title)
    for row in rows:
        bare = row["lowerings"]["direct"]
        us = f"{bare['cycles'] / facts['clock_ghz'] / 1e3:,.1f}" if "cycles" in bare else "-"
        gains = [f"{found:.2f}" if (found := gain(row, name)) else "-" for name in others]
        made.add_row(str(_case(row)), us, *gains, f"[red]{row['chosen']}" if broken(row) else row["chosen"])
    return made


def _case(row: Row) -> Case:
    values = {field.name: row[field.name] for field in dataclasses.fields(Case)}
    return Case(**{**values, "lhs": tuple(row["lhs"]), "rhs": tuple(row["rhs"])})


def machine() -> Row:
    """The versions that the figures hold for."""
    return {name: version(name) for name in ("jax", "jaxlib", "libtpu", "jbdot")}


def main() -> None:
    """Compiles, prints, and writes results/tpu-jax-VERSION.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lowerings", nargs="+", default=list(LOWERINGS), help="besides the bare dot")
    parser.add_argument("--only", default="", help="cases whose line has this in it")
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    asked = [case for case in cases() if options.only in str(case)]
    lowerings = list(dict.fromkeys(["direct", *options.lowerings]))
    console = rich.console.Console()
    console = rich.console.Console(width=max(console.width, 132))
    results: Row = {"machine": machine(), "figures": ESTIMATED, "kinds": []}
    with rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True) as bar:
        for kind in options.kinds:
            found = compile_all(kind, asked, lowerings)
            facts = next(found)
            rows = list(bar.track(found, total=len(asked), description=kind))
            results["kinds"].append({**facts, "rows": rows})
    for facts in results["kinds"]:
        console.print(table(facts, facts["rows"], lowerings))
        for row in facts["rows"]:
            if why := broken(row):
                console.print(f"{facts['kind']}, {_case(row)}: {why}", highlight=False)
    if not options.no_save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"tpu-jax-{results['machine']['jax']}.json"
        path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
