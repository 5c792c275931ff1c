"""Workers that share the rewriting of assertions, where the files of tests are not compiled yet.

pytest rewrites the assertions of a file when it imports it, and stores the result. Parallel workers
import the same files in the same order at the same time, so each of them would rewrite all: 9 s of
CPU per worker. Here each rewrites its share first, and finds the shares of the others stored.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import (
    PYC_TAIL,
    _read_pyc,
    _rewrite_test,
    _write_pyc,
    assertstate_key,
    get_cache_dir,
    try_makedirs,
)


def rewrite_a_share(config: pytest.Config, folder: Path) -> None:
    """Rewrite and store the share of this worker, if it is one, of the test files in `folder`."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if not worker or sys.dont_write_bytecode:
        return
    number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for path in sorted(folder.rglob("test_*.py"))[number::workers]:
        stored = get_cache_dir(path) / f"{path.stem}{PYC_TAIL}"
        if _read_pyc(path, stored) is None and try_makedirs(stored.parent):
            source_hash, code = _rewrite_test(path, config)
            _write_pyc(config.stash[assertstate_key], code, source_hash, stored)
