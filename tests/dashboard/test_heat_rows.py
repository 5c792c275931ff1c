"""The rows and colours of the heat-map: blocks, filter, shades, ends of columns."""

import base64

import numpy as np
import pytest

from helpers.bundle import in_node

BLOCKS = [
    {"name": "embed", "sign": "", "places": [["weight", ""]]},
    {"name": "h.0", "sign": "error", "places": [["q.weight", "error"], ["k.weight", ""]]},
    {"name": "h.1", "sign": "", "places": [["q.weight", ""], ["k.weight", ""]]},
]


def rows(opened=(), text=""):
    found = in_node(
        "heatrows.js", "m.shownRows(b, new Set(o), f)", b=BLOCKS, o=list(opened), f=text
    )
    return [(row["full"], row["place"]) for row in found]


def test_a_closed_block_is_one_row_and_a_block_of_one_tensor_is_that_tensor():
    assert rows() == [("embed.weight", 0), ("h.0", None), ("h.1", None)]
    assert rows([2])[-2:] == [("h.1.q.weight", 3), ("h.1.k.weight", 4)]


def test_a_filter_finds_names_by_all_of_its_words_in_closed_blocks():
    assert rows(text="h.1 K") == [("h.1", None), ("h.1.k.weight", 4)]
    assert rows(text="weight q") == [
        ("h.0", None),
        ("h.0.q.weight", 1),
        ("h.1", None),
        ("h.1.q.weight", 3),
    ]
    assert rows(text="nothing") == []


def test_a_small_network_is_open_and_a_large_one_only_where_the_selected_tensor_is():
    def opened(blocks, here=None):
        return in_node("heatrows.js", "[...m.openAtFirst(b, h)]", b=blocks, h=here)

    assert opened(BLOCKS) == [0, 1, 2]
    large = [{"name": f"h.{i}", "sign": "", "places": [["w", ""]] * 20} for i in range(5)]
    assert opened(large) == []
    assert opened(large, 45) == [2]


@pytest.mark.parametrize(
    ("extremes", "log", "expected"),
    [
        ([1e-8, 1.0, 1e-8], True, {"kind": "log", "low": -8, "high": 0}),
        ([0.0, 1.0, 1e-2], True, {"kind": "log", "low": -2, "high": 0}),
        ([0.0, 4.0, 1e-2], False, {"kind": "linear", "low": 0, "high": 4}),
        ([-1.0, 3.0, 0.5], True, {"kind": "diverging", "low": -3, "high": 3}),
        ([2.0, 2.0, 2.0], False, {"kind": "linear", "low": 1.5, "high": 2.5}),
        ([0.0, 0.0, None], True, {"kind": "linear", "low": -0.5, "high": 0.5}),
        ([None, None, None], True, {"kind": "linear", "low": 0, "high": 1}),
    ],
)
def test_the_scale_fits_the_values(extremes, log, expected):
    assert in_node("heatrows.js", "m.scaleOf(e, l)", e=extremes, l=log) == expected


def test_shades_run_from_the_smallest_to_the_largest_value_and_zero_is_the_smallest():
    found = in_node(
        "heatrows.js",
        "[0, 1e-4, 1e-2, 1, 5].map((v) => m.shadeOf(v, m.scaleOf([0, 1, 1e-4], true)))",
    )
    assert found == [0, 0, 128, 255, 255]


def test_cells_are_decoded_with_nan_and_infinity():
    text = base64.b64encode(np.array([1.5, np.nan, np.inf], "<f4").tobytes()).decode()
    assert in_node("heatrows.js", "[...m.decode(t)].map(String)", t=text) == [
        "1.5",
        "NaN",
        "Infinity",
    ]


def test_a_column_reaches_to_the_next_one_but_not_over_a_gap():
    steps = [0, 10, 20, 200, 210]
    assert in_node("heatrows.js", "m.ends(s, s)", s=steps) == [10, 20, 30, 210, 220]


def test_the_column_of_a_step_is_the_one_that_contains_it():
    found = in_node("heatrows.js", "[-5, 0, 9, 10, 99].map((x) => m.columnAt([0, 10, 20], x))")
    assert found == [0, 0, 0, 1, 2]
    assert in_node("heatrows.js", "m.columnAt([], 3)") == -1
