"""What every test needs: eight CPU devices, 64-bit types where asked, no caches from other tests' settings."""

import jax
import pytest

collect_ignore = ["data"]

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
