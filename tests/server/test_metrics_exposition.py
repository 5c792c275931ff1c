"""/metrics: every number has something behind it, the format is clean, and there is a bound."""

import math
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from helpers.prometheus import lint
from trainvitals.api.schema import Counts, Finding, Run, Severity, State
from trainvitals.metrics.families import RUN_FAMILIES
from trainvitals.metrics.layers import Layer, Layers
from trainvitals.metrics.vitals import Measured, Vitals
from trainvitals.wire import Batch, Heartbeat
from trainvitals_server.publish import metrics
from trainvitals_server.publish.counters import (
    DURATION_BUCKETS_S,
    IngestCounters,
    RoundStats,
    distribution,
    histogram,
)
from trainvitals_server.publish.exposition import Publisher
from trainvitals_server.publish.families import COLLECTOR_FAMILIES
from trainvitals_server.store.types import StoredRun, Totals

NOW = 1_000_000.0
HOSTILE = 'a"} 1\nevil{x="\\'


def summary(pk=1, run="run-1", state="running", **known):
    known = {
        "project": "mnist",
        "name": run,
        "started_at": NOW - 1000,
        "last_report_at": NOW - 1,
        "ended_at": None,
        "step": 41,
        "total_steps": 100,
        "loss": 0.5,
        "health": 0.75,
        "headline": None,
        "findings": Counts(),
        "sparkline": (),
        "step_rate": 10.0,
        "tags": (),
        "attempt": 1,
        "host": "node-1",
        "overhead": 0.01,
        **known,
    }
    return StoredRun(pk, 1, Run(id=run, state=state, **known))


VITALS = Vitals(
    step=41,
    loss={"training": 0.5, "validation": 0.7},
    gradient_norm=1.5,
    gradient_norm_before_clipping=9.0,
    update_ratio=1e-3,
    nonfinite={"loss": 2, "gradient": 0},
    learning_rate={"0": 0.1},
    loss_scale=65536.0,
    step_time_s=0.25,
    skipped=3,
    scalars={"accuracy": 0.9},
    layers=Layers(
        (Layer("fc.weight", 0.1, 0.01, 1e-3),), 4, 12.0, (Layer("fc", 0.2, 0.02, 2e-3),), 3
    ),
)


def finding(rule="dead_relu", severity=Severity.WARNING, state=State.OPEN, where="relu"):
    return Finding(
        rule=rule,
        code="TV201",
        severity=severity,
        state=state,
        where=where,
        since_step=3,
        summary="x",
    )


class FakeStore:
    """A run list in memory: the real one is met in test_prometheus.py."""

    def __init__(self, *runs, findings=(), bytes_=4096, dropped=()):
        self.runs, self.found = runs, list(findings)
        self.sizes = Totals(bytes_, dict(dropped))
        self.asked = 0

    def run_summaries(self, *, state=None, limit=100, cursor=None, **_):
        at = int(cursor or 0)
        found = [stored for stored in self.runs if stored.run.state == state]
        return found[at : at + limit], str(at + limit) if at + limit < len(found) else None

    def run_by_key(self, run_pk):
        return next((run for run in self.runs if run.pk == run_pk), None)

    def open_findings(self, run_pks):
        found = Counter((f.rule, str(f.severity)) for f in self.found if f.is_open)
        return dict.fromkeys(run_pks, found)

    def totals(self):
        self.asked += 1
        return self.sizes


class FakeRounds:
    def __init__(self, measured=None, stats=None):
        self._measured, self._stats = measured or {}, stats or RoundStats()

    def measured(self):
        return self._measured

    def stats(self):
        return self._stats


def publisher(*runs, measured_at=NOW - 1, vitals=VITALS, counters=None, stats=None, **known):
    names = ("series_max", "queue_bytes", "now", "detail", "notifications")
    options = {name: known.pop(name) for name in names if name in known}
    return Publisher(
        FakeStore(*runs, **known),
        FakeRounds({run.pk: Measured(vitals, measured_at, NOW) for run in runs}, stats),
        counters or IngestCounters(),
        **{"now": lambda: NOW, **options},
    )


def scraped(publisher):
    """Return {(name, labels as a frozenset): value} of the classic exposition."""
    body, _ = publisher.expose(None)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in classic(body.decode())
        for sample in family.samples
    }


def values(publisher, name, **labels):
    wanted = set(labels.items())
    return [v for (n, of), v in scraped(publisher).items() if n == name and wanted <= of]


def full(detail="layer"):
    """A publisher with a value in every family."""
    counters = IngestCounters()
    counters.accepted(
        Batch("r", "p", b"s" * 16, 0, NOW, 0, (Heartbeat(NOW, 1),)), 99, stored=True, now=NOW + 2
    )
    counters.refused("too_large")
    with counters.writing():
        pass
    evaluation = histogram(DURATION_BUCKETS_S)
    evaluation.observe(0.02)
    stats = RoundStats(7, 6, 1, 2.5, distribution(evaluation), {("dead_relu", "warning"): 2})
    return publisher(
        summary(findings=Counts(warning=1)),
        counters=counters,
        stats=stats,
        findings=[finding()],
        dropped={"queue_full": 5},
        queue_bytes=lambda: 12,
        detail=detail,
        notifications=lambda: {("team", "sent"): 2},
    )


@pytest.mark.needs_prometheus
@pytest.mark.parametrize("detail", ["group", "layer"])
def test_promtool_finds_nothing_to_complain_of(detail):
    body, _ = full(detail).expose(None)
    assert lint(body) == ""


@pytest.mark.needs_prometheus
def test_promtool_does_complain_of_a_bad_name():
    assert "counter" in lint(
        b"# HELP trainvitals_bad x\n# TYPE trainvitals_bad counter\ntrainvitals_bad 1\n"
    )


def test_every_family_of_the_list_is_there_when_it_has_a_value():
    shown = {
        family.name
        for detail in ("group", "layer")
        for family in classic(full(detail).expose(None)[0].decode())
    }
    listed = {f"trainvitals_{f.name}" for f in (*RUN_FAMILIES, *COLLECTOR_FAMILIES)}
    assert listed | {"trainvitals_runs_left_out"} == shown


def test_openmetrics_comes_when_asked_for_and_says_the_same():
    wanted = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"
    body, content_type = full().expose(wanted)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    strict = {
        (s.name, frozenset(s.labels.items())): s.value
        for family in openmetrics(body.decode())
        for s in family.samples
    }
    plain = scraped(full())
    timed = {key for key in plain if "duration" in key[0] and "run" not in key[0]}
    assert {k: v for k, v in strict.items() if k not in timed} == {
        k: v for k, v in plain.items() if k not in timed
    }


@pytest.mark.parametrize("accept", [None, "", "*/*", "text/html;;=", "text/plain;version=€"])
def test_whatever_else_is_asked_for_the_answer_is_classic_text(accept):
    body, content_type = full().expose(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert body.startswith(b"# HELP")


def test_a_run_is_in_one_state():
    states = {
        state: values(publisher(summary(state="lost")), "trainvitals_run_state", state=state)
        for state in ("running", "lost", "finished", "failed", "stopped")
    }
    assert states == {"running": [0], "lost": [1], "finished": [0], "failed": [0], "stopped": [0]}


def test_a_loss_that_is_not_a_number_is_shown_as_one():
    [loss] = values(
        publisher(summary(), vitals=Vitals(3, {"training": math.nan})), "trainvitals_run_loss"
    )
    assert math.isnan(loss)


def test_what_is_not_known_is_absent():
    young = summary(step=-1, total_steps=None, health=None, overhead=None)
    names = {name for name, labels in scraped(publisher(young, vitals=Vitals())) if labels}
    run_names = {n for n in names if n.startswith("trainvitals_run_")}
    assert run_names == {
        "trainvitals_run_info",
        "trainvitals_run_state",
        "trainvitals_run_last_report_timestamp_seconds",
    }


@pytest.mark.parametrize(
    ("measured_at", "last_report_at"),
    [(NOW - 301, NOW - 1), (NOW - 1, NOW - 301)],
    ids=["no new step for five minutes, but heartbeats", "nothing heard for five minutes"],
)
def test_a_value_older_than_five_minutes_is_absent_not_frozen(measured_at, last_report_at):
    old = publisher(summary(last_report_at=last_report_at), measured_at=measured_at)
    assert values(old, "trainvitals_run_loss") == []
    assert values(old, "trainvitals_run_state", state="running") == [1]


def test_a_run_that_ended_leaves_after_ten_minutes():
    def ended(seconds_ago):
        at = NOW - seconds_ago
        return publisher(summary(state="finished", ended_at=at, last_report_at=at))

    assert values(ended(599), "trainvitals_run_state", state="finished") == [1]
    assert values(ended(601), "trainvitals_run_state") == []


def test_a_lost_run_stays_for_a_day():
    def silent(seconds):
        return publisher(summary(state="lost", last_report_at=NOW - seconds))

    assert values(silent(86_000), "trainvitals_run_state", state="lost") == [1]
    assert values(silent(87_000), "trainvitals_run_state") == []


def test_findings_are_counted_by_rule_and_severity_and_resolved_ones_are_not():
    found = [
        finding(where="a"),
        finding(where="b"),
        finding(where="c", state=State.RESOLVED),
        finding("loss_nonfinite", Severity.ERROR),
    ]
    shown = publisher(summary(findings=Counts(1, 2)), findings=found)
    assert values(shown, "trainvitals_findings_active", rule="dead_relu", severity="warning") == [2]
    assert values(shown, "trainvitals_findings_active", severity="error") == [1]


def test_a_hostile_name_stays_inside_its_label():
    hostile = publisher(summary(run=HOSTILE, project=HOSTILE, host=HOSTILE))
    assert values(hostile, "trainvitals_run_step", run=HOSTILE, project=HOSTILE) == [41]
    assert not [name for name, _ in scraped(hostile) if "evil" in name]


def test_a_reason_that_a_client_made_up_is_no_label():
    shown = publisher(dropped={"queue_full": 5, "no_disk": 4, "my disk": 2, "moon": 1})
    assert values(shown, "trainvitals_client_dropped_records_total", reason="queue_full") == [5]
    assert values(shown, "trainvitals_client_dropped_records_total", reason="no_disk") == [4]
    assert values(shown, "trainvitals_client_dropped_records_total", reason="other") == [3]


def test_over_the_budget_whole_runs_are_left_out_silent_ones_first_and_counted():
    runs = [
        summary(pk, f"run-{pk}", "running" if pk % 2 else "lost", last_report_at=NOW - pk)
        for pk in range(100)
    ]
    crowded = publisher(*runs, series_max=1000)
    body, _ = crowded.expose(None)
    series = [line for line in body.decode().splitlines() if not line.startswith("#")]
    shown = [pk for pk in range(100) if values(crowded, "trainvitals_run_step", run=f"run-{pk}")]
    [left_out] = values(crowded, "trainvitals_runs_left_out")
    assert len(series) <= 1000
    assert len(shown) + left_out == 100
    assert all(pk % 2 for pk in shown)
    assert shown == list(range(1, 2 * len(shown), 2))


def test_a_run_with_everything_has_at_most_sixty_series():
    many = Vitals(
        step=1,
        loss={f"split-{i}": 1.0 for i in range(9)},
        learning_rate={str(i): 0.1 for i in range(8)},
        nonfinite={"loss": 1, "gradient": 1},
        gradient_norm=1,
        update_ratio=1,
        loss_scale=1,
        step_time_s=1,
        gradient_norm_before_clipping=1,
        skipped=1,
        layers=Layers((Layer("a", 1, 1, 1),) * 20, 9, 2.0),
    )
    found = [finding(f"rule_{i}") for i in range(100)]
    shown = publisher(summary(findings=Counts(0, 100)), vitals=many, findings=found)
    assert sum(("run", "run-1") in labels for _, labels in scraped(shown)) <= 60


def test_layers_have_series_only_when_the_operator_chose_them():
    without, with_layers = publisher(summary()), publisher(summary(), detail="layer")
    assert values(without, "trainvitals_layer_weight_rms") == []
    assert values(without, "trainvitals_run_gradient_norm_layer_spread_ratio") == [12]
    assert values(with_layers, "trainvitals_layer_weight_rms", layer="fc.weight") == [0.1]
    assert values(with_layers, "trainvitals_layers_left_out") == [4]
    assert values(with_layers, "trainvitals_block_weight_rms") == []


def test_blocks_have_series_only_when_the_operator_chose_them():
    blocks = publisher(summary(), detail="group")
    assert values(blocks, "trainvitals_block_weight_rms", block="fc") == [0.2]
    assert values(blocks, "trainvitals_blocks_left_out") == [3]
    assert values(blocks, "trainvitals_layer_weight_rms") == []
    assert values(publisher(summary()), "trainvitals_block_weight_rms") == []


def test_scrapes_share_a_snapshot_and_totals_are_counted_twice_a_minute():
    clock = [NOW]
    shown = publisher(summary(), now=lambda: clock[0])
    for second in range(45):
        clock[0] = NOW + second
        shown.expose(None)
        shown.expose(None)
    assert shown._store.asked == 2
    assert shown.snapshot() is shown.snapshot()


def test_two_apps_in_one_process_share_nothing():
    first, second = publisher(summary(run="a")), publisher(summary(run="b"))
    assert values(first, "trainvitals_run_step", run="b") == []
    assert values(second, "trainvitals_run_step", run="b") == [41]


def test_the_page_of_metrics_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text() == metrics.page(), (
        "run: python -m trainvitals_server.publish.metrics > docs/metrics.md"
    )
