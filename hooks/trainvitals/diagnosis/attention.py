"""What the graph of a model's first output shows about its attention.

Comes in: a history with the event `attention`. Goes out: the layers that see what they predict, and
          the sharpest layer.
Promise:  pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.supervision import only_loss
from trainvitals.diagnosis.token_alignment import NEXT_TOKEN, token_shift
from trainvitals.wire import Event, EventKind, Scalar


class SeesNext(NamedTuple):
    """A layer of a language model that reads the token that the model predicts."""

    where: str
    """The module; "" if it has no parameter of its own."""
    since: int
    what: str


_CAUSAL: Final = "no causal mask hides the later positions"
_BOTH: Final = "a recurrent layer in both directions reads them from the end"


def sees_next_token(history: History, batches: int) -> SeesNext | None:
    """Return the first layer that sees the next token, if that is the target of `batches`."""
    event = _event(history)
    if event is None:
        return None
    found = token_shift(history, batches)
    if found is None or found.shift != NEXT_TOKEN:
        return None
    ahead = history.scalar(Scalar.ATTENTION_AHEAD).finite().values
    if len(ahead):
        return SeesNext(event.text.split(",")[int(ahead[0])], event.step, _CAUSAL)
    backward, kind = event.attributes.get("reversed"), only_loss(history)
    # A second loss can be that of a model of the preceding token, which reads the states from the
    # end only.
    if isinstance(backward, str) and kind is not None and not kind.terms:
        return SeesNext(backward, event.step, _BOTH)
    return None


class Sharpest(NamedTuple):
    """The layer of the model whose attention is sharpest at the first measured step."""

    where: str
    step: int
    largest: float
    """Mean over the queries of the largest weight, 0 to 1."""


def sharpest_attention(history: History) -> Sharpest | None:
    """Return the sharpest attention of the first measured step; None if none was measured."""
    event = _event(history)
    largest, number = (
        history.scalar(name).finite().values
        for name in (Scalar.ATTENTION_LARGEST, Scalar.ATTENTION_SHARPEST)
    )
    if event is None or len(largest) == 0 or len(number) == 0:
        return None
    return Sharpest(event.text.split(",")[int(number[0])], event.step, float(largest[0]))


def is_order_blind(history: History) -> bool:
    """Whether the model's output is the same for its tokens in any order."""
    event = _event(history)
    return event is not None and event.attributes.get("order_blind") == 1


def _event(history: History) -> Event | None:
    return next((e for e in history.events if e.kind == EventKind.ATTENTION), None)
