"""Joins the hooks: what happens between two optimizer steps becomes records.

The training thread does this and no more: statistics of one step, appended through `emit`. A light
step takes the loss, the learning rates and the total gradient norm; a full step takes every
statistic of every tensor. Start at `_before_step` and `_after_step`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_pre_hook,
)

from trainvitals.capture import kernel, rows
from trainvitals.capture.activations import OutputHook
from trainvitals.capture.budget import Budget
from trainvitals.capture.guard import Guard, log
from trainvitals.capture.loss import Number, StepScalars
from trainvitals.capture.outputs import Outputs
from trainvitals.capture.parameters import (
    Parameter,
    optimized_ids,
    parameters_of,
    place_of,
    reason_not_measured,
)
from trainvitals.capture.streams import Emit, Streams
from trainvitals.capture.transfer import Block, Transfer
from trainvitals.wire import STATISTICS, Event, NotWatched, Scalar, Stat, Stream

RESCAN_STEPS = 64
"""How often the set of parameters is looked through for new, lost or frozen ones."""
DISTINCT_ROWS_STEPS = 4
Arrays = dict[str, npt.NDArray[np.float32]]


class Capture:
    """Hooks on a model and its optimizer; see the package's docstring for the promise.

    `step` is the last finished optimizer step of the first optimizer, −1 before the first.
    `watched` names the measured parameters and modules, `not_watched` the others with the reason.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        emit: Emit,
        on_step: Callable[[int], None] | None = None,
        loss: nn.Module | None = None,
        activations: bool | str | Sequence[str] = "auto",
        overhead: float = 0.02,
        every: int | None = None,
        background_cpu_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.models = dict(model) if isinstance(model, Mapping) else {"": model}
        self.optimizers = _as_list(optimizer)
        self.step = -1
        self.not_watched: dict[str, str] = {}
        self.facts: dict[str, str | float] = {}
        self._emit = emit
        self._on_step = on_step
        self._streams = Streams(emit)
        self._guard = Guard(self._not_watched)
        self._budget = Budget(overhead, every if every or overhead else 1)
        self._background_cpu_s = background_cpu_s
        self._background_seen_s = 0.0
        self._transfer = Transfer()
        self._scalars = StepScalars()
        self._outputs = Outputs(self.models, activations, self._guard, self._not_watched)
        self._parameters: list[Parameter] = []
        self._group_sizes: tuple[int, ...] = ()
        self._first: dict[int, Tensor] = {}
        self._copies: dict[int, list[Tensor]] = {}
        self._blocks: dict[str, Block] = {}
        self._full = True
        self._force_full = False
        self._full_steps = 0
        self._own_s = 0.0
        self._last_end: float | None = None
        self._handles: list[Any] = []
        self._global_handles: list[Any] = []
        self._attach(loss)

    # What the user's side calls.

    @property
    def overhead(self) -> float | None:
        """Own CPU time over step time; None before it was measured."""
        return self._budget.overhead

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the parameters and modules that are measured."""
        return (*(p.name for p in self._parameters), *self._outputs.names)

    def loss(self, value: Number, *, split: str = "training") -> None:
        """Take a loss in: of this step, or of another split."""
        with self._guard.probe("loss"):
            if split != "training":
                self._scalars.log({f"{Scalar.LOSS}/{split}": value})
            elif self._scalars.loss(value):
                self._force_full = True

    def log(self, scalars: Mapping[str, Number]) -> None:
        """Take the user's own scalars of this step in."""
        for name, value in scalars.items():
            with self._guard.probe(f"log({name})"):
                self._scalars.log({f"log/{name}": value})

    def raise_suspicion(self) -> None:
        """Measure closely for a while."""
        self._budget.suspect(self.step)

    def detach(self) -> None:
        """Remove every hook and emit what is on its way. Safe to call twice."""
        handles, self._handles = self._handles, []
        for handle in (*handles, *self._global_handles):
            handle.remove()
        self._global_handles = []
        self._outputs.detach()
        with self._guard.probe("transfer"):
            self._transfer.poll(wait=True)
        self._copies, self._first = {}, {}

    # Attaching.

    def _attach(self, loss: nn.Module | None) -> None:
        owned = [p for model in self.models.values() for p in model.parameters()]
        self.facts["parameters"] = float(
            sum(p.numel() for p in owned if reason_not_measured(p) is None)
        )
        if not owned:
            log.warning("The model has no parameters: only the loss and logged values are watched.")
        else:
            self.facts["device"] = owned[0].device.type
        if loss is not None:
            self.facts["loss"] = type(loss).__name__
            hook = OutputHook(self._loss_module_returned)
            self._handles.append(loss.register_forward_hook(hook))
        if self.optimizers:
            if owned and not optimized_ids(self.optimizers) & {id(p) for p in owned}:
                log.warning(
                    "The optimizer owns none of the model's %d parameters: it trains another "
                    "model. Build it from this model's parameters(); the training goes on.",
                    len(owned),
                )
            self._hook_optimizers()
            return
        self._global_handles = [register_optimizer_step_pre_hook(self._found_optimizer)]

    def _hook_optimizers(self) -> None:
        self.facts["optimizer"] = type(self.optimizers[0]).__name__
        self.facts["optimizers"] = float(len(self.optimizers))
        for optimizer in self.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def _found_optimizer(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if self.optimizers:
            return
        owned = {id(p) for model in self.models.values() for p in model.parameters()}
        if optimized_ids([optimizer]) & owned:
            self.optimizers = [optimizer]
            # torch walks the global hooks, then the optimizer's own: these run in this very step.
            # The global one stays until `detach`, because its table is being walked now.
            self._hook_optimizers()

    def _loss_module_returned(self, module: nn.Module, _args: object, output: object) -> None:
        with self._guard.probe("loss"):
            training = module.training and torch.is_grad_enabled()
            if (
                training
                and isinstance(output, Tensor)
                and output.requires_grad
                and self._scalars.loss(output, hooked=True)
            ):
                self._force_full = True

    # One step.

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = time.thread_time()
        with self._guard.probe("gradients"):
            if "gradients" not in self._guard.off:
                self._find_parameters()
                mine = self._owned_by(optimizer)
                closure = _closure_of(args, kwargs) is not None
                if not closure:
                    self._take_norm(optimizer, mine)
                if self._is_full():
                    self._take_weights(optimizer, mine)
                    if not closure:
                        self._take_gradients(optimizer, mine)
        self._own_s += time.thread_time() - started

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = time.thread_time()
        with self._guard.probe("updates"):
            if "updates" not in self._guard.off:
                mine = self._owned_by(optimizer)
                if _closure_of(args, kwargs) is not None:
                    # A closure's backward ran inside the step: its last gradients are here now.
                    self._take_norm(optimizer, mine)
                    if self._is_full():
                        self._take_gradients(optimizer, mine)
                if id(optimizer) in self._copies and self._is_full():
                    self._take_updates(optimizer, mine)
        if optimizer is not self.optimizers[0]:
            self._own_s += time.thread_time() - started
            return
        step = self.step + 1
        self._own_s += self._outputs.take_own_s()
        with self._guard.probe("records"):
            self._end_step(step)
        self.step = step
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
        self._full_steps += full
        self._force_full = False
        self._blocks = {}
        self._full = self._budget.is_full(step + 1)
        self._outputs.begin(step + 1, armed=self._full)
        if self._on_step is not None:
            self._on_step(step)  # may raise what the user's own callback raises

    def _is_full(self) -> bool:
        return self._full or self._force_full

    def _end_step(self, step: int) -> None:
        now = time.time()
        scalars = self._scalars.take()
        for index, group in enumerate(g for o in self.optimizers for g in o.param_groups):
            scalars[f"{Scalar.LEARNING_RATE}/{index}"] = _number(group.get("lr"))
            if "weight_decay" in group:
                scalars[f"{Scalar.WEIGHT_DECAY}/{index}"] = _number(group["weight_decay"])
        if self._last_end is not None:
            scalars[Scalar.STEP_TIME_S] = time.perf_counter() - self._last_end
        scalars[Scalar.CAPTURE_TIME_S] = self._own_s
        full = self._is_full()
        blocks = dict(self._blocks)
        if full:
            blocks.update(self._outputs.blocks())
            self._announce()
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
        if self._parameters:
            self._emit_parameters(step, now, arrays)
        if self._outputs.names:
            self._streams.frame(Stream.ACTIVATION, step, now, self._outputs.matrix(arrays))

    def _emit_parameters(self, step: int, now: float, arrays: Arrays) -> None:
        for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
            matrix = np.full((len(self._parameters), len(STATISTICS[stream])), np.nan, np.float32)
            for key, values in arrays.items():
                if not key.startswith(f"{stream}/"):
                    continue
                column, at = arrays[f"rows/{key}"], int(arrays[f"column/{key}"][0])
                if len(values):
                    matrix[column.astype(np.int64), at : at + values.shape[1]] = values
            self._streams.frame(stream, step, now, matrix)

    # The matrices of a full step.

    def _put(self, key: str, positions: Sequence[int], values: Block, column: int = 0) -> None:
        self._blocks[key] = values
        self._blocks[f"rows/{key}"] = np.array(positions, np.float64)
        self._blocks[f"column/{key}"] = np.array([column])

    def _take_norm(self, optimizer: Optimizer, mine: list[int]) -> None:
        gradients = [self._gradient(i) for i in mine]
        present = [g for g in gradients if g is not None]
        squares = kernel.squares(present)
        scale = _gradient_scale(optimizer)
        if scale is not None:
            self._scalars.log({Scalar.LOSS_SCALE: scale})
            squares = squares / float(scale) ** 2
        self._blocks[f"squares/{id(optimizer)}"] = squares
        if isinstance(squares, np.ndarray) and not np.isfinite(squares).all():
            self._force_full = True

    def _take_weights(self, optimizer: Optimizer, mine: list[int]) -> None:
        frozen = {i for i in mine if not self._parameters[i].tensor.requires_grad}
        # A frozen weight does not change: once is enough.
        positions = [i for i in mine if i not in frozen or self._full_steps == 0]
        tensors = [self._parameters[i].tensor.detach() for i in positions]
        self._put(f"{Stream.WEIGHT}/{id(optimizer)}", positions, kernel.statistics(tensors))
        moving = [i for i in mine if i not in frozen]
        self._copies[id(optimizer)] = rows.copies_of(
            [self._parameters[i].tensor for i in moving], self._copies.get(id(optimizer))
        )
        self._take_drift(moving, str(id(optimizer)))
        if self._full_steps < DISTINCT_ROWS_STEPS:
            self._take_distinct(Stream.WEIGHT, mine, tensors_of=lambda i: self._tensor(i))

    def _take_gradients(self, optimizer: Optimizer, mine: list[int]) -> None:
        present = [(i, g) for i in mine if (g := self._gradient(i)) is not None]
        values = kernel.statistics([g for _, g in present])
        scale = _gradient_scale(optimizer)
        if scale is not None:
            values = values * _scaling(scale)
        self._put(f"{Stream.GRADIENT}/{id(optimizer)}", [i for i, _ in present], values)
        if self._full_steps < DISTINCT_ROWS_STEPS:
            self._take_distinct(Stream.GRADIENT, mine, tensors_of=self._gradient)

    def _take_updates(self, optimizer: Optimizer, mine: list[int]) -> None:
        moving = [i for i in mine if self._parameters[i].tensor.requires_grad]
        before, after = self._copies[id(optimizer)], [self._tensor(i) for i in moving]
        if len(before) != len(after):
            return  # a parameter was frozen or added inside the step; the next full step has it
        moved = kernel.differences(before, after)
        had = kernel.squares(before)
        counts = np.array([max(1, t.numel()) for t in after], np.float64)
        if isinstance(had, Tensor) or isinstance(moved, Tensor):
            had, moved = torch.as_tensor(had), torch.as_tensor(moved)
            rms = (had / torch.as_tensor(counts, device=had.device)).sqrt()
            ratio = torch.where(rms > 0, moved[:, 0] / rms, float("nan"))
            values: Block = torch.stack([moved[:, 0], ratio.float(), moved[:, 1]], dim=1)
        else:
            rms_here = np.sqrt(had / counts)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio_here = np.where(rms_here > 0, moved[:, 0] / rms_here, np.nan)
            values = np.stack([moved[:, 0], ratio_here, moved[:, 1]], axis=1)
        self._put(f"{Stream.UPDATE}/{id(optimizer)}", moving, values)

    def _take_drift(self, moving: list[int], key: str) -> None:
        flat = [i for i in moving if self._parameters[i].tensor.dim() == 1]
        if not flat:
            return
        for i in flat:
            tensor = self._tensor(i)
            known = self._first.get(id(self._parameters[i].tensor))
            if known is None or known.shape != tensor.shape:
                self._first[id(self._parameters[i].tensor)] = tensor.clone()
        first = [self._first[id(self._parameters[i].tensor)] for i in flat]
        column = STATISTICS[Stream.WEIGHT].index(Stat.DRIFT_RMS)
        drift = kernel.differences(first, [self._tensor(i) for i in flat])
        self._put(f"{Stream.WEIGHT}/drift/{key}", flat, drift, column)

    def _take_distinct(
        self, stream: Stream, mine: list[int], tensors_of: Callable[[int], Tensor | None]
    ) -> None:
        column = STATISTICS[stream].index(Stat.DISTINCT_ROWS)
        found = {
            i: rows.distinct_rows(t)
            for i in mine
            if (t := tensors_of(i)) is not None
            and t.device.type == "cpu"  # elsewhere it would wait for the device
            and t.dim() >= 2
            and t.shape[0] >= 2
            and t.numel()
        }
        values = np.array(list(found.values())).reshape(-1, 1)
        self._put(f"{stream}/distinct/{min(mine, default=0)}", list(found), values, column)

    # Which tensors.

    def _tensor(self, i: int) -> Tensor:
        return self._parameters[i].tensor.detach()

    def _gradient(self, i: int) -> Tensor | None:
        gradient = self._parameters[i].tensor.grad
        if gradient is None:
            return None
        # Asked for every tensor at every step: the ordinary kind takes the short way.
        ordinary = type(gradient) is Tensor and gradient.layout is torch.strided
        if not (ordinary and gradient.dtype in kernel.DTYPES) and reason_not_measured(gradient):
            return None
        return gradient.detach() if gradient.requires_grad else gradient

    def _owned_by(self, optimizer: Optimizer) -> list[int]:
        """Positions of the parameters this optimizer moves; the first takes the unowned too."""
        if len(self.optimizers) == 1:
            return list(range(len(self._parameters)))
        mine = optimized_ids([optimizer])
        others = optimized_ids(o for o in self.optimizers if o is not optimizer)
        first = optimizer is self.optimizers[0]
        return [
            i
            for i, p in enumerate(self._parameters)
            if id(p.tensor) in mine or (first and id(p.tensor) not in others)
        ]

    def _find_parameters(self) -> None:
        sizes = tuple(len(g["params"]) for o in self.optimizers for g in o.param_groups)
        if self._parameters and sizes == self._group_sizes and (self.step + 1) % RESCAN_STEPS:
            return
        self._group_sizes = sizes
        found = parameters_of(self.models)
        reasons = {p.name: reason_not_measured(p.tensor) for p in found.values()}
        for name, reason in reasons.items():
            if reason and name not in self.not_watched:
                self._not_watched(name, reason)
        self._parameters = [p for p in found.values() if reasons[p.name] is None]

    def _announce(self) -> None:
        optimized = optimized_ids(self.optimizers)
        places = [
            place_of(p, self._outputs.facts_of(p.owner), optimized=id(p.tensor) in optimized)
            for p in self._parameters
        ]
        for stream in (Stream.WEIGHT, Stream.GRADIENT, Stream.UPDATE):
            self._streams.announce(stream, places)
        if self._outputs.names:
            self._streams.announce(Stream.ACTIVATION, self._outputs.places())

    def _not_watched(self, name: str, reason: str) -> None:
        self.not_watched[name] = reason
        self._emit(NotWatched({name: reason}))
        if reason.startswith("monitor degraded"):
            self._emit(Event(max(0, self.step), time.time(), "monitor_degraded", reason))


def _as_list(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    if optimizer is None:
        return []
    return [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)


def _closure_of(args: Any, kwargs: Any) -> Callable[[], object] | None:
    """Return the closure given to `step`; its first positional argument is the optimizer."""
    closure = kwargs.get("closure") or next((a for a in args if callable(a)), None)
    return closure if callable(closure) else None


def _gradient_scale(optimizer: Optimizer) -> Tensor | None:
    """Return GradScaler's factor when a fused optimizer unscales inside its step."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale if isinstance(scale, Tensor) and scale.device.type == "cpu" else None


def _scaling(scale: Tensor) -> npt.NDArray[np.float32]:
    """Return what each statistic of a scaled gradient is multiplied with."""
    factors = np.full(kernel.COLUMNS, 1 / float(scale), np.float32)
    factors[6:] = 1  # zero_share and nonfinite count entries
    return factors


def _number(value: object) -> float:
    if isinstance(value, Tensor):
        return float(value) if value.device.type == "cpu" else math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan
