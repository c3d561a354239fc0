"""What is held where most is: schedules that are short enough to add up by hand, and what real compilers say."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp

from jbdot.hlo import held_at_peak

HEAD = "HloModule jit_f, is_scheduled=true{alias}, entry_computation_layout={{}}\n\n"
FUSED = """%update (p: f32[4,8,4], q: f32[8,4], n: s32[]) -> f32[4,8,4] {
  %p = f32[4,8,4]{2,1,0} parameter(0)
  %q = f32[8,4]{1,0} parameter(1)
  %n = s32[] parameter(2)
  %r = f32[1,8,4]{2,1,0} bitcast(%q)
  ROOT %u = f32[4,8,4]{2,1,0} dynamic-update-slice(%p, %r, %n, %n, %n)
}

"""
WIDE, NARROW = 8 * 64 * 4, 8 * 4 * 4


def text(lines, alias="", before=""):
    body = "\n".join(f"  {line}" for line in lines)
    given = '  %x = f32[8,4]{1,0} parameter(0), metadata={op_name="x"}\n'
    return f"{HEAD.format(alias=alias)}{before}ENTRY %main (x: f32[8,4]) -> f32[8] {{\n{given}{body}\n}}\n"


def held(lines, role="temporary", **more):
    """The bytes and shapes of a role, the most first."""
    return [(one.bytes, one.origin.shape, one.count) for one in held_at_peak(text(lines, **more)) if one.role == role]


def test_an_array_is_held_until_it_is_read_last():
    lines = [
        "%a = f32[8,64]{1,0} dot(%x, %x)",
        "%b = f32[8,32]{1,0} dot(%a, %x)",
        "%c = f32[8,64]{1,0} dot(%b, %x)",
        "%d = f32[8,16]{1,0} dot(%c, %b)",
        "ROOT %r = f32[8]{0} reduce(%d)",
    ]
    assert held(lines) == [(WIDE, "f32[8,64]", 1), (WIDE // 2, "f32[8,32]", 1), (WIDE // 4, "f32[8,16]", 1)]
    assert held(lines, "argument") == [(NARROW, "f32[8,4]", 1)]
    longer = [*lines[:-1], "%e = f32[8,64]{1,0} get-tuple-element(%t), index=0", "ROOT %r = f32[8]{0} reduce(%e)"]
    longer.insert(4, "%t = (f32[8,64]{1,0}, f32[8,16]{1,0}) tuple(%a, %d)")  # %a is read after all of them
    assert held(longer) == [(2 * WIDE, "f32[8,64]", 2), (WIDE // 2, "f32[8,32]", 1), (WIDE // 4, "f32[8,16]", 1)]


def test_results_are_told_apart_and_take_the_place_of_what_is_donated():
    lines = [
        "%a = f32[8,4]{1,0} dot(%x, %x)",
        "%b = f32[8]{0} reduce(%a)",
        "ROOT %r = (f32[8,4], f32[8]) tuple(%a, %b)",
    ]
    assert held(lines, "result") == [(NARROW, "f32[8,4]", 1), (32, "f32[8]", 1)]
    assert held(lines, "result", alias=", input_output_alias={ {0}: (0, {}, may-alias) }") == [(32, "f32[8]", 1)]


def test_elementwise_operations_write_where_they_read_for_the_last_time():
    lines = ["%a = f32[8,64]{1,0} dot(%x, %x)", "%b = f32[8,64]{1,0} tanh(%a)", "ROOT %r = f32[8]{0} reduce(%b)"]
    assert held(lines) == [(WIDE, "f32[8,64]", 1)]
    again = [*lines[:2], "%c = f32[8,64]{1,0} add(%a, %b)", "ROOT %r = f32[8]{0} reduce(%c)"]
    assert held(again) == [(2 * WIDE, "f32[8,64]", 2)]


def test_what_stands_in_fast_memory_or_at_the_host_is_not_counted():
    lines = [
        "%a = f32[8,64]{1,0:T(8,128)S(1)} dot(%x, %x)",
        "%s = (f32[8,64]{1,0:T(8,128)}, f32[8,64]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%a)",
        "%d = f32[8,64]{1,0:T(8,128)} copy-done(%s)",
        "ROOT %r = f32[8]{0} reduce(%d)",
    ]
    assert held(lines) == [(2 * WIDE, "f32[8,64]", 1)]  # 64 is filled up to a tile of 128


def test_a_gather_that_is_started_gives_its_second_part():
    lines = [
        "%s = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
        "%g = f32[32,4]{1,0} all-gather-done(%s)",
        "ROOT %r = f32[8]{0} reduce(%g)",
    ]
    assert held(lines) == [(4 * NARROW, "f32[32,4]", 1)]


def test_what_a_loop_carries_stays_in_its_place():
    """An accumulator of four slices, one slice in the body, and within it one array for a while."""
    body = """%body (c: (s32[], f32[8,4], f32[4,8,4])) -> (s32[], f32[8,4], f32[4,8,4]) {
  %c = (s32[], f32[8,4]{1,0}, f32[4,8,4]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %h = f32[8,4]{1,0} get-tuple-element(%c), index=1
  %s = f32[4,8,4]{2,1,0} get-tuple-element(%c), index=2
  %w = f32[8,64]{1,0} dot(%h, %h), metadata={op_name="jit(f)/while/body/wide"}
  %n = f32[8,4]{1,0} dot(%w, %w)
  %u = f32[4,8,4]{2,1,0} fusion(%s, %n, %i), kind=kLoop, calls=%update
  %j = s32[] add(%i, %i)
  ROOT %t = (s32[], f32[8,4]{1,0}, f32[4,8,4]{2,1,0}) tuple(%j, %n, %u)
}

%condition (c: (s32[], f32[8,4], f32[4,8,4])) -> pred[] {
  %c = (s32[], f32[8,4]{1,0}, f32[4,8,4]{2,1,0}) parameter(0)
  ROOT %p = pred[] constant(false)
}

"""
    lines = [
        "%z = s32[] constant(0)",
        "%h = f32[8,4]{1,0} copy(%x)",
        "%s = f32[4,8,4]{2,1,0} broadcast(%z)",
        "%t = (s32[], f32[8,4]{1,0}, f32[4,8,4]{2,1,0}) tuple(%z, %h, %s)",
        "%l = (s32[], f32[8,4]{1,0}, f32[4,8,4]{2,1,0}) while(%t), condition=%condition, body=%body",
        "%e = f32[4,8,4]{2,1,0} get-tuple-element(%l), index=2",
        "ROOT %r = f32[8]{0} reduce(%e)",
    ]
    assert held(lines, before=FUSED + body) == [
        (WIDE, "f32[8,64]", 1),
        (4 * NARROW, "f32[4,8,4]", 1),
        (NARROW, "f32[8,4]", 1),
    ]


def test_an_update_of_a_slice_is_for_the_line_that_makes_the_slice():
    tables = """FileNames
1 "/a.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=5 end_line=5 column=1 end_column=2}

StackFrames
1 {file_location_id=1}

"""
    lines = [
        "%z = s32[] constant(0)",
        "%s = f32[4,8,4]{2,1,0} broadcast(%z)",
        '%n = f32[8,4]{1,0} dot(%x, %x), metadata={op_name="jit(f)/tanh" stack_frame_id=1}',
        '%u = f32[4,8,4]{2,1,0} fusion(%s, %n, %z), kind=kLoop, calls=%update, metadata={op_name="jit(f)/scan"}',
        "ROOT %r = f32[8]{0} reduce(%u)",
    ]
    found = held_at_peak(text(lines, before=tables + FUSED))
    assert [(one.origin.op_name, one.origin.shape) for one in found if one.bytes == 4 * NARROW] == [
        ("jit(f)/tanh", "f32[4,8,4]")
    ]


@pytest.mark.parametrize("is_remat", [False, True])
def test_together_they_are_about_what_the_compiler_says_of_a_scan(is_remat):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    def loss(w, x):
        return jnp.sum(lax.scan(jax.checkpoint(layer) if is_remat else layer, x, w)[0] ** 2)

    w, x = jax.ShapeDtypeStruct((6, 128, 128), "float32"), jax.ShapeDtypeStruct((512, 128), "float32")
    ready = jax.jit(jax.grad(loss)).lower(w, x).compile()
    found = held_at_peak(ready.as_text())
    temporaries = sum(one.bytes for one in found if one.role == "temporary")
    assert 0.8 < temporaries / ready.memory_analysis().temp_size_in_bytes < 1.1
    assert found[0].origin.shape == "f32[6,512,128]"  # what the backward pass keeps of each layer
