"""A loss that is maximised: it is negative, and its kind cannot be, or the optimizer maximises it.

Comes in: a history and its only loss. Goes out: `WrongSign`, or None.
Promise:  pure. A policy gradient is negative too: its first losses are not those of a uniform
          prediction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence
from trainvitals.api.wording import number
from trainvitals.diagnosis.fixes import Moment, at, for_each_group
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.hyperparameters import recorded
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import BINARY_LOSSES, DISTANCES, LossKind
from trainvitals.wire import Scalar

CROSS_ENTROPY_GROWTH = 10.0
"""A policy gradient with negative rewards is also a negative cross entropy, and grows less."""

LEFT_MIN = 20.0
"""RMS of the predictions over that of the targets; at the start it was a tenth of it at most."""

_NOT_NEGATIVE = frozenset((*BINARY_LOSSES, *DISTANCES, "CrossEntropyLoss", "NLLLoss"))


Losses = np.ndarray[tuple[int], np.dtype[np.float64]]


class WrongSign(NamedTuple):
    """Half a sentence, the numbers that prove it, and the fix."""

    text: str
    evidence: tuple[Evidence, ...]
    fix: str = at(Moment.LOSS, "loss = -loss_function(prediction, y)  # without the minus")


def wrong_sign(
    history: History, only: LossKind, observations: int, tolerance: float, growth: float
) -> WrongSign | None:
    """Return the evidence of a loss of one kind whose values are all negative.

    A cross entropy must begin within `tolerance` of minus that of a uniform prediction, in its
    first `observations`, or have grown by `CROSS_ENTROPY_GROWTH`; a squared or absolute error must
    have grown by the factor `growth`. Of a loss of another kind, the predictions must have become
    `LEFT_MIN` times as large as the targets while it fell.
    Or of a positive loss that rises under `maximize=True`.
    """
    loss = history.scalar(Scalar.LOSS).finite().values.astype(np.float64)
    if (ascent := _ascent(history, only, loss, observations)) is not None:
        return ascent
    if len(loss) < observations or not (loss < 0).all():
        return None
    if only.terms:
        return _negative_sum(history, only, float(loss[0]))
    if not only.kinds:
        return _leaves_targets(history, only, loss, observations)
    if len(only.kinds) != 1:
        return None
    kind = only.kinds[0]
    if kind in DISTANCES:
        return _maximised(kind, loss, observations, growth)
    classes = 2 if kind in BINARY_LOSSES else only.classes * (kind == "CrossEntropyLoss")
    if classes < 2:
        return None
    uniform = math.log(classes) * only.scale
    if not (np.abs(loss[:observations] / -uniform - 1) <= tolerance).all():
        return _maximised(kind, loss, observations, CROSS_ENTROPY_GROWTH)
    first = float(loss[0])
    evidence = Evidence(
        quantity="loss at the start",
        seen=first,
        limit=0.0,
        direction="below",
        healthy=(0.0, None),
        text="a cross entropy is not negative",
        statistic=Scalar.LOSS,
    )
    return WrongSign(
        f"the cross entropy has the wrong sign: the loss started at {number(first)}",
        (evidence, Evidence(quantity="ln(classes)", seen=uniform)),
    )


def _ascent(history: History, only: LossKind, loss: Losses, observations: int) -> WrongSign | None:
    """Return the evidence of a loss that rises while all optimizers maximise it."""
    maximize = recorded(history, "maximize")
    if not maximize or {*maximize} != {"True"} or len(loss) < 2 * observations:
        return None
    if not only.kinds or not {*only.kinds} <= {*_NOT_NEGATIVE, "KLDivLoss", "PoissonNLLLoss"}:
        return None
    first, now = float(loss[0]), middle(loss[-observations:])
    if not 0 < first < now:
        return None
    rise = Evidence(
        quantity="loss now, relative to the first",
        seen=now / first,
        limit=1.0,
        direction="above",
        text="every optimizer has maximize=True",
    )
    return WrongSign(
        f"the optimizer maximises the loss (maximize=True): it went from {number(first)} to "
        f"{number(now)}",
        (rise,),
        for_each_group("['maximize'] = False"),
    )


def _leaves_targets(
    history: History, only: LossKind, loss: Losses, observations: int
) -> WrongSign | None:
    """Return the evidence of a loss that falls below 0 as the predictions leave the targets.

    Not where the targets are labels: the logits of a sure model are large.
    """
    if not only.target_shape or only.target_shape != only.prediction_shape:
        return None
    low, high = (history.scalar(name).values for name in (Scalar.TARGET_MIN, Scalar.TARGET_MAX))
    sizes = [
        np.hypot(*(history.scalar(name).finite().values for name in names))
        for names in (
            (Scalar.PREDICTION_MEAN, Scalar.PREDICTION_STD),
            (Scalar.TARGET_MEAN, Scalar.TARGET_STD),
        )
        if len({len(history.scalar(name).finite()) for name in names}) == 1
    ]
    if len(sizes) < 2 or min(map(len, sizes)) < 2 * observations or len(low) != len(high):
        return None
    if low.min() >= 0 and high.max() <= 1:
        return None
    predicted, target = sizes[0], middle(sizes[1])
    newest = predicted[-observations:]
    if not target > 0 or not (newest > LEFT_MIN * target).all():
        return None
    if predicted[0] > LEFT_MIN / 10 * target or not middle(loss[-observations:]) < loss[0]:
        return None
    ratio = middle(newest) / target
    return WrongSign(
        f"the loss is negative and falls while the predictions leave the targets: they are "
        f"{number(ratio)} times as large now, so the loss has the wrong sign",
        (
            Evidence(
                quantity="RMS of the predictions over that of the targets",
                seen=ratio,
                limit=LEFT_MIN,
                direction="above",
                healthy=(0.0, 2.0),
                statistic=Scalar.PREDICTION_STD,
            ),
        ),
    )


def _negative_sum(history: History, only: LossKind, first: float) -> WrongSign | None:
    """Return the evidence of a sum whose terms are all negative, and cannot be."""
    parts = loss_parts(history)
    if not parts or len(parts) != len(only.terms):
        return None
    if not {p.kind for p in parts} <= _NOT_NEGATIVE:
        return None
    if not all((p.values <= 0).all() and (p.constants < 0).all() for p in parts):
        return None
    names = " + ".join(p.kind for p in parts)
    return WrongSign(
        f"{names} has the wrong sign: the loss started at {number(first)}",
        (
            Evidence(
                quantity="loss at the start",
                seen=first,
                limit=0.0,
                direction="below",
                healthy=(0.0, None),
                text="none of its terms is negative by itself",
                statistic=Scalar.LOSS,
            ),
        ),
    )


def _maximised(kind: str, loss: Losses, observations: int, growth: float) -> WrongSign | None:
    first, now = middle(loss[:observations]), middle(loss[-observations:])
    if len(loss) < 2 * observations or not now < growth * first:
        return None
    return WrongSign(
        f"{kind} has the wrong sign: it went from {number(first)} to {number(now)}",
        (
            Evidence(
                quantity="size of the negative loss now, relative to the first",
                seen=now / first,
                limit=growth,
                direction="above",
            ),
        ),
    )
