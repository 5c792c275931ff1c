"""The likelihood of a normal distribution is recognised in all the ways in which it is written."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

from helpers.supervised_loop import Loop

N = 64
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
Y = 3 * torch.randn(N, 2, generator=torch.Generator().manual_seed(2)) + torch.tensor([1.0, 5.0])


def deviation(s):
    """Return a standard deviation of the logarithm s of a variance, as programs compute it."""
    return (s / 2).exp()


def of_deviation(m, deviation, y):
    variance = deviation * deviation
    return (torch.log(deviation) + (y - m) ** 2 / (2 * variance)).mean()


FORMS = {
    "of torch": lambda m, s, y: F.gaussian_nll_loss(m, y, s.exp()),
    "full": lambda m, s, y: F.gaussian_nll_loss(m, y, s.exp(), full=True),
    "summed": lambda m, s, y: F.gaussian_nll_loss(m, y, s.exp(), reduction="sum"),
    "softplus": lambda m, s, y: F.gaussian_nll_loss(m, y, F.softplus(s) + 1e-3),
    "log variance": lambda m, s, y: (0.5 * (s + (y - m) ** 2 * torch.exp(-s))).mean(),
    "clamped": lambda m, s, y: (s.clamp(-9, 9) + (m - y).square() / s.clamp(-9, 9).exp()).mean(),
    "halves": lambda m, s, y: (0.5 * s + 0.5 * (y - m) ** 2 / s.exp()).mean(),
    "precision first": lambda m, s, y: (0.5 * torch.exp(-s) * (y - m) ** 2 + 0.5 * s).mean(),
    "means": lambda m, s, y: 0.5 * s.mean() + 0.5 * ((y - m) ** 2 * (-s).exp()).mean(),
    "twice the variance": lambda m, s, y: ((y - m) ** 2 / (2 * s.exp()) + s / 2).mean(),
    "standardised": lambda m, s, y: (0.5 * ((y - m) / s.exp()) ** 2 + s).mean(),
    "deviation": lambda m, s, y: (
        deviation(s).log() + (y - m) ** 2 / (2 * deviation(s) ** 2)
    ).mean(),
    "own square": lambda m, s, y: of_deviation(m, deviation(s), y),
    "distribution": lambda m, s, y: -Normal(m, deviation(s)).log_prob(y).mean(),
    "added": lambda m, s, y: -Normal(m, F.softplus(s) + 1e-3).log_prob(y).sum(-1).mean(),
    "independent": lambda m, s, y: -Independent(Normal(m, deviation(s)), 1).log_prob(y).mean(),
}


def heads(model, y=Y):
    """Return the means and the second output, of which each form makes a variance."""
    return model(X)[:, : y.shape[1]], model(X)[:, y.shape[1] :]


def lowest(form):
    """Return the loss of the best constant mean and spread that a search finds."""
    spread = torch.zeros(2, requires_grad=True)
    mean = Y.mean(0).clone().requires_grad_()
    search = torch.optim.LBFGS([mean, spread], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        value = form(mean.expand_as(Y), spread.expand_as(Y), Y)
        value.backward()
        return value

    search.step(loss)
    return loss().item()


def reported(form, y=Y, **given):
    loop = Loop(nn.Linear(6, 4))
    mean, spread = heads(loop.model)
    loop.step(form(mean, spread, Y), **({"prediction": mean, "target": y} | given))
    return loop, mean.detach()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_loss_of_a_constant_mean_and_variance_is_known(form):
    loop, mean = reported(form)
    [event] = loop.events()
    assert event.text == "GaussianNLLLoss"
    assert "wiring" not in event.attributes
    # Both are fitted to this batch: what that gains on average is added.
    scale = event.attributes.get("scale", 1.0)
    fitted = scale / 2 * (1 / N + 1 / (N - 1))
    [found] = loop.scalar("loss_of_constant")
    assert found == pytest.approx(lowest(form) + fitted, abs=2e-3 * scale)
    assert loop.scalar("prediction_mean") == [pytest.approx(mean.mean().item(), abs=1e-4)]
    assert loop.scalar("target_std") == [pytest.approx(Y.std(correction=0).item(), rel=1e-4)]


@pytest.mark.parametrize(
    ("form", "scale"),
    [("of torch", None), ("summed", 2 * N), ("added", 2), ("standardised", 2), ("clamped", 2)],
)
def test_its_scale_is_what_a_nat_per_element_adds_to_the_loss(form, scale):
    scale = 1 if form == "standardised" else scale  # no ½ is missing
    loop, _ = reported(FORMS[form])
    assert loop.events()[0].attributes.get("scale") == (None if scale == 1 else scale)


def test_one_variance_for_all_columns_has_the_constant_of_all_columns():
    loop = Loop(nn.Linear(6, 3))
    outputs = loop.model(X)
    loss = F.gaussian_nll_loss(outputs[:, :2], Y, outputs[:, 2:].exp())
    loop.step(loss, prediction=outputs, target=Y)
    expected = 0.5 * (math.log(Y.var(0).mean().item()) + 1)
    assert loop.scalar("loss_of_constant") == [pytest.approx(expected, abs=0.01)]


def test_it_is_a_term_of_a_sum():
    loop = Loop(nn.Linear(6, 5))
    outputs, labels = loop.model(X), (X[:, 0] > 0).float()
    likelihood = F.gaussian_nll_loss(outputs[:, :2], Y, outputs[:, 2:4].exp())
    binary = F.binary_cross_entropy_with_logits(outputs[:, 4], labels)
    loop.step(binary + 0.5 * likelihood, prediction=outputs[:, :2], target=Y)
    [event] = loop.events()
    assert event.attributes["terms"] == "BCEWithLogitsLoss,GaussianNLLLoss"
    assert event.attributes["scales"] == "1,0.5"
    assert loop.scalar("part_of_loss/1") == [pytest.approx(0.5 * likelihood.item(), rel=1e-4)]
    constant = 0.5 * (Y.var(0).log().mean().item() + 1)
    assert loop.scalar("part_of_constant/1") == [pytest.approx(0.5 * constant, abs=0.01)]


NO_LIKELIHOODS = {
    "another variance": lambda m, s, y: (s.flip(1) + (y - m) ** 2 * (-s).exp()).mean(),
    "a column": lambda m, s, y: (s[:, :1] + (y - m) ** 2 * (-s[:, 1:]).exp()).mean(),
    "Kullback-Leibler": lambda m, s, y: -0.5 * (1 + s - m**2 - s.exp()).mean(),
    "two means": lambda m, s, y: 0.5 * (s + (m.flip(0) - m) ** 2 * (-s).exp()).mean(),
    "no logarithm": lambda m, s, y: ((y - m) ** 2 / s.exp()).mean(),
}


@pytest.mark.parametrize("form", NO_LIKELIHOODS.values(), ids=NO_LIKELIHOODS)
def test_other_sums_are_no_likelihood(form):
    loop, _ = reported(form)
    assert "GaussianNLLLoss" not in [event.text for event in loop.events()]
    assert loop.scalar("loss_of_constant") == []


WRONG_SIGNS = {
    "log variance": lambda m, s, y: ((y - m) ** 2 * (-s).exp() - s).mean() / 2,
    "precision": lambda m, s, y: ((y - m) ** 2 * s.exp() + s).mean(),
}


@pytest.mark.parametrize("form", WRONG_SIGNS.values(), ids=WRONG_SIGNS)
def test_the_wrong_sign_of_the_logarithm_is_named(form):
    loop, _ = reported(form)
    [event] = loop.events()
    assert event.attributes["wiring"] == "logarithm_of_variance_subtracted"
    assert loop.scalar("loss_of_constant") == []


def test_without_its_targets_the_constant_is_not_known():
    loop, _ = reported(FORMS["log variance"], prediction=None, target=None)
    assert loop.events()[0].text == "GaussianNLLLoss"
    assert loop.scalar("loss_of_constant") == []
    assert loop.scalar("prediction_mean") == []


def test_a_policy_gradient_has_no_constant():
    advantages = torch.randn(N, 1, generator=torch.Generator().manual_seed(3))

    def loss(mean, spread, actions):
        return -(Normal(mean, deviation(spread)).log_prob(actions) * advantages).mean()

    loop, _ = reported(loss)
    assert loop.scalar("loss_of_constant") == []


def test_a_loss_whose_rounding_hides_the_constant_has_none():
    loop, _ = reported(lambda m, s, y: (0.5 * (s + (1e5 * y - m) ** 2 * (-s).exp())).mean())
    assert loop.scalar("loss_of_constant") == []


def test_means_of_another_shape_than_the_targets_are_named():
    loop = Loop(nn.Linear(6, 2))
    outputs = loop.model(X)
    y = Y[:, 0]  # (64,) against (64, 1)
    loss = 0.5 * (outputs[:, 1:] + (y - outputs[:, :1]) ** 2 * (-outputs[:, 1:]).exp())
    loop.step(loss.mean(), prediction=outputs, target=y)
    wiring = loop.events()[0].attributes["wiring"]
    assert wiring == "prediction_and_target_broadcast,errors_of_all_pairs"
