"""Real parts that tests meet: Postgres, Prometheus, Chromium, HAProxy, and packages."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

DEBIAN_PACKAGES = {
    "postgres": "postgresql",
    "initdb": "postgresql",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "gcc": "gcc libc6-dev",
}


def require(tool: str) -> str:
    """Return the path of `tool`; without it skip the test, or fail it when CI=true."""
    found = shutil.which(tool) or _outside_of_path(tool)
    if not found:
        package = DEBIAN_PACKAGES.get(tool, tool)
        _miss(f"{tool} is not installed (Debian: apt-get install {package})")
    return found


def require_package(module: str) -> None:
    """Skip the test if `module` cannot be imported, or fail it when CI=true."""
    if importlib.util.find_spec(module) is None:
        _miss(f"{module} is not installed (pip install --group dev)")


def _miss(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true a missing part is a failure, not a skip")
    pytest.skip(reason)


def _outside_of_path(tool: str) -> str | None:
    # Debian keeps Postgres' binaries out of PATH, and HAProxy out of that of users.
    for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{tool}"), reverse=True):
        return str(path)
    return shutil.which(tool, path="/usr/sbin:/sbin")
