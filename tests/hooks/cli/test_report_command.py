"""`report` and `check` ask a collector and turn its answer into text and an exit code."""

import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from trainvitals.api.schema import (
    Completeness,
    Curve,
    Evidence,
    Finding,
    Findings,
    Layout,
    Layouts,
    Place,
    RunDetail,
    RunPage,
    Series,
    Severity,
    State,
    Verdict,
)
from trainvitals.cli.app import app

FINDING = Finding(
    rule="dead_relu",
    code="TV201",
    severity=Severity.WARNING,
    where="encoder.3",
    since_step=5,
    summary="It died.",
    evidence=(Evidence(quantity="dead share", seen=float("nan")),),
    stream="activation",
    statistic="dead_share",
)
CURVE = Curve(
    "encoder.3",
    step=[0, 10],
    last_step=[9, 19],
    min=[0.1, 0.2],
    mean=[0.1, 0.3],
    max=[0.1, 0.9],
    last=[0.1, 0.9],
    nonfinite=[0, 0],
    count=[10, 10],
)

PAGE = "<!doctype html><h1>größe</h1>"


@contextmanager
def collector(
    *findings: Finding,
    health: float | None = 0.5,
    token: str = "",
    names: tuple[str, ...] = (),
    **fields: Any,
) -> Iterator[str]:
    """Run a collector that knows the run `r` with these findings; yield its address."""
    headline = next((f for f in findings if f.is_alarm), None)
    about = RunDetail(
        id="r",
        project="p",
        name="r",
        started_at=0.0,
        last_report_at=1.0,
        step=199,
        health=health,
        headline=headline,
        overhead=0.01,
        **{
            "state": "finished",
            "verdict": Verdict(headline.severity.value) if headline else Verdict.HEALTHY,
            **fields,
        },
    )
    layout = Layout("activation", ("dead_share",), (Place("encoder.3"),))
    answers = {
        "/api/v1/runs": RunPage([replace(about, name=name) for name in names]),
        "/api/v1/runs/r": about,
        "/api/v1/runs/r/findings": Findings(findings),
        "/api/v1/runs/r/layout": Layouts([layout]),
        "/api/v1/runs/r/report.html": PAGE,
        "/api/v1/runs/r/series": Series("activation", "dead_share", [CURVE]),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                self.answer(401, {"type": "/problems/unauthorised", "detail": "A token, please."})
            elif path in answers:
                self.answer(200, answers[path])
            else:
                self.answer(404, {"type": "/problems/unknown_run", "detail": "No such run."})

        def answer(self, status, body):
            encoded = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(url: str, *arguments: str, command: str = "check"):
    return CliRunner().invoke(app, [command, "r", "--collector", url, *arguments])


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path))
    monkeypatch.delenv("TRAINVITALS_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_healthy_run_is_exit_code_0():
    with collector(health=1.0) as url:
        done = asked(url)
    assert (done.exit_code, done.stdout) == (
        0,
        "trainvitals: run r: healthy: nothing found in 200 steps\n",
    )


@pytest.mark.parametrize(
    ("fail_on", "code"), [("error", 0), ("warning", 1), ("info", 1), ("never", 0)]
)
def test_a_warning_fails_from_warning_on(fail_on, code):
    with collector(FINDING) as url:
        assert asked(url, "--fail-on", fail_on).exit_code == code


def test_without_fail_on_a_note_does_not_fail_and_a_warning_does():
    with collector(replace(FINDING, severity=Severity.INFO), health=1.0) as url:
        assert asked(url).exit_code == 0
    with collector(FINDING) as url:
        assert asked(url).exit_code == 1


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"verdict": Verdict.TOO_EARLY}, 4, "too early to say"),
        ({"verdict": Verdict.BLIND, "blind": {"no_learning": "no loss"}}, 5, "no loss"),
        (
            {"verdict": Verdict.FAILED, "state": "failed", "error": "RuntimeError: boom"},
            6,
            "RuntimeError: boom",
        ),
        ({"verdict": Verdict.FAILED, "state": "lost", "error": "contact was lost"}, 6, "lost"),
    ],
)
@pytest.mark.parametrize("command", ["check", "report"])
def test_a_run_that_is_not_known_to_be_healthy_has_an_exit_code_of_its_own(
    fields, code, said, command
):
    with collector(**fields) as url:
        done = asked(url, command=command)
        ignored = asked(url, "--fail-on", "never", command=command)
    assert done.exit_code == code
    assert said in done.stdout
    assert ignored.exit_code == 0


def test_a_finding_that_is_over_does_not_fail():
    with collector(replace(FINDING, severity=Severity.ERROR, state=State.RESOLVED)) as url:
        assert asked(url).exit_code == 0


def test_the_card_shows_finding_and_curve_and_report_ends_as_check_does():
    with collector(FINDING) as url:
        done = asked(url, command="report")
    assert done.exit_code == 1
    assert "! WARNING  TV201 dead_relu" in done.stdout
    assert "▁█" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_card_says_which_records_are_missing():
    lost = Completeness(complete=False, stored=5, dropped=0, missing=7, reason="7 records missing.")
    open_ended = Completeness(reason="The run has not ended.")
    with collector(completeness=lost) as url:
        assert "Missing   7 records missing." in asked(url, command="report").stdout
    with collector(completeness=open_ended) as url:
        assert "Missing" not in asked(url, command="report").stdout


def test_html_writes_the_page_of_the_collector_and_shows_the_card(tmp_path):
    with collector(FINDING) as url:
        done = asked(url, "--html", "page.html", command="report")
    assert "! WARNING  TV201 dead_relu" in done.stdout
    assert "Report: page.html" in done.stderr
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == PAGE


def test_quiet_writes_the_files_without_a_message(tmp_path):
    with collector(FINDING) as url:
        page = asked(url, "--html", "page.html", "--quiet", command="report")
        results = asked(url, "--junit", "results.xml", "--quiet")
    assert (page.output, results.output) == ("", "")
    assert (tmp_path / "page.html").exists()
    assert (tmp_path / "results.xml").exists()


def test_a_page_that_cannot_be_written_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with collector(FINDING) as url:
        done = asked(url, "--html", "file/page.html", command="report")
    assert done.exit_code == 2
    assert "not written" in done.stderr


def test_junit_has_a_case_for_each_rule_and_fails_where_the_exit_code_does(tmp_path):
    with collector(FINDING, blind={"loss_spike": "no loss was recorded"}) as url:
        done = asked(url, "--junit", "results.xml")
        asked(url, "--junit", "ignored.xml", "--fail-on", "error")
    assert done.exit_code == 1
    cases = {c.get("name"): c for c in ET.parse(tmp_path / "results.xml").iter("testcase")}
    failure = cases["TV201 dead_relu"].find("failure")
    assert (failure.get("message"), failure.get("type")) == ("at encoder.3 It died.", "warning")
    assert "dead share: not measured" in failure.text
    assert cases["TV504 loss_spike"].find("skipped").get("message") == "no loss was recorded"
    assert list(cases["TV101 vanishing_gradient"]) == []
    assert "TV201 dead_relu at encoder.3" in cases["verdict"].find("system-out").text
    ignored = ET.parse(tmp_path / "ignored.xml").getroot()[0]
    assert (ignored.get("failures"), ignored.get("skipped")) == ("0", "1")
    assert "It died." in ignored.find("testcase[@name='TV201 dead_relu']/system-out").text


@pytest.mark.parametrize(
    ("fields", "tag"),
    [
        ({"verdict": Verdict.TOO_EARLY}, "failure"),
        ({"verdict": Verdict.BLIND, "blind": {"no_learning": "no loss"}}, "failure"),
        (
            {"verdict": Verdict.FAILED, "state": "failed", "error": "RuntimeError: \x1bboom"},
            "error",
        ),
    ],
)
def test_junit_does_not_pass_a_run_that_is_not_known_to_be_healthy(fields, tag, tmp_path):
    with collector(**fields) as url:
        asked(url, "--junit", "results/")
    suite = ET.parse(tmp_path / "results" / "r.xml").getroot()[0]
    assert suite.find(f"testcase[@name='verdict']/{tag}") is not None
    assert suite.get(f"{tag}s") == "1"


def test_json_on_stdout_is_the_diagnosis():
    with collector(FINDING) as url:
        shown = json.loads(asked(url, "--json").stdout)
    assert shown["headline"]["code"] == "TV201"
    assert shown["findings"][0]["evidence"][0]["seen"] is None


def test_quiet_says_it_by_the_exit_code_alone():
    with collector(FINDING) as url:
        done = asked(url, "--quiet")
    assert (done.exit_code, done.output) == (1, "")


def test_a_run_that_was_not_diagnosed_yet_is_not_called_healthy():
    with collector(health=None) as url:
        done = asked(url, "--wait", "0")
    assert done.exit_code == 3
    assert "has not diagnosed the run" in done.stderr


def test_an_unknown_run_is_a_usage_error():
    with collector() as url:
        done = CliRunner().invoke(app, ["check", "other/run", "--collector", url])
    assert done.exit_code == 2
    assert "No run has the id or name 'other/run'" in done.stderr


def test_the_token_comes_from_the_token_file(tmp_path):
    with collector(health=1.0, token="tv_read_1_x") as url:
        refused = asked(url)
        (tmp_path / "token").write_text("tv_read_1_x\n")
        let_in = asked(url)
    assert refused.exit_code == 2
    assert "TRAINVITALS_TOKEN" in refused.stderr
    assert let_in.exit_code == 0


def test_a_run_is_found_by_its_displayed_name():
    with collector(FINDING, names=("calm-otter-17", "calm-otter-175")) as url:
        found = CliRunner().invoke(app, ["check", "calm-otter-17", "--collector", url])
    assert found.exit_code == 1
    assert "TV201" in found.output


@pytest.mark.parametrize(
    ("names", "said"),
    [(("calm-otter-175",), "No run has the id or name"), (("a", "a"), "2 runs are named 'a'")],
)
def test_a_name_of_no_run_or_of_several_is_wrong_usage(names, said):
    with collector(FINDING, names=names) as url:
        found = CliRunner().invoke(app, ["check", "a", "--collector", url])
    assert found.exit_code == 2
    assert said in found.output
