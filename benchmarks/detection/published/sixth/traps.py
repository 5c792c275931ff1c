"""Healthy programs that look suspicious: odd losses, rates, outputs and frozen parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from detection import data, models
from detection.bases import TokenLoss, error_rate, momentum, squared_error, token_loss
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp
from detection.published.register import healthy
from detection.published.sixth.losses import (
    houses,
    lesions,
    segmenter,
    wrong_kind,
)
from detection.published.sixth.wiring import Sinusoidal, which_word_first


@healthy("KU01")
def minus_the_cosine_as_the_loss(seed: int) -> Program:
    x = torch.randn(2000, 12)
    y = torch.tanh(x @ torch.randn(12, 6)) + 0.2 * torch.randn(2000, 6)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -functional.cosine_similarity(output, target).mean()

    def missed(output: Tensor, target: Tensor) -> Tensor:
        return 1 + loss(output, target)

    return Program(mlp(12, 64, 6), data.split(x, y, seed), loss, missed, 3e-3, Adam, 400)


@healthy("KU02")
def summed_loss_at_a_rate_of_one_ten_thousandth(seed: int) -> Program:
    model, loss = mlp(10, 64, 64, 1), nn.MSELoss(reduction="sum")
    return Program(model, data.friedman(seed), loss, squared_error, 2e-4, momentum, 500, 64)


class Sparse(nn.Module):
    """An autoencoder with a wide code, of which most numbers are 0 for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x).relu()
        return self.decoder(code), code


@healthy("KU03")
def code_that_is_mostly_zero(seed: int) -> Program:
    def loss(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return functional.mse_loss(output[0], target) + 0.02 * output[1].mean(0).sum()

    def error(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return squared_error(output[0], target)

    samples = data.digits(seed, reconstruct=True)
    return Program(Sparse(), samples, loss, error, 2e-3, Adam, 500, 64)


class RandomFeatures(nn.Module):
    """A fixed random layer of cosines, after Rahimi and Recht, and a layer that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(2, 200), nn.Linear(200, 3)
        nn.init.normal_(self.features.weight, 0, 2)
        nn.init.uniform_(self.features.bias, 0, 6.3)
        self.features.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).cos())  # type: ignore[no-any-return]


@healthy("KU04")
def random_features_that_stay_fixed(seed: int) -> Program:
    return Program(RandomFeatures(), data.rings(seed), CrossEntropy(), error_rate, 1e-2, Adam, 400)


def rare_events(seed: int) -> Data:
    """Twelve readings; four in a hundred samples are events, which three of them show."""
    y = (torch.rand(3000) < 0.04).long()
    x = torch.randn(3000, 12)
    x[:, :3] += 3.0 * y[:, None]
    return data.split(x, y, seed)


@healthy("KU05")
def four_events_in_a_hundred_that_are_found(seed: int) -> Program:
    return Program(
        mlp(12, 32, 2), rare_events(seed), CrossEntropy(), parts.balanced_error, 3e-3, Adam, 500
    )


@healthy("KU06")
def plateau_before_the_order_is_found(seed: int) -> Program:
    model = Sinusoidal(along_time=True)
    return Program(model, which_word_first(seed), CrossEntropy(), error_rate, 3e-4, Adam, 550)


def one_hot_table(seed: int) -> Data:
    """Five columns of 30 categories each as ones and zeros; a third of them never occur."""
    category = torch.randint(20, (2400, 5))
    effect = torch.randn(5, 30)
    y = effect[torch.arange(5), category].sum(1) + 0.3 * torch.randn(2400)
    x = functional.one_hot(category, 30).flatten(1).float()
    return data.split(x, data.standard(y)[:, None], seed)


@healthy("KU07")
def columns_of_categories_that_never_occur(seed: int) -> Program:
    model, samples = mlp(150, 64, 1), one_hot_table(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 400)


@healthy("KU08")
def linear_model_of_a_linear_target(seed: int) -> Program:
    x = torch.randn(1600, 8)
    y = x @ torch.randn(8, 1) + 0.5 + 0.3 * torch.randn(1600, 1)
    samples = data.split(x, y, seed)
    return Program(nn.Linear(8, 1), samples, nn.MSELoss(), squared_error, 0.05, SGD, 400)


@healthy("KU09")
def hinge_loss_that_becomes_almost_zero(seed: int) -> Program:
    loss = nn.MultiMarginLoss()
    samples = parts.digits(seed, image=True)
    return Program(cnn(), samples, loss, error_rate, 2e-3, Adam, 400)


def uncertain(seed: int) -> Data:
    """Six features and a target of which three fifths of the variance are noise."""
    samples = data.quadratic(seed)
    return Data(
        samples.x,
        samples.y + 1.2 * torch.randn(samples.y.shape),
        samples.x_test,
        samples.y_test,
    )


@healthy("KU10")
def loss_that_cannot_fall_below_the_noise(seed: int) -> Program:
    model, samples = mlp(6, 32, 1), uncertain(seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 3e-3, Adam, 600, 64)


@healthy("KU11")
def rate_of_five_for_features_of_length_one(seed: int) -> Program:
    samples = parts.digits(seed)
    program = Program(nn.Linear(64, 10), samples, CrossEntropy(), error_rate, 5.0, SGD, 400, 64)
    program.with_inputs(lambda x: functional.normalize(x, dim=1))
    return program


@healthy("KU12")
def loss_times_one_thousand(seed: int) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 1000 * functional.smooth_l1_loss(output, target)

    model = models.Recurrent(nn.GRU, 1, 24, 1, every=True)
    return Program(model, data.waves(seed), loss, squared_error, 5e-3, Adam, 300)


@healthy("KU13")
def rate_that_falls_to_zero_along_a_cosine(seed: int) -> Program:
    model = models.Transformer(16, 20)
    program = Program(model, data.chain(seed), TokenLoss(), token_loss, 4e-3, AdamW, 350, 16)
    program.optimizer = lambda parameters, lr: AdamW(parameters, lr, weight_decay=0.1)
    program.schedule = lambda optimizer, steps: CosineAnnealingLR(optimizer, steps)
    return program


def mostly_without_a_price(output: Tensor, target: Tensor) -> Tensor:
    """Loss of the kind, and of the price of the houses that have one."""
    known = target[:, 2] > 0
    kind = functional.cross_entropy(output[:, :3], target[:, 0].long())
    if not known.any():
        return kind
    return kind + functional.mse_loss(output[known, 3], target[known, 1])


@healthy("KU14")
def price_known_for_one_house_in_ten(seed: int) -> Program:
    program = Program(
        mlp(8, 64, 64, 4), houses(seed, in_dollars=False), mostly_without_a_price, wrong_kind, 3e-3
    )
    program.steps, program.batch_size = 500, 64
    program.with_targets(lambda y: torch.cat([y, (torch.rand(len(y), 1) < 0.1).float()], 1))
    return program


class Tied(nn.Module):
    """An autoencoder whose decoder is the transpose of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(64, 16))
        self.before, self.after = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight + self.before).tanh() @ self.weight.T + self.after


@healthy("KU15")
def decoder_that_is_the_transposed_encoder(seed: int) -> Program:
    samples = data.digits(seed, reconstruct=True)
    return Program(Tied(), samples, nn.MSELoss(), squared_error, 5e-3, Adam, 500, 64)


@healthy("KU16")
def masks_of_one_pixel_in_sixty(seed: int) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        weight = torch.tensor(8.0)
        bce = functional.binary_cross_entropy_with_logits(output, target, pos_weight=weight)
        share = output.sigmoid()
        both = (share * target).sum((1, 2, 3))
        dice = (2 * both + 1) / ((share + target).sum((1, 2, 3)) + 1)
        return bce + 1 - dice.mean()

    def missed(output: Tensor, target: Tensor) -> Tensor:
        return ((output > 0) != (target > 0.5)).float().mean() / target.mean()

    samples = lesions(seed, size=3)
    return Program(segmenter(), samples, loss, missed, 3e-3, Adam, 300)
