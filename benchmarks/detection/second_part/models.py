"""The architectures of the programs of the second part, with the names that users give.

Shapes are (samples, …); images and signals have the channels first.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn


def vgg(classes: int) -> nn.Sequential:
    """Four convolutions without a norm and two linear layers, He initialisation; 12 × 12."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = (1, 10, 10, 20, 20)
    for i in range(4):
        layers[f"conv{i}"] = nn.Conv2d(channels[i], channels[i + 1], 3, padding=1)
        layers[f"act{i}"] = nn.ReLU()
        if i % 2:
            layers[f"pool{i}"] = nn.MaxPool2d(2)
    layers |= {"flatten": nn.Flatten(), "fc4": nn.Linear(20 * 9, 40), "act4": nn.ReLU()}
    for layer in layers.values():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers | {"head": nn.Linear(40, classes)})


class SignalNet(nn.Module):
    """Three strided 1-D convolutions with GroupNorm and SiLU, mean over time, a head."""

    def __init__(self, channels: int, classes: int, width: int = 24) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, inputs in enumerate((channels, width, width)):
            layers[f"conv{i}"] = nn.Conv1d(inputs, width, 5, stride=1 + (i > 0), padding=2)
            layers[f"norm{i}"], layers[f"act{i}"] = nn.GroupNorm(4, width), nn.SiLU()
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(-1))  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """A bidirectional LSTM over embedded words; logits for every word."""

    def __init__(self, words: int, tags: int, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.rnn = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, tags)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(self.embedding(x))
        return self.head(self.dropout(states))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """PyTorch's own encoder layers, post-norm, with learned positions and mean pooling."""

    def __init__(self, tokens: int, length: int, classes: int, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 48, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(self.embedding(x) + self.position)
        return self.head(y.mean(1))  # type: ignore[no-any-return]


class TabularNet(nn.Module):
    """Embedded category codes and numbers into an MLP with BatchNorm; one logit for each row."""

    def __init__(self, numbers: int, sizes: tuple[int, ...], width: int = 48) -> None:
        super().__init__()
        self.numbers = numbers
        self.embeddings = nn.ModuleList(nn.Embedding(size, 6) for size in sizes)
        self.fc0, self.bn0 = nn.Linear(numbers + 6 * len(sizes), width), nn.BatchNorm1d(width)
        self.act0, self.dropout = nn.LeakyReLU(), nn.Dropout(0.1)
        self.fc1, self.act1 = nn.Linear(width, width), nn.LeakyReLU()
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, self.numbers :].long()
        embedded = [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
        y = torch.cat((x[:, : self.numbers], *embedded), 1)
        y = self.dropout(self.act0(self.bn0(self.fc0(y))))
        return self.head(self.act1(self.fc1(y))).squeeze(1)  # type: ignore[no-any-return]


def selu_net(*sizes: int) -> nn.Sequential:
    """A self-normalising MLP: SELU and LeCun's initialisation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(pairwise(sizes[:-1])):
        layers[f"fc{i}"], layers[f"act{i}"] = nn.Linear(inputs, outputs), nn.SELU()
    layers["head"] = nn.Linear(sizes[-2], sizes[-1])
    for layer in layers.values():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(layers)


class SegmentationNet(nn.Module):
    """A strided encoder and a transposed convolution back, with BatchNorm; logits per pixel."""

    def __init__(self, classes: int, width: int = 10) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(1, width, 3, padding=1, bias=False),
                bn0=nn.BatchNorm2d(width),
                act0=nn.ReLU(),
                conv1=nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
                bn1=nn.BatchNorm2d(2 * width),
                act1=nn.ReLU(),
                conv2=nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
                bn2=nn.BatchNorm2d(2 * width),
                act2=nn.ReLU(),
            )
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.act3 = nn.ReLU()
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act3(self.up(self.encoder(x))))  # type: ignore[no-any-return]


class VAE(nn.Module):
    """A variational autoencoder of flat images: returns the logits, the mean and log variance.

    In evaluation the code is the mean.
    """

    def __init__(self, pixels: int, codes: int = 8, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(OrderedDict(fc0=nn.Linear(pixels, width), act0=nn.ReLU()))
        self.mean, self.log_variance = nn.Linear(width, codes), nn.Linear(width, codes)
        self.decoder = nn.Sequential(
            OrderedDict(fc1=nn.Linear(codes, width), act1=nn.ReLU(), head=nn.Linear(width, pixels))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.encoder(x)
        mean, log_variance = self.mean(y), self.log_variance(y)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


class ActorCritic(nn.Module):
    """A tanh trunk with a head for the value and one for the policy.

    The output has shape (samples, actions + 1): the logits of the actions, then the value.
    """

    def __init__(self, inputs: int, actions: int, width: int = 48) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict(
                fc0=nn.Linear(inputs, width),
                act0=nn.Tanh(),
                fc1=nn.Linear(width, width),
                act1=nn.Tanh(),
            )
        )
        self.value, self.policy = nn.Linear(width, 1), nn.Linear(width, actions)
        nn.init.orthogonal_(self.policy.weight, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(x)
        return torch.cat((self.policy(y), self.value(y)), 1)


class Translator(nn.Module):
    """A GRU that reads a text and a second one that writes another, given its earlier tokens.

    The inputs hold `length` tokens of the text and then the decoder's inputs.
    """

    def __init__(self, tokens: int, length: int, width: int = 40) -> None:
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(tokens, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embedding(x)
        _, state = self.encoder(y[:, : self.length])
        states, _ = self.decoder(y[:, self.length :], state)
        return self.head(states)  # type: ignore[no-any-return]
