"""`trainvitals top` shows the runs of a collector, the worst running one first, until q."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_findings import VANISHING
from helpers.fake_runs import HOSTILE, FakeRun
from trainvitals.cli.app import app

RUNS = (
    FakeRun("done", fields={"health": 0.1}),
    FakeRun("well", state="running", fields={"health": 1.0}),
    FakeRun("ill", state="running", findings=[VANISHING], fields={"health": 0.3}),
    FakeRun("new", state="running", step=-1, fields={"health": None}),
)


@pytest.fixture
def collector(monkeypatch, tmp_path):
    for name in [n for n in os.environ if n.startswith("TRAINVITALS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINVITALS_TOKEN", TOKEN)
    with fake_collector(*RUNS) as fake:
        monkeypatch.setenv("TRAINVITALS_COLLECTOR", fake.url)
        yield fake


def top(*args):
    return CliRunner().invoke(app, ["top", *args])


def test_json_lists_running_runs_first_and_of_these_the_worst(collector):
    result = top("--once", "--json")
    assert result.exit_code == 0, result.output
    assert [run["id"] for run in json.loads(result.stdout)] == ["ill", "well", "new", "done"]


def test_the_table_names_verdict_headline_progress_and_loss(collector):
    result = top("--once")
    assert result.exit_code == 0, result.output
    ill = next(line for line in result.stdout.splitlines() if line.startswith("ill"))
    assert "vanishing_gradient" in ill
    assert "400/401" in ill
    assert "4 runs, 3 running" in result.stdout


def test_without_a_terminal_it_prints_once_and_ends(collector):
    assert "ill" in top().stdout


def test_names_of_a_run_cannot_change_the_terminal(collector):
    collector.runs.append(FakeRun("\x1b[2J" + HOSTILE, state="running"))
    assert "\x1b[2J" not in top("--once").stdout


def test_a_collector_that_is_away_is_exit_code_3(collector):
    collector.down = True
    assert top("--once").exit_code == 3


class Terminal:
    """`trainvitals top` in a pseudo-terminal."""

    def __init__(self, *args):
        self._main, side = pty.openpty()
        environment = os.environ | {"COLUMNS": "160", "LINES": "24", "TERM": "xterm"}
        command = [sys.executable, "-m", "trainvitals", "top", *args]
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, env=environment, close_fds=True
        )
        os.close(side)
        self.shown = ""

    def wait_for(self, text, seconds=40):
        end = time.monotonic() + seconds
        while text not in self.shown and time.monotonic() < end:
            if select.select([self._main], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._main, 65536).decode(errors="replace")
                except OSError:  # the process has ended
                    break
        assert text in self.shown, self.shown[-2000:]

    def press(self, key):
        os.write(self._main, key.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._main)


def test_it_follows_the_runs_live_survives_a_restart_and_ends_with_q(collector):
    terminal = Terminal("--every", "0.2")
    try:
        terminal.wait_for("4 runs, 3 running")
        collector.runs.append(FakeRun("late", state="running"))
        terminal.wait_for("5 runs, 4 running")
        collector.down = True
        terminal.wait_for("The table is the last one")
        collector.down = False
        collector.runs.append(FakeRun("later", state="running"))
        terminal.wait_for("6 runs, 5 running")
        terminal.press("x")
        terminal.press("q")
        assert terminal.process.wait(timeout=20) == 0
    finally:
        terminal.close()
