"""What is read off compiled text: real texts, shortened (without metadata and most notes), checked by hand.

The programs run on a mesh of 4 by 4 TPUs, 4 by 2 CPU devices or GPUs, unless a comment says another; an array of 1024
by 1024 bfloat16 in 16 parts is 131,072 bytes on each.
"""

from pathlib import Path

import pytest

from jbdot.hlo import (
    Collective,
    NoEstimate,
    Origin,
    Unreadable,
    bytes_sent,
    collectives,
    dot_flops,
    estimated_cycles,
)

FOLDER = Path(__file__).parents[1] / "data" / "hlo"
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
    # [8192, 2048] padded to four parts of 2080 rows; three of four devices pass 96 of them on to get 2048 each
    "tpu-reduce-scatter-padded": (
        [
            ("reduce-scatter", 4, 4, 8320 * 4096, 2080 * 4096, 1),
            ("collective-permute", 12, 1, 96 * 4096, 96 * 4096, 1),
        ],
        3 * 2080 * 4096 + 96 * 4096,
    ),
    # 8 layers, weights gathered over all forwards, and again backwards: there beside a dot, in three fusions
    "tpu-beside-a-dot": (
        [
            ("all-gather", 16, 1, PART, 16 * PART, 8),
            ("all-gather", 16, 1, PART, 16 * PART, 8),
            ("all-reduce", 16, 1, 16 * PART, 16 * PART, 8),
        ],
        8 * (15 + 15 + 2 * 15) * PART,
    ),
    # the same on GPUs, two gathers in turn: the text says how often the loops run
    "gpu-loop-of-gathers": (
        [
            *[("all-gather", 2, 4, 2 * PART, 4 * PART, 8), ("all-gather", 4, 2, 4 * PART, 16 * PART, 8)] * 2,
            ("all-reduce", 8, 1, 16 * PART, 16 * PART, 8),
        ],
        8 * (2 * (2 + 12) + 2 * 14) * PART,
    ),
    # a ring over 8 devices, both ways round: one shift, then the counter goes up by 2 below 4, with four shifts a trip
    "tpu-loop-unrolled": (
        [("collective-permute", 8, 1, 128 * PART, 128 * PART, times) for times in (1, 2, 2, 2, 2)],
        9 * 128 * PART,
    ),
    # a sum over four, or a shift that sends less
    "tpu-branches": ([("all-reduce", 4, 4, PART, PART, 1)], 2 * PART * 3 // 4),
    # devices 0 and 1 of each row swap
    "tpu-permute-swap": ([("collective-permute", 8, 1, PART, PART, 1)], PART),
    "tpu-ragged": ([("ragged-all-to-all", 4, 4, PART, PART, 1)], PART * 3 // 4),
    # on 4 by 16, over a quarter of the second axis; 16 devices of 64 keep what they have
    "tpu-part-of-an-axis": (
        [("all-to-all", 4, 16, 4 * PART, 4 * PART, 1), ("collective-permute", 48, 1, 4 * PART, 4 * PART, 1)],
        3 * PART + 4 * PART,
    ),
    # two slices of 16: to the other slice, within one, gathered and scattered over the two
    "tpu-slices": (
        [
            ("collective-permute", 16, 1, PART, PART, 1, True),
            ("collective-permute", 7, 1, PART, PART, 1),
            ("all-gather", 2, 16, PART, 2 * PART, 1, True),
            ("reduce-scatter", 2, 16, 2 * PART, PART, 1, True),
        ],
        4 * PART,
    ),
    # half a byte an element
    "tpu-slices-int4": ([("all-to-all", 2, 16, 64 * 128, 64 * 128, 1, True)], 64 * 64),
    # a tuple of four parts, of 8 bytes an element
    "cpu-all-to-all": ([("all-to-all", 4, 2, 64 * 256 * 8, 64 * 256 * 8, 1)], 64 * 256 * 8 * 3 // 4),
}
UNKNOWN = "tpu-loop-unknown"  # runs until a sum over all devices is large enough


@pytest.mark.parametrize("name", FOUND)
def test_what_a_program_sends(name):
    text = (FOLDER / f"{name}.txt").read_text()
    expected, sent = FOUND[name]
    assert collectives(text) == tuple(Collective(*one) for one in expected)
    assert bytes_sent(text) == sent


def test_every_stored_text_is_read():
    assert {path.stem for path in FOLDER.iterdir()} == {*FOUND, UNKNOWN}


def test_a_text_without_collectives_sends_nothing():
    text = "HloModule jit_f\n\nENTRY %main (x: f32[4]) -> f32[4] {\n  ROOT %x = f32[4]{0} parameter(0)\n}\n"
    assert collectives(text) == ()
    assert bytes_sent(text) == 0


def test_how_often_a_loop_runs_is_not_guessed():
    text = (FOLDER / f"{UNKNOWN}.txt").read_text()
    with pytest.raises(Unreadable, match="psum"):
        collectives(text)
    assert dot_flops(text) == 0


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("tpu-loop-unrolled", 2 * 8192**3 // 8),
        ("tpu-reduce-scatter-padded", 2 * 8192**3 // 16),
        ("tpu-beside-a-dot", 8 * 3 * 2 * 64 * 1024**2),
        ("gpu-loop-of-gathers", 8 * 3 * 2 * 64 * 1024**2),
        ("tpu-all-gather", 0),
    ],
)
def test_dots_count_as_often_as_they_run(name, flops):
    assert dot_flops((FOLDER / f"{name}.txt").read_text()) == flops


HEAD = "HloModule jit_f, num_partitions=8\n\nENTRY %main (x: bf16[8,64]) -> f32[] {\n"
OPERANDS = """  %x = bf16[8,64]{1,0} parameter(0)
  %b = bf16[6,4,8]{2,1,0} parameter(1)
  %c = bf16[6,8,5]{2,1,0} parameter(2)
"""


def entry(line):
    return f"{HEAD}{OPERANDS}  ROOT {line}\n}}\n"


@pytest.mark.parametrize(
    ("line", "flops"),
    [
        ("%d = f32[8,8] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}", 2 * 8 * 8 * 64),
        ("%d = f32[8,8] convolution(%x, %x), dim_labels=bf_oi->bf", 2 * 8 * 8 * 64),
        # a batch of 6 as a window that meets one element at each place
        (
            "%d = bf16[6,4,5] convolution(%b, %c), window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf",
            2 * 6 * 4 * 5 * 8,
        ),
        # 6 summed, as a window over all of it
        ("%d = bf16[1,4,5] convolution(%b, %c), window={size=6}, dim_labels=0bf_0io->0bf", 2 * 6 * 4 * 5 * 8),
        # a window of 6 over 6, with padding: 1 + 2 + ... + 6 + ... + 1
        ("%d = bf16[11,4,5] convolution(%b, %c), window={size=6 pad=5_5}, dim_labels=0bf_0io->0bf", 2 * 36 * 4 * 5 * 8),
    ],
)
def test_flops_of_a_dot(line, flops):
    assert dot_flops(entry(line)) == flops


@pytest.mark.parametrize(
    "groups",
    [
        "{{0,1,2,3},{4,5,6,7}}",
        "[2,4]<=[8]",
        "[2,4]<=[4,2]T(1,0)",
        "mesh['x'=2,'y'=4] {'y'}",
        "mesh[x=2,y=2,z=2], device_ids=(7,6,5,4,3,2,1,0) {x,z}",
        "mesh['x'=8] {'x':(2)4}",
    ],
)
def test_every_way_to_write_groups(groups):
    line = f"%g = bf16[8,64]{{1,0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add"
    assert collectives(entry(line)) == (Collective("all-reduce", 4, 2, 1024, 1024),)


def test_forms_that_are_not_known_are_refused():
    uneven = "%g = bf16[8,64] all-reduce(%x), replica_groups={{0,1,2},{3,4}}"
    with pytest.raises(Unreadable, match="differ in size"):
        collectives(entry(uneven))
    with pytest.raises(Unreadable, match="no known transfer"):
        collectives(entry("%g = (bf16[8,64], u32[], token[]) send(%x, %x), channel_id=1"))
    with pytest.raises(Unreadable, match="computed elsewhere"):
        dot_flops(entry('%g = bf16[8,8] custom-call(%x, %x), custom_call_target="__cublas$gemm"'))
    with pytest.raises(Unreadable, match="no entry"):
        collectives("HloModule jit_f")
    everybody = collectives(entry("%g = bf16[8,64] all-reduce(%x), replica_groups={}"))
    assert [one.group for one in everybody] == [8]
    assert collectives(entry("%g = (bf16[8,64], u32[], token[]) send(%x, %x), is_host_transfer=true")) == ()


def test_a_start_counts_once_and_its_end_does_not():
    wrapped = (
        "%wrapped (p: bf16[8,64]) -> bf16[8,64] {\n  %p = bf16[8,64]{1,0} parameter(0)\n"
        "  ROOT %a = bf16[8,64]{1,0} all-to-all(%p), replica_groups=[2,4]<=[8], dimensions={0}\n}\n\n"
    )
    pair = (
        "%s = ((bf16[8,64]), bf16[8,64], u32[]) async-start(%x), calls=%wrapped\n"
        "  %t = ((bf16[8,64]), bf16[8,64]) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}\n"
        "  %u = bf16[8,64] all-gather-done(%t)\n"
        "  %d = bf16[8,64] async-done(%s)"
    )
    head, rest = entry(pair).split("ENTRY")
    assert [one.kind for one in collectives(f"{head}{wrapped}ENTRY{rest}")] == ["all-to-all", "all-gather"]


def test_estimates_count_as_often_as_a_loop_runs():
    text = (FOLDER / "tpu-loops.txt").read_text()
    assert estimated_cycles(text) == 3 * 5 * 2679


def test_an_estimate_below_zero_is_none():
    text = (FOLDER / "tpu-loops.txt").read_text().replace('"2679"', f'"{2**64 - 1}"')
    with pytest.raises(NoEstimate, match="estimates -1 cycles"):
        estimated_cycles(text)
    with pytest.raises(NoEstimate, match="the most cycles"):
        estimated_cycles(text.replace(f'"{2**64 - 1}"', f'"{2**63 - 1}"'))


def test_a_new_layout_is_not_believed_to_cost_less_than_what_it_moves():
    """A copy of 42 cycles, and a reshape of none: of tiles of 8 by 128, of 2-byte and 4-byte numbers."""
    text = entry(
        "%x = f32[2,256,100]{2,1,0:T(8,128)S(1)} parameter(0)\n"
        '  %y = f32[2,256,100]{1,2,0:T(8,128)S(1)} copy(%x), backend_config={"estimated_cycles":"42"}\n'
        "  %z = bf16[1000,512]{1,0:T(8,128)(2,1)} parameter(1)\n"
        "  %w = bf16[8,125,512]{2,1,0:T(8,128)(2,1)S(1)} reshape(%z)\n"
        '  %v = bf16[8] bitcast(%w), backend_config={"estimated_cycles":"7"}'
    )
    assert estimated_cycles(text) == 49
    copied = 4 * (2 * 256 * 128 + 2 * 104 * 256)
    laid = 2 * (1000 * 512 + 8 * 128 * 512)
    assert estimated_cycles(text, 2.0) == copied // 2 + laid // 2 + 7
    assert estimated_cycles(text, 1e6) == 42 + 2 + 7


def test_what_is_the_same_but_for_its_line_is_equal():
    assert Collective("all-gather", 4, 4, 8, 32, origins=(Origin("f32[2]", 8),)) == Collective(
        "all-gather", 4, 4, 8, 32
    )


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
        ("mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("mesh[x=2,y=2,z=2], device_ids=(7,6,5,4,3,2,1,0) {x,z}", (7, 6, 3, 2)),
        ("mesh[x=4,y=2], device_ids=([2,4]T(1,0)) {x}", (0, 1, 2, 3)),
        ("mesh['x'=8] {'x':(2)4}", (0, 1, 2, 3)),
        ("mesh['x'=8] {'x':(1)2}", (0, 4)),
        ("{}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_which_devices_talk(groups, devices):
    (found,) = collectives(entry(f"%g = bf16[8,64]{{1,0}} all-reduce(%x), replica_groups={groups}, to_apply=%add"))
    assert [sorted(each) for each in found.devices] == [sorted(devices)]


def test_a_group_has_as_many_devices_as_it_says():
    """Whatever way it is written in."""
    read = 0
    for path in FOLDER.glob("*.txt"):
        try:
            found = collectives(path.read_text(), open_trips=1)
        except Unreadable:
            continue
        for one in found:
            if one.across_slices:
                assert one.devices == ()
            elif one.kind == "collective-permute":
                assert len({source for source, target in one.devices if source != target}) == one.group
            else:
                ((*group,),) = one.devices
                assert len(set(group)) == one.group
            read += 1
    assert read > 20


def test_work_runs_beside_what_is_started_and_ended_apart():
    assert {one.beside for one in collectives((FOLDER / "tpu-beside-a-dot.txt").read_text())} == {True, False}
    assert not any(one.beside for one in collectives((FOLDER / "tpu-all-to-all.txt").read_text()))


def test_a_loop_of_unknown_length_counts_as_often_as_is_said():
    text = (FOLDER / "tpu-loop-unknown.txt").read_text()
    with pytest.raises(Unreadable):
        collectives(text)
    once, thrice = (collectives(text, open_trips=trips) for trips in (1, 3))
    assert [one.times for one in once] == [2, 1]  # the condition once more than the body
    assert [one.times for one in thrice] == [4, 3]
    assert all(one.is_open for one in once)
