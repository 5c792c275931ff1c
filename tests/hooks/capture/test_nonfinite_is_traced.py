"""A non-finite loss: which operation made it so, and that the next steps are measured in full."""

import pytest
import torch
from torch import nn

from trainvitals.capture import Capture
from trainvitals.capture.operations import out_of_range
from trainvitals.wire import Event, Frame, Stream

ZERO = torch.tensor([0.0, 1.0])
CASES = {
    "log": lambda x: x.log(),
    "sqrt": lambda x: x.sqrt().square() / (1 - x[1]),
    "div": lambda x: 1 / x,
    "exp": lambda x: (x * 1000).exp(),
}


@pytest.mark.parametrize("operation", ["log", "div", "exp"])
def test_the_operation_that_left_the_finite_numbers_is_named(operation):
    x = ZERO.clone().requires_grad_()
    loss = CASES[operation](x).sum()
    assert not torch.isfinite(loss)
    assert out_of_range(loss) == [operation]


def test_operations_that_stayed_finite_are_not_named():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    loss = (x.log() + x.sqrt() + 1 / x + x.exp()).sum() * float("nan")
    assert out_of_range(loss) == []


def test_every_operation_out_of_range_is_named_once():
    x = ZERO.clone().requires_grad_()
    assert sorted(out_of_range((x.log() + 1 / x + (x + 0).log()).sum())) == ["div", "log"]


def test_a_loss_without_a_graph_or_after_its_backward_names_nothing():
    x = ZERO.clone().requires_grad_()
    loss = x.log().sum()
    assert out_of_range(loss.detach()) == []
    loss.backward()
    assert out_of_range(loss) == []


def train(steps: int, bad: set[int]):
    """Train with a loss that is a logarithm of zero at some steps; return what was emitted."""
    torch.manual_seed(0)
    records = []
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    capture = Capture(model, optimizer, emit=records.append, every=1000)
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).square().mean()
        if step in bad:
            loss = loss + (loss * 0).log()
        capture.loss(loss)
        loss.backward()
        for parameter in model.parameters():
            parameter.grad.nan_to_num_(0, 0, 0)
        optimizer.step()
    capture.detach()
    return records


def full_steps(records) -> list[int]:
    frames = [r for r in records if isinstance(r, Frame) and r.stream is Stream.ACTIVATION]
    return [int(step) for frame in frames for step in frame.steps if step]


def test_the_event_names_the_operation_and_its_step():
    [event] = [r for r in train(12, {7}) if isinstance(r, Event) and r.kind == "nonfinite_loss"]
    assert (event.kind, event.step, event.text) == ("nonfinite_loss", 7, "log")


def test_the_modules_are_measured_at_the_following_steps():
    # The forward pass of step 7 was over when its loss was seen: it has no outputs.
    assert full_steps(train(20, {7})) == [8, 9, 10, 11]


def test_a_run_of_nan_does_not_make_every_step_a_full_one():
    assert len(full_steps(train(60, set(range(7, 60))))) < 60


def test_a_run_of_nan_emits_a_bounded_number_of_events():
    assert (
        len([r for r in train(60, set(range(60))) if getattr(r, "kind", "") == "nonfinite_loss"])
        == 8
    )
