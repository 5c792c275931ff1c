"""Parameters of equal parts of a model: experts, and the blocks of a list.

Comes in: places of parameters with and without a gradient. Goes out: whether the ones without have
no use in these steps, by design.
Promise:  pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainvitals.wire import Place


def are_alternatives(missing: Sequence[Place], trained: Sequence[Place]) -> bool:
    """Whether each missing parameter has a trained one with another index: idle experts."""

    def without_index(place: Place) -> set[tuple[str, tuple[int, ...]]]:
        parts = place.name.split(".")
        return {
            (".".join([*parts[:i], "*", *parts[i + 1 :]]), place.shape)
            for i, part in enumerate(parts)
            if part.isdecimal()
        }

    known = {name for place in trained for name in without_index(place)}
    return all(without_index(place) & known for place in missing)


def is_unused_in_last(missing: Sequence[Place], trained: Sequence[Place]) -> bool:
    """Whether the parameters are a part of the last block of a list whose output nothing uses.

    The same part of each block before has a gradient, and so have other parts of the last block:
    the residual layer of the last block of a WaveNet, whose sum goes nowhere.
    """

    def split(place: Place) -> tuple[str, int, str] | None:
        parts = place.name.split(".")
        at = [i for i, part in enumerate(parts) if part.isdecimal()]
        if not at:
            return None
        return ".".join(parts[: at[0]]), int(parts[at[0]]), ".".join(parts[at[0] + 1 :])

    known = [found for place in trained if (found := split(place)) is not None]
    for place in missing:
        found = split(place)
        if found is None:
            return False
        block, index, part = found
        before = {i for b, i, p in known if (b, p) == (block, part)}
        if before != set(range(index)) or not before:
            return False
        if not any((b, i) == (block, index) and p != part for b, i, p in known):
            return False
    return True
