"""`trainvitals demo` ends well: each run gets its diagnosis, and nothing stays behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from helpers import plain_http
from trainvitals.api.client import Client
from trainvitals.demo import play
from trainvitals.demo.command import register

DEMO = [sys.executable, "-m", "trainvitals.cli", "demo", "--fast", "--port", "0"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
VERDICTS = {
    "healthy": "healthy",
    "learning-rate": "TV601 learning_rate_too_high",
    "dead-relu": "TV201 dead_relu",
    "sigmoid-stack": "TV101 vanishing_gradient",
    "unscaled-targets": "TV803 target_not_scaled",
}


def interruptible() -> None:
    """Let SIGINT end the new process: a shell lets its background jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Shown:
    """A running demo that has printed all of its output before Ctrl-C."""

    process: subprocess.Popen[str]
    lines: list[str]
    took_s: float
    home: Path

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def port(self) -> int:
        [port] = set(re.findall(r"at http://127\.0\.0\.1:(\d+),", self.text))
        return int(port)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    home = tmp_path_factory.mktemp("demo") / "the demo"
    began = time.monotonic()
    demo = subprocess.Popen(
        [*DEMO, "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Settings of the user that lead elsewhere.
        preexec_fn=interruptible,
        env=ENVIRONMENT | {"TRAINVITALS_TOKEN": "tv_read_elsewhere"},
    )
    assert demo.stdout
    try:
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if "trainvitals token create" in line:
                break
        assert "trainvitals token create" in lines[-1], "".join(lines)
        yield Shown(demo, lines, time.monotonic() - began, home)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)


def test_every_run_gets_the_diagnosis_it_should(shown):
    table = shown.text.partition("The collector's diagnoses:")[2]
    verdicts = dict(re.findall(r"^([a-z-]+)-\d{6} +(\S+(?: \w+)?) +✓ yes", table, re.MULTILINE))
    assert verdicts == VERDICTS
    assert shown.took_s < 60


def test_each_run_shows_its_card(shown):
    assert "✓ healthy: nothing found in 160 steps" in shown.text
    for headline in (
        "✗ ERROR  TV601 learning_rate_too_high",
        "✗ ERROR  TV201 dead_relu",
        "✗ ERROR  TV101 vanishing_gradient",
        "! WARNING  TV803 target_not_scaled",
    ):
        assert headline in shown.text


def test_the_first_diagnosis_comes_within_30_seconds(shown):
    found = re.search(r"First diagnosis after ([\d.]+) s", shown.text)
    assert found
    assert float(found[1]) < 30


def test_nothing_colours_what_is_no_terminal(shown):
    assert "\x1b" not in shown.text


def test_an_interrupted_demo_takes_its_collector_along(tmp_path):
    demo = subprocess.Popen(
        [*DEMO, "--home", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=interruptible,
    )
    assert demo.stdout
    for line in demo.stdout:
        found = re.search(r"at http://127\.0\.0\.1:(\d+),", line)
        if found:
            break
    assert found
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert int(found[1]) not in _listening()


SCRIPT = """
import torch, trainvitals
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with trainvitals.watch(model, optimizer, run="my-run") as monitor:
    for _ in range(20):
        optimizer.zero_grad()
        monitor.loss(model(torch.ones(8, 4)).square().mean()).backward()
        optimizer.step()
"""


def test_the_printed_lines_send_a_run_to_the_demo_and_create_a_token_of_it(shown, tmp_path):
    printed = [line.strip() for line in shown.lines]
    exports = [line for line in printed if line.startswith(("export ", "unset "))]
    python = shlex.quote(sys.executable)
    script = "\n".join([*exports, f"{python} -c {shlex.quote(SCRIPT)}"])
    user = ENVIRONMENT | {"HOME": str(tmp_path), "TRAINVITALS_TOKEN": "tv_read_elsewhere"}
    subprocess.run(["bash", "-ec", script], env=user, cwd=tmp_path, timeout=60, check=True)
    created = subprocess.run(
        printed[-1].replace("trainvitals", f"{python} -m trainvitals.cli", 1),
        shell=True,
        env=user,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert created.returncode == 0, created.stderr
    url = next(line for line in exports if "COLLECTOR" in line).partition("=")[2]
    about = Client(url, (shown.home / "token").read_text().strip()).run("my-run")
    assert about.step == 19
    answer = plain_http.post(
        f"{url}/api/v1/ingest",
        content=b"x",
        headers={"Authorization": f"Bearer {created.stdout.strip()}"},
    )
    assert answer.status_code == 415  # it got past 401 and 403


def test_after_the_table_an_interrupt_is_a_good_end_and_takes_the_collector_along(shown):
    assert shown.port in _listening()
    shown.process.send_signal(signal.SIGINT)
    shown.process.communicate(timeout=60)
    assert shown.process.returncode == 0
    assert shown.port not in _listening()


@pytest.mark.parametrize(("option", "stays"), [("--exit", False), ("--fast", True)])
@pytest.mark.parametrize("good", [True, False])
def test_with_exit_it_ends_after_the_table_and_the_code_tells_whether_all_was_expected(
    option, stays, good, tmp_path, monkeypatch
):
    asked = {}
    monkeypatch.setattr("signal.signal", lambda *_: None)  # that of this process stays
    monkeypatch.setattr(play, "play", lambda _home, **options: asked.update(options) or good)
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, [option, "--home", str(tmp_path)])
    assert done.exit_code == (not good), done.output
    assert asked["stay"] is stays


@pytest.mark.slow
def test_with_exit_the_whole_demo_ends_by_itself_within_a_minute(tmp_path):
    began = time.monotonic()
    done = subprocess.run(
        [*DEMO, "--exit", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout
    assert time.monotonic() - began < 60
    [port] = set(re.findall(r"at http://127\.0\.0\.1:(\d+),", done.stdout))
    assert int(port) not in _listening()
    assert "\x1b" not in done.stdout + done.stderr


def _listening() -> set[int]:
    """Return the TCP ports that somebody listens at on this machine."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
