"""Compare short trainings that differ in one choice.

Comes in: a factory, data, what varies. Goes out: a `Result`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainvitals.checkups.batches import prediction_of, run
from trainvitals.checkups.preserve import random_states_preserved
from trainvitals.experiments.choices import Choice, checked_rate, choices_of, losses_of
from trainvitals.experiments.compare import rows_of, threshold_of, verdict_of
from trainvitals.experiments.data import Batch, Data, Material, checked_pair, material_of
from trainvitals.experiments.form import Form, form_of
from trainvitals.experiments.journal import Journal
from trainvitals.experiments.metrics import metric_of
from trainvitals.experiments.pool import BrokenProcessPool, Task, parallel, reason_serial, serial
from trainvitals.experiments.result import Result
from trainvitals.experiments.trial import Job, Outcome, built, loss_of, seed_all
from trainvitals.remedies.running import call, evaluation

log = logging.getLogger("trainvitals")

LEARNING_RATE = 1e-3
BATCH_SIZE = 64
FORM_SAMPLES = 512
"""Number of samples from which the task is recognised."""


def experiment(
    factory: Callable[[], nn.Module],
    data: Data,
    vary: str | Mapping[str, object] = "initialisation",
    *,
    steps: int = 200,
    seeds: int | Sequence[int] = 5,
    loss: nn.Module | None = None,
    metric: Callable[..., Any] | None = None,
    higher_is_better: bool | None = None,
    learning_rate: float | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    batch_size: int = BATCH_SIZE,
    held_out: Batch | None = None,
    robustness: bool = True,
    workers: int | None = None,
    resume: str | Path | None = None,
) -> Result:
    """Train `factory()` once per choice and seed, and compare the choices on held-out data.

    For a seed, every choice gets the same data in the same order and the same random state. The
    random states of the caller are unchanged afterwards. A training that diverges is a result.

    Args:
        factory: returns a fresh model at each call.
        data: (inputs, targets), of which a quarter is held out, the same for all seeds; or a
            function seed → iterable of batches (inputs, targets), of which the first quarter is
            held out, at most 16.
        vary: "initialisation", "loss", "learning_rate", or a dict name → a loss module, a learning
            rate, the name of a strategy of `remedies.initialise`, or a function of the model.
        steps: optimizer steps of a training; at least 1.
        seeds: how many (0, 1, …), or the seeds; at least 2.
        loss: the loss where it does not vary; None: mean squared error, cross entropy or binary
            cross entropy, by the targets. It gets predictions and targets of the same shape, or
            logits and class indices.
        metric: a function (model, inputs, targets) → number, with `higher_is_better`; None: the
            accuracy, or the median absolute error of a regression.
        learning_rate: where it does not vary; default 0.001.
        optimizer: called as optimizer(parameters, lr=…); None: AdamW.
        batch_size: samples in a batch of (inputs, targets); at least 1.
        held_out: (inputs, targets) to compare on, instead of a part of `data`.
        robustness: train a second time with 10 % of the targets wrong.
        workers: number of processes; None or 1: none. The script then needs
            `if __name__ == "__main__"`.
        resume: a file of JSON lines with the finished trainings; it is created, or read and
            continued.

    Raises:
        ValueError: the model cannot run on the data, the targets fit no loss, or an argument is
            out of range. The message says what was expected.
        TypeError: an argument or a choice has no known form.
    """
    seed_list = _seeds(seeds)
    for name, value in (("steps", steps), ("batch_size", batch_size), ("workers", workers or 1)):
        _check_count(name, value)
    _check(factory, loss, optimizer)
    rate = checked_rate("learning_rate", LEARNING_RATE if learning_rate is None else learning_rate)
    if loss is not None and vary == "loss":
        raise ValueError("loss= is given and vary='loss': name your losses in vary={name: loss}.")
    if held_out is not None:
        held_out = checked_pair("held_out", held_out)
    with random_states_preserved():
        material = material_of(data, held_out, batch_size, seed_list[0], steps)
        form = _form(_first_model(factory, seed_list[0]), material)
        job = Job(
            factory=factory,
            data=data,
            held_out=held_out,
            batch_size=batch_size,
            choices=choices_of(vary, form, rate),
            steps=steps,
            loss=loss if loss is not None else next(iter(losses_of(form).values())),
            learning_rate=rate,
            optimizer=optimizer or torch.optim.AdamW,
            metric=metric_of(form, metric, higher_is_better),
            form=form,
            robustness=robustness,
        )
        for choice in job.choices:
            _rehearse(job, choice, seed_list[0], material)
        outcomes, notes = _outcomes(job, seed_list, workers or 1, resume)
    return _result(job, seed_list, outcomes, _resolution(form, material), notes)


def _result(
    job: Job,
    seeds: Sequence[int],
    outcomes: Mapping[tuple[str, int], Outcome],
    resolution: float,
    notes: Sequence[str],
) -> Result:
    groups: dict[str, Sequence[Outcome]] = {
        c.name: [outcomes[c.name, seed] for seed in seeds] for c in job.choices
    }
    threshold = threshold_of(groups, job.metric)
    rows = rows_of(groups, job.metric, threshold)
    verdict = verdict_of(groups, rows, job.metric, resolution if not job.metric.function else 0.0)
    return Result(
        rows=rows,
        best=verdict.best,
        tied=verdict.tied,
        reason=verdict.reason,
        metric=job.metric.name,
        higher_is_better=job.metric.higher_is_better,
        threshold=threshold,
        steps=job.steps,
        seeds=tuple(seeds),
        outcomes=tuple(o for found in groups.values() for o in found),
        notes=tuple(notes),
    )


def _outcomes(
    job: Job, seeds: Sequence[int], workers: int, resume: str | Path | None
) -> tuple[dict[tuple[str, int], Outcome], list[str]]:
    """Return the outcome of each (choice, seed), and remarks on how they were made."""
    journal = Journal(resume, job) if resume is not None else None
    found = dict(journal.outcomes) if journal else {}
    notes = []

    def missing() -> list[Task]:
        names = [c.name for c in job.choices]
        return [(i, s) for s in seeds for i, name in enumerate(names) if (name, s) not in found]

    def take(results: Iterator[Outcome]) -> None:
        with _progress(len(seeds) * len(job.choices), len(found)) as advance:
            for outcome in results:
                found[outcome.choice, outcome.seed] = outcome
                if journal:
                    journal.add(outcome)
                advance()

    if workers > 1 and missing():
        reason = reason_serial(job)
        if reason is None:
            try:
                take(parallel(job, missing(), workers))
            except BrokenProcessPool:
                reason = (
                    "the processes could not start: put the call under "
                    'if __name__ == "__main__", and the factory into a module that can be imported'
                )
        if reason is not None:
            notes.append(f"The trainings ran in one process: {reason}.")
            log.warning(notes[-1])
    take(serial(job, missing()))
    return found, notes


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr if it is a terminal; yield the function that advances it."""
    if not sys.stderr.isatty() or done == total:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("trainings", total=total, completed=done)
        yield lambda: bar.advance(task)


def _first_model(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    models = []
    for _ in range(2):
        seed_all(seed)
        try:
            models.append(factory())
        except Exception as error:
            raise ValueError(f"factory() failed: {type(error).__name__}: {error}") from error
    model, again = models
    if not isinstance(model, nn.Module):
        raise TypeError(f"factory() returned a {type(model).__name__}, not a torch.nn.Module.")
    if lazy := [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)]:
        raise ValueError(
            f"{lazy[0]} is not initialised yet (lazy module): run the model on a batch in the "
            "factory."
        )
    if {id(p) for p in model.parameters()} & {id(p) for p in again.parameters()}:
        raise ValueError(
            "factory() returned the same parameters twice: each training would continue the one "
            "before. Build a new model at each call."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("factory() returned a model without trainable parameters.")
    return model


def _form(model: nn.Module, material: Material) -> Form:
    """Return the form of targets and predictions, from some training samples."""
    targets, predictions, count = [], [], 0
    with evaluation(model):
        for inputs, target in material.batches(0, max(1, len(material.training))):
            try:
                is_tuple = isinstance(inputs, (tuple, list))
                output = model(*inputs) if is_tuple else call(model, inputs)
            except Exception as error:
                raise ValueError(
                    f"The model cannot run on the data: {type(error).__name__}: {error}"
                ) from error
            prediction = prediction_of(output)
            if not isinstance(prediction, Tensor):
                raise TypeError(
                    f"The model returns a {type(prediction).__name__}; expected a tensor."
                )
            targets.append(target)
            predictions.append(prediction)
            count += len(target)
            if count >= FORM_SAMPLES:
                break
    return form_of(torch.cat(targets), torch.cat(predictions))


def _rehearse(job: Job, choice: Choice, seed: int, material: Material) -> None:
    """Run one pass: a choice that cannot run fails before the first training."""
    model = built(job, choice, seed)
    batch = next(material.batches(seed, 1))
    try:
        run(model, batch, loss_of(job, choice))
    except ValueError as error:
        raise ValueError(f"The choice {choice.name!r} cannot run. {error}") from error
    try:
        job.optimizer([p for p in model.parameters() if p.requires_grad], lr=job.learning_rate)
    except Exception as error:
        raise ValueError(
            f"optimizer(parameters, lr={job.learning_rate}) failed: {type(error).__name__}: {error}"
        ) from error


def _resolution(form: Form, material: Material) -> float:
    """Return the smallest difference of two accuracies; 0 for a regression."""
    if not form.is_classification:
        return 0.0
    return 1 / max(1, sum(form.targets(y).numel() for _, y in material.held_out))


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, bool) or not isinstance(seeds, (int, Sequence)):
        raise TypeError(f"seeds is a {type(seeds).__name__}; expected a number or a list of seeds.")
    found = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if len(found) < 2:
        raise ValueError(
            f"seeds gives {max(0, len(found))} seeds; expected at least 2: with one seed, "
            "a difference cannot be distinguished from chance."
        )
    if not all(isinstance(s, int) and 0 <= s < 2**63 for s in found):
        raise ValueError(f"seeds is {seeds!r}; seeds are whole numbers, at least 0.")
    return found


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a whole number.")
    if value < 1:
        raise ValueError(f"{name} is {value}; expected at least 1.")


def _check(factory: object, loss: object, optimizer: object) -> None:
    if isinstance(factory, nn.Module):
        raise TypeError(
            "factory is a module; expected a function that returns a new model at each call, for "
            "example lambda: nn.Linear(8, 1)."
        )
    if not callable(factory):
        raise TypeError(f"factory is a {type(factory).__name__}; expected a function.")
    if loss is not None and not isinstance(loss, nn.Module):
        raise TypeError(f"loss is a {type(loss).__name__}; expected a loss module.")
    if optimizer is not None and not callable(optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; expected a class such as torch.optim.SGD."
        )
