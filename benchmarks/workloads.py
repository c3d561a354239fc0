"""The workloads: contractions that people run, by name, with sizes and dtypes; and the ways to say each in JAX.

A workload is said by labels and sizes alone. Shapes, costs, what every JAX spelling is given and what a peer is told
are read off them. Sizes are such that a call takes 10 us to some 30 ms on two cores.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
from jax import lax
from jax import numpy as jnp

import jbdot
from benchmarks.peers import Step, Task, chain, pullback
from jbdot import Contraction

FLOATS: Final = ("float32", "bfloat16", "float16")
WIDE: Final = (*FLOATS, "float64")
EVERY: Final = (*WIDE, "int8", "complex64")
INFERENCE: Final = (*FLOATS, "int8")
DIRECTIONS: Final = ("forward", "gradient")


@dataclasses.dataclass(frozen=True)
class Workload:
    """A contraction, or a chain of them, of some size.

    In a chain each contraction takes the result of the one before as its left operand.

    Attributes:
        name: Family, then what sets it apart.
        what: What it is in a model or a program.
        texts: The contractions, as einsum strings.
        sizes: The length of each label.
        dtypes: Names; int8 is summed in int32.
        gradient: Whether the gradient is measured too, where the dtype has one.
        softmax: Whether the softmax of a result is what goes on to the next contraction.
        axes: Of Keras' `batch_dot`, where the workload is one.
    """

    name: str
    what: str
    texts: tuple[str, ...]
    sizes: dict[str, int]
    dtypes: tuple[str, ...] = FLOATS
    gradient: bool = True
    softmax: bool = False
    axes: tuple[int, int] | None = None

    @property
    def family(self) -> str:
        """The name's part before the comma."""
        return self.name.split(",")[0]

    @functools.cached_property
    def contractions(self) -> tuple[Contraction, ...]:
        """The chain, parsed."""
        return tuple(Contraction.parse(text) for text in self.texts)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the operands: both of the first contraction, then the right one of each."""
        first, *_ = self.contractions
        return [self._shape(first.lhs), *(self._shape(c.rhs) for c in self.contractions)]

    @property
    def out(self) -> tuple[int, ...]:
        """The result's shape."""
        return self._shape(self.contractions[-1].out)

    def _shape(self, labels: Iterable[Any]) -> tuple[int, ...]:
        return tuple(self.sizes[label] for label in labels)

    def steps(self) -> list[tuple[Contraction, tuple[int, ...], tuple[int, ...]]]:
        """Each contraction with the shapes of its two operands."""
        return [(c, self._shape(c.lhs), self._shape(c.rhs)) for c in self.contractions]

    def directions(self, dtype: str) -> tuple[str, ...]:
        """Forward, and gradient where there is one."""
        return DIRECTIONS if self.gradient and dtype != "int8" else DIRECTIONS[:1]

    def small(self) -> "Workload":
        """The same with sizes of 2 to 5, which differ from label to label: for tests."""
        sizes = {label: min(size, 2 + i % 4) for i, (label, size) in enumerate(self.sizes.items())}
        return dataclasses.replace(self, sizes=sizes)


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload in one dtype and direction: a row of the results."""

    workload: Workload
    dtype: str
    direction: str

    @property
    def key(self) -> dict[str, str]:
        """What a row is found again by."""
        return {"workload": self.workload.name, "dtype": self.dtype, "direction": self.direction}

    @property
    def is_gradient(self) -> bool:
        """Whether gradients are computed."""
        return self.direction == "gradient"

    @property
    def is_single(self) -> bool:
        """Whether the workload is one contraction; its gradient is then taken apart from its value."""
        return len(self.workload.contractions) == 1

    @property
    def flops(self) -> int:
        """2 for each multiply-add of real numbers, 8 of complex ones; a gradient is two contractions for each."""
        forward = sum(c.flops(lhs, rhs) for c, lhs, rhs in self.workload.steps())
        passes = (2 if self.is_single else 3) if self.is_gradient else 1
        return forward * passes * (4 if self.dtype == "complex64" else 1)

    @property
    def bytes(self) -> int:
        """Of all that enters and leaves a call, once; what a chain makes on the way can stay in cache."""
        size = jnp.dtype(self.dtype).itemsize
        operands = sum(math.prod(shape) for shape in self.workload.shapes) * size
        out = math.prod(self.workload.out) * (4 if self.dtype == "int8" else size)
        if not self.is_gradient:
            return operands + out
        return 2 * operands + out * (1 if self.is_single else 2)

    @property
    def task(self) -> Task:
        """The case in plain words, for a peer."""
        w = self.workload
        return {
            "dtype": self.dtype,
            "gradient": self.is_gradient,
            "shapes": w.shapes,
            "out": w.out,
            "softmax": w.softmax,
            "axes": w.axes,
            "steps": [{"einsum": c.einsum, "matmul": matmul_form(c, lhs, rhs)} for c, lhs, rhs in w.steps()],
        }

    def function(self, way: str) -> Callable[..., Any]:
        """The case said in one of the JAX ways: a function of `operands(task)`, cast to the dtype."""
        say = WAYS[way]
        wanted = jnp.int32 if self.dtype == "int8" else None
        steps = [say(c, matmul_form(c, lhs, rhs), wanted) for c, lhs, rhs in self.workload.steps()]
        forward = chain(steps, jax.nn.softmax if self.workload.softmax else None)
        if not self.is_gradient:
            return forward
        both = pullback(jax, forward, self.is_single)
        return lambda *operands: both(operands[-1], *operands[:-1])


def matmul_form(c: Contraction, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> dict[str, Any]:
    """How axes are permuted and merged for a matmul: (batch..., m, k) by (batch..., k, n)."""
    sizes = c.sizes(lhs, rhs)

    def side(labels: tuple[Any, ...], groups: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
        order = [labels.index(label) for label in sum(groups, c.batch)]
        merged = [math.prod(sizes[label] for label in group) for group in groups]
        return {"order": order, "shape": [*(sizes[label] for label in c.batch), *merged]}

    return {
        "lhs": side(c.lhs, (c.lhs_free, c.contracting)),
        "rhs": side(c.rhs, (c.contracting, c.rhs_free)),
        "out": {"shape": [sizes[label] for label in c.dot_out], "order": list(c.permutation)},
    }


def _jbdot(c: Contraction, form: dict[str, Any], wanted: Any) -> Step:
    return lambda x, y: jbdot.contract(c, x, y, preferred_element_type=wanted)


def _bare(c: Contraction, form: dict[str, Any], wanted: Any) -> Step:
    def step(x: Any, y: Any) -> Any:
        out = lax.dot_general(x, y, c.dimension_numbers, preferred_element_type=wanted)
        return out if c.out == c.dot_out else lax.transpose(out, c.permutation)

    return step


def _einsum(c: Contraction, form: dict[str, Any], wanted: Any) -> Step:
    return lambda x, y: jnp.einsum(c.einsum, x, y, preferred_element_type=wanted)


def _matmul(c: Contraction, form: dict[str, Any], wanted: Any) -> Step:
    left, right, last = form["lhs"], form["rhs"], form["out"]

    def step(x: Any, y: Any) -> Any:
        x, y = x.transpose(left["order"]).reshape(left["shape"]), y.transpose(right["order"]).reshape(right["shape"])
        out = jnp.matmul(x, y, preferred_element_type=wanted)
        return out.reshape(last["shape"]).transpose(last["order"])

    return step


WAYS: Final[dict[str, Callable[[Contraction, dict[str, Any], Any], Step]]] = {
    "jbdot": _jbdot,
    "bare": _bare,
    "einsum": _einsum,
    "matmul": _matmul,
}


def cases(only: str = "", dtypes: Iterable[str] = EVERY, directions: Iterable[str] = DIRECTIONS) -> list[Case]:
    """Every case whose workload's name has a match of `only`, in these dtypes and directions."""
    return [
        Case(workload, dtype, direction)
        for workload in WORKLOADS
        if re.search(only, workload.name)
        for dtype in workload.dtypes
        if dtype in dtypes
        for direction in workload.directions(dtype)
        if direction in directions
    ]


def _small(n: int, batch: int, dtypes: tuple[str, ...]) -> Workload:
    what = f"{batch} products of {n}x{n} matrices: poses, filters, small solvers"
    return Workload(f"small matrices, {n}x{n}", what, ("bij,bjk->bik",), {"b": batch, "i": n, "j": n, "k": n}, dtypes)


def _batch_dot(x_ndim: int, y_ndim: int) -> list[Workload]:
    """Keras' `batch_dot` of these ranks, over every pair of axes."""
    sizes = {2: {"b": 4096}, 3: {"b": 32}, 4: {"b": 16}}[max(x_ndim, y_ndim)]
    free = {2: {}, 3: {"m": 64, "n": 48, "k": 64}, 4: {"m": 8, "i": 16, "n": 8, "u": 16, "k": 32}}
    sizes = {**sizes, "k": 256, **free[max(x_ndim, y_ndim)]}
    dtypes = ("float32", "bfloat16", "int8") if x_ndim == y_ndim == 3 else ("float32",)
    found: list[Workload] = []
    for axes in itertools.product(range(1, x_ndim), range(1, y_ndim)):
        x, y = list("mi"[: x_ndim - 2]), list("nu"[: y_ndim - 2])
        out = "".join(("b", *x, *y))
        x.insert(axes[0] - 1, "k")
        y.insert(axes[1] - 1, "k")
        text = f"b{''.join(x)},b{''.join(y)}->{out}"
        used = {label: size for label, size in sizes.items() if label in text}
        name = f"batch_dot, ranks {x_ndim} and {y_ndim}, axes {axes[0]} and {axes[1]}"
        # The gradients of ranks 3 and 4 are batch_dots of ranks 4 and 3, and of 3 and 3.
        gradient = sorted((x_ndim, y_ndim)) != [3, 4]
        found.append(Workload(name, "Keras' batch_dot", (text,), used, dtypes, gradient, axes=axes))
    return found


WORKLOADS: Final = (
    Workload(
        "attention, bqhd",
        "softmax(q k) v with heads beside the features",
        ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"),
        {"b": 4, "q": 128, "k": 128, "h": 12, "d": 64},
        softmax=True,
    ),
    Workload(
        "attention, bhqd",
        "softmax(q k) v with heads beside the batch",
        ("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd"),
        {"b": 4, "h": 12, "q": 128, "k": 128, "d": 64},
        softmax=True,
    ),
    Workload(
        "attention, grouped queries",
        "softmax(q k) v, four query heads r to a key head g",
        ("bqgrd,bkgd->bgrqk", "bgrqk,bkgd->bqgrd"),
        {"b": 2, "q": 128, "g": 4, "r": 4, "k": 128, "d": 64},
        softmax=True,
    ),
    Workload(
        "decode, short cache",
        "one query token against 512 cached keys, four query heads to a key head",
        ("bgrd,bsgd->bgrs", "bgrs,bsgd->bgrd"),
        {"b": 4, "g": 8, "r": 4, "s": 512, "d": 64},
        gradient=False,
        softmax=True,
    ),
    Workload(
        "decode, long cache",
        "one query token against 4096 cached keys, four query heads to a key head",
        ("bgrd,bsgd->bgrs", "bgrs,bsgd->bgrd"),
        {"b": 4, "g": 8, "r": 4, "s": 4096, "d": 64},
        gradient=False,
        softmax=True,
    ),
    Workload(
        "retrieval, 16 queries",
        "two towers: queries scored against 131,072 candidates",
        ("qd,cd->qc",),
        {"q": 16, "d": 64, "c": 131072},
        INFERENCE,
        gradient=False,
    ),
    Workload(
        "retrieval, 1 query",
        "two towers: one query scored against 131,072 candidates",
        ("d,cd->c",),
        {"d": 64, "c": 131072},
        INFERENCE,
        gradient=False,
    ),
    Workload("retrieval, in-batch", "two towers in training", ("qd,cd->qc",), {"q": 1024, "c": 1024, "d": 128}),
    Workload(
        "bilinear, x W y",
        "a bilinear score of two vectors",
        ("bi,ij->bj", "bj,bj->b"),
        {"b": 2048, "i": 256, "j": 256},
        WIDE,
    ),
    Workload(
        "adapter, shared",
        "a low-rank adapter: down to rank 8 and up",
        ("bti,ir->btr", "btr,rj->btj"),
        {"b": 8, "t": 256, "i": 512, "r": 8, "j": 512},
    ),
    Workload(
        "adapter, per sample",
        "a low-rank adapter of each sample's own",
        ("bti,bir->btr", "btr,brj->btj"),
        {"b": 8, "t": 256, "i": 512, "r": 8, "j": 512},
    ),
    Workload(
        "mixture of experts, by batch",
        "tokens sorted to eight experts of equal capacity",
        ("ecd,edf->ecf",),
        {"e": 8, "c": 128, "d": 256, "f": 512},
        INFERENCE,
    ),
    Workload(
        "capsules, sum",
        "routing: predictions summed by coupling",
        ("bji,bjid->bjd",),
        {"b": 8, "j": 10, "i": 1152, "d": 16},
    ),
    Workload(
        "capsules, agreement",
        "routing: predictions compared with the outputs",
        ("bjd,bjid->bji",),
        {"b": 8, "j": 10, "d": 16, "i": 1152},
    ),
    _small(2, 65536, WIDE),
    _small(3, 32768, ("float32", "float64")),
    _small(4, 32768, EVERY),
    _small(6, 16384, ("float32", "float64")),
    _small(8, 8192, WIDE),
    _small(16, 2048, EVERY),
    _small(32, 512, WIDE),
    Workload(
        "small matrices, 4x4, out of cache",
        "524,288 products of 4x4 matrices",
        ("bij,bjk->bik",),
        {"b": 524288, "i": 4, "j": 4, "k": 4},
        gradient=False,
    ),
    Workload(
        "small matrices, 3x3 by vectors",
        "65,536 rotations of points",
        ("bij,bj->bi",),
        {"b": 65536, "i": 3, "j": 3},
        ("float32", "float64"),
    ),
    Workload(
        "small matrices, F P F'",
        "the covariance step of 8,192 Kalman filters of 6 states",
        ("bij,bjk->bik", "bik,blk->bil"),
        {"b": 8192, "i": 6, "j": 6, "k": 6, "l": 6},
        ("float32", "float64"),
    ),
    Workload(
        "matrix-vector, 1024 of 128x128",
        "a matrix by a vector in each batch, out of cache",
        ("bij,bj->bi",),
        {"b": 1024, "i": 128, "j": 128},
        INFERENCE,
    ),
    Workload(
        "matrix-vector, 128 of 128x128",
        "a matrix by a vector in each batch, in cache",
        ("bij,bj->bi",),
        {"b": 128, "i": 128, "j": 128},
        EVERY,
    ),
    Workload(
        "matrix-vector, from the left",
        "a vector by a matrix in each batch, in cache",
        ("bi,bij->bj",),
        {"b": 128, "i": 128, "j": 128},
        ("float32", "bfloat16"),
    ),
    Workload(
        "matrix-vector, 4096x4096",
        "one matrix by one vector",
        ("ij,j->i",),
        {"i": 4096, "j": 4096},
        INFERENCE,
        gradient=False,
    ),
    Workload(
        "batched gemm, lhs contracted on its first free axis",
        "what every backward pass of a batched product has",
        ("bij,bik->bjk",),
        {"b": 64, "i": 128, "j": 128, "k": 128},
        EVERY,
    ),
    Workload(
        "batched gemm, 64 of 128x128",
        "the product as backends like it",
        ("bij,bjk->bik",),
        {"b": 64, "i": 128, "j": 128, "k": 128},
        INFERENCE,
    ),
    Workload(
        "row-wise dot, 16384x256", "similarity of pairs, out of cache", ("bi,bi->b",), {"b": 16384, "i": 256}, EVERY
    ),
    Workload("row-wise dot, 2048x256", "similarity of pairs, in cache", ("bi,bi->b",), {"b": 2048, "i": 256}),
    Workload(
        "K.dot, rank 3",
        "Keras' dot of two arrays of rank 3",
        ("abr,irk->abik",),
        {"a": 8, "b": 64, "r": 128, "i": 4, "k": 64},
        ("float32", "bfloat16", "int8"),
    ),
    Workload(
        "K.dot, rank 4",
        "Keras' dot of two arrays of rank 4",
        ("abcr,ijrk->abcijk",),
        {"a": 4, "b": 8, "c": 16, "r": 64, "i": 2, "j": 4, "k": 32},
        ("float32", "bfloat16", "int8"),
    ),
    *(
        workload
        for ranks in ((2, 2), (2, 3), (3, 2), (3, 3), (3, 4), (4, 3), (4, 4))
        for workload in _batch_dot(*ranks)
    ),
    Workload(
        "long contraction, first axes",
        "65,536 observations of 4 by 4 values: a Gram matrix",
        ("ki,kj->ij",),
        {"k": 65536, "i": 4, "j": 4},
        EVERY,
    ),
    Workload(
        "long contraction, last axes",
        "the same with observations along the last axis",
        ("ik,jk->ij",),
        {"i": 4, "j": 4, "k": 65536},
        gradient=False,
    ),
    Workload(
        "tall-skinny, 65536x32 by 32x16",
        "a small dense layer on many rows",
        ("mk,kn->mn",),
        {"m": 65536, "k": 32, "n": 16},
        EVERY,
    ),
    Workload(
        "tall-skinny, gram",
        "a Gram matrix of 32 features over 65,536 rows",
        ("mi,mj->ij",),
        {"m": 65536, "i": 32, "j": 32},
        ("float32", "bfloat16"),
    ),
)
