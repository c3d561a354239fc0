"""Everything that jbdot prints is at most 80 columns wide, whatever the labels, the mesh and the sizes."""

import random
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import jbdot
from jbdot.calls.tuning import Tuned
from jbdot.command import doctor
from jbdot.compilers.compiled import Compiled
from jbdot.core.text import WIDTH, table
from jbdot.devices.links import Links
from jbdot.hardware import KNOWN, known
from jbdot.one_device.bench import Bench
from jbdot.one_device.lowerings import LOWERINGS
from jbdot.one_device.measure import Timing
from jbdot.timing import Spread

WORDS = ("batch", "sequence_of_queries", "sequence_of_keys", "attention_heads", "features_per_head", "mlp_features")
AXES = ("data", "replica", "fully_sharded", "tensor_parallel", "sequence_parallel", "expert_parallel")


def check(printed):
    lines = str(printed).splitlines()
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)


def random_contraction(rng):
    """Some labels with sizes: of lhs, of rhs, and of the result."""
    labels = rng.sample(WORDS, rng.randint(3, 6))
    roles = {label: rng.choice(("batch", "lhs", "rhs", "contracted")) for label in labels}
    lhs = [label for label in labels if roles[label] != "rhs"] or labels[:1]
    rhs = [label for label in labels if roles[label] != "lhs"] or labels[-1:]
    out = [label for label in labels if roles[label] != "contracted"]
    sizes = {label: rng.choice((8, 64, 1024, 1 << 20)) for label in labels}
    return f"{' '.join(lhs)}, {' '.join(rhs)} -> {' '.join(out)}", *([sizes[x] for x in side] for side in (lhs, rhs))


def shaped(shape, dtype="bfloat16", sharding=None):
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)


@pytest.mark.parametrize("seed", range(8))
def test_an_explanation_and_a_report(seed):
    text, lhs, rhs = random_contraction(random.Random(seed))
    check(jbdot.explain(text, shaped(lhs), shaped(rhs)))

    def a_function_whose_name_is_as_long_as_those_of_large_programs(x, y):
        return jbdot.contract(text, x, y)

    check(jbdot.optimize(a_function_whose_name_is_as_long_as_those_of_large_programs).report(shaped(lhs), shaped(rhs)))


@pytest.mark.parametrize("function", [jbdot.batch_dot, jbdot.keras.batch_dot, jbdot.mxnet.batch_dot, jbdot.theano.dot])
def test_an_explanation_of_a_dialect(function):
    check(jbdot.explain(function, (1 << 20, 1 << 20, 1 << 20), (1 << 20, 1 << 20, 1 << 20)))


@pytest.mark.parametrize("count", range(1, 7))
def test_a_plan(count):
    rng = random.Random(count)
    text, lhs, rhs = f"{WORDS[1]} {WORDS[4]}, {WORDS[4]} {WORDS[5]} -> {WORDS[1]} {WORDS[5]}", (512, 1024), (1024, 64)
    if count < 5:  # with six axes such a plan takes long
        text, lhs, rhs = random_contraction(rng)
    axes = rng.sample(AXES, count)
    mesh = AbstractMesh((2,) * len(axes), tuple(axes))
    cut = PartitionSpec(tuple(axes[:3]))
    plan = jbdot.plan_sharding(
        text, *(shaped(x, sharding=NamedSharding(mesh, cut)) for x in (lhs, rhs)), hardware=known("TPU v5p")
    )
    check(plan)
    check(Links.of(dict(mesh.shape), known("TPU v5p")))
    printed = " ".join(str(plan).split())
    for way, estimate in plan.candidates[:3]:  # what the table shows stands in attributes too
        assert f"{estimate.total_us:,.1f}" in printed
        assert f"{way.flops:.3g}" in printed


def test_what_was_measured():
    rng, us = random.Random(0), Spread(123456.7, 123456.1, 1234567.8)
    for _ in range(5):
        text, lhs, rhs = random_contraction(rng)
        spec = jbdot.explain(text, shaped(lhs, "float32"), shaped(rhs, "float32")).dot_spec
        timings = tuple(Timing(name, 12345.6, us, us) for name in LOWERINGS)
        check(Tuned(spec, "AMD EPYC 9B14 96-Core Processor, 192 cores", timings, "direct", "unrolled"))
        names = [*LOWERINGS, "jnp.einsum", "torch.einsum"]
        times = dict.fromkeys(names, us)
        check(Bench(spec, "AMD EPYC 9B14 96-Core Processor, 192 cores", times, times, "unrolled", 1234.5))


def test_what_is_here_and_what_is_known():
    check(table(doctor.found()))
    for some in KNOWN:
        check(some)


def test_what_was_compiled():
    text = (Path(__file__).parents[1] / "data" / "hlo" / "tpu-loop-unrolled.txt").read_text()
    order, spec = "as the compiler has them " * 4, PartitionSpec(AXES)
    versions = {"jax": "0.12.0.1", "jaxlib": "0.12.0.1", "libtpu": "0.0.50.1"}
    check(Compiled("v5e:4x4", "TPU v5 lite", 16, order, versions, spec, 1 << 40, 1 << 40, 1 << 40, 1.0, text))
