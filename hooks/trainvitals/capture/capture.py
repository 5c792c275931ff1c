"""Record each optimizer step: compute statistics in the hooks, and append them through `emit`.

A light step records the loss, the learning rates and the total gradient norm; a full step records
every statistic of every tensor. Start at `_before_step` and `_after_step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from trainvitals.capture import reasons
from trainvitals.capture.budget import Budget
from trainvitals.capture.guard import Guard, log
from trainvitals.capture.loss import (
    NOTHING,
    Loss,
    LossHooks,
    Number,
    Seen,
    StepScalars,
    examined_of,
    kind_of_loss,
    name_of,
    total_of,
)
from trainvitals.capture.loss_steps import LossSteps
from trainvitals.capture.matrices import Arrays, Matrices
from trainvitals.capture.operations import LossEvents
from trainvitals.capture.optimizers import Optimizers, closure_of, gradient_scale, group_scalars
from trainvitals.capture.outputs import Outputs
from trainvitals.capture.parameters import reason_not_measured
from trainvitals.capture.reasons import UNSEEN_STEPS, Names
from trainvitals.capture.streams import Emit, Streams
from trainvitals.capture.supervision import Supervision
from trainvitals.capture.transfer import Transfer
from trainvitals.wire import Event, EventKind, NotWatched, Scalar, Stream

RESCAN_STEPS = 64
"""Number of steps between two searches for new, removed or frozen parameters."""


class Capture:
    """Hooks on a model and its optimizer; the package's docstring has the promise.

    `step` is the last finished step of the first optimizer, −1 before the first; in a loop without
    a torch optimizer, each training loss is a step. `watched` lists the measured parameters and
    modules; `not_watched` maps the others to the reason. A constructor that raises leaves no hook.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: object = None,
        *,
        emit: Emit,
        on_step: Callable[[int], None] | None = None,
        loss: object = None,
        activations: bool | str | Sequence[str] = "auto",
        overhead: float = 0.02,
        every: int | None = None,
        background_cpu_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.models = dict(model) if isinstance(model, Mapping) else {"": model}
        self.step = -1
        self.not_watched: dict[str, str] = {}
        self.facts: dict[str, str | float] = {}
        self._emit = emit
        self._on_step = on_step
        self._streams = Streams(emit)
        self._guard = Guard(self._report)
        self._budget = Budget(overhead, every)
        self._background_cpu_s = background_cpu_s
        self._background_seen_s = 0.0
        self._transfer = Transfer()
        self._scalars = StepScalars()
        self._names = Names(self._report)
        hooked = {} if self._budget.vital_only else self.models
        self._outputs = Outputs(hooked, activations, self._guard, self._report)
        self._matrices = Matrices(self.models, self._report)
        self._optimizers = Optimizers(
            self.models, optimizer, self._guard, self._before_step, self._after_step
        )
        self._loss_steps = LossSteps(self.models)
        self._group_sizes: tuple[int, ...] = ()
        self._full = self._budget.is_full(0)
        self._force_full = False
        self._own_s = 0.0
        self._last_end: float | None = None
        self._loss_hook: LossHooks | None = None
        self._copies_are_stepped = False
        self._loss_events = LossEvents(emit)
        self._overhead: float | None = None
        try:
            self._attach(loss)
        except BaseException:
            self.detach()
            raise

    # Called by Monitor.

    @property
    def optimizers(self) -> list[Optimizer]:
        """The torch optimizers that are watched."""
        return self._optimizers.known

    @property
    def overhead(self) -> float | None:
        """Own CPU time over training time, whole run, as last recorded; None before the first."""
        return self._overhead

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the parameters and modules that are measured."""
        return (*(p.name for p in self._matrices.parameters), *self._outputs.names)

    def loss(
        self,
        value: Loss,
        *,
        split: str = "training",
        prediction: object = None,
        target: object = None,
    ) -> None:
        """Record a training loss of this step or its terms by name, or a loss of another split."""
        with self._guard.probe("loss"):
            if split == "training":
                given = prediction is not None or target is not None
                seen = Seen(prediction, target, explicit=True) if given else NOTHING
                self._take_loss(value, seen, hooked=False)
            elif (name := self._names.allowed(split)) is not None:
                self._scalars.log({f"{Scalar.LOSS}/{name}": total_of(value)})
        self._end_loss_steps()

    def log(self, scalars: Mapping[str, Number]) -> None:
        """Record the user's scalars of this step."""
        for given, value in scalars.items():
            if (name := self._names.allowed(given)) is not None:
                with self._guard.probe(f"log({name})"):
                    self._scalars.log({f"log/{name}": value})

    def settle(self) -> None:
        """End the pending steps if the weights changed without a torch optimizer."""
        if self._loss_steps.can_settle(optimizer_known=bool(self.optimizers)):
            self._end_loss_steps(now=True)

    def finding_opened(self) -> None:
        """Raise the budget for some steps."""
        self._budget.after_finding(self.step)

    def detach(self) -> None:
        """Remove every hook and emit all pending records. Safe to call twice."""
        self._optimizers.detach()
        self._outputs.detach()
        if self._loss_hook is not None:
            self._loss_hook.remove()
            self._loss_hook = None
        with self._guard.probe("records"):
            # If a known optimizer never finished a step, a few losses are its micro-batches.
            few = self._scalars.waiting < UNSEEN_STEPS
            self._end_loss_steps(now=not (self.optimizers and few))
            self._report_missing_data()
            self._names.report_all()
        with self._guard.probe("transfer"):
            self._transfer.poll(wait=True)
        self._matrices.forget()

    # Attaching.

    def _attach(self, loss: object) -> None:
        self._supervision = Supervision(
            self.models, self._scalars, self._emit, self._guard, lambda: self.step + 1
        )
        owned = [p for model in self.models.values() for p in model.parameters()]
        self.facts["parameters"] = float(
            sum(p.numel() for p in owned if reason_not_measured(p) is None)
        )
        if not owned:
            log.warning("The model has no parameters: only the loss and logged values are watched.")
        else:
            self.facts["device"] = owned[0].device.type
        if loss is not None:
            self.facts["loss"] = kind_of_loss(loss)
            if not isinstance(loss, nn.Module):
                log.warning(reasons.LOSS_IS_NO_MODULE, name_of(loss))
        self._loss_hook = LossHooks(
            self.models,
            loss if isinstance(loss, nn.Module) else None,
            self._guard,
            self._loss_module_returned,
            self._supervision.model_returned,
            self._is_full,
        )
        self.facts |= reasons.switched_off(
            vital_only=self._budget.vital_only, activations=self._outputs.wanted
        )
        if self._budget.vital_only:
            self._report("layers", reasons.VITAL_ONLY)
        self._outputs.attach()
        self._optimizers.attach()
        self.facts |= self._optimizers.facts()
        if not self._optimizers.step_others_tensors():
            return
        if self._optimizers.wrapped:
            self._copies_are_stepped = True
            self._report("optimizer", reasons.STEPS_COPIES)
            return
        log.warning(
            "The optimizer contains none of the model's %d parameters: it trains another model. "
            "Build it from this model's parameters(). The training goes on.",
            len(owned),
        )
        self._report("optimizer", reasons.OTHER_MODEL)

    def _loss_module_returned(self, value: Tensor, seen: Seen) -> None:
        with self._guard.probe("loss"):
            self._take_loss(value, seen, hooked=True)
        # A program that also calls `monitor.loss` reports this loss a second time.
        if not self._scalars.logged:
            self._end_loss_steps()

    # A loop without a torch optimizer.

    def _take_loss(self, value: Loss, seen: Seen, *, hooked: bool) -> None:
        if "loss" in self.not_watched and not self._scalars.seen:
            self._report("loss", f"no loss was recorded before step {self.step + 1}")
        if self._scalars.loss(total_of(value), hooked=hooked):
            self._force_full = True
            self._budget.after_nonfinite(self.step + 1)
            self._loss_events.add(examined_of(value), self.step + 1)
        self._scalars.terms(value, self._names.allowed)
        if self._is_full() and "supervision" not in self._guard.off:
            with self._guard.probe("supervision"):
                self._own_s += self._supervision.take(value, seen, self.optimizers)
        if not self._loss_steps.optimizer_stepped and not (hooked and self._scalars.logged):
            with self._guard.probe("weights between losses"):
                self._loss_steps.saw_loss(optimizer_known=bool(self.optimizers))

    def _end_loss_steps(self, *, now: bool = False) -> None:
        """End one step for each pending training loss, if losses are steps, or if `now`."""
        steps = self._loss_steps
        if steps.optimizer_stepped or not (steps.active or now) or not self._scalars.waiting:
            return
        self._report("gradients and updates", reasons.NO_OPTIMIZER_STEPPED)
        for value in self._scalars.take_losses():
            started = time.thread_time()
            with self._guard.probe("weights"):
                if not self._matrices.parameters or (self.step + 1) % RESCAN_STEPS == 0:
                    self._matrices.find_parameters()
                if self._is_full():
                    everything = list(range(len(self._matrices.parameters)))
                    self._matrices.take_weights(None, everything)
            self._scalars.loss(value, hooked=not self._scalars.logged)
            self._finish_step(started)

    # One step.

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = time.thread_time()
        self._loss_steps.stop()
        with self._guard.probe("gradients"):
            if "gradients" not in self._guard.off:
                self._find_parameters()
                mine = self._matrices.owned_by(optimizer, self.optimizers)
                closure = closure_of(args, kwargs) is not None
                if not closure:
                    self._take_norm(optimizer, mine)
                if self._is_full():
                    self._matrices.take_weights(optimizer, mine)
                    if not closure:
                        self._matrices.take_gradients(optimizer, mine)
        self._own_s += time.thread_time() - started

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = time.thread_time()
        with self._guard.probe("updates"):
            if "updates" not in self._guard.off:
                mine = self._matrices.owned_by(optimizer, self.optimizers)
                if closure_of(args, kwargs) is not None:
                    # The closure ran its backward inside the step: read its last gradients now.
                    self._take_norm(optimizer, mine)
                    if self._is_full():
                        self._matrices.take_gradients(optimizer, mine)
                if self._is_full():
                    self._matrices.take_updates(optimizer, mine)
        if optimizer is not self.optimizers[0]:
            self._own_s += time.thread_time() - started
            return
        self._finish_step(started)

    def _finish_step(self, started: float) -> None:
        """End a step; `started` is the thread time at which the current hook began."""
        step = self.step + 1
        self._own_s += self._outputs.take_own_s()
        with self._guard.probe("records"):
            self._end_step(step)
        self.step = step
        with self._guard.probe("not watched"):
            if step + 1 == UNSEEN_STEPS:
                self._report_missing_data()
        now = time.perf_counter()
        own_s = self._own_s + time.thread_time() - started
        full = self._is_full()
        self._budget.spent(step, own_s, now - self._last_end if self._last_end else None, full=full)
        background_s = self._background_cpu_s()
        if self._last_end is not None:
            self._budget.background(background_s - self._background_seen_s)
        self._background_seen_s = background_s
        self._last_end = now
        self._own_s = 0.0
        self._matrices.full_steps += full
        self._force_full = False
        self._matrices.begin()
        self._full = self._budget.is_full(step + 1)
        self._outputs.begin(step + 1, armed=self._full)
        if self._on_step is not None:
            self._on_step(step)  # exceptions of the user's callback pass through

    def _is_full(self) -> bool:
        return self._full or (self._force_full and not self._budget.vital_only)

    def _take_norm(self, optimizer: Optimizer, mine: list[int]) -> None:
        if (scale := gradient_scale(optimizer)) is not None:
            self._scalars.log({Scalar.LOSS_SCALE: scale})
        if self._matrices.take_norm(optimizer, mine):
            self._force_full = True
            self._budget.after_nonfinite(self.step + 1)

    def _end_step(self, step: int) -> None:
        now = time.time()
        scalars = self._scalars.take()
        scalars |= group_scalars(self.optimizers)
        if self._last_end is not None:
            scalars[Scalar.STEP_TIME_S] = time.perf_counter() - self._last_end
        scalars[Scalar.CAPTURE_TIME_S] = self._own_s
        if (overhead := self._budget.overhead) is not None:
            # Round to float32, as on the wire, so that every output shows the same number.
            self._overhead = float(np.float32(overhead))
            scalars[Scalar.OVERHEAD] = self._overhead
        full = self._is_full()
        blocks = dict(self._matrices.blocks)
        if full:
            blocks.update(self._outputs.blocks())
            self._announce()
            reported = self.not_watched.get("activations")
            if self._outputs.names and reported in (reasons.EVAL_MODE, reasons.NO_FORWARD):
                self._report("activations", f"no activation was measured before step {step}")
        for name, value in scalars.items():
            blocks[f"scalar/{name}"] = (
                value if isinstance(value, (Tensor, np.ndarray)) else np.array([value])
            )
        self._transfer.poll()
        self._transfer.submit(blocks, lambda arrays: self._emit_step(step, now, arrays, full))

    def _emit_step(self, step: int, now: float, arrays: Arrays, full: bool) -> None:
        scalars = {
            name.removeprefix("scalar/"): float(np.ravel(value)[0])
            for name, value in arrays.items()
            if name.startswith("scalar/")
        }
        norms = [v for k, v in arrays.items() if k.startswith("squares/")]
        if norms:
            squares = np.concatenate([np.ravel(n) for n in norms]).astype(np.float64)
            scalars[Scalar.GRADIENT_NORM] = float(np.sqrt(squares.sum()))
            scalars[Scalar.NONFINITE_GRADIENTS] = float((~np.isfinite(squares)).sum())
        self._streams.scalars(step, now, scalars)
        if not full:
            return
        if self._matrices.parameters:
            for stream in self._parameter_streams():
                self._streams.frame(stream, step, now, self._matrices.matrix(stream, arrays))
        # A step that became a full one late has no outputs: absent is not the same as finite.
        if any(name.startswith("activation/") for name in arrays):
            self._streams.frame(Stream.ACTIVATION, step, now, self._outputs.matrix(arrays))

    # Which tensors.

    def _find_parameters(self) -> None:
        sizes = tuple(len(g["params"]) for o in self.optimizers for g in o.param_groups)
        rescan = (self.step + 1) % RESCAN_STEPS == 0
        if self._matrices.parameters and sizes == self._group_sizes and not rescan:
            return
        self._group_sizes = sizes
        self._matrices.find_parameters()

    def _parameter_streams(self) -> tuple[Stream, ...]:
        every = (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE)
        return every if self.optimizers else every[:1]

    def _announce(self) -> None:
        # A hand-written update, or an update of copies, can change any parameter.
        unknown = self._copies_are_stepped or not self.optimizers
        optimized = None if unknown else self._optimizers.ids
        places = self._matrices.places(self._outputs.facts_of, optimized)
        for stream in self._parameter_streams():
            self._streams.announce(stream, places)
        if self._outputs.names:
            self._streams.announce(Stream.ACTIVATION, self._outputs.places())

    def _report_missing_data(self) -> None:
        by_losses = "gradients and updates" in self.not_watched  # already reported there
        unseen = reasons.unseen(
            steps=self.step + 1,
            loss=self._scalars.seen,
            optimizer_stepped=self._loss_steps.optimizer_stepped or by_losses,
            unknown_optimizers=self._optimizers.unknown,
            activations=bool(self._outputs.names) or not self._outputs.wanted,
            eval_mode=self._outputs.not_training,
            full_steps=self._matrices.full_steps,
        )
        for name, reason in unseen.items():
            if name not in self.not_watched:
                self._report(name, reason)

    def _report(self, name: str, reason: str) -> None:
        if self.not_watched.get(name) == reason:
            return
        self.not_watched[name] = reason
        self._emit(NotWatched({name: reason}))
        if reason.startswith("monitor degraded"):
            self._emit(Event(max(0, self.step), time.time(), EventKind.MONITOR_DEGRADED, reason))
