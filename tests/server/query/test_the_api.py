"""What the API answers: always JSON, always within its limits, errors with a reason."""

import math

import numpy as np
import pytest

from helpers import plain_http
from helpers.batches import batch, diagnosis, frame, scalar_frame, scalars, start
from helpers.collector import running_collector
from trainvitals.api.schema import Evidence, Finding, Severity
from trainvitals.diagnosis.rules.dead_relu import DeadRelu
from trainvitals.diagnosis.user_rules import UnusableRule
from trainvitals.wire import (
    STATISTICS,
    Dropped,
    Event,
    EventKind,
    Layout,
    NotWatched,
    Place,
    Stat,
    Stream,
)


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("api"), round_interval_s=3600) as running:
        weights = Layout(
            Stream.WEIGHT,
            0,
            STATISTICS[Stream.WEIGHT],
            (Place("b", depth=1, kind="bias", shape=(3,)), Place("w", depth=0, flags=("output",))),
        )
        values = np.ones((5, 2, len(weights.statistics)), np.float32)
        values[3, 0, 0] = np.inf
        sent = batch(
            start(
                name="<b>name</b>",
                config={"lr": math.inf, "nested": {"x": [1, math.nan]}},
                tags=("t",),
                versions={"torch": "2"},
                facts={"parameters": 3.0},
            ),
            scalars("loss"),
            weights,
            scalar_frame(range(100), [1.0 / (i + 1) for i in range(100)]),
            frame(Stream.WEIGHT, range(0, 50, 10), values),
            Event(3, 5.0, "checkpoint", "saved", {"n": math.nan}),
            Dropped(1, 2, "weight", "queue_full", 4),
            NotWatched({"emb": "sparse"}),
        )
        assert running.send(sent).status_code == 200
        yield running


def test_a_run_is_listed_and_shown_in_full(collector):
    [listed] = collector.get("/api/v1/runs").json()["runs"]
    shown = collector.get("/api/v1/runs/r").json()
    assert listed.items() <= shown.items()
    assert (listed["id"], listed["name"], listed["step"]) == ("r", "<b>name</b>", 99)
    assert listed["findings"] == {"error": 0, "warning": 0, "info": 0}
    assert 0 < len(listed["sparkline"]) <= 60
    assert shown["config"] == {"lr": None, "nested": {"x": [1, None]}}
    assert shown["metadata"]["versions"] == {"torch": "2"}
    assert shown["events"] == [
        {"step": 3, "time": 5.0, "kind": "checkpoint", "text": "saved", "attributes": {"n": None}}
    ]
    assert shown["not_watched"] == {"emb": "sparse"}
    [dropped] = shown["dropped"]
    assert dropped["records"] == 4


def test_a_run_that_did_not_change_is_not_sent_again(collector):
    first = collector.get("/api/v1/runs/r")
    headers = {**collector.headers, "If-None-Match": first.headers["etag"]}
    url = f"{collector.url}/api/v1/runs/r"
    assert plain_http.get(url, headers=headers).status_code == 304
    collector.store.save_diagnosis(collector.store.run("r").pk, diagnosis([], health=1.0, step=1))
    again = plain_http.get(url, headers=headers)
    assert again.status_code == 200
    assert again.headers["etag"] != first.headers["etag"]


def test_findings_have_all_their_fields_and_no_nan(collector):
    found = Finding(
        rule="dead_relu",
        code="TV201",
        severity=Severity.WARNING,
        where="w",
        since_step=3,
        summary="s",
        evidence=(Evidence(quantity="share", seen=math.nan, text="of the units"),),
    )
    pk = collector.store.run("r").pk
    collector.store.save_diagnosis(pk, diagnosis([found], health=0.5, step=9))
    [shown] = collector.get("/api/v1/runs/r/findings").json()["findings"]
    assert set(shown) == set(Finding.__struct_fields__)
    [evidence] = shown["evidence"]
    assert set(evidence) == set(Evidence.__struct_fields__)
    assert (evidence["quantity"], evidence["seen"]) == ("share", None)
    assert collector.get("/api/v1/runs/r").json()["headline"]["code"] == "TV201"


def test_the_layout_names_every_place_with_all_that_is_known(collector):
    streams = collector.get("/api/v1/runs/r/layout").json()["streams"]
    [weights] = [s for s in streams if s["stream"] == "weight"]
    assert weights["statistics"][0] == "mean"
    bias, weight = weights["places"]
    assert (bias["kind"], bias["shape"]) == ("bias", [3])
    assert "trainable" not in bias, "what has its default is left out: see the OpenAPI schema"
    assert weight["flags"] == ["output"]


def test_a_series_comes_in_buckets_that_tile_its_range(collector):
    answer = collector.get(
        "/api/v1/runs/r/series",
        stream="scalar",
        statistic="value",
        place="loss",
        from_step=10,
        to_step=49,
        points=7,
    ).json()
    [curve] = answer["series"]
    assert len(curve["step"]) <= 7
    assert curve["step"][0] == 10
    assert curve["last_step"][-1] == 49
    assert sum(curve["count"]) == 40
    assert curve["max"][0] == pytest.approx(1 / 11)
    assert curve["min"][-1] == curve["last"][-1] == pytest.approx(1 / 50)


def test_several_places_come_in_the_order_asked_for(collector):
    answer = collector.get(
        "/api/v1/runs/r/series", stream="weight", statistic="mean", place=["w", "b"]
    ).json()
    assert [curve["place"] for curve in answer["series"]] == ["w", "b"]
    assert answer["series"][1]["nonfinite"] == [0, 0, 0, 1, 0]
    assert answer["series"][1]["mean"] == [1, 1, 1, None, 1]


def test_a_heat_map_has_a_row_for_each_place_and_null_for_nothing(collector):
    answer = collector.get("/api/v1/runs/r/heatmap", stream="weight", statistic="mean").json()
    assert answer["places"] == ["w", "b"]
    assert answer["steps"] == [0, 10, 20, 30, 40]
    assert answer["values"] == [[1, 1, 1, 1, 1], [1, 1, 1, None, 1]]


def with_outputs():
    """Return a batch of a run with outputs of two modules, six losses and an initialiser."""
    places = tuple(Place(name, kind="ReLU", depth=i, module=name) for i, name in enumerate("ab"))
    columns = STATISTICS[Stream.ACTIVATION]
    values = np.ones((6, 2, len(columns)), np.float32)
    values[:, :, columns.index(Stat.UNIT_MEAN_STD)] = 2
    values[4:] = 100  # later steps are of a trained model
    return batch(
        start(),
        scalars("loss"),
        Layout(Stream.ACTIVATION, 0, columns, places),
        scalar_frame(range(6), [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]),
        frame(Stream.ACTIVATION, range(6), values),
        Event(0, 5.0, EventKind.INITIALISERS, "1 of 1", {"a.weight": '{"name":"he_normal"}'}),
    )


def test_the_state_before_the_training_comes_from_the_first_steps(tmp_path):
    with running_collector(tmp_path, round_interval_s=3600) as running:
        assert running.send(with_outputs()).status_code == 200
        shown = running.get("/api/v1/runs/r/initial").json()
    assert shown["batches"] == 4
    assert [(row["layer"], row["S"], row["M"]) for row in shown["propagation"]] == [
        ("a", 1.0, 2.0),
        ("b", 1.0, 2.0),
    ]
    assert shown["initial_loss"]["seen"] == 3.0
    assert shown["initialisers"] == {
        "a.weight": {"name": "he_normal", "parameters": {}, "confidence": 0.0, "distance": 0.0}
    }


def test_a_run_whose_first_steps_were_not_measured_has_no_initial_state(collector):
    shown = collector.get("/api/v1/runs/r/initial").json()
    assert shown["propagation"] == []
    assert shown["initialisers"] == {}
    assert shown["initial_loss"]["seen"] == 1.0


def test_the_rules_have_pages(collector):
    rules = collector.get("/api/v1/rules").json()["rules"]
    assert rules
    page = collector.get(f"/api/v1/rules/{rules[0]['code']}").json()
    assert page["summary"] == rules[0]["summary"]
    assert all(set(t) == {"default", "meaning"} for t in page["thresholds"].values())


SERIES = {"stream": "scalar", "statistic": "value", "place": "loss"}


@pytest.mark.parametrize(
    ("path", "parameters", "status", "reason"),
    [
        ("/nothing", {}, 404, "not_found"),
        ("/api/v1/runs/nobody", {}, 404, "unknown_run"),
        ("/api/v1/runs/%00", {}, 404, "unknown_run"),
        ("/api/v1/runs/nobody/findings", {}, 404, "unknown_run"),
        ("/api/v1/rules/TV000", {}, 404, "unknown_rule"),
        ("/api/v1/ingest", {}, 405, "method_not_allowed"),
        ("/api/v1/runs", {"limit": "NaN"}, 422, "invalid"),
        ("/api/v1/runs", {"limit": 100_000}, 422, "invalid"),
        ("/api/v1/runs", {"state": "unheard"}, 422, "invalid"),
        ("/api/v1/runs", {"cursor": "nonsense"}, 400, "cursor"),
        ("/api/v1/runs/r/series", {}, 422, "invalid"),
        ("/api/v1/runs/r/series", {**SERIES, "points": 1e9}, 422, "invalid"),
        ("/api/v1/runs/r/series", {**SERIES, "from_step": -1}, 422, "invalid"),
        ("/api/v1/runs/r/series", {**SERIES, "from_step": 2**70}, 422, "invalid"),
        ("/api/v1/runs/r/series", {**SERIES, "place": ["x"] * 51}, 422, "invalid"),
        ("/api/v1/runs/r/series", {**SERIES, "place": "nobody"}, 404, "unknown_series"),
        ("/api/v1/runs/r/series", {**SERIES, "stream": "gradient"}, 404, "unknown_series"),
        ("/api/v1/runs/r/heatmap", {**SERIES, "columns": 513}, 422, "invalid"),
        ("/docs", {}, 404, "not_found"),
    ],
)
def test_a_refusal_is_a_problem_with_a_reason(collector, path, parameters, status, reason):
    answer = collector.get(path, **parameters)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "reason"}
    assert (problem["status"], problem["reason"]) == (status, reason)
    assert problem["type"] == f"/problems/{reason}"


def test_a_refusal_does_not_repeat_what_was_sent(collector):
    secret = "tv_admin_x_hunter2"
    answer = collector.get("/api/v1/runs", limit=secret, cursor=secret * 20)
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


def test_an_error_of_ours_is_a_problem_too(collector, monkeypatch):
    monkeypatch.setattr(collector.store, "findings", lambda _: 1 / 0)
    answer = collector.get("/api/v1/runs/r/findings")
    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
    assert "ZeroDivision" not in answer.text


def test_the_description_names_every_answer(collector):
    described = collector.get("/openapi.json").json()
    ingest = described["paths"]["/api/v1/ingest"]["post"]["responses"]
    assert {"200", "400", "401", "403", "409", "413", "415", "503"} <= set(ingest)
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            # 204 has no content.
            assert "204" in answers or answers.get("201", answers.get("200"))["content"], path
            if path != "/healthz":
                assert {"401", "403"} <= set(operation["responses"]), f"{method} {path}"


def test_metrics_and_readiness_answer(collector):
    assert collector.get("/readyz").json() == {"status": "ready"}
    assert collector.get("/version").json()["wire"] == [1, 1]
    assert "trainvitals_build_info" in collector.get("/metrics").text


def test_a_collector_that_cannot_write_is_not_ready(tmp_path):
    with running_collector(tmp_path) as running:
        running.store.database.failure = OSError("the disk is gone")
        answer = running.get("/readyz")
        assert (answer.status_code, answer.json()["reason"]) == (503, "not_ready")


def test_a_rule_of_another_package_has_a_page_and_a_broken_one_is_not_listed(
    collector, monkeypatch
):
    class TheirRule(DeadRelu):
        __doc__ = DeadRelu.__doc__
        code = "MY001"

    installed = (TheirRule(), UnusableRule("theirs", "ImportError"))
    monkeypatch.setattr("trainvitals.diagnosis.user_rules.installed_rules", lambda: installed)
    listed = collector.get("/api/v1/rules").json()["rules"]
    assert [rule["code"] for rule in listed] == ["MY001"]
    assert collector.get("/api/v1/rules/MY001").json()["rule"] == "their_rule"
