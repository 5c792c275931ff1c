"""TV203 on attention that selects one position at the first measured step."""

from __future__ import annotations

import numpy as np
import pytest

from trainvitals.api.schema import Severity
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rules.attention_logit_growth import AttentionLogitGrowth
from trainvitals.wire import Event, EventKind


def run(largest: float, loss: np.ndarray) -> History:
    once = np.full(len(loss), np.nan)
    once[0] = 1
    example = Example(len(loss)).scalars(
        loss=loss, attention_largest=largest * once, attention_sharpest=once
    )
    example.history.add(Event(0, 0.0, EventKind.ATTENTION, "first.q,second.q", {}))
    return example.history


def severity(largest: float, loss: np.ndarray) -> Severity | None:
    found = list(AttentionLogitGrowth().check(run(largest, loss)))
    assert all(f.where == "second.q" for f in found)
    return found[0].severity if found else None


LEVEL, FALLING = np.full(60, 2.3), np.linspace(2.3, 1, 60)


@pytest.mark.parametrize(
    ("largest", "loss", "expected"),
    [
        (0.97, LEVEL, Severity.WARNING),
        (0.85, LEVEL, Severity.WARNING),
        (0.97, LEVEL[:40], Severity.INFO),
        (0.97, FALLING, Severity.INFO),
        (0.85, FALLING, None),
        (0.85, LEVEL[:40], None),
        (0.6, LEVEL, None),
        (-1, LEVEL, None),
    ],
)
def test_the_severity_follows_the_weights_and_the_loss(largest, loss, expected):
    assert severity(largest, loss) == expected


def test_a_run_without_attention_is_met_with_silence():
    assert list(AttentionLogitGrowth().check(Example(60).scalars(loss=LEVEL).history)) == []
