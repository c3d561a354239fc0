"""Which arithmetic a dot really gets on a backend, and what `precision` would change."""

from typing import Final

from jax import lax

from jbdot.request import Request

_HALF: Final = ("bfloat16", "float16")


def arithmetic(request: Request, backend: str, lowering: str = "direct") -> str:
    """Says how products are formed and summed by a lowering on "cpu", "gpu" or "tpu"."""
    if not request.is_plain:
        return f"the algorithm that is named, {request.precision}, where the backend has it"
    if request.lhs_dtype != request.rhs_dtype:
        return f"both operands are widened to {request.dtype} first"
    if "int" in request.lhs_dtype or request.lhs_dtype == "bool":
        return f"exact, as far as {request.dtype} holds the sum; beyond that it wraps"
    if request.lhs_dtype in _HALF or request.lhs_dtype.startswith("float8"):
        return f"exact products, summed in float32, rounded once to {request.dtype}"
    if lowering in ("reduced", "unrolled"):
        return f"products and sums in {request.sum_dtype}, without matrix units; precision changes nothing"
    if backend == "cpu" or request.lhs_dtype in ("float64", "complex128"):
        return f"products and sums in {request.dtype}; precision changes nothing"
    return _float32(request, backend)


def _float32(request: Request, backend: str) -> str:
    level = _level(request)
    if backend == "gpu":
        if level == lax.Precision.HIGHEST:
            return "products and sums in float32"
        return (
            "float32 summed; the factors rounded to TF32 (10 bits) on Ampere and later; "
            'precision="highest" keeps float32, at several times the time'
        )
    passes = {lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 3, lax.Precision.HIGHEST: 6}[level]
    return (
        f"{passes} pass{'es' * (passes > 1)} of bfloat16 products, summed in float32: "
        f"about {_DIGITS[passes]} decimal digits" + (_MORE if passes == 1 else "")
    )


# python -m benchmarks.tpu: cycles over those of one pass, on v5e, v5p and v6e.
_MORE: Final = (
    '; precision="high" takes 3 passes, "highest" 6: by the TPU compiler\'s estimate for 1024 x 1024 x 1024, '
    "1.3 to 1.8 and 2.0 to 3.3 times the cycles"
)
_DIGITS: Final = {1: 2, 3: 5, 6: 7}


def _level(request: Request) -> lax.Precision:
    """The precision of the operand that is asked the least of."""
    return min((lax.Precision.DEFAULT if p is None else p for p in request.precisions), key=lambda p: p.value)
