"""The command for a GPU, on a CPU: it finds what it says, keeps to its time, and goes on where it stopped."""

import json
import random
import re
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.profiler import ProfileData

from benchmarks import gpu, gpu_experts, gpu_int8, gpu_report
from benchmarks.device_trace import MARK, spans
from benchmarks.drawn import LARGE, MEDIUM, Range, drawn
from benchmarks.gpu_arithmetic import MATRICES, VECTOR, Asked, asked, expected_of, judged, models, nearest
from jbdot.one_device.choice import chosen
from jbdot.one_device.dot_spec import DotSpec

TINY = Range((1, 1 << 12), (1, 1 << 10))


def test_drawn_contractions_are_sound_and_within_their_range():
    rng = random.Random(3)
    for within in (MEDIUM, LARGE):
        for _ in range(50):
            spec = drawn(rng, "int8", within)
            assert within.work[0] <= spec.batch * spec.m * spec.n * spec.k <= within.work[1]
            assert max(np.prod(shape) for shape in (spec.lhs, spec.rhs, spec.out)) <= within.elements[1]
            assert spec.dtype == "int32"
    assert gpu.spec_of("random 7 seed 1") == gpu.spec_of("random 7 seed 1") != gpu.spec_of("random 7 seed 2")


TF32 = "float32 summed; the factors rounded to TF32 (10 bits) on Ampere and later, but for one row or column alone"


@pytest.mark.parametrize(
    ("dot", "said", "model"),
    [
        (Asked(MATRICES, "float32"), TF32, "TF32 factors"),
        (Asked(MATRICES, "complex64"), TF32, "TF32 factors"),
        (Asked(MATRICES, "float32", None, "highest"), "products and sums in float32", "exact"),
        (Asked(MATRICES, "float32", None, "BF16_BF16_F32"), "the algorithm BF16_BF16_F32, as", "bfloat16 factors"),
        (
            Asked(MATRICES, "float32", None, "BF16_BF16_F32_X3"),
            "the algorithm BF16_BF16_F32_X3",
            "two bfloat16 a factor",
        ),
        (Asked(VECTOR, "float16"), "each product is rounded to float16, summed in float32", "products rounded"),
        (Asked(MATRICES, "bfloat16"), "exact products, summed in float32, rounded once to bfloat16", "exact"),
    ],
    ids=str,
)
def test_arithmetic_is_told_by_its_numbers(dot, said, model):
    """Of a result by each model, what is said is true of one alone."""
    out = jnp.dtype(dot.out or dot.dtype).name
    found = models(dot, dot.operands(), out)
    assert len(found) > 1
    verdicts = {name: judged(dot, result.astype(out), said) for name, result in found.items()}
    assert [name for name, row in verdicts.items() if row["is_true"]] == [model]
    assert verdicts[model]["nearest"] == model


def test_whole_numbers_must_be_equal_and_a_refusal_is_said_before():
    dot = Asked(VECTOR, "int8", "int32", odd="mkn")
    exact = models(dot, dot.operands(), "int32")["exact"]
    assert judged(dot, exact, "exact, as far as int32 holds")["is_true"]
    off = judged(dot, exact + np.arange(7, dtype=np.int32), "exact, as far as int32 holds")
    assert (off["wrong"], off["is_true"]) == (6, False)
    assert judged(dot, "XlaRuntimeError: no", "refused: a GPU has no such")["is_true"]
    assert judged(dot, "XlaRuntimeError: no", "exact, as far as int32 holds")["is_true"] is False
    assert judged(dot, "XlaRuntimeError: no", "is not known")["is_true"] is None
    assert expected_of("how a GPU's libraries sum, and whether they do, is not known") is None
    assert len({str(one) for one in asked()}) == len(asked())


RECORDED = sorted((Path(gpu_report.__file__).parent / "results").glob("gpu-*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_explain_says_is_what_was_recorded(path, x64):
    """Of each dot that a GPU ran: the arithmetic, or that it is refused; and what came out wrong is not run so."""
    _, found = gpu_report.load(path)
    said = {str(one): one for one in asked()}
    rows = [row for key, row in found["arithmetic"].items() if key in said]
    assert len(rows) > 55
    for row in rows:
        one = said[row["key"]]
        words = one.said("gpu")
        if "refused" in row:
            assert words.startswith("refused"), row["key"]
        elif row.get("wrong"):
            c = one.contraction
            spec = DotSpec.of(*one.operands(), jax.ShapeDtypeStruct((), one.out), c.dimension_numbers, None)
            assert chosen(spec, "cuda").lowering == "evened", row["key"]
            assert "padded to a multiple of 4" in words
        else:
            assert expected_of(words) in (None, *nearest(row)), row["key"]


def test_int8_was_wrong_over_odd_sizes_alone_and_twice_what_it_is():
    wrong = [row for path in RECORDED for row in gpu_report.load(path)[1].get("int8", {}).values() if row.get("wrong")]
    assert wrong
    for row in wrong:
        assert int(re.match(r"\d+ x (\d+) by", row["key"])[1]) % 2 == 1
        assert row["got"] == [2 * each for each in row["want"]]


PROFILE = """
planes {{ name: "/device:GPU:0"
  event_metadata {{ key: 1 value {{ id: 1 name: "gemm" }} }}
  lines {{ id: 1 name: "Stream #13" timestamp_ns: 1000
    events {{ metadata_id: 1 offset_ps: 1000000 duration_ps: 2000000 }}
    events {{ metadata_id: 1 offset_ps: 4000000 duration_ps: 3000000 }}
    events {{ metadata_id: 1 offset_ps: 21000000 duration_ps: 5000000 }} }}
  lines {{ id: 2 name: "XLA Ops" timestamp_ns: 1000
    events {{ metadata_id: 1 offset_ps: 1000000 duration_ps: 9000000 }} }}
}}
planes {{ name: "/host:CPU"
  event_metadata {{ key: 1 value {{ id: 1 name: "{mark}0" }} }}
  event_metadata {{ key: 2 value {{ id: 2 name: "{mark}1" }} }}
  lines {{ id: 1 name: "python" timestamp_ns: 1000
    events {{ metadata_id: 1 offset_ps: 0 duration_ps: 5000 }}
    events {{ metadata_id: 2 offset_ps: 20000000 duration_ps: 5000 }} }}
}}
"""


def test_a_profile_gives_the_time_on_the_device():
    serialized = ProfileData.text_proto_to_serialized_xspace(PROFILE.format(mark=MARK))
    found = spans(ProfileData.from_serialized_xspace(serialized))
    assert found[0] == {"device_us": [6.0], "busy_us": [5.0], "kernels": [2]}
    assert found[1] == {"device_us": [5.0], "busy_us": [5.0], "kernels": [1]}


def test_outcomes_are_read_with_workers_and_without():
    text = "\n".join(
        [
            "tests/a.py::test_one PASSED                  [ 10%]",
            "tests/a.py::test_two[x y] FAILED",
            "[gw3] [ 20%] PASSED tests/b.py::test_three[b m, k] ",
            "[gw3] [ 20%] SKIPPED tests/b.py::test_four ",
            "FAILED tests/a.py::test_two[x y] - AssertionError: no",
            "1 failed, 2 passed in 3 s",
        ]
    )
    assert gpu.outcomes_of(text) == {
        "tests/a.py::test_one": "PASSED",
        "tests/a.py::test_two[x y]": "FAILED",
        "tests/b.py::test_three[b m, k]": "PASSED",
        "tests/b.py::test_four": "SKIPPED",
    }


def test_marks_and_names_are_no_difference():
    text = 'module @jit_run {\n %0 = stablehlo.dot_general {mhlo.frontend_attributes = {jbdot_call = "auto"}} : (x)\n}'
    assert gpu.program_text(text) == "module {\n %0 = stablehlo.dot_general : (x)\n}"


def run(folder, *more):
    few = ["--count", "2", "--small", "--only", "^capsules, sum", "--tests", "tests/whole/test_tpu.py"]
    return gpu.main(["--results", str(folder), *few, *more])


@pytest.fixture
def few(monkeypatch):
    """Little to do of each part."""
    monkeypatch.setenv("JBDOT_TUNED", "off")
    monkeypatch.setattr(gpu, "MEDIUM", TINY)
    monkeypatch.setattr(gpu, "LARGE", TINY)
    monkeypatch.setattr(gpu, "GEMM", 16)
    monkeypatch.setattr(gpu, "MEMORY", 1 << 12)
    monkeypatch.setattr(gpu, "COMPILING_S", 600.0)  # however busy the machine is
    monkeypatch.setattr(gpu, "BLOCK_MS", (0.0, 0.0))
    monkeypatch.setattr(gpu, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu, "PLANS", {"matrices": (MATRICES, (8, 8), (8, 8), "bfloat16")})
    one = [Asked(MATRICES, "int8", "int32", odd="mkn"), Asked(VECTOR, "float32", odd="mkn")]
    monkeypatch.setattr(gpu, "asked", lambda: one)
    few_int8 = [gpu_int8.Asked(3, 2, 5, way) for way in ("bare", "padded to 4")]
    monkeypatch.setattr(gpu_int8, "asked", lambda: few_int8)
    monkeypatch.setattr(gpu_experts, "DTYPES", ("float32",))


def test_a_run_measures_each_part_once_and_reports(tmp_path, few, capsys):
    assert run(tmp_path, "--seconds", "0", "--parts", "choice", "arithmetic") == 0
    (path,) = tmp_path.glob("gpu-*.jsonl")
    assert "| choice | 2 | 2 |" in path.with_suffix(".md").read_text()

    assert run(tmp_path, "--seconds", "600") == 0
    stored = path.read_text()
    _, found = gpu_report.load(path)
    assert [row["PASSED"] for row in found["tests"].values() if "PASSED" in row] == [1]
    assert {name: len(found[name]) for name in ("arithmetic", "plan", "choice", "workloads")} == {
        **{"arithmetic": 2, "plan": 1, "choice": 2, "workloads": 2}
    }
    assert all(row["is_true"] for row in found["arithmetic"].values())
    for row in found["choice"].values():
        assert row["auto"] in row["same"]
        assert all(gpu_report.way(row, name)["us"] for name in row["same"])
        assert not any(gpu_report.is_wrong(row, name) for name in row["same"])
    assert len(found["experts"]) == 2  # forward, and gradients
    for row in found["experts"].values():
        assert gpu_report.way(row, "grouped")["far"] < 1e-6
        assert all(gpu_report.way(row, name)["us"] for name in gpu_experts.WAYS)
    for row in found["workloads"].values():
        assert len(row["ways"]["bare again"]["us"]) >= 5
    report = path.with_suffix(".md").read_text()
    assert "None." in report.split("## Not reached")[1]
    assert all(picture.stat().st_size > 1000 for picture in tmp_path.glob("*.png"))

    assert run(tmp_path, "--seconds", "600") == 0
    assert path.read_text() == stored

    first, rest = stored.split("\n", 1)
    path.write_text(json.dumps(json.loads(first) | {"device": "another"}) + f"\n{rest}")
    with pytest.raises(SystemExit, match="another"):
        run(tmp_path)


def choice_row(**us):
    ways = {name: {"us": [times] * 7, "far": 0.0} for name, times in us.items()}
    return {
        "key": "a",
        "dot": "m k, k n -> m n",
        "dtype": "int8",
        "auto": "direct",
        "same": {n: n for n in us},
        "ways": ways,
    }


def test_regret_is_over_the_best_that_is_right():
    row = choice_row(direct=10.0, pinned=4.0, reduced=2.0)
    assert gpu_report.regret(row) == (5.0, "reduced", 1.0)
    row["ways"]["reduced"]["far"] = 0.5
    assert gpu_report.regret(row) == (2.5, "pinned", 1.0)
    row["ways"]["pinned"]["device_us"] = [8.0] * 4 + [20.0] * 4
    assert gpu_report.regret(row) == (0.5, "pinned", 1.0)


class Slow:
    """A program that takes longer than one waits."""

    def compile(self, compiler_options):
        time.sleep(0.3)


def test_a_program_that_fails_is_told_and_the_others_are_timed(monkeypatch):
    def refuse(x):
        raise ValueError("no such program")

    case = gpu.Programs("a", {"good": jnp.tanh, "bad": refuse, "same": jnp.tanh}, [np.ones(4, np.float32)], {})
    case.prepare()
    assert list(case.lowered) == ["good"]
    monkeypatch.setattr(gpu, "COMPILING_S", 0.0)
    lowered = case.lowered["good"]
    case.lowered["good"] = Slow()
    gpu.compile_all([case], {})
    assert case.measures["good"] == {"failed": "not compiled in 0 s"}
    monkeypatch.setattr(gpu, "COMPILING_S", 60.0)
    case.lowered["good"] = lowered
    gpu.compile_all([case], {"xla_cpu_enable_fast_math": False})
    case.run(lambda results: {})
    assert case.same == {"good": "good", "bad": "bad", "same": "good"}
    assert case.measures["bad"] == {"failed": "ValueError: no such program"}
    assert len(case.measures["good"]["us"]) >= 5
