"""The sums and promises of the benchmark of plans, on made-up rows; the compiler is not asked."""

import json

import pytest

from benchmarks.plans import (
    RESULTS,
    TEXTS,
    TOPOLOGIES,
    Case,
    case_of,
    cases,
    drawn,
    more_bytes,
    more_room,
    named,
    plan_of,
    report,
    summary,
    twice_the_work,
)
from jbdot.core.contraction import Contraction
from jbdot.devices.links import Links
from jbdot.hardware import of_topology
from jbdot.many_devices.block import Block
from jbdot.many_devices.plain_jit import plain_way
from jbdot.many_devices.task import Task


def row(plain=100, plan=50, out="x,", trades=False, is_plain=False, flops=16, temp=(0, 0), counted=None):
    figures = {"flops": flops, "collectives": [], "compile_s": 0.1}
    return {
        "topology": "v5e:4x4", "text": "m k, k n -> m n", "lhs": "x,", "rhs": ",", "out": out, "way": "m on x",
        "is_plain": is_plain, "spec": "P('x')", "counted": plan if counted is None else counted, "bound": 30,
        "estimated_us": 1.0, "flops": 256, "plain_expected": plain, "trades": trades,
        "plain": {"sent": plain, "temp_bytes": temp[0], **figures},
        "plan": {"sent": plan, "temp_bytes": temp[1], **figures},
    }  # fmt: skip


def test_promises():
    assert not more_bytes(row(100, 100))
    assert more_bytes(row(100, 101, counted=100))
    assert not more_bytes(row(100, 101))  # it says that plain jit sends less
    assert not more_bytes(row(100, 101, trades=True))
    assert more_room(row(temp=(0, 2 << 20)))
    assert not more_room(row(temp=(100 << 20, 105 << 20)))
    assert twice_the_work(row(out=None, flops=32))
    assert not twice_the_work(row(out=None, flops=16))
    assert not twice_the_work(row(out="x,", flops=32))


def test_summary_counts_rows():
    failed = {**row(), "plan": {"failed": "Unreadable: a loop"}}
    facts = dict(summary([row(100, 50), row(100, 25), row(10, 20, trades=True), row(0, 0, is_plain=True), failed]))
    assert facts["combinations compiled"] == "4 of 5 asked"
    assert facts["plain jit's bytes over the plan's: geometric mean, most"] == "1.59, 4"
    assert facts["the plan sends more than plain jit, and does not say so"] == "0"
    assert facts["the plan sends more, and says so: it is expected to be faster by a fifth, or does less work"] == "1"
    assert facts["the compiled plan sends what was counted, within 1 %"] == "3 of 3"
    assert facts["plain jit's bytes are estimated within 10 %, within a factor of two"].endswith("of 4")
    text = report([row()], {"jax": "1"})
    assert "| v5e:4x4 | m k, k n -> m n | `x,` | `,` | `x,` | m on x |" in text


def test_there_are_enough_cases_and_each_has_a_plan():
    found = cases()
    assert len({str(case) for case in found}) > 200
    assert {case.topology for case in found} == set(TOPOLOGIES)
    for case in [*named()[:4], *found[100:106]]:
        assert plan_of(case).bound <= plan_of(case).sent * (1 + 1e-9)


@pytest.mark.parametrize("case", [Case("v5e:4x4", "m k, k n -> m n", "x,", ",", None)])
def test_a_case_is_told_in_short(case):
    assert str(case) == "v5e:4x4 m k, k n -> m n: x,; , -> None"


def test_cases_that_are_drawn_are_the_seeds():
    found = drawn(1, 20)
    assert found == drawn(1, 20)
    assert found != drawn(2, 20)
    assert all(plan_of(case).contraction for case in found[:3])


def task_of(case):
    c, shapes = Contraction.parse(case.text), TEXTS[case.text]
    sizes = dict(zip("xy", TOPOLOGIES[case.topology], strict=True))
    specs = (case.lhs, case.rhs, case.out)
    *specs, out = (None if spec is None else tuple(map(tuple, spec.split(","))) for spec in specs)
    blocks = (Block.of(shape, "bfloat16", cut, sizes) for shape, cut in zip(shapes, specs, strict=True))
    return Task(c, sizes, *blocks, out, c.out_shape(*shapes), "bfloat16", "bfloat16")


@pytest.mark.parametrize(
    ("name", "near", "twice", "rows"), [("plans", 318, 320, 320), ("plans-random-1", 281, 284, 285)]
)
def test_plain_jits_bytes_are_those_that_were_compiled(name, near, twice, rows):
    """Of stored rows, without compiling: how many are within a tenth, and within a factor of two."""
    stored = [json.loads(line) for line in (RESULTS / f"{name}-jax-0.12.0.1.jsonl").read_text().splitlines()]
    assert len(stored) == rows
    over = []
    for row in stored:
        task = task_of(case_of(row))
        links = Links.of(task.mesh, of_topology(row["topology"]))
        sent, compiled = plain_way(task, links).sent, row["plain"]["sent"]
        over.append(max(sent, compiled, 1) / max(1, min(sent, compiled)))
    assert sum(each <= 1.1 for each in over) == near
    assert sum(each <= 2 for each in over) == twice
