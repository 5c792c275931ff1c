"""A refreshed part of a page sends at most 4 KB to a real Chromium, with all of its messages."""

import time

import pytest

from helpers.board import Frames, part_sizes
from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_loss import overfitting_run
from helpers.fake_runs import FakeRun, spiking_run

pytestmark = [pytest.mark.needs_chromium, pytest.mark.timeout(240)]
UPDATE_BYTES_MAX = 4096
UPDATES = 6
RUNNING = {"state": "running", "total_steps": 20_000}


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


def updated_sizes(browser, runs, path, ready, grow):
    """Return the bytes of each refreshed part while `grow` is called three times a second."""
    frames = Frames()
    with (
        fake_collector(*runs) as fake,
        dashboard(fake.url, TOKEN, refresh_s=1.0) as url,
        visit(browser, url + path, listen=frames.listen) as seen,
    ):
        seen.page.locator(ready).first.wait_for(timeout=60_000)
        seen.settle()
        frames.received.clear()
        deadline = time.monotonic() + 60
        while sum(map(is_update, frames.received)) < UPDATES:
            assert time.monotonic() < deadline, "the page is not live"
            grow()
            seen.page.wait_for_timeout(333)
        assert seen.errors == []
        return part_sizes(frames.received)


def is_update(frame):
    """Whether a message to the browser continues what a board has drawn."""
    return b'"base": ' in frame and b'"base": null' not in frame


def growing(*runs):
    def grow():
        for run in runs:
            run.step += 10

    return grow


def test_an_update_of_the_loss_with_all_its_charts_sends_4_KB_at_most(browser):
    run = overfitting_run(**RUNNING)
    path, ready = f"/loss?run={run.id}", "section[data-key=loss] canvas"
    sizes = updated_sizes(browser, [run], path, ready, growing(run))
    assert max(sizes) <= UPDATE_BYTES_MAX, sizes


def test_an_update_of_100_runs_of_which_40_go_on_sends_4_KB_at_most(browser):
    runs = [FakeRun(f"vit-seed-{i}", step=104, **RUNNING) for i in range(40)]
    ended = [FakeRun(f"vit-ended-{i}", step=104) for i in range(60)]
    sizes = updated_sizes(browser, runs + ended, "/", "tbody tr", growing(*runs))
    assert max(sizes) <= UPDATE_BYTES_MAX, sizes


@pytest.mark.parametrize("tensors", [pytest.param(12, marks=pytest.mark.slow), 300])
def test_an_update_of_the_heat_map_of_any_number_of_tensors_sends_4_KB_at_most(browser, tensors):
    run = spiking_run(layers=[f"encoder.{i}" for i in range(tensors // 2)], **RUNNING)
    path, ready = f"/layers?run={run.id}", "section[data-key=heat] canvas"
    sizes = updated_sizes(browser, [run], path, ready, growing(run))
    assert max(sizes) <= UPDATE_BYTES_MAX, sizes


def test_an_update_of_a_tensor_below_the_heat_map_sends_4_KB_at_most(browser):
    run = spiking_run(**RUNNING)
    path = f"/layers?run={run.id}&place=encoder.3.weight"
    ready = "section[data-key^=detail] canvas"
    sizes = updated_sizes(browser, [run], path, ready, growing(run))
    assert max(sizes) <= UPDATE_BYTES_MAX, sizes
