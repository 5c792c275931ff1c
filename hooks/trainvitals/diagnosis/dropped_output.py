"""A dropout as the last operation before the loss: the predictions themselves are set to zero.

Comes in: the rule that reports it, a history. Goes out: a finding of the rule, or None.
Promise:  pure; the event that is read is a fact of the loss's graph.
"""

from __future__ import annotations

from trainvitals.api.schema import Evidence, Finding, Severity
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule
from trainvitals.wire import EventKind, Scalar, Stream


def dropped_output(rule: Rule, history: History) -> Finding | None:
    """Return a finding of predictions that a dropout sets to zero before the loss."""
    event = next((e for e in history.events if e.kind == EventKind.DROPPED_OUTPUT), None)
    if event is None:
        return None
    share, loss = float(event.attributes["probability"]), event.attributes["loss"]
    name = event.text
    return rule.finding(
        severity=Severity.WARNING,
        where=name,
        since_step=event.step,
        summary=f"Over-regularised: a dropout{f' ({name})' if name else ''} is the last operation "
        f"before {loss}: in each step it sets {percent(share)} of the predictions to 0 and "
        f"multiplies the others by {number(1 / (1 - share))}.",
        evidence=(
            Evidence(
                quantity="dropouts between the last layer and the loss",
                seen=1.0,
                limit=0.0,
                direction="above",
                healthy=(0.0, 0.0),
                text=f"before {loss}",
            ),
            Evidence(quantity="its probability", seen=share),
        ),
        advice="Remove the dropout behind the last layer, or move it before that layer: the "
        "predictions that it sets to 0 add to the loss, whatever the model has learned.",
        fix=at(Moment.BEFORE_TRAINING, f"model.get_submodule({name!r}).p = 0.0") if name else "",
        confidence=0.95,
        stream=Stream.SCALAR,
        statistic=Scalar.LOSS,
    )
