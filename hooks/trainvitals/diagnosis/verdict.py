"""The verdict: one word for a run, and the rules that could not run.

A run is "healthy" only if there were enough steps, the rules had the data that they need, and
none of them reports a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trainvitals.api.schema import Finding, Verdict
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Need, Rule
from trainvitals.wire import Scalar, Stat, Stream

BLIND_STEPS = 10
"""Minimum number of steps before missing data counts as missing."""
LOST = "contact was lost: the process sends no records and did not report its end"

_MISSING: Mapping[Need, str] = {
    Scalar.LOSS: "no training loss was recorded: wrap it in monitor.loss(…) or pass loss= to watch",
    Stream.GRADIENT: "no gradients were measured: the watched optimizer does not update this "
    "model's parameters",
    Stream.WEIGHT: "no weights were measured: the watched optimizer does not update this model's "
    "parameters",
    Stream.UPDATE: "no updates were measured: the watched optimizer does not update this model's "
    "parameters",
    Stream.ACTIVATION: "no activations were measured: the model is compiled, is in "
    "eval mode, or is not the model that is trained",
}
_NO_GRADIENT = "the optimizer stepped, and no parameter had a gradient"
_REASON_NAMES: Mapping[Need, tuple[str, ...]] = {
    Scalar.LOSS: ("loss",),
    Stream.GRADIENT: ("optimizer", "gradients and updates"),
    Stream.UPDATE: ("optimizer", "gradients and updates"),
    Stream.WEIGHT: ("optimizer", "gradients and updates"),
    Stream.ACTIVATION: ("activations",),
}
"""Names in `not_watched` that give the reason for a missing need."""
_COLUMN = {
    Stream.WEIGHT: Stat.L2,
    Stream.GRADIENT: Stat.L2,
    Stream.UPDATE: Stat.RMS,
    Stream.ACTIVATION: Stat.MEAN,
}


class Reason(NamedTuple):
    """Why a rule cannot run."""

    text: str
    is_chosen: bool
    """The user switched it off on purpose."""


def blind_rules(
    history: History, rules: Sequence[Rule], not_watched: Mapping[str, str]
) -> dict[str, Reason]:
    """Return rule name → reason, for the rules whose data is missing."""
    if history.steps_seen < BLIND_STEPS:
        return {}
    missing: dict[Need, Reason | None] = {}
    blind = {}
    for rule in rules:
        for need in rule.needs:
            if need not in missing:
                missing[need] = _missing(history, need, not_watched)
            if reason := missing[need]:
                blind[rule.name()] = reason
                break
    return blind


def _missing(history: History, need: Need, not_watched: Mapping[str, str]) -> Reason | None:
    if need is Scalar.LOSS and history.facts.get("loss_falls") == 0:
        return Reason("loss_falls=False: this loss is not expected to fall", True)
    if _seen(history, need):
        return None
    option = history.facts.get(f"{need}_off")
    if option:
        return Reason(f"switched off by {option}", True)
    if need is Stream.GRADIENT and _seen(history, Stream.UPDATE):
        return Reason(_NO_GRADIENT, False)
    names = _REASON_NAMES[need]
    reported = next((not_watched[name] for name in names if name in not_watched), "")
    return Reason(reported or _MISSING[need], False)


def _seen(history: History, need: Need) -> bool:
    if isinstance(need, Scalar):
        diverged = history.scalar(Scalar.NONFINITE_LOSS).values > 0
        return len(history.scalar(need)) > 0 or bool(diverged.any())
    values = history.values(need, _COLUMN[need])
    # The statistics of a diverged run are NaN; its non-finite counts are numbers.
    return bool(np.isfinite(values).any()) or bool(
        need is not Stream.UPDATE and (history.values(need, Stat.NONFINITE) > 0).any()
    )


def verdict_of(
    steps_seen: int,
    headline: Finding | None,
    blind: Mapping[str, Reason],
    *,
    state: str,
    steps_needed: int,
) -> Verdict:
    """Return the verdict; `blind` excludes the rules that the user switched off."""
    if state in ("failed", "lost"):
        return Verdict.FAILED
    if headline is not None:
        return Verdict(headline.severity.value)
    if blind:
        return Verdict.BLIND
    if steps_seen < steps_needed:
        return Verdict.TOO_EARLY
    return Verdict.HEALTHY
