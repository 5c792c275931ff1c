"""TV804: rare outliers in the targets are named, and heavy tails and learned peaks are not."""

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.target_outliers import TargetOutliers
from trainvitals.wire import Event, EventKind

STEPS = 400
MEASURED_EVERY = 12
SEEDS = range(20)


def normal_with_outliers(random, n):
    return random.normal(size=n) * np.where(random.random(n) < 0.005, 50.0, 1.0)


def added_offsets(random, n):
    return random.normal(size=n) + 60.0 * (random.random(n) < 0.004)


def normal(random, n):
    return random.normal(size=n)


def log_normal(random, n):
    return np.exp(random.normal(size=n))


def wide_log_normal(random, n):
    return np.exp(1.5 * random.normal(size=n))


def student_3(random, n):
    return random.standard_t(3, size=n)


def scaled_student_returns(random, n):
    return random.standard_t(4, size=n) * np.exp(0.5 * random.normal(size=n))


def losses_of_lengths(random, n):
    return random.gamma(2.0, size=n) * random.integers(1, 64, size=n) / 32


def rare_labels(random, n):
    return (random.random(n) < 0.01).astype(float)


def counts(random, n):
    return random.poisson(np.exp(random.normal(size=n) - 1)).astype(float)


def findings(draw, seed, batch=32, *, kind="MSELoss", learned_from=STEPS, rise=None):
    """Return the findings of a run whose prediction is 0, and right from step `learned_from` on.

    The loss is known at each step, the targets at every twelfth, as with the default cadence.
    `rise` multiplies the loss at its steps, without a change of the targets.
    """
    random = np.random.default_rng(seed)
    targets = draw(random, (STEPS, batch))
    loss = (targets**2).mean(1) * np.where(np.arange(STEPS) < learned_from, 1.0, 0.02)
    for step in rise or ():
        loss[step] *= 1000.0
    shown = np.where(np.arange(STEPS) % MEASURED_EVERY == 0, 1.0, np.nan)
    example = Example(STEPS).scalars(
        loss=loss,
        target_mean=shown * targets.mean(1),
        target_std=shown * targets.std(1),
        target_min=shown * targets.min(1),
        target_max=shown * targets.max(1),
    )
    shapes: dict[str, str | float] = {
        "target_shape": f"({batch}, 1)",
        "prediction_shape": f"({batch}, 1)",
    }
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, kind, shapes))
    return list(TargetOutliers().check(example.history))


@pytest.mark.parametrize("draw", [normal_with_outliers, added_offsets])
@pytest.mark.parametrize("batch", [16, 32, 64])
def test_half_a_percent_of_outliers_is_named_in_most_runs(draw, batch):
    # One or two of the 34 measured batches have an outlier at this size: some runs show none.
    found = sum(bool(findings(draw, seed, batch)) for seed in SEEDS)
    assert found >= 12


def test_the_summary_tells_how_many_steps_have_which_share_of_the_loss():
    [finding] = findings(added_offsets, 1, 16)
    assert finding.evidence[0].quantity == "share of the loss"
    assert finding.evidence[0].seen > 0.9
    assert f"of {STEPS} steps" in finding.summary
    assert finding.evidence[2].seen > 50


HEALTHY = [
    *(normal, log_normal, wide_log_normal, student_3, scaled_student_returns),
    *(losses_of_lengths, rare_labels, counts),
]


@pytest.mark.parametrize("draw", HEALTHY)
@pytest.mark.parametrize("batch", [16, 32, 128])
def test_a_heavy_tail_without_a_gap_is_no_outlier(draw, batch):
    assert [seed for seed in SEEDS if findings(draw, seed, batch)] == []


def test_outliers_that_the_model_learns_are_not_reported():
    for seed in SEEDS:
        assert not findings(added_offsets, seed, 16, learned_from=80)


def test_a_spike_of_the_loss_on_ordinary_targets_has_another_cause():
    for seed in SEEDS:
        assert not findings(normal_with_outliers, seed, 16, rise=[12 * 5, 12 * 9])


def test_an_absolute_loss_is_right_for_outliers():
    for seed in SEEDS:
        assert not findings(added_offsets, seed, 16, kind="L1Loss")
