"""A likelihood with a predicted variance is judged by the loss of a constant prediction."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.distributions import Normal  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.capture import Capture  # noqa: E402
from trainvitals.diagnosis.course import Course  # noqa: E402
from trainvitals.diagnosis.examine import Engine  # noqa: E402
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.likelihood import Likelihood, likelihood  # noqa: E402
from trainvitals.diagnosis.rules.initial_loss_anomaly import InitialLossAnomaly  # noqa: E402
from trainvitals.diagnosis.rules.no_learning import NoLearning  # noqa: E402
from trainvitals.diagnosis.trained_before import trained_before  # noqa: E402
from trainvitals.wire import Event, EventKind  # noqa: E402

JUDGED = {"no_learning", "loss_divergence", "loss_plateau", "loss_oscillation", "undertrained"}


def course(losses, constant=2.0, kind="GaussianNLLLoss", facts=(), scalars=(), **attributes):
    """Return the course of a run with this loss, and with the loss of a constant prediction."""
    known = dict(scalars) | ({} if constant is None else {"loss_of_constant": constant})
    history = Example(len(losses)).scalars(loss=np.asarray(losses), **known).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, attributes))
    history.facts |= dict(facts)
    return Course(history)


def noisy(level, steps):
    return level + 0.02 * np.random.default_rng(0).standard_normal(steps)


@pytest.mark.parametrize("unit", [1.0, 64.0])
def test_a_level_is_the_share_of_the_variance_that_is_left(unit):
    scale = Likelihood(3.0, unit / 2, is_bounded=False)
    deviations = np.array([1.0, 0.5, 0.1])
    levels = scale.levels(3.0 + unit * np.log(deviations))
    assert levels == pytest.approx(deviations**2, rel=1e-5)


def test_levels_keep_the_order_of_losses_and_give_them_back():
    losses = np.linspace(-20, 500, 1000)
    scale = Likelihood(3.0, 1.0, is_bounded=False)
    levels = scale.levels(losses)
    assert (np.diff(levels) > 0).all()
    assert [scale.loss(float(x)) for x in levels] == pytest.approx(losses, abs=1e-4)


def test_a_loss_that_falls_below_zero_has_learned():
    run = course(np.r_[noisy(2.1, 20), noisy(-1.0, 80)])
    assert run.known
    assert run.learned(share=0.9)
    assert not run.flat
    assert run.shown(run.now()) == pytest.approx(-1.0, abs=0.02)


@pytest.mark.parametrize("level", [2.0, -1.5])
def test_a_loss_that_stays_at_its_constant_is_flat(level):
    run = course(noisy(level, 200), constant=level)
    assert run.flat
    assert not run.learned()


def test_the_variance_of_a_hundredth_is_convergence():
    assert course(np.r_[noisy(2.0, 50), noisy(-0.5, 50)]).converged
    assert not course(np.r_[noisy(2.0, 50), noisy(0.5, 50)]).converged


@pytest.mark.parametrize(
    ("constant", "kind", "facts"),
    [
        (None, "GaussianNLLLoss", {}),
        (2.0, "CTCLoss", {}),
        (2.0, "GaussianNLLLoss", {"loss_falls": 0.0}),
    ],
    ids=["no constant", "another loss", "declared"],
)
def test_a_loss_below_zero_whose_scale_is_not_known_is_not_judged(constant, kind, facts):
    run = course(noisy(-1.0, 200), constant, kind, facts)
    assert not run.known
    assert not run.flat


def test_a_term_of_a_sum_gives_the_sum_its_unit():
    terms = {"terms": "GaussianNLLLoss,CrossEntropyLoss", "scales": "0.5,1"}
    run = course([1.0] * 20, 2.0, "GaussianNLLLoss + CrossEntropyLoss", **terms)
    assert likelihood(run.history) == Likelihood(2.0, 0.25, is_bounded=False)


@pytest.mark.parametrize(("first", "trained"), [(1.7, True), (1.95, False), (5.0, False)])
def test_a_run_that_begins_below_its_constant_was_trained_before(first, trained):
    run = course(noisy(first, 100))
    assert trained_before(run.history, run.initial) is trained


def start_of(mean, deviation, *, predicted, logarithm):
    """Return what is said of the first losses for targets of this mean and deviation."""
    losses = 0.5 * (logarithm + ((predicted - mean) ** 2 + deviation**2) / np.exp(logarithm))
    constant = 0.5 * (1 + 2 * np.log(deviation))
    targets = {"target_mean": mean, "target_std": deviation}
    run = course(losses + noisy(0.0, 20), constant, scalars=targets)
    return list(InitialLossAnomaly().check(run.history))


@pytest.mark.parametrize("logarithm", [-12.0, -69.0, -3.0])
def test_a_likelihood_that_starts_with_a_tiny_variance_is_reported(logarithm):
    [finding] = start_of(0.0, 1.0, predicted=0.0, logarithm=logarithm)
    assert "mean 0 and variance 1 would give 0.5" in finding.summary


def test_a_likelihood_that_starts_with_a_mean_far_away_is_reported():
    assert start_of(0.0, 1.0, predicted=9.0, logarithm=0.0)


@pytest.mark.parametrize(
    ("mean", "deviation", "predicted", "logarithm"),
    [
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 1.0, 0.5, -1.0),
        (0.0, 1.0, 0.0, 3.0),
        (0.0, 0.01, 0.2, 0.0),
        (50.0, 10.0, 0.0, 0.0),
    ],
    ids=["standard", "narrow", "wide", "small targets", "targets in other units"],
)
def test_a_likelihood_that_starts_near_mean_0_and_variance_1_is_healthy(
    mean, deviation, predicted, logarithm
):
    assert not start_of(mean, deviation, predicted=predicted, logarithm=logarithm)


@pytest.mark.parametrize(("noise", "known"), [(0.1, True), (0.5, False)])
def test_a_poisson_loss_is_judged_where_batches_have_equal_targets(noise, known):
    least = -3 + noise * np.resize([-1, 1], 100)
    run = course(noisy(-2.5, 100), -1.0, "PoissonNLLLoss", scalars={"loss_of_targets": least})
    assert run.known is known
    if known:
        assert run.now() == pytest.approx(0.25, abs=0.02)
        assert run.shown(run.now()) == pytest.approx(-2.5, abs=0.02)


# Trainings.


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))


def likelihood_of(output, y):
    return F.gaussian_nll_loss(output[:, :1], y, output[:, 1:].exp())


def trained(loss=likelihood_of, *, mixed=False, steps=300, lr=3e-3, facts=()):
    """Train on targets with little noise, or on targets of other samples.

    Returns the last loss and the findings.
    """
    model, records, history = network(), [], History()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    capture = Capture(model, optimizer, emit=records.append, every=5)
    history.facts |= capture.facts | dict(facts)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(64, 4, generator=generator)
        y = 0.3 * (x[:, :1] + x[:, 1:2] ** 2 + 0.1 * torch.randn(64, 1, generator=generator))
        if mixed:
            y = y.roll(1, 0)
        output = model(x)
        value = loss(output, y)
        capture.loss(value, prediction=output, target=y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    capture.settle()
    for record in records:
        history.add(record)
    return value.item(), Engine().examine(history, ())


def rules(findings):
    return {finding.rule for finding in findings}


def alarms(findings):
    return [f.summary for f in findings if f.severity is not Severity.INFO]


def test_a_healthy_training_whose_loss_is_below_zero_has_no_alarm():
    loss, findings = trained()
    assert loss < -0.5
    assert alarms(findings) == []


def test_a_training_that_only_learns_the_mean_and_the_variance_does_not_learn():
    loss, findings = trained(mixed=True, steps=400)
    assert loss < 0
    assert "no_learning" in rules(findings)


def test_a_training_that_stays_at_its_constant_tells_that_loss():
    run = course(np.r_[np.linspace(4.0, 2.0, 50), 2.0 + noisy(0, 250) / 10])
    [finding] = NoLearning().check(run.history)
    assert "a constant prediction has 2" in finding.summary


def test_a_policy_gradient_is_not_judged():
    def loss(output, y):
        policy = Normal(output[:, :1], output[:, 1:].exp())
        with torch.no_grad():
            actions = policy.sample()
            rewards = -((actions - y) ** 2)
        return -(policy.log_prob(actions) * (rewards - rewards.mean())).mean()

    assert not rules(trained(loss)[1]) & JUDGED


def test_a_loss_that_is_declared_not_to_fall_is_not_judged():
    assert not rules(trained(mixed=True, steps=400, facts={"loss_falls": 0.0})[1]) & JUDGED
