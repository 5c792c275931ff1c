"""What is sent to the chart board: all points once, then only news."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainvitals.api.schema import Curve, Dropped, Finding
from trainvitals_dashboard.figures.charts import Chart, meta, over_layers, over_steps, points
from trainvitals_dashboard.figures.curves import Line, Marks, StepRange
from trainvitals_dashboard.figures.updates import ChartPlan, message_of

ALL = StepRange()


def curve(place, first, last, buckets=10_000, values=math.sin):
    """A curve of every step from `first` to `last` in at most `buckets` buckets."""
    size = max(1, math.ceil((last - first + 1) / buckets))
    starts = list(range(first, last + 1, size))
    ends = [min(start + size - 1, last) for start in starts]
    inside = [[values(s) for s in range(a, b + 1)] for a, b in zip(starts, ends, strict=True)]
    return Curve(
        place,
        starts,
        ends,
        [min(v) for v in inside],
        [sum(v) / len(v) for v in inside],
        [max(v) for v in inside],
        [v[-1] for v in inside],
        [0] * len(starts),
        [len(v) for v in inside],
    )


class Run:
    """A run whose loss and rate grow, and what was requested of it."""

    def __init__(self, step, places=("loss", "loss/validation")):
        self.step, self.places, self.requests = step, places, []

    def plans(self, marks=None):
        def request(first, last, wanted):
            self.requests.append((first, last, wanted))
            end = self.step if last is None else min(last, self.step)
            return [Line(p, curve(p, first or 0, end, wanted)) for p in self.places]

        return [ChartPlan(Chart("a", "Loss", marks or Marks()), request)]

    def message(self, sent=None, shown=ALL, marks=None):
        return message_of(self.plans(marks), self.step, shown, sent)


def finding(**fields):
    base = {"rule": "r", "code": "TV1", "severity": "error", "since_step": 3, "summary": ""}
    return Finding(**{**base, **fields})


def described(lines, **fields):
    return over_steps(Chart("a", "Loss", **fields), lines, 1000)


def test_the_first_message_has_all_points_and_the_next_one_only_those_after_the_last_step():
    run = Run(999)
    sent = run.message()
    assert sent.message["base"] is None
    assert len(sent.message["charts"][0]["series"]) == 2
    number, run.step = sent.message["seq"], 1010
    news = run.message(sent).message
    assert news["base"] == number
    assert news["charts"][0]["points"]["loss"]["step"] == list(range(1000, 1011))
    assert "series" not in news["charts"][0]


@pytest.mark.parametrize("steps", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("curves", [1, 4, 18])
def test_a_live_update_has_at_most_4_kb_at_any_length_of_the_run(steps, curves):
    run = Run(steps, [f"curve/{i}" for i in range(curves)])
    sent = run.message()
    run.step += 5_000
    news = json.dumps(run.message(sent).message)
    assert len(news) <= 4096
    assert run.requests[-1][:2] == (steps + 1, None)


def test_a_spike_is_in_an_update_of_many_steps():
    run = Run(99)
    sent = run.message()
    spiky = curve("loss", 100, 10_000, 24, lambda s: 1e6 if s == 777 else 1.0)
    quiet = curve("loss/validation", 100, 10_000, 24)
    plan = ChartPlan(run.plans()[0].chart, lambda *_: [Line("loss", spiky), Line("v", quiet)])
    news = message_of([plan], 10_000, ALL, sent).message
    assert max(news["charts"][0]["points"]["loss"]["max"]) == 1e6


def test_without_news_the_same_message_is_sent_again():
    run = Run(50)
    sent = run.message()
    number = sent.message["seq"]
    assert run.message(sent).message["seq"] == number


def test_a_curve_that_the_browser_does_not_know_makes_a_whole_message():
    run = Run(50, ("loss",))
    sent = run.message()
    run.places, run.step = ("loss", "loss/validation"), 60
    assert run.message(sent).message["base"] is None


def test_another_range_makes_a_whole_message_of_that_range():
    run = Run(5000)
    sent = run.message()
    news = run.message(sent, StepRange(100, 200)).message
    assert news["base"] is None
    assert news["range"] == [100, 200]
    assert run.requests[-1][:2] == (100, 200)


def test_a_new_finding_is_news_without_new_points():
    run = Run(50)
    sent = run.message()
    news = run.message(sent, marks=Marks([finding()])).message
    assert news["charts"][0]["meta"]["marks"][0]["text"] == "✖ TV1"
    assert news["charts"][0]["points"] == {}


def test_a_float32_value_has_its_own_digits_only():
    constant = curve("lr", 0, 3, values=lambda _: 0.009999999776482582)
    assert described([Line("lr", constant)])["series"][0]["points"]["mean"] == [0.01] * 4


def test_columns_that_follow_from_others_are_not_sent():
    assert set(points(curve("a", 0, 9))) == {"step", "mean"}
    assert set(points(curve("a", 0, 99, 10))) == {"step", "last", "mean", "min", "max", "count"}


def test_values_that_are_not_finite_are_counted_per_bucket():
    holed = Curve("a", [0, 1], [0, 1], [1, None], [1, None], [1, None], [1, None], [0, 2], [1, 0])
    made = points(holed)
    assert (made["mean"], made["bad"]) == ([1, None], [0, 2])


def test_findings_that_begin_together_share_a_mark_of_the_worst_severity():
    both = [finding(code="TV2", severity="info", since_step=4), finding()]
    [mark] = meta(Chart("a", "Loss", Marks(both)), 1000)["marks"]
    assert mark == {"step": 3, "text": "✖ TV1 TV2", "severity": "error"}


def test_a_mark_names_the_worst_finding_first_and_begins_at_the_earliest():
    both = [finding(code="TV2", severity="info", since_step=2), finding()]
    [mark] = meta(Chart("a", "Loss", Marks(both)), 1000)["marks"]
    assert (mark["step"], mark["text"]) == (2, "✖ TV1 TV2")


def test_lost_records_and_a_limit_are_described():
    lost = Dropped(4, 6, "scalar", "queue_full", 3)
    made = meta(Chart("a", "Share", Marks((), [lost], 0.9, "above 90 %")), 10)
    assert made["dropped"] == [{"first": 4, "last": 6, "text": "lost: queue full"}]
    assert made["limit"] == {"value": 0.9, "text": "above 90 %"}


def test_an_axis_is_logarithmic_for_positive_values_over_decades_unless_it_must_not():
    steep = [Line("loss", curve("loss", 0, 9, values=lambda s: 10.0**-s))]
    assert described(steep)["log"]
    assert not described(steep, log_allowed=False)["log"]
    assert not described([Line("loss", curve("loss", 0, 9))])["log"]


def test_the_layer_of_a_finding_is_marked_and_missing_layers_are_left_out():
    made = over_layers(
        Chart("a", "Gradient"), {"S": {"a": 1e-9, "b": 1e-3, "c": 1.0}, "M": {"c": 2.0}}, here="b"
    )
    assert (made["here"], made["log"]) == (1, True)
    assert made["series"][1]["points"] == {"step": [2], "mean": [2.0]}


# The first example loads pandas.
@settings(deadline=None, max_examples=80)
@given(st.lists(st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_values_make_valid_json(values):
    n = len(values)
    shown = Curve("x", list(range(n)), list(range(n)), *[values] * 4, [0] * n, [1] * n)
    text = json.dumps(described([Line("x", shown)]), allow_nan=False)
    sent = json.loads(text)["series"][0]["points"]
    assert sent["step"] == list(range(n))
    assert sent["mean"] == [v if v is None else pytest.approx(v, rel=1e-3) for v in values]
