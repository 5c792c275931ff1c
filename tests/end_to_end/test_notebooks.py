"""Each notebook runs, and the outputs that it is stored with are those that it has."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from helpers.require import require_package

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
EXPECTED = {
    "first_diagnosis": ("error accuracy 10%", "TV101 vanishing_gradient", "healthy accuracy"),
    "initialisations_and_losses": ("zeros            learned: False", "best: mae"),
}
"""What the text of a notebook claims."""


def printed(notebook):
    """Return what the cells printed or returned."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return "".join("".join(o.get("text") or o["data"]["text/plain"]) for o in outputs)


def without_numbers(text):
    """Return the words of a text: numbers differ by a rounding between processors."""
    return re.sub(r"[0-9]+(?:\.[0-9]+)?", "#", text)


def executed(path, folder):
    require_package("nbclient")
    require_package("ipykernel")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executed(path, folder)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_prints_what_is_stored(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    new = printed(executed(path, tmp_path))
    assert [text for text in EXPECTED[path.stem] if text not in new] == []
    stored = printed(json.loads(path.read_text()))
    assert without_numbers(new) == without_numbers(stored)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_small_and_names_no_folder_of_a_machine(path):
    text = path.read_text()
    assert len(text) < 30_000
    assert re.findall(r"/(?:home|root|tmp|usr|work|Users)/", text) == []
    notebook = json.loads(text)
    assert printed(notebook)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_to_files(path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text())
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []
