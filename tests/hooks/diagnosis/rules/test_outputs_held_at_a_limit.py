"""Outputs that a clamp or a ReLU holds at a limit have no gradient: TV402 says how much that is."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.first_steps import found, record, the_same_weights_every_time  # noqa: F401
from trainvitals.capture.loss_clamped import error_without_gradient
from trainvitals.capture.loss_graph import criteria
from trainvitals.diagnosis.rules.output_range_mismatch import OutputRangeMismatch
from trainvitals.wire import Scalar

VALUES = torch.tensor([-3.0, -1.0, 0.5, 0.5, 4.0])
TARGETS = torch.tensor([0.5, 0.0, 0.5, 1.5, 0.5])
STEPS = 70


def share(limit):
    x = VALUES.clone().requires_grad_()
    [found] = criteria(functional.mse_loss(limit(x), TARGETS)).criteria
    return error_without_gradient(found)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        # Errors after it: 0.5, 0, 0, 1, 0.5; the first, second and last are held.
        (lambda x: x.clamp(0, 1), 0.5 / 1.5),
        (functional.relu6, (0.25 + 0) / (0.25 + 1 + 12.25)),
        (lambda x: functional.hardtanh(x, 0, 1), 0.5 / 1.5),
        (lambda x: x.clamp(max=1), 0.25 / (12.25 + 1 + 1 + 0.25)),
        (lambda x: x.clamp(min=0), 0.25 / (0.25 + 1 + 12.25)),
        (functional.relu, 0.25 / (0.25 + 1 + 12.25)),
    ],
)
def test_the_share_is_that_of_the_squares_at_a_limit(limit, expected):
    assert float(share(limit)[Scalar.ERROR_WITHOUT_GRADIENT]) == pytest.approx(expected)


@pytest.mark.parametrize("free", [lambda x: 2 * x, torch.sigmoid, lambda x: x.clamp(0, 1) + 1])
def test_other_last_operations_have_none(free):
    assert share(free) == {}


class Clamped(nn.Module):
    def __init__(self, cut, scale, middle):
        super().__init__()
        self.middle = middle
        self.body = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 6))
        self.cut, self.scale = cut, scale

    def forward(self, x):
        x = self.scale * self.body(x) + self.middle
        return x.clamp(0, 1) if self.cut else x


def pictures():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(512, 12, generator=g)
    return x, (2 * x @ torch.randn(12, 6, generator=g)).sigmoid()


def history(*, cut, scale, middle=0.0, rate=1e-4):
    x, y = pictures()
    model = Clamped(cut, scale, middle)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    return record(model, nn.functional.mse_loss, x, y, optimizer, steps=STEPS)


def test_clamped_outputs_that_hold_the_error_are_a_warning():
    finding = found(OutputRangeMismatch, history(cut=True, scale=20.0))
    assert finding.severity == "warning"
    assert "of the squared error belongs to outputs" in finding.summary
    assert found(OutputRangeMismatch, history(cut=False, scale=20.0)) is None


def test_outputs_within_the_limits_are_left_alone():
    assert found(OutputRangeMismatch, history(cut=True, scale=0.3, middle=0.5)) is None


def test_outputs_that_leave_the_limit_are_left_alone():
    assert found(OutputRangeMismatch, history(cut=True, scale=0.3, rate=1e-2)) is None
