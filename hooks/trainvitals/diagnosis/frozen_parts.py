"""A front part of a model, or all its matrices, frozen although they have their initial values.

Comes in: a history. Goes out: the places of its weight matrices; empty if there is no such part.
Promise:  pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial_state import identified
from trainvitals.wire import Place, Stream

CERTAIN: Final = frozenset(
    {"torch_default", "xavier_uniform", "he_uniform", "lecun_uniform", "orthogonal"}
)
"""Initialisers that trained weights do not have: the first update blurs the bound of a uniform
distribution and the right angles."""
LIKELY: Final = frozenset({"xavier_normal", "he_normal", "lecun_normal"})
"""Initialisers that one trained matrix can have by chance, but hardly all matrices."""
LIKELY_MIN: Final = 3
"""Matrices that all have a named initialiser, from which chance is excluded."""
MATRICES_MIN: Final = 2
"""Frozen matrices of a part; a single one can be a random projection on purpose."""
ENTRIES_MIN: Final = 64
"""Entries of a matrix whose initialiser is recognised."""


def frozen_as_initialised(history: History, share_min: float) -> list[Place]:
    """Return the weight matrices of a frozen front part that was never trained, or nothing.

    They ran in training mode with gradients, hold more than `share_min` of the entries that are
    frozen or trained, and every trained parameter comes after them: not LoRA, whose matrices are
    trained inside of the base. Without a pretrained BatchNorm, and not a second network, as the
    target of a distillation: there a trained layer has the same number of inputs as the first.
    Or all matrices of the model: biases alone are trained, or nothing of what an optimizer has.
    Without an optimizer, a program can change its weights without gradients.
    """
    if float(history.facts.get("optimizers", 1)) > 1 or history.facts.get("norm_statistics_known"):
        return []
    places = history.places(Stream.GRADIENT)
    trained = [p for p in places if p.trainable and p.optimized]
    matrices = [p for p in places if p.kind == "weight" and len(p.shape) >= 2]
    frozen = sorted(
        (p for p in matrices if not p.trainable and p.depth >= 0), key=lambda p: p.depth
    )
    new = [p for p in matrices if p.trainable and p.optimized]
    if len(frozen) < MATRICES_MIN:
        return []
    if not new:
        whole = len(frozen) == len(matrices) and (trained or all(p.optimized for p in frozen))
        return frozen if whole and _never_trained(history, frozen) else []
    is_in_front = frozen[-1].depth < min(p.depth for p in trained)  # −1: perhaps inside of it
    is_second = any(p.shape[1] == frozen[0].shape[1] for p in new)
    share = _entries(frozen) / (_entries(frozen) + _entries(trained))
    found = is_in_front and not is_second and share > share_min
    return frozen if found and _never_trained(history, frozen) else []


def _never_trained(history: History, matrices: Sequence[Place]) -> bool:
    """Whether most entries of the matrices have a named initialiser.

    The fans of a recurrent matrix are not those of its initialiser; they are left out.
    """
    known = identified(history)
    judged = [p for p in matrices if "recurrent" not in p.flags and _entries([p]) >= ENTRIES_MIN]
    names = [known[p.name].name if p.name in known else "unknown" for p in judged]
    if len(judged) >= LIKELY_MIN and {*names} <= CERTAIN | LIKELY:
        return True
    certain = [p for p, name in zip(judged, names, strict=True) if name in CERTAIN]
    return len(certain) >= MATRICES_MIN and _entries(certain) > 0.5 * _entries(judged)


def _entries(places: Sequence[Place]) -> int:
    return sum(math.prod(p.shape) for p in places)
