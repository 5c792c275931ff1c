"""The engine joins findings into episodes, orders them by cause and survives a broken rule."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from msgspec.structs import replace

from trainvitals.api.schema import Finding, Severity, Stage, State
from trainvitals.diagnosis.causes import SLACK_STEPS
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.registry import RULES, all_rules
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.rules.dead_relu import DeadRelu
from trainvitals.wire import STATISTICS, Place, Stream


@dataclass(frozen=True)
class Says(Rule):
    """A rule that reports given findings."""

    findings: tuple[Finding, ...] = ()
    code: ClassVar[str] = "TV201"
    stage: ClassVar[Stage] = Stage.PROPAGATION
    fix: ClassVar[str] = ""

    def check(self, history: History) -> Iterator[Finding]:
        yield from self.findings

    sick = healthy = staticmethod(History)


class Breaks(Says):
    def check(self, history: History) -> Iterator[Finding]:
        raise ZeroDivisionError("no layers")


def a(code: str, since: int = 0, where: str = "", **changes: object) -> Finding:
    stage = next((rule.stage for rule in RULES if rule.code == code), Stage.MONITOR)
    finding = Finding(
        rule=code,
        code=code,
        severity=Severity.ERROR,
        where=where,
        since_step=since,
        summary=code,
        stage=stage,
    )
    return replace(finding, **changes)  # type: ignore[arg-type]


def examine(*findings: Finding, previous: tuple[Finding, ...] = (), at: int = 100):
    history = Example([at]).scalars(loss=[1.0]).history
    return Engine([Says(tuple(findings))]).examine(history, previous)


def headline(*findings: Finding) -> str:
    found = diagnose(History(), examine(*findings)).headline
    return found.code if found else ""


class TestEpisodes:
    def test_a_finding_opens_with_the_step_it_began_at_and_the_newest_at_which_it_is_so(self):
        [finding] = examine(a("TV201", since=40), at=90)
        assert (finding.state, finding.since_step, finding.last_step) == (State.OPEN, 40, 90)

    def test_the_earliest_first_step_is_kept(self):
        before = examine(a("TV201", since=40), at=90)
        [finding] = examine(a("TV201", since=70), previous=before, at=120)
        assert (finding.since_step, finding.last_step) == (40, 120)

    def test_what_is_no_longer_so_is_resolved_and_keeps_its_last_step(self):
        before = examine(a("TV201", since=40), at=90)
        [finding] = examine(previous=before, at=120)
        assert (finding.state, finding.last_step) == (State.RESOLVED, 90)

    def test_what_comes_back_is_a_new_episode_and_the_old_one_stays_listed(self):
        before = examine(a("TV201", since=40), at=90)
        over = examine(previous=before, at=120)
        now, old = examine(a("TV201", since=150), previous=over, at=160)
        assert (now.state, now.since_step) == (State.OPEN, 150)
        assert (old.state, old.since_step, old.last_step) == (State.RESOLVED, 40, 90)

    def test_a_new_episode_never_begins_before_the_old_one_ended(self):
        over = examine(previous=examine(a("TV201", since=40), at=90), at=120)
        now, _ = examine(a("TV201", since=40), previous=over, at=160)
        assert now.since_step == 91

    def test_a_disease_whose_worst_place_moves_keeps_its_beginning(self):
        before = examine(a("TV201", since=40, where="1"), at=90)
        now, old = examine(a("TV201", since=80, where="2"), previous=before, at=100)
        assert (now.where, now.since_step) == ("2", 40)
        assert (old.where, old.state) == ("1", State.RESOLVED)

    def test_one_rule_says_one_thing_of_one_place(self):
        assert len(examine(a("TV201", where="1"), a("TV201", where="1"))) == 1


class TestCauses:
    @pytest.mark.parametrize(
        ("cause", "effects"),
        [
            ("TV601", ["TV102", "TV201", "TV501", "TV504", "TV901"]),
            ("TV101", ["TV501"]),
            ("TV604", ["TV305"]),
            ("TV606", ["TV101"]),
            ("TV301", ["TV201", "TV501"]),
            ("TV603", ["TV501"]),
            ("TV602", ["TV501"]),
        ],
    )
    def test_a_cause_explains_what_follows_it(self, cause, effects):
        findings = examine(a(cause, since=10), *(a(e, since=12) for e in effects))
        assert findings[0].code == cause
        assert {f.code: f.explained_by for f in findings[1:]} == dict.fromkeys(effects, cause)

    def test_what_began_long_before_is_not_explained(self):
        findings = examine(a("TV601", since=500), a("TV201", since=500 - SLACK_STEPS - 1))
        assert {f.explained_by for f in findings} == {""}

    def test_what_is_over_explains_nothing(self):
        before = examine(a("TV601", since=1))
        dead, over = examine(a("TV201", since=5), previous=before)
        assert (dead.code, dead.explained_by, over.state) == ("TV201", "", State.RESOLVED)

    def test_a_note_explains_no_alarm(self):
        findings = examine(a("TV303", severity=Severity.INFO), a("TV501"))
        assert {f.explained_by for f in findings} == {""}

    def test_growth_seen_before_any_update_is_the_initialisations_fault_not_the_rates(self):
        assert headline(a("TV102", stage=Stage.INITIALISATION), a("TV601")) == "TV102"
        assert headline(a("TV102"), a("TV601")) == "TV601"

    def test_the_headline_is_severe_before_it_is_upstream(self):
        warning = a("TV303", severity=Severity.WARNING)
        assert headline(warning, a("TV901", since=80)) == "TV901"

    def test_a_run_with_notes_only_has_no_headline_and_full_health(self):
        diagnosis = diagnose(History(), examine(a("TV504", severity=Severity.INFO)))
        assert (diagnosis.headline, diagnosis.health) == (None, 1.0)

    def test_at_most_three_findings_are_first_causes(self):
        codes = ["TV301", "TV601", "TV603", "TV202", "TV902", "TV401"]
        findings = examine(*(a(c, since=1000 - 100 * i) for i, c in enumerate(codes)))
        alarms = [f for f in findings if f.severity is not Severity.INFO and not f.explained_by]
        assert len(alarms) == 3

    @pytest.mark.parametrize(
        ("stage", "roots"),
        [(Stage.OPTIMIZER, {"TV701"}), (Stage.PROPAGATION, {"TV701", "TV202"})],
    )
    def test_a_finding_of_an_earlier_stage_explains_more(self, stage, roots):
        findings = examine(a("TV202"), replace(a("TV701"), stage=stage))
        assert {f.code for f in findings if not f.explained_by} == roots

    def test_explanations_never_go_round_in_a_circle(self):
        explains = {rule.code: rule.explains for rule in RULES}
        one_way = {
            c: {e for e in effects if c not in explains.get(e, ())}
            for c, effects in explains.items()
        }
        while one_way:
            ends = {c for c, effects in one_way.items() if not effects & one_way.keys()}
            assert ends, f"a circle among {sorted(one_way)}"
            one_way = {c: e for c, e in one_way.items() if c not in ends}

    def test_health_falls_with_each_open_alarm_and_less_with_explained_ones(self):
        def health(*findings: Finding) -> float:
            return diagnose(History(), examine(*findings)).health

        assert health(a("TV601"), a("TV202", since=0)) < health(a("TV601")) < health() == 1
        assert health(a("TV601"), a("TV201")) > health(a("TV601"), a("TV603"))


class TestBrokenInput:
    def test_a_rule_that_raises_becomes_a_finding_and_the_others_still_speak(self):
        history = Example([7]).scalars(loss=[1.0]).history
        findings = Engine([Breaks(), Says((a("TV901"),))]).examine(history)
        broken = next(f for f in findings if f.code == "TV954")
        assert (findings[0].code, broken.where) == ("TV901", "breaks")
        assert "ZeroDivisionError: no layers" in broken.summary
        assert broken.severity is Severity.INFO

    def test_an_empty_history_is_healthy(self):
        diagnosis = diagnose(History(), Engine().examine(History()))
        assert (diagnosis.findings, diagnosis.health, diagnosis.step) == ((), 1.0, -1)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
    def test_a_history_of_one_odd_value_everywhere_breaks_no_rule(self, value):
        weight = Place("0.weight", kind="weight", shape=(16, 16), depth=0, module="0")
        bias = Place("0.bias", kind="bias", shape=(16,), depth=0, module="0")
        example = Example(100).scalars(loss=value, gradient_norm=value, learning_rate__0=value)
        for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
            columns = dict.fromkeys(STATISTICS[stream], value)
            example.stream(stream, [weight, bias], {p.name: columns for p in (weight, bias)})
        findings = Engine().examine(example.history)
        assert "TV954" not in {f.code for f in findings}
        if np.isnan(value):
            assert findings == ()

    def test_the_engine_has_no_memory(self):
        engine, sick = Engine(), DeadRelu.sick()
        assert engine.examine(sick) == engine.examine(sick)
        assert engine.examine(History()) == ()


def test_without_rules_given_all_rules_look():
    assert Engine().rules == all_rules()


@pytest.mark.parametrize("sick", RULES, ids=lambda rule: rule.code)
def test_results_that_rules_share_change_no_finding(sick):
    history, rules = sick.sick(), all_rules()
    with np.errstate(all="ignore"):
        alone = [finding for rule in rules for finding in rule.check(history)]
        with history.unchanged():
            together = [finding for rule in rules for finding in rule.check(history)]
    assert repr(together) == repr(alone)  # evidence may be NaN
