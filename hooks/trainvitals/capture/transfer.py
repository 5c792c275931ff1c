"""Copy statistics from a device to the host without blocking.

On the CPU they are available at once. On an accelerator, all blocks of a step are concatenated and
copied to pinned memory without blocking; `ready` is called when the copy's event has completed,
some steps later. This path has not been tested on hardware yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Block = npt.NDArray[np.floating[Any]] | Tensor
Blocks = Mapping[str, Block]
Array = npt.NDArray[np.floating[Any]]
Ready = Callable[[dict[str, Array]], None]

WAITING_MAX = 64
"""Maximum number of pending steps; the oldest is dropped instead of blocking."""


class Transfer:
    """A queue of steps whose statistics are being copied."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Any, Tensor, dict[str, Any], dict[str, torch.Size], Ready]] = (
            deque()
        )
        self.given_up = 0

    def submit(self, blocks: Blocks, ready: Ready) -> None:
        """Copy `blocks` to the host and call `ready` with them: at once for the CPU, else later."""
        # Keep float64: a sum of squares may exceed float32 although its root does not.
        here: dict[str, Array] = {k: np.asarray(b) for k, b in blocks.items() if not _is_remote(b)}
        remote = {k: b for k, b in blocks.items() if isinstance(b, Tensor) and _is_remote(b)}
        if not remote and not self._waiting:
            ready(here)
            return
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
            self.given_up += 1
        shapes = {k: b.shape for k, b in remote.items()}
        if not remote:
            self._waiting.append((None, torch.empty(0), here, shapes, ready))
            return
        device = next(iter(remote.values())).device
        flat = torch.cat([b.detach().float().reshape(-1).to(device) for b in remote.values()])
        host = torch.empty(flat.shape, dtype=torch.float32, pin_memory=device.type == "cuda")
        host.copy_(flat, non_blocking=True)
        event = None
        if device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
        self._waiting.append((event, host, here, shapes, ready))

    def poll(self, *, wait: bool = False) -> None:
        """Call `ready` for completed steps, in order; with `wait` (at the end), for all of them."""
        while self._waiting:
            event, host, here, shapes, ready = self._waiting[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._waiting.popleft()
            at = 0
            for name, shape in shapes.items():
                here[name] = host[at : at + shape.numel()].reshape(shape).numpy()
                at += shape.numel()
            ready(here)


def _is_remote(block: Block) -> bool:
    return isinstance(block, Tensor) and block.device.type != "cpu"
