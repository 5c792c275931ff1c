"""When the damage of a fault is undone."""

import numpy as np
import pytest

from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example


def course(loss, **scalars):
    return Course(Example(len(loss)).scalars(loss=np.asarray(loss), **scalars).history)


def noisy(level, steps):
    return level * (1 + 0.01 * np.random.default_rng(0).standard_normal(steps))


class TestOfAFaultFromTheStart:
    LOSS = np.r_[noisy(2.3, 50), noisy(1.0, 950)]

    @pytest.mark.parametrize(("last", "recovered"), [(5, True), (50, True), (150, False)])
    def test_it_is_over_when_it_cost_less_than_a_tenth_of_the_run(self, last, recovered):
        assert course(self.LOSS).recovered(0, last) is recovered

    def test_it_is_not_over_as_long_as_the_loss_has_not_fallen(self):
        assert not course(noisy(2.3, 1000)).recovered(0, 5)

    def test_a_converged_run_has_recovered_at_once(self):
        assert course(np.r_[noisy(2.3, 50), noisy(0.01, 60)]).recovered(0, 100)


class TestOfALaterFault:
    def damaged(self, cost, steps):
        """A loss of 1.0, at 3.0 for `cost` steps from step 100 on."""
        return course(np.r_[noisy(1.0, 100), noisy(3.0, cost), noisy(0.9, steps - 100 - cost)])

    @pytest.mark.parametrize(("steps", "recovered"), [(800, False), (1300, True)])
    def test_it_is_over_when_its_lost_steps_are_less_than_a_tenth_of_the_run(
        self, steps, recovered
    ):
        assert self.damaged(100, steps).recovered(100, 102) is recovered

    def test_it_is_not_over_above_the_level_before(self):
        assert not course(np.r_[noisy(1.0, 100), noisy(1.5, 2000)]).recovered(100, 102)

    def test_a_single_spike_in_a_long_run_is_over_at_once(self):
        assert self.damaged(1, 1030).recovered(100, 100)
