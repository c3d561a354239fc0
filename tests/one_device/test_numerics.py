"""What explain says of the arithmetic, held against what JAX writes and what the compilers make of it.

The TPU's compiler comes with the extra `tpu`, the GPU's with `cuda`: without them those tests are skipped. No device is
needed. A compiled text is read by its operations: which types are multiplied, by the matrix unit (`convolution` on a
TPU, `dot` on a GPU) or one by one (`multiply`), and which are summed (`reduce`).
"""

import importlib.util
import itertools
import math
import random
import re

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

import jbdot
from jbdot.compilers.compiled import Compiler
from jbdot.core.contraction import Contraction
from jbdot.one_device.dot_spec import DotSpec, known_precision
from jbdot.one_device.numerics import ALGORITHMS, arithmetic, missing, moved_as

on_tpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs jbdot[tpu]")
on_gpu = pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs jbdot[cuda]")
MATRICES = "m k, k n -> m n"
VECTOR = "m k, k -> m"
F8, X9 = lax.DotAlgorithmPreset.ANY_F8_ANY_F8_F32, lax.DotAlgorithmPreset.BF16_BF16_F32_X9
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


class Dot:
    """A dot as it is asked for: its request, and `lax.dot_general` of it."""

    def __init__(self, labels, dtype, rhs=None, out=None, precision=None, sizes=128):
        self.words = f"{labels} {dtype} {rhs} {out} {precision} {sizes}"
        c = Contraction.parse(labels)
        size = sizes if isinstance(sizes, dict) else dict.fromkeys((*c.lhs, *c.rhs), sizes)
        dtypes = dtype, rhs or dtype
        self.operands = [
            jax.ShapeDtypeStruct(tuple(size[label] for label in side), each)
            for side, each in zip((c.lhs, c.rhs), dtypes, strict=True)
        ]
        self.options = {"precision": precision, "preferred_element_type": out}
        self.numbers = c.dimension_numbers
        result = jax.eval_shape(self.run, *self.operands)
        self.dot_spec = DotSpec.of(*self.operands, result, self.numbers, precision)

    def __repr__(self):
        return self.words

    def run(self, x, y):
        return lax.dot_general(x, y, self.numbers, **self.options)

    def written(self, backend):
        """The operands' types of the dot that JAX writes."""
        lowered = jax.jit(self.run).trace(*self.operands).lower(lowering_platforms=(PLATFORMS[backend],))
        types = re.search(r"stablehlo\.dot_general.*: \(tensor<(.*)>, tensor<(.*)>\) ->", lowered.as_text())
        return [re.sub(r"^(\d+x)*", "", each) for each in types.groups()]

    def said(self, backend):
        return arithmetic(self.dot_spec, backend)


def operations(text):
    """The operations of a compiled text that multiply and sum: {(name, types of its operands, its type)}."""
    types = dict(re.findall(r"%([\w.\-]+) = \(?(\w+)\[", text))
    pattern = r"= \(?(\w+)\[[^\]]*\]\S* (convolution|dot|multiply|reduce)\(([^)]*)\)"
    return {
        (name, tuple(types[each.split("%")[-1]] for each in operands.split(", ")), made)
        for made, name, operands in re.findall(pattern, text)
    }


def units(text):
    """The types that a matrix unit multiplies; empty where none is asked."""
    return {operands for name, operands, _ in operations(text) if name in ("convolution", "dot")}


def product(text):
    """The types that are multiplied one by one."""
    return {operands[0] for name, operands, _ in operations(text) if name == "multiply"}


def sums(text):
    return {operands[0] for name, operands, _ in operations(text) if name == "reduce"}


PASSES = "of bfloat16 products, summed in float32"
VECTORS = "products and sums in float32, without the matrix unit; precision changes nothing"


@pytest.mark.parametrize(
    ("dot", "backend", "words"),
    [
        (Dot(MATRICES, "float32"), "tpu", f"1 pass {PASSES}: about 2 decimal digits"),
        (Dot(MATRICES, "float32"), "tpu", "one row or column alone is multiplied and summed in float32, and differs"),
        (Dot(MATRICES, "float32", precision=lax.Precision.HIGH), "tpu", f"3 passes {PASSES}: about 5"),
        (Dot(MATRICES, "float32", precision=lax.Precision.HIGHEST), "tpu", f"6 passes {PASSES}: about 7"),
        (
            Dot(MATRICES, "float32", precision=(lax.Precision.HIGHEST, lax.Precision.DEFAULT)),
            "tpu",
            f"3 passes {PASSES}: about 2",
        ),
        (Dot(VECTOR, "float32"), "tpu", f"{VECTORS}; two rows or columns of the same numbers are rounded"),
        (Dot("b k, b k -> b", "float32"), "tpu", VECTORS),
        (Dot("m, n -> m n", "float32"), "tpu", VECTORS),
        (Dot("b m k, b k -> b m", "float32"), "tpu", f"1 pass {PASSES}"),
        (Dot("b m k, b k -> b m", "float32", sizes=32), "tpu", VECTORS),
        (Dot(MATRICES, "bfloat16"), "tpu", "exact products, summed in float32, rounded once to bfloat16"),
        (Dot(VECTOR, "bfloat16"), "tpu", "each product is rounded to bfloat16, and summed as bfloat16"),
        (Dot(VECTOR, "bfloat16", out="float32"), "tpu", VECTORS),
        (Dot(MATRICES, "float16"), "tpu", f"1 pass {PASSES}, rounded once to float16: about 2"),
        (Dot(MATRICES, "bfloat16", "float32"), "tpu", f"1 pass {PASSES}: about 2"),
        (Dot(VECTOR, "float32", out="bfloat16"), "tpu", "float32 is made bfloat16 first; each product is rounded"),
        (Dot(MATRICES, "int8", "bfloat16", "int32"), "tpu", "exact products, summed in float32, then cut to a whole"),
        (Dot(VECTOR, "int8", "bfloat16", "int32"), "tpu", "int8 and bfloat16 are made int32 first, which cuts"),
        (Dot(VECTOR, "float32", out="int32"), "tpu", "products and sums in float32; the sum is cut to a whole number"),
        (Dot(VECTOR, "float32", out="int32"), "gpu", "precision changes nothing; the sum is cut to a whole number"),
        (Dot(MATRICES, "int8", out="float32"), "gpu", "how a GPU's libraries sum products of int8 to float32"),
        (Dot(MATRICES, "int32", "float32"), "tpu", "how many bits of int32 count is not known"),
        (Dot(MATRICES, "float32"), "gpu", "TF32"),
        (Dot(MATRICES, "float32", precision=lax.Precision.HIGHEST), "gpu", "products and sums in float32"),
        (Dot(VECTOR, "float32"), "gpu", "products and sums in float32; precision changes nothing"),
        (Dot(VECTOR, "float16"), "gpu", "each product is rounded to float16, summed in float32, rounded once"),
        (Dot(MATRICES, "int8", out="int32"), "gpu", "exact, as far as int32 holds the sum; beyond that it wraps"),
        (Dot(MATRICES, "int8", out="int32", sizes=33), "gpu", "it is not known whether this size is right: some dots"),
        (Dot(MATRICES, "float8_e4m3fn", precision=F8), "gpu", "the algorithm ANY_F8_ANY_F8_F32"),
        (Dot(MATRICES, "float32", precision=X9), "gpu", "no more than the digits of TF32"),
        (Dot(MATRICES, "float32"), "cpu", "products and sums in float32; precision changes nothing"),
        (Dot(MATRICES, "float32", out="bfloat16"), "cpu", "in float32, rounded once to bfloat16"),
        (Dot(MATRICES, "bfloat16"), "cpu", "exact products, summed in float32, rounded once to bfloat16"),
        (Dot(MATRICES, "bfloat16", "float32", "bfloat16"), "cpu", "float32 is made bfloat16 first; exact products"),
        (Dot(MATRICES, "int8", "bfloat16", "int32"), "cpu", "made int32 first, which cuts fractions off; exact"),
        (Dot(MATRICES, "bool"), "cpu", "true where any product is"),
        (
            Dot(MATRICES, "float32", precision=lax.DotAlgorithmPreset.BF16_BF16_F32_X3),
            "cpu",
            "products and sums in float32; precision changes nothing; a CPU takes an algorithm's dtypes, and nothing",
        ),
        (
            Dot(MATRICES, "float32", precision=lax.DotAlgorithmPreset.BF16_BF16_F32_X3),
            "tpu",
            f"3 passes {PASSES}: about 5",
        ),
        (Dot(MATRICES, "float32", precision=lax.DotAlgorithmPreset.TF32_TF32_F32), "gpu", "algorithm TF32_TF32_F32"),
        (
            Dot(MATRICES, "float32", precision=lax.DotAlgorithm("bfloat16", "bfloat16", "float32")),
            "tpu",
            "operands are made bfloat16 first, summed in float32, where the compiler has this algorithm",
        ),
    ],
    ids=str,
)
def test_says_what_is_done(dot, backend, words):
    assert words in dot.said(backend)
    assert not missing(dot.dot_spec, backend)


@pytest.mark.parametrize(
    ("lowering", "dot", "words"),
    [
        (
            "lanes",
            Dot("b m k, b k n -> b m n", "float32", sizes=4),
            "products and sums in float32, without matrix units",
        ),
        ("unrolled", Dot(MATRICES, "float32", sizes=4), "products and sums in float32, without matrix units"),
        ("reduced", Dot(VECTOR, "bfloat16"), "in float32, rounded once to bfloat16, without matrix units"),
        ("reduced", Dot(VECTOR, "int8", out="int32"), "exact, as far as int32 holds the sum"),
        ("padded", Dot(VECTOR, "bfloat16"), "exact products, summed in float32, rounded once to bfloat16"),
        ("split", Dot(MATRICES, "bfloat16"), "exact products, summed in float32, rounded once to bfloat16"),
        ("looped", Dot("b m k, b k n -> b m n", "float32"), f"1 pass {PASSES}"),
        ("evened", Dot(MATRICES, "int8", out="int32", sizes=33), "the contracted size is padded to a multiple of 4"),
        ("pinned", Dot("k m, k n -> m n", "float32"), f"1 pass {PASSES}"),
    ],
)
def test_a_lowering_is_judged_by_the_dots_that_it_runs(lowering, dot, words):
    assert words in arithmetic(dot.dot_spec, "tpu", lowering)


def test_a_size_that_is_not_known_may_be_any():
    m, k = jax.export.symbolic_shape("m, k")
    operands = [jax.ShapeDtypeStruct((m, k), "float32"), jax.ShapeDtypeStruct((k, 4), "float32")]
    out = jax.ShapeDtypeStruct((m, 4), "float32")
    assert f"1 pass {PASSES}" in arithmetic(DotSpec.of(*operands, out, (((1,), (0,)), ((), ())), None), "tpu")


F32, B16 = "float32", "bfloat16"


@pytest.mark.parametrize(
    ("dot", "moved"),
    [
        (Dot(MATRICES, F32), (B16, B16)),
        (Dot(MATRICES, F32, B16, F32), (B16, B16)),
        (Dot(MATRICES, F32, "int8", F32), (B16, "int8")),
        (Dot(MATRICES, F32, precision="high"), (F32, F32)),
        (Dot(MATRICES, F32, precision=("default", "highest")), (B16, F32)),
        (Dot(MATRICES, F32, precision="BF16_BF16_F32"), (B16, B16)),
        (Dot(MATRICES, F32, precision="BF16_BF16_F32_X3"), (F32, F32)),
        (Dot(MATRICES, "complex64"), ("complex64",) * 2),
        (Dot(MATRICES, "float16"), ("float16",) * 2),
        (Dot(VECTOR, F32), (F32, F32)),
        (Dot("m, n -> m n", F32), (F32, F32)),
        (Dot(MATRICES, F32, sizes={"m": 8, "k": 128, "n": 128}), (F32, F32)),  # a row may be all that a device has
        (Dot("b m k, b k n -> b m n", F32, sizes={"b": 4096, "m": 12, "k": 12, "n": 12}), (F32, F32)),
    ],
)
def test_a_tpu_rounds_operands_before_it_sends_them(dot, moved):
    assert moved_as(dot.dot_spec, "tpu", 8) == moved
    assert moved_as(dot.dot_spec, "gpu", 8) == (dot.dot_spec.lhs_dtype, dot.dot_spec.rhs_dtype)


def test_rounded_to_bfloat16_normal_numbers_differ_in_the_third_digit():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=shape), "float32") for shape in ((2, 256), (256, 256)))
    full, short = (
        np.asarray(lax.dot(*(z.astype(t).astype("float32") for z in (x, y)))) for t in ("float32", "bfloat16")
    )
    assert 1e-3 < np.median(np.abs(short - full) / np.abs(full)) < 1e-2


MIXED = [
    ("bfloat16", "float32", None),
    ("bfloat16", "float32", "bfloat16"),
    ("float16", "bfloat16", "float32"),
    ("int8", "bfloat16", None),
    ("int8", "bfloat16", "int32"),
    ("int8", "uint8", "int32"),
    ("int8", "float32", None),
    ("float8_e4m3fn", "bfloat16", None),
    ("float8_e4m3fn", "float8_e5m2", "float32"),
    ("float32", "float32", "bfloat16"),
    ("float32", "complex64", None),
]
SHORT = {"bfloat16": "bf16", "float8_e4m3fn": "f8E4M3FN", "float8_e5m2": "f8E5M2", "complex64": "complex<f32>"}


def short(dtype):
    return SHORT.get(dtype, dtype.replace("uint", "ui").replace("int", "i").replace("float", "f"))


@pytest.mark.parametrize("backend", PLATFORMS)
@pytest.mark.parametrize("dtypes", MIXED, ids=str)
def test_what_is_converted_first_is_what_jax_converts(dtypes, backend):
    dot = Dot(MATRICES, *dtypes)
    before = [short(dot.dot_spec.lhs_dtype), short(dot.dot_spec.rhs_dtype)]
    whole = "exact, as far as" in dot.said(backend)  # then a conversion to the sum's dtype changes nothing
    assert whole or (" made " in dot.said(backend)) == (dot.written(backend) != before)
    if " made " in dot.said(backend):
        assert dot.written(backend) == [short(dot.dot_spec.dtype)] * 2


def test_a_fraction_is_cut_off_first_on_a_cpu():
    x, y = jnp.full((2, 2), 3, "int8"), jnp.full((2, 2), 1.5, "bfloat16")
    assert "which cuts fractions off" in Dot(MATRICES, "int8", "bfloat16", "int32").said("cpu")
    assert jbdot.contract(MATRICES, x, y, preferred_element_type="int32").tolist() == [[6, 6], [6, 6]]


def rounded(values, *dtypes):
    """Rounds a sum in float32 to one dtype after another."""
    for dtype in ("float32", *dtypes):
        values = values.astype(dtype)
    return values


@pytest.mark.parametrize(
    ("dtypes", "made", "through", "words"),
    [
        (("bfloat16",), "bfloat16", ("bfloat16",), "exact products, summed in float32, rounded once to bfloat16"),
        (("float16",), "float16", ("float16",), "exact products, summed in float32, rounded once to float16"),
        (("bfloat16", None, "float16"), "bfloat16", ("bfloat16", "float16"), "rounded to bfloat16, then to float16"),
        (("float16", None, "bfloat16"), "bfloat16", ("bfloat16",), "float16 is made bfloat16 first; exact products"),
        (("float32", None, "bfloat16"), "float32", ("bfloat16",), "and sums in float32, rounded once to bfloat16"),
        (("bfloat16", "float32", "bfloat16"), "bfloat16", ("bfloat16",), "float32 is made bfloat16 first; exact"),
        (
            ("float8_e4m3fn",),
            "float8_e4m3fn",
            ("float16", "float8_e4m3fn"),
            "rounded to float16, then to float8_e4m3fn",
        ),
        (("float32", None, "int32"), "float32", ("int32",), "in float32; precision changes nothing; the sum is cut to"),
        (("bfloat16", None, "int32"), "bfloat16", ("bfloat16", "int32"), "rounded once to bfloat16; the sum is cut to"),
        (("int8", "float32", "float32"), "float32", (), "int8 is made float32 first; products and sums in float32"),
    ],
    ids=str,
)
@pytest.mark.parametrize("labels", [MATRICES, VECTOR])
def test_a_cpu_rounds_as_it_is_said(labels, dtypes, made, through, words):
    """Quarters below 4 and a bit, 32 products: every sum is exact in float32, and few are in 16 or 8 bits."""
    dot, rng = Dot(labels, *dtypes, sizes=32), np.random.default_rng(1)
    assert words in dot.said("cpu")
    x, y = (jnp.asarray(rng.integers(-15, 16, each.shape) / 4 + 1 / 64, each.dtype) for each in dot.operands)
    exact = np.asarray(x.astype(made), "float64") @ np.asarray(y.astype(made), "float64")
    assert np.array_equal(jax.jit(dot.run)(x, y), rounded(jnp.asarray(exact, "float32"), *through))


@pytest.mark.parametrize("preset", lax.DotAlgorithmPreset, ids=str)
def test_a_cpu_takes_the_algorithms_that_are_listed(preset):
    dot = Dot(MATRICES, "float32", precision=preset)
    if preset.name in ALGORITHMS["cpu"]:
        assert dot.written("cpu")
    else:
        with pytest.raises(ValueError, match="not supported by dot_general on CPU"):
            dot.written("cpu")
    assert missing(dot.dot_spec, "cpu").startswith("refused") == (preset.name not in ALGORITHMS["cpu"])


def test_a_cpu_refuses_an_algorithm_that_is_spelled_out():
    dot = Dot(MATRICES, "float32", precision=lax.DotAlgorithm("float32", "float32", "float32"))
    assert missing(dot.dot_spec, "cpu") == "refused: a CPU has named algorithms only"
    with pytest.raises(ValueError, match="not supported by dot_general on CPU"):
        dot.written("cpu")


def test_a_cpu_takes_nothing_of_an_algorithm_but_dtypes():
    x = np.random.default_rng(0).normal(size=(32, 32)).astype("float32")
    plain, split = (jax.jit(Dot(MATRICES, "float32", precision=p).run)(x, x) for p in (None, "BF16_BF16_F32"))
    assert np.array_equal(plain, split)  # not rounded to bfloat16


def test_what_a_backend_refuses_does_not_run_there():
    found = jbdot.explain(MATRICES, (8, 8), (8, 8), precision="TF32_TF32_F32")
    assert set(found.lowerings) == {"gpu"}
    assert found.arithmetic["cpu"].startswith("refused: a CPU has no TF32_TF32_F32, only DEFAULT, F16_F16_F16")
    assert "on cpu runs" not in str(found)


# Compiled for TPUs.


def random_dot(rng, dtype="float32"):
    """One of up to two axes of each role, in any order, sizes up to 128."""
    roles = {"bc": (0, 0, 1, 2), "mi": (0, 1, 1, 2), "nu": (0, 1, 1, 2), "kr": (0, 1, 1, 1)}
    batch, left, right, summed = (labels[: rng.choice(counts)] for labels, counts in roles.items())
    sizes = {label: rng.choice((1, 2, 8, 32, 64, 128)) for label in batch + left + right + summed}
    lhs, rhs = ([*batch, *free, *summed] for free in (left, right))
    rng.shuffle(lhs)
    rng.shuffle(rhs)
    while math.prod(sizes.values()) > 1 << 22:
        sizes[max(sizes, key=lambda label: sizes[label])] //= 4
    return Dot(f"{' '.join(lhs)}, {' '.join(rhs)} -> {' '.join(batch + left + right)}", dtype, sizes=sizes)


def agrees(dot, backend, text):
    """Whether a compiled text has a matrix product where its arithmetic is said to be that of one."""
    return ("passes" in dot.said(backend).replace("pass ", "passes ").split(":")[0]) == bool(units(text))


@on_tpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_a_tpu_takes_its_matrix_unit_where_that_is_said(topology):
    rng, compiler = random.Random(13), Compiler(topology)
    dots = [random_dot(rng) for _ in range(25)]
    dots += [
        Dot("b m k, b k -> b m", "float32", sizes={"b": 4, "m": m, "k": k}) for m, k in ((64, 64), (63, 64), (64, 63))
    ]
    dots += [
        Dot("b m k, b n k -> b m n", "float32", sizes={"b": 4, "m": 128, "n": 1, "k": 128}),
        Dot("b m i k, b k -> b m i", "float32", sizes={"b": 4, "m": 64, "i": 2, "k": 64}),
        Dot("b m i k, b k -> b m i", "float32", sizes={"b": 4, "m": 2, "i": 64, "k": 64}),
    ]
    wrong = [str(dot.dot_spec) for dot in dots if not agrees(dot, "tpu", compiler.compile(dot.run, *dot.operands).text)]
    assert not wrong
    assert {" pass" in dot.said("tpu").split(":")[0] for dot in dots} == {True, False}


@on_tpu
def test_a_tpu7x_differs_for_vectors_by_matrices_alone():
    rng, compiler = random.Random(14), Compiler("tpu7x:2x2x1")
    dots = [random_dot(rng) for _ in range(20)]
    open_ones = [dot for dot in dots if "TPU7x perhaps" in dot.said("tpu")]
    assert open_ones
    for dot in set(dots) - set(open_ones):
        assert agrees(dot, "tpu", compiler.compile(dot.run, *dot.operands).text), dot.dot_spec
    vector = Dot(VECTOR, "float32")
    assert "TPU7x perhaps" in vector.said("tpu")
    assert units(compiler.compile(vector.run, *vector.operands).text)


TPU_TYPES = [  # dtypes, what a matrix unit is given; what is multiplied and what is summed of a vector
    (("float32",), {("f32", "f32")}, {"f32"}, {"f32"}),
    (("bfloat16", None, "float32"), {("bf16", "bf16")}, {"f32"}, {"f32"}),
    (("bfloat16",), {("bf16", "bf16")}, {"f32"}, {"bf16"}),  # products are rounded before they are summed
    (("float16",), {("f16", "f16")}, {"f16"}, {"f32"}),
    (("bfloat16", "float32"), {("bf16", "f32")}, {"f32"}, {"f32"}),
    (("float32", None, "bfloat16"), {("f32", "f32")}, {"f32"}, {"bf16"}),
    (("int8", "bfloat16", "int32"), {("bf16", "bf16")}, {"s32"}, {"s32"}),
    (("int8", "float32"), {("s8", "f32")}, {"f32"}, {"f32"}),
    (("int8", None, "int32"), {("s8", "s8")}, {"s32"}, {"s32"}),
    (("bfloat16", None, "int32"), {("bf16", "bf16")}, {"f32"}, {"f32"}),
    (("float8_e4m3fn", "float8_e5m2", "float32"), {("f8e4m3fn", "f8e5m2")}, {"f32"}, {"f32"}),
    (("float8_e4m3fn",), {("f8e4m3fn", "f8e4m3fn")}, {"f32"}, {"f32"}),
]


@on_tpu
@pytest.mark.parametrize(("dtypes", "unit", "multiplied", "summed"), TPU_TYPES, ids=str)
def test_types_on_a_tpu(dtypes, unit, multiplied, summed):
    compiler = Compiler("v5e:2x2")
    matrices, vector = (Dot(labels, *dtypes) for labels in (MATRICES, VECTOR))
    text = compiler.compile(matrices.run, *matrices.operands).text
    assert units(text) == unit
    assert (" made " in matrices.said("tpu")) is False
    text = compiler.compile(vector.run, *vector.operands).text
    assert not units(text)
    assert (product(text), sums(text)) == (multiplied, summed)
    said = vector.said("tpu")
    assert ("each product is rounded" in said) == (bool({"bf16"} & summed) or "f16" in multiplied)
    assert (" in float32" in said) == (summed == {"f32"})


@on_tpu
def test_passes_of_a_tpu_are_those_of_the_compilers_estimate():
    """As many cycles as another dot of as many passes, whatever the dtypes and precisions."""
    compiler, p = Compiler("v5e:2x2"), lax.Precision

    def cycles(*dtypes, precision=None):
        dot = Dot(MATRICES, *dtypes, precision=precision, sizes=512)
        passes = re.match(r"(\d) pass", dot.said("tpu"))
        return int(passes[1]) if passes else 1, compiler.compile(dot.run, *dot.operands).estimated_cycles

    asked = [
        *(cycles("float32", precision=precision) for precision in (None, p.HIGH, p.HIGHEST)),
        *(cycles("float32", precision=pair) for pair in ((p.HIGHEST, p.DEFAULT), (p.DEFAULT, p.HIGHEST))),
        *(cycles("float32", precision=pair) for pair in ((p.HIGH, p.DEFAULT), (p.HIGHEST, p.HIGH))),
    ]
    assert [passes for passes, _ in asked] == [1, 3, 6, 3, 3, 2, 5]
    by_passes = dict(asked)
    assert all(by_passes[passes] == count for passes, count in asked)
    assert sorted(by_passes.values()) == [by_passes[passes] for passes in sorted(by_passes)]
    # A narrower operand costs less to read, so these are compared among themselves.
    half = {precision: cycles("bfloat16", "float32", precision=precision) for precision in (None, p.HIGH, p.HIGHEST)}
    assert [passes for passes, _ in half.values()] == [1, 2, 3]
    float16 = [cycles("float16", None, "float32", precision=precision) for precision in (None, p.HIGH, p.HIGHEST)]
    assert float16 == [half[None], half[p.HIGHEST], half[p.HIGHEST]]
    assert cycles("bfloat16", None, "float32", precision=p.HIGHEST) == half[None]


@on_tpu
@pytest.mark.parametrize("preset", lax.DotAlgorithmPreset, ids=str)
def test_a_tpu_takes_the_algorithms_that_are_listed(preset):
    dot = Dot(MATRICES, "float8_e4m3fn" if "F8" in preset.name else "float32", precision=preset)
    compiler = Compiler("v5e:2x2")
    if preset.name in ALGORITHMS["tpu"]:
        text = compiler.compile(dot.run, *dot.operands).text
        level = {"X3": "{high,high}", "X6": "{highest,highest}"}.get(preset.name[-2:])
        assert units(text) == {("f32", "f32")}
        assert (f"operand_precision={level}" in text) == (level is not None)
        assert not missing(dot.dot_spec, "tpu")
    else:
        assert missing(dot.dot_spec, "tpu").startswith("refused")
        with pytest.raises(RuntimeError, match=r"is not supported|failed to legalize"):
            compiler.compile(dot.run, *dot.operands)


@on_tpu
def test_small_matrices_have_no_dot_on_a_tpu_and_say_so():
    operands = [jax.ShapeDtypeStruct((8192, 4, 4), "float32")] * 2
    found = jbdot.explain(jbdot.matmul, *operands)
    assert found.lowerings["tpu"].lowering in ("lanes", "unrolled", "reduced")
    assert "products and sums in float32, without matrix units" in found.arithmetic["tpu"]
    text = jbdot.compile_for("v5e:2x2", jbdot.matmul, *operands).text
    assert not units(text)
    assert product(text) == {"f32"}


@on_tpu
@pytest.mark.parametrize("lowering", ["direct", "pinned", "padded", "fused", "reduced", "split"])
def test_lowerings_of_a_vector_on_a_tpu(lowering):
    dot = Dot(VECTOR, "bfloat16")
    run = jbdot.optimize(dot.run, lowering=lowering)
    text = jbdot.compile_for("v5e:2x2", run, *dot.operands).text
    said = arithmetic(dot.dot_spec, "tpu", lowering)
    assert said.startswith("exact products") == bool(units(text))
    assert ("each product is rounded to bfloat16" in said) == (sums(text) == {"bf16"})
    assert said.startswith("products and sums in float32") == (sums(text) == {"f32"})


@on_tpu
def test_a_tpu_refuses_integers_of_64_bits(x64):
    dot = Dot(MATRICES, "int64")
    assert missing(dot.dot_spec, "tpu") == "refused: XLA's TPU compiler has no dot of 64-bit integers"
    with pytest.raises(RuntimeError, match="UNIMPLEMENTED"):
        Compiler("v5e:2x2").compile(dot.run, *dot.operands)


# Compiled for a GPU.


@on_gpu
def test_a_gpu_sums_vectors_without_a_matrix_unit():
    rng, compiler = random.Random(15), Compiler("h100:1")
    for dot in itertools.chain((random_dot(rng) for _ in range(25)), [Dot("b m k, b k -> b m", "float32")]):
        text = compiler.compile(dot.run, *dot.operands).text
        assert ("TF32" in dot.said("gpu")) == bool(units(text)), dot.dot_spec


@on_gpu
@pytest.mark.parametrize(
    ("dtypes", "unit", "multiplied"),
    [
        (("float32",), {("f32", "f32")}, {"f32"}),
        (("bfloat16",), {("bf16", "bf16")}, {"bf16"}),
        (("float16",), {("f16", "f16")}, {"f16"}),
        (("bfloat16", None, "float32"), {("bf16", "bf16")}, {"f32"}),
        (("bfloat16", "float32"), {("f32", "f32")}, {"f32"}),
        (("float32", None, "bfloat16"), {("f32", "f32")}, {"f32"}),
        (("bfloat16", "float32", "bfloat16"), {("bf16", "bf16")}, {"bf16"}),
        (("int8", "bfloat16", "int32"), {("s32", "s32")}, {"s32"}),
        (("float8_e4m3fn",), {("f8e4m3fn", "f8e4m3fn")}, {"f16"}),
    ],
    ids=str,
)
def test_types_on_a_gpu(dtypes, unit, multiplied):
    compiler = Compiler("h100:1")
    matrices, vector = (Dot(labels, *dtypes) for labels in (MATRICES, VECTOR))
    assert units(compiler.compile(matrices.run, *matrices.operands).text) == unit
    text = compiler.compile(vector.run, *vector.operands).text
    assert product(text) == multiplied
    assert sums(text) <= {"f32", "s32"}
    assert ("each product is rounded" in vector.said("gpu")) == bool({"bf16", "f16"} & multiplied)


@on_gpu
@pytest.mark.parametrize("labels", [MATRICES, VECTOR, "m, n -> m n"])
@pytest.mark.parametrize("preset", [each for each in lax.DotAlgorithmPreset if "F8" not in each.name], ids=str)
def test_a_gpu_takes_the_algorithms_that_are_listed(preset, labels, x64):
    """Not those of 8-bit floats, which no compiler without a device can be given: `tests/whole/test_gpu.py`."""
    dot = Dot(labels, "float32", precision=preset)
    if missing(dot.dot_spec, "gpu"):
        with pytest.raises(RuntimeError, match="h100"):
            Compiler("h100:1").compile(dot.run, *dot.operands)
    else:
        assert Compiler("h100:1").compile(dot.run, *dot.operands).text


def test_precision_is_read_as_jax_reads_it():
    assert known_precision("highest") == lax.Precision.HIGHEST
    assert known_precision(["default", None]) == (lax.Precision.DEFAULT, None)
    assert known_precision("BF16_BF16_F32") == lax.DotAlgorithmPreset.BF16_BF16_F32
    with jax.default_matmul_precision("high"):
        assert known_precision(None) == lax.Precision.HIGH
    with pytest.raises(ValueError, match="precision must be one that JAX knows: 'exact'"):
        known_precision("exact")
