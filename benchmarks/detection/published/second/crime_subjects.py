"""Small data and networks like DeepCrime's subjects other than MNIST.

Humbatova, Jahangirova & Tonella, "DeepCrime: Mutation Testing of Deep Learning Systems Based on
Real Faults", 2021. The data is generated with the shape and the scale of the subject's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detection import data
from detection.program import Data
from detection.published import parts

Activation = Callable[[], nn.Module]


def speakers(seed: int, *, recordings: int = 2000) -> Data:
    """Log spectra of 64 bands from 8 speakers, each with three formants that vary; 8 classes."""
    centre = 8 + 48 * torch.rand(8, 3)
    y = torch.randint(8, (recordings,))
    formants = centre[y] + 2.5 * torch.randn(recordings, 3)
    distance = torch.arange(64.0) - formants[:, :, None]
    spectrum = (torch.rand(recordings, 3, 1) * torch.exp(-(distance**2) / 8)).sum(1)
    x = (spectrum + 0.15 * torch.randn(recordings, 64))[:, None]
    return data.split((x - x.mean()) / x.std(), y, seed)


def listener() -> nn.Sequential:
    """Return a 1-D convolutional classifier of spectra, as for speaker recognition."""
    return nn.Sequential(
        *(nn.Conv1d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool1d(2), nn.Conv1d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 8)),
    )


def roads(seed: int) -> Data:
    """Images of 12 × 24 of a lane that bends; the target is the steering angle, about -1 to 1."""
    bend, start = 0.5 * torch.randn(1200, 1), torch.randn(1200, 1)
    row = torch.linspace(0, 1, 12)
    middle = 12 + 2 * start + 9 * bend * row**2
    distance = torch.arange(24.0) - middle[:, :, None]
    lane = torch.exp(-(distance**2) / 3) + 0.2 * torch.randn(1200, 12, 24)
    return data.split(lane[:, None], bend, seed)


def driver(activation: Activation = nn.ELU, dropout: float = 0.5) -> nn.Sequential:
    """Return a steering network after NVIDIA's: convolutions with ELU, dropout, dense layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1), activation()),
        *(nn.Conv2d(12, 18, 3, stride=2, padding=1), activation()),
        *(nn.Conv2d(18, 24, 3, padding=1), activation(), nn.Conv2d(24, 24, 3, padding=1)),
        *(activation(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(432, 100), activation()),
        *(nn.Linear(100, 50), activation(), nn.Linear(50, 10), activation(), nn.Linear(10, 1)),
    )


def eyes(seed: int) -> Data:
    """Images of 12 × 20 of an eye; the target is the gaze, two angles of about -0.6 to 0.6."""
    gaze = 0.25 * torch.randn(1500, 2)
    row = torch.arange(12.0)[:, None] - (6 + 8 * gaze[:, 0])[:, None, None]
    column = torch.arange(20.0) - (10 + 12 * gaze[:, 1])[:, None, None]
    iris = torch.exp(-(row**2 + column**2) / 6)
    image = 0.8 - 0.7 * iris + 0.1 * torch.randn(1500, 12, 20)
    return data.split(image[:, None], gaze, seed)


def gazer() -> nn.Sequential:
    """Return a gaze network after LeNet: two convolutions, dense layers, two angles."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(150, 500), nn.ReLU(), nn.Linear(500, 2)),
    )


def ratings(seed: int) -> Data:
    """Ratings from 0 to 1 of 80 films by 100 people; the input is the two numbers."""
    people, films = torch.randn(100, 3), torch.randn(80, 3)
    x = torch.stack([torch.randint(100, (5000,)), torch.randint(80, (5000,))], 1)
    taste = (people[x[:, 0]] * films[x[:, 1]]).sum(1, keepdim=True)
    stars = (2.5 + taste + 0.5 * torch.randn(5000, 1)).round().clamp(0, 5)
    return data.split(x, stars / 5, seed)


class Recommender(nn.Module):
    """Scalar products of embeddings of people and films with biases, then a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.people, self.films = nn.Embedding(100, 50), nn.Embedding(80, 50)
        self.person_bias, self.film_bias = nn.Embedding(100, 1), nn.Embedding(80, 1)
        for table in (self.people, self.films, self.person_bias, self.film_bias):
            nn.init.kaiming_normal_(table.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        person, film = x[:, 0], x[:, 1]
        product = (self.people(person) * self.films(film)).sum(1, keepdim=True)
        return torch.sigmoid(product + self.person_bias(person) + self.film_bias(film))


def newswires(seed: int) -> Data:
    """Bags of 600 words of 12 topics, 0 or 1 for each word; the class is the topic."""
    words = torch.randn(12, 600).softmax(1) * 600
    y = torch.randint(12, (1600,))
    x = (torch.rand(1600, 600) < 0.05 * words[y]).float()
    return data.split(x, y, seed)


def reader(dropout: float = 0.5) -> nn.Sequential:
    """Return Keras's classifier of Reuters newswires: one hidden layer of 512 with dropout."""
    return parts.mlp(600, 512, 12, dropout=dropout)
