"""`serve --rescue` shows what can be read of a damaged file, and changes nothing."""

import os
import sqlite3
import subprocess

import numpy as np
import pytest

from helpers import plain_http
from helpers.batches import batch, ingest, scalar_frame, scalars, start
from helpers.collector import running_collector
from helpers.serving import COMMAND, serving
from trainvitals.wire import CONTENT_TYPE, encode
from trainvitals_server.auth import Scope, Tokens
from trainvitals_server.store import Store
from trainvitals_server.store.seal import Compactor

STEPS = 3000


@pytest.fixture
def home(tmp_path):
    """A database with a sealed run of many pages; its log is empty."""
    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}")
    values = np.random.default_rng(0).random(STEPS).astype(np.float32)
    for at in range(0, STEPS, 500):
        head = [start(), scalars("loss")] if at == 0 else []
        ingest(
            store, batch(*head, scalar_frame(range(at, at + 500), values[at : at + 500]), seq=at)
        )
    compactor = Compactor(store.database)
    while compactor.run_once(everything=True):
        pass
    (tmp_path / "token").write_text(Tokens(store.database).create(Scope.ADMIN))
    store.close()
    connection = sqlite3.connect(tmp_path / "trainvitals.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return tmp_path


def damage_table(path, table):
    """Overwrite the pages of one table."""
    with sqlite3.connect(path) as connection:
        [size] = connection.execute("PRAGMA page_size").fetchone()
        roots = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE tbl_name = ? AND rootpage > 0", [table]
        ).fetchall()
    connection.close()
    with path.open("r+b") as file:
        for [page] in roots:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)


def test_runs_are_listed_and_the_damaged_part_is_named(home):
    path = home / "trainvitals.db"
    damage_table(path, "chunk")
    before = path.read_bytes()
    with running_collector(home, rescue=True) as collector:
        [run] = collector.get("/api/v1/runs").json()["runs"]
        assert (run["id"], run["step"]) == ("r", STEPS - 1)
        query = {"stream": "scalar", "statistic": "value", "place": "loss"}
        series = collector.get("/api/v1/runs/r/series", **query)
        assert (series.status_code, series.json()["reason"]) == (503, "damaged")
        assert collector.get("/version").json()["rescue"] is True
        assert collector.get("/healthz").status_code == 200
        ready = collector.get("/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "not_ready")
    assert path.read_bytes() == before


def test_batches_are_answered_503_and_counted(home):
    with running_collector(home, rescue=True) as collector:
        answer = collector.send(batch(start(), seq=9))
        assert (answer.status_code, answer.json()["reason"]) == (503, "rescue")
        assert int(answer.headers["retry-after"]) > 0
        metric = 'trainvitals_ingest_requests_total{outcome="rescue"} 1.0'
        assert metric in collector.get("/metrics").text
        refused = plain_http.delete(f"{collector.url}/api/v1/runs/r", headers=collector.headers)
        assert (refused.status_code, refused.json()["reason"]) == (503, "rescue")


def test_a_truncated_file_that_serve_refuses_is_served_as_far_as_it_can_be_read(home):
    path = home / "trainvitals.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:-16384])
    variables = {**os.environ, "TRAINVITALS_HOME": str(home)}
    refused = subprocess.run(
        [*COMMAND, "serve", "--port", "0"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "trainvitals serve --rescue" in refused.stderr
    assert "trainvitals db restore" in refused.stderr
    with running_collector(home, rescue=True) as collector:
        [run] = collector.get("/api/v1/runs").json()["runs"]
        assert run["id"] == "r"
    assert path.read_bytes() == whole[:-16384]


def test_with_damaged_tokens_the_token_of_this_start_reads_and_nothing_else_does(home):
    damage_table(home / "trainvitals.db", "token")
    with serving(home, "--rescue") as collector:
        assert collector.token_file.name == "trainvitals.db.token.rescue"
        assert collector.token_file.stat().st_mode & 0o077 == 0

        def status(token, method="GET", path="/api/v1/runs", **more):
            headers = {"Authorization": f"Bearer {token}", "Content-Type": CONTENT_TYPE}
            url = collector.url + path
            return plain_http.request(method, url, headers=headers, **more)

        rescue = collector.token_file.read_text().strip()
        assert status(rescue).json()["runs"][0]["id"] == "r"
        stored = status((home / "token").read_text().strip())
        assert (stored.status_code, stored.json()["reason"]) == (503, "damaged")
        sent = status(rescue, "POST", "/api/v1/ingest", content=encode(batch(start())))
        assert sent.status_code == 403
    assert (home / "token").read_text().startswith("tv_admin_")


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all", b"SQLite format 3\x00" + b"\xff" * 9000]
)
def test_a_file_without_a_readable_list_of_tables_is_refused(home, content):
    (home / "trainvitals.db").write_bytes(content)
    done = subprocess.run(
        [*COMMAND, "serve", "--rescue", "--port", "0"],
        env={**os.environ, "TRAINVITALS_HOME": str(home)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "trainvitals db restore" in done.stderr
    assert (home / "trainvitals.db").read_bytes() == content
