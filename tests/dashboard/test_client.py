"""The client returns the collector's answer, or the last one if the collector is unreachable."""

import pytest

from helpers.fake_collector import TOKEN
from helpers.fake_runs import HOSTILE, healthy_run, hostile_run, vanishing_run
from trainvitals_dashboard.client import Client, Problem


@pytest.fixture
def client(collector):
    clock = iter(range(1000, 100_000))
    return Client(collector.url, lambda: TOKEN, clock=lambda: float(next(clock)))


def test_a_run_comes_with_its_headline(client, collector):
    collector.runs = [vanishing_run()]
    answer = client.run("sigmoid-deep")
    assert answer.problem is None
    assert answer.value.headline
    assert answer.value.headline.code == "TV101"
    assert answer.value.verdict == "error"


def test_the_last_answer_is_kept_with_its_time_when_the_collector_goes(client, collector):
    collector.runs = [healthy_run()]
    before = client.runs()
    collector.down = True
    answer = client.runs()
    assert answer.value == before.value
    assert answer.at <= before.at
    assert answer.problem
    assert answer.problem.reason == "unreachable"


def test_without_an_earlier_answer_a_collector_that_is_away_is_a_problem(client, collector):
    collector.down = True
    with pytest.raises(Problem, match="does not answer"):
        client.runs()


def test_a_wrong_token_is_said_even_where_an_answer_is_kept(client, collector):
    collector.runs = [healthy_run()]
    client.runs()
    collector.token = "tv_read_1_another"
    with pytest.raises(Problem) as raised:
        client.runs()
    assert raised.value.reason == "unauthorised"


def test_curves_are_asked_for_once_as_long_as_the_run_stands_still(client, collector):
    collector.runs = [healthy_run(fields={"last_report_at": 1.0})]
    run = client.run("resnet-baseline").value
    first = client.series(run, "scalar", "value", ["loss"])
    asked = len(collector.asked)
    assert client.series(run, "scalar", "value", ["loss"]).value is first.value
    assert len(collector.asked) == asked


def test_names_travel_whole_whatever_is_in_them(client, collector):
    collector.runs = [hostile_run()]
    assert client.run(HOSTILE).value.id == HOSTILE


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "a?b#c", "%2e%2e"])
def test_no_name_reaches_another_path(name):
    seen = []

    def answer(path, _):
        seen.append(path)
        return 404, {}, b'{"reason": "unknown_run", "detail": ""}'

    client = Client("http://c", lambda: "", exchange=answer)
    with pytest.raises(Problem):
        client.run(name)
    [path] = seen
    assert path.startswith("/api/v1/runs/")
    assert path.count("/") == 4
    assert "?" not in path


def test_a_redirect_is_not_followed_with_the_token():
    asked = []

    def answer(path, headers):
        asked.append((path, headers["Authorization"]))
        return 302, {"location": "http://evil.example/"}, b""

    with pytest.raises(Problem):
        Client("http://c", lambda: "secret", exchange=answer).runs()
    assert asked == [("/api/v1/runs?limit=100", "Bearer secret")]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"runs": 3}', b"\xff"])
def test_an_answer_that_is_none_is_called_broken(body):
    with pytest.raises(Problem) as raised:
        Client("http://c", lambda: "", exchange=lambda *_: (200, {}, body)).runs()
    assert raised.value.reason == "broken"


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr("trainvitals_dashboard.client.KEPT_BYTES_MAX", 3000)
    body = b'{"runs":[]}'
    client = Client("http://c", lambda: "", exchange=lambda *_: (200, {}, body))
    for i in range(20):
        client.runs(search=str(i))
    assert 1 < len(client._kept) < 20
    assert 0 < client._kept.currsize <= 3000
