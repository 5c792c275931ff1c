"""DeepFD's benchmark: rates, epochs, initialisers and scales that do not fit the task."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd, wrong_side
from detection.published.register import published
from detection.published.second.keras import NESTEROV, RMSPROP, glorot, normal, uniform

DATA, OPTIMIZER = Class.DATA, Class.OPTIMIZER
TOO_LOW = "learning_rate_too_low undertrained"


@published(
    OPTIMIZER,
    "S013",
    "Stack Overflow 48934338 (DeepFD)",
    "learning_rate_too_high loss_divergence exploding_gradient target_not_scaled",
)
def sgd_rate_of_a_tenth_for_a_parabola(seed: int, repaired: bool) -> Program:
    x = torch.arange(0, 5, 0.1)[:, None]
    samples = data.split(x, 5 * x**2 + torch.randn(50, 1) ** 3, seed)
    model, lr = glorot(mlp(1, 50, 30, 1)), 1e-4 if repaired else 0.1
    return Program(model, samples, nn.MSELoss(), squared_error, lr, sgd(), 600)


@published(
    DATA,
    "S014",
    "Stack Overflow 39525358 (DeepFD)",
    "unnormalised_input init_scale_too_small learning_rate_too_low",
)
def three_unscaled_features(seed: int, repaired: bool) -> Program:
    x = torch.rand(600, 3) * torch.tensor([1.0, 100.0, 1e4])
    y = (parts.standard(x).sum(1, keepdim=True) > 0).float()
    x, lr = (parts.standard(x), 0.01) if repaired else (x, 1e-3)
    model, samples = uniform(mlp(3, 12, 3, 1)), data.split(x, y, seed)
    return Program(
        model, samples, BinaryCrossEntropy(), wrong_side(0.0), lr, steps=600, batch_size=10
    )


@published(DATA, "S015", "Stack Overflow 52800582 (DeepFD)", "target_not_scaled unnormalised_input")
def unscaled_fourth_power(seed: int, repaired: bool) -> Program:
    x = torch.arange(-100, 100, 0.5)[:, None]
    y = x**4
    if repaired:
        x, y = parts.standard(x), parts.standard(y)
    model = glorot(
        nn.Sequential(
            *(nn.Linear(1, 50), nn.Sigmoid(), nn.Linear(50, 50), nn.ELU(), nn.Linear(50, 1))
        )
    )
    program = Program(model, data.split(x, y, seed), nn.MSELoss(), squared_error, 1e-3, steps=600)
    program.sample = parts.whole
    return program


@published(
    DATA,
    "S016",
    "Stack Overflow 46642627 (DeepFD)",
    "unnormalised_input learning_rate_too_high target_not_scaled loss_divergence",
)
def line_of_unscaled_values(seed: int, repaired: bool) -> Program:
    x = 100 * torch.rand(500, 1)
    y = 3 * x + 20 + 5 * torch.randn(500, 1)
    if repaired:
        x, y = x / 100, y / 100
    model, samples = glorot(mlp(1, 1)), data.split(x, y, seed)
    lr = 0.1 if repaired else 0.01
    return Program(model, samples, nn.MSELoss(), squared_error, lr, sgd(), 300)


@published(
    OPTIMIZER, "S017", "Stack Overflow 37624102 (DeepFD)", "learning_rate_too_high dead_relu"
)
def momentum_at_a_rate_of_a_tenth(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    model = glorot(cnn(dense=128, dropout=0.5))
    lr = 0.01 if repaired else 0.1
    return Program(model, samples, CrossEntropy(), error_rate, lr, NESTEROV, 300)


@published(OPTIMIZER, "S018", "Stack Overflow 56380303 (DeepFD)", f"{TOO_LOW} loss_plateau")
def sgd_at_its_default_rate_for_four_convolutions(seed: int, repaired: bool) -> Program:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    head = (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10))
    model, samples = glorot(nn.Sequential(*layers, *head)), parts.digits(seed, image=True)
    lr, optimizer = (1e-3, torch.optim.Adam) if repaired else (0.01, sgd())
    return Program(model, samples, CrossEntropy(), error_rate, lr, optimizer, 100)


@published(OPTIMIZER, "S019", "Stack Overflow 41977498 (DeepFD)", TOO_LOW)
def ten_epochs_of_rmsprop(seed: int, repaired: bool) -> Program:
    samples = parts.classification(seed, 10, 8, n_classes=3, n_samples=600, class_sep=1.5)
    model = glorot(mlp(10, 16, 3, activation=nn.Tanh))
    lr, optimizer = (0.01, torch.optim.Adam) if repaired else (1e-3, RMSPROP)
    steps = 600 if repaired else 60
    return Program(model, samples, CrossEntropy(), error_rate, lr, optimizer, steps, 64)


@published(OPTIMIZER, "S020", "Stack Overflow 51181393 (DeepFD)", f"{TOO_LOW} target_not_scaled")
def rmsprop_at_its_default_rate_for_a_line(seed: int, repaired: bool) -> Program:
    x = torch.arange(0.0, 20)[:, None]
    model, samples = glorot(mlp(1, 1)), data.split(x, 10 * x + 5, seed)
    lr = 0.1 if repaired else 1e-3
    return Program(model, samples, nn.MSELoss(), squared_error, lr, RMSPROP, 500, 8)


@published(OPTIMIZER, "S021", "Stack Overflow 37213388 (DeepFD)", TOO_LOW)
def two_epochs_of_an_autoencoder(seed: int, repaired: bool) -> Program:
    samples = data.digits(seed, reconstruct=True)
    pixels = [tensor * 0.3 + 0.3 for tensor in (samples.y, samples.y_test)]
    samples = data.Data(pixels[0], pixels[0], pixels[1], pixels[1])
    model = glorot(mlp(64, 32, 64))
    optimizer = partial(torch.optim.Adadelta, rho=0.95, eps=1e-7)
    steps = 600 if repaired else 22
    return Program(model, samples, nn.MSELoss(), squared_error, 1.0, optimizer, steps, 128)


@published(OPTIMIZER, "S022", "GitHub gol_nn (DeepFD)", TOO_LOW)
def five_epochs_of_the_game_of_life(seed: int, repaired: bool) -> Program:
    field = (torch.rand(2700, 1, 3, 3) < 0.5).float()
    around = nn.functional.pad(field, (1, 1, 1, 1), "circular")
    neighbours = nn.functional.conv2d(around, torch.ones(1, 1, 3, 3)) - field
    alive = (neighbours == 3) | ((field > 0) & (neighbours == 2))
    layers = (nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 20, 1), nn.ReLU(), nn.Conv2d(20, 1, 1))
    model, samples = glorot(nn.Sequential(*layers)), data.split(around, alive.float(), seed)
    lr, steps = (0.01, 320) if repaired else (1e-3, 160)
    return Program(
        model, samples, BinaryCrossEntropy(), wrong_side(0.0), lr, steps=steps, batch_size=64
    )


@published(
    DATA,
    "S024",
    "Stack Overflow 31627380 (DeepFD)",
    "unnormalised_input initial_loss_anomaly gradient_noise_dominates",
)
def label_codes_and_fares_unscaled(seed: int, repaired: bool) -> Program:
    codes = torch.stack([torch.randint(n, (890,)) for n in (3, 890, 2, 7, 7, 680, 148, 4)], 1)
    x = torch.cat([codes.float(), 30 + 14 * torch.randn(890, 1), 32 * torch.randn(890, 1).exp()], 1)
    score = parts.standard(x)
    y = (score[:, 0] + 2 * score[:, 2] - score[:, 8] + 0.3 * torch.randn(890) > 0).long()
    samples = data.split(score if repaired else x, y, seed)
    model = glorot(mlp(10, 512, 2, dropout=0.5))
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=600, batch_size=4)


@published(
    Class.INITIALISATION,
    "S025",
    "Stack Overflow 41372874 (DeepFD)",
    "init_scale_too_small dead_relu loss_plateau",
)
def two_units_with_small_uniform_weights(seed: int, repaired: bool) -> Program:
    x = 4 * torch.rand(600, 2) - 2
    y = (x[:, 1:] > torch.sin(2 * x[:, :1])).float()
    model = glorot(mlp(2, 16, 16, 1)) if repaired else uniform(mlp(2, 2, 2, 1))
    lr = 0.01 if repaired else 1e-3
    return Program(
        model,
        data.split(x, y, seed),
        BinaryCrossEntropy(),
        wrong_side(0.0),
        lr,
        steps=400,
        batch_size=2,
    )


@published(
    Class.LOSS,
    "S026",
    "Stack Overflow 51930566 (DeepFD)",
    "output_range_mismatch init_scale_too_small loss_plateau",
)
def sigmoid_outputs_for_three_flowers(seed: int, repaired: bool) -> Program:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    samples = data.split(parts.floats(x), torch.tensor(y), seed)
    model = normal(mlp(4, 4, 3, output=None if repaired else nn.Sigmoid()))
    if repaired:
        samples = data.split(parts.standard(parts.floats(x)), torch.tensor(y), seed)
        model = glorot(mlp(4, 16, 3))
    lr = 0.01 if repaired else 1e-3
    return Program(model, samples, CrossEntropy(), error_rate, lr, steps=400, batch_size=5)
