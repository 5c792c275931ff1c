"""TV801: the inputs of the first layer are far from unit scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, times
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.first_layer import (
    fan_in_before_norm,
    first_called,
    is_before_layer_norm,
)
from trainvitals.diagnosis.fixes import STANDARD_INPUT
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.input_drift import drift_of_inputs
from trainvitals.diagnosis.input_scale import (
    FIRST,
    FirstInput,
    first_median,
    input_of_first_layer,
    measured_rms,
)
from trainvitals.diagnosis.missing_values import KNOWN, coded
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.supervision import DOWNSTREAM
from trainvitals.wire import Place, Scalar, Stat, Stream

_MEASURED: Final = (
    *(Scalar.INPUT_LARGEST_FEATURE, Scalar.INPUT_FEATURE_SPREAD),
    *(Scalar.INPUT_MEAN, Scalar.INPUT_STD),
)


@dataclass(frozen=True)
class UnnormalisedInput(Rule):
    """The inputs of the first layer are much larger or smaller than 1.

    ## What it detects
    The scale of the inputs. Where the model's first input is measured itself, its RMS counts.
    Otherwise from two measurements of the first layer in the first three measured steps: (a) the
    RMS of its outputs without the bias, divided by RMS(W)·√fan_in, which is the RMS of the inputs
    while the weights are random; (b) RMS(∂L/∂W)/RMS(∂L/∂b), the inputs' RMS too. Reported when
    all known measurements are above 20, or above 5 while the loss has not fallen by 10 % after 60
    steps; or when (a) and (b) say that a whole input vector, without its mean over samples, has a
    norm below 0.05. Recurrent layers are judged only where the input is measured: the gradient of
    their bias is a sum over time that can cancel. Their inputs are near 0 if the RMS is below 0.01
    and the norm of an input at one time below 0.05.
    Before a normalisation layer, and elsewhere too: a feature of a table whose RMS is above 10 and
    more than 1,000 times that of the median feature; an input with a mean beyond ±10 that is more
    than 20 times its standard deviation; an input with a norm below 0.05, which the normalisation's
    ε hides; a value beyond ±10 that a feature of a table repeats, more than 50 standard deviations
    of its other values away. Large inputs are judged before a LayerNorm or RMSNorm, not before a
    BatchNorm.
    ## Why it matters
    The curvature of the loss along the first layer's weights grows with the square of the inputs:
    at 10 the largest stable learning rate is 100 times smaller than for standardised inputs, while
    all other layers need the usual one. With inputs near 0, the bias alone determines the output.
    Behind a first layer with a normalisation, one huge feature hides all others, and a large mean
    lets the running statistics lag behind the weights: the model is right in training and wrong in
    evaluation.
    ## Evidence
    The RMS of the inputs after both measurements.
    ## What to do
    Standardise each feature with the mean and standard deviation of the training set, once: scaling
    twice gives inputs near 0. Images: divide by 255.
    ## When it is wrong
    Inputs that grow on purpose, as the states of a simulation do. Pretrained first layers, whose
    weights fit the inputs: (a) overestimates. Inputs that are large on purpose, with a first layer
    initialised for them.
    ## References
    LeCun et al., "Efficient BackProp", 1998, section 4.3; Karpathy, "A Recipe for Training Neural
    Networks", 2019.
    """

    code: ClassVar[str] = "TV801"
    stage: ClassVar[Stage] = Stage.DATA
    before_training: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV302", "TV303", "TV901", "TV903"}
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ()
    fix: ClassVar[str] = STANDARD_INPUT
    refuted_by: ClassVar[str] = "The inputs of the first layer have a mean and a scale near one."

    rms_max: float = threshold(20.0, "RMS of the inputs' entries.")
    size_max: float = threshold(
        10.0, "RMS before a LayerNorm; RMS of the largest feature; mean of all inputs."
    )
    rms_max_stuck: float = threshold(
        5.0, "The same limit while the loss has not fallen by `fall_min` after `steps_stuck`."
    )
    steps_stuck: int = threshold(60, "Steps after which a loss that has not fallen is evidence.")
    fall_min: float = threshold(0.1, "Fall of the loss, as a share of the initial loss.")
    norm_min: float = threshold(
        0.05, "Norm of an input vector's deviation across samples; a one-hot vector has 1."
    )

    rms_min: float = threshold(
        0.01, "RMS of the inputs of a recurrent layer, below which they are near 0."
    )
    offset_ratio: float = threshold(
        20.0, "Mean of the inputs over their standard deviation, before a normalisation layer."
    )
    far_min: float = threshold(
        50.0, "Distance of a repeated value from the mean of its feature, in standard deviations."
    )
    feature_ratio: float = threshold(
        1000.0, "RMS of the largest feature of a table over that of the median one."
    )

    drift_max: float = threshold(
        30.0, "Factor up or down between the RMS of the inputs at the start and now."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding, at the first layer."""
        found = (
            self._by_drift(history)
            or self._by_value(history)
            or next(self._by_layer(history), None)
            or next(self._by_input(history), None)
        )
        if found is not None:
            yield found

    def _by_drift(self, history: History) -> Finding | None:
        """Return a finding for inputs whose scale changes while the model is trained."""
        place, seen = first_called(history), drift_of_inputs(history, self.drift_max)
        if place is None or seen is None or not Course(history).may_be_judged:
            return None
        change = seen.now / seen.start
        return self._finding(
            history,
            place.name,
            f"Unnormalised input: the inputs had an RMS of {number(seen.start)} at the start and "
            f"have {number(seen.now)} now; does a transform change the stored samples in place, "
            "again in each epoch?",
            Evidence(
                quantity="RMS of the inputs now over that at the start",
                seen=change,
                limit=1 / self.drift_max if change < 1 else self.drift_max,
                direction="below" if change < 1 else "above",
                healthy=(0.2, 5.0),
            ),
            fix="",
            since_step=seen.since_step,
        )

    def _by_value(self, history: History) -> Finding | None:
        """Return a finding for a number that stands for a missing value."""
        place, seen = first_called(history), coded(history, FIRST, self.far_min)
        if place is None or seen is None:
            return None
        quantity = "distance of a repeated value from its feature's mean, in standard deviations"
        return self._finding(
            history,
            place.name,
            f"Unnormalised input: a feature repeats {number(seen.value)}, {times(seen.distance)} "
            "the standard deviation of its other values away: a code for a missing value.",
            _limit(quantity, seen.distance, self.far_min, (0.0, 10.0)),
            fix=KNOWN,
        )

    def _by_input(self, history: History) -> Iterator[Finding]:
        """Yield a finding for the measured input, independent of the layers after the first."""
        place = first_called(history)
        if place is None:
            return
        largest, spread, mean, std = (first_median(history, name) for name in _MEASURED)
        rms, fan_in = math.hypot(mean, std), fan_in_before_norm(history, place)
        norm = rms * math.sqrt(fan_in)

        def found(text: str, *evidence: Evidence) -> Finding:
            return self._finding(history, place.name, f"Unnormalised input: {text}.", *evidence)

        if spread > self.feature_ratio and largest > self.size_max:
            yield found(
                f"the largest feature has an RMS of {number(largest)}, {times(spread)} that of the "
                "median feature",
                _limit(
                    "RMS of the largest feature over that of the median one",
                    spread,
                    self.feature_ratio,
                    (1.0, 100.0),
                ),
                Evidence(quantity="RMS of the largest feature", seen=largest),
            )
        elif std > 0 and abs(mean) > max(self.size_max, self.offset_ratio * std):
            yield found(
                f"the mean of the inputs is {number(mean)}, and they differ by {number(std)} only",
                _limit(
                    "mean of the inputs over their standard deviation",
                    abs(mean) / std,
                    self.offset_ratio,
                    (0.0, 3.0),
                ),
                Evidence(quantity="mean of the inputs", seen=mean),
            )
        elif 0 < norm < self.norm_min:
            yield found(
                f"an input of {place.name} has a norm of {number(norm)} only",
                _limit("norm of an input of the first layer", norm, self.norm_min, (0.1, None)),
            )
        elif fan_in and rms > self.size_max and is_before_layer_norm(history, place):
            yield found(
                f"the inputs of {place.name} have an RMS of {number(rms)}; 1 is usual",
                _limit("RMS of the inputs", rms, self.size_max, (0.01, self.size_max / 2)),
            )

    def _by_layer(self, history: History) -> Iterator[Finding]:
        """Yield a finding for the scale of all inputs of a first layer without a normalisation."""
        seen = input_of_first_layer(history)
        if seen is None:
            return
        exact = measured_rms(history)
        known = [x for x in (seen.rms, seen.gradient_rms) if not math.isnan(x)]
        if not math.isnan(exact):
            known = [exact]
        elif "recurrent" in seen.place.flags:
            return  # the gradient of its bias is a sum over time that can cancel
        if not known:
            return
        least = min(known)
        course = Course(history)
        stuck = course.known and len(course.loss) >= self.steps_stuck
        stuck = stuck and not course.converged and not course.learned(share=self.fall_min)
        limit = self.rms_max_stuck if stuck and least <= self.rms_max else self.rms_max
        if least > limit:
            yield self._large(history, seen, least, limit)
        elif self._is_tiny(seen, exact):
            yield self._small(history, seen, exact)

    def _is_tiny(self, seen: FirstInput, exact: float) -> bool:
        # A gradient of exactly 0 or no spread at all: the input is constant, not badly scaled.
        fan_in = math.prod(seen.place.shape[1:])
        if "recurrent" in seen.place.flags:
            return 0 < exact < min(self.rms_min, self.norm_min / math.sqrt(fan_in))
        norms = (seen.spread_norm, seen.gradient_rms * math.sqrt(fan_in))
        return all(0 < norm < self.norm_min for norm in norms)

    def _large(self, history: History, seen: FirstInput, least: float, limit: float) -> Finding:
        stuck = limit != self.rms_max
        return self._finding(
            history,
            seen.place.module,
            f"Unnormalised input: the inputs of {seen.place.module} have an RMS of about "
            f"{number(least)}" + (", and the loss does not fall." if stuck else "; 1 is usual."),
            Evidence(
                quantity="RMS of the inputs",
                seen=least,
                limit=limit,
                direction="above",
                healthy=(0.01, limit / 2),
            ),
            *_measured(seen),
        )

    def _small(self, history: History, seen: FirstInput, exact: float) -> Finding:
        where, quantity = seen.place.module, "norm of the deviation of an input across samples"
        norm, text = seen.spread_norm, f"the inputs of {where} differ between samples by a vector"
        if "recurrent" in seen.place.flags:
            norm = exact * math.sqrt(math.prod(seen.place.shape[1:]))
            text, quantity = f"an input of {where} at one time is a vector", "norm of an input"
        return self._finding(
            history,
            where,
            f"Unnormalised input: {text} of norm {number(norm)} only.",
            _limit(quantity, norm, self.norm_min, (0.1, None)),
            *_measured(seen),
        )

    def _finding(
        self,
        history: History,
        where: str,
        summary: str,
        *evidence: Evidence,
        fix: str = STANDARD_INPUT,
        since_step: int | None = None,
    ) -> Finding:
        return self.finding(
            severity=Severity.WARNING,
            where=where,
            since_step=int(history.steps(Stream.WEIGHT)[0]) if since_step is None else since_step,
            summary=summary,
            evidence=tuple(e for e in evidence if e.seen == e.seen),
            fix=fix,
            confidence=0.9,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    @staticmethod
    def sick() -> History:
        """Return inputs of about 100."""
        return _run(100.0)

    @staticmethod
    def healthy() -> History:
        """Return inputs of about 4, as unscaled measurements in centimetres are."""
        return _run(4.0)


def _limit(
    quantity: str, seen: float, limit: float, healthy: tuple[float | None, float | None]
) -> Evidence:
    """Return evidence of a value that is above its limit, or below it if no range ends there."""
    direction: Literal["below", "above"] = "below" if healthy[1] is None else "above"
    return Evidence(quantity=quantity, seen=seen, limit=limit, direction=direction, healthy=healthy)


def _measured(seen: FirstInput) -> tuple[Evidence, ...]:
    return (
        Evidence(quantity="RMS of the inputs, from the outputs of the layer", seen=seen.rms),
        Evidence(
            quantity="RMS of the inputs, from the gradients of weight and bias",
            seen=seen.gradient_rms,
        ),
    )


def _run(scale: float) -> History:
    weight, bias = (
        Place(f"0.{k}", kind=k, shape=s, depth=0, module="0", module_kind="Linear")
        for k, s in (("weight", (32, 16)), ("bias", (32,)))
    )
    w = 0.1 * math.sqrt(32 * 16)
    outputs = [Place("0", kind="Linear", depth=0)]
    columns = {Stat.SAMPLE_STD: 0.4 * scale * 0.8, Stat.UNIT_MEAN_STD: 0.4 * scale * 0.6}
    return (
        Example(20)
        .scalars(loss=2.3 * np.exp(-np.arange(20) / 10))
        .stream(Stream.WEIGHT, [weight, bias], {"0.weight": {Stat.L2: w}, "0.bias": {Stat.L2: 0.5}})
        .stream(
            Stream.GRADIENT,
            [weight, bias],
            {"0.weight": {Stat.L2: 4.0 * scale}, "0.bias": {Stat.L2: 1.0}},
        )
        .stream(Stream.ACTIVATION, outputs, {"0": columns})
        .history
    )
