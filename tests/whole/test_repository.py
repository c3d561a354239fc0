"""What stands around the package: workflows that call the parts of `.ci/run`, forms, and versions said twice."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN = (ROOT / ".ci" / "run").read_text()
FORMS = [*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
WORKFLOWS = [*(ROOT / ".github" / "workflows").glob("*.yml")]


def read(path):
    """Reads a YAML file, where the extra docs, which brings a reader, is installed."""
    return pytest.importorskip("yaml").safe_load(path.read_text())


@pytest.mark.parametrize("path", [*FORMS, *WORKFLOWS], ids=lambda path: path.name)
def test_files_are_yaml(path):
    found = read(path)
    assert isinstance(found, dict)
    if path in WORKFLOWS:  # a bare `on` is a boolean to this reader
        assert {"name", True, "jobs", "permissions"} <= found.keys()
        assert all("uses" in job or "steps" in job for job in found["jobs"].values())


def test_the_workflow_runs_every_part_on_every_python():
    (job,) = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"].values()
    runs = job["strategy"]["matrix"]["include"]
    (parts,) = re.findall(r'^parts="(.*)"$', RUN, re.MULTILINE)
    assert {run["part"] for run in runs} == set(parts.split())
    assert set(parts.split()) <= set(re.findall(r"^(\w+)\(\)", RUN, re.MULTILINE))
    pythons = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d", line)]
    assert {run["python"] for run in runs} == set(pythons)
    assert "'prerelease'" in job["continue-on-error"]


def test_run_knows_its_parts():
    done = subprocess.run(["bash", ROOT / ".ci" / "run", "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("there is no part nothing: oldest ")


def test_versions_agree():
    ruff = next(need for need in PROJECT["project"]["optional-dependencies"]["lint"] if need.startswith("ruff"))
    (hooks,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert hooks["rev"] == f"v{ruff.removeprefix('ruff==')}"
    assert read(ROOT / "CITATION.cff")["version"] == PROJECT["project"]["version"]
