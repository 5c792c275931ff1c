"""Check a model before its training.

Comes in: a model, one batch or several, and what they will be trained with. Goes out: a Diagnosis.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.api.schema import (
    Checkup,
    Diagnosis,
    Finding,
    Severity,
)
from trainvitals.capture.optimizers import torch_optimizers
from trainvitals.checkups.at_birth import findings_at_birth
from trainvitals.checkups.batches import batches_of, samples_of
from trainvitals.checkups.others import change_by_others, of_other_samples
from trainvitals.checkups.overfit import overfitted
from trainvitals.checkups.passes import measured
from trainvitals.checkups.preserve import preserved
from trainvitals.config import load
from trainvitals.diagnosis.causes import explained, headline_of, health_of
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.initial_state import initial_state
from trainvitals.diagnosis.registry import all_rules
from trainvitals.diagnosis.rule import explains_of
from trainvitals.diagnosis.rules.init_scale_too_small import InitScaleTooSmall
from trainvitals.diagnosis.rules.label_noise import LabelNoise
from trainvitals.diagnosis.thresholds import chosen
from trainvitals.diagnosis.user_rules import installed_rules
from trainvitals.diagnosis.verdict import Reason, verdict_of
from trainvitals.structure.initialisers import identified, sampled
from trainvitals.structure.parameters import parameters_of
from trainvitals.wire import Scalar

log = logging.getLogger("trainvitals")

NO_LOSS = "no loss: pass loss= and batch=(input, target)"


def checkup(
    model: nn.Module,
    batch: object,
    loss: Callable[..., Any] | None = None,
    optimizer: Optimizer | None = None,
    *,
    overfit_steps: int = 0,
) -> Diagnosis:
    """Return the diagnosis of a model before its training, from some passes without an update.

    Call it after the model, the data, the loss and the optimizer are made, and before `watch`.
    Afterwards weights, buffers, gradients, optimizer, modes and random number generators are as
    before, bit for bit. Rules of installed packages, and the thresholds that the project or the
    environment sets, apply as in a run.

    Args:
        model: the module, in the mode in which it will be trained.
        batch: the model's input, a pair (input, target), a dict of arguments, or an iterable of
            these such as a DataLoader, of which four are read. A single batch is used four times.
        loss: the loss module or function, called with (prediction, target); None: the loss in the
            model's output, or else no loss.
        optimizer: to find trainable parameters that it does not update.
        overfit_steps: try to fit the first batch for so many steps of AdamW, and report it if the
            loss does not fall by half; 0: not tried.

    The result's `initialisers` maps each parameter to the initialiser that it has; `propagation`
    has a row for each layer; `checkup` contains both, the factors per layer and the initial loss.

    Raises:
        ValueError: the model cannot run on the batch, the loss cannot take it, or nothing in the
            model can be trained. The message names the shapes.
        TypeError: `model` is no module, or `batch` has no known form.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module.")
    if lazy := [n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)]:
        raise ValueError(
            f"{lazy[0]} is not initialised yet (lazy module): run the model on a batch first."
        )
    known, unknown = torch_optimizers(optimizer)
    if unknown:
        raise TypeError(f"optimizer is a {unknown[0]}, not a torch optimizer.")
    batches = batches_of(batch)
    parameters = parameters_of({"": model}).values()
    initialisers = identified(s for p in parameters if (s := sampled(p)) is not None)
    with preserved(model):
        history, not_watched, has_loss = measured(model, batches, loss, known[0] if known else None)
        change = change_by_others(model, batches[0])
        fitted = overfitted(model, batches[0], loss, overfit_steps) if has_loss else None
    known_rules = chosen(installed_rules(), load().rules)
    if known_rules.problems:
        log.warning("Settings of rules that are not used: %s.", "; ".join(known_rules.problems))
    rules = [rule for rule in known_rules.rules if rule.before_training]
    of_rules = [*map(_judged, Engine(rules).examine(history))]
    found = [
        *of_rules,
        *(() if any(f.code == LabelNoise.code for f in of_rules) else of_other_samples(change)),
        *findings_at_birth(
            model,
            history,
            known,
            samples_of(batches[0]),
            fitted,
            overfit_steps,
            known_rules.rules,
        ),
    ]
    blind = {
        rule.name(): NO_LOSS
        for rule in rules
        if not has_loss and (Scalar.LOSS in rule.needs or rule.code.startswith("TV4"))
    }
    return _diagnosis(found, not_watched, blind, initial_state(history, initialisers, fitted))


def _judged(finding: Finding) -> Finding:
    """Return a finding as severe as it is before the training.

    During a training, a signal that vanishes is a note until the loss has not fallen for 100 steps.
    """
    if finding.code == InitScaleTooSmall.code and finding.severity is Severity.INFO:
        return replace(finding, severity=Severity.WARNING)
    return finding


def _diagnosis(
    found: Sequence[Finding],
    not_watched: dict[str, str],
    blind: dict[str, str],
    measurements: Checkup,
) -> Diagnosis:
    findings = explained(found, explains_of(all_rules()))
    headline = headline_of(findings)
    return Diagnosis(
        verdict=verdict_of(
            measurements.batches,
            headline,
            {rule: Reason(reason, False) for rule, reason in blind.items()},
            state="running",
            steps_needed=0,
        ),
        headline=headline,
        findings=tuple(findings),
        health=health_of(findings),
        blind=blind,
        watched=tuple(measurements.initialisers),
        not_watched=not_watched,
        checkup=measurements,
    )
