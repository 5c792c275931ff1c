"""A heat map has one row per place or per block, its extremes, and the cells without a number."""

import numpy as np
import pytest

from helpers.batches import batch, frame
from helpers.collector import running_collector
from trainvitals.api.blocks import block_of, blocks_of
from trainvitals.wire import Layout, Place, Stat, Stream
from trainvitals_server.query.heatmaps import places_of, rows_of_places, slices_of

NAMES = ("embed.weight", "h.0.q.weight", "h.0.k.weight", "h.0.v.weight", "h.1.q.weight", "bias")
VALUES = np.array(
    [
        [1.0, 3.0, 5.0, 100.0, -2.0, 0.0],
        [1.0, np.inf, 5.0, 7.0, np.nan, 0.0],
    ],
    "f4",
)


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with running_collector(tmp_path_factory.mktemp("maps"), round_interval_s=3600) as running:
        places = tuple(Place(name, depth=i) for i, name in enumerate(NAMES))
        layout = Layout(Stream.WEIGHT, 0, (Stat.MEAN,), places)
        sent = batch(layout, frame(Stream.WEIGHT, [0, 10], VALUES[:, :, None]))
        assert running.send(sent).status_code == 200
        yield running


def heat(collector, **query):
    return collector.get("/api/v1/runs/r/heatmap", stream="weight", statistic="mean", **query)


def test_a_block_is_the_median_of_its_places_and_keeps_the_order_of_depth(collector):
    shown = heat(collector, by="block").json()
    assert shown["places"] == ["embed", "h.0", "h.1", ""]
    assert shown["values"] == [[1, 1], [5, 6], [-2, None], [0, 0]]


def test_a_cell_with_an_infinite_value_is_named_and_differs_from_one_without_a_measurement(
    collector,
):
    shown = heat(collector).json()
    assert shown["values"][1] == [3, None]
    assert shown["values"][4] == [-2, None]
    assert shown["nonfinite"] == [[], [1], [], [], [], []]
    assert heat(collector, by="block").json()["nonfinite"] == [[], [1], [], []]


def test_the_extremes_are_those_of_all_places_also_by_block(collector):
    for by in ("place", "block"):
        shown = heat(collector, by=by).json()
        assert (shown["low"], shown["high"], shown["least_positive"]) == (-2, 100, 1)


def test_only_the_places_that_are_asked_for_are_sent_in_their_order(collector):
    shown = heat(collector, place=["h.1.q.weight", "embed.weight"]).json()
    assert shown["places"] == ["h.1.q.weight", "embed.weight"]
    assert shown["values"] == [[-2, None], [1, 1]]
    assert (shown["steps"], shown["last_steps"]) == ([0, 10], [0, 10])


def test_a_name_with_a_dot_at_its_end_is_a_module_with_the_median_of_its_places(collector):
    shown = heat(collector, place=["h.", "h.0.", "h.0.k.weight", "h.0.k."]).json()
    assert shown["places"] == ["h.", "h.0.", "h.0.k.weight", "h.0.k."]
    assert shown["values"] == [[4, 6], [5, 6], [5, 5], [5, 5]]
    assert shown["nonfinite"] == [[1], [1], [], []]
    assert (shown["low"], shown["high"], shown["least_positive"]) == (-2, 100, 3)


def test_a_module_has_no_places_of_a_module_whose_name_begins_alike(collector):
    answer = heat(collector, place=["h.0.q.w."])
    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_series")


def test_rows_that_share_places_are_read_in_slices_of_a_bounded_number_of_places():
    every = [f"h.{i // 10}.w{i % 10}" for i in range(2_000)]
    asked = ["h.", *(f"h.{i}." for i in range(200)), "h.3.w1"]
    slices = slices_of(rows_of_places(asked, every))
    assert [row.name for rows in slices for row in rows] == asked
    assert [len(places_of(rows)) for rows in slices] == [2_000, 510, 510, 510, 471]


def test_an_unknown_place_and_too_many_places_are_refused(collector):
    answer = heat(collector, place=["nowhere"])
    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_series")
    assert heat(collector, place=["embed.weight"] * 201).status_code == 422
    assert heat(collector, by="layer").status_code == 422


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("encoder.layers.3.attention.q.weight", "encoder.layers.3"),
        ("layer1.0.conv1.weight", "layer1.0"),
        ("stages.1.0.norm.bias", "stages.1.0"),
        ("fc.weight", "fc"),
        ("model.norm.weight", "model"),
        ("lstm.weight_ih_l0_reverse", "lstm"),
        ("weight", ""),
        ("0.weight", "0"),
        ("encoder.3", "encoder.3"),
    ],
)
def test_a_block_is_the_module_up_to_its_first_number(name, block):
    assert block_of(name) == block


def test_blocks_keep_their_order_and_each_name_is_in_one_block():
    assert blocks_of(["b.0.w", "a.w", "b.0.v", "b.1.w"]) == {
        "b.0": ["b.0.w", "b.0.v"],
        "a": ["a.w"],
        "b.1": ["b.1.w"],
    }
