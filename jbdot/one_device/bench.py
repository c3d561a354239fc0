"""Answers for one call: the time of each lowering and of each peer on this machine, side by side, and the limit."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from jbdot.core.text import paragraph, table
from jbdot.one_device import roofline, tuning_cache
from jbdot.one_device.choice import chosen
from jbdot.one_device.dot_spec import DotSpec
from jbdot.one_device.measure import Candidates, platform
from jbdot.timing import Call, Spread, Track, ratios, rounds


@dataclasses.dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        dot_spec: The dot.
        device: The device's kind.
        us: Microseconds a call, by lowering or peer: median, 10th and 90th percentile.
        gain: How many times faster than one `lax.dot_general`, in the same rounds.
        choice: The lowering that `"auto"` takes.
        limit_us: The least time, from the measured peak and bandwidth.
    """

    dot_spec: DotSpec
    device: str
    us: dict[str, Spread]
    gain: dict[str, Spread]
    choice: str
    limit_us: float

    def rows(self) -> list[tuple[str, ...]]:
        """Makes a row for each lowering and peer, fastest first."""
        return [
            (
                f"{name} (auto)" if name == self.choice else name,
                str(self.us[name]),
                f"{self.gain[name].median:.2f}",
                f"{self.dot_spec.flops / self.us[name].median / 1e3:.4g}",
                f"{self.limit_us / self.us[name].median:.0%}",
            )
            for name in sorted(self.us, key=lambda name: self.us[name].median)
        ]

    head = "said as", "us a call (10 to 90 %)", "times direct", "GFLOP/s", "of limit"

    def __str__(self) -> str:
        head = paragraph(f"{self.dot_spec} on {self.device}, jax {jax.__version__}")
        return f"{head}\n\n{table([self.head, *self.rows()])}\n\n{paragraph(self.note(), 2)}"

    def note(self) -> str:
        """Says what the table's last columns are."""
        return (
            "auto: what jbdot takes; times direct: the median over rounds in which both ran, not the ratio of the two "
            "medians; "
            f"limit: {self.limit_us:,.4g} us, from the peak and the bandwidth measured here"
        )

    __repr__ = __str__


def bench(spec: DotSpec, seconds: float = 3.0, track: Track = iter) -> Bench:
    """Times every lowering of a dot, and every peer that is installed, on random operands."""
    made = Candidates.of(spec)
    lhs, rhs = made.operands
    calls: dict[str, Call] = dict(made.calls)
    calls |= _jax(spec, lhs, rhs) | _torch(spec, lhs, rhs) | _tensorflow(spec, lhs, rhs)
    times = rounds(calls, seconds, track=track)
    return Bench(
        spec,
        tuning_cache.device_kind(platform()),
        {name: Spread.of(found) for name, found in times.items()},
        ratios(times, "direct"),
        chosen(spec, platform()).lowering,
        roofline.limit_us(spec),
    )


def _jax(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> dict[str, Call]:
    einsum = functools.partial(
        jnp.einsum, spec.contraction.einsum, preferred_element_type=spec.dtype, precision=spec.precision
    )
    return {"jnp.einsum": functools.partial(jax.jit(einsum), lhs, rhs)}


def _torch(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> dict[str, Call]:
    """Makes PyTorch's call on the CPU, where it is installed and has the product in this dtype."""
    if jax.default_backend() != "cpu" or importlib.util.find_spec("torch") is None:
        return {}
    torch: Any = importlib.import_module("torch")
    dtype = getattr(torch, spec.lhs_dtype, None)
    if dtype is None or spec.dtype != spec.lhs_dtype:
        return {}
    x, y = (torch.from_numpy(np.asarray(a, _wide(spec))).to(dtype) for a in (lhs, rhs))
    return _working("torch.einsum", functools.partial(torch.einsum, spec.contraction.einsum, x, y))


def _tensorflow(spec: DotSpec, lhs: jax.Array, rhs: jax.Array) -> dict[str, Call]:
    """Makes TensorFlow's call on the CPU, likewise, as a compiled function."""
    if jax.default_backend() != "cpu" or importlib.util.find_spec("tensorflow") is None:
        return {}
    tf: Any = importlib.import_module("tensorflow")
    if spec.dtype != spec.lhs_dtype:
        return {}
    x, y = (tf.cast(np.asarray(a, _wide(spec)), spec.lhs_dtype) for a in (lhs, rhs))
    function = tf.function(functools.partial(tf.einsum, spec.contraction.einsum))
    return _working("tf.einsum", lambda: function(x, y).numpy())


def _working(name: str, call: Callable[[], Any]) -> dict[str, Call]:
    """Returns the call, if it answers at all: not every framework has every dtype."""
    try:
        call()
    except Exception:  # whatever the framework raises says only that it has no such product
        return {}
    return {name: call}


def _wide(spec: DotSpec) -> str:
    """Gives a dtype that NumPy has and that holds the operands exactly."""
    return "float32" if spec.lhs_dtype in ("bfloat16", "float16") else spec.lhs_dtype
