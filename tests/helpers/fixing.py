"""Execute the code of a finding's fix, literally: once, or at its places in a small training."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import trainvitals
from trainvitals import remedies
from trainvitals.diagnosis.fixes import Moment, parts


def applied(fix: str, **names: Any) -> dict[str, Any]:
    """Execute all parts of `fix` in their order and return the names afterwards."""
    space = {"torch": torch, "nn": nn, "F": nn.functional, "remedies": remedies, **names}
    for code in parts(fix).values():
        exec(code, space)
    return space


@dataclass
class Sick:
    """A small training with a fault: 600 samples, batches of 32, Adam, cross entropy."""

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    loss: Callable[[Any, Any], Any] = field(default_factory=nn.CrossEntropyLoss)
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = field(
        default=lambda model: torch.optim.Adam(model.parameters(), 3e-3)
    )
    steps: int = 160
    zero_grad: bool = True
    training: bool = True
    rows: Callable[[int], torch.Tensor] = lambda _: torch.randint(600, (32,))


def diagnosis(sick: Sick, fix: str = "") -> trainvitals.Diagnosis:
    """Train with the parts of `fix` at their places and return the diagnosis at the end."""
    code = parts(fix)
    space = {"torch": torch, "nn": nn, "F": nn.functional, "remedies": remedies}
    space |= {"model": sick.model, "optimizer": sick.optimizer(sick.model)}
    space |= {"x_train": sick.x, "y_train": sick.y, "loss_function": sick.loss}
    space |= {"batch_size": 32, "steps": sick.steps}
    exec(code.get(Moment.BEFORE_TRAINING, ""), space)
    model, optimizer = space["model"].train(sick.training), space["optimizer"]
    # Not by budget: what is measured, and so the diagnosis, would depend on the machine's load.
    monitor = trainvitals.watch(
        model, optimizer, collector="off", every=5, total_steps=space["steps"]
    )
    for step in range(space["steps"]):
        rows = sick.rows(step)
        space |= {"x": space["x_train"][rows], "y": space["y_train"][rows]}
        for moment in (Moment.STEP, Moment.TRAINING_BATCH, Moment.BATCH):
            exec(code.get(moment, ""), space)
        space["prediction"] = model(space["x"])
        exec(code.get(Moment.LOSS, "loss = loss_function(prediction, y)"), space)
        monitor.loss(space["loss"], prediction=space["prediction"], target=space["y"])
        if Moment.UPDATE in code:
            exec(code[Moment.UPDATE], space)
            continue
        if sick.zero_grad:
            optimizer.zero_grad()
        space["loss"].backward()
        exec(code.get(Moment.CLIP, ""), space)
        optimizer.step()
    monitor.close()
    return monitor.diagnosis()
