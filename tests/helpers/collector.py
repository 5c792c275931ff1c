"""A real collector on a free loopback port, in a thread of the test."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

from helpers import plain_http
from trainvitals.wire import CONTENT_TYPE, Batch, encode
from trainvitals_server.cli import listening, uvicorn_config
from trainvitals_server.settings import Settings
from trainvitals_server.store import Store


@dataclass(frozen=True)
class Collector:
    """Where it is, how to get in, and what is behind it."""

    url: str
    token: str
    """An admin's."""
    settings: Settings
    app: FastAPI

    @property
    def store(self) -> Store:
        store: Store = self.app.state.store
        return store

    @property
    def token_file(self) -> Path:
        return self.settings.token_path

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def send(self, batch: Batch | bytes, **headers: str) -> httpx2.Response:
        """POST a batch, or a body that may be none."""
        body = batch if isinstance(batch, bytes) else encode(batch)
        return plain_http.post(
            f"{self.url}/api/v1/ingest",
            content=body,
            headers={"Content-Type": CONTENT_TYPE, **self.headers, **headers},
        )

    def get(self, path: str, **parameters: Any) -> httpx2.Response:
        """GET a path, with the admin's token."""
        return plain_http.get(self.url + path, params=parameters, headers=self.headers)


@contextlib.contextmanager
def running_collector(
    tmp_path: Path, database_url: str | None = None, *, mounts: bool = False, **settings: Any
) -> Iterator[Collector]:
    """Yield a collector that listens; when the block ends it is stopped as an operator would."""
    wanted = Settings(home=tmp_path, database_url=database_url or "", port=0, **settings)
    with listening(wanted) as listener:
        made = wanted.model_copy(update={"port": listener.getsockname()[1]})
        server = uvicorn.Server(uvicorn_config(made, mounts=mounts))
        app = server.config.app
        assert isinstance(app, FastAPI)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the collector ended while it started"
            assert time.monotonic() < deadline, "the collector does not start"
            time.sleep(0.01)
        try:
            yield Collector(made.url, made.token_path.read_text().strip(), made, app)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the collector does not stop"
