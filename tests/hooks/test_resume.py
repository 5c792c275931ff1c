"""`start_step`: a resumed training goes on with the numbers of its steps."""

import logging

import pytest
import torch
from torch import nn

import trainvitals
from helpers.collector import running_collector
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.api.client import Client
from trainvitals.api.schema import Verdict
from trainvitals.capture.budget import FIRST_STEPS
from trainvitals.wire import Stream

pytestmark = pytest.mark.usefixtures("own_home")


def trained(steps, **watch):
    """Train `steps` steps and return the closed monitor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with trainvitals.watch(model, optimizer, **{"collector": "off"} | watch) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = monitor.loss(model(torch.randn(16, 4)).square().mean())
            loss.backward()
            optimizer.step()
    return monitor


def test_steps_are_counted_from_it():
    monitor = trained(5, start_step=5000, every=1)
    assert monitor.diagnosis().step == 5004
    history = monitor._diagnosis.history
    assert history.steps(Stream.SCALAR).tolist() == [5000, 5001, 5002, 5003, 5004]
    assert history.steps(Stream.WEIGHT).tolist() == [5000, 5001, 5002, 5003, 5004]


def test_few_steps_after_a_resume_are_too_early_for_a_verdict():
    assert trained(5, start_step=5000, every=1).diagnosis().verdict is Verdict.TOO_EARLY


def test_the_first_steps_after_a_resume_are_measured_as_those_of_a_new_run():
    new, resumed = (
        trained(FIRST_STEPS, start_step=start, overhead=0.5)._diagnosis.history
        for start in (None, 5000)
    )
    assert len(resumed.steps(Stream.WEIGHT)) == len(new.steps(Stream.WEIGHT)) > 8


def test_the_state_at_a_resume_is_not_an_initial_state():
    diagnosis = trained(5, start_step=5000, every=1).diagnosis()
    assert diagnosis.propagation == ()
    assert diagnosis.checkup.initial_loss is None


def test_the_missing_loss_is_reported_after_the_first_steps(caplog):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off", start_step=100)
    for _ in range(10):
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    assert "first 8 steps" in monitor.diagnosis().not_watched["loss"]
    monitor.close()


@pytest.mark.parametrize("given", [-1, 2.5, "soon", True])
def test_an_invalid_number_is_a_warning_and_the_run_begins_at_0(given, caplog):
    with caplog.at_level(logging.WARNING, "trainvitals"):
        assert trained(3, start_step=given).diagnosis().step == 2
    assert "start_step" in caplog.text


def test_two_processes_of_a_run_are_one_curve_in_the_collector(tmp_path, monkeypatch):
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        named = {"collector": collector.url, "run": "long"}
        trained(30, **named)
        trained(30, start_step=30, **named)
        client = Client(collector.url, collector.token)
        [curve] = client.series("long", "scalar", "value", ["loss"], points=2000).series
        assert curve.step == list(range(60))
        assert client.run("long").step == 59
