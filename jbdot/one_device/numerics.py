"""Says which arithmetic a dot really gets on a backend, and what `precision` would change.

What is said is of the dots that a lowering runs, read off its jaxpr, each alone in a program: what XLA fuses with other
operations may be summed in other pieces. Of a CPU and a GPU it is what JAX writes for them; of a TPU what XLA's
compiler for v4, v5e, v5p, v6e and TPU7x writes (libtpu of jax 0.12.0.1), and of a GPU's vectors and algorithms what its
compiler writes for an H100 (jax 0.12.0.1). `tests/one_device/test_numerics.py` compiles and compares, where those
compilers are installed. Passes on a TPU are told by the compiler's estimate of cycles: no TPU was here.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import jax
from jax import lax
from jax import numpy as jnp

from jbdot.one_device import jax_internals
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import LOWERINGS, is_doubled

_HALF: Final = ("bfloat16", "float16")
_WIDE: Final = ("float64", "complex128")
_ONE_PART: Final = ("bfloat16", "int8", "uint8", "int4", "uint4", "int2", "uint2", "bool")  # exact in bfloat16
_UNIT: Final = 64  # sizes from which on a batch of vectors takes a TPU's matrix unit
_TINY: Final = 16  # rows and columns of the matrices that `rules` gives to a TPU's vector unit, at most
_ONE_PASS: Final = (None, lax.Precision.DEFAULT, lax.DotAlgorithmPreset.DEFAULT, lax.DotAlgorithmPreset.BF16_BF16_F32)
# Passes for operands that are the sum of so many bfloat16 numbers: products of the least parts are left out.
_PASSES: Final = {(1, 1): 1, (1, 2): 2, (1, 3): 3, (2, 2): 3, (2, 3): 5, (3, 3): 6}
_THIRD: Final = "of standard normal numbers in the third digit"
_DIGITS: Final = {1: 2, 2: 5, 3: 7}
# python -m benchmarks.tpu: cycles over those of one pass, on v5e, v5p and v6e.
_MORE: Final = (
    '; precision="high" takes 3 passes, "highest" 6: by the TPU compiler\'s estimate for 1024 x 1024 x 1024 on v5e, '
    "v5p and v6e, 1.3 to 1.8 and 2.0 to 3.3 times the cycles"
)
# Named algorithms that a backend takes: JAX refuses the others on a CPU, XLA's compiler on a GPU (H100) and a TPU.
ALGORITHMS: Final[dict[str, tuple[str, ...]]] = {
    "cpu": (
        *("DEFAULT", "F16_F16_F16", "BF16_BF16_F32", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6"),
        *("F32_F32_F32", "F64_F64_F64"),
    ),
    "gpu": (
        *("DEFAULT", "F16_F16_F32", "BF16_BF16_F32", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9"),
        *("TF32_TF32_F32", "TF32_TF32_F32_X3", "F32_F32_F32", "F64_F64_F64"),
        *("ANY_F8_ANY_F8_F32", "ANY_F8_ANY_F8_F32_FAST_ACCUM"),  # these four were run on an H100, jax 0.11.2
        *("ANY_F8_ANY_F8_ANY", "ANY_F8_ANY_F8_ANY_FAST_ACCUM"),
    ),
    "tpu": ("DEFAULT", "BF16_BF16_F32", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6"),
}
_TWICE: Final = "some dots of int8 over an odd size came out twice as large on an H100 (jax 0.11.2)"
_MATRICES_ONLY: Final = ("F16_F16_F32", "F64_F64_F64")  # on a GPU
_SEEN: Final = {"BF16_BF16_F32_X9": "; an H100 gave no more than the digits of TF32 by it (jax 0.11.2: error 3e-4)"}
_LEVELS: Final = {"BF16_BF16_F32_X3": lax.Precision.HIGH, "BF16_BF16_F32_X6": lax.Precision.HIGHEST}  # on a TPU


def missing(spec: DotSpec, backend: str) -> str:
    """Says what a backend lacks for a dot, so that nothing runs; empty where it runs."""
    named = None if spec.is_plain else spec.precision
    if isinstance(named, lax.DotAlgorithmPreset):
        if named.name not in ALGORITHMS[backend]:
            return f"refused: a {backend.upper()} has no {named.name}, only {', '.join(ALGORITHMS[backend])}"
        if backend == "gpu" and named.name in _MATRICES_ONLY and _is_summed(spec) and spec.k > 1:
            return f"refused: a GPU has no {named.name} for vectors"
    elif named is not None and backend == "cpu":
        return "refused: a CPU has named algorithms only"
    if backend == "tpu" and any(name in ("int64", "uint64") for name in (spec.lhs_dtype, spec.rhs_dtype)):
        return "refused: XLA's TPU compiler has no dot of 64-bit integers"
    return ""


def arithmetic(spec: DotSpec, backend: str, lowering: str = "direct") -> str:
    """Says how products are formed and summed by a lowering on "cpu", "gpu" or "tpu", where that takes the dot.

    Args:
        spec: The dot.
        backend: Where it would run.
        lowering: How it is said there.
    """
    if not spec.is_plain:
        return _named(spec, backend)
    if lowering == "evened":
        return f"{_exact(spec.dtype)}; the contracted size is padded to a multiple of 4, as {_TWICE}"
    if lowering == "invariant" and not _is_exact(spec):
        held = "complex128" if "complex" in f"{spec.lhs_dtype} {spec.rhs_dtype}" else "float64"
        once = _rounded(held, spec.dtype)
        return f"products and sums in {held}{once}, in an order that the contracted size alone decides"
    if lowering == "direct" or not spec.is_static:
        return _said(spec, backend, spec.dtype)
    if _is_exact(spec):
        return _exact(spec.dtype)
    dots = list(dict.fromkeys(_said(dot, backend, spec.dtype) for dot in _dots(spec, lowering)))
    if dots:
        return "; or ".join(dots)
    once = _rounded(spec.sum_dtype, spec.dtype)
    return f"products and sums in {spec.sum_dtype}{once}, without matrix units; precision changes nothing"


def _dots(spec: DotSpec, lowering: str) -> Iterator[DotSpec]:
    """Returns the dots that a lowering runs."""
    operands = (
        jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        for shape, dtype in ((spec.lhs, spec.lhs_dtype), (spec.rhs, spec.rhs_dtype))
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return _found(jax.make_jaxpr(lambda lhs, rhs: LOWERINGS[lowering](spec, lhs, rhs))(*operands))


def _found(jaxpr: Any) -> Iterator[DotSpec]:
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive is lax.dot_general_p:
            (lhs, rhs), (out,), params = equation.invars, equation.outvars, equation.params
            yield DotSpec.of(lhs.aval, rhs.aval, out.aval, params["dimension_numbers"], params["precision"])
        for inner in jax_internals.inner_jaxprs(equation.params):
            yield from _found(inner)


def _named(spec: DotSpec, backend: str) -> str:
    """Says what a named algorithm, or one that is spelled out, makes of a dot: JAX converts operands and result."""
    named = spec.precision
    if not isinstance(named, lax.DotAlgorithmPreset):
        types = [jnp.dtype(x).name for x in (named.lhs_precision_type, named.rhs_precision_type)]
        return (
            f"operands are made {' and '.join(dict.fromkeys(types))} first, summed in "
            f"{jnp.dtype(named.accumulation_type).name}, where the compiler has this algorithm: it is not known here"
        )
    lhs, rhs = (
        _one_of(dtype, types)
        for dtype, types in (
            (spec.lhs_dtype, named.supported_lhs_types),
            (spec.rhs_dtype, named.supported_rhs_types),
        )
    )
    out = _one_of(spec.dtype, named.supported_output_types(jnp.dtype(lhs), jnp.dtype(rhs)))
    level = _LEVELS.get(named.name) if backend == "tpu" else None
    dot = dataclasses.replace(spec, lhs_dtype=lhs, rhs_dtype=rhs, dtype=out, precision=level)
    same = (lhs, rhs) == (spec.lhs_dtype, spec.rhs_dtype)
    first = "" if same else f"operands are made {' and '.join(dict.fromkeys((lhs, rhs)))} first; "
    if backend == "gpu" and named.name != "DEFAULT":
        seen = _SEEN.get(named.name, "")
        return f"{first}the algorithm {named.name}{_rounded(out, spec.dtype)}, as an H100's compiler takes it{seen}"
    only = (
        "; a CPU takes an algorithm's dtypes, and nothing else of it"
        if backend == "cpu" and named.name != "DEFAULT"
        else ""
    )
    return f"{first}{_said(dot, backend, spec.dtype)}{only}"


def _one_of(dtype: str, types: Any) -> str:
    """Picks a dtype where an algorithm takes it, else the first that it does."""
    names = [jnp.dtype(each).name for each in types or ()]
    return dtype if not names or dtype in names else names[0]


def _said(dot: DotSpec, backend: str, dtype: str) -> str:
    """Says what one plain dot does, whose result is rounded to a dtype in the end."""
    if backend == "gpu" and is_doubled(dot, "cuda") and not _is_summed(dot):
        return f'{_exact(dot.dtype)}; but it is not known whether this size is right: {_TWICE}; lowering="auto" pads it'
    if _is_exact(dot):
        return _exact(dot.dtype)
    if backend == "tpu":
        dtypes = {dot.lhs_dtype, dot.rhs_dtype}
        if len(dtypes) == 2 and any(each == "bool" or each.startswith("complex") for each in dtypes):
            return _converted(dot) + _on_tpu(dot.cast(dot.dtype), dtype)
        return _on_tpu(dot, dtype)
    if dot.lhs_dtype != dot.rhs_dtype and not (_is_float8(dot.lhs_dtype) and _is_float8(dot.rhs_dtype)):
        return _converted(dot) + _unmixed(dot.cast(dot.dtype), backend, dtype)
    if _is_cut(dot):
        whole = dataclasses.replace(dot, dtype=dot.lhs_dtype)
        return f"{_unmixed(whole, backend, dot.lhs_dtype)}; the sum is cut to a whole number"
    if backend == "cpu" and (dot.lhs_dtype, dot.dtype) == ("float16", "bfloat16"):
        return _converted(dot) + _unmixed(dot.cast(dot.dtype), backend, dtype)
    return _unmixed(dot, backend, dtype)


def _is_cut(dot: DotSpec) -> bool:
    """Says whether both operands have fractions, and the result has none."""
    return all("float" in each for each in (dot.lhs_dtype, dot.rhs_dtype)) and "int" in dot.dtype


def _converted(dot: DotSpec) -> str:
    """Says which operands are made the result's dtype before they are multiplied."""
    others = [each for each in dict.fromkeys((dot.lhs_dtype, dot.rhs_dtype)) if each != dot.dtype]
    cut = any("float" in each for each in others) and "int" in dot.dtype
    are = "is" if len(others) == 1 else "are"
    return f"{' and '.join(others)} {are} made {dot.dtype} first{', which cuts fractions off' if cut else ''}; "


def _unmixed(dot: DotSpec, backend: str, dtype: str) -> str:
    """Says it of operands of one dtype, on a CPU or a GPU."""
    if _is_exact(dot):
        return _exact(dot.dtype)
    if backend == "gpu" and "int" in dot.lhs_dtype:
        return (
            f"how a GPU's libraries sum products of {dot.lhs_dtype} to {dot.dtype}, and whether they do, is not known"
        )
    narrow = dot.lhs_dtype in _HALF or _is_float8(dot.lhs_dtype)
    if backend == "gpu" and _is_summed(dot):
        if narrow and dot.dtype != "float32":
            made = "float16" if _is_float8(dot.dtype) else dot.dtype
            return f"each product is rounded to {made}, summed in float32{_rounded('float32', dtype)}"
    elif narrow:
        return f"exact products, summed in float32{_rounded('float32', dtype, _between(dot, backend))}"
    elif backend == "gpu" and dot.lhs_dtype not in _WIDE:
        return _tf32(dot) + _rounded(dot.sum_dtype, dtype)
    return f"products and sums in {dot.sum_dtype}{_rounded(dot.sum_dtype, dtype)}; precision changes nothing"


def _between(dot: DotSpec, backend: str) -> str:
    """Says what a CPU rounds a sum to before it is rounded to the result's dtype."""
    if backend == "cpu" and _is_float8(dot.dtype):
        return "float16"
    return "bfloat16" if backend == "cpu" and (dot.lhs_dtype, dot.dtype) == ("bfloat16", "float16") else ""


def _tf32(dot: DotSpec) -> str:
    if _level(dot) == lax.Precision.HIGHEST:
        return "products and sums in float32"
    return (
        "float32 summed; the factors rounded to TF32 (10 bits) on Ampere and later, but for one row or column alone; "
        'precision="highest" keeps float32'
    )


def _on_tpu(dot: DotSpec, dtype: str) -> str:
    if any(each in _WIDE for each in (dot.lhs_dtype, dot.rhs_dtype)):
        return (
            "each float64 is held as two float32: about 14 decimal digits, and float32's range; "
            f"precision changes nothing{_rounded('float64', dtype)}"
        )
    if not _is_summed(dot):
        return _passes(dot, dtype)
    if _takes_unit(dot):
        either = len(dot.contraction.contracting) > 1  # which of several axes counts is not known for sure
        return _passes(dot, dtype) + (f"; or, by sizes, {_summed(dot, dtype)}" if either else "")
    return _summed(dot, dtype)


def _is_summed(dot: DotSpec) -> bool:
    """Says whether no matrices meet: one operand has no free axis of size over 1, or nothing is contracted."""
    return dot.is_static and min(dot.m, dot.n, dot.k) <= 1


def _takes_unit(dot: DotSpec) -> bool:
    """Says whether a TPU's matrix unit takes a batch of vectors and matrices: sizes of 64 and more, none of 1."""
    c = dot.contraction
    if dot.batch == 1 or _is_plain_sum(dot) or 1 in (*dot.lhs, *dot.rhs):
        return False
    matrix, free = (c.lhs, c.lhs_free) if dot.n == 1 else (c.rhs, c.rhs_free)
    first = next(label for label in matrix if label in free)
    return dot.sizes[first] >= _UNIT and max(dot.sizes[label] for label in c.contracting) >= _UNIT


def _summed(dot: DotSpec, dtype: str) -> str:
    """Says what a TPU's vector unit does: operands are made the result's dtype, multiplied, and summed."""
    if _is_cut(dot):
        return "products and sums in float32; the sum is cut to a whole number" + _kind_7(dot)
    is_wider = dot.lhs_dtype == dot.rhs_dtype and jnp.dtype(dot.lhs_dtype).itemsize < jnp.dtype(dot.dtype).itemsize
    first = "" if is_wider or {dot.lhs_dtype, dot.rhs_dtype} == {dot.dtype} else _converted(dot)
    if "int" in dot.dtype:
        return first + _exact(dot.dtype)
    if dot.dtype == "bfloat16":
        said = "each product is rounded to bfloat16, and summed as bfloat16, as far as the program tells"
        return f'{first}{said}{_rounded("bfloat16", dtype)}; preferred_element_type="float32" keeps them{_kind_7(dot)}'
    if dot.dtype == "float16":
        return f"{first}each product is rounded to float16, summed in float32, rounded once to {dtype}{_kind_7(dot)}"
    held = "float32" if _is_float8(dot.dtype) else dot.dtype
    said = (
        f"{first}products and sums in {held}{_rounded(held, dtype)}, without the matrix unit; precision changes nothing"
    )
    parts, most = _parts(dot), _parts(dataclasses.replace(dot, precision=lax.Precision.HIGHEST))
    if parts != most and not _is_plain_sum(dot):
        said += f"; two rows or columns of the same numbers are rounded to bfloat16, and differ, {_THIRD}"
    return said + _kind_7(dot)


def _kind_7(dot: DotSpec) -> str:
    """Says what differs on a TPU7x: one operand that is a matrix goes to its matrix unit."""
    return "" if _is_plain_sum(dot) else "; so on v4 to v6e, on TPU7x perhaps as for two rows or columns"


def _is_plain_sum(dot: DotSpec) -> bool:
    """Says whether one more row or column is summed likewise: two vectors, or nothing to contract."""
    return dot.k == 1 or dot.m == dot.n == 1


def _passes(dot: DotSpec, dtype: str) -> str:
    """Says what a TPU's matrix unit does: operands are sums of bfloat16 numbers, products of those are summed."""
    end = ", then cut to a whole number" if "int" in dot.dtype else _rounded("float32", dtype)
    for each in (dot.lhs_dtype, dot.rhs_dtype):
        if "int" in each and each not in _ONE_PART:
            return f"bfloat16 products, summed in float32{end}; how many bits of {each} count is not known"
    lhs, rhs = _parts(dot)
    most = _parts(dataclasses.replace(dot, precision=lax.Precision.HIGHEST))
    if (lhs, rhs) == most == (1, 1):
        return f"exact products, summed in float32{end}"
    count = _PASSES[min(lhs, rhs), max(lhs, rhs)]
    short = [part for part, all_ in ((lhs, most[0]), (rhs, most[1])) if part < all_ or all_ == 3]
    digits = f": about {_DIGITS[min(short)]} decimal digits" if short else ""
    said = f"{count} {'passes' if count > 1 else 'pass'} of bfloat16 products, summed in float32{end}{digits}"
    if (lhs, rhs) == (1, 1) and most == (3, 3):
        said += _MORE
        if dot.batch == 1:
            said += f"; one row or column alone is multiplied and summed in float32, and differs, {_THIRD}"
    return said


def moved_as(spec: DotSpec, backend: str, devices: int) -> tuple[str, str]:
    """Names the dtypes in which the operands of a dot go from device to device: a TPU's compiler rounds them before.

    A float32 operand is rounded to bfloat16, and gathered, exchanged and permuted so, where a matrix unit takes it in
    one pass. Not so where no matrix unit is used: where devices may be left with vectors or, of a large batch, with
    matrices so small that a rule of `rules` takes them to the vector unit.

    Args:
        spec: The whole dot.
        backend: Where it runs: "cpu", "gpu" or "tpu".
        devices: How many it is shared out over.
    """
    dtypes = spec.lhs_dtype, spec.rhs_dtype
    if backend != "tpu" or not spec.is_static or any(each in _WIDE or each.startswith("complex") for each in dtypes):
        return dtypes
    are_matrices = min(spec.m, spec.n, spec.k) > devices and spec.m * spec.n * spec.k > devices * _TINY**3
    levels = spec.precisions if len(spec.precisions) == 2 else spec.precisions * 2
    lhs, rhs = (
        "bfloat16" if dtype == "float32" and are_matrices and level in _ONE_PASS else dtype
        for dtype, level in zip(dtypes, levels, strict=True)
    )
    return lhs, rhs


def _parts(dot: DotSpec) -> tuple[int, int]:
    """Counts the bfloat16 numbers whose sum a TPU's matrix unit takes each operand to be."""
    levels = dot.precisions if len(dot.precisions) == 2 else dot.precisions * 2
    lhs, rhs = (
        _parts_of(dtype, lax.Precision.DEFAULT if level is None else level)
        for dtype, level in zip((dot.lhs_dtype, dot.rhs_dtype), levels, strict=True)
    )
    return lhs, rhs


def _parts_of(dtype: str, level: lax.Precision) -> int:
    if dtype in _ONE_PART or _is_float8(dtype):
        return 1
    return min({"float16": 2}.get(dtype, 3), {lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 2}.get(level, 3))


def _is_exact(dot: DotSpec) -> bool:
    """Says whether all numbers are whole."""
    return all("int" in each or each == "bool" for each in (dot.lhs_dtype, dot.rhs_dtype, dot.dtype))


def _exact(dtype: str) -> str:
    if dtype == "bool":
        return "exact: true where any product is"
    return f"exact, as far as {dtype} holds the sum; beyond that it wraps"


def _rounded(held: str, dtype: str, between: str = "") -> str:
    """Says how a sum in one dtype becomes another."""
    if held == dtype or jnp.dtype(held).itemsize < jnp.dtype(dtype).itemsize:
        return ""
    return f", rounded to {between}, then to {dtype}" if between else f", rounded once to {dtype}"


def _is_float8(dtype: str) -> bool:
    return dtype.startswith("float8")


def _level(spec: DotSpec) -> lax.Precision:
    """Returns the precision of the operand that is asked the least of."""
    return min((lax.Precision.DEFAULT if p is None else p for p in spec.precisions), key=lambda p: p.value)
