"""A compiler's process that ends or hangs: what is said of it, and the next."""

import sys

import pytest

from jbdot.compilers.compiler_process import CompilerProcess


def started(script):
    return CompilerProcess(
        [sys.executable, "-c", f"import sys; from multiprocessing.connection import Connection\n{script}"], "TPU"
    )


def test_one_that_ends_is_said_with_its_last_lines_and_the_next_is_a_new_one(tmp_path):
    there = "c = Connection(int(sys.argv[1])); c.send('ready'); task = c.recv()\n"
    fails_once = started(
        f"{there}import os, pathlib; seen = pathlib.Path(task)\n"
        "if seen.exists(): c.send({'device_kind': 'kept'}); c.recv()\n"
        "seen.touch(); print('the last words', file=sys.stderr, flush=True); os.abort()"
    )
    with pytest.raises(RuntimeError, match=r"TPU compiler ended by signal 6; its last lines: the last words"):
        fails_once.ask(str(tmp_path / "seen"), 60)
    assert fails_once.ask(str(tmp_path / "seen"), 60) == {"device_kind": "kept"}
    fails_once.end()


def test_one_that_hangs_is_ended():
    hangs = started("import time; time.sleep(600)")
    with pytest.raises(RuntimeError, match=r"has not answered after 0\.2 s, and was ended"):
        hangs.ask("anything", 0.2)
    assert hangs._running is None
