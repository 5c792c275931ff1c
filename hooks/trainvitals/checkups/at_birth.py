"""Findings that only a checkup can make: it sees the optimizer's groups and trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from msgspec.structs import replace
from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.api.schema import Evidence, Finding, PropagatedLayer, Severity
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import called, window
from trainvitals.diagnosis.propagation import LAYERS_MIN, propagation, weighted
from trainvitals.diagnosis.rule import Rule
from trainvitals.diagnosis.rules.dead_relu import (
    ADVICE_DEAD_AT_INITIALISATION,
    BIASES_TO_ZERO,
    LEAKY,
    NEGATIVE_BIAS,
    DeadRelu,
)
from trainvitals.diagnosis.rules.exploding_gradient import ExplodingGradient
from trainvitals.diagnosis.rules.no_learning import NoLearning
from trainvitals.diagnosis.rules.parameter_not_updated import ParameterNotUpdated
from trainvitals.diagnosis.rules.saturated_activation import SaturatedActivation
from trainvitals.diagnosis.rules.vanishing_gradient import VanishingGradient
from trainvitals.diagnosis.rules.wrong_train_eval_mode import WrongTrainEvalMode
from trainvitals.diagnosis.signals import log10, median
from trainvitals.report.text import counted
from trainvitals.structure.parameters import parameters_of
from trainvitals.wire import Stat, Stream

R = TypeVar("R", bound=Rule)

ALWAYS_ZERO = ("units", "always zero")
SATURATED = ("entries", "saturated")
SAMPLES_MIN = 32
"""Minimum number of samples of a batch for a statement about its dead units."""
OUTSIDE_ERROR = 0.2
"""Share of the trainable entries that no optimizer updates, from which it is an error."""
FALL_MIN = 0.5
"""Share by which the loss on one batch must fall."""


def findings_at_birth(
    model: nn.Module,
    history: History,
    optimizers: Sequence[Optimizer],
    samples: int,
    fitted: tuple[float, float] | None,
    steps: int,
    rules: Sequence[Rule],
) -> Iterator[Finding]:
    """Yield the findings about the optimizer, the modes, the units and the one-batch test.

    Dead and saturated units and gradients are judged by the thresholds of `rules`.
    """
    if optimizers:
        yield from _outside(model, optimizers)
    yield from _modes(model)
    vanishing, exploding = _of(VanishingGradient, rules), _of(ExplodingGradient, rules)
    yield from _gradients(propagation(history), vanishing, exploding)
    if samples >= SAMPLES_MIN:
        dead = _of(DeadRelu, rules)
        units = _units(history, Stat.INACTIVE_SHARE, dead, dead.dead_share_warning, ALWAYS_ZERO)
        # Nothing was trained yet, so the rule's own code, a smaller learning rate, cannot help.
        fix = _against_dead_units(history)
        yield from (replace(f, fix=fix, advice=ADVICE_DEAD_AT_INITIALISATION) for f in units)
    saturated = _of(SaturatedActivation, rules)
    limit = saturated.saturated_share_max
    yield from _units(history, Stat.SATURATED_SHARE, saturated, limit, SATURATED)
    if fitted is not None:
        yield from _not_fitted(*fitted, steps)


def _of(kind: type[R], rules: Sequence[Rule]) -> R:
    """Return the rule of class `kind` among `rules`."""
    return next(rule for rule in rules if isinstance(rule, kind))


def _outside(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[Finding]:
    held = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    trainable = [p for p in parameters_of({"": model}).values() if p.tensor.requires_grad]
    missing = [p for p in trainable if id(p.tensor) not in held]
    if not missing:
        return
    share = sum(p.tensor.numel() for p in missing) / sum(p.tensor.numel() for p in trainable)
    names = ", ".join(p.name for p in missing[:8])
    rule = ParameterNotUpdated()
    yield rule.finding(
        severity=Severity.ERROR if share > OUTSIDE_ERROR else Severity.WARNING,
        where=missing[0].name,
        since_step=0,
        summary=f"Parameter not updated: {len(missing)} trainable parameters are in no parameter "
        f"group of the optimizer, {percent(share)} of the trainable entries, "
        f"first {missing[0].name}.",
        evidence=(
            Evidence(quantity="share of the trainable entries outside the optimizer", seen=share),
            Evidence(quantity="parameters outside the optimizer", seen=names),
        ),
        fix="optimizer.add_param_group({'params': [p for p in model.parameters() if id(p) not in "
        "{id(q) for g in optimizer.param_groups for q in g['params']}]})",
        confidence=0.9,
    )


def _modes(model: nn.Module) -> Iterator[Finding]:
    norms = [
        (name, m)
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.running_mean is not None
    ]
    if model.training or norms:  # with such norms, the rule itself reports them
        return
    yield WrongTrainEvalMode().finding(
        severity=Severity.INFO,
        since_step=0,
        summary="The model is in eval mode: dropout is off. Call model.train() before training.",
        evidence=(Evidence(quantity="model.training", seen="False"),),
        confidence=1.0,
    )


def _units(
    history: History, statistic: Stat, rule: Rule, share_max: float, words: tuple[str, str]
) -> Iterator[Finding]:
    places = history.places(Stream.ACTIVATION)
    rows = [
        row
        for _, row in sorted((p.depth, i) for i, p in enumerate(places) if "output" not in p.flags)
    ]
    values = window(history, Stream.ACTIVATION, statistic, rows, first=4).values
    if len(values) == 0:
        return
    shares = median(values)
    bad = [i for i, share in enumerate(shares) if share > share_max]
    if not bad:
        return
    # A layer whose units are zero for all samples passes neither the signal nor a gradient on.
    blocking = [i for i in bad if statistic is Stat.INACTIVE_SHARE and shares[i] >= 1]
    row = (blocking or bad)[0]
    first, share = places[rows[row]], float(shares[row])
    worst = float(np.nanmax(shares))
    more = f"; {counted(len(bad) - 1, 'other layer')} affected" if len(bad) > 1 else ""
    if blocking:
        more = f", so that it passes neither signal nor gradient on{more}"
    what, state = words
    yield rule.finding(
        severity=Severity.ERROR if blocking else Severity.WARNING,
        where=first.name,
        since_step=0,
        summary=f"Before the training, {percent(share)} of the {what} of {called(first)} are "
        f"{state} on these batches{more}.",
        evidence=(
            Evidence(
                quantity=f"share of {what} that are {state}",
                seen=share,
                limit=share_max,
                direction="above",
                healthy=(0.0, 0.3),
                unit="share",
            ),
            Evidence(quantity="largest share of a layer", seen=worst, unit="share"),
            Evidence(quantity="layers affected", seen=float(len(bad))),
        ),
        confidence=0.95 if blocking else 0.8,
        stream=Stream.ACTIVATION,
        statistic=statistic,
    )


def _against_dead_units(history: History) -> str:
    biases = [i for i, p in enumerate(history.places(Stream.WEIGHT)) if p.kind == "bias"]
    means = window(history, Stream.WEIGHT, Stat.MEAN, biases, first=1).values
    return BIASES_TO_ZERO if (means < NEGATIVE_BIAS).any() else LEAKY


def _gradients(
    layers: Sequence[PropagatedLayer], vanishing: VanishingGradient, exploding: ExplodingGradient
) -> Iterator[Finding]:
    """Yield a finding if the gradient of the first layer is far from that of the last one."""
    deep = [layer for layer in weighted(layers) if layer.gradient_rms]
    if len(deep) < LAYERS_MIN:
        return
    sizes = np.log10([layer.gradient_rms or np.nan for layer in deep])
    ratio = float(sizes[0] - sizes[-1])
    low, high = log10([vanishing.gradient_ratio_min, exploding.gradient_ratio_max]).tolist()
    vanishes, explodes = ratio < low, ratio > high
    if not vanishes and not explodes:
        return
    drops = np.diff(sizes)
    place = deep[int(np.argmax(drops) if vanishes else np.argmin(drops))]
    rule = vanishing if vanishes else exploding
    what = "smaller" if vanishes else "larger"
    yield rule.finding(
        severity=Severity.WARNING,
        where=place.layer,
        since_step=0,
        summary=f"{'Vanishing' if vanishes else 'Exploding'} gradient: before the training, the "
        f"gradient of {deep[0].layer} is {number(10 ** abs(ratio))} times {what} than that of "
        f"{deep[-1].layer}.",
        evidence=(
            Evidence(
                quantity="gradient RMS of the first layer relative to the last, log10",
                seen=ratio,
                limit=low if vanishes else high,
                direction="below" if vanishes else "above",
                healthy=(-2.0, 2.0),
            ),
            Evidence(quantity="layers with a weight", seen=float(len(deep))),
        ),
        confidence=0.8,
        stream=Stream.GRADIENT,
        statistic=Stat.L2,
    )


def _not_fitted(before: float, after: float, steps: int) -> Iterator[Finding]:
    if after <= FALL_MIN * before or before <= 0:
        return
    yield NoLearning().finding(
        severity=Severity.ERROR,
        since_step=0,
        summary=f"The model cannot fit one batch: after {steps} steps of AdamW with learning rate "
        f"0.001 the loss is {number(after)}, at the start {number(before)}.",
        evidence=(
            Evidence(
                quantity="loss on one batch relative to the start",
                seen=after / before,
                limit=FALL_MIN,
                direction="above",
                healthy=(0.0, 0.1),
            ),
            Evidence(quantity="loss at the start", seen=before),
            Evidence(quantity="steps", seen=float(steps)),
        ),
        confidence=0.8,
    )
