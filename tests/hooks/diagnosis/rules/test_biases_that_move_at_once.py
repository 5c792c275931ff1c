"""TV701 in real trainings: biases with a learning rate of their own."""

import pytest
import torch
from torch import nn

from helpers.small_runs import layers, train


def groups(model: nn.Module, *, weight: float, bias: float) -> torch.optim.Optimizer:
    """Return Adam with one learning rate for weights and one for biases."""
    return torch.optim.Adam(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "lr": weight},
            {"params": [p for p in model.parameters() if p.ndim < 2], "lr": bias},
        ]
    )


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_a_rate_of_the_biases_that_is_1000_times_that_of_the_weights_is_the_headline(activation):
    torch.manual_seed(0)
    model = layers(64, 32, 32, 10, activation=activation)
    found = train(model, groups(model, weight=1e-3, bias=1.0)).diagnosis
    assert (found.headline.rule, found.headline.since_step) == ("bias_drift", 0)
    assert {f.rule for f in found.alarms if not f.explained_by} == {"bias_drift"}
    assert "['lr'] /= " in found.headline.fix
    [factor] = [e.seen for e in found.headline.evidence if "update" in e.quantity]
    assert factor == pytest.approx(1000, rel=0.2)


@pytest.mark.parametrize(("weight", "bias"), [(1e-3, 1e-3), (1e-3, 5e-3), (1e-3, 1e-5)])
def test_usual_rates_of_biases_are_not_reported(weight, bias):
    torch.manual_seed(0)
    model = layers(64, 32, 32, 10)
    assert train(model, groups(model, weight=weight, bias=bias)).headline is None


def test_a_rate_that_is_too_high_for_all_is_not_blamed_on_the_biases():
    torch.manual_seed(0)
    model = layers(64, 32, 32, 10)
    assert train(model, groups(model, weight=1.0, bias=1.0)).headline == "learning_rate_too_high"
