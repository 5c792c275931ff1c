"""The metrics have the values of their definitions."""

import pytest
import torch

from trainvitals.experiments.form import Form, form_of
from trainvitals.experiments.metrics import (
    Metric,
    bar_of,
    calibration_error,
    constant_score,
    score,
)

CLASSES = Form("multi_class", 3, "predictions", "targets", 1.0)
BINARY = Form("binary", 1, "predictions", "targets", 1.0)
NUMBERS = Form("regression", 0, "predictions", "targets", 1.0)
G = torch.Generator().manual_seed(0)


def test_perfectly_calibrated_probabilities_have_an_error_near_0():
    share = torch.rand(200_000, 1, generator=G, dtype=torch.float64)
    labels = (torch.rand(200_000, 1, generator=G) < share).double()
    assert calibration_error(BINARY, share.logit(), labels) < 0.01


def test_certainty_that_is_right_half_the_time_has_an_error_of_a_half():
    logits = torch.tensor([[50.0, 0, 0], [50.0, 0, 0]], dtype=torch.float64)
    assert calibration_error(CLASSES, logits, torch.tensor([0, 1])) == pytest.approx(0.5)


def test_a_regression_has_no_calibration_error():
    assert calibration_error(NUMBERS, torch.zeros(3, 1), torch.ones(3, 1)) is None


def test_one_outlier_does_not_move_the_median_absolute_error():
    target = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1e9]])
    assert score(NUMBERS, target * 0 + 0.5, target) == 0.5


def test_the_constant_prediction_comes_from_the_training_targets():
    training, held_out = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1, 0])
    assert constant_score(CLASSES, training, held_out) == 0.25


def test_the_bar_is_higher_for_few_samples():
    accuracy = Metric("accuracy", higher_is_better=True)
    assert bar_of(accuracy, 0.5, 10_000) == pytest.approx(0.55)
    assert bar_of(accuracy, 0.5, 25) == pytest.approx(0.7)
    error = Metric("median absolute error", higher_is_better=False)
    assert bar_of(error, 2.0, 10_000) == pytest.approx(1.8)


def test_ignored_targets_count_nowhere():
    logits = torch.randn(2, 3, 4, generator=G)
    targets = torch.tensor([[0, 1, 2, -100], [-100, -100, 1, 0]])
    form = form_of(targets, logits)
    prediction, target = form.pairs(logits, targets)
    assert prediction.shape == (5, 3)
    assert target.tolist() == [0, 1, 2, 1, 0]
