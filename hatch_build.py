"""Compiles the capture kernels if there is a C compiler; without one the wheel is pure Python.

The pure wheel computes the same numbers with torch operations, which are slower, so that fewer
steps are measured in full.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("hooks/trainvitals/capture/backends")
SOURCES = ("parameters.c", "outputs.c")
TARGET = FOLDER / "_kernels.so"
# No -ffast-math: NaN and infinities are what we look for. -O3 vectorises the fixed-width lanes.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")


class KernelBuildHook(BuildHookInterface[Any]):
    """Builds `_kernels.so` beside its sources and takes it into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
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


def _platform_tag() -> str:
    # The kernel is loaded by ctypes: it fits any Python of this platform.
    import sysconfig

    return f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
