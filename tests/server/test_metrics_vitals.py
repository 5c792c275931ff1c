"""What Prometheus shows of a run is the newest measured value, and never one that is not true."""

import math

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.metrics.vitals import LABELS_MAX, vitals_of
from trainvitals.wire import Place, Stat, Stream

NAN = float("nan")


def run(steps=10, **scalars):
    return Example(steps).scalars(**scalars).history


def test_it_shows_the_newest_loss_of_each_split():
    vitals = vitals_of(run(3, loss=[3.0, 2.0, 1.0], loss__validation=[NAN, 1.5, NAN]))
    assert vitals.loss == {"training": 1.0, "validation": 1.5}


def test_a_loss_that_is_not_a_number_is_not_hidden_behind_the_last_good_one():
    vitals = vitals_of(run(3, loss=[3.0, 2.0, NAN], nonfinite_loss=[0, 0, 1]))
    assert math.isnan(vitals.loss["training"])


def test_an_infinite_gradient_norm_is_shown_as_infinite():
    vitals = vitals_of(run(2, gradient_norm=[1.0, np.inf], nonfinite_gradients=[0, 2]))
    assert vitals.gradient_norm == math.inf


def test_a_value_measured_more_than_five_minutes_of_steps_ago_is_absent():
    # 1 s a step: the validation loss of step 50 is 349 s old at step 399, that of step 150 249 s.
    old, recent = np.full(400, NAN), np.full(400, NAN)
    old[50], recent[150] = 1.0, 1.0
    vitals = vitals_of(run(400, step_time_s=1.0, loss__old=old, loss__recent=recent))
    assert vitals.loss == {"recent": 1.0}


def test_a_run_that_measured_nothing_shows_nothing():
    vitals = vitals_of(History())
    assert (vitals.step, vitals.loss, vitals.gradient_norm, vitals.step_time_s) == (
        -1,
        {},
        None,
        None,
    )


def test_only_the_chosen_scalars_of_the_user_are_shown():
    history = run(2, log__accuracy=[0.1, 0.2], log__eval_f1=[0.3, 0.4], log__private=[1, 1])
    assert vitals_of(history).scalars == {}
    chosen = vitals_of(history, None, ("accuracy", "eval_*")).scalars
    assert chosen == pytest.approx({"accuracy": 0.2, "eval_f1": 0.4})


def test_skipped_updates_are_counted_over_rounds_and_absent_without_a_scaler():
    first = vitals_of(run(3, skipped_step=[1, 0, 1]))
    assert first.skipped == 2
    assert vitals_of(run(5, skipped_step=[1, 0, 1, 1, 0]), first).skipped == 3
    assert vitals_of(run(3, loss=[1, 1, 1])).skipped is None


def test_the_update_ratio_is_the_median_over_weights_not_biases():
    places = [Place("a", kind="weight"), Place("b", kind="weight"), Place("c", kind="bias")]
    columns = {n: {Stat.RATIO: v} for n, v in (("a", 1e-3), ("b", 3e-3), ("c", 1.0))}
    history = Example(5).stream(Stream.UPDATE, places, columns).history
    assert vitals_of(history).update_ratio == pytest.approx(2e-3)


def test_a_step_that_hung_once_does_not_change_the_step_duration():
    vitals = vitals_of(run(40, step_time_s=[0.1] * 39 + [60.0]))
    assert vitals.step_time_s == pytest.approx(0.1)


def test_learning_rates_come_by_group_and_not_more_than_a_few():
    groups = {f"learning_rate__{i}": 0.1 * (i + 1) for i in range(20)}
    rates = vitals_of(run(2, **groups)).learning_rate
    assert rates["1"] == pytest.approx(0.2)
    assert len(rates) == LABELS_MAX


def test_non_finite_values_add_up_over_rounds_and_each_step_counts_once():
    losses = [0, 1, 2, 0, 0, 4]
    first = vitals_of(run(4, nonfinite_loss=losses[:4], nonfinite_gradients=[0, 0, 7, 0]))
    again = vitals_of(run(4, nonfinite_loss=losses[:4], nonfinite_gradients=[0, 0, 7, 0]), first)
    second = vitals_of(run(6, nonfinite_loss=losses), again)
    assert first.nonfinite == again.nonfinite == {"loss": 3, "gradient": 7}
    assert second.nonfinite == {"loss": 7, "gradient": 7}
