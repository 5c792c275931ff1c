"""TV703, TV704: biases before a normalisation, and the last bias, on real networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.first_steps import (
    CROSS_ENTROPY,
    found,
    the_same_weights_every_time,  # noqa: F401 - a fixture
    train,
)
from helpers.small_runs import layers
from trainvitals.api.schema import Finding, Severity
from trainvitals.diagnosis.rules.output_bias_prior import OutputBiasPrior
from trainvitals.diagnosis.rules.redundant_bias import RedundantBias


class TestRedundantBias:
    def note(self, *, bias: bool, norm: nn.Module) -> Finding | None:
        parts = (nn.Linear(16, 32, bias=bias), norm, nn.ReLU(), nn.Linear(32, 10))
        return found(RedundantBias, train(nn.Sequential(*parts)))

    def test_a_bias_before_batch_norm_is_a_note(self):
        finding = self.note(bias=True, norm=nn.BatchNorm1d(32))
        assert (finding.where, finding.severity) == ("0.bias", Severity.INFO)
        assert "BatchNorm1d" in finding.summary

    def test_norms_that_keep_the_bias_and_layers_without_one_are_not(self):
        assert self.note(bias=True, norm=nn.LayerNorm(32)) is None
        assert self.note(bias=True, norm=nn.GroupNorm(4, 32)) is None
        assert self.note(bias=False, norm=nn.BatchNorm1d(32)) is None
        assert self.note(bias=True, norm=nn.Identity()) is None


class TestOutputBiasPrior:
    def unequal(self, output: Tensor, target: Tensor) -> Tensor:
        return CROSS_ENTROPY(output, torch.where(target < 8, 0, target))

    def test_unequal_classes_and_a_bias_near_zero_are_a_note_at_the_bias(self):
        finding = found(OutputBiasPrior, train(layers(16, 32, 10), self.unequal, steps=12))
        assert finding.where == "2.bias"
        assert finding.severity is Severity.INFO

    def test_a_bias_at_the_log_frequencies_is_not(self):
        model = layers(16, 32, 10)
        with torch.no_grad():
            frequencies = torch.tensor([0.8, *[0.001] * 7, 0.1, 0.1])
            [*model.parameters()][-1].copy_(frequencies.log())
        assert found(OutputBiasPrior, train(model, self.unequal, steps=12)) is None

    def test_equal_classes_are_not(self):
        assert found(OutputBiasPrior, train(layers(16, 32, 10), steps=12)) is None

    @pytest.mark.parametrize(("offset", "noted"), [(0.0, False), (5.0, True)])
    def test_targets_with_a_mean_far_from_the_first_predictions_are_a_note(self, offset, noted):
        def squared(output: Tensor, target: Tensor) -> Tensor:
            return nn.functional.mse_loss(output[:, 0], (target - 4.5) / 3 + offset)

        finding = found(OutputBiasPrior, train(layers(16, 32, 1), squared))
        assert (finding is not None) == noted

    @pytest.mark.parametrize(
        ("bias", "offset", "severity"),
        [
            (150.0, 0.0, Severity.WARNING),
            (5.0, 0.0, Severity.INFO),
            (0.0, 150.0, Severity.INFO),
            (100.0, 150.0, Severity.INFO),
        ],
        ids=["for other targets", "a little", "none", "nearer than none"],
    )
    def test_a_bias_that_was_set_for_other_targets_is_a_warning(self, bias, offset, severity):
        def squared(output: Tensor, target: Tensor) -> Tensor:
            return nn.functional.mse_loss(output[:, 0], (target - 4.5) / 3 + offset)

        model = layers(16, 32, 1)
        nn.init.constant_(model[-1].bias, bias)
        assert found(OutputBiasPrior, train(model, squared)).severity is severity
