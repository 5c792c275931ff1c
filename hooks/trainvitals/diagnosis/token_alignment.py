"""By how many positions the targets of a token model are shifted, and the code that aligns them.

Comes in: a history with `target_shift`. Goes out: the shift of the newest measured steps.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.signals import trailing_run
from trainvitals.wire import Scalar

NEXT_TOKEN: Final = 1
"""The shift of a language model: the target of position i is token i + 1."""
NEXT_TOKEN_BATCH: Final = at(
    Moment.TRAINING_BATCH, "x, y = x[:, :-1], x[:, 1:]  # the target is the next token"
)
NEXT_TOKEN_LOSS: Final = at(
    Moment.LOSS,
    "loss = F.cross_entropy(prediction[:, :-1].flatten(0, 1), x[:, 1:].flatten())  # next token",
)
"""For losses that shift the targets themselves: shifting those of the batch would do it twice."""


class TokenShift(NamedTuple):
    """The target of position i is the input's token i + `shift`."""

    shift: int
    since: int
    """First step of the newest measured steps that agree."""
    fix: str
    evidence: Evidence


def token_shift(history: History, observations: int) -> TokenShift | None:
    """Return the shift of the newest measured steps; None if fewer than `observations` agree.

    A measured step at which no shift was found ends the agreement. None too for models with an
    encoder and a decoder: their input is the source, which they may copy.
    """
    found = history.scalar(Scalar.TARGET_SHIFT).finite()
    if len(found) < observations or history.facts.get("encoder_decoder"):
        return None
    measured = history.scalar(Scalar.TARGET_MEAN).steps
    steps = np.union1d(measured, found.steps)
    shifts = np.full(len(steps), np.nan)
    shifts[np.searchsorted(steps, found.steps)] = found.values
    run = trailing_run(shifts == shifts[-1])
    if run < observations:
        return None
    shift, since = int(shifts[-1]), int(steps[-run])
    read = history.scalar(Scalar.POSITIONS_READ_SHARE).finite().values
    # A loss that reads all positions can still shift them: transformers pads the labels.
    unshifted = shift < NEXT_TOKEN and (len(read) == 0 or bool(read[-1] >= 1))
    return TokenShift(
        shift,
        since,
        NEXT_TOKEN_BATCH if unshifted else NEXT_TOKEN_LOSS,
        Evidence(
            quantity="positions from the prediction's own token to its target",
            seen=float(shift),
            limit=float(NEXT_TOKEN),
            direction="above" if shift > NEXT_TOKEN else "below",
            healthy=(float(NEXT_TOKEN), float(NEXT_TOKEN)),
            statistic=Scalar.TARGET_SHIFT,
        ),
    )
