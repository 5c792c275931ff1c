"""`watch`: check the arguments, make a Monitor and attach it.

`watch` returns a Monitor at once. After any error in trainvitals the training goes on: an invalid
argument, an unreachable collector or an exception in trainvitals causes one warning.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from trainvitals.arguments import (
    OnFinding,
    checked_model,
    is_respawned,
    run_of,
    usable_activations,
    usable_callback,
    usable_collector,
    usable_folder,
    usable_guard,
    usable_start,
    usable_steps,
    usable_tags,
)
from trainvitals.config import ClientSettings, load
from trainvitals.ending import described, open_monitors
from trainvitals.monitor import Monitor

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

log = logging.getLogger("trainvitals")


def watch(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    loss: nn.Module | Callable[..., object] | None = None,
    run: str | None = None,
    project: str | None = None,
    config: object = None,
    tags: Sequence[str] = (),
    collector: str | None = None,
    total_steps: int | None = None,
    start_step: int | None = None,
    overhead: float | None = None,
    every: int | None = None,
    guard: str = "off",
    activations: bool | str | Sequence[str] = "auto",
    loss_falls: bool = True,
    on_finding: OnFinding | None = None,
    record: bool | str | os.PathLike[str] = False,
    record_state: bool = False,
) -> Monitor:
    """Watch a training run: register hooks on `model` and `optimizer`, and return at once.

    Never raises into the training: an invalid argument causes one warning and is ignored; if
    attaching fails, the returned Monitor does nothing.

    Args:
        model: the module, or several by name: `{"generator": g, "critic": d}`.
        optimizer: one or a list, also inside a wrapper (Accelerate); None: found at the first
            step. The steps of the run are the steps of the first optimizer, counted from 0.
            Without a torch optimizer, each training loss is a step.
        loss: the loss module, if `monitor.loss` is not called; for a function, only the kind of
            loss is recorded.
        run: the run's id and name; None: a new ULID, in a torchrun job one for all ranks, shown
            with a generated name such as calm-otter-17.
        project: the run's project; None: from the settings.
        config: hyper-parameters, stored with the run.
        tags: labels by which the run can be searched.
        collector: its URL; None: from the settings, otherwise local only; "off": no network.
        total_steps: planned number of steps, for the progress.
        start_step: number of the first step, after a resume; None: 0.
        overhead: budget as a share of the step time, at least 0 (default 0.02); 0: only the loss,
            the learning rate, the gradient norm and times, unless `every` is given.
        every: measure every n-th step in full instead of by budget; at least 1.
        guard: what happens to an update with non-finite gradients. "off": nothing; "report": an
            event; "veto": it is prevented, so that weights and optimizer stay finite; "stop": it
            is prevented, and `optimizer.step()` raises StopTraining. All but "off" wait for an
            accelerator at each step. Sharded parameters need clip_grad_norm_ (docs/guard.md).
        activations: "auto", True, False, or names or globs of modules.
        loss_falls: False for a loss that is not expected to fall (policy gradients, adversarial
            losses, sums over episodes): switches off the rules on its level.
        on_finding: called in the training thread, at the end of a step, for each finding that
            opened; may raise StopTraining.
        record: keep the last 256 steps, and write them to a file in this folder when a warning or
            an error opens or a value is not finite (at most 64 MB in memory and three files); True:
            `recordings/<run>` in the home of the settings. See `Monitor.batches`.
        record_state: record the model and the optimizer too, every 64 steps, for `trainvitals
            replay`. Two copies stay in memory.
    """
    monitor = Monitor(ClientSettings(disabled=True), "", "")
    try:
        settings = load(project=project, overhead=overhead)
        respawned = is_respawned()
        identity, name = run_of(run)
        monitor = Monitor(settings, identity, settings.project)
        if settings.disabled or respawned:
            return monitor
        checked_model(model)
        monitor._attach(
            model,
            optimizer,
            loss=loss,
            activations=usable_activations(activations),
            every=usable_steps("every", every),
            start_step=usable_start(start_step),
            guard=usable_guard(guard),
            loss_falls=bool(loss_falls),
            collector=usable_collector(collector, settings),
            start={
                "name": name,
                "config": config,
                "tags": usable_tags(tags),
                "total_steps": usable_steps("total_steps", total_steps),
            },
            on_finding=usable_callback(on_finding),
            recordings=usable_folder(record, settings.home, identity),
            record_state=bool(record_state),
        )
        open_monitors.add(monitor)
    except Exception as error:
        monitor._abandon()
        log.warning(
            "trainvitals could not attach (%s). The training goes on, unwatched.",
            described(error),
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
    return monitor
