"""The activation stream: the watched modules, and their rows in the current step."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trainvitals.capture.backends import native
from trainvitals.capture.guard import Guard
from trainvitals.capture.hooks import Hooked, is_compiled
from trainvitals.capture.mixed_dimensions import MixedDimensions
from trainvitals.capture.modules import CallSite, WatchedModule
from trainvitals.capture.step import Remote, Step, empty
from trainvitals.structure.order import ForwardOrder, ModuleFacts
from trainvitals.structure.parameters import NORMS, RECURRENT
from trainvitals.wire import Place, Stream

MODULES_MAX = 256
_WHOLE = (nn.MultiheadAttention, *RECURRENT)
"""Modules that are watched as a whole: their children are not called, or not useful alone."""
_SILENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten)


class Outputs:
    """Forward hooks on the watched modules; measures the last training forward pass of a step.

    `own_s` is the time spent in the hooks of this step; `not_training` whether a watched module was
    called in eval mode or without gradients; `version` grows when the places change; `mixed` gets
    the inputs of the modules in the first pass.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        activations: bool | str | Sequence[str],
        guard: Guard,
        report: Callable[[str, str], None],
    ) -> None:
        self.kernel = native.OutputKernel()
        self.step = 0
        self.own_s = 0.0
        self.off: set[str] = set()
        self.not_training = False
        self.version = 0
        self.mixed = MixedDimensions()
        self._guard = guard
        self._report = report
        self._models = models
        self._state = (True, False)
        self._sites: list[CallSite] = []
        self._watched: dict[int, WatchedModule] = {}
        self._order_of: dict[int, ForwardOrder] = {}
        self._facts: dict[int, ModuleFacts] = {}
        self._parents: dict[int, nn.Module] = {}
        self._hooked: list[tuple[WatchedModule | None, Hooked]] = []
        self._wanted = _wanted(models, activations, report)
        for prefix, model in models.items():
            order = ForwardOrder()
            for name, module in _leaves(model, prefix):
                if id(module) not in self._watched:
                    wanted = name in self._wanted
                    self._watched[id(module)] = WatchedModule(module, name, self, wanted=wanted)
                    self._order_of[id(module)] = order
            for module in model.modules():
                for child in module.children():
                    self._parents[id(child)] = module
        self._new_matrix()

    # Attaching.

    def attach(self) -> None:
        """Register the hooks; report each module that does not accept one."""
        for watched in self._watched.values():
            try:
                self._hooked.append((watched, Hooked(watched.module, watched.returned)))
            except Exception as error:  # noqa: BLE001 - the module's class is the user's
                reason = f"it does not accept a forward hook ({type(error).__name__})"
                self._report(f"output of {watched.name}", reason)
        for model in self._models.values():
            try:
                self._hooked.append((None, Hooked(model, lambda *_: self.end_pass())))
            except Exception as error:  # noqa: BLE001 - as above
                reason = f"it does not accept a forward hook ({type(error).__name__})"
                self._report("forward passes", reason)

    def detach(self) -> None:
        """Remove the hooks. Safe to call twice."""
        for _, hooked in self._hooked:
            hooked.remove()
        self._hooked = []

    @property
    def wanted(self) -> bool:
        """Whether the output of at least one module is measured."""
        return bool(self._wanted)

    @property
    def names(self) -> tuple[str, ...]:
        """The modules measured up to now, in the order of their first call."""
        return tuple(dict.fromkeys(site.watched.name for site in self._sites))

    @property
    def were_measured(self) -> bool:
        """Whether an output was measured up to now."""
        return bool(self._sites)

    @property
    def compiled(self) -> tuple[str, ...]:
        """The modules of compiled parts of the model whose output was not measured up to now."""
        silent = [w for w in self._watched.values() if w.is_wanted and not w.sites]
        return tuple(w.name for w in silent if self._is_in_compiled_part(w.module))

    @property
    def skipped(self) -> dict[str, str]:
        """Name → reason, for the modules all of whose outputs could not be measured up to now."""
        silent = [w for w in self._watched.values() if w.skipped and not w.sites]
        return {f"output of {w.name}": w.skipped for w in silent}

    # Called by WatchedModule.

    def saw(self, watched: WatchedModule, args: object) -> None:
        """Record the order of the first forward pass."""
        if not self._facts:
            self._order_of[id(watched.module)].saw(watched.module, args)
            self.mixed.called(watched.name, watched.module, args)

    def new_site(self, watched: WatchedModule, number: int, *, half: bool) -> CallSite:
        """Return a new row; `half` is whether its output is of float16."""
        site = CallSite(watched, number, len(self._sites), half=half)
        self._sites.append(site)
        self.version += 1
        if site.row >= len(self._matrix):
            more = empty(max(8, len(self._matrix)), Stream.ACTIVATION)
            self._set_matrix(np.concatenate([self._matrix, more]))
        return site

    def row_at(self, row: int) -> int:
        """Return the address of a row of the step's matrix, which is about to be written."""
        self._written = True
        return self._matrix_at + row * self._row_bytes

    def put(self, row: int, values: Tensor) -> None:
        """Write a row that torch computed; of a device, keep it for transfer.py."""
        self._written = True
        if values.device.type == "cpu":
            self._matrix[row] = values.numpy()
        else:
            self._remote[row] = values

    def failed(self, watched: WatchedModule, error: Exception) -> None:
        """Count an exception in a hook, and switch off a module that fails repeatedly."""
        probe = f"activations of {watched.name}"
        self._guard.failed(probe, error)
        if probe in self._guard.off:
            self.off.add(watched.name)

    # Called by Capture.

    def end_pass(self) -> None:
        """End a forward pass: the next call of a module is at its first call site again."""
        for site in self._sites:
            site.watched.calls = 0

    def begin(self, step: int, *, armed: bool) -> None:
        """Start a step; its outputs are measured if `armed`, otherwise no module has a hook."""
        self.step = step
        self.own_s = 0.0
        self.end_pass()
        if self._written:
            self._new_matrix()
        state = (armed, bool(self._facts))
        if state != self._state:
            self._state = state
            for watched, hooked in self._hooked:
                # Modules that are not wanted are observed once, for the order of the modules.
                useful = self.wanted and (watched is None or watched.is_wanted)
                if armed and (useful or not self._facts):
                    hooked.arm()
                else:
                    hooked.disarm()

    @property
    def has_rows(self) -> bool:
        """Whether an output of this step was measured."""
        return self._written

    def take(self, step: Step) -> None:
        """Move the rows of this step into `step`, if a module was measured."""
        if not self._written:
            return
        step.matrices[Stream.ACTIVATION] = self._matrix[: len(self._sites)]
        by_device: dict[torch.device, list[int]] = {}
        for row, values in self._remote.items():
            by_device.setdefault(values.device, []).append(row)
        for rows in by_device.values():
            values = torch.stack([self._remote[row] for row in rows])
            step.remote.append(Remote(values, Stream.ACTIVATION, rows))

    def facts_of(self, module: nn.Module | None) -> ModuleFacts | None:
        """Return the facts about `module`, or about the closest module that contains it."""
        if not self._facts:
            for order in {id(o): o for o in self._order_of.values()}.values():
                self._facts.update(order.facts(NORMS))
            if self._facts:
                self.version += 1
            for key, facts in self._facts.items():
                self._watched[key].know(facts)
        while module is not None:
            if id(module) in self._facts:
                return self._facts[id(module)]
            module = self._parents.get(id(module))
        return None

    def places(self) -> list[Place]:
        """Return the rows of the activation stream."""
        return [self._place(site) for site in self._sites]

    def _place(self, site: CallSite) -> Place:
        module = site.watched.module
        facts = self.facts_of(module) or ModuleFacts(-1)
        flags = [
            flag
            for flag, is_so in (
                ("output", facts.output),
                ("before_norm", facts.before_norm),
                ("recurrent", isinstance(module, RECURRENT)),
                ("attention", isinstance(module, nn.MultiheadAttention)),
                ("float16", site.is_half),
            )
            if is_so
        ]
        return Place(
            site.name,
            kind=type(module).__name__,
            depth=facts.depth,
            module=site.watched.name,
            module_kind=type(module).__name__,
            nonlinearity=facts.nonlinearity,
            flags=tuple(flags),
        )

    def _is_in_compiled_part(self, module: nn.Module | None) -> bool:
        while module is not None:
            if is_compiled(module):
                return True
            module = self._parents.get(id(module))
        return False

    def _new_matrix(self) -> None:
        self._written = False
        self._remote: dict[int, Tensor] = {}
        rows = max(len(self._sites), len(self._wanted) if not self._sites else 0)
        self._set_matrix(empty(rows, Stream.ACTIVATION))

    def _set_matrix(self, matrix: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        self._matrix = matrix
        self._matrix_at = matrix.ctypes.data
        self._row_bytes = matrix.strides[0]


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
