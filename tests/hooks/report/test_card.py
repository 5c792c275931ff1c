"""The card shows the fault, its place, the numbers and the advice, within its width."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from trainvitals.api.schema import (
    Diagnosis,
    Evidence,
    Finding,
    Prevented,
    Severity,
    State,
    Verdict,
)
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.registry import all_rules
from trainvitals.report import as_html, as_json, card
from trainvitals.report.curves import curves_of

HOSTILE = "a[red]b[/]\x1b[31mc\nd\u202ee\u200bf"


def finding(**fields) -> Finding:
    given = {
        "rule": "dead_relu",
        "code": "TV201",
        "severity": Severity.ERROR,
        "where": "encoder.3",
        "since_step": 5,
        "summary": "92 % of encoder.3's units are dead.",
        "evidence": (
            Evidence(
                quantity="dead share",
                seen=0.92,
                limit=0.5,
                direction="above",
                healthy=(0.0, 0.4),
                unit="share",
            ),
        ),
        "why": "Nothing revives them.",
        "advice": "Lower the learning rate.",
        "fix": "nn.LeakyReLU(0.01)",
    }
    return Finding(**{**given, **fields})


def sick(*others: Finding, **fields) -> Diagnosis:
    first = finding(**fields)
    return Diagnosis(
        run="r1",
        step=1999,
        verdict=Verdict(first.severity.value),
        headline=first,
        findings=(first, *others),
        health=0.3,
    )


def test_it_says_severity_rule_place_and_step():
    shown = card(sick())
    assert "✗ ERROR  TV201 dead_relu" in shown
    assert "at encoder.3 since step 5" in shown
    assert "r1 · step 1,999" in shown


@pytest.mark.parametrize(
    ("last_step", "age"),
    [(310, ", numbers of step 310"), (1999, ""), (1975, ""), (-1, "")],
    ids=["retained", "of now", "of the round before", "not set"],
)
def test_numbers_that_are_older_than_the_diagnosis_are_said_to_be(last_step, age):
    assert f"at encoder.3 since step 5{age}\n" in card(sick(last_step=last_step))


def test_a_large_share_of_own_cost_is_explained():
    noted = replace(sick(), overhead=0.16, overhead_note="a run of 0.4 s shows a larger share")
    text = " ".join(card(noted).split())
    assert "Overhead 16 % of training time (a run of 0.4 s shows a larger share)" in text
    assert "Overhead  16 % of training time\n" in card(replace(noted, overhead_note=""))


@pytest.mark.parametrize(
    ("prevented", "said"),
    [
        (
            Prevented(updates=1, first_step=12, last_step=12),
            "1 update with non-finite gradients prevented, in step 12",
        ),
        (
            Prevented(updates=3, first_step=12, last_step=1840),
            "3 updates with non-finite gradients prevented, first in step 12, last in step 1,840",
        ),
    ],
)
def test_prevented_updates_are_counted_with_the_first_and_the_last_step(prevented, said):
    assert f"Guard {said}" in " ".join(card(replace(sick(), prevented=prevented)).split())
    assert said in as_html(replace(sick(), prevented=prevented))
    assert json.loads(as_json(replace(sick(), prevented=prevented)))["prevented"] == {
        "updates": prevented.updates,
        "first_step": prevented.first_step,
        "last_step": prevented.last_step,
    }


def test_a_run_without_a_prevented_update_says_nothing_of_the_guard():
    assert "Guard" not in card(sick())


def test_a_number_stands_beside_its_limit():
    [row] = [line for line in card(sick()).splitlines() if "dead share" in line]
    assert row.strip() == "dead share  92 %  reported above 50 %, healthy: 0 % to 40 %"


def test_a_text_as_evidence_stands_in_the_wide_column():
    shown = card(sick(evidence=(Evidence(quantity="recovered", seen="no", text="in 50 steps"),)))
    assert "recovered    no (in 50 steps)" in shown


def test_a_failed_run_shows_the_exception_above_what_was_found():
    failed = replace(sick(), verdict=Verdict.FAILED, error="RuntimeError: boom")
    lines = card(failed).splitlines()
    assert lines[1] == "✗ failed after 2,000 steps: RuntimeError: boom."
    assert lines[2].startswith("✗ ERROR  TV201 dead_relu")


def test_a_blind_run_says_which_rules_could_not_run_and_why():
    blind = Diagnosis(step=99, verdict=Verdict.BLIND, blind={"loss_spike": "no loss was reported"})
    assert "? blind after 100 steps: 1 rule could not run (no loss was reported)" in card(
        blind, width=120
    )


def test_the_fix_is_a_line_to_copy():
    assert "    nn.LeakyReLU(0.01)\n" in card(sick())


def test_a_fix_of_several_lines_keeps_them():
    shown = card(sick(fix="for group in groups:\n    group['lr'] /= 10"))
    assert "    for group in groups:\n        group['lr'] /= 10\n" in shown


def test_what_a_finding_explains_stands_under_it_and_other_causes_beside_it():
    effect = finding(code="TV501", rule="no_learning", where="", explained_by="TV201")
    other = finding(code="TV701", rule="bias_drift", where="head.bias", severity=Severity.WARNING)
    lines = card(sick(effect, other)).splitlines()
    assert any(ln.startswith("Explains  ✗ TV501 no_learning") for ln in lines)
    assert any(ln.startswith("Also      ! TV701 bias_drift at head.bias") for ln in lines)


def test_notes_and_what_is_over_are_no_alarms():
    note = finding(code="TV703", rule="redundant_bias", severity=Severity.INFO)
    over = finding(code="TV504", rule="loss_spike", state=State.RESOLVED)
    shown = card(Diagnosis(step=9, verdict=Verdict.HEALTHY, findings=(note, over)))
    assert "✓ healthy again after 10 steps; 1 finding resolved" in shown
    assert "Notes     i TV703" in shown
    assert "Resolved  ✗ TV504" in shown


def test_a_healthy_run_says_after_how_many_steps_what_was_watched_and_what_it_cost():
    diagnosis = Diagnosis(
        run="r", step=149, verdict=Verdict.HEALTHY, watched=("a", "b"), overhead=0.0081
    )
    shown = card(diagnosis)
    assert "✓ healthy: nothing found in 150 steps" in shown
    assert "Watched   2 places" in shown
    assert "Overhead  0.8 % of training time" in shown


def test_a_run_of_which_nothing_was_seen_is_not_called_healthy():
    shown = card(Diagnosis(run="r"))
    assert "healthy" not in shown
    assert "no optimizer step was seen" in shown


def test_what_is_not_watched_is_counted_and_the_first_reasons_are_given():
    left_out = {f"block.{i}": "frozen" for i in range(7)}
    shown = card(Diagnosis(step=1, not_watched=left_out))
    assert "Left out  7: block.0 (frozen)" in shown
    assert "and 4 more" in shown


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_cards_of_all_rules_fit_their_width(rule, width):
    history = type(rule).sick()
    diagnosis = diagnose(history, Engine([rule]).examine(history), run="demo")
    shown = card(diagnosis, width=width, curves=curves_of(history, diagnosis))
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    assert rule.code in shown


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from([40, 80]))
def test_no_text_of_others_breaks_the_width_or_reaches_the_terminal_raw(name, text, width):
    diagnosis = sick(
        where=name,
        summary=text,
        fix=text,
        evidence=(Evidence(quantity=name, seen=text, text=text),),
    )
    shown = card(diagnosis, width=width)
    assert all(cell_len(line) <= width for line in shown.split("\n"))
    assert all(c.isprintable() or c in "\n\u3000\u00a0" or c.isspace() for c in shown)
    shown.encode("utf-8")


def test_escape_sequences_markup_and_direction_marks_in_names_are_only_text():
    shown = card(sick(where=HOSTILE, summary=HOSTILE), colour=True)
    assert "\x1b[31mc" not in shown
    assert "\u202e" not in shown
    assert "a[red]b[/][31mc def" in shown


def test_there_is_no_colour_unless_asked():
    assert "\x1b" not in card(sick())
    assert "\x1b[" in card(sick(), colour=True)


def test_the_environment_does_not_change_the_card(monkeypatch):
    plain = card(sick())
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "30")
    assert card(sick()) == plain


def test_a_severity_can_be_told_without_colour():
    words = {s: card(sick(severity=s)) for s in (Severity.WARNING, Severity.ERROR)}
    assert "! WARNING" in words[Severity.WARNING]
    assert "✗ ERROR" in words[Severity.ERROR]


def test_the_name_of_the_run_replaces_its_id():
    shown = card(sick(), name="calm-otter-17")
    assert "calm-otter-17 · step 1,999" in shown
    assert "r1" not in shown


def test_a_long_comment_behind_a_statement_is_shown_above_it():
    code = "for x in y:\n    x = x.clamp(-5, 5)  # a feature that is nearly constant can be far out"
    shown = [line[4:] for line in card(sick(fix=code), width=60).splitlines()]
    start = shown.index("for x in y:")
    comment, *more = (line for line in shown[start + 1 :] if line.strip().startswith("#"))
    assert comment.startswith("    # a feature")
    assert shown[start + 2 + len(more)] == "    x = x.clamp(-5, 5)"


def test_a_value_at_its_limit_is_not_said_to_be_above_it():
    same = Evidence(quantity="steps in a row", seen=3.0, limit=3.0, direction="above")
    assert "reported at 3 or more" in card(sick(evidence=(same,)))


def test_every_line_of_a_long_comment_in_a_fix_is_a_comment():
    long = "if True:\n    # " + "a word and " * 20 + "\n    x = 1"
    lines = card(sick(fix=long), width=60).splitlines()
    start = lines.index("    if True:")
    code = lines[start + 1 : lines.index("        x = 1")]
    assert len(code) > 3
    assert all(line.startswith("        # ") and len(line) <= 60 for line in code)
    compile("\n".join(line[4:] for line in lines[start : start + len(code) + 2]), "fix", "exec")
