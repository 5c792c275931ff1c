"""Samples, features and positions that a model mixes, as the shapes in its first pass show.

Comes in: a history with events `mixed_dimensions`. Goes out: what is mixed, where, the fix.
Promise:  pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from trainvitals.api.schema import Evidence
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.wire import Event, EventKind

FEATURES_AS_POSITIONS = "features_as_positions"
ADVICE: Final = (
    "- Recurrent and attention modules take (positions, samples, features), unless they are made "
    "with `batch_first=True`.\n"
    "- `x.transpose(0, 1)` swaps two dimensions; `view` and `reshape` keep the order of the values "
    "in memory.\n"
    "- Dimension 0 is the batch: `softmax(dim=1)`, `x.mean(1)`.\n"
    "- `trainvitals.checkup` shows whether it is repaired: it replaces the other samples."
)


class Mixed(NamedTuple):
    """How dimensions are mixed, as the end of a sentence, and the code without it."""

    since: int
    where: str
    """The module; "" if it is not known."""
    text: str
    fix: str
    evidence: Evidence


def mixed_samples(history: History) -> Mixed | None:
    """Return how the model mixes the samples of a batch; None if the shapes show nothing."""
    for event in _events(history):
        given = event.attributes
        samples, positions = (_count(given.get(name)) for name in ("samples", "positions"))
        module, fix = _module(given), ""
        match event.text:
            case "samples_as_times":
                is_first = given.get("batch_first") == 1
                text = (
                    f"{module} has batch_first={is_first} and takes the {samples} samples of the "
                    f"batch as positions of a sequence, and the {positions} positions as samples"
                )
                fix = at(
                    Moment.BEFORE_TRAINING,
                    f"model.get_submodule({given.get('module')!r}).batch_first = {not is_first}",
                )
            case "view_for_transpose":
                text = (
                    f"the input of {module} is a view of {samples} samples with {positions} "
                    f"positions as {positions} × {samples}, where the two dimensions had to be "
                    "swapped (transpose), so that one sequence contains parts of several samples"
                )
            case "softmax_over_samples":
                text = (
                    f"a softmax over dimension 0 of {given.get('shape')} divides by the sum over "
                    f"the {samples} samples"
                )
            case "parts_of_samples_joined":
                text = (
                    f"a view of {given.get('shape')} as {given.get('into')} joins parts of several "
                    "samples, where the first two dimensions had to be swapped (transpose) before"
                )
            case _:
                continue
        return _mixed(event, text, fix, "operations that mix the samples of a batch")
    return None


def mixed_features(history: History) -> Mixed | None:
    """Return a view that mixes features and positions of each sample; None without one."""
    for event in _events(history):
        if event.text == FEATURES_AS_POSITIONS:
            given = event.attributes
            text = (
                f"the input of {_module(given)} is a view of {given.get('shape')} as "
                f"{given.get('into')}, where dimensions had to be swapped (permute, transpose)"
            )
            return _mixed(event, text, "", "views that mix features and positions")
    return None


def _events(history: History) -> list[Event]:
    return [e for e in history.events if e.kind == EventKind.MIXED_DIMENSIONS]


def _mixed(event: Event, text: str, fix: str, quantity: str) -> Mixed:
    evidence = Evidence(
        quantity=quantity,
        seen=1.0,
        limit=0.0,
        direction="above",
        healthy=(0.0, 0.0),
        text=event.text,
    )
    return Mixed(event.step, str(event.attributes.get("module", "")), text, fix, evidence)


def _module(given: Mapping[str, str | float]) -> str:
    return f"the {given.get('kind')} '{given.get('module')}'"


def _count(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) else "?"
