"""Keeps the collection of garbage short that Streamlit starts after each run of a page.

Streamlit calls `gc.collect` after each run of a page or of a refreshed part of it. With the objects
of all imported modules, 240,000 of them, it takes 0.14 s, in which the process answers nothing.
"""

from __future__ import annotations

import atexit
import gc

_visited: set[str] = set()


def freeze_once(page: str) -> bool:
    """Take all objects out of later collections, once per page; return whether it was done now.

    Pages import modules at their first visit. A frozen object is still freed with its last
    reference; only cycles that are frozen and become garbage later stay, so that there are at most
    as many freezes as pages.
    """
    if page in _visited:
        return False
    if not _visited:
        atexit.register(gc.unfreeze)  # else extension modules report leaks at the exit
    _visited.add(page)
    gc.collect()
    gc.freeze()
    return True
