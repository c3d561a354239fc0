"""What every test and doctest needs: eight CPU devices, 64-bit types where asked, nothing of what was tuned here."""

import contextlib
import io
import os
import re

os.environ["JBDOT_TUNED"] = "off"  # the user's own file is neither read nor written

import jax
import pytest

collect_ignore = ["tests/data"]

jax.config.update("jax_platforms", os.environ.get("JBDOT_TEST_PLATFORMS", "cpu"))  # another: `benchmarks.gpu` sets it
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    """64-bit types, for one test."""
    with jax.enable_x64(True):
        yield


def pytest_collect_file(file_path, parent):
    """README: its blocks of Python are tests."""
    return Readme.from_parent(parent, path=file_path) if file_path.name == "README.md" else None


class Readme(pytest.File):
    """README's blocks of Python, each run alone, as a reader pastes it."""

    def collect(self):
        """Reads what a block prints off the comments after its prints, and those that are lines of their own."""
        for source in re.findall(r"^```python\n(.*?)^```", self.path.read_text(), re.MULTILINE | re.DOTALL):
            prints = re.findall(r"^(?:print\(.*\)  )?# (.*)$", source, re.MULTILINE)
            yield Block.from_parent(self, name=source.splitlines()[-1], source=source, prints=prints)


class Block(pytest.Item):
    """A block of Python, and the lines that it prints."""

    def __init__(self, *, source, prints, **settings):
        super().__init__(**settings)
        self.source, self.prints = source, prints

    def runtest(self):
        """Runs the block in a namespace of its own."""
        assert self.prints, "a block shows what it prints"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(self.source, str(self.path), "exec"), {})
        assert printed.getvalue().splitlines() == self.prints
