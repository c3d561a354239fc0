"""Which lowering is chosen: every rule fits its own case first, is measured, and keeps memory in bounds."""

import functools
import json
from pathlib import Path

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from benchmarks.rules import request_of
from jbdot.one_device import rules
from jbdot.one_device.choice import NAMES, chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS

MEASURED = json.loads((Path(rules.__file__).parent / "measured.json").read_text())
RULES = {rule.name: rule for rules in rules.RULES.values() for rule in rules}
NUMBERS = (((2,), (1,)), ((0,), (0,)))


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    monkeypatch.setenv("JBDOT_TUNED", "off")


def ask(lhs, rhs, dtype="float32", numbers=NUMBERS, precision=None):
    x, y = (jax.ShapeDtypeStruct(shape, dtype) for shape in (lhs, rhs))
    return DotSpec.of(x, y, jax.ShapeDtypeStruct((), dtype), numbers, precision)


@pytest.mark.parametrize("platform", rules.RULES)
def test_every_rule_is_the_first_that_fits_its_case(platform):
    for rule in rules.RULES[platform]:
        spec = request_of(rule)
        if rule.fits(spec):  # not all are for this version of JAX
            assert chosen(spec, platform).why == rule.why, rule.name
            assert chosen(spec, platform).lowering == rule.lowering


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_measured_and_gains(name):
    figures = MEASURED[name]
    assert figures
    for version, found in figures.items():
        assert found["gain"] >= 1.1, (name, version)
        assert version in found["source"]
    gain, source = rules.measured(RULES[name])
    assert gain >= 1.1
    assert source


def test_a_gain_names_the_case_that_it_is_of():
    arrays = "int8[64,128,128] by int8[64,128,128]"
    spec = ask((64, 128, 128), (64, 128, 128), numbers=(((1,), (1,)), ((0,), (0,))))
    found = chosen(spec, "cpu")
    if found.lowering == "pinned":  # a rule that was measured on int8, and takes float32 too from jax 0.12 on
        assert f"times faster on {arrays}, float32 was not measured (measured on" in str(found)
    case = chosen(request_of(RULES["cpu turned"]), "cpu")
    assert f"times faster on {arrays} (measured on" in str(case)


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
    assert {of(33, platform) for platform in ("cpu", "rocm", "tpu")} == {"direct"}
    assert {of(33, dtype=dtype, out=out) for dtype, out in (("int8", "int8"), ("int32", "int32"))} == {"direct"}
    assert of(33, lowering="direct") == "direct"
    spared = {"reduced", "unrolled", "lanes", "evened"}
    assert {of(33, lowering=name) for name in NAMES if name not in ("direct", "invariant")} == spared
    assert of(33, lowering="hash") in spared
    assert of(33, "cpu", "pinned") == "pinned"


def test_figures_are_of_rules():
    assert set(MEASURED) == set(RULES)


def peak_bytes(spec, lowering):
    """Of operands, result and what stands beside them, by the compiler's account."""
    shapes = [
        jax.ShapeDtypeStruct(spec.lhs, spec.lhs_dtype),
        jax.ShapeDtypeStruct(spec.rhs, spec.rhs_dtype),
    ]
    memory = jax.jit(functools.partial(LOWERINGS[lowering], spec)).lower(*shapes).compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


@pytest.mark.parametrize("name", [rule.name for rule in rules.CPU])
def test_memory_stays_in_bounds(name):
    rule = RULES[name]
    ratio = peak_bytes(request_of(rule), rule.lowering) / peak_bytes(request_of(rule), "direct")
    assert ratio <= 1.5 or min(found["gain"] for found in MEASURED[name].values()) > 3, ratio


def test_large_matrix_products_run_as_they_stand():
    for dtype in ("float32", "bfloat16", "float16", "float64", "complex64", "int8"):
        for platform in ("cpu", "cuda", "tpu"):
            assert chosen(ask((8, 512, 512), (8, 512, 512), dtype), platform).lowering == "direct", (dtype, platform)


def test_gpus_run_everything_as_it_stands():
    for rule in RULES.values():
        assert chosen(request_of(rule), "cuda").lowering == "direct"
        assert chosen(request_of(rule), "rocm").lowering == "direct"


def test_what_only_a_dot_can_do_is_left_to_it():
    small = (4096, 4, 4)
    assert chosen(ask(small, small), "cpu").lowering == "unrolled"
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
    for name in NAMES[1:]:
        assert LOWERINGS[name].__doc__
