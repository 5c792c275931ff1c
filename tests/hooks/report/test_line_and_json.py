"""A diagnosis in one line, and as JSON."""

import json
import math

import numpy as np
import pytest
from msgspec.structs import fields, replace

from trainvitals.api.schema import Diagnosis, Evidence, Finding, Severity, State, Verdict
from trainvitals.report import as_json, line

FINDING = Finding(
    rule="bias_drift",
    code="TV701",
    severity=Severity.WARNING,
    where="head.bias",
    since_step=40,
    summary="It\nmoved.",
    evidence=(Evidence(quantity="drift", seen=math.nan, limit=np.float64(0.5), direction="above"),),
)
SICK = Diagnosis(
    run="r1",
    step=99,
    verdict=Verdict.WARNING,
    headline=FINDING,
    findings=(FINDING, FINDING),
    health=0.7,
)


def test_a_line_is_one_line_with_severity_place_and_step():
    assert line(SICK) == (
        "trainvitals: run r1: WARNING TV701 bias_drift at head.bias since step 40: It moved. "
        "(and 1 more finding)"
    )


def test_a_line_says_that_numbers_are_older_than_the_diagnosis():
    retained = replace(SICK, step=2999, headline=replace(FINDING, last_step=310))
    assert "It moved. (numbers of step 310) (and 1 more finding)" in line(retained)


def test_a_headline_that_was_printed_before_is_named_without_its_text():
    assert line(SICK, details="Logged when it opened.") == (
        "trainvitals: run r1: WARNING TV701 bias_drift at head.bias since step 40 "
        "(and 1 more finding). Logged when it opened."
    )


def test_the_step_of_the_numbers_is_in_the_json():
    retained = replace(SICK, headline=replace(FINDING, last_step=310))
    assert json.loads(as_json(retained))["headline"]["last_step"] == 310


def test_a_healthy_run_is_one_line_too():
    healthy = Diagnosis(step=149, verdict=Verdict.HEALTHY)
    assert line(healthy) == "trainvitals: healthy: nothing found in 150 steps"


def test_rules_that_the_user_switched_off_are_counted():
    blind = {"dead_relu": "switched off by activations="}
    healthy = Diagnosis(step=149, verdict=Verdict.HEALTHY, blind=blind)
    assert line(healthy).endswith("nothing found in 150 steps; 1 rule switched off")


def test_a_run_that_was_sick_is_healthy_again_and_what_it_had_is_counted():
    over = replace(FINDING, state=State.RESOLVED)
    healthy = Diagnosis(step=149, verdict=Verdict.HEALTHY, findings=(over,))
    assert line(healthy) == "trainvitals: healthy again after 150 steps; 1 finding resolved"


@pytest.mark.parametrize(
    ("diagnosis", "said"),
    [
        (
            Diagnosis(step=8, verdict=Verdict.TOO_EARLY),
            "too early to say: nothing found in 9 steps",
        ),
        (
            Diagnosis(step=99, verdict=Verdict.BLIND, blind={"loss_spike": "no loss was reported"}),
            "blind after 100 steps: 1 rule could not run (no loss was reported)",
        ),
        (
            Diagnosis(step=99, verdict=Verdict.FAILED, error="RuntimeError: boom"),
            "failed after 100 steps: RuntimeError: boom.",
        ),
    ],
)
def test_healthy_is_never_said_by_default(diagnosis, said):
    assert line(diagnosis) == f"trainvitals: {said}"


def test_a_failed_run_says_so_and_what_was_found():
    failed = replace(SICK, verdict=Verdict.FAILED, error="RuntimeError: boom")
    assert "failed after 100 steps: RuntimeError: boom. WARNING TV701" in line(failed)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("IndexError: Target 10 is out of bounds.", "IndexError: Target 10 is out of bounds."),
        (
            "RuntimeError: CUDA error: x\nFor debugging …\n",
            "RuntimeError: CUDA error: x For debugging ….",
        ),
        (
            "ValueError: Caught ValueError in DataLoader worker process 1.\n"
            "Original Traceback (most recent call last):\n"
            '  File "worker.py", line 374, in _worker_loop\n    data = fetcher.fetch(index)\n'
            "ValueError: corrupt jpeg\n",
            "ValueError: Caught ValueError in DataLoader worker process 1: "
            "ValueError: corrupt jpeg.",
        ),
    ],
)
def test_the_reason_of_a_failure_is_one_sentence(error, said):
    failed = Diagnosis(step=99, verdict=Verdict.FAILED, error=error)
    assert line(failed) == f"trainvitals: failed after 100 steps: {said}"


def test_an_unmeasured_run_is_not_called_healthy():
    assert "nothing measured" in line(Diagnosis())


def test_json_has_every_field_in_order_and_null_for_what_is_no_number():
    shown = json.loads(as_json(SICK))
    assert list(shown) == [f.name for f in fields(Diagnosis)]
    assert list(shown["headline"]) == [f.name for f in fields(Finding)]
    [evidence] = shown["headline"]["evidence"]
    assert (evidence["quantity"], evidence["seen"], evidence["limit"]) == ("drift", None, 0.5)
    assert shown["headline"]["severity"] == "warning"


def test_json_is_ascii_so_that_no_name_reaches_a_terminal_raw():
    hostile = Diagnosis(run="\x1b[31m\u202e", step=1)
    assert as_json(hostile).isascii()
    assert "\x1b" not in as_json(hostile)
