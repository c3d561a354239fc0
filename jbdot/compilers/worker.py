"""What runs in a compiler's process: `python -m jbdot.compilers.worker`, started by `compiler_process`."""

import functools
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jbdot.core.errors import BadValue
from jbdot.hardware import of_topology
from jbdot.one_device import jax_internals


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

    def jbdot_stand_in(*args: Any) -> list[Any]:
        del args
        return [jnp.zeros(shape, dtype) for shape, dtype, _ in results]

    given = [jax.ShapeDtypeStruct(shape, dtype, sharding=place(spec)) for shape, dtype, spec in args]
    placed = None if over is None else [place(spec) for *_, spec in results]
    lowered: Any = jax.jit(jbdot_stand_in, keep_unused=True, out_shardings=placed).lower(*given)
    jax_internals.put_module(lowered, module)
    start = time.perf_counter()
    ready = lowered.compile()
    text, memory = ready.as_text(), ready.memory_analysis()
    if jbdot_stand_in.__name__ in text.partition("\n")[0]:  # else its zeros would pass for the program
        raise NotImplementedError(f"jax {jax.__version__} compiles no module that jbdot puts in the place of another")
    return {
        "device_kind": devices[0].device_kind,
        "devices": 1 if over is None else over.size,
        "order": order,
        "out": [_said(sharding) for sharding in ready.output_shardings],
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "compile_s": round(time.perf_counter() - start, 3),
        "text": text,
    }


def _said(sharding: Any) -> Any:
    """Writes a sharding as a PartitionSpec, or in JAX's words where none can say it."""
    if isinstance(sharding, SingleDeviceSharding):
        return PartitionSpec()
    return sharding.spec if isinstance(sharding, NamedSharding) else str(sharding)


@functools.cache
def _devices(topology: str, num_slices: int) -> list[Any]:
    from jax.experimental import topologies  # loads no compiler by itself, but only a child needs it

    kind, _, sizes = topology.partition(":")
    hardware = of_topology(topology)
    options: dict[str, Any] = dict(hardware.compiler_options)
    if hardware.compiler == "cuda":
        options["topology"] = f"1x1x{sizes or 1}"
        return list(topologies.get_topology_desc(kind, "cuda", **options).devices)
    if num_slices > 1:
        options["num_slices"] = num_slices
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        status, _, reason = str(error).partition(": ")
        if status != "INVALID_ARGUMENT":  # nothing is wrong with the name
            raise
        raise BadValue(
            "there must be such a topology",
            f"the TPU compiler knows no {topology!r}, and says: {reason}",
            "Name v4, v5e, v5p, v6e or tpu7x, and how many chips it has along each dimension, such as v5e:4x4",
        ) from error


def _mesh(devices: list[Any], names: tuple[str, ...], sizes: tuple[int, ...], num_slices: int) -> tuple[Mesh, str]:
    """Makes a mesh of the devices in the best order that JAX knows for it, and says which that is."""
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
