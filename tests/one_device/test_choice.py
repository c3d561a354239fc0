"""Which lowering is chosen: by what is named, measured, estimated."""

import functools
import math

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from benchmarks.fit import RESULTS, judged, table
from jbdot.one_device import choice, costs
from jbdot.one_device.choice import NAMES, chosen, surest
from jbdot.one_device.costs import CAUTION, Estimate, Machine
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS

NUMBERS = (((2,), (1,)), ((0,), (0,)))


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    monkeypatch.setenv("JBDOT_TUNED", "off")


def ask(lhs, rhs, dtype="float32", numbers=NUMBERS, precision=None):
    x, y = (jax.ShapeDtypeStruct(shape, dtype) for shape in (lhs, rhs))
    return DotSpec.of(x, y, jax.ShapeDtypeStruct((), dtype), numbers, precision)


def test_a_gain_names_the_dot_that_it_is_of():
    found = chosen(ask((4096, 4, 4), (4096, 4, 4)), "cpu")
    assert "times faster on this dot (estimated; such estimates were off by" in str(found)


def test_another_lowering_than_direct_must_be_estimated_surely_faster():
    direct = Estimate("direct", 100.0)

    def of(us, doubt):
        machine = Machine("", {"reduced": math.log(doubt)}, CAUTION)
        return surest((direct, machine.estimate("reduced", math.log(us / 100), 100.0, "float32"))).lowering

    assert [of(us, 1.0) for us in (101.0, 99.0, 97.0)] == ["direct", "direct", "reduced"]
    assert [of(90.0, doubt) for doubt in (1.1, 4.0)] == ["reduced", "direct"]
    two = Estimate("reduced", 50.0, 2.0, 1.2, 1.1), Estimate("split", 60.0, 100 / 60, 1.2, 1.1)
    assert surest((direct, *two)).lowering == "reduced"
    assert surest(()).lowering == "direct"


def test_what_a_backend_may_refuse_is_not_chosen(monkeypatch):
    """XLA's CPU backend has no batched bfloat16 dot with float32 sums that is turned around."""
    spec = DotSpec.of(
        jax.ShapeDtypeStruct((200, 16, 20), "bfloat16"),
        jax.ShapeDtypeStruct((128, 5, 20, 200), "bfloat16"),
        jax.ShapeDtypeStruct((), "float32"),
        (((0,), (3,)), ((2,), (2,))),
        None,
    )
    asked = []
    monkeypatch.setattr(costs, "estimates", lambda spec, names, _: asked.extend(names) or ())
    assert chosen(spec, "cpu").lowering == "direct"
    assert {"direct", "reduced"} <= set(asked)
    assert not {"swapped", "pinned", "split", "looped"} & set(asked)


def test_an_export_is_estimated_without_pinned_layouts(monkeypatch):
    asked = []
    monkeypatch.setattr(costs, "estimates", lambda spec, names, _: asked.extend(names) or ())
    chosen(ask((8, 64, 64), (8, 64, 64)), "cpu", exported=True)
    assert "swapped" in asked
    assert not any(LOWERINGS[name].pins for name in asked)


def test_other_platforms_are_not_estimated():
    assert choice.estimated(ask((8, 64, 64), (8, 64, 64)), "cpu")
    assert not any(choice.estimated(ask((8, 64, 64), (8, 64, 64)), name) for name in ("cuda", "rocm"))
    assert not choice.estimated(ask((8, 64, 64), (8, 64, 64), "complex128"), "cpu")  # of a dtype that was never timed


@pytest.mark.parametrize("path", sorted(RESULTS.glob("lowerings-*.jsonl.gz")), ids=lambda path: path.name[:40])
def test_choices_are_good_on_the_tables(path, monkeypatch):
    """On what was fitted, so that the bounds are wide: that the model is read as it was written."""
    fitted = costs.shipped("AuthenticAMD family 25 model 1")  # whatever this machine is
    monkeypatch.setattr(choice.tuning_cache, "machine", lambda _: fitted)
    rows = table(path)[::5]
    if rows[0].is_tpu:
        pytest.skip("see test_tpu_costs.py")
    here = "new" if jax.__version_info__ >= (0, 12) else "old"
    if rows[0].era != here:
        pytest.skip(f"of the kernels of {rows[0].era} versions of JAX")
    found = [(row, chosen(row.spec, "cpu").lowering) for row in rows]
    timed = [(row, lowering) for row, lowering in found if lowering in row.us]  # not all had every lowering
    said = judged(*zip(*timed, strict=True))
    assert len(timed) > 0.9 * len(rows)
    assert said["regret"] < 1.2, said
    assert said["gain"] > 1.2, said


def test_what_was_seen_to_be_wrong_on_a_platform_is_not_chosen_there():
    spec = ask((2, 4, 4), (2, 4, 4), "uint8")
    for lowering in ("shifted", "hash"):
        assert chosen(spec, "cuda", lowering).lowering != "shifted"
    assert chosen(spec, "cpu", "shifted").lowering == "shifted"


@pytest.mark.parametrize("numbers", [NUMBERS, (((2,), (2,)), ((0,), (0,))), (((1,), (1,)), ((0,), (0,)))])
def test_a_gpu_gets_int8_of_an_odd_contracted_size_padded(numbers):
    """XLA doubled such sums on an H100: every dot that it may double is another, whatever is named, but "direct"."""

    def of(k, platform="cuda", lowering="auto", dtype="int8", out="int32", m=4):
        shapes = [[2, m, m], [2, 4, 4]]
        for shape, axis in zip(shapes, (numbers[0][0][0], numbers[0][1][0]), strict=True):
            shape[axis] = k
        operands = (jax.ShapeDtypeStruct(tuple(shape), dtype) for shape in shapes)
        return chosen(DotSpec.of(*operands, jax.ShapeDtypeStruct((), out), numbers, None), platform, lowering).lowering

    assert [of(k) for k in (1, 2, 3, 4, 32, 33)] == ["direct", "direct", "evened", "direct", "direct", "evened"]
    assert of(33, m=1) == "direct"  # a vector
    assert {of(33, platform) for platform in ("rocm", "tpu")} == {"direct"}
    assert "evened" not in {of(33, "cpu"), of(33, "cpu", "hash")}
    assert {of(33, dtype=dtype, out=out) for dtype, out in (("int8", "int8"), ("int32", "int32"))} == {"direct"}
    assert of(33, lowering="direct") == "direct"
    spared = {"reduced", "unrolled", "lanes", "evened"}
    assert {of(33, lowering=name) for name in NAMES if name not in ("direct", "invariant", "measured")} == spared
    assert of(33, lowering="hash") in spared
    assert of(33, "cpu", "pinned") == "pinned"


def peak_bytes(spec, lowering):
    """Of operands, result and what stands beside them, by the compiler's account."""
    shapes = [
        jax.ShapeDtypeStruct(spec.lhs, spec.lhs_dtype),
        jax.ShapeDtypeStruct(spec.rhs, spec.rhs_dtype),
    ]
    memory = jax.jit(functools.partial(LOWERINGS[lowering], spec)).lower(*shapes).compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


@pytest.mark.parametrize(
    "lowering", ["pinned", "swapped", "reduced", "unrolled", "split", "fused", "looped", "wrapped"]
)
def test_memory_stays_in_bounds(lowering):
    """Where a dot is several megabytes: at most the bare dot's peak, and copies of the operands."""
    lhs, rhs, numbers, dtype = {
        "fused": ((256, 128, 128), (256, 128), (((2,), (1,)), ((0,), (0,))), "float16"),
        "looped": ((256, 128, 128), (256, 128), (((1,), (1,)), ((0,), (0,))), "float16"),
        "split": ((4096, 64), (4096, 16), (((0,), (0,)), ((), ())), "float32"),
        "wrapped": ((256, 512), (512, 256), (((1,), (0,)), ((), ())), "int16"),
        "unrolled": ((4096, 4, 4), (4096, 4, 4), NUMBERS, "float32"),
        "reduced": ((4, 12, 64), (4, 2048, 12, 64), (((2,), (3,)), ((0, 1), (0, 2))), "float32"),
    }.get(lowering, ((64, 128, 128), (64, 128, 128), (((1,), (1,)), ((0,), (0,))), "float32"))
    spec = ask(lhs, rhs, dtype, numbers)
    assert not choice.misfit(spec, lowering)
    ratio = peak_bytes(spec, lowering) / peak_bytes(spec, "direct")
    assert ratio <= (3.0 if lowering == "wrapped" else 1.7), ratio  # "wrapped" holds its operands in 32 bits


def test_large_matrix_products_run_as_they_stand():
    for dtype in ("float32", "bfloat16", "float64", "complex64"):
        for platform in ("cpu", "cuda", "tpu"):
            assert chosen(ask((8, 512, 512), (8, 512, 512), dtype), platform).lowering == "direct", (dtype, platform)
    # Of float16 a loop is faster before jax 0.12, and of int8 to int8 XLA has no kernel.
    for dtype, others in (("float16", {"direct", "looped"}), ("int8", {"wrapped"})):
        assert chosen(ask((8, 512, 512), (8, 512, 512), dtype), "cpu").lowering in others


def test_gpus_run_everything_as_it_stands():
    for dtype in ("bfloat16", "float32"):
        assert chosen(ask((8192, 4, 5), (8192, 5, 8), dtype), "cuda").lowering == "direct"
        assert chosen(ask((8192, 4, 5), (8192, 5, 8), dtype), "rocm").lowering == "direct"


def test_what_only_a_dot_can_do_is_left_to_it():
    small = (4096, 4, 4)
    assert chosen(ask(small, small), "cpu").lowering in ("unrolled", "reduced")
    algorithm = lax.DotAlgorithmPreset.F32_F32_F32
    assert chosen(ask(small, small, precision=algorithm), "cpu").lowering == "direct"
    mixed = DotSpec.of(
        jax.ShapeDtypeStruct(small, jnp.float32),
        jax.ShapeDtypeStruct(small, jnp.bfloat16),
        jax.ShapeDtypeStruct((), jnp.float32),
        NUMBERS,
        None,
    )
    assert chosen(mixed, "cpu").lowering == "direct"
    assert chosen(ask((0, 4, 4), (0, 4, 4)), "cpu").lowering == "direct"


def test_plans_are_named_for_what_they_do():
    assert NAMES[:2] == ("auto", "direct")
    for name in NAMES[1:-1]:
        assert LOWERINGS[name].function.__doc__
        assert LOWERINGS[name].why or name in ("direct", "invariant")
