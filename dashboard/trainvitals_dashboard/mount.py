"""The dashboard as an ASGI app, served on the collector's port or on a separate port."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from streamlit import config

from trainvitals_dashboard.access import CollectorAccess, choose, from_environment
from trainvitals_dashboard.delivery import Delivery

SCRIPT = Path(__file__).with_name("app.py")
TEXT_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'
CODE_FONT = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace'
"""Fonts of the visitor's system: Streamlit's own would add 0.17 to 0.6 MB to a first visit."""
OPTIONS: dict[str, Any] = {
    "server.address": "127.0.0.1",
    "server.headless": True,
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "runner.magicEnabled": False,
    "server.fileWatcherType": "none",
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "viewer",
    # A traceback can contain names, paths and values.
    "client.showErrorDetails": "none",
    "client.showSidebarNavigation": False,
    "logger.level": "warning",
    "theme.paddingTop": "0.5rem",
    "theme.baseRadius": "0.6rem",
    "theme.font": TEXT_FONT,
    "theme.headingFont": TEXT_FONT,
    "theme.codeFont": CODE_FONT,
    "theme.light.primaryColor": "#0f766e",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f3f6f6",
    "theme.light.textColor": "#17212b",
    "theme.light.borderColor": "#dfe6e6",
    "theme.dark.primaryColor": "#0d9488",
    "theme.dark.backgroundColor": "#0f1519",
    "theme.dark.secondaryBackgroundColor": "#18212a",
    "theme.dark.textColor": "#e6edf1",
    "theme.dark.borderColor": "#2a3742",
}


def app(*, collector_url: str, token_file: Path) -> st.App:
    """Return the dashboard of a collector in the same process; `trainvitals up` mounts it at /.

    The caller must enter its `lifespan()`: Starlette does not start mounted apps.
    """
    return dashboard(from_environment(collector_url, token_file))


def dashboard(access: CollectorAccess, **options: Any) -> st.App:
    """Return the dashboard of `access`. Only one per process: Streamlit's options are global."""
    choose(access)
    # The first access to the options prints messages about the user's configuration files.
    with contextlib.redirect_stdout(io.StringIO()):
        for name, value in {**OPTIONS, **options}.items():
            config.set_option(name, value, "trainvitals")
    return st.App(SCRIPT, middleware=[Middleware(Delivery)])
