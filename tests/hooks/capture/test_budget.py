"""The account: what full steps may cost, and when they are taken."""

from itertools import pairwise

import pytest

from trainvitals.capture.budget import (
    ALLOWANCE_S,
    EVERY_MAX,
    FINDING_STEPS,
    FIRST_STEPS,
    NONFINITE_STEPS,
    Budget,
)

SHARE = 0.02


def train(budget, steps, *, step_s, full_s, light_s=0.0, background_s=0.0, first=0):
    """Return the numbers of the full steps."""
    full = []
    for step in range(first, first + steps):
        is_full = budget.is_full(step)
        if is_full:
            full.append(step)
        own_s = full_s if is_full else light_s
        budget.spent(step, own_s, step_s + own_s, full=is_full)
        budget.background(background_s)
    return full


@pytest.mark.parametrize("step_s", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("cost", [0.05, 0.5, 3.0])
def test_the_cost_stays_within_the_account_from_the_first_step_on(step_s, cost):
    budget = Budget(SHARE)
    full_s, light_s = cost * step_s, 0.005 * step_s
    for step in range(1000):
        train(budget, 1, step_s=step_s, full_s=full_s, light_s=light_s, first=step)
        # A cost is known when it was measured: the first full step may exceed the account.
        assert budget.own_s <= ALLOWANCE_S + SHARE * budget.training_s + full_s
    assert budget.own_s <= ALLOWANCE_S + SHARE * budget.training_s or step_s * cost > ALLOWANCE_S


def test_cheap_first_steps_are_all_full():
    assert train(Budget(SHARE), FIRST_STEPS, step_s=0.01, full_s=0.001) == list(range(FIRST_STEPS))


def test_expensive_first_steps_are_full_until_the_reserve():
    full = train(Budget(SHARE), FIRST_STEPS, step_s=0.05, full_s=0.05)
    assert full[:3] == [0, 1, 2]
    assert len(full) < 8


def test_later_steps_are_spread_evenly_at_less_than_the_share():
    budget = Budget(SHARE)
    train(budget, 1000, step_s=0.01, full_s=0.002)
    before_s, before_training_s = budget.own_s, budget.training_s
    full = train(budget, 1000, step_s=0.01, full_s=0.002, first=1000)
    distances = {b - a for a, b in pairwise(full)}
    assert max(distances) - min(distances) <= 1
    assert 0.01 <= (budget.own_s - before_s) / (budget.training_s - before_training_s) <= SHARE


def test_background_threads_are_paid_from_the_same_account():
    with_threads, without = Budget(SHARE), Budget(SHARE)
    slow = train(with_threads, 2000, step_s=0.01, full_s=0.002, background_s=0.0001)
    fast = train(without, 2000, step_s=0.01, full_s=0.002)
    assert len(slow) < len(fast)
    assert with_threads.balance_s >= 0


def test_an_account_that_light_steps_exceed_pays_no_full_step():
    budget = Budget(SHARE)
    full = train(budget, 20_000, step_s=0.001, full_s=0.0005, light_s=0.0001)
    assert budget.balance_s < 0
    assert full[-1] < 15_000
    assert not budget.is_full(20_000)


def test_a_long_gap_is_closed_as_long_as_the_account_can_pay():
    budget = Budget(SHARE)
    full = train(budget, 3000, step_s=0.001, full_s=0.0005, light_s=0.000018)
    later = [b - a for a, b in pairwise(full) if a >= FIRST_STEPS]
    assert later
    assert max(later) == EVERY_MAX


@pytest.mark.parametrize(
    ("announce", "count"),
    [(Budget.after_finding, FINDING_STEPS), (Budget.after_nonfinite, NONFINITE_STEPS)],
)
def test_steps_after_a_finding_or_a_nonfinite_value_are_full(announce, count):
    budget = Budget(SHARE)
    train(budget, 500, step_s=0.01, full_s=0.002)
    announce(budget, 499)
    full = train(budget, 64, step_s=0.01, full_s=0.002, first=500)
    assert set(range(500, 499 + count)) <= set(full)
    assert budget.balance_s >= 0


def test_a_run_full_of_nonfinite_values_does_not_exceed_the_account():
    budget = Budget(SHARE)
    for step in range(5000):
        train(budget, 1, step_s=0.01, full_s=0.004, first=step)
        budget.after_nonfinite(step)
    assert budget.balance_s >= 0


def test_a_fixed_cadence_is_kept_whatever_it_costs():
    assert train(Budget(SHARE, every=10), 40, step_s=0.01, full_s=1.0) == [0, 10, 20, 30]


def test_without_a_share_and_a_cadence_no_step_is_full():
    budget = Budget(0.0)
    assert budget.vital_only
    assert train(budget, 200, step_s=0.01, full_s=0.001) == []


def test_a_short_run_says_that_the_allowance_makes_its_share_larger():
    budget = Budget(SHARE)
    train(budget, 400, step_s=0.001, full_s=0.0015, light_s=0.00001)
    assert budget.overhead > 2 * SHARE
    assert budget.note == (
        "the budget allows 0.25 s + 2 % of the training time, so a run of 0.5 s shows a larger "
        "share"
    )


def test_short_steps_say_what_is_recorded_at_every_step():
    budget = Budget(SHARE)
    train(budget, 20_000, step_s=0.001, full_s=0.0015, light_s=0.00005)
    assert budget.balance_s < 0
    assert budget.note == (
        "loss, learning rate and gradient norm of every step alone take 4.8 % of steps of 1 ms"
    )


@pytest.mark.parametrize(
    ("budget", "background_s"),
    [
        (Budget(SHARE), 0.0),  # the share is kept
        (Budget(SHARE), 0.002),  # neither the allowance nor the steps explain it
        (Budget(SHARE, every=1), 0.0),  # a cadence that the user chose
        (Budget(0.0), 0.0),  # no step is full
    ],
)
def test_nothing_is_said_where_neither_is_the_reason(budget, background_s):
    train(budget, 5000, step_s=0.02, full_s=0.0015, light_s=0.00001, background_s=background_s)
    assert budget.note == ""
