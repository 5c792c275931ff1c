"""A diagnosis in one line, and as JSON."""

import json
import math
from dataclasses import fields

import numpy as np

from trainvitals.diagnosis.finding import Diagnosis, Finding, Severity
from trainvitals.report import as_json, line

FINDING = Finding(
    rule="bias_drift",
    code="TV701",
    severity=Severity.WARNING,
    where="head.bias",
    since_step=40,
    summary="It\nmoved.",
    evidence={"drift": math.nan, "limit": np.float32(0.5), "text": "x"},
)
SICK = Diagnosis(run="r1", step=99, headline=FINDING, findings=(FINDING, FINDING), health=0.7)


def test_a_line_is_one_line_with_severity_place_and_step():
    assert line(SICK) == (
        "trainvitals: run r1: WARNING TV701 bias_drift at head.bias since step 40: It moved. "
        "(and 1 more finding)"
    )


def test_a_healthy_run_is_one_line_too():
    assert line(Diagnosis(step=0)) == "trainvitals: healthy after 1 step"


def test_an_unmeasured_run_is_not_called_healthy():
    assert "nothing measured" in line(Diagnosis())


def test_json_has_every_field_in_order_and_null_for_what_is_no_number():
    shown = json.loads(as_json(SICK))
    assert list(shown) == [f.name for f in fields(Diagnosis)]
    assert list(shown["headline"]) == [f.name for f in fields(Finding)]
    assert shown["headline"]["evidence"] == {"drift": None, "limit": 0.5, "text": "x"}
    assert shown["headline"]["severity"] == "warning"


def test_json_is_ascii_so_that_no_name_reaches_a_terminal_raw():
    hostile = Diagnosis(run="\x1b[31m\u202e", step=1)
    assert as_json(hostile).isascii()
    assert "\x1b" not in as_json(hostile)
