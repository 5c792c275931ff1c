"""TV401: a loss that applies softmax or sigmoid itself is given probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import (
    CROSS_ENTROPY,
    Moment,
    at,
    of_classes,
    of_output,
    without_activation,
)
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.supervision import (
    DOWNSTREAM,
    connected,
    in_graph,
    only_loss,
    output_module,
)
from trainvitals.wire import Event, EventKind, Scalar, Stream


class Mistake(NamedTuple):
    """One wrong connection: what happens, as a sentence's end, and the code without it."""

    text: str
    fix: str


LOGITS: Final = without_activation("Softmax")
CLASSES: Final = f"{LOGITS}\n{CROSS_ENTROPY}"
OTHER_DIMENSION: Final = "log_softmax_over_wrong_dimension"
HIDDEN: Final = "softmax_before_cross_entropy"
OF_LOG_SIGMOID: Final = ("sigmoid_before_log_sigmoid", "softmax_before_log_sigmoid")

MISTAKES: Final[Mapping[str, Mistake]] = MappingProxyType(
    {
        HIDDEN: Mistake(
            "a softmax output goes into a cross entropy, which applies softmax", LOGITS
        ),
        "softmax_before_bce_with_logits": Mistake(
            "a softmax output goes into BCEWithLogitsLoss, which applies sigmoid", CLASSES
        ),
        "sigmoid_before_bce_with_logits": Mistake(
            "a sigmoid output goes into BCEWithLogitsLoss, which applies sigmoid",
            without_activation("Sigmoid"),
        ),
        "log_sigmoid_before_bce_with_logits": Mistake(
            "a log-sigmoid output goes into BCEWithLogitsLoss, which applies sigmoid",
            without_activation("LogSigmoid"),
        ),
        "log_softmax_before_bce_with_logits": Mistake(
            "a log-softmax output goes into BCEWithLogitsLoss, which applies sigmoid",
            f"{without_activation('LogSoftmax')}\n{CROSS_ENTROPY}",
        ),
        OF_LOG_SIGMOID[0]: Mistake(
            "a sigmoid output goes into a log-sigmoid, which applies sigmoid",
            without_activation("Sigmoid"),
        ),
        OF_LOG_SIGMOID[1]: Mistake(
            "a softmax output goes into a log-sigmoid, which applies sigmoid", LOGITS
        ),
        OTHER_DIMENSION: Mistake(
            "log_softmax normalises another dimension than the classes before the loss",
            f"{without_activation('LogSoftmax')}\n{CROSS_ENTROPY}",
        ),
        "softmax_over_one_class": Mistake(
            "softmax over a single output is always 1, whatever the model computes",
            f"{LOGITS}\n"
            + at(
                Moment.LOSS,
                "loss = F.binary_cross_entropy_with_logits(prediction.squeeze(1), y.float())",
            ),
        ),
    }
)


@dataclass(frozen=True)
class SoftmaxBeforeCrossEntropy(Rule):
    """The model's output passes softmax or sigmoid before a loss that applies it itself.

    ## What it detects
    In the graph of the training loss: softmax before a cross entropy; sigmoid or softmax before
    BCEWithLogitsLoss, or before a log-sigmoid, as in MultiLabelSoftMarginLoss; log_softmax over
    another dimension than the classes, before CTCLoss too; softmax over one output.
    Where the graph does not show it: predictions of a cross entropy that are never negative and
    whose sums over the classes are 1, in the newest three measured batches.
    ## Why it matters
    The loss cannot fall below a floor (1.46 for 10 classes), and the gradient is multiplied by the
    derivative of a second softmax: training is slow or stops early, and no error is raised.
    ## Evidence
    The connection in the graph, or the range of the predictions and of their sums.
    ## What to do
    Return raw logits from the model and give them to the loss; apply softmax only to show or
    compare probabilities. For one output, use BCEWithLogitsLoss.
    ## When it is wrong
    No case is known. In compiled models the graph of the loss cannot be read.
    ## References
    PyTorch documentation, torch.nn.CrossEntropyLoss; Wardat et al., "DeepDiagnosis: Automatically
    Diagnosing Faults and Recommending Actionable Fixes in Deep Learning Programs", 2022,
    arXiv:2112.04972.
    """

    code: ClassVar[str] = "TV401"
    stage: ClassVar[Stage] = Stage.WIRING
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM
    fix: ClassVar[str] = LOGITS
    refuted_by: ClassVar[str] = "The tensor given to the loss has negative entries."

    observations: int = threshold(3, "Newest measured batches whose predictions are probabilities.")
    tolerance: float = threshold(1e-3, "Maximum difference of a sum over the classes from 1.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        found = connected(history, MISTAKES)
        where = output_module(history)
        if found is not None:
            kind, token = found
            fix = MISTAKES[token].fix
            if kind.kinds == ("CTCLoss",):
                fix = ""  # its own arguments are not known: the lengths
            elif token == OTHER_DIMENSION and not _ends_in_log_softmax(history):
                fix = of_classes(kind.classes)
            elif kind.activation_outside and token in OF_LOG_SIGMOID:
                fix = ""  # the program's own loss is not known
            elif kind.activation_outside:
                of_logits = kind.kinds == ("CrossEntropyLoss",) and kind.classes > 1
                fix = of_classes(kind.classes) if of_logits else of_output(fix, kind.kinds[0])
            yield self._finding(token, kind.step, where, (in_graph(token),), fix)
        elif (since := self._probabilities_since(history)) is not None:
            yield self._finding(HIDDEN, since, where, self._of_values(history), LOGITS)

    def _finding(
        self, token: str, since: int, where: str, evidence: tuple[Evidence, ...], fix: str
    ) -> Finding:
        mistake = MISTAKES[token]
        return self.finding(
            severity=Severity.ERROR,
            where=where,
            since_step=since,
            summary=f"Wrong input of the loss since step {since}: {mistake.text}.",
            evidence=evidence,
            fix=fix,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _probabilities_since(self, history: History) -> int | None:
        kind = only_loss(history)
        if kind is None or kind.kinds[:1] != ("CrossEntropyLoss",) or len(kind.kinds) != 1:
            return None
        low = history.scalar(Scalar.PREDICTION_MIN)
        sums = [
            history.scalar(name)
            for name in (Scalar.PREDICTION_ROW_SUM_MIN, Scalar.PREDICTION_ROW_SUM_MAX)
        ]
        if any(len(s) != len(low) for s in sums) or len(low) < self.observations:
            return None
        ones = (low.values >= 0) & (np.abs(sums[0].values - 1) <= self.tolerance)
        ones &= np.abs(sums[1].values - 1) <= self.tolerance
        if not ones[-self.observations :].all():
            return None
        others = np.flatnonzero(~ones)
        return int(low.steps[others[-1] + 1 if len(others) else 0])

    def _of_values(self, history: History) -> tuple[Evidence, ...]:
        low, small, large = (
            float(history.scalar(name).values[-1])
            for name in (
                Scalar.PREDICTION_MIN,
                Scalar.PREDICTION_ROW_SUM_MIN,
                Scalar.PREDICTION_ROW_SUM_MAX,
            )
        )
        return (
            Evidence(
                quantity="smallest prediction",
                seen=low,
                limit=0.0,
                direction="above",
                healthy=(None, -1e-12),
                text="logits have negative entries",
                statistic=Scalar.PREDICTION_MIN,
            ),
            Evidence(
                quantity="sums of the predictions over the classes",
                seen=f"{number(small)} to {number(large)}",
            ),
        )

    @staticmethod
    def sick() -> History:
        """Return a model whose last module is a softmax."""
        return _run("softmax_before_cross_entropy")

    @staticmethod
    def healthy() -> History:
        """Return logits into a cross entropy."""
        return _run("")


def _ends_in_log_softmax(history: History) -> bool:
    """Whether the log-softmax is a module of the model and no call in the loss."""
    return any(p.kind == "LogSoftmax" for p in history.places(Stream.ACTIVATION))


def _run(wiring: str) -> History:
    low, total = (0.05, 1.0) if wiring else (-0.4, 0.9)
    n = 6
    history = (
        Example(n)
        .scalars(
            loss=np.full(n, 2.3),
            prediction_min=np.full(n, low),
            prediction_row_sum_min=np.full(n, total),
            prediction_row_sum_max=np.full(n, total),
        )
        .history
    )
    attributes: dict[str, str | float] = {"wiring": wiring, "classes": 10.0}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    return history
