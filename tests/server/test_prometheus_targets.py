"""Prometheus discovers collectors over HTTP."""

import json

import pytest

from helpers.collector import running_collector
from helpers.prometheus import running


def test_without_a_setting_the_collector_names_the_address_it_was_asked_at(sqlite_collector):
    [group] = sqlite_collector.get("/api/v1/prometheus/targets").json()
    assert group["targets"] == [sqlite_collector.url.removeprefix("http://")]
    assert group["labels"] == {"__scheme__": "http", "__metrics_path__": "/metrics"}


def test_the_setting_names_all_collectors(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_PROMETHEUS_TARGETS", "a:8321, b:8321")
    with running_collector(tmp_path) as collector:
        [group] = collector.get("/api/v1/prometheus/targets").json()
    assert group["targets"] == ["a:8321", "b:8321"]


@pytest.mark.needs_prometheus
def test_a_real_prometheus_finds_and_scrapes_the_collector(sqlite_collector, tmp_path):
    (tmp_path / "secret").write_text(sqlite_collector.token)
    authorization = {"type": "Bearer", "credentials_file": str(tmp_path / "secret")}
    job = {
        "job_name": "trainvitals",
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "authorization": authorization,
        "http_sd_configs": [
            {
                "url": f"{sqlite_collector.url}/api/v1/prometheus/targets",
                "authorization": authorization,
            }
        ],
    }
    config = tmp_path / "prometheus.yml"
    config.write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
    with running(config, tmp_path / "home") as prometheus:
        assert prometheus.until('up{job="trainvitals"} == 1')
