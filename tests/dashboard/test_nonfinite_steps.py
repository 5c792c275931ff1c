"""A curve shows the steps at which the loss was NaN, also where nothing else was recorded."""

from trainvitals.api.schema import Curve
from trainvitals_dashboard.figures.charts import points
from trainvitals_dashboard.figures.nonfinite import with_nonfinite


def curve(place, steps, values, *, width=1, count=1):
    values = [float(v) for v in values]
    return Curve(
        place,
        step=steps,
        last_step=[s + width - 1 for s in steps],
        min=values,
        mean=values,
        max=values,
        last=values,
        nonfinite=[0] * len(steps),
        count=[count] * len(steps),
    )


def test_a_step_without_a_finite_loss_is_one_that_is_not_finite():
    loss = curve("loss", [0, 1, 3], [2, 1, 1])
    counts = curve("nonfinite_loss", [0, 1, 2, 3], [0, 0, 1, 0])
    made = with_nonfinite(loss, counts)
    assert (made.step, made.mean) == ([0, 1, 2, 3], [2, 1, None, 1])
    assert (made.nonfinite, made.count) == ([0, 0, 1, 0], [1, 1, 0, 1])
    assert made.last_step == [0, 1, 2, 3]
    assert points(made)["bad"] == [0, 0, 1, 0]


def test_a_bucket_with_some_such_steps_counts_them():
    loss = curve("loss", [0, 8], [2, 1], width=8, count=7)
    counts = curve("nonfinite_loss", [0, 8], [0, 0.25], width=8, count=8)
    assert with_nonfinite(loss, counts).nonfinite == [0, 2]


def test_a_loss_that_was_never_finite_has_its_steps():
    made = with_nonfinite(Curve("loss"), curve("nonfinite_loss", [0, 1], [1, 1]))
    assert (made.step, made.mean, made.nonfinite) == ([0, 1], [None, None], [1, 1])
    assert points(made)["mean"] == [None, None]


def test_a_curve_that_was_always_finite_stays_as_it_is():
    loss = curve("loss", [0, 1], [2, 1])
    assert with_nonfinite(loss, curve("nonfinite_loss", [0, 1], [0, 0])) == loss
