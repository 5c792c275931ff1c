"""TV803: the targets of a regression are far from the scale of the predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np
from msgspec.structs import replace

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import STANDARD_TARGET
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.loss_parts import loss_parts
from trainvitals.diagnosis.outliers import OUTLIER_SHARE, outlier_share
from trainvitals.diagnosis.places import has_no_offset
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import middle
from trainvitals.diagnosis.supervision import (
    DISTANCES,
    DOWNSTREAM,
    NORMAL_LIKELIHOOD,
    only_loss,
    usual_deviation,
)
from trainvitals.wire import Event, EventKind, Scalar, Stat, Stream

_FIRST: Final = 3
"""Minimum number of measured steps from the start."""


class _Scales(NamedTuple):
    """Targets over the run, and predictions at the start."""

    step: int
    mean: float
    std: float
    predicted_mean: float
    predicted_std: float


@dataclass(frozen=True)
class TargetNotScaled(Rule):
    """The targets of a regression have another scale than the model's predictions.

    ## What it detects
    For MSELoss, L1Loss, SmoothL1Loss, HuberLoss and GaussianNLLLoss, with the targets of the
    measured batches and the predictions of the first three: the mean of the targets lies further
    than 10 from that of the predictions and from 0, or their standard deviation is above 10, each
    also in units of ten standard deviations of the initial predictions if these are larger than 1.
    Up to ten times these limits it is information until the loss is, after 100 steps, still above
    0.8 of that of the best constant prediction. Where the targets are not measured, the first loss
    gives their distance, and 30 is the limit, if the loss has not fallen by 30 % in 100 steps; so
    does one term of a sum, at once, if the sum shows its factor. The deviation is that of batches
    without outliers; the finding is information once the loss is 1 % of that of a constant
    prediction. With MSELoss also the reverse: the standard deviation of the targets is below 0.01
    and a thirtieth of that of the initial predictions, and after 100 steps the loss still exceeds
    half of the targets' variance. And, for linear and convolutional layers without any bias or norm
    layer: the mean of the targets is more than one standard deviation from 0, and after 100 steps
    the loss is still above a quarter of that of the best constant prediction.
    ## Why it matters
    A network starts with outputs near 0 ± 1. For targets of 5000 ± 1000 the gradients are thousands
    of times larger than usual, only the last bias moves towards the mean, and the learning rates
    that others use do not fit. For tiny targets the output's own noise is larger than the signal.
    ## Evidence
    Mean and standard deviation of the targets and of the initial predictions.
    ## What to do
    Standardise the targets with the mean and standard deviation of the training set, and undo it on
    the predictions; for prices and counts take the logarithm first.
    ## When it is wrong
    A model that scales its own output later than the loss sees it; learning rates that were chosen
    for this scale. With different losses in one program the rule is silent.
    ## References
    LeCun et al., "Efficient BackProp", 1998, section 4; Karpathy, "A Recipe for Training Neural
    Networks", 2019 ("init well").
    """

    code: ClassVar[str] = "TV803"
    stage: ClassVar[Stage] = Stage.DATA
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV408"}
    fix: ClassVar[str] = STANDARD_TARGET
    refuted_by: ClassVar[str] = "The first predictions have the mean and the scale of the targets."

    scale_max: float = threshold(
        10.0, "Mean of the targets less that of the predictions, or standard deviation."
    )
    scale_sure: float = threshold(
        100.0, "The same distance from which the finding is a warning before the loss shows harm."
    )
    scale_max_loss: float = threshold(
        30.0, "The same distance where only the first loss shows it, in units of the predictions."
    )
    small_max: float = threshold(
        0.01, "Standard deviation of the targets; only below it they count as small."
    )
    small_share: float = threshold(
        1 / 30, "Standard deviation of the targets divided by that of the initial predictions."
    )
    steps_min_small: int = threshold(
        100, "Minimum number of steps for targets that are small, or not measured."
    )
    unexplained_min: float = threshold(
        0.5, "Loss divided by the variance of the targets, for targets that are small."
    )

    offset_max: float = threshold(
        1.0, "Mean of the targets divided by their deviation, for a model without any bias."
    )
    offset_level_min: float = threshold(
        0.25, "Loss now as a share of that of the best constant prediction, for this case."
    )
    level_min: float = threshold(
        0.8, "Loss as a share of that of a constant prediction that shows harm, up to `scale_sure`."
    )
    fitted_max: float = threshold(
        0.01, "Loss divided by that of a constant prediction, below which this is information."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        kind = only_loss(history)
        if kind is not None and kind.terms:
            yield from self._of_a_term(history)
            return
        compared = (*DISTANCES, NORMAL_LIKELIHOOD)
        if kind is None or len(kind.kinds) != 1 or kind.kinds[0] not in compared:
            return
        if (scales := self._scales(history)) is None:
            yield from self._from_loss(history, kind.kinds[0])
            return
        usual = usual_deviation(history)
        # The deviation that a few targets have says nothing about the scale of the others.
        held_by_few = math.isnan(usual) or outlier_share(history) >= OUTLIER_SHARE
        scales = scales._replace(std=0.0 if held_by_few else min(scales.std, usual))
        unit = max(1.0, scales.predicted_std)
        # Predictions that are far from targets near 0 are no fault of the targets.
        far = min(abs(scales.mean - scales.predicted_mean), abs(scales.mean))
        if max(far, scales.std) > self.scale_max * unit:
            found = self._large(scales, far, unit)
            harms = self._harms(history, sure=max(far, scales.std) > self.scale_sure * unit)
            yield found if harms else replace(found, severity=Severity.INFO)
        elif has_no_offset(history):
            yield from self._no_bias(history, scales)
        elif kind.kinds[0] == "MSELoss" and not _is_sum(history):
            yield from self._small(history, scales)

    def _of_a_term(self, history: History) -> Iterator[Finding]:
        """Yield a finding if one term of a sum shows targets far from the first predictions."""
        unit = _largest_output(history)
        for part in loss_parts(history):
            known = part.kind in DISTANCES and part.scale > 0 and len(part.steps) >= _FIRST
            mean = middle(part.values[:_FIRST]) / part.scale if known else 0.0
            far = math.sqrt(mean) if part.kind == "MSELoss" else mean
            if not far > self.scale_max_loss * unit:
                continue
            found = self._far(
                int(part.steps[0]),
                far,
                self.scale_max_loss * unit,
                f"the {part.kind} of the sum begins at {number(mean)} for each target, so its "
                f"targets lie about {number(far)} from the first predictions.",
            )
            fitted = middle(part.values[-_FIRST:]) < self.fitted_max * part.constant
            # Which part of the targets belongs to the term is in the program's own code.
            yield replace(found, severity=Severity.INFO if fitted else Severity.WARNING, fix="")
            return

    def _harms(self, history: History, *, sure: bool) -> bool:
        """Whether the loss is not small yet or, unless `sure`, still near that of a constant."""
        course = Course(history)
        constant = course.constant
        if not sure and len(course.loss) < self.steps_min_small:
            return False
        level = self.fitted_max if sure else self.level_min
        return constant is None or course.now() >= level * constant

    def _scales(self, history: History) -> _Scales | None:
        mean, std = (history.scalar(n).finite() for n in (Scalar.TARGET_MEAN, Scalar.TARGET_STD))
        predicted_mean, predicted_std = (
            history.scalar(n).finite().values[:_FIRST]
            for n in (Scalar.PREDICTION_MEAN, Scalar.PREDICTION_STD)
        )
        if len(mean) < _FIRST or len(std) < _FIRST or len(predicted_mean) < _FIRST:
            return None
        return _Scales(
            int(mean.steps[0]),
            middle(mean.values),
            middle(std.values),
            float(predicted_mean[0]),  # a large step changes the next ones
            float(predicted_std[0]),
        )

    def _from_loss(self, history: History, kind: str) -> Iterator[Finding]:
        """Yield a finding if the first loss shows the distance of targets that are not measured.

        An absolute error does not keep its targets in the graph.
        """
        course = Course(history)
        if kind not in DISTANCES:
            return
        if len(course.loss) < self.steps_min_small or course.learned(share=0.3):
            return  # another factor of the loss, or targets that the model reaches
        outputs = [p for p in history.places(Stream.ACTIVATION) if "output" in p.flags]
        loss = history.scalar(Scalar.LOSS).finite().values[:_FIRST].astype(np.float64)
        if len(outputs) != 1 or len(loss) < _FIRST or _is_sum(history):
            return
        mean, std = (
            middle(history.series(Stream.ACTIVATION, s, outputs[0].name).values[:_FIRST])
            for s in (Stat.MEAN, Stat.STD)
        )
        unit = float(np.fmax(1.0, np.hypot(mean, std)))
        far = math.sqrt(middle(loss)) if kind == "MSELoss" else middle(loss)
        limit = self.scale_max_loss * unit
        if not far > limit:
            return
        yield self._far(
            0,
            far,
            limit,
            f"the first loss is {number(middle(loss))}, so the targets lie about {number(far)} "
            f"from the first predictions ({number(mean)} ± {number(std)}).",
        )

    def _far(self, since: int, far: float, limit: float, text: str) -> Finding:
        evidence = Evidence(
            quantity="distance of the targets from the predictions, from the first loss",
            seen=far,
            limit=limit,
            direction="above",
            healthy=(0.0, limit / 10),
        )
        scales = _Scales(since, math.nan, math.nan, math.nan, math.nan)
        return self._finding(scales, f"Targets are not scaled: {text}", [evidence], 0.8)

    def _large(self, scales: _Scales, far: float, unit: float) -> Finding:
        text = "" if unit == 1.0 else "10 standard deviations of the initial predictions"
        limit = self.scale_max * unit
        evidence = [
            Evidence(
                quantity=quantity,
                seen=value,
                limit=limit,
                direction="above",
                healthy=(0.0, limit / 3),
                text=text,
                statistic=statistic,
            )
            for quantity, value, statistic in (
                ("distance of the targets' mean from the predictions'", far, Scalar.TARGET_MEAN),
                ("standard deviation of the targets", scales.std, Scalar.TARGET_STD),
            )
            if value > limit
        ]
        return self._finding(
            scales,
            f"Targets are not scaled: they are {number(scales.mean)} ± {number(scales.std)}, the "
            f"first predictions {number(scales.predicted_mean)} ± {number(scales.predicted_std)}.",
            evidence,
            0.95,
        )

    def _small(self, history: History, scales: _Scales) -> Iterator[Finding]:
        share = scales.std / scales.predicted_std if scales.predicted_std > 0 else math.inf
        course = Course(history)
        small = scales.std < self.small_max and 0 < share < self.small_share
        if not small or len(course.loss) < self.steps_min_small:
            return
        unexplained = course.now() / scales.std**2
        if not unexplained > self.unexplained_min:
            return
        yield self._finding(
            scales,
            f"Targets are not scaled: their standard deviation {number(scales.std)} is "
            f"{percent(share)} of that of the first predictions, and the loss is still "
            f"{number(unexplained)} times their variance.",
            [
                Evidence(
                    quantity="standard deviation of the targets divided by that of the first "
                    "predictions",
                    seen=share,
                    limit=self.small_share,
                    direction="below",
                    healthy=(0.1, None),
                    statistic=Scalar.TARGET_STD,
                ),
                Evidence(
                    quantity="loss divided by the variance of the targets",
                    seen=unexplained,
                    limit=self.unexplained_min,
                    direction="above",
                ),
            ],
            0.7,
        )

    def _no_bias(self, history: History, scales: _Scales) -> Iterator[Finding]:
        """Yield a finding for targets with an offset that no parameter can represent."""
        course = Course(history)
        constant = course.constant
        offset = abs(scales.mean) / max(scales.std, 1e-30)
        if not offset > self.offset_max or constant is None or not constant > 0:
            return
        level = course.now() / constant
        if len(course.loss) < self.steps_min_small or not level > self.offset_level_min:
            return
        yield self._finding(
            scales,
            f"Targets are not centred: their mean is {number(scales.mean)}, {number(offset)} times "
            "their standard deviation, and no layer has a bias that could represent it; the loss "
            f"is still {number(level)} times that of a constant prediction.",
            [
                Evidence(
                    quantity="mean of the targets divided by their standard deviation",
                    seen=offset,
                    limit=self.offset_max,
                    direction="above",
                    healthy=(0.0, 0.1),
                    statistic=Scalar.TARGET_MEAN,
                ),
                Evidence(
                    quantity="loss divided by that of the best constant prediction",
                    seen=level,
                    limit=self.offset_level_min,
                    direction="above",
                ),
            ],
            0.8,
        )

    def _finding(
        self, scales: _Scales, summary: str, evidence: list[Evidence], confidence: float
    ) -> Finding:
        return self.finding(
            severity=Severity.WARNING,
            since_step=scales.step,
            summary=summary,
            evidence=evidence,
            confidence=confidence,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MEAN,
        )

    @staticmethod
    def sick() -> History:
        """Return prices of 5000 ± 1000."""
        return _run(5000.0, 1000.0, 0.1)

    @staticmethod
    def healthy() -> History:
        """Return the same prices with a model whose output starts at their mean and scale."""
        return _run(5000.0, 1000.0, 600.0, predicted_mean=4900.0)


def _largest_output(history: History) -> float:
    """Return the root mean square of the largest output at the start, at least 1."""
    sizes = [1.0]
    for place in history.places(Stream.ACTIVATION):
        if "output" in place.flags:
            mean, std = (
                middle(history.series(Stream.ACTIVATION, s, place.name).values[:_FIRST])
                for s in (Stat.MEAN, Stat.STD)
            )
            sizes.append(math.hypot(mean, std))
    return float(np.nanmax(sizes))


def _is_sum(history: History) -> bool:
    return any(
        event.kind == EventKind.LOSS_KIND and event.attributes.get("reduction") == "sum"
        for event in history.events
    )


def _run(mean: float, std: float, predicted_std: float, predicted_mean: float = 0.0) -> History:
    seen = {"loss": mean**2, "target_mean": mean, "target_std": std}
    seen |= {"prediction_mean": predicted_mean, "prediction_std": predicted_std}
    history = Example(20).scalars(**{k: np.full(20, v) for k, v in seen.items()}).history
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {"target_shape": "(32, 1)"}))
    return history
