"""Signal, gradient and loss under each initialiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import trainvitals
from studies.common import Floats, examples
from trainvitals import remedies
from trainvitals.experiments.result import Result

Table = dict[str, tuple[str, dict[str, float]]]

INITIALISERS: Table = {
    "He": ("he_normal", {}),
    "orthogonal": ("orthogonal", {}),
    "Xavier, gain 1": ("xavier_normal", {"gain": 1.0}),
    "PyTorch's default": ("torch_default", {}),
    "normal, std 0.02": ("normal", {"std": 0.02}),
    "normal, std 1": ("normal", {"std": 1.0}),
    "uniform, ±0.05": ("uniform", {"low": -0.05, "high": 0.05}),
    "ones": ("ones", {}),
    "zeros": ("zeros", {}),
}
"""Name in the figures → strategy of `remedies.initialise` and its parameters."""
FANS, SCALES = tuple(INITIALISERS)[:4], tuple(INITIALISERS)[4:]
"""The two panels: initialisers whose scale depends on the fan-in, and the others."""
TANH: Table = {
    "Xavier, gain 5/3": ("xavier_normal", {"gain": 5 / 3}),
    "Xavier, gain 1": ("xavier_normal", {"gain": 1.0}),
    "PyTorch's default": ("torch_default", {}),
    "normal, std 1": ("normal", {"std": 1.0}),
}
DEPTH, WIDTH, SAMPLES = 20, 128, 256


@dataclass(frozen=True)
class Propagation:
    """What a checkup measures for each of the linear layers, in the order of the forward pass."""

    S: Floats
    """Standard deviation of the pre-activations across samples."""
    gradient_rms: Floats
    """RMS of the gradient of the weight; NaN if it is not finite."""
    codes: frozenset[str]
    """Rules with a finding."""


def stack(depth: int, width: int, nonlinearity: type[nn.Module], outputs: int) -> nn.Sequential:
    """Return `depth` hidden layers of `width` units with `width` inputs, and a linear head."""
    hidden = [m for _ in range(depth) for m in (nn.Linear(width, width), nonlinearity())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def initialised(
    model: nn.Module, name: str, among: dict[str, tuple[str, dict[str, float]]]
) -> None:
    """Initialise the model in place by a name of one of the tables above."""
    strategy, parameters = among[name]
    remedies.initialise(model, strategy, **parameters)


def propagated(
    name: str,
    nonlinearity: type[nn.Module] = nn.ReLU,
    among: Table | None = None,
    depth: int = DEPTH,
) -> Propagation:
    """Measure a stack by `trainvitals.checkup` on standard normal inputs and ten random classes."""
    torch.manual_seed(0)
    model = stack(depth, WIDTH, nonlinearity, 10)
    initialised(model, name, among or INITIALISERS)
    batch = torch.randn(SAMPLES, WIDTH), torch.randint(0, 10, (SAMPLES,))
    diagnosis = trainvitals.checkup(model, batch, loss=nn.CrossEntropyLoss())
    by_name = {layer.layer: layer for layer in diagnosis.propagation}
    found = [by_name.get(str(2 * at)) for at in range(depth)]
    return Propagation(
        np.array([np.nan if layer is None else layer.S for layer in found]),
        np.array([np.nan if layer is None else layer.gradient_rms for layer in found], float),
        frozenset(finding.code for finding in diagnosis.findings),
    )


def held_out_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the cross entropy on held-out data."""
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(inputs), targets))


def initialisations(
    names: Sequence[str] = tuple(INITIALISERS),
    *,
    depth: int = DEPTH,
    steps: int = 100,
    seeds: int = 3,
) -> Result:
    """Train a deep ReLU stack on digits with each initialisation; the metric is the loss."""

    def choice(name: str) -> Callable[[nn.Module], None]:
        return lambda model: initialised(model, name, INITIALISERS)

    return trainvitals.experiment(
        lambda: stack(depth, 64, nn.ReLU, 10),
        examples.digits(),
        {name: choice(name) for name in names},
        steps=steps,
        seeds=seeds,
        metric=held_out_loss,
        higher_is_better=False,
        robustness=False,
    )
