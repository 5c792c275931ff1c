"""A small network trained on handwritten digits: once without a fault, and once with each fault.

A case is a model, an optimizer and a loss; `train` is the same training loop for all cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from trainvitals.monitor import Monitor

BATCH = 128
SEED = 8


@dataclass(frozen=True)
class Case:
    """One training and its expected diagnosis."""

    name: str
    about: str
    """The fault, as the demo prints it."""
    expected: frozenset[str]
    """Codes accepted as the headline; empty: no headline is expected."""
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    steps: int


def cases(fast: bool = False) -> Iterator[Case]:
    """Yield the cases; each is built when it is reached, from the same seed."""
    steps = 160 if fast else 480
    for make in (healthy, exploding_learning_rate, dead_layer, sigmoid_stack, unscaled_targets):
        torch.manual_seed(SEED)
        yield make(steps)


def train(case: Case, monitor: Monitor) -> None:
    """Train the case for `case.steps` steps."""
    order = torch.Generator().manual_seed(SEED)
    for _ in range(case.steps):
        batch = torch.randint(len(case.inputs), (BATCH,), generator=order)
        case.optimizer.zero_grad()
        prediction = case.model(case.inputs[batch])
        loss = monitor.loss(case.loss(prediction, case.targets[batch]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        case.optimizer.step()


def healthy(steps: int) -> Case:
    """Return a small convolutional network that learns the digits."""
    model = _network()
    return Case(
        name="healthy",
        about="a small convolutional network, AdamW at 2e-3",
        expected=frozenset(),
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3),
        loss=nn.functional.cross_entropy,
        inputs=_images(),
        targets=_labels(),
        steps=steps,
    )


def exploding_learning_rate(steps: int) -> Case:
    """Return the healthy network with a learning rate that makes updates as large as weights."""
    model = _network()
    return Case(
        name="learning-rate",
        about="the same network, AdamW at 0.5 instead of 2e-3",
        expected=frozenset({"TV601"}),
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.5),
        loss=nn.functional.cross_entropy,
        inputs=_images(),
        targets=_labels(),
        steps=steps,
    )


def dead_layer(steps: int) -> Case:
    """Return the healthy network with a layer whose bias keeps every ReLU unit at zero."""
    model = _network()
    with torch.no_grad():
        model.get_parameter("conv2.bias").fill_(-10.0)
    return Case(
        name="dead-relu",
        about="the same network, the second layer's bias starts at -10",
        expected=frozenset({"TV201"}),
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3),
        loss=nn.functional.cross_entropy,
        inputs=_images(),
        targets=_labels(),
        steps=steps,
    )


def sigmoid_stack(steps: int) -> Case:
    """Return twelve sigmoid layers: each scales the gradient by at most a quarter."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in [64] * 12:
        layers += [nn.Linear(width, 64), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    return Case(
        name="sigmoid-stack",
        about="twelve sigmoid layers instead of the convolutions",
        expected=frozenset({"TV101"}),
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        loss=nn.functional.cross_entropy,
        inputs=_images(),
        targets=_labels(),
        steps=steps,
    )


def unscaled_targets(steps: int) -> Case:
    """Return a regression to targets far from zero, in which only the last bias learns fast."""
    model = _network(outputs=1)
    bias = model.get_parameter("head.bias")
    weights = [p for p in model.parameters() if p is not bias]
    groups = [{"params": weights, "lr": 1e-4}, {"params": [bias], "lr": 5.0}]
    return Case(
        name="unscaled-targets",
        about="regression to targets around 10,000, the last bias learns at 5.0",
        expected=frozenset({"TV803"}),
        model=model,
        optimizer=torch.optim.Adam(groups),
        loss=nn.functional.mse_loss,
        inputs=_images(),
        targets=_labels().float().unsqueeze(1) + 10_000.0,
        steps=steps,
    )


def _network(outputs: int = 10) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 16, 3, padding=1))
    model.add_module("relu1", nn.ReLU())
    model.add_module("conv2", nn.Conv2d(16, 32, 3, stride=2, padding=1))
    model.add_module("relu2", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("hidden", nn.Linear(512, 64))
    model.add_module("relu3", nn.ReLU())
    model.add_module("head", nn.Linear(64, outputs))
    return model


def _images() -> Tensor:
    """Return the 1,797 images, shape (1797, 1, 8, 8), mean 0 and standard deviation 1."""
    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1)
    return (images - images.mean()) / images.std()


def _labels() -> Tensor:
    return torch.tensor(load_digits().target)
