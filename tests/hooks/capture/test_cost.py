"""The cost that is reported and budgeted is all of ours: hooks on modules too."""

import time

import torch
from torch import nn

from trainvitals.capture import Capture


def test_time_spent_in_the_modules_hooks_counts(monkeypatch):
    def slow(*_args, **_options):
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return torch.zeros(12)

    monkeypatch.setattr("trainvitals.capture.outputs.measure", slow)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model, optimizer, emit=lambda record: None)
    for _ in range(5):
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
    assert capture.overhead > 0.5
