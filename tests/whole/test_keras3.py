"""The page on Keras 3: its program runs as it stands, where Keras is installed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "pages" / "how-to" / "keras3.md"


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras comes with the extra peers")
def test_program_prints_what_the_page_says(tmp_path):
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (printed,) = re.findall(r"^print\(.*\)  # (.*)$", source, re.MULTILINE)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "KERAS_HOME": str(tmp_path)}  # it keeps its settings there
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == printed
