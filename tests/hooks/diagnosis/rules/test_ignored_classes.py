"""TV407 names a class that is never trained because the loss ignores its number."""

import numpy as np
import pytest

from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.rules.no_supervision import NoSupervision
from trainvitals.wire import Event, EventKind


def run(share, ignored="0", weights=""):
    history = Example(len(share)).scalars(loss=np.ones(len(share)), supervised_share=share).history
    known = {"target_shape": "(64,)", "classes": 10.0, "class_weights": weights}
    known |= {"ignored_class": ignored} if ignored else {}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", known))
    return [*NoSupervision().check(history)]


def test_a_class_that_is_ignored_and_occurs_is_a_warning():
    [found] = run([1.0, *[0.9] * 11])
    assert (found.severity, found.since_step) == ("warning", 1)
    assert "class 0 is never trained" in found.summary
    assert found.evidence[0].seen == pytest.approx(0.9)
    assert "ignore_index" not in found.fix


@pytest.mark.parametrize(
    ("share", "ignored", "weights"),
    [
        ([0.9] * 12, "", ""),
        ([1.0] * 12, "0", ""),
        ([1.0] * 7 + [0.9] * 5, "0", ""),
        ([0.9] * 9, "0", ""),
        ([0.9] * 12, "0", "1,0,1"),
    ],
    ids=["another index", "it does not occur", "it is rare", "too few steps", "weight of 0"],
)
def test_other_losses_are_not(share, ignored, weights):
    assert not run(share, ignored, weights)
