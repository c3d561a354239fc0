"""The real compiler as a witness: what XLA makes of a program on many TPUs or GPUs, with none of them here.

XLA's compilers for TPU (in the `libtpu` package) and GPU (in JAX's CUDA plugin) need no device. They run in a process
of their own (`compiler_process`). The program is lowered here, over the mesh that its arguments name, for the platform
it is to run on: the module that is compiled is the one that `jax.jit` would compile there.

Collectives and memory are what would run. Of GPUs, kernels are not: the compiler times those where a GPU is.
"""

import collections
import dataclasses
import functools
import importlib.metadata
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jbdot import hardware, hlo
from jbdot.compilers.compiler_process import process_of
from jbdot.core.errors import Refusal
from jbdot.core.text import table
from jbdot.one_device import tpu_costs

ESTIMATED: Final = "estimated by the compiler, no TPU has confirmed it"


class Missing(Refusal, ImportError):
    """A compiler that is not installed."""

    kind = ImportError


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program. Figures are those of one device.

    Attributes:
        topology: As asked.
        device_kind: As JAX reports it.
        devices: How many.
        order: How the devices were put into the mesh.
        versions: Of jax, jaxlib and the compiler.
        out: The sharding of each result, as a PartitionSpec where one can say it.
        argument_bytes: Of all arguments.
        output_bytes: Of all results.
        temp_bytes: Of all that is between.
        compile_s: Seconds.
        text: The compiled module.
        alias_bytes: Of results that take the place of donated arguments.
    """

    topology: str
    device_kind: str
    devices: int
    order: str
    versions: Mapping[str, str]
    out: Any
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    compile_s: float
    text: str = dataclasses.field(repr=False)
    alias_bytes: int = 0

    @functools.cached_property
    def collectives(self) -> tuple[hlo.Collective, ...]:
        """Returns the collectives that run: see `hlo.collectives`."""
        return hlo.collectives(self.text)

    @functools.cached_property
    def bytes_sent(self) -> int:
        """Counts the bytes that each device sends, by the algorithms that send fewest."""
        return hlo.bytes_sent(self.text)

    @functools.cached_property
    def flops(self) -> int | None:
        """Counts the FLOPs of the dots (`hlo.dot_flops`); None where the text does not tell."""
        try:
            return hlo.dot_flops(self.text)
        except hlo.Unreadable:
            return None

    @functools.cached_property
    def estimated_cycles(self) -> int | None:
        """Sums what the TPU compiler estimates for all but the collectives; None where it has no estimates.

        A new layout of an array counts at least what it moves, at the memory's rate: see `hlo.estimated_cycles`.
        """
        device = hardware.of_topology(self.topology)
        if math.isnan(device.clock_ghz):
            return None
        try:
            return hlo.estimated_cycles(self.text, device.memory_bytes_per_s / device.clock_ghz / 1e9) or None
        except hlo.Unreadable:
            return None

    @property
    def estimated_us(self) -> float | None:
        """Returns the same in microseconds: estimated by the compiler, no TPU has confirmed it."""
        cycles = self.estimated_cycles
        return cycles / hardware.of_topology(self.topology).clock_ghz / 1e3 if cycles else None

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        memory = f"{self.argument_bytes:,} in, {self.output_bytes:,} out, {self.temp_bytes:,} between"
        rows = [
            ("compiled", f"for {self.devices} x {self.device_kind}, in {self.compile_s:.2f} s, by {versions}"),
            ("mesh", self.order),
            ("sent", f"{self.bytes_sent:,} bytes"),
            *(("", line) for line in _merged(self.collectives)),
            ("FLOPs", "not known" if self.flops is None else f"{self.flops:,}"),
            ("memory", memory),
            *([("time", f"{self.estimated_us:,.1f} us without collectives: {ESTIMATED}")] if self.estimated_us else []),
            ("result", str(self.out)),
        ]
        return f"{self.topology}\n{table(rows)}"


class Compiler:
    """Compiles programs for one topology: "v5e:4x4", "v5p:4x4x4", "v6e:4x4", "v4:2x2x2", "tpu7x:2x2x2" or "h100:8".

    All compilers of a platform share one child process, which starts with the first program, in 2 to 3 s.

    Args:
        topology: A kind of device, and how many along each dimension of the torus.
        num_slices: How many such slices of TPUs, connected by the network of the data center.
        timeout_s: The longest that a program may take; then the child is killed.

    Raises:
        ImportError: The compiler is not installed, or another version of it than this jaxlib needs.
    """

    _name: ClassVar[str] = "Compiler"  # at the head of what it raises

    def __init__(self, topology: str, num_slices: int = 1, timeout_s: float = 300.0) -> None:
        self.topology, self.num_slices, self.timeout_s = topology, num_slices, timeout_s
        self._call = f"topology={topology!r}" + (f", num_slices={num_slices}" if num_slices > 1 else "")
        try:
            self.platform = hardware.of_topology(topology).compiler
            self.versions = _versions(self.platform)
        except Refusal as refusal:
            raise refusal.told(self._name, self._call) from None

    def compile(self, function: Callable[..., Any], *args: Any, out: Any = None) -> Compiled:
        """Compiles `jax.jit(function)` for arguments that say where they are.

        Args:
            function: What `jax.jit` takes. It is not run.
            *args: Arrays or `jax.ShapeDtypeStruct`s, in pytrees. Those with a `NamedSharding` name the mesh, abstract
                or of any devices: its axes and sizes count, and it has as many devices as the topology. Without any,
                the program is compiled for one device.
            out: PartitionSpecs of the results, one for all or a pytree of them; None leaves them to the compiler.

        Raises:
            ValueError: The mesh does not fit the topology, or there is no such topology.
            RuntimeError: The compiler refuses the program, hangs or ends.
        """
        args = jax.tree.map(_abstract, args)
        mesh = next((x.sharding.mesh for x in jax.tree.leaves(args) if x.sharding), None)
        shardings = {} if out is None else {"out_shardings": _placed(out, mesh)}
        traced = cast(Any, jax.jit(function, keep_unused=True, **shardings)).trace(*args)
        return self.compile_traced(traced, jax.tree.leaves(args), mesh)

    def compile_traced(self, traced: Any, args: Sequence[jax.ShapeDtypeStruct], mesh: Any) -> Compiled:
        """Compiles what `jax.jit(function, keep_unused=True).trace` gives.

        Args:
            traced: The program.
            args: All its arguments in order, as `jax.ShapeDtypeStruct`s.
            mesh: What it runs over; None for one device.

        Raises:
            ValueError, RuntimeError: As of `compile`.
        """
        with tpu_costs.lowered_for(hardware.of_topology(self.topology).short):
            lowered = traced.lower(lowering_platforms=(self.platform,))
        results, structure = jax.tree.flatten(traced.out_info)
        task = {
            "topology": self.topology,
            "num_slices": self.num_slices,
            "mesh": mesh and (tuple(mesh.axis_names), tuple(mesh.axis_sizes)),
            "module": _bytecode(lowered),
            "args": list(map(_described, args)),
            "results": list(map(_described, results)),
        }
        try:
            answer = process_of(self.platform, os.getpid()).ask(task, self.timeout_s)
        except Refusal as refusal:
            raise refusal.told(self._name, self._call) from None
        specs = jax.tree.unflatten(structure, answer.pop("out"))
        return Compiled(topology=self.topology, versions=self.versions, out=specs, **answer)


class _Once(Compiler):
    _name = "compile_for"


def compile_for(
    topology: str,
    function: Callable[..., Any],
    *args: Any,
    out: Any = None,
    num_slices: int = 1,
    timeout_s: float = 300.0,
) -> Compiled:
    """Compiles a function for devices that are not here, and says what it sends, holds and is estimated to take.

    Args:
        topology: Such as "v5e:4x4": see `Compiler`.
        function: What `jax.jit` takes: see `Compiler.compile`.
        *args: Arrays or `jax.ShapeDtypeStruct`s with a `NamedSharding`, whose mesh may be an `AbstractMesh`.
        out: PartitionSpecs of the results; None leaves them to the compiler.
        num_slices: How many slices of TPUs.
        timeout_s: The longest that it may take.

    Raises:
        ImportError: The compiler is not installed.
        ValueError: The mesh does not fit the topology, or there is no such topology.
        RuntimeError: The compiler refuses the program, hangs or ends.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jax.sharding import NamedSharding, PartitionSpec
        >>> from jbdot import compile_for
        >>> from jax.sharding import AbstractMesh
        >>> mesh = AbstractMesh((4, 4), ("x", "y"))
        >>> rows = jax.ShapeDtypeStruct((8192, 8192), "bfloat16", sharding=NamedSharding(mesh, PartitionSpec("x")))
        >>> print(compile_for("v5e:4x4", jnp.matmul, rows, rows))  # doctest: +SKIP
    """
    return _Once(topology, num_slices, timeout_s).compile(function, *args, out=out)


def _merged(found: Iterable[hlo.Collective]) -> Iterator[str]:
    """Writes a line for each kind of collective that is the same but for its place."""
    times: collections.Counter[hlo.Collective] = collections.Counter()
    for one in found:
        times[dataclasses.replace(one, times=1)] += one.times
    return (str(dataclasses.replace(one, times=count)) for one, count in times.items())


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding if isinstance(sharding, NamedSharding) else None)


def _placed(out: Any, mesh: Any) -> Any:
    def place(spec: Any) -> Any:
        return NamedSharding(mesh, spec) if isinstance(spec, PartitionSpec) else spec

    return jax.tree.map(place, out, is_leaf=lambda spec: isinstance(spec, PartitionSpec))


def _described(x: Any) -> tuple[tuple[int, ...], str, PartitionSpec | None]:
    return tuple(x.shape), x.dtype.name, x.sharding and x.sharding.spec


def _bytecode(lowered: Any) -> bytes:
    written = io.BytesIO()
    lowered.compiler_ir().operation.write_bytecode(written)
    return written.getvalue()


# What has to be installed.


def _versions(platform: str) -> dict[str, str]:
    """Returns the versions that a compilation holds for; refuses a compiler that does not fit this jaxlib."""
    package = "libtpu" if platform == "tpu" else "jax-cuda12-plugin"
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    wanted = _wanted(package) if platform == "tpu" else versions["jaxlib"]
    remedy = f"pip install '{package}=={wanted}'"
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        rule = f"the {platform.upper()} compiler must be installed"
        raise Missing(rule, f"there is no {package}; jaxlib {versions['jaxlib']} needs {wanted}", remedy) from None
    if not f"{found}.".startswith(f"{wanted.removesuffix('.*')}."):
        rule = f"the {platform.upper()} compiler must be the one that jaxlib was built with"
        raise Missing(rule, f"{package} is {found}; jaxlib {versions['jaxlib']} needs {wanted}", remedy)
    return {**versions, package: found}


def _wanted(package: str) -> str:
    """Returns the version of a package that jax pins: `0.0.50.*`."""
    pins = (re.match(rf"{package}==([\w.*]+)", line) for line in importlib.metadata.requires("jax") or ())
    return next(pin[1] for pin in pins if pin)
