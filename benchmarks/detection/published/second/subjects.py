"""Networks and data that several programs of the second published list share.

The data has the shape and the scale of the published data set, which is named in the docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detection import data
from detection.program import Data
from detection.published import parts
from detection.published.parts import initialise

Activation = Callable[[], nn.Module]
he = partial(nn.init.kaiming_normal_, nonlinearity="relu")


def lenet(weight: Callable[[Tensor], Any] = he, activation: Activation = nn.ReLU) -> nn.Sequential:
    """Return TheDeepChecker's baseCNN for 8 × 8 images: convolutions of 32 and 64, dense 512."""
    hidden = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), activation(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 512), nn.ReLU()),
    )
    return nn.Sequential(*initialise(hidden, weight).children(), nn.Linear(512, 10))


def vgg(*, norm: bool = True) -> nn.Sequential:
    """Return TheDeepChecker's deepCNN for 8 × 8 images, with a third of its channels."""
    layers: list[nn.Module] = []
    channels = 1
    for width, dropout in ((10, 0.2), (20, 0.3), (20, 0.4)):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=not norm), nn.ReLU()]
            layers += [nn.BatchNorm2d(width)] if norm else []
            channels = width
        layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
    layers += [nn.Flatten(), nn.Linear(channels, 128), nn.ReLU()]
    layers += [nn.BatchNorm1d(128)] if norm else []
    model = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(128, 10))
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return model


def regression(
    weight: Callable[[Tensor], Any] = he, output: nn.Module | None = None
) -> nn.Sequential:
    """Return TheDeepChecker's regrNN: 9 inputs, two hidden layers of 64."""
    hidden = initialise(parts.mlp(9, 64, 64, 64)[:4], weight)
    return nn.Sequential(*hidden.children(), nn.Linear(64, 1), *([output] if output else []))


def unscaled_fuel(seed: int) -> Data:
    """Miles per gallon from 9 features of 392 cars in their own units, as in auto-mpg."""
    size = torch.rand(392, 1)
    cylinders = 4 + 2 * (size * 2.99).floor()
    displacement = 80 + 350 * size + 20 * torch.randn(392, 1)
    power = 50 + 150 * size + 15 * torch.randn(392, 1)
    weight = 1700 + 3000 * size + 200 * torch.randn(392, 1)
    acceleration = 22 - 10 * size + 1.5 * torch.randn(392, 1)
    year = torch.randint(70, 83, (392, 1)).float()
    origin = nn.functional.one_hot(torch.randint(3, (392,)), 3).float()
    x = torch.cat([cylinders, displacement, power, weight, acceleration, year, origin], 1)
    mpg = 60000 / (weight + 4 * power) + 0.75 * (year - 76) + 2 * origin[:, 2:]
    return data.split(x, mpg + torch.randn(392, 1), seed)


def fuel(seed: int, *, low: float = 0.0, high: float = 1.0) -> Data:
    """Return `unscaled_fuel` with inputs from 0 to 1 and targets from `low` to `high`."""
    samples = unscaled_fuel(seed)
    x, y = to_unit_range(samples.x), to_unit_range(samples.y)
    return Data(
        x(samples.x),
        low + (high - low) * y(samples.y),
        x(samples.x_test),
        low + (high - low) * y(samples.y_test),
    )


def to_unit_range(reference: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function that maps each column of `reference` to 0 to 1."""
    low, high = reference.amin(0), reference.amax(0)
    return lambda values: (values - low) / (high - low)
