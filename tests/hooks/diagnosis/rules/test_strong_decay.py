"""TV604 reports a decay that removes 0.5 % of each weight per step, if the loss stays high."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.over_regularised import OverRegularised
from trainvitals.wire import Event, EventKind, Place, Stat, Stream

STEPS = 200


def findings(*, optimizer="AdamW", decay=10.0, end=0.7, norm=0.4):
    """The learning rate is 1e-3; the error falls from 1 to `end`, the weights to `norm`."""
    place = Place("0.weight", kind="weight", shape=(32, 32), module="0")
    loss = end + (1 - end) * np.exp(-np.arange(STEPS) / 30)
    example = Example(STEPS).scalars(
        loss=loss, target_std=1.0, learning_rate__0=1e-3, weight_decay__0=decay
    )
    size = 5 * np.maximum(norm, 0.98 ** np.arange(STEPS))
    history = example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: size}}).history
    history.facts["optimizer"] = optimizer
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    return list(OverRegularised().check(history))


def test_a_decay_of_1_percent_per_step_is_a_warning_while_the_loss_is_high():
    [finding] = findings()
    assert finding.severity is Severity.WARNING
    assert "a weight decay of 10" in finding.summary


@pytest.mark.parametrize(
    "changes",
    [{"end": 0.4}, {"decay": 1.0}, {"norm": 0.8}, {"optimizer": "Adam"}],
    ids=["it learns", "a usual decay", "the weights keep their size", "Adam scales the decay"],
)
def test_otherwise_it_is_silent(changes):
    assert not findings(**changes)


# A decay that is larger than the weights, or than the gradient.


def first_steps(optimizer, *, decay, gradient=0.1, loss=2.0, steps=30, nonfinite=0.0, **group):
    """The learning rate is 0.03, and the norm of the weights 5."""
    place = Place("0.weight", kind="weight", shape=(32, 32), module="0")
    example = Example(steps).scalars(
        loss=np.full(steps, loss),
        nonfinite_loss=np.full(steps, nonfinite),
        learning_rate__0=0.03,
        weight_decay__0=decay,
    )
    example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: 5.0}})
    history = example.stream(Stream.GRADIENT, [place], {place.name: {Stat.L2: gradient}}).history
    history.facts["optimizer"] = optimizer
    history.add(Event(0, 0.0, EventKind.OPTIMIZER, optimizer, {f"{k}/0": group[k] for k in group}))
    return list(OverRegularised().check(history))


def test_a_step_that_takes_more_than_the_whole_weight_is_an_error_at_once():
    [finding] = first_steps("AdamW", decay=100.0, steps=2)
    assert finding.severity is Severity.ERROR
    assert "1 − 3" in finding.summary
    assert "weight_decay" in finding.fix
    assert not first_steps("AdamW", decay=1.0)


def test_a_penalty_of_many_times_the_gradient_is_an_error_once_the_loss_does_not_fall():
    [finding] = first_steps("Adam", decay=1.0)
    assert finding.evidence[0].seen == pytest.approx(50)
    assert not first_steps("Adam", decay=1.0, steps=10)  # it may still fall
    assert first_steps("Adam", decay=1.0, steps=10, nonfinite=1.0)
    assert not first_steps("Adam", decay=0.1)
    assert not first_steps("Lion", decay=1.0)  # it does not add the decay to the gradient
    assert not first_steps("Adam", decay=1.0, decoupled_weight_decay="True")


# A decay of the embeddings alone.


def tables(*, optimizer="Adam", decay=0.1, norm=0.3, end=0.8, kind="embedding"):
    """The error falls from 1 to `end`; the norm of the embeddings to a share of its first."""
    place = Place("codes.weight", kind=kind, shape=(50, 4), module="codes")
    matrix = Place("head.weight", kind="weight", shape=(4, 4), module="head")
    example = Example(STEPS).scalars(
        loss=end + (1 - end) * np.exp(-np.arange(STEPS) / 30),
        target_std=1.0,
        learning_rate__0=1e-3,
        weight_decay__0=decay,
        weight_decay__1=0.0,
    )
    size = np.maximum(norm, 0.97 ** np.arange(STEPS))
    example.stream(
        Stream.WEIGHT, [place, matrix], {place.name: {Stat.L2: size}, matrix.name: {Stat.L2: 2.0}}
    )
    example.history.facts["optimizer"] = optimizer
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    return [*OverRegularised().check(example.history)]


def test_a_decay_that_shrinks_the_embeddings_is_a_warning_while_the_loss_is_high():
    [finding] = tables()
    assert finding.severity is Severity.WARNING
    assert "the embeddings have 30 % of their first norm" in finding.summary


@pytest.mark.parametrize(
    "changes",
    [{"decay": 1e-3}, {"norm": 0.8}, {"end": 0.4}, {"optimizer": "AdamW"}, {"kind": "norm_scale"}],
    ids=["a usual decay", "they keep their size", "it learns", "a decay apart", "no embedding"],
)
def test_embeddings_that_shrink_otherwise_are_not_reported(changes):
    assert not tables(**changes)
