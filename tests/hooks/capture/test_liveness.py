"""A unit is dead over many samples, not over many captures, and at each call site by itself."""

import math

import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.capture.liveness import Liveness
from trainvitals.wire import Frame, Layout, Stat, Stream

HALF = torch.tensor([True, False])


def dead_share(batches: int, samples: int) -> float:
    life = Liveness()
    return [float(life.observe(HALF, samples)) for _ in range(batches)][-1]


def test_twenty_batches_of_one_sample_say_nothing():
    assert math.isnan(dead_share(20, 1))
    assert math.isnan(dead_share(255, 1))
    assert dead_share(256, 1) == 0.5


def test_few_batches_say_nothing_however_large_they_are():
    assert math.isnan(dead_share(19, 1000))
    assert dead_share(20, 1000) == 0.5


def test_a_unit_that_fires_again_is_alive_for_as_long():
    life = Liveness()
    for _ in range(40):
        life.observe(HALF, 64)
    assert float(life.observe(torch.tensor([True, True]), 64)) == 0
    assert [float(life.observe(HALF, 64)) for _ in range(20)][-1] == 0.5


class Twice(nn.Module):
    """One ReLU with two call sites; at the second one every input is negative."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.first(x).abs())
        return self.relu(self.second(x).abs().neg() - 1) + x


def test_each_call_site_of_a_module_is_a_row_of_its_own():
    torch.manual_seed(0)
    model, records = Twice(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    capture = Capture(model, optimizer, emit=records.append, every=1)
    for _ in range(24):
        model(torch.randn(32, 4)).sum().backward()
        optimizer.step()
    capture.detach()
    [layout] = [r for r in records if isinstance(r, Layout) and r.stream is Stream.ACTIVATION]
    frame = [r for r in records if isinstance(r, Frame) and r.stream is Stream.ACTIVATION][-1]
    dead = frame.values[-1, :, layout.statistics.index(Stat.DEAD_SHARE)]
    found = {p.name: share for p, share in zip(layout.places, dead, strict=True)}
    assert (found["relu"], found["relu:2"]) == (0, 1)
    assert {p.module for p in layout.places if p.name.startswith("relu")} == {"relu"}
