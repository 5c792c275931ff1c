"""`trainvitals demo` ends well: each run gets its diagnosis, and nothing stays behind."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

DEMO = [sys.executable, "-m", "trainvitals.cli", "demo", "--fast", "--port", "0"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    home = tmp_path_factory.mktemp("demo")
    began = time.monotonic()
    done = subprocess.run(
        [*DEMO, "--exit", "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        env=ENVIRONMENT,
    )
    return done, time.monotonic() - began


def test_every_run_gets_the_diagnosis_it_should(ended):
    done, took = ended
    assert done.returncode == 0, done.stdout
    table = done.stdout.partition("What the collector says of them:")[2]
    verdicts = dict(re.findall(r"^([a-z-]+)-\d{6} +(\S+(?: \w+)?) +✓ yes", table, re.MULTILINE))
    assert verdicts == {
        "healthy": "healthy",
        "learning-rate": "TV601 learning_rate_too_high",
        "dead-relu": "TV201 dead_relu",
        "sigmoid-stack": "TV101 vanishing_gradient",
        "runaway-bias": "TV701 bias_drift",
    }
    assert took < 60


def test_each_run_shows_its_card(ended):
    shown = ended[0].stdout
    assert "✓ healthy: nothing found in 160 steps" in shown
    for headline in (
        "✗ ERROR  TV601 learning_rate_too_high",
        "✗ ERROR  TV201 dead_relu",
        "✗ ERROR  TV101 vanishing_gradient",
        "! WARNING  TV701 bias_drift",
    ):
        assert headline in shown


def test_the_first_diagnosis_comes_within_30_seconds(ended):
    found = re.search(r"First diagnosis after ([\d.]+) s", ended[0].stdout)
    assert found
    assert float(found[1]) < 30


def test_nothing_colours_what_is_no_terminal(ended):
    assert "\x1b" not in ended[0].stdout


def test_the_collector_ends_with_the_demo(ended):
    [url] = set(re.findall(r"at (http://127\.0\.0\.1:\d+),", ended[0].stdout))
    port = int(url.rpartition(":")[2])
    assert port not in _listening()


def test_an_interrupted_demo_takes_its_collector_along(tmp_path):
    demo = subprocess.Popen(
        [*DEMO, "--home", str(tmp_path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
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


def _listening() -> set[int]:
    """Return the TCP ports that somebody listens at on this machine."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
