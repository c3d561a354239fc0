"""The process in which a compiler runs: it is started when it is first asked, and kept for the next program.

Whatever the compiler prints, leaves behind or crashes on stays there. `Child` is its handle in the user's process; what
follows below runs within it, as `python -m jbdot.compilers.child`.
"""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jbdot.core.errors import BadValue, Refusal

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


class NotCompiled(Refusal, RuntimeError):
    """A program that the compiler refuses, or that it ends or hangs on."""

    kind = RuntimeError


class Child:
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
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
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
def child(platform: str, pid: int) -> Child:
    """The child of a platform. A process that was forked from this one has its own."""
    del pid
    return Child([sys.executable, "-m", "jbdot.compilers.child"], platform.upper())


# From within.


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
    except Exception:  # with a status of XLA's in capitals, and a rule of it that names neither kind nor sizes
        raise BadValue(
            "there must be such a topology",
            f"the TPU compiler knows no {topology!r}",
            "Name v4, v5e, v5p, v6e or tpu7x, and how many chips it has along each dimension, such as v5e:4x4",
        ) from None


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
