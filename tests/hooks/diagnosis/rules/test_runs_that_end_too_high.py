"""Losses that end above their level before a spike or above a constant's, and outputs that a loss
of the program's own can never bring to the targets."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from helpers.first_steps import found, train
from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.loss_spike import LossSpike
from trainvitals.diagnosis.rules.loss_task_mismatch import LossTaskMismatch
from trainvitals.diagnosis.rules.output_range_mismatch import OutputRangeMismatch
from trainvitals.diagnosis.rules.undertrained import Undertrained
from trainvitals.wire import Event, EventKind


def binary_by_hand(prediction, target):
    p = prediction[:, 0].clamp(1e-6, 1 - 1e-6)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


def network(last=nn.Sigmoid):
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1), last())


def test_class_numbers_above_the_range_of_a_sigmoid():
    finding = found(OutputRangeMismatch, train(network(), binary_by_hand, reports_pair=True))
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert finding.fix == ""  # the sigmoid belongs to this loss; the targets do not


def test_a_loss_of_the_programs_own_without_a_last_activation():
    def scaled(prediction, target):
        return ((prediction[:, 0] - target / 9).abs() + 1).log().mean()

    assert (
        found(OutputRangeMismatch, train(network(nn.Identity), scaled, reports_pair=True)) is None
    )


@pytest.mark.parametrize(("shape", "finds"), [("(8, 6)", True), ("(8, 16)", False)])
def test_targets_that_are_no_classes_of_the_loss_do_not_have_several_of_them(shape, finds):
    history = Example(6).scalars(loss=2.0, target_row_sum_max=3.0).history
    about = {"classes": 6.0, "prediction_shape": "(8, 6)", "target_shape": shape}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", about))
    assert (found(LossTaskMismatch, history) is not None) is finds


@pytest.mark.parametrize(("level", "severity"), [(0.2, Severity.WARNING), (0.1, Severity.INFO)])
def test_a_jump_above_the_initial_loss_is_over_at_the_level_before(level, severity):
    rng = np.random.default_rng(0)
    loss = (0.1 + 2.9 * np.exp(-np.arange(360) / 20)) * np.exp(rng.normal(0, 0.05, 360))
    loss[250:] = (level + 5 * np.exp(-np.arange(110) / 8)) * np.exp(rng.normal(0, 0.05, 110))
    finding = found(LossSpike, Example(360).scalars(loss=loss).history)
    assert finding is not None
    assert (finding.severity, finding.since_step) == (severity, 250)


@pytest.mark.parametrize(
    ("first", "last", "finds"), [(12.0, 6.0, True), (12.0, 3.4, False), (6.0, 6.0, False)]
)
def test_a_long_plan_that_ends_above_a_constant_while_the_loss_falls(first, last, finds):
    loss = np.linspace(first, last, 300) + np.random.default_rng(0).normal(0, 0.05, 300)
    history = (
        Example(300, total_steps=300)
        .scalars(loss=loss, target_mean=np.full(300, 4.0), target_std=np.full(300, 2.0))
        .history
    )
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    finding = found(Undertrained, history)
    warns = finding is not None and finding.severity is Severity.WARNING
    assert warns is finds
    if finds:
        assert "times that of a constant prediction" in finding.summary


@pytest.mark.parametrize(
    ("loss", "reported"),
    [
        (np.linspace(1.0, 0.75, 160), True),
        (0.7 + 0.3 * np.exp(-np.arange(160) / 40), False),
        (np.linspace(1.0, 0.4, 160), False),
        (1.0 - 0.3 * np.linspace(0, 1, 160) ** 2, False),
        (np.linspace(1.0, 0.95, 160), False),
    ],
    ids=["in a line", "levels off", "far below the start", "has just begun", "hardly"],
)
def test_a_loss_that_has_not_begun_to_level_off_ends_too_early(loss, reported):
    noisy = loss + 0.02 * np.random.default_rng(0).normal(0, 1, len(loss))
    history = Example(len(loss), total_steps=len(loss)).scalars(loss=noisy).history
    assert [f.severity for f in Undertrained().check(history)] == [Severity.WARNING] * reported
    history = Example(len(loss), total_steps=2 * len(loss)).scalars(loss=noisy).history
    assert not [*Undertrained().check(history)]
