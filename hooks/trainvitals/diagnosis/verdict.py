"""The verdict: one word for a run, and which rules could not run.

"Healthy" is a claim. A run gets it when enough steps were seen, the rules could read what they
need, and none of them reports anything.
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
"""Before that, something that was not seen may still come."""
LOST = "contact was lost: the process neither reports nor has it said that it ended"

_MISSING: Mapping[Need, str] = {
    Scalar.LOSS: "no training loss was reported: wrap it in monitor.loss(…) or pass loss= to watch",
    Stream.GRADIENT: "no gradients were seen: the watched optimizer does not step this model's "
    "parameters",
    Stream.WEIGHT: "no weights were measured: the watched optimizer does not step this model's "
    "parameters",
    Stream.UPDATE: "no updates were seen: the watched optimizer does not step this model's "
    "parameters",
    Stream.ACTIVATION: "no activations were seen: the model was compiled before watch, runs in "
    "eval mode, or is not the one that is trained",
}
_SAID_UNDER: Mapping[Need, tuple[str, ...]] = {
    Scalar.LOSS: ("loss",),
    Stream.GRADIENT: ("optimizer", "gradients and updates"),
    Stream.UPDATE: ("optimizer", "gradients and updates"),
    Stream.WEIGHT: ("optimizer",),
    Stream.ACTIVATION: ("activations",),
}
"""Names in `not_watched` whose reason is the need's."""
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
    """The user switched it off: no defect of the run or of the watching."""


def blind_rules(
    history: History, rules: Sequence[Rule], not_watched: Mapping[str, str]
) -> dict[str, Reason]:
    """Return rule name → why it cannot run, for rules that lack what they read."""
    if history.last_step < BLIND_STEPS - 1:
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
        return Reason("loss_falls=False: this loss need not fall", True)
    if _seen(history, need):
        return None
    option = history.facts.get(f"{need}_off")
    if option:
        return Reason(f"switched off by {option}", True)
    said = next((not_watched[key] for key in _SAID_UNDER[need] if key in not_watched), "")
    return Reason(said or _MISSING[need], False)


def _seen(history: History, need: Need) -> bool:
    if isinstance(need, Scalar):
        diverged = history.scalar(Scalar.NONFINITE_LOSS).values > 0
        return len(history.scalar(need)) > 0 or bool(diverged.any())
    values = history.values(need, _COLUMN[need])
    # What a diverged run measures is NaN as well: its non-finite counts are not.
    return bool(np.isfinite(values).any()) or bool(
        need is not Stream.UPDATE and (history.values(need, Stat.NONFINITE) > 0).any()
    )


def verdict_of(
    last_step: int,
    headline: Finding | None,
    blind: Mapping[str, Reason],
    *,
    state: str,
    steps_needed: int,
) -> Verdict:
    """Return the verdict; `blind` without what the user switched off."""
    if state in ("failed", "lost"):
        return Verdict.FAILED
    if headline is not None:
        return Verdict(headline.severity.value)
    if blind:
        return Verdict.BLIND
    if last_step + 1 < steps_needed:
        return Verdict.TOO_EARLY
    return Verdict.HEALTHY
