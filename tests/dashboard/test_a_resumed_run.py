"""A run that was resumed has one axis of steps: each step once, and a mark at each resume."""

import time

import pytest

from helpers.batches import batch, scalar_frame, scalars, start
from helpers.board import axis_ends, pixel, plot
from helpers.chromium import chromium, visit
from helpers.collector import running_collector
from helpers.dashboards import dashboard
from trainvitals.api.schema import Event as SeenEvent
from trainvitals.wire import Event, EventKind
from trainvitals_dashboard.figures.charts import Chart, meta
from trainvitals_dashboard.figures.curves import Marks, resumes

LOSS = "curve-loss"


def attempt(source, first, end, value, at):
    """Return the first batch of a process that makes the steps from `first` to before `end`."""
    steps = range(first, end)
    resumed = [Event(first, at, EventKind.RESUMED)] if first else []
    records = (start(started_at=at), *resumed, scalars("loss"))
    frame = scalar_frame(steps, [value] * len(steps))
    return batch(*records, frame, run="long", source=source * 16)


def events(*steps):
    return [SeenEvent(step, 0.0, "resumed") for step in steps]


@pytest.mark.parametrize(
    ("steps", "kept"), [((), ()), ((60,), (60,)), ((60, 90), (60, 90)), ((60, 90, 70), (60, 70))]
)
def test_a_resume_before_an_older_one_takes_its_mark_away(steps, kept):
    assert resumes(events(*steps)) == kept


def test_other_events_are_no_resumes():
    assert resumes([SeenEvent(5, 0.0, "checkpoint")]) == ()


def test_a_chart_has_a_mark_at_the_first_step_of_an_attempt():
    marks = meta(Chart("loss", "Loss", Marks(resumed=(60,))), 120)["marks"]
    assert marks == [{"step": 60, "text": "↻ resumed", "severity": ""}]


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_an_open_page_takes_the_steps_of_the_new_attempt_for_those_it_replaces(tmp_path):
    began = time.time() - 100
    with running_collector(tmp_path) as collector, chromium() as browser:
        assert collector.send(attempt(b"a", 0, 40, 4.0, began)).status_code == 200
        with (
            dashboard(collector.url, collector.token) as url,
            visit(browser, f"{url}/run?run=long") as seen,
        ):
            assert axis_ends(seen.page, LOSS) == (0, 39)
            assert value_at(seen.page, 32) == "4"
            assert line_at(seen.page, 24 / 39) == 0
            sent = attempt(b"b", 24, 36, 2.0, began + 50)
            assert collector.send(sent).status_code == 200
            seen.page.get_by_text("attempt 2").first.wait_for(timeout=30_000)
            seen.settle()
            assert axis_ends(seen.page, LOSS) == (0, 35)
            assert steps_read(seen.page) == list(range(36))
            assert [value_at(seen.page, step) for step in (23, 24, 32)] == ["4", "2", "2"]
            assert line_at(seen.page, 24 / 35) > 0
            assert seen.errors == []


def value_at(page, step):
    """Return the value that the chart of the loss says at a step."""
    chart = plot(page, LOSS)
    chart.press("Home")
    for _ in range(step):
        chart.press("ArrowRight")
    where, value = said_in(page)
    assert where == step
    return value


def steps_read(page):
    """Return the steps of all points in order, read with the arrow keys."""
    chart = plot(page, LOSS)
    chart.press("Home")
    found = [said_in(page)[0]]
    while True:
        chart.press("ArrowRight")
        step, _ = said_in(page)
        if step == found[-1]:
            return found
        found.append(step)


def said_in(page):
    """Return the step and the value in the header of the chart of the loss."""
    found = page.locator(f"section[data-key='{LOSS}'] .values")
    step = found.locator(".where").inner_text().removeprefix("step ")
    return int(step), found.locator("b").first.inner_text()


def line_at(page, at):
    """Return the opacity of the strongest pixel within three pixels of a share of the width."""
    return max(pixel(page, LOSS, at + shift / 1000)[3] for shift in range(-2, 3))
