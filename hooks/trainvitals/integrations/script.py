"""Watch the training of a program that does not call `watch`.

Comes in: constructions of optimizers and calls of `backward`, observed in torch.
Goes out: a Monitor, attached at the first backward of a model that an optimizer updates.
Promise:  arguments, results and exceptions of torch's functions are unchanged; exceptions raised by
          trainvitals never reach the program; torch is imported only when the program imports it.
Start at `Unasked.install`.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.util
import logging
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trainvitals.integrations.backward import Backwards, observed, quietly

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from trainvitals.monitor import Monitor

log = logging.getLogger("trainvitals")

ATTEMPTS_MAX = 64
"""Number of backward calls without a model after which the search ends."""

LATER = "later trainings"
"""In `not_watched`: an optimizer that steps and was created after the monitor was attached."""


class Unasked:
    """Attaches one Monitor to the first training of this process; `monitor` is None before.

    `options` are given to `watch`. A program that calls `watch` itself is not watched a second
    time.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.monitor: Monitor | None = None
        self._options = dict(options)
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._attempts = 0
        self._trainer: object = None
        self._steps: Any = None  # the handle of the hook on the steps of all optimizers

    def install(self) -> None:
        """Observe torch, now or as soon as the program imports it."""
        torch = sys.modules.get("torch")
        if torch is not None:
            self._observe(torch)
        else:
            sys.meta_path.insert(0, _AfterImport("torch", self._observe))

    def _observe(self, torch: Any) -> None:
        optimizer = torch.optim.Optimizer
        optimizer.__init__ = observed(optimizer.__init__, after=self._constructed)
        Backwards(self._backward).install(torch)

    # Called by torch's functions.

    def _constructed(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        self._optimizers = [o for o in self._optimizers if o() is not None]
        self._optimizers.append(weakref.ref(optimizer))
        if self.monitor is not None and self._steps is None:
            from torch.optim.optimizer import register_optimizer_step_post_hook

            self._steps = register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        quietly(self._report_unwatched, optimizer)

    def _report_unwatched(self, optimizer: Optimizer) -> None:
        """Report once that an optimizer steps that was created after the monitor was attached."""
        monitor = self.monitor
        if monitor is None or monitor._closed or monitor._capture is None:
            self._steps.remove()
        elif all(known is not optimizer for known in monitor._capture.optimizers):
            self._steps.remove()
            monitor._capture.report(
                LATER,
                f"after step {monitor._capture.step}, {type(optimizer).__name__} that was created "
                "later trains; `trainvitals run` watches the first training of a program: call "
                "`watch` for each",
            )

    def _backward(self, loss: Tensor | None) -> None:
        if self.monitor is None:
            if self._attempts >= ATTEMPTS_MAX:
                return
            self._attempts += 1
            self._attach()
        if self.monitor is not None and not self.monitor._closed and loss is not None:
            capture = self.monitor._capture
            if capture is not None:
                if self._trainer is not None:
                    capture.scalars.are_parts = _are_parts(self._trainer, capture.scalars.hooked)
                capture.loss(loss, unless_hooked=True)

    def _attach(self) -> None:
        from trainvitals import watching
        from trainvitals.ending import open_monitors

        if any(not m._closed for m in open_monitors):
            self._attempts = ATTEMPTS_MAX  # the program is watched already
            return
        optimizers = [o for one in self._optimizers if (o := one()) is not None]
        models = owners([p for o in optimizers for g in o.param_groups for p in g["params"]])
        if not models:
            return
        only = next(iter(models.values())) if len(models) == 1 else models
        mine = optimizers if len(optimizers) > 1 else optimizers[0]
        self.monitor = watching.watch(only, mine, **self._options)
        self._trainer = accumulating_trainer(models.values())
        log.debug("Attached to %s.", ", ".join(type(m).__name__ for m in models.values()))


def owners(parameters: Sequence[Tensor]) -> dict[str, nn.Module]:
    """Return the outermost modules that contain one of `parameters`, by names that differ.

    The modules are found among all objects of the process: a program may keep its model anywhere.
    """
    from torch import nn

    wanted = {id(p) for p in parameters}
    # Not isinstance: of a proxy object it can run code of the program.
    modules = [o for o in gc.get_objects() if issubclass(type(o), nn.Module)]
    holding = [m for m in modules if "_modules" in vars(m) and _holds(m, wanted)]
    inner = {id(child) for m in holding for child in m.modules() if child is not m}
    outer = [m for m in holding if id(m) not in inner]
    names: dict[str, nn.Module] = {}
    for module in outer:
        name = type(module).__name__.lower()
        names[name if name not in names else f"{name}_{len(names)}"] = module
    return names


def accumulating_trainer(models: Iterable[nn.Module]) -> object:
    """Return the Trainer of Hugging Face that accumulates gradients of one of `models`, or None."""
    kind = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    if kind is None:
        return None
    wanted = {id(m) for m in models}
    trainers = [o for o in gc.get_objects() if issubclass(type(o), kind)]
    for trainer in trainers:
        mine = {id(getattr(trainer, name, None)) for name in ("model", "model_wrapped")}
        if mine & wanted and trainer.args.gradient_accumulation_steps > 1:
            return trainer
    return None


def _are_parts(trainer: Any, is_hooked: bool) -> bool:
    """Whether the losses of the micro-batches of `trainer` are parts, whose sum is the loss.

    The loss that `backward` gets always is: the Trainer divides it by the number of micro-batches,
    or the model by the number of targets of the whole step. The loss that a hook read in the
    model's output (`is_hooked`) is only in the second case.
    """
    from trainvitals.integrations.huggingface import sums_losses

    return not is_hooked or sums_losses(trainer.model)


def _holds(module: nn.Module, wanted: set[int]) -> bool:
    return any(id(p) in wanted for p in module.parameters())


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module when it has been imported for the first time."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        """Return the module's own spec, with a loader that calls the function at its end."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader, then = spec.loader, self._then
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            del loader.exec_module
            quietly(then, module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
