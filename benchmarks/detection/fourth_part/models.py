"""The architectures of the programs of the fourth part, with the names that users give.

Shapes are (samples, …); images have the channels first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.fourth_part.samples import FIELDS, NUMBERS


class TimedBlock(nn.Module):
    """Two linear layers with a skip; the embedding of the time is added between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc0, self.time, self.fc1 = (nn.Linear(width, width) for _ in range(3))
        self.act0, self.act1 = nn.SiLU(), nn.SiLU()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.fc1(self.act1(self.fc0(self.act0(x)) + self.time(time)))
        return x + y  # type: ignore[no-any-return]


class NoisePredictor(nn.Module):
    """The noise in a noisy point; the inputs are the point and the time from 0 to 1."""

    def __init__(self, width: int = 48, blocks: int = 3) -> None:
        super().__init__()
        self.time_fc, self.time_act = nn.Linear(16, width), nn.SiLU()
        self.input = nn.Linear(2, width)
        self.blocks = nn.ModuleList(TimedBlock(width) for _ in range(blocks))
        self.act = nn.SiLU()
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        time = self.time_act(self.time_fc(self.waves(x[:, 2:])))
        y = self.input(x[:, :2])
        for block in self.blocks:
            y = block(y, time)
        return self.head(self.act(y))  # type: ignore[no-any-return]

    def waves(self, time: Tensor) -> Tensor:
        """Return sines and cosines of eight frequencies."""
        phase = time * 1.6 ** torch.arange(8)
        return torch.cat((phase.sin(), phase.cos()), 1)


class TripletNet(nn.Module):
    """The same convolutions for the three images of a triplet; rows of length 1, one for each."""

    normalise = True

    def __init__(self, width: int = 12, outputs: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(1, width, 3, padding=1),
                bn0=nn.BatchNorm2d(width),
                act0=nn.ReLU(),
                conv1=nn.Conv2d(width, 2 * width, 5, stride=2, padding=2),
                bn1=nn.BatchNorm2d(2 * width),
                act1=nn.ReLU(),
                pool=nn.AdaptiveMaxPool2d(2),
                flatten=nn.Flatten(),
                fc=nn.Linear(8 * width, 48),
                act2=nn.ReLU(),
            )
        )
        self.embed = nn.Linear(48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(self.encoder(x.flatten(0, 1)[:, None]))
        if self.normalise:
            y = F.normalize(y, dim=1)
        return y.unflatten(0, x.shape[:2])  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Convolutions, and a head for the class and one for the box; the outputs are side by side."""

    def __init__(self, classes: int, width: int = 12) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = 1
        for i, outputs in enumerate((width, 2 * width, 2 * width)):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, 3, stride=min(i + 1, 2), padding=1)
            layers[f"bn{i}"], layers[f"act{i}"] = nn.BatchNorm2d(outputs), nn.ReLU()
            inputs = outputs
        self.backbone = nn.Sequential(layers)
        self.fc, self.act_fc = nn.Linear(32 * width, 48), nn.ReLU()
        self.classes = nn.Linear(48, classes)
        self.boxes = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act_fc(self.fc(self.backbone(x).flatten(1)))
        return torch.cat((self.classes(y), self.boxes(y)), 1)


class MelodyModel(nn.Module):
    """An LSTM whose output layer shares the embedding; in training, chunks continue each other."""

    def __init__(self, notes: int, width: int = 40) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(notes, width), nn.Dropout(0.1)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, notes)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.3, 0.3)
        nn.init.zeros_(self.decoder.bias)
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(self.dropout(self.embedding(x)), self.state if self.training else None)
        if self.training:
            self.state = self.kept(state)
        return self.decoder(self.dropout(y))  # type: ignore[no-any-return]

    def kept(self, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Return the state with which the next chunk starts."""
        return state[0].detach(), state[1].detach()


def regressor(inputs: int, width: int = 48) -> nn.Sequential:
    """Return an MLP with two outputs: a mean and the logarithm of a variance."""
    return nn.Sequential(
        OrderedDict(
            fc0=nn.Linear(inputs, width),
            act0=nn.ReLU(),
            fc1=nn.Linear(width, width),
            act1=nn.ReLU(),
            head=nn.Linear(width, 2),
        )
    )


class DeepFM(nn.Module):
    """A factorisation machine and an MLP on the same embeddings; the inputs end with codes."""

    def __init__(self, width: int = 6, hidden: int = 32) -> None:
        super().__init__()
        self.linear = nn.Linear(NUMBERS, 1)
        self.weights = nn.ModuleList(nn.Embedding(n, 1) for n in FIELDS)
        self.factors = nn.ModuleList(nn.Embedding(n, width) for n in FIELDS)
        for embedding in [*self.weights, *self.factors]:
            nn.init.normal_(embedding.weight, std=0.1)  # type: ignore[arg-type]
        self.deep = nn.Sequential(
            OrderedDict(
                fc0=nn.Linear(NUMBERS + len(FIELDS) * width, hidden),
                act0=nn.ReLU(),
                fc1=nn.Linear(hidden, hidden),
                act1=nn.ReLU(),
                head=nn.Linear(hidden, 1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        numbers, codes = x[:, :NUMBERS], self.codes(x)
        factors = torch.stack([f(c) for f, c in zip(self.factors, codes, strict=True)], 1)
        first = sum(w(c) for w, c in zip(self.weights, codes, strict=True))
        second = (factors.sum(1) ** 2 - (factors**2).sum(1)).sum(1, keepdim=True) / 2
        deep = self.deep(torch.cat((numbers, factors.flatten(1)), 1))
        return self.linear(numbers) + first + second + deep  # type: ignore[no-any-return]

    def codes(self, x: Tensor) -> list[Tensor]:
        """Return the codes of each category."""
        return [*x[:, NUMBERS:].long().unbind(1)]


class Recogniser(nn.Module):
    """Convolutions over a strip and a recurrent layer: logits of the symbols for each column."""

    def __init__(self, symbols: int, width: int = 24) -> None:
        super().__init__()
        self.conv0, self.act0 = nn.Conv2d(1, width, (8, 4), padding=(0, 2)), nn.ReLU()
        self.bn0 = nn.BatchNorm1d(width)
        self.conv1 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.act1 = nn.ReLU()
        self.rnn = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, symbols + 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act0(self.bn0(self.conv0(x)[:, :, 0]))
        y = self.act1(self.conv1(y)).transpose(1, 2)
        return self.head(self.rnn(y)[0])  # type: ignore[no-any-return]


class Field(nn.Module):
    """A smooth function of a point; the outputs are its value and its Laplacian."""

    def __init__(self, width: int = 32, activation: Any = nn.Tanh) -> None:
        super().__init__()
        self.net = nn.Sequential(
            OrderedDict(
                fc0=nn.Linear(2, width),
                act0=activation(),
                fc1=nn.Linear(width, width),
                act1=activation(),
                head=nn.Linear(width, 1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.net(x)
            return torch.cat((value, self.laplacian(value, x)), 1)

    def laplacian(self, value: Tensor, x: Tensor) -> Tensor:
        """Return the sum of the second derivatives of `value` by each input."""
        [first] = torch.autograd.grad(value.sum(), x, create_graph=True)
        total = torch.zeros(len(x), 1)
        for i in range(x.shape[1]):
            [second] = torch.autograd.grad(first[:, i].sum(), x, create_graph=True)
            total = total + second[:, i : i + 1]
        return total
