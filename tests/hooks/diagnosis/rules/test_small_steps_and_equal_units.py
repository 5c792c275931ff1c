"""Plans and rates with which no model is trained, units that start equal, signals that vanish."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.init_activation_mismatch import InitActivationMismatch
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


# A parameter group whose rate is far below that of another.


def groups(*, rate=1e-8, ratio=1e-8, spread=None, gradient=0.1, planned=150):
    """The loss falls to half; the first of two matrices has a group with a rate of its own."""
    first, last = (
        Place(f"{i}.weight", "weight", (16, 16), i, str(i), "Linear", "relu") for i in range(2)
    )
    example = Example(150, total_steps=planned)
    example.scalars(
        loss=7 * noisy(np.linspace(1, 0.5, 150)), learning_rate__0=rate, learning_rate__1=1e-3
    )
    example.stream(
        Stream.UPDATE,
        [first, last],
        {first.name: {Stat.RATIO: ratio}, last.name: {Stat.RATIO: 1e-3}},
    )
    example.stream(
        Stream.GRADIENT, [first, last], {first.name: {Stat.L2: gradient}, last.name: {Stat.L2: 0.1}}
    )
    # The default of a layer with 16 inputs is uniform between -1/4 and 1/4.
    values = {Stat.MIN: -0.25, Stat.MAX: 0.25, Stat.STD: spread or 0.25 / 3**0.5, Stat.L2: 2.3}
    example.stream(Stream.WEIGHT, [first, last], {first.name: values, last.name: {Stat.L2: 2.3}})
    return [*LearningRateTooLow().check(example.history)]


def test_a_group_that_keeps_its_initial_weights_is_named_with_a_loss_that_falls():
    [finding] = groups()
    assert (finding.where, finding.severity) == ("0.weight", Severity.WARNING)
    assert "all 150 steps together" in finding.summary
    assert "['lr'] = 0.001" in finding.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 1e-5, "ratio": 1e-7},
        {"ratio": 1e-5},
        {"spread": 0.08},
        {"gradient": 1e-5},
        {"planned": None},
        {"planned": 1_000_000},
    ],
    ids=[
        "a usual spread of the rates",
        "it moves",
        "weights that were trained",
        "a small gradient",
        "no plan, too early",
        "many more steps to come",
    ],
)
def test_other_groups_with_a_low_rate_are_not_reported(changes):
    assert not groups(**changes)


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


# A signal that shrinks by more than a thousand times.


def shrinking(*, factor=0.3, end=1.0, steps=80):
    """The error falls from 3 to `end`, where 1 is that of a constant prediction."""
    names = [str(i) for i in range(10)]
    weights = [
        Place(f"{n}.weight", "weight", (32, 32), i, n, "Linear", "sigmoid")
        for i, n in enumerate(names)
    ]
    modules = [Place(n, "Linear", depth=i, module=n) for i, n in enumerate(names)]
    loss = noisy(end + (3 - end) * np.exp(-np.arange(steps) / 5))
    example = Example(steps).scalars(loss=loss, target_std=1.0)
    example.stream(Stream.WEIGHT, weights, {p.name: {Stat.L2: 32**0.5} for p in weights})
    spread = {p.name: {Stat.SAMPLE_STD: factor**i} for i, p in enumerate(modules)}
    history = example.stream(Stream.ACTIVATION, modules, spread).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    return [f.severity for f in InitActivationMismatch().check(history)]


def test_a_vanishing_signal_is_a_warning_while_the_loss_is_that_of_a_constant():
    assert shrinking() == [Severity.WARNING]


@pytest.mark.parametrize(
    "changes",
    [{"end": 0.8}, {"steps": 40}],
    ids=["better than a constant", "too early"],
)
def test_otherwise_a_vanishing_signal_is_a_note(changes):
    assert shrinking(**changes) == [Severity.INFO]
