"""What a run cost and what the guard prevented, as an event for the collector, and back.

Comes in: the last diagnosis of the training process, or the events of a run.
Goes out: an event (`account`), or the fields of a `Diagnosis` that it held.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from trainvitals.api import schema
from trainvitals.api.schema import Diagnosis, Prevented
from trainvitals.wire import Event, EventKind


def account(diagnosis: Diagnosis) -> tuple[Event, ...]:
    """Return the event that a training process sends at its end; none without content."""
    done, note = diagnosis.prevented, diagnosis.overhead_note
    if done is None and not note:
        return ()
    attributes: dict[str, str | float] = {}
    if done is not None:
        attributes = {
            "prevented": done.updates,
            "first_step": done.first_step,
            "last_step": done.last_step,
        }
    return (Event(max(0, diagnosis.step), time.time(), EventKind.ACCOUNT, note, attributes),)


def overhead_note(events: Iterable[schema.Event]) -> str:
    """Return why the own cost is above its share; "" if no process said so."""
    return next((e.text for e in _accounts(events) if e.text), "")


def prevented(events: Iterable[schema.Event]) -> Prevented | None:
    """Return the updates that the guard of the newest process prevented; None if there is none."""
    for event in _accounts(events):
        counts = [event.attributes.get(name) for name in ("prevented", "first_step", "last_step")]
        updates, first, last = (int(n) if isinstance(n, float | int) else -1 for n in counts)
        if updates > 0:
            return Prevented(updates=updates, first_step=first, last_step=last)
    return None


def _accounts(events: Iterable[schema.Event]) -> list[schema.Event]:
    found = [event for event in events if event.kind == EventKind.ACCOUNT]
    return sorted(found, key=lambda event: event.time, reverse=True)
