"""One short training of one choice with one seed.

Comes in: a `Job`, which is the same for all trainings, a choice and a seed. Goes out: an `Outcome`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from trainvitals.api.schema import Finding
from trainvitals.capture import Capture
from trainvitals.checkups.batches import prediction_of, run
from trainvitals.checkups.passes import measured
from trainvitals.checkups.preserve import preserved
from trainvitals.diagnosis.causes import headline_of
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.history import History
from trainvitals.diagnosis.propagation import propagation, weighted
from trainvitals.experiments.choices import Choice
from trainvitals.experiments.data import (
    Batch,
    Data,
    Material,
    chunks_of,
    first_samples,
    material_of,
)
from trainvitals.experiments.form import Form
from trainvitals.experiments.metrics import Metric, bar_of, calibration_error, constant_score, score
from trainvitals.remedies.running import call, evaluation

EVALUATIONS: Final = 20
"""Number of evaluations on the held-out data during a training."""
CURVE_SAMPLES: Final = 1024
"""Held-out samples of an evaluation during the training; the last one takes all of them."""
CHUNK: Final = 1024
"""Samples of a forward pass on the held-out data."""
TAIL: Final = 0.1
"""Share of the steps over which the first and the final loss are averaged."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one training gave. None: not finite, or not defined for this task."""

    choice: str
    seed: int
    first_loss: float | None
    final_loss: float | None
    metric: float | None
    constant: float | None
    """The metric of the best constant prediction; None for a user's metric."""
    bar: float | None
    """The metric from which the model has learned; None for a user's metric."""
    curve: tuple[tuple[int, float | None], ...]
    """(step, metric) during the training."""
    corrupted_metric: float | None
    """The metric after a training with 10 % of the targets wrong."""
    calibration_error: float | None
    signal_ratio: float | None
    signal: tuple[tuple[str, float | None], ...]
    """(layer, S) of each hidden layer with weights, before the training."""
    diagnosis: str
    """Code and rule of the headline; "" without one."""


@dataclass(frozen=True)
class Job:
    """What all trainings of an experiment have in common."""

    factory: Callable[[], nn.Module]
    data: Data
    held_out: Batch | None
    batch_size: int
    choices: tuple[Choice, ...]
    steps: int
    loss: nn.Module
    learning_rate: float
    optimizer: Callable[..., torch.optim.Optimizer]
    metric: Metric
    form: Form
    robustness: bool

    def material(self, seed: int) -> Material:
        """Return the data of a seed."""
        return material_of(self.data, self.held_out, self.batch_size, seed, self.steps)


def run_trial(job: Job, choice: Choice, seed: int) -> Outcome:
    """Train once, and again on corrupted targets if the robustness is measured.

    Changes the global random states. A training that diverges is an outcome without a metric.
    Raises ValueError, with the choice and the seed, if the user's code fails.
    """
    try:
        return _trial(job, choice, seed)
    except Exception as error:
        raise ValueError(
            f"The training of the choice {choice.name!r} with seed {seed} failed: "
            f"{type(error).__name__}: {error}"
        ) from error


def _trial(job: Job, choice: Choice, seed: int) -> Outcome:
    material = job.material(seed)
    model = built(job, choice, seed)
    signal = _signal(job, choice, model, next(material.batches(seed, 1)))
    clean = _Training(job, choice, seed, material, model)
    clean.run()
    scored, error = evaluated(job, model, material.held_out)
    spoilt = None
    if job.robustness and scored is not None:
        wrong = material.corrupted(job.form, seed)
        other = _Training(job, choice, seed, wrong, built(job, choice, seed), watched=False)
        other.run()
        spoilt = evaluated(job, other.model, material.held_out)[0] if other.is_finite else None
    if not clean.is_finite:
        scored = error = None
    constant, bar = _constant(job, material)
    tail = max(1, round(TAIL * job.steps))
    return Outcome(
        choice=choice.name,
        seed=seed,
        first_loss=_mean(clean.losses[:tail]),
        final_loss=_mean(clean.losses[-tail:]) if clean.is_finite else None,
        metric=scored,
        constant=constant,
        bar=bar,
        curve=tuple(clean.curve),
        corrupted_metric=spoilt,
        calibration_error=error,
        signal_ratio=_ratio(signal),
        signal=signal,
        diagnosis=clean.headline,
    )


def built(job: Job, choice: Choice, seed: int) -> nn.Module:
    """Return a fresh model, initialised by the choice. Raises ValueError if the factory fails."""
    seed_all(seed)
    try:
        model = job.factory()
    except Exception as error:
        raise ValueError(f"factory() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"factory() returned a {type(model).__name__}, not a torch.nn.Module.")
    # Seeded again: the draws must not depend on how many the factory made.
    seed_all(seed)
    choice.initialise(model)
    seed_all(seed)
    return model


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class _Training:
    """One training, with its losses, its curve and its headline."""

    def __init__(
        self,
        job: Job,
        choice: Choice,
        seed: int,
        material: Material,
        model: nn.Module,
        *,
        watched: bool = True,
    ) -> None:
        self.model = model
        self.losses: list[float] = []
        self.curve: list[tuple[int, float | None]] = []
        self.headline = ""
        self._job, self._seed, self._material = job, seed, material
        self._loss = loss_of(job, choice)
        rate = choice.learning_rate or job.learning_rate
        trainable = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = job.optimizer(trainable, lr=rate)
        self._watched = watched
        self._sample = first_samples(material.held_out, CURVE_SAMPLES)
        self._every = max(1, job.steps // EVALUATIONS)

    @property
    def is_finite(self) -> bool:
        """Whether every loss was finite."""
        return all(map(math.isfinite, self.losses))

    def run(self) -> None:
        """Train for all steps, or to the first loss that is not finite."""
        history = History()
        capture = None
        self.model.train()
        if self._watched:
            capture = Capture(
                self.model, self._optimizer, emit=history.add, every=max(1, self._every // 2)
            )
            history.facts.update(capture.facts)
        engine = Engine()
        findings: tuple[Finding, ...] = ()
        try:
            for step, batch in enumerate(self._material.batches(self._seed, self._job.steps)):
                self._step(batch, capture)
                if not math.isfinite(self.losses[-1]):
                    break
                if self._watched and (step + 1) % self._every == 0:
                    self.curve.append((step + 1, self._evaluate()))
                if capture is not None and (step + 1) % (self._every * 5) == 0:
                    capture.settle()
                    findings = engine.examine(history, findings)
        finally:
            if capture is not None:
                capture.detach()
        headline = headline_of(engine.examine(history, findings)) if capture else None
        self.headline = f"{headline.code} {headline.rule}" if headline else ""

    def _evaluate(self) -> float | None:
        return evaluated(self._job, self.model, self._sample)[0]

    def _step(self, batch: Batch, capture: Capture | None) -> None:
        self._optimizer.zero_grad()
        one = run(self.model, batch, self._loss)
        self.losses.append(float(one.value.detach()))
        if capture is not None:
            # The pair is read in the loss's graph: the logits are not what, for example, the mean
            # squared error of the softmax compares.
            capture.loss(one.value)
        torch.autograd.backward(one.value)
        self._optimizer.step()


def loss_of(job: Job, choice: Choice) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of a choice as a function of a prediction and a target as they come."""
    module = copy.deepcopy(choice.loss or job.loss)

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        value: Tensor = module(job.form.prediction(prediction), job.form.target(target))
        return value

    return loss


def evaluated(
    job: Job, model: nn.Module, held_out: Sequence[Batch]
) -> tuple[float | None, float | None]:
    """Return the metric and the calibration error on the held-out data, in eval mode.

    None for a metric that is not finite, and for the calibration error of a regression.
    """
    with evaluation(model):
        chunks = [chunk for batch in held_out for chunk in chunks_of(batch, CHUNK)]
        found = [_pairs(job.form, model, chunk) for chunk in chunks]
        prediction = torch.cat([p for p, _ in found])
        target = torch.cat([t for _, t in found])
        if not bool(prediction.isfinite().all()):
            return None, None
        error = calibration_error(job.form, prediction, target)
        if job.metric.function is None:
            return _finite(score(job.form, prediction, target)), error
        values = [float(job.metric.function(model, x, y)) for x, y in held_out]
    sizes = [len(y) for _, y in held_out]
    return _finite(float(np.average(values, weights=sizes))), error


def _pairs(form: Form, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    inputs, target = batch
    output = model(*inputs) if isinstance(inputs, (tuple, list)) else call(model, inputs)
    return form.pairs(prediction_of(output), target)


def _constant(job: Job, material: Material) -> tuple[float | None, float | None]:
    """Return the metric of the best constant prediction, and that of a model that has learned."""
    if job.metric.function is not None:
        return None, None
    training, held_out = (
        torch.cat([job.form.targets(y) for _, y in part])
        for part in (material.training, material.held_out)
    )
    constant = constant_score(job.form, training, held_out)
    return constant, bar_of(job.metric, constant, len(held_out))


def _signal(
    job: Job, choice: Choice, model: nn.Module, batch: Batch
) -> tuple[tuple[str, float | None], ...]:
    """Return (layer, S) of each hidden layer with weights, before the training.

    S is the standard deviation of the output across samples.
    """
    with preserved(model):
        history, _, _ = measured(model, [batch], loss_of(job, choice), None)
    hidden = weighted(propagation(history))[:-1]
    return tuple((one.layer, _finite(one.S)) for one in hidden)


def _ratio(signal: Sequence[tuple[str, float | None]]) -> float | None:
    """Return S of the last hidden layer over S of the first.

    None for fewer than two hidden layers, and for a first layer without a signal.
    """
    if len(signal) < 2:
        return None
    first, last = signal[0][1], signal[-1][1]
    return None if not first or last is None else _finite(last / first)


def _mean(values: Sequence[float]) -> float | None:
    return _finite(math.fsum(values) / len(values)) if values else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
