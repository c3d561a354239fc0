"""Reading what the TPU compiler wrote: a stored text, shortened. The compiler itself is not needed."""

import pytest

from benchmarks.tpu import NN, NoEstimate, broken, estimated_cycles

HEAD = "HloModule jit_f, is_scheduled=true, entry_computation_layout={(bf16[8,8]{1,0})->bf16[8,8]{1,0}}"

FUSED = """
%fused_computation (param_0: bf16[8,8]) -> bf16[8,8] {
  %param_0 = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %inner = bf16[8,8]{1,0} fusion(%param_0), kind=kLoop, calls=%bitcast_fusion, backend_config={"estimated_cycles":"7"}
  ROOT %tanh = bf16[8,8]{1,0} tanh(%inner), metadata={op_name="jit(f)/tanh"}
}
"""

LOOPS = """
%wide.body.sunk (arg: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {
  %copy.1 = bf16[8,8]{1,0} copy(%gte), backend_config={"window_config":{"estimated_cycles":"20"}}
  %fusion.1 = bf16[8,8]{1,0} fusion(%copy.1), kind=kOutput, calls=%fused_computation, \
backend_config={"window_config":{"estimated_cycles":"300","iteration_bounds":["8","1"]}}
  ROOT %tuple = (s32[], bf16[8,8]) tuple(%add, %fusion.1)
}

%condition.2 (arg.1: (s32[], bf16[8,8])) -> pred[] {
  %constant.2 = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[]{:T(512)} compare(%gte.1, %constant.2), direction=LT
}

%outer.body (arg.2: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {
  %one = s32[]{:T(128)} constant(1)
  %while.8 = (s32[], bf16[8,8]) while(%tuple.2), condition=%condition.2, body=%wide.body.sunk
  ROOT %copy.2 = bf16[8,8]{1,0} copy(%gte.2), backend_config={"window_config":{"estimated_cycles":"1000"}}
}

%condition.3 (arg.3: (s32[], bf16[8,8])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(7)
  ROOT %lt.1 = pred[]{:T(512)} compare(%gte.3, %constant.3), direction=LT
}
"""

BRANCHES = """
%branch.0 (x.0: (bf16[8,8])) -> (bf16[8,8]) {
  %add = bf16[8,8]{1,0} add(%x.0, %x.0), backend_config={"window_config":{"estimated_cycles":"40"}}
}

%branch.1 (x.1: (bf16[8,8])) -> (bf16[8,8]) {
  %dot = bf16[8,8]{1,0} convolution(%x.1, %x.1), backend_config={"window_config":{"estimated_cycles":"60"}}
}
"""


def module(*entry: str) -> str:
    lines = "\n".join(f"  {line}" for line in entry)
    return f"{HEAD}\n{FUSED}{LOOPS}{BRANCHES}\nENTRY %main.5 (x.1: bf16[8,8]) -> bf16[8,8] {{\n{lines}\n}}\n"


COPY = '%copy = bf16[8,8]{1,0} copy(%x.1), backend_config={"window_config":{"estimated_cycles":"27404"}}'
START = "%copy-start = (bf16[8,8]{1,0}, bf16[8,8]{1,0}, u32[]) copy-start(%x.1), backend_config={}"
FUSION = (
    "ROOT %fusion = bf16[8,8]{1,0} fusion(%copy), kind=kLoop, calls=%fused_computation, "
    'backend_config={"window_config":{"estimated_cycles":"5","output_window_bounds":["4","1"]}}'
)
LOOP = "%while.9 = (s32[], bf16[8,8]) while(%tuple.3), condition=%condition.3, body=%outer.body"


def test_the_entry_is_summed_and_a_fusion_counts_once():
    assert estimated_cycles(module(START, COPY, FUSION)) == 27404 + 5


def test_a_fusion_without_an_estimate_is_the_sum_of_what_it_holds():
    assert estimated_cycles(module("%f = bf16[8,8]{1,0} fusion(%copy), calls=%fused_computation")) == 7


def test_a_loop_counts_once_a_trip_and_loops_nest():
    assert estimated_cycles(module(LOOP)) == 7 * (3 * (20 + 300) + 1000)


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%branch.0, %branch.1}", "true_computation=%branch.0, false_computation=%branch.1"],
)
def test_the_costliest_branch_counts(branches):
    assert estimated_cycles(module(f"%c = (bf16[8,8]) conditional(%p, %t, %t), {branches}", FUSION)) == 60 + 5


def test_no_estimate_is_said_and_not_summed():
    below = COPY.replace("27404", str(2**64 - 1))
    with pytest.raises(NoEstimate, match="estimates -1 cycles"):
        estimated_cycles(module(below))
    with pytest.raises(NoEstimate, match="0 constants"):
        estimated_cycles(module(LOOP).replace("constant(7)", "parameter(0)"))
    with pytest.raises(NoEstimate, match="no entry"):
        estimated_cycles("HloModule jit_f")


def row(gain: float, text: str = NN, lhs: tuple[int, ...] = (8192, 4, 5), rhs: tuple[int, ...] = (8192, 5, 8)):
    cycles = {"direct": {"cycles": round(1000 * gain)}, "auto": {"cycles": 1000}}
    return {"text": text, "lhs": lhs, "rhs": rhs, "program": "alone", "layout": "default", "lowerings": cycles}


def test_what_is_promised():
    assert "above the bare dot" in broken(row(0.99))
    assert "below 5.0" in broken(row(4.9))
    assert not broken(row(5.1))
    assert not broken(row(1.0, lhs=(64, 4, 5), rhs=(64, 5, 8)))
    assert "below 2.0" in broken(row(1.9, lhs=(8192, 8, 8), rhs=(8192, 8, 8)))
    assert not broken(row(1.0, "b k, b k -> b", (8192, 16), (8192, 16)))
    assert not broken({**row(1.0), "lowerings": {"direct": {"no_estimate": "-1"}, "auto": {"cycles": 3}}})
