"""A coordinate network with sine activations (SIREN) fits an image; full batches of pixels."""

from __future__ import annotations

import math

import torch
from torch import nn

from healthy.program import Program, Watch

SIDE = 48


class SineLayer(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, first: bool = False, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(fan_in, fan_out)
        bound = 1 / fan_in if first else math.sqrt(6 / fan_in) / omega
        with torch.no_grad():
            self.linear.weight.uniform_(-bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.omega * self.linear(x))


class Siren(nn.Module):
    def __init__(self, width: int, omega: float) -> None:
        super().__init__()
        final = nn.Linear(width, 1)
        bound = math.sqrt(6 / width) / omega
        nn.init.uniform_(final.weight, -bound, bound)
        self.net = nn.Sequential(
            SineLayer(2, width, first=True, omega=omega),
            SineLayer(width, width, omega=omega),
            SineLayer(width, width, omega=omega),
            final,
        )

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        return self.net(coordinates)


def image(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coordinates and the values, -1 to 1, of rings, a bar and a gradient."""
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    value = 0.5 * torch.cos(18 * (x**2 + y**2).sqrt()) + 0.3 * x
    value = value + 0.4 * ((x - 0.4).abs() < 0.15).float() - 0.2
    return torch.stack([x, y], -1).view(-1, 2), value.view(-1, 1).clamp(-1, 1)


def train(watch: Watch, seed: int, width: int = 64, omega: float = 30.0) -> float:
    torch.manual_seed(seed)
    coordinates, pixels = image(SIDE)
    model = Siren(width, omega)
    optim = torch.optim.Adam(lr=5e-4, params=model.parameters())
    monitor = watch(model, optim)
    for _ in range(350):
        output = model(coordinates)
        loss = ((output - pixels) ** 2).mean()
        monitor.loss(loss)
        optim.zero_grad()
        loss.backward()
        optim.step()
    # Between the pixels: an image with other sampling points.
    coordinates, pixels = image(37)
    with torch.no_grad():
        error = ((model(coordinates) - pixels) ** 2).mean()
    return float(10 * torch.log10(4 / error))


PROGRAM = Program(
    train,
    metric="peak signal-to-noise ratio between the pixels in dB",
    healthy=22.0,
    settings=({"seed": 0}, {"seed": 1, "width": 96}, {"seed": 2, "omega": 20.0}),
)
