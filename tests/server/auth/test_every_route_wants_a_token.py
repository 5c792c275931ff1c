"""Nobody without a fitting token reads or writes: every route, every way to ask."""

import stat

import httpx2
import pytest

from helpers import plain_http
from helpers.batches import batch, scalar_frame, scalars, start
from helpers.collector import Collector, running_collector
from trainvitals_server.app import create_app
from trainvitals_server.auth import Scope, ScopedRouter, Tokens, allow
from trainvitals_server.settings import Settings

OPEN = {("GET", "/healthz")}
NEEDS_INGEST = {("POST", "/api/v1/ingest"), ("GET", "/api/v1/ingest/ready")}


def routes() -> list[tuple[str, str]]:
    """Every (method, path) that the app answers, openapi.json too."""
    found = []
    for included in create_app(Settings()).routes:
        for route in included.original_router.routes:
            found += [(method, route.path) for method in sorted(route.methods)]
    return found


CLOSED = [route for route in routes() if route not in OPEN]
FILLED = {"{run}": "r", "{code}": "TV201", "{silence}": "1", "{channel}": "none"}


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("auth")) as running:
        yield running


def ask(collector: Collector, route: tuple[str, str], token: str | None) -> httpx2.Response:
    method, path = route
    for name, value in FILLED.items():
        path = path.replace(name, value)
    headers = {} if token is None else {"Authorization": token}
    return plain_http.request(method, collector.url + path, headers=headers)


def tokens_of(collector: Collector) -> Tokens:
    return collector.app.state.tokens


def test_there_are_routes_to_test():
    assert len(CLOSED) >= 12


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: " ".join(route))
@pytest.mark.parametrize("kind", ["none", "empty", "garbage", "unknown", "not a bearer", "cut"])
def test_without_a_valid_token_it_is_401(collector, route, kind):
    token = {
        "none": None,
        "empty": "Bearer",
        "garbage": "Bearer tv_admin_'; DROP TABLE run; --_x",
        "unknown": "Bearer tv_admin_000000000000_" + "x" * 43,
        "not a bearer": f"Basic {collector.token}",
        "cut": f"Bearer {collector.token[:-1]}",
    }[kind]
    answer = ask(collector, route, token)
    assert answer.status_code == 401
    assert answer.json()["reason"] == "unauthorised"
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: " ".join(route))
def test_a_token_of_another_scope_is_403(collector, route):
    wrong = Scope.READ if route in NEEDS_INGEST else Scope.INGEST
    answer = ask(collector, route, f"Bearer {tokens_of(collector).create(wrong)}")
    assert answer.status_code == 403
    assert answer.json()["reason"] == "forbidden"


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: " ".join(route))
def test_an_admins_token_opens_it(collector, route):
    assert ask(collector, route, f"Bearer {collector.token}").status_code not in (401, 403)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_token_that_ended_opens_nothing(collector, end):
    tokens = tokens_of(collector)
    token = tokens.create(Scope.READ, lifetime_s=0 if end == "expired" else None)
    if end == "revoked":
        assert tokens.check(token) is not None
        assert tokens.revoke(token.split("_")[2])
    assert ask(collector, ("GET", "/api/v1/runs"), f"Bearer {token}").status_code == 401


def test_a_token_says_its_scope_but_cannot_change_it(collector):
    forged = tokens_of(collector).create(Scope.READ).replace("tv_read_", "tv_admin_")
    assert tokens_of(collector).check(forged) is None


def test_health_needs_no_token(collector):
    assert ask(collector, ("GET", "/healthz"), None).json() == {"status": "alive"}


def test_a_token_of_one_project_sees_no_other(collector):
    read = tokens_of(collector).create(Scope.READ, project="mine")
    headers = {"Authorization": f"Bearer {read}"}
    sent = [("a", "mine", b"a"), ("b", "theirs", b"b"), ("both", "theirs", b"c")]
    for run, project, source in (*sent, ("both", "mine", b"d")):
        sent = batch(start(), scalars("loss"), run=run, project=project, source=source * 16)
        assert collector.send(sent).status_code == 200

    def get(path):
        return plain_http.get(collector.url + path, headers=headers)

    assert {run["id"] for run in get("/api/v1/runs").json()["runs"]} == {"a", "mine::both"}
    assert get("/api/v1/runs/both").json()["project"] == "mine"
    assert get("/api/v1/runs/mine::both").json()["project"] == "mine"
    assert get("/api/v1/runs?project=theirs").json()["runs"] == []
    assert get("/api/v1/runs/a").status_code == 200
    for path in (
        "",
        "/findings",
        "/layout",
        "/heatmap?stream=scalar&statistic=value",
        "/report.html",
    ):
        assert get(f"/api/v1/runs/b{path}").status_code == 404
    assert get("/metrics").status_code == 403


def test_a_token_of_one_project_writes_to_no_other(collector):
    write = tokens_of(collector).create(Scope.INGEST, project="mine")
    sent = batch(
        scalars("x"), scalar_frame([0], [1.0]), run="c", project="theirs", source=b"c" * 16
    )
    refused = collector.send(sent, Authorization=f"Bearer {write}")
    assert (refused.status_code, refused.json()["reason"]) == (403, "forbidden")
    assert collector.store.run("c") is None


def test_a_route_without_a_scope_does_not_register():
    router = ScopedRouter()
    with pytest.raises(TypeError, match="declares no scope"):

        @router.get("/everything")
        def everything() -> None: ...

    assert router.routes == []

    @router.get("/something", dependencies=[allow(Scope.READ)])
    def something() -> None: ...

    assert len(router.routes) == 1


def test_the_first_token_is_for_its_owners_eyes_and_made_once(tmp_path):
    with running_collector(tmp_path) as first:
        assert stat.S_IMODE(first.token_file.stat().st_mode) == 0o600
        token = first.token
    with running_collector(tmp_path) as again:
        assert again.token == token


def test_no_secret_is_in_the_database(tmp_path):
    with running_collector(tmp_path) as running:
        secret = running.token.split("_", 3)[3]
    for file in tmp_path.glob("trainvitals.db*"):
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]"])
def test_another_host_name_is_turned_away(collector, host):
    answer = plain_http.get(f"{collector.url}/healthz", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["content-type"] in (
        "application/problem+json",
        "text/plain; charset=utf-8",
    )
