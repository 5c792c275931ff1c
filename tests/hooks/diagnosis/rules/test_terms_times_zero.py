"""TV408 names a term whose factor is the whole number 0 from the start."""

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.loss_term_inactive import LossTermInactive


def run(counts, loss=1.0):
    steps = len(counts)
    history = Example(steps).scalars(loss=np.full(steps, loss), zero_terms=counts).history
    return [*LossTermInactive().check(history)]


def test_a_factor_of_0_for_100_steps_is_a_warning():
    [found] = run([1.0] * 101)
    assert (found.severity, found.since_step) == ("warning", 0)
    assert "for 100 steps" in found.summary


@pytest.mark.parametrize(
    "counts",
    [[1.0] * 100, [1.0] * 150 + [0.0], [0.0] + [1.0] * 150, [np.nan] + [1.0] * 150],
    ids=["fewer steps", "a warm-up", "not at the start", "a later start"],
)
def test_other_factors_are_not(counts):
    assert not run(counts)


def test_a_loss_of_0_belongs_to_another_rule():
    assert not run([1.0] * 101, loss=0.0)
