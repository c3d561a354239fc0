"""The rules of each backend: when another lowering than one `lax.dot_general` is faster, and on which case that shows.

Rules are tried from top to bottom. A rule names a case (contraction, shapes, dtype) on which it was measured against
the bare dot; the figures are in `measured.json`, by version of JAX, and `python -m benchmarks.rules` measures them
anew. Thresholds are in elements and multiply-adds, and were read off grids of sizes in and out of cache.

XLA's CPU backend has one kernel library for fast dots (bfloat16, float32 and, from all versions here, int8), with lhs
contracted on its last axis, batch axes leading. All else is widened to 32 bits and sent to another, or becomes a plain
loop. Before jaxlib 0.12 the library took int8 only.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax

from jbdot.core.errors import array_text
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.lowerings import FUSED_ONLY_IN_LOOPS, LANES, block_rows, filled, lane
from jbdot.one_device.miscompilations import RIGHT_SUMS

_HAS_NARROW_FLOAT_KERNELS: Final = jax.__version_info__ >= (0, 12)


@dataclasses.dataclass(frozen=True)
class Rule:
    """When to take another lowering, and why.

    Attributes:
        name: What `measured.json` knows it by.
        lowering: The lowering's name.
        why: The reason, as a clause.
        fits: Whether it is for this dot.
        case: The contraction, both shapes and the dtype that it is measured on.
    """

    name: str
    lowering: str
    why: str
    fits: Callable[[DotSpec], bool]
    case: tuple[str, tuple[int, ...], tuple[int, ...], str]

    def measured_case(self, spec: DotSpec) -> str:
        """Returns the arrays of the case, and whether a dot is of another dtype."""
        _, lhs, rhs, dtype = self.case
        other = "" if spec.lhs_dtype == dtype else f", {spec.lhs_dtype} was not measured"
        return f"{array_text('', lhs, dtype)} by {array_text('', rhs, dtype)}{other}"


def _is(spec: DotSpec, *dtypes: str) -> bool:
    return spec.lhs_dtype in dtypes


def _is_matrix(r: DotSpec) -> bool:
    return r.m > 1 and r.n > 1 and r.k > 1


def _is_vector(r: DotSpec) -> bool:
    """Says whether one operand is a vector: it has no free axis of size over 1."""
    return (r.m == 1) != (r.n == 1) and r.k > 1


def _is_row(r: DotSpec) -> bool:
    return r.m == 1 and r.n == 1 and r.k > 1


def _free(r: DotSpec) -> int:
    """Counts the rows of the matrix that a vector meets."""
    return max(r.m, r.n)


def _elements(r: DotSpec) -> int:
    """Counts the elements of the larger operand."""
    return r.batch * r.k * max(r.m, r.n)


def _work(r: DotSpec) -> int:
    """Counts multiply-adds."""
    return r.batch * r.m * r.n * r.k


def _matrix(r: DotSpec) -> tuple[str | None, ...]:
    """Returns the labels of the matrix that a vector meets."""
    return r.contraction.rhs if r.m == 1 else r.contraction.lhs


def _ends_in_k(r: DotSpec, labels: tuple[str | None, ...]) -> bool:
    """Says whether an operand is contracted on its last axis, so that sums run along memory."""
    return labels[-1:] == r.contraction.contracting[-1:]


def _leads(r: DotSpec) -> bool:
    """Says whether the batch axes of the matrix that a vector meets come first."""
    return _matrix(r)[: len(r.contraction.batch)] == r.contraction.batch


def _lhs_turned(r: DotSpec) -> bool:
    """Says whether lhs is a matrix whose last axis is free."""
    return _is_matrix(r) and r.contraction.lhs[-1] in r.contraction.lhs_free


HALF: Final = ("bfloat16", "float16")
INT8: Final = ("int8",)
FLOATS: Final = ("float32", "float64")
REAL: Final = (*FLOATS, *HALF, *INT8)
COMPLEX: Final = ("complex64", "complex128")


def _complex_small(r: DotSpec) -> bool:
    if not _is(r, *COMPLEX) or r.batch < 64 or _work(r) < 1 << 13:
        return False
    return r.k <= 8 if _is_matrix(r) else _is_vector(r) and r.k <= 16


def _small_matrices(r: DotSpec) -> bool:
    sides = r.m, r.n, r.k
    return _is(r, *REAL) and _is_matrix(r) and r.batch >= 64 and min(sides) >= 4 and max(sides) < 8


def _small_turned(r: DotSpec) -> bool:
    if not _is(r, *REAL) or not _lhs_turned(r) or r.batch < 64 or max(r.m, r.n) > 16:
        return False
    least = 1 << 19 if _is(r, *INT8) else 1 << 16
    return 4 <= r.k <= 8 or (r.k <= 16 and _work(r) >= least and not _is(r, "bfloat16"))


def _many_small(r: DotSpec) -> bool:
    if not _is(r, "float32", "float16", *INT8) or not _is_matrix(r):
        return False
    if r.contraction.rhs[-1] not in r.contraction.rhs_free:  # then the products do not lie side by side
        return False
    return 8 <= r.k <= 16 and max(r.m, r.n) <= 16 and _work(r) >= 1 << 19


def _many_rows(r: DotSpec) -> bool:
    return _is(r, *FLOATS, *HALF) and _is_row(r) and r.k <= 8 and r.batch >= 1 << 14


def _many_small_vectors(r: DotSpec) -> bool:
    if not _is_vector(r) or not _leads(r) or _is(r, *COMPLEX):
        return False
    if _is(r, *FLOATS):
        return _is(r, "float32") and r.k <= 6 and _free(r) <= 8 and r.batch >= 1 << 14
    if _is(r, "bfloat16") and not _HAS_NARROW_FLOAT_KERNELS:
        return False
    if r.k <= 6:
        return r.batch >= 1 << 14
    if _ends_in_k(r, _matrix(r)):
        return _elements(r) >= (1 << 21 if r.k <= 8 else 1 << 22) and r.k <= 16 and _free(r) >= 8
    return _elements(r) >= 1 << 18 and r.k <= 32


def _turned(r: DotSpec) -> bool:
    if not _lhs_turned(r):
        return False
    if _is(r, *INT8) or (_HAS_NARROW_FLOAT_KERNELS and _is(r, "bfloat16")):
        return min(r.m, r.n) >= 8 and r.k >= 12 and _work(r) >= 1 << 18
    fits = min(r.m, r.n) >= 8 and 16 <= r.k <= 16 * min(r.m, r.n) and _work(r) >= 1 << 23
    return _HAS_NARROW_FLOAT_KERNELS and _is(r, "float32", "float16") and fits


def _tall(r: DotSpec) -> bool:
    """Fits a wide lhs that would have to move, with an rhs and a result that are small beside it."""
    if not _is(r, "float32", *HALF) or not _lhs_turned(r):
        return False
    return r.m >= 8 * r.n and r.n >= 8 and r.k >= 64 and _work(r) >= 1 << 18


def _scattered(r: DotSpec) -> bool:
    return _is(r, *FLOATS) and _is_vector(r) and not _leads(r) and _elements(r) >= 1 << 20


def _narrow_rows(r: DotSpec) -> bool:
    """Fits a matrix of 8 or 16 bits in rows along its contracted axis, by a vector that stays in L1."""
    if not _is(r, *HALF, *INT8) or not _is_vector(r) or not _leads(r) or not _ends_in_k(r, _matrix(r)):
        return False
    if not _HAS_NARROW_FLOAT_KERNELS and _is(r, "bfloat16") and r.batch > 1:  # XLA widens it before the loop
        return False
    if r.batch == 1 and block_rows(r) * r.k < 1 << 14 and r.lhs_dtype in FUSED_ONLY_IN_LOOPS:
        return False
    return r.k < 4096 and _elements(r) >= (1 << 17 if r.k >= 64 else 1 << 23) and r.k >= 16


def _bfloat16_long(r: DotSpec) -> bool:
    if (
        _HAS_NARROW_FLOAT_KERNELS and r.batch < 8
    ) or not RIGHT_SUMS:  # without XLA's library for sums they are no faster
        return False
    if not _is(r, "bfloat16") or not _is_vector(r) or not _ends_in_k(r, _matrix(r)) or _elements(r) < 1 << 18:
        return False
    return r.k >= 512 or (r.batch < 8 and (r.k >= 256 or (r.k >= 64 and _elements(r) >= 1 << 21)))


def _blocks(r: DotSpec) -> bool:
    if not _is_vector(r) or r.batch < 8 or not _leads(r) or r.k < 64:
        return False
    if _free(r) < (8 if _ends_in_k(r, _matrix(r)) else 32 if _elements(r) < 1 << 22 else 16):
        return False
    if _is(r, *INT8):
        return _HAS_NARROW_FLOAT_KERNELS and _elements(r) >= (1 << 20 if r.k >= 128 else 1 << 22)
    if _HAS_NARROW_FLOAT_KERNELS:
        return _is(r, *HALF) and _elements(r) >= 1 << 18
    return _is(r, "float16") and _elements(r) >= 1 << 21


def _few_vectors(r: DotSpec) -> bool:
    if not _is(r, *INT8, *(("bfloat16",) if _HAS_NARROW_FLOAT_KERNELS else ())) or not _is_vector(r) or not _leads(r):
        return False
    if r.batch >= 8:
        return not _HAS_NARROW_FLOAT_KERNELS and r.k >= 64 and _elements(r) >= 1 << 22
    if _is(r, *INT8):
        return _elements(r) >= (1 << 18 if r.k >= 256 else 1 << 20) and r.k >= 64
    return _elements(r) >= 1 << 20 and r.k >= 256


def _rows(r: DotSpec) -> bool:
    least = {"float16": 1 << (18 if _HAS_NARROW_FLOAT_KERNELS else 20), "complex64": 1 << 20}.get(r.lhs_dtype)
    return _is_row(r) and r.batch >= 64 and r.k >= 64 and least is not None and _elements(r) >= least


def _float8(r: DotSpec) -> bool:
    return r.lhs_dtype.startswith("float8") and _is_matrix(r) and min(r.m, r.n) >= 8 and _work(r) >= 1 << 18


def _uint8(r: DotSpec) -> bool:
    return _is(r, "uint8") and r.dtype in ("uint32", "int32", "uint8") and _is_matrix(r) and _work(r) >= 1 << 16


_MANY: Final = "as many small products are vectors in a sum of products, and short loops in a dot"
CPU: Final = (
    Rule("cpu uint8", "shifted", "as uint8 has no kernel and int8 has", _uint8,
         ("b m k, b k n -> b m n", (64, 128, 128), (64, 128, 128), "uint8")),
    Rule("cpu float8", "widened", "as 8-bit floats are exact in bfloat16, which has a kernel", _float8,
         ("b m k, b k n -> b m n", (64, 128, 128), (64, 128, 128), "float8_e4m3fn")),
    Rule("cpu complex small", "unrolled", _MANY, _complex_small,
         ("b m k, b k n -> b m n", (4096, 4, 4), (4096, 4, 4), "complex64")),
    Rule("cpu small matrices", "unrolled", "as matrices of 4 to 7 rows fall between the backend's kernels",
         _small_matrices, ("b m k, b k n -> b m n", (4096, 4, 4), (4096, 4, 4), "float32")),
    Rule("cpu small turned", "unrolled", "as lhs, not contracted on its last axis, is too small to be worth a copy",
         _small_turned, ("b k m, b k n -> b m n", (1024, 8, 8), (1024, 8, 8), "float32")),
    Rule("cpu many small matrices", "unrolled", _MANY, _many_small,
         ("b m k, b k n -> b m n", (1024, 12, 12), (1024, 12, 12), "float16")),
    Rule("cpu many rows", "unrolled", _MANY, _many_rows, ("b k, b k -> b", (65536, 8), (65536, 8), "bfloat16")),
    Rule("cpu many small vectors", "unrolled", _MANY, _many_small_vectors,
         ("b k, b k n -> b n", (4096, 32), (4096, 32, 32), "float16")),
    Rule("cpu turned", "pinned", "as the fast kernels take lhs contracted on its last axis only", _turned,
         ("b k m, b k n -> b m n", (64, 128, 128), (64, 128, 128), "int8")),
    Rule("cpu tall", "pinned", "as it means less to copy rhs and the result than lhs", _tall,
         ("k m, k n -> m n", (1024, 768), (1024, 16), "float32")),
    Rule("cpu scattered", "reduced", "as a dot would copy the matrix to bring its batch axes to the front", _scattered,
         ("b h d, b s h d -> b h s", (4, 12, 64), (4, 2048, 12, 64), "float32")),
    Rule("cpu narrow rows", "fused", "as a dot would widen the whole matrix in memory first", _narrow_rows,
         ("b m k, b k -> b m", (1024, 128, 128), (1024, 128), "float16")),
    Rule("cpu long bfloat16 vectors", "reduced", "as the bfloat16 kernel takes matrices only", _bfloat16_long,
         ("m k, k -> m", (2048, 4096), (4096,), "bfloat16")),
    Rule("cpu few vectors", "padded", "as the kernels for 8 and 16 bits take matrices only", _few_vectors,
         ("m k, k -> m", (4096, 4096), (4096,), "int8")),
    Rule("cpu blocks of vectors", "looped", "as a dot would widen the whole matrix in memory first", _blocks,
         ("b k m, b k -> b m", (1024, 128, 128), (1024, 128), "float16")),
    Rule("cpu rows", "looped", "as a dot of many rows is a slow loop, and a loop of dots is not", _rows,
         ("b k, b k -> b", (16384, 256), (16384, 256), "float16")),
)  # fmt: skip


def _lanes(r: DotSpec) -> bool:
    """Fits where the compiler's estimates for v5e, v5p and v6e are all better, most where batches are large."""
    if not _is(r, "float32", "bfloat16", *INT8) or not _is_matrix(r) or r.batch < 2048:
        return False
    full = filled(r, lane(r), LANES)
    return max(r.m, r.n, r.k) <= 16 and r.k <= 2 * min(r.m, r.n) and full >= 0.7 and full * r.batch >= 2000


TPU: Final = (
    Rule("tpu small matrices", "lanes", "as small matrices leave most of a matrix unit and of a register empty", _lanes,
         ("b m k, b k n -> b m n", (8192, 4, 5), (8192, 5, 8), "bfloat16")),
)  # fmt: skip
RULES: Final[dict[str, tuple[Rule, ...]]] = {"cpu": CPU, "tpu": TPU}


@functools.cache
def _figures() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "measured.json").read_text())


def measured(rule: Rule) -> tuple[float | None, str]:
    """Gives a rule's gain on its case, and where that was measured: this version of JAX, or else the newest."""
    found = _figures().get(rule.name, {})
    if not found:
        return None, ""
    version = jax.__version__ if jax.__version__ in found else max(found)
    return found[version]["gain"], found[version]["source"]
