"""A project sets thresholds, a package adds rules, and neither can break a run."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from trainvitals.api.schema import Finding, Severity, Stage
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.registry import all_rules
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.rules.dead_relu import DeadRelu
from trainvitals.diagnosis.thresholds import chosen, with_facts
from trainvitals.diagnosis.user_rules import UnusableRule, loaded
from trainvitals.wire import Scalar


@dataclass(frozen=True)
class LossAboveLimit(Rule):
    """The loss is above a limit.

    ## What it detects
    A loss above `loss_max`.
    ## Why it matters
    An example.
    ## Evidence
    The loss.
    ## What to do
    Nothing.
    ## When it is wrong
    Never.
    ## References
    None.
    """

    code: ClassVar[str] = "MY001"
    stage: ClassVar[Stage] = Stage.LOSS
    needs: ClassVar = (Scalar.LOSS,)
    fix: ClassVar[str] = ""

    loss_max: float = threshold(1.0, "Limit of the loss.")

    def check(self, history: History) -> Iterator[Finding]:
        if history.scalar("loss").values[-1] > self.loss_max:
            yield self.finding(
                severity=Severity.WARNING, since_step=0, summary="The loss is high.", evidence=()
            )

    @staticmethod
    def sick() -> History:
        return Example(20).scalars(loss=2.0).history

    @staticmethod
    def healthy() -> History:
        return Example(20).scalars(loss=0.5).history


class Raises(LossAboveLimit):
    code: ClassVar[str] = "MY002"
    __doc__ = LossAboveLimit.__doc__

    def check(self, history: History) -> Iterator[Finding]:
        raise RuntimeError("boom")
        yield


class WithoutPage(LossAboveLimit):
    """Only a summary."""

    code: ClassVar[str] = "MY003"


class NeedsTheUnknown(LossAboveLimit):
    code: ClassVar[str] = "MY004"
    __doc__ = LossAboveLimit.__doc__
    needs: ClassVar = ("something",)


class TakesACode(LossAboveLimit):
    code: ClassVar[str] = "TV201"
    __doc__ = LossAboveLimit.__doc__


NOT_A_RULE = 3
NEVER = {"dead_share_error": 2.0, "dead_share_warning": 2.0}
"""No layer has a share above 1."""


def entry(name, module=__name__):
    return EntryPoint(name.lower(), f"{module}:{name}", "trainvitals.rules")


def own(*names):
    return loaded([entry(name) for name in names])


def test_a_threshold_is_set_by_the_name_or_the_code_of_its_rule():
    for name in ("dead_relu", "TV201", "tv201"):
        result = chosen(all_rules(), {name: {"dead_share_error": 0.95, "units_min": 16}})
        [rule] = [r for r in result.rules if isinstance(r, DeadRelu)]
        assert (rule.dead_share_error, rule.units_min) == (0.95, 16)
        assert result.problems == ()
        others = [r for r in result.rules if not isinstance(r, DeadRelu)]
        assert others == [r for r in all_rules() if not isinstance(r, DeadRelu)]


def test_a_changed_threshold_changes_what_is_found():
    history = DeadRelu.sick()
    assert {f.code for f in Engine([DeadRelu()]).examine(history)} == {"TV201"}
    rules = chosen([DeadRelu()], {"dead_relu": NEVER}).rules
    assert Engine(rules).examine(history) == ()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"dead_rely": {"x": 1}}, "there is no rule 'dead_rely'"),
        (
            {"dead_relu": {"error_share": 1}},
            "dead_relu has no threshold 'error_share' (it has",
        ),
        ({"dead_relu": {"dead_share_error": "x"}}, "must be a number; got 'x'"),
        ({"dead_relu": {"dead_share_error": True}}, "must be a number"),
        ({"dead_relu": {"dead_share_error": float("nan")}}, "must be a number"),
        ({"dead_relu": {"units_min": 1.5}}, "must be an integer; got 1.5"),
        ({"dead_relu": {"code": 1}}, "has no threshold 'code'"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named_and_changes_nothing(table, said):
    result = chosen(all_rules(), table)
    [problem] = result.problems
    assert said in problem
    assert result.rules == all_rules()
    assert result.facts == {}


def test_the_thresholds_travel_as_facts_of_the_run():
    facts = chosen(all_rules(), {"TV201": {"dead_share_error": 0.95}}).facts
    assert facts == {"threshold/dead_relu/dead_share_error": 0.95}
    [rule] = with_facts([DeadRelu()], {**facts, "loss_falls": 0.0, "threshold/dead_relu/old": 1.0})
    assert rule == dataclasses.replace(DeadRelu(), dead_share_error=0.95)


def test_the_engine_applies_the_facts_of_the_run():
    history = DeadRelu.sick()
    history.facts |= {f"threshold/dead_relu/{name}": value for name, value in NEVER.items()}
    assert Engine([DeadRelu()]).examine(history) == ()


def test_a_rule_of_another_package_is_applied_with_its_thresholds():
    [rule] = own("LossAboveLimit")
    history = LossAboveLimit.sick()
    diagnosis = diagnose(history, Engine([rule]).examine(history), rules=[rule])
    assert diagnosis.headline.code == "MY001"
    [changed] = chosen([rule], {"MY001": {"loss_max": 3}}).rules
    assert Engine([changed]).examine(history) == ()


def test_a_rule_that_raises_is_a_note_and_the_others_run():
    rules = own("Raises", "LossAboveLimit")
    codes = {(f.code, f.where) for f in Engine(rules).examine(LossAboveLimit.sick())}
    assert codes == {("TV954", "raises"), ("MY001", "")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WithoutPage", "must have a summary and the sections"),
        ("NeedsTheUnknown", "KeyError"),
        ("TakesACode", "TV201 belongs to another rule"),
        ("NOT_A_RULE", "is not a trainvitals.diagnosis.rule.Rule"),
        ("Missing", "AttributeError"),
    ],
)
def test_a_rule_that_cannot_be_used_is_a_note(name, said):
    [rule] = own(name)
    assert isinstance(rule, UnusableRule)
    history = LossAboveLimit.healthy()
    [note] = Engine([rule]).examine(history)
    assert (note.code, note.severity, note.where) == ("TV954", Severity.INFO, name.lower())
    assert said in note.summary
    assert diagnose(history, (note,), rules=[rule]).headline is None


def test_a_module_that_ends_the_program_does_not_end_the_training(tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("raise SystemExit(1)")
    monkeypatch.syspath_prepend(tmp_path)
    [rule] = loaded([entry("Rule", "leaves")])
    assert "SystemExit" in rule.reason


def test_two_rules_with_one_code_are_one_rule_and_a_note():
    first, second = own("LossAboveLimit", "LossAboveLimit")
    assert first.code == "MY001"
    assert "belongs to another rule" in second.reason
