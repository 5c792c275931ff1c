"""A real Prometheus scrapes a running collector, and shows what the training measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.collector import Collector, running_collector
from helpers.prometheus import Prometheus, lint, running
from trainvitals.wire import (
    STATISTICS,
    Batch,
    Frame,
    Layout,
    Place,
    Record,
    RunEnd,
    RunStart,
    Scalar,
    Stat,
    Stream,
)

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"

pytestmark = pytest.mark.needs_prometheus


def batch(run, *records: Record, seq: int = 0) -> Batch:
    return Batch(run, "shop", run.encode().ljust(16, b"."), seq, time.time(), 0, records)


@contextlib.contextmanager
def scraping(collector: Collector, home: Path, token: str) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration; only hosts, paths and pace are changed."""
    home.mkdir()
    (home / "token").write_text(token)
    config = (
        (DEPLOY / "prometheus.yml")
        .read_text()
        .replace("/run/trainvitals/prometheus_token", str(home / "token"))
        .replace("collector:8321", collector.url.removeprefix("http://"))
        .replace("15s", "1s")
        .replace("scrape_timeout: 10s", "scrape_timeout: 1s")
        .replace("rules.yml", str(DEPLOY / "rules.yml"))
    )
    (home / "prometheus.yml").write_text(config)
    with running(home / "prometheus.yml", home) as prometheus:
        yield prometheus


def recorded(losses, *, first_step=0, **scalars):
    """Return the records of a run that measured these losses, one step each 10 ms until now."""
    columns = {"loss": losses, "nonfinite_loss": (~np.isfinite(losses)).astype(float), **scalars}
    steps = np.arange(first_step, first_step + len(losses), dtype=np.int64)
    values = np.empty((len(steps), len(columns), 1), np.float32)
    for i, column in enumerate(columns.values()):
        values[:, i, 0] = column
    names = [name.replace("__", "/") for name in columns]
    times = time.time() - 0.01 * np.arange(len(steps), dtype=float)[::-1]
    return (
        RunStart(time.time() - 60, name="n", host="node-7", total_steps=500),
        Layout(Stream.SCALAR, 0, STATISTICS[Stream.SCALAR], tuple(Place(name) for name in names)),
        Frame(Stream.SCALAR, 0, steps, times, values),
    )


HEALTHY = np.linspace(2.3, 0.25, 100)
GOING_ON = 0.25 + np.append(0.01 * np.random.default_rng(0).standard_normal(99), 0.0)
DIVERGED = np.where(np.arange(100) < 60, 2.3, np.nan)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A collector with four runs (well, sick, done, silent), and a Prometheus that scrapes it."""
    home = tmp_path_factory.mktemp("prometheus")
    with running_collector(home / "collector", lost_after_s=4) as collector:
        collector.send(batch("silent", *recorded(HEALTHY)))
        collector.send(batch("done", *recorded(HEALTHY), RunEnd(time.time(), 99, "finished")))
        with scraping(collector, home / "prometheus", collector.token) as prometheus:
            yield _Live(collector, prometheus)


class _Live:
    """Keeps two runs reporting, as running ones do."""

    def __init__(self, collector, prometheus):
        self.collector, self.prometheus, self._seq = collector, prometheus, 0
        self.report()

    def report(self):
        layer = Place("layer.weight", kind="weight")
        update = np.full((100, 1, len(STATISTICS[Stream.UPDATE])), np.nan, np.float32)
        update[:, 0, STATISTICS[Stream.UPDATE].index(Stat.RATIO)] = 2e-3
        more = (
            Layout(Stream.UPDATE, 0, STATISTICS[Stream.UPDATE], (layer,)),
            Frame(
                Stream.UPDATE,
                0,
                np.arange(100, dtype=np.int64) + 100 * self._seq,
                np.full(100, time.time()),
                update,
            ),
        )
        common = {
            Scalar.GRADIENT_NORM: 1.25,
            "learning_rate__0": 0.125,
            Scalar.STEP_TIME_S: 0.01,
            Scalar.OVERHEAD: 0.01,
        }
        at = 100 * self._seq
        losses = GOING_ON if self._seq else HEALTHY
        self.collector.send(
            batch("well", *recorded(losses, first_step=at, **common), *more, seq=self._seq)
        )
        self.collector.send(batch("sick", *recorded(DIVERGED, first_step=at), seq=self._seq))
        self._seq += 1

    def until(self, expression):
        """Return the answer to a query as soon as there is one, while the runs go on."""
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            if found := self.prometheus.query(expression):
                return found
            self.report()
            time.sleep(0.5)
        raise AssertionError(f"{expression} stayed empty. {self.prometheus.targets()}")

    def value(self, expression):
        [(_, value)] = self.until(expression)
        return value


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ('trainvitals_run_loss{run="well", split="training"}', 0.25),
        ('trainvitals_run_gradient_norm{run="well"}', 1.25),
        ('trainvitals_run_learning_rate{run="well", group="0"}', 0.125),
        ('trainvitals_run_update_ratio{run="well"}', 2e-3),
        ('trainvitals_run_step_duration_seconds{run="well"}', 0.01),
        ('trainvitals_run_capture_overhead_ratio{run="well"}', 0.01),
        ('trainvitals_run_planned_steps{run="well"}', 500),
        ('trainvitals_run_state{run="well", state="running"}', 1),
        ('trainvitals_run_state{run="done", state="finished"}', 1),
        ('trainvitals_run_info{run="well", host="node-7"}', 1),
        ('trainvitals_run_nonfinite_values_total{run="well", kind="loss"}', 0),
    ],
)
def test_prometheus_shows_what_was_measured(scraped, expression, wanted):
    assert scraped.value(expression) == pytest.approx(wanted, rel=1e-5)


def test_a_diverged_loss_is_not_a_number_and_its_steps_are_counted(scraped):
    assert np.isnan(scraped.value('trainvitals_run_loss{run="sick"}'))
    assert scraped.value('trainvitals_run_nonfinite_values_total{run="sick", kind="loss"}') >= 40


def test_the_diagnosis_reaches_prometheus_and_the_alert_is_pending(scraped):
    assert scraped.value('max(trainvitals_findings_active{run="sick", severity="error"})') >= 1
    assert scraped.value('trainvitals_run_health{run="sick"}') < 1
    [(labels, _), *_] = scraped.until('ALERTS{alertname="TrainvitalsRunBroken", run="sick"}')
    assert labels["alertstate"] in {"pending", "firing"}
    assert scraped.prometheus.query('ALERTS{run="well", severity="critical"}') == []


def test_a_run_that_falls_silent_is_lost(scraped):
    scraped.until('trainvitals_run_state{run="silent", state="lost"} == 1')


def test_batches_are_counted_and_timed(scraped):
    assert scraped.value('trainvitals_ingest_requests_total{outcome="stored"} >= 4') >= 4
    assert scraped.value("trainvitals_ingest_lag_seconds_count >= 4") >= 4
    assert scraped.value("trainvitals_storage_write_duration_seconds_count >= 4") >= 4
    assert scraped.value("trainvitals_rule_evaluation_duration_seconds_count >= 4") >= 4
    assert scraped.value("trainvitals_storage_bytes") > 4096


def test_promtool_has_nothing_to_say_of_a_live_exposition(scraped):
    assert lint(scraped.collector.get("/metrics").content) == ""


def test_prometheus_has_loaded_the_shipped_alerts(scraped):
    assert "TrainvitalsRunLost" in scraped.prometheus.rules()


def test_without_a_good_token_there_is_nothing_to_scrape(scraped, tmp_path):
    with scraping(scraped.collector, tmp_path / "stranger", "tv_read_nobody_knows") as stranger:
        [(_, up)] = stranger.until("up == 0")
        assert up == 0
        [target] = stranger.targets()
        assert "401" in target["lastError"]
