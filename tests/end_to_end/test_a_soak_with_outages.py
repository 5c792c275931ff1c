"""Training for hours with outages of the collector: nothing grows in either process.

One hour of training is HOUR_STEPS steps, as many as a training with 5 steps a second has. The
network is small, so that an hour takes about 20 s.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from helpers.relay import Relay
from helpers.serving import serving
from helpers.soak import Held
from trainvitals_server.store import Store

HOUR_STEPS = 18_000
MARGIN = 1.2
UP_S, DOWN_S = 9.0, 4.0
COLLECTOR_CACHES_MIB = 48
"""What the collector's caches of pages and histories may take until they are full."""
LEAK = """
import helpers.soak, trainvitals.ship.shipper as shipper
put, kept = shipper.Shipper.put, []
def keep(self, record):
    kept.append((record, bytes(4000), None if len(kept) % 8 else open("/dev/null")))
    put(self, record)
shipper.Shipper.put = keep
"""
"""The broken build: each record is kept, and for each eighth a descriptor."""


@dataclass(frozen=True)
class Soak:
    """What both processes held at each report of the training, while the collector was there."""

    steps: list[int]
    trainer: list[Held]
    collector: list[Held]
    first_outage: list[int]
    """The number of readings before it."""

    def grown_mib_per_hour(self, side):
        """Return the slope of the memory over the second half, by least squares."""
        half = len(self.steps) // 2
        hours = np.array(self.steps[half:]) / HOUR_STEPS
        rss = [held.rss_mib for held in getattr(self, side)[half:]]
        return float(np.polyfit(hours, rss, 1)[0])

    def grown(self, side, what):
        """Return by how much the minimum of the second half exceeds that of the first.

        The readings before the first outage are left out: the spool, which it opens, stays open.
        Not the maximum or the median: a descriptor that is open for one batch is in few or in most
        readings, by the load of the machine. What is kept after each outage is held from then on.
        """
        held = [getattr(each, what) for each in getattr(self, side)][self.first_outage[0] :]
        half = len(held) // 2
        return float(min(held[half:]) - min(held[:half]))


def soaked(tmp_path, seconds, *, broken=""):
    home, spool = tmp_path / "home", tmp_path / "spool"
    home.mkdir()
    spool.mkdir()
    program = f"{broken}\nfrom helpers.soak import main\nmain()"
    soak = Soak([], [], [], [])
    with serving(home) as collector:
        relay = Relay(int(collector.url.rsplit(":", 1)[1]))
        variables = {
            "PYTHONPATH": str(Path(__file__).parents[1]),  # the folder of `helpers`
            "TRAINVITALS_HOME": str(home),
            "TRAINVITALS_SPOOL_DIR": str(spool),
            "TRAINVITALS_TOKEN_FILE": str(collector.token_file),
            "TRAINVITALS_REPORT": "off",
        }
        command = [sys.executable, "-c", program, relay.url, str(seconds), str(MARGIN * HOUR_STEPS)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
        ) as training:
            begin, is_down, outages = time.monotonic(), False, 0
            for line in training.stdout:
                report = json.loads(line)
                now = (time.monotonic() - begin) % (UP_S + DOWN_S)
                if (now > UP_S) != is_down:
                    (relay.up if is_down else relay.down)()
                    is_down = not is_down
                    outages += is_down
                    soak.first_outage.append(len(soak.steps))
                elif not is_down:
                    soak.steps.append(report.pop("step"))
                    soak.trainer.append(Held(**report))
                    soak.collector.append(Held.of(collector.process.pid, home))
            if is_down:
                relay.up()
        assert training.returncode == 0
        # A training that ends just after an outage leaves the rest in its spool.
        sync = [sys.executable, "-m", "trainvitals.cli", "sync"]
        variables["TRAINVITALS_COLLECTOR"] = relay.url
        subprocess.run(sync, env={**os.environ, **variables}, check=True, timeout=60)
        print(*soak.steps[-1:], soak.trainer[-1:], soak.collector[-1:])
        assert outages >= 2
    return soak


def stored_steps(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path / 'home' / 'trainvitals.db'}")
    try:
        return store.run("soak").run.step
    finally:
        store.close()


def assert_constant(soak):
    assert soak.steps[-1] > HOUR_STEPS, "less than an hour: the test is blind"
    assert soak.grown_mib_per_hour("trainer") < 1
    assert soak.grown("trainer", "descriptors") <= 0
    assert soak.grown("trainer", "threads") <= 0
    assert soak.grown("trainer", "files") <= 1
    assert soak.grown("collector", "threads") <= 2
    assert soak.grown("collector", "descriptors") <= 4
    assert soak.grown("collector", "rss_mib") < COLLECTOR_CACHES_MIB


@pytest.mark.timeout(300)
def test_an_hour_with_outages_leaves_memory_descriptors_threads_and_files_constant(tmp_path):
    soak = soaked(tmp_path, 40)
    assert_constant(soak)
    assert stored_steps(tmp_path) >= soak.steps[-1] - 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_build_that_keeps_records_and_descriptors_is_found(tmp_path):
    soak = soaked(tmp_path, 30, broken=LEAK)
    assert soak.grown_mib_per_hour("trainer") > 1
    assert soak.grown("trainer", "descriptors") > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_hours_with_outages_leave_both_processes_constant(tmp_path):
    soak = soaked(tmp_path, 600)
    assert_constant(soak)
    assert soak.grown_mib_per_hour("collector") < 1
