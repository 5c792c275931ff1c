"""/api/v1/tokens: an admin creates, lists and revokes tokens; nobody gains rights by it."""

import pytest

from helpers import plain_http
from helpers.collector import running_collector
from trainvitals_server.auth import Scope


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("tokens")) as running:
        yield running


def ask(collector, method, path="/api/v1/tokens", *, token=None, **more):
    headers = {"Authorization": f"Bearer {token or collector.token}"}
    return plain_http.request(method, collector.url + path, headers=headers, **more)


def test_a_created_token_works_until_it_is_revoked(collector):
    made = ask(collector, "POST", json={"scope": "read", "project": "p", "label": "x", "days": 1})
    assert made.status_code == 201
    token = made.json()["token"]
    [listed] = [t for t in ask(collector, "GET").json()["tokens"] if t["label"] == "x"]
    assert (listed["scope"], listed["project"]) == ("read", "p")
    assert listed["expires_at"] - listed["created_at"] == pytest.approx(86_400)
    assert "sha256" not in listed
    assert ask(collector, "GET", "/version", token=token).status_code == 200
    assert ask(collector, "DELETE", f"/api/v1/tokens/{listed['id']}").status_code == 204
    assert ask(collector, "GET", "/version", token=token).status_code == 401
    again = ask(collector, "DELETE", f"/api/v1/tokens/{listed['id']}")
    assert (again.status_code, again.json()["reason"]) == (404, "unknown_token")


@pytest.mark.parametrize("scope", [Scope.READ, Scope.INGEST])
def test_only_an_admin_may(sqlite, scope):
    token = sqlite.app.state.tokens.create(scope)
    for method in ("GET", "POST"):
        answer = ask(sqlite, method, token=token, json={"scope": "admin"})
        assert (answer.status_code, answer.json()["reason"]) == (403, "forbidden")


def test_an_admin_of_one_project_cannot_gain_the_others(sqlite):
    token = sqlite.app.state.tokens.create(Scope.ADMIN, project="p")
    known = sqlite.app.state.tokens.all()
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{known[0].id}")):
        body = {"json": {"scope": "admin"}} if method == "POST" else {}
        answer = ask(sqlite, method, f"/api/v1/tokens{path}", token=token, **body)
        assert (answer.status_code, answer.json()["reason"]) == (403, "forbidden")
    assert sqlite.app.state.tokens.all() == known


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"scope": "everything"}',
        b'{"scope": "read", "days": 0}',
        b'{"scope": "read", "days": NaN}',
        b'{"scope": "read", "days": 1e308}',
        b'{"scope": "read", "label": "a\\u0000b"}',
        b'{"scope": "read", "label": "\\ud800"}',
        b'{"scope": "read", "project": ""}',
        b'{"scope": "read", "expires_at": 1}',
        b"[",
    ],
)
def test_what_is_not_valid_is_422_and_creates_nothing(collector, body):
    known = collector.app.state.tokens.all()
    answer = ask(collector, "POST", content=body)
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid"), answer.text
    assert collector.app.state.tokens.all() == known
