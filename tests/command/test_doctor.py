"""What is here, as rows: for a CPU, for accelerators that are stood in for, and for a machine that lacks things."""

import types

import jax
import pytest

from jbdot.command import doctor


def device(kind, platform="tpu", process_index=0, stats=None, **others):
    return types.SimpleNamespace(
        device_kind=kind, platform=platform, process_index=process_index, memory_stats=lambda: stats, **others
    )


def test_versions_devices_and_extras():
    rows = dict(doctor.found())
    assert rows["jax"] == jax.__version__
    assert rows["device"] == "8 x cpu: cpu"
    assert "cores" in rows["processor"]
    assert "GB of memory" in rows["processor"]
    assert rows["64-bit types"].startswith("off")
    assert {f"extra {extra}" for extra in doctor.EXTRAS} <= set(rows)


def test_extras_are_those_of_the_package():
    from importlib.metadata import metadata

    assert set(doctor.EXTRAS) <= set(metadata("jbdot").get_all("Provides-Extra"))


def test_an_accelerator_shows_its_memory_and_published_figures(monkeypatch):
    stats = {"bytes_limit": 15_750_000_000}
    others = [device("TPU v5 lite", process_index=1) for _ in range(4)]
    monkeypatch.setattr(jax, "devices", lambda: [device("TPU v5 lite", stats=stats) for _ in range(4)] + others)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    rows = dict(doctor.devices())
    assert rows["device"] == "8 x tpu: TPU v5 lite, 15.8 GB of memory each"
    assert rows["published, TPU v5e"].startswith("197 TFLOP/s in bfloat16, ")
    assert rows["processes"] == "2, this one is 0"


def test_devices_of_which_nothing_is_known(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [device("abacus"), device("cpu", "cpu", stats={"bytes_in_use": 1})])
    rows = doctor.devices()[1:]
    assert rows == [("device", "1 x tpu: abacus"), ("device", "1 x cpu: cpu")]


def test_what_is_missing(monkeypatch):
    def none():
        raise RuntimeError("no backend")

    monkeypatch.setitem(doctor.EXTRAS, "cli", ("typer", "absent-package"))
    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setattr(jax, "default_backend", none)
    monkeypatch.delattr("os.sysconf")
    rows = dict(doctor.found())
    assert rows["extra cli"].endswith(" missing: absent-package; pip install absent-package")
    assert rows["device"] == "missing: no backend"
    assert rows["processor"].endswith("cores")
    assert "large results" not in rows


@pytest.mark.parametrize(
    ("tunables", "preload", "says"),
    [
        ("", "", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=1", "", "malloc is set: glibc.malloc.hugetlb=1"),
        ("", "libjemalloc.so", "malloc is set: libjemalloc.so"),
    ],
)
def test_what_malloc_does(monkeypatch, tunables, preload, says):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    if preload:
        monkeypatch.setenv("LD_PRELOAD", preload)
    assert says in doctor.large_results(tunables)
