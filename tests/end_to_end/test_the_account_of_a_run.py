"""A collector's report says what the guard prevented and why the own cost is above its share."""

import json

import pytest
import torch
from typer.testing import CliRunner

import trainvitals
from helpers.collector import running_collector
from helpers.watching import network, own_home, train  # noqa: F401 - a fixture
from trainvitals.api.client import Client
from trainvitals.cli.app import app
from trainvitals.remote import settled


@pytest.fixture
def collector(tmp_path):
    with running_collector(tmp_path) as running:
        yield running


def test_it_arrives_with_the_end_of_the_run(collector, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_TOKEN_FILE", str(collector.token_file))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    monitor = trainvitals.watch(
        model, optimizer, run="guarded", collector=collector.url, guard="veto"
    )
    train(model, optimizer, monitor, steps=10)
    with torch.no_grad():
        healthy = model[0].weight.clone()
    train(model, optimizer, monitor, steps=3, x_scale=float("nan"))
    assert torch.equal(model[0].weight, healthy)
    monitor.close()
    here = monitor.diagnosis()
    assert here.overhead_note

    assert settled(Client(collector.url, collector.token), "guarded", 30)
    asked = ["report", "guarded", "--collector", collector.url]
    answer = CliRunner().invoke(app, [*asked, "--json"])
    there = json.loads(answer.stdout)
    assert there["overhead_note"] == here.overhead_note
    assert there["prevented"] == {"updates": 3, "first_step": 10, "last_step": 12}
    card = " ".join(CliRunner().invoke(app, asked).stdout.split())
    assert (
        "3 updates with non-finite gradients prevented, first in step 10, last in step 12" in card
    )
    assert collector.get("/api/v1/runs/guarded").json()["completeness"]["complete"] is True
