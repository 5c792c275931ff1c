"""TV403: the loss does not fit the predictions or the targets that it is given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.class_numbers import class_numbers, has_class_numbers
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import CROSS_ENTROPY, Moment, at, of_output, without_activation
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.mismatches import (
    LABELS,
    Mismatch,
    not_binary,
    padded_targets,
    positives_alone,
    several_labels,
    shifted_tokens,
    wrong_classes,
    wrong_graph,
)
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.supervision import (
    DISTANCES,
    DOWNSTREAM,
    LossKind,
    connected,
    in_graph,
    only_loss,
    output_module,
)
from trainvitals.diagnosis.wrong_sign import wrong_sign
from trainvitals.wire import Event, EventKind, Scalar, Stream

BROADCAST: Final = "prediction_and_target_broadcast"
NO_LOG: Final[Mapping[str, str]] = MappingProxyType(
    {
        "softmax_before_nll_loss": "probabilities (softmax without the logarithm)",
        "sigmoid_before_nll_loss": "sigmoid outputs",
        "relu_before_nll_loss": "ReLU outputs",
        "tanh_before_nll_loss": "tanh outputs",
        "no_log_softmax_before_nll_loss": "positive values, not log-probabilities",
        "softmax_before_ctc_loss": "probabilities (softmax without the logarithm)",
        "sigmoid_before_ctc_loss": "sigmoid outputs",
        "relu_before_ctc_loss": "ReLU outputs",
        "tanh_before_ctc_loss": "tanh outputs",
        "no_log_softmax_before_ctc_loss": "values whose exponentials do not sum to 1",
    }
)
LOG_OF_SOFTMAX: Final = "log_of_softmax_before_nll_loss"
_TARGET: Final = (Scalar.TARGET_MIN, Scalar.TARGET_MAX, Scalar.TARGET_MEAN, Scalar.TARGET_STD)
_ROUNDING: Final = 1e-3
_LOG_SOFTMAX: Final = at(
    Moment.BEFORE_TRAINING,
    "*_, (name, last) = model.named_modules()\n"
    "own = not type(last).__module__.startswith('torch.')\n"
    "assert own and not [*last.parameters()], 'use F.log_softmax where the logarithm is computed'\n"
    "model.set_submodule(name, nn.LogSoftmax(-1))",
)
"""Raises AssertionError if the two steps are not in an own module behind the output layer."""


@dataclass(frozen=True)
class LossTaskMismatch(Rule):
    """The loss does not fit what it is given: no log-probabilities, other shapes, other targets.

    ## What it detects
    - NLLLoss or CTCLoss of values that are not log-probabilities: softmax without the logarithm, or
      logits.
    - The input of CTCLoss is reshaped where its first two dimensions had to be exchanged.
    - NLLLoss of the logarithm of a softmax, computed in two steps, when a log-probability has
      fallen below −50: near −103 the softmax is 0 in float32, and the loss infinite (a warning).
    - A prediction of shape (B, 1) and a target of shape (B,), or the reverse, also in a loss of the
      program's own: it compares each prediction with each target, in a B × B matrix.
    - Logits whose dimensions were reshaped instead of swapped before a cross entropy: (samples,
      positions, classes) as (samples, classes, positions), or an image as rows of classes.
    - A squared or absolute error between the outputs of several classes and class numbers.
    - A cross entropy with the wrong sign: every loss is negative, and the first three are within
      30 % of minus the loss of a uniform prediction, −ln(classes); −ln 2 for a binary one. A
      squared or absolute error that is always negative and has doubled; another loss below 0
      that falls while the predictions become 20 times as large as the targets. Or a positive loss
      that has risen while all optimizers have `maximize=True`.
    - A binary cross entropy whose targets are not between 0 and 1, in three measured batches.
    - The targets of a token model are its input tokens 2 to 8 positions later, in the three newest
      measured batches (a warning): labels that were shifted twice, or rolled by a wrong number.
    - More than half of the targets that count are those of padding (the embedding's `padding_idx`),
      in the three newest measured batches (a warning).
    - Targets of a cross entropy that sum to more than 1.5 over the classes of a sample, in the
      three newest measured batches (a warning): labels of which several are true.
    - A term multiplies n trained values with n constants in an n × n matrix, as log-probabilities
      of shape (n, 1) with advantages of shape (n,).
    - The mean of prediction − target without a square; or means of predictions and of targets that
      are compared, where each prediction has a target (a warning).
    - The sum of target · log(probability) alone, for targets of 0 and 1.
    - The logarithm of a predicted variance is subtracted from the squared error over it, or each
      of n predicted means is compared with each of n targets.
    - A KL divergence that is given a softmax instead of its logarithm.
    - CosineEmbeddingLoss or HingeEmbeddingLoss with targets other than 1 and −1 (not on
      accelerators).
    - A `pos_weight` of 0; a cross entropy that ignores none of the targets, some being negative;
      one of several targets of a sample that is repeated for all of them.
    - A squared, absolute or binary loss of softmax outputs, whose targets are all 0 or 1: a
      warning. With a binary loss and one class for each sample it is a note: this trains, but
      slowly.
    ## Why it matters
    The loss is a number and can fall, but its minimum is another one than the task's: a constant
    for broadcast targets, minus infinity for NLLLoss of logits.
    ## Evidence
    The connection in the graph of the loss, the shapes, the range of the targets.
    ## What to do
    - Classes: one output for each. Give logits to CrossEntropyLoss, or log_softmax to NLLLoss.
    - Use `F.log_softmax(x, dim)` for `F.softmax(x, dim).log()`: it computes both in one step.
    - Regression: give prediction and target the same shape: `target.unsqueeze(1)`.
    - Language models: shift the labels once. Many models do it themselves if they compute the loss.
    ## When it is wrong
    A square matrix of all pairs that is compared on purpose. Several heads with one target are not
    reported, nor are sums. A token model that predicts several tokens ahead, and a model that must
    match only a mean, on purpose.
    ## References
    PyTorch documentation, torch.nn.NLLLoss and torch.nn.MSELoss; Ben Braiek & Khomh,
    "TheDeepChecker", 2023, arXiv:2204.00694.
    """

    code: ClassVar[str] = "TV403"
    stage: ClassVar[Stage] = Stage.WIRING
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV901"}
    fix: ClassVar[str] = CROSS_ENTROPY
    refuted_by: ClassVar[str] = "Prediction and target have the shapes and values the loss needs."

    observations: int = threshold(
        3, "Newest measured batches with targets outside 0 to 1, or shifted."
    )
    outside_min: float = threshold(1e-3, "Distance of a target of a binary loss from 0 to 1.")

    log_probability_min: float = threshold(
        -50.0, "Log-probability of a softmax and a log in two steps; fires below this value."
    )
    padded_max: float = threshold(
        0.5, "Share of the supervised targets beside padding, in the newest measured batches."
    )
    sum_max: float = threshold(
        1.5, "Sum of the targets of a cross entropy over the classes of one sample."
    )
    growth_min: float = threshold(2.0, "Growth of a negative squared or absolute error.")
    size_tolerance: float = threshold(
        0.25, "Deviation of the loss from a squared error on class numbers, as a share of it."
    )
    sign_tolerance: float = threshold(
        0.3, "Deviation of the first losses from minus ln(classes), as a share of it."
    )
    size_ratio: float = threshold(
        2.0, "Size of that error, in multiples of the largest one with one-hot targets."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        found = (
            self._no_log(history)
            or self._two_steps(history)
            or wrong_classes(history)
            or self._broadcast(history)
            or self._class_numbers(history)
            or not_binary(history, self.observations, self.outside_min)
            or self._softmax_numbers(history)
            or self._negative(history)
            or shifted_tokens(history, self.observations)
            or wrong_graph(history)
            or positives_alone(history, self.observations)
            or padded_targets(history, self.observations, self.padded_max)
            or several_labels(history, self.observations, self.sum_max)
        )
        if found is None:
            return
        yield self.finding(
            severity=found.severity,
            where=output_module(history),
            since_step=found.since,
            summary=f"Loss does not fit since step {found.since}: {found.text}.",
            evidence=found.evidence,
            fix=found.fix,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _no_log(self, history: History) -> Mismatch | None:
        if (found := connected(history, NO_LOG)) is None:
            return None
        kind, token = found
        largest = history.scalar(Scalar.PREDICTION_MAX)
        values = (
            (Evidence(quantity="largest prediction", seen=float(largest.values[-1])),)
            if len(largest) and math.isfinite(largest.values[-1])
            else ()
        )
        loss, fix = "NLLLoss", CROSS_ENTROPY
        if token.endswith("_ctc_loss"):
            loss, fix = "CTCLoss", ""
        elif token.startswith("softmax"):
            fix = f"{without_activation('Softmax')}\n{CROSS_ENTROPY}"
        text = f"{loss} is given {NO_LOG[token]}"
        return Mismatch(kind.step, text, fix, (in_graph(token), *values))

    def _two_steps(self, history: History) -> Mismatch | None:
        """Return a softmax and a logarithm in two steps that come close to an infinite loss."""
        if connected(history, (LOG_OF_SOFTMAX,)) is None:
            return None
        lowest = history.scalar(Scalar.PREDICTION_MIN)
        low = lowest.values < self.log_probability_min  # False for NaN, True for −inf
        if not low.any():
            return None
        smallest = float(lowest.values[low].min())
        return Mismatch(
            int(lowest.steps[np.argmax(low)]),
            f"the logarithm of a softmax is computed in two steps, and reaches {number(smallest)}",
            _LOG_SOFTMAX,
            (
                Evidence(
                    quantity="smallest log-probability",
                    seen=smallest,
                    limit=self.log_probability_min,
                    direction="below",
                    healthy=(-40.0, 0.0),
                    statistic=Scalar.PREDICTION_MIN,
                ),
                in_graph(LOG_OF_SOFTMAX),
            ),
            Severity.WARNING,
        )

    def _broadcast(self, history: History) -> Mismatch | None:
        if (found := connected(history, (BROADCAST,))) is None:
            return None
        kind, _ = found
        shapes = (
            Evidence(quantity="shape of the prediction", seen=str(kind.prediction_shape)),
            Evidence(quantity="shape of the target", seen=str(kind.target_shape)),
        )
        if has_class_numbers(kind):
            text = f"class numbers are compared with {kind.prediction_shape[-1]} outputs as numbers"
            return Mismatch(kind.step, text, CROSS_ENTROPY, (in_graph(BROADCAST), *shapes))
        if not _is_all_pairs(kind):
            return None
        text = (
            f"{kind.kinds[0]} compares each of {kind.target_shape[0]} predictions with each target"
        )
        fix = at(Moment.LOSS, "loss = loss_function(prediction, y.reshape(prediction.shape))")
        return Mismatch(kind.step, text, fix, (in_graph(BROADCAST), *shapes))

    def _class_numbers(self, history: History) -> Mismatch | None:
        """Return a squared error on class numbers that broadcasts without a trace in the graph.

        With one-hot targets the loss has another size: a few tenths.
        """
        only = only_loss(history)
        if only is None or only.kinds != ("MSELoss",) or not has_class_numbers(only):
            return None
        outputs = only.prediction_shape[-1]
        shown = class_numbers(
            history, outputs, self.observations, self.size_tolerance, self.size_ratio
        )
        if shown is None:
            return None
        one_hot = "loss divided by its largest value with one-hot targets"
        if not shown.too_large:
            one_hot = "smallest value of the loss with one-hot targets, divided by the loss"
        return Mismatch(
            only.step,
            f"class numbers are compared with {outputs} outputs as numbers",
            CROSS_ENTROPY,
            (
                Evidence(
                    quantity=one_hot,
                    seen=shown.ratio,
                    limit=self.size_ratio * (1 - self.size_tolerance * shown.too_large),
                    direction="above",
                    healthy=(None, 1.0),
                    text="it has the size of a squared error on class numbers",
                ),
                Evidence(quantity="loss", seen=shown.loss, statistic=Scalar.LOSS),
                Evidence(quantity="shape of the prediction", seen=str(only.prediction_shape)),
                Evidence(quantity="type of the target", seen=only.target_type),
            ),
        )

    def _softmax_numbers(self, history: History) -> Mismatch | None:
        """Return a loss of single outputs whose outputs are probabilities that sum to 1."""
        only = only_loss(history)
        if only is None or len(only.kinds) != 1 or only.last_activation != "softmax":
            return None
        outputs = only.prediction_shape[-1] if only.prediction_shape else 0
        if only.kinds[0] not in (*DISTANCES, "BCELoss") or outputs < 2:
            return None
        low, high, mean, std = (
            history.scalar(name).values[: self.observations].astype(np.float64) for name in _TARGET
        )
        if not len(low) == len(high) == len(mean) == len(std) == self.observations:
            return None
        # Only 0 and 1: the variance is then mean · (1 − mean).
        binary = (low == 0) & (high == 1) & (np.abs(std**2 - mean * (1 - mean)) < _ROUNDING)
        if not binary.all():
            return None
        exclusive = bool((np.abs(mean * outputs - 1) < _ROUNDING).all())
        note = exclusive and only.kinds[0] == "BCELoss"
        what = "one class for each sample" if exclusive else "several labels for a sample"
        fix = f"{without_activation('Softmax')}\n{CROSS_ENTROPY if exclusive else LABELS}"
        return Mismatch(
            only.step,
            f"{only.kinds[0]} compares softmax outputs with {what}",
            of_output(fix, only.kinds[0]) if only.activation_outside else fix,
            (
                Evidence(
                    quantity="targets of a sample that are 1, mean",
                    seen=float(mean[0] * outputs),
                    text="the outputs of a softmax sum to 1",
                ),
                Evidence(quantity="shape of the prediction", seen=str(only.prediction_shape)),
            ),
            Severity.INFO if note else Severity.WARNING,
        )

    def _negative(self, history: History) -> Mismatch | None:
        only = only_loss(history)
        shown = only and wrong_sign(
            history, only, self.observations, self.sign_tolerance, self.growth_min
        )
        return (
            Mismatch(only.step, shown.text, shown.fix, shown.evidence) if only and shown else None
        )

    @staticmethod
    def sick() -> History:
        """Return a column of predictions and a row of targets."""
        return _run((32, 1), (32,))

    @staticmethod
    def healthy() -> History:
        """Return five heads that are compared with one target on purpose."""
        return _run((32, 5), (32, 1))


def _is_all_pairs(kind: LossKind) -> bool:
    """Whether n predictions were compared with n targets in an n × n matrix by accident."""
    prediction, target = kind.prediction_shape, kind.target_shape
    if not kind.kinds or not target or math.prod(target) < 2:
        return False  # without a loss in the graph, the program can have changed the shapes itself
    if prediction == target:  # the graph holds the shapes after the broadcast
        return len(target) == 2 and target[0] == target[1]
    return math.prod(prediction) == math.prod(target)


def _run(prediction: tuple[int, ...], target: tuple[int, ...]) -> History:
    history = Example(6).scalars(loss=np.full(6, 2.0)).history
    attributes: dict[str, str | float] = {
        "wiring": BROADCAST,
        "prediction_shape": str(prediction),
        "target_shape": str(target),
    }
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", attributes))
    return history
