"""Messages of a real store reach a real HTTP server: signed, once, and again after a failure."""

import hashlib
import hmac
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.batches import batch, ingest, start
from helpers.webhook import running_webhook
from trainvitals.api.schema import Diagnosis, Finding, Severity, State, Verdict
from trainvitals_server.notification_settings import NotificationSettings
from trainvitals_server.notifications.channels import sender
from trainvitals_server.notifications.notifier import (
    ATTEMPTS_MAX,
    ChannelWorker,
    Notifier,
    retry_wait_s,
)
from trainvitals_server.query.alerts import notice
from trainvitals_server.store import Store
from trainvitals_server.store.alerts import notices

SIGNING_KEY = "signing-key-0123456789"


@pytest.fixture
def hook():
    with running_webhook() as running:
        yield running


def settings(hook, **more):
    return NotificationSettings.model_validate(
        {
            "channels": {"team": {"webhook": f"{hook.url}/team-s3cr3t", "key": SIGNING_KEY}},
            "routes": [{"channels": ["team"], "severity": "warning"}],
            "dashboard_url": "http://board.test",
            **more,
        }
    )


def finding(rule="dead_relu", where="", **more):
    known = {"severity": Severity.ERROR, "since_step": 3, "summary": "All units are dead.", **more}
    return Finding(rule=rule, code=rule, where=where, **known)


def diagnose(store, *findings, run="r"):
    diagnosis = Diagnosis(
        verdict=Verdict.ERROR, health=0.5, headline=None, findings=findings, step=9
    )
    store.save_diagnosis(store.run(run).pk, diagnosis)


class Sending:
    """One collector's worker, with a clock that the test sets."""

    def __init__(self, store, chosen):
        self.late_s, self.counted = 0.0, []
        self.worker = ChannelWorker(
            "team",
            store.database,
            chosen,
            sender(chosen.channels["team"]),
            lambda channel, outcome: self.counted.append(outcome),
            now=lambda: time.time() + self.late_s,
        )

    def __call__(self, *, later_s=0.0):
        self.late_s += later_s
        return self.worker.run_once()


@pytest.fixture
def store_with_run(store):
    ingest(store, batch(start()))
    return store


@pytest.fixture
def send(store_with_run, hook):
    return Sending(store_with_run, settings(hook))


def events(hook):
    return [json.loads(post.body)["event"] for post in hook.received]


def test_a_finding_is_sent_with_its_numbers_and_a_valid_signature(store_with_run, hook, send):
    diagnose(store_with_run, finding(where="relu1"), finding(where="relu2"))
    assert send() == 1
    [post] = hook.received
    assert post.path == "/team-s3cr3t"
    message = json.loads(post.body)
    assert message.pop("id").endswith("-opened")
    assert message == {
        "version": 1,
        "event": "opened",
        "project": "p",
        "run": "r",
        "rule": "dead_relu",
        "severity": "error",
        "places": 2,
        "since_step": 3,
        "summary": "All units are dead.",
        "url": "http://board.test/run?run=r",
    }
    timestamp = post.headers["x-trainvitals-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    signed = timestamp.encode() + b"." + post.body
    wanted = hmac.new(SIGNING_KEY.encode(), signed, hashlib.sha256).hexdigest()
    assert post.headers["x-trainvitals-signature"] == f"v1={wanted}"


def test_the_documented_check_accepts_what_is_sent_and_nothing_else(store_with_run, hook, send):
    page = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    documented: dict[str, Any] = {}
    exec(compile(block, "notifications.md", "exec"), documented)
    is_genuine = documented["is_genuine"]
    diagnose(store_with_run, finding())
    send()
    [post] = hook.received
    headers = {name.title(): value for name, value in post.headers.items()}
    assert is_genuine(headers, post.body, SIGNING_KEY)
    assert not is_genuine(headers, post.body + b" ", SIGNING_KEY)
    assert not is_genuine(headers, post.body, "another-key-0123456789")
    old = {**headers, "X-Trainvitals-Timestamp": str(int(time.time()) - 3600)}
    assert not is_genuine(old, post.body, SIGNING_KEY)


def test_it_is_sent_once_and_its_end_is_sent_once(store_with_run, hook, send):
    diagnose(store_with_run, finding())
    send(), send(), send(later_s=10_000)
    assert events(hook) == ["opened"]
    diagnose(store_with_run, finding(state=State.RESOLVED))
    send(), send()
    assert events(hook) == ["opened", "resolved"]


def test_a_finding_that_comes_and_goes_is_told_once_for_each_cooldown(store_with_run, hook):
    send = Sending(store_with_run, settings(hook, cooldown_s=1200))
    for _ in range(5):
        diagnose(store_with_run, finding())
        send(later_s=60)
        diagnose(store_with_run)
        send(later_s=60)
    assert events(hook) == ["opened", "resolved"]
    diagnose(store_with_run, finding())
    send(later_s=700)
    assert events(hook) == ["opened", "resolved", "opened"]


def test_a_storm_of_ten_thousand_findings_makes_one_message_for_each_run_and_rule(store, hook):
    rules = ("dead_relu", "exploding_gradient")
    for run in ("a", "b"):
        ingest(store, batch(start(), run=run, source=run.encode().ljust(16, b".")))
        diagnose(store, *(finding(r, f"l{i}") for r in rules for i in range(2500)), run=run)
    send = Sending(store, settings(hook))
    send(), send(later_s=30)
    messages = [json.loads(post.body) for post in hook.received]
    assert sorted((m["run"], m["rule"]) for m in messages) == [(r, c) for r in "ab" for c in rules]
    assert {m["places"] for m in messages} == {2500}


def test_a_lost_run_is_told_and_so_is_its_return(store_with_run, hook, send):
    store_with_run.mark_lost(time.time() + 100, 60)
    send()
    ingest(store_with_run, batch(seq=1))
    send()
    messages = [json.loads(post.body) for post in hook.received]
    assert [(m["event"], m["rule"]) for m in messages] == [
        ("opened", "run_lost"),
        ("resolved", "run_lost"),
    ]
    assert messages[0]["summary"].startswith("The run has stopped reporting")


def test_a_failed_attempt_is_repeated_with_growing_waits_until_it_succeeds(
    store_with_run, hook, send
):
    diagnose(store_with_run, finding())
    hook.status = 500
    send(), send(later_s=4)
    assert len(hook.received) == 1, "the first wait is 5 s"
    send(later_s=2), send(later_s=9)
    assert len(hook.received) == 2, "the second wait is 10 s"
    hook.status = 200
    send(later_s=2), send(later_s=1000)
    assert len(hook.received) == 3
    assert send.counted == ["failed", "failed", "sent"]
    assert len({json.loads(post.body)["id"] for post in hook.received}) == 1


def test_a_message_is_given_up_after_its_last_attempt_and_the_log_has_no_secret(
    store_with_run, hook, send, caplog
):
    diagnose(store_with_run, finding())
    hook.status = 503
    for _ in range(ATTEMPTS_MAX + 3):
        send(later_s=700)
    assert send.counted == ["failed"] * (ATTEMPTS_MAX - 1) + ["given_up"]
    assert "answered 503" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert SIGNING_KEY not in caplog.text
    with store_with_run.database.read() as connection:
        [row] = notices(connection, limit=10)
    assert (notice(row).state, notice(row).attempts) == ("given_up", ATTEMPTS_MAX)
    assert (send.worker.health.error, send.worker.health.sent_at) == (
        "the webhook answered 503",
        None,
    )


def test_a_redirect_is_not_followed(store_with_run, hook, send):
    diagnose(store_with_run, finding())
    hook.status = 307
    send()
    assert (len(hook.received), send.counted) == (1, ["failed"])


def test_the_waits_grow_to_ten_minutes():
    assert [retry_wait_s(n) for n in (1, 2, 3, 8, 20)] == [5, 10, 20, 600, 600]


def test_a_deleted_run_sends_nothing(store_with_run, hook, send):
    diagnose(store_with_run, finding())
    send()
    store_with_run.delete(store_with_run.run("r").pk)
    send()
    assert events(hook) == ["opened"]


def test_several_collectors_on_one_database_send_each_message_once(
    database_url, store_with_run, hook
):
    rules = [f"rule_{i}" for i in range(20)]
    diagnose(store_with_run, *(finding(rule) for rule in rules))
    # SQLite has one collector: two workers of one store.
    is_shared = database_url.startswith("postgres")
    other = Store.open(database_url) if is_shared else store_with_run
    workers = [Sending(of, settings(hook)) for of in (store_with_run, other, store_with_run, other)]
    together = threading.Barrier(len(workers))

    def work(sending):
        together.wait()
        for _ in range(3):
            sending()

    threads = [threading.Thread(target=work, args=(sending,)) for sending in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if is_shared:
        other.close()
    assert sorted(json.loads(post.body)["rule"] for post in hook.received) == sorted(rules)


def test_a_slow_receiver_delays_neither_the_store_nor_another_channel(store_with_run, hook):
    hook.delay_s = 3.0
    with running_webhook() as fast:
        chosen = NotificationSettings.model_validate(
            {
                "channels": {
                    "slow": {"webhook": hook.url, "key": SIGNING_KEY},
                    "fast": {"webhook": fast.url, "key": SIGNING_KEY},
                },
                "routes": [{"channels": ["slow", "fast"]}],
            }
        )
        notifier = Notifier(store_with_run, chosen, interval_s=0.05)
        diagnose(store_with_run, finding())
        notifier.start()
        try:
            hook.until(lambda posts: len(posts) == 1)
            began = time.monotonic()
            ingest(store_with_run, batch(seq=1))
            diagnose(store_with_run, finding(), finding("other"))
            fast.until(lambda posts: len(posts) == 2)
            assert time.monotonic() - began < hook.delay_s
            assert notifier.counts()["fast", "sent"] >= 1
            assert ("slow", "sent") not in notifier.counts()
        finally:
            notifier.stop(deadline_s=10)
