"""Two collectors share one Postgres behind HAProxy; one is killed: every step is stored once.

Several senders send batches out of order and some of them twice, with two connections each, so that
the batches of one source arrive at both collectors at the same time.
"""

import json
import os
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import pytest
import sqlalchemy as sa

from helpers import plain_http
from helpers.batches import batch, frame, scalars, start
from helpers.haproxy import CONFIGURATION, environment, running_haproxy
from helpers.ports import free_port
from helpers.postgres import running_postgres
from helpers.require import require
from helpers.serving import COMMAND
from helpers.webhook import running_webhook
from trainvitals.wire import CONTENT_TYPE, RunEnd, Stream, encode
from trainvitals_server.auth import Scope, Tokens
from trainvitals_server.store import Store
from trainvitals_server.store.models import Chunk, Run, Track

SENDERS = 3
BATCHES = 240
ROWS = 16
RECORDS = BATCHES + 3
"""A frame in each batch, the start and the layout in the first, and the end."""
NONFINITE_FROM = ROWS * (BATCHES - 40)
"""The first step with a loss that is not finite: after the kill and the restart."""
SCALARS = ("loss", "nonfinite_loss", "any_bits")
pytestmark = [pytest.mark.needs_postgres, pytest.mark.timeout(240)]


@dataclass
class Sender:
    """One training process. Its third scalar has random bits, so that a changed one is seen."""

    number: int
    url: str
    token: str
    trust: object
    acknowledged: Counter = field(default_factory=Counter)
    newly_stored: Counter = field(default_factory=Counter)

    def __post_init__(self):
        random = np.random.default_rng(self.number)
        bits = random.integers(0, 2**32, BATCHES * ROWS, dtype=np.uint32)
        steps = np.arange(BATCHES * ROWS)
        broken = steps >= NONFINITE_FROM
        loss = np.where(
            broken, np.nan, 2 * np.exp(-steps / 3000) + 0.01 * random.random(len(steps))
        )
        columns = [loss.astype("<f4"), broken.astype("<f4"), bits.astype("<u4").view("<f4")]
        self.values = np.stack(columns, axis=1)[:, :, None]
        self.order = self._order(random)

    @property
    def run(self) -> str:
        return f"run{self.number}"

    def _order(self, random) -> list[int]:
        """Return all numbers but the first, out of order within 8; every tenth twice."""
        order = [
            int(seq)
            for at in range(1, BATCHES, 8)
            for seq in random.permutation(np.arange(at, min(at + 8, BATCHES)))
        ]
        for seq in random.choice(order, len(order) // 10, replace=False):
            order.insert(min(len(order), order.index(seq) + int(random.integers(1, 5))), int(seq))
        return order

    def body(self, seq: int) -> bytes:
        steps = range(seq * ROWS, (seq + 1) * ROWS)
        head = [start(), scalars(*SCALARS)] if seq == 0 else []
        sent = frame(Stream.SCALAR, steps, self.values[steps[0] : steps[-1] + 1])
        return self._encoded(seq, *head, sent)

    def _encoded(self, seq, *records) -> bytes:
        source = bytes([self.number]) * 16
        return encode(batch(*records, seq=seq, run=self.run, source=source, counted=len(records)))

    def send(self, orders) -> None:
        """Send each list of numbers with its own connection, at the same time."""
        threads = [threading.Thread(target=self._send, args=(order,)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send(self, order) -> None:
        with httpx2.Client(trust_env=False, timeout=15, verify=self.trust) as client:
            for seq in order:
                self.until_acknowledged(client, seq, self.body(seq))

    def finish(self) -> None:
        with httpx2.Client(trust_env=False, timeout=15, verify=self.trust) as client:
            end = RunEnd(time.time(), BATCHES * ROWS - 1, "finished", produced=RECORDS)
            self.until_acknowledged(client, BATCHES, self._encoded(BATCHES, end))

    def until_acknowledged(self, client, seq: int, body: bytes) -> None:
        headers = {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {self.token}"}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                answer = client.post(f"{self.url}/api/v1/ingest", content=body, headers=headers)
            except httpx2.HTTPError:
                continue
            if answer.status_code in (502, 503, 504):
                time.sleep(0.05)
                continue
            assert answer.status_code == 200, answer.text
            assert answer.json()["seq"] == seq
            self.acknowledged[seq] += 1
            self.newly_stored[seq] += answer.json()["stored"]
            return
        raise AssertionError(f"batch {seq} was not acknowledged within 60 s")


def collector(home: Path, port: int, database: str, notifications: dict) -> subprocess.Popen:
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "TRAINVITALS_HOME": str(home),
        "TRAINVITALS_DATABASE_URL": database,
        "TRAINVITALS_SEAL_INTERVAL_S": "0.05",
        "TRAINVITALS_ROUND_INTERVAL_S": "0.2",
        "TRAINVITALS_BEHIND_PROXY": "true",
        "TRAINVITALS_NOTIFICATIONS": json.dumps(notifications),
    }
    with (home / "log").open("ab") as log:
        return subprocess.Popen(
            [*COMMAND, "serve", "--port", str(port)],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def until(holds, why: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def is_alive(port: int) -> bool:
    try:
        return plain_http.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx2.HTTPError:
        return False


def accepted(port: int, token: str) -> float:
    """Return the number of batches that this collector has stored since its start."""
    headers = {"Authorization": f"Bearer {token}"}
    text = plain_http.get(f"http://127.0.0.1:{port}/metrics", headers=headers).text
    name = 'trainvitals_ingest_requests_total{outcome="stored"}'
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_each_step_is_stored_once_and_each_message_is_sent_once(tmp_path):
    with running_postgres() as server, server.database() as database, running_webhook() as hook:
        store = Store.open(database)
        token = Tokens(store.database).create(Scope.ADMIN)
        notifications = {
            "channels": {"team": {"webhook": hook.url, "key": "signing-key-0123456789"}},
            "routes": [{"channels": ["team"], "severity": "info"}],
        }
        ports = [free_port(), free_port()]
        homes = [tmp_path / "a", tmp_path / "b"]
        processes = [
            collector(home, port, database, notifications)
            for home, port in zip(homes, ports, strict=True)
        ]
        try:
            until(lambda: all(map(is_alive, ports)), "the collectors do not start")
            with running_haproxy(tmp_path, ports) as proxy:
                senders = [Sender(n, proxy.url, token, proxy.trust) for n in range(1, SENDERS + 1)]
                for sender in senders:
                    sender.send([[0]])  # the layout, to which all other batches refer
                threads = [
                    threading.Thread(target=s.send, args=([s.order[::2], s.order[1::2]],))
                    for s in senders
                ]
                for thread in threads:
                    thread.start()
                half = SENDERS * BATCHES // 2
                until(lambda: sum(len(s.acknowledged) for s in senders) > half, "hardly any load")
                before = [accepted(port, token) for port in ports]
                processes[0].kill()
                processes[0].wait(30)
                assert any(thread.is_alive() for thread in threads), "killed after the load"
                processes[0] = collector(homes[0], ports[0], database, notifications)
                for thread in threads:
                    thread.join(120)
                until(lambda: is_alive(ports[0]), "the killed collector does not start again")
                after = [accepted(port, token) for port in ports]
                for sender in senders:
                    sender.finish()
            runs = {sender.run for sender in senders}
            hook.until(lambda posts: messages_of_nonfinite_losses(posts).keys() >= runs)
            until(lambda: everything_is_done(store), "rounds or sealing do not end")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)
            logs = "\n".join((home / "log").read_text() for home in homes)

        assert min(before) > 20, f"one collector had no load: {before}"
        assert after[1] > before[1], "the other collector did not go on"
        for sender in senders:
            assert sorted(sender.acknowledged) == list(range(BATCHES + 1))
            doubled = sum(count == 2 for count in sender.acknowledged.values())
            assert doubled >= BATCHES // 11
            # The answer to the request that stored a batch may be lost with the killed collector.
            assert max(sender.newly_stored.values()) == 1
            assert_stored_exactly(store, sender)
        assert_sealed_once(store)
        sent = Counter(
            (message["run"], message["rule"], message["event"]) for message in bodies(hook.received)
        )
        assert set(sent.values()) == {1}, sent
        assert "Traceback" not in logs, logs
        store.close()


def bodies(posts) -> list[dict]:
    return [json.loads(post.body) for post in posts]


def messages_of_nonfinite_losses(posts) -> Counter:
    return Counter(m["run"] for m in bodies(posts) if m["rule"] == "non_finite_value")


def everything_is_done(store) -> bool:
    with store.database.read() as connection:
        due = connection.scalar(sa.select(sa.func.count()).where(Run.revision > Run.rounded))
        waiting = connection.scalar(sa.select(sa.func.sum(Track.log_rows)))
    return due == 0 and waiting == 0


def assert_stored_exactly(store, sender) -> None:
    """Every step is there once, in order, with the bits that were sent."""
    run = store.run(sender.run)
    steps, values, at = [], [], 0
    while (found := store.frames(run.pk, Stream.SCALAR, at)) is not None:
        steps.append(found[1].steps)
        values.append(found[1].values)
        at = int(found[1].steps[-1]) + 1
    np.testing.assert_array_equal(np.concatenate(steps), np.arange(BATCHES * ROWS))
    stored = np.concatenate(values).view("<u4")
    np.testing.assert_array_equal(stored, sender.values.view("<u4"))
    completeness = store.detail(run).completeness
    assert run.run.state == "finished"
    # Each batch is counted once, also when two collectors store batches of one source at a time.
    assert (completeness.complete, completeness.stored) == (True, RECORDS), completeness


def assert_sealed_once(store) -> None:
    """The segments of a track have each step once: no collector sealed rows of another."""
    spans = (
        sa.select(Chunk.track_pk, Chunk.segment, Chunk.n)
        .where(Chunk.tier == 0)
        .group_by(Chunk.track_pk, Chunk.segment, Chunk.n)
        .order_by(Chunk.track_pk, Chunk.segment)
    )
    with store.database.read() as connection:
        segments = connection.execute(spans).all()
    assert len(segments) > SENDERS, "nothing was sealed under load: the test is blind"
    assert len({row[:2] for row in segments}) == len(segments)
    of_track = Counter()
    for track_pk, _, n in segments:
        of_track[track_pk] += n
    assert set(of_track.values()) == {BATCHES * ROWS}


def test_haproxy_accepts_the_configuration_and_would_refuse_a_wrong_one(tmp_path):
    variables = environment(tmp_path, 8443, [8321, 8322])
    wrong = tmp_path / "wrong.cfg"
    wrong.write_text(CONFIGURATION.read_text().replace("balance leastconn", "balance nothing"))

    def check(path):
        command = [require("haproxy"), "-c", "-f", str(path)]
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)

    assert (accepted_it := check(CONFIGURATION)).returncode == 0, accepted_it.stderr
    assert "warning" not in accepted_it.stderr.lower()
    assert check(wrong).returncode != 0
