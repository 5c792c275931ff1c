"""Each code block of docs/remedies.md runs."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "remedies.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:50])
def test_the_block_runs(block):
    exec(compile(block, str(PAGE), "exec"), {})


def test_the_page_has_blocks():
    assert BLOCKS
