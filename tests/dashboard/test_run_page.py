"""The page of a run shows the verdict first, then the evidence and the fix."""

import pytest

from helpers.fake_loss import overfitting_run
from helpers.fake_runs import (
    DEAD,
    VANISHING,
    FakeRun,
    blind_run,
    failed_run,
    healthy_run,
    hostile_run,
    lost_run,
    spiking_run,
    vanishing_run,
    young_run,
)
from helpers.sent import charts, codes, table


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption))


def chart(app, key):
    [found] = [c for c in charts(app).values() if c["key"].startswith(key)]
    return found


def asked(collector, word):
    return [path for path in collector.asked if word in path]


def test_the_verdict_comes_first_with_numbers_reason_and_fix(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("run", run="sigmoid-deep")
    headings = [m.value for m in app.markdown if m.value.startswith("#")]
    assert headings[1].startswith("### The gradient of the first layer")
    shown = words(app)
    assert "since step 12" in shown
    assert "95 % confidence" in shown
    limit = "reported below 1e−6; healthy: 1e−5 to 0.1"
    assert f"| update ratio of the first layer | 2.5e−10 | {limit} |" in shown.replace("\\", "")
    assert "**Why it matters.**" in shown
    assert "**What would prove this wrong:**" in shown
    assert codes(app)[0] == VANISHING["fix"]


def test_a_failed_run_shows_its_exception_first_and_its_headline_below(open_page, collector):
    collector.runs = [failed_run()]
    shown = words(open_page("run", run="failed"))
    assert "Failed\\: RuntimeError\\: boom\\.**" in shown.replace("\u2060", "")
    assert shown.index("RuntimeError") < shown.index("TV101")


def test_a_long_exception_is_one_line_in_the_verdict_and_whole_below_it(open_page, collector):
    error = "RuntimeError: CUDA error.\nKernel errors may be reported later."
    collector.runs = [failed_run(error=error)]
    app = open_page("run", run="failed")
    assert "CUDA error\\.**" in words(app)
    assert codes(app)[0] == error


def test_a_lost_run_says_that_contact_was_lost(open_page, collector):
    collector.runs = [lost_run()]
    assert "contact was lost" in words(open_page("run", run="lost"))


def test_a_blind_run_names_the_rules_that_could_not_run_and_has_no_health(open_page, collector):
    collector.runs = [blind_run()]
    app = open_page("run", run="no-loss")
    shown = words(app).replace("\u2060", "")
    assert "3 rules could not run in 401 steps" in shown
    assert "No training loss was reported" in shown
    assert "Rules that could not run: no learning, loss spike." in shown
    assert {m.label: m.value for m in app.metric}["Health"] == "–"


def test_rules_that_could_not_run_are_named_beside_a_headline_too(open_page, collector):
    blind = {"no_learning": "no training loss was reported"}
    collector.runs = [vanishing_run(fields={"blind": blind})]
    shown = words(open_page("run", run="sigmoid-deep"))
    assert "Rules that could not run: no learning." in shown


def test_a_young_run_is_too_early_for_a_verdict(open_page, collector):
    collector.runs = [young_run()]
    app = open_page("run", run="ten-steps")
    assert "No findings in 10 steps; more steps are needed for a verdict." in words(app)
    assert {m.label: m.value for m in app.metric}["Health"] == "–"


def test_an_effect_stands_under_its_cause(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("run", run="sigmoid-deep")
    labels = [e.label for e in app.expander if e.label != "About this rule"]
    assert labels[0].startswith("↳ **TV501 no learning**")


def test_a_closed_finding_asks_for_nothing_and_an_open_one_shows_its_chain(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("run", run="sigmoid-deep")
    assert "Explained by" not in words(app)
    app.session_state["finding-TV501--40"] = True
    app = app.run()
    assert "**TV101** vanishing gradient → **TV501** no learning" in words(app)


def test_the_rules_that_found_nothing_are_listed_when_they_are_wanted(open_page, collector):
    run = blind_run()
    run.findings = [DEAD]
    collector.runs = [run]
    app = open_page("run", run=run.id)
    assert asked(collector, "/rules") == []
    app.session_state["silent"] = True
    listed = {row["code"] for row in table(app.run(), "Rules that found nothing")}
    assert "TV101" in listed
    assert not listed & {"TV201", "TV501", "TV504"}  # one has a finding, two could not run


def test_before_a_verdict_no_rule_is_said_to_have_found_nothing(open_page, collector):
    collector.runs = [young_run()]
    labels = [e.label for e in open_page("run", run="ten-steps").expander]
    assert "Rules that found nothing" not in labels


def test_the_page_of_a_rule_is_requested_when_it_is_opened(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("run", run="sigmoid-deep")
    assert "About this rule" in [e.label for e in app.expander]
    assert asked(collector, "/rules/") == []
    app.session_state["rule-TV101-encoder.4.weight-12"] = True
    shown = words(app.run())
    assert asked(collector, "/rules/") == ["/api/v1/rules/TV101"]
    for title in ("What it detects", "When it is wrong", "References", "Thresholds"):
        assert f"**{title}**" in shown
    assert "`gradient_ratio_min` | 0\\.0001 |" in shown


def test_a_finding_inside_the_list_has_the_page_of_its_own_rule(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("run", run="sigmoid-deep")
    app.session_state["finding-TV501--40"] = True
    app.session_state["rule-TV501--40"] = True
    app.run()
    assert asked(collector, "/rules/") == ["/api/v1/rules/TV501"]


def test_a_rule_that_the_collector_does_not_know_leaves_the_finding_readable(open_page, collector):
    collector.runs = [FakeRun("dead", findings=[{**DEAD, "code": "TV999"}])]
    app = open_page("run", run="dead")
    app.session_state["rule-TV999-encoder.7-100"] = True
    shown = words(app.run())
    assert "The page of this rule is not available" in shown
    assert "have been zero since step 100" in shown


def test_the_proof_of_overfitting_has_the_losses_of_all_splits(open_page, collector):
    collector.runs = [overfitting_run()]
    shown = chart(open_page("run", run="memoriser"), "proof-TV506")
    assert [line["name"] for line in shown["series"]] == ["training", "validation"]


def test_the_proof_of_fading_gradients_is_the_depth_of_the_network(open_page, collector):
    collector.runs = [vanishing_run()]
    shown = chart(open_page("run", run="sigmoid-deep"), "proof-TV101")
    assert len(shown["series"][0]["points"]["mean"]) == 12
    assert shown["layers"][shown["here"]] == "encoder.4.weight"


def test_the_proof_of_a_dead_layer_is_its_curve_with_the_limit(open_page, collector):
    collector.runs = [FakeRun("dead", findings=[DEAD])]
    shown = chart(open_page("run", run="dead"), "proof-TV201")
    assert shown["marks"] == [{"step": 100, "text": "▲ TV201", "severity": "warning"}]
    assert shown["limit"] == {"value": 0.5, "text": "reported above 50 %"}


def test_loss_gradient_norm_and_learning_rate_carry_the_findings(open_page, collector):
    collector.runs = [vanishing_run()]
    app = open_page("run", run="sigmoid-deep")
    for key in ("curve-loss", "curve-gradient_norm", "curve-learning_rate"):
        assert [m["text"] for m in chart(app, key)["marks"]] == ["✖ TV101", "▲ TV501"]


def test_a_chart_without_data_is_not_drawn(open_page, collector):
    collector.runs = [FakeRun("short", scalars=("loss",))]
    assert list(charts(open_page("run", run="short"))) == ["curve-loss"]


def test_a_run_without_curves_says_so(open_page, collector):
    collector.runs = [FakeRun("bare", scalars=())]
    app = open_page("run", run="bare")
    assert charts(app) == {}
    assert "No loss, gradient norm or learning rate was recorded yet." in words(app)


def test_training_and_validation_are_one_picture(open_page, collector):
    collector.runs = [healthy_run()]
    shown = chart(open_page("run", run="resnet-baseline"), "curve-loss")
    assert [s["name"] for s in shown["series"]] == ["training", "validation"]


def test_a_gap_is_drawn_with_its_reason_and_listed(open_page, collector):
    collector.runs = [spiking_run(state="finished")]
    app = open_page("run", run="gpt-small")
    lost = {"first": 140, "last": 190, "text": "lost: queue full"}
    assert chart(app, "curve-loss")["dropped"] == [lost]
    assert "| 140 to 190 | scalar | queue full | 51 |" in words(app)


def test_the_range_of_the_address_is_the_range_asked_for(open_page, collector):
    collector.runs = [healthy_run()]
    open_page("run", run="resnet-baseline", from_step="100", to_step="200")
    for path in asked(collector, "/series"):
        assert "from_step=100" in path
        assert "to_step=200" in path


@pytest.mark.parametrize("nonsense", ["-1", "1e9", "a", "", "9" * 40])
def test_a_range_that_is_none_is_all(open_page, collector, nonsense):
    collector.runs = [healthy_run()]
    open_page("run", run="resnet-baseline", from_step=nonsense)
    assert all("from_step" not in path for path in asked(collector, "/series"))


def test_a_running_run_is_followed_until_a_range_is_chosen(open_page, collector):
    collector.runs = [spiking_run()]
    assert "updates automatically" in words(open_page("run", run="gpt-small"))
    app = open_page("run", run="gpt-small", from_step="0", to_step="100")
    assert "updates automatically" not in words(app)


def test_a_healthy_run_says_so_and_claims_no_more(open_page, collector):
    collector.runs = [healthy_run(), healthy_run("new", step=-1)]
    assert "No errors or warnings in 401 steps." in words(open_page("run", run="resnet-baseline"))
    young = words(open_page("run", run="new"))
    assert "No optimizer step was recorded yet." in young
    assert "healthy" not in young


def test_own_cost_and_what_is_not_watched_are_shown_with_reasons(open_page, collector):
    run = spiking_run(state="finished")
    counts = {"complete": False, "stored": 900, "dropped": 51, "missing": 7, "reason": "A reason."}
    run.detail["completeness"] = counts
    collector.runs = [run]
    app = open_page("run", run="gpt-small")
    shown = {m.label: m.value for m in app.metric}
    [complete] = [m for m in app.metric if m.label == "Complete"]
    assert "Stored: 900. A reason" in complete.help
    assert shown == {
        "Own cost": "1.2 %",
        "Health": "30 %",
        "Lost records": "51",
        "Complete": "58 missing",
        "Not monitored": "1",
    }
    [left_out] = table(app, "Unmonitored")
    assert left_out["reason"].endswith("shape () has no rows")


def test_an_unknown_run_leads_back_to_all_runs(open_page, collector):
    app = open_page("run", run="no-such-run")
    assert "no-such-run" in app.warning[0].value


def test_an_address_without_a_run_leads_back_to_all_runs(open_page, collector):
    assert "does not name a run" in open_page("run").info[0].value


def test_a_collector_that_goes_away_leaves_the_verdict_and_a_banner(open_page, collector):
    collector.runs = [vanishing_run(fields={"last_report_at": 1.0})]
    app = open_page("run", run="sigmoid-deep")
    collector.down = True
    app = app.run()
    assert "The data shown is from" in app.warning[0].value
    assert "### The gradient" in words(app)


def test_hostile_names_stay_text(open_page, collector):
    collector.runs = [hostile_run()]
    app = open_page("run", run=hostile_run().id)
    labels = [e.label for e in app.expander] + [e.value for e in app.warning]
    for shown in (*(e.value for e in (*app.markdown, *app.caption)), *labels):
        outside_code = "".join(shown.split("`")[::2])
        assert "<img" not in outside_code.replace("\\<", "")
        assert "](" not in outside_code
        assert "http://" not in outside_code


def test_the_use_of_the_machine_has_a_section_of_its_own(open_page, collector):
    names = ("loss", "system/process_cores", "system/gpu0_share", "log/reward")
    collector.runs = [healthy_run(scalars=names)]
    labels = [e.label for e in open_page("run", run="resnet-baseline").expander]
    assert [label for label in labels if "System" in label or "Logged" in label] == [
        "Logged scalars (1)",
        "System (2)",
    ]


def test_one_request_reads_the_curves_of_all_charts(open_page, collector):
    collector.runs = [healthy_run()]
    app = open_page("run", run="resnet-baseline")
    assert len(charts(app)) == 3
    [path] = asked(collector, "/series")
    assert "place=loss" in path
    assert "place=gradient_norm" in path
