"""A watched module: its hook, and the rows of its call sites.

Comes in: each training output, on steps that are measured. Goes out: one row of the activation
matrix for each call site, measured at once, so that no output is kept and a later in-place
operation does not matter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from trainvitals.capture.backends import native
from trainvitals.capture.backends.members import is_dense
from trainvitals.capture.backends.plain_outputs import measure
from trainvitals.capture.backends.shapes import shape_of
from trainvitals.capture.hooks import call_s
from trainvitals.capture.liveness import Liveness, Mode, mode_of
from trainvitals.structure.order import ACTIVATIONS, ModuleFacts, in_backward, in_checkpoint
from trainvitals.structure.parameters import DTYPES, reason_not_measured

if TYPE_CHECKING:
    from trainvitals.capture.outputs import Outputs

CALL_SITES_MAX = 8
"""Maximum number of call sites of one module; further calls are measured as the last one."""
INTERRUPTED = 4.0
"""A call that takes this many times its usual time was interrupted."""
SMOOTHING = 0.1
STRIDED = torch.strided


class CallSite:
    """One row: a module's n-th call in a forward pass, from 0.

    `is_half` is whether its first output was of float16, as in a region of torch.autocast.
    """

    def __init__(self, watched: WatchedModule, number: int, row: int, *, half: bool) -> None:
        self.is_half = half
        self.watched = watched
        self.number = number
        self.row = row
        self.liveness = Liveness()
        self.prepared: Any = None
        self._known: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The module's name; of the second call site `name:2`, and so on."""
        return f"{self.watched.name}:{self.number + 1}" if self.number else self.watched.name

    def knows(self, output: object) -> TypeGuard[Tensor]:
        """Whether an output is as the last one, so that only its address is new."""
        return (
            type(output) is Tensor
            and not output.is_nested
            and output.layout is STRIDED
            and output.is_contiguous()
            and (output.shape, output.dtype, output.device, self.watched.mode) == self._known
        )

    def measure(self, tensor: Tensor, outputs: Outputs) -> None:
        """Measure an output of this call site."""
        mode = self.watched.mode
        is_whole = tensor.is_contiguous()
        tensor = tensor.detach()
        if not is_whole and not is_dense(tensor):
            tensor = tensor.contiguous()
        shape = shape_of(tensor, self.watched.module, outputs.step)
        if tensor.device.type != "cpu" or not outputs.kernel.is_available:
            outputs.put(self.row, measure(tensor, shape, mode, self.liveness))
            return
        idle = self.liveness.native(shape.channels) if mode is Mode.RELU else None
        self.prepared = native.Prepared(shape, tensor.dtype, mode, idle)
        outputs.kernel.measure(tensor.data_ptr(), self.prepared, outputs.row_at(self.row))
        # Of larger outputs, other entries are taken in each step.
        is_whole &= shape.samples * shape.channels * shape.positions == shape.entries
        self._known = (tensor.shape, tensor.dtype, tensor.device, mode) if is_whole else ()


class WatchedModule:
    """A module with a hook; `mode`, the kind of its entries, is known after the first pass.

    `skipped` is the reason why an output could not be measured, "" if there was none.
    """

    def __init__(self, module: nn.Module, name: str, outputs: Outputs, *, wanted: bool) -> None:
        self.module = module
        self.name = name
        self.calls = 0
        self.sites: list[CallSite] = []
        self.is_wanted = wanted
        self.mode = Mode.PLAIN
        self.skipped = ""
        self._outputs = outputs
        self._usual_s = 0.0
        self._has_parameters = next(module.parameters(False), None) is not None
        self.know(ModuleFacts(-1, ACTIVATIONS.get(type(module), "")))

    def know(self, facts: ModuleFacts) -> None:
        """Store the facts of the first forward pass."""
        self.mode = mode_of(
            facts.nonlinearity,
            functional=facts.functional,
            has_parameters=self._has_parameters,
        )

    def returned(self, module: nn.Module, args: object, output: object) -> None:
        """Measure an output, as a forward hook."""
        started = time.perf_counter()
        outputs = self._outputs
        try:
            if in_backward():
                return
            if not module.training or not (torch.is_grad_enabled() or in_checkpoint()):
                outputs.not_training = True
            elif module is self.module and self.name not in outputs.off:
                # Another module is a replica of DataParallel, which shares the table of hooks.
                outputs.saw(self, args)
                self._measure(output)
        except Exception as error:  # noqa: BLE001 - never into the training
            outputs.failed(self, error)
        finally:
            outputs.own_s += call_s() + self._usual_at_most(time.perf_counter() - started)

    def _usual_at_most(self, elapsed_s: float) -> float:
        """Return the time of a call, without the time in which another thread ran instead.

        The thread's CPU clock would show this, but reading it costs as much as the hook itself.
        """
        kept = min(elapsed_s, INTERRUPTED * self._usual_s) if self._usual_s else elapsed_s
        self._usual_s += SMOOTHING * (kept - self._usual_s) if self._usual_s else kept
        return kept

    def _measure(self, output: object) -> None:
        outputs, call = self._outputs, self.calls
        if call < len(self.sites) and (site := self.sites[call]).knows(output):
            self.calls += 1
            at = outputs.row_at(site.row)
            outputs.kernel.measure(output.data_ptr(), site.prepared, at)
            return
        tensor = first_tensor(output)
        if not self.is_wanted or tensor is None:
            return
        if not _is_plain(tensor):
            if tensor.is_floating_point() or tensor.is_complex():
                self.skipped = _reason_of(tensor)
            return
        call = min(call, CALL_SITES_MAX - 1)
        self.calls += 1
        if call == len(self.sites):
            half = tensor.dtype is torch.float16
            self.sites.append(outputs.new_site(self, call, half=half))
        self.sites[call].measure(tensor, outputs)


def _is_plain(tensor: Tensor) -> bool:
    # A nested tensor is a Tensor whose layout is strided; a meta tensor has no data.
    return (
        tensor.dtype in DTYPES
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_meta
    )


def _reason_of(tensor: Tensor) -> str:
    if type(tensor) in (Tensor, nn.Parameter) and (reason := reason_not_measured(tensor)):
        return reason
    return f"it is a {type(tensor).__name__}"


def first_tensor(output: object) -> Tensor | None:
    """Return the output, or the first tensor in it (LSTM, attention); None if there is none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Sequence) and output and not isinstance(output, str):
        return first_tensor(output[0])
    return None
