"""`communication`: what a program sends over a mesh: by what the compiler makes of it, or before it is compiled."""

import importlib.metadata
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import AbstractMesh, PartitionSpec

from jbdot import hlo
from jbdot.compilers.compiled import Compiled, Compiler
from jbdot.core.errors import BadValue, Refusal
from jbdot.devices.links import Links
from jbdot.hardware import Hardware, known, of, of_topology
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.communication_row import CommunicationRow, explained, rows_of
from jbdot.programs.forecast import Forecast
from jbdot.programs.memory_row import memory_rows_of
from jbdot.programs.program import Program


def communication(
    function: Callable[..., Any],
    *args: Any,
    mesh: Any = None,
    topology: str | None = None,
    hardware: Hardware | str | None = None,
    timeout_s: float = 300.0,
    compiled: bool = True,
) -> CommunicationReport:
    """Says what a program sends over a mesh, and which line of its source each collective is for.

    The program is compiled, and not run. With `topology` the compiler is that of devices that need not be here; without
    it, that of the devices of the mesh, which may be the virtual ones of a CPU: another compiler makes other
    collectives, so ask for the topology that the program is to run on.

    Before it is compiled, with `compiled=False`, the answer is there in less than a second after JAX has lowered the
    program: what follows from the shardings that are propagated through it. It is a model: of dots that of plain jit
    (`plan_sharding`), of all else what Shardy writes down. It says nothing of temporaries.

    Args:
        function: What `jax.jit` takes, or gives, also through Flax or Equinox: a whole training step, as it is written.
            What a jitted function says of shardings and donated arguments holds.
        *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s with a `NamedSharding`, in pytrees. Arrays without one
            are placed by the compiler, where the function does not place them.
        mesh: What it runs over, where nothing else names it, and for PartitionSpecs within the function.
        topology: Such as "v5e:4x4": see `jbdot.compilers.compiled.Compiler`.
        hardware: Whose figures times are from, or a name that `jbdot.hardware.known` knows, such as "v5e"; by default
            those of the topology, or of the mesh's devices.
        timeout_s: The longest that the compiler for a topology may take.
        compiled: Whether the program is compiled; else it is told what it is expected to send.

    Raises:
        TypeError: The function is none, or the mesh.
        ValueError: Nothing names a mesh, several are named, it does not fit the topology, no figures are known for its
            devices, or the compiled program has a form that is not known.
        ImportError: The compiler for the topology is not installed.
        RuntimeError: That compiler refuses the program, as where it needs more memory than a device has; or, with
            `compiled=False`, this jaxlib does not run Shardy from Python.

    Example:
        >>> import jax
        >>> from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P
        >>> import jbdot
        >>> mesh = AbstractMesh((4, 4), ("x", "y"))
        >>> w = jax.ShapeDtypeStruct((8192, 8192), "bfloat16", sharding=NamedSharding(mesh, P("x", "y")))
        >>> loss = lambda w: (w @ w.T).sum()
        >>> print(jbdot.communication(jax.grad(loss), w, topology="v5e:4x4"))  # doctest: +SKIP
    """
    call = "" if topology is None else f"topology={topology!r}"
    try:
        if topology is not None:
            of_topology(topology)
        program = Program.of(function, args, mesh)
        figures = known(hardware) if isinstance(hardware, str) else hardware
        if not compiled:
            return _forecast(program, topology, figures)
        return report_of(program, topology, figures, timeout_s)
    except Refusal as refusal:
        raise refusal.told("communication", call) from None


def report_of(
    program: Program, topology: str | None, hardware: Hardware | None, timeout_s: float = 300.0
) -> CommunicationReport:
    """Compiles a program, and reads what it sends.

    Raises:
        ValueError, ImportError, RuntimeError: As of `communication`.
    """
    if topology is None:
        figures = hardware or _here(program.mesh)
        made, links = _compiled(program), Links.of(program.mesh, figures)
    else:
        figures = hardware or of_topology(topology)
        made = _compiled_for(program, topology, timeout_s)
        links = Links.of(dict(program.mesh.shape), figures)
    found = hlo.collectives(made.text, open_trips=1)
    rows = rows_of(found, links, program.mesh.shape, program.named)
    return CommunicationReport(
        function=program.name,
        mesh=dict(program.mesh.shape),
        hardware=figures,
        compiled_for=made.topology,
        rows=tuple(_explained(rows, program, figures, links)),
        held=tuple(memory_rows_of(hlo.held_at_peak(made.text), program.named)),
        argument_bytes=made.argument_bytes,
        output_bytes=made.output_bytes,
        alias_bytes=made.alias_bytes,
        temp_bytes=made.temp_bytes,
        flops=made.flops,
        estimated_us=made.estimated_us if topology is not None else None,
        argument_sizes=frozenset(_sizes(program)),
        versions=made.versions,
        results=tuple(x if isinstance(x, PartitionSpec) else None for x in made.out),
        text=made.text,
    )


def _forecast(program: Program, topology: str | None, hardware: Hardware | None) -> CommunicationReport:
    figures = hardware or (_here(program.mesh) if topology is None else of_topology(topology))
    links = Links.of(dict(program.mesh.shape), figures)
    forecast = _expected(program, figures, links)
    rows = rows_of(forecast.collectives, links, program.mesh.shape, program.named)
    return CommunicationReport(
        function=program.name,
        mesh=dict(program.mesh.shape),
        hardware=figures,
        compiled_for="",
        rows=tuple(explained(rows, (), forecast.planned())),
        held=(),
        argument_bytes=sum(math.prod(_local(x)) * x.dtype.itemsize for x in program.arrays),
        output_bytes=forecast.output_bytes,
        alias_bytes=min(forecast.output_bytes, forecast.donated_bytes),
        temp_bytes=None,
        flops=forecast.flops,
        estimated_us=None,
        argument_sizes=frozenset(_sizes(program)),
        versions={name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        text="",
    )


def _expected(program: Program, figures: Hardware, links: Links) -> Forecast:
    lowered = program.traced.lower(lowering_platforms=(figures.compiler or "cpu",))
    return Forecast(lowered.compiler_ir("stablehlo"), links)


def _explained(
    rows: list[CommunicationRow], program: Program, figures: Hardware, links: Links
) -> list[CommunicationRow]:
    """Says beside what the compiler makes how arrays are cut, and what planned dots would send, where that is known."""
    try:
        forecast = _expected(program, figures, links)
        expected = rows_of(forecast.collectives, links, program.mesh.shape, program.named)
        return explained(rows, expected, forecast.planned())
    except Exception:  # what the compiler says does not depend on what stands beside it
        return rows


def _local(x: Any) -> tuple[int, ...]:
    return x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)


def _sizes(program: Program) -> Iterator[tuple[int, ...]]:
    """Gives the sizes that a device has of each argument that has axes, and of one of a stack of layers, in order."""
    for x in program.arrays:
        local = _local(x)
        for shape in (local, local[1:])[: len(local) - 1 or 1]:
            if shape:
                yield tuple(sorted(shape))


class _Topology(Compiler):
    _name = "communication"


class _TooLarge(Refusal, RuntimeError):
    kind = RuntimeError


def _compiled_for(program: Program, topology: str, timeout_s: float) -> Compiled:
    """Compiles for a topology; what needs too much memory is told in words."""
    try:
        return _Topology(topology, timeout_s=timeout_s).compile_traced(program.traced, program.arrays, program.mesh)
    except RuntimeError as error:
        short = re.search(r"[^:]*exceeds available HBM \([^)]*\)", str(error))
        if not short:
            raise
        raise _TooLarge(
            "the program must fit into the memory of a device, for its compiler to take it",
            f"it does not fit: {short[0].removeprefix(' Ran out of memory on HBM, ').strip()}",
            "Cut parameters, the optimizer's state or the batch over more axes, donate what is replaced, or recompute "
            "with jax.checkpoint; a topology of the same shape whose devices have more memory tells where it goes",
        ) from None


def _here(mesh: Any) -> Hardware:
    """Returns the figures of the devices of a mesh that are here."""
    if isinstance(mesh, AbstractMesh):
        raise BadValue(
            "without a topology the mesh must be of devices that are here",
            str(mesh),
            'Name what the program is to run on, such as topology="v5e:4x4", or make the mesh with jax.make_mesh; with '
            'compiled=False the name of a device will do, hardware="v5e"',
        )
    return of(mesh.devices.flat[0])


def _compiled(program: Program) -> Compiled:
    """Compiles for the devices of the mesh."""
    ready = program.traced.lower().compile()
    memory, devices = ready.memory_analysis(), program.mesh.devices
    kind = devices.flat[0].device_kind
    return Compiled(
        topology=f"{devices.size} x {kind}",
        device_kind=kind,
        devices=devices.size,
        order="as the mesh has them",
        versions={name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        out=[getattr(sharding, "spec", None) for sharding in ready.output_shardings],
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        compile_s=0.0,
        text=ready.as_text(),
        alias_bytes=memory.alias_size_in_bytes,
    )
