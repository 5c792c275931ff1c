"""Apply the code of a finding's fix to a program, each part at its place in the loop.

Comes in: `Finding.fix`, whose parts begin with a comment that names the place: see
          `trainvitals.diagnosis.fixes`, and docs/detection.md for the names that the code can use.
Goes out: `Repair`, which train.py calls at these places. `UNCHANGED` has no parts.
Promise:  the code is executed as it is. An exception that it raises reaches the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import trainvitals
from detection.program import Loss, Program
from trainvitals import remedies
from trainvitals.diagnosis.fixes import Moment, parts


class Repair:
    """The parts of one fix and the names that they share.

    Raises ValueError or SyntaxError if the text has no place or is not Python.
    """

    def __init__(self, fix: str) -> None:
        self._parts = {m: compile(code, "<fix>", "exec") for m, code in parts(fix).items()}
        self._names: dict[str, Any] = {
            "torch": torch,
            "nn": nn,
            "F": functional,
            "math": math,
            "trainvitals": trainvitals,
            "remedies": remedies,
        }

    def before_training(self, program: Program, optimizer: Optimizer) -> Optimizer:
        """Change the program and return the optimizer to train with.

        The program's own schedule starts after this; a `scheduler` of the fix replaces it.
        """
        if not self._parts:
            return optimizer
        if Moment.CLIP in self._parts:
            program.clip_norm = None
        self._names |= {
            "model": program.model,
            "optimizer": optimizer,
            "scheduler": None,
            "loss_function": program.loss,
            "x_train": program.data.x,
            "y_train": program.data.y,
            "steps": program.steps,
            "batch_size": program.batch_size,
        }
        self._run(Moment.BEFORE_TRAINING)
        names = self._names
        program.model, program.loss = names["model"], names["loss_function"]
        program.steps, program.batch_size = int(names["steps"]), int(names["batch_size"])
        program.data = replace(program.data, x=names["x_train"], y=names["y_train"])
        if names["scheduler"] is not None:
            program.schedule = _given(names["scheduler"])
        return names["optimizer"]  # type: ignore[no-any-return]

    def start_of_step(self) -> None:
        """Run the part that comes first in a step."""
        self._run(Moment.STEP)

    def training_batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a training batch."""
        if Moment.TRAINING_BATCH in self._parts:
            self._run(Moment.TRAINING_BATCH, x=x, y=y)
            x, y = self._names["x"], self._names["y"]
        return self.batch(x, y)

    def batch(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a batch for the model, in training and evaluation."""
        self._names |= {"x": x, "y": y}
        self._run(Moment.BATCH)
        return self._names["x"], self._names["y"]

    def loss(self, function: Loss, prediction: Any, y: Tensor) -> Any:
        """Return the loss: by the fix if it replaces the loss, otherwise by `function`."""
        if Moment.LOSS not in self._parts:
            return function(prediction, y)
        self._run(Moment.LOSS, loss_function=function, prediction=prediction, y=y)
        return self._names["loss"]

    @property
    def replaces_loss(self) -> bool:
        """Whether the fix computes the loss; its targets can be other ones than the program's."""
        return Moment.LOSS in self._parts

    def after_backward(self) -> None:
        """Run the part between backward and the optimizer's step."""
        self._run(Moment.CLIP)

    @property
    def updates(self) -> bool:
        """Whether the fix replaces zero_grad, backward and step."""
        return Moment.UPDATE in self._parts

    def update(self, loss: Tensor) -> None:
        """Run the part that replaces zero_grad, backward and step."""
        self._run(Moment.UPDATE, loss=loss)

    def _run(self, moment: Moment, **names: Any) -> None:
        if moment in self._parts:
            self._names |= names
            exec(self._parts[moment], self._names)


def _given(scheduler: LRScheduler) -> Callable[[Optimizer, int], LRScheduler]:
    return lambda _, __: scheduler


UNCHANGED = Repair("")
