"""TV808: the input contains the target, or the loss falls to almost nothing on new batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.attention import sees_next_token
from trainvitals.diagnosis.constant_targets import constant_target
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Column, Example
from trainvitals.diagnosis.fixes import Moment, at
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import is_recurrent
from trainvitals.diagnosis.rule import Need, Rule, threshold
from trainvitals.diagnosis.signals import Floats, median, middle
from trainvitals.diagnosis.supervision import only_loss, output_module, shares_of_largest
from trainvitals.diagnosis.token_alignment import NEXT_TOKEN, NEXT_TOKEN_BATCH, token_shift
from trainvitals.wire import Event, EventKind, Scalar, Stream

_SEVERAL_ITERATIONS: Final = ("LBFGS",)
"""Optimizers whose step contains several iterations."""
_DROP: Final = "\n".join(
    (
        at(
            Moment.BEFORE_TRAINING,
            "leaking = torch.ones(x_train.shape[1], dtype=torch.bool)  # by batch: see below",
        ),
        at(
            Moment.TRAINING_BATCH,
            "columns = F.one_hot(y) if y.dtype == torch.long else y.reshape(len(y), -1)\n"
            "r = torch.corrcoef(torch.cat([x, columns], 1).T)[: x.shape[1], x.shape[1] :].abs()\n"
            "leaking &= (r > 0.999).any(1) | (x.std(0) == 0)  # these determine a target",
        ),
        at(Moment.BATCH, "x = x.masked_fill(leaking, 0.0)  # better: leave these columns out"),
    )
)
_CONTAINED: Final = {
    Scalar.TARGET_IN_TOKENS_SHARE: (
        "the labels are the tokens, not shifted by one",
        NEXT_TOKEN_BATCH,
    ),
    Scalar.TARGET_IN_SEQUENCE: (
        "each target is the value at its own place, and the loss is nearly 0",
        at(Moment.TRAINING_BATCH, "x, y = x[:, :-1], x[:, 1:]  # the target is the next value"),
    ),
    Scalar.TARGET_IN_FEATURES: ("the target, or a copy of it, is among the features", _DROP),
}
"""Scalar → what is contained, and the fix."""


@dataclass(frozen=True)
class TrivialTarget(Rule):
    """The input contains the target: the model has nothing to learn.

    ## What it detects
    In three measured batches in a row, the targets of a token model are its input tokens at the
    same place (labels that were not shifted) or one place before (shifted the wrong way): a causal
    model is given them. Or they are the next tokens, and the graph of the model's first output
    contains a self-attention in which each position sees the next one (no causal mask, or a mask of
    the padding only), or a recurrent layer in both directions. In four in a row, the model's first
    input contains at least 99 % of the supervised targets: tokens at the same place, a column of a
    table that determines the target linearly, or, in a recurrent network whose loss falls as below,
    values at the same place. Left out there: masked language models, whose inputs differ where
    targets count, models with an encoder and a decoder, models that are also given the input
    shifted by one (a decoder that is given the target so far), models whose output layer predicts
    several positions at once, and tables of one column. These copy their input on purpose. Or all
    targets of labels or classes that count are one number, in ten measured batches or more, and the
    loss is 1 % of the first. Otherwise: within the first 80 steps, the median of 20 losses in a row
    is at most 1 % of both the initial loss and the loss of the best constant prediction (the
    entropy of the class frequencies, or the variance of the targets), and the targets differ from
    batch to batch. Left out there: losses other than a cross entropy or a squared error, LBFGS,
    runs that start from a low loss, and predictions of one class only. This case is a note: a small
    exercise is solved as fast.
    ## Why it matters
    A real task is not solved in some dozen steps. The input probably contains the target: a
    feature that was computed from it, or tokens that were not shifted by one. The training looks
    perfect, and the model is useless where the target is not known.
    ## Evidence
    The share of the targets that the input contains; or the loss as a share of the loss of a
    constant prediction, the step, and both losses.
    ## What to do
    - Check which input predicts the target: train on one feature at a time.
    - Language models: the target of position i is token i + 1, and the attention is causal: pass
      `is_causal=True` to `scaled_dot_product_attention`, or the mask
      `nn.Transformer.generate_square_subsequent_mask(length)`; a recurrent layer has one direction.
    - Look for an identifier, a file name or a statistic of the target among the inputs.
    - There is code for tokens that are not shifted by one, and for a table: it sets the columns to
      0 that determine a target linearly in every batch so far.
    ## When it is wrong
    Exercises that are solved exactly, such as a plane without noise; an autoencoder for tokens
    whose modules are not named encoder and decoder and whose output layer predicts one position; an
    exercise that repeats its input one step later (echo), or shifts it on purpose; a model that
    corrects rare errors of its input tokens; fine-tuning on a task that the model already solves.
    ## References
    Kaufman et al., "Leakage in Data Mining", 2012; Kapoor & Narayanan, "Leakage and the
    Reproducibility Crisis in Machine-Learning-Based Science", 2023.
    """

    code: ClassVar[str] = "TV808"
    stage: ClassVar[Stage] = Stage.DATA
    before_training: ClassVar[bool] = True
    damages_loss: ClassVar[bool] = False
    permanent: ClassVar[bool] = True
    explains: ClassVar[frozenset[str]] = frozenset({"TV506"})
    needs: ClassVar[tuple[Need, ...]] = (Scalar.LOSS,)
    fix: ClassVar[str] = ""
    refuted_by: ClassVar[str] = "The validation loss on data from another source is as low."

    contained_min: float = threshold(
        0.99, "Share of the supervised targets that the input contains, 0 to 1."
    )
    batches_contained: int = threshold(
        4, "Measured batches in a row whose targets the input contains."
    )

    batches_shifted: int = threshold(
        3, "Measured batches in a row whose targets are the input's tokens, shifted alike."
    )

    share_max: float = threshold(
        0.01, "Loss as a share of the initial loss and of the loss of a constant prediction."
    )
    steps_early: int = threshold(80, "First steps in which the loss falls so low.")
    steps_low: int = threshold(20, "Losses in a row whose median is compared.")
    start_min: float = threshold(
        0.5, "Initial loss as a share of the loss of a constant prediction; lower: not a new model."
    )
    batches_constant: int = threshold(10, "Measured batches whose targets are all one number.")
    batches_min: int = threshold(4, "Minimum number of batches whose targets were measured.")
    one_class_min: float = threshold(
        0.2,
        "Share of the most frequent predicted class minus that of the targets, above which the "
        "predictions are wrong, however low the loss is.",
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        found = (
            self._given(history)
            or self._seen_ahead(history)
            or self._contained(history)
            or self._constant(history)
            or self._solved(history)
        )
        if found is not None:
            yield found

    def _given(self, history: History) -> Finding | None:
        """Return a finding if the targets are the input's tokens, here or one place before."""
        found = token_shift(history, self.batches_shifted)
        if found is None or found.shift >= NEXT_TOKEN or _copies_on_purpose(history):
            return None
        what = "its own input token" if found.shift == 0 else "the input token before it"
        why = "not shifted by one" if found.shift == 0 else "shifted by one in the wrong direction"
        return self.finding(
            severity=Severity.WARNING,
            since_step=found.since,
            summary=f"Trivial target: since step {found.since} the target of each position is "
            f"{what} (shift {found.shift}; the next token has 1); the labels are {why}.",
            evidence=(found.evidence,),
            fix=found.fix,
            confidence=0.95,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_SHIFT,
        )

    def _seen_ahead(self, history: History) -> Finding | None:
        """Return a finding if the target is the next token, and a layer sees it."""
        found = sees_next_token(history, self.batches_shifted)
        if found is None:
            return None
        return self.finding(
            severity=Severity.WARNING,
            where=found.where,
            since_step=found.since,
            summary=f"Trivial target: each position sees the next token, which is its target; "
            f"{found.what}.",
            evidence=(
                Evidence(
                    quantity="positions from the prediction's own token to its target",
                    seen=float(NEXT_TOKEN),
                    statistic=Scalar.TARGET_SHIFT,
                ),
                Evidence(
                    quantity="layer that sees the next position", seen=found.where or found.what
                ),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_SHIFT,
        )

    def _constant(self, history: History) -> Finding | None:
        """Return a finding if all targets that count are one number, and that is learned."""
        value = constant_target(history, self.batches_constant, self.share_max)
        if value is None:
            return None
        batches = len(history.scalar(Scalar.TARGET_MIN))
        return self.finding(
            severity=Severity.WARNING,
            where=output_module(history),
            since_step=int(history.scalar(Scalar.TARGET_MIN).steps[0]),
            summary=f"Trivial target: every target that counts in the loss is {number(value)}, in "
            f"{batches} measured batches, and the loss has fallen to almost nothing.",
            evidence=(
                Evidence(
                    quantity="measured batches in which every target is the same number",
                    seen=float(batches),
                    limit=float(self.batches_constant),
                    direction="above",
                    statistic=Scalar.TARGET_MAX,
                ),
                Evidence(quantity="the target", seen=value),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MAX,
        )

    def _contained(self, history: History) -> Finding | None:
        """Return a finding if the input contains the targets."""
        for name, (what, fix) in _CONTAINED.items():
            shares, n = history.scalar(name).finite(), self.batches_contained
            if len(shares) < n:
                continue
            if name is Scalar.TARGET_IN_TOKENS_SHARE and (
                _copies_on_purpose(history) or _is_next_token(history)
            ):
                continue
            # An autoencoder has its input as target, and a narrow part that copies it slowly.
            if name is Scalar.TARGET_IN_SEQUENCE and not (
                is_recurrent(history) and self._solved(history) and not _copies_on_purpose(history)
            ):
                continue
            lowest = np.lib.stride_tricks.sliding_window_view(shares.values, n).min(axis=1)
            first = np.flatnonzero(lowest >= self.contained_min)
            if len(first) == 0:
                continue
            since, seen = int(shares.steps[first[0]]), float(lowest[first[0]])
            return self.finding(
                severity=Severity.WARNING,
                since_step=since,
                summary=f"Trivial target: in {n} measured batches in a row from step {since} on, "
                f"the model's input contains {percent(seen)} of the targets; {what}.",
                evidence=(
                    Evidence(
                        quantity="share of the targets that the input contains",
                        seen=seen,
                        limit=self.contained_min,
                        direction="above",
                        healthy=(0.0, 0.5),
                        unit="share",
                        statistic=name,
                    ),
                ),
                fix=fix,
                confidence=0.9,
                stream=Stream.SCALAR,
                statistic=name,
            )
        return None

    def _solved(self, history: History) -> Finding | None:
        course = Course(history)
        constant = course.exact_constant
        if not course.known or not constant:
            return None
        if history.facts.get("optimizer") in _SEVERAL_ITERATIONS:
            return None
        # Not the median of the first ten losses: a trivial target is solved within these steps.
        start = float(course.loss.values[:3].max())
        if start < self.start_min * constant or not self._targets_vary(history):
            return None
        early = course.loss.values[course.loss.steps < self.steps_early]
        if len(early) < self.steps_low:
            return None
        windows = np.lib.stride_tricks.sliding_window_view(early, self.steps_low)
        levels = median(windows, axis=1)
        base = min(constant, start)
        low = np.flatnonzero(levels <= self.share_max * base)
        if len(low) == 0:
            return None
        since = int(course.loss.steps[low[0]])
        level = float(levels[low].min())
        if self._one_class(history):
            return None
        return self.finding(
            severity=Severity.INFO,
            since_step=since,
            summary=f"Trivial target: from step {since} on the loss is "
            f"{number(course.shown(level))}, {percent(level / base)} of the loss of a constant "
            f"prediction ({number(course.shown(base))}). "
            "The input probably contains the target.",
            evidence=(
                Evidence(
                    quantity="loss as a share of the loss of a constant prediction",
                    seen=level / base,
                    limit=self.share_max,
                    direction="below",
                    healthy=(3 * self.share_max, None),
                    unit="share",
                ),
                Evidence(quantity="step from which the loss is so low", seen=float(since)),
                Evidence(quantity="loss at the start", seen=course.shown(start)),
                Evidence(
                    quantity="loss of the best constant prediction", seen=course.shown(constant)
                ),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.LOSS,
        )

    def _targets_vary(self, history: History) -> bool:
        """Whether the measured batches have different targets: not one batch repeated."""
        means = history.scalar(Scalar.TARGET_MEAN).finite().values[:64]
        return len(means) >= self.batches_min and len(np.unique(means)) > len(means) // 2

    def _one_class(self, history: History) -> bool:
        """Whether the predictions are one class and the targets several: nothing was solved.

        The loss is then low because it weighs that class more than the others (TV806).
        """
        seen = shares_of_largest(history)
        predicted, targets = (
            middle(x[-self.batches_min :]) for x in (seen.predicted, seen.targets)
        )
        return predicted - targets > self.one_class_min

    @staticmethod
    def sick() -> History:
        """Return a regression whose loss is 0.2 % of the variance after 40 steps."""
        return _run(np.maximum(np.exp(-np.arange(100) / 5), 0.002))

    @staticmethod
    def healthy() -> History:
        """Return a fast start: 3 % of the variance after 60 steps, and less later."""
        return _run(np.exp(-np.arange(100) / 17))


def _copies_on_purpose(history: History) -> bool:
    """Whether the model is an encoder with a decoder, or predicts all positions from one vector."""
    if history.facts.get("encoder_decoder"):
        return True
    kind = only_loss(history)
    classes = kind.classes if kind is not None else 0
    return classes > 1 and any(
        "output" in p.flags and p.shape and p.shape[0] > classes and p.shape[0] % classes == 0
        for p in history.places(Stream.WEIGHT)
    )


def _is_next_token(history: History) -> bool:
    """Whether the newest targets are the next tokens: equal to the tokens because they repeat."""
    shifts = history.scalar(Scalar.TARGET_SHIFT).finite().values
    return len(shifts) > 0 and bool(shifts[-1] == NEXT_TOKEN)


def _run(loss: Column) -> History:
    steps = len(np.asarray(loss))
    means: Floats = np.random.default_rng(0).normal(0, 0.2, steps)
    example = Example(steps).scalars(loss=loss, target_mean=means, target_std=1.0)
    example.history.add(Event(0, 0.0, EventKind.LOSS_KIND, "MSELoss", {}))
    return example.history
