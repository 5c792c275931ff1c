"""How much of a squared error belongs to outputs at a limit of the model's last operation.

Comes in: the loss function that was found in the graph. Goes out: a scalar, 0-dim, on its device.
An output that a clamp or a ReLU holds at its limit has no gradient, whatever its error is.
Start at `error_without_gradient`.
"""

from __future__ import annotations

import math
from typing import Any, Final

from torch import Tensor

from trainvitals.capture.graph_nodes import operation
from trainvitals.capture.loss_criterion import Criterion
from trainvitals.capture.supervised_values import sample
from trainvitals.wire import Scalar

_LIMITS: Final = {
    "Clamp": ("_saved_min", "_saved_max"),
    "ClampMin": ("_saved_min", ""),
    "ClampMax": ("", "_saved_max"),
    "Hardtanh": ("_saved_min_val", "_saved_max_val"),
}
"""Operation → the names of its limits in the graph."""


def error_without_gradient(main: Criterion) -> dict[str, Tensor]:
    """Return the share of Σ (prediction − target)² at outputs that are held at a limit, 0 to 1.

    Nothing if the last operation has no limits, or the loss is of another kind. NaN without error.
    """
    prediction, target = main.prediction, main.target
    if prediction is None or target is None or main.classes or main.masks:
        return {}
    if prediction.shape != target.shape or not target.is_floating_point():
        return {}
    low, high = _limits_of(main.source)
    if low == -math.inf and high == math.inf:
        return {}
    x, y = sample(prediction.detach()).float(), sample(target.detach()).float()
    error = (x - y).square()
    held = (x <= low) | (x >= high)
    return {Scalar.ERROR_WITHOUT_GRADIENT: (error * held).sum() / error.sum()}


def _limits_of(node: Any) -> tuple[float, float]:
    name = "" if node is None else operation(node)
    if name == "Relu":
        return 0.0, math.inf
    lower, upper = _LIMITS.get(name, ("", ""))
    low, high = getattr(node, lower, None), getattr(node, upper, None)
    # The limits of torch.clamp can be tensors: these are not read.
    return (
        low if isinstance(low, int | float) else -math.inf,
        high if isinstance(high, int | float) else math.inf,
    )
