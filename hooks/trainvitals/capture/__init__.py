"""Measure tensors: the hooks, the kernel, the budget.

Comes in: a model, its optimizer, the loss. Goes out: records, through `emit`.
Promise:  no exception reaches the training; nothing waits for a device, or changes a weight, a
          random state or a copy of the model.
Start at `capture.Capture`, which uses all other modules of this package.
"""

from trainvitals.capture.capture import Capture

__all__ = ["Capture"]
