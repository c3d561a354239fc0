"""Reads the text of a compiled XLA module: what its collectives send, its dots compute, the TPU compiler estimates.

The text is what `compiled.as_text()` gives, from the compilers for TPU, GPU and CPU. Five things in it mislead whoever
counts words, and are minded here:

- A reduce-scatter on a TPU is a fusion named `all-reduce-scatter` that holds an `all-reduce`.
- A collective that runs beside a dot stands in three fusions: the one that starts it, the dot's, the one that ends it.
- A loop's body stands once, and may be unrolled: its counter then goes up by more than one.
- Groups of devices are written as lists, as a reshaped and transposed range, or as axes of a mesh.
- Between slices of TPUs a collective is a `send` to the host, which says what it is part of.
"""

import functools
import math

from jbdot.hlo.collective import KINDS, Collective, total
from jbdot.hlo.costs import estimate, flops
from jbdot.hlo.instruction import NoEstimate, Unreadable, byte_count
from jbdot.hlo.memory import Held, Memory
from jbdot.hlo.module import Module
from jbdot.hlo.origins import Origin
from jbdot.hlo.sources import Frame
from jbdot.hlo.traffic import Traffic

__all__ = (
    "KINDS",
    "Collective",
    "Frame",
    "Held",
    "NoEstimate",
    "Origin",
    "Unreadable",
    "byte_count",
    "bytes_sent",
    "collectives",
    "dot_flops",
    "estimated_cycles",
    "held_at_peak",
)


def collectives(text: str, open_trips: int | None = None) -> tuple[Collective, ...]:
    """Finds the collectives of a compiled module, in the order of the text, each once with how often it runs.

    Of a conditional's branches the one that sends most counts.

    Args:
        text: The module.
        open_trips: How many trips count of a loop whose length is not in the text; None refuses such a loop.

    Raises:
        Unreadable: How often a loop with collectives runs is not in the text, or a form is not known.

    Example:
        >>> from jbdot.hlo import collectives
        >>> text = '''HloModule jit_f, num_partitions=8
        ...
        ... ENTRY %main (x: bf16[8,4]) -> bf16[32,4] {
        ...   %x = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
        ...   ROOT %g = bf16[32,4]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
        ... }'''
        >>> [str(found) for found in collectives(text)]
        ['1 x all-gather over 2 groups of 4, 64 to 256 bytes: 192 sent each time']
    """
    module = Traffic(text, open_trips)
    return tuple(module.collectives(module.entry))


def bytes_sent(text: str) -> int:
    """Sums what each device sends: `sent` of every collective, as often as it runs."""
    return total(collectives(text))


def estimated_cycles(text: str, bytes_a_cycle: float = math.inf) -> int:
    """Sums the estimates of a compiled module, each as often as it runs.

    A fusion has one estimate for all that it holds. What is in a loop counts once a trip, and of a conditional's
    branches the costliest counts. Operations without an estimate, such as asynchronous copies and collectives, count
    nothing. But for a copy or a reshape that gives an array another layout: of the one the compiler estimates a few
    cycles where it stays within vector memory, and of the other none. They count no less than what they read and
    write, with what fills tiles up, takes at `bytes_a_cycle`.

    Args:
        text: The module.
        bytes_a_cycle: What memory reads and writes; without it, only what the compiler says counts.

    Raises:
        NoEstimate: An estimate is below zero, or the largest number, as the compiler says where it has none.
        Unreadable: How often a loop runs is not in the text.
    """
    return Module(text).total(functools.partial(estimate, bytes_a_cycle=bytes_a_cycle))


def dot_flops(text: str) -> int:
    """Sums 2 FLOP for each multiply-add of the dots and convolutions of a compiled module, each as often as it runs.

    (What JAX's `cost_analysis` gives counts a loop's body once.) Of a conditional's branches the costliest counts.

    Raises:
        Unreadable: A library or a kernel of somebody's own computes, or how often a loop runs is not in the text.
    """
    return Module(text).total(flops)


def held_at_peak(text: str) -> tuple[Held, ...]:
    """Lists what a device holds where it holds most, by the schedule that the text is, the most bytes first.

    It is a reading of the text, not the compiler's own table of addresses, which packs arrays. The
    compiler's figure of temporaries is the one to trust; this says which arrays they are.

    Example:
        >>> from jbdot.hlo import held_at_peak
        >>> text = '''HloModule jit_f, is_scheduled=true
        ...
        ... ENTRY %main (x: f32[8,4]) -> f32[8] {
        ...   %x = f32[8,4]{1,0} parameter(0), metadata={op_name="x"}
        ...   %wide = f32[8,64]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
        ...   ROOT %sum = f32[8]{0} reduce(%wide), dimensions={1}
        ... }'''
        >>> [(held.role, held.origin.shape, held.bytes) for held in held_at_peak(text)]
        [('temporary', 'f32[8,64]', 2048), ('argument', 'f32[8,4]', 128), ('result', 'f32[8]', 32)]
    """
    return Memory(text).peak()
