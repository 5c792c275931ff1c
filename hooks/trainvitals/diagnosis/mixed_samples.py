"""Samples of a batch that a model mixes, as the shapes in its first training pass show.

Comes in: a history with the event `mixed_samples`. Goes out: how they are mixed, where, the fix.
Promise:  pure.
"""

from __future__ import annotations

from typing import NamedTuple

from trainvitals.api.schema import Evidence
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.wire import EventKind


class Mixed(NamedTuple):
    """How samples are mixed, as the end of a sentence, and the code without it."""

    since: int
    where: str
    """The module; "" if it is not known."""
    text: str
    fix: str
    evidence: Evidence


def mixed_samples(history: History) -> Mixed | None:
    """Return how the model mixes samples; None if the shapes show nothing."""
    event = next((e for e in history.events if e.kind == EventKind.MIXED_SAMPLES), None)
    if event is None:
        return None
    given = event.attributes
    samples, positions = (_count(given.get(name)) for name in ("samples", "positions"))
    where, kind = str(given.get("module", "")), str(given.get("kind", ""))
    fix = ""
    match event.text:
        case "samples_as_times":
            is_first = given.get("batch_first") == 1
            text = (
                f"the {kind} '{where}' has batch_first={is_first} and takes the {samples} samples "
                f"of the batch as positions of a sequence, and the {positions} positions as samples"
            )
            fix = at(
                Moment.BEFORE_TRAINING,
                f"model.get_submodule({where!r}).batch_first = {not is_first}",
            )
        case "view_for_transpose":
            text = (
                f"the input of the {kind} '{where}' is a view of {samples} samples with {positions}"
                f" positions as {positions} × {samples}, where the two dimensions had to be "
                "swapped (transpose), so that one sequence contains parts of several samples"
            )
        case "softmax_over_samples":
            text = (
                f"a softmax over dimension 0 of {given.get('shape')} divides by the sum over the "
                f"{samples} samples of the batch"
            )
        case "parts_of_samples_joined":
            text = (
                f"a view of {given.get('shape')} as {given.get('into')} joins parts of several "
                "samples, where the first two dimensions had to be swapped (transpose) before"
            )
        case _:
            return None  # of a newer version
    evidence = Evidence(
        quantity="operations that mix the samples of a batch",
        seen=1.0,
        limit=0.0,
        direction="above",
        healthy=(0.0, 0.0),
        text=event.text,
    )
    return Mixed(event.step, where, text, fix, evidence)


def _count(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) else "?"
