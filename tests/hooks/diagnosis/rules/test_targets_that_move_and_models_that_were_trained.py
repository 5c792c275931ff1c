"""TV503 with targets that grow, and TV501 and TV602 on a model that was trained before."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.learning_rate_too_low import LearningRateTooLow
from trainvitals.diagnosis.rules.loss_divergence import LossDivergence
from trainvitals.diagnosis.rules.no_learning import NoLearning
from trainvitals.diagnosis.trained_before import trained_before
from trainvitals.wire import Event, EventKind, Place, Stat, Stream

STEP = np.arange(200)
SAME = np.ones(200)


def severity_of_the_rise(size):
    """Return the severity of TV503 for a loss that rises at step 120, and targets of this RMS."""
    loss = np.where(STEP < 120, 0.2 + 2.1 * np.exp(-STEP / 25), 2.9)
    means = np.asarray(size, float) * np.cos(STEP)
    stds = np.asarray(size, float) * np.abs(np.sin(STEP))
    history = Example(200).scalars(loss=loss, target_mean=means, target_std=stds).history
    return [f.severity for f in LossDivergence().check(history)]


def test_a_rise_with_the_same_targets_is_a_divergence():
    assert severity_of_the_rise(SAME) == [Severity.WARNING]


def test_a_rise_with_targets_that_grow_from_step_to_step_is_a_note():
    assert severity_of_the_rise(1 + STEP / 40) == [Severity.INFO]
    assert severity_of_the_rise(1 + STEP // 20) == [Severity.INFO]  # a slow copy, now and then


def test_a_rise_with_targets_that_are_suddenly_ten_times_as_large_is_a_divergence():
    assert severity_of_the_rise(np.where(STEP < 120, 1.0, 10.0)) == [Severity.WARNING]


def test_a_rise_with_targets_that_shrink_is_a_divergence():
    assert severity_of_the_rise(1 / (1 + STEP / 40)) == [Severity.WARNING]


def run(kind, loss, *, prediction=(-6.0, 6.0, 0.0, 2.0), target=(0.0, 1.0), classes=10):
    """Return a run whose loss stays level, and whose matrix changes by 1e-5 of its size a step."""
    low, high, mean, std = prediction
    noisy = loss * (1 + 0.01 * np.random.default_rng(0).normal(size=200))
    example = Example(200).scalars(
        loss=noisy, learning_rate__0=1e-5, prediction_min=low, prediction_max=high,
        prediction_mean=mean, prediction_std=std, target_mean=target[0], target_std=target[1],
    )  # fmt: skip
    attributes = {"target_shape": "(64,)"} | ({"classes": float(classes)} if classes else {})
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, attributes))
    place = Place("0.weight", kind="weight", shape=(10, 10), depth=0, module="0")
    example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: 3.0}})
    example.stream(Stream.GRADIENT, [place], {place.name: {Stat.L2: 0.5}})
    return example.stream(Stream.UPDATE, [place], {place.name: {Stat.RATIO: 1e-5}}).history


def found(history):
    return [f.rule for rule in (NoLearning(), LearningRateTooLow()) for f in rule.check(history)]


TRAINED = {
    "classes": run("CrossEntropyLoss", 0.7),
    "numbers": run("MSELoss", 0.3, prediction=(-2, 2, 0, 0.8), classes=0),
    "huber": run("HuberLoss", 0.1, prediction=(-2, 2, 0, 0.8), classes=0),
    "two_classes": run("BCEWithLogitsLoss", 0.3, target=(0.4, 0.49), classes=0),
    "log_probabilities": run("NLLLoss", 0.7, prediction=(-9, -0.01, -3, 1)),
}
UNTRAINED = {
    "classes": run("CrossEntropyLoss", 2.4, prediction=(-0.5, 0.5, 0, 0.2)),
    "a_divided_loss": run("CrossEntropyLoss", 2.4 / 4, prediction=(-0.5, 0.5, 0, 0.2)),
    "numbers": run("MSELoss", 1.1, prediction=(-0.3, 0.3, 0, 0.1), classes=0),
    "a_divided_squared_error": run("MSELoss", 0.3, prediction=(-0.3, 0.3, 0, 0.1), classes=0),
    "two_classes": run(
        "BCEWithLogitsLoss", 0.7, prediction=(-0.3, 0.3, 0, 0.1), target=(0.4, 0.49), classes=0
    ),
    "an_unknown_loss": run("", 0.5, classes=0),
}


@pytest.mark.parametrize("history", TRAINED.values(), ids=TRAINED)
def test_the_level_loss_of_a_trained_model_is_no_alarm(history):
    assert trained_before(history, float(history.scalar("loss").values[0]))
    assert found(history) == []


@pytest.mark.parametrize("history", UNTRAINED.values(), ids=UNTRAINED)
def test_the_level_loss_of_an_untrained_model_is_found(history):
    assert not trained_before(history, float(history.scalar("loss").values[0]))
    assert found(history) == ["no_learning", "learning_rate_too_low"]
