"""The cost that is recorded and budgeted is all of ours: hooks on modules too."""

import time

import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.wire import Frame, Layout, Scalar, Stream

SLOW_S = 0.02


def test_time_spent_in_the_modules_hooks_counts(monkeypatch):
    calls = []

    def slow(*_args, **_options):
        calls.append(1)
        time.sleep(SLOW_S)

    monkeypatch.setattr("trainvitals.capture.modules.CallSite.measure", slow)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = []
    capture = Capture(model, optimizer, emit=records.append)
    for _ in range(5):
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()
    capture.detach()
    layout = [r for r in records if isinstance(r, Layout) and r.stream is Stream.SCALAR][-1]
    row = [place.name for place in layout.places].index(Scalar.CAPTURE_TIME_S)
    frames = [r for r in records if isinstance(r, Frame) and r.stream is Stream.SCALAR]
    recorded_s = sum(float(frame.values[-1, row, 0]) for frame in frames)
    assert recorded_s > len(calls) * SLOW_S
