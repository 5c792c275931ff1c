"""One loss function in the graph of a loss, with what the graph holds of it.

Comes in: nothing. Goes out: `Criterion`, `Found`, `Normal`; loss_graph.py makes them.
Promise:  they hold tensors of the graph: drop them before the call returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from torch import Tensor

WEIGHTS_MAX: Final = 64
"""Maximum number of classes whose weights are told."""


class Normal(NamedTuple):
    """The parts of ½·(ln v + e²/v) for errors e of predicted means and predicted variances v."""

    error: Tensor
    """Mean − target; or target − mean."""
    is_reversed: bool
    """Whether it is target − mean."""
    spread: Tensor
    """The variance, standard deviation or precision, up to a factor."""
    power: float
    """Variance = factor · spread ** power."""
    factor: float

    def mean(self, target: Tensor) -> Tensor:
        """Return the predicted means, for targets with the shape of the errors."""
        error = self.error.detach()
        return target - error if self.is_reversed else target + error


@dataclass(frozen=True)
class Criterion:
    """One loss function in a graph. Holds tensors of the graph: drop it before the call returns."""

    kind: str
    """The equivalent loss module of torch: "CrossEntropyLoss"."""
    reduction: str = ""
    """mean | sum | none; "" if unknown."""
    prediction: Tensor | None = None
    target: Tensor | None = None
    ignore_index: int | None = None
    weight: Tensor | None = None
    """Weight of each class, shape (classes,)."""
    masks: tuple[Tensor, ...] = ()
    """Factors and conditions on the single losses: an element counts where all are non-zero."""
    classes: int = 0
    """Number of classes of a classification; 0 for other losses."""
    last_activation: str = ""
    """The operation that computed the prediction, if it is an activation: "sigmoid"."""
    activation_number: int = -1
    """The sequence number of that operation; numbers of a thread grow."""
    positive_weight: float = 0.0
    """The smallest `pos_weight` of a binary cross entropy; 0 without one, or not on the CPU."""
    logits: Any = None
    """The graph's node whose output is the prediction, if its values are not in the graph."""
    source: Any = None
    """The node that computed the prediction, without views, if the targets are not trained; only
    for losses of numbers, of classes and of binary labels."""
    entry: Any = None
    """The node of a cross entropy or NLL loss of class numbers."""
    wiring: tuple[str, ...] = ()
    """Suspicious connections, such as "softmax_before_cross_entropy"."""
    scale: float = 1.0
    """The loss divided by the mean of the supervised elements; NaN if it is not known."""
    threshold: float = 1.0
    """The error from which a smooth L1 or Huber loss is linear: its beta or delta."""
    normal: Normal | None = None
    """What the graph holds of a normal distribution's likelihood; None for other losses."""

    @property
    def class_weights(self) -> str:
        """`weight` as text, separated by commas; "" without one, or not on the CPU."""
        weight = self.weight
        if weight is None or not weight.is_cpu or weight.numel() > WEIGHTS_MAX:
            return ""
        return ",".join(f"{w:.4g}" for w in weight.detach().flatten().tolist())


class Found(NamedTuple):
    """The loss functions in a graph."""

    criteria: list[Criterion]
    """Nearest to the loss first."""
    is_whole: bool
    """Whether the loss is a sum of these, each times a constant, and of nothing else."""
    is_stacked: bool
    """Whether losses are stacked before they are averaged or added: no scale counts them."""
