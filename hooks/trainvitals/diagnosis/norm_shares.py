"""The norm of the weights as a share of its first value, median over the matrices or embeddings."""

from __future__ import annotations

import numpy as np

from trainvitals.diagnosis.history import History, once
from trainvitals.diagnosis.places import Window, both_ends, matrices_by_depth, spread_over
from trainvitals.diagnosis.signals import median
from trainvitals.wire import Stat, Stream


@once
def norm_shares(history: History, *, tables: bool = False) -> Window:
    """Return the median share in each frame, of the first steps and the newest ones.

    `values` has shape (captured steps,); empty without a matrix. `tables`: of the embeddings.
    """
    if tables:
        places = history.places(Stream.WEIGHT)
        found = [i for i, p in enumerate(places) if p.kind == "embedding" and p.optimized]
    else:
        found = matrices_by_depth(history, Stream.WEIGHT)
    rows = spread_over(found)
    seen = both_ends(history, Stream.WEIGHT, Stat.L2, rows)
    if len(seen.steps) == 0 or not rows:
        return Window(seen.steps[:0], np.empty(0))
    first = seen.values[0]
    known = seen.values[:, first > 0] / first[first > 0]
    middle = median(known, axis=1) if known.shape[1] else np.full(len(known), np.nan)
    measured = ~np.isnan(middle)
    return Window(seen.steps[measured], middle[measured])
