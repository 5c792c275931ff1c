"""The activation stream: the watched modules, and their rows in the current step."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainvitals.capture.activations import COLUMNS, Liveness, first_tensor, measure
from trainvitals.capture.guard import Guard
from trainvitals.capture.hooks import Hooked
from trainvitals.capture.order import ForwardOrder, ModuleFacts, in_backward
from trainvitals.capture.parameters import NORMS, RECURRENT
from trainvitals.capture.transfer import Array, Block
from trainvitals.wire import STATISTICS, Place, Stat, Stream

MODULES_MAX = 256
CALL_SITES_MAX = 8
"""Maximum number of call sites of one module that are distinguished."""
DEAD = STATISTICS[Stream.ACTIVATION].index(Stat.DEAD_SHARE)
_WHOLE = (nn.MultiheadAttention, *RECURRENT)
"""Modules that are watched as a whole: their children are not called, or not useful alone."""
_SILENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten)


class Outputs:
    """Forward hooks on the watched modules; measures the last training forward pass of a step."""

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        activations: bool | str | Sequence[str],
        guard: Guard,
        report: Callable[[str, str], None],
    ) -> None:
        self._guard = guard
        self._report = report
        self._armed = True
        self._step = 0
        self._own_s = 0.0
        self._modules: dict[int, str] = {}
        self._rows: dict[int, Tensor] = {}
        self._lives: dict[tuple[int, int], Liveness] = {}
        self._calls: dict[int, int] = {}
        self._orders: dict[int, ForwardOrder] = {}
        self._order_of: dict[int, ForwardOrder] = {}
        self._facts: dict[int, ModuleFacts] = {}
        self._parents: dict[int, nn.Module] = {}
        self._called: dict[int, nn.Module] = {}
        self._hooked: list[Hooked] = []
        self._to_hook: list[nn.Module] = []
        self.not_training = False
        """Whether a watched module was called in eval mode or without gradients."""
        self._wanted = _wanted(models, activations, report)
        for prefix, model in models.items():
            order = ForwardOrder()
            for name, module in _leaves(model, prefix):
                if id(module) not in self._modules:
                    self._modules[id(module)] = name
                    self._order_of[id(module)] = order
                    self._to_hook.append(module)
            for module in model.modules():
                for child in module.children():
                    self._parents[id(child)] = module

    def attach(self) -> None:
        """Register the hooks; report each module that does not accept one."""
        while self._to_hook:
            module = self._to_hook.pop()
            try:
                self._hooked.append(Hooked(module, self._returned))
            except Exception as error:  # noqa: BLE001 - the module's class is the user's
                name = f"output of {self._modules[id(module)]}"
                self._report(name, f"it does not accept a forward hook ({type(error).__name__})")

    @property
    def wanted(self) -> bool:
        """Whether the output of at least one module is measured."""
        return bool(self._wanted)

    @property
    def names(self) -> tuple[str, ...]:
        """The modules measured up to now, in the order of their first call."""
        return tuple(self._modules[i] for i in self._called)

    def begin(self, step: int, *, armed: bool) -> None:
        """Start a step: clear the rows of the last one; measure if `armed`."""
        self._step, self._armed = step, armed
        self._rows.clear()
        self._calls.clear()
        for hooked in self._hooked:
            hooked.hook.armed = armed

    def detach(self) -> None:
        """Remove the hooks. Safe to call twice."""
        for hooked in self._hooked:
            hooked.remove()
        self._hooked = []

    def take_own_s(self) -> float:
        """Return the CPU seconds spent in hooks since the last call."""
        spent, self._own_s = self._own_s, 0.0
        return spent

    def facts_of(self, module: nn.Module | None) -> ModuleFacts | None:
        """Return the facts about `module`, or about the closest module that contains it."""
        if not self._facts:
            for order in {id(o): o for o in self._order_of.values()}.values():
                self._facts.update(order.facts(NORMS))
        while module is not None:
            if id(module) in self._facts:
                return self._facts[id(module)]
            module = self._parents.get(id(module))
        return None

    def blocks(self) -> dict[str, Block]:
        """Return the rows of the step, one block for each module that was called."""
        return {f"activation/{i}": row for i, row in self._rows.items()}

    def matrix(self, arrays: Mapping[str, Array]) -> npt.NDArray[np.float32]:
        """Return the activation matrix of a step from its blocks; NaN for modules not called."""
        absent = np.full(COLUMNS, np.nan, np.float32)
        return np.stack([arrays.get(f"activation/{i}", absent) for i in self._called])

    def places(self) -> list[Place]:
        """Return the rows of the activation stream."""
        return [self._place(module) for module in self._called.values()]

    def _place(self, module: nn.Module) -> Place:
        facts = self.facts_of(module) or ModuleFacts(-1)
        flags = [
            flag
            for flag, is_so in (
                ("output", facts.output),
                ("before_norm", facts.before_norm),
                ("recurrent", isinstance(module, RECURRENT)),
                ("attention", isinstance(module, nn.MultiheadAttention)),
            )
            if is_so
        ]
        return Place(
            self._modules[id(module)],
            kind=type(module).__name__,
            depth=facts.depth,
            module=self._modules[id(module)],
            module_kind=type(module).__name__,
            nonlinearity=facts.nonlinearity,
            flags=tuple(flags),
        )

    def _returned(self, module: nn.Module, args: object, output: object) -> None:
        if not self._armed or in_backward():
            return
        if not module.training or not torch.is_grad_enabled():
            self.not_training = True
            return
        if id(module) not in self._modules:
            return  # a replica of DataParallel, which shares the table of hooks
        probe = f"activations of {self._modules[id(module)]}"
        if probe in self._guard.off:
            return
        started = time.thread_time()
        with self._guard.probe(probe):
            self._measure(module, args, output)
        self._own_s += time.thread_time() - started

    def _measure(self, module: nn.Module, args: object, output: object) -> None:
        if not self._facts:
            self._order_of[id(module)].saw(module, args)
        tensor = first_tensor(output)
        wanted = self._modules[id(module)] in self._wanted
        if not wanted or tensor is None or not tensor.is_floating_point():
            return
        facts = self._facts.get(id(module))
        self._called.setdefault(id(module), module)
        # A module that is called twice in a step has two call sites, each with its own Liveness.
        call = self._calls.get(id(module), 0)
        self._calls[id(module)] = call + 1
        row = measure(
            tensor,
            module,
            nonlinearity=facts.nonlinearity if facts else _own_nonlinearity(module),
            functional=facts.functional if facts else False,
            liveness=self._lives.setdefault((id(module), call % CALL_SITES_MAX), Liveness()),
            offset=self._step,
        )
        if call:
            row[DEAD] = torch.fmax(row[DEAD], self._rows[id(module)][DEAD])
        self._rows[id(module)] = row


def _own_nonlinearity(module: nn.Module) -> str:
    from trainvitals.capture.order import ACTIVATIONS

    return ACTIVATIONS.get(type(module), "")


def _leaves(model: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Return the modules without watched children, by name, in order of registration."""
    if isinstance(model, _WHOLE) or not list(model.children()):
        return [] if isinstance(model, _SILENT) else [(prefix, model)]
    leaves = []
    for name, child in model.named_children():
        leaves += _leaves(child, f"{prefix}.{name}" if prefix else name)
    return leaves


def _wanted(
    models: Mapping[str, nn.Module],
    activations: bool | str | Sequence[str],
    report: Callable[[str, str], None],
) -> set[str]:
    names = [name for prefix, model in models.items() for name, _ in _leaves(model, prefix)]
    if activations is False:
        return set()
    if activations is not True and activations != "auto":
        globs = [activations] if isinstance(activations, str) else list(activations)
        names = [n for n in names if any(fnmatch.fnmatchcase(n, glob) for glob in globs)]
        unmatched = [g for g in globs if not any(fnmatch.fnmatchcase(n, g) for n in names)]
        for glob in unmatched:
            report(glob, "activations=: no watched module has this name")
        return set(names)
    if activations == "auto" and len(names) > MODULES_MAX:
        even = np.linspace(0, len(names) - 1, MODULES_MAX).astype(int)
        kept = {names[i] for i in even}
        for name in names:
            if name not in kept:
                report(f"output of {name}", f"only {MODULES_MAX} modules are watched by default")
        return kept
    return set(names)
