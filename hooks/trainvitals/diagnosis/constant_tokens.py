"""Whether nearly all tokens of the inputs are the same one.

Comes in: a history. Goes out: since when, and how many.
Promise:  pure; nothing for models without embeddings and for tokens beside a mask or lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import middle
from trainvitals.wire import Scalar


class ConstantTokens(NamedTuple):
    """The measured batches in a row in which one token is nearly all."""

    since: int
    share: float
    """Share of this token in a batch, median."""


def constant_tokens(history: History, share_min: float, batches: int) -> ConstantTokens | None:
    """Return the newest batches, `batches` or more, with a share of `share_min` or more."""
    share = history.scalar(Scalar.INPUT_TOKEN_SHARE).finite()
    newest = share.values[-batches:]
    if len(newest) < batches or not (newest >= share_min).all():
        return None
    others = np.flatnonzero(share.values < share_min)
    return ConstantTokens(int(share.steps[others[-1] + 1 if len(others) else 0]), middle(newest))
