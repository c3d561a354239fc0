"""The real compiler as a witness: what XLA makes of a program on many TPUs or GPUs, with none of them here.

XLA's compilers for TPU (in the `libtpu` package) and GPU (in JAX's CUDA plugin) need no device. They run in a child
process, whatever they print or crash on, and it is kept for the next program. The program is lowered here, over the
mesh that its arguments name, for the platform it is to run on: the module that the child compiles is the one that
`jax.jit` would compile there.

Collectives and memory are what would run. Of GPUs, kernels are not: the compiler times those where a GPU is.
"""

import atexit
import collections
import dataclasses
import functools
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jbdot import hlo
from jbdot.errors import BadValue, Refusal
from jbdot.table import table

QUIET: Final = {  # libtpu neither looks for a TPU nor writes logs, and two processes may load it
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
ESTIMATED: Final = "estimated by the compiler, no TPU has confirmed it"
# GHz by `device_kind`: peak FLOP/s over the multiply-adds of the matrix units.
CLOCKS: Final = {"TPU v4": 1.05, "TPU v5 lite": 1.5, "TPU v5": 1.75, "TPU v6 lite": 1.75, "TPU7x": 2.2}

_ENVIRONMENT: Final = {
    **QUIET,
    "JAX_ENABLE_X64": "1",  # a result may have 64 bits; the module is not touched by it
    "JAX_ENABLE_COMPILATION_CACHE": "0",  # the seconds are those of compiling
    "PYTHONWARNINGS": "ignore",  # where they are errors to the user, none may end the compiler
}
# What a v4 shows as by default is one device for each core; on a real one it is one for each chip.
_CONFIGS: Final = {"v4": {"chip_config_name": "megacore"}}
_H100: Final = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
runtime_version { major: 12 minor: 8 } dnn_version_info { major: 9 minor: 7 }
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Missing(Refusal, ImportError):
    """A compiler that is not installed."""

    kind = ImportError


class NotCompiled(Refusal, RuntimeError):
    """A program that the compiler refuses, or that it ends or hangs on."""

    kind = RuntimeError


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

    @functools.cached_property
    def collectives(self) -> tuple[hlo.Collective, ...]:
        """The collectives that run: see `hlo.collectives`."""
        return hlo.collectives(self.text)

    @functools.cached_property
    def bytes_sent(self) -> int:
        """Bytes that each device sends, by the algorithms that send fewest."""
        return hlo.bytes_sent(self.text)

    @functools.cached_property
    def flops(self) -> int | None:
        """FLOPs of the dots: see `hlo.dot_flops`. None where the text does not tell."""
        try:
            return hlo.dot_flops(self.text)
        except hlo.Unreadable:
            return None

    @functools.cached_property
    def estimated_cycles(self) -> int | None:
        """What the TPU compiler estimates for all but the collectives, one after another; None where it has none."""
        try:
            return hlo.estimated_cycles(self.text) or None
        except hlo.Unreadable:
            return None

    @property
    def estimated_us(self) -> float | None:
        """The same in microseconds: estimated by the compiler, no TPU has confirmed it."""
        clock = CLOCKS.get(self.device_kind)
        return self.estimated_cycles / clock / 1e3 if clock and self.estimated_cycles else None

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

    def __init__(self, topology: str, num_slices: int = 1, timeout_s: float = 300.0) -> None:
        self.topology, self.num_slices, self.timeout_s = topology, num_slices, timeout_s
        self.platform = "cuda" if topology.startswith("h100") else "tpu"
        self._call = f"topology={topology!r}" + (f", num_slices={num_slices}" if num_slices > 1 else "")
        try:
            self.versions = _versions(self.platform)
        except Refusal as refusal:
            raise refusal.told("witness.Compiler", self._call) from None

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
        lowered = traced.lower(lowering_platforms=(self.platform,))
        results, structure = jax.tree.flatten(lowered.out_info)
        task = {
            "topology": self.topology,
            "num_slices": self.num_slices,
            "mesh": mesh and (tuple(mesh.axis_names), tuple(mesh.axis_sizes)),
            "module": _bytecode(lowered),
            "args": list(map(_described, jax.tree.leaves(args))),
            "results": list(map(_described, results)),
        }
        try:
            answer = _child(self.platform, os.getpid()).ask(task, self.timeout_s)
        except Refusal as refusal:
            raise refusal.told("witness.Compiler", self._call) from None
        specs = jax.tree.unflatten(structure, answer.pop("out"))
        return Compiled(topology=self.topology, versions=self.versions, out=specs, **answer)


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
        >>> from jax.sharding import AbstractMesh
        >>> mesh = AbstractMesh((4, 4), ("x", "y"))
        >>> rows = jax.ShapeDtypeStruct((8192, 8192), "bfloat16", sharding=NamedSharding(mesh, PartitionSpec("x")))
        >>> print(compile_for("v5e:4x4", jnp.matmul, rows, rows))  # doctest: +SKIP
    """
    return Compiler(topology, num_slices, timeout_s).compile(function, *args, out=out)


def _merged(found: Iterable[hlo.Collective]) -> Iterator[str]:
    """A line for each kind of collective that is the same but for its place."""
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
    """The versions that a compilation holds for; refuses a compiler that does not fit this jaxlib."""
    package = "libtpu" if platform == "tpu" else "jax-cuda12-plugin"
    extra = "tpu" if platform == "tpu" else "cuda"
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    wanted = _wanted(package) if platform == "tpu" else versions["jaxlib"]
    remedy = f"pip install 'jbdot[{extra}]' installs it"
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
    """The version of a package that jax pins: `0.0.50.*`."""
    pins = (re.match(rf"{package}==([\w.*]+)", line) for line in importlib.metadata.requires("jax") or ())
    return next(pin[1] for pin in pins if pin)


# The child, from here.


class _Child:
    """A process that compiles: started when it is first asked, and anew after it is lost."""

    def __init__(self, command: Sequence[str], name: str) -> None:
        self._command, self._name = command, name
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def ask(self, task: Any, timeout_s: float) -> dict[str, Any]:
        """Sends a task and waits for the answer; a child that hangs, ends or is left waiting for is ended."""
        with self._lock:
            try:
                answer = self._answer(task, timeout_s)
            except BaseException:
                self.end()
                raise
        if "refused" in answer:
            raise BadValue(*answer["refused"])
        if "failed" in answer:
            raise NotCompiled("the compiler must take the program", answer["failed"])
        return answer

    def _answer(self, task: Any, timeout_s: float) -> dict[str, Any]:
        fresh = self._running is None
        process, connection = self._running = self._running or self._start()
        try:
            if fresh:
                _heard(connection, timeout_s)  # that it is there
            connection.send(task)
            return cast(dict[str, Any], _heard(connection, timeout_s))
        except TimeoutError:
            facts = f"the {self._name} compiler has not answered after {timeout_s:g} s, and was ended"
            raise NotCompiled("a program must be compiled within timeout_s", facts) from None
        except (EOFError, OSError):
            facts = f"the {self._name} compiler ended {_ending(process)}; its last lines: {self._last_lines()}"
            raise NotCompiled("the compiler must answer", facts, "The next call starts a new one") from None

    def _start(self) -> tuple[subprocess.Popen[bytes], Connection]:
        """Starts it in a folder of its own: nothing that it prints or leaves behind shows."""
        self._folder = tempfile.TemporaryDirectory(prefix="jbdot-witness-")
        atexit.register(self.end)  # after the folder's own, so that it goes first
        ours, theirs = Pipe()
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        with open(Path(self._folder.name) / "log", "wb") as log, theirs:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # an interrupt at the keyboard is ours to handle
            )
        return process, ours

    def _last_lines(self) -> str:
        log = Path(self._folder.name) / "log" if self._folder else None
        lines = log.read_text(errors="replace").splitlines() if log else []
        return " | ".join(line.strip() for line in lines[-5:]) or "none"

    def end(self) -> None:
        """Ends it, if it runs."""
        if self._running:
            process, connection = self._running
            self._running = None
            connection.close()
            process.kill()
            process.wait()
        if self._folder:
            self._folder.cleanup()
            self._folder = None


def _heard(connection: Connection, timeout_s: float) -> Any:
    if not connection.poll(timeout_s):
        raise TimeoutError
    return connection.recv()


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "still running"
    return f"by signal {-code}" if code < 0 else f"with status {code}"


@functools.cache
def _child(platform: str, pid: int) -> _Child:
    """The child of a platform. A process that was forked from this one has its own."""
    del pid
    return _Child([sys.executable, "-m", "jbdot.witness"], platform.upper())


# The child, from within.


def _serve(descriptor: int) -> None:
    connection = Connection(descriptor)
    connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except EOFError:  # whoever asked is gone
            os._exit(0)
        connection.send(_attempt(task))


def _attempt(task: dict[str, Any]) -> dict[str, Any]:
    try:
        return _compiled(**task)
    except BadValue as refusal:
        return {"refused": (refusal.rule, refusal.facts, refusal.remedy)}
    except Exception as error:
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())}


def _compiled(
    topology: str, num_slices: int, mesh: Any, module: bytes, args: list[Any], results: list[Any]
) -> dict[str, Any]:
    """Compiles a module as jit would: it replaces that of a stand-in, which has the same arguments and results."""
    devices = _devices(topology, num_slices)
    over, order = _mesh(devices, mesh[0], mesh[1], num_slices) if mesh else (None, "one device")

    def place(spec: Any) -> Any:
        if over is None:
            return SingleDeviceSharding(devices[0])
        return None if spec is None else NamedSharding(over, spec)

    def stand_in(*args: Any) -> list[Any]:
        del args
        return [jnp.zeros(shape, dtype) for shape, dtype, _ in results]

    given = [jax.ShapeDtypeStruct(shape, dtype, sharding=place(spec)) for shape, dtype, spec in args]
    placed = None if over is None else [place(spec) for *_, spec in results]
    lowered: Any = jax.jit(stand_in, keep_unused=True, out_shardings=placed).lower(*given)
    own = lowered.compiler_ir()
    lowered._lowering._hlo = type(own).parse(module, context=own.context)
    start = time.perf_counter()
    ready = lowered.compile()
    memory = ready.memory_analysis()
    return {
        "device_kind": devices[0].device_kind,
        "devices": 1 if over is None else over.size,
        "order": order,
        "out": [_said(sharding) for sharding in ready.output_shardings],
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "compile_s": round(time.perf_counter() - start, 3),
        "text": ready.as_text(),
    }


def _said(sharding: Any) -> Any:
    """A sharding as a PartitionSpec, or in JAX's words where none can say it."""
    if isinstance(sharding, SingleDeviceSharding):
        return PartitionSpec()
    return sharding.spec if isinstance(sharding, NamedSharding) else str(sharding)


@functools.cache
def _devices(topology: str, num_slices: int) -> list[Any]:
    from jax.experimental import topologies  # loads no compiler by itself, but only a child needs it

    kind, _, sizes = topology.partition(":")
    if kind == "h100":
        options: dict[str, Any] = {"target_config": _H100, "topology": f"1x1x{sizes or 1}"}
        return list(topologies.get_topology_desc("h100", "cuda", **options).devices)
    options = {**_CONFIGS.get(kind, {}), **({"num_slices": num_slices} if num_slices > 1 else {})}
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except Exception as error:
        raise BadValue("there must be such a topology", str(error), "v5e:4x4 is one") from None


def _mesh(devices: list[Any], names: tuple[str, ...], sizes: tuple[int, ...], num_slices: int) -> tuple[Mesh, str]:
    """A mesh of the devices in the best order that JAX knows for it, and which that is."""
    from jax.experimental import mesh_utils

    if int(np.prod(sizes)) != len(devices):
        shape = ", ".join(f"{name}: {size}" for name, size in zip(names, sizes, strict=True))
        facts = f"the mesh ({shape}) has {int(np.prod(sizes))}, the topology {len(devices)}"
        raise BadValue("the mesh must have as many devices as the topology", facts)
    kinds = (AxisType.Auto,) * len(names)
    ways: dict[str, Callable[[], Any]] = {
        "as jax.make_mesh orders devices": lambda: jax.make_mesh(sizes, names, kinds, devices=devices).devices,
        "axes of the mesh share an axis of the torus": lambda: mesh_utils.create_device_mesh(
            sizes, devices, allow_split_physical_axes=True
        ),
    }
    if num_slices > 1:
        within, across = (sizes[0] // num_slices, *sizes[1:]), (num_slices, *(1 for _ in sizes[1:]))
        ways = {
            "the first axis goes across slices": lambda: mesh_utils.create_hybrid_device_mesh(within, across, devices)
        }
    for order, way in ways.items():
        try:
            return Mesh(way(), names, axis_types=kinds), order
        except (NotImplementedError, ValueError, AssertionError):
            continue
    return Mesh(np.array(devices).reshape(sizes), names, axis_types=kinds), "devices as the topology lists them"


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
