"""Plans and rates with which no model is trained, and units that start equal."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.learning_rate_too_low import LearningRateTooLow
from trainvitals.diagnosis.rules.symmetric_init import SymmetricInit
from trainvitals.diagnosis.rules.undertrained import Undertrained
from trainvitals.wire import Event, EventKind, Place, Stat, Stream


def noisy(level):
    return np.asarray(level) + 0.02 * np.random.default_rng(0).normal(size=len(level))


# A loss of an unknown kind that has hardly fallen.


def slow(*, ratio=5e-5, planned=150, end=0.97):
    """The loss is 7 at the start and falls in 150 steps to a share of that."""
    place = Place("0.weight", kind="weight", shape=(10, 10), module="0")
    example = Example(150, total_steps=planned)
    example.scalars(loss=7 * noisy(np.linspace(1, end, 150)), learning_rate__0=1e-5)
    example.stream(Stream.UPDATE, [place], {place.name: {Stat.RATIO: ratio}})
    example.stream(Stream.GRADIENT, [place], {place.name: {Stat.L2: 0.1}})
    example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: 1.0}})
    return [*LearningRateTooLow().check(example.history)]


def test_a_rate_is_too_low_if_all_planned_steps_move_a_weight_by_one_percent():
    [finding] = slow()
    assert finding.severity is Severity.WARNING
    assert "5e−5 of its size" in finding.summary


@pytest.mark.parametrize(
    "changes",
    [{"ratio": 5e-4}, {"planned": None}, {"planned": 15_000}, {"end": 0.7}],
    ids=["larger steps", "no plan, too early", "many more steps to come", "it learns"],
)
def test_otherwise_the_rate_is_not_too_low(changes):
    assert not slow(**changes)


# A short plan.


def short(*, end=1.36, steps=20, kind="CrossEntropyLoss", **scalars):
    """The loss falls from 3; that of a constant prediction is ln 4 = 1.386."""
    head = Place("2.weight", kind="weight", shape=(4, 8), module="2", flags=("output",))
    loss = noisy(end + (3 - end) * np.exp(-np.arange(steps) / 3))
    example = Example(steps, total_steps=steps).scalars(loss=loss, **scalars)
    history = example.stream(Stream.WEIGHT, [head], {head.name: {Stat.L2: 2.0}}).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, {"classes": 4.0}))
    return [f for f in Undertrained().check(history) if f.severity is Severity.WARNING]


def test_a_short_plan_that_ends_at_the_loss_of_a_constant_is_undertrained():
    [finding] = short()
    assert "the plan has only 20 steps" in finding.summary


@pytest.mark.parametrize(
    "changes",
    [{"end": 1.0}, {"steps": 120}, {"kind": ""}, {"loss__val": 1.0}],
    ids=["better than a constant", "a longer plan", "an unknown loss", "a validation loss"],
)
def test_other_short_plans_are_not_reported(changes):
    assert not short(**changes)


# Units that start equal, with gradients that differ.


def equal_units(*, distinct=1 / 16, norm=2.0, shape=(16, 16), flags=((), ()), matrices=2):
    places = [
        Place(f"{i}.weight", kind="weight", shape=shape, depth=i, module=str(i), flags=flags[i])
        for i in range(2)
    ]
    shares = [distinct, distinct if matrices == 2 else 1.0]
    weights = {
        p.name: {Stat.DISTINCT_ROWS: [share, 1.0, 1.0], Stat.L2: norm}
        for p, share in zip(places, shares, strict=True)
    }
    example = Example(3).stream(Stream.WEIGHT, places, weights)
    gradients = {p.name: {Stat.DISTINCT_ROWS: 1.0, Stat.L2: 0.1} for p in places}
    return [*SymmetricInit().check(example.stream(Stream.GRADIENT, places, gradients).history)]


def test_two_matrices_of_equal_rows_are_reported_although_their_gradients_differ():
    [finding] = equal_units()
    assert (finding.where, finding.severity) == ("0.weight", Severity.WARNING)
    assert "only 1 distinct weight row;" in finding.summary


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": 0.0},
        {"matrices": 1},
        {"distinct": 1 / 4},
        {"shape": (16, 1, 3, 3)},
        {"flags": (("output",), ("output",))},
    ],
    ids=["zeros", "one matrix", "groups of equal rows", "depthwise filters", "heads alone"],
)
def test_other_equal_rows_with_different_gradients_are_not_reported(changes):
    assert not equal_units(**changes)
