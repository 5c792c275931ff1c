"""Sample indices of trainers that divide a batch of prompts by themselves: TRL's GRPO and RLOO.

Comes in: the indices of the generation batches that the loader delivered for a step.
Goes out: for each micro-batch, the indices of the rows that are trained in it.
Promise:  the rows, their order and the random numbers are those of the trainer.

The trainer generates completions for `steps_per_generation` micro-batches at once, shuffles the
rows and trains one part of them in each micro-batch (`_prepare_inputs`). Here the positions of the
rows pass through its shuffling as one more column, which is removed before a part is trained.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import numpy as np
import torch

from trainvitals.integrations.events import no_indices, records
from trainvitals.monitor import Monitor
from trainvitals.recorder.ring import Indices

COLUMN: Final = "trainvitals_positions"
GENERATES: Final = "_generate_and_score_completions"
PREPARES: Final = "_prepare_inputs"
PARTS: Final = "_buffered_inputs"
ROWS: Final = "completion_ids"
"""Names in TRL's trainers, tried with TRL 1.16."""
OTHER_ROWS: Final = "the trainer generates other rows than those of its batch of prompts"


class GeneratedRows:
    """The rows of one trainer; `monitor` is that of its current training, or None."""

    def __init__(self, trainer: Any) -> None:
        self.monitor: Monitor | None = None
        self._trainer = trainer
        self._read: deque[Indices] = deque()
        self._parts: list[Indices] = []
        self._generate = getattr(trainer, GENERATES)
        self._prepare = getattr(trainer, PREPARES)
        setattr(trainer, GENERATES, self.generate)
        setattr(trainer, PREPARES, self.prepare)

    def read(self, monitor: Monitor) -> None:
        """Take the batches of this step from the recorder: they are not what is trained."""
        self.monitor = monitor
        if records(monitor) and monitor._recorder is not None:
            self._read = deque(monitor._recorder.take_batches())

    def generate(self, examples: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the trainer's method, and number the rows of its result."""
        made = self._generate(examples, *args, **kwargs)
        if records(self.monitor) and len(made.get(ROWS, ())) == len(examples):
            made[COLUMN] = torch.arange(len(examples))
        return made

    def prepare(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the trainer's method, and record the rows of the part that it returns."""
        part = self._prepare(batch, *args, **kwargs)
        if not self._trainer.model.training:
            part.pop(COLUMN, None)
        elif records(self.monitor) and self._read:
            self._note(part, self._read.popleft())
        return part

    def _note(self, part: Any, indices: Indices) -> None:
        """Record the rows of a part; `indices` are those of the batch that was given with it."""
        buffered = getattr(self._trainer, PARTS)
        positions = [each.pop(COLUMN, None) for each in buffered]
        if None not in positions:  # the batch was generated in this call
            read = np.asarray(indices)
            self._parts = [read[found.numpy()] for found in positions]
        place = next(n for n, each in enumerate(buffered) if each is part)
        monitor = self.monitor
        if monitor is None or monitor._recorder is None:
            return
        if place < len(self._parts):
            monitor._recorder.delivered(self._parts[place])
        else:
            no_indices(monitor, OTHER_ROWS)


def rows_of(trainer: Any) -> GeneratedRows | None:
    """Return the rows of a trainer that generates them, the same object at each call, or None."""
    bound = vars(trainer).get(PREPARES)
    found = getattr(bound, "__self__", None)
    if isinstance(found, GeneratedRows):
        return found
    generates = all(hasattr(trainer, name) for name in (GENERATES, PREPARES, PARTS))
    return GeneratedRows(trainer) if generates else None
