"""GET /runs/{run}/report.html: one page with the verdict, the findings and the curves of a run."""

from html.parser import HTMLParser

import numpy as np
import pytest

from helpers import plain_http
from helpers.batches import batch, diagnosis, frame, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.api.client import Client, Refused
from trainvitals.api.schema import Finding, Severity
from trainvitals.report.html import FINDINGS_MAX
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.auth.tokens import Scope
from trainvitals_server.query.reports import LINES_MAX, file_name

NAME = '"><script>alert(1)</script>'


def finding(where: str = "h.0", **fields: object) -> Finding:
    return Finding(
        **{
            "rule": "dead_relu",
            "code": "TV201",
            "severity": Severity.WARNING,
            "where": where,
            "since_step": 3,
            "summary": f"Most units of {where} are zero.",
            "stream": "activation",
            "statistic": "dead_share",
            **fields,
        }
    )


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("report"), round_interval_s=3600) as running:
        layout = Layout(Stream.ACTIVATION, 0, (Stat.DEAD_SHARE,), (Place("h.0", depth=0),))
        losses = [1.0 / (i + 1) for i in range(700)]
        losses[500] = 50.0
        sent = batch(
            start(name=NAME),
            scalars("loss", *(f"learning_rate/{i}" for i in range(60))),
            layout,
            scalar_frame(range(700), losses, *[[0.1] * 700] * 60),
            frame(Stream.ACTIVATION, range(10), np.full((10, 1, 1), 0.9, np.float32)),
        )
        assert running.send(sent).status_code == 200
        pk = running.store.run("r").pk
        running.store.save_diagnosis(pk, diagnosis([finding()], health=0.5, step=699))
        yield running


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_has_the_verdict_the_finding_and_the_curves(collector):
    answer = collector.get("/api/v1/runs/r/report.html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Tags(answer.text)
    assert "Most units of h.0 are zero." in page.text
    assert "dead_share of activation at h.0" in page.text
    assert "Before the training" in page.text
    assert any(tag == "svg" and "Loss" in str(attrs) for tag, attrs in page.seen)


def test_the_page_loads_nothing_runs_nothing_and_names_are_text(collector):
    answer = collector.get("/api/v1/runs/r/report.html")
    page = Tags(answer.text)
    assert NAME in page.text
    assert not {tag for tag, _ in page.seen} & {"script", "link", "img", "iframe", "object"}
    assert not {name for _, attrs in page.seen for name in attrs} & {"src", "onload", "onclick"}
    policy = answer.headers["content-security-policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == (
        'attachment; filename="script-alert-1-script.html"'
    )


def test_the_size_does_not_grow_with_the_number_of_findings_and_curves(collector):
    pk = collector.store.run("r").pk
    many = [finding(f"h.{i}", explained_by="TV101") for i in range(1, 600)]
    collector.store.save_diagnosis(pk, diagnosis([finding(), *many], health=0.1, step=699))
    page = collector.get("/api/v1/runs/r/report.html").text
    assert page.count('<article class="card') == FINDINGS_MAX
    assert f"and {600 - FINDINGS_MAX:,} more" in page
    assert page.count('<i class="key') == LINES_MAX - 1  # the loss is one line without a key
    assert len(page) < 2_000_000
    collector.store.save_diagnosis(pk, diagnosis([finding()], health=0.5, step=699))


def test_a_run_without_a_diagnosis_has_a_page_that_says_so(collector):
    sent = batch(start(), run="new", source=b"n" * 16)
    assert collector.send(sent).status_code == 200
    assert "Too early to say" in collector.get("/api/v1/runs/new/report.html").text


def test_the_client_returns_the_page_and_the_reason_for_a_refusal(collector):
    client = Client(collector.url, collector.token)
    assert client.report_page("r") == collector.get("/api/v1/runs/r/report.html").text
    with pytest.raises(Refused) as refused:
        client.report_page("none")
    assert refused.value.reason == "unknown_run"


def test_a_token_of_another_project_gets_no_page(collector):
    token = collector.app.state.tokens.create(Scope.READ, project="other")
    answer = plain_http.get(
        f"{collector.url}/api/v1/runs/r/report.html",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("name", "file"),
    [('a"b\r\nX: y', "a-b-X-y.html"), ("größe", "gr-e.html"), ("..", "run.html"), ("", "run.html")],
)
def test_a_file_name_cannot_leave_the_header(name, file):
    assert file_name(name) == file
