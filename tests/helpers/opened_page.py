"""A page of the dashboard on a real collector, opened with a token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from streamlit.testing.v1 import AppTest

import trainvitals_dashboard
from helpers.collector import Collector
from trainvitals_dashboard import access

APP = Path(trainvitals_dashboard.__file__).with_name("app.py")


@contextlib.contextmanager
def opener(
    collector: Collector, folder: Path, view: str, **query: str
) -> Iterator[Callable[[str], AppTest]]:
    """Yield a function of a token that opens `view`, such as "run", with the query given.

    The token is written into a file in `folder`.
    """

    def opened(token: str) -> AppTest:
        file = folder / "viewer"
        file.write_text(token)
        access.choose(access.CollectorAccess(collector.url, file, asks=False))
        app = AppTest.from_file(str(APP), default_timeout=30).run()
        for name, value in query.items():
            app.query_params[name] = value
        return checked(app.switch_page(f"views/{view}.py").run())

    yield opened
    access._chosen.clear()


def checked(app: AppTest) -> AppTest:
    """Return the app; AssertionError if its last run raised an exception."""
    assert not app.exception, app.exception
    return app


def click(app: AppTest, label: str) -> AppTest:
    """Click the only button with this label, and return the app after that."""
    [button] = [b for b in app.button if b.label == label]
    return checked(button.click().run())
