"""The open findings of all runs, and what was sent about them, without a secret."""

import json
import time

import msgspec
import pytest

from helpers import plain_http
from helpers.batches import batch, diagnosis, start
from helpers.collector import running_collector
from helpers.webhook import running_webhook
from trainvitals.api.schema import Alerts, Finding, Notifications, Severity, State
from trainvitals.wire import RunEnd
from trainvitals_server.auth import Scope

SIGNING_KEY = "signing-key-0123456789"
HOOK_PATH = "address-s3cr3t"


def finding(code="TV201", where="", **more):
    rule = {"TV201": "dead_relu", "TV501": "no_learning"}.get(code, code)
    known = {"severity": Severity.WARNING, "since_step": 3, "summary": f"{where} is dead."}
    return Finding(rule=rule, code=code, where=where, **{**known, **more})


def a_run(collector, name, *findings, project="shop", state=None):
    source = name.encode().ljust(16, b"-")[:16]
    sent = batch(start(), run=name, project=project, source=source)
    assert collector.send(sent).status_code == 200
    if state is not None:
        end = batch(RunEnd(time.time(), 0, state), run=name, project=project, source=source, seq=1)
        assert collector.send(end).status_code == 200
    pk = next(s.pk for s in collector.store.run_summaries()[0] if s.run.id.endswith(name))
    collector.store.save_diagnosis(pk, diagnosis(list(findings), health=0.5, step=9))


def ask(collector, path, kind, token=None, **parameters):
    headers = {"Authorization": f"Bearer {token or collector.token}"}
    answer = plain_http.get(f"{collector.url}/api/v1/{path}", params=parameters, headers=headers)
    assert answer.status_code == 200, answer.text
    assert HOOK_PATH not in answer.text
    assert SIGNING_KEY not in answer.text
    return msgspec.json.decode(answer.content, type=kind)


def alerts(collector, **parameters):
    return ask(collector, "alerts", Alerts, **parameters)


@pytest.fixture
def quiet(tmp_path, database_url):
    with running_collector(tmp_path, database_url, round_interval_s=3600) as running:
        yield running


def test_the_findings_of_a_rule_in_a_run_are_one_alert(quiet):
    before = time.time()
    findings = [
        finding(where="a", since_step=7),
        finding(where="b", severity=Severity.ERROR, since_step=5),
        finding(code="TV501", explained_by="TV201"),
        finding(where="c", state=State.RESOLVED),
    ]
    a_run(quiet, "r", *findings)
    dead, flat = alerts(quiet).alerts
    assert (dead.run, dead.project, dead.rule, dead.code) == ("r", "shop", "dead_relu", "TV201")
    assert (dead.severity, dead.places, dead.since_step) == ("error", 2, 5)
    assert (dead.where, dead.summary) == ("a", "a is dead."), "the finding that is ranked first"
    assert before <= dead.opened_at <= time.time()
    assert (flat.code, flat.severity, flat.explained_by) == ("TV501", "warning", "TV201")


def test_running_runs_come_first_then_errors(quiet):
    a_run(quiet, "ended", finding(severity=Severity.ERROR), state="finished")
    a_run(quiet, "mild", finding())
    a_run(quiet, "sick", finding(severity=Severity.ERROR))
    assert [alert.run for alert in alerts(quiet).alerts] == ["sick", "mild", "ended"]
    assert [alert.run for alert in alerts(quiet, state="finished").alerts] == ["ended"]
    assert [alert.run for alert in alerts(quiet, severity="error").alerts] == ["sick", "ended"]


def test_notes_are_listed_only_when_they_are_asked_for(quiet):
    a_run(quiet, "r", finding(severity=Severity.INFO))
    assert alerts(quiet).alerts == ()
    assert len(alerts(quiet, severity="info").alerts) == 1


def test_a_list_that_was_cut_says_so(quiet):
    a_run(quiet, "r", *(finding(code=f"TV{i}") for i in range(3)))
    assert (len(alerts(quiet, limit=2).alerts), alerts(quiet, limit=2).more) == (2, True)
    assert alerts(quiet, limit=3).more is False
    assert quiet.get("/api/v1/alerts", limit=501).status_code == 422


def test_a_token_of_one_project_sees_its_runs_alone(quiet):
    a_run(quiet, "mine", finding(), project="shop")
    a_run(quiet, "other", finding(), project="lab")
    token = quiet.app.state.tokens.create(Scope.READ, project="shop")
    assert [alert.run for alert in alerts(quiet, token=token).alerts] == ["mine"]


def test_a_deleted_run_raises_no_alert(quiet):
    a_run(quiet, "r", finding())
    quiet.store.delete(quiet.store.run("r").pk)
    assert alerts(quiet).alerts == ()


@pytest.fixture
def hook():
    with running_webhook() as running:
        yield running


def notifying(tmp_path, hook):
    channels = {
        name: {"webhook": f"{hook.url}/{HOOK_PATH}", "key": SIGNING_KEY}
        for name in ("team", "lab", "spare")
    }
    settings = {
        "channels": channels,
        "routes": [
            {"channels": ["team"], "severity": "warning", "projects": ["shop*", "lab-*"]},
            {"channels": ["lab"], "projects": ["lab-*"]},
        ],
        "silences": [
            {"projects": ["lab-*"], "rules": ["dead_relu"]},
            {"runs": ["old-*", "lab-secret-7"], "until": "2030-01-31T08:00:00Z"},
        ],
    }
    return running_collector(tmp_path, round_interval_s=3600, notifications=settings)


def until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_what_was_sent_is_listed_with_channel_and_time(tmp_path, hook):
    with notifying(tmp_path, hook) as collector:
        before = time.time()
        a_run(collector, "r", finding())
        [notice] = until(
            lambda: [n for a in alerts(collector).alerts for n in a.notices if n.state != "waiting"]
        )
        assert (notice.channel, notice.event, notice.state) == ("team", "opened", "delivered")
        assert before <= notice.opened_at <= notice.at <= time.time()
        told = ask(collector, "notifications", Notifications)
        assert told.notices == (notice,)
        team = next(channel for channel in told.channels if channel.name == "team")
        assert before <= team.sent_at <= time.time()
        assert (team.kind, team.is_routed, team.error) == ("webhook", True, "")
        spare = next(channel for channel in told.channels if channel.name == "spare")
        assert (spare.is_routed, spare.sent_at) == (False, None)

        pk = collector.store.run("r").pk
        collector.store.save_diagnosis(pk, diagnosis([], health=1.0, step=10))
        resolved = until(
            lambda: [
                n
                for n in ask(collector, "notifications", Notifications).notices
                if n.state == "over"
            ]
        )
        assert [n.event for n in resolved] == ["resolved"]
        assert [json.loads(post.body)["event"] for post in hook.received] == ["opened", "resolved"]


def test_the_last_error_of_a_channel_is_told_and_the_message_waits(tmp_path, hook):
    hook.status = 503
    with notifying(tmp_path, hook) as collector:
        a_run(collector, "r", finding())

        def failed():
            told = ask(collector, "notifications", Notifications)
            return told if told.channels[0].error else None

        told = until(failed)
        team = told.channels[0]
        assert (team.name, team.error) == ("team", "the webhook answered 503")
        assert team.failed_at == pytest.approx(time.time(), abs=15)
        [notice] = told.notices
        assert (notice.state, notice.attempts) == ("waiting", 1)
        assert notice.at > team.failed_at


def test_a_token_of_one_project_sees_its_routes_and_silences_alone(tmp_path, hook):
    with notifying(tmp_path, hook) as collector:
        token = collector.app.state.tokens.create(Scope.READ, project="shop-eu")
        assert ask(collector, "notifications", Notifications, token).silences == ()
        a_run(collector, "old-1", project="shop-eu")
        a_run(collector, "lab-secret-7", project="lab-1")
        told = ask(collector, "notifications", Notifications, token)
        assert [channel.name for channel in told.channels] == ["team"]
        [route] = told.routes
        assert (route.projects, route.severity) == (("shop*",), "warning")
        [silence] = told.silences
        assert (silence.runs, silence.until) == (("old-*",), 1896076800.0)
        everything = ask(collector, "notifications", Notifications)
        assert len(everything.silences) == len(everything.routes) == 2
        assert everything.silences[0].until is None
        assert everything.silences[1].runs == ("old-*", "lab-secret-7")
