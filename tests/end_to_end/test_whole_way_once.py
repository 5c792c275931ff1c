"""A real training, a real collector, and the same word from both.

A script with one line of ours trains in its own process; what it measures goes over HTTP to
`trainvitals serve` on SQLite; the collector's findings are those of the training process.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from trainvitals.api.client import Client
from trainvitals.remote import settled

STEPS = 80
SCRIPT = f"""
import json, torch, trainvitals
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
)
with torch.no_grad():
    model[2].bias.fill_(-50.0)  # every unit of the second layer is dead
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
monitor = trainvitals.watch(model, optimizer, run="dead", project="whole-way")
for _ in range({STEPS}):
    x = torch.randn(32, 20)
    y = torch.randint(3, (32,))
    optimizer.zero_grad()
    loss = monitor.loss(criterion(model(x), y))
    loss.backward()
    optimizer.step()
monitor.close()
d = monitor.diagnosis()
print(json.dumps({{"code": d.headline.code, "where": d.headline.where,
    "since_step": d.headline.since_step, "all": sorted(f.code for f in d.findings),
    "overhead": d.overhead}}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TRAINVITALS_")}
    return kept | {"TRAINVITALS_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def collector(home, environment):
    """Run `trainvitals serve` on any free port."""
    log = home / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainvitals.cli", "serve", "--port", "0"],
            cwd=home,
            env=environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield _ready(process, log, home / "token")
    finally:
        process.terminate()
        # It ends in order, and then by the signal it was sent, as a service should.
        assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()


def _ready(process, log, token) -> Client:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        address = re.search(r"collector: (\S+)", log.read_text())
        if address and token.exists():
            collector = Client(address[1], token.read_text().strip())
            if collector.ready():
                return collector
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def local(collector, home, environment):
    """Train, and return the diagnosis of the training process at its end."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=home,
        env=environment | {"TRAINVITALS_COLLECTOR": collector.url},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert settled(collector, "dead", 30)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_collector_says_what_the_training_process_says(local, collector):
    headline = collector.run("dead").headline
    assert local["code"] == "TV201"
    assert {name: getattr(headline, name) for name in ("code", "where", "since_step")} == {
        name: local[name] for name in ("code", "where", "since_step")
    }
    findings = collector.findings("dead").findings
    assert sorted(f.code for f in findings) == local["all"]


def test_the_own_cost_is_one_number_in_the_process_and_in_the_api(local, collector):
    assert local["overhead"] > 0
    run = collector.run("dead")
    assert run.overhead == pytest.approx(local["overhead"], rel=1e-6)
    listed = [r for r in collector.runs().runs if r.id == "dead"]
    assert [r.overhead for r in listed] == [run.overhead]


def test_every_step_arrived_and_the_run_ended(local, collector):
    run = collector.run("dead")
    assert (run.project, run.state, run.step) == ("whole-way", "finished", STEPS - 1)
    assert run.dropped == []
    [curve] = collector.series("dead", "scalar", "value", ["loss"], points=2000).series
    assert curve.step == list(range(STEPS))


def test_check_fails_on_it_and_report_shows_the_curve(local, collector, environment):
    def asked(command):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "trainvitals.cli",
                command,
                "dead",
                "--collector",
                collector.url,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    check, report = asked("check"), asked("report")
    assert (check.returncode, report.returncode) == (1, 1), check.stderr + report.stderr
    assert check.stdout.startswith("trainvitals: run dead: ERROR TV201 dead_relu at 3")
    assert "activation dead_share, steps" in report.stdout


def test_doctor_is_content(local, collector, environment):
    done = subprocess.run(
        [sys.executable, "-m", "trainvitals.cli", "doctor", "--collector", collector.url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert f"✓ collector {collector.url}" in done.stdout
    assert "✓ no unsent batches in" in done.stdout
