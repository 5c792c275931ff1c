"""TV408: a term of the loss is detached, constant or weighted 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import USUAL_LOSS, Moment, at
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.loss_parts import Part, loss_parts
from trainvitals.diagnosis.own_loss import has_usual_loss
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import middle, trailing_run
from trainvitals.diagnosis.supervision import (
    DOWNSTREAM,
    NORMAL_LIKELIHOOD,
    loss_kinds,
    only_loss,
)
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class LossTermInactive(Rule):
    """A term of the loss does not train the model: it is detached, constant or weighted 0.

    ## What it detects
    - A term given to `monitor.loss({...})` that is part of the sum and has no gradient, while
      another term has one. Detached copies of all terms beside a total are for display: silent.
    - A term of that sum with exactly the same value, not 0, in 20 steps, while the loss changes.
    - A loss function in the graph of the loss with the factor 0, while the loss is not 0: after
      three steps if it is the only one, after 20 beside others (a weight that is warmed up).
    - A term of the program's own that is multiplied by the whole number 0, as `step // steps` gives
      it, in all measured steps from the start, for 100 steps or more. A factor of 0.0 is silent:
      many configurations have a term that is switched off.
    - A loss function of torch beside others whose mask is 0 everywhere, or which is given no
      elements, in the newest 20 measured steps: as boxes that no matching accepts.
    - A loss function of torch that adds less than a thousandth of the loss, in the median step, and
      stays at 95 % or above of what a constant prediction gives in the first 12 of them: the
      other terms are in another unit and hide it. Not if the program multiplies it by less than
      0.1: it is small on purpose then.
    - Every gradient is the same multiple of its weights in three measured steps: only a penalty on
      the weights passes a gradient, and the rest of the loss was computed from a detached output.
    ## Why it matters
    The loss looks complete and the run ends as a success, but the model was trained for the other
    terms only.
    ## Evidence
    The name of the term, its value and its share of the loss.
    ## What to do
    Remove `.detach()`, `.item()` or `torch.no_grad()` from the term; give it a weight above 0.
    `step / steps` rises to 1, `step // steps` is 0 until then. There is code for a factor of 0 of
    a loss function of torch, which is the term alone, and for predictions that are detached,
    which is the usual loss. A named term is detached in your loss function.
    ## When it is wrong
    A weight that is 0 on purpose for more than 20 steps, or the whole number 0 for more than 100.
    Otherwise, terms of a loss that was summed without names are seen only if torch's own loss
    functions computed them.
    ## References
    Jiang et al., "Training with Confidence" (TrainCheck), 2025, arXiv:2506.14813; PyTorch
    documentation, torch.Tensor.detach.
    """

    code: ClassVar[str] = "TV408"
    stage: ClassVar[Stage] = Stage.WIRING
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV103", "TV603", "TV604", "TV702"}
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "torch.autograd.grad of the term alone is not zero."

    observations: int = threshold(3, "Newest steps in which it holds.")
    constant_steps: int = threshold(20, "Steps with a constant value, or with a factor 0.")
    sum_tolerance: float = threshold(
        1e-4, "Maximum difference of the loss from the sum of its terms, as a share."
    )
    zero_steps: int = threshold(100, "Steps from the start with the whole number 0 as a factor.")
    weight_min: float = threshold(
        0.1, "Factor of a term in the graph of the loss, below which it is small on purpose."
    )
    hidden_max: float = threshold(1e-3, "Median share of a hidden term in the loss.")
    hidden_level: float = threshold(
        0.95, "A hidden term at first, as a share of that of a constant prediction."
    )
    hidden_batches: int = threshold(12, "Measured steps from the start for this level.")
    ratio_tolerance: float = threshold(
        1e-3, "Maximum deviation of a parameter's ratio of gradient to weight, as a share."
    )
    tensors_min: int = threshold(4, "Minimum number of parameters with such a gradient.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        terms = self._terms(history)
        found = (
            self._detached(history, terms)
            or self._constant(history, terms)
            or self._weighted_zero(history)
            or self._times_zero(history)
            or self._masked(history)
            or self._hidden(history)
            or self._penalty_only(history)
        )
        if found is not None:
            yield found

    def _terms(self, history: History) -> Mapping[str, Series]:
        """Return the terms by name, if the loss is their sum; empty otherwise."""
        prefix = f"{Scalar.LOSS_TERM}/"
        names = [n for n in history.scalar_names() if n.startswith(prefix)]
        loss = history.scalar(Scalar.LOSS).finite().last(self.observations)
        if len(names) < 2 or len(loss) < self.observations:
            return {}
        terms = {name.removeprefix(prefix): history.scalar(name) for name in names}
        total, size = np.zeros(len(loss)), np.abs(loss.values).astype(np.float64)
        for series in terms.values():
            newest = series.last(self.observations)
            if not np.array_equal(newest.steps, loss.steps):
                return {}
            total, size = total + newest.values, size + np.abs(newest.values)
        equal = np.abs(total - loss.values) <= self.sum_tolerance * size
        return terms if bool(equal.all()) else {}

    def _detached(self, history: History, terms: Mapping[str, Series]) -> Finding | None:
        kinds = loss_kinds(history)
        if not kinds or not terms:
            return None
        detached = [
            name
            for name in kinds[-1].detached_terms
            if name in terms and (terms[name].values[-self.observations :] != 0).all()
        ]
        if not detached or len(set(kinds[-1].detached_terms) & set(terms)) == len(terms):
            return None
        name = detached[0]
        return self._term(
            name, kinds[-1].step, terms[name], history, "passes no gradient: it is detached"
        )

    def _constant(self, history: History, terms: Mapping[str, Series]) -> Finding | None:
        loss = history.scalar(Scalar.LOSS).finite().last(self.constant_steps)
        if len(loss) < self.constant_steps or len(np.unique(loss.values)) < 2:
            return None
        for name, series in terms.items():
            values = series.values[-self.constant_steps :]
            if (
                len(values) == self.constant_steps
                and values[0] != 0
                and (values == values[0]).all()
            ):
                changed = np.flatnonzero(series.values != values[0])
                since = int(series.steps[changed[-1] + 1 if len(changed) else 0])
                text = f"has had the same value in the last {self.constant_steps} steps"
                return self._term(name, since, series, history, text)
        return None

    def _term(self, name: str, since: int, series: Series, history: History, what: str) -> Finding:
        value = float(series.values[-1])
        loss = float(history.scalar(Scalar.LOSS).finite().values[-1])
        return self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Inactive term: {name} ({number(value)} of a loss of {number(loss)}) {what}.",
            evidence=(
                self._inactive(name),
                Evidence(quantity="value of the term", seen=value, statistic=Scalar.LOSS_TERM),
                Evidence(quantity="loss", seen=loss),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS_TERM,
        )

    def _inactive(self, name: str) -> Evidence:
        return Evidence(
            quantity="terms of the loss without a gradient",
            seen=1.0,
            limit=0.0,
            direction="above",
            healthy=(0.0, 0.0),
            text=name,
        )

    def _weighted_zero(self, history: History) -> Finding | None:
        kinds = loss_kinds(history)
        if not kinds:
            return None
        kind = kinds[-1]
        zero = [t.removesuffix("_weighted_0") for t in kind.wiring if t.endswith("_weighted_0")]
        loss = history.scalar(Scalar.LOSS).since(kind.step)
        patience = self.observations if len(kind.kinds) == 1 else self.constant_steps
        if not zero or len(loss) < patience or not (loss.values[-patience:] != 0).all():
            return None
        return self.finding(
            severity=Severity.ERROR if len(kind.kinds) == 1 else Severity.WARNING,
            since_step=kind.step,
            summary=f"Inactive term: {zero[0]} has had the factor 0 since step {kind.step}; the "
            f"loss of {number(float(loss.values[-1]))} consists of other terms.",
            evidence=(
                self._inactive(zero[0]),
                Evidence(quantity="factor of the term", seen=0.0),
                Evidence(quantity="loss", seen=float(loss.values[-1])),
            ),
            fix=at(Moment.LOSS, f"loss = nn.{zero[0]}()(prediction, y)  # plus your other terms"),
            confidence=0.95,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _times_zero(self, history: History) -> Finding | None:
        """Return terms that are multiplied by the whole number 0 since the start."""
        terms, loss = (history.scalar(s).finite() for s in (Scalar.ZERO_TERMS, Scalar.LOSS))
        if len(terms) < self.constant_steps or len(loss) == 0 or not (terms.values > 0).all():
            return None
        since, steps = int(terms.steps[0]), int(terms.steps[-1] - terms.steps[0])
        newest = float(loss.values[-1])
        if since > loss.steps[0] or steps < self.zero_steps or newest == 0:
            return None
        return self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Inactive term: {number(float(terms.values[-1]))} of the terms of the loss "
            f"has had the factor 0 in all measured steps, for {steps} steps.",
            evidence=(
                self._inactive("multiplied by the whole number 0"),
                Evidence(
                    quantity="steps with the factor 0",
                    seen=float(steps),
                    limit=float(self.zero_steps),
                    direction="above",
                    statistic=Scalar.ZERO_TERMS,
                ),
                Evidence(quantity="loss", seen=newest),
            ),
            confidence=0.85,
            stream=Stream.SCALAR,
            statistic=Scalar.ZERO_TERMS,
        )

    def _masked(self, history: History) -> Finding | None:
        """Return a term whose mask is 0 everywhere, or which is given no elements."""
        only = only_loss(history)
        for i, name in enumerate(only.terms if only else ()):
            share = history.scalar(f"{Scalar.PART_SUPERVISED_SHARE}/{i}")
            none = int(trailing_run(share.values == 0))
            if none < self.constant_steps:
                continue
            since = int(share.steps[-none])
            return self.finding(
                severity=Severity.WARNING,
                since_step=since,
                summary=f"Inactive term: no element has counted in {name} since step {since} "
                f"({none} measured steps); the loss consists of other terms.",
                evidence=(
                    self._inactive(name),
                    Evidence(
                        quantity="share of its elements that count",
                        seen=0.0,
                        statistic=Scalar.PART_SUPERVISED_SHARE,
                    ),
                ),
                confidence=0.9,
                stream=Stream.SCALAR,
                statistic=Scalar.LOSS,
            )
        return None

    def _hidden(self, history: History) -> Finding | None:
        """Return a term that other terms of another unit hide, if it is not learned at first."""
        parts = loss_parts(history)
        if len(parts) < 2 or len({len(p.steps) for p in parts}) > 1:
            return None
        if len(parts[0].steps) < self.hidden_batches:
            return None
        whole = np.sum([np.abs(p.values) for p in parts], axis=0)
        for part in parts:
            share = middle(np.abs(part.values) / np.maximum(whole, 1e-30))
            first = slice(0, self.hidden_batches)
            if part.kind == NORMAL_LIKELIHOOD or not (part.constants[first] > 0).all():
                continue
            if abs(part.scale) < self.weight_min:
                continue  # the program gives it this small weight
            level = middle(part.values[first] / part.constants[first])
            if share < self.hidden_max and level >= self.hidden_level:
                return self._hidden_term(part, share, level, middle(whole[first]))
        return None

    def _hidden_term(self, part: Part, share: float, level: float, whole: float) -> Finding:
        name, steps = part.kind, int(part.steps[0])
        return self.finding(
            severity=Severity.WARNING,
            since_step=steps,
            summary=f"Inactive term: {name} is {number(part.first)} of a loss of {number(whole)}; "
            f"it was at {percent(level)} of that of a constant prediction in the first "
            f"{self.hidden_batches} measured steps.",
            evidence=(
                Evidence(
                    quantity="median share of the term in the loss",
                    seen=share,
                    limit=self.hidden_max,
                    direction="below",
                    healthy=(0.01, None),
                    text=name,
                ),
                Evidence(
                    quantity="the term divided by that of a constant prediction",
                    seen=level,
                    limit=self.hidden_level,
                    direction="above",
                    healthy=(None, 0.8),
                ),
                Evidence(quantity="loss", seen=whole),
            ),
            confidence=0.7,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _penalty_only(self, history: History) -> Finding | None:
        places = history.places(Stream.GRADIENT)
        weights = {p.name: i for i, p in enumerate(history.places(Stream.WEIGHT))}
        rows = [i for i, p in enumerate(places) if p.trainable and p.name in weights]
        n = self.observations
        gradient = window(history, Stream.GRADIENT, Stat.L2, rows, last=n)
        weight = window(
            history, Stream.WEIGHT, Stat.L2, [weights[places[i].name] for i in rows], last=n
        )
        if len(gradient.steps) < n or not np.array_equal(gradient.steps, weight.steps):
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = gradient.values / weight.values
        ratio = ratio[:, (np.isfinite(ratio) & (ratio > 0)).all(axis=0)]
        if ratio.shape[1] < self.tensors_min:
            return None
        usual = np.median(ratio, axis=1, keepdims=True)
        if not (np.abs(ratio - usual) <= self.ratio_tolerance * usual).all():
            return None
        factor = middle(usual[:, 0])
        return self.finding(
            severity=Severity.ERROR,
            since_step=int(history.steps(Stream.GRADIENT)[0]),
            summary=f"Inactive term: each gradient is {number(factor)} times its weights in "
            f"{ratio.shape[1]} parameters, so only a penalty on the weights trains the model.",
            evidence=(
                Evidence(
                    quantity="largest deviation of gradient / weight from its median",
                    seen=float(np.max(np.abs(ratio / usual - 1))),
                    limit=self.ratio_tolerance,
                    direction="below",
                    healthy=(self.ratio_tolerance, None),
                ),
                Evidence(quantity="gradient / weight", seen=factor),
                Evidence(quantity="parameters", seen=float(ratio.shape[1])),
            ),
            fix=USUAL_LOSS if has_usual_loss(history) else "",
            stream=Stream.GRADIENT,
            statistic=Stat.L2,
        )

    @staticmethod
    def sick() -> History:
        """Return two terms, one of which is detached."""
        return _run("kl")

    @staticmethod
    def healthy() -> History:
        """Return two detached terms, logged beside a total that has the graph."""
        return _run("ce,kl")


def _run(detached: str) -> History:
    n = 6
    ce, kl = np.linspace(2.3, 2.0, n), np.linspace(0.5, 0.4, n)
    example = Example(n).scalars(loss=ce + kl, loss_term__ce=ce, loss_term__kl=kl)
    place = Place("0.weight", kind="weight", shape=(4, 4), module="0")
    example.stream(Stream.GRADIENT, [place], {"0.weight": {Stat.L2: 0.1}})
    attributes: dict[str, str | float] = {"detached_terms": detached}
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    return example.history
