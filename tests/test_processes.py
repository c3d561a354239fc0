"""Several processes: plans give the right numbers across them; when one ends the others end, soon and with a reason.

The processes (`processes.py`) are real, of two CPU devices each, and talk over gloo.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh
from meshes import integers, struct
from processes import HEARTBEAT

from jbdot.devices.links import Links
from jbdot.hardware import known
from jbdot.many_devices.partition_spec import written
from jbdot.many_devices.sharding_plan import plan_sharding

SCRIPT = Path(__file__).with_name("processes.py")
GEMM = "m k, k n -> m n"


def together(what, count, folder, seconds=120):
    """Starts processes; of each gives the status, how many seconds it outlived the first that ends, and its text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    texts = [folder / f"{index}.txt" for index in range(count)]
    started = []
    try:
        for index, text in enumerate(texts):
            arguments = [sys.executable, SCRIPT, what, index, count, port, folder]
            with text.open("w") as file:
                started.append(subprocess.Popen([*map(str, arguments)], stdout=file, stderr=subprocess.STDOUT))
        ended = waited(started, seconds)
    finally:
        for process in started:  # by SIGKILL: in a process that is joined JAX catches SIGTERM, and goes on
            process.kill()
            process.wait()
    said = [text.read_text() for text in texts]
    first = min(
        (float(line.split()[-1]) for line in "".join(said).splitlines() if line.startswith("ends at")), default=0
    )
    return [(process.returncode, end - first, text) for process, end, text in zip(started, ended, said, strict=True)]


def waited(started, seconds):
    """When each process ended."""
    ended, limit = {}, time.time() + seconds
    while len(ended) < len(started):
        assert time.time() < limit, "processes hang"
        ended |= {
            at: time.time() for at, process in enumerate(started) if at not in ended and process.poll() is not None
        }
        time.sleep(0.02)
    return [ended[at] for at in range(len(started))]


@pytest.mark.parametrize("count", [2, 4])
def test_every_plan_gives_the_right_numbers_across_processes(count, tmp_path):
    for status, _, text in together("computes", count, tmp_path):
        assert status == 0, text


@pytest.mark.parametrize(
    ("what", "count", "which", "seconds"),
    [("dies", 2, 1, 1), ("dies", 4, 1, HEARTBEAT + 1), ("dies", 4, 0, 1), ("raises", 2, 1, 1)],
)
def test_when_one_ends_the_others_end(what, count, which, seconds, tmp_path):
    found = together(f"{what} {which}", count, tmp_path)
    want = integers((16, 32)) @ integers((32, 24), 1)
    for index, (status, after, text) in enumerate(found):
        np.testing.assert_array_equal(np.load(tmp_path / f"{index}.npy"), want)  # what was saved before
        if index == which:
            assert status == (7 if what == "dies" else 1)
            assert what == "dies" or "jbdot: process 1 of 2 ends: ValueError: a mistake of the user's" in text
        else:
            assert status != 0
            assert after < seconds + 2, text  # two for a busy machine
            assert "another process ended first" in text or "another task died" in text


# Over slow links little is sent, where there is a choice.


class Device:
    """As much of a device as planning looks at."""

    platform = "tpu"

    def __init__(self, number, kind="TPU v5 lite", chips=16):
        self.id, self.device_kind, self.core_on_chip = number, kind, 0
        self.process_index = self.slice_index = number // chips
        self.coords = (number % chips // 4, number % 4, 0)


def far_and_near(way, links, axis):
    """Bytes that each device sends over an axis that leaves the slice or node, and others; groups are nested."""
    far = 0
    for _, route in way.ways:
        for step, block in zip(route.steps, route.blocks, strict=False):
            if axis in step.axes:
                group = links.group(step.axes)
                peers = group.nodes - 1 if step.kind != "all-to-all" else group.size - group.size // group.nodes
                far += step.sent(block) * (1 if step.kind == "permute" else peers / (group.size - 1))
    return far, way.sent - far


SLICES = Mesh(np.array([Device(number) for number in range(32)]).reshape(2, 16), ("far", "near"))
NODES = AbstractMesh((4, 8), ("far", "near"))


@pytest.mark.parametrize(("on", "kind"), [(SLICES, "TPU v5 lite"), (NODES, "NVIDIA H100 80GB HBM3")])
@pytest.mark.parametrize(
    ("lhs", "rhs", "out"),
    [
        ((("far", "near"), ()), (("far", "near"), ()), (("far", "near"), ())),
        ((("far", "near"), ()), (("near", "far"), ()), (("far", "near"), ())),
        (((), ("far", "near")), (("far", "near"), ()), (("far",), ("near",))),
        ((("far",), ("near",)), (("far",), ("near",)), (("far",), ("near",))),
        (((), ("far", "near")), (("far", "near"), ()), None),
    ],
)
def test_little_is_sent_between_slices_and_nodes(on, kind, lhs, rhs, out):
    operands = (struct((4096, 4096), "bfloat16", on, sharding) for sharding in (lhs, rhs))
    plan = plan_sharding(GEMM, *operands, None if out is None else written(out), hardware=known(kind))
    links = Links.of(on, plan.hardware)
    assert links.group("far").crosses
    assert not links.group("near").crosses
    far, near = far_and_near(plan.winner, links, "far")
    assert 0 < 2 * far < near
    assert far == min(far_and_near(way, links, "far")[0] for way, _ in plan.candidates)


def test_cpu_processes_are_nodes():
    devices = [Device(number, "cpu", 2) for number in range(4)]
    for device in devices:  # as jax 0.10.2 and 0.12.0.1 have them, on one machine and whatever partition_index says
        device.platform, device.slice_index, device.coords = "cpu", 0, None
    links = Links.of(Mesh(np.array(devices).reshape(2, 2), ("host", "local")))
    assert links.group("host").crosses
    assert not links.group("local").crosses


def test_no_process_asks_a_file_of_its_own(tmp_path):
    for status, _, text in together("tuned", 2, tmp_path):
        assert status == 0, text
    texts = [(tmp_path / f"{index}.mlir").read_text() for index in range(2)]
    assert texts[0] == texts[1]
