"""What is read off compiled text: real texts, shortened (without metadata and most notes), checked by hand.

The programs run on a mesh of 4 by 4 TPUs, 4 by 2 CPU devices or GPUs; an array of 1024 by 1024 bfloat16 in 16 parts is
131,072 bytes on each.
"""

from pathlib import Path

import pytest

from jbdot.hlo import Collective, NoEstimate, bytes_sent, collectives, estimated_cycles

FOLDER = Path(__file__).parent / "data" / "hlo"
PART = 64 * 1024 * 2
FOUND = {
    # along one axis of four
    "tpu-all-gather": ([("all-gather", 4, 4, PART, 4 * PART, 1)], 3 * PART),
    "tpu-all-to-all": ([("all-to-all", 16, 1, PART, PART, 1)], PART * 15 // 16),
    # device 0 of each row sends to device 1, nobody else
    "tpu-permute-one-pair": ([("collective-permute", 4, 1, PART, PART, 1)], PART),
    "tpu-permute-nobody": ([("collective-permute", 0, 1, PART, PART, 1)], 0),
    # bfloat16 [64, 1024] and its first three rows in one operation, float32 [64, 1024] in another
    "tpu-all-reduce-of-three": (
        [("all-reduce", 16, 1, PART + 6144, PART + 6144, 1), ("all-reduce", 16, 1, 2 * PART, 2 * PART, 1)],
        2 * (3 * PART + 6144) * 15 // 16,
    ),
    "tpu-all-reduce-in-groups": ([("all-reduce", 2, 8, PART, PART, 1)], PART),
    # a fusion named all-reduce-scatter that holds an all-reduce: [1024, 4096] to [1024, 1024]
    "tpu-reduce-scatter-fusion": ([("reduce-scatter", 4, 4, 64 * PART, 16 * PART, 1)], 48 * PART),
    # a loop of 5 shifts in a loop of 3 sums along four
    "tpu-loops": (
        [("collective-permute", 16, 1, PART, PART, 15), ("all-reduce", 4, 4, PART, PART, 3)],
        15 * PART + 3 * 2 * PART * 3 // 4,
    ),
    # 8 layers, each gathered along both axes in turn
    "tpu-loop-of-gathers": (
        [("all-gather", 4, 4, PART, 4 * PART, 8), ("all-gather", 4, 4, 4 * PART, 16 * PART, 8)],
        8 * (3 * PART + 12 * PART),
    ),
    "cpu-reduce-scatter": ([("reduce-scatter", 4, 2, 2 * PART, PART // 2, 1)], 2 * PART * 3 // 4),
    "cpu-two-all-gathers": ([("all-gather", 4, 2, 2 * PART, 8 * PART, 1)] * 2, 2 * 6 * PART),
    "gpu-all-to-all": ([("all-to-all", 4, 2, PART // 4, PART // 4, 1)], PART // 4 * 3 // 4),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_a_program_sends(name):
    text = (FOLDER / f"{name}.txt").read_text()
    expected, sent = FOUND[name]
    assert collectives(text) == tuple(Collective(*one) for one in expected)
    assert bytes_sent(text) == sent


def test_every_stored_text_is_read():
    assert {path.stem for path in FOLDER.iterdir()} == set(FOUND)


def test_a_text_without_collectives_sends_nothing():
    text = "HloModule jit_f\n\nENTRY %main (x: f32[4]) -> f32[4] {\n  ROOT %x = f32[4]{0} parameter(0)\n}\n"
    assert collectives(text) == ()
    assert bytes_sent(text) == 0


def test_estimates_count_as_often_as_a_loop_runs():
    text = (FOLDER / "tpu-loops.txt").read_text()
    assert estimated_cycles(text) == 3 * 5 * 2679


def test_an_estimate_below_zero_is_none():
    text = (FOLDER / "tpu-loops.txt").read_text().replace('"2679"', f'"{2**64 - 1}"')
    with pytest.raises(NoEstimate, match="estimates -1 cycles"):
        estimated_cycles(text)
