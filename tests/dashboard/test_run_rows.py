"""The rows of the table of runs: order, curves, and messages with what changed only."""

import json
import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.bundle import in_node
from helpers.fake_runs import healthy_run, run_of, spiking_run, vanishing_run
from trainvitals.api.schema import Run
from trainvitals_dashboard.parts.run_rows import (
    LEVELS,
    ORDERS,
    Filters,
    ordered,
    runs_message,
    spark_text,
)


def run(fake, **fields):
    return msgspec.convert({**run_of(fake), **fields}, Run)


def message(runs, sent=None, sort="", limit=100):
    return runs_message(runs, sort, limit=limit, now=0.0, shape=("all", sort), sent=sent)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.none() | st.floats(), max_size=30))
def test_a_curve_of_any_numbers_has_one_known_letter_per_value(values):
    text = spark_text(values)
    finite = [v is not None and math.isfinite(v) for v in values]
    assert len(text) == (len(values) if any(finite) else 0)
    assert all((letter != ".") == known for letter, known in zip(text, finite, strict=False))
    assert set(text) <= {*LEVELS, "."}


def test_a_curve_falls_where_the_loss_falls_and_has_a_gap_where_it_is_missing():
    text = spark_text([3.0, 2.0, None, 1.0])
    assert (text[0], text[2], text[3]) == (LEVELS[-1], ".", LEVELS[0])
    assert LEVELS.index(text[1]) in (31, 32)


def test_the_browser_draws_a_curve_inside_its_box_and_breaks_it_at_a_gap():
    drawn = in_node("runtext.js", "m.spark(text, 112, 26, 3)", text="/A.A/")
    assert drawn["paths"] == ["M3.0 3.0L29.5 23.0", "M82.5 23.0L109.0 3.0"]
    assert drawn["end"] == [109, 3]


def test_counts_of_zero_are_left_out_and_have_words():
    assert in_node("runtext.js", "m.counts(1, 0, 2)") == [
        ["error", "✖ 1", "1 error"],
        ["info", "● 2", "2 notes"],
    ]


def test_a_continuation_has_only_what_changed_and_is_small():
    going, ended = spiking_run(), healthy_run()
    first = message([run(going), run(ended)])
    going.step = 408
    second = message([run(going), run(ended)], first)
    [row] = second.message["rows"]
    assert row["id"] == "gpt-small"
    assert "name" not in row
    assert row["step"].startswith("step 408")
    assert second.message["base"] == first.message["seq"]
    assert len(json.dumps(second.message)) < 400


def test_without_news_the_message_is_the_same():
    runs = [run(healthy_run())]
    first = message(runs)
    assert message(runs, first) is first


def test_an_update_of_many_runs_is_small_and_all_changes_arrive_within_some_updates():
    runs = [run(healthy_run(f"run-{i}")) for i in range(60)]
    sent = message(runs)
    later = [run(healthy_run(f"run-{i}", step=390)) for i in range(60)]
    arrived = set()
    for _ in range(12):
        sent = message(later, sent)
        assert len(json.dumps(sent.message)) <= 2_000
        arrived |= {row["id"] for row in sent.message["rows"]}
    assert len(arrived) == 60
    assert message(later, sent) is sent


def test_a_new_run_is_put_into_its_place():
    old = run(healthy_run("old"))
    first = message([old])
    second = message([run(healthy_run("new")), old], first)
    assert second.message["order"] == ["new", "old"]
    assert [row["id"] for row in second.message["rows"]] == ["new"]


def test_another_order_sends_everything_anew():
    runs = [run(healthy_run("b")), run(vanishing_run("a"))]
    again = runs_message(
        runs, "name", limit=100, now=0.0, shape=("all", "name"), sent=message(runs)
    )
    assert again.message["base"] is None
    assert again.message["order"] == ["a", "b"]


def test_an_unknown_value_is_last():
    unknown = run(healthy_run("unknown"), loss=None, step_rate=None)
    known = run(healthy_run("known"))
    for order in ("loss", "rate"):
        assert [r.id for r in ordered([unknown, known], order)] == ["known", "unknown"]


def test_the_table_offers_every_order_and_no_other():
    offered = in_node("runcolumns.js", "m.ORDERS.map(([name]) => name)")
    assert offered == ["", *ORDERS]


def test_a_search_finds_a_part_of_a_name_in_any_case():
    assert Filters(search="RESNET").fits(run(healthy_run()))
    assert not Filters(search="resnet", state="running").fits(run(healthy_run()))
