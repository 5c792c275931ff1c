"""A fake collector, and the app on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

import trainvitals_dashboard
from helpers.bundle import current_bundle
from helpers.fake_collector import TOKEN, FakeCollector, fake_collector
from trainvitals_dashboard import access

APP = Path(trainvitals_dashboard.__file__).with_name("app.py")

Open = Callable[..., AppTest]


@pytest.fixture(scope="session", autouse=True)
def _bundle() -> None:
    current_bundle()


@pytest.fixture(scope="session", autouse=True)
def _one_scan() -> Iterator[None]:
    """Scan the installed packages for components once; each AppTest would take a second for it."""
    scan = functools.cache(manifest_scanner.scan_component_manifests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", scan)
        yield


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    with fake_collector() as fake:
        yield fake


@pytest.fixture
def open_page(collector: FakeCollector, tmp_path: Path) -> Iterator[Open]:
    """Open a page ("fleet", "run", "layers") of the dashboard with the query given."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)

    def opened(
        page: str = "fleet", *, asks: bool = False, token_given: str = "", **query: str
    ) -> AppTest:
        access.choose(access.CollectorAccess(collector.url, token_file, token_given, asks=asks))
        app = AppTest.from_file(str(APP), default_timeout=20)
        if page != "fleet":
            # Pages are known after the first run only.
            app = app.run()
        for name, value in query.items():
            app.query_params[name] = value
        if page != "fleet":
            app = app.switch_page(f"views/{page}.py")
        app = app.run()
        assert not app.exception, app.exception
        return app

    yield opened
    access._chosen.clear()
