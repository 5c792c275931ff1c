"""Other ways to watch every gradient, attached to the same training loop.

Comes in: the model and the optimizer. Goes out: an Attachment, or PeerMissing with the reason.
None of them is a dependency: each is imported when it is measured, and skipped if that fails.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from overhead_blocks import Attach, Attachment


class PeerMissing(Exception):
    """The peer cannot run here; the message says why."""


def imported(name: str) -> Any:
    """Return the module `name`; untyped, because no peer is installed where types are checked."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken installation raises anything
        reason = str(error).partition("\n")[0]
        raise PeerMissing(f"{type(error).__name__}: {reason}") from error


def grad_norm_item(model: nn.Module, _optimizer: torch.optim.Optimizer) -> Attachment:
    """Read `.grad.norm().item()` of every parameter: the line that many people write by hand."""

    def before_step(_loss: Tensor) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.norm().item()

    return Attachment(before_step=before_step)


def tensorboard(model: nn.Module, _optimizer: torch.optim.Optimizer) -> Attachment:
    """Write a histogram of every weight and gradient in every step."""
    folder = tempfile.TemporaryDirectory()
    writer = imported("torch.utils.tensorboard").SummaryWriter(folder.name)
    step = 0

    def before_step(_loss: Tensor) -> None:
        nonlocal step
        for name, parameter in model.named_parameters():
            writer.add_histogram(name, parameter, step)
            if parameter.grad is not None:
                writer.add_histogram(f"{name}.grad", parameter.grad, step)
        step += 1

    def close() -> None:
        writer.close()
        folder.cleanup()

    return Attachment(before_step=before_step, close=close)


def wandb_watch(model: nn.Module, _optimizer: torch.optim.Optimizer) -> Attachment:
    """Call `wandb.watch(log="all", log_freq=1)` in an offline run, and log the loss.

    The offline run's service is another process; its CPU time is in none of the columns.
    """
    wandb = imported("wandb")
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    settings = wandb.Settings(silent=True, console="off")
    run = wandb.init(mode="offline", dir=folder.name, settings=settings)
    wandb.watch(model, log="all", log_freq=1)

    def close() -> None:
        wandb.unwatch(model)
        run.finish()
        folder.cleanup()

    return Attachment(before_step=lambda loss: run.log({"loss": loss.item()}), close=close)


def trainscope(model: nn.Module, optimizer: torch.optim.Optimizer) -> Attachment:
    """Use trainscope's own defaults; metrics of every step go to files."""
    package = imported("trainscope")
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    scope = package.TrainScope(model, optimizer, package.TrainScopeConfig(run_dir=folder.name))
    scope.attach()

    def close() -> None:
        scope.detach()
        folder.cleanup()

    return Attachment(before_step=lambda loss: scope.step(loss.item()), close=close)


def composer_monitor(model: nn.Module, optimizer: torch.optim.Optimizer) -> Attachment:
    """Call Composer's OptimizerMonitor as its Trainer does after each batch, with no logger."""
    callbacks = imported("composer.callbacks")
    monitor = callbacks.OptimizerMonitor(log_optimizer_metrics=False, batch_log_interval=1)
    state = SimpleNamespace(
        model=model,
        optimizers=[optimizer],
        fsdp_enabled=False,
        deepspeed_enabled=False,
        timestamp=SimpleNamespace(batch=SimpleNamespace(value=0)),
    )
    logger = SimpleNamespace(log_metrics=lambda _metrics: None)
    return Attachment(before_step=lambda _loss: monitor.batch_end(state, logger))


PEERS: dict[str, Attach] = {
    ".grad.norm().item() per parameter": grad_norm_item,
    "TensorBoard add_histogram": tensorboard,
    "wandb.watch(all, every step)": wandb_watch,
    "trainscope, its default": trainscope,
    "Composer OptimizerMonitor, each step": composer_monitor,
}
_NEEDS = {
    tensorboard: "torch.utils.tensorboard",
    wandb_watch: "wandb",
    trainscope: "trainscope",
    composer_monitor: "composer.callbacks",
}


def available(report: Callable[[str], None]) -> dict[str, Attach]:
    """Return the peers that can be imported; `report` receives the reason for each of the
    others."""
    usable = {}
    for name, attach in PEERS.items():
        try:
            if attach in _NEEDS:
                imported(_NEEDS[attach])
        except PeerMissing as reason:
            report(f"skipped: {name} ({reason})")
        else:
            usable[name] = attach
    return usable
