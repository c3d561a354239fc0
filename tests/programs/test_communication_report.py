"""A report in tables and in words; two of them side by side."""

import dataclasses
import re
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jbdot import hlo
from jbdot.core.text import WIDTH
from jbdot.devices.links import Links
from jbdot.hardware import known
from jbdot.programs.communication_report import SHOWN, CommunicationReport
from jbdot.programs.communication_row import axes_of, rows_of
from jbdot.programs.memory_row import memory_rows_of

MESH = {"x": 4, "y": 4}
LINKS = Links.of(MESH, known("v5e"))
STEP = hlo.Frame("/home/me/a_long_name_of_a_file_of_a_model.py", 12, "Model.loss_of_a_batch_of_tokens")
LIBRARY = hlo.Frame("/home/me/lib/python3.13/site-packages/flax/linear.py", 3, "Dense.__call__")


def gather(given, times=1, op_name="jit(step)/jvp()/dot_general", frames=(LIBRARY, STEP)):
    origin = hlo.Origin(f"bf16[{given // 2}]", given, op_name, frames=frames)
    return hlo.Collective("all-gather", 4, 4, given, 4 * given, times, origins=(origin,), devices=((0, 1, 2, 3),))


def held(shape, given, role="temporary", count=1, argument=""):
    origin = hlo.Origin(shape, given, "" if argument else "jit(step)/jvp()/dot_general", argument, (STEP,))
    return hlo.Held(origin, role, count)


HELD = tuple(
    memory_rows_of(
        [
            held("bf16[64,1000]", 128000, count=8),
            *(held("bf16[4096,4096]", 1 << 25, "argument", argument=f"layers[{number}]['w']") for number in range(3)),
        ],
        lambda name: name,
    )
)


def report(found, **more):
    figures = {
        "function": "step",
        "mesh": MESH,
        "hardware": known("v5e"),
        "compiled_for": "v5e:4x4",
        "rows": tuple(rows_of(found, LINKS, MESH, lambda name: name)),
        "held": HELD,
        "argument_bytes": 8 * 10**9,
        "output_bytes": 8 * 10**9,
        "alias_bytes": 8 * 10**9,
        "temp_bytes": 4 * 10**9,
        "flops": 197 * 10**9,
        "estimated_us": 2000.0,
        "argument_sizes": frozenset(),
        "versions": {},
        "text": "",
    }
    return CommunicationReport(**figures | more)


def test_a_row_is_of_the_innermost_line_that_is_in_no_library():
    (row,) = report([gather(1000, 3)])
    assert row.source == "/home/me/a_long_name_of_a_file_of_a_model.py:12 (loss_of_a_batch_of_tokens)"
    (row,) = report([gather(1000, 3, frames=(LIBRARY,))])
    assert row.where == "linear.py:3 (__call__)"
    (row,) = report([gather(1000, 3, frames=())])
    assert row.where == "an unknown line"


def test_what_is_alike_is_one_row_and_most_bytes_come_first():
    small, large = gather(1000, 2), gather(4000)
    found = report([small, large, small, gather(1000, op_name="jit(step)/transpose(jvp())/dot_general")])
    assert [(row.part, row.times, row.sent) for row in found] == [
        ("forward", 4, 4 * 3000),
        ("forward", 1, 12000),
        ("backward", 1, 3000),
    ]
    assert found.rows[0].us == pytest.approx(4 * LINKS.time_us("all-gather", 3000, "y"))
    assert found.sending_us == pytest.approx(sum(row.us for row in found))
    assert sum(map(found.share, found)) == pytest.approx(found.sending_us / (found.sending_us + 2000))


def test_a_merged_collective_is_shared_out_to_the_byte():
    parts = [hlo.Origin(f"f32[{size}]", 4 * size, f"jit(step)/add{size}", frames=(STEP,)) for size in (1, 3, 7)]
    one = hlo.Collective("all-reduce", 4, 4, 44, 44, 2, origins=tuple(parts), devices=((0, 4, 8, 12),))
    found = report([one])
    assert found.sent == 2 * one.sent == 132
    assert {row.merged for row in found} == {3}
    assert {row.axes for row in found} == {("x",)}
    assert found.sending_us == pytest.approx(2 * LINKS.time_us("all-reduce", one.sent, "x"))


def test_memory_and_time():
    fits = report([])
    assert (fits.memory_bytes, fits.fits) == (12 * 10**9, True)
    assert ("together", "12 GB of 16 GB") in fits.memory
    assert fits.compute_us == 2000.0
    assert fits.peak_us == pytest.approx(1000.0)
    large = report([gather(10**9)], temp_bytes=11_200_000_000)
    assert ("together", "does not fit: 19.2 GB of 16 GB") in large.memory
    assert large.advice.startswith("It does not fit, and temporaries are the most of it, 11.2 GB: recompute more")
    assert "The largest of them: 8 x bfloat16[64,1000] of a_long_name_of_a_file_of_a_model.py:12" in large.advice
    arguments = report([], argument_bytes=20 * 10**9, output_bytes=0, alias_bytes=0).advice
    assert "The largest of them: 3 x bfloat16[4096,4096] of layers[*]['w'], 101 MB." in arguments
    assert "sending limits a call" in large.advice
    unknown = report([gather(1000)], flops=None, estimated_us=None)
    assert (unknown.compute_us, unknown.step_us) == (None, unknown.sending_us)
    assert "dots" not in str(unknown)


@pytest.mark.parametrize("count", [1, 30])
def test_all_that_is_printed_is_narrow(count):
    found = report([gather(1000 + 2 * size, 1234567) for size in range(count)])
    text = str(found)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert ("more rows" in text) == (count > SHOWN)
    assert repr(found) == text
    assert max(map(len, str(found.compare(report([]))).splitlines())) <= WIDTH


def test_a_page_shows_every_row_and_escapes_names():
    origin = hlo.Origin("f32[4]", 16, "jit(f)/add", frames=(hlo.Frame("/a/b.py", 3, "<lambda>"),))
    one = hlo.Collective("all-gather", 4, 4, 16, 64, origins=(origin,), devices=((0, 1, 2, 3),))
    page = report([one, *(gather(1000 + 2 * size) for size in range(30))])._repr_html_()
    assert page.count("<tr>") == 1 + 31 + len(report([]).memory) + len(report([]).held) + len(report([gather(2)]).time)
    assert "b.py:3 (&lt;lambda&gt;)" in page


def test_two_reports():
    before = report([gather(4000), gather(1000, op_name="jit(step)/transpose(jvp())/add")])
    after = dataclasses.replace(before, rows=before.rows[:1], temp_bytes=10**9)
    found = before.compare(after)
    assert found.saved == 3000
    where = "a_long_name_of_a_file_of_a_model.py (loss_of_a_batch_of_tokens)"
    assert found.rows == [(where, "backward", "all-gather", 3000, 0)]
    assert "each device sends 3 kB less" in str(found)
    assert "each device sends 3 kB more" in str(after.compare(before))
    assert re.search(r"temporaries +4 GB +1 GB", str(found))
    moved = dataclasses.replace(
        before, rows=tuple(dataclasses.replace(row, source=row.source.replace(":12", ":99")) for row in before)
    )
    assert before.compare(moved).rows == []  # another line of the same function


CURES = [
    ("all-reduce", "jit(f)/jvp()/dot_general", "", "along the axis that is summed"),
    ("all-reduce", "jit(f)/transpose(jvp())/dot_general", "", "has the shape of a parameter: a gradient"),
    ("reduce-scatter", "jit(f)/transpose(jvp())/dot_general", "", "summed and cut send the fewest bytes"),
    ("reduce-scatter", "jit(f)/jvp()/dot_general", "", "cut another axis than the summed one"),
    ("all-gather", "jit(f)/jvp()/dot_general", "w", "w is kept in parts over y and gathered for use"),
    ("all-gather", "jit(f)/jvp()/dot_general", "", "needed whole there"),
    ("all-to-all", "jit(f)/jvp()/dot_general", "", "have both agree"),
    ("collective-permute", "jit(f)/jvp()/dot_general", "", "have both agree"),
]


@pytest.mark.parametrize(("kind", "op_name", "argument", "words"), CURES)
def test_what_to_change_first(kind, op_name, argument, words):
    origin = hlo.Origin("bf16[4,16]", 128, op_name, argument, (STEP,))
    one = hlo.Collective(kind, 4, 4, 128, 128, 10**6, origins=(origin,), devices=((0, 1, 2, 3),))
    said = report([one], argument_sizes=frozenset([(4, 16)])).advice
    assert words in said
    assert "py:12" in said


def test_steps_beside_a_dot_are_told_apart():
    origin = hlo.Origin("bf16[64]", 128, "jit(f)/jvp()/dot_general", frames=(STEP,))
    one = hlo.Collective("collective-permute", 16, 1, 128, 128, 3, origins=(origin,), devices=((0, 4),), beside=True)
    found = report([one])
    assert "taken apart to run beside the dot" in found.advice
    assert "beside other work" in str(found)


def test_little_that_is_sent_need_not_be_changed():
    assert "what limits a call is on each device" in report([gather(1000)]).advice


def drawn(one):
    """What is drawn: for each panel the lengths of its bars, its texts, and the names of its rows."""
    figure = one.plot()
    FigureCanvasAgg(figure).draw()
    return [
        (
            [patch.get_width() for patch in axes.patches],
            [text.get_text() for text in axes.texts],
            [text.get_text() for text in axes.get_yticklabels()],
        )
        for axes in figure.axes
    ]


def test_the_picture_has_a_bar_for_each_pass_of_a_line():
    one = report([gather(4000), gather(1000, op_name="jit(step)/transpose(jvp())/add"), gather(500, frames=())])
    (sent, said, lines), (time, whole, _), (memory, needed, _) = drawn(one)
    assert lines == ["a_long_name_of_a_file_of_a_model.py:12 (loss_of_a_batch_of_tokens)", "an unknown line"]
    assert [round(1000 * length) for length in sent] == [12000, 3000, 1500]  # kB
    assert said == ["12 kB forward", "3 kB backward", "1.5 kB forward"]
    assert sum(time) * 1e3 == pytest.approx(one.step_us)
    assert whole == ["2.02 ms"]
    assert memory == [8, 4]  # results take the place of arguments
    assert needed == ["12 GB", "at most 16 GB"]


def test_the_picture_says_that_memory_is_too_little_or_not_known():
    short = drawn(report([gather(4000)], temp_bytes=12 * 10**9))
    assert short[2][1] == ["20 GB: does not fit", "at most 16 GB"]
    figure = report([gather(4000)], temp_bytes=None, argument_bytes=10**6, output_bytes=0, alias_bytes=0).plot()
    assert figure.axes[2].get_xlabel() == (
        "MB of each device but for temporaries, which are known once it is compiled\nat most 16 GB"
    )


def test_the_picture_tells_kinds_by_colour():
    figure = report([gather(4000), dataclasses.replace(gather(4000), kind="all-reduce")]).plot()
    assert len({patch.get_facecolor() for patch in figure.axes[0].patches}) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "all-gather",
        "all-reduce",
        "computing",
        "arguments",
        "temporaries",
    ]


def test_lines_that_send_next_to_nothing_are_not_drawn():
    (sent, *_), *_ = drawn(report([gather(4000), gather(10, frames=())]))
    assert len(sent) == 1
    assert drawn(report([]))[0] == ([], [], [])


def test_axes_that_are_used_in_part():
    def of(kind, *devices):
        return axes_of(hlo.Collective(kind, 2, 8, 8, 8, devices=devices), MESH)

    assert of("all-gather", (0, 1)) == ("y/2",)
    assert of("all-gather", (0, 4, 8, 12)) == ("x",)
    assert of("all-gather", tuple(range(16))) == ("x", "y")
    assert of("collective-permute", (0, 1), (1, 0), (2, 2)) == ("y",)
    assert of("collective-permute", (0, 5)) == ("x", "y")


def test_texts_of_real_programs():
    """Each row's bytes add up to those of the text, whatever its form."""
    folder = Path(__file__).parents[1] / "data" / "hlo"
    read = 0
    for path in sorted(folder.glob("*.txt")):
        try:
            found = hlo.collectives(path.read_text(), open_trips=1)
        except hlo.Unreadable:
            continue
        mesh = MESH if path.name.startswith("tpu") else {"x": 4, "y": 2}
        rows = rows_of(found, Links.of(mesh, known("v5e")), mesh, lambda name: name)
        assert sum(row.sent for row in rows) == sum(one.times * one.sent for one in found), path.name
        read += 1
    assert read > 15
