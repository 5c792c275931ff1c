"""TV702: strong weight decay pulls the biases to zero."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import biases_apart
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import is_matrix, rms_window
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median, middle
from trainvitals.wire import Place, Scalar, Stat, Stream


@dataclass(frozen=True)
class BiasRegularised(Rule):
    """Weight decay holds the biases at zero while the weights keep their size.

    ## What it detects
    In a group of the optimizer, learning rate times weight decay is above 0.001: an unused
    parameter of it loses 63 % within fewer than 1,000 steps. The median bias has lost more than
    70 % of its initial RMS, and the median weight matrix less than 20 %. Biases that start at zero
    and biases before a normalisation layer are not counted. Or: learning rate times weight decay is
    above 0.0005, and the median scale of the normalisation layers has lost a tenth of its size.
    ## Why it matters
    A bias has no scale to regularise: it shifts an output to the level of the data. Held at zero,
    the network needs its weights to produce constant parts such as the mean of the targets.
    ## Evidence
    The RMS of the biases and of the weights relative to the start, and the strongest decay.
    ## What to do
    Put biases and the parameters of normalisation layers into a group with `weight_decay=0`.
    ## When it is wrong
    Biases that should be small: for standardised targets and symmetric features the loss hardly
    changes.
    ## References
    Goodfellow, Bengio & Courville, "Deep Learning", 2016, section 7.1; He et al., "Bag of Tricks
    for Image Classification", 2019, arXiv:1812.01187 ("no bias decay").
    """

    code: ClassVar[str] = "TV702"
    stage: ClassVar[Stage] = Stage.OPTIMIZER
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = frozenset({"TV501", "TV806", "TV502", "TV507"})
    needs: ClassVar[tuple[Need, ...]] = (Stream.WEIGHT,)
    fix: ClassVar[str] = biases_apart("['weight_decay'] = 0.0")
    refuted_by: ClassVar[str] = "Without decay of the biases the loss is the same."

    decay_rate_gains: float = threshold(
        5e-4, "Learning rate times weight decay, per step, for the scales of normalisation layers."
    )
    gain_share_min: float = threshold(
        0.9, "RMS of the median scale relative to the start; fires below this value."
    )
    decay_rate_max: float = threshold(1e-3, "Learning rate times weight decay, per step.")
    bias_share_min: float = threshold(
        0.3, "RMS of the median bias relative to the start; fires below this value."
    )
    weight_share_min: float = threshold(
        0.8, "The same of the median weight matrix: below it, all parameters decay."
    )
    steps_min: int = threshold(60, "Minimum number of steps.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at a scale, or at the bias of the output layer if there is one."""
        rate = _strongest_decay(history)
        if history.steps_seen < self.steps_min or Course(history).converged:
            return
        found = list(self._gains(history, rate))
        if found or not rate > self.decay_rate_max:
            yield from found
            return
        places = history.places(Stream.WEIGHT)
        biases = [i for i, p in enumerate(places) if _counts(p)]
        matrices = [i for i, p in enumerate(places) if is_matrix(p) and p.optimized]
        kept, kept_weights = _kept(history, biases), middle(_kept(history, matrices))
        if len(kept) == 0 or not kept_weights >= self.weight_share_min:
            return
        share = middle(kept)
        if not share < self.bias_share_min:
            return
        outputs = [i for i in biases if "output" in places[i].flags]
        yield self.finding(
            severity=Severity.WARNING,
            where=places[(outputs or biases)[0]].name,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=(
                f"Biases are regularised: the median bias has {percent(share)} of its initial "
                f"size, the weights {percent(kept_weights)}; a group loses {percent(rate)} per "
                "step by weight decay."
            ),
            evidence=(
                Evidence(
                    quantity="RMS of the median bias relative to the start",
                    seen=share,
                    limit=self.bias_share_min,
                    direction="below",
                    healthy=(0.7, None),
                ),
                Evidence(
                    quantity="learning rate times weight decay, strongest group",
                    seen=rate,
                    limit=self.decay_rate_max,
                    direction="above",
                    healthy=(0.0, 5e-4),
                ),
                Evidence(
                    quantity="RMS of the median weight matrix relative to the start",
                    seen=kept_weights,
                    text=f"number of biases: {number(float(len(kept)))}",
                ),
            ),
            confidence=0.8,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    def _gains(self, history: History, rate: float) -> Iterator[Finding]:
        """Yield a finding if weight decay shrinks the scales of the normalisation layers."""
        places = history.places(Stream.WEIGHT)
        rows = [i for i, p in enumerate(places) if p.kind == "norm_scale" and p.optimized]
        kept = _kept(history, rows)
        if not rate > self.decay_rate_gains or len(kept) == 0:
            return
        share = middle(kept)
        if not share < self.gain_share_min:
            return
        yield self.finding(
            severity=Severity.WARNING,
            where=places[rows[0]].name,
            since_step=int(history.steps(Stream.WEIGHT)[0]),
            summary=(
                f"The scales of normalisation layers are regularised: the median one has "
                f"{percent(share)} of its initial size; a group loses {percent(rate)} per step by "
                "weight decay."
            ),
            evidence=(
                Evidence(
                    quantity="RMS of the median scale relative to the start",
                    seen=share,
                    limit=self.gain_share_min,
                    direction="below",
                    healthy=(0.97, None),
                ),
                Evidence(
                    quantity="learning rate times weight decay, strongest group",
                    seen=rate,
                    limit=self.decay_rate_gains,
                    direction="above",
                    healthy=(0.0, 1e-4),
                ),
            ),
            confidence=0.75,
            stream=Stream.WEIGHT,
            statistic=Stat.L2,
        )

    @staticmethod
    def sick() -> History:
        """Return biases that fall to a twentieth under a decay of 30."""
        return _run(decay=30.0)

    @staticmethod
    def healthy() -> History:
        """Return the same fall under a usual decay: the gradient moved the biases."""
        return _run(decay=0.1)


def _counts(place: Place) -> bool:
    return place.kind == "bias" and place.optimized and "before_norm" not in place.flags


def _kept(history: History, rows: list[int]) -> Floats:
    """Return RMS now over RMS at the start of the parameters that did not start at zero."""
    if not rows or len(history.steps(Stream.WEIGHT)) < 10:
        return np.empty(0)
    start = rms_window(history, Stream.WEIGHT, rows, first=1).values[0]
    now = median(rms_window(history, Stream.WEIGHT, rows, last=5).values)
    known = (start > 0) & np.isfinite(start) & np.isfinite(now)
    kept: Floats = now[known] / start[known]
    return kept


def _strongest_decay(history: History) -> float:
    """Return the largest median of learning rate times weight decay over the groups; 0 if none."""
    strongest = 0.0
    for name in history.scalar_names():
        kind, _, group = name.partition("/")
        if kind != Scalar.WEIGHT_DECAY:
            continue
        decay = history.scalar(name).finite().values
        rate = history.scalar(f"{Scalar.LEARNING_RATE}/{group}").finite().values
        if len(decay) and len(rate):
            strongest = max(strongest, middle(decay[-50:]) * middle(rate[-50:]))
    return strongest


def _run(*, decay: float) -> History:
    n = 80
    places = [
        Place("0.weight", "weight", (8, 8), 0, "0", "Linear"),
        Place("0.bias", "bias", (8,), 0, "0", "Linear", flags=("output",)),
    ]
    falling = math.sqrt(8) * 0.1 * np.exp(-np.arange(n) / 25)
    return (
        Example(n)
        .scalars(loss=np.full(n, 1.0), learning_rate__0=1e-3, weight_decay__0=decay)
        .stream(Stream.WEIGHT, places, {"0.weight": {Stat.L2: 2.0}, "0.bias": {Stat.L2: falling}})
        .history
    )
