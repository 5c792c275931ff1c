"""`recommend_loss` fits the loss to the targets, and refuses targets that fit none."""

import math

import pytest
import torch
from torch import nn

from trainvitals.api.schema import Evidence
from trainvitals.remedies import recommend_loss

GOALS = ("accuracy", "calibration", "robustness")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rare(zeros, ones):
    return torch.tensor([0] * zeros + [1] * ones)


def inner(loss):
    return getattr(loss, "loss", loss)


def cases():
    """Return (task, predictions, targets, ordered), the targets as a data loader yields them."""
    torch.manual_seed(1)
    n = 40
    classes = torch.arange(n) % 5
    return {
        "numbers": ("regression", torch.randn(n, 1), torch.randn(n, 1), False),
        "numbers without a column": ("regression", torch.randn(n, 1), torch.randn(n), False),
        "a column too many": ("regression", torch.randn(n), torch.randn(n, 1), False),
        "counts": ("regression", torch.randn(n), torch.arange(n), False),
        "several numbers": ("regression", torch.randn(n, 3), torch.randn(n, 3), False),
        "bits": ("binary", torch.randn(n), torch.arange(n) % 2, False),
        "bits with a column": ("binary", torch.randn(n, 1), torch.arange(n) % 2, False),
        "bools": ("binary", torch.randn(n), torch.arange(n) % 2 == 0, False),
        "rare bits": ("binary", torch.randn(64, 1), rare(60, 4), False),
        "rare bits in float64": ("binary", torch.randn(64).double(), rare(60, 4).double(), False),
        "classes": ("multi_class", torch.randn(n, 5), classes, False),
        "classes in int32": ("multi_class", torch.randn(n, 5), classes.int(), False),
        "classes as floats": ("multi_class", torch.randn(n, 5), classes.float(), False),
        "two classes": ("multi_class", torch.randn(n, 2), torch.arange(n) % 2, False),
        "rare classes": ("multi_class", torch.randn(64, 2).double(), rare(60, 4), False),
        "pixels": ("multi_class", torch.randn(2, 5, 4, 5), classes.view(2, 4, 5), False),
        "tokens": ("multi_class", torch.randn(4, 10, 5), classes.view(4, 10), False),
        "one-hot": ("multi_class", torch.randn(n, 5), torch.eye(5)[classes], False),
        "one-hot whole": ("multi_class", torch.randn(n, 5), torch.eye(5)[classes].long(), False),
        "soft": ("soft_classes", torch.randn(n, 5), torch.randn(n, 5).softmax(1), False),
        "labels": ("multi_label", torch.randn(n, 6), torch.rand(n, 6).round(), False),
        "whole labels": ("multi_label", torch.randn(n, 6), torch.rand(n, 6).round().int(), False),
        "ratings": ("ordinal", torch.randn(n, 4), classes, True),
    }


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("case", cases())
def test_the_loss_and_the_line_of_code_take_the_data_as_they_are_and_agree(case, goal):
    task, predictions, targets, ordered = cases()[case]
    predictions.requires_grad_()
    advice = recommend_loss(targets, predictions, goal, ordered=ordered)
    value = advice.loss(predictions, targets)
    names = {"torch": torch, "nn": nn, "predictions": predictions, "targets": targets}
    exec(advice.code, names)
    assert advice.task == task
    assert value.dim() == 0
    assert names["loss"].item() == pytest.approx(value.item(), rel=1e-6)
    value.backward()
    assert predictions.grad.any()
    assert advice.reason
    assert all(isinstance(item, Evidence) for item in advice.evidence)


def test_every_alternative_is_another_line_with_its_occasion():
    for _, predictions, targets, ordered in cases().values():
        advice = recommend_loss(targets, predictions, ordered=ordered)
        codes = [advice.code, *(a.code for a in advice.alternatives)]
        assert len(codes) == len(set(codes)) > 1
        assert all(a.when for a in advice.alternatives)
        for code in codes:
            compile(code, "alternative", "exec")
            assert "TARGETS" not in code


def test_normal_residuals_get_the_squared_error():
    y = torch.randn(2000)
    assert isinstance(recommend_loss(y).loss, nn.MSELoss)


def test_heavy_tails_get_huber_with_delta_from_the_robust_scale():
    y = torch.randn(2000)
    y[::100] *= 50
    advice = recommend_loss(y)
    assert isinstance(advice.loss, nn.HuberLoss)
    assert advice.loss.delta == pytest.approx(1.345, rel=0.1)
    kurtosis = next(e for e in advice.evidence if "kurtosis" in e.quantity)
    assert kurtosis.seen > kurtosis.limit == 3


def test_delta_comes_from_the_residuals_if_predictions_are_given():
    truth = 1000 * torch.randn(2000)
    noise = torch.randn(2000)
    noise[::100] *= 50
    advice = recommend_loss(truth + noise, truth)
    assert advice.loss.delta == pytest.approx(1.345, rel=0.1)


def test_two_clusters_are_not_heavy_tails():
    y = torch.cat([0.1 * torch.randn(600), 3 + 0.1 * torch.randn(200), -3 + 0.1 * torch.randn(200)])
    assert isinstance(recommend_loss(y).loss, nn.MSELoss)


def test_many_outliers_get_the_absolute_error_if_robustness_is_the_goal():
    y = torch.randn(1000)
    y[::10] += 100
    assert isinstance(recommend_loss(y, goal="robustness").loss, nn.L1Loss)
    assert isinstance(recommend_loss(y, goal="calibration").loss, nn.MSELoss)


def test_if_most_residuals_are_equal_no_delta_is_invented():
    y = torch.zeros(100)
    y[:20] = torch.arange(20.0)
    assert isinstance(recommend_loss(y, goal="robustness").loss, nn.L1Loss)


def test_targets_far_from_unit_scale_are_to_be_standardised():
    assert "Standardise the targets" in recommend_loss(10_000 + torch.randn(100)).reason
    assert "Standardise" not in recommend_loss(torch.randn(100)).reason


def test_skewed_positive_targets_have_the_logarithm_as_an_alternative():
    advice = recommend_loss(torch.randn(1000).exp().pow(2))
    assert any(".log()" in alternative.code for alternative in advice.alternatives)


def test_rare_ones_are_weighted_for_accuracy_and_not_for_calibration():
    targets = rare(190, 10)
    weighted = inner(recommend_loss(targets).loss)
    assert weighted.pos_weight.tolist() == [19.0]
    assert inner(recommend_loss(targets, goal="calibration").loss).pos_weight is None
    assert inner(recommend_loss(rare(100, 100)).loss).pos_weight is None


def test_rare_labels_are_weighted_by_column_and_the_weight_is_bounded():
    labels = torch.zeros(1000, 2)
    labels[:500, 0] = 1
    labels[0, 1] = 1
    assert recommend_loss(labels).loss.pos_weight.tolist() == [1.0, 100.0]


def test_rare_classes_are_weighted_so_that_each_class_counts_the_same():
    targets = torch.tensor([0] * 120 + [1] * 60 + [2] * 6)
    weight = recommend_loss(targets).loss.weight
    assert (weight * torch.tensor([120, 60, 6])).tolist() == pytest.approx([62.0] * 3, rel=0.01)
    assert recommend_loss(targets, goal="calibration").loss.weight is None
    extreme = recommend_loss(torch.tensor([0] * 5000 + [1])).loss
    assert inner(extreme).pos_weight.tolist() == [100.0]
    many = recommend_loss(torch.tensor([0] * 5000 + [1] * 5000 + [2])).loss.weight
    assert float(many.max() / many.min()) == pytest.approx(100, rel=0.02)


def test_wrong_labels_are_met_with_smoothing():
    classes = recommend_loss(torch.arange(30) % 3, goal="robustness").loss
    assert classes.label_smoothing == 0.1
    binary = recommend_loss((torch.arange(30) % 2).float(), goal="robustness").loss
    certain = binary(torch.tensor([40.0]), torch.tensor([1.0]))
    assert certain.item() == pytest.approx(2.0)  # 5 % of 40: confidence has a price


def test_the_ordinal_loss_rises_with_the_distance_between_the_classes():
    loss = recommend_loss(torch.arange(20) % 5, ordered=True).loss
    lowest = torch.full((1, 4), -3.0)
    values = [loss(lowest, torch.tensor([k])).item() for k in range(5)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(math.log1p(math.exp(-3)))


def test_ignored_tokens_do_not_count():
    targets = torch.tensor([-100] * 90 + [0, 1, 2, 0, 1, 2])
    advice = recommend_loss(targets, torch.randn(96, 3))
    assert advice.task == "multi_class"
    assert next(e for e in advice.evidence if e.unit == "times").seen == 1


def test_whole_numbers_in_several_dimensions_are_the_classes_of_positions():
    assert recommend_loss(torch.arange(12).view(3, 4)).task == "multi_class"


def test_counts_have_a_poisson_likelihood_as_an_alternative():
    advice = recommend_loss(torch.randn(50).abs().mul(3).round())
    assert any("PoissonNLLLoss" in alternative.code for alternative in advice.alternatives)
    assert not any("Poisson" in a.code for a in recommend_loss(torch.randn(50)).alternatives)


def test_probabilities_instead_of_logits_are_told():
    targets = torch.arange(30) % 3
    advice = recommend_loss(targets, torch.randn(30, 3).softmax(1))
    assert "remove the last sigmoid or softmax" in advice.reason
    assert "remove" not in recommend_loss(targets, torch.randn(30, 3)).reason


@pytest.mark.parametrize(
    ("targets", "predictions", "text"),
    [
        (torch.zeros(0), None, "one row per sample"),
        (torch.tensor(1.0), None, "one row per sample"),
        (torch.tensor([1.0, math.nan]), None, "1 entries are NaN or infinite"),
        (torch.zeros(4, dtype=torch.complex64), None, "complex"),
        (torch.full((9,), 3.0), None, "nothing to learn"),
        (torch.ones(9, dtype=torch.int64), None, "nothing to learn"),
        (torch.tensor([-1, 0, 1, 2]), None, "class indices, 0 and above"),
        (torch.tensor([0, 1, 5]), torch.randn(3, 3), "class indices, 0 to 2"),
        (torch.tensor([-100, -100]), torch.randn(2, 3), "nothing is supervised"),
        (torch.randn(8, 2), torch.randn(8, 3), "fit no loss"),
        (torch.tensor([0.5, 1.5]), torch.randn(2, 3), "fit no loss"),
        (torch.tensor([0, 1]), torch.tensor([0, 1]), "expected floating point"),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_targets_that_fit_no_loss_are_refused_with_what_was_expected(targets, predictions, text):
    with pytest.raises(ValueError, match=text):
        recommend_loss(targets, predictions)


@pytest.mark.parametrize(
    ("targets", "predictions", "text"),
    [
        (torch.tensor([0.5, 1.0]), None, "whole numbers"),
        (torch.tensor([0, 1, 4]), torch.randn(3, 3), "0 to 3"),
        (torch.tensor([0, 1, 2]), torch.randn(3), "one logit per threshold"),
    ],
    ids=["fractions", "too high", "shape"],
)
def test_ordered_classes_that_fit_no_thresholds_are_refused(targets, predictions, text):
    with pytest.raises(ValueError, match=text):
        recommend_loss(targets, predictions, ordered=True)


def test_a_goal_is_one_of_three_and_targets_are_a_tensor():
    with pytest.raises(ValueError, match="accuracy, calibration, robustness"):
        recommend_loss(torch.randn(5), goal="speed")
    with pytest.raises(TypeError, match="not a list"):
        recommend_loss([1.0, 2.0])
