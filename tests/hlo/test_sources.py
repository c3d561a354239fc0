"""Where in the source a collective is from, by the tables at the head of the text."""

import pytest

from jbdot.hlo import Frame, Origin, collectives

TABLES = """HloModule jit_step, num_partitions=8

FileNames
1 "/home/me/model.py"
2 "/home/me/train.py"

FunctionNames
1 "Model.layer"
2 "step"

FileLocations
1 {file_name_id=2 function_name_id=2 line=30 end_line=30 column=4 end_column=9}
2 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=4 end_column=9}
3 {file_name_id=1 function_name_id=1 line=8 end_line=8 column=4 end_column=9}

StackFrames
1 {file_location_id=1 PARENT_1}
2 {file_location_id=2 PARENT_2}
3 {file_location_id=3 PARENT_2}

ENTRY %main (a: f32[8,4], b: f32[8,4]) -> f32[8] {
  %a = f32[8,4]{1,0} parameter(0), metadata={op_name="params[\\'a\\']"}
  %b = f32[8,4]{1,0} parameter(1), metadata={op_name="params[\\'b\\']"}
  %same = bf16[8,4]{1,0} convert(%a), metadata={op_name="jit(step)/convert" stack_frame_id=2}
  %gathered = bf16[32,4]{1,0} all-gather(%same), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %turned = bf16[32,4]{0,1} copy(%gathered)
  %read = f32[8,4]{1,0} dot(%turned, %b), metadata={op_name="jit(step)/jvp()/dot_general" stack_frame_id=3}
  %sums = (f32[8,4]{1,0}, f32[8,4]{1,0}) all-reduce(%read, %b), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add, metadata={op_name="jit(step)/both" stack_frame_id=2}
  %first = f32[8,4]{1,0} get-tuple-element(%sums), index=0, metadata={op_name="jit(step)/one" stack_frame_id=3}
  %second = f32[8,4]{1,0} get-tuple-element(%sums), index=1
  ROOT %end = f32[8]{0} all-gather(%second), replica_groups=mesh['x'=4,'y'=2] {'y'}, dimensions={0}, metadata={op_name="jit(step)/inline" source_file="/home/me/old.py" source_line=5}
}
"""  # noqa: E501
LAYER, NEXT = Frame("/home/me/model.py", 7, "Model.layer"), Frame("/home/me/model.py", 8, "Model.layer")
STEP = Frame("/home/me/train.py", 30, "step")


@pytest.mark.parametrize("first", [0, 1])
def test_a_collective_says_for_which_lines_it_is(first):
    """Some jaxlib count parents from one, where the first frame is its own."""
    text = TABLES.replace("PARENT_1", f"parent_frame_id={first}").replace("PARENT_2", f"parent_frame_id={1 + first}")
    gathered, sums, end = collectives(text)
    assert gathered.origins == (Origin("bf16[8,4]", 64, "jit(step)/jvp()/dot_general", "params['a']", (NEXT, STEP)),)
    assert gathered.devices == ((0, 2, 4, 6),)
    assert sums.origins == (
        Origin("f32[8,4]", 128, "jit(step)/one", "", (NEXT, STEP)),
        Origin("f32[8,4]", 128, "jit(step)/both", "params['b']", (LAYER, STEP)),  # its own part says nothing
    )
    assert sums.devices == ((0, 1),)
    assert end.origins[0].frames == (Frame("/home/me/old.py", 5, ""),)
    assert end.devices == ((0, 1),)


@pytest.mark.parametrize(
    ("reader", "line"),
    [
        ('%r = f32[32,4] dot(%c, %b), metadata={op_name="jit(step)/jvp()/dot_general" stack_frame_id=3}', NEXT),
        ('%r = (f32[32,4]) tuple(%c), metadata={op_name="jit(step)/jvp()/dot_general" stack_frame_id=3}', LAYER),
    ],
)
def test_what_a_remat_or_a_loop_only_takes_along_is_for_the_line_that_reads_it(reader, line):
    text = f"""{TABLES[: TABLES.index("ENTRY")].replace("PARENT_1", "").replace("PARENT_2", "parent_frame_id=1")}
ENTRY %main (a: f32[8,4], b: f32[8,4]) -> f32[32,4] {{
  %a = f32[8,4] parameter(0), metadata={{op_name="a"}}
  %b = f32[8,4] parameter(1), metadata={{op_name="b"}}
  %g = f32[32,4] all-gather(%a), replica_groups=[2,4]<=[8], metadata={{op_name="jit(step)/remat2" stack_frame_id=2}}
  %c = f32[32,4] copy(%g), metadata={{op_name="jit(step)/remat2" stack_frame_id=2}}
  ROOT {reader}
}}"""
    ((origin,),) = (one.origins for one in collectives(text))
    assert (origin.frames[0], origin.argument) == (line, "a")


HEAD = TABLES[: TABLES.index("ENTRY")].replace("PARENT_1", "").replace("PARENT_2", "parent_frame_id=1")
AT_LAYER, AT_NEXT = (
    f'metadata={{op_name="jit(step)/jvp()/{name}" stack_frame_id={n}}}' for name, n in (("max", 2), ("dot", 3))
)


def test_what_is_gathered_beside_a_dot_is_for_the_line_that_reads_it_after_its_end():
    """As for TPUs: it is started in one fusion, goes on in that of another dot, and ends in a third."""
    gather = "all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], backend_config={async_collective_fusion_config}"
    text = f"""{HEAD}
%starting (p: f32[8,4]) -> (f32[8,4], f32[32,4]) {{
  %p = f32[8,4] parameter(0)
  %g1 = f32[32,4] {gather}
  ROOT %c1 = (f32[8,4], f32[32,4]) custom-call(%g1), custom_call_target="AsyncCollectiveStart"
}}
%beside (p: f32[8,4], q: f32[32,4]) -> (f32[32,4], f32[32,4]) {{
  %p = f32[8,4] parameter(0)
  %q = f32[32,4] parameter(1)
  %g2 = f32[32,4] {gather}
  %d = f32[32,4] dot(%q, %q), {AT_LAYER}
  ROOT %t = (f32[32,4], f32[32,4]) tuple(%d, %g2)
}}
%ending (p: f32[8,4], q: f32[32,4]) -> f32[32,4] {{
  %p = f32[8,4] parameter(0)
  %q = f32[32,4] parameter(1)
  %g3 = f32[32,4] {gather}
  ROOT %c3 = f32[32,4] custom-call(%p, %q, %g3), custom_call_target="AsyncCollectiveDone"
}}
ENTRY %main (a: f32[8,4]) -> f32[32,4] {{
  %a = f32[8,4] parameter(0), metadata={{op_name="a"}}
  %s = (f32[8,4], f32[32,4]) fusion(%a), kind=kCustom, calls=%starting
  %s0 = f32[8,4] get-tuple-element(%s), index=0
  %s1 = f32[32,4] get-tuple-element(%s), index=1
  %f = (f32[32,4], f32[32,4]) fusion(%s0, %s1), kind=kOutput, calls=%beside, {AT_LAYER}
  %f1 = f32[32,4] get-tuple-element(%f), index=1
  %e = f32[32,4] fusion(%s0, %f1), kind=kCustom, calls=%ending
  ROOT %r = f32[32,4] dot(%e, %e), {AT_NEXT}
}}"""
    ((origin,),) = (one.origins for one in collectives(text))
    assert (origin.frames[0], origin.argument) == (NEXT, "a")
    before = text.replace("%a = f32[8,4] parameter(0)", "%z = f32[8,4] parameter(0)").replace(
        "  %s = (",
        '  %a = f32[8,4] all-gather(%z), channel_id=1, replica_groups=[8,1]<=[8], metadata={op_name="z"}\n  %s = (',
    )
    assert [one.origins[0].frames[0] for one in collectives(before)] == [NEXT, NEXT]  # what is sent twice, in turn


def test_a_fusion_reads_for_the_line_within_that_does():
    text = f"""{HEAD}
%fused (p: f32[32,4], q: f32[32,4]) -> f32[32,4] {{
  %p = f32[32,4] parameter(0)
  %q = f32[32,4] parameter(1)
  %d = f32[32,4] dot(%q, %q), {AT_NEXT}
  ROOT %m = f32[32,4] maximum(%d, %p), {AT_LAYER}
}}
ENTRY %main (a: f32[8,4], b: f32[32,4]) -> f32[32,4] {{
  %a = f32[8,4] parameter(0), metadata={{op_name="a"}}
  %b = f32[32,4] parameter(1), metadata={{op_name="b"}}
  %g = f32[32,4] all-gather(%a), replica_groups=[2,4]<=[8], metadata={{op_name="a"}}
  ROOT %f = f32[32,4] fusion(ORDER), kind=kLoop, calls=%fused, {AT_LAYER}
}}"""
    for order, line in (("%b, %g", NEXT), ("%g, %b", LAYER)):
        ((origin,),) = (one.origins for one in collectives(text.replace("ORDER", order)))
        assert origin.frames[0] == line
