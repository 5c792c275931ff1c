"""Import what a dashboard imports until its first page is sent, and scan for components once."""

import functools
import importlib
import pkgutil

import uvicorn  # noqa: F401 - the dashboard serves with it
from streamlit.components.v2 import manifest_scanner

from trainvitals_dashboard import figures, mount, parts  # noqa: F401

for package in (figures, parts):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)

# The scan of the installed packages takes a second of CPU time.
_scan = functools.cache(manifest_scanner.scan_component_manifests)
_scan()
manifest_scanner.scan_component_manifests = _scan
