"""A ring gives what gathering gives: of both operands, free and contracting labels, pieces that are no neighbours."""

import itertools

import numpy as np
import pytest
from jax import numpy as jnp
from meshes import integers, mesh, shardings, struct, together

from jbdot.core.contraction import Contraction
from jbdot.hardware import known
from jbdot.many_devices import collective_matmul
from jbdot.many_devices.partition_spec import written
from jbdot.many_devices.sharding_plan import plan_sharding

V5E = known("TPU v5 lite")


@pytest.mark.parametrize("text", ["m k, k n -> m n", "b m k, b k n -> b m n", "m k, k n -> n m"])
def test_every_ring_gives_the_right_numbers(text, monkeypatch):
    monkeypatch.setattr(collective_matmul, "LEAST", 0)
    on, c = mesh((2, 4)), Contraction.parse(text)
    shapes = ((16, 32), (32, 24)) if len(c.lhs) == 2 else ((8, 16, 32), (8, 32, 8))
    lhs, rhs = (integers(shape, seed) for seed, shape in enumerate(shapes))
    runs, names = [], []
    pairs = list(itertools.product(shardings("xy", len(shapes[0])), shardings("xy", len(shapes[1]))))
    for left, right in pairs[:: len(pairs) // 12]:
        operands = (struct(shape, "float32", on, at) for shape, at in zip(shapes, (left, right), strict=True))
        plan = plan_sharding(c, *operands, hardware=V5E)
        for way in [way for way, _ in plan.candidates if way.ring][:6]:
            runs.append((plan.by(way), (left, right), way.out.end.sharding, (0, 1)))
            names.append((left, right, way.name))
    assert {name.split(", ")[-1] for *_, name in names} == {"lhs round a ring", "rhs round a ring"}
    for got, name in zip(together(on, runs)(lhs, rhs), names, strict=True):
        np.testing.assert_array_equal(got, np.einsum(c.einsum, lhs, rhs), err_msg=str(name))


def plan(size, mesh_shape=(4,)):
    on = mesh(mesh_shape)
    lhs = struct((size, size), "bfloat16", on, (("x",), ()))
    rhs = struct((size, size), "bfloat16", on, (("x",), ()))
    return plan_sharding("m k, k n -> m n", lhs, rhs, written((("x",), ())), hardware=V5E)


def test_rings_are_candidates_where_blocks_are_large():
    found = {way.name for way, _ in plan(8192).candidates}
    assert "m on x, rhs round a ring" in found
    assert not any("ring" in way.name for way, _ in plan(512).candidates)
    assert collective_matmul.MOST == 8


def test_a_ring_sends_what_a_gather_sends_and_holds_less():
    ways = {way.name: (way, estimate) for way, estimate in plan(8192).candidates}
    (gather, gathered), (turning, turned) = ways["m on x"], ways["m on x, rhs round a ring"]
    assert turning.sent == gather.sent
    assert turning.temporary < gather.temporary
    assert turned.total_us < turned.compute_us + turned.communication_us  # beside one another
    assert gathered.total_us == gathered.compute_us + gathered.communication_us


def test_terms_are_added_in_what_a_dot_accumulates_in(monkeypatch):
    monkeypatch.setattr(collective_matmul, "LEAST", 0)
    on = mesh((8,))
    lhs = struct((8, 4096), "bfloat16", on, ((), ("x",)))
    rhs = struct((4096, 8), "bfloat16", on, ((), ("x",)))
    asked = plan_sharding("m k, k n -> m n", lhs, rhs, written(((), ("x",))), hardware=V5E)
    (way,) = (way for way, _ in asked.candidates if way.name == "n on x, lhs round a ring")
    ones = np.ones((8, 4096), jnp.bfloat16)
    (got,) = together(on, [(asked.by(way), (((), ("x",)), ((), ("x",))), ((), ("x",)), (0, 1))])(
        ones, (ones.T + np.asarray(2**-7, jnp.bfloat16))
    )
    np.testing.assert_array_equal(got.astype("float32"), 4096 + 32)
