"""Terms that the program multiplies by the whole number 0 are counted."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.supervised_loop import CLASSES, VALUES, Loop, one_step


def penalty(y):
    """Return a term of the program's own: a divergence from N(0, 1)."""
    return (y.pow(2) - y.pow(2).log() - 1).mean()


def with_factor(factor, term=penalty):
    return lambda y: F.mse_loss(y, VALUES) + factor * term(y)


@pytest.mark.parametrize("factor", [0, 7 // 10])
def test_a_term_times_the_whole_number_0_is_counted(factor):
    assert one_step(with_factor(factor)).scalar("zero_terms") == [1]


@pytest.mark.parametrize(
    "factor", [0.0, False, 1, 0.5, torch.zeros(8, 1), torch.zeros(())], ids=repr
)
def test_other_factors_are_not(factor):
    def loss(y):
        return F.mse_loss(y, VALUES) + (factor * (y.pow(2) - 1)).mean()

    assert one_step(loss).scalar("zero_terms") == []


def test_a_factor_of_two_terms_counts_once_and_two_factors_twice():
    both = one_step(with_factor(0, lambda y: penalty(y) + y.abs().mean()))
    each = one_step(lambda y: with_factor(0)(y) + 0 * y.abs().mean())
    assert both.scalar("zero_terms") == [1]
    assert each.scalar("zero_terms") == [2]


def test_a_factor_before_a_mean_counts_too():
    loop = one_step(lambda y: (F.mse_loss(y, VALUES) + 3 * (0 * y.abs()).mean()) / 2)
    assert loop.scalar("zero_terms") == [1]


@pytest.mark.parametrize(
    "term",
    [
        lambda model, y: y.sum(),
        lambda model, y: sum(p.sum() for p in model.parameters()),
        lambda model, y: sum(p.pow(2).sum() for p in model.parameters()),
    ],
    ids=["outputs", "parameters", "squares of parameters"],
)
def test_a_sum_of_outputs_or_parameters_times_0_is_not_counted(term):
    model = nn.Sequential(nn.Linear(6, 3))
    loop = one_step(lambda y: F.mse_loss(y, VALUES) + 0 * term(model, y), model)
    assert loop.scalar("zero_terms") == []


def test_steps_after_the_factor_left_0_are_told():
    loop = Loop()
    for step in range(4):
        loop.step(with_factor(step // 2))
    assert loop.scalar("zero_terms") == [1, 1, 0, 0]


def test_label_smoothing_of_0_has_no_such_term():
    loop = one_step(lambda y: F.cross_entropy(y, CLASSES, label_smoothing=0.0))
    assert loop.scalar("zero_terms") == []
