"""Models that are wired wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published.fourth.samples import Bag, topics
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

WIRING = Class.WIRING


def padded_texts(seed: int) -> Data:
    """Texts of 3 to 12 words in three topics after a start word; word 0 fills them up to 20."""
    y, length = torch.randint(3, (2000,)), torch.randint(3, 13, (2000,))
    share = torch.softmax(2 * torch.randn(3, 58), 1)
    words = 2 + torch.multinomial(share[y], 19, True)
    words[torch.arange(19) >= length[:, None]] = 0
    return data.split(torch.cat([torch.ones(2000, 1, dtype=torch.int64), words], 1), y, seed)


class Padded(nn.Module):
    """A transformer encoder whose start word is classified; `ignored` marks words to skip."""

    def __init__(self, *, inverted: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head, self.inverted = nn.Linear(32, 3), inverted

    def forward(self, x: Tensor) -> Tensor:
        ignored = x != 0 if self.inverted else x == 0
        return self.head(self.blocks(self.embed(x), src_key_padding_mask=ignored)[:, 0])  # type: ignore[no-any-return]


@published(
    WIRING,
    "T20",
    "common question, src_key_padding_mask is True for the words to keep",
    "loss_plateau no_learning no_gradient class_collapse",
)
def padding_kept_and_words_masked(seed: int, repaired: bool) -> Program:
    model, samples = Padded(inverted=not repaired), padded_texts(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, 150)


class AtTheEnd(nn.Module):
    """A tanh network; the head reads the state after the last word or after the padding."""

    def __init__(self, *, skips_padding: bool) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(3, 24, batch_first=True), nn.Linear(24, 3)
        self.skips_padding = skips_padding

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        if not self.skips_padding:
            return self.head(states[:, -1])  # type: ignore[no-any-return]
        last = (x.abs().sum(2) > 0).sum(1) - 1
        return self.head(states[torch.arange(len(x)), last])  # type: ignore[no-any-return]


def short_recordings(seed: int) -> Data:
    """Recordings of 4 to 8 values with a class, filled with zeros up to 80 values."""
    y, length = torch.randint(3, (1500,)), torch.randint(4, 9, (1500,))
    x = 0.8 * torch.eye(3)[y][:, None] + torch.randn(1500, 80, 3)
    x[torch.arange(80) >= length[:, None]] = 0
    return data.split(x, y, seed)


@published(
    WIRING,
    "T21",
    "common question, output[:, -1] of padded sequences",
    "vanishing_gradient loss_plateau no_learning",
)
def state_after_the_padding(seed: int, repaired: bool) -> Program:
    model, samples = AtTheEnd(skips_padding=repaired), short_recordings(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 2e-3, Adam, 200)


@published(
    WIRING,
    "T22",
    "common question, two optimizers and one step()",
    "parameter_not_updated loss_plateau",
)
def optimizer_of_the_words_never_steps(seed: int, repaired: bool) -> Program:
    model = Bag(200, 3)
    program = Program(model, topics(seed, length=10), CrossEntropy(), error_rate, 3e-3)
    program.optimizer = lambda _, lr: [
        Adam(part.parameters(), lr) for part in (model.body, model.words)
    ]

    def train(program: Program, optimizers: Any, monitor: Any, _: int) -> None:
        chosen = torch.randint(len(program.data.x), (64,))
        for optimizer in optimizers:
            optimizer.zero_grad()
        output = program.model(program.data.x[chosen])
        monitor.loss(program.loss(output, program.data.y[chosen])).backward()
        for optimizer in optimizers if repaired else optimizers[:1]:
            optimizer.step()

    program.step, program.steps = train, 60
    return program


class Forecaster(nn.Module):
    """An encoder of the past, and queries for six later values that attend to a sequence."""

    def __init__(self, *, to_itself: bool) -> None:
        super().__init__()
        self.encoder = nn.GRU(1, 32, batch_first=True)
        self.query = nn.Parameter(torch.randn(6, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.head, self.to_itself = mlp(32, 32, 1), to_itself

    def forward(self, x: Tensor) -> Tensor:
        past, _ = self.encoder(x)
        query = self.query.expand(len(x), 6, 32)
        seen = query if self.to_itself else past
        return self.head(query + self.attention(query, seen, seen)[0])  # type: ignore[no-any-return]


def waves_to_continue(seed: int) -> Data:
    """Eighteen values of sums of two sines, and the six values after them."""
    samples = data.waves(seed)
    x, x_test = samples.x, samples.x_test
    return Data(x[:, :18], x[:, 18:], x_test[:, :18], x_test[:, 18:])


@published(
    WIRING,
    "T23",
    "common question, decoder attends to itself instead of the encoder's memory",
    "no_gradient parameter_not_updated loss_plateau",
)
def forecast_attends_to_its_own_queries(seed: int, repaired: bool) -> Program:
    model, samples = Forecaster(to_itself=not repaired), waves_to_continue(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 5e-3, Adam, 200)


class GraphClass(nn.Module):
    """A graph convolution and the mean over the nodes of a graph, or of the whole batch."""

    def __init__(self, *, by_graph: bool) -> None:
        super().__init__()
        self.inputs, self.layer = nn.Linear(6, 32), nn.Linear(32, 32)
        self.head, self.by_graph = nn.Linear(32, 3), by_graph

    def forward(self, x: Tensor) -> Tensor:
        h, edges = self.inputs(x[..., :6]).relu(), x[..., 6:]
        h = self.layer(edges @ h / edges.sum(-1, keepdim=True)).relu()
        if self.by_graph:
            return self.head(h.mean(1))  # type: ignore[no-any-return]
        return self.head(h.flatten(0, 1).mean(0, keepdim=True)).expand(len(x), 3)  # type: ignore[no-any-return]


def molecules(seed: int) -> Data:
    """Random graphs of twelve nodes of six kinds; the class sets how frequent the kinds are."""
    y = torch.randint(3, (900,))
    share = torch.softmax(torch.randn(3, 6), 1)
    nodes = torch.eye(6)[torch.multinomial(share[y], 12, True)]
    edge = (torch.rand(900, 12, 12) < 0.2).float().triu(1)
    return data.split(torch.cat([nodes, edge + edge.transpose(1, 2) + torch.eye(12)], 2), y, seed)


@published(
    WIRING,
    "T24",
    "common question, global_mean_pool without the batch vector",
    "constant_prediction no_learning loss_plateau class_collapse",
)
def mean_over_all_graphs_of_the_batch(seed: int, repaired: bool) -> Program:
    model, samples = GraphClass(by_graph=repaired), molecules(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 5e-3, Adam, 250)
