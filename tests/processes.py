"""One of several processes that `test_processes` starts: `python processes.py WHAT INDEX COUNT PORT FOLDER`."""

import itertools
import os
import random
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import integers, mesh, shardings

from jbdot.calls.contract import contract
from jbdot.core.contraction import Contraction
from jbdot.many_devices.partition_spec import written
from jbdot.many_devices.sharding_plan import plan_sharding
from jbdot.one_device import tuning_cache
from jbdot.one_device.dot_spec import DotSpec
from jbdot.processes import joined

HEARTBEAT = 4  # seconds of silence after which a process is taken for dead
SHAPES = {"m k, k n -> m n": ((16, 32), (32, 24)), "b m k, b k n -> b m n": ((16, 8, 32), (16, 32, 8))}
KINDS = {"all-gather", "all-to-all", "reduce-scatter", "all-reduce", "permute"}
CASES = 6  # for each contraction


def spread(x, on, sharding):
    """A global array, of which each process makes the parts that it has."""
    return jax.make_array_from_callback(x.shape, NamedSharding(on, written(sharding)), lambda index: x[index])


def check(got, want, said):
    for shard in got.addressable_shards:
        np.testing.assert_array_equal(shard.data, want[shard.index], err_msg=str(said))


def across(way):
    """The collectives of a way that leave the process."""
    return {step.kind for _, route in way.ways for step in route.steps if "host" in step.axes} & KINDS


def numbers(on):
    """Plans of shardings drawn at random, and beside each another way, until every collective has left the process."""
    seen, draw = set(), random.Random(0)
    for text, shapes in SHAPES.items():
        c = Contraction.parse(text)
        x, y = (integers(shape, seed) for seed, shape in enumerate(shapes))
        want = np.einsum(c.einsum, x, y)
        every = list(itertools.product(*(shardings(on.axis_names, len(side)) for side in (c.lhs, c.rhs, c.out))))
        for left, right, out in draw.sample(every, CASES):
            lhs, rhs = spread(x, on, left), spread(y, on, right)
            plan = plan_sharding(text, lhs, rhs, written(out))
            check(plan(lhs, rhs), want, plan)
            way = max((way for way, _ in plan.candidates), key=lambda way: len(across(way) - seen))
            specs = plan.lhs.sharding.spec, plan.rhs.sharding.spec
            run = jax.shard_map(plan.by(way), mesh=on, in_specs=specs, out_specs=plan.spec, check_vma=False)
            check(jax.jit(run)(lhs, rhs), want, way.name)
            seen |= across(way)
    assert seen == KINDS, f"never across processes: {KINDS - seen}"


def gradients(on):
    x, y = (integers(shape, seed) for seed, shape in enumerate(SHAPES["b m k, b k n -> b m n"]))
    lhs, rhs = spread(x, on, ((), (), ("host", "local"))), spread(y, on, ((), ("host", "local"), ()))
    plan = plan_sharding("b m k, b k n -> b m n", lhs, rhs, P(("host", "local")))
    of_lhs, of_rhs = jax.jit(jax.grad(lambda x, y: (plan(x, y) ** 2).sum() / 2, (0, 1)))(lhs, rhs)
    check(of_lhs, x @ y @ y.mT, "gradient of lhs")
    check(of_rhs, x.mT @ (x @ y), "gradient of rhs")


def ends(on, folder, which, end):
    """Saves what it has, and computes on; one process ends in the middle of it."""
    x, y = integers((16, 32)), integers((32, 24), 1)
    lhs, rhs = spread(x, on, ((), ("host", "local"))), spread(y, on, (("host", "local"), ()))
    plan = plan_sharding("m k, k n -> m n", lhs, rhs, P())
    np.save(folder / f"{jax.process_index()}.npy", plan(lhs, rhs).addressable_data(0))
    for step in itertools.count():
        if step == 3 and jax.process_index() == which:
            print(f"ends at {time.time()}", flush=True)
            end()
        plan(lhs, rhs).block_until_ready()


def broken():
    raise ValueError("a mistake of the user's")


def lowers_as_all(folder):
    """Each process has a file of its own, which names another lowering for the same dot."""
    os.environ["JBDOT_TUNED"] = str(folder / f"{jax.process_index()}.jsonl")
    x = jax.ShapeDtypeStruct((8, 16), "float32")
    spec = DotSpec.of(x, x, x, (((1,), (1,)), ((0,), (0,))), None)
    tuning_cache.keep(spec, tuning_cache.device_kind("cpu"), ("reduced", "unrolled")[jax.process_index()], 9.0)
    assert len(tuning_cache._read(tuning_cache.path()).dots) == 1
    (folder / f"{jax.process_index()}.mlir").write_text(
        jax.jit(lambda x: contract("b k, b k -> b", x, x)).lower(x).as_text()
    )


def main(what, index, count, port, folder):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    seconds = HEARTBEAT if " " in what else 60
    with joined(f"127.0.0.1:{port}", int(count), int(index), heartbeat_timeout_seconds=seconds):
        on = mesh((int(count), 2), ("host", "local"))
        if what == "computes":
            numbers(on)
            gradients(on)
        elif what == "tuned":
            lowers_as_all(Path(folder))
        else:
            name, which = what.split()
            ends(on, Path(folder), int(which), {"dies": lambda: os._exit(7), "raises": broken}[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
