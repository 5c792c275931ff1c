"""Models that are wired wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, mlp
from detection.published.register import published

WIRING = Class.WIRING


class Pooled(nn.Module):
    """Positions of a sequence, weighted by a softmax of their scores over `dim`, and a head."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.embed, self.score = mlp(7, 32, 16), nn.Linear(8, 1)
        self.head, self.dim = mlp(16, 32, outputs), dim

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).softmax(self.dim)
        return self.head((weights * self.embed(x[..., :7])).sum(1))  # type: ignore[no-any-return]


def marked(seed: int) -> Data:
    """Sequences of 16 vectors of which one is marked in the last column; its class is asked."""
    kind, at = torch.randint(4, (2000, 16)), torch.randint(16, (2000,))
    x = torch.cat([torch.randn(4, 7)[kind], torch.zeros(2000, 16, 1)], 2)
    x[..., :7] += 0.2 * torch.randn(2000, 16, 7)
    rows = torch.arange(2000)
    x[rows, at, 7] = 2
    return data.split(x, kind[rows, at], seed)


@published(
    WIRING,
    "R20",
    "PetrochukM/PyTorch-NLP#2",
    "overfitting loss_plateau",
)
def attention_over_the_batch(seed: int, repaired: bool) -> Program:
    model, samples = Pooled(1 if repaired else 0, 1), marked(seed)
    program = Program(model, samples, nn.MSELoss(), squared_error, 1e-2, Adam, 250, 64)
    program.validate_every, values = 20, torch.randn(4)
    program.with_targets(lambda y: values[y][:, None])
    return program


@published(
    WIRING,
    "R21",
    "DEEP-PolyU/KEQA_WSDM19#2",
    "no_gradient parameter_not_updated loss_plateau",
)
def attention_over_a_single_score(seed: int, repaired: bool) -> Program:
    model = Pooled(1 if repaired else 2, 4)
    return Program(model, marked(seed), CrossEntropy(), error_rate, 1e-2, Adam, 250, 64)


@published(
    WIRING,
    "R22",
    "nikhilsinghmus/image2reverb#37",
    "no_gradient parameter_not_updated no_signal",
)
def generated_samples_detached_for_the_generator(_: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"generator": mlp(8, 64, 2), "critic": mlp(2, 64, 1)})
    x = torch.randn(512, 8)
    angle = 3.14 * torch.rand(512, 1)
    y = 2 + torch.cat([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(512, 2)
    samples = Data(x, y, x, y)
    program = Program(model, samples, BinaryCrossEntropy(), gap_of_means, 2e-3, steps=300)
    program.optimizer = lambda _, lr: [
        Adam(part.parameters(), lr, (0.5, 0.999)) for part in model.values()
    ]
    program.forward = lambda model, x: model["generator"](x)  # type: ignore[index]
    program.step, program.loss_falls = partial(two_players, detached=not repaired), False
    return program


def two_players(program: Program, optimizers: Any, monitor: Any, _: int, *, detached: bool) -> None:
    """Train the critic and then the generator."""
    of_generator, of_critic = optimizers
    generator, critic = program.model["generator"], program.model["critic"]  # type: ignore[index]
    chosen = torch.randint(len(program.data.y), (64,))
    made, right, wrong = generator(torch.randn(64, 8)), torch.ones(64, 1), torch.zeros(64, 1)
    of_critic.zero_grad()
    seen = critic(program.data.y[chosen])
    (program.loss(seen, right) + program.loss(critic(made.detach()), wrong)).backward()
    of_critic.step()
    of_generator.zero_grad()
    judged = critic(made.detach() if detached else made)
    monitor.loss(program.loss(judged, right)).backward()
    of_generator.step()


def gap_of_means(output: Tensor, target: Tensor) -> Tensor:
    """Distance between the means of the made and of the real points."""
    return (output.mean(0) - target.mean(0)).norm()  # type: ignore[no-any-return]


class BothWays(nn.Module):
    """An LSTM in both directions with a head on its two final states."""

    def __init__(self, *, by_sample: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 24, batch_first=True, bidirectional=True)
        self.head, self.by_sample = nn.Linear(48, 4), by_sample

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.rnn(x)
        if self.by_sample:
            last = last.transpose(0, 1)
        return self.head(last.reshape(len(x), -1))  # type: ignore[no-any-return]


@published(
    WIRING,
    "R23",
    "common question, h_n.view(batch, -1) of a bidirectional LSTM",
    "label_misaligned loss_plateau overfitting no_learning",
)
def final_states_of_two_samples_joined(seed: int, repaired: bool) -> Program:
    model = BothWays(by_sample=repaired)
    return Program(model, data.cue(seed), CrossEntropy(), error_rate, 1e-2, Adam, 200)


class Ordered(nn.Module):
    """A transformer encoder on 12 words, with or without a vector for each position."""

    def __init__(self, *, positions: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.position = nn.Parameter(0.3 * torch.randn(12, 32)) if positions else None
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        if self.position is not None:
            h = h + self.position
        return self.head(self.blocks(h).mean(1))  # type: ignore[no-any-return]


def first_words(seed: int) -> Data:
    """Sequences of 12 words out of ten; the class is the third word."""
    x = torch.randint(10, (3000, 12))
    return data.split(x, x[:, 2], seed)


@published(
    WIRING, "R24", "common question, transformer without positions", "loss_plateau no_learning"
)
def words_without_positions(seed: int, repaired: bool) -> Program:
    model = Ordered(positions=repaired)
    return Program(model, first_words(seed), CrossEntropy(), error_rate, 2e-3, Adam, 250, 64)


class Reassigned(nn.Module):
    """A regression network; with `lost`, the head gets the input and not the hidden layers."""

    def __init__(self, *, lost: bool) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 1)
        self.lost = lost

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc2(self.fc1(x).relu()).relu()
        return self.head(x if self.lost else h)  # type: ignore[no-any-return]


@published(
    WIRING,
    "R25",
    "common question, result of the hidden layers not assigned",
    "no_gradient parameter_not_updated loss_plateau missing_nonlinearity",
)
def hidden_layers_computed_and_not_used(seed: int, repaired: bool) -> Program:
    model = Reassigned(lost=not repaired)
    return Program(model, data.friedman(seed), nn.MSELoss(), squared_error, 0.01, Adam, 400)
