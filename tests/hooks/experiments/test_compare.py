"""A choice is the best only if a paired test over the seeds proves it."""

import random

import pytest

from trainvitals.experiments.compare import rows_of, threshold_of, verdict_of
from trainvitals.experiments.metrics import Metric
from trainvitals.experiments.result import HEADER, cells
from trainvitals.experiments.trial import Outcome

ACCURACY = Metric("accuracy", higher_is_better=True)
ERROR = Metric("median absolute error", higher_is_better=False)


def outcome(choice, seed, metric, **more):
    fields = {
        "first_loss": 2.0,
        "final_loss": None if metric is None else 0.5,
        "constant": 0.1,
        "bar": 0.19,
        "curve": (),
        "corrupted_metric": None,
        "calibration_error": None,
        "signal_ratio": 1.0,
        "signal": (("0", 1.0), ("2", 1.0)),
        "diagnosis": "",
    }
    return Outcome(choice=choice, seed=seed, metric=metric, **{**fields, **more})


def groups(metric=ACCURACY, **values):
    known = {} if metric is ACCURACY else {"constant": 10.0, "bar": 9.0}
    return {
        name: [outcome(name, seed, v, **known) for seed, v in enumerate(found)]
        for name, found in values.items()
    }


def judged(metric=ACCURACY, resolution=0.001, **values):
    found = groups(metric, **values)
    rows = rows_of(found, metric, threshold_of(found, metric))
    return verdict_of(found, rows, metric, resolution)


def test_a_clear_lead_at_every_seed_is_proven():
    verdict = judged(a=[0.90, 0.91, 0.92, 0.90], b=[0.80, 0.81, 0.80, 0.81])
    assert (verdict.best, verdict.tied) == ("a", ())
    assert "p = " in verdict.reason


def test_a_small_lead_at_every_seed_is_proven_because_the_test_is_paired():
    b = [0.5, 0.9, 0.7, 0.6, 0.8]
    lead = [0.020, 0.021, 0.019, 0.020, 0.022]
    assert judged(a=[x + d for x, d in zip(b, lead, strict=True)], b=b).best == "a"


def test_identical_choices_have_no_winner():
    same = [0.9, 0.8, 0.85]
    verdict = judged(a=same, b=same, c=[0.2, 0.2, 0.21])
    assert verdict.best is None
    assert verdict.tied == ("a", "b")
    assert "No proven winner" in verdict.reason


def test_a_lower_error_is_better():
    assert judged(ERROR, a=[1.0, 1.1, 1.0, 1.1], b=[3.0, 3.2, 3.1, 3.1]).best == "a"


def test_noise_gives_a_winner_in_fewer_than_one_of_twenty_cases():
    draws = random.Random(1)
    winners = 0
    for _ in range(400):
        values = {name: [draws.gauss(0.8, 0.02) for _ in range(5)] for name in "abcd"}
        winners += judged(**values).best is not None
    assert winners <= 20


def test_a_choice_that_diverges_at_one_seed_is_never_the_best():
    verdict = judged(a=[0.99, None, 0.99], b=[0.5, 0.51, 0.5])
    assert verdict.best != "a"


def test_nothing_learned_has_no_winner():
    verdict = judged(a=[0.1, 0.1], b=[0.11, 0.12])
    assert verdict.best is None
    assert verdict.reason == "No choice learned more than a constant prediction."


def test_a_row_has_the_mean_the_interval_and_the_most_frequent_headline():
    found = [
        outcome("a", s, v, corrupted_metric=v * 0.9, diagnosis=d, signal_ratio=r)
        for s, (v, d, r) in enumerate([(0.8, "TV1", 0.1), (0.82, "TV1", 10.0), (0.78, "TV2", 1.0)])
    ]
    [row] = rows_of({"a": found}, ACCURACY, None)
    assert row.metric == pytest.approx(0.8)
    assert (row.low + row.high) / 2 == pytest.approx(0.8)
    assert row.robustness == pytest.approx(-0.1)
    assert row.signal_ratio == pytest.approx(1.0)
    assert (row.diagnosis, row.learned) == ("TV1", True)


def test_steps_to_the_threshold_are_the_median_over_seeds():
    curves = [((10, 0.3), (20, 0.95)), ((10, 0.95), (20, 0.95)), ((10, 0.1), (20, 0.2))]
    found = {"a": [outcome("a", i, 0.9, curve=c) for i, c in enumerate(curves)]}
    threshold = threshold_of(found, ACCURACY)
    assert threshold == pytest.approx(0.1 + 0.9 * 0.8)
    assert rows_of(found, ACCURACY, threshold)[0].steps_to_threshold == 20


def test_an_interval_of_accuracies_ends_at_1():
    [row] = rows_of({"a": [outcome("a", s, v) for s, v in enumerate([0.99, 0.7])]}, ACCURACY, None)
    assert 0 <= row.low < row.metric < row.high == 1.0


def test_without_a_choice_that_learned_there_is_no_threshold():
    assert threshold_of(groups(a=[0.1, 0.12], b=[0.1, 0.1]), ACCURACY) is None


@pytest.mark.parametrize(("factor", "shown"), [(0.999, "0 %"), (0.9, "−10 %"), (1.05, "+5 %")])
def test_a_robustness_that_rounds_to_zero_has_no_sign(factor, shown):
    found = [outcome("a", s, 0.8, corrupted_metric=0.8 * factor) for s in range(3)]
    [row] = rows_of({"a": found}, ACCURACY, None)
    assert cells(row)[HEADER.index("robustness")] == shown
