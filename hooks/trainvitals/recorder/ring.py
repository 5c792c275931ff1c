"""The ring: what is kept of the last steps, bounded in steps and in bytes.

Comes in: records of the capture, and the context of each step (random states, sample indices,
losses per sample). Goes out: `Frozen`, a copy of the references that a thread can write.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainvitals.random_states import OtherStates, TorchStates
from trainvitals.wire import Frame, Layout, Stream

STEPS_MAX: Final = 256
BYTES_MAX: Final = 64 * 2**20
LAYOUTS_MAX: Final = 64
REMOVED_AT_ONCE: Final = 16
"""Old steps are removed so many at once, which takes less time. Until then the ring holds more."""

Indices: TypeAlias = "array[int] | npt.NDArray[np.int64]"


@dataclass(slots=True)
class StepContext:
    """What a step began with. `batches` are the sample indices of its batches.

    `losses` are the losses per sample of its micro-batches, of any float type. They can share
    memory with what the program computed; their version is 0 until something changes them in place.
    `others` are the states of Python's and NumPy's generators at the start of step `others_step`,
    which can be an earlier one.
    """

    step: int
    of_torch: TorchStates | None = None
    others: OtherStates | None = None
    others_step: int = -1
    batches: list[Indices] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    nbytes: int = 0
    """Bytes of what was added."""

    def add_batch(self, indices: Indices) -> None:
        """Add the sample indices of a batch."""
        self.batches.append(indices)
        self.nbytes += 8 * len(indices)

    def take_batches(self) -> list[Indices]:
        """Remove all batches, and return them."""
        taken, self.batches = self.batches, []
        self.nbytes -= 8 * sum(len(indices) for indices in taken)
        return taken

    def add_losses(self, losses: Tensor, samples: int) -> None:
        """Add the losses per sample of a micro-batch, shape (samples,)."""
        self.losses.append(losses)
        self.nbytes += 4 * samples

    def drop_changed_losses(self) -> bool:
        """Remove losses that were changed in place; return whether there were any."""
        kept = [losses for losses in self.losses if not losses._version]
        changed = len(kept) < len(self.losses)
        self.losses = kept
        return changed


@dataclass(frozen=True)
class Frozen:
    """The ring at one moment: references, which nothing changes any more."""

    layouts: dict[tuple[Stream, int], Layout]
    frames: list[Frame]
    contexts: list[StepContext]


class Ring:
    """Frames and contexts of the last 256 steps, at most 64 MB; the oldest are removed first."""

    def __init__(self, steps_max: int = STEPS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.nbytes = 0
        self._steps_max, self._bytes_max = steps_max, bytes_max
        self._layouts: dict[tuple[Stream, int], Layout] = {}
        self._frames: deque[tuple[int, Frame]] = deque()
        self._contexts: deque[tuple[int, StepContext]] = deque()

    def layout(self, layout: Layout) -> None:
        """Keep a layout as long as a frame in the ring refers to it."""
        self._layouts[layout.stream, layout.version] = layout
        if len(self._layouts) > LAYOUTS_MAX:
            used = {(frame.stream, frame.layout) for _, frame in self._frames}
            used.add((layout.stream, layout.version))
            self._layouts = {key: kept for key, kept in self._layouts.items() if key in used}

    def frame(self, frame: Frame) -> None:
        """Add a frame of one or more steps."""
        self.nbytes += frame.values.nbytes
        self._frames.append((int(frame.steps[-1]), frame))

    def end_step(self, context: StepContext) -> None:
        """Add the context of a finished step, and remove what is too old or too much."""
        size = context.nbytes
        self.nbytes += size
        self._contexts.append((size, context))
        surplus = len(self._contexts) - self._steps_max
        if surplus >= REMOVED_AT_ONCE or self.nbytes > self._bytes_max:
            self._remove_old(context.step)

    def _remove_old(self, step: int) -> None:
        oldest = step - self._steps_max
        while self._frames and self._frames[0][0] <= oldest:
            self._drop_frame()
        while len(self._contexts) > self._steps_max:
            self._drop_context()
        while self.nbytes > self._bytes_max:
            of_frame = self._frames[0][0] if self._frames else step + 1
            if of_frame <= self._contexts[0][1].step:
                self._drop_frame()
            elif len(self._contexts) > 1 or not self._frames:
                self._drop_context()
            else:
                self._drop_frame()

    def freeze(self) -> Frozen:
        """Return the ring as it is now."""
        if self._contexts:
            self._remove_old(self._contexts[-1][1].step)
        return Frozen(
            dict(self._layouts),
            [frame for _, frame in self._frames],
            [context for _, context in self._contexts],
        )

    def _drop_frame(self) -> None:
        _, frame = self._frames.popleft()
        self.nbytes -= frame.values.nbytes

    def _drop_context(self) -> None:
        size, _ = self._contexts.popleft()
        self.nbytes -= size
