"""The fleet page lists all runs and explains how to connect the first one."""

import pytest

from helpers.fake_experiment import experiment_run
from helpers.fake_runs import (
    HOSTILE,
    failed_run,
    healthy_run,
    hostile_run,
    spiking_run,
    vanishing_run,
    young_run,
)
from helpers.sent import codes, messages
from trainvitals_dashboard import client


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption))


def table(app):
    """Return the message to the table of runs."""
    [message] = messages(app)
    return message


def rows(app):
    """Return run → its row, in the order of the table."""
    message = table(app)
    found = {row["id"]: row for row in message["rows"]}
    return {name: found[name] for name in message["order"]}


def test_each_run_has_its_verdict_in_words(open_page, collector):
    collector.runs = [vanishing_run(), healthy_run()]
    shown = rows(open_page())
    assert "the largest drop is at encoder.4" in shown["sigmoid-deep"]["about"]
    assert shown["resnet-baseline"]["about"] == "No errors or warnings in 401 steps."
    assert shown["sigmoid-deep"]["findings"] == [1, 1, 0]


def test_health_is_said_by_shape_and_word_and_not_by_colour_alone(open_page, collector):
    collector.runs = [vanishing_run(), healthy_run()]
    said = {(row["sign"], row["verdict"]) for row in rows(open_page()).values()}
    assert said == {("✖", "error"), ("✔", "healthy")}


def test_the_address_filters(open_page, collector):
    collector.runs = [vanishing_run(), spiking_run(), healthy_run(project="language")]
    app = open_page(project="language", state="running", search="GPT", verdict="warning")
    assert list(rows(app)) == ["gpt-small"]
    assert app.text_input(key="search").value == "GPT"
    assert app.selectbox(key="state").value == "running"


def test_tags_and_hosts_filter_too(open_page, collector):
    other = {"tags": ["sweep"], "host": "gpu-02"}
    collector.runs = [healthy_run(), healthy_run("other", fields=other)]
    assert list(rows(open_page(tag="sweep"))) == ["other"]
    assert list(rows(open_page(host="gpu-01"))) == ["resnet-baseline"]


def test_the_address_sorts_and_an_order_that_does_not_exist_is_newest_first(open_page, collector):
    collector.runs = [healthy_run("b"), vanishing_run("a"), failed_run("c")]
    assert list(rows(open_page(sort="verdict"))) == ["c", "a", "b"]
    assert list(rows(open_page(sort="-name"))) == ["c", "b", "a"]
    app = open_page(sort="no such order")
    assert (list(rows(app)), table(app)["sort"]) == (["b", "a", "c"], "")


def test_the_result_of_an_experiment_has_no_verdict_and_no_steps(open_page, collector):
    result = experiment_run("sweep")
    result.step = 0  # that of its end
    training = young_run("training", fields={"tags": ["experiment"]})
    collector.runs = [result, training]
    found = rows(open_page())
    assert found["sweep"]["verdict"] == "experiment"
    assert found["sweep"]["about"] == "The result of an experiment; the page Experiments shows it."
    assert "step 0" not in found["sweep"]["step"]
    assert found["training"]["verdict"] == "too early"


@pytest.mark.parametrize("asked", ["too_early", "too early"])
def test_the_address_names_a_verdict_as_the_api_or_as_the_list_does(open_page, collector, asked):
    collector.runs = [young_run(), healthy_run()]
    app = open_page(verdict=asked)
    assert list(rows(app)) == ["ten-steps"]
    verdicts = app.selectbox(key="verdict")
    assert (verdicts.value, verdicts.options) == ("too early", ["too early", "healthy"])


def test_a_verdict_that_no_run_has_now_is_selected_and_matches_nothing(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page(verdict="too_early")
    assert app.selectbox(key="verdict").value == "too early"
    assert "No run matches" in app.info[0].value


def test_archived_runs_are_shown_when_asked_for_and_say_so(open_page, collector):
    collector.runs = [healthy_run("new"), healthy_run("old", fields={"archived": True})]
    app = open_page()
    assert list(rows(app)) == ["new"]
    app = app.toggle(key="archived").set_value(True).run()
    assert {n: row["state"] for n, row in rows(app).items()} == {
        "new": "finished",
        "old": "finished, archived",
    }
    assert list(rows(open_page(archived="true"))) == ["new", "old"]


def test_a_collector_with_archived_runs_only_offers_them(open_page, collector):
    collector.runs = [healthy_run("old", fields={"archived": True})]
    app = open_page()
    assert app.info[0].value == "All runs are archived."
    app = app.toggle(key="archived").set_value(True).run()
    assert list(rows(app)) == ["old"]


def test_a_filter_that_nothing_fits_says_so(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page(search="no such run")
    assert "No run matches" in app.info[0].value


def test_an_empty_collector_says_how_to_attach_with_its_own_address(open_page, collector):
    app = open_page()
    code = codes(app)[0]
    assert f'collector="{collector.url}"' in code
    compile(code, "six lines", "exec")


def test_every_run_of_the_collector_is_known_and_the_first_hundred_are_shown(open_page, collector):
    collector.runs = [young_run(f"run-{i}") for i in range(620)]
    app = open_page()
    assert "620 runs" in words(app)
    assert (len(rows(app)), table(app)["left"]) == (100, 520)


def test_a_collector_that_goes_away_leaves_its_last_word_and_a_banner(
    open_page, collector, monkeypatch
):
    monkeypatch.setattr(client, "ALL_RUNS_S", 0.0)
    collector.runs = [healthy_run()]
    app = open_page()
    collector.down = True
    app = app.run()
    assert "The data shown is from" in app.warning[0].value
    assert rows(app)["resnet-baseline"]["about"] == "No errors or warnings in 401 steps."


def test_a_collector_that_never_answered_is_named_with_what_to_do(open_page, collector):
    collector.down = True
    app = open_page()
    assert "does not answer" in app.error[0].value
    assert collector.url in app.error[0].value
    assert "`trainvitals serve`" in words(app)


def test_a_token_that_is_refused_names_the_file_and_the_command(open_page, collector):
    collector.token = "tv_read_1_another"
    app = open_page()
    assert "does not accept the token" in app.error[0].value
    assert "/token`" in app.caption[0].value
    assert "`trainvitals token create read`" in words(app)


def test_a_token_of_the_environment_that_is_refused_is_named(open_page, collector):
    app = open_page(token_given="tv_read_1_another")
    assert "does not accept the token" in app.error[0].value
    assert "`TRAINVITALS_TOKEN`" in app.caption[0].value
    assert "/token`" not in words(app)


def test_where_others_can_come_in_nothing_is_shown_without_a_token(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page(asks=True)
    assert collector.asked == []
    assert app.text_input[0].label == "Token"
    app.text_input[0].set_value(collector.token)
    app = app.button[0].click().run()
    assert list(rows(app)) == ["resnet-baseline"]


def test_a_token_that_opens_nothing_is_asked_for_again(open_page, collector):
    app = open_page(asks=True)
    app.text_input[0].set_value("tv_read_1_guess")
    app = app.button[0].click().run()
    assert "does not accept the token" in app.error[0].value
    app = app.button[0].click().run()
    assert app.text_input[0].label == "Token"


def test_a_hostile_name_is_text_and_leads_to_its_own_page(open_page, collector):
    collector.runs = [hostile_run()]
    app = open_page()
    assert rows(app)[HOSTILE]["name"].startswith("<img src=x")
    assert "<img" not in words(app)


def test_a_failed_run_has_one_line_of_its_exception(open_page, collector):
    collector.runs = [failed_run(error="RuntimeError: CUDA error.\nmore")]
    about = rows(open_page())["failed"]["about"]
    assert about.startswith("Failed: RuntimeError: CUDA error. The gradient")
    assert "more" not in about
