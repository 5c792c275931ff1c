"""Targets that are the same for every sample of every measured batch.

Comes in: a history. Goes out: the value, or None; whether targets over classes are all 0.
Promise:  pure. A generator that is trained against targets of 1 is left out, because its loss does
          not fall to nothing.
"""

from __future__ import annotations

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.diagnosis.supervision import (
    BINARY_LOSSES,
    class_loss,
    has_class_head,
    only_loss,
    targets_of,
)
from trainvitals.wire import Scalar

_FIRST = 3
_NEWEST = 20


def constant_target(history: History, batches: int, share_max: float) -> float | None:
    """Return the only target of a loss of labels or classes that has fallen to almost nothing.

    All measured batches, at least `batches`, have the same target; the median of the newest 20
    losses is at most `share_max` times that of the first three.
    """
    kind = only_loss(history)
    if kind is None or len(kind.kinds) != 1 or kind.terms:
        return None
    if class_loss(history) is not None:
        if not has_class_head(history, kind.classes):
            return None  # in a contrastive loss the class is a place
    elif kind.kinds[0] not in BINARY_LOSSES:
        return None
    low, high, _, _ = targets_of(history)
    if len(low) < batches or len(low) != len(high) or not (low == high).all():
        return None
    loss = history.scalar(Scalar.LOSS).finite().values.astype(np.float64)
    is_same = bool((low == low[0]).all())
    if not is_same or len(loss) < 2 * _NEWEST:
        return None
    fell = middle(loss[-_NEWEST:]) <= share_max * middle(loss[:_FIRST])
    return float(low[0]) if fell else None


def zeros_since(history: History, batches: int) -> int | None:
    """Return the step from which all targets of a loss over several classes are 0; None if not.

    A probability of each class sums to 1 for each sample, and labels to their number.
    """
    kind, sums = only_loss(history), history.scalar(Scalar.TARGET_ROW_SUM_MAX)
    low, high, _, _ = targets_of(history)
    if kind is None or kind.classes < 2 or len(low) != len(high):
        return None
    run = int(trailing_run(sums.values == 0))
    if run < batches or len(low) < run or low[-run:].any() or high[-run:].any():
        return None
    return int(sums.steps[-run])
