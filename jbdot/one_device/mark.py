"""The mark on a dot: lax's own `dot_general` stands in the jaxpr, and its equation's context says who lowers it.

The context is XLA metadata, which JAX keeps with every equation through jit, grad, vmap, scan, cond, remat, custom
rules and export, and takes into the keys of its caches. What a dot is, its rules, its errors and its place in the
tables of other libraries remain lax's; `lowering_rule` reads the mark where the program is lowered.
"""

import contextlib
import os
from typing import Any, Final, Literal

import jax
from jax import numpy as jnp

from jbdot.core.errors import BadValue, Refusal
from jbdot.one_device import jax_internals
from jbdot.one_device.choice import known
from jbdot.one_device.lowerings import LoweringName

OPTIMIZED: Final = "jbdot"  # set by `optimize`, or by a call that names its lowering
CALLED: Final = "jbdot_call"  # set by a jbdot call that names none: what stands around it goes before
PATH: Final = "jbdot_path"  # set on the products of one call of many operands: may their order change?
_ANY: Final = "any"
_KEPT: Final = "kept"
GRAD_DTYPE: Final = "jbdot_grad_dtype"  # set by `optimize`: the dtype that a dot's gradients are summed to
VARIABLE: Final = "JBDOT_LOWERING"

_process: str | None = None  # the lowering of dots that nothing else is said of


def marked(lowering: str, key: str = OPTIMIZED, grad_dtype: str | None = None) -> Any:
    """Opens a context in which every dot that is traced, by whatever library, is lowered so, and has such gradients."""
    from jax.experimental.xla_metadata import set_xla_metadata  # `import jax` does not load it

    return set_xla_metadata(**{key: lowering}, **({} if grad_dtype is None else {GRAD_DTYPE: grad_dtype}))


def called(lowering: str | None) -> Any:
    """Opens the context of the one dot of a jbdot call; None leaves it to what stands around it, else to "auto"."""
    if lowering is None:
        return marked("auto", CALLED)
    if lowering == "direct" and not surrounding():
        return contextlib.nullcontext()
    return marked(lowering)


def of_path(lowering: str | None) -> Any:
    """Opens the context of the products of one call of many operands, whose order is chosen anew where it is lowered.

    Not with "direct", nor where it was chosen so already.
    """
    if lowering == "direct" or jax_internals.metadata().get(PATH) == _KEPT:
        return contextlib.nullcontext()
    return _path(_ANY)


def in_order() -> Any:
    """Opens a context in which the order of products stays as it is traced."""
    return _path(_KEPT)


def has_any_order(metadata: dict[str, Any]) -> bool:
    """Says whether the order of a dot with this metadata and its neighbours is still to be chosen."""
    return metadata.get(PATH) == _ANY and of(metadata) != "direct"


def _path(order: str) -> Any:
    from jax.experimental.xla_metadata import set_xla_metadata

    return set_xla_metadata(**{PATH: order})


def surrounding() -> str | None:
    """Returns the lowering that the contexts around a call, or else the process, ask for."""
    return jax_internals.metadata().get(OPTIMIZED) or _process


def of(metadata: dict[str, Any]) -> str:
    """Returns the lowering that a dot with this metadata gets: by its mark, else the process's, else as it stands."""
    return metadata.get(OPTIMIZED) or _process or metadata.get(CALLED) or "direct"


def known_grad_dtype(grad_dtype: Any) -> str | None:
    """Checks what a user asks of gradients.

    Raises:
        BadValue: It is none of the words.
    """
    if grad_dtype is None or (isinstance(grad_dtype, str) and grad_dtype in ("operand", "result")):
        return grad_dtype
    raise BadValue(
        'grad_dtype must be "operand", "result" or None',
        f"got {grad_dtype!r}",
        'A float32 weight in a bfloat16 dot has a float32 gradient with "operand"',
    )


def grad_dtype(own: Any, result: Any) -> Any:
    """Gives the dtype that an operand's gradient is summed to: the result's, as in JAX, or the operand's own.

    Its own only where that is wider, and where the equation that is differentiated was traced with such a mark.
    """
    own, result = jnp.dtype(own), jnp.dtype(result)
    are_inexact = jnp.issubdtype(own, jnp.inexact) and jnp.issubdtype(result, jnp.inexact)
    if jax_internals.metadata().get(GRAD_DTYPE) != "operand" or not are_inexact:
        return result
    return own if jnp.finfo(own).bits > jnp.finfo(result).bits else result


def optimize_everything(lowering: LoweringName | Literal["hash"] | None = "auto") -> None:
    """Lowers every dot of this process by jbdot, of whatever library, without a change to its code.

    A dot in an `optimize` context, and a call that names its lowering, keep theirs. Functions that were compiled
    before are compiled anew: JAX's caches are cleared. The environment variable `JBDOT_LOWERING` does the same when
    jbdot is imported, and `jbdot optimize script.py` for one script.

    Args:
        lowering: "auto", which chooses for each dot; the name of a lowering, for those dots that it fits, "auto" for
            the others; "direct", so that every dot is lax's, those of jbdot's own functions too; "hash", some
            lowering that fits, by a hash of the dot, for tests; None for none of it, as at the start.

    Raises:
        TypeError: lowering is no string.
        ValueError: There is no such lowering.

    Example:
        >>> import jax
        >>> from jbdot import optimize_everything
        >>> import jax.numpy as jnp
        >>> optimize_everything()
        >>> "jbdot" in str(jax.make_jaxpr(jnp.dot)(1.0, 2.0))  # the program stays as it is
        False
        >>> optimize_everything(None)
    """
    try:
        _set(None if lowering is None else known(lowering, hashed=True))
    except Refusal as refusal:
        raise refusal.told("optimize_everything", f"lowering={lowering!r}") from None


def process_text() -> str:
    """Says what is said of the process' dots, for `jbdot doctor`."""
    return f"off ({VARIABLE}): marked dots only" if _process is None else f"{_process}, for every dot of the process"


def _set(lowering: str | None) -> None:
    global _process
    if lowering != _process:
        _process = lowering
        jax.clear_caches()  # what was compiled before does not know of it


def read_variable() -> None:
    """Takes what the environment asks for.

    Raises:
        ValueError: It names no lowering.
    """
    asked = os.environ.get(VARIABLE)
    try:
        _set(known(asked, hashed=True) if asked else None)
    except Refusal as refusal:
        raise refusal.told("import jbdot", f"{VARIABLE}={asked}") from None
