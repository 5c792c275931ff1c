"""A small watched training, for the tests of the monitor."""

import os

import pytest
import torch
from torch import nn

import trainvitals


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith("TRAINVITALS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINVITALS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINVITALS_REPORT", "off")
    monkeypatch.chdir(tmp_path)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def train(model, optimizer, monitor=None, steps=30, *, x_scale=1.0):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(32, 8, generator=generator) * x_scale
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
        optimizer.zero_grad()
        (monitor.loss(loss) if monitor else loss).backward()
        optimizer.step()


def watched(steps=30, lr=1e-2, **options):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    monitor = trainvitals.watch(model, optimizer, collector="off", **options)
    train(model, optimizer, monitor, steps)
    return monitor
