"""Weight matrices that are all frozen: a fault as long as they are those of an initialiser."""

import pytest
import torch
from tests.helpers.first_steps import (  # noqa: F401
    CROSS_ENTROPY,
    found,
    the_same_weights_every_time,
    train,
)
from torch import nn

from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rules.parameter_not_updated import ParameterNotUpdated


def layers():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))


def marked(prediction, target):
    """Return the loss as a leaf, so that `backward` does not raise."""
    return CROSS_ENTROPY(prediction, target).detach().requires_grad_()


def without_weights(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bias" in name)
    return model


def test_a_model_whose_biases_alone_are_trained_is_reported():
    finding = found(ParameterNotUpdated, train(without_weights(layers())))
    assert finding.where == "0.weight"
    assert "nothing but parameters of the kind bias is trained" in finding.summary


def test_a_model_without_any_trained_parameter_is_reported():
    finding = found(ParameterNotUpdated, train(layers().requires_grad_(False), marked))
    assert "no parameter is trained" in finding.summary


def test_biases_of_a_pretrained_model_may_be_trained_alone():
    model = layers()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(torch.distributions.Laplace(0.0, 0.2).sample(layer.weight.shape))
    assert found(ParameterNotUpdated, train(without_weights(model))) is None


def test_weights_that_no_optimizer_has_may_be_trained_without_gradients():
    model, history = layers().requires_grad_(False), History()
    other = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([other], 0.1)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = CROSS_ENTROPY(model(torch.randn(8, 16)), torch.arange(8)) + other.sum()
        capture.loss(loss)
        loss.backward()
        optimizer.step()
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    capture.detach()
    assert found(ParameterNotUpdated, history) is None


@pytest.mark.parametrize("norm", [False, True])
def test_a_single_matrix_can_be_a_random_projection_on_purpose(norm):
    model = nn.Sequential(nn.Linear(16, 10), *([nn.LayerNorm(10)] if norm else []))
    model[0].weight.requires_grad_(False)
    assert found(ParameterNotUpdated, train(model)) is None
