"""What the graph of a token model's first output shows about its attention.

Comes in: a history with the event `attention`. Goes out: the layers that see what they predict.
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


def _event(history: History) -> Event | None:
    return next((e for e in history.events if e.kind == EventKind.ATTENTION), None)
