"""The command `jbdot`: explain, bench, tune, plan, comm, run, optimize, doctor, demo."""

import ast
import contextlib
import functools
import inspect
import re
import runpy
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

try:
    import rich.console
    import rich.markup
    import rich.progress
    import rich.text
    import typer
except ImportError as missing:  # the library works without its command
    if sys.argv[1:] == ["doctor"]:  # which says what is missing
        from jbdot.command.doctor import found
        from jbdot.core.text import table

        print(table(found()))
        raise SystemExit from None
    raise SystemExit(f"jbdot: the command needs {missing.name}. pip install typer rich") from None

import jax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding

import jbdot
from jbdot import hardware
from jbdot.calls.explanation import Explanation
from jbdot.calls.front_door import DIALECTS, PLANNERS, extra_defaults, operand_names, public_name
from jbdot.calls.many_operands import READERS
from jbdot.command import doctor as examination
from jbdot.command import files, mesh_text
from jbdot.core.colours import COLOURS, part
from jbdot.core.text import bytes_text, paragraph, table
from jbdot.many_devices import partition_spec
from jbdot.programs.communication_report import CommunicationReport

_CALL: Final = "The call"  # the part of a help text that is the same for all verbs
COMPILED: Final = 4  # programs that `plan --topology` compiles

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Example: jbdot explain batch_dot 10x12x4x5 10x12x5x8",
)
console = rich.console.Console()
errors = rich.console.Console(stderr=True)

Function = Annotated[
    str,
    typer.Argument(
        help="batch_dot, dot, matmul, tensordot, einsum, contract, sparse_dense_matmul, "
        "batched_dot or batched_tensordot."
    ),
]
Dialect = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=_CALL, help=f"{', '.join(DIALECTS)}; by default jbdot's own, or the only one that has it."
    ),
]
Lhs = Annotated[str, typer.Argument(help="The first operand's shape: 10x12x4x5, '(10, 12, 4, 5)' or scalar.")]
Rhs = Annotated[str, typer.Argument(help="The second operand's shape.")]
Shapes = Annotated[
    list[str],
    typer.Argument(
        help="Each operand's shape: 10x12x4x5, '(10, 12, 4, 5)' or scalar. Two; of einsum and contract any number."
    ),
]
AxesText = Annotated[
    str | None, typer.Option("--axes", rich_help_panel=_CALL, help="As in Python: 1, or 3,2, or [1,2],[0,1].")
]
DtypeName = Annotated[str, typer.Option(rich_help_panel=_CALL, help="Both operands' dtype.")]
Equation = Annotated[
    str | None,
    typer.Option(rich_help_panel=_CALL, help="Of einsum and contract: bmk,bkn->bmn or 'b m k, b k n -> b m n'."),
]
TransposeA = Annotated[
    bool,
    typer.Option("--transpose-a", rich_help_panel=_CALL, help="Of matmul and mxnet: transpose the first operand."),
]
TransposeB = Annotated[
    bool,
    typer.Option("--transpose-b", rich_help_panel=_CALL, help="Of matmul and mxnet: transpose the second operand."),
]
AdjointA = Annotated[
    bool,
    typer.Option("--adjoint-a", rich_help_panel=_CALL, help="Of matmul: transpose and conjugate the first operand."),
]
AdjointB = Annotated[
    bool,
    typer.Option("--adjoint-b", rich_help_panel=_CALL, help="Of matmul: transpose and conjugate the second operand."),
]
Plot = Annotated[Path | None, typer.Option(help="Save the picture here; its ending is the format, such as .png.")]


def main() -> None:
    """Runs the command; what a user did wrong ends it with one line and status 2."""
    try:
        app(prog_name="jbdot")
    except (ValueError, TypeError, IndexError, ImportError) as error:
        fail(str(error))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(f"there is too little memory for arrays of these sizes: {error}")


def fail(message: str) -> None:
    """Ends the command with one line on standard error and status 2."""
    errors.print(f"[bold red]error[/]: {rich.markup.escape(message)}", soft_wrap=True, highlight=False)
    sys.exit(2)


@app.callback()
def jbdot_itself(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version, and end.")] = False,
) -> None:
    """Multiply arrays along chosen axes, exactly as each framework meant it."""
    if version:
        print(f"jbdot {examination.version('jbdot')}")
        raise typer.Exit


@app.command(epilog="Example: jbdot explain batch_dot 10x12x4x5 10x12x5x8 --axes 3,2 --dialect keras")
def explain(
    function: Function,
    shapes: Shapes,
    axes: AxesText = None,
    dialect: Dialect = None,
    dtype: DtypeName = "float32",
    equation: Equation = None,
    transpose_a: TransposeA = False,
    transpose_b: TransposeB = False,
    adjoint_a: AdjointA = False,
    adjoint_b: AdjointB = False,
    plot: Plot = None,
    latex: Annotated[bool, typer.Option("--latex", help="Print the formula in LaTeX, and nothing else.")] = False,
) -> None:
    """Say what a call does: formula, roles of axes, shapes, cost, and every other dialect's answer."""
    door = find(function, dialect)
    operands = [jax.ShapeDtypeStruct(shape(text), dtype_of(dtype)) for text in shapes]
    given = options(axes, equation, transpose_a, transpose_b, adjoint_a, adjoint_b)
    if len(operands) == 2:
        left, right = operands
        explanation: Any = jbdot.explain(door, *call(door, left, right, given))
    elif door in READERS and given.keys() == {"equation"}:
        explanation = jbdot.explain(door, equation, *operands)
    elif door in READERS:
        raise ValueError(f"{public_name(door)} of {len(operands)} operands takes --equation, and nothing else.")
    else:
        raise ValueError(f"{public_name(door)} takes two operands, not {len(operands)}.")
    if plot is not None:  # first, so that a path that cannot be written is said at once
        picture(plot, explanation)
    if latex:
        print(explanation.latex)
        return
    first, formula, labels, *others = explanation.parts()
    roles = {row[0]: COLOURS[part(explanation.contraction, row[0])] for row in explanation.rows()}
    show(f"{first}\n", {"(?s).*": "bold"})
    show(f"{formula}\n")
    show(f"{labels}\n", {rf"(?m)^  {re.escape(label)}(?=  )": f"bold {colour}" for label, colour in roles.items()})
    show("\n\n".join(others), {"  refuses: .*": "dim"})


@app.command(epilog="Example: jbdot bench batch_dot 64x128x128 64x128x128 --axes 1,1 --dtype float32")
def bench(
    function: Function,
    lhs: Lhs,
    rhs: Rhs,
    axes: AxesText = None,
    dialect: Dialect = None,
    dtype: DtypeName = "float32",
    out_dtype: Annotated[str | None, typer.Option(help="The result's dtype, such as int32 for int8.")] = None,
    equation: Equation = None,
    transpose_a: TransposeA = False,
    transpose_b: TransposeB = False,
    adjoint_a: AdjointA = False,
    adjoint_b: AdjointB = False,
    seconds: Annotated[float, typer.Option(min=0.01, help="About how long to measure.")] = 3.0,
) -> None:
    """Time a call on this machine: each lowering, einsum, PyTorch and TensorFlow if installed, and the limit."""
    from jbdot.one_device import bench as benchmark

    left, right = (jax.ShapeDtypeStruct(shape(text), dtype_of(dtype)) for text in (lhs, rhs))
    wanted = None if out_dtype is None else dtype_of(out_dtype)
    given = options(axes, equation, transpose_a, transpose_b, adjoint_a, adjoint_b)
    door = find(function, dialect)
    explanation = jbdot.explain(door, *call(door, left, right, given), preferred_element_type=wanted)
    if explanation.dot_spec is None:
        raise ValueError("a sparse operand has one lowering only: there is nothing to compare.")
    with rich.progress.Progress(console=errors, transient=True) as bar:
        timed = benchmark.bench(explanation.dot_spec, seconds, functools.partial(bar.track, description="timing"))
    show(paragraph(explanation.call()), {"(?s).*": "bold"})
    show(f"\n{timed}", {r"(?m)^.*\(auto\).*": "bold"})


@app.command(epilog="Example: jbdot tune --machine")
def tune(
    function: Annotated[str | None, typer.Argument(help="What to tune, such as batch_dot.")] = None,
    shapes: Annotated[list[str] | None, typer.Argument(help="Both operands' shapes, such as 64x128x128.")] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="Measure this machine's CPU, for dots that are not tuned themselves.")
    ] = False,
    axes: AxesText = None,
    dialect: Dialect = None,
    dtype: DtypeName = "float32",
    equation: Equation = None,
    transpose_a: TransposeA = False,
    transpose_b: TransposeB = False,
    adjoint_a: AdjointA = False,
    adjoint_b: AdjointB = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="About how long to measure: a dot 1, the machine 25.")
    ] = None,
) -> None:
    """Time the lowerings of a call on this machine, or the machine itself, and keep what is found for "auto"."""
    if machine == (function is not None):
        raise ValueError("tune takes a function and the shapes of its operands, or --machine.")
    if function is None:
        show(str(jbdot.tune(seconds=seconds)))
        return
    if len(shapes or ()) != 2:
        raise ValueError(f"tune takes the shapes of two operands, not of {len(shapes or ())}.")
    left, right = (jax.ShapeDtypeStruct(shape(text), dtype_of(dtype)) for text in shapes or ())
    given = options(axes, equation, transpose_a, transpose_b, adjoint_a, adjoint_b)
    door = find(function, dialect)
    for found in jbdot.tune(lambda x, y: door(*call(door, x, y, given)), left, right, seconds=seconds):
        show(str(found))


@app.command(epilog="Example: jbdot plan matmul 64x1024x1024 64x1024x1024 --mesh x=4,y=4 --lhs ,,xy --rhs ,xy,")
def plan(
    function: Function,
    lhs: Lhs,
    rhs: Rhs,
    mesh: Annotated[str, typer.Option(help="Its axes, such as x=4,y=4.")],
    lhs_spec: Annotated[str, typer.Option("--lhs", help="What cuts each axis of lhs: ,,xy or ,,data+model.")] = "",
    rhs_spec: Annotated[str, typer.Option("--rhs", help="The same for the second operand.")] = "",
    out: Annotated[str | None, typer.Option(help="The same for the result; by default the plan chooses.")] = None,
    device: Annotated[str, typer.Option(help="The devices' kind, as JAX reports it.")] = "TPU v5 lite",
    topology: Annotated[str | None, typer.Option(help="Ask the compiler for it too, such as v5e:4x4.")] = None,
    reduce: Annotated[str | None, typer.Option(help="all_reduce, reduce_scatter or forbid.")] = None,
    sum_dtype: Annotated[str | None, typer.Option(help="What partial sums are sent in.")] = None,
    no_redundant_compute: Annotated[
        bool, typer.Option("--no-redundant-compute", help="Refuse ways in which devices do the same work.")
    ] = False,
    axes: AxesText = None,
    dialect: Dialect = None,
    dtype: DtypeName = "float32",
    equation: Equation = None,
    transpose_a: TransposeA = False,
    transpose_b: TransposeB = False,
    adjoint_a: AdjointA = False,
    adjoint_b: AdjointB = False,
    plot: Plot = None,
) -> None:
    """Plan a call over a mesh of devices that need not be here: the ways to spread it, and what each sends."""
    jax.config.update("jax_platforms", "cpu")  # nothing runs: what devices there are is not looked at
    sizes = mesh_text.parse_mesh(mesh)
    on = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    left, right = (jax.ShapeDtypeStruct(shape(text), dtype_of(dtype)) for text in (lhs, rhs))
    figures = hardware.known(device) if topology is None else hardware.of_topology(topology)
    end = None if out is None else mesh_text.parse(out, sizes)
    given = options(axes, equation, transpose_a, transpose_b, adjoint_a, adjoint_b)
    door = find(function, dialect)
    explanation = jbdot.explain(door, *call(door, left, right, given))
    left, right = placed(left, "lhs", lhs_spec, on), placed(right, "rhs", rhs_spec, on)
    over = jbdot.sharded(
        door,
        end,
        reduce=cast(Any, reduce),
        sum_dtype=sum_dtype,
        hardware=figures,
        redundant_compute=not no_redundant_compute,
    )
    planned = over.plan(*call(door, left, right, given))
    if plot is not None:
        picture(plot, planned)
    show(paragraph(explanation.call()), {"(?s).*": "bold"})
    show(f"\n{planned}", {r"(?m)^  Taken: [^,.]*": "bold"})
    if topology is not None:
        show(f"\n{witnessed(planned, topology)}")


@app.command(epilog="Example: jbdot comm train.py:case --topology v5e:4x4")
def comm(
    case: Annotated[
        str,
        typer.Argument(
            help="script.py:function, where function() gives the step, and after it its arguments: arrays or "
            "jax.ShapeDtypeStructs with NamedShardings."
        ),
    ],
    topology: Annotated[
        str | None,
        typer.Option(help="Whose compiler to ask, such as v5e:4x4; by default that of the mesh's own devices."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Another such function, whose program is to be compared.")] = None,
    uncompiled: Annotated[
        bool,
        typer.Option("--uncompiled", help="Do not compile it: say what it is expected to send, in less than a second."),
    ] = False,
    plot: Plot = None,
) -> None:
    """Say what a whole program sends over a mesh, and for which line of its source; nothing of it runs."""
    if topology is not None:
        jax.config.update("jax_platforms", "cpu")  # what devices there are is not looked at
    reports = [communicated(one, topology, not uncompiled) for one in (case, against) if one is not None]
    if plot is not None:
        picture(plot, reports[0])
    for report in reports:
        show(f"{report}\n", {r"(?m)^.* on .*: each device sends.*": "bold", "does not fit.*": "red"})
    if against is not None:
        show(f"{reports[0].compare(reports[1])}")


@app.command(epilog="Example: jbdot run batch_dot a.npy b.npy --out c.npy --axes 2,2")
def run(
    function: Function,
    lhs: Annotated[Path, typer.Argument(help="The first operand, a .npy file.")],
    rhs: Annotated[Path, typer.Argument(help="The second operand, a .npy file.")],
    out: Annotated[Path, typer.Option(help="Where the result goes, a .npy file.")],
    axes: AxesText = None,
    dialect: Dialect = None,
    equation: Equation = None,
    transpose_a: TransposeA = False,
    transpose_b: TransposeB = False,
    adjoint_a: AdjointA = False,
    adjoint_b: AdjointB = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the result's file if it exists.")] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory for one part's operands and result, such as 500MB; by default a quarter of what is free, "
            "at most 1GiB."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew where a run that was stopped left parts.")] = False,
) -> None:
    """Multiply two .npy files into a third, part by part where they are large.

    Inputs are memory-mapped; the result appears once it is whole.
    After a stop the same command goes on where it was.
    """
    door = find(function, dialect)
    arguments = call(door, lhs, rhs, options(axes, equation, transpose_a, transpose_b, adjoint_a, adjoint_b))
    limit = None if memory is None else size_of(memory)
    result = files.multiply(door, arguments, out, overwrite=overwrite, fresh=fresh, memory=limit, track=progress)
    console.print(f"{out}: {result}", highlight=False)


@app.command(
    epilog="Example: jbdot optimize train.py --epochs 3",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def optimize(
    script: Annotated[Path, typer.Argument(help="The script, such as train.py.")],
    args: Annotated[list[str] | None, typer.Argument(help="Its own arguments.")] = None,
    lowering: Annotated[str, typer.Option(help="auto, direct, or the name of a lowering.")] = "auto",
) -> None:
    """Run a script in this process with every dot of it lowered by jbdot, whichever library asks for it."""
    if not script.is_file():
        raise ValueError(f"there is no script {script}.")
    jbdot.optimize_everything(cast(Any, lowering))
    sys.argv = [str(script), *(args or [])]
    with scripted(script):
        runpy.run_path(str(script), run_name="__main__")


@app.command(epilog="Example: jbdot doctor")
def doctor() -> None:
    """Show versions, devices, and which extras are installed or missing."""
    show(table(examination.found()), {"missing.*|each is fresh memory.*": "yellow"})


@app.command(epilog="Example: jbdot demo --epochs 10 --out pictures")
def demo(
    out: Annotated[Path, typer.Option(help="The folder that the picture goes to.")] = Path("jbdot-demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training digits.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first weights, the order of the digits and their shifts.")] = 0,
) -> None:
    """Run examples of dot, batch_dot and matmul, then train a capsule network on handwritten digits."""
    from jbdot.command import demo as showcase

    showcase.run(out, seed=seed, console=console, **({} if epochs is None else {"epochs": epochs}))


@contextlib.contextmanager
def scripted(script: Path) -> Generator[None, None, None]:
    """Opens a context in which a script's code runs; its own errors are told as Python tells them, from it on."""
    sys.path.insert(0, str(script.resolve().parent))  # where Python looks first for a script's own modules
    try:
        yield
    except Exception as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename != str(script):
            traceback = traceback.tb_next
        if traceback is None and not isinstance(error, SyntaxError):  # ours
            raise
        error.__traceback__ = traceback
        sys.excepthook(type(error), error, error.__traceback__)
        raise typer.Exit(1) from None


def communicated(case: str, topology: str | None, compiled: bool) -> CommunicationReport:
    """Reports on the program that a function of a script gives."""
    path, _, name = case.rpartition(":")
    script = Path(path)
    if not name.isidentifier() or not script.is_file():
        raise ValueError(f"{case} names no function of a script. Write script.py:function.")
    with scripted(script):
        found = runpy.run_path(str(script), run_name="jbdot_comm").get(name)
        if not callable(found):
            raise ValueError(f"{script} has no function {name}.")
        made = found()
        if not isinstance(made, tuple) or not made:
            kind = type(made).__name__
            raise ValueError(f"{name}() of {script} gave a {kind}. It must give (step, argument, ...).")
        return jbdot.communication(*made, topology=topology, compiled=compiled)


def progress(parts: list[Any], finished: int) -> Iterable[Any]:
    """Shows a bar over all parts, of which those that are left are worked on."""
    total = finished + len(parts)
    if finished:
        errors.print(f"going on: {finished} of {total} parts are there", highlight=False)
    with rich.progress.Progress(console=errors, transient=True) as bar:
        task = bar.add_task("multiplying", total=total, completed=finished)
        for part in parts:
            yield part
            bar.advance(task)


def find(function: str, dialect: str | None) -> Callable[..., Any]:
    """Finds a front door by the name that a user gives."""
    named = {public_name(door): door for door in PLANNERS if not isinstance(door, type)}
    if dialect is None and function not in named:
        own = getattr(jbdot, function, None)
        if own is not None and own in named.values():
            return own
        fits = [name for name in named if name.endswith(f".{function}")]
        if len(fits) > 1:
            raise ValueError(
                f"{function} is in {', '.join(name.split('.')[0] for name in fits)}. Choose one with --dialect."
            )
        if fits:
            return named[fits[0]]
    door = named.get(f"{dialect}.{function}" if dialect else function)
    if function.split(".")[-1] == "Dot":
        raise ValueError("Dot is a layer, and the command takes functions. What it multiplies with is batch_dot.")
    if door is None:
        raise ValueError(f"there is no {f'{dialect}.' if dialect else ''}{function}. There are {', '.join(named)}.")
    return door


def options(
    axes: str | None, equation: str | None, transpose_a: bool, transpose_b: bool, adjoint_a: bool, adjoint_b: bool
) -> dict[str, Any]:
    """Returns the call's other arguments, those that were given."""
    flags = {"transpose_a": transpose_a, "transpose_b": transpose_b, "adjoint_a": adjoint_a, "adjoint_b": adjoint_b}
    found: dict[str, Any] = {name: True for name, value in flags.items() if value}
    if equation is not None:
        found["equation"] = equation
    if axes is not None:
        try:
            found["axes"] = ast.literal_eval(axes.strip())
        except (ValueError, SyntaxError):
            raise ValueError(f"--axes {axes} cannot be read. Write 1, or 3,2, or [1,2],[0,1].") from None
    return found


def call(door: Callable[..., Any], lhs: Any, rhs: Any, given: dict[str, Any]) -> tuple[Any, ...]:
    """Puts operands and options into the order of the front door's own arguments."""
    left, right = operand_names(door)
    defaults = extra_defaults(door)
    for name, also in (("equation", "contraction"), ("axes", "dims")):  # what a function has by another name
        if name in given and also in defaults:
            given = {also if other == name else other: value for other, value in given.items()}
    for name in given:
        if name not in defaults:
            raise ValueError(
                f"{public_name(door)} takes no {name}; it takes {', '.join(defaults) or 'none but the operands'}."
            )
    values = {left: lhs, right: rhs, **defaults, **given}
    parameters = inspect.signature(door).parameters
    order = [
        name for name in parameters if name in values and parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    if any(each.kind is each.VAR_POSITIONAL for each in parameters.values()):
        order += [left, right]
    absent = [name for name in order if values[name] is inspect.Parameter.empty]
    if absent:
        raise ValueError(f"{public_name(door)} needs --{absent[0].replace('contraction', 'equation')}.")
    return tuple(values[name] for name in order)


def shape(text: str) -> tuple[int, ...]:
    """Reads 10x12x4x5, or a shape as Python prints it: (10, 12, 4, 5)."""
    if text.strip() in ("scalar", "()", "[]"):
        return ()
    sizes = re.sub(r"^[(\[]|,?[)\]]$|\s", "", text.strip())
    if re.search("none", sizes, re.IGNORECASE):
        raise ValueError(f"{text!r} has a size that is not known. Put a number for each None, such as 2.")
    if not re.fullmatch(r"\d+([xX,]\d+)*", sizes):
        raise ValueError(f"{text!r} is no shape. Write sizes with x between them, such as 10x12x4x5, or 'scalar'.")
    return tuple(int(size) for size in re.split("[xX,]", sizes))


def placed(x: jax.ShapeDtypeStruct, name: str, text: str, mesh: AbstractMesh) -> jax.ShapeDtypeStruct:
    """Returns the operand on a mesh, its axes cut as the text of `--lhs` or `--rhs` says."""
    spec = mesh_text.parse(text, mesh.shape)
    partition_spec.read(spec, len(x.shape), mesh.shape, name)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))


def size_of(text: str) -> int:
    """Reads a number of bytes: 500MB, or 2GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise ValueError(f"{text} is no number of bytes. Write one such as 500MB or 2GiB.")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def dtype_of(name: str) -> Any:
    """Reads a dtype's name; 64-bit types are taken at their word."""
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        raise ValueError(f"{name} is no dtype. Write one as NumPy does, such as float32, bfloat16 or int8.") from None
    if dtype.itemsize >= 8 and dtype != jnp.complex64:
        jax.config.update("jax_enable_x64", True)
    return dtype


def picture(plot: Path, of: Explanation | jbdot.ShardingPlan | CommunicationReport) -> None:
    """Saves a picture, and says so on standard error."""
    files.save(plot, lambda path: of.plot().savefig(path, dpi=150, format=plot.suffix[1:] or "png"), overwrite=True)
    errors.print(f"picture: {plot}", highlight=False)


def witnessed(planned: jbdot.ShardingPlan, topology: str) -> str:
    """Tells what the compiler for a topology makes of plain jit and of the best ways, each with its own result."""
    from jbdot.compilers.compiled import Compiler

    compiler = Compiler(topology)
    rows = [("way", "sent", "temporary", "compute, us", "collectives")]
    programs = [("plain jit", planned.by_compiler), *((way.name, planned.by_way(way)) for way in planned.same_result)]
    for name, program in rich.progress.track(programs[:COMPILED], "compiling", console=errors, transient=True):
        made = compiler.compile(program, planned.lhs, planned.rhs, out=planned.spec)
        us = "-" if made.estimated_us is None else f"{made.estimated_us:,.0f}, estimated"
        kinds = ", ".join(dict.fromkeys(one.kind for one in made.collectives))
        rows.append((name, bytes_text(made.bytes_sent), bytes_text(made.temp_bytes), us, kinds or "-"))
    return f"compiled for {topology}\n{table(rows)}"


def show(text: str, styles: Mapping[str, str] | None = None) -> None:
    """Prints text as it is, what matches a pattern in its style."""
    shown = rich.text.Text(text)
    for pattern, style in (styles or {}).items():
        shown.highlight_regex(pattern, style)
    console.print(shown, soft_wrap=True)
