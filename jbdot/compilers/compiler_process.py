"""The process in which a compiler runs, as the user's process holds it: started when it is first asked, and then kept.

Whatever the compiler prints, leaves behind or crashes on stays there. What runs within it is `worker`.
"""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

from jbdot.core.errors import BadValue, Refusal

QUIET: Final = {  # libtpu neither looks for a TPU nor writes logs, and two processes may load it
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_ENVIRONMENT: Final = {
    **QUIET,
    "JAX_ENABLE_X64": "1",  # a result may have 64 bits; the module is not touched by it
    "JAX_ENABLE_COMPILATION_CACHE": "0",  # the seconds are those of compiling
    "PYTHONWARNINGS": "ignore",  # where they are errors to the user, none may end the compiler
}


class NotCompiled(Refusal, RuntimeError):
    """A program that the compiler refuses, or that it ends or hangs on."""

    kind = RuntimeError


class CompilerProcess:
    """A process that compiles: started when it is first asked, and anew after it is lost."""

    def __init__(self, command: Sequence[str], name: str) -> None:
        self._command, self._name = command, name
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def ask(self, task: Any, timeout_s: float) -> dict[str, Any]:
        """Sends a task and waits for the answer; a child that hangs, ends or is left waiting for is ended."""
        with self._lock:
            try:
                answer = self._answer(task, timeout_s)
            except BaseException:
                self.end()
                raise
        if "refused" in answer:
            raise BadValue(*answer["refused"])
        if "failed" in answer:
            raise NotCompiled("the compiler must take the program", answer["failed"])
        return answer

    def _answer(self, task: Any, timeout_s: float) -> dict[str, Any]:
        fresh = self._running is None
        process, connection = self._running = self._running or self._start()
        try:
            if fresh:
                _heard(connection, timeout_s)  # that it is there
            connection.send(task)
            return cast(dict[str, Any], _heard(connection, timeout_s))
        except TimeoutError:
            facts = f"the {self._name} compiler has not answered after {timeout_s:g} s, and was ended"
            raise NotCompiled("a program must be compiled within timeout_s", facts) from None
        except (EOFError, OSError):
            facts = f"the {self._name} compiler ended {_ending(process)}; its last lines: {self._last_lines()}"
            raise NotCompiled("the compiler must answer", facts, "The next call starts a new one") from None

    def _start(self) -> tuple[subprocess.Popen[bytes], Connection]:
        """Starts it in a folder of its own: nothing that it prints or leaves behind shows."""
        self._folder = tempfile.TemporaryDirectory(prefix="jbdot-witness-")
        atexit.register(self.end)  # after the folder's own, so that it goes first
        ours, theirs = Pipe()
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        with open(Path(self._folder.name) / "log", "wb") as log, theirs:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # an interrupt at the keyboard is ours to handle
            )
        return process, ours

    def _last_lines(self) -> str:
        log = Path(self._folder.name) / "log" if self._folder else None
        lines = log.read_text(errors="replace").splitlines() if log else []
        return " | ".join(line.strip() for line in lines[-5:]) or "none"

    def end(self) -> None:
        """Ends it, if it runs."""
        if self._running:
            process, connection = self._running
            self._running = None
            connection.close()
            process.kill()
            process.wait()
        if self._folder:
            self._folder.cleanup()
            self._folder = None


def _heard(connection: Connection, timeout_s: float) -> Any:
    if not connection.poll(timeout_s):
        raise TimeoutError
    return connection.recv()


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "still running"
    return f"by signal {-code}" if code < 0 else f"with status {code}"


@functools.cache
def process_of(platform: str, pid: int) -> CompilerProcess:
    """Returns the process of a platform's compiler. A process that was forked from this one has its own."""
    del pid
    return CompilerProcess([sys.executable, "-m", "jbdot.compilers.worker"], platform.upper())
