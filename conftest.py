"""What every test and doctest needs: eight CPU devices, 64-bit types where asked, nothing of what was tuned here."""

import os

os.environ["JBDOT_TUNED"] = "off"  # the user's own file is neither read nor written

import jax
import pytest

collect_ignore = ["tests/data"]

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    """64-bit types, for one test."""
    with jax.enable_x64(True):
        yield
