"""A table that is refreshed has small updates; the browser sorts it and saves it as CSV."""

import json

import pytest

from helpers.bundle import in_node
from trainvitals_dashboard.figures.tables import table_message

COLUMNS = [{"title": "bias", "kind": "text"}, {"title": "drift", "kind": "number"}]
SENT_AS = [*COLUMNS, {"title": "curve", "kind": "curve"}]


def rows(count, value):
    return [(f"encoder.{i}.self_attention.bias", f"{value + i}", "a" * 48) for i in range(count)]


@pytest.mark.parametrize("count", [1, 30, 2_000])
def test_an_update_is_small_at_any_number_of_rows(count):
    sent = table_message("Biases", SENT_AS, rows(count, 0), None)
    number = sent.message["seq"]
    sent = table_message("Biases", SENT_AS, rows(count, 5), sent)
    assert sent.message["base"] == number
    assert len(json.dumps(sent.message)) <= 1_400


def test_all_changed_rows_arrive_within_some_updates():
    sent = table_message("Biases", SENT_AS, rows(40, 0), None)
    have = {i: row[1] for i, row in enumerate(sent.message["rows"])}
    for _ in range(10):
        sent = table_message("Biases", SENT_AS, rows(40, 5), sent)
        have |= {i: row[1] for i, row in sent.message.get("changed", {}).items()}
    assert have == {i: str(5 + i) for i in range(40)}


def test_without_a_change_the_same_message_is_sent_and_a_new_row_makes_a_whole_one():
    sent = table_message("Biases", SENT_AS, rows(3, 0), None)
    number = sent.message["seq"]
    assert table_message("Biases", SENT_AS, rows(3, 0)[::-1], sent).message["seq"] == number
    assert table_message("Biases", SENT_AS, rows(4, 0), sent).message["base"] is None


def test_numbers_are_sorted_as_numbers_and_missing_ones_are_last():
    given = [["a", "12,000"], ["b", "–"], ["c", "−2.5e−10"], ["d", ["0.5", 0.3]]]
    for way, names in ((1, "cdab"), (-1, "adcb")):
        found = in_node("tablerows.js", "m.sorted(r, 1, w)", r=given, w=way)
        assert "".join(row[0] for row in found) == names


def test_csv_has_plain_numbers_quoted_texts_and_no_formulas():
    given = [['=cmd("x")', "12,000", "abc"], ["a,b", "–", ""]]
    made = in_node("tablerows.js", "m.csvOf(c, r)", c=SENT_AS, r=given)
    assert made == '"bias","drift"\r\n"\'=cmd(""x"")",12000\r\n"a,b","–"\r\n'
