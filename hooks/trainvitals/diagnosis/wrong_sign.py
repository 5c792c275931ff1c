"""A loss that is minimised with the wrong sign: it is negative, and its kind cannot be.

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
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import BINARY_LOSSES, DISTANCES, LossKind
from trainvitals.wire import Scalar

CROSS_ENTROPY_GROWTH = 10.0
"""A policy gradient with negative rewards is also a negative cross entropy, and grows less."""

_NOT_NEGATIVE = frozenset((*BINARY_LOSSES, *DISTANCES, "CrossEntropyLoss", "NLLLoss"))


class WrongSign(NamedTuple):
    """Half a sentence, and the numbers that prove it."""

    text: str
    evidence: tuple[Evidence, ...]


def wrong_sign(
    history: History, only: LossKind, observations: int, tolerance: float, growth: float
) -> WrongSign | None:
    """Return the evidence of a loss of one kind whose values are all negative.

    A cross entropy must begin within `tolerance` of minus that of a uniform prediction, in its
    first `observations`, or have grown by `CROSS_ENTROPY_GROWTH`; a squared or absolute error must
    have grown by the factor `growth`.
    """
    loss = history.scalar(Scalar.LOSS).finite().values.astype(np.float64)
    if len(loss) < observations or not (loss < 0).all():
        return None
    if only.terms:
        return _negative_sum(history, only, float(loss[0]))
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


def _maximised(
    kind: str, loss: np.ndarray[tuple[int], np.dtype[np.float64]], observations: int, growth: float
) -> WrongSign | None:
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
                statistic=Scalar.LOSS,
            ),
        ),
    )
