"""R10: a training goes on, unchanged and without a wait, while the network does what it should not.

Between the training and a real collector there is a relay that refuses, swallows, drips, resets,
cuts, delays, garbles, redirects, repeats or answers 5xx. Afterwards everything is stored once.
"""

import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers.collector import running_collector
from helpers.senders import stored_rows
from helpers.serving import serving
from helpers.tiny_collector import tiny_collector
from helpers.toxic_relay import MISBEHAVIOURS, ToxicRelay
from helpers.troubled_training import Report, train
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.ship import backoff, sender, shipper
from trainvitals.wire import Stat, Stream
from trainvitals_server.store import Store

HANDOVER_S = 1e-3
EXIT_S = 2.0
SHORT_S, LONG_S = 0.15, 20.0
WAIT_S = 8.0
"""Time after which a misbehaviour that has met no exchange is over; the test then fails."""


def is_over(relay, since_s):
    """Whether a misbehaviour has met an exchange; refused connections are not seen."""
    lasted_s = time.monotonic() - since_s
    met = relay.behaviour == "refuse" or relay.seen[relay.behaviour]
    return lasted_s > WAIT_S or (met and lasted_s > SHORT_S)


def one_after_the_other(relay):
    """Return the condition under which the training goes on, while the relay misbehaves."""
    left = ["well", *MISBEHAVIOURS, "well"]
    since_s = -math.inf

    def more(_step):
        nonlocal since_s
        if is_over(relay, since_s):
            if not left:
                return False
            relay.behave(left.pop(0))
            since_s = time.monotonic()
        return True

    return more


def assert_stored_once(store, run, losses):
    """Each loss is stored, in order, and no row twice."""
    pk = store.run(run).pk
    curve = store.curves(pk, Stream.SCALAR, Stat.VALUE, ["loss"], points=10**9).spans
    np.testing.assert_array_equal(curve.first, np.arange(len(losses)))
    np.testing.assert_array_equal(curve.newest[:, 0], np.float32(losses))
    streams = {layout.stream: layout for layout in store.layouts(pk)}
    steps = sum(
        len(
            store.curves(
                pk, stream, it.statistics[0], [it.places[0].name], points=10**9
            ).spans.first
        )
        for stream, it in streams.items()
    )
    assert stored_rows(store, pk) == steps


def longest_ms(report):
    """Return the number of hand-overs and the longest, without and with preemptions."""
    return [
        f"{len(taken)} at most {1000 * max(taken, default=0):.3f} ms"
        for taken in (report.handovers_s, report.preempted_s)
    ]


def assert_undisturbed(report):
    assert report.errors == 0
    assert report.close_s <= EXIT_S
    assert max(report.handovers_s) < HANDOVER_S
    assert len(report.preempted_s) < len(report.handovers_s) / 10
    unwatched = train("", "off", lambda step: step < len(report.losses))
    assert unwatched.losses == report.losses
    assert unwatched.weights == report.weights


def test_a_training_meets_all_ten_and_everything_is_stored_once(tmp_path, monkeypatch):
    monkeypatch.setattr(backoff, "DELAY_FIRST_S", 0.02)
    monkeypatch.setattr(backoff, "DELAY_MAX_S", 0.05)
    monkeypatch.setattr(backoff, "BREAKER_MAX_S", 0.05)
    monkeypatch.setattr(sender, "EXCHANGE_S", 0.4)
    monkeypatch.setattr(shipper, "INTERVAL_S", 0.1)
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN_FILE", str(collector.token_file))
        relay = ToxicRelay(collector.settings.port)
        report = train(relay.url, "r", one_after_the_other(relay))
        print(relay.seen, len(report.losses), report.close_s, longest_ms(report))
        assert all(relay.seen[name] for name in MISBEHAVIOURS if name != "refuse")
        monkeypatch.setenv("TRAINVITALS_COLLECTOR", relay.url)
        send_the_rest(os.environ)  # what did not fit into the seconds that an exit may take
        assert_stored_once(collector.store, "r", report.losses)
        complete = collector.get("/api/v1/runs/r").json()["completeness"]
    assert complete["missing"] == complete["dropped"] == 0
    assert_undisturbed(report)


def test_a_build_that_packs_batches_in_the_training_thread_is_found(monkeypatch):
    def put_and_pack(delivery, record):
        delivery._buffer.put(record)
        delivery._sender.gather()

    monkeypatch.setattr(shipper.Shipper, "put", put_and_pack)
    with tiny_collector("hole") as collector:
        report = train(collector.url, "r", lambda step: step < 100)
    with pytest.raises(AssertionError):
        assert_undisturbed(report)


def send_the_rest(variables):
    """Send what the spool still holds, as a user does after a training."""
    sync = [sys.executable, "-m", "trainvitals.cli", "sync"]
    paths = os.pathsep.join(p for p in sys.path if p)
    subprocess.run(sync, env={**variables, "PYTHONPATH": paths}, check=True, timeout=120)


def trained(folder, collector, behaviour):
    """Train in a process of its own while the relay misbehaves; send the rest when it is over."""
    relay = ToxicRelay(int(collector.url.rsplit(":", 1)[1]), seed=len(behaviour))
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "TRAINVITALS_SPOOL_DIR": str(folder / behaviour),
        "TRAINVITALS_TOKEN_FILE": str(collector.token_file),
        "TRAINVITALS_COLLECTOR": relay.url,
    }
    relay.behave(behaviour)
    command = [sys.executable, "-m", "helpers.troubled_training", relay.url, str(LONG_S), behaviour]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    relay.behave("well")
    send_the_rest(variables)
    return Report(**json.loads(ended.stdout))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_20_s_of_each_neither_delay_the_training_nor_its_exit(tmp_path):
    with serving(tmp_path) as collector, ThreadPoolExecutor(2) as two:
        reports = list(two.map(partial(trained, tmp_path, collector), MISBEHAVIOURS))
    store = Store.open(f"sqlite:///{tmp_path / 'trainvitals.db'}")
    try:
        for behaviour, report in zip(MISBEHAVIOURS, reports, strict=True):
            print(behaviour, longest_ms(report), f"closed in {report.close_s:.2f} s")
            assert_stored_once(store, behaviour, report.losses)
            assert_undisturbed(report)
    finally:
        store.close()
