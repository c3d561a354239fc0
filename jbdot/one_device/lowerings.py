"""The ways to say one dot: each a short function from a request and its operands to the same result.

A lowering changes how the arithmetic is laid out and the order in which it is summed, never the number of bits
it is summed in. Every dot that a lowering runs is in this file. It is bound as lax's primitive: `lax.dot_general` may
be another's, where a library has put one in its place, and takes a precision that is not given from JAX's setting.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jbdot.core.labels import Labels
from jbdot.one_device.dot_spec import Request
from jbdot.one_device.miscompilations import RIGHT_PINS, RIGHT_SUMS

Lowering = Callable[[Request, jax.Array, jax.Array], jax.Array]

ROWS: Final = 4  # a vector and its zeros: what kernels for matrices take at full speed
BLOCK_BYTES: Final = 4 << 20  # of operands widened to 32 bits: what stays in cache
STEPS: Final = 16  # of a loop at least, so that blocks are small where everything fits in cache
PIECES: Final = 16  # of a long contraction
SUMS: Final = 8  # side by side: a vector register of a CPU
BLOCK: Final = 1 << 16  # elements of a matrix
BLOCKED: Final = ("bfloat16", "float16") if jax.__version_info__ >= (0, 12) else ()
APART: Final = 8  # products from which on an operand is better written to memory than made again for each
LANES: Final = 128  # of a vector register of a TPU, by 8 sublanes
SUBLANES: Final = 8

# Where the contracted axis stands once axes are merged into three.
_K_FIRST: Final = 1  # (batch, k, free)
_K_LAST: Final = 2  # (batch, free, k)


def direct(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """One `lax.dot_general`, as it was asked for."""
    return _bound(lhs, rhs, request.dimension_numbers, request.precision, request.dtype)


def pinned(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """One dot of operands that lie as (batch, m, k) and as (batch, k, n) or (batch, n, k).

    An operand that has to move is copied into a pinned layout. A transpose alone would not do: the compiler
    folds it back into the dot. So is the result pinned, as a transpose that follows would turn the dot around.
    Where it means less to copy, rhs goes first and the result is turned. A batched result stays as it is where XLA
    turns it around in spite of the pin, and then cannot compile it (`miscompilations`).
    """
    pins_result = RIGHT_PINS or request.batch == 1
    if (
        pins_result
        and min(request.m, request.n) > 1
        and _moved(request.swapped) + math.prod(request.out) < _moved(request)
    ):
        c = request.contraction
        out = pinned(request.swapped, rhs, lhs)
        return _pinned(_ordered(out, c.batch + c.rhs_free + c.lhs_free, c.dot_out))
    lhs, _ = _merged(request, lhs, "lhs", (_K_LAST,), pin=True)
    rhs, order = _merged(request, rhs, "rhs", (_K_LAST, _K_FIRST), pin=True)
    out = _dot(request, lhs, rhs, order)
    return (_pinned(out) if pins_result else out).reshape(request.out)


def padded(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A vector and a matrix in each batch: the vector becomes the first row of a matrix, the others are zero."""
    vector, matrix, side = _vector_first(request, lhs, rhs)
    row, _ = _merged(request, vector, side[0], (_K_LAST,))
    rows = lax.pad(row, jnp.zeros((), row.dtype), ((0, 0, 0), (0, ROWS - 1, 0), (0, 0, 0)))
    matrix, order = _merged(request, matrix, side[1], (_K_LAST, _K_FIRST))
    return lax.slice_in_dim(_dot(request, rows, matrix, order), 0, 1, axis=1).reshape(request.out)


def fused(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A vector of one axis by a matrix (k, n), block by block, which the backend fuses with what makes the matrix.

    So 8 and 16-bit matrices are widened and turned as they are read, and nothing wide is written to memory. A block
    is the matrix of a batch element, or, without a batch, rows of the one matrix: where a kernel library takes the
    dots of a whole program (`BLOCKED`), it leaves those in a loop alone.
    """
    vector, matrix, side = _vector_first(request, lhs, rhs)
    vector, _ = _merged(request, vector, side[0], (_K_LAST,))
    matrix, order = _merged(request, matrix, side[1], (_K_LAST, _K_FIRST))

    def one(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        row, block = operands
        block = lax.transpose(block, (1, 0)) if order == _K_LAST else block
        return _bound(row, block, (((0,), (0,)), ((), ())), request.precision, request.dtype)

    if request.batch > 1:
        return lax.map(one, (vector[:, 0], matrix)).reshape(request.out)
    rows = block_rows(request) if order == _K_LAST and request.lhs_dtype in BLOCKED else matrix.shape[1]
    if rows == matrix.shape[1]:
        return one((vector[0, 0], matrix[0])).reshape(request.out)
    blocks = matrix.reshape(-1, rows, request.k)
    return lax.map(lambda block: one((vector[0, 0], block)), blocks).reshape(request.out)


def block_rows(request: Request) -> int:
    """Rows of a matrix, of those that a vector meets, in blocks of equal size."""
    rows = max(request.m, request.n)
    return math.gcd(rows, 1 << max(0, (BLOCK // request.k).bit_length() - 1))


def looped(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A loop over blocks of the batch, so that what the backend widens to 32 bits stays in cache."""
    lhs, lhs_order = _merged(request, lhs, "lhs", (_K_LAST, _K_FIRST))
    rhs, rhs_order = _merged(request, rhs, "rhs", (_K_LAST, _K_FIRST))
    numbers = ((lhs_order - 1,), (rhs_order - 1,)), ((), ())
    most = max(1, min(BLOCK_BYTES // (4 * request.k * (request.m + request.n)), request.batch // STEPS))
    is_row = request.m == 1 and request.n == 1  # then a dot of several is a slow loop again
    block = 1 if is_row else math.gcd(request.batch, 1 << most.bit_length() - 1)

    def one(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _bound(*operands, numbers, request.precision, request.dtype)

    return lax.map(one, (lhs, rhs), batch_size=block if block > 1 else None).reshape(request.out)


def reduced(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Products summed as they are made, without a dot: the larger operand is read once, in its own order."""
    c = request.contraction
    larger, smaller = (c.lhs, c.rhs) if lhs.size > rhs.size else (c.rhs, c.lhs)
    order = (*larger, *(label for label in smaller if label not in larger))
    if lhs.size > rhs.size:  # a broadcast that another operation shares would be written to memory
        rhs = lax.optimization_barrier(rhs)
    else:
        lhs = lax.optimization_barrier(lhs)
    product = _product(_aligned(request, lhs, c.lhs, order), _aligned(request, rhs, c.rhs, order))
    total = _sum(product, [axis for axis, label in enumerate(order) if label in c.contracting])
    left = [label for label in order if label not in c.contracting]
    return lax.transpose(total.astype(request.dtype), [left.index(label) for label in c.dot_out])


def unrolled(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A sum, written out, with one elementwise product for each contracted index."""
    c = request.contraction
    if request.k >= APART:
        lhs, rhs = lax.optimization_barrier((lhs, rhs))
    terms: list[jax.Array] = []
    for index in itertools.product(*(range(request.sizes[label]) for label in c.contracting)):
        at: dict[str | None, int] = dict(zip(c.contracting, index, strict=True))
        left = _aligned(request, *_picked(lhs, c.lhs, at), c.dot_out)
        terms.append(_product(left, _aligned(request, *_picked(rhs, c.rhs, at), c.dot_out)))
    while len(terms) > 1:  # in pairs: less is lost than in a row
        terms = [lax.add(*terms[i : i + 2]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
    return terms[0].astype(request.dtype)


def split(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A long contraction in pieces side by side, whose sums are added: a small result keeps every core busy."""
    pieces = math.gcd(request.k, PIECES)
    lhs, lhs_order = _merged(request, lhs, "lhs", (_K_LAST, _K_FIRST))
    rhs, rhs_order = _merged(request, rhs, "rhs", (_K_LAST, _K_FIRST))
    numbers = ((lhs_order + 1,), (rhs_order + 1,)), ((0, lhs_order), (0, rhs_order))
    parts = _bound(
        _cut(lhs, lhs_order, pieces), _cut(rhs, rhs_order, pieces), numbers, request.precision, request.sum_dtype
    )
    return _added(parts, (1,)).astype(request.dtype).reshape(request.out)


def widened(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """8-bit floats as bfloat16, which holds each of them exactly and has a kernel of its own; so has float32.

    A batched bfloat16 dot with float32 sums does not run where XLA turns it around (`miscompilations`).
    """
    out = "float32" if request.dtype.startswith("float8") else request.dtype  # else sums are rounded to bfloat16 first
    dtype = "bfloat16" if RIGHT_PINS or request.batch == 1 else "float32"
    wide = request.cast(dtype, out)
    return pinned(wide, lhs.astype(dtype), rhs.astype(dtype)).astype(request.dtype)


def shifted(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """uint8 as int8, which has a kernel of its own: sum (x + 128) (y + 128) = sum x y + 128 (sum x + sum y) + 128^2 k.

    Sums are of int32 and wrap, so that the bits are those of the sum in uint32.
    """
    c = request.contraction
    x, y = (lax.bitcast_convert_type(operand ^ jnp.uint8(128), jnp.int8) for operand in (lhs, rhs))
    offset = (128**2 * request.k + 2**31) % 2**32 - 2**31  # wrapped, as the sums are
    total = pinned(request.cast("int8", "int32"), x, y) + jnp.int32(offset)
    for operand, labels in ((x, c.lhs), (y, c.rhs)):
        axes = tuple(axis for axis, label in enumerate(labels) if label in c.contracting)
        left = tuple(label for label in labels if label not in c.contracting)
        sums = _added(operand.astype(jnp.int32), axes) * jnp.int32(128)
        total = total + _ordered(sums, left, c.dot_out)
    return total.astype(request.dtype)


def lanes(request: Request, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """As `unrolled`, with the batch along a TPU's lanes: operands and result are pinned with one batch axis last."""
    c = request.contraction
    last = lane(request)
    rest = tuple(label for label in c.batch if label != last)
    free = sorted(c.lhs_free + c.rhs_free, key=lambda label: filled(request, label, SUBLANES))
    lhs = _laid(lhs, c.lhs, (*rest, *c.contracting, *c.lhs_free, last))
    rhs = _laid(rhs, c.rhs, (*rest, *c.contracting, *c.rhs_free, last))
    # Barriers: else a copy is sliced first, and the slices get layouts of their own.
    out = unrolled(request, *lax.optimization_barrier((lhs, rhs)))
    return lax.optimization_barrier(_laid(out, c.dot_out, (*rest, *free, last)))


def lane(request: Request) -> str:
    """The batch axis that fills a TPU's lanes best."""
    return max(request.contraction.batch, key=lambda label: filled(request, label, LANES))


def filled(request: Request, label: str, tile: int) -> float:
    """The part that an axis fills of whole tiles."""
    size = request.sizes[label]
    return size / (-(-size // tile) * tile)


def _bound(lhs: jax.Array, rhs: jax.Array, numbers: Any, precision: Any, dtype: str) -> jax.Array:
    """The dot itself."""
    return lax.dot_general_p.bind(
        lhs,
        rhs,
        dimension_numbers=numbers,
        precision=precision,
        preferred_element_type=jnp.dtype(dtype),
        out_sharding=None,
    )


PINS: Final = ("pinned", "widened", "shifted", "lanes")  # hold a custom call, which `jax.export` refuses
LOWERINGS: Final[dict[str, Lowering]] = {
    lowering.__name__: lowering
    for lowering in (direct, pinned, padded, fused, looped, reduced, unrolled, lanes, split, widened, shifted)
}


def _vector_first(request: Request, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, tuple[str, str]]:
    """The operand without free axes, the other, and which side each is."""
    return (lhs, rhs, ("lhs", "rhs")) if request.m == 1 else (rhs, lhs, ("rhs", "lhs"))


def _merged(
    request: Request, x: jax.Array, side: str, allowed: tuple[int, ...], pin: bool = False
) -> tuple[jax.Array, int]:
    """Merges axes into (batch, free, k) or (batch, k, free), where allowed as they stand; says which."""
    c = request.contraction
    labels, free = (c.lhs, c.lhs_free) if side == "lhs" else (c.rhs, c.rhs_free)
    groups = {_K_LAST: (c.batch, free, c.contracting), _K_FIRST: (c.batch, c.contracting, free)}
    orders = {order: sum(group, ()) for order, group in groups.items()}
    stands = [order for order in allowed if orders[order] == labels]
    nearest = _K_LAST if labels and labels[-1] in c.contracting else _K_FIRST
    order = stands[0] if stands else nearest if nearest in allowed else allowed[0]
    if not stands:
        x = lax.transpose(x, [labels.index(label) for label in orders[order]])
        x = _pinned(x) if pin else x
    return x.reshape([request.size(group) for group in groups[order]]), order


def _moved(request: Request) -> int:
    """Elements that `pinned` copies: of lhs where it is no (batch, m, k), of rhs where it is no matrix either way."""
    c = request.contraction
    lhs = c.lhs != c.batch + c.lhs_free + c.contracting
    rhs = c.rhs not in (c.batch + c.rhs_free + c.contracting, c.batch + c.contracting + c.rhs_free)
    return lhs * math.prod(request.lhs) + rhs * math.prod(request.rhs)


def _laid(x: jax.Array, labels: Labels, order: Labels) -> jax.Array:
    """X as it is, in memory with its axes in this order."""
    return _constrained(x, tuple(labels.index(label) for label in order))


def _pinned(x: jax.Array) -> jax.Array:
    """X in memory as its axes stand."""
    return _constrained(x, tuple(range(x.ndim)))


def _constrained(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    from jax.experimental.layout import Layout, with_layout_constraint  # `import jax` does not load it

    return with_layout_constraint(x, Layout(major_to_minor=order))


def _dot(request: Request, lhs: jax.Array, rhs: jax.Array, order: int) -> jax.Array:
    """The dot of (batch, m, k) and (batch, n, k) or (batch, k, n); without a batch axis where it has one element."""
    if request.batch == 1:
        numbers = ((1,), (order - 1,)), ((), ())
        return _bound(lhs[0], rhs[0], numbers, request.precision, request.dtype)[None]
    numbers = ((2,), (order,)), ((0,), (0,))
    return _bound(lhs, rhs, numbers, request.precision, request.dtype)


def _aligned(request: Request, x: jax.Array, labels: Labels, order: Labels) -> jax.Array:
    """Puts x's axes into this order, widened to the sum's dtype."""
    return _ordered(x, labels, order).astype(request.sum_dtype)


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
    """X * y; a complex one as dots multiply, where `*` would also look for infinities in every product."""
    if not jnp.iscomplexobj(x):
        return x * y
    a, b, c, d = lax.real(x), lax.imag(x), lax.real(y), lax.imag(y)
    return lax.complex(a * c - b * d, a * d + b * c)


def _sum(x: jax.Array, axes: list[int]) -> jax.Array:
    """Sums in several sums side by side, which are added at the end: faster, and less is lost than in one."""
    if not axes or x.shape[axes[-1]] % SUMS:
        return _added(x, tuple(axes))
    axis = axes[-1]
    if axis == x.ndim - 1:  # a register's width of neighbours
        parts, lane = _cut(x, axis, x.shape[axis] // SUMS), axis + 1
        return _added(_added(parts, tuple(axes)), (lane - len(axes),))
    parts = _cut(x, axis, SUMS)
    return _added(_added(parts, (*axes[:-1], axis + 1)), (axis - len(axes) + 1,))


def _added(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum over these axes.

    XLA's CPU compiler gives sums, and what it can fuse with them, to a library. Where that is wrong, the sum is said
    with a reducer that the library does not take, of the same rounding: a - (-b).
    """
    if RIGHT_SUMS:
        return lax.reduce_sum(x, axes)
    return lax.reduce(x, np.zeros((), x.dtype), lambda a, b: a - (-b), axes)


def _cut(x: jax.Array, axis: int, pieces: int) -> jax.Array:
    return x.reshape((*x.shape[:axis], pieces, x.shape[axis] // pieces, *x.shape[axis + 1 :]))
