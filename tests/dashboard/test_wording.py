"""Untrusted text is shown as text, and numbers are short."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainvitals.api.wording import number, percent
from trainvitals_dashboard.wording import (
    ago,
    bulleted,
    clean,
    duration,
    literal,
    plain,
    prose,
    shortened,
    table,
)

JOINER = "\u2060"


@given(st.text(alphabet=st.sampled_from("`*_[]()<>#!|~$&\\ab:1.")))
def test_every_sign_that_means_something_in_markdown_is_escaped(text):
    signs = iter(plain(text))
    for sign in signs:
        if sign == "\\":
            next(signs)
        else:
            assert sign not in "`*_[]()<>#!|~$&"


@given(st.text())
def test_the_escape_loses_no_visible_character(text):
    unescaped, escaped = "", False
    for character in plain(text):
        escaped = character == "\\" and not escaped
        unescaped += "" if escaped else character
    assert unescaped.replace(JOINER, "") == clean(text)


@pytest.mark.parametrize("address", ["http://evil.example", "a@evil.example", "www.evil.example"])
def test_an_address_is_broken_where_it_would_become_a_link(address):
    assert JOINER in plain(address)


def test_an_icon_by_name_stays_a_word():
    assert plain(":skull:") == f"\\:{JOINER}skull\\:"


@given(st.text(alphabet="`a |\\", min_size=1))
def test_a_name_cannot_close_its_code_span(name):
    span = literal(name)
    if span:
        fence = len(span) - len(span.lstrip("`"))
        inside = span[fence:-fence]
        assert "`" * fence not in inside
        assert inside.strip(" ") == clean(name).strip(" ")


def test_direction_overrides_and_control_characters_are_left_out():
    assert clean("a\u202eb\x1b[31m\x00c\nd") == "ab[31mc d"


def test_code_in_a_sentence_stays_code_and_the_rest_is_escaped():
    assert prose("Use `nn.ReLU` *now*.") == "Use `nn.ReLU` \\*now\\*\\."


def test_a_lone_backtick_opens_nothing():
    assert prose("a ` b") == "a \\` b"


def test_advice_is_a_list_and_each_item_is_escaped():
    assert bulleted("- Use `He`.\n- [x](y)") == "- Use `He`\\.\n- \\[x\\]\\(y\\)"


def test_the_cases_of_a_rule_are_a_numbered_list():
    text = "One of two: (1) The loss rises. (2) It is NaN, after 1/(1 - m) steps."
    assert bulleted(text).splitlines() == [
        "One of two\\:",
        "",
        "1. The loss rises\\.",
        "2. It is NaN, after 1\\/\\(1 \\- m\\) steps\\.",
    ]


@pytest.mark.parametrize("text", ["It ends early, and (1) a (2) b", "See: (2) a. (3) b", "(1) a"])
def test_numbers_in_a_sentence_and_a_single_case_are_no_list(text):
    assert bulleted(text) == prose(text)


def test_a_bar_in_a_name_does_not_end_a_cell():
    assert table(["a"], [[literal("x|y")]]).splitlines()[-1] == "| `x\\|y` |"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0.0, "0"),
        (12000.0, "12,000"),
        (9999.8, "10,000"),
        (0.34567, "0.346"),
        (2.5e-10, "2.5e−10"),
        (-3e-7, "−3e−7"),
        (1.234e12, "1.23e12"),
    ],
)
def test_a_number_is_short(value, text):
    assert number(value) == text


@given(st.floats())
def test_no_number_takes_more_than_nine_characters(value):
    assert len(number(value)) <= 10


def test_shares_and_times_have_their_units():
    assert (percent(0.012), percent(0.83), percent(None)) == ("1.2 %", "83 %", "–")
    assert (duration(0.42), duration(0.04), duration(0), duration(-1)) == (
        *("0.4 s", "0.04 s"),
        *("0 s", "0 s"),
    )
    assert (duration(3), duration(3700), duration(90_000)) == ("3 s", "1 h 1 min", "1 d 1 h")
    assert (ago(100, 101), ago(100, 130), ago(100, 8000)) == ("just now", "30 s ago", "2 h ago")


def test_a_long_name_keeps_both_ends():
    assert shortened("encoder.layers.11.weight", 13) == "encode…weight"
