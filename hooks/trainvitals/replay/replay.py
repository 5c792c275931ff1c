"""Run a recorded step again and rank its samples.

Comes in: a bundle, and what the user's factory returned. Goes out: a `Replay`.
With a recorded state, the steps from it to the wanted one are trained again first. Without it, the
weights are those of the factory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader, Dataset, default_collate

from trainvitals.checkups.batches import called, divided, prediction_of
from trainvitals.checkups.preserve import random_states_preserved
from trainvitals.random_states import restore
from trainvitals.recorder.bundle import Bundle
from trainvitals.recorder.ring import StepContext
from trainvitals.replay.ranking import Sample, ranked
from trainvitals.replay.samples import Loss, measured
from trainvitals.wire import Scalar

RELATIVE_MAX: Final = 1e-3
"""Largest relative difference of losses that counts as reproduced."""


class ReplayError(ValueError):
    """The step cannot be replayed; the message says why and what to do."""


class Replay(msgspec.Struct, kw_only=True):
    """The result of a replayed step."""

    run: str
    step: int
    weights: str
    """Where the weights are from."""
    recorded_loss: float | None = None
    """Of the step, as recorded; None if it was not recorded or not finite."""
    replayed_loss: float | None = None
    """Of the whole batch, averaged over micro-batches; None if it is not finite."""
    is_reproduced: bool | None = None
    """Whether the losses agree (per sample, where they were recorded); None: nothing to compare."""
    samples: list[Sample] = []
    """The worst first."""
    notes: list[str] = []


def replay(
    bundle: Bundle,
    model: nn.Module,
    optimizer: Optimizer | None,
    loss: Loss | None,
    data: object,
    step: int | None = None,
) -> Replay:
    """Return the samples of a recorded step, the worst first. Changes the weights of `model`.

    `data` is a map-style dataset, a DataLoader (its dataset and its collate function are used), or
    a function that returns the batch for an array of sample indices. `loss` is called with
    (prediction, target); None: the model returns the loss. `step` None: the step of the bundle.

    Raises ReplayError if the step was not recorded, has no sample indices, or fails.
    """
    wanted = bundle.description.step if step is None else step
    context = _context(bundle, wanted)
    batch_of = _batches_from(data)
    notes: list[str] = []
    with random_states_preserved(), torch.enable_grad():
        model.train()
        weights = _prepare(bundle, model, optimizer, loss, batch_of, wanted, notes)
        restore(context.of_torch, context.others)
        if context.others is not None and context.others_step != wanted:
            notes.append(
                f"the states of Python's and NumPy's generators are those of step "
                f"{context.others_step}"
            )
        samples, places, total = _measure(model, loss, batch_of, context)
    found = Replay(
        run=bundle.description.run,
        step=wanted,
        weights=weights,
        replayed_loss=total if math.isfinite(total) else None,
        recorded_loss=bundle.scalar(Scalar.LOSS).get(wanted),
        samples=ranked(samples, places),
        notes=notes,
    )
    found.is_reproduced = _is_reproduced(found, samples, context)
    return found


def _context(bundle: Bundle, step: int) -> StepContext:
    about = bundle.description
    if step not in bundle.contexts:
        raise ReplayError(
            f"Step {step} is not in this file: it has steps {about.first_step} to "
            f"{about.last_step}."
        )
    context = bundle.contexts[step]
    if not context.batches:
        reason = about.problems.get("sample indices", "monitor.batches(loader) was not called")
        raise ReplayError(f"Step {step} has no sample indices: {reason}.")
    return context


def _batches_from(data: object) -> Callable[[Any], object]:
    """Return the function that reads the batch of an array of indices."""
    dataset: Any
    if isinstance(data, DataLoader):
        dataset, collate = data.dataset, data.collate_fn
    elif isinstance(data, Dataset) or hasattr(data, "__getitem__"):
        dataset, collate = data, default_collate
    elif callable(data):
        return data
    else:
        raise ReplayError(
            f"data is a {type(data).__name__}. It must be a dataset, a DataLoader, or a function "
            "that returns the batch for sample indices."
        )

    def read(indices: Any) -> object:
        numbers = indices.tolist()
        if hasattr(dataset, "__getitems__"):
            return collate(dataset.__getitems__(numbers))
        return collate([dataset[i] for i in numbers])

    return read


def _prepare(
    bundle: Bundle,
    model: nn.Module,
    optimizer: Optimizer | None,
    loss: Loss | None,
    batch_of: Callable[[Any], object],
    step: int,
    notes: list[str],
) -> str:
    """Load the recorded state and train to the step; return where the weights are from."""
    snapshot = bundle.snapshot
    if snapshot is None:
        return "the factory"
    if len(snapshot.models) != 1:
        raise ReplayError(f"The run has {len(snapshot.models)} models; replay can run one.")
    with _failing("the recorded state cannot be loaded into the factory's model"):
        model.load_state_dict(next(iter(snapshot.models.values())))
        if optimizer is not None and len(snapshot.optimizers) == 1:
            optimizer.load_state_dict(snapshot.optimizers[0])
    if snapshot.step >= step:
        if snapshot.step > step:
            notes.append("the recorded state is later than the step")
        return f"the state at step {snapshot.step}"
    between = range(snapshot.step, step)
    if optimizer is None or not all(n in bundle.contexts for n in between):
        notes.append(f"steps {snapshot.step} to {step - 1} were not trained again")
        return f"the state at step {snapshot.step}"
    for number in between:
        _train(model, optimizer, loss, batch_of, _context(bundle, number))
    return f"the state at step {snapshot.step}, and {len(between)} steps trained again"


def _train(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss | None,
    batch_of: Callable[[Any], object],
    context: StepContext,
) -> None:
    restore(context.of_torch, context.others)
    optimizer.zero_grad()
    with _failing(f"step {context.step} cannot be trained again"):
        for indices in context.batches:
            inputs, target = divided(_moved(batch_of(indices), model))
            output = called(model, inputs)
            value = _total(output, target, loss)
            (value / len(context.batches)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()


def _total(output: object, target: object, loss: Loss | None) -> Tensor:
    if loss is not None:
        found = loss(prediction_of(output), target)
    else:
        found = output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", output)
    if not isinstance(found, Tensor):
        raise ReplayError("The model returns no loss, and the factory gives none.")
    return found.mean()


def _measure(
    model: nn.Module, loss: Loss | None, batch_of: Callable[[Any], object], context: StepContext
) -> tuple[list[Sample], list[str], float]:
    """Return the samples of all batches of a step, the places in order, and the loss."""
    samples: list[Sample] = []
    places: list[str] = []
    totals = []
    for indices in context.batches:
        with _failing(f"the batch of step {context.step} cannot be run"):
            found = measured(model, _moved(batch_of(indices), model), loss)
        if len(found.losses) != len(indices):
            raise ReplayError(
                f"The batch of step {context.step} had {len(indices)} samples; the factory's data "
                f"give {len(found.losses)}."
            )
        places = found.places
        totals.append(found.total)
        samples += [
            Sample(
                index=int(index),
                row=len(samples) + row,
                loss=found.losses[row],
                gradient_norm=found.gradient_norms[row],
                input_rms=found.input_rms[row],
                nonfinite_in=found.nonfinite_in[row],
            )
            for row, index in enumerate(indices)
        ]
    return samples, places, sum(totals) / len(totals)


def _is_reproduced(found: Replay, samples: list[Sample], context: StepContext) -> bool | None:
    replayed = np.array([sample.loss for sample in samples])
    if context.losses:
        recorded = torch.cat(context.losses).double().numpy()
        if len(recorded) == len(replayed):
            return bool(np.allclose(replayed, recorded, rtol=RELATIVE_MAX, equal_nan=True))
    if found.recorded_loss is None or found.replayed_loss is None:
        return None
    return math.isclose(found.replayed_loss, found.recorded_loss, rel_tol=RELATIVE_MAX)


def _moved(batch: object, model: nn.Module) -> Any:
    """Return a batch on the device of the model's parameters."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(part, model) for key, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        return tuple(_moved(part, model) for part in batch)
    return batch


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Turn an exception of the user's code into a ReplayError."""
    try:
        yield
    except ReplayError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ReplayError(f"{what[0].upper()}{what[1:]}: {kind}: {error}") from error
