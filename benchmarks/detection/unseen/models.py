"""The architectures of the unseen programs, with the names that users give.

Shapes are (samples, …); images have the channels first.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.unseen.samples import INTERVALS, MASK


class TabularBlock(nn.Module):
    """BatchNorm, linear, ReLU, dropout and linear, with a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear2(self.dropout(self.relu(self.linear1(self.norm(x)))))  # type: ignore[no-any-return]


class TabularResNet(nn.Module):
    """The ResNet for tables; the output is the logarithm of the expected cost.

    Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", 2021.
    """

    def __init__(self, features: int = 12, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.blocks = nn.Sequential(*(TabularBlock(width) for _ in range(blocks)))
        self.last_norm, self.last_act = nn.BatchNorm1d(width), nn.ReLU()
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.first(x))
        return self.head(self.last_act(self.last_norm(y)))  # type: ignore[no-any-return]


class SoundTagger(nn.Module):
    """Convolutions over bands and frames, a bidirectional GRU over frames, attention over frames.

    The output has one logit for each kind of sound.
    """

    def __init__(self, kinds: int = 5, width: int = 8, hidden: int = 20) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, width, 3, padding=1),
                bn1=nn.BatchNorm2d(width),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d((3, 2)),
                conv2=nn.Conv2d(width, 2 * width, 3, padding=1),
                bn2=nn.BatchNorm2d(2 * width),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d((2, 2)),
            )
        )
        self.gru = nn.GRU(8 * width, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 1)
        self.classifier = nn.Linear(2 * hidden, kinds)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.cnn(x)
        frames, _ = self.gru(maps.permute(0, 3, 1, 2).flatten(2))
        weight = self.weights(self.attention(frames))
        return self.classifier((weight * frames).sum(1))  # type: ignore[no-any-return]

    def weights(self, scores: Tensor) -> Tensor:
        """Return the weights of the frames, whose sum is 1."""
        return scores.softmax(1)


class ListRanker(nn.Module):
    """A score for each document from its features and the mean of its list."""

    def __init__(self, features: int = 10, width: int = 32) -> None:
        super().__init__()
        self.embed, self.act1 = nn.Linear(features, width), nn.GELU()
        self.context = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fc, self.act2 = nn.Linear(width, width), nn.GELU()
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.embed(x))
        y = self.norm(y + self.context(self.pool(y)))
        return self.score(self.act2(self.fc(y))).squeeze(-1)  # type: ignore[no-any-return]

    def pool(self, y: Tensor) -> Tensor:
        """Return the mean over the documents."""
        return y.mean(1, keepdim=True)


class HazardNet(nn.Sequential):
    """The logit of the event in each interval, given that it did not happen before."""

    def __init__(self, features: int = 9, width: int = 32) -> None:
        super().__init__(
            OrderedDict(
                fc1=nn.Linear(features, width),
                elu1=nn.ELU(),
                drop1=nn.Dropout(0.1),
                fc2=nn.Linear(width, width),
                elu2=nn.ELU(),
                drop2=nn.Dropout(0.1),
                hazards=nn.Linear(width, INTERVALS),
            )
        )


class PointNet(nn.Module):
    """The same layers for each point, the maximum over the points, and a classifier.

    Source: Qi et al., "PointNet", 2017.
    """

    def __init__(self, classes: int = 5, width: int = 16) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = 3
        for i, outputs in enumerate((width, 2 * width, 3 * width), 1):
            layers[f"conv{i}"] = nn.Conv1d(inputs, outputs, 1)
            layers[f"bn{i}"], layers[f"relu{i}"] = nn.BatchNorm1d(outputs), nn.ReLU()
            inputs = outputs
        self.features = nn.Sequential(layers)
        self.fc, self.relu, self.dropout = nn.Linear(inputs, 32), nn.ReLU(), nn.Dropout(0.2)
        self.classifier = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.features(x.transpose(1, 2)))
        return self.classifier(self.dropout(self.relu(self.fc(y))))  # type: ignore[no-any-return]

    def pool(self, y: Tensor) -> Tensor:
        """Return the maximum over the points."""
        return y.amax(2)


class NeuralOde(nn.Module):
    """States at later times, by a Runge-Kutta method of order 4 on a learned derivative."""

    part = 0.3
    """Time between two states."""

    def __init__(self, width: int = 32, states: int = 8) -> None:
        super().__init__()
        self.states = states
        self.field = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(2, width),
                tanh1=nn.Tanh(),
                fc2=nn.Linear(width, width),
                tanh2=nn.Tanh(),
                out=nn.Linear(width, 2),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        states = []
        for _ in range(self.states):
            x = self.advance(x, self.part)
            states.append(x)
        return torch.stack(states, 1)

    def advance(self, x: Tensor, part: float) -> Tensor:
        """Return the state after the time `part`."""
        k1 = self.field(x)
        k2 = self.field(x + part / 2 * k1)
        k3 = self.field(x + part / 2 * k2)
        k4 = self.field(x + part * k3)
        return x + part / 6 * (k1 + 2 * k2 + 2 * k3 + k4)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each after a LayerNorm and with a skip."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.ln1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = self.attend(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.proj(y)
        return x + self.fc2(self.act(self.fc1(self.ln2(x))))  # type: ignore[no-any-return]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the values, averaged by attention."""
        return F.scaled_dot_product_attention(q, k, v)


class MaskedModel(nn.Module):
    """An encoder that predicts the masked tokens; the output is float32."""

    autocast = False
    """Compute in bfloat16."""

    def __init__(self, width: int = 32, layers: int = 2, length: int = 12) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(MASK + 1, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(EncoderLayer(width) for _ in range(layers)))
        self.ln = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, MASK + 1)
        self.decoder.weight = self.tokens.weight
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            y = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
            logits = self.decoder(self.ln(self.layers(y)))
        return logits.float()  # type: ignore[no-any-return]


class ForecastBlock(nn.Module):
    """Two layers, and a head for the part of the past that is explained and one for the future."""

    def __init__(self, past: int, future: int, width: int) -> None:
        super().__init__()
        self.fc1, self.relu1 = nn.Linear(past, width), nn.ReLU()
        self.fc2, self.relu2 = nn.Linear(width, width), nn.ReLU()
        self.backcast, self.forecast = nn.Linear(width, past), nn.Linear(width, future)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.relu2(self.fc2(self.relu1(self.fc1(x))))
        return self.backcast(y), self.forecast(y)


class Nbeats(nn.Module):
    """Blocks that each subtract from the past what they explain and add to the forecast.

    Source: Oreshkin et al., "N-BEATS", 2020.
    """

    def __init__(self, past: int = 24, future: int = 6, width: int = 48, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ForecastBlock(past, future, width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for block in self.blocks:
            backcast, forecast = block(x)
            x = self.left(x, backcast)
            total = forecast if total is None else total + forecast
        assert total is not None
        return total

    def left(self, x: Tensor, backcast: Tensor) -> Tensor:
        """Return the part of the past that is not explained yet."""
        return x - backcast


class SubPixelNet(nn.Sequential):
    """Twice the resolution by a convolution to four channels that are put side by side.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution", 2016.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(1, width, 5, padding=2),
                act1=nn.PReLU(),
                conv2=nn.Conv2d(width, width, 3, padding=1),
                act2=nn.PReLU(),
                conv3=nn.Conv2d(width, 4, 3, padding=1),
                shuffle=nn.PixelShuffle(2),
            )
        )
