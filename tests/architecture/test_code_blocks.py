"""Each Python block of the pages for users runs unchanged."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "checkup.md",
    "notebooks.md",
    "resuming.md",
    "experiments.md",
    "flight-recorder.md",
    "guard.md",
    "remedies.md",
    "guides/biases.md",
    "guides/loss.md",
    "guides/weights.md",
)
BLOCKS = [
    pytest.param(page, block, id=f"{page}:{block.strip().splitlines()[-1][:40]}")
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_the_block_runs(page, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_blocks(page):
    assert any(param.values[0] == page for param in BLOCKS)
