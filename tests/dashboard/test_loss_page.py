"""The page of the loss: course, noise, evaluations, terms, ranges, and what was not measured."""

from urllib.parse import quote

import pytest

from helpers.chromium import chromium, visit
from helpers.dashboards import dashboard
from helpers.fake_collector import TOKEN, fake_collector
from helpers.fake_loss import hostile_loss_run, overfitting_run
from helpers.fake_runs import HOSTILE, FakeRun, blind_run, healthy_run, spiking_run
from helpers.sent import charts


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption, *app.info)).replace("\\", "")


def metrics(app):
    return {m.label: m.value for m in app.metric}


def test_training_and_validation_loss_are_in_one_chart(open_page, collector):
    collector.runs = [overfitting_run()]
    chart = charts(open_page("loss", run="memoriser"))["loss"]
    assert [line["name"] for line in chart["series"]] == ["training", "validation"]
    assert chart["limit"] == {"value": 0.6, "text": "lowest validation loss"}
    assert [mark["step"] for mark in chart["marks"]] == [200]


def test_the_step_of_the_best_validation_loss_and_the_gap_are_named(open_page, collector):
    collector.runs = [overfitting_run()]
    text = words(open_page("loss", run="memoriser"))
    [row] = [line for line in text.splitlines() if line.startswith("| validation |")]
    assert "0.6 (step 200)" in row
    assert "1.4 (step 400)" in row
    # The training loss around step 200 is 0.05 + 2.3 exp(-200 / 90) = 0.3 with 15 % of noise.
    _, _, _, gap, *_ = (cell.strip() for cell in row.split("|"))
    assert float(gap.split()[0]) == pytest.approx(0.3, abs=0.04)


def test_the_exact_step_is_found_in_a_run_with_more_steps_than_points(open_page, collector):
    def values(stream, statistic, name, step):
        if name == "loss/validation":
            return 1 + abs(step - 3_333) / 1_000 if step % 3 == 0 else None
        return 1.0 if name == "loss" else None

    collector.runs = [FakeRun("long", step=5_000, scalars=("loss", "loss/validation"))]
    collector.runs[0].values = values
    assert "1 (step 3,333)" in words(open_page("loss", run="long"))


def test_the_advice_about_generalisation_is_that_of_a_rule(open_page, collector):
    collector.runs = [overfitting_run(), healthy_run()]
    [expander] = open_page("loss", run="memoriser").expander
    assert "TV506" in expander.label
    app = open_page("loss", run="resnet-baseline")
    assert not app.expander
    assert "No finding about the loss is open." in words(app)


def test_noise_and_decline_are_shown_with_their_uncertainty(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("loss", run="resnet-baseline")
    shown = metrics(app)
    # Steps 151 to 400: 2.3 exp(-step / 90) with 15 % of noise falls from 0.43 to 0.03.
    assert float(shown["Decline per 50 losses"]) == pytest.approx(0.07, abs=0.015)
    assert 0.01 < float(shown["Noise"]) < 0.04
    assert "The loss fell by" in words(app)


def test_the_first_loss_stands_beside_the_expected_one(open_page, collector):
    collector.runs = [healthy_run()]
    shown = metrics(open_page("loss", run="resnet-baseline"))
    assert (shown["First loss"], shown["Expected first loss"]) == ("2.41", "2.3")


def test_terms_ranges_and_the_supervised_share_have_charts(open_page, collector):
    collector.runs = [overfitting_run()]
    shown = charts(open_page("loss", run="memoriser"))
    assert list(shown) == ["loss", "terms", "prediction", "target", "share"]
    assert [line["name"] for line in shown["terms"]["series"]] == ["ce", "kl"]
    assert [line["name"] for line in shown["target"]["series"]] == ["largest", "mean", "smallest"]
    assert len(shown["target"]["series"][0]["points"]["mean"]) == 41
    assert set(shown["share"]["series"][0]["points"]["mean"]) == {0.75}


def test_the_terms_of_a_sum_stand_beside_what_a_constant_prediction_would_give(
    open_page, collector
):
    kind = {"step": 0, "time": 0.0, "kind": "loss_kind", "text": "BCEWithLogitsLoss + MSELoss"}
    kind["attributes"] = {"terms": "BCEWithLogitsLoss,MSELoss"}
    parts = [f"{name}/{i}" for i in (0, 1) for name in ("part_of_loss", "part_of_constant")]
    fields = {"events": [kind]}
    collector.runs = [
        FakeRun("two-heads", scalars=("loss", *parts), values=lambda *_: 0.5, fields=fields)
    ]
    app = open_page("loss", run="two-heads")
    assert [line["name"] for line in charts(app)["terms"]["series"]] == [
        "BCEWithLogitsLoss",
        "BCEWithLogitsLoss, constant prediction",
        "MSELoss",
        "MSELoss, constant prediction",
    ]
    assert "loss terms" not in words(app)


def test_what_was_not_measured_is_said_with_the_reason(open_page, collector):
    run = FakeRun("bare", scalars=("loss",))
    run.initial = lambda: {"batches": 0}
    collector.runs = [run]
    app = open_page("loss", run="bare")
    text = words(app)
    assert "no validation loss was reported: `monitor.loss(value, split='validation')`" in text
    assert "`monitor.loss({'ce': a, 'kl': b})`" in text
    assert "loss functions of torch" in text
    assert "| targets |" in text
    assert "| supervised share |" in text
    assert "the first steps were not measured" in text
    assert metrics(app)["First loss"] == "–"
    assert "Gap to the training loss" not in text


def test_a_run_without_a_loss_says_how_to_report_it(open_page, collector):
    collector.runs = [blind_run()]
    app = open_page("loss", run="no-loss")
    assert "no training loss was reported: `monitor.loss(value)`" in words(app)
    assert metrics(app)["Noise"] == "–"


def test_a_page_without_a_run_says_so(open_page, collector):
    collector.runs = [healthy_run()]
    assert "does not name a run" in words(open_page("loss"))


def test_the_page_of_a_run_leads_to_it(open_page, collector):
    collector.runs = [healthy_run()]
    links = open_page("run", run="resnet-baseline").get("page_link")
    assert "Loss" in [link.proto.label for link in links]


@pytest.mark.needs_chromium
@pytest.mark.timeout(240)
def test_in_a_browser_it_is_live_has_no_error_and_hostile_names_are_text():
    run = spiking_run()
    run.initial = lambda: {"batches": 0}
    with (
        fake_collector(overfitting_run(), hostile_loss_run(), run) as fake,
        dashboard(fake.url, TOKEN) as url,
        chromium() as browser,
    ):
        with visit(browser, f"{url}/loss?run=memoriser") as seen:
            for width in (1600, 390):
                if width == 390:
                    seen.on_a_phone()
                seen.page.locator("section[data-key='share'] canvas").first.wait_for()
                seen.page.get_by_text("Gap to the training loss").wait_for()
                assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
                assert seen.errors == []
        with visit(browser, f"{url}/loss?run={quote(HOSTILE)}") as seen:
            seen.page.get_by_text("Gap to the training loss").wait_for()
            assert "<img src=x onerror" in seen.text()
            assert "💀" not in seen.text()
            assert seen.foreign == []
        with visit(browser, f"{url}/loss?run=gpt-small") as seen:
            seen.page.get_by_text("the first steps were not measured").wait_for()
            run.initial = healthy_run().initial
            run.step = 700
            seen.page.get_by_text("2.41").wait_for(timeout=60_000)
            seen.page.get_by_text("step 700 of 2,000", exact=False).first.wait_for(timeout=60_000)
            seen.page.get_by_role("link", name="Verdict").focus()
            seen.page.keyboard.press("Enter")
            seen.page.wait_for_url("**/run?run=gpt-small")
