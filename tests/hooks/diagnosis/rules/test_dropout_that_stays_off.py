"""TV605 reports a dropout that is off after a validation, and none that is off on purpose."""

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.wrong_train_eval_mode import WrongTrainEvalMode
from trainvitals.wire import Place, Stat, Stream


def findings(dropout, *, total_steps=0, loss=2.0, norm=None):
    """Return the findings for these shares of modules in eval mode, one for each step."""
    n = len(dropout)
    scalars = {"loss": np.broadcast_to(loss, n), "dropout_eval_share": dropout}
    if norm is not None:
        scalars["norm_eval_share"] = norm
    place = Place("1.weight", kind="norm_scale", shape=(8,), module="1",
                  module_kind="BatchNorm1d")  # fmt: skip
    example = Example(n).scalars(**scalars)
    history = example.stream(Stream.WEIGHT, [place], {place.name: {Stat.L2: 2.8}}).history
    history.total_steps = total_steps
    return list(WrongTrainEvalMode().check(history))


def test_it_names_the_step_after_the_validation():
    [found] = findings([0.0, 0.0, 0.0, 1.0, 1.0])
    assert (found.since_step, found.severity) == (3, Severity.ERROR)
    assert "dropout" in found.summary
    assert "model.train()" in found.fix


@pytest.mark.parametrize(
    "shares",
    [
        [1.0] * 6,
        [0.5, 0.5, 0.5, 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.5, 0.5],
        [0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 1.0, 1.0, 0.0],
    ],
    ids=[
        "off from the first step",
        "a part was always off",
        "a part is switched off",
        "one step only",
        "in train mode again",
    ],
)
def test_a_choice_and_a_short_change_are_no_fault(shares):
    assert not findings(shares)


def test_a_dropout_that_is_off_again_after_the_next_validation_is_reported():
    [found] = findings([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    assert found.since_step == 5


@pytest.mark.parametrize(
    ("planned", "severity"),
    [(10, Severity.WARNING), (20, Severity.ERROR)],
    ids=["the last fifth of the plan", "half of the plan"],
)
def test_at_the_end_of_the_plan_it_is_a_warning(planned, severity):
    [found] = findings([0.0] * 8 + [1.0, 1.0], total_steps=planned)
    assert found.severity is severity


def test_the_mean_of_an_epoch_is_recorded_in_eval_mode():
    rare = np.where(np.arange(60) % 10 == 9, 1.0, np.nan)
    shares = np.where(np.arange(60) < 30, 0.0, 1.0) * rare
    assert not findings(shares, loss=2.0 * rare)


def test_batch_norm_in_eval_mode_says_it_alone():
    shares = [0.0, 0.0, 0.0, 1.0, 1.0]
    [found] = findings(shares, norm=shares)
    assert "BatchNorm" in found.summary


def test_frozen_statistics_do_not_hide_it():
    [found] = findings([0.0, 0.0, 0.0, 1.0, 1.0], norm=[0.5] * 5)
    assert "dropout" in found.summary
