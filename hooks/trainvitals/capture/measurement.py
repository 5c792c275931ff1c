"""Measure the parameters of the current step, in the hooks of the optimizers.

Comes in: an optimizer, before and after its step. Goes out: the `Step` with the totals of the
gradients, and on a full step the matrices of weights, gradients and updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torch import nn
from torch.optim.optimizer import Optimizer

from trainvitals.capture.backends import Group
from trainvitals.capture.initial import InitialValues
from trainvitals.capture.optimizer_state import OptimizerState
from trainvitals.capture.optimizers import UNSCALED, Optimizers, Scaling, closure_of
from trainvitals.capture.plan import CapturePlan, Planner
from trainvitals.capture.rounded_weights import RoundedWeights
from trainvitals.capture.step import Step
from trainvitals.capture.veto import UpdateGuard
from trainvitals.wire import Stream

RESCAN_STEPS: Final = 64
"""Number of steps between two searches for new or removed parameters."""
DISTINCT_ROWS_STEPS: Final = 4
"""Number of full steps, from the first, in which rows are compared."""
SUPERVISED_STEPS: Final = 16
SUPERVISED_EVERY: Final = 8
"""The first full steps, and every how many of them later, in which predictions and targets are
measured."""
DENSE_FROM: Final = 128
DENSE_SHARE: Final = 0.25
DENSE_EVERY: Final = 32
"""After DENSE_FROM full steps, if more than DENSE_SHARE of all steps are full: every how many of
them. With `every=1` each 8th would cost as much per step as the weights."""
Groups = Sequence[Group]


class Measurement:
    """The plan, and the step that is measured under it.

    `full_steps` is the number of full steps before this one. `is_full` is asked whether this step
    is a full one; `nonfinite` is called if a gradient is known to be non-finite, before that.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        optimizers: Optimizers,
        report: Callable[[str, str], None],
        *,
        is_full: Callable[[], bool],
        nonfinite: Callable[[], None],
        initial: InitialValues,
        updates: UpdateGuard,
        state: OptimizerState,
        rounded: RoundedWeights,
    ) -> None:
        self.full_steps = 0
        self._planner = Planner(models, report)
        self._optimizers = optimizers
        self._is_full = is_full
        self._nonfinite = nonfinite
        self._initial = initial
        self._updates = updates
        self._state = state
        self._rounded = rounded
        self._sizes: tuple[int, ...] = ()
        self._steps = 0
        self._now: Step | None = None

    @property
    def plan(self) -> CapturePlan | None:
        """The plan of the current step; None before the first."""
        return self._planner.plan

    def is_supervised(self, *, forced: bool) -> bool:
        """Whether the loss's tensors are measured: what a loss compares rarely changes."""
        count = self.full_steps
        dense = count >= DENSE_FROM and count > DENSE_SHARE * self._steps
        every = DENSE_EVERY if dense else SUPERVISED_EVERY
        regular = count < SUPERVISED_STEPS or count % every == 0
        return self._is_full() and (regular or forced)

    def begin(self) -> tuple[Step, CapturePlan]:
        """Return the current step and its plan; the first call of a step updates the plan."""
        plan = self._planner.plan
        if self._now is not None and plan is not None:
            return self._now, plan
        known = self._optimizers.known
        sizes = tuple(len(g["params"]) for o in known for g in o.param_groups)
        if plan is None or self._steps % RESCAN_STEPS == 0 or sizes != self._sizes:
            self._sizes = sizes
            plan = self._planner.update(known)
        elif self._is_full():
            plan.group(known)
        self._now = plan.new_step()
        return self._now, plan

    def before(self, optimizer: Optimizer, args: Any, kwargs: Any, number: int) -> None:
        """Measure gradients and weights before the optimizer's update of step `number`."""
        step, plan = self.begin()
        self._state.before(optimizer, self._optimizers, plan.parameters, number)
        groups = self._groups(plan, optimizer)
        has_closure = closure_of(args, kwargs) is not None
        scaling = UNSCALED if has_closure else self._take_gradients(step, optimizer, groups)
        if self._is_full():
            self._take_weights(step, plan, groups, keep=scaling is not None)
            self._rounded.look(plan.parameters, self.full_steps, number)
        if self._updates.mode != "off" and scaling is not None and not has_closure:
            total, norm = step.totals.get(id(optimizer)), scaling.norm_of_all_ranks
            self._updates.before(optimizer, total, number, sharding=plan.sharding, norm=norm)

    def after(self, optimizer: Optimizer, args: Any, kwargs: Any, number: int) -> None:
        """Measure updates after an optimizer's update of step `number`."""
        self._state.after(optimizer, number)
        has_closure = closure_of(args, kwargs) is not None
        if not has_closure and not self._is_full():
            return
        step, plan = self.begin()
        groups = self._groups(plan, optimizer)
        if has_closure:
            # The closure ran its backward inside the step: read its last gradients now.
            self._take_gradients(step, optimizer, groups)
        for group in groups:
            group.updates(step)

    def weights(self) -> None:
        """Measure all weights, in a run without a torch optimizer."""
        step, plan = self.begin()
        if self._is_full():
            self._take_weights(step, plan, plan.groups.get(None, ()), keep=False)

    def unfinished(self) -> tuple[Step, CapturePlan]:
        """Return the step that an exception ended, with all weights."""
        step, plan = self.begin()
        step.is_finished = False
        if Stream.WEIGHT not in step.matrices:
            groups = [group for several in plan.groups.values() for group in several]
            self._take_weights(step, plan, groups, keep=False)
        return step, plan

    def end(self, *, full: bool, next_is_full: bool) -> None:
        """End the step; keep the memory for copies of the weights only if it is needed at once."""
        self._now = None
        self._steps += 1
        self.full_steps += full
        if full and not next_is_full:
            self.release()

    def release(self) -> None:
        """Release the copies of weights."""
        if self._planner.plan is not None:
            self._planner.plan.release()

    def _groups(self, plan: CapturePlan, optimizer: Optimizer) -> Groups:
        if (groups := plan.groups.get(id(optimizer))) is not None:
            return groups
        plan.group(self._optimizers.known)  # it stepped for the first time
        return plan.groups.get(id(optimizer), ())

    def _take_gradients(self, step: Step, optimizer: Optimizer, groups: Groups) -> Scaling | None:
        """Measure the gradients; return how they are scaled, None if the update is skipped."""
        scaling = self._optimizers.scaling(optimizer)
        unscale = scaling.unscale
        if scaling is not UNSCALED:
            for name, value in scaling.scalars.items():
                step.put_scalar(name, value)
            if isinstance(unscale, float) and math.isnan(unscale):
                return None  # an overflow is normal with GradScaler
            if scaling.clipped is not None:
                step.put_clipped(optimizer, scaling.clipped * unscale)
        if not self._is_full():
            for group in groups:
                group.norm(step, optimizer, unscale)
            total = step.totals.get(id(optimizer))
            if total is not None and total.nonfinite:
                self._nonfinite()
        if self._is_full():
            for group in groups:
                group.gradients(step, optimizer, unscale, distinct=self._is_early())
        return scaling

    def _take_weights(self, step: Step, plan: CapturePlan, groups: Groups, *, keep: bool) -> None:
        if self._steps == 0 and not self._initial.is_taken:
            self._initial.take(plan.parameters, self._steps)
        frozen = not plan.frozen_is_known
        for group in groups:
            group.weights(step, frozen=frozen, keep=keep, distinct=self._is_early())

    def _is_early(self) -> bool:
        return self.full_steps < DISTINCT_ROWS_STEPS
