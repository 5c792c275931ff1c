"""The bundle of the chart board, made anew when its sources changed."""

import fcntl
import importlib.util
from pathlib import Path

BUILD = Path(__file__).parents[2] / "dashboard" / "board" / "build.py"


def current_bundle() -> None:
    """Build the board unless it is up to date. One of several test processes does it."""
    spec = importlib.util.spec_from_file_location("board_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    board = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(board)
    with BUILD.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not board.is_current():
            board.build()
