"""Check a model before its training.

Comes in: a model, one batch or several, and what they will be trained with. Goes out: a Diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.api.schema import (
    Checkup,
    Diagnosis,
    Finding,
    Initialiser,
    InitialLoss,
    Severity,
)
from trainvitals.capture.optimizers import torch_optimizers
from trainvitals.checkups.at_birth import findings_at_birth
from trainvitals.checkups.batches import batches_of, samples_of
from trainvitals.checkups.overfit import overfitted
from trainvitals.checkups.passes import measured
from trainvitals.checkups.preserve import preserved
from trainvitals.diagnosis.causes import explained, headline_of, health_of
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.initial import initial_loss
from trainvitals.diagnosis.propagation import chi_of, depth_of_failure, propagation, weighted
from trainvitals.diagnosis.registry import all_rules
from trainvitals.diagnosis.rules.init_scale_too_small import InitScaleTooSmall
from trainvitals.diagnosis.verdict import Reason, verdict_of
from trainvitals.remedies.fans import fans_of
from trainvitals.remedies.identify import identify
from trainvitals.structure.parameters import parameters_of, reason_not_measured
from trainvitals.wire import Scalar

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
    before, bit for bit.

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
    initialisers = _initialisers(model)
    with preserved(model):
        history, not_watched, has_loss = measured(model, batches, loss, known[0] if known else None)
        fitted = overfitted(model, batches[0], loss, overfit_steps) if has_loss else None
    rules = [rule for rule in all_rules() if rule.before_training]
    found = [
        *map(_judged, Engine(rules).examine(history)),
        *findings_at_birth(model, history, known, samples_of(batches[0]), fitted, overfit_steps),
    ]
    blind = {
        rule.name(): NO_LOSS
        for rule in rules
        if not has_loss and (Scalar.LOSS in rule.needs or rule.code.startswith("TV4"))
    }
    return _diagnosis(found, not_watched, blind, _measurements(history, initialisers, fitted))


def _judged(finding: Finding) -> Finding:
    """Return a finding as severe as it is before the training.

    During a training, a signal that vanishes is a note until the loss has not fallen for 100 steps.
    """
    if finding.code == InitScaleTooSmall.code and finding.severity is Severity.INFO:
        return replace(finding, severity=Severity.WARNING)
    return finding


def _measurements(
    history: History, initialisers: dict[str, Initialiser], fitted: tuple[float, float] | None
) -> Checkup:
    layers = propagation(history)
    deep = weighted(layers)
    chi = chi_of([layer.S for layer in deep])
    gradients = [layer.gradient_rms or 0.0 for layer in reversed(deep)]
    return Checkup(
        batches=history.last_step + 1,
        initialisers=initialisers,
        propagation=layers,
        chi=chi,
        gradient_chi=chi_of(gradients),
        depth_of_failure=depth_of_failure(chi),
        initial_loss=_initial_loss(history),
        overfit=fitted,
    )


def _initial_loss(history: History) -> InitialLoss | None:
    losses = history.scalar(Scalar.LOSS).finite()
    if len(losses) == 0:
        return None
    start = initial_loss(history)
    if start is None:
        return InitialLoss(seen=float(losses.values[0]))
    return InitialLoss(seen=start.seen, expected=start.expected, formula=start.formula)


def _diagnosis(
    found: Sequence[Finding],
    not_watched: dict[str, str],
    blind: dict[str, str],
    measurements: Checkup,
) -> Diagnosis:
    findings = explained(found, {rule.code: rule.explains for rule in all_rules()})
    headline = headline_of(findings)
    return Diagnosis(
        verdict=verdict_of(
            0,
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


def _initialisers(model: nn.Module) -> dict[str, Initialiser]:
    found = {}
    for parameter in parameters_of({"": model}).values():
        tensor = parameter.tensor
        if reason_not_measured(tensor) is not None or tensor.numel() == 0:
            continue
        if not tensor.isfinite().all():
            found[parameter.name] = Initialiser(name="unknown")
            continue
        own_name = parameter.name.rpartition(".")[2]
        fans = fans_of(parameter.owner, own_name, tensor)
        if fans is None and own_name == "bias":
            weight = getattr(parameter.owner, "weight", None)
            of_weight = fans_of(parameter.owner, "weight", weight) if weight is not None else None
            fan_in = None if of_weight is None else of_weight.fan_in
            found[parameter.name] = identify(tensor, fan_in=fan_in)
        elif fans is None:
            found[parameter.name] = identify(tensor)
        else:
            found[parameter.name] = identify(tensor, fan_in=fans.fan_in, fan_out=fans.fan_out)
    return found
