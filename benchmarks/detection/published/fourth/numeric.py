"""Values that become infinite or no number, after questions and issues on PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published
from detection.published.third.losses import error_of_the_image, kl_of, wrong_neighbours

NUMERIC = Class.NUMERIC


class Statistics(nn.Module):
    """Convolutions over time, the mean and deviation of each channel, and a head."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 24, 3, bias=False), nn.Tanh())
        self.head, self.floor = nn.Linear(48, 4), floor

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.transpose(1, 2))
        deviation = (h.var(2) + self.floor).sqrt()
        return self.head(torch.cat([h.mean(2), deviation], 1))  # type: ignore[no-any-return]


@published(NUMERIC, "R40", "pytorch/pytorch#4320", "non_finite_value")
def deviation_of_a_silent_recording(seed: int, repaired: bool) -> Program:
    samples = data.cue(seed)
    samples.x[torch.rand(len(samples.x)) < 0.002] = 0
    program = Program(
        Statistics(1e-5 if repaired else 0), samples, CrossEntropy(), error_or_all, 5e-3
    )
    program.steps = 200
    return program


def error_or_all(output: Tensor, target: Tensor) -> Tensor:
    """Error rate; outputs that are not finite are wrong."""
    return ((output.argmax(1) != target) | ~output.isfinite().all(1)).float().mean()


@published(
    NUMERIC,
    "R41",
    "common question, RMSLE loss is nan",
    "non_finite_value output_range_mismatch",
)
def logarithm_of_a_forecast_below_minus_one(seed: int, repaired: bool) -> Program:
    def error_of_logarithms(output: Tensor, target: Tensor) -> Tensor:
        count = functional.softplus(output) if repaired else output
        return functional.mse_loss(count.log1p(), target.log1p())

    x = torch.randn(2000, 8)
    sold = torch.poisson((x @ torch.randn(8, 1) / 2).exp())
    samples = data.split(4 * x, sold, seed)
    model, metric = mlp(8, 64, 1), error_of_logarithms
    return Program(model, samples, error_of_logarithms, metric, 3e-3, Adam, 300)


class Counts(nn.Module):
    """An autoencoder of counts through four Gaussian variables."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(20, 64, 8), mlp(4, 64, 20)
        self.largest = largest

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        log_variance = log_variance.clamp(-self.largest, self.largest)
        code = mean
        if self.training:
            code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decoder(code), mean, log_variance


@published(
    NUMERIC,
    "R42",
    "pyg-team/pytorch_geometric#500, vanderschaarlab/synthcity#331",
    "non_finite_value unnormalised_input exploding_gradient",
)
def log_variance_without_a_limit(seed: int, repaired: bool) -> Program:
    def loss(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        squares = ((output[0] - target) ** 2).sum(1).mean() / 100
        return squares + kl_of(*output[1:]).mean()

    x = torch.poisson(100 * (torch.randn(2000, 3) @ torch.randn(3, 20) / 2).exp())
    samples = data.split(x, x, seed)
    model = Counts(4.0 if repaired else float("inf"))
    return Program(model, samples, loss, error_of_the_image, 1e-3, Adam, 400, 64)


@published(
    NUMERIC,
    "R43",
    "mlberkeley/scae-pytorch#4",
    "non_finite_value",
)
def logarithm_of_a_sum_of_exponentials(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        score = 10 * output @ output.T
        score = score - 1e4 * torch.eye(len(output))
        same = (target[:, None] == target).float() - torch.eye(len(output))
        total = score.logsumexp(1) if repaired else score.exp().sum(1).log()
        return (total - (score * same).sum(1) / same.sum(1).clamp_min(1)).mean()

    samples = parts.digits(seed)
    program = Program(mlp(64, 64, 16), samples, loss, wrong_neighbours, 1e-3, Adam, 300, 64)
    program.with_inputs(lambda x: 8 * x)
    return program


def valves(seed: int) -> Data:
    """A flow that is exactly 0 while the valve is shut, and noisy otherwise."""
    x = torch.randn(3000, 6)
    flow = (x @ torch.randn(6, 1) / 2).exp() + 0.3 * torch.randn(3000, 1)
    return data.split(x, torch.where(x[:, :1] > 0, flow, 0.0), seed)


@published(
    NUMERIC,
    "R44",
    "mllam/neural-lam#537",
    "non_finite_value loss_spike exploding_gradient loss_divergence",
)
def deviation_that_reaches_zero(seed: int, repaired: bool) -> Program:
    floor = 0.05 if repaired else 0.0

    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, deviation = output[:, :1], functional.softplus(output[:, 1:]) + floor
        return (deviation.log() + ((target - mean) / deviation) ** 2 / 2).mean()

    def error_of_the_mean(output: Tensor, target: Tensor) -> Tensor:
        return squared_error(output[:, :1], target)

    model = mlp(6, 64, 64, 2)
    return Program(model, valves(seed), loss, error_of_the_mean, 0.01, Adam, 500, 64)
