"""Whether all measured batches of a run are the same one.

Comes in: a history. Goes out: yes or no, and how rough the curve of the loss is.
Promise:  pure.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import Array, middle
from trainvitals.wire import Scalar

_BATCH: Final = (
    *(Scalar.TARGET_MEAN, Scalar.TARGET_STD, Scalar.TARGET_MAJORITY_SHARE),
    *(Scalar.INPUT_MEAN, Scalar.INPUT_STD),
)


def roughness(loss: Array) -> float:
    """Return median |second difference| over median |difference| of the first 100 losses."""
    first = np.diff(loss[:100].astype(np.float64))
    second = np.diff(first)
    usual = middle(np.abs(first))
    return middle(np.abs(second)) / usual if usual > 0 else math.inf


def one_batch(history: History, observations: int) -> bool:
    """Whether all measured batches have the same mean, deviation and largest class.

    And the same inputs, where those are measured: a segmentation can have as many pixels of a class
    in each image.
    """
    for name in _BATCH:
        values = history.scalar(name).values
        if name not in (Scalar.TARGET_MEAN, Scalar.TARGET_STD) and len(values) == 0:
            continue  # a regression, or tokens
        if len(values) < observations or len(np.unique(values)) > 1:
            return False
    return bool(history.scalar(Scalar.TARGET_STD).values[-1] > 0)


def is_part(history: History, samples: int) -> bool:
    """Whether the loss is of fewer samples than the input has: of the labelled nodes of a graph."""
    rows = history.scalar(Scalar.INPUT_ROWS).values
    return len(rows) > 0 and rows[-1] > samples


def same_inputs(history: History, observations: int) -> bool:
    """Whether the first input of the model was the same in all measured batches."""
    repeated = history.scalar(Scalar.INPUT_REPEATED).values
    return len(repeated) >= observations - 1 and bool((repeated == 1).all())
