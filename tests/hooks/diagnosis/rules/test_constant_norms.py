"""A norm over a single value returns its bias, whatever its input is."""

import pytest
from tests.helpers.first_steps import found, the_same_weights_every_time, train  # noqa: F401
from torch import nn

from trainvitals.diagnosis.rules.no_signal import NoSignal


def squares(prediction, target):
    return (prediction[:, 0] - target.float()).square().mean()


@pytest.mark.parametrize("norm", [nn.LayerNorm(1), nn.GroupNorm(1, 1)], ids=["layer", "group"])
def test_a_norm_over_a_single_value_is_reported(norm):
    finding = found(NoSignal, train(nn.Sequential(nn.Linear(16, 1), norm), squares))
    assert (finding.where, finding.severity) == ("1", "error")


def test_a_norm_over_several_values_is_not():
    model = nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    assert found(NoSignal, train(model, squares)) is None


def test_a_norm_whose_scale_begins_at_0_is_not():
    norm = nn.LayerNorm(8)
    nn.init.zeros_(norm.weight)
    model = nn.Sequential(nn.Linear(16, 8), norm, nn.Linear(8, 1))
    assert found(NoSignal, train(model, squares, rate=0.0)) is None
