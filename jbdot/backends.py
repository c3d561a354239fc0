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

from jbdot.request import Request

UNROLLED: Final = 64  # the most products that `unrolled` writes out
_FAST: Final = tuple(int(part) for part in jax.lib.__version__.split(".")[:2]) >= (0, 12)


@dataclasses.dataclass(frozen=True)
class Rule:
    """When to take another lowering, and why.

    Attributes:
        name: What `measured.json` knows it by.
        lowering: The lowering's name.
        why: The reason, as a clause.
        fits: Whether it is for this dot.
        case: The contraction, both shapes and the dtype that it is measured on.
        holds: Whether it is for this version of jaxlib.
    """

    name: str
    lowering: str
    why: str
    fits: Callable[[Request], bool]
    case: tuple[str, tuple[int, ...], tuple[int, ...], str]
    holds: bool = True


def _is(request: Request, *dtypes: str) -> bool:
    return request.lhs_dtype in dtypes


def _is_vector(request: Request) -> bool:
    """An operand of a matrix and a vector has no free axis of size over 1."""
    return (request.m == 1) != (request.n == 1)


def _is_row(request: Request) -> bool:
    return request.m == 1 and request.n == 1 and request.k > 1


def _is_matrix(request: Request) -> bool:
    return request.m > 1 and request.n > 1 and request.k > 1


def _k_last(request: Request) -> bool:
    """Whether lhs is contracted on its last axis."""
    c = request.contraction
    return c.lhs[-1:] == c.contracting[-1:] or request.m == 1


def _elements(request: Request) -> int:
    """Of the larger operand."""
    return request.batch * request.k * max(request.m, request.n)


def _work(request: Request) -> int:
    """Multiply-adds."""
    return request.batch * request.m * request.n * request.k


def _leads(request: Request) -> bool:
    """Whether the matrix that a vector meets has its batch axes first."""
    c = request.contraction
    labels = c.rhs if request.m == 1 else c.lhs
    return labels[: len(c.batch)] == c.batch


HALF: Final = ("bfloat16", "float16")
INT8: Final = ("int8", "uint8")
FLOATS: Final = ("float32", "float64")
REAL: Final = (*FLOATS, *HALF, *INT8)
COMPLEX: Final = ("complex64", "complex128")
CPU: Final = (
    Rule(
        "cpu complex small",
        "unrolled",
        "as small complex products are slow loops in a dot and vectors in a sum of products",
        lambda r: (
            _is(r, *COMPLEX)
            and r.batch >= 64
            and (r.k <= 8 or (r.k <= 16 and (_is_vector(r) or _is_row(r) or (r.n % 8 == 0 and _work(r) >= 1 << 18))))
        ),
        ("b m k, b k n -> b m n", (4096, 4, 4), (4096, 4, 4), "complex64"),
    ),
    Rule(
        "cpu short rows",
        "unrolled",
        "as a sum over few elements for each of many rows is a vector over rows",
        lambda r: _is(r, *FLOATS, *HALF) and _is_row(r) and r.k <= 8 and r.batch >= 1 << 14,
        ("b k, b k -> b", (65536, 8), (65536, 8), "float32"),
    ),
    Rule(
        "cpu small matrices",
        "unrolled",
        "as matrices of 4 to 7 rows fall between the kernels of the backend",
        lambda r: (
            _is(r, *REAL) and r.batch >= 64 and _is_matrix(r) and min(r.m, r.n, r.k) >= 4 and max(r.m, r.n, r.k) < 8
        ),
        ("b m k, b k n -> b m n", (4096, 4, 4), (4096, 4, 4), "float32"),
    ),
    Rule(
        "cpu small transposed",
        "unrolled",
        "as lhs is not contracted on its last axis and is too small to be worth a copy",
        lambda r: (
            _is(r, *REAL)
            and r.batch >= 64
            and _is_matrix(r)
            and not _k_last(r)
            and 4 <= r.k <= (8 if _is(r, "bfloat16") else 16)
            and max(r.m, r.n) <= 24
        ),
        ("b k m, b k n -> b m n", (1024, 8, 8), (1024, 8, 8), "float32"),
    ),
    Rule(
        "cpu small, many",
        "unrolled",
        "as many products of small matrices are vectors in a sum of products",
        lambda r: (
            _is(r, "float32", "float64", "float16", *INT8)
            and _is_matrix(r)
            and 8 <= r.k <= 16
            and max(r.m, r.n) <= 16
            and r.batch >= 64
            and _work(r) >= 1 << 19
        ),
        ("b m k, b k n -> b m n", (1024, 12, 12), (1024, 12, 12), "float32"),
    ),
    Rule(
        "cpu small vectors, many",
        "unrolled",
        "as many small matrices times vectors are vectors in a sum of products",
        lambda r: (
            _is(r, "float32", *HALF, *INT8)
            and _is_vector(r)
            and r.k <= (32 if _is(r, *HALF, *INT8) and _elements(r) >= 1 << 20 else 6)
            and r.batch >= 1 << 10
            and _elements(r) >= 1 << 18
        ),
        ("b k, b k n -> b n", (4096, 32), (4096, 32, 32), "float16"),
    ),
    Rule(
        "cpu transposed",
        "pinned",
        "as the fast kernels take lhs contracted on its last axis only",
        lambda r: (
            _is(r, "bfloat16", *INT8)
            and _is_matrix(r)
            and not _k_last(r)
            and min(r.m, r.n) >= 8
            and r.k >= 12
            and _work(r) >= 1 << 18
        ),
        ("b k m, b k n -> b m n", (64, 128, 128), (64, 128, 128), "int8"),
    ),
    Rule(
        "cpu transposed float",
        "pinned",
        "as the fast kernels take lhs contracted on its last axis only",
        lambda r: (
            _is(r, "float32", "float16")
            and _is_matrix(r)
            and not _k_last(r)
            and min(r.m, r.n) >= 16
            and r.k >= 16
            and _work(r) >= 1 << 20
        ),
        ("b k m, b k n -> b m n", (64, 128, 128), (64, 128, 128), "float32"),
    ),
    Rule(
        "cpu matrices that do not lead",
        "reduced",
        "as a dot copies the matrix to bring its batch axes to the front",
        lambda r: _is(r, *FLOATS) and _is_vector(r) and not _leads(r) and _elements(r) >= 1 << 20,
        ("b h d, b s h d -> b h s", (4, 12, 64), (4, 2048, 12, 64), "float32"),
    ),
    Rule(
        "cpu int8 vectors",
        "padded",
        "as the int8 kernel takes matrices only",
        lambda r: _is(r, *INT8) and _is_vector(r) and _elements(r) >= 1 << 20,
        ("b m k, b k -> b m", (1024, 128, 128), (1024, 128), "int8"),
    ),
    Rule(
        "cpu half vectors",
        "looped",
        "as a dot widens the whole matrix to float32 in memory first",
        lambda r: _is(r, *HALF) and _is_vector(r) and r.batch > 1 and _elements(r) >= 1 << 18,
        ("b m k, b k -> b m", (1024, 128, 128), (1024, 128), "bfloat16"),
    ),
    Rule(
        "cpu half vector",
        "padded",
        "as the bfloat16 kernel takes matrices only",
        lambda r: _is(r, "bfloat16") and _is_vector(r) and r.batch == 1 and _elements(r) >= 1 << 20,
        ("m k, k -> m", (2048, 2048), (2048,), "bfloat16"),
    ),
    Rule(
        "cpu half rows",
        "looped",
        "as a dot widens both operands to float32 in memory first",
        lambda r: _is(r, "float16", *COMPLEX) and _is_row(r) and _elements(r) >= 1 << 20,
        ("b k, b k -> b", (16384, 256), (16384, 256), "float16"),
    ),
    Rule(
        "cpu large vectors",
        "looped",
        "as blocks of the batch stay in cache",
        lambda r: _is(r, *FLOATS) and _is_vector(r) and r.batch >= 256 and _elements(r) >= 1 << 24,
        ("b m k, b k -> b m", (1024, 128, 128), (1024, 128), "float32"),
    ),
)
RULES: Final[dict[str, tuple[Rule, ...]]] = {"cpu": tuple(rule for rule in CPU if rule.holds), "tpu": ()}


@functools.cache
def _figures() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "measured.json").read_text())


def measured(rule: Rule) -> tuple[float | None, str]:
    """The gain of a rule on its case, and where that was measured: this version of JAX, or else the newest there is."""
    found = _figures().get(rule.name, {})
    if not found:
        return None, ""
    version = jax.__version__ if jax.__version__ in found else max(found)
    return found[version]["gain"], found[version]["source"]
