"""What the first steps of a run show of the state before the training.

Comes in: a history. Goes out: a `Checkup` for the run: initialisers, propagation, initial loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from trainvitals.api.schema import Checkup, Initialiser, InitialLoss
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import initial_loss
from trainvitals.diagnosis.propagation import chi_of, depth_of_failure, propagation, weighted
from trainvitals.wire import EventKind, Scalar, Stream

FIRST_STEP_MAX = 3
"""Later first frames show a model that was trained."""


def initial_state(
    history: History,
    initialisers: Mapping[str, Initialiser] | None = None,
    overfit: tuple[float, float] | None = None,
) -> Checkup:
    """Return what the first frames show; empty parts where the first steps were not measured.

    `initialisers`: None: read from the event of the run.
    """
    steps = history.steps(Stream.ACTIVATION)
    early = len(steps) > 0 and steps[0] <= FIRST_STEP_MAX
    layers = propagation(history) if early else ()
    deep = weighted(layers)
    chi = chi_of([layer.S for layer in deep])
    return Checkup(
        batches=int((steps <= FIRST_STEP_MAX).sum()),
        initialisers=dict(identified(history) if initialisers is None else initialisers),
        propagation=layers,
        chi=chi,
        gradient_chi=chi_of([layer.gradient_rms or 0.0 for layer in reversed(deep)]),
        depth_of_failure=depth_of_failure(chi),
        initial_loss=_initial_loss(history),
        overfit=overfit,
    )


def identified(history: History) -> dict[str, Initialiser]:
    """Return the initialisers that were recognised at the start, by the parameter's name."""
    found: dict[str, Initialiser] = {}
    for event in history.events:
        if event.kind == EventKind.INITIALISERS:
            for name, text in event.attributes.items():
                with contextlib.suppress(msgspec.DecodeError):  # sanitised: cut or replaced
                    found[name] = msgspec.json.decode(str(text), type=Initialiser)
    return found


def _initial_loss(history: History) -> InitialLoss | None:
    losses = history.scalar(Scalar.LOSS).finite()
    if len(losses) == 0 or losses.steps[0] > FIRST_STEP_MAX:
        return None
    start = initial_loss(history)
    if start is None:
        return InitialLoss(seen=float(losses.values[0]))
    return InitialLoss(seen=start.seen, expected=start.expected, formula=start.formula)
