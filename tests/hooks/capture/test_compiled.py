"""A compiled model is compiled as often as without a monitor; what is not observed is reported.

The decision and its figures: docs/decisions/0008.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import trainvitals
from helpers.watching import own_home  # noqa: F401 - a fixture
from trainvitals.diagnosis.history import History
from trainvitals.wire import Stat, Stream

STEPS = 80
EVERY = 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def whole_model_from_outside(model, counter):
    return torch.compile(model, backend=counter, fullgraph=True)


def whole_model_in_place(model, counter):
    model.compile(backend=counter, fullgraph=True)
    return model


def submodule_wrapped(model, counter):
    model.block = torch.compile(model.block, backend=counter, fullgraph=True)
    return model


def submodule_in_place(model, counter):
    model.block.compile(backend=counter, fullgraph=True)
    return model


def submodules_forward(model, counter):
    model.block.forward = torch.compile(model.block.forward, backend=counter, fullgraph=True)
    return model


WHOLE = [whole_model_from_outside, whole_model_in_place]
PARTS = [submodule_wrapped, submodule_in_place, submodules_forward]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 8), Block(), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.block(self.first(x)))


def trained(compile_it: Callable, *, watch=True):
    """Return the monitor, the number of graphs compiled, and the weights at the end."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, counter = Net(), CompileCounter()
    forward = compile_it(model, counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off", every=EVERY) if watch else None
    for _ in range(STEPS):
        loss = forward(torch.randn(6, 4)).square().mean()
        if monitor:
            monitor.loss(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return monitor, counter.frame_count, [p.detach() for p in model.parameters()]


def history_of(monitor) -> History:
    monitor.diagnosis()  # takes the pending records
    return monitor._diagnosis.history


@pytest.mark.parametrize("compile_it", WHOLE)
def test_a_compiled_model_says_that_its_activations_are_not_observed(compile_it):
    monitor, _, _ = trained(compile_it)
    assert "torch.compile" in monitor.diagnosis().not_watched["activations"]
    assert not history_of(monitor).places(Stream.ACTIVATION)


@pytest.mark.parametrize("compile_it", PARTS)
def test_a_compiled_submodule_is_named_and_the_other_modules_are_observed(compile_it):
    monitor, _, _ = trained(compile_it)
    said = monitor.diagnosis().not_watched["activations"]
    assert said.startswith("the outputs of 2 modules, block.")
    assert "torch.compile" in said
    assert {p.name for p in history_of(monitor).places(Stream.ACTIVATION)} == {"first", "last"}


@pytest.mark.parametrize("compile_it", WHOLE + PARTS)
def test_parameters_and_gradients_of_compiled_parts_are_measured(compile_it):
    monitor, _, _ = trained(compile_it)
    history = history_of(monitor)
    assert len(history.places(Stream.GRADIENT)) == 6
    assert 0 < len(history.steps(Stream.GRADIENT)) < STEPS
    for stream, stat in (
        (Stream.WEIGHT, Stat.L2),
        (Stream.GRADIENT, Stat.L2),
        (Stream.UPDATE, Stat.RMS),
    ):
        assert np.isfinite(history.values(stream, stat)).all()
    assert len(history.scalar("gradient_norm")) == STEPS


@pytest.mark.parametrize("compile_it", WHOLE + PARTS)
def test_full_and_light_steps_share_one_graph_and_the_weights_are_bit_identical(compile_it):
    _, watched_graphs, watched = trained(compile_it)
    _, plain_graphs, plain = trained(compile_it, watch=False)
    assert watched_graphs == plain_graphs == 1
    assert all(torch.equal(a, b) for a, b in zip(watched, plain, strict=True))
