"""Models, data, losses and metrics that several published programs share.

The models are plain `nn.Sequential`, as in the questions and the papers; inputs are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from detection import data
from detection.program import Data, Metric, Program

CrossEntropy = nn.CrossEntropyLoss
BinaryCrossEntropy = nn.BCEWithLogitsLoss
Activation = Callable[[], nn.Module]


def mlp(
    *sizes: int,
    activation: Activation | None = nn.ReLU,
    dropout: float = 0.0,
    output: nn.Module | None = None,
) -> nn.Sequential:
    """Linear layers with `activation` and dropout between, and `output` at the end."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        if activation:
            layers.append(activation())
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(sizes[-2], sizes[-1]))
    return nn.Sequential(*layers, *([output] if output else []))


def cnn(
    classes: int = 10,
    *,
    channels: int = 1,
    widths: tuple[int, ...] = (16, 32),
    dense: int = 64,
    size: int = 8,
    activation: Activation = nn.ReLU,
    norm: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Convolutions 3 × 3 with pooling, a dense layer and `classes` outputs."""
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(width))
        layers += [activation(), nn.MaxPool2d(2)]
        channels, size = width, size // 2
    layers += [nn.Flatten(), nn.Linear(channels * size * size, dense), activation()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(dense, classes))


class Encoder(nn.Module):
    """A transformer encoder and a linear layer on the mean over positions.

    `tokens` > 0: the input is token numbers, otherwise vectors of 8 numbers.
    """

    def __init__(
        self, outputs: int, length: int, *, tokens: int = 0, blocks: int = 4, norm_first: bool
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 64) if tokens else nn.Linear(8, 64)
        self.position = nn.Parameter(0.02 * torch.randn(length, 64))
        block = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=norm_first)
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x) + self.position).mean(1))  # type: ignore[no-any-return]


class LastState(nn.Module):
    """A recurrent network of 32 units on two channels, and a linear layer on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(2, 32, batch_first=True)  # type: ignore[call-arg,arg-type]
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


def normal_(model: nn.Module, std: float) -> nn.Module:
    """Draw all weights from N(0, std²), set the biases to 0 and return the model."""
    return initialise(model, lambda weight: nn.init.normal_(weight, 0, std))


def initialise(model: nn.Module, weight: Callable[[Tensor], Any]) -> nn.Module:
    """Initialise matrices and kernels by `weight`, set the biases to 0 and return the model."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            weight(parameter)
        else:
            nn.init.zeros_(parameter)
    return model


def sgd(momentum: float = 0.0, **options: Any) -> Callable[[Any, float], Optimizer]:
    """Return a maker of SGD."""
    return lambda parameters, lr: SGD(parameters, lr, momentum=momentum, **options)


# Data.


def floats(array: Any) -> Tensor:
    """Return an array of scikit-learn as float32."""
    return torch.tensor(array, dtype=torch.float32)


def standard(x: Tensor) -> Tensor:
    """Return each column with mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / (x.std(0) + 1e-8)


def digits(seed: int, *, image: bool = False) -> Data:
    """Handwritten digits, 8 × 8, scaled to 0 to 1; 10 classes."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = floats(loaded.data) / 16
    return data.split(x.reshape(-1, 1, 8, 8) if image else x, torch.tensor(loaded.target), seed)


def classification(seed: int, features: int, informative: int, **options: Any) -> Data:
    """Two classes of `make_classification`, targets as int64."""
    from sklearn.datasets import make_classification

    options = {"n_samples": 2000, "random_state": 1} | options
    x, y = make_classification(n_features=features, n_informative=informative, **options)
    return data.split(floats(x), torch.tensor(y), seed)


def circles(seed: int) -> Data:
    """Two noisy circles, one inside the other; the class is the circle."""
    from sklearn.datasets import make_circles

    x, y = make_circles(1000, noise=0.1, factor=0.4, random_state=0)
    return data.split(floats(x), torch.tensor(y), seed)


def blobs(seed: int) -> Data:
    """Three standardised Gaussian clusters in the plane."""
    from sklearn.datasets import make_blobs

    x, y = make_blobs(1500, 2, centers=3, random_state=3)
    return data.split(standard(floats(x)), torch.tensor(y), seed)


def diabetes(seed: int) -> Data:
    """Scikit-learn's diabetes data, standardised: 10 features, one target."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return data.split(standard(floats(x)), standard(floats(y)[:, None]), seed)


def first_step_cue(seed: int, length: int) -> Data:
    """Weak noise after a pulse at the first position; the class is the pulse's channel, 0 or 1."""
    y = torch.randint(2, (1000,))
    x = 0.1 * torch.randn(1000, length, 2)
    x[:, 0] = nn.functional.one_hot(y, 2).float()
    return data.split(x, y, seed)


def figures(seed: int, *, channels: int = 1) -> Data:
    """16 × 16 images of a square, a cross or a diagonal at random positions, from 0 to 0.9."""
    y = torch.randint(3, (900,))
    x = 0.1 * torch.rand(900, channels, 16, 16)
    stamps = torch.zeros(3, 5, 5)
    stamps[0] = 1
    stamps[1, 2, :] = stamps[1, :, 2] = 1
    stamps[2] = torch.eye(5)
    corners = torch.randint(2, 9, (900, 2)).tolist()
    for image, kind, (row, column) in zip(x, y.tolist(), corners, strict=True):
        image[:, row : row + 5, column : column + 5] += 0.8 * stamps[kind]
    return data.split(x, y, seed)


def column(samples: Data) -> Data:
    """Return the data with int64 classes 0 and 1 as a float32 column, for a binary loss."""
    return Data(
        samples.x, samples.y.float()[:, None], samples.x_test, samples.y_test.float()[:, None]
    )


def one_hot(samples: Data, classes: int) -> Data:
    """Return the data with one-hot training targets; the test targets stay classes."""
    y = nn.functional.one_hot(samples.y, classes).float()
    return Data(samples.x, y, samples.x_test, samples.y_test)


def in_order(program: Program, step: int, _: torch.Generator) -> Tensor:
    """Sample the next batch of the data set as it is stored."""
    start = step * program.batch_size
    return torch.arange(start, start + program.batch_size) % len(program.data.x)


def whole(program: Program, _: int, __: torch.Generator) -> Tensor:
    """Sample the whole training set."""
    return torch.arange(len(program.data.x))


# Metrics.


def wrong_side(threshold: float) -> Metric:
    """Return the metric "share of outputs on the wrong side of `threshold`", for targets 0 and 1.

    The threshold is 0 for logits and 0.5 for probabilities. Non-finite outputs are wrong.
    """
    return lambda output, target: (
        (((output > threshold) != (target > 0.5)) | ~output.isfinite()).float().mean()
    )


def error_of_class(number: int) -> Metric:
    """Return the metric "share of the class's samples that are predicted as another class"."""
    return lambda output, target: (output.argmax(-1) != target)[target == number].float().mean()


def balanced_error(output: Tensor, target: Tensor) -> Tensor:
    """Error rate of a class, averaged over the classes."""
    wrong = (output.argmax(-1) != target).float()
    return torch.stack([wrong[target == c].mean() for c in target.unique()]).mean()
