"""R16: an odd tensor is measured, or named with the reason; no probe fails."""

import pytest
import torch
from torch import nn

from helpers.odd_tensors import problems
from trainvitals.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stream


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_odd_parameter_and_output_is_measured_or_named():
    assert problems() == []


class Odd(nn.Module):
    """Returns `value` of the input."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


def run(*forms):
    """Train one step for each form of an odd module's output; return capture and history."""
    torch.manual_seed(0)
    model, odd, history = nn.Linear(4, 2), Odd(None), History()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture({"m": model, "odd": odd}, optimizer, emit=history.add, every=1)
    for odd.value in forms:
        loss = model(torch.ones(2, 4)).sum()
        odd(torch.ones(2, 2))
        loss.backward()
        optimizer.step()
    capture.detach()
    return capture, history


def test_an_output_without_data_does_not_stop_the_records():
    capture, history = run(*[lambda x: x.to("meta")] * 5)
    assert len(history.steps(Stream.WEIGHT)) == 5
    assert not capture._guard._errors
    assert "meta device" in capture.not_watched["output of odd"]


def test_an_output_that_is_odd_only_at_first_is_measured_and_not_named():
    capture, history = run(lambda x: x.to_sparse(), lambda x: x)
    assert "odd" in {place.name for place in history.places(Stream.ACTIVATION)}
    assert "output of odd" not in capture.not_watched
