"""Which entries of some matrices are still as PyTorch's initialisations drew them.

Comes in: a history and places of parameters. Goes out: the share of their entries.
Promise:  pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import rows_named, window
from trainvitals.wire import Place, Stat, Stream

ROUNDING = 1e-5


def default_share(
    history: History, places: Sequence[Place], *, entries_min: int, tolerance: float
) -> float:
    """Return the share of entries in matrices whose newest values are U(−1/√fan_in, 1/√fan_in), or
    Xavier's U(−√(6/(fan_in + fan_out)), …); training does not keep a distribution uniform.

    Matrices of fewer than `entries_min` entries are left out; 0 without others. `tolerance`: of
    the largest entry and the standard deviation, as a share.
    """
    matrices = [
        p
        for p in places
        if p.kind == "weight" and len(p.shape) >= 2 and "recurrent" not in p.flags
        if math.prod(p.shape) >= entries_min
    ]
    rows = rows_named(history, Stream.WEIGHT, [p.name for p in matrices])
    known = [row for row in rows if row is not None]
    if not matrices or len(known) != len(matrices):
        return 0.0
    low, high, std = (
        window(history, Stream.WEIGHT, s, known, last=1).values[0]
        for s in (Stat.MIN, Stat.MAX, Stat.STD)
    )
    entries = np.array([float(math.prod(p.shape)) for p in matrices])
    fan_in = np.array([float(math.prod(p.shape[1:])) for p in matrices])
    fan_out = entries / fan_in * (fan_in / [float(p.shape[1]) for p in matrices])
    uniform = np.zeros(len(matrices), bool)
    for bound in (1 / np.sqrt(fan_in), np.sqrt(6 / (fan_in + fan_out))):
        largest = np.maximum(-low, high) / bound
        found = (largest <= 1 + ROUNDING) & (largest >= 1 - tolerance)
        uniform |= found & (np.abs(std / bound * math.sqrt(3) - 1) <= tolerance)
    return float(entries[uniform].sum()) / float(entries.sum())
