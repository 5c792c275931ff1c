"""Weights and biases that start wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.fourth.rates import Ratings, ratings
from detection.published.fourth.wiring import first_words
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

BIAS, INITIALISATION = Class.BIAS, Class.INITIALISATION


class Remembering(nn.Module):
    """An LSTM whose forget gates start with the bias `forget`."""

    def __init__(self, forget: float) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(2, 32, batch_first=True), nn.Linear(32, 2)
        for bias in (self.rnn.bias_ih_l0, self.rnn.bias_hh_l0):
            nn.init.zeros_(bias)  # type: ignore[arg-type]
        self.rnn.bias_ih_l0.data[32:64] = forget  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


@published(
    BIAS,
    "R60",
    "pytorch/pytorch#20102, craffel/nntools#19",
    "vanishing_gradient saturated_activation init_scale_too_small loss_plateau",
)
def forget_gates_that_start_shut(seed: int, repaired: bool) -> Program:
    model = Remembering(4 if repaired else -14)
    samples = parts.first_step_cue(seed, 40)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, Adam, 250)


@published(
    BIAS,
    "R61",
    "common question, Poisson regression with PoissonNLLLoss starts at 1",
    "output_bias_prior initial_loss_anomaly bias_drift undertrained",
)
def counts_of_500_without_their_mean_in_the_bias(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 8)
    y = torch.poisson(500 * (x @ torch.randn(8, 1) / 6).exp())
    model, samples = mlp(8, 32, 1), data.split(x, y, seed)
    if repaired:
        nn.init.constant_(model[-1].bias, float(y.mean().log()))  # type: ignore[arg-type]

    def error(output: Tensor, target: Tensor) -> Tensor:
        return squared_error(output.exp(), target)

    return Program(model, samples, nn.PoissonNLLLoss(), error, 3e-3, Adam, 200)


@published(
    BIAS,
    "R62",
    "common question, output bias set to the mean and the targets standardised later",
    "output_bias_prior initial_loss_anomaly bias_drift",
)
def bias_of_the_raw_mean(seed: int, repaired: bool) -> Program:
    model = mlp(10, 64, 1)
    if not repaired:
        nn.init.constant_(model[-1].bias, 152.0)  # type: ignore[arg-type]
    samples = data.friedman(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-2, Adam, 400)


@published(
    BIAS,
    "R63",
    "common question, matrix factorisation without biases and global mean",
    "missing_output_bias target_not_scaled loss_plateau bias_drift",
)
def ratings_without_offsets(seed: int, repaired: bool) -> Program:
    samples, model = ratings(seed), Ratings(100, 60, 4, offsets=repaired)
    return Program(model, samples, functional.mse_loss, squared_error, 0.01, Adam, 200, 64)


class Highway(nn.Module):
    """Layers after Srivastava et al. whose gates start with the bias `gate`."""

    def __init__(self, gate: float) -> None:
        super().__init__()
        self.inputs, self.head = nn.Linear(2, 24), nn.Linear(24, 3)
        self.layers = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        for each in self.gates:
            nn.init.constant_(each.bias, gate)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.inputs(x)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = gate(h).sigmoid()
            h = share * layer(h).relu() + (1 - share) * h
        return self.head(h)  # type: ignore[no-any-return]


@published(
    BIAS,
    "R64",
    "common question, highway network with gates that stay shut",
    "saturated_activation vanishing_gradient loss_plateau",
)
def gates_with_a_bias_of_minus_twenty(seed: int, repaired: bool) -> Program:
    model = Highway(-1 if repaired else -20)
    return Program(model, data.rings(seed), CrossEntropy(), error_rate, 1e-2, Adam, 300)


class Scaled(nn.Module):
    """A transformer encoder on word vectors of a given deviation times the root of the width."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 64)
        nn.init.normal_(self.embed.weight, 0, deviation)
        at, half = torch.arange(12)[:, None], torch.arange(32)
        angle = at / 100 ** (half / 32)
        self.register_buffer("position", torch.cat([angle.sin(), angle.cos()], 1))
        block = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = math.sqrt(64) * self.embed(x) + self.position
        return self.head(self.blocks(h)[:, 0])  # type: ignore[no-any-return]


@published(
    INITIALISATION,
    "R70",
    "pytorch/translate#220",
    "init_scale_too_large initial_loss_anomaly attention_logit_growth",
)
def word_vectors_of_deviation_one_times_the_root(seed: int, repaired: bool) -> Program:
    model, samples = Scaled(1 / 8 if repaired else 1.0), first_words(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, 200, 64)


@published(
    INITIALISATION,
    "R71",
    "common question, both embeddings of a recommender set to zero",
    "symmetric_init no_gradient no_signal parameter_not_updated",
)
def factors_of_users_and_items_zero(seed: int, repaired: bool) -> Program:
    samples, model = ratings(seed), Ratings(100, 60, 4)
    if not repaired:
        nn.init.zeros_(model.user.weight)
        nn.init.zeros_(model.item.weight)
    return Program(model, samples, functional.mse_loss, squared_error, 0.01, Adam, 400, 64)


class Waves(nn.Module):
    """Layers of sines after Sitzmann et al. with the frequency 30."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        sizes = (2, 64, 64, 64)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(64, 1)
        for at, layer in enumerate(self.layers):
            inputs: int = sizes[at]
            bound = math.sqrt(6 / inputs) / 30 if at else 1 / inputs
            if own:
                nn.init.uniform_(layer.weight, -bound, bound)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = (30 * layer(x)).sin()
        return self.head(x)  # type: ignore[no-any-return]


def picture(seed: int) -> Data:
    """Places in the plane and the brightness of a smooth picture there."""
    x = 2 * torch.rand(3000, 2) - 1
    y = (6 * x[:, :1] + 3 * x[:, 1:] ** 2).sin() + (5 * x[:, 1:]).cos()
    return data.split(x, y, seed)


@published(
    INITIALISATION,
    "R72",
    "common question, SIREN with the initialiser of nn.Linear",
    "init_scale_too_large init_activation_mismatch overfitting",
)
def sines_with_the_default_initialiser(seed: int, repaired: bool) -> Program:
    program = Program(Waves(own=repaired), picture(seed), nn.MSELoss(), squared_error, 1e-3)
    program.steps, program.batch_size, program.validate_every = 300, 128, 20
    return program


class Radial(nn.Module):
    """Radial basis functions around drawn centres, and a linear layer."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(60, 8))
        self.log_sharpness = nn.Parameter(torch.full((60,), math.log(sharpness)))
        self.head = nn.Linear(60, 4)

    def forward(self, x: Tensor) -> Tensor:
        squares = ((x[:, None] - self.centres) ** 2).sum(-1)
        return self.head((-self.log_sharpness.exp() * squares).exp())  # type: ignore[no-any-return]


@published(
    INITIALISATION,
    "R73",
    "common question, radial basis network returns a constant",
    "vanishing_activation vanishing_gradient init_scale_too_small constant_prediction",
)
def basis_functions_that_reach_no_sample(seed: int, repaired: bool) -> Program:
    model = Radial(0.1 if repaired else 10.0)
    samples = data.clusters(seed, classes=4, features=8)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, Adam, 300)


@published(
    INITIALISATION,
    "R74",
    "common question, all components of a mixture density network are equal",
    "symmetric_init loss_plateau",
)
def equal_components_of_a_mixture(seed: int, repaired: bool) -> Program:
    model = mlp(1, 48, 9)
    if not repaired:
        nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    return Program(model, branches(seed), mixture, mixture, 5e-3, Adam, 400, 64)


def branches(seed: int) -> Data:
    """Two branches of y over x; each sample lies on one of them."""
    x = 2 * torch.rand(2000, 1) - 1
    side = 2.0 * torch.randint(2, (2000, 1)) - 1
    return data.split(x, side * (1 + x**2) + 0.1 * torch.randn(2000, 1), seed)


def mixture(output: Tensor, target: Tensor) -> Tensor:
    """Negative log likelihood of three Gaussians per sample."""
    share, mean, log_scale = output.chunk(3, 1)
    normal = torch.distributions.Normal(mean, log_scale.clamp(-4, 4).exp())
    of_each = share.log_softmax(1) + normal.log_prob(target)  # type: ignore[no-untyped-call]
    return -of_each.logsumexp(1).mean()  # type: ignore[no-any-return]


class Direction(nn.Module):
    """A direction in the plane for each sample, from two outputs that may start at zero."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body = mlp(8, 64, 2)
        for parameter in self.body[-1].parameters():
            parameter.data *= scale

    def forward(self, x: Tensor) -> Tensor:
        y, x = self.body(x).unbind(1)
        return torch.atan2(y, x)


@published(
    INITIALISATION,
    "R75",
    "pytorch/pytorch#98276, pytorch/pytorch#166787",
    "no_gradient no_signal parameter_not_updated non_finite_value",
)
def angle_of_the_zero_vector(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 8)
    samples = data.split(x, 2 * torch.tanh(x @ torch.randn(8) / 2), seed)
    model = Direction(1.0 if repaired else 0.0)
    return Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 300)
