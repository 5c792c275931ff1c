"""The fleet page lists all runs and explains how to connect the first one."""

from helpers.fake_runs import (
    HOSTILE,
    failed_run,
    healthy_run,
    hostile_run,
    spiking_run,
    vanishing_run,
)


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption))


def links(app):
    return [(e.proto.label, e.proto.query_string) for e in app.get("page_link")]


def test_each_run_has_its_verdict_in_words_and_leads_to_its_page(open_page, collector):
    collector.runs = [vanishing_run(), healthy_run()]
    app = open_page()
    assert "the largest drop is at encoder\\.4" in words(app)
    assert "No errors or warnings in 401 steps." in words(app)
    assert ("**sigmoid\\-deep**", "run=sigmoid-deep") in links(app)


def test_health_is_said_by_shape_and_word_and_not_by_colour_alone(open_page, collector):
    collector.runs = [vanishing_run(), healthy_run()]
    shown = words(open_page())
    assert ":material/error: error" in shown
    assert ":material/check_circle: healthy" in shown


def test_the_address_filters(open_page, collector):
    collector.runs = [vanishing_run(), spiking_run()]
    app = open_page(project="language", state="running", search="gpt")
    assert [label for label, query in links(app) if query] == ["**gpt\\-small**"]
    assert "state=running" in collector.asked[-1]
    assert app.text_input(key="search").value == "gpt"


def test_a_filter_that_nothing_fits_says_so(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page(search="no such run")
    assert "No run matches" in app.info[0].value


def test_an_empty_collector_says_how_to_attach_with_its_own_address(open_page, collector):
    app = open_page()
    code = app.code[0].value
    assert f'collector="{collector.url}"' in code
    compile(code, "six lines", "exec")


def test_more_runs_come_on_demand(open_page, collector):
    collector.runs = [healthy_run(f"run-{i}") for i in range(30)]
    app = open_page()
    before = len([1 for _, query in links(app) if query])
    more = next(button for button in app.button if button.label == "More runs")
    app = more.click().run()
    assert (before, len([1 for _, query in links(app) if query])) == (25, 30)


def test_a_collector_that_goes_away_leaves_its_last_word_and_a_banner(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page()
    collector.down = True
    app = app.run()
    assert "The data shown is from" in app.warning[0].value
    assert "No errors or warnings in 401 steps." in words(app)


def test_a_collector_that_never_answered_is_named_with_what_to_do(open_page, collector):
    collector.down = True
    app = open_page()
    assert "does not answer" in app.error[0].value
    assert collector.url in app.error[0].value
    assert app.code[0].value == "trainvitals serve"


def test_a_token_that_is_refused_names_the_file_and_the_command(open_page, collector):
    collector.token = "tv_read_1_another"
    app = open_page()
    assert "does not accept the token" in app.error[0].value
    assert "/token`" in app.caption[0].value
    assert app.code[0].value == "trainvitals token create read"


def test_where_others_can_come_in_nothing_is_shown_without_a_token(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page(asks=True)
    assert collector.asked == []
    assert app.text_input[0].label == "Token"
    app.text_input[0].set_value(collector.token)
    app = app.button[0].click().run()
    assert "No errors or warnings in 401 steps." in words(app)


def test_a_token_that_opens_nothing_is_asked_for_again(open_page, collector):
    app = open_page(asks=True)
    app.text_input[0].set_value("tv_read_1_guess")
    app = app.button[0].click().run()
    assert "does not accept the token" in app.error[0].value
    app = app.button[0].click().run()
    assert app.text_input[0].label == "Token"


def test_hostile_names_stay_text(open_page, collector):
    collector.runs = [hostile_run()]
    app = open_page()
    for shown in (*(e.value for e in (*app.markdown, *app.caption)), *(x for x, _ in links(app))):
        outside_code = "".join(shown.split("`")[::2])
        assert "<img" not in outside_code.replace("\\<", "")
        assert "](" not in outside_code
        assert "http://" not in outside_code
    assert HOSTILE not in words(app).replace("`", "").split("at ")[0]


def test_a_failed_run_has_one_line_of_its_exception(open_page, collector):
    collector.runs = [failed_run(error="RuntimeError: CUDA error.\nmore")]
    shown = words(open_page()).replace("\u2060", "")
    assert "Failed\\: RuntimeError\\: CUDA error\\. The gradient" in shown
    assert "error. more" not in shown
