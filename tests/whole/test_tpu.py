"""What is promised of the TPU compiler's estimates. The compiler itself is not needed; `jbdot.hlo` reads its text."""

from benchmarks.tpu import NN, broken


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
