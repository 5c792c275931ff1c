"""Weights and biases that start wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

from typing import Any, Literal

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
from detection.published.fourth.samples import Bag, topics
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published

BIAS, INITIALISATION = Class.BIAS, Class.INITIALISATION


class Heatmap(nn.Module):
    """Two convolutions and the logit of a centre at each pixel."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU())
        self.head = nn.Conv2d(16, 1, 5, padding=2)
        nn.init.constant_(self.head.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


def centres(seed: int) -> Data:
    """Noisy images of three crosses, and an image of their centres."""
    y = torch.zeros(600, 1, 24, 24)
    row, column = torch.randint(1, 23, (2, 600, 3))
    y[torch.arange(600)[:, None], 0, row, column] = 1
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])[None, None]
    x = functional.conv2d(y, cross, padding=1)
    return data.split(x + 0.3 * torch.randn(x.shape), y, seed)


def missed_centres(output: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of a pixel."""
    return functional.binary_cross_entropy_with_logits(output, target)


@published(
    BIAS,
    "T60",
    "kuangliu/pytorch-retinanet#10, xingyizhou/CenterNet#826",
    "output_bias_prior initial_loss_anomaly class_imbalance bias_drift",
)
def rare_centres_without_a_bias(seed: int, repaired: bool) -> Program:
    loss = nn.BCEWithLogitsLoss()
    model = Heatmap(-4.6 if repaired else 0.0)
    return Program(model, centres(seed), loss, missed_centres, 0.2, sgd(0.9), 60, 16)


@published(
    BIAS,
    "T61",
    "common question, biases of users and items from nn.Embedding start at N(0, 1)",
    "init_scale_too_large initial_loss_anomaly bias_drift overfitting",
)
def offsets_of_deviation_one(seed: int, repaired: bool) -> Program:
    samples = ratings(seed, 3000, users=400, items=200)
    model = Ratings(400, 200, 2)
    if not repaired:
        nn.init.normal_(model.of_user.weight)
        nn.init.normal_(model.of_item.weight)
    return Program(model, samples, functional.mse_loss, squared_error, 5e-3, Adam, 200, 128)


class Sloped(nn.Module):
    """A head of attention whose scores change by `slope` for each position back."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Embedding(12, 32), nn.Linear(32, 96), nn.Linear(32, 4)
        at = torch.arange(24)
        self.bias = nn.Buffer(slope * (at[:, None] - at[None]).abs().float())

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.embed(x)).chunk(3, 2)
        weight = (query @ key.transpose(1, 2) / 32**0.5 + self.bias).softmax(2)
        return self.head((weight @ value)[:, -1])  # type: ignore[no-any-return]


def late_words(seed: int) -> Data:
    """Words of which one of the last four is from 0 to 3, the class."""
    y, at = torch.randint(4, (2000,)), torch.randint(20, 24, (2000,))
    x = torch.randint(4, 12, (2000, 24))
    x[torch.arange(2000), at] = y
    return data.split(x, y, seed)


@published(
    BIAS,
    "T62",
    "meta-pytorch/attention-gym#86",
    "vanishing_gradient no_learning loss_plateau attention_logit_growth",
)
def bias_that_grows_with_the_distance(seed: int, repaired: bool) -> Program:
    model = Sloped(-0.5 if repaired else 0.5)
    return Program(model, late_words(seed), CrossEntropy(), error_rate, 3e-3, Adam, 300, 64)


@published(
    BIAS,
    "T63",
    "common question, log priors of the classes in another order",
    "output_bias_prior initial_loss_anomaly bias_drift",
)
def log_priors_in_reverse(seed: int, repaired: bool) -> Program:
    prior = torch.tensor([0.9, 0.07, 0.02, 0.008, 0.002])
    y = torch.multinomial(prior, 4000, True)
    samples = data.split(0.5 * torch.eye(5, 12)[y] + torch.randn(4000, 12), y, seed)
    model, loss = mlp(12, 32, 5), CrossEntropy()
    model[-1].bias.data = (prior if repaired else prior.flip(0)).log()
    return Program(model, samples, loss, loss, 0.02, sgd(), 100, 64)


class Bandit(nn.Module):
    """Policy gradient of the reward 1 for the right one of four actions, with a baseline."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample()  # type: ignore[no-untyped-call]
        reward = (action == target).float()
        return -((reward - 0.25) * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call,no-any-return]


@published(
    BIAS,
    "T64",
    "common question, policy always takes the action that its bias prefers",
    "output_bias_prior no_signal vanishing_gradient constant_prediction saturated_activation",
)
def action_with_a_bias_of_twenty(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 6)
    samples = data.split(x, (x @ torch.randn(6, 4)).argmax(1), seed)
    model = mlp(6, 64, 4)
    model[-1].bias.data[0] = 0.0 if repaired else 20.0  # type: ignore[operator]
    program = Program(model, samples, Bandit(), error_rate, 3e-3, Adam, 300, 64)
    program.loss_falls = False
    return program


@published(
    INITIALISATION,
    "T70",
    "kazuto1011/deeplab-pytorch#44",
    "symmetric_init no_gradient constant_prediction vanishing_activation init_scale_too_small",
)
def gains_of_the_norms_set_to_zero(seed: int, repaired: bool) -> Program:
    model, samples = cnn(norm=True), parts.digits(seed, image=True)
    for norm in model:
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.weight, 1)
            nn.init.constant_(norm.bias if repaired else norm.weight, 0)
    return Program(model, samples, CrossEntropy(), error_rate, 0.02, sgd(0.9), 120)


@published(
    INITIALISATION,
    "T71",
    "common question, normal_(1.0, 0.02) of DCGAN for all layers",
    "symmetric_init init_scale_too_large initial_loss_anomaly exploding_gradient",
)
def weights_around_one(seed: int, repaired: bool) -> Program:
    def weight(tensor: Tensor) -> Any:
        return nn.init.kaiming_normal_(tensor) if repaired else nn.init.normal_(tensor, 1, 0.02)

    model = parts.initialise(mlp(64, 32, 16, 32, 64), weight)
    samples = data.digits(seed, reconstruct=True)
    return Program(model, samples, nn.MSELoss(), squared_error, 2e-3, Adam, 300)


@published(
    INITIALISATION,
    "T72",
    "common question, word vectors drawn from -0.0001 to 0.0001",
    "init_scale_too_small vanishing_activation vanishing_gradient learning_rate_too_low",
)
def word_vectors_near_zero(seed: int, repaired: bool) -> Program:
    model, limit = Bag(200, 3), 1.0 if repaired else 1e-4
    nn.init.uniform_(model.words.weight, -limit, limit)
    return Program(model, topics(seed), CrossEntropy(), error_rate, 0.1, sgd(0.9), 80, 64)


class Separable(nn.Module):
    """Six depthwise and pointwise convolutions without norms."""

    def __init__(self, mode: Literal["fan_in", "fan_out"]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 24, 3, padding=1), nn.ReLU()]
        for _ in range(6):
            depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
            nn.init.kaiming_normal_(depthwise.weight, mode=mode, nonlinearity="linear")
            pointwise = nn.Conv2d(24, 24, 1)
            nn.init.kaiming_normal_(pointwise.weight, mode=mode, nonlinearity="relu")
            layers += [depthwise, pointwise, nn.ReLU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(24 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))  # type: ignore[no-any-return]


@published(
    INITIALISATION,
    "T73",
    "common question, kaiming_normal_(mode='fan_out') for depthwise convolutions",
    "init_scale_too_small init_activation_mismatch vanishing_activation vanishing_gradient",
)
def fan_of_all_channels_for_depthwise_kernels(seed: int, repaired: bool) -> Program:
    model, samples = Separable("fan_in" if repaired else "fan_out"), parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 0.05, sgd(0.9), 100)


class Codes(nn.Module):
    """An autoencoder through one of 64 codes; returns the image, the vectors and their codes."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 64, 16), mlp(16, 64, 64)
        self.codes = nn.Parameter(deviation * torch.randn(64, 16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vector = self.encoder(x)
        code = self.codes[torch.cdist(vector, self.codes).argmin(1)]
        return self.decoder(vector + (code - vector).detach()), vector, code


def quantised(output: Any, target: Tensor) -> Tensor:
    """Squared error of the image, and of the vectors to their codes and the reverse."""
    image, vector, code = output
    pull = functional.mse_loss(code, vector.detach()) + functional.mse_loss(vector, code.detach())
    return functional.mse_loss(image, target) + pull


def image_error(output: Any, target: Tensor) -> Tensor:
    """Squared error of the image over the variance of a pixel."""
    return ((output[0] - target) ** 2).mean() / target.var(0).mean()  # type: ignore[no-any-return]


@published(
    INITIALISATION,
    "T74",
    "lucidrains/vector-quantize-pytorch#19",
    "init_scale_too_large constant_prediction loss_plateau parameter_not_updated",
)
def codes_far_from_the_vectors(seed: int, repaired: bool) -> Program:
    samples, model = data.digits(seed, reconstruct=True), Codes(0.05 if repaired else 1.0)
    return Program(model, samples, quantised, image_error, 2e-3, Adam, 400, 64)
