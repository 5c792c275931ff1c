"""The terminal and the collector count the same steps of a run that fails within a step."""

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import trainvitals
from helpers.collector import running_collector
from trainvitals.cli.app import app


def fail_at(bad, *, is_measured):
    """Train until the step `bad`, which raises before or after its forward pass."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with trainvitals.watch(model, optimizer, run="broken") as monitor:
        for step in range(bad + 1):
            optimizer.zero_grad()
            if step == bad and not is_measured:
                raise ValueError("bad")
            loss = monitor.loss(model(torch.randn(8, 4)).square().mean())
            if step == bad:
                raise ValueError("bad")
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("bad", [0, 7])
@pytest.mark.parametrize("is_measured", [True, False])
def test_an_unfinished_step_is_not_counted(bad, is_measured, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("TRAINVITALS_REPORT", "off")
    with running_collector(tmp_path) as collector:
        monkeypatch.setenv("TRAINVITALS_TOKEN", collector.token)
        monkeypatch.setenv("TRAINVITALS_COLLECTOR", collector.url)
        with pytest.raises(ValueError, match="bad"):
            fail_at(bad, is_measured=is_measured)
        shown = CliRunner().invoke(app, ["report", "broken"])
    assert f"failed after {bad} steps: ValueError: bad." in shown.stdout
