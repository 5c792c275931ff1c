"""A live page is refreshed in parts, and no part writes to a place that belongs to another one.

An interrupted run of a page does not reach all of its parts. The refresh of a part that writes
elsewhere then raises StreamlitInvalidLayoutContextError: Streamlit knows that place from a whole
run of the page only.
"""

import pytest
from streamlit.runtime.fragment import MemoryFragmentStorage

from helpers.fake_runs import spiking_run


@pytest.mark.parametrize("page", ["run", "loss", "layers", "bias"])
def test_a_refreshed_part_writes_to_no_place_outside_of_it(open_page, collector, monkeypatch, page):
    places = []
    monkeypatch.setattr(
        MemoryFragmentStorage,
        "register_outside_wrapper",
        lambda _, fragment, container, wrapper: places.append(wrapper.creation_delta_path),
    )
    collector.runs = [spiking_run()]
    app = open_page(page, run="gpt-small")
    assert any("step 400 of 2,000" in caption.value for caption in app.caption)
    assert places == []


def test_an_opened_page_asks_once_for_its_run(open_page, collector):
    collector.runs = [spiking_run()]
    open_page("run", run="gpt-small")
    assert collector.asked.count("/api/v1/runs/gpt-small") == 1
