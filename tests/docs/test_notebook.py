"""The notebook runs and shows what is stored in it. `WRITE_PAGES=1` stores what it shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def shown(cell: Any) -> list[str]:
    """What a cell prints, and the kinds of what else it shows."""
    return [
        "".join(output["text"]) if output["output_type"] == "stream" else str(sorted(output["data"]))
        for output in cell.get("outputs", [])
    ]


@pytest.mark.enable_socket
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter's own
def test_the_notebook_shows_what_is_stored(tmp_path: Path) -> None:
    stored, found = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    manager = AsyncKernelManager(
        kernel_cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        transport="ipc",
        ip=str(tmp_path / "kernel"),
    )
    client = NotebookClient(
        found,
        km=manager,
        timeout=600,
        startup_timeout=300,
        coalesce_streams=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    for cell in found.cells:
        cell.get("metadata", {}).pop("execution", None)
        cell["outputs"] = [each for each in cell.get("outputs", []) if each.get("name") != "stderr"]
        if cell["cell_type"] != "code":
            del cell["outputs"]
    if os.environ.get("WRITE_PAGES"):
        nbformat.write(found, NOTEBOOK)
        return
    assert [shown(cell) for cell in found.cells] == [shown(cell) for cell in stored.cells]
    assert sum(map(len, map(shown, stored.cells))) >= 6
