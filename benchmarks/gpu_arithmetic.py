"""What a backend's arithmetic is, read off numbers, beside what `explain` says of it.

Each dot is run on random operands, and its result compared with models of the arithmetic, in NumPy with float64: exact
products and sums that are rounded once, factors rounded to TF32 or bfloat16 first, products rounded one by one. The
model that a result is nearest to is what the backend does. Whole numbers are of the full range of their dtype, and must
be equal, wrapped.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

import jbdot
from jbdot import Contraction

MATRICES: Final = "m k, k n -> m n"
VECTOR: Final = "m k, k -> m"
ROWS: Final = "b k, b k -> b"
BATCH: Final = "b m k, b k n -> b m n"
TURNED: Final = "k m, k n -> m n"
SIZES: Final = {"b": 8, "m": 96, "n": 80, "k": 128}
ODD: Final = {"b": 3, "m": 7, "n": 9, "k": 33}
SINGLE: Final = 2e-6  # rms error over rms result, up to which a float32 result counts as of float32 arithmetic
# What a named algorithm is by these models; those that are not named here keep float32, as far as random numbers tell.
OF_ALGORITHM: Final = {
    "BF16_BF16_F32": "bfloat16 factors",
    "BF16_BF16_F32_X3": "two bfloat16 a factor",
    "TF32_TF32_F32": "TF32 factors",
    "BF16_BF16_F32_X9": "TF32 factors",
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A dot whose arithmetic is asked for."""

    labels: str
    dtype: str
    out: str | None = None
    precision: str | None = None
    odd: str = ""  # the labels of odd sizes

    def __str__(self) -> str:
        parts = [
            self.labels,
            self.dtype,
            self.out and f"to {self.out}",
            self.precision,
            self.odd and f"odd {' '.join(self.odd)}",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def contraction(self) -> Contraction:
        """The labels, parsed."""
        return Contraction.parse(self.labels)

    def operands(self) -> list[np.ndarray]:
        """Draws both, in the dtype: standard normal, or whole numbers of its full range."""
        rng, dtype = np.random.default_rng(7), jnp.dtype(self.dtype)
        sizes = SIZES | {label: ODD[label] for label in self.odd}
        found: list[np.ndarray] = []
        for labels in (self.contraction.lhs, self.contraction.rhs):
            shape = tuple(sizes[label] for label in labels if label)
            if self.dtype == "bool":
                found.append(rng.random(shape) < 0.02)
            elif jnp.issubdtype(dtype, jnp.integer):
                found.append(rng.integers(jnp.iinfo(dtype).min, int(jnp.iinfo(dtype).max) + 1, shape).astype(dtype))
            elif self.dtype == "complex64":
                found.append((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype))
            else:
                found.append(rng.standard_normal(shape).astype(dtype))
        return found

    def run(self, x: Any, y: Any) -> Any:
        """What a user says."""
        return jbdot.contract(self.labels, x, y, precision=self.precision, preferred_element_type=self.out)

    def said(self, backend: str) -> str:
        """What `explain` says of it."""
        operands = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.operands()]
        return jbdot.explain(
            self.labels, *operands, precision=self.precision, preferred_element_type=self.out
        ).arithmetic[backend]


def asked() -> list[Asked]:
    """Every dtype and precision, on products of matrices, of vectors and of rows, and every named algorithm."""
    found = [
        Asked(labels, "float32", None, precision)
        for precision in (None, "high", "highest")
        for labels in (MATRICES, BATCH, VECTOR, ROWS)
    ]
    found += [Asked(labels, "int8", "int32") for labels in (MATRICES, BATCH, TURNED, VECTOR, ROWS)]
    found += [Asked(labels, "int8", "int32", odd="mkn") for labels in (MATRICES, BATCH, TURNED)]
    found += [Asked(MATRICES, "int8", "int32", odd=odd) for odd in ("m", "k", "n", "mk", "mn", "kn")]
    half = ("bfloat16", "float16")
    found += [Asked(labels, dtype) for dtype, labels in itertools.product(half, (MATRICES, BATCH, VECTOR, ROWS))]
    found += [Asked(labels, dtype, "float32") for dtype, labels in itertools.product(half, (MATRICES, VECTOR))]
    found += [Asked(labels, "uint8", "uint32", odd=odd) for labels in (MATRICES, VECTOR) for odd in ("", "mkn")]
    wholes = (("int8", "int8"), ("uint8", "int32"), ("int16", "int32"), ("int32", None), ("uint32", None))
    found += [Asked(MATRICES, dtype, out) for dtype, out in (*wholes, ("bool", None), ("int8", "float32"))]
    found += [Asked(labels, dtype) for dtype in ("float64", "complex64") for labels in (MATRICES, VECTOR)]
    found += [Asked(MATRICES, "float8_e4m3fn", out) for out in ("float32", "bfloat16", None)]
    return found + [Asked(MATRICES, *_for(preset), preset.name) for preset in lax.DotAlgorithmPreset]


def _for(preset: lax.DotAlgorithmPreset) -> tuple[str, None]:
    """The dtype of operands that an algorithm is asked with."""
    starts = {"F16": "float16", "F64": "float64", "ANY_F8": "float8_e4m3fn"}
    return next((dtype for start, dtype in starts.items() if preset.name.startswith(start)), "float32"), None


def models(one: Asked, operands: list[np.ndarray], out: str) -> dict[str, np.ndarray]:
    """The result by each model of arithmetic; "exact" is exact products and sums, rounded once."""
    text = one.contraction.einsum
    if not _is_float(one.dtype):
        wide = "int64" if one.dtype != "bool" else "bool"
        total = np.einsum(text, *(x.astype(wide) for x in operands))
        return {"exact": total.astype(out)}
    wide = "complex128" if one.dtype.startswith("complex") else "float64"
    x, y = (x.astype(wide) for x in operands)
    found: dict[str, Callable[[], np.ndarray]] = {"exact": lambda: np.einsum(text, x, y)}
    if one.dtype in ("float32", "complex64"):
        (x_high, x_low), (y_high, y_low) = (_two(z) for z in (x, y))
        found["TF32 factors"] = lambda: np.einsum(text, _short(x, 10), _short(y, 10))
        found["bfloat16 factors"] = lambda: np.einsum(text, x_high, y_high)
        found["two bfloat16 a factor"] = lambda: (
            np.einsum(text, x_high, y_high) + np.einsum(text, x_high, y_low) + np.einsum(text, x_low, y_high)
        )
    if one.dtype in ("bfloat16", "float16", "float8_e4m3fn"):
        found["products rounded"] = lambda: _products(one.contraction, x, y, out)
    return {name: _cast(model(), out) for name, model in found.items()}


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat", "complex"))


def _cast(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype("float32").astype(dtype) if dtype not in ("float64", "complex64") else x.astype(dtype)


def _short(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounds to so many bits after the leading one, to even."""
    if np.iscomplexobj(x):
        return _short(x.real, bits) + 1j * _short(x.imag, bits)
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(fraction, bits + 1)), exponent - bits - 1)


def _two(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two bfloat16 numbers whose sum is nearest."""
    high = _short(x, 7)
    return high, _short(x - high, 7)


def _products(c: Contraction, x: np.ndarray, y: np.ndarray, out: str) -> np.ndarray:
    """Sums of products that are each rounded to the result's dtype."""
    order = (*c.dot_out, *c.contracting)

    def aligned(z: np.ndarray, labels: tuple[Any, ...]) -> np.ndarray:
        z = z.transpose([labels.index(label) for label in order if label in labels])
        return np.expand_dims(z, [axis for axis, label in enumerate(order) if label not in labels])

    products = _cast((aligned(x, c.lhs) * aligned(y, c.rhs)).astype("float32"), out).astype("float32")
    return products.sum(tuple(range(len(c.dot_out), len(order))), dtype="float64")


def judged(one: Asked, got: np.ndarray | str, said: str) -> dict[str, Any]:
    """What a result shows of the arithmetic, and whether `explain` says so; None where it leaves that open.

    Args:
        one: The dot.
        got: Its result, or why there is none.
        said: What `explain` says.
    """
    row: dict[str, Any] = {"said": said}
    if isinstance(got, str):
        return {**row, "refused": got, "is_true": None if "not known" in said else said.startswith("refused")}
    found = models(one, one.operands(), got.dtype.name)
    if not _is_float(one.dtype) and not _is_float(got.dtype.name):
        wrong = int((got != found["exact"]).sum())
        row |= {"wrong": wrong, "of": int(got.size), "nearest": "exact" if not wrong else "none"}
    else:
        exact = found["exact"].astype("complex128" if np.iscomplexobj(got) else "float64")
        far = {name: _rms(got.astype(exact.dtype) - model.astype(exact.dtype)) for name, model in found.items()}
        far = {name: distance / (_rms(exact) or 1.0) for name, distance in far.items()}
        is_single = far["exact"] < SINGLE
        row |= {"error": far["exact"], "nearest": "exact" if is_single else min(far, key=lambda name: far[name])}
        row["distances"] = far
    expected = expected_of(said)
    return {**row, "is_true": None if expected is None else expected in nearest(row)}


def nearest(row: dict[str, Any]) -> list[str]:
    """The models that a result cannot be told from: the nearest, and those that are as near."""
    far = row.get("distances", {})
    return [row["nearest"], *(name for name, distance in far.items() if distance == min(far.values()))]


def expected_of(said: str) -> str | None:
    """The model that a sentence of `explain` means; None where it leaves that open."""
    if said.startswith("refused"):
        return "nothing"
    for word, model in (
        ("not known", None),
        ("rounded to TF32", "TF32 factors"),
        ("each product is rounded", "products rounded"),
        ("the algorithm ", "an algorithm"),
    ):
        if word in said:
            name = said.split("the algorithm ")[1].split(",")[0] if model == "an algorithm" else ""
            return OF_ALGORITHM.get(name, "exact") if name else model
    return "exact"


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.abs(x) ** 2)))
