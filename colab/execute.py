"""Executes the notebooks beside it, each in a clean kernel, and stores what they print and draw.

    python colab/execute.py [names]        # such as understanding_batch_dot; all by default

The kernel is this Python; none need be registered. What changes from run to run and means nothing is not stored: times
of execution, addresses, machine paths, what libraries write to stderr. Needs nbclient and ipykernel: the extra `test`.
"""

import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SECONDS = 180  # that a cell may take
SETTINGS = {
    "JBDOT_TUNED": "off",  # what was tuned on this machine is nobody else's
    "SOURCE_DATE_EPOCH": "0",  # the date in pictures
    "JAX_PPRINT_USE_COLOR": "0",  # codes for a terminal's colours
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's warning about frozen modules
}
# Within cells only: what the kernel itself does before, between and after them warns at times.
WARNINGS = "--IPKernelApp.exec_lines=" + "; ".join(
    (
        "import warnings as _warnings",
        "get_ipython().events.register('pre_run_cell', lambda _: _warnings.simplefilter('error'))",
        "get_ipython().events.register('post_run_cell', lambda _: _warnings.resetwarnings())",
    )
)


def execute(notebook: Any, environment: Mapping[str, str] | None = None, warnings_are_errors: bool = False) -> None:
    """Executes a notebook in place, in a clean kernel of this Python, in the folder of the notebooks.

    Args:
        notebook: As `nbformat.read` gives it; its outputs are replaced.
        environment: Variables that the kernel gets beside this process' own.
        warnings_are_errors: Whether a warning in a cell is an error.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "matplotlibrc").write_text("svg.hashsalt: jbdot\n")  # names within a picture
        own = {"IPYTHONDIR": folder, "MATPLOTLIBRC": folder, **SETTINGS}
        manager = AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # no registered kernel: ipykernel in this Python
            connection_file=str(Path(folder, "kernel.json")),
            transport="ipc",  # two kernels that start at once may take the same port
        )
        client = NotebookClient(
            notebook,
            manager,
            timeout=SECONDS,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(HERE)}},
            extra_arguments=[WARNINGS] if warnings_are_errors else [],
        )
        client.execute(env=os.environ | own | dict(environment or {}), cleanup_kc=True)
    clean(notebook)


def clean(notebook: Any) -> None:
    """Takes out of an executed notebook what changes from run to run and means nothing."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.update(anywhere(dict(output)))


def anywhere(found: Any) -> Any:
    """Gives an output with its paths and addresses taken out, wherever in it they are."""
    if isinstance(found, dict):
        return nbformat.from_dict(
            {name: value if name == "image/png" else anywhere(value) for name, value in found.items()}
        )
    if isinstance(found, list):
        return [anywhere(value) for value in found]
    return general(found) if isinstance(found, str) else found


def general(text: str) -> str:
    """Says paths and addresses without what is this machine's.

    Example:
        >>> general("<function f at 0x7f01> in /tmp/ipykernel_12/345.py")
        '<function f at 0x...> in <cell>'
    """
    text = re.sub(r"(/[\w.-]+)*/ipykernel_\d+/\d+\.py", "<cell>", text)
    text = re.sub(r"\b0x[0-9a-f]{4,}", "0x...", text)
    names = {str(HERE.parent): ".", sys.prefix: "<python>", sys.base_prefix: "<python>", str(Path.home()): "~"}
    for path in sorted(names, key=len, reverse=True):  # one may lie within another
        text = text.replace(f"{path}/", f"{names[path]}/")
    return text


def main(names: list[str]) -> None:
    """Executes the named notebooks, or all, and stores them."""
    for path in [HERE / f"{Path(name).stem}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        nbformat.write(notebook, path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
