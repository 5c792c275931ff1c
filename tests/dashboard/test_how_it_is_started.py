"""Who may open the dashboard, and from where it reads."""

import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from trainvitals_dashboard import access, cli, mount


@pytest.fixture
def app():
    made = typer.Typer()
    cli.register(made)
    return made


@pytest.fixture
def served(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_serve", lambda shown, host, listener: seen.append((shown, host)))
    return seen


def test_it_listens_on_this_machine_only_unless_told_otherwise(app, served):
    done = CliRunner().invoke(app, ["--port", "0"])
    assert done.exit_code == 0
    [(shown, host)] = served
    assert host == "127.0.0.1"
    assert not shown.asks


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_where_others_can_reach_it_visitors_are_asked_for_a_token(app, served, host):
    done = CliRunner().invoke(app, ["--port", "0", "--host", host])
    assert done.exit_code == 0
    assert served[0][0].asks
    assert "visitors are asked for a token" in done.output


def test_a_taken_port_is_said_with_a_way_out(app, served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(app, ["--port", str(taken.getsockname()[1])])
    assert done.exit_code == 2
    assert "Choose another one with --port" in done.output


def test_the_argument_counts_more_than_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINVITALS_COLLECTOR", "http://env:1/")
    monkeypatch.setenv("TRAINVITALS_TOKEN", "env")
    assert access.from_environment().url == "http://env:1"
    assert access.from_environment().token() == "env"
    (tmp_path / "token").write_text("file\n")
    given = access.from_environment("http://given:2", tmp_path / "token")
    assert (given.url, given.token()) == ("http://given:2", "file")


def test_the_token_lies_in_the_home_and_is_read_anew(monkeypatch, tmp_path):
    for name in ("TRAINVITALS_TOKEN", "TRAINVITALS_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    found = access.from_environment()
    assert found.token() == ""
    (tmp_path / "token").write_text("one")
    assert found.token() == "one"


def test_nothing_is_sent_home_and_no_error_shows_its_insides():
    assert mount.OPTIONS["browser.gatherUsageStats"] is False
    assert mount.OPTIONS["client.showErrorDetails"] == "none"
    assert mount.OPTIONS["server.enableCORS"] is True
    assert mount.OPTIONS["server.enableXsrfProtection"] is True
    assert mount.OPTIONS["server.enableAgentApi"] is False


def test_every_option_is_one_that_streamlit_knows():
    from streamlit import config

    assert set(mount.OPTIONS) <= set(config._config_options_template)


def test_a_token_is_never_in_what_a_source_says_of_itself(tmp_path):
    shown = access.CollectorAccess("http://c", Path("/t"), token_given="tv_read_1_secret")
    assert "secret" not in repr(shown)
