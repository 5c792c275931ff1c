"""Predicted classes are counted, and non-finite entries of the inputs and of the targets."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.supervised_loop import Loop
from trainvitals.capture.supervised_values import nonfinite_count

LABELS = torch.arange(32) % 4


class Fixed(nn.Module):
    """Returns `output` whatever its input is."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, _):
        return self.output * 1


def predicted(output, loss):
    loop = Loop(Fixed(output)).step(loss)
    return loop.scalar("predicted_classes"), loop.scalar("predicted_majority_share")


def scores(classes):
    return 5.0 * F.one_hot(classes, 4)


def cross_entropy(y):
    return F.cross_entropy(y, LABELS)


def test_the_predicted_classes_of_a_batch_are_counted():
    classes = torch.tensor([2] * 24 + [0] * 7 + [3])
    assert predicted(scores(classes), cross_entropy) == ([3], [0.75])
    assert predicted(scores(torch.full((32,), 1)), cross_entropy) == ([1], [1])


def test_classes_in_the_second_of_three_dimensions_are_counted_too():
    images = scores(torch.tensor([[3] * 15 + [1]])).movedim(-1, 1)
    target = torch.zeros(1, 16, dtype=torch.long)
    assert predicted(images, lambda y: F.cross_entropy(y, target)) == ([2], [15 / 16])


def test_log_probabilities_are_counted_like_logits():
    log = scores(LABELS).log_softmax(1)
    assert predicted(log, lambda y: F.nll_loss(y.log_softmax(1), LABELS)) == ([4], [0.25])


def test_a_regression_and_a_batch_of_few_samples_have_no_predicted_classes():
    assert predicted(torch.rand(32, 4), lambda y: F.mse_loss(y, torch.rand(32, 4))) == ([], [])
    few = scores(LABELS[:15])
    assert predicted(few, lambda y: F.cross_entropy(y, LABELS[:15])) == ([], [])


def regression(x, target):
    model = nn.Sequential(nn.Linear(6, 3))
    loop = Loop(model)
    return loop.step(F.mse_loss(model(x), target))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite_are_counted_in_inputs_and_targets(value):
    x, target = torch.randn(8, 6), torch.randn(8, 3)
    loop = regression(x, target)
    assert (loop.scalar("nonfinite_inputs"), loop.scalar("nonfinite_targets")) == ([0], [0])
    x[1, 2:4] = value
    loop = regression(x, target)
    assert (loop.scalar("nonfinite_inputs"), loop.scalar("nonfinite_targets")) == ([2], [0])
    target[3] = value
    loop = regression(torch.randn(8, 6), target)
    assert (loop.scalar("nonfinite_inputs"), loop.scalar("nonfinite_targets")) == ([0], [3])


def test_masked_targets_and_integers_do_not_count():
    target, mask = torch.randn(8, 3), torch.ones(8, 3)
    target[0, 0], mask[0, 0] = math.inf, 0.0
    model = nn.Sequential(nn.Linear(6, 3))
    loop = Loop(model)
    loss = (F.mse_loss(model(torch.randn(8, 6)), target, reduction="none") * mask).mean()
    assert loop.step(loss).scalar("nonfinite_targets") == [0]
    model = nn.Sequential(nn.Embedding(5, 4))
    loop = Loop(model)
    loop.step(F.cross_entropy(model(torch.tensor([1, 2, 3])), torch.tensor([0, 1, 2])))
    assert (loop.scalar("nonfinite_inputs"), loop.scalar("nonfinite_targets")) == ([], [])


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        ([3e38, 3e38, 1.0], 0),  # their sum overflows
        ([math.inf, -math.inf, 1.0], 2),  # their sum is NaN
        ([math.nan, 1.0, math.inf], 2),
        ([0.0, -1.0, 2.0], 0),
    ],
)
def test_entries_are_counted_as_non_finite_one_by_one(entries, count):
    assert float(nonfinite_count(torch.tensor(entries))) == count
