"""A sick training raises an alert that real Prometheus and Alertmanager deliver, and later end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import trainvitals
from helpers.collector import running_collector
from helpers.prometheus import running, running_alertmanager
from helpers.webhook import running_webhook
from trainvitals_server.publish import snapshot

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = pytest.mark.needs_prometheus


def alertmanager_config(webhook_url: str) -> str:
    """The shipped example; only the receiver's address and the pace are changed."""
    text = (DEPLOY / "alertmanager/alertmanager.yml").read_text()
    text = text.replace("http://127.0.0.1:9095", webhook_url).replace(
        "group_wait: 30s", "group_wait: 1s"
    )
    return text.replace("group_interval: 5m", "group_interval: 1s")


def prometheus_config(home: Path, token: str, collector: str, alertmanager: int) -> Path:
    """The shipped configuration and rules; only hosts, paths and the pace are changed."""
    (home / "token").write_text(token)
    rules = (DEPLOY / "prometheus/rules.yml").read_text()
    (home / "rules.yml").write_text(re.sub(r"for: \d+m", "for: 1s", rules))
    text = (DEPLOY / "prometheus/prometheus.yml").read_text()
    text = text.replace("collector:8321", collector.removeprefix("http://"))
    text = text.replace("alertmanager:9093", f"127.0.0.1:{alertmanager}")
    text = text.replace("/run/trainvitals/prometheus_token", str(home / "token"))
    text = text.replace("scrape_timeout: 10s", "scrape_timeout: 1s").replace("15s", "1s")
    (home / "prometheus.yml").write_text(text)
    return home / "prometheus.yml"


def train_with_nan(collector: str) -> None:
    """Train until a NaN has been in the loss for some steps, and end the run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with trainvitals.watch(
        model, optimizer, run="diverged", project="shop", collector=collector
    ) as monitor:
        for step in range(60):
            x = torch.randn(32, 8)
            if step >= 30:
                x = x * float("nan")
            loss = nn.functional.cross_entropy(model(x), torch.randint(3, (32,)))
            optimizer.zero_grad()
            monitor.loss(loss).backward()
            optimizer.step()


def test_the_alert_of_a_sick_run_reaches_its_receiver_and_ends_when_the_run_has_left(
    tmp_path, monkeypatch
):
    for name, value in {"HOME": tmp_path / "collector", "REPORT": "off"}.items():
        monkeypatch.setenv(f"TRAINVITALS_{name}", str(value))
    home = tmp_path / "prometheus"
    home.mkdir()
    with running_webhook() as receiver, running_collector(tmp_path / "collector") as collector:
        (tmp_path / "alertmanager.yml").write_text(alertmanager_config(receiver.url))
        with running_alertmanager(tmp_path / "alertmanager.yml", tmp_path / "am") as port:
            config = prometheus_config(home, collector.token, collector.url, port)
            with running(config, home) as prometheus:
                train_with_nan(collector.url)
                prometheus.until('ALERTS{alertname="TrainvitalsRunBroken", alertstate="firing"}')
                received = receiver.until(lambda posts: bool(told(posts, "firing")))
                [first, *_] = told(received, "firing")
                assert first["labels"]["run"] == "diverged"
                assert first["labels"]["project"] == "shop"
                assert "trainvitals_docs" not in first["labels"]
                assert first["annotations"]["runbook_url"] == (
                    "https://docs.example.org/trainvitals/alerts.md#trainvitalsrunbroken"
                )
                assert told(received, "resolved") == []
                # An ended run is exported for ten minutes; the test does not wait that long.
                monkeypatch.setattr(snapshot, "ENDED_FOR_S", 0.0)
                receiver.until(lambda posts: bool(told(posts, "resolved")), within_s=60)


def told(posts, status):
    """Return the alerts TrainvitalsRunBroken with this status, of all notifications."""
    alerts = [a for post in posts for a in json.loads(post.body)["alerts"]]
    broken = [a for a in alerts if a["labels"]["alertname"] == "TrainvitalsRunBroken"]
    return [alert for alert in broken if alert["status"] == status]
