"""Silences that are added and ended at run time, and a test of a channel, over the API."""

import json
import time

import pytest
import sqlalchemy as sa

from helpers import plain_http
from helpers.batches import batch, diagnosis, start
from helpers.collector import running_collector
from helpers.webhook import running_webhook
from trainvitals.api.schema import Finding, Severity
from trainvitals_server.auth import Scope
from trainvitals_server.store import silences
from trainvitals_server.store.models import SilenceRow

SIGNING_KEY = "signing-key-0123456789"
HOOK_PATH = "address-s3cr3t"
HOUR_S = 3600.0


@pytest.fixture
def hook():
    with running_webhook() as running:
        yield running


@pytest.fixture
def collector(tmp_path, database_url, hook):
    channel = {"webhook": f"{hook.url}/{HOOK_PATH}", "key": SIGNING_KEY}
    spare = {"webhook": "http://127.0.0.1:9/", "key": SIGNING_KEY}
    notifications = {
        "channels": {"team": channel, "spare": spare},
        "routes": [{"channels": ["team"], "projects": ["shop"], "severity": "warning"}],
        "silences": [{"runs": ["old-*"]}],
    }
    with running_collector(
        tmp_path, database_url, round_interval_s=3600, notifications=notifications
    ) as running:
        yield running


def call(collector, method, path, token=None, **body):
    headers = {"Authorization": f"Bearer {token or collector.token}"}
    answer = plain_http.request(
        method,
        f"{collector.url}/api/v1/{path}",
        headers=headers,
        json=body or None,
        timeout=30,
    )
    assert HOOK_PATH not in answer.text
    assert SIGNING_KEY not in answer.text
    return answer


def add(collector, token=None, **body):
    return call(collector, "POST", "silences", token, **{"hours": 1, "reason": "known", **body})


def added(collector, token=None):
    """Return the silences of the API that a reader sees, without those of the settings."""
    held = call(collector, "GET", "notifications", token).json()["silences"]
    return [silence for silence in held if silence["runs"] != ["old-*"]]


def of_project(collector, project="shop", scope=Scope.ADMIN):
    return collector.app.state.tokens.create(scope, project=project)


def a_sick_run(collector, name, project="shop"):
    source = name.encode().ljust(16, b"-")[:16]
    sent = batch(start(), run=name, project=project, source=source)
    assert collector.send(sent).status_code == 200
    pk = next(s.pk for s in collector.store.run_summaries()[0] if s.run.id.endswith(name))
    finding = Finding(
        rule="dead_relu",
        code="TV201",
        severity=Severity.ERROR,
        where="relu",
        since_step=3,
        summary="relu is dead.",
    )
    collector.store.save_diagnosis(pk, diagnosis([finding], health=0.5, step=9))


def told(hook):
    return [json.loads(post.body)["run"] for post in hook.received]


def test_a_silence_suppresses_messages_until_it_is_ended(collector, hook):
    silence = add(collector, runs=["calm-*"], rules=["dead_relu"], reason=" it is known ").json()
    assert (silence["projects"], silence["runs"]) == (["*"], ["calm-*"])
    assert silence["until"] == pytest.approx(time.time() + HOUR_S, abs=30)
    assert (silence["reason"], silence["by"]) == ("it is known", collector.token.split("_")[2])
    assert added(collector) == [silence]
    a_sick_run(collector, "calm-1")
    a_sick_run(collector, "other")
    hook.until(lambda posts: len(posts) == 1)
    time.sleep(2.5)  # one comparison more
    assert told(hook) == ["other"]
    assert call(collector, "DELETE", f"silences/{silence['id']}").json() == silence
    assert added(collector) == []
    hook.until(lambda posts: len(posts) == 2)
    assert told(hook) == ["other", "calm-1"]


def test_the_record_names_who_added_and_who_ended_it(collector):
    other = collector.app.state.tokens.create(Scope.ADMIN)
    silence = add(collector).json()
    call(collector, "DELETE", f"silences/{silence['id']}", other)
    with collector.store.database.read() as connection:
        row = connection.execute(sa.select(SilenceRow.__table__)).one()
    assert (row.created_by, row.ended_by) == (collector.token.split("_")[2], other.split("_")[2])
    assert row.created_at <= row.ended_at < row.until


def test_a_configured_silence_is_shown_beside_and_cannot_be_ended(collector):
    add(collector)
    held = call(collector, "GET", "notifications").json()["silences"]
    assert [(s["runs"], bool(s["id"])) for s in held] == [(["old-*"], False), (["*"], True)]


def test_a_silence_ends_once(collector):
    silence = add(collector).json()
    path = f"silences/{silence['id']}"
    assert call(collector, "DELETE", path).status_code == 200
    again = call(collector, "DELETE", path)
    assert (again.status_code, again.json()["reason"]) == (404, "unknown_silence")
    assert call(collector, "DELETE", "silences/999").status_code == 404
    assert call(collector, "DELETE", "silences/x").status_code == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"hours": 0},
        {"hours": 720.1},
        {"hours": None},
        {"reason": ""},
        {"reason": "   "},
        {"reason": "x" * 501},
        {"reason": "two\nlines"},
        {"runs": []},
        {"runs": [""]},
        {"runs": ["x"] * 21},
        {"rules": ["\x00"]},
        {"unknown": 1},
    ],
)
def test_what_is_no_silence_is_refused_with_the_name_of_the_field(collector, wrong):
    answer = add(collector, **wrong)
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid")
    assert next(iter(wrong)) in answer.json()["detail"]
    assert added(collector) == []


def test_thirty_days_are_the_longest(collector):
    until = add(collector, hours=720).json()["until"]
    assert until == pytest.approx(time.time() + 30 * 24 * HOUR_S, abs=30)


def test_a_reader_may_not_add_end_or_test(collector):
    reader = collector.app.state.tokens.create(Scope.READ)
    silence = add(collector).json()
    assert add(collector, reader).status_code == 403
    assert call(collector, "DELETE", f"silences/{silence['id']}", reader).status_code == 403
    path = "notifications/channels/team/test"
    assert call(collector, "POST", path, reader).status_code == 403
    assert len(added(collector, reader)) == 1


def test_a_token_of_one_project_silences_only_runs_of_it(collector, hook):
    mine = of_project(collector)
    assert add(collector, mine).json()["projects"] == ["shop"]
    assert add(collector, mine, projects=["shop"]).status_code == 200
    for projects in (["bank"], ["sho*"], ["shop", "bank"]):
        refused = add(collector, mine, projects=projects)
        assert (refused.status_code, refused.json()["reason"]) == (403, "forbidden")
    assert {tuple(s["projects"]) for s in added(collector)} == {("shop",)}


def test_a_project_with_a_pattern_for_a_name_silences_itself_alone(collector):
    star = of_project(collector, "s*")
    assert add(collector, star).json()["projects"] == ["s[*]"]
    a_sick_run(collector, "r", project="s*")
    assert len(added(collector, star)) == 1
    a_sick_run(collector, "t", project="shop")
    assert added(collector, of_project(collector)) == []


def test_a_token_of_one_project_sees_of_others_only_what_concerns_it(collector):
    mine, theirs = of_project(collector), of_project(collector, "bank")
    a_sick_run(collector, "r")
    everyone = add(collector, reason="migration of bank").json()
    own = add(collector, mine, reason="ours").json()
    add(collector, theirs, reason="theirs")
    seen = added(collector, mine)
    assert {(s["id"], s["reason"], s["by"]) for s in seen} == {
        ("", "", ""),
        (own["id"], "ours", mine.split("_")[2]),
    }
    hidden = call(collector, "DELETE", f"silences/{everyone['id']}", mine)
    assert (hidden.status_code, hidden.json()["reason"]) == (404, "unknown_silence")
    assert call(collector, "DELETE", f"silences/{own['id']}", theirs).status_code == 404
    assert call(collector, "DELETE", f"silences/{own['id']}", mine).status_code == 200


def test_a_silence_ends_by_itself_and_its_record_is_removed_later(collector):
    database, patterns = collector.store.database, silences.Patterns(("*",), ("*",), ("*",))

    def at(now, until):
        return database.write(
            lambda connection: silences.add(
                connection, patterns, reason="x", until=until, token="t", now=now
            )
        )

    def held(now):
        with database.read() as connection:
            return [silence.pk for silence in silences.held(connection, now)]

    first = at(100.0, 200.0)
    assert held(199.9) == [first.pk]
    assert held(200.0) == []
    second = at(200.0 + silences.KEPT_S, 300.0 + silences.KEPT_S)
    third = at(201.0 + silences.KEPT_S, 250.0 + silences.KEPT_S)
    assert held(202.0 + silences.KEPT_S) == [third.pk, second.pk], "the first to end is first"
    with database.read() as connection:
        assert set(connection.scalars(sa.select(SilenceRow.pk))) == {second.pk, third.pk}


def test_the_number_of_silences_is_limited(collector, monkeypatch):
    monkeypatch.setattr(silences, "HELD_MAX", 2)
    first = add(collector).json()
    assert add(collector).status_code == 200
    refused = add(collector)
    assert (refused.status_code, refused.json()["reason"]) == (409, "too_many_silences")
    call(collector, "DELETE", f"silences/{first['id']}")
    assert add(collector).status_code == 200


def test_a_channel_is_tried_and_its_answer_is_passed_on(collector, hook):
    answer = call(collector, "POST", "notifications/channels/team/test")
    assert answer.json() == {
        "channel": "team",
        "delivered": True,
        "answer": "the webhook answered 200",
    }
    [post] = hook.received
    assert json.loads(post.body)["event"] == "test"
    again = call(collector, "POST", "notifications/channels/team/test")
    assert (again.status_code, again.json()["reason"]) == (429, "too_soon")
    assert 1 <= int(again.headers["retry-after"]) <= 10
    assert len(hook.received) == 1


def test_a_channel_that_fails_says_why_without_its_address(collector, hook):
    hook.status = 500
    answer = call(collector, "POST", "notifications/channels/team/test").json()
    assert (answer["delivered"], answer["answer"]) == (False, "the webhook answered 500")
    answer = call(collector, "POST", "notifications/channels/spare/test").json()
    assert not answer["delivered"]
    assert answer["answer"].startswith("the webhook is not reachable: ")
    assert "127.0.0.1" not in answer["answer"]


def test_a_token_of_one_project_tries_only_the_channels_of_its_routes(collector):
    path = "notifications/channels/{}/test"
    assert call(collector, "POST", path.format("team"), of_project(collector)).status_code == 200
    for channel, project in (("spare", "shop"), ("team", "bank"), ("none", "shop")):
        token = of_project(collector, project)
        answer = call(collector, "POST", path.format(channel), token)
        assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_channel")
