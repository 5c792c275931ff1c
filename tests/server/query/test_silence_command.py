"""`trainvitals silence` adds, lists and ends silences of a running collector."""

import json
import time

import pytest
from typer.testing import CliRunner

from helpers.collector import running_collector
from trainvitals.cli.app import app
from trainvitals_server.auth import Scope


@pytest.fixture
def collector(tmp_path):
    with running_collector(
        tmp_path, round_interval_s=3600, notifications={"silences": [{"projects": ["sandbox"]}]}
    ) as running:
        yield running


@pytest.fixture
def called(collector, monkeypatch):
    """Return a function that calls the command with a token."""

    def call(*words, token=None):
        monkeypatch.setenv("TRAINVITALS_TOKEN", token or collector.token)
        return CliRunner().invoke(app, ["silence", *words, "--collector", collector.url])

    return call


def held(collector):
    silences = collector.get("/api/v1/notifications").json()["silences"]
    return [silence for silence in silences if silence["id"]]


def test_a_silence_is_added_listed_and_ended(collector, called):
    added = called(
        "add", "the cluster is upgraded", "--run", "night-*", "--run", "old", "--rule", "run_lost",
        "--hours", "8",
    )  # fmt: skip
    assert added.exit_code == 0, added.output
    [silence] = held(collector)
    assert added.stdout == f"{silence['id']}\n"
    assert (silence["runs"], silence["rules"]) == (["night-*", "old"], ["run_lost"])
    assert silence["until"] == pytest.approx(time.time() + 8 * 3600, abs=60)
    configured, listed = [line.split("\t") for line in called("list").stdout.splitlines()]
    assert configured == ["-", "for ever", "sandbox", "*", "*", ""]
    assert listed[0] == silence["id"]
    assert listed[2:] == ["*", "night-*,old", "run_lost", "the cluster is upgraded"]
    shown = json.loads(called("list", "--json").stdout)
    assert [one["id"] for one in shown] == ["", silence["id"]]
    assert shown[1]["runs"] == ["night-*", "old"]
    assert shown[1]["until"] == pytest.approx(silence["until"])
    assert called("end", silence["id"]).exit_code == 0
    assert held(collector) == []


def test_what_the_collector_refuses_is_said(collector, called):
    refused = called("add", "why", "--hours", "721")
    assert (refused.exit_code, "hours" in refused.stderr) == (2, True)
    unknown = called("end", "7")
    assert (unknown.exit_code, unknown.stderr) == (2, "No silence that holds has this id.\n")
    reader = called("add", "why", token=collector.app.state.tokens.create(Scope.READ))
    assert (reader.exit_code, "scope admin" in reader.stderr) == (2, True)
    assert held(collector) == []


def test_a_collector_that_is_away_gives_exit_code_3():
    away = CliRunner().invoke(app, ["silence", "list", "--collector", "http://127.0.0.1:9"])
    assert away.exit_code == 3
