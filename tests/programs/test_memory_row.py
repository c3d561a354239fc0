"""Arrays that are held at once, as rows: alike in all but a number is one row."""

from jbdot import hlo
from jbdot.programs.memory_row import memory_rows_of

LINE = hlo.Frame("/home/me/model.py", 7, "Model.layer")


def held(given, role="temporary", count=1, argument="", op_name="jit(step)/jvp()/tanh", frames=(LINE,)):
    return hlo.Held(hlo.Origin(f"f32[{given // 4}]", given, op_name, argument, frames), role, count)


def test_arrays_alike_are_one_row_and_the_most_bytes_come_first():
    rows = memory_rows_of(
        [
            held(4096, count=2),
            held(4096),
            held(4096, op_name="jit(step)/transpose(jvp())/tanh"),
            *(held(16384, "argument", argument=f"arrays[{at}]", op_name="", frames=()) for at in (0, 1)),
        ],
        {"arrays[0]": "params[0]['w']", "arrays[1]": "params[1]['w']"}.get,
    )
    assert [(row.role, row.count, row.bytes, row.what) for row in rows] == [
        ("argument", 2, 32768, "params[*]['w']"),
        ("temporary", 3, 12288, "model.py:7 (layer), forward, by tanh"),
        ("temporary", 1, 4096, "model.py:7 (layer), backward, by tanh"),
    ]
    assert rows[1].cells == ("12.3 kB", "temporary", "3 x float32[1024]")
    assert rows[2].arrays == "float32[1024]"


def test_what_has_no_line_says_so():
    (row,) = memory_rows_of([held(64, op_name="", frames=())], str)
    assert row.what == "an unknown line"
