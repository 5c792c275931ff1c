"""What a learning rate that is too high has done to the loss or to the first weights.

Comes in: the course of the loss, and the update ratios. Goes out: a `Damage`, or None.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence
from trainvitals.api.wording import number
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.fixes import for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.hyperparameters import recorded
from trainvitals.diagnosis.places import Window, is_recurrent
from trainvitals.diagnosis.rises import GROWTH_MIN, exponential_growth, no_better_than_constant
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import class_loss
from trainvitals.diagnosis.update_ratio import (
    HEALTHY_RATIO,
    STUCK_STEPS,
    first_ratio,
    largest_first_ratio,
)
from trainvitals.wire import Scalar, Stream

FIRST_UPDATES = 10


class Damage(NamedTuple):
    """One case; `text` is the half sentence after "Learning rate too high:"."""

    since: int
    text: str
    evidence: tuple[Evidence, ...]
    confidence: float
    ratio: float
    """The update ratio that a lower learning rate has to reduce."""
    fix: str = ""
    """Another fix than a lower learning rate."""


MOMENTUM_STEPS = 100
"""Minimum number of finished steps before a momentum is judged."""


def carried_too_far(history: History, course: Course, ratio: Window) -> Damage | None:
    """Return a momentum m with which each gradient acts for more steps than the run has.

    These are 1/(1 − m) steps (Goh, "Why Momentum Really Works", 2017). The run has its planned
    steps; without a plan, those until now. None if the loss has converged.
    """
    momentum = float(history.facts.get("momentum", 0.0))
    steps = history.total_steps or history.steps_seen
    if not 0 < momentum < 1 or history.steps_seen < MOMENTUM_STEPS or course.converged:
        return None
    acts = 1 / (1 - momentum)
    if not acts > steps:
        return None
    return Damage(
        int(course.loss.steps[0]) if len(course.loss) else 0,
        f"with a momentum of {momentum:g} each gradient acts for about {number(acts)} steps, and "
        f"moves the weights {number(acts)} times as far as one step of this rate, but the run has "
        f"{steps} steps",
        (
            Evidence(
                quantity="steps for which a gradient acts, 1/(1 − momentum)",
                seen=acts,
                limit=float(steps),
                direction="above",
                healthy=(1.0, 100.0),
            ),
        ),
        0.8,
        first_ratio(ratio),
        _usual_momentum(history),
    )


def _usual_momentum(history: History) -> str:
    """Return the fix that sets the usual momentum of the optimizer; "" for other optimizers."""
    if history.facts.get("optimizer") == "SGD":
        return for_each_group("['momentum'] = 0.9")
    if recorded(history, "betas"):
        return for_each_group("['betas'] = (0.9, 0.999)")
    return ""


def grown(course: Course, ratio: Window) -> Damage | None:
    """Return a loss that grows by a constant factor from the start on."""
    growth = exponential_growth(course) if course.known else None
    if growth is None:
        return None
    return Damage(
        growth.step,
        f"since step {growth.step} the loss grows by a factor of {number(growth.factor)} in each "
        "step, as gradient descent does where the curvature is above 2/learning rate",
        (
            Evidence(
                quantity="factor of the loss from one step to the next, median",
                seen=growth.factor,
                limit=GROWTH_MIN,
                direction="above",
                healthy=(None, 1.0),
            ),
            Evidence(quantity="steps in a row in which it grew", seen=float(growth.steps)),
        ),
        0.85,
        first_ratio(ratio),
    )


def collapsed(
    history: History,
    course: Course,
    ratio: Window,
    *,
    ratio_min: float,
    gradient_share: float,
    level_min: float,
) -> Damage | None:
    """Return large first updates of a classifier after which all gradients are nearly zero.

    The loss is still above `level_min` of its start, and the norm of the gradient below
    `gradient_share` of its first values.
    """
    norm = history.scalar(Scalar.GRADIENT_NORM).finite().values.astype(np.float64)
    first = middle(ratio.values[ratio.steps < FIRST_UPDATES])
    early = class_loss(history) is None or len(norm) < STUCK_STEPS or course.converged
    early |= is_recurrent(history)  # its loss often stays level at first
    if early or not first > ratio_min:
        return None
    share = middle(norm[-20:]) / max(middle(norm[:FIRST_UPDATES]), 1e-30)
    if share > gradient_share or course.now() < level_min * course.initial:
        return None
    return Damage(
        int(ratio.steps[0]),
        f"the first steps changed the weights by {number(first)} of their size (median matrix); "
        f"since then the gradient has fallen to {number(share)} of its first norm, and the loss is "
        f"still {number(course.shown(course.now()), 4)}",
        (
            Evidence(
                quantity="update ratio of the first steps (median matrix)",
                seen=first,
                limit=ratio_min,
                direction="above",
                healthy=(1e-5, ratio_min),
            ),
            Evidence(
                quantity="norm of the gradient relative to the first steps",
                seen=share,
                limit=gradient_share,
                direction="below",
                healthy=(0.05, None),
                statistic=Scalar.GRADIENT_NORM,
            ),
            Evidence(quantity="loss now", seen=course.shown(course.now())),
        ),
        0.7,
        first,
    )


FALL_MIN = 0.3
"""Fall below the first loss that shows that first updates as large as the weights did no harm."""


def shattered(course: Course, ratio: Window, *, ratio_min: float) -> Damage | None:
    """Return first updates that replaced the initial weights and doubled the loss.

    One of the first three is larger than the weights, one of the first ten losses is twice the very
    first, which no update has changed, and the loss is not `FALL_MIN` below it yet.
    """
    first, values = ratio.values[:3], course.loss.values
    if not course.known or len(values) < FIRST_UPDATES or not (first > ratio_min).any():
        return None
    start, peak = float(values[0]), float(values[1:FIRST_UPDATES].max())
    if not peak > 2 * start > 0 or course.now(20) < (1 - FALL_MIN) * start or course.converged:
        return None
    at, largest = int(ratio.steps[np.nanargmax(first)]), float(np.nanmax(first))
    return Damage(
        at,
        f"one of the first steps changed the weights by {number(largest)} times their size (median "
        f"matrix), and the loss rose from {number(course.shown(start), 4)} to "
        f"{number(course.shown(peak), 4)} and is {number(course.shown(course.now(20)), 4)} now",
        (
            _largest_ratio(largest, ratio_min),
            Evidence(
                quantity="largest of the first ten losses divided by the first",
                seen=peak / start,
                limit=2.0,
                direction="above",
                healthy=(None, 1.2),
            ),
        ),
        0.85,
        largest,
    )


def overwritten(
    course: Course, ratio: Window, *, ratio_min: float, steps_min: int
) -> Damage | None:
    """Return one of the first three updates that replaced the initial weights.

    Only where the loss says nothing: a loss that falls afterwards shows that no harm was done.
    """
    first = ratio.values[:3]
    judged = course.known and (not course.erratic or course.learned(share=0.3))
    if judged or len(course.loss) < steps_min or course.converged:
        return None
    if not (first > ratio_min).any():
        return None
    at, largest = int(ratio.steps[np.nanargmax(first)]), float(np.nanmax(first))
    return Damage(
        at,
        f"one of the first steps changed the weights by {number(largest)} times their size (median "
        "matrix), so the initialisation is lost",
        (_largest_ratio(largest, ratio_min),),
        0.6,
        largest,
    )


def replaced(history: History, course: Course, *, ratio_min: float) -> Damage | None:
    """Return a matrix that the first update replaced, in a model that has not recovered since.

    The loss has fallen to that of a constant prediction at most. Embeddings, and matrices that
    were initialised to zero on purpose, are left out.
    """
    if not no_better_than_constant(course) or course.converged or course.falling:
        return None
    place, largest = largest_first_ratio(history)
    if place is None or not largest > ratio_min:
        return None
    return Damage(
        int(history.steps(Stream.UPDATE)[0]),
        f"the first step changed {place.name} by {number(largest)} times its size, so its "
        f"initialisation is lost, and after {len(course.loss)} steps the loss "
        f"({number(course.shown(course.now(20)))}) is still that of a constant prediction",
        (
            Evidence(
                quantity=f"first update ratio of {place.name}",
                seen=largest,
                limit=ratio_min,
                direction="above",
                healthy=HEALTHY_RATIO,
            ),
        ),
        0.7,
        largest,
    )


def _largest_ratio(largest: float, ratio_min: float) -> Evidence:
    return Evidence(
        quantity="largest of the first three update ratios (median matrix)",
        seen=largest,
        limit=ratio_min,
        direction="above",
        healthy=HEALTHY_RATIO,
    )
