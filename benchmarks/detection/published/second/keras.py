"""Initialisers and optimizers of Keras, which the programs of several collections name."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.optim import RMSprop

from detection.published.parts import initialise, normal_, sgd

RMSPROP = partial(RMSprop, alpha=0.9, eps=1e-7)
NESTEROV = sgd(0.9, nesterov=True)


def glorot(model: nn.Module) -> nn.Module:
    """Initialise as Keras does without an initialiser."""
    return initialise(model, nn.init.xavier_uniform_)


def uniform(model: nn.Module) -> nn.Module:
    """Initialise as Keras does with `init="uniform"`."""
    return initialise(model, lambda weight: nn.init.uniform_(weight, -0.05, 0.05))


def normal(model: nn.Module) -> nn.Module:
    """Initialise as Keras does with `init="normal"`."""
    return normal_(model, 0.05)
