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
from trainvitals.capture.emission import Emission, Places
from trainvitals.capture.facts import facts_of
from trainvitals.capture.guard import Guard
from trainvitals.capture.hooks import call_s
from trainvitals.capture.initial import InitialValues
from trainvitals.capture.loss import NOTHING, LossHooks, Seen, examined_of
from trainvitals.capture.loss_steps import LossSteps
from trainvitals.capture.measurement import Measurement
from trainvitals.capture.operations import LossEvents
from trainvitals.capture.optimizer_state import OptimizerState
from trainvitals.capture.optimizers import Optimizers, group_scalars
from trainvitals.capture.outputs import Outputs
from trainvitals.capture.plan import CapturePlan
from trainvitals.capture.reasons import UNSEEN_STEPS, Names
from trainvitals.capture.rounded_weights import RoundedWeights
from trainvitals.capture.scalars import Loss, StepScalars, total_of
from trainvitals.capture.streams import Emit
from trainvitals.capture.supervision import Supervision
from trainvitals.capture.veto import UpdateGuard
from trainvitals.wire import Event, EventKind, NotWatched, Scalar

STEP_HOOKS = 2  # called at every step, before and after that of the optimizer
INITIAL_WAIT_S = 0.2
BACKGROUND_STEPS = 16  # every how many light steps the cost of background threads is added


class Capture:
    """Hooks on a model and its optimizer; the package's docstring has the promise.

    `step` is the last finished step of the first optimizer, `start_step` − 1 before the first; in
    a loop without a torch optimizer, each training loss is a step. `watched` lists the measured
    parameters and modules; `not_watched` maps the others to the reason; `scalars` are those of the
    current step; `updates` can prevent updates. A constructor that raises leaves no hook.
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
        start_step: int = 0,
        guard: str = "off",
        background_cpu_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.models = dict(model) if isinstance(model, Mapping) else {"": model}
        self.step = start_step - 1
        self.not_watched: dict[str, str] = {}
        self.facts: dict[str, str | float] = {}
        self._emit = emit
        self._on_step = on_step
        self._guard = Guard(self.report)
        self.budget = Budget(overhead, every, start_step)
        self._initial = InitialValues(emit, self._guard)
        self.updates = UpdateGuard(guard, emit, self.report)
        self._background_cpu_s = background_cpu_s
        self._emission = Emission(emit, self._was_nonfinite)
        self.scalars = StepScalars()
        self._names = Names(self.report)
        seen = {} if self.budget.vital_only else self.models
        self._outputs = Outputs(seen, activations, self._guard, self.report)
        self._optimizers = Optimizers(
            self.models, optimizer, self._guard, self._before_step, self._after_step
        )
        self._measurement = Measurement(
            self.models,
            self._optimizers,
            self.report,
            is_full=self._is_full,
            nonfinite=self._nonfinite,
            initial=self._initial,
            updates=self.updates,
            state=OptimizerState(start_step, emit),
            rounded=RoundedWeights(emit),
        )
        self._loss_steps = LossSteps(self.models)
        self._full, self._force_full = self.budget.is_full(start_step), False
        self._own_s = self._background_seen_s = 0.0
        self._last_end: float | None = None
        self._loss_hook: LossHooks | None = None
        self._loss_events = LossEvents(emit)
        self._recorded: float | None = None
        try:
            self._attach(loss)
        except BaseException:
            self.detach()
            raise

    @property
    def optimizers(self) -> list[Optimizer]:
        """The torch optimizers that are watched."""
        return self._optimizers.known

    @property
    def overhead(self) -> float | None:
        """Own CPU time over training time, whole run, as last recorded, in float32 as on the wire.

        None before the first."""
        return None if self._recorded is None else float(np.float32(self._recorded))

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the parameters and modules that are measured."""
        plan = self._measurement.plan
        parameters = () if plan is None else plan.parameters
        return (*(p.name for p in parameters), *self._outputs.names)

    def loss(
        self,
        value: Loss,
        *,
        split: str = "training",
        prediction: object = None,
        target: object = None,
        unless_hooked: bool = False,
    ) -> None:
        """Record this step's loss or its terms; `unless_hooked`: unless a hook has recorded it."""
        if unless_hooked and self.scalars.hooked:
            return
        started = time.thread_time()
        with self._guard.loss:
            if split == "training":
                given = prediction is not None or target is not None
                seen = Seen(prediction, target, explicit=True) if given else NOTHING
                self._take_loss(value, seen, hooked=False)
            elif (name := self._names.allowed(split)) is not None:
                self.scalars.log({f"{Scalar.LOSS}/{name}": total_of(value)})
        self._own_s += time.thread_time() - started
        self._end_loss_steps()

    def log(self, scalars: object) -> None:
        """Record the user's scalars of this step: a mapping of names to numbers."""
        with self._guard.probe("log"):
            for name, value in self._names.named(scalars):
                with self._guard.probe(f"log({name})"):
                    self.scalars.log({f"log/{name}": value})

    def settle(self) -> None:
        """End the pending steps if the weights changed without a torch optimizer; emit all."""
        if self._loss_steps.can_settle(optimizer_known=bool(self.optimizers)):
            self._end_loss_steps(now=True)
        self._emission.flush()

    def finding_opened(self) -> None:
        """Raise the budget for some steps."""
        self.budget.after_finding(self.step)

    def abandon_step(self, *, failed: bool) -> None:
        """Emit what was measured of a step that did not end; call it before `detach`.

        Unless the program `failed`, only if its loss is not finite: the loop may have ended there.
        """
        with self._guard.probe("unfinished step"):
            measured = self._outputs.has_rows or self.scalars.waiting
            if not (measured and self._is_full() and (failed or self._force_full)):
                return
            step, plan = self._measurement.unfinished()
            step.put_taken(self.scalars.take())
            self._outputs.take(step)
            self._emit(Event(self.step + 1, time.time(), EventKind.STEP_UNFINISHED))
            places = self._places(plan, updates=False)
            self._emission.submit(self.step + 1, time.time(), step, places)

    def detach(self) -> None:
        """Remove every hook and emit all pending records. Safe to call twice."""
        self._optimizers.detach()
        self._outputs.detach()
        if self._loss_hook is not None:
            self._loss_hook.remove()
            self._loss_hook = None
        with self._guard.probe("records"):
            # If a known optimizer never finished a step, a few losses are its micro-batches.
            self._end_loss_steps(now=not self.optimizers or self.scalars.waiting >= UNSEEN_STEPS)
            self._report_missing_data()
            self._names.report_all()
        with self._guard.probe("transfer"):
            self._emission.finish()
            if lost := self._emission.given_up:
                self.report("steps", reasons.late(lost))
            self._initial.emit(wait_s=INITIAL_WAIT_S)
        self._measurement.release()

    # Attaching.

    def _attach(self, loss: object) -> None:
        step, mixed = lambda: self.step + 1, self._outputs.mixed
        self._supervision = Supervision(
            self.models, self.scalars, self._emit, self._guard, step, mixed
        )
        self.facts |= facts_of(self.models, loss)
        self._loss_hook = LossHooks(
            self.models,
            loss if isinstance(loss, nn.Module) else None,
            self._guard,
            self._loss_module_returned,
            self._supervision.model_returned,
            self._is_supervised,
        )
        self.facts |= reasons.switched_off(
            vital_only=self.budget.vital_only, activations=self._outputs.wanted
        )
        if self.budget.vital_only:
            self.report("layers", reasons.VITAL_ONLY)
        self._outputs.attach()
        self._optimizers.attach()
        self.facts |= self._optimizers.facts()
        self._copies_are_stepped = self._optimizers.report_others(self.report)

    def _loss_module_returned(self, value: Tensor, seen: Seen) -> None:
        started = time.thread_time()
        with self._guard.loss:
            self._take_loss(value, seen, hooked=True)
        self._own_s += time.thread_time() - started
        if not self.scalars.logged:  # otherwise the program reports this loss a second time
            self._end_loss_steps()

    # A loop without a torch optimizer.

    def _take_loss(self, value: Loss, seen: Seen, *, hooked: bool) -> None:
        if "loss" in self.not_watched and not self.scalars.seen:
            self.report("loss", f"no loss was recorded before step {self.step + 1}")
        if self.scalars.loss(total_of(value), hooked=hooked):
            self._nonfinite()
            self._loss_events.add(examined_of(value), self.step + 1)
        if type(value) is not Tensor:
            self.scalars.terms(value, self._names.allowed)
        if (self._full or self._force_full) and self._is_supervised():
            with self._guard.probe("supervision"):
                self._own_s += self._supervision.take(value, seen, self.optimizers)
        if not self._loss_steps.optimizer_stepped and not (hooked and self.scalars.logged):
            with self._guard.probe("weights between losses"):
                self._loss_steps.saw_loss(optimizer_known=bool(self.optimizers))

    def _end_loss_steps(self, *, now: bool = False) -> None:
        """End one step for each pending training loss, if losses are steps, or if `now`."""
        steps = self._loss_steps
        if steps.optimizer_stepped or not (steps.active or now) or not self.scalars.waiting:
            return
        self.report("gradients and updates", reasons.without_step(known=bool(self.optimizers)))
        for value in self.scalars.take_losses():
            started = time.thread_time()
            with self._guard.probe("weights"):
                self._measurement.weights()
            self.scalars.loss(value, hooked=not self.scalars.logged)
            self._finish_step(started)

    # One step.

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = time.thread_time()
        if not self._loss_steps.optimizer_stepped:
            self._loss_steps.stop()
        try:
            if "gradients" not in self._guard.off:
                self._measurement.before(optimizer, args, kwargs, self.step + 1)
        except Exception as error:  # noqa: BLE001 - never into the training
            self._guard.failed("gradients", error)
        self._own_s += time.thread_time() - started

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = time.thread_time()
        if self.updates.mode != "off":
            self.updates.after()
        try:
            if "updates" not in self._guard.off:
                self._measurement.after(optimizer, args, kwargs, self.step + 1)
        except Exception as error:  # noqa: BLE001 - never into the training
            self._guard.failed("updates", error)
        if optimizer is not self._optimizers.known[0]:
            self._own_s += time.thread_time() - started
            return
        self._finish_step(started)

    def _finish_step(self, started: float) -> None:
        """End a step; `started` is the thread time at which the current hook began."""
        number = self.step + 1
        self._own_s += self._outputs.own_s
        full = self._is_full()
        try:
            self._end_step(number, full=full)
        except Exception as error:  # noqa: BLE001 - never into the training
            self._guard.failed("records", error)
        self.step = number
        if number + 1 - self.budget.start == UNSEEN_STEPS:
            with self._guard.probe("not watched"):
                self._report_missing_data()
        now = time.perf_counter()
        ended = time.thread_time()
        own_s = self._own_s + ended - started
        step_s = now - self._last_end if self._last_end else None
        self.budget.spent(number, own_s, step_s, full=full)
        if full or number % BACKGROUND_STEPS == 0:
            self._initial.emit()
            spent_s = self._background_cpu_s() + self._initial.cpu_s + self._emission.device_s()
            if self._last_end is not None:
                self.budget.background(spent_s - self._background_seen_s)
            self._background_seen_s = spent_s
        self._last_end = now
        self._own_s = 0.0
        self._force_full = False
        self._full = self.budget.is_full(number + 1)
        self._measurement.end(full=full, next_is_full=self._full)
        if full or self._full or self._outputs.own_s:
            self._supervision.release()
            self._outputs.begin(number + 1, armed=self._full)
        hooks = STEP_HOOKS + (self._loss_hook.begin(self._full) if self._loss_hook else 0)
        self._own_s = time.thread_time() - ended + hooks * call_s()
        if self._on_step is not None:
            self._on_step(number)  # exceptions of the user's callback pass through

    def _is_full(self) -> bool:
        return self._full or (self._force_full and not self.budget.vital_only)

    def _is_supervised(self) -> bool:
        off = "supervision" in self._guard.off
        return not off and self._measurement.is_supervised(forced=self._force_full)

    def _end_step(self, number: int, *, full: bool) -> None:
        step, plan = self._measurement.begin()
        step.put_taken(self.scalars.take())
        step.scalars |= group_scalars(self._optimizers.known)
        if self._last_end is not None:
            step.scalars[Scalar.STEP_TIME_S] = time.perf_counter() - self._last_end
        step.scalars[Scalar.CAPTURE_TIME_S] = self._own_s
        if (overhead := self.budget.overhead) is not None:
            step.scalars[Scalar.OVERHEAD] = overhead
            self._recorded = overhead
        places: Places = {}
        if full:
            plan.frozen_is_known = True
            self._outputs.take(step)
            places = self._places(plan, updates=bool(self.optimizers))
            reported = self.not_watched.get("activations")
            if self._outputs.were_measured and reported in (reasons.EVAL_MODE, reasons.NO_FORWARD):
                self.report("activations", f"no activation was measured before step {number}")
        self._emission.submit(number, time.time(), step, places)

    def _places(self, plan: CapturePlan, *, updates: bool) -> Places:
        # A hand-written update, or an update of copies, can change any parameter.
        unknown = self._copies_are_stepped or not self.optimizers
        known = None if unknown else self._optimizers
        return self._emission.places(plan, self._outputs, known, updates=updates)

    def _nonfinite(self) -> None:
        """Measure this step and some later ones in full."""
        self._force_full = True
        self.budget.after_nonfinite(self.step + 1)

    def _was_nonfinite(self, number: int) -> None:
        self.updates.saw_nonfinite(number)
        if number <= self.step:  # the values arrived late from a device
            self.budget.after_nonfinite(self.step + 1)

    def _report_missing_data(self) -> None:
        by_losses = "gradients and updates" in self.not_watched  # already reported there
        unseen = reasons.unseen(
            steps=self.step + 1 - self.budget.start,
            loss=self.scalars.seen,
            optimizer_stepped=self._loss_steps.optimizer_stepped or by_losses,
            optimizer_known=bool(self.optimizers),
            unknown_optimizers=self._optimizers.unknown,
            activations=self._outputs.were_measured or not self._outputs.wanted,
            eval_mode=self._outputs.not_training,
            compiled=self._outputs.compiled,
            full_steps=self._measurement.full_steps,
        )
        for name, reason in (unseen | self._outputs.skipped | self.not_watched).items():
            self.report(name, reason)

    def report(self, name: str, reason: str) -> None:
        """Add `name` to what is not watched, with the reason; the same one is sent once."""
        if self.not_watched.get(name) == reason:
            return
        self.not_watched[name] = reason
        self._emit(NotWatched({name: reason}))
        if reason.startswith("monitor degraded"):
            self._emit(Event(max(0, self.step), time.time(), EventKind.MONITOR_DEGRADED, reason))
