"""The page of a run offers name, tags, notes and archived to those whose token may change them."""

import pytest

from helpers.batches import batch, scalar_frame, scalars, start
from helpers.collector import running_collector
from helpers.opened_page import click, opener
from trainvitals.api.schema import RunDetail
from trainvitals_dashboard.client import Client, Problem
from trainvitals_dashboard.parts.edit import changes_of
from trainvitals_server.auth import Scope


@pytest.fixture
def collector(tmp_path):
    with running_collector(tmp_path, round_interval_s=3600) as running:
        sent = batch(start(name="first", tags=("a",)), scalars("loss"), scalar_frame([0], [1.0]))
        assert running.send(sent).status_code == 200
        yield running


@pytest.fixture
def page(collector, tmp_path):
    """Return a function that opens the page of the run with a token."""
    with opener(collector, tmp_path, "run", run="r") as opened:
        yield opened


def stored(collector):
    run = collector.get("/api/v1/runs/r").json()
    return run["name"], run["tags"], run["notes"], run["archived"]


def widget(app, kind, label):
    [found] = [one for one in getattr(app, kind) if one.label == label]
    return found


def test_an_admin_changes_a_run_in_its_header(collector, page):
    app = page(collector.token)
    assert widget(app, "text_input", "Name").value == "first"
    assert widget(app, "text_input", "Tags").value == "a"
    widget(app, "text_input", "Name").set_value("Better")
    widget(app, "text_input", "Tags").set_value(" keep , x,x,")
    widget(app, "text_area", "Notes").set_value("why *this* one")
    widget(app, "checkbox", "Archived").check()
    app = click(app, "Save")
    assert stored(collector) == ("Better", ["keep", "x"], "why *this* one", True)
    assert any("Better" in m.value for m in app.markdown)
    assert [t.value for t in app.text] == ["why *this* one"], "shown as text, not as Markdown"
    widget(app, "text_input", "Name").set_value("")
    widget(app, "checkbox", "Archived").uncheck()
    click(app, "Save")
    assert stored(collector) == ("first", ["keep", "x"], "why *this* one", False)


def test_the_form_shows_what_someone_else_has_saved_since(collector, page):
    app = page(collector.token)
    widget(app, "text_input", "Name").set_value("Mine")
    app = click(app, "Save")
    collector.store.edit(collector.store.run("r").pk, {"name": "Theirs"}, "t")
    app = app.run()
    assert widget(app, "text_input", "Name").value == "Theirs"
    widget(app, "text_area", "Notes").set_value("x")
    click(app, "Save")
    assert stored(collector) == ("Theirs", ["a"], "x", False)


def test_a_reader_is_not_offered_the_form(collector, page):
    app = page(collector.app.state.tokens.create(Scope.READ))
    assert [b.label for b in app.button if b.label == "Save"] == []
    assert any("first" in m.value for m in app.markdown)


def test_what_the_collector_refuses_is_said_and_not_saved(collector, page):
    app = page(collector.token)
    widget(app, "text_input", "Tags").set_value("x" * 65)
    app = click(app, "Save")
    assert any("Nothing is saved" in e.value for e in app.error)
    assert stored(collector) == ("first", ["a"], "", False)


def test_a_change_of_a_reader_is_a_problem(collector):
    reader = collector.app.state.tokens.create(Scope.READ)
    client = Client(collector.url, lambda: reader)
    assert not client.may_write()
    with pytest.raises(Problem) as problem:
        client.change("r", {"archived": True})
    assert problem.value.reason == "forbidden"


def test_only_what_differs_is_sent():
    run = RunDetail(
        id="r", project="p", name="n", state="finished", started_at=0.0, last_report_at=0.0, step=1
    )
    assert changes_of(run, "n", "", "", archived=False) == {}
    assert changes_of(run, " ", "b, a", "x", archived=True) == {
        "name": None,
        "tags": ("b", "a"),
        "notes": "x",
        "archived": True,
    }


def test_a_tag_with_a_comma_stays_unless_the_tags_are_changed():
    run = RunDetail(
        id="r",
        project="p",
        name="n",
        state="finished",
        started_at=0.0,
        last_report_at=0.0,
        step=1,
        tags=("lr=1,2", " b"),
    )
    assert changes_of(run, "n", "lr=1,2,  b", "x", archived=False) == {"notes": "x"}
    assert changes_of(run, "n", "c", "", archived=False) == {"tags": ("c",)}
