"""The structs of the state before a training. Users import them from `schema`."""

from __future__ import annotations

from typing import Literal

import msgspec


class Initialiser(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution from which a tensor was most likely drawn."""

    name: Literal[
        "normal",
        "truncated_normal",
        "uniform",
        "zeros",
        "ones",
        "constant",
        "xavier_normal",
        "xavier_uniform",
        "he_normal",
        "he_uniform",
        "lecun_normal",
        "lecun_uniform",
        "orthogonal",
        "torch_default",
        "unknown",
    ]
    """"unknown" if the entries fit none of the others."""
    parameters: dict[str, float] = {}
    """What the name leaves open: gain, mean and std, low and high, or value."""
    confidence: float = 0.0
    """0 to 1: the weight of this name among all names, given the entries."""
    distance: float = 0.0
    """Relative difference between the scale seen and the scale that the name implies."""


class PropagatedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """How one layer passes on the signal and the gradient before the training."""

    depth: int
    """Position of the module in the order of the forward pass, from 0."""
    layer: str
    """Name of the module."""
    S: float
    """Standard deviation of the output across samples, RMS over units."""
    M: float | None = None
    """Standard deviation over units of the units' means; None for a single unit."""
    gradient_rms: float | None = None
    """RMS of the gradient of the layer's weight; None for a layer without one."""


class InitialLoss(msgspec.Struct, frozen=True, kw_only=True):
    """The loss before the training, and that of a prediction that ignores the input."""

    seen: float
    expected: float | None = None
    formula: str = ""
    """How `expected` follows from the loss: ln 10."""


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a model before its training, besides the findings."""

    batches: int
    """Number of forward and backward passes, or of the first steps of a run that were measured."""
    initialisers: dict[str, Initialiser] = {}
    """Parameter → the initialiser that it most likely has."""
    propagation: tuple[PropagatedLayer, ...] = ()
    """The hidden layers in the order of the forward pass."""
    chi: float | None = None
    """Factor of S² per layer with a weight, geometric mean: 1 keeps the signal, less shrinks it."""
    gradient_chi: float | None = None
    """Factor of the squared gradient per layer, from the last to the first."""
    depth_of_failure: int | None = None
    """Number of layers after which S is a thousand times smaller (or larger) at this factor; None
    if it is more than 1,000."""
    initial_loss: InitialLoss | None = None
    overfit: tuple[float, float] | None = None
    """Loss before and after some steps on one batch, if that was tried."""
