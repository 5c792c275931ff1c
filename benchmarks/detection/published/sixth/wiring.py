"""Models that are wired wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp, wrong_side
from detection.published.register import published

WIRING = Class.WIRING


class Dropped(nn.Module):
    """Three layers; the results of the activations are used or dropped."""

    def __init__(self, *, assigned: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 64), nn.Linear(64, 64)
        self.head, self.assigned = nn.Linear(64, 1), assigned

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        h = functional.relu(x)
        x = self.second(h if self.assigned else x)
        h = functional.relu(x)
        return self.head(h if self.assigned else x)  # type: ignore[no-any-return]


@published(
    WIRING,
    "U10",
    "common question, F.relu(x) without an assignment in forward()",
    "missing_nonlinearity loss_plateau",
)
def result_of_the_activation_dropped(seed: int, repaired: bool) -> Program:
    samples = data.quadratic(seed)
    model = Dropped(assigned=repaired)
    return Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 400)


def which_word_first(seed: int) -> Data:
    """Texts of 16 words with the words 1 and 2 once each; the class tells which comes first."""
    x = torch.randint(3, 20, (2400, 16))
    places = torch.rand(2400, 16).argsort(1)[:, :2]
    rows = torch.arange(2400)
    x[rows, places[:, 0]], x[rows, places[:, 1]] = 1, 2
    return data.split(x, (places[:, 0] < places[:, 1]).long(), seed)


class Sinusoidal(nn.Module):
    """A transformer encoder with the sines of Vaswani et al. along the time or the batch."""

    def __init__(self, *, along_time: bool) -> None:
        super().__init__()
        place = torch.arange(5000)[:, None]
        rate = torch.exp(torch.arange(0, 32, 2) * (-math.log(10000) / 32))
        table = torch.stack([torch.sin(place * rate), torch.cos(place * rate)], 2).flatten(1)
        self.register_buffer("table", table)
        self.embed = nn.Embedding(20, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head, self.along_time = nn.Linear(32, 2), along_time

    def forward(self, x: Tensor) -> Tensor:
        samples, times = x.shape
        table: Any = self.table
        places = table[:times] if self.along_time else table[:samples, None]
        return self.head(self.blocks(self.embed(x) + places).mean(1))  # type: ignore[no-any-return]


@published(
    WIRING,
    "U11",
    "Lightning-AI/pytorch-lightning#19138, tanjimin/C.Origami#42",
    "no_learning loss_plateau overfitting class_collapse",
)
def positions_along_the_batch(seed: int, repaired: bool) -> Program:
    model = Sinusoidal(along_time=repaired)
    return Program(model, which_word_first(seed), CrossEntropy(), error_rate, 1e-3, Adam, 400)


class Twins(nn.Module):
    """Distance between the codes of two inputs, or of the first one and itself."""

    def __init__(self, *, second: bool) -> None:
        super().__init__()
        self.code, self.second = mlp(64, 64, 16), second

    def forward(self, x: Tensor) -> Tensor:
        one, two = x[:, :64], x[:, 64:]
        first, other = self.code(one), self.code(two if self.second else one)
        return functional.pairwise_distance(first, other)[:, None]


def pairs_of_images(seed: int) -> Data:
    """Pairs of handwritten digits; the target is 1 for different digits, else 0."""
    samples = parts.digits(seed)

    def pair(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        one = torch.randint(len(x), (count,))
        same = (y[one][:, None] == y).float()
        wanted = torch.where((torch.arange(count) % 2 == 0)[:, None], same, 1 - same)
        two = torch.multinomial(wanted, 1)[:, 0]
        return torch.cat([x[one], x[two]], 1), (y[one] != y[two]).float()[:, None]

    x, y = pair(samples.x, samples.y, 2000)
    return Data(x, y, *pair(samples.x_test, samples.y_test, 600))


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    """Contrastive loss with a margin of 1: pairs with target 0 attract, the others repel."""
    near, far = output.square(), (1 - output).clamp_min(0).square()
    return ((1 - target) * near + target * far).mean()


@published(
    WIRING,
    "U12",
    "common question, forward_once(x1) called twice in a siamese network",
    "no_gradient no_signal constant_prediction vanishing_gradient loss_plateau no_learning",
)
def first_image_compared_with_itself(seed: int, repaired: bool) -> Program:
    model, samples = Twins(second=repaired), pairs_of_images(seed)
    return Program(model, samples, contrastive, wrong_side(0.5), 2e-3, Adam, 400, 64)


class OverTime(nn.Module):
    """Two convolutions in one dimension and the largest value; 3 channels and 40 times."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        channels, self.transposed = 3 if transposed else 40, transposed
        self.first = nn.Conv1d(channels, 24, 5, padding=2)
        self.second, self.head = nn.Conv1d(24, 24, 5, padding=2), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.transpose(1, 2) if self.transposed else x).relu()
        return self.head(self.second(h).relu().amax(2))  # type: ignore[no-any-return]


def gestures(seed: int) -> Data:
    """Noise of 40 times and 3 channels with one of three movements at a random time."""
    y, start = torch.randint(3, (1000,)), torch.randint(30, (1000,))
    wave = torch.linspace(0, 2 * math.pi, 10)
    moves = torch.stack([wave.sin(), wave.cos(), (2 * wave).sin()])
    x = 0.5 * torch.randn(1000, 40, 3)
    for at, (kind, begin) in enumerate(zip(y.tolist(), start.tolist(), strict=True)):
        x[at, begin : begin + 10] += 1.5 * moves[kind][:, None]
    return data.split(x, y, seed)


@published(
    WIRING,
    "U13",
    "common question, Conv1d receives (samples, time, channels)",
    "overfitting loss_plateau no_learning",
)
def convolution_along_the_channels(seed: int, repaired: bool) -> Program:
    program = Program(
        OverTime(transposed=repaired), gestures(seed), CrossEntropy(), error_rate, 2e-3, Adam, 300
    )
    program.validate_every = 20
    return program


@published(
    WIRING,
    "U14",
    "zdebruine/MMVAE#39, optimizer of one half of an autoencoder",
    "parameter_not_updated loss_plateau",
)
def encoder_not_given_to_the_optimizer(seed: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"encoder": mlp(64, 48, 8), "decoder": mlp(8, 48, 64)})
    samples = data.digits(seed, reconstruct=True)
    program = Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 600, 64)
    program.forward = lambda model, x: model["decoder"](model["encoder"](x))  # type: ignore[index]
    if not repaired:
        program.parameters = lambda model: [*model["decoder"].parameters()]  # type: ignore[index]
    return program
