"""Modules that the training does not reach: hidden from the optimizer, of an optimizer that never
steps, or evaluated in its place.

Comes in: the rule that reports them, a history. Goes out: a finding of the rule, or None.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final

from trainvitals.api.schema import Evidence, Finding, Severity
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course, validation_losses
from trainvitals.diagnosis.fixes import REGISTER, REGISTER_NESTED, Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.wire import EventKind, Scalar, Stat, Stream

IDLE_STEPS: Final = 30
"""Steps of another optimizer after which capture reports one that does not step."""
EQUAL_MIN: Final = 3
"""Newest losses of a split that are equal to the last bit."""
FALL_MIN: Final = 0.2
"""Fall of the training loss from the first of them to the last, as a share."""


def hidden_modules(rule: Rule, history: History) -> Finding | None:
    """Return a finding of modules that a plain list, tuple or dict of the model hides."""
    event = next((e for e in history.events if e.kind == EventKind.UNREGISTERED), None)
    if event is None:
        return None
    names = event.text.split(",")
    owner, _, attribute = names[0].rpartition(".")
    is_nested = names[0] in event.attributes
    register = (REGISTER_NESTED if is_nested else REGISTER).replace("ATTRIBUTE", attribute)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return rule.finding(
        severity=Severity.ERROR,
        where=names[0],
        since_step=0,
        summary=f"Parameters not updated: the modules in {names[0]}{more} have gradients, but "
        "model.parameters() does not contain them: they are in a plain "
        f"{'object or nested list' if is_nested else 'list, tuple or dict'}.",
        evidence=(
            Evidence(
                quantity="attributes with modules that are not registered",
                seen=float(len(names)),
                limit=0.0,
                direction="above",
                healthy=(0.0, 0.0),
                text=event.text,
            ),
        ),
        fix=at(
            Moment.BEFORE_TRAINING,
            f"owner = model.get_submodule({owner!r})\n{register}",
        ),
        confidence=0.95,
        stream=Stream.GRADIENT,
        statistic=Stat.L2,
    )


def idle_optimizer(rule: Rule, history: History) -> Finding | None:
    """Return a finding of an optimizer that never steps, while its parameters have gradients."""
    # The newest event of each optimizer: the second one says that it steps after all.
    newest = {
        event.attributes.get("optimizer"): event
        for event in history.events
        if event.kind == EventKind.OPTIMIZER_IDLE
    }
    event = next((e for e in newest.values() if e.attributes.get("parameters")), None)
    if event is None:
        return None
    known = event.attributes
    index, count, steps = (int(known.get(n, 0)) for n in ("optimizer", "parameters", "steps"))
    name, first = f"optimizer {index} ({event.text})", str(known.get("first", ""))
    held = f"{count} of its parameters {'has a gradient' if count == 1 else 'have gradients'}"
    return rule.finding(
        severity=Severity.ERROR,
        where=first,
        since_step=max(0, event.step + 1 - steps),
        summary=f"Parameters not updated: {name} has made no step, while another optimizer made "
        f"{steps}; {held}{f', the first one is {first}' if first else ''}.",
        evidence=(
            Evidence(
                quantity="steps of another optimizer without one of this",
                seen=float(steps),
                limit=float(IDLE_STEPS),
                direction="above",
                healthy=(0.0, 10.0),
                text=name,
            ),
            Evidence(quantity="its parameters with a gradient", seen=float(count)),
        ),
        advice=f"Call step() of {name} too, after the backward. Optimizers are counted from 0, in "
        "the order given to watch().",
        fix="",
        confidence=0.95,
        stream=Stream.GRADIENT,
        statistic=Stat.L2,
    )


def stale_evaluation(rule: Rule, history: History) -> Finding | None:
    """Return a finding of a split whose loss does not change at all while the model learns."""
    course = Course(history)
    for split, losses in validation_losses(history):
        newest = losses.values[-EQUAL_MIN:]
        if len(newest) < EQUAL_MIN or newest[0] == 0 or (newest != newest[0]).any():
            continue
        first = int(losses.steps[-EQUAL_MIN])
        before = course.loss.values[course.loss.steps <= first][-10:]
        now = course.now(10)
        if len(before) == 0 or not now <= (1 - FALL_MIN) * middle(before):
            continue
        equal = int(trailing_run(losses.values == newest[0]))
        return rule.finding(
            severity=Severity.WARNING,
            # If they were always equal, the model has not changed since the start either.
            since_step=0 if equal == len(losses) else int(losses.steps[-equal]),
            summary=f"Parameters not updated: the {split} loss was {number(float(newest[0]))} in "
            f"{equal} evaluations, equal to the last bit, while the training loss fell to "
            f"{number(course.shown(now))}: the model that is evaluated does not change.",
            evidence=(
                Evidence(
                    quantity=f"{split} losses that are equal to the last bit",
                    seen=float(equal),
                    limit=float(EQUAL_MIN),
                    direction="above",
                    healthy=(0.0, 1.0),
                ),
                Evidence(
                    quantity="fall of the training loss meanwhile",
                    seen=1 - now / middle(before),
                    limit=FALL_MIN,
                    direction="above",
                    unit="share",
                ),
            ),
            advice="Evaluate the model that is trained, or update its copy or its moving average "
            "after each step of the optimizer.",
            fix="",
            confidence=0.85,
            stream=Stream.SCALAR,
            statistic=f"{Scalar.LOSS}/{split}",
        )
    return None
