"""TV802: the inputs or targets of a batch are all the same, or every batch is the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trainvitals.api.schema import Evidence, Finding, Severity, Stage
from trainvitals.api.wording import number, percent
from trainvitals.diagnosis.constant_tokens import constant_tokens
from trainvitals.diagnosis.course import Course
from trainvitals.diagnosis.example import Example
from trainvitals.diagnosis.fixes import SHUFFLED
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.places import called as name_of
from trainvitals.diagnosis.places import window
from trainvitals.diagnosis.repeated_batches import is_part, one_batch, roughness, same_inputs
from trainvitals.diagnosis.rule import Rule, threshold
from trainvitals.diagnosis.signals import Floats
from trainvitals.diagnosis.supervision import (
    BINARY_LOSSES,
    DISTANCES,
    DOWNSTREAM,
    LossKind,
    only_loss,
)
from trainvitals.wire import Event, EventKind, Place, Scalar, Stat, Stream

_CLASSES: Final = ("CrossEntropyLoss", "NLLLoss")


@dataclass(frozen=True)
class ConstantOrDuplicateInput(Rule):
    """Every sample of a batch has the same input or target, or every step has the same batch.

    ## What it detects
    - Inputs: in the first three measured steps, no layer's outputs differ between the samples of a
      batch, although the first layer's weights are not 0: all samples have one input. An error. If
      the measured input is one number, the same in these steps, only the outputs of the first
      layer count: a dropout adds differences to the others.
    - Classes: in each of the newest 16 measured batches (8 targets or more) all targets have one
      class, and the class is not the same in all of them: the data are sorted by class. With one
      class only, after 10,000 targets, if the output layer has one output for each class.
    - Regression: the target is one number, not 0, 1 or -1, in each of the newest 16 batches.
    - Tokens: in each of the newest 16 measured batches, 95 % or more of the tokens of the model's
      only input are the same one, which is not the `padding_idx`: as words that the vocabulary does
      not have. A note, and a warning if the loss has not fallen after 60 steps.
    - One batch: at 16 measured steps or more, and all of them, the targets of a batch of 64 samples
      or fewer have the same mean, deviation and largest class, and so have the inputs, the loss
      has fallen by 30 %, and the model has more than 50 parameters for each sample. Up to 1,024
      entries of the inputs are the same in each batch, or, if they are not seen, the loss falls
      along a smooth curve. A regression gets a note.
    ## Why it matters
    A model whose input is always the same can only learn the frequencies of the targets. Where all
    targets of a batch are the same, nothing distinguishes the samples: the model learns to output
    the current class and forgets it with the next one. A target that never changes is learned by
    the last bias alone. One batch is memorised: the loss falls to 0, and the model is wrong for
    other samples.
    ## Evidence
    The spread of the first layer's outputs; the number of classes in a batch, the batches, and the
    targets.
    ## What to do
    Shuffle: `DataLoader(dataset, shuffle=True)`. Check how targets are read and indexed. Take each
    batch from one iteration over the loader: `next(iter(loader))` starts anew at every call. Print
    the tokens of one batch, and compare the vocabulary with the texts.
    ## When it is wrong
    Binary losses are left out: discriminators see real and generated batches in turn. With several
    optimizers or several kinds of losses the rule is silent, and so it is on contrastive losses,
    whose target is class 0 by definition. A test whether the model can memorise one batch,
    and a data set of 64 samples or fewer, train on one batch on purpose. A graph is one input
    too: the rule is silent where the input is a table with more rows than the loss has samples. A
    model whose first argument and first layer are the same in all steps on purpose, as a time that
    is always 0. A first layer whose units are all 0 does not depend on its input and is left to
    TV201.
    ## References
    Karpathy, "A Recipe for Training Neural Networks", 2019; Bengio, "Practical Recommendations for
    Gradient-Based Training of Deep Architectures", 2012, arXiv:1206.5533.
    """

    code: ClassVar[str] = "TV802"
    stage: ClassVar[Stage] = Stage.DATA
    damages_loss: ClassVar[bool] = False
    explains: ClassVar[frozenset[str]] = DOWNSTREAM
    fix: ClassVar[str] = SHUFFLED
    refuted_by: ClassVar[str] = "A batch contains two targets that differ."

    token_share_min: float = threshold(0.95, "Share of the most frequent token, 0 to 1.")
    steps_min: int = threshold(60, "Minimum number of steps without a fall of the loss, tokens.")
    spread_max: float = threshold(
        1e-6, "Standard deviation across samples, relative to that of the units' means."
    )
    observations_input: int = threshold(3, "First measured steps whose inputs are compared.")
    observations: int = threshold(16, "Newest measured batches with one target each.")
    entries_min: int = threshold(8, "Minimum number of targets in a batch.")
    one_class_min: float = threshold(
        10_000, "Number of targets without a second class: rare classes need many batches."
    )

    repeated_samples_max: int = threshold(
        64, "Maximum number of samples of a repeated batch; a larger one may be the whole data set."
    )
    roughness_max: float = threshold(
        0.5,
        "Second over first differences of the loss (medians of absolute values), repeated batch: "
        "1.7 for noise, near 0 for a smooth curve.",
    )
    parameters_min: float = threshold(
        50.0, "Parameters of the model for each sample of a repeated batch."
    )

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the run."""
        if (place := self._same_input(history)) is not None:
            yield self._constant(history, place)
            return
        yield from self._tokens(history)
        kind = only_loss(history)
        if kind is None or len(kind.kinds) != 1 or float(history.facts.get("optimizers", 1)) > 1:
            return
        entries = math.prod(kind.target_shape) if kind.target_shape else 0
        if entries < self.entries_min:
            return
        if kind.kinds[0] in _CLASSES:
            yield from self._classes(history, kind, entries)
        elif kind.kinds[0] in DISTANCES:
            yield from self._numbers(history)
        yield from self._repeated(history, kind)

    def _same_input(self, history: History) -> Place | None:
        """Return the first layer if it was given the same input for every sample of each batch."""
        weights = {p.module: p for p in history.places(Stream.WEIGHT) if p.kind == "weight"}
        called = [p for p in history.places(Stream.ACTIVATION) if p.module in weights]
        if not called or any(p.depth < 0 for p in called):
            return None
        first = min(called, key=lambda p: p.depth)
        low, high = (history.scalar(n).values for n in (Scalar.INPUT_MIN, Scalar.INPUT_MAX))
        n = self.observations_input
        if len(low) >= n and len(low) == len(high) and (low[:n] == high[:n]).all():
            is_one = len(np.unique(low[:n])) == 1
            return first if is_one and self._same_outputs(history, first) else None
        size = history.series(Stream.WEIGHT, Stat.L2, weights[first.module].name).values[:1]
        spread, mean = (
            history.series(Stream.ACTIVATION, s, first.name)
            for s in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
        )
        n = self.observations_input
        if len(spread) < n or not (len(size) and size[0] > 0) or spread.steps[0] >= n:
            return None
        # A learned query has a constant input on purpose: then other layers see the samples.
        rows = list(range(len(history.places(Stream.ACTIVATION))))
        every = window(history, Stream.ACTIVATION, Stat.SAMPLE_STD, rows, first=n).values
        scale = float(np.nan_to_num(mean.values[:n]).max())
        if scale == 0:  # units that are all 0 do not depend on the input
            return None
        known = every[np.isfinite(every)]
        same = known <= self.spread_max * scale
        return first if len(known) and same.all() else None

    def _same_outputs(self, history: History, layer: Place) -> bool:
        """Whether the outputs of a layer are the same for all samples, two or more of them.

        The measured input alone is no proof: it can be one sample, or the time of an equation
        beside an input that differs between the samples.
        """
        row = [history.places(Stream.ACTIVATION).index(layer)]
        spread, mean = (
            window(history, Stream.ACTIVATION, s, row, first=self.observations_input).values[:, 0]
            for s in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
        )
        limit = self.spread_max * np.maximum(mean, 1e-30)
        return len(spread) >= self.observations_input and bool(np.all(spread <= limit))

    def _constant(self, history: History, first: Place) -> Finding:
        spread, mean = (
            history.series(Stream.ACTIVATION, s, first.name).values[: self.observations_input]
            for s in (Stat.SAMPLE_STD, Stat.UNIT_MEAN_STD)
        )
        return self.finding(
            severity=Severity.ERROR,
            where=first.name,
            since_step=int(history.steps(Stream.ACTIVATION)[0]),
            summary=f"Constant input: the outputs of {name_of(first)}, the first one, are the same "
            "for every sample of a batch.",
            evidence=(
                Evidence(
                    quantity=f"standard deviation across samples of {first.name}, relative to "
                    "that of its units",
                    seen=float(spread.max()) / max(float(np.nan_to_num(mean).max()), 1e-30),
                    limit=self.spread_max,
                    direction="below",
                    healthy=(1e-3, None),
                    statistic=Stat.SAMPLE_STD,
                ),
                Evidence(quantity="first measured steps", seen=float(self.observations_input)),
            ),
            fix="",  # where the input is lost is a line of the program's own code
            confidence=0.95,
            stream=Stream.ACTIVATION,
            statistic=Stat.SAMPLE_STD,
        )

    def _tokens(self, history: History) -> Iterator[Finding]:
        """Yield a finding if nearly all tokens of the inputs are the same one."""
        seen = constant_tokens(history, self.token_share_min, self.observations)
        if seen is None:
            return
        course = Course(history)
        harms = course.known and history.last_step >= self.steps_min and not course.learned()
        yield self.finding(
            severity=Severity.WARNING if harms else Severity.INFO,
            since_step=seen.since,
            summary=f"Constant input: {percent(seen.share)} of the tokens of a batch are the same "
            f"one since step {seen.since}" + ("; the loss has not fallen." if harms else "."),
            evidence=(
                Evidence(
                    quantity="share of the most frequent token",
                    seen=seen.share,
                    limit=self.token_share_min,
                    direction="above",
                    healthy=(None, 0.5),
                    unit="share",
                    statistic=Scalar.INPUT_TOKEN_SHARE,
                ),
            ),
            fix="",  # the vocabulary is in the program's own code
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.INPUT_TOKEN_SHARE,
        )

    def _classes(self, history: History, kind: LossKind, entries: int) -> Iterator[Finding]:
        classes = history.scalar(Scalar.TARGET_CLASSES)
        mean = history.scalar(Scalar.TARGET_MEAN)
        if len(classes) < self.observations or len(mean) != len(classes) or kind.classes < 2:
            return
        single = classes.values == 1
        if not single[-self.observations :].all():
            return
        others = np.flatnonzero(~single)
        start = int(others[-1]) + 1 if len(others) else 0
        seen = np.unique(mean.values[start:])
        enough = (len(classes) - start) * entries >= self.one_class_min
        if len(seen) < 2 and not (enough and _has_head(history, kind.classes)):
            return
        since, batches = int(classes.steps[start]), len(classes) - start
        yield self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Constant targets: in each of the {batches} measured batches since step "
            f"{since} all targets have one class, in total {len(seen)} of {kind.classes} classes.",
            evidence=(
                Evidence(
                    quantity="classes in a batch",
                    seen=1.0,
                    limit=1.0,
                    direction="below",
                    healthy=(2.0, None),
                    text="a batch holds several classes",
                    statistic=Scalar.TARGET_CLASSES,
                ),
                Evidence(quantity="batches", seen=float(batches)),
                Evidence(quantity="classes in all of them", seen=float(len(seen))),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_CLASSES,
        )

    def _numbers(self, history: History) -> Iterator[Finding]:
        low, high = history.scalar(Scalar.TARGET_MIN), history.scalar(Scalar.TARGET_MAX)
        if len(low) < self.observations or len(low) != len(high):
            return
        value = float(low.values[-1])
        same = (low.values == value) & (high.values == value)
        if not same[-self.observations :].all() or value in (0.0, 1.0, -1.0):
            return
        others = np.flatnonzero(~same)
        since = int(low.steps[others[-1] + 1 if len(others) else 0])
        yield self.finding(
            severity=Severity.WARNING,
            since_step=since,
            summary=f"Constant targets: every target since step {since} is {number(value)}.",
            evidence=(
                Evidence(
                    quantity="difference of the largest and the smallest target",
                    seen=0.0,
                    limit=0.0,
                    direction="below",
                    healthy=(1e-12, None),
                    text="targets of different samples differ",
                ),
                Evidence(quantity="target", seen=value, statistic=Scalar.TARGET_MEAN),
            ),
            confidence=0.9,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MEAN,
        )

    def _repeated(self, history: History, kind: LossKind) -> Iterator[Finding]:
        """Yield a finding if all measured batches are one small batch, which was memorised."""
        samples = kind.target_shape[0]
        parameters = float(history.facts.get("parameters", 0)) / samples
        if samples > self.repeated_samples_max or parameters < self.parameters_min:
            return
        if not one_batch(history, self.observations) or is_part(history, samples):
            return
        course = Course(history)
        # Batches with a fixed number of samples of each class have the same statistics too, but the
        # loss of new samples is noisy.
        rough = roughness(course.loss.values)
        same_input = same_inputs(history, self.observations)
        if not course.known or not course.learned(share=0.3):
            return
        if not same_input and rough > self.roughness_max:
            return
        measured = len(history.scalar(Scalar.TARGET_MEAN))
        classes = kind.kinds[0] in (*_CLASSES, *BINARY_LOSSES)
        yield self.finding(
            severity=Severity.WARNING if classes else Severity.INFO,
            since_step=0,
            summary=f"One batch: the targets of all {measured} measured batches are the same, "
            f"of {samples} samples, and "
            + ("so are the inputs." if same_input else "the loss falls without noise."),
            evidence=(
                Evidence(
                    quantity="parameters of the model for each sample",
                    seen=parameters,
                    limit=self.parameters_min,
                    direction="above",
                    healthy=(None, self.parameters_min / 2),
                ),
                Evidence(
                    quantity="roughness of the loss",
                    seen=rough,
                    limit=None if same_input else self.roughness_max,
                    direction="" if same_input else "below",
                    text="second over first differences, medians",
                ),
                Evidence(quantity="measured batches with the same targets", seen=float(measured)),
                Evidence(quantity="samples in a batch", seen=float(samples)),
            ),
            confidence=0.8,
            stream=Stream.SCALAR,
            statistic=Scalar.TARGET_MEAN,
        )

    @staticmethod
    def sick() -> History:
        """Return data that are sorted by class."""
        return _run(np.repeat([0.0, 1.0], 10), 1.0)

    @staticmethod
    def healthy() -> History:
        """Return a contrastive loss: the right answer is class 0 by definition."""
        return _run(np.zeros(20), 1.0)


def _has_head(history: History, classes: int) -> bool:
    """Whether the model's own output layer has one output for each class.

    In a contrastive loss the classes are samples, and the right one is class 0 by definition.
    """
    return any(
        "output" in place.flags and place.kind == "weight" and place.shape[:1] == (classes,)
        for place in history.places(Stream.WEIGHT)
    )


def _run(mean: Floats, classes: float) -> History:
    history = (
        Example(len(mean))
        .scalars(
            loss=np.full(len(mean), 2.0),
            target_mean=mean,
            target_classes=np.full(len(mean), classes),
        )
        .history
    )
    attributes: dict[str, str | float] = {"target_shape": "(32,)", "classes": 10.0}
    history.add(Event(0, 0.0, EventKind.LOSS_KIND, "CrossEntropyLoss", attributes))
    return history
