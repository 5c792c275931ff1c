"""Own cost has one definition: the figure that travels is the one every side shows."""

import numpy as np
import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.wire import Frame, Layout, Scalar, Stream


def test_the_last_recorded_figure_is_the_one_that_capture_reports():
    records = []
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    capture = Capture(model, optimizer, emit=records.append, background_cpu_s=lambda: 0.25)
    assert capture.overhead is None
    for _ in range(5):
        model(torch.ones(3, 4)).sum().backward()
        optimizer.step()
    capture.detach()
    layout = [r for r in records if isinstance(r, Layout) and r.stream is Stream.SCALAR][-1]
    frame = [r for r in records if isinstance(r, Frame) and r.stream is Stream.SCALAR][-1]
    row = [p.name for p in layout.places].index(Scalar.OVERHEAD)
    assert capture.overhead == np.float32(frame.values[-1, row, 0])


def test_a_sum_of_squares_beyond_float32_is_a_finite_norm():
    records = []
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    capture = Capture(model, optimizer, emit=records.append)
    for _ in range(2):
        optimizer.zero_grad()
        (model(torch.ones(1, 4)) * 1e20).sum().backward()
        optimizer.step()
    capture.detach()
    layout = [r for r in records if isinstance(r, Layout) and r.stream is Stream.SCALAR][-1]
    frame = [r for r in records if isinstance(r, Frame) and r.stream is Stream.SCALAR][-1]
    names = [p.name for p in layout.places]
    scalars = dict(zip(names, frame.values[-1, :, 0].tolist(), strict=True))
    assert np.isclose(scalars[Scalar.GRADIENT_NORM], 2e20)
    assert scalars[Scalar.NONFINITE_GRADIENTS] == 0
