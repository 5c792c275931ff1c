"""The loss of a constant prediction is that of one constant for each output of a sample."""

import pytest
import torch
from torch import nn

from helpers.first_steps import by_code, record, the_same_weights_every_time  # noqa: F401
from trainvitals.capture.supervised_values import deviation_of_outputs
from trainvitals.diagnosis.supervision import loss_of_constant
from trainvitals.wire import Scalar

LEVELS = torch.linspace(-2, 2, 12)


def history(*, shuffled, steps=300):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 12, generator=g)
    y = LEVELS + 0.5 * x
    y = y[torch.randperm(1024, generator=g)] if shuffled else y
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 12))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return record(model, nn.functional.mse_loss, x, y, optimizer, steps=steps)


def test_it_is_the_mean_variance_of_the_outputs_and_not_that_of_all_entries():
    assert loss_of_constant(history(shuffled=False, steps=4)) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(("shuffled", "flagged"), [(True, True), (False, False)])
def test_outputs_that_only_have_their_means_are_not_learned(shuffled, flagged):
    findings = by_code(history(shuffled=shuffled))
    assert any(f.severity != "info" for f in findings.values()) is flagged


@pytest.mark.parametrize(
    ("target", "keep"),
    [
        (torch.randn(64), None),  # one output for each sample
        (torch.randn(64, 1), None),
        (torch.randn(4, 12), None),  # few samples
        (torch.randn(64, 12), torch.ones(64, 12, dtype=torch.bool)),  # masked
    ],
)
def test_it_is_not_measured_where_it_says_nothing(target, keep):
    assert deviation_of_outputs(target, keep) == {}


def test_large_targets_are_read_in_part():
    target = LEVELS[:, None, None].expand(16, 12, 64, 64) + torch.randn(16, 12, 64, 64)
    seen = deviation_of_outputs(target, None)[Scalar.TARGET_STD_OF_OUTPUTS]
    assert float(seen) == pytest.approx(1.0, rel=0.05)
