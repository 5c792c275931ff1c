"""Execute the notebooks of examples/notebooks and store their outputs: `make notebooks`.

Stored are the text of print and of the last expression of a cell. The log (stderr) is left out: a
background thread writes it, so that it appears in one cell or in the next.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
TIMEOUT_S = 240


def executed(path: Path, folder: Path) -> NotebookNode:
    """Return the notebook with new outputs, executed in the working directory `folder`.

    Raises nbclient.exceptions.CellExecutionError if a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=resources, record_timing=False
    )
    client.execute(env=os.environ | {"TRAINVITALS_REPORT": "off"})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path, FOLDER), path)


if __name__ == "__main__":
    main()
