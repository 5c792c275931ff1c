"""Hidden layers whose output is one or two numbers for each sample.

Comes in: a history. Goes out: the first such layer, and code that makes it wider.
Promise:  pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import LAYERS
from trainvitals.wire import Place, Stream

STATE_MAX = 2
"""Units of a recurrent layer up to which it is narrow."""


@dataclass(frozen=True)
class NarrowLayer:
    """A layer of `units` units, and the only layer after it, if there is one."""

    module: str
    units: int
    text: str
    following: str = ""
    is_state: bool = False
    is_everywhere: bool = False
    """Whether all other hidden layers are as narrow."""


def narrow_layer(history: History) -> NarrowLayer | None:
    """Return the first narrow layer, or None.

    It is a recurrent layer whose state has at most two numbers, the first of several hidden layers
    that all have one unit or channel, or a layer of one unit in a chain of linear layers.
    """
    weights = [p for p in history.places(Stream.WEIGHT) if p.kind == "weight" and len(p.shape) >= 2]
    weights.sort(key=lambda p: p.depth)
    return _state(weights) or _everywhere(weights) or _in_chain(weights)


def wider(where: str, following: str) -> str:
    """Return code that gives a layer 64 units, and the optimizer the new parameters."""
    return at(
        Moment.BEFORE_TRAINING,
        "from torch import nn\n"
        f"old, after = model.get_submodule({where!r}), model.get_submodule({following!r})\n"
        "first, second = nn.Linear(old.in_features, 64), nn.Linear(64, after.out_features)\n"
        f"model.set_submodule({where!r}, first)\n"
        f"model.set_submodule({following!r}, second)\n"
        "optimizer.add_param_group({'params': [*first.parameters(), *second.parameters()]})",
    )


def _is_linear(weight: Place) -> bool:
    return weight.module_kind == "Linear" and len(weight.shape) == 2


def _in_chain(weights: Sequence[Place]) -> NarrowLayer | None:
    """Return a layer of one unit between layers that each have as many inputs as the one before
    has outputs. An autoencoder, which has as many outputs as inputs, may have a code of one number.
    """
    if len(weights) < 2 or not all(map(_is_linear, weights)):
        return None
    pairs = list(pairwise(weights))
    if any(a.shape[0] != b.shape[1] for a, b in pairs):
        return None
    if weights[0].shape[1] == weights[-1].shape[0]:
        return None
    for narrow, following in pairs:
        if narrow.shape[0] == 1:
            text = (
                f"{narrow.module} has a single unit, so all that the later layers know of a sample "
                "is one number"
            )
            return NarrowLayer(narrow.module, 1, text, following.module)
    return None


def _everywhere(weights: Sequence[Place]) -> NarrowLayer | None:
    """Return the first of at least two hidden layers that all have one unit, or one channel."""
    if not all(p.module_kind in LAYERS for p in weights):
        return None
    # The last layer is not marked where its outputs go through a solver.
    outputs = [p for p in weights if "output" in p.flags] or weights[-1:]
    hidden = [p for p in weights if p not in outputs]
    if len(hidden) < 2 or any(p.shape[0] != 1 for p in hidden):
        return None
    if all(p.shape[:2] == (1, 1) for p in weights):
        return None
    unit = "unit" if all(map(_is_linear, hidden)) else "channel"
    text = f"each of the {len(hidden)} hidden layers has a single {unit}"
    return NarrowLayer(hidden[0].module, 1, text, is_everywhere=True)


def _state(weights: Sequence[Place]) -> NarrowLayer | None:
    """Return the first recurrent layer with a state of at most `STATE_MAX` numbers."""
    for place in weights:
        if "recurrent" in place.flags and "_hh" in place.name and place.shape[1] <= STATE_MAX:
            units = place.shape[1]
            text = (
                f"{place.module} keeps {units} number{'s' * (units > 1)} from one time step to the "
                "next"
            )
            return NarrowLayer(place.module, units, text, is_state=True)
    return None
