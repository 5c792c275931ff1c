"""Losses of pairs need targets of 1 and −1, and a divergence logarithms: the graph shows others."""

import pytest
import torch
from torch.nn import functional

from trainvitals.capture.loss_graph import criteria
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.loss_task_mismatch import LossTaskMismatch
from trainvitals.wire import Event, EventKind

SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0])
LABELS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])


def output(columns=4):
    return torch.randn(5, columns, generator=torch.Generator().manual_seed(0)).requires_grad_()


def cosine(x, target):
    return functional.cosine_embedding_loss(x, x.roll(1, 0), target, margin=0.2)


def hinge(x, target):
    return functional.hinge_embedding_loss(x[:, 0], target)


@pytest.mark.parametrize(
    ("loss", "kind"), [(cosine, "CosineEmbeddingLoss"), (hinge, "HingeEmbeddingLoss")]
)
@pytest.mark.parametrize(
    ("target", "wiring"), [(SIGNS, ()), (LABELS, ("pairs_neither_1_nor_minus_1",))]
)
def test_targets_of_pairs_are_1_or_minus_1(loss, kind, target, wiring):
    [found] = criteria(loss(output(), target)).criteria
    assert (found.kind, found.wiring) == (kind, wiring)


def test_terms_of_other_choices_are_no_loss_of_pairs():
    x, chosen = output(), LABELS > 0
    loss = (torch.where(chosen, x[:, 0], 0.0) + torch.where(chosen, x[:, 1], 0.0)).mean()
    assert not criteria(loss).criteria


@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
def test_a_divergence_of_probabilities_is_seen(reduction):
    x, target = output(), output().detach().softmax(1)
    [wrong] = criteria(functional.kl_div(x.softmax(1), target, reduction=reduction)).criteria
    [right] = criteria(functional.kl_div(x.log_softmax(1), target, reduction=reduction)).criteria
    assert (wrong.kind, wrong.wiring) == ("KLDivLoss", ("softmax_before_kl_div",))
    assert (right.kind, right.wiring) == ("KLDivLoss", ())
    assert torch.equal(wrong.target, target)


def test_a_product_of_probabilities_alone_is_no_divergence():
    x, target = output(), output().detach().softmax(1)
    assert not criteria(1 - (x.softmax(1) * target).sum(1).mean()).criteria
    assert not criteria((1 - x.softmax(1) * target).mean()).criteria


@pytest.mark.parametrize("token", ["pairs_neither_1_nor_minus_1", "softmax_before_kl_div"])
def test_each_is_a_finding_of_the_loss(token):
    history = Example(4).scalars(loss=[1.0] * 4).history
    known = {"wiring": token, "prediction_shape": "(5, 4)", "target_shape": "(5, 4)"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "KLDivLoss", known))
    [found] = LossTaskMismatch().check(history)
    assert found.severity == "error"
