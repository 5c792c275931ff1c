"""The statements of the page of questions about settings are true."""

import re
import tomllib
from pathlib import Path

from trainvitals.config import load
from trainvitals.diagnosis.registry import all_rules
from trainvitals.diagnosis.thresholds import chosen

PAGE = (Path(__file__).parents[2] / "docs" / "faq.md").read_text()
CHANGED, OFF = (
    tomllib.loads(block)["rules"] for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
)
RULES = [rule for rule in all_rules() if rule.name() == "dead_relu"]


def test_the_thresholds_of_the_page_exist():
    assert chosen(RULES, CHANGED).problems == ()
    assert chosen(RULES, OFF).problems == ()


def test_the_rule_that_the_page_switches_off_says_nothing():
    [on], [off] = RULES, chosen(RULES, OFF).rules
    assert list(on.check(on.sick())) != []
    assert list(off.check(on.sick())) == []


def test_it_is_off_in_a_training_with_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "trainvitals.toml").write_text(block)
    assert load().rules == OFF
