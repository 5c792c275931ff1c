"""A running collector sends messages, and `trainvitals notify test` tries its channels."""

import json
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.batches import batch, scalar_frame, scalars, start
from helpers.collector import running_collector
from helpers.webhook import running_webhook
from trainvitals.cli.app import app
from trainvitals.wire import RunEnd

SIGNING_KEY = "signing-key-0123456789"


@pytest.fixture
def hook():
    with running_webhook() as running:
        yield running


def test_a_diverged_run_and_its_failure_reach_the_webhook_and_are_counted(tmp_path, hook):
    channel = {"webhook": hook.url, "key": SIGNING_KEY}
    notifications = {"channels": {"team": channel}, "routes": [{"channels": ["team"]}]}
    losses = np.where(np.arange(80) < 40, 2.0, np.nan)
    flags = np.isnan(losses).astype(float)
    with running_collector(tmp_path, notifications=notifications) as collector:
        frame = scalar_frame(range(80), losses, flags)
        sent = batch(start(), scalars("loss", "nonfinite_loss"), frame, run="diverged")
        assert collector.send(sent).status_code == 200
        hook.until(lambda posts: any(b"diverged" in post.body for post in posts))
        end = RunEnd(time.time(), 79, "failed")
        assert collector.send(batch(end, run="diverged", seq=1)).status_code == 200
        received = hook.until(lambda posts: any(b"run_failed" in post.body for post in posts))
        metric = 'trainvitals_notifications_total{channel="team",outcome="sent"}'
        deadline = time.monotonic() + 10
        while metric not in collector.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    messages = [json.loads(post.body) for post in received]
    assert {message["run"] for message in messages} == {"diverged"}
    assert all(message["severity"] == "error" for message in messages)


@pytest.fixture
def configured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def configure(**channels):
        monkeypatch.setenv("TRAINVITALS_NOTIFICATIONS", json.dumps({"channels": channels}))

    return configure


def test_the_test_command_sends_to_each_channel_and_says_so(configured, hook):
    configured(
        a={"webhook": f"{hook.url}/a", "key": SIGNING_KEY},
        b={"webhook": f"{hook.url}/b", "key": SIGNING_KEY},
    )
    done = CliRunner().invoke(app, ["notify", "test"])
    assert (done.exit_code, done.stdout) == (0, "a: delivered\nb: delivered\n")
    assert [json.loads(post.body)["event"] for post in hook.received] == ["test", "test"]
    CliRunner().invoke(app, ["notify", "test", "--channel", "b"])
    assert [post.path for post in hook.received] == ["/a", "/b", "/b"]


def test_the_test_command_says_what_failed_without_the_address(configured, hook):
    configured(a={"webhook": f"{hook.url}/s3cr3t", "key": SIGNING_KEY})
    hook.status = 404
    done = CliRunner().invoke(app, ["notify", "test"])
    assert (done.exit_code, done.stderr) == (1, "a: the webhook answered 404\n")
    done = CliRunner().invoke(app, ["notify", "test", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"a": "the webhook answered 404"})
    hook.status = 200
    done = CliRunner().invoke(app, ["notify", "test", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"a": None})


def test_without_channels_or_with_an_unknown_one_it_is_wrong_usage(configured):
    configured()
    assert CliRunner().invoke(app, ["notify", "test"]).exit_code == 2
    assert CliRunner().invoke(app, ["notify", "test", "--channel", "x"]).exit_code == 2


def test_settings_that_cannot_be_read_are_wrong_usage_and_are_not_repeated(configured, monkeypatch):
    configured(a={"webhook": "ftp://host/s3cr3t", "key": SIGNING_KEY})
    refused = CliRunner().invoke(app, ["notify", "test"])
    monkeypatch.setenv("TRAINVITALS_NOTIFICATIONS", '{"channels": s3cr3t')
    unreadable = CliRunner().invoke(app, ["notify", "test"])
    assert (refused.exit_code, unreadable.exit_code) == (2, 2)
    assert "http:// or https://" in refused.stderr
    assert "notifications" in unreadable.stderr
    assert "s3cr3t" not in refused.output + unreadable.output


def test_apprise_delivers_to_a_real_server(configured, hook):
    pytest.importorskip("apprise", reason="Apprise is in the extra `notify`")
    configured(a={"apprise": hook.url.replace("http://", "json://") + "/room"})
    done = CliRunner().invoke(app, ["notify", "test"])
    assert (done.exit_code, done.stdout) == (0, "a: delivered\n"), done.stderr
    [post] = hook.received
    shown = json.loads(post.body)
    assert (shown["title"], shown["message"]) == ("trainvitals: test message", "The channel works.")


def test_a_refusal_of_apprise_is_a_failure(configured, hook):
    pytest.importorskip("apprise", reason="Apprise is in the extra `notify`")
    configured(a={"apprise": hook.url.replace("http://", "json://") + "/s3cr3t"})
    hook.status = 500
    done = CliRunner().invoke(app, ["notify", "test"])
    assert (done.exit_code, "s3cr3t" in done.output) == (1, False)


def test_without_apprise_the_message_says_what_to_install(configured, monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    configured(a={"apprise": "json://127.0.0.1:1/s3cr3t"})
    done = CliRunner().invoke(app, ["notify", "test"])
    assert done.exit_code == 1
    assert "pip install 'trainvitals[notify]'" in done.stderr
