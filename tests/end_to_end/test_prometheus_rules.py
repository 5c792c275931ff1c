"""The shipped rules load, fire when they should, and name what the collector publishes."""

import re
from pathlib import Path

import pytest
import yaml

from helpers.prometheus import amtool, promtool

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
GROUPS = yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RUN_ALERTS = next(group["rules"] for group in GROUPS if group["name"] == "trainvitals-runs")
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
DOCS = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["global"]["external_labels"]
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


@pytest.mark.needs_prometheus
def test_promtool_accepts_the_rules():
    assert f"{len(RULES)} rules found" in promtool("check", "rules", str(DEPLOY / "rules.yml"))


@pytest.mark.needs_prometheus
def test_promtool_accepts_the_configuration(tmp_path):
    (tmp_path / "token").write_text("tv_read_0_0")
    (tmp_path / "rules.yml").write_text((DEPLOY / "rules.yml").read_text())
    config = (DEPLOY / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        config.replace("/run/trainvitals/prometheus_token", str(tmp_path / "token"))
    )
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


@pytest.mark.needs_prometheus
def test_alerts_fire_and_end_as_rules_test_yml_says():
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml", cwd=DEPLOY)


@pytest.mark.needs_prometheus
def test_a_rule_that_never_fires_would_fail_that_test(tmp_path):
    dumb = (DEPLOY / "rules.yml").read_text().replace('severity="error"', 'severity="errors"')
    (tmp_path / "rules.yml").write_text(dumb)
    (tmp_path / "rules_test.yml").write_text((DEPLOY / "rules_test.yml").read_text())
    with pytest.raises(AssertionError, match="TrainvitalsRunBroken"):
        promtool("test", "rules", "rules_test.yml", cwd=tmp_path)


@pytest.mark.parametrize("alert", RUN_ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_of_a_run_looks_only_at_findings_and_run_states(alert):
    names = re.findall(r"[\w:]*trainvitals_[\w:]+", alert["expr"])
    assert names in (["run_rule:trainvitals_findings_active:max"], ["trainvitals_run_state"])


@every_alert
def test_an_alert_leads_to_a_place_on_a_page_that_exists(alert):
    url = alert["annotations"]["runbook_url"]
    assert url.startswith("{{ $externalLabels.trainvitals_docs }}/")
    page, _, anchor = url.removeprefix("{{ $externalLabels.trainvitals_docs }}/").partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]


def test_the_address_of_the_runbooks_is_one_setting_and_absolute():
    [base] = DOCS.values()
    assert re.fullmatch(r"https://[\w.]+(/\w+)*", base)
    text = (DEPLOY / "prometheus.yml").read_text()
    assert "action: labeldrop\n      regex: trainvitals_docs" in text


@pytest.mark.parametrize("record", sorted(RECORDED))
def test_a_recorded_series_is_tried_in_the_rule_tests(record):
    assert f"expr: {record}" in (DEPLOY / "rules_test.yml").read_text()


@pytest.mark.needs_prometheus
def test_amtool_accepts_the_alertmanager_example():
    assert "SUCCESS" in amtool("check-config", str(ROOT / "deploy/alertmanager/alertmanager.yml"))


@every_alert
def test_an_alert_is_tried_in_the_rule_tests(alert):
    assert f"alertname: {alert['alert']}\n" in (DEPLOY / "rules_test.yml").read_text()
