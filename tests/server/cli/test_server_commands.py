"""serve, token and db: what they print, what they refuse, how they exit."""

import json
import socket

import pytest
import typer
from typer.testing import CliRunner

from trainvitals_server.cli import refuse_bare_public_bind, register
from trainvitals_server.settings import Settings

app = typer.Typer()
register(app)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, words)


def test_a_token_is_made_listed_and_revoked(run):
    made = run("token", "create", "read", "--label", "grafana", "--project", "p")
    assert made.exit_code == 0
    token = made.stdout.strip()
    assert token.startswith("tv_read_")
    token_id = token.split("_")[2]
    listed = run("token", "list").stdout
    assert token_id in listed
    assert "valid\tgrafana" in listed
    assert token.split("_", 3)[3] not in listed
    assert run("token", "revoke", token_id).exit_code == 0
    assert "revoked" in run("token", "list").stdout
    shown = run("token", "list", "--json").stdout
    [row] = json.loads(shown)
    assert {
        "id": token_id,
        "scope": "read",
        "project": "p",
        "state": "revoked",
    }.items() <= row.items()
    assert token.split("_", 3)[3] not in shown
    again = run("token", "revoke", token_id)
    assert again.exit_code == 2
    assert "No valid token" in again.stderr


def test_a_scope_that_is_none_is_refused(run):
    assert run("token", "create", "everything").exit_code == 2


def test_the_database_is_upgraded_on_its_own(run, tmp_path):
    assert run("db", "upgrade").exit_code == 0
    assert (tmp_path / "trainvitals.db").stat().st_size > 0


def test_a_file_that_is_no_database_ends_it_in_words(run, tmp_path):
    (tmp_path / "x").write_text("this is not a database at all")
    for words in (("db", "upgrade"), ("token", "list"), ("serve", "--port", "0")):
        refused = run(*words, "--database", f"sqlite:///{tmp_path / 'x'}")
        assert refused.exit_code == 2
        assert "not a SQLite database" in refused.stderr


def test_a_port_in_use_is_said_in_words(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = run("serve", "--port", str(taken.getsockname()[1]))
    assert refused.exit_code == 2
    assert "already running there" in refused.stderr


def test_a_public_bind_without_tls_is_refused(run):
    refused = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.exit_code == 2
    assert "--behind-proxy" in refused.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "0.0.0.0", "behind_proxy": True},
        {"host": "0.0.0.0", "tls_certificate": "c.pem", "tls_key": "k.pem"},
    ],
)
def test_other_binds_are_not(settings):
    refuse_bare_public_bind(Settings(**settings))


@pytest.mark.parametrize(("name", "value"), [("PORT", "70000"), ("LOST_AFTER_S", "soon")])
def test_a_bad_setting_is_named_and_its_value_is_not(run, monkeypatch, name, value):
    monkeypatch.setenv(f"TRAINVITALS_{name}", value)
    refused = run("serve")
    assert refused.exit_code == 2
    assert name.lower() in refused.stderr
    assert value not in refused.stderr


def test_settings_come_from_arguments_environment_files_and_toml_in_this_order(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.trainvitals]\nport = 1\nhost = 'a'\n")
    assert (Settings().port, Settings().host) == (1, "a")
    (tmp_path / "trainvitals.toml").write_text("port = 2\ncollector = 'http://elsewhere'\n")
    assert (Settings().port, Settings().host) == (2, "a")
    (tmp_path / "secret").write_text("3\n")
    monkeypatch.setenv("TRAINVITALS_PORT_FILE", str(tmp_path / "secret"))
    assert Settings().port == 3
    monkeypatch.setenv("TRAINVITALS_PORT", "4")
    assert Settings().port == 4
    assert Settings(port=5).port == 5


def test_a_dashboard_that_asks_nobody_for_a_token_stays_on_this_machine(run, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_BEHIND_PROXY", "true")
    refused = run("up", "--host", "0.0.0.0", "--port", "0")
    assert refused.exit_code == 2
    assert "asks each visitor for a token" in refused.stderr


def test_thresholds_come_from_a_table_or_from_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainvitals.toml").write_text("[rules.dead_relu]\ndead_share_error = 0.95\n")
    assert Settings().rules == {"dead_relu": {"dead_share_error": 0.95}}
    monkeypatch.setenv("TRAINVITALS_RULES", '{"TV101": {"gradient_ratio_min": 1e-6}}')
    assert Settings().rules == {
        "dead_relu": {"dead_share_error": 0.95},
        "TV101": {"gradient_ratio_min": 1e-6},
    }
    monkeypatch.setenv("TRAINVITALS_RULES", '{"dead_relu": {"dead_share_error": 0.8}}')
    assert Settings().rules == {"dead_relu": {"dead_share_error": 0.8}}
