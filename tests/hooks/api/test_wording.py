"""Numbers as text: no negative zero, and a sign where a change is meant."""

import pytest

from trainvitals.api.schema import Initialiser
from trainvitals.api.wording import change_percent, initialiser_text, number, percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((-0.0, "0 %"), (-0.0004, "0.0 %"), (0.0004, "0.0 %"), (0.008, "0.8 %")),
        *((-0.12, "−12 %"), (None, "–"), (float("nan"), "–")),
    ],
)
def test_a_share_is_never_minus_zero(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((-0.004, "0 %"), (0.004, "0 %"), (-0.0, "0 %"), (0.03, "+3 %"), (-0.12, "−12 %")),
        *((12.0, "+1,200 %"), (None, "–")),
    ],
)
def test_a_change_has_a_sign_unless_it_is_zero(share, text):
    assert change_percent(share) == text


def test_a_zero_has_no_sign():
    assert number(-0.0) == "0"
    constant = Initialiser(name="constant", parameters={"value": -0.0})
    assert initialiser_text(constant) == "constant (value 0)"
