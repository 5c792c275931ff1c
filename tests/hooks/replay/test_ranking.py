"""The ranking: what is not finite first, then the largest share."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainvitals.replay.ranking import Sample, ranked, shares


def sample(index, loss=1.0, gradient=1.0, rms=1.0, nonfinite_in=""):
    return Sample(
        index=index,
        row=index,
        loss=loss,
        gradient_norm=gradient,
        input_rms=rms,
        nonfinite_in=nonfinite_in,
    )


def order(*samples, places=("input", "target", "a", "b")):
    return [s.index for s in ranked(samples, places)]


def test_what_is_not_finite_earlier_in_the_forward_pass_is_first():
    samples = (
        sample(0, loss=1e9),
        sample(1, nonfinite_in="gradient"),
        sample(2, nonfinite_in="b"),
        sample(3, nonfinite_in="loss"),
        sample(4, nonfinite_in="input"),
        sample(5, nonfinite_in="a"),
    )
    assert order(*samples) == [4, 5, 2, 3, 1, 0]


@pytest.mark.parametrize("quantity", ["loss", "gradient", "rms"])
def test_the_largest_share_of_any_quantity_is_first(quantity):
    samples = [sample(i) for i in range(8)]
    assert order(*samples, sample(8, **{quantity: 30.0}))[0] == 8


def test_the_reason_and_the_share_are_those_of_the_quantity():
    [first, *_] = ranked([sample(0), sample(1, gradient=3.0)], [])
    assert (first.index, first.reason, first.share) == (1, "gradient_norm", 0.75)


def test_a_negative_loss_does_not_make_shares_negative():
    assert shares(np.array([-2.0, -1.0, 1.0])).tolist() == [0.0, 0.25, 0.75]


def test_equal_zeros_have_no_share():
    assert shares(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(-1e300, 1e300) | st.sampled_from([math.nan, math.inf]), min_size=1))
def test_shares_are_between_0_and_1(values):
    with np.errstate(over="ignore", invalid="ignore"):
        found = shares(np.array(values))
    assert ((found >= 0) & (found <= 1)).all()
