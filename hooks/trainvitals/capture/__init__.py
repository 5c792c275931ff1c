"""Tensors to statistics: the hooks, the kernel, the budget.

Comes in: a model, its optimizer, the loss. Goes out: records, through `emit`.
Promise:  nothing here raises into the training, waits for a device, or changes a weight, a random
          state or the model's copies.
Start at `capture.Capture`; it joins parameters, activations, loss, kernel, budget and transfer.
"""

from trainvitals.capture.capture import Capture

__all__ = ["Capture"]
