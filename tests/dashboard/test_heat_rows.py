"""The rows and colours of the heat-map: blocks, filter, shades, ends of columns."""

import base64

import numpy as np
import pytest

from helpers.bundle import in_node

TREE = [
    ["embed.weight", ""],
    [
        "h",
        "error",
        [
            ["0", "error", [["attn", "", [["q", ""], ["k", ""], ["v", ""]]], ["mlp.up", "error"]]],
            ["1", "", [["attn", "", [["q", ""], ["k", ""], ["v", ""]]], ["mlp.up", ""]]],
        ],
    ],
]
"""As `Tree.described` returns it: h is group 0, h.0 group 1, h.0.attn group 2."""


def rows(opened=(), text=""):
    found = in_node(
        "heatrows.js", "m.shownRows(m.flat(t), new Set(o), f)", t=TREE, o=list(opened), f=text
    )
    return [(row["full"], row["id"], row["level"]) for row in found]


def test_a_row_is_shown_if_all_groups_around_it_are_open():
    assert rows() == [("embed.weight", "p0", 0), ("h", "g0", 0)]
    assert rows([1, 2]) == rows()
    assert rows([0, 1])[1:] == [
        ("h", "g0", 0),
        ("h.0", "g1", 1),
        ("h.0.attn", "g2", 2),
        ("h.0.mlp.up", "p4", 2),
        ("h.1", "g3", 1),
    ]
    assert ("h.0.attn.k", "p2", 3) in rows([0, 1, 2])


def test_a_group_says_how_many_places_it_has_and_whether_it_is_open():
    found = in_node("heatrows.js", "m.shownRows(m.flat(t), new Set([0]))", t=TREE)
    groups = [(r["full"], r["count"], r["open"]) for r in found if r["place"] is None]
    assert groups == [("h", 8, True), ("h.0", 4, False), ("h.1", 4, False)]


def test_a_filter_finds_names_by_all_of_its_words_and_keeps_the_groups_around_them():
    assert [full for full, *_ in rows(text="h.1 ATTN.k")] == ["h", "h.1", "h.1.attn", "h.1.attn.k"]
    assert [full for full, *_ in rows(text="up h.0")] == ["h", "h.0", "h.0.mlp.up"]
    assert rows(text="nothing") == []


@pytest.mark.parametrize(("count", "high"), [(0, 2), (20, 20), (26, 26), (27, 23.5), (9_000, 23.5)])
def test_rows_that_do_not_fit_are_cut_in_half_so_that_more_are_expected(count, high):
    assert in_node("heatrows.js", "m.rowsHigh(n, 24)", n=count) == high


def test_closing_a_group_closes_the_groups_inside_it():
    def after(opened, group):
        expression = "[...m.toggled(m.flat(t), new Set(o), g)]"
        return in_node("heatrows.js", expression, t=TREE, o=opened, g=group)

    assert after([0, 1, 2, 3], 1) == [0, 3]
    assert after([0], 3) == [0, 3]


def test_the_text_of_the_open_groups_names_the_innermost_ones():
    def text(opened):
        return in_node("heatrows.js", "m.openText(m.flat(t), new Set(o))", t=TREE, o=opened)

    assert text([]) == "none"
    assert text(list(range(5))) == "all"
    assert text([0]) == "h"
    assert text([0, 1, 2, 3]) == "h.0.attn,h.1"


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
