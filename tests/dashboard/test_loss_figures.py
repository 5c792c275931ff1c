"""The numbers of the page Loss, from curves with known ones."""

import numpy as np
import pytest

from trainvitals.api.schema import Curve
from trainvitals_dashboard.figures.loss import Noise, lowest, newest, noise_of


def curve(values, name="loss", width=1):
    steps = [width * i for i in range(len(values))]
    values = [None if v is None or not np.isfinite(v) else float(v) for v in values]
    last = [s + width - 1 for s in steps]
    counts = [width] * len(steps)
    return Curve(name, steps, last, values, values, values, values, [0] * len(steps), counts)


def test_noise_is_that_of_the_newest_losses_without_their_decline():
    rng = np.random.default_rng(1)
    losses = np.concatenate([np.full(500, 9.0), 3 - 0.002 * np.arange(250)])
    found = noise_of(curve(losses + 0.05 * rng.normal(size=750)))
    assert isinstance(found, Noise)
    assert found.window == 50
    assert found.std == pytest.approx(0.05, rel=0.15)
    assert found.decline == pytest.approx(0.1, rel=0.15)
    assert found.is_clear


def test_a_level_loss_has_no_clear_decline_in_19_of_20_runs():
    clear = [
        noise_of(curve(np.random.default_rng(seed).normal(size=250))).is_clear
        for seed in range(400)
    ]
    assert 0.02 < np.mean(clear) < 0.08


def test_a_rise_is_a_negative_decline():
    assert noise_of(curve(1 + 0.01 * np.arange(100))).decline == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (None, "there is no loss"),
        (curve([1.0] * 39), "needs 40 finite losses; there are 39"),
        (curve([1.0] * 30 + [None] * 30), "there are 30"),
        (curve([1.0] * 100, width=16), "not stored singly"),
    ],
)
def test_without_enough_single_losses_the_reason_is_given(shown, reason):
    assert reason in noise_of(shown)


def test_the_lowest_value_and_the_newest_one_skip_what_is_not_finite():
    found = curve([3.0, None, 1.0, 2.0, 1.0, None])
    assert lowest(found) == (1.0, 2, 2)
    assert newest(found) == (4, 1.0)
    assert lowest(curve([None])) is None
    assert newest(curve([])) is None
