"""TV407: no target counts in the loss, or hardly any."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.constant_targets import zeros_since
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at, of_classes
from trainvitals.diagnosis.history import History, Steps, Values
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Flags, middle, trailing_run
from trainvitals.diagnosis.supervision import DOWNSTREAM, LossKind, in_graph, loss_kinds, only_loss
from trainvitals.diagnosis.token_alignment import NEXT_TOKEN_LOSS, token_shift
from trainvitals.wire import Event, EventKind, Scalar, Stat, Stream

READ_MAX: Final = 16_384
"""Entries of a target that capture reads: of a larger one, it can miss the supervised ones."""

POSITIONS_MIN: Final = 8
"""Shortest sequence of which a loss must read more than one position."""


@dataclass(frozen=True)
class NoSupervision(Rule):
    """No target, or hardly any, counts in the training loss.

    ## What it detects
    - No target counts (each has the ignore_index, or a weight or a mask of 0): once, if the loss
      is NaN or infinite in that step; otherwise in two measured steps in a row.
    - CTCLoss with `zero_infinity`: more than half of the sequences have fewer frames than symbols,
      in three measured steps in a row.
    - The targets of a loss over classes are 0 for every class of every sample, in three measured
      steps.
    - The loss is multiplied by a factor of exactly 0, in three measured steps.
    - Fewer targets count than the batch has samples, and fewer than 5 % of all, in ten measured
      steps: most samples have no effect. Only for targets with two or more dimensions.
    - The ignore_index is one of the classes and a share of the targets equals it, in more than half
      of ten measured steps or more: no sample of this class is trained. Only for one class number
      for each sample; among tokens and pixels, a class can stand for padding. A warning.
    - The loss of a token model reads one position of each sequence of eight or more, as in
      `logits[:, 0]`, in three measured steps. A warning, if it is one of the earlier positions and
      its target is a token of the sequence; a note, if it is the last position or the one before:
      that is right for a task with one answer at the end.
    - The loss reads one position of each sequence, the same in three measured steps, and the tensor
      of its targets holds labels for all positions: a warning.
    ## Why it matters
    The run ends without an error and has learned nothing. Typical causes are a chat template whose
    answer part was not found, truncation that cuts the answers off, a mask with the wrong sign. A
    mean over no target is NaN and makes every weight NaN.
    ## Evidence
    The share of supervised targets, the number of them, and the loss.
    ## What to do
    Print one batch: the decoded inputs beside the targets that count. Check the mask, the
    ignore_index, the template and the maximum length. Skip batches without targets.
    There is code only for a loss that is multiplied by 0 (the loss without the factor), for one
    that ignores a class (`ignore_index=-100`, the default) and for one that reads one earlier
    position (the loss of the next token at all positions). Otherwise the cause is in the code that
    makes the batch.
    ## When it is wrong
    Of targets with more than 16,384 entries a part is read: the rule then needs a loss of 0 or NaN.
    Losses whose targets and masks are not in their graph are not seen. The note on the last
    position: tasks whose answer is the last token on purpose, such as the recall of a value by its
    key, or next-token training on windows with one target each. The warning on a class: samples
    without a label that carry the number of a class which is left out on purpose.
    ## References
    PyTorch documentation, torch.nn.CrossEntropyLoss, ignore_index; Hugging Face TRL documentation,
    SFTTrainer, "Train on completion only", 2025.
    """

    code: ClassVar[str] = "TV407"
    stage: ClassVar[Stage] = Stage.DATA
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV408", "TV603", "TV901", "TV902"}
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "A batch contains targets that are not ignored and not masked."

    observations: int = threshold(2, "Measured steps in a row without a supervised target.")
    observations_zero: int = threshold(3, "Measured steps in a row with a loss times 0.")
    observations_sliced: int = threshold(3, "Measured steps in a row with one position read.")
    observations_few: int = threshold(10, "Measured steps in a row with hardly any.")
    observations_infinite: int = threshold(3, "Measured steps in a row with infinite losses.")
    finite_min: float = threshold(
        0.5, "Share of sequences with a finite loss of CTCLoss, in the median; fires below it."
    )
    share_min: float = threshold(0.05, "Share of supervised targets below which it is hardly any.")

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        kinds = loss_kinds(history)
        small = bool(kinds) and math.prod(kinds[-1].target_shape) <= READ_MAX
        finding = self._ignored(history, small=small)
        if finding is None and kinds:
            finding = self._times_zero(history, kinds[-1])
        if finding is None:
            finding = self._zeros(history) or self._infinite(history)
        if finding is None and len(kinds) == 1:
            finding = self._few(history, kinds[0]) or self._sliced(history, kinds[0])
        if finding is None:
            finding = self._class(history)
        if finding is not None:
            yield finding

    def _ignored(self, history: History, *, small: bool) -> Finding | None:
        share = history.scalar(Scalar.SUPERVISED_SHARE)
        if len(share) == 0:
            return None
        none = share.values == 0
        loss, diverged = self._at(history, share.steps)
        newest = self.observations
        # The weights are NaN from then on, regardless of the next batches.
        if (none & diverged).any() and diverged[-newest:].any():
            return self._none(int(share.steps[np.flatnonzero(none & diverged)[0]]), diverged=True)
        empty = none & (diverged | (loss == 0) | small)
        if len(empty) < newest or not empty[-newest:].all():
            return None
        others = np.flatnonzero(~none)
        return self._none(int(share.steps[others[-1] + 1 if len(others) else 0]))

    def _at(self, history: History, steps: Steps) -> tuple[Values, Flags]:
        """Return the loss at `steps` (NaN if unknown) and whether it diverged."""
        columns = []
        for name in (Scalar.LOSS, Scalar.NONFINITE_LOSS):
            series = history.series(Stream.SCALAR, Stat.VALUE, name)
            at = np.searchsorted(series.steps, steps)
            columns.append(series.values[at] if len(series) else np.full(len(steps), np.nan))
        return columns[0], columns[1] > 0

    def _none(self, since: int, *, diverged: bool = False) -> Finding:
        becomes = "the loss became NaN" if diverged else "the loss says nothing"
        return self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No supervision: 0 % of the targets count in the loss at step {since}; "
            f"{becomes}.",
            evidence=(self._evidence(0.0),),
            stream=Stream.SCALAR,
            statistic=Scalar.SUPERVISED_SHARE,
        )

    def _evidence(self, share: float) -> Evidence:
        return Evidence(
            quantity="share of targets that count in the loss",
            seen=share,
            limit=self.share_min,
            direction="below",
            healthy=(self.share_min, 1.0),
            unit="share",
            statistic=Scalar.SUPERVISED_SHARE,
        )

    def _times_zero(self, history: History, kind: LossKind) -> Finding | None:
        if not any(token.endswith("_weighted_0") for token in kind.wiring):
            return None
        loss = history.scalar(Scalar.LOSS).since(kind.step)
        newest = loss.values[-self.observations_zero :]
        if len(newest) < self.observations_zero or (newest != 0).any():
            return None
        others = np.flatnonzero(loss.values != 0)
        since = int(loss.steps[others[-1] + 1 if len(others) else 0])
        return self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No supervision: {kind.kinds[0]} is multiplied by 0, and the loss has been "
            f"exactly 0 since step {since}.",
            evidence=(
                Evidence(
                    quantity="factor of the loss",
                    seen=0.0,
                    limit=0.0,
                    direction="below",
                    healthy=(1e-12, None),
                    text="a factor of 0 removes the loss",
                ),
                Evidence(
                    quantity="steps with a loss of 0", seen=float(len(loss) - 1 - others[-1])
                    if len(others) else float(len(loss)),
                ),
            ),
            fix=at(Moment.LOSS, f"loss = nn.{kind.kinds[0]}()(prediction, y)  # unweighted"),
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )  # fmt: skip

    def _zeros(self, history: History) -> Finding | None:
        """Return a finding if the targets of all classes are 0 for every sample."""
        since = zeros_since(history, self.observations_zero)
        if since is None:
            return None
        return self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No supervision: since step {since} all targets are 0, for every sample and "
            "each of its classes; a join or a look-up can have found nothing.",
            evidence=(
                Evidence(
                    quantity="largest sum of a target over its classes",
                    seen=0.0,
                    limit=0.0,
                    direction="below",
                    healthy=(1.0, None),
                    statistic=Scalar.TARGET_ROW_SUM_MAX,
                ),
            ),
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_ROW_SUM_MAX,
        )

    def _few(self, history: History, kind: LossKind) -> Finding | None:
        share = history.scalar(Scalar.SUPERVISED_SHARE)
        newest = share.values[-self.observations_few :]
        entries, samples = math.prod(kind.target_shape), (kind.target_shape or (0,))[0]
        if len(kind.target_shape) < 2 or len(newest) < self.observations_few or samples < 2:
            return None
        if not (newest < self.share_min).all():
            return None
        usual = middle(newest)
        if usual * entries >= samples:
            return None
        others = np.flatnonzero(share.values >= self.share_min)
        since = int(share.steps[others[-1] + 1 if len(others) else 0])
        return self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"No supervision: {number(100 * usual, 2)} % of the targets count in the loss "
            f"since step {since}, {number(usual * entries, 2)} in a batch of {samples} samples.",
            evidence=(
                self._evidence(float(usual)),
                Evidence(
                    quantity="targets that count in a batch",
                    seen=float(usual * entries),
                    limit=float(samples),
                    direction="below",
                    text="the number of samples in the batch",
                ),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.SUPERVISED_SHARE,
        )

    def _infinite(self, history: History) -> Finding | None:
        """Return a finding if the infinite losses of most sequences are replaced by 0."""
        only = only_loss(history)
        if only is None or only.kinds != ("CTCLoss",):
            return None
        share = history.scalar(Scalar.SUPERVISED_SHARE)
        few = share.values < self.finite_min
        run = int(trailing_run(few))
        _, diverged = self._at(history, share.steps[-run:])
        if run < self.observations_infinite or diverged.any():
            return None
        since, usual = int(share.steps[-run]), middle(share.values[-run:])
        return self.finding(
            severity=Severity.ERROR,
            since_step=since,
            summary=f"No supervision: since step {since} the loss of {percent(1 - usual)} of the "
            "sequences is infinite and replaced by 0: they have fewer frames than symbols.",
            evidence=(
                Evidence(
                    quantity="share of sequences with a finite loss",
                    seen=usual,
                    limit=self.finite_min,
                    direction="below",
                    healthy=(0.95, 1.0),
                    unit="share",
                    statistic=Scalar.SUPERVISED_SHARE,
                ),
            ),
            stream=Stream.SCALAR,
            statistic=Scalar.SUPERVISED_SHARE,
        )

    def _class(self, history: History) -> Finding | None:
        """Return a finding if the samples of one class are left out."""
        known = [k for k in loss_kinds(history) if k.ignored_class is not None]
        if not known or only_loss(history) is None or 0.0 in known[-1].class_weights:
            return None
        kind, share = known[-1], history.scalar(Scalar.SUPERVISED_SHARE)
        left_out = share.values < 1
        if len(share) < self.observations_few or 2 * left_out.sum() <= len(share):
            return None
        ignored, counted = float(kind.ignored_class or 0), middle(share.values)
        return self.finding(
            severity=Severity.WARNING,
            since_step=int(share.steps[left_out][0]),
            summary=f"No supervision: class {ignored:.0f} is never trained. It is the ignore_index "
            f"of {kind.kinds[0]}, and {percent(1 - counted)} of the targets are of this class.",
            evidence=(
                Evidence(
                    quantity="share of targets that count in the loss",
                    seen=counted,
                    limit=1.0,
                    direction="below",
                    healthy=(1.0, 1.0),
                    unit="share",
                    statistic=Scalar.SUPERVISED_SHARE,
                ),
                Evidence(quantity="ignore_index", seen=ignored),
                Evidence(quantity="classes", seen=float(kind.classes)),
            ),
            fix=of_classes(kind.classes),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.SUPERVISED_SHARE,
        )

    def _sliced(self, history: History, kind: LossKind) -> Finding | None:
        """Return a finding if the loss reads one position of each sequence of a token model."""
        if kind.position_read == "labelled":
            return self._labelled(history, kind)
        read = history.scalar(Scalar.POSITIONS_READ_SHARE)
        newest = read.values[-self.observations_sliced :]
        if not kind.position_read or len(newest) < self.observations_sliced:
            return None
        if not (newest <= 1 / POSITIONS_MIN).all():
            return None
        is_last = kind.position_read == "last"
        # A target that is no token of the sequence can be the class of the whole sequence.
        if not is_last and token_shift(history, self.observations_sliced) is None:
            return None
        others = np.flatnonzero(read.values > 1 / POSITIONS_MIN)
        since, share = int(read.steps[others[-1] + 1 if len(others) else 0]), float(newest[-1])
        length = number(1 / share)
        place = "the last or the last but one" if is_last else "one of the earlier"
        return self.finding(
            severity=Severity.INFO if is_last else Severity.WARNING,
            since_step=since,
            summary=f"No supervision: since step {since} the loss reads 1 of {length} positions "
            f"of each sequence ({percent(share)} of the output), {place}.",
            evidence=(
                Evidence(
                    quantity="share of the positions of the output that the loss reads",
                    seen=share,
                    limit=1 / POSITIONS_MIN,
                    direction="below",
                    healthy=(0.5, 1.0),
                    unit="share",
                    statistic=Scalar.POSITIONS_READ_SHARE,
                ),
            ),
            fix="" if is_last else NEXT_TOKEN_LOSS,
            confidence=0.5 if is_last else 0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.POSITIONS_READ_SHARE,
        )

    def _labelled(self, history: History, kind: LossKind) -> Finding | None:
        """Return a finding of a loss that reads one of several positions with labels."""
        if len(history.scalar(Scalar.SUPERVISED_SHARE)) < self.observations_sliced:
            return None
        return self.finding(
            severity=Severity.WARNING,
            since_step=kind.step,
            summary=f"No supervision: since step {kind.step} the loss reads one position of each "
            "sequence, and the labels of the others are left out.",
            evidence=(in_graph("one labelled position of several"),),
            fix=of_classes(kind.classes),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.SUPERVISED_SHARE,
        )

    @staticmethod
    def sick() -> History:
        """Return batches in which every target is ignored."""
        return _run(share=0.0, loss=np.nan)

    @staticmethod
    def healthy() -> History:
        """Return a language model that is trained on the answers only: one target in a hundred."""
        return _run(share=0.01, loss=2.3)


def _run(share: float, loss: float) -> History:
    n = 12
    history = (
        Example(n)
        .scalars(
            loss=np.full(n, loss),
            nonfinite_loss=np.full(n, float(math.isnan(loss))),
            supervised_share=np.full(n, share),
        )
        .history
    )
    attributes: dict[str, str | float] = {"target_shape": "(8, 512)"}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    return history
