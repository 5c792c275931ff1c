"""One label for each sample that is much rarer than its opposite.

Comes in: a history. Goes out: the share of the label and the step, or None.
Promise:  pure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.supervision import BINARY_LOSSES, only_loss
from trainvitals.wire import Scalar


class RareLabel(NamedTuple):
    """A binary cross entropy of one label for each sample, without a weight."""

    step: int
    share: float
    """Of the targets that are 1."""
    ratio: float
    """Targets of the frequent label over those of the rare one."""
    is_of_logits: bool


def rare_label(history: History, *, batches_min: int, ratio_max: float) -> RareLabel | None:
    """Return the label if its ratio in at least `batches_min` batches is above `ratio_max`."""
    kind = only_loss(history)
    mean = history.scalar(Scalar.TARGET_MEAN).finite().values
    if kind is None or len(kind.kinds) != 1 or kind.kinds[0] not in BINARY_LOSSES:
        return None
    if math.prod(kind.target_shape[1:]) != 1 or kind.positive_weight > 0 or len(mean) < batches_min:
        return None
    share = float(mean.mean())
    rare = min(share, 1 - share)
    if not 0 < rare * ratio_max < 1 - rare:
        return None
    return RareLabel(kind.step, share, (1 - rare) / rare, kind.kinds[0] != "BCELoss")
