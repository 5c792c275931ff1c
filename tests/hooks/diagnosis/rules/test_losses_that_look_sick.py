"""Courses of the loss of models that learn, which must raise no alarm, and their sick twins."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.loss_divergence import LossDivergence
from trainvitals.diagnosis.rules.loss_spike import LossSpike
from trainvitals.diagnosis.rules.no_learning import NoLearning
from trainvitals.wire import Event, EventKind, Place, Stat, Stream


def noise(steps, std):
    return np.random.default_rng(1).normal(0, std, steps)


def codebook_course(reconstruction, codebook, of_constant):
    """Return the course of a VQ-VAE: a reconstruction, and a codebook whose targets grow."""
    steps = len(reconstruction)
    history = (
        Example(steps)
        .scalars(
            loss=reconstruction + codebook,
            part_of_loss__0=reconstruction,
            part_of_constant__0=np.ones(steps),
            part_of_loss__1=codebook,
            part_of_constant__1=of_constant,
        )
        .history
    )
    attributes = {"terms": "MSELoss,MSELoss", "reduction": "mean"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", attributes))
    return history


@pytest.mark.parametrize(("share", "severity"), [(0.95, "info"), (3.0, "warning")])
def test_a_loss_that_rises_with_its_targets_has_not_diverged(share, severity):
    step = np.arange(200)
    grown = np.where(step < 80, 0.02, 3.0)
    codebook = np.where(step < 80, 0.95, share) * grown
    history = codebook_course(1.5 * np.exp(-step / 60) + 0.1, codebook, grown)
    [found] = LossDivergence().check(history)
    assert found.severity == severity


@pytest.mark.parametrize(
    ("steps", "falls_for", "severity"), [(220, 9, "info"), (260, 9, "warning"), (260, 80, "info")]
)
def test_a_likelihood_has_50_steps_to_come_back_from_a_spike(steps, falls_for, severity):
    step = np.arange(steps)
    course = 1.0 - 2.4 * (1 - np.exp(-step / 40)) + noise(steps, 0.08)
    since = np.clip(step - 200, 0, falls_for)
    course += np.where(step >= 200, 3.0 * (1 - since / 90), 0)
    history = Example(steps).scalars(loss=course).history
    found = [f for f in LossSpike().check(history) if f.since_step == 200]
    assert [f.severity for f in found] == [severity]


def at_the_constant(module_kind, steps, falls_at=10**9):
    """Return noisy losses of a regression that stays at its constant, 0.17, for a while."""
    step = np.arange(steps)
    loss = np.where(step < falls_at, 0.17, 0.01) * (1 + noise(steps, 0.2))
    loss[:3] = 0.28
    weight = Place("0.weight", "weight", (8, 8), 0, "0", module_kind)
    scalars = {f"target_{s}": v for s, v in (("min", 0), ("max", 2), ("mean", 1), ("std", 0.41))}
    history = (
        Example(steps)
        .scalars(loss=loss, **scalars)
        .stream(Stream.WEIGHT, [weight], {"0.weight": {Stat.L2: 0.8}})
        .history
    )
    attributes = {"reduction": "mean", "target_shape": "(32, 1)"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", attributes))
    return history


@pytest.mark.parametrize(
    ("kind", "steps", "found"),
    [("Linear", 200, 1), ("ParametrizedConv1d", 200, 0), ("ParametrizedConv1d", 320, 1)],
)
def test_a_network_over_time_may_stay_at_the_constant_for_300_steps(kind, steps, found):
    assert len(list(NoLearning().check(at_the_constant(kind, steps)))) == found


def test_the_finding_ends_when_the_model_has_learned_late():
    engine = Engine([NoLearning()])
    [found] = engine.examine(at_the_constant("Linear", 250))
    assert (found.severity, found.is_open) == (Severity.WARNING, True)
    [found] = engine.examine(at_the_constant("Linear", 400, falls_at=300), [found])
    assert not found.is_open
