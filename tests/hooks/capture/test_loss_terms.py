"""Each term of a loss that is a sum is measured, and what a constant prediction would give."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.supervised_loop import CLASSES, KINDS, Loop, X, one_step

LABELS = (torch.rand(32, 3, generator=torch.Generator().manual_seed(1)) < 0.3).float()
NUMBERS = 5 * torch.randn(32, generator=torch.Generator().manual_seed(2)) + 2
INPUTS = torch.randn(32, 6, generator=torch.Generator().manual_seed(3))


def of_two(y):
    return F.binary_cross_entropy_with_logits(y[:, :3], LABELS), F.smooth_l1_loss(y[:, 3], NUMBERS)


def two_terms(weight=1.0):
    loop = Loop(nn.Linear(6, 4))
    labels, number = of_two(loop.model(INPUTS))
    loop.step(labels + weight * number)
    return loop, labels.item(), weight * number.item()


def lowest(loss, targets):
    """Return the loss of the best constant that a search finds."""
    grid = torch.linspace(float(targets.min()), float(targets.max()), 2001)
    return min(float(loss(c.expand_as(targets), targets)) for c in grid)


def test_what_each_term_adds_is_its_value():
    loop, labels, number = two_terms(weight=0.25)
    assert loop.scalar("part_of_loss/0") == [pytest.approx(labels, rel=1e-5)]
    assert loop.scalar("part_of_loss/1") == [pytest.approx(number, rel=1e-5)]
    [event] = loop.events()
    assert event.attributes["terms"] == "BCEWithLogitsLoss,SmoothL1Loss"
    assert event.attributes["scales"] == "1,0.25"


def test_a_constant_prediction_gives_the_entropy_of_the_labels_and_the_spread_of_the_numbers():
    loop, _, _ = two_terms()
    shares = LABELS.mean(0)
    entropy = float(-(shares * shares.log() + (1 - shares) * (1 - shares).log()).mean())
    spread = lowest(F.smooth_l1_loss, NUMBERS)
    assert loop.scalar("part_of_constant/0") == [pytest.approx(entropy * 32 / 31, rel=1e-4)]
    assert loop.scalar("part_of_constant/1") == [pytest.approx(spread * 32 / 31, rel=0.01)]
    assert loop.scalar("loss_of_constant") == [
        pytest.approx(entropy * 32 / 31 + spread * 32 / 31, rel=0.01)
    ]


@pytest.mark.parametrize(
    ("loss", "prediction"),
    [
        (F.l1_loss, lambda y: y),
        (F.huber_loss, lambda y: y),
        (F.smooth_l1_loss, lambda y: y),
        (F.poisson_nll_loss, lambda y: y),
    ],
    ids=["absolute", "Huber", "smooth", "Poisson"],
)
def test_a_single_loss_whose_moments_do_not_give_its_constant_is_measured_too(loss, prediction):
    counts = NUMBERS.abs().round()
    loop = Loop(nn.Linear(6, 1))
    loop.step(loss(prediction(loop.model(INPUTS)[:, 0]), counts))
    targets = counts if loss is not F.poisson_nll_loss else counts.clamp_min(1e-3)
    scale = 31 / 32
    [found] = loop.scalar("loss_of_constant") or [math.nan]
    if loss is F.l1_loss:  # its graph keeps no targets
        assert math.isnan(found)
    elif loss is F.poisson_nll_loss:
        mean = targets.mean()
        constant, least = mean - mean * mean.log(), targets - targets * targets.log()
        unbiased = constant + (constant - least.mean()) / 31
        assert found == pytest.approx(unbiased.item(), abs=1e-3)
        assert loop.scalar("loss_of_targets") == [pytest.approx(least.mean().item(), abs=0.01)]
    else:
        # The median of the targets, which is not quite the best constant of these losses.
        assert 0.999 < found * scale / lowest(loss, targets) < 1.05


def test_the_classes_of_a_cross_entropy_have_their_entropy():
    loop = Loop(nn.Linear(6, 4))
    y = loop.model(X)
    loop.step(F.cross_entropy(y[:, :3], CLASSES) + F.mse_loss(y[:, 3], X[:, 0] + 1))
    shares = torch.bincount(CLASSES) / 8
    entropy = float(-(shares * shares.log()).sum()) + 2 / 16
    assert loop.scalar("part_of_constant/0") == [pytest.approx(entropy, rel=1e-4)]


def test_ignored_classes_do_not_count():
    loop = Loop(nn.Linear(6, 4))
    y, classes = loop.model(X), CLASSES.clone()
    classes[4:] = -100
    entropy = F.cross_entropy(y[:, :3], classes)
    loop.step(entropy + F.mse_loss(y[:, 3], X[:, 0]))
    assert loop.scalar("part_of_loss/0") == [pytest.approx(entropy.item(), rel=1e-5)]


@pytest.mark.parametrize("total", [False, True])
def test_terms_that_the_program_names_are_added_unless_their_total_stands_beside_them(total):
    loop = Loop(nn.Linear(6, 4))
    labels, number = of_two(loop.model(INPUTS))
    terms = {"labels": labels, "number": number} | ({"loss": labels + number} if total else {})
    loop.capture.loss(terms)
    loop.step(labels + number, report=False)
    both = loop.scalar("part_of_constant/0") + loop.scalar("part_of_constant/1")
    assert loop.scalar("loss_of_constant") == ([] if total else [pytest.approx(sum(both))])


@pytest.mark.parametrize(
    "combined",
    [lambda a, b: a - 3 * b, lambda a, b: torch.sub(a, b, alpha=3), lambda a, b: -3 * b + a],
    ids=["minus", "alpha", "negative"],
)
def test_a_term_that_is_subtracted_counts_with_its_sign(combined):
    loop = Loop(nn.Linear(6, 4))
    labels, number = of_two(loop.model(INPUTS))
    loop.step(combined(labels, number))
    parts = [loop.scalar(f"part_of_loss/{i}")[0] for i in (0, 1)]
    assert sorted(parts) == [
        pytest.approx(-3 * number.item(), rel=1e-5),
        pytest.approx(labels.item(), rel=1e-5),
    ]


@pytest.mark.parametrize("reduced", [torch.mean, torch.sum])
def test_losses_that_are_stacked_are_no_terms(reduced):
    loop = Loop(nn.Linear(6, 4))
    loop.step(reduced(torch.stack(of_two(loop.model(INPUTS)))))
    assert loop.scalar("part_of_loss/0") == loop.scalar("loss_of_constant") == []
    assert "terms" not in loop.events()[0].attributes


def test_a_named_term_without_a_graph_leaves_the_whole_unknown():
    loop = Loop(nn.Linear(6, 4))
    labels, number = of_two(loop.model(INPUTS))
    loop.capture.loss({"labels": labels, "number": number, "penalty": torch.tensor(0.1)})
    loop.step(labels + number, report=False)
    assert len(loop.scalar("part_of_loss/1")) == 1
    assert loop.scalar("loss_of_constant") == []


def test_a_term_that_is_not_known_leaves_the_whole_unknown():
    loop = Loop(nn.Linear(6, 4))
    labels, number = of_two(loop.model(INPUTS))
    loop.step(labels + number + loop.model.weight.exp().mean())
    assert len(loop.scalar("part_of_loss/1")) == 1
    assert loop.scalar("loss_of_constant") == []


@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "MSELoss"])
def test_a_single_loss_that_the_moments_explain_is_not_measured_twice(kind):
    loop = one_step(KINDS[kind])
    assert loop.scalar("loss_of_constant") == []
    assert loop.scalar("part_of_loss/0") == []
    assert "terms" not in loop.events()[0].attributes


class TwoTasks(nn.Module):
    """A loss of the program that compares parts of its inputs."""

    def forward(self, output, target):
        labels = F.binary_cross_entropy_with_logits(output[:, :3], target[:, :3])
        return labels + F.smooth_l1_loss(output[:, 3], target[:, 3])


def test_a_loss_module_of_the_program_is_measured_by_its_terms_and_not_by_its_arguments():
    loss = TwoTasks()
    target = torch.cat((LABELS, 1000 * NUMBERS[:, None]), 1)
    loop = Loop(nn.Linear(6, 4), loss=loss)
    loop.step(loss(loop.model(INPUTS), target), report=False)
    assert loop.scalar("target_max") == [1.0]
    assert loop.events()[0].attributes["target_shape"] == "(32, 3)"


def test_what_the_caller_gives_for_a_sum_takes_no_place_of_what_one_term_compares():
    loop = Loop(nn.Linear(6, 4))
    y, target = loop.model(X), torch.stack((CLASSES.float(), 100 * X[:, 0]), 1)
    entropy = F.cross_entropy(y[:, :3], CLASSES)
    loop.step(entropy + F.smooth_l1_loss(y[:, 3], target[:, 1]), prediction=y, target=target)
    assert loop.scalar("target_classes") == [3]
    assert loop.scalar("target_row_sum_max") == []


def test_targets_of_several_classes_at_once_are_seen():
    loop = Loop(nn.Linear(6, 3))
    loop.step(F.cross_entropy(loop.model(INPUTS), LABELS))
    assert loop.scalar("target_row_sum_max") == [float(LABELS.sum(1).max())]
