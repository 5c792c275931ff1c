"""Compiles the capture kernels and bundles the dashboard's chart board.

Without a C compiler the wheel is pure Python: it computes the same numbers with torch operations,
which are slower, so that fewer steps are measured in full. Without the board (no network for npm)
the dashboard shows everything but its charts.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("hooks/trainvitals/capture/backends")
SOURCES = ("parameters.c", "outputs.c", "rows.c")
TARGET = FOLDER / "_kernels.so"
# No -ffast-math: NaN and infinities are what we look for. -O3 vectorises the fixed-width lanes.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")


class BuildHook(BuildHookInterface[Any]):
    """Builds `_kernels.so` and `board.js` beside their packages and takes them into the wheel."""

    def dependencies(self) -> list[str]:
        board = _board(Path(self.root))
        ready = self.target_name != "wheel" or board.is_current() or board.node_and_npm()
        return [] if ready else [board.NODE_PACKAGE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        self._bundle(build_data)
        self._compile(version, build_data)

    def _bundle(self, build_data: dict[str, Any]) -> None:
        board = _board(Path(self.root))
        try:
            if not board.is_current():
                board.build()
        except RuntimeError as error:
            self.app.display_warning(f"The dashboard will have no charts. {error}")
            return
        build_data["artifacts"].append(str(board.OUTPUT.relative_to(self.root)))

    def _compile(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        named = os.environ.get("CC")
        compiler = shutil.which(named) if named else None
        compiler = compiler or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if sys.platform == "win32" or compiler is None:
            self.app.display_warning("No C compiler: trainvitals uses its slower torch path.")
            return
        built = root / TARGET
        command = [
            compiler,
            *FLAGS,
            "-o",
            str(built),
            *(str(root / FOLDER / s) for s in SOURCES),
            "-lm",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            self.app.display_warning(
                f"The kernel did not compile; trainvitals uses its torch path.\n{done.stderr}"
            )
            built.unlink(missing_ok=True)
            return
        build_data["artifacts"].append(str(TARGET))
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = _platform_tag()


def _board(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("board_build", root / "dashboard/board/build.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("dashboard/board/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    # The kernel is loaded by ctypes: it fits any Python of this platform.
    import sysconfig

    return f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
