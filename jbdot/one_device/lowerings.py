"""The ways to say one dot: each a short function of a `DotSpec` and its operands, all with the same result.

A lowering changes how the arithmetic is laid out and the order in which it is summed, never the number of bits
it is summed in. Every dot that a lowering runs is in this file. It is bound as lax's primitive: `lax.dot_general` may
be another's, where a library has put one in its place, and takes a precision that is not given from JAX's setting.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Final, Literal

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jbdot.core.labels import Labels
from jbdot.one_device import native
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.miscompilations import RIGHT_PINS, RIGHT_SUMS

Function = Callable[[DotSpec, jax.Array, jax.Array], jax.Array]
Need = tuple[Callable[[DotSpec], bool], str]  # what a dot must be, and how that is said: "needs ..."

MOST_UNROLLED: Final = 64  # contracted elements that may be written out
PADDED_ROWS: Final = 4  # a vector and its zeros: what kernels for matrices take at full speed
LOOP_BLOCK_BYTES: Final = 4 << 20  # of operands widened to 32 bits: what stays in cache
MIN_LOOP_STEPS: Final = 16  # of a loop at least, so that blocks are small where everything fits in cache
SPLIT_PIECES: Final = 16  # of a long contraction
PARTIAL_SUMS: Final = 8  # side by side: a vector register of a CPU
FUSED_BLOCK_ELEMENTS: Final = 1 << 16  # elements of a matrix
FUSED_ONLY_IN_LOOPS: Final = ("bfloat16", "float16") if jax.__version_info__ >= (0, 12) else ()
SHARED_FROM: Final = 8  # products from which on an operand is better written to memory than made again for each
LANES: Final = 128  # of a vector register of a TPU, by 8 sublanes
SUBLANES: Final = 8
SUMMED_AT_ONCE: Final = 32  # products of an element that `invariant` adds in pairs, in one step of its loop
EVEN: Final = 4  # a contracted size of int8 is made a multiple of it, as was measured to be right on an H100

_NOTHING: Final[Need] = (lambda _: True, "")
_NARROW_VECTOR: Final[Need] = (
    lambda spec: min(spec.m, spec.n) == 1 and jnp.dtype(spec.lhs_dtype).itemsize <= 2,
    "needs a vector (an operand without free axes of size over 1) of 8 or 16-bit numbers: wider ones would be "
    "summed in an order that loses more than that of kernels for vectors",
)


@dataclasses.dataclass(frozen=True)
class Lowering:
    """One way to write a dot, and all that is known of it.

    Attributes:
        function: Writes it.
        needs: What a dot must be for it.
        pins: Whether it holds a layout constraint, which `jax.export` refuses.
        platforms: Where it is known to be right; None for everywhere.
        is_spared: Whether it is right where XLA doubles dots (`is_doubled`): it runs none, or one of another size.
        why: What makes it faster where it is, as a clause.
        is_native: Whether it calls another package's library: it is never chosen without being timed.
        is_kept: Whether it is asked for because of its bits: it is never chosen, and gives way to no other.
    """

    function: Function
    needs: Need = _NOTHING
    pins: bool = False
    platforms: tuple[str, ...] | None = None
    is_spared: bool = False
    is_kept: bool = False
    is_native: bool = False
    why: str = ""

    @property
    def unexported(self) -> str:
        """Says what it holds that `jax.export` refuses; nothing where it holds nothing of that kind."""
        return "pinned layouts" if self.pins else "calls of libraries not JAX's own" if self.is_native else ""

    def __call__(self, spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """Writes a dot of these operands."""
        return self.function(spec, lhs, rhs)

    def misfit(self, spec: DotSpec) -> str:
        """Says why it cannot carry a dot out; nothing where it can."""
        fits, need = self.needs
        return "" if fits(spec) else need

    def is_trusted(self, spec: DotSpec, platform: str) -> bool:
        """Says whether it is known to be right there, of this dot."""
        is_right = self.is_spared or not is_doubled(spec, platform)
        return is_right and (self.platforms is None or platform in self.platforms)


def is_doubled(spec: DotSpec, platform: str) -> bool:
    """Says whether XLA's compiler for this platform may double a dot: of int8, over an odd size (`miscompilations`)."""
    is_odd = spec.is_static and spec.k > 1 and spec.k % 2 == 1
    return platform == "cuda" and is_odd and (spec.lhs_dtype, spec.rhs_dtype, spec.dtype) == ("int8", "int8", "int32")


LOWERINGS: Final[dict[str, Lowering]] = {}
LoweringName = Literal[
    "auto",
    "direct",
    "swapped",
    "pinned",
    "padded",
    "fused",
    "looped",
    "reduced",
    "unrolled",
    "split",
    "widened",
    "shifted",
    "wrapped",
    "lanes",
    "evened",
    "invariant",
    "blas",
    "measured",
]  # what `lowering=` takes: a test holds it to `NAMES`


def _lowering(
    why: str = "",
    needs: Need = _NOTHING,
    pins: bool = False,
    platforms: tuple[str, ...] | None = None,
    is_spared: bool = False,
    is_kept: bool = False,
    is_native: bool = False,
) -> Callable[[Function], Function]:
    """Registers a function as the lowering of its name."""

    def register(function: Function) -> Function:
        LOWERINGS[function.__name__] = Lowering(function, needs, pins, platforms, is_spared, is_kept, is_native, why)
        return function

    return register


# Where the contracted axis stands once axes are merged into three.
_K_FIRST: Final = 1  # (batch, k, free)
_K_LAST: Final = 2  # (batch, free, k)


@_lowering()
def direct(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Writes one `lax.dot_general`, as it was asked for."""
    return _bound(lhs, rhs, spec.dimension_numbers, spec.precision, spec.dtype)


@_lowering(
    "as a dot of rhs and lhs has operands and result lie better",
    needs=(
        lambda spec: (
            spec.contraction.lhs_free != ()
            and spec.contraction.rhs_free != ()
            and not jnp.issubdtype(jnp.dtype(spec.lhs_dtype), jnp.complexfloating)
        ),
        "needs a free axis on both operands, for else their order changes nothing, and real numbers: of complex ones "
        "XLA's kernels lose more in one order than in the other",
    ),
)
def swapped(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Writes one dot of rhs and lhs, and turns its result."""
    c = spec.contraction
    return _ordered(direct(spec.swapped, rhs, lhs), c.batch + c.rhs_free + c.lhs_free, c.dot_out)


@_lowering("as a dot would read an operand against the order that it lies in", pins=True)
def pinned(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Writes one dot of operands that lie as (batch, m, k) and as (batch, k, n) or (batch, n, k).

    An operand that has to move is copied into a pinned layout. A transpose alone would not do: the compiler
    folds it back into the dot. So is the result pinned, as a transpose that follows would turn the dot around.
    Where it means less to copy, rhs goes first and the result is turned. A batched result stays as it is where XLA
    turns it around in spite of the pin, and then cannot compile it (`miscompilations`).
    """
    pins_result = RIGHT_PINS or spec.batch == 1
    if pins_result and min(spec.m, spec.n) > 1 and moved(spec.swapped) + math.prod(spec.out) < moved(spec):
        c = spec.contraction
        out = pinned(spec.swapped, rhs, lhs)
        return _row_major(_ordered(out, c.batch + c.rhs_free + c.lhs_free, c.dot_out))
    lhs, _ = _merged(spec, lhs, "lhs", (_K_LAST,), pin=True)
    rhs, order = _merged(spec, rhs, "rhs", (_K_LAST, _K_FIRST), pin=True)
    out = _dot(spec, lhs, rhs, order)
    return (_row_major(out) if pins_result else out).reshape(spec.out)


@_lowering("as the kernels for 8 and 16 bits take matrices only", needs=_NARROW_VECTOR)
def padded(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Pads a vector to the first row of a matrix whose other rows are zero, in each batch."""
    vector, matrix, side = _vector_first(spec, lhs, rhs)
    row, _ = _merged(spec, vector, side[0], (_K_LAST,))
    rows = lax.pad(row, jnp.zeros((), row.dtype), ((0, 0, 0), (0, PADDED_ROWS - 1, 0), (0, 0, 0)))
    matrix, order = _merged(spec, matrix, side[1], (_K_LAST, _K_FIRST))
    return lax.slice_in_dim(_dot(spec, rows, matrix, order), 0, 1, axis=1).reshape(spec.out)


@_lowering("as a dot would widen the whole matrix in memory first", needs=_NARROW_VECTOR)
def fused(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Multiplies a vector of one axis by a matrix (k, n), block by block, fused with what makes the matrix.

    So 8 and 16-bit matrices are widened and turned as they are read, and nothing wide is written to memory. A block
    is the matrix of a batch element, or, without a batch, rows of the one matrix: where a kernel library takes the
    dots of a whole program (`FUSED_ONLY_IN_LOOPS`), it leaves those in a loop alone.
    """
    vector, matrix, side = _vector_first(spec, lhs, rhs)
    vector, _ = _merged(spec, vector, side[0], (_K_LAST,))
    matrix, order = _merged(spec, matrix, side[1], (_K_LAST, _K_FIRST))

    def one(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        row, block = operands
        block = lax.transpose(block, (1, 0)) if order == _K_LAST else block
        return _bound(row, block, (((0,), (0,)), ((), ())), spec.precision, spec.dtype)

    if spec.batch > 1:
        return lax.map(one, (vector[:, 0], matrix)).reshape(spec.out)
    rows = block_rows(spec) if order == _K_LAST and spec.lhs_dtype in FUSED_ONLY_IN_LOOPS else matrix.shape[1]
    if rows == matrix.shape[1]:
        return one((vector[0, 0], matrix[0])).reshape(spec.out)
    blocks = matrix.reshape(-1, rows, spec.k)
    return lax.map(lambda block: one((vector[0, 0], block)), blocks).reshape(spec.out)


def block_rows(spec: DotSpec) -> int:
    """Counts the rows of a matrix that make one of several blocks of equal size."""
    rows = max(spec.m, spec.n)
    return math.gcd(rows, 1 << max(0, (FUSED_BLOCK_ELEMENTS // spec.k).bit_length() - 1))


@_lowering(
    "as a dot would copy or widen the whole batch in memory first",
    needs=(lambda spec: spec.batch > 1, "needs a batch of over 1"),
)
def looped(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Loops over blocks of the batch, so that what the backend widens to 32 bits stays in cache."""
    lhs, lhs_order = _merged(spec, lhs, "lhs", (_K_LAST, _K_FIRST))
    rhs, rhs_order = _merged(spec, rhs, "rhs", (_K_LAST, _K_FIRST))
    numbers = ((lhs_order - 1,), (rhs_order - 1,)), ((), ())
    most = max(1, min(LOOP_BLOCK_BYTES // (4 * spec.k * (spec.m + spec.n)), spec.batch // MIN_LOOP_STEPS))
    is_row = spec.m == 1 and spec.n == 1  # then a dot of several is a slow loop again
    block = 1 if is_row else math.gcd(spec.batch, 1 << most.bit_length() - 1)

    def one(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _bound(*operands, numbers, spec.precision, spec.dtype)

    return lax.map(one, (lhs, rhs), batch_size=block if block > 1 else None).reshape(spec.out)


@_lowering("as a dot would copy an operand, and sums of products read it as it lies", is_spared=True)
def reduced(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Sums products as they are made, without a dot: the larger operand is read once, in its own order."""
    c = spec.contraction
    larger, smaller = (c.lhs, c.rhs) if lhs.size > rhs.size else (c.rhs, c.lhs)
    order = (*larger, *(label for label in smaller if label not in larger))
    if lhs.size > rhs.size:  # a broadcast that another operation shares would be written to memory
        rhs = lax.optimization_barrier(rhs)
    else:
        lhs = lax.optimization_barrier(lhs)
    product = _product(_aligned(spec, lhs, c.lhs, order), _aligned(spec, rhs, c.rhs, order))
    total = _sum(product, [axis for axis, label in enumerate(order) if label in c.contracting])
    left = [label for label in order if label not in c.contracting]
    return lax.transpose(total.astype(spec.dtype), [left.index(label) for label in c.dot_out])


@_lowering(
    "as kernels for matrices take longer to begin than so small sums",
    needs=(lambda spec: spec.k <= MOST_UNROLLED, f"needs a contracted size of at most {MOST_UNROLLED}"),
    is_spared=True,
)
def unrolled(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Writes a sum out, with one elementwise product for each contracted index."""
    c = spec.contraction
    if spec.k >= SHARED_FROM:
        lhs, rhs = lax.optimization_barrier((lhs, rhs))
    terms: list[jax.Array] = []
    for index in itertools.product(*(range(spec.sizes[label]) for label in c.contracting)):
        at: dict[str | None, int] = dict(zip(c.contracting, index, strict=True))
        left = _aligned(spec, *_picked(lhs, c.lhs, at), c.dot_out)
        terms.append(_product(left, _aligned(spec, *_picked(rhs, c.rhs, at), c.dot_out)))
    return _added_in_pairs(terms).astype(spec.dtype)


@_lowering(
    "as one long sum would be left to one core",
    needs=(lambda spec: spec.k % 2 == 0, "needs a contracted size that is a multiple of 2"),
)
def split(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Cuts a long contraction into pieces side by side, whose sums are added: a small result keeps every core busy."""
    pieces = math.gcd(spec.k, SPLIT_PIECES)
    lhs, lhs_order = _merged(spec, lhs, "lhs", (_K_LAST, _K_FIRST))
    rhs, rhs_order = _merged(spec, rhs, "rhs", (_K_LAST, _K_FIRST))
    numbers = ((lhs_order + 1,), (rhs_order + 1,)), ((0, lhs_order), (0, rhs_order))
    parts = _bound(_cut(lhs, lhs_order, pieces), _cut(rhs, rhs_order, pieces), numbers, spec.precision, spec.sum_dtype)
    return _added(parts, (1,)).astype(spec.dtype).reshape(spec.out)


@_lowering(
    "as bfloat16 has a kernel, and 8-bit floats have none",
    needs=(lambda spec: spec.lhs_dtype.startswith("float8"), "needs 8-bit floats"),
    pins=True,
)
def widened(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Widens 8-bit floats to bfloat16, which holds each of them exactly and has a kernel of its own.

    A batched bfloat16 dot with float32 sums does not run where XLA turns it around (`miscompilations`).
    """
    out = "float32" if spec.dtype.startswith("float8") else spec.dtype  # else sums are rounded to bfloat16 first
    dtype = "bfloat16" if RIGHT_PINS or spec.batch == 1 else "float32"
    wide = spec.cast(dtype, out)
    return pinned(wide, lhs.astype(dtype), rhs.astype(dtype)).astype(spec.dtype)


@_lowering(
    "as int8 has a kernel, and uint8 has none",
    needs=(
        lambda spec: spec.lhs_dtype == "uint8" and "int" in spec.dtype and "64" not in spec.dtype,
        "needs uint8 operands and an integer result of at most 32 bits",
    ),
    pins=True,
    platforms=("cpu",),  # on an H100 (jax 0.11.2) its int8 dot gave wrong sums
)
def shifted(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Shifts uint8 to int8, which has a kernel: sum (x + 128) (y + 128) = sum x y + 128 (sum x + sum y) + 128^2 k.

    Sums are of int32 and wrap, so that the bits are those of the sum in uint32.
    """
    c = spec.contraction
    x, y = (lax.bitcast_convert_type(operand ^ jnp.uint8(128), jnp.int8) for operand in (lhs, rhs))
    offset = (128**2 * spec.k + 2**31) % 2**32 - 2**31  # wrapped, as the sums are
    total = pinned(spec.cast("int8", "int32"), x, y) + jnp.int32(offset)
    for operand, labels in ((x, c.lhs), (y, c.rhs)):
        axes = tuple(axis for axis, label in enumerate(labels) if label in c.contracting)
        left = tuple(label for label in labels if label not in c.contracting)
        sums = _added(operand.astype(jnp.int32), axes) * jnp.int32(128)
        total = total + _ordered(sums, left, c.dot_out)
    return total.astype(spec.dtype)


def _wraps(spec: DotSpec) -> bool:
    operand, result = jnp.dtype(spec.lhs_dtype), jnp.dtype(spec.dtype)
    if spec.lhs_dtype == "bool":
        return spec.dtype == "bool"
    integers = jnp.issubdtype(operand, jnp.integer) and jnp.issubdtype(result, jnp.integer)
    return integers and max(operand.itemsize, result.itemsize) <= 4 and spec.lhs_dtype != "int32"


@_lowering(
    "as int32 has a kernel, and these integers have none",
    needs=(_wraps, "needs bool, or integers other than int32 and an integer result, of at most 32 bits"),
)
def wrapped(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Multiplies integers as int32, which has a kernel: sums that wrap end in the same low bits in any width.

    Of bool: whether the count of products that are true is over 0.
    """
    wide = spec.cast("int32", "int32")
    total = direct(wide, lhs.astype(jnp.int32), rhs.astype(jnp.int32))
    return total != 0 if spec.dtype == "bool" else total.astype(spec.dtype)


@_lowering(
    "as small matrices leave most of a matrix unit and of a register empty",
    needs=(
        lambda spec: spec.k <= MOST_UNROLLED and bool(spec.contraction.batch),
        f"needs a batch, and a contracted size of at most {MOST_UNROLLED}",
    ),
    pins=True,
    is_spared=True,
)
def lanes(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Unrolls with the batch along a TPU's lanes: operands and result are pinned with one batch axis last."""
    c = spec.contraction
    last = lane(spec)
    rest = tuple(label for label in c.batch if label != last)
    free = sorted(c.lhs_free + c.rhs_free, key=lambda label: filled(spec, label, SUBLANES))
    lhs = _with_layout(lhs, c.lhs, (*rest, *c.contracting, *c.lhs_free, last))
    rhs = _with_layout(rhs, c.rhs, (*rest, *c.contracting, *c.rhs_free, last))
    # Barriers: else a copy is sliced first, and the slices get layouts of their own.
    out = unrolled(spec, *lax.optimization_barrier((lhs, rhs)))
    return lax.optimization_barrier(_with_layout(out, c.dot_out, (*rest, *free, last)))


@_lowering(
    "as XLA doubles some sums of int8 over an odd size on GPUs",
    needs=(
        lambda spec: spec.lhs_dtype == "int8" and spec.k > 1 and spec.k % 2 == 1,
        "needs int8 operands and an odd contracted size of over 1",
    ),
    is_spared=True,
)
def evened(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Pads the longest contracted axis with zeros to a multiple of 4: XLA doubles some dots of odd sizes on GPUs."""
    (left, right), _ = spec.dimension_numbers
    axes = max(zip(left, right, strict=True), key=lambda pair: lhs.shape[pair[0]])
    more = -lhs.shape[axes[0]] % EVEN
    padded_operands = (
        lax.pad(x, jnp.zeros((), x.dtype), [(0, more if i == axis else 0, 0) for i in range(x.ndim)])
        for x, axis in zip((lhs, rhs), axes, strict=True)
    )
    return direct(spec, *padded_operands)


@_lowering(
    needs=(lambda spec: spec.is_static and spec.is_plain, "needs known sizes and no named algorithm"),
    platforms=("cpu",),
    is_kept=True,
)
def invariant(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Adds the products of each element in an order that only the contracted size decides, whatever stands beside it.

    In float64, in which products of narrower floats are exact: a compiler that fuses a product with a sum, as it does
    for some sizes and not for others, changes no bit. Products of float64 itself are kept from being fused. Whole
    numbers are exact in any order.
    """
    dtypes = spec.lhs_dtype, spec.rhs_dtype, spec.dtype
    if not any(jnp.issubdtype(jnp.dtype(each), jnp.inexact) for each in dtypes) or 0 in (*spec.lhs, *spec.rhs):
        return direct(spec, lhs, rhs)
    with jax.enable_x64(True):
        lhs, _ = _merged(spec, lhs, "lhs", (_K_LAST,))
        rhs, _ = _merged(spec, rhs, "rhs", (_K_FIRST,))
        dtype = "complex128" if jnp.iscomplexobj(lhs) or jnp.iscomplexobj(rhs) else "float64"
        start = jnp.zeros((spec.batch, spec.m, spec.n), dtype)
        is_wide = any(each in ("float64", "complex128", "int64", "uint64") for each in dtypes[:2])
        steps, left = divmod(spec.k, SUMMED_AT_ONCE)

        def step(first: Any, total: jax.Array, count: int = SUMMED_AT_ONCE) -> jax.Array:
            x = lax.dynamic_slice_in_dim(lhs, first, count, axis=2).astype(start.dtype)
            y = lax.dynamic_slice_in_dim(rhs, first, count, axis=1).astype(start.dtype)
            pairs = ((x[:, :, i, None], y[:, i, None, :]) for i in range(count))
            return total + _added_in_pairs([_unfused_product(*pair, is_wide) for pair in pairs])

        total = lax.fori_loop(0, steps, lambda i, total: step(i * SUMMED_AT_ONCE, total), start) if steps else start
        total = step(steps * SUMMED_AT_ONCE, total, left) if left else total
        total = lax.real(total) if jnp.iscomplexobj(total) and "complex" not in spec.dtype else total
        return total.astype(spec.dtype).reshape(spec.out)


@_lowering(
    "as SciPy's BLAS has a kernel for operands as they lie",
    needs=(native.fits, native.NEEDS),
    platforms=("cpu",),
    is_native=True,
)
def blas(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Calls SciPy's BLAS from XLA's own threads, by the package jbdot-native."""
    return native.package().dot_general(lhs, rhs, spec.dimension_numbers)


def lane(spec: DotSpec) -> str:
    """Returns the batch axis that fills a TPU's lanes best."""
    return max(spec.contraction.batch, key=lambda label: filled(spec, label, LANES))


def filled(spec: DotSpec, label: str, tile: int) -> float:
    """Returns the part that an axis fills of whole tiles."""
    size = spec.sizes[label]
    return size / (-(-size // tile) * tile)


def _bound(lhs: jax.Array, rhs: jax.Array, numbers: Any, precision: Any, dtype: str) -> jax.Array:
    """Returns the dot itself."""
    return lax.dot_general_p.bind(
        lhs,
        rhs,
        dimension_numbers=numbers,
        precision=precision,
        preferred_element_type=jnp.dtype(dtype),
        out_sharding=None,
    )


def _vector_first(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, tuple[str, str]]:
    """Returns the operand without free axes, the other, and which side each is."""
    return (lhs, rhs, ("lhs", "rhs")) if spec.m == 1 else (rhs, lhs, ("rhs", "lhs"))


def _merged(
    spec: DotSpec, x: jax.Array, side: str, allowed: tuple[int, ...], pin: bool = False
) -> tuple[jax.Array, int]:
    """Merges axes into (batch, free, k) or (batch, k, free), where allowed as they stand; says which."""
    c = spec.contraction
    labels, free = (c.lhs, c.lhs_free) if side == "lhs" else (c.rhs, c.rhs_free)
    groups = {_K_LAST: (c.batch, free, c.contracting), _K_FIRST: (c.batch, c.contracting, free)}
    orders = {order: sum(group, ()) for order, group in groups.items()}
    stands = [order for order in allowed if orders[order] == labels]
    nearest = _K_LAST if labels and labels[-1] in c.contracting else _K_FIRST
    order = stands[0] if stands else nearest if nearest in allowed else allowed[0]
    if not stands:
        x = lax.transpose(x, [labels.index(label) for label in orders[order]])
        x = _row_major(x) if pin else x
    return x.reshape([spec.size(group) for group in groups[order]]), order


def moved(spec: DotSpec) -> int:
    """Counts the elements that `pinned` copies: lhs unless it is (batch, m, k), rhs unless it is a plain matrix."""
    c = spec.contraction
    lhs_stays = c.lhs == c.batch + c.lhs_free + c.contracting
    rhs_stays = c.rhs in (c.batch + c.rhs_free + c.contracting, c.batch + c.contracting + c.rhs_free)
    return (0 if lhs_stays else math.prod(spec.lhs)) + (0 if rhs_stays else math.prod(spec.rhs))


def _with_layout(x: jax.Array, labels: Labels, order: Labels) -> jax.Array:
    """Constrains the layout of x: its axes from major to minor in this order."""
    return _constrained(x, tuple(labels.index(label) for label in order))


def _row_major(x: jax.Array) -> jax.Array:
    """Constrains the layout of x to row-major."""
    return _constrained(x, tuple(range(x.ndim)))


def _constrained(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    from jax.experimental.layout import Layout, with_layout_constraint  # `import jax` does not load it

    return with_layout_constraint(x, Layout(major_to_minor=order))


def _dot(spec: DotSpec, lhs: jax.Array, rhs: jax.Array, order: int) -> jax.Array:
    """Multiplies (batch, m, k) by (batch, n, k) or (batch, k, n); without a batch axis where it has one element."""
    if spec.batch == 1:
        numbers = ((1,), (order - 1,)), ((), ())
        return _bound(lhs[0], rhs[0], numbers, spec.precision, spec.dtype)[None]
    numbers = ((2,), (order,)), ((0,), (0,))
    return _bound(lhs, rhs, numbers, spec.precision, spec.dtype)


def _aligned(spec: DotSpec, x: jax.Array, labels: Labels, order: Labels) -> jax.Array:
    """Puts x's axes into this order, widened to the sum's dtype."""
    return _ordered(x, labels, order).astype(spec.sum_dtype)


def _ordered(x: jax.Array, labels: Labels, order: Labels) -> jax.Array:
    """Puts x's axes into this order, with unit axes for labels that it has not."""
    x = lax.transpose(x, [labels.index(label) for label in order if label in labels])
    return lax.expand_dims(x, [axis for axis, label in enumerate(order) if label not in labels])


def _picked(x: jax.Array, labels: Labels, at: dict[str | None, int]) -> tuple[jax.Array, Labels]:
    """Takes one index of each label in `at`."""
    start = [at.get(label, 0) for label in labels]
    stop = [at[label] + 1 if label in at else size for label, size in zip(labels, x.shape, strict=True)]
    dropped = tuple(axis for axis, label in enumerate(labels) if label in at)
    return lax.squeeze(lax.slice(x, start, stop), dropped), tuple(label for label in labels if label not in at)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiplies; complex numbers as dots do, where `*` would also look for infinities in every product."""
    if not jnp.iscomplexobj(x):
        return x * y
    a, b, c, d = lax.real(x), lax.imag(x), lax.real(y), lax.imag(y)
    return lax.complex(a * c - b * d, a * d + b * c)


def _unfused_product(x: jax.Array, y: jax.Array, is_wide: bool) -> jax.Array:
    """Multiplies; products of float64 so that no compiler makes one instruction of them and of a sum, rounded once."""

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        made = x * y
        return lax.select(lax.eq(made, made), made, jnp.full_like(made, jnp.nan)) if is_wide else made

    if not jnp.iscomplexobj(x):
        return product(x, y)
    a, b, c, d = lax.real(x), lax.imag(x), lax.real(y), lax.imag(y)
    return lax.complex(product(a, c) - product(b, d), product(a, d) + product(b, c))


def _added_in_pairs(terms: list[jax.Array]) -> jax.Array:
    """Adds neighbours, and then their sums: less is lost than in a row."""
    while len(terms) > 1:
        terms = [lax.add(*terms[i : i + 2]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0]


def _sum(x: jax.Array, axes: list[int]) -> jax.Array:
    """Adds in several sums side by side, which are added at the end: faster, and less is lost than in one."""
    if not axes or x.shape[axes[-1]] % PARTIAL_SUMS:
        return _added(x, tuple(axes))
    axis = axes[-1]
    if axis == x.ndim - 1:  # a register's width of neighbours
        parts, lane = _cut(x, axis, x.shape[axis] // PARTIAL_SUMS), axis + 1
        return _added(_added(parts, tuple(axes)), (lane - len(axes),))
    parts = _cut(x, axis, PARTIAL_SUMS)
    return _added(_added(parts, (*axes[:-1], axis + 1)), (axis - len(axes) + 1,))


def _added(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the sum over these axes.

    XLA's CPU compiler gives sums, and what it can fuse with them, to a library. Where that is wrong, the sum is said
    with a reducer that the library does not take, of the same rounding: a - (-b).
    """
    if RIGHT_SUMS:
        return lax.reduce_sum(x, axes)
    return lax.reduce(x, np.zeros((), x.dtype), lambda a, b: a - (-b), axes)


def _cut(x: jax.Array, axis: int, pieces: int) -> jax.Array:
    return x.reshape((*x.shape[:axis], pieces, x.shape[axis] // pieces, *x.shape[axis + 1 :]))
