"""Meshes of CPU devices, and every sharding of an array on them."""

import itertools

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding

from jbdot.many_devices import partition_spec


def mesh(shape, names="xyz", kind="Auto"):
    return jax.make_mesh(shape, tuple(names[: len(shape)]), axis_types=(getattr(AxisType, kind),) * len(shape))


def shardings(names, ndim):
    """Every way in which some of the mesh axes, in any order, cut the axes of an array."""
    found = set()
    for order in itertools.permutations(names):
        for dims in itertools.product(range(-1, ndim), repeat=len(names)):
            found.add(tuple(tuple(a for a, at in zip(order, dims, strict=True) if at == dim) for dim in range(ndim)))
    return sorted(found)


def struct(shape, dtype, on, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(on, partition_spec.written(sharding)))


def integers(shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def together(on, runs):
    """Runs functions of local parts as one program: pairs of (function, shardings of its arguments, of its result)."""

    def program(*arrays):
        out = []
        for run, ins, end, chosen in runs:
            specs = tuple(map(partition_spec.written, ins))
            spread = jax.shard_map(run, mesh=on, in_specs=specs, out_specs=partition_spec.written(end), check_vma=False)
            out.append(spread(*(arrays[index] for index in chosen)))
        return out

    return jax.jit(program)
