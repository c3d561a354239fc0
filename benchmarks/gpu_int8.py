"""Which dots of int8 a GPU's compiler gets wrong, what it gives there, and which spellings of them are right.

Run on an H100 with jax 0.11.2, bare dots of int8 with odd sizes were wrong in every element, those of even sizes exact.
Here one size is odd at a time, or a multiple of 2 or 4, and each dot is said in several ways, and compiled with several
settings. Numbers are of the full range, and must be equal.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from benchmarks.peers import told

BASE: Final = (96, 80, 128)  # m, n, k
SIZES: Final = (
    *((97, 80, 128), (96, 81, 128), (96, 80, 129), (97, 81, 129), (98, 80, 128), (96, 82, 128), (96, 80, 130)),
    *((98, 82, 130), (100, 84, 132), (100, 84, 130), (7, 9, 33), (8, 12, 36), (7, 9, 32), (8, 8, 33), (1, 9, 33)),
    *((7, 1, 33), (1000, 300, 77), (300, 1000, 1001), (17, 17, 17), (3, 3, 3), (33, 1024, 1024), (32, 1023, 1024)),
)
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "": {},
    "no Triton": {"xla_gpu_enable_triton_gemm": False},
    "no cuBLASLt": {"xla_gpu_enable_cublaslt": False},
    "no cuBLAS": {"xla_gpu_cublas_fallback": False},
    "no autotuning": {"xla_gpu_autotune_level": 0},
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A dot of int8, said in a way and compiled with a setting."""

    m: int
    n: int
    k: int
    way: str = "bare"
    setting: str = ""

    def __str__(self) -> str:
        return f"{self.m} x {self.k} by {self.k} x {self.n}, {self.way}{self.setting and ', ' + self.setting}"

    def operands(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws both, of the dtype's full range."""
        rng = np.random.default_rng(7)
        dtype = "uint8" if self.way == "uint8" else "int8"
        low, high = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max) + 1
        shapes = ((self.m, self.k), (self.k, self.n))
        return tuple(rng.integers(low, high, shape).astype(dtype) for shape in shapes)  # type: ignore[return-value]


def bare(x: Any, y: Any) -> Any:
    """One dot to int32."""
    return lax.dot(x, y, preferred_element_type=jnp.int32)


def _padded(x: Any, y: Any, multiple: int, has_free: bool = True) -> Any:
    """The dot of operands with zeros behind them, up to multiples."""
    more = [-size % multiple for size in (x.shape[0], x.shape[1], y.shape[1])]
    rows, contracted, columns = (more[0], more[1], more[2]) if has_free else (0, more[1], 0)
    zero = jnp.int8(0)
    x = lax.pad(x, zero, ((0, rows, 0), (0, contracted, 0)))
    y = lax.pad(y, zero, ((0, contracted, 0), (0, columns, 0)))
    out = bare(x, y)
    return out[: out.shape[0] - rows, : out.shape[1] - columns]


def _with_batch(x: Any, y: Any) -> Any:
    """The same dot twice, as a batch."""
    numbers = (((2,), (1,)), ((0,), (0,)))
    return lax.dot_general(jnp.stack([x, x]), jnp.stack([y, y]), numbers, preferred_element_type=jnp.int32)[1]


WAYS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "bare": bare,
    "padded to 4": lambda x, y: _padded(x, y, 4),
    "padded to 16": lambda x, y: _padded(x, y, 16),
    "k padded to 4": lambda x, y: _padded(x, y, 4, has_free=False),
    "widened": lambda x, y: bare(x.astype("int32"), y.astype("int32")),
    "widened, lhs alone": lambda x, y: bare(x.astype("int32"), y),
    "to int8": lambda x, y: lax.dot(x, y, preferred_element_type=jnp.int8),
    "as float32": lambda x, y: lax.dot(
        x.astype("float32"), y.astype("float32"), precision=lax.Precision.HIGHEST
    ).astype("int32"),
    "lhs turned": lambda x, y: lax.dot_general(x.T, y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.int32),
    "rhs turned": lambda x, y: lax.dot_general(x, y.T, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32),
    "batch": _with_batch,
    "uint8": lambda x, y: lax.dot(x, y, preferred_element_type=jnp.int32),
}


def asked() -> list[Asked]:
    """Each size bare, padded and widened; the other ways and settings where sizes are odd."""
    found = [Asked(*size, way) for way in ("bare", "padded to 4", "widened") for size in (BASE, *SIZES)]
    odd = [(7, 9, 33), (97, 81, 129), (96, 80, 129), (97, 80, 128), (96, 81, 128), (98, 82, 130)]
    found += [Asked(*size, way) for way, size in itertools.product(WAYS, odd)]
    found += [Asked(*size, "bare", setting) for setting, size in itertools.product(SETTINGS, odd)]
    return list(dict.fromkeys(found))


def row(one: Asked) -> dict[str, Any]:
    """What a dot gives: how much of it is wrong, and which other result it is."""
    x, y = one.operands()
    want = x.astype("int64") @ y.astype("int64")
    want = want.astype("int8") if one.way == "to int8" else want
    try:
        lowered = jax.jit(WAYS[one.way]).lower(x, y)
        compiled = lowered.compile(compiler_options=SETTINGS[one.setting] or None)
        got = np.asarray(compiled(x, y))
    except Exception as error:  # of a compiler, of any kind
        return {"key": str(one), "refused": told(error)}
    calls = [line.strip()[:300] for line in compiled.as_text().splitlines() if _is_telling(line)]
    wrong = int((got != want).sum())
    found = {"key": str(one), "wrong": wrong, "of": int(want.size), "calls": calls[:4]}
    if wrong:
        found |= {"got": got.reshape(-1)[:6].tolist(), "want": want.reshape(-1)[:6].tolist()}
        found["is"] = [name for name, other in others(x, y).items() if np.array_equal(got, other.astype(got.dtype))]
        found["first_right_columns"] = int(np.argmin([*(got == want).all(0), False]))
        found["first_right_rows"] = int(np.argmin([*(got == want).all(1), False]))
    return found


def _is_telling(line: str) -> bool:
    return any(word in line for word in ("custom_call_target", "kind=kCustom", "kind=kInput", "kind=kLoop", " dot("))


def others(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Results of likely mistakes."""
    wide_x, wide_y = x.astype("int64"), y.astype("int64")
    (m, k), n = x.shape, y.shape[1]
    exact = wide_x @ wide_y
    return {
        "wrapped to int8": exact.astype("int8"),
        "saturated to int8": exact.clip(-128, 127),
        "float32's bits": exact.astype("float32").view("int32"),
        "transposed": exact.T.reshape(m, n),
        "lhs read by columns": wide_x.reshape(k, m).T @ wide_y,
        "rhs read by columns": wide_x @ wide_y.reshape(n, k).T,
        "both read by columns": wide_x.reshape(k, m).T @ wide_y.reshape(n, k).T,
        "operands unsigned": x.view("uint8").astype("int64") @ y.view("uint8").astype("int64"),
        "lhs unsigned": x.view("uint8").astype("int64") @ wide_y,
        "rhs unsigned": wide_x @ y.view("uint8").astype("int64"),
        "zero": 0 * exact,
    }
