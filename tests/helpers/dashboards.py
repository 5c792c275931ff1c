"""Dashboards in processes of their own, forks of one that has imported Streamlit already.

A new Python needs 2 s of CPU time until the first page is sent. A port is used again once its
dashboard has ended: a browser that has compiled the scripts of an address does not do it again.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.forks import Forks, forks
from helpers.ports import free_port

START_S = 30
_free_ports: list[int] = []


@contextlib.contextmanager
def dashboard(
    collector: str,
    token: str,
    *arguments: str,
    refresh_s: float | None = None,
    **environment: str,
) -> Iterator[str]:
    """Yield the address of a dashboard that was started as its command is.

    `refresh_s`: the seconds between the refreshes of all pages, in place of their own.
    """
    start = _START if refresh_s is None else _REFRESHED.format(refresh_s) + _START
    port = _free_ports.pop() if _free_ports else free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = _forks().start(
            start,
            *("--port", str(port), "--collector", collector, *arguments),
            output=Path(folder, "output"),
            environ={**os.environ, "TRAINVITALS_TOKEN": token, **environment},
        )
        try:
            deadline = time.monotonic() + START_S
            said = ""
            while not (address := re.search(r"dashboard: (http://\S+/)", said)):
                assert process.is_running(), f"the dashboard does not start: {said}"
                assert time.monotonic() < deadline, f"the dashboard does not start: {said}"
                time.sleep(0.01)
                said = process.output.read_text()
            yield address[1].rstrip("/")
        finally:
            process.terminate()
            _free_ports.append(port)


@functools.cache
def _forks() -> Forks:
    """Return what forks; it ends with this process."""
    opened = contextlib.ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(forks("helpers.imported_dashboard"))


_START = """
import os
os.chdir("/")
import typer
from trainvitals_dashboard.cli import register
app = typer.Typer()
register(app)
app()
"""
"""The command alone: `trainvitals` has others beside it."""

_REFRESHED = """
import streamlit as st
own = st.fragment
def fragment(function=None, *, run_every=None):
    return own(function, run_every={} if run_every else None)
st.fragment = fragment
"""
