"""What is sent to the heat-map: the tree, the visible rows, then only new columns."""

import base64
import json
import statistics

import numpy as np
import pytest

from trainvitals.api.blocks import blocks_of
from trainvitals.api.schema import Heatmap
from trainvitals_dashboard.figures.curves import StepRange
from trainvitals_dashboard.figures.heat import (
    COLUMNS_MAX,
    FIRST_ROWS,
    HeatRows,
    Opened,
    cells_of,
    heat_message,
)

ALL = StepRange()


class Run:
    """A run whose tensors grow by 1 at each step, and what was requested of it."""

    def __init__(self, step, tensors):
        self.step, self.requests = step, []
        self.names = [f"h.{i // 10}.w{i % 10}" for i in range(tensors)]

    def ask(self, places, first, last, columns):
        self.requests.append((places, first, last, columns))
        steps = list(range(first or 0, last + 1))
        size = -(-len(steps) // columns) if steps else 1
        buckets = [steps[i : i + size] for i in range(0, len(steps), size)]

        def row(name):
            return [1.0 + self.names.index(name) + bucket[0] for bucket in buckets]

        def group(module):
            members = [row(name) for name in self.names if name.startswith(module)]
            return [statistics.median(c) for c in zip(*members, strict=True)]

        if places is None:
            rows = {
                block: [statistics.median(c) for c in zip(*map(row, members), strict=True)]
                for block, members in blocks_of(self.names).items()
            }
        else:
            rows = {name: row(name) if name in self.names else group(name) for name in places}
        return Heatmap(
            "weight",
            "l2",
            list(rows),
            [b[0] for b in buckets],
            list(rows.values()),
            [b[-1] for b in buckets],
            [[] for _ in rows],
            1.0,
            float(self.step + len(self.names)),
            1.0,
        )

    def message(self, sent=None, visible=(), shown=ALL, here="", signs=None, opened=None):
        rows = HeatRows.of("weight L2", self.names, signs or {})
        return heat_message(
            rows,
            self.ask,
            newest=self.step,
            shown=shown,
            visible=visible,
            here=here,
            sent=sent,
            opened=opened or Opened(),
        )


def chart(sent):
    [found] = sent.message["charts"]
    return found


def cells(points, columns):
    values = np.frombuffer(base64.b64decode(points["cells"]), "<f4")
    return dict(zip(points["ids"], values.reshape(len(points["ids"]), columns), strict=True))


def test_a_small_network_is_sent_whole():
    run = Run(9, 20)
    sent = run.message()
    points = chart(sent)["points"]
    rows = cells(points, 10)
    assert set(rows) == {"g0", "g1", "g2", *(f"p{i}" for i in range(20))}
    assert rows["p3"].tolist() == [4.0 + s for s in range(10)]
    assert rows["g2"].tolist() == [15.5 + s for s in range(10)]


def test_of_2_000_tensors_only_the_first_and_the_visible_rows_are_requested_and_sent():
    run = Run(999, 2_000)
    sent = run.message()
    assert [places for places, *_ in run.requests] == [None]
    ids = chart(sent)["points"]["ids"]
    assert ids == [f"g{i}" for i in range(1, FIRST_ROWS)]  # the blocks; h has all places
    assert cells(chart(sent)["points"], 200)["g2"][0] == 15.5
    assert len(json.dumps(sent.message)) < 150_000
    run.requests.clear()
    after = run.message(sent, visible=["p40", "p41"])
    assert [places for places, *_ in run.requests] == [["h.4.w0", "h.4.w1"]]
    assert after.message["base"] is not None
    assert list(cells(chart(after)["points"], 200)) == ["p40", "p41"]
    run.requests.clear()
    again = run.message(after, visible=["p40", "p41"])
    assert again.message["charts"] == []


def test_a_live_update_is_small_and_has_only_new_columns_at_any_length_of_the_run():
    for step in (500, 5_000, 50_000):
        run = Run(step, 304)
        visible = [f"p{i}" for i in range(30)]
        sent = run.message(visible=visible)
        run.step += 40
        sent = run.message(sent, visible=visible)
        points = chart(sent)["points"]
        assert points["steps"][0] == step + 1
        assert points["last"][-1] == step + 40
        assert len(json.dumps(sent.message)) <= 4096
        assert list(cells(points, len(points["steps"])))[-1] == "p29"


def test_after_many_updates_all_columns_are_sent_anew():
    run = Run(100, 10)
    sent = run.message()
    columns, whole = 101, 0
    for _ in range(60):
        run.step += 10
        sent = run.message(sent)
        whole += sent.message["base"] is None
        steps = chart(sent)["points"]["steps"]
        columns = len(steps) if sent.message["base"] is None else columns + len(steps)
        assert columns <= COLUMNS_MAX
    assert whole == 2  # 101 columns + 30 updates, then 137 columns + 26 updates


def test_a_tensor_that_becomes_visible_after_live_updates_has_the_columns_of_the_others():
    run = Run(100, 304)
    sent = run.message(visible=["p0"])
    run.step = 140
    sent = run.message(sent, visible=["p0"])
    sent = run.message(sent, visible=["p0", "p1"])
    points = chart(sent)["points"]
    assert sent.message["base"] is None
    rows = cells(points, len(points["steps"]))
    assert list(rows) == ["p0", "p1"]


@pytest.mark.parametrize(
    "changed",
    [{"shown": StepRange(5, 50)}, {"signs": {"h.0.w1": "error"}}],
)
def test_another_range_or_other_findings_need_everything_again(changed):
    run = Run(100, 20)
    sent = run.message()
    assert run.message(sent, **changed).message["base"] is None


def test_an_id_that_names_no_row_is_left_out():
    run = Run(100, 304)
    sent = run.message(visible=["p-1", "g10000", "p3"])
    assert chart(sent)["points"]["ids"] == ["p3"]


def test_the_groups_around_the_selected_tensor_are_open_and_its_rows_are_sent_at_once():
    run = Run(100, 304)
    heat = chart(run.message(here="h.5.w2"))
    assert heat["here"] == 52
    assert heat["open"] == [0, 6]
    assert {f"p{i}" for i in range(50, 60)} < set(heat["points"]["ids"])


def test_what_is_open_and_the_filter_come_from_the_url_and_do_not_need_everything_again():
    run = Run(100, 304)
    sent = run.message(opened=Opened("h.3", "w2"))
    heat = chart(sent)
    assert (heat["open"], heat["given"], heat["filter"]) == ([0, 4], True, "w2")
    assert run.message(sent, opened=Opened("none")).message["base"] is not None


def test_cells_that_are_not_finite_and_cells_without_a_measurement_differ():
    data = Heatmap("w", "l2", ["a", "b"], [0, 1], [[1.0, None], [None, 2.0]], [0, 1], [[1], []])
    found = cells_of(data, ["b", "a", "c"])
    np.testing.assert_array_equal(found, [[np.nan, 2], [1, np.inf], [np.nan, np.nan]])
