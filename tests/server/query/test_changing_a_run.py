"""Admins rename, tag, annotate, archive, delete and undelete runs: over HTTP and as commands."""

import json

import pytest
from typer.testing import CliRunner

from helpers import plain_http
from helpers.batches import batch, scalar_frame, scalars, start
from trainvitals.api.client import Client, Refused
from trainvitals.cli.app import app
from trainvitals_server.auth import Scope


@pytest.fixture
def with_run(collector):
    sent = batch(
        start(name="first", tags=("a",)), scalars("loss"), scalar_frame([0, 1], [2.0, 1.0])
    )
    assert collector.send(sent).status_code == 200
    return collector


def ask(collector, method, path, token=None, **options):
    headers = {"Authorization": f"Bearer {token or collector.token}"}
    url = f"{collector.url}/api/v1{path}"
    return plain_http.request(method, url, headers=headers, **options)


def names(collector, **query):
    return [run["id"] for run in collector.get("/api/v1/runs", **query).json()["runs"]]


def test_a_patch_changes_what_it_names_and_nothing_else(with_run):
    etag = with_run.get("/api/v1/runs/r").headers["etag"]
    answer = ask(with_run, "PATCH", "/runs/r", json={"notes": "# ü\n<b>", "tags": ["x", "x", "y"]})
    assert answer.status_code == 200, answer.text
    run = answer.json()
    assert (run["name"], run["tags"], run["notes"]) == ("first", ["x", "y"], "# ü\n<b>")
    assert run["archived"] is False
    shown = with_run.get("/api/v1/runs/r")
    assert (shown.json()["notes"], shown.json()["tags"]) == (run["notes"], run["tags"])
    assert shown.headers["etag"] != etag
    [event] = run["events"]
    assert (event["kind"], event["text"]) == ("run_changed", "tags, notes")
    assert event["attributes"]["token"] == with_run.token.split("_")[2]


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": "a\x00"},
        {"tags": [""]},
        {"tags": ["x" * 65]},
        {"tags": ["a\tb"]},
        {"tags": [str(i) for i in range(51)]},
        {"tags": "x"},
        {"notes": "x" * 10_001},
        {"notes": "\x00"},
        {"archived": None},
        {"state": "finished"},
        [],
    ],
)
def test_what_is_out_of_bounds_is_422_and_changes_nothing(with_run, body):
    answer = ask(with_run, "PATCH", "/runs/r", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid")
    run = with_run.get("/api/v1/runs/r").json()
    assert (run["name"], run["tags"], run["notes"]) == ("first", ["a"], "")
    assert (run["archived"], run["events"]) == (False, [])


def test_text_that_is_no_unicode_is_422(with_run):
    answer = ask(with_run, "PATCH", "/runs/r", content=b'{"name": "\\ud800"}')
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid")


@pytest.mark.parametrize(
    ("method", "path"),
    [("PATCH", "/runs/r"), ("DELETE", "/runs/r"), ("POST", "/runs/r/undelete")],
)
def test_only_an_admin_of_the_project_changes_a_run(with_run, method, path):
    tokens = with_run.app.state.tokens
    for token, status in (
        (tokens.create(Scope.READ), 403),
        (tokens.create(Scope.INGEST), 403),
        (tokens.create(Scope.ADMIN, project="another"), 404),
    ):
        options = {"json": {"name": "x"}} if method == "PATCH" else {}
        assert ask(with_run, method, path, token, **options).status_code == status
    assert with_run.get("/api/v1/runs/r").json()["name"] == "first"


def test_archived_runs_are_listed_when_asked_for(with_run):
    assert ask(with_run, "PATCH", "/runs/r", json={"archived": True}).status_code == 200
    assert (names(with_run), names(with_run, archived="true")) == ([], ["r"])
    assert with_run.get("/api/v1/runs/r").json()["archived"] is True


def test_a_deleted_run_is_in_the_bin_until_it_is_brought_back(with_run):
    deleted = ask(with_run, "DELETE", "/runs/r")
    assert deleted.status_code == 200
    days = (
        deleted.json()["removed_at"]
        - with_run.get("/api/v1/runs", deleted="true").json()["runs"][0]["deleted_at"]
    ) / 86_400
    assert days == pytest.approx(7)
    assert with_run.get("/api/v1/runs/r").status_code == 404
    assert ask(with_run, "DELETE", "/runs/r").status_code == 404
    assert (names(with_run), names(with_run, deleted="true")) == ([], ["r"])
    other = with_run.app.state.tokens.create(Scope.ADMIN, project="another")
    assert ask(with_run, "POST", "/runs/r/undelete", other).status_code == 404
    back = ask(with_run, "POST", "/runs/r/undelete")
    assert (back.status_code, back.json()["loss"]) == (200, 1.0)
    assert (names(with_run), names(with_run, deleted="true")) == (["r"], [])
    again = ask(with_run, "POST", "/runs/r/undelete")
    assert (again.status_code, again.json()["reason"]) == (404, "unknown_run")


def test_a_new_run_with_the_id_of_the_deleted_one_is_not_replaced(with_run):
    assert ask(with_run, "DELETE", "/runs/r").status_code == 200
    assert with_run.send(batch(start(name="new"), source=b"n" * 16)).status_code == 200
    answer = ask(with_run, "POST", "/runs/r/undelete")
    assert (answer.status_code, answer.json()["reason"]) == (409, "run_exists")
    assert with_run.get("/api/v1/runs/r").json()["name"] == "new"


def test_with_now_a_run_cannot_be_brought_back(with_run):
    deleted = ask(with_run, "DELETE", "/runs/r", params={"now": "true"})
    assert deleted.json() == {"id": "r", "removed_at": None}
    assert ask(with_run, "POST", "/runs/r/undelete").status_code == 404
    assert names(with_run, deleted="true") == []


def test_the_commands_do_the_same(with_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_TOKEN", with_run.token)
    monkeypatch.chdir(tmp_path)

    def said(*words, code=0):
        done = CliRunner().invoke(app, ["runs", *words, "--collector", with_run.url])
        assert done.exit_code == code, done.output
        return done

    assert "shown as 'Better'" in said("rename", "r", "Better").stderr
    assert "shown as 'first'" in said("rename", "r").stderr
    assert "the tags: x, y" in said("tag", "r", "x", "y").stderr
    assert "the tags: a" in said("tag", "r").stderr
    said("archive", "r")
    assert json.loads(said("--json").stdout) == []
    [shown] = json.loads(said("--json", "--archived").stdout)
    assert (shown["id"], shown["archived"]) == ("r", True)
    said("unarchive", "r")
    assert "trainvitals runs undelete 'r'" in said("delete", "r", "--yes").stderr
    assert [run["id"] for run in json.loads(said("--json", "--deleted").stdout)] == ["r"]
    said("undelete", "r")
    assert [run["id"] for run in json.loads(said("--json").stdout)] == ["r"]
    assert "is deleted" in said("delete", "r", "--yes", "--now").stderr
    assert "No run" in said("undelete", "r", code=2).stderr
    reader = with_run.app.state.tokens.create(Scope.READ)
    monkeypatch.setenv("TRAINVITALS_TOKEN", reader)
    assert "scope admin" in said("archive", "r", code=2).stderr


def test_a_refused_change_is_refused_with_its_reason(with_run):
    client = Client(with_run.url, with_run.token)
    with pytest.raises(Refused) as refused:
        client.change("nobody", archived=True)
    assert refused.value.reason == "unknown_run"
