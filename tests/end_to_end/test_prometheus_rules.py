"""The shipped alerts load, fire when they should, and look at findings and run states only."""

import re
from pathlib import Path

import pytest
import yaml

from helpers.prometheus import promtool
from trainvitals_server.publish.families import COLLECTOR_FAMILIES, RUN_FAMILIES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


@pytest.mark.needs_prometheus
def test_promtool_accepts_the_rules():
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(DEPLOY / "rules.yml"))


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


@every_alert
def test_an_alert_looks_only_at_findings_and_run_states(alert):
    names = re.findall(r"trainvitals_\w+", alert["expr"])
    assert names in (["trainvitals_findings_active"], ["trainvitals_run_state"])


@every_alert
def test_an_alert_leads_to_a_place_on_a_page_that_exists(alert):
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]


@every_alert
def test_an_alert_is_tried_in_the_rule_tests(alert):
    assert f"alertname: {alert['alert']}\n" in (DEPLOY / "rules_test.yml").read_text()


def test_the_alerts_name_families_that_are_published():
    published = {family.full_name for family in (*RUN_FAMILIES, *COLLECTOR_FAMILIES)}
    for alert in ALERTS:
        assert set(re.findall(r"trainvitals_\w+", alert["expr"])) <= published
