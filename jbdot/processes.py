"""Several processes that compute together, and end together: JAX's own runtime, told not to wait long for the dead."""

import contextlib
import os
import sys
import traceback
from collections.abc import Generator
from typing import Any

import jax


@contextlib.contextmanager
def joined(*args: Any, heartbeat_timeout_seconds: int = 10, **kwargs: Any) -> Generator[None, None, None]:
    """Joins this process to the others for a block of code, at whose end it waits for them.

    Left to itself JAX lets a process that raised wait up to 300 seconds at its exit, for others that wait for it in a
    collective; and takes one that died for alive for 100. Here a process whose block raises says so in its last line
    and ends at once, with status 1: the others find its connections closed, and do the same. Where they find nothing,
    as it died without a word and they hang, JAX aborts them after `heartbeat_timeout_seconds`, and names it.

    Args:
        *args: As in `jax.distributed.initialize`: the coordinator's address, how many processes, which of them this is.
        heartbeat_timeout_seconds: For how long a process may be silent until it is taken for dead.
        **kwargs: As in `jax.distributed.initialize`.

    Example::

        with joined("10.0.0.1:1234", 4, index):
            out = jbdot.plan_sharding("m k, k n -> m n", lhs, rhs)(lhs, rhs)
    """
    jax.distributed.initialize(*args, heartbeat_timeout_seconds=heartbeat_timeout_seconds, **kwargs)
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        _end(error)
    jax.distributed.shutdown()


def _end(error: BaseException) -> None:
    traceback.print_exception(error)
    which = f"process {jax.process_index()} of {jax.process_count()}"
    why = "; where a connection is closed, another process ended first, and its own output says why"
    why = why if isinstance(error, jax.errors.JaxRuntimeError) else ""
    print(f"jbdot: {which} ends: {type(error).__name__}: {error}{why}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # without the exit handlers: JAX's waits for the others
