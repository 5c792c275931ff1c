"""TV605: the BatchNorm or dropout modules are in eval mode while the model trains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.course import Course, validation_losses
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History, Series
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Flags, Floats, middle
from trainvitals.diagnosis.supervision import DOWNSTREAM
from trainvitals.wire import Place, Scalar, Stat, Stream

_MOMENTUM: Final = at(
    Moment.BEFORE_TRAINING,
    "for module in model.modules():\n"
    "    if isinstance(module, nn.modules.batchnorm._BatchNorm):\n"
    "        module.momentum = 0.1",
)


@dataclass(frozen=True)
class WrongTrainEvalMode(Rule):
    """BatchNorm or dropout modules are in eval mode while the model is trained, or the running
    statistics do not describe the data.

    ## What it detects
    - In the newest two measured steps, every module with running statistics (BatchNorm) was in eval
      mode when the training loss was taken, and the optimizer trains the scale of at least one.
    - In the newest two measured steps, every module with a dropout above 0 was in eval mode when
      the training loss was taken, and in two earlier ones all were in train mode. In the last fifth
      of the plan it is a warning.
    - A momentum of 0.9 or more, below 1: the running statistics are those of the newest batch.
    - A momentum m so small that after n steps (1 − m)ⁿ of the running statistics, 20 % or more, are
      still the initial ones (mean 0, variance 1): at the end of the plan, or as soon as a
      validation loss is 1.3 times the training loss. Not for a model whose statistics were others
      before the first step: it was trained before.
    ## Why it matters
    PyTorch's momentum is the share of the new batch (0.1); in other libraries it is the share that
    is kept (0.9, 0.99). With wrong running statistics the model is right in training and wrong in
    evaluation.
    In eval mode BatchNorm does not normalise the batch: it uses the running statistics, which stay
    at mean 0 and variance 1, or at the values of an earlier data set. Dropout is off, so that the
    model overfits sooner. Often `model.eval()` was called for a validation, and `model.train()` not
    called after it.
    ## Evidence
    The share of modules in eval mode, and the number of trained normalisation layers or the step of
    the change.
    ## What to do
    Call `model.train()` at the start of every epoch, after each validation. To freeze BatchNorm on
    purpose, also freeze its parameters: `m.requires_grad_(False)`. Use the momentum 0.1.
    ## When it is wrong
    Fine-tuning with small batches, where the statistics are frozen and scales and shifts are
    trained. A dropout that is switched off on purpose during the training: near the end of the plan
    the finding is a warning; one that is off from the first step is not reported. Partly frozen
    models are not reported. The rule cannot run without the training loss.
    ## References
    Ioffe & Szegedy, "Batch Normalization", 2015, arXiv:1502.03167; PyTorch documentation,
    torch.nn.Module.train.
    """

    code: ClassVar[str] = "TV605"
    stage: ClassVar[Stage] = Stage.WIRING
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM | {"TV303", "TV901"}
    fix: ClassVar[str] = at(Moment.STEP, "model.train()")
    refuted_by: ClassVar[str] = (
        "m.training is True for the BatchNorm and dropout modules during a step."
    )

    observations: int = threshold(2, "Newest measured steps in a row with all in eval mode.")
    share_min: float = threshold(1.0, "Share of the modules of one kind in eval mode.")
    gap_max: float = threshold(
        4.0,
        "Steps between two training losses: with more, the loss is a mean that was recorded later, "
        "perhaps during a validation.",
    )
    late_share: float = threshold(
        0.8, "Share of the plan after which a dropout that is switched off is a warning."
    )

    momentum_max: float = threshold(0.9, "Momentum from which one batch holds the statistics.")
    steps_few: int = threshold(20, "Minimum number of steps for the two conditions on momentum.")
    initial_max: float = threshold(0.2, "Share of the initial values in the running statistics.")
    validation_ratio: float = threshold(
        1.3, "Validation loss over training loss from which this share matters at once."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        norms = [*self._norms(history)] or [*self._momentum(history)]
        yield from norms or self._dropout(history)

    def _momentum(self, history: History) -> Iterator[Finding]:
        """Yield a finding of running statistics that do not describe the data."""
        seen = history.scalar(Scalar.LOSS).steps
        if len(seen) < self.steps_few or not self._is_used(history):
            return
        # A loss that is reported at each tenth step leaves out nine updates of the statistics.
        steps = int(seen[-1] - seen[0]) + 1
        low, high = (float(history.facts.get(f"norm_momentum_{m}", 0.1)) for m in ("min", "max"))
        micro_batches = history.scalar(Scalar.MICRO_BATCHES).values
        batches = steps * (middle(micro_batches) if len(micro_batches) else 1.0)
        # The statistics of a pretrained model describe other data, but are not 0 and 1.
        initial = 0.0 if history.facts.get("norm_statistics_known") else (1 - low) ** batches
        if self.momentum_max <= high < 1:
            yield self._statistics(
                str(history.facts.get("norm_momentum_max_module", "")),
                f"the momentum is {number(high)}, so that the running statistics of BatchNorm are "
                "those of the newest batch",
                Evidence(
                    quantity="largest momentum of BatchNorm",
                    seen=high,
                    limit=self.momentum_max,
                    direction="above",
                    healthy=(0.01, 0.5),
                ),
            )
        elif initial >= self.initial_max and self._matters(history):
            yield self._statistics(
                "",
                f"with the momentum {number(low)}, {percent(initial)} of the running statistics of "
                f"BatchNorm are still their initial values after {steps} steps",
                Evidence(
                    quantity="share of the initial values in the running statistics",
                    seen=initial,
                    limit=self.initial_max,
                    direction="above",
                    healthy=(0.0, 0.05),
                    unit="share",
                ),
            )

    def _is_used(self, history: History) -> bool:
        """Whether running statistics were updated: the modules were in train mode."""
        share = history.scalar(Scalar.NORM_EVAL_SHARE).values
        return len(share) > 0 and bool(middle(share) < self.share_min)

    def _matters(self, history: History) -> bool:
        """Whether the plan is at its end, or a validation loss is clearly higher."""
        if history.total_steps and history.last_step >= history.total_steps - 1:
            return True
        course = Course(history)
        return course.known and any(
            len(losses) and float(losses.values[-1]) > self.validation_ratio * course.now(20)
            for _, losses in validation_losses(history)
        )

    def _statistics(self, where: str, text: str, evidence: Evidence) -> Finding:
        return self.finding(
            severity=Severity.WARNING,
            where=where,
            since_step=0,
            summary=f"Wrong statistics in evaluation: {text}.",
            evidence=(evidence,),
            fix=_MOMENTUM,
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.NORM_EVAL_SHARE,
        )

    def _norms(self, history: History) -> Iterator[Finding]:
        share = history.scalar(Scalar.NORM_EVAL_SHARE)
        if not self._in_eval_mode(history, share):
            return
        trained = [
            p
            for p in history.places(Stream.WEIGHT)
            if p.kind == "norm_scale" and p.trainable and p.optimized and _is_batch(p)
        ]
        if not trained:
            return
        since = self._since(share)
        was = " They were in train mode before." if since > share.steps[0] else ""
        yield self.finding(
            severity=Severity.ERROR,
            where=trained[0].module if len(trained) == 1 else "",
            since_step=since,
            summary="Wrong mode: all BatchNorm modules have been in eval mode during training "
            f"since step {since}, {len(trained)} of them with trained parameters.{was}",
            evidence=(
                Evidence(
                    quantity="share of BatchNorm modules in eval mode",
                    seen=float(share.values[-1]),
                    limit=self.share_min,
                    direction="above",
                    healthy=(0.0, 0.0),
                    unit="share",
                    statistic=Scalar.NORM_EVAL_SHARE,
                ),
                Evidence(quantity="trained BatchNorm modules", seen=float(len(trained))),
                Evidence(
                    quantity="modules", seen=", ".join(p.module or "the model" for p in trained[:8])
                ),
            ),
            confidence=0.95,
            stream=Stream.SCALAR,
            statistic=Scalar.NORM_EVAL_SHARE,
        )

    def _dropout(self, history: History) -> Iterator[Finding]:
        share = history.scalar(Scalar.DROPOUT_EVAL_SHARE)
        in_train_mode = int((share.values == 0).sum())
        # In eval mode from the start it is a choice, as for a fine-tuning without dropout.
        if in_train_mode < self.observations or not self._in_eval_mode(history, share):
            return
        since = self._since(share)
        is_late = since >= self.late_share * (history.total_steps or math.inf)
        yield self.finding(
            severity=Severity.WARNING if is_late else Severity.ERROR,
            where="",
            since_step=since,
            summary="Wrong mode: all dropout modules have been in eval mode during training since "
            f"step {since}, so that nothing is dropped. They were in train mode before.",
            evidence=(
                Evidence(
                    quantity="share of dropout modules in eval mode",
                    seen=float(share.values[-1]),
                    limit=self.share_min,
                    direction="above",
                    healthy=(0.0, 0.0),
                    unit="share",
                    statistic=Scalar.DROPOUT_EVAL_SHARE,
                ),
                Evidence(quantity="first step in eval mode", seen=float(since)),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.DROPOUT_EVAL_SHARE,
        )

    def _in_eval_mode(self, history: History, share: Series) -> bool:
        """Whether the newest steps, which are training steps, had all modules in eval mode."""
        newest = share.last(self.observations)
        if len(newest) < self.observations or not (newest.values >= self.share_min).all():
            return False
        taken = history.steps(Stream.SCALAR)[-16:][self._losses(history)[-16:]]
        return len(taken) >= self.observations and middle(np.diff(taken)) <= self.gap_max

    def _since(self, share: Series) -> int:
        """Return the first step of the newest ones in a row with all modules in eval mode."""
        train = np.flatnonzero(share.values < self.share_min)
        return int(share.steps[train[-1] + 1 if len(train) else 0])

    @staticmethod
    def _losses(history: History) -> Flags:
        loss = history.series(Stream.SCALAR, Stat.VALUE, Scalar.LOSS).values
        diverged = history.series(Stream.SCALAR, Stat.VALUE, Scalar.NONFINITE_LOSS).values
        if len(loss) == 0:
            return np.zeros(len(history.steps(Stream.SCALAR)), bool)
        return ~np.isnan(loss) | (diverged > 0 if len(diverged) else False)

    @staticmethod
    def sick() -> History:
        """Return a model that stays in eval mode after a validation."""
        return _run(np.r_[0.0, 0, 0, 0, 1, 1, 1], trained=True)

    @staticmethod
    def healthy() -> History:
        """Return a frozen backbone whose normalisation is in eval mode on purpose."""
        return _run(np.ones(7), trained=False)


def _is_batch(place: Place) -> bool:
    return "Batch" in place.module_kind or "Instance" in place.module_kind


def _run(share: Floats, trained: bool) -> History:
    n = len(share)
    norm = Place(
        "1.weight", kind="norm_scale", shape=(8,), module="1", module_kind="BatchNorm1d",
        trainable=trained,
    )  # fmt: skip
    example = Example(n).scalars(loss=np.linspace(2.3, 2.2, n), norm_eval_share=share)
    return example.stream(Stream.WEIGHT, [norm], {norm.name: {Stat.L2: 2.8}}).history
