"""token and db beside a running collector: one process at a time writes to a SQLite file."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from helpers import plain_http
from helpers.haproxy import environment
from helpers.serving import serving
from trainvitals_server.cli import register
from trainvitals_server.store import Store
from trainvitals_server.store.lock import one_collector
from trainvitals_server.store.migrate import parsed

app = typer.Typer()
register(app)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, words)


def status(url: str, token: str, **client) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return plain_http.get(f"{url}/version", headers=headers, **client).status_code


def processes_with(path: Path) -> set[int]:
    """Return the processes that have the file open, read from /proc."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == str(path):
                found.add(int(descriptor.parts[2]))
        except OSError:
            continue
    return found


def test_a_token_is_made_listed_and_revoked_by_the_collector(run, tmp_path):
    with serving(tmp_path) as collector:
        made = run("token", "create", "read", "--label", "grafana", "--project", "p", "--days", "2")
        assert made.exit_code == 0, made.output
        token = made.stdout.strip()
        assert status(collector.url, token) == 200
        listed = run("token", "list").stdout
        assert f"{token.split('_')[2]}\tread\tp\t" in listed
        assert "valid\tgrafana" in listed
        assert token.split("_", 3)[3] not in listed
        assert run("token", "revoke", token.split("_")[2]).exit_code == 0
        assert status(collector.url, token) == 401
        again = run("token", "revoke", token.split("_")[2])
        assert (again.exit_code, "No valid token" in again.stderr) == (2, True)
        assert run("token", "revoke", "../../x").exit_code == 2


def test_the_command_does_not_open_the_database_that_a_collector_uses(tmp_path):
    database = tmp_path / "trainvitals.db"
    with serving(tmp_path) as collector:
        opened = []
        real = Store.open
        Store.open = lambda *given, **more: opened.append(given) or real(*given, **more)
        try:
            done = CliRunner(env={"TRAINVITALS_HOME": str(tmp_path)}).invoke(app, ["token", "list"])
        finally:
            Store.open = real
        assert (done.exit_code, opened) == (0, [])
        assert processes_with(database) == {collector.process.pid}


def test_without_an_admin_token_it_says_which_files_were_read(run, tmp_path):
    with serving(tmp_path) as collector:
        collector.token_file.write_text("tv_admin_0_x")
        refused = run("token", "create", "read")
    assert refused.exit_code == 2
    assert str(collector.token_file) in refused.stderr
    assert collector.url in refused.stderr


def test_over_tls_the_collectors_own_certificate_is_trusted(tmp_path, monkeypatch):
    environment(tmp_path, 0, [0, 0])  # writes a certificate for localhost
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINVITALS_TLS_CERTIFICATE", str(certificate))
    with serving(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key)) as collector:
        assert collector.url.startswith("https://")
        made = CliRunner().invoke(app, ["token", "create", "ingest"])
        assert made.exit_code == 0, made.output
        assert made.stdout.startswith("tv_ingest_")


def test_a_collector_that_stopped_leaves_the_database_to_the_command(run, tmp_path):
    with serving(tmp_path) as collector:
        collector.process.kill()
        collector.process.wait(30)
        assert run("token", "create", "read").exit_code == 0


def test_an_up_to_date_database_needs_no_upgrade_while_it_is_used(run, tmp_path):
    with serving(tmp_path):
        assert run("db", "upgrade").exit_code == 0


def test_a_database_of_another_version_is_not_upgraded_while_it_is_used(run, tmp_path):
    path = tmp_path / "trainvitals.db"
    Store.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    before = path.read_bytes()
    with one_collector(parsed(f"sqlite:///{path}"), "http://127.0.0.1:9"):
        refused = run("db", "upgrade")
    assert refused.exit_code == 2
    assert "Stop the collector" in refused.stderr
    assert path.read_bytes() == before


def test_two_first_commands_at_once_create_the_database_once(tmp_path):
    script = (
        "import sys, typer\nfrom trainvitals_server.cli import register\n"
        "app = typer.Typer()\nregister(app)\napp()\n"
    )
    command = [sys.executable, "-c", script, "db", "upgrade"]
    variables = {**os.environ, "TRAINVITALS_HOME": str(tmp_path)}
    both = [subprocess.Popen(command, env=variables, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert {process.returncode for process in both} <= {0, 2}, said
    assert any(process.returncode == 0 for process in both), said
    assert Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}").ready() is None
