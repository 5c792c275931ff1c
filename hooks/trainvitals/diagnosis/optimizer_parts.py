"""Parts of a model that one of several optimizers updates, and that never get a gradient.

Comes in: a history of a run with several optimizers. Goes out: the parameters without a gradient.
Promise:  pure. A part whose optimizer has not stepped, or whose modules did not run, is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainvitals.diagnosis.history import History, Steps
from trainvitals.diagnosis.places import rows_named, window
from trainvitals.diagnosis.signals import Flags
from trainvitals.wire import Place, Scalar, Stat, Stream

MEASURED_MAX = 256
"""Newest measured steps in which no parameter of a part may have had a gradient."""


class IdleParts(NamedTuple):
    """`found` are flags over `owned`, the trained parameters; `steps` those of their optimizer."""

    owned: list[Place]
    found: Flags
    steps: Steps


def idle_parts(history: History, observations: int) -> IdleParts | None:
    """Return the parts whose optimizer stepped in `observations` measured steps without a gradient.

    A part is a child module of the model, or a model of several. All its parameters had no
    gradient in all these steps, and another part had one. None where a gradient scaler skipped one.
    """
    places = history.places(Stream.GRADIENT)
    rows = [i for i, p in enumerate(places) if p.trainable and p.optimized]
    owned = [places[i] for i in rows]
    known = [row for row in rows_named(history, Stream.UPDATE, [p.name for p in owned])
             if row is not None]  # fmt: skip
    gradient = window(history, Stream.GRADIENT, Stat.NONFINITE, rows, last=MEASURED_MAX)
    update = window(history, Stream.UPDATE, Stat.RMS, known, last=MEASURED_MAX)
    if len(known) != len(rows) or not np.array_equal(gradient.steps, update.steps):
        return None
    if len(update.steps) == 0:
        return None
    if (history.scalar(Scalar.SKIPPED_STEP).since(int(update.steps[0])).values > 0).any():
        return None
    stepped = ~np.isnan(update.values)
    absent = np.isnan(gradient.values) & (update.values == 0)
    never = (stepped.sum(axis=0) >= observations) & (absent | ~stepped).all(axis=0)
    parts = _parts(owned)
    reached = {part for part, idle in zip(parts, never, strict=True) if not idle}
    found = np.array([part not in reached for part in parts], bool)
    if not found.any() or not reached:
        return None
    return IdleParts(owned, found, update.steps[stepped[:, found].all(axis=1)])


def _parts(places: list[Place]) -> list[str]:
    """Return the name of each parameter's part, behind the components that all names share."""
    names = [p.name.split(".") for p in places]
    at = 0
    while all(len(name) > at + 1 and name[at] == names[0][at] for name in names):
        at += 1
    return [name[at] for name in names]
