"""Losses, outputs and targets that do not match."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import RMSprop

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd, wrong_side
from detection.published.register import published


def clamped_binary_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy as Keras computes it: probabilities clamped, any target accepted."""
    p = output.clamp(1e-7, 1 - 1e-7)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


@published(
    Class.LOSS,
    "F006",
    "Stack Overflow 38648195",
    "loss_task_mismatch output_range_mismatch loss_plateau",
)
def softmax_and_squared_error_for_several_labels(seed: int, repaired: bool) -> Program:
    x = torch.poisson(torch.full((2000, 20), 3.0))
    y = ((x - 3) @ torch.randn(20, 3) > 0).float()
    model = mlp(20, 20, 20, 3, dropout=0.5, output=None if repaired else nn.Softmax(1))
    samples = data.split(parts.standard(x) if repaired else x, y, seed)
    loss = BinaryCrossEntropy() if repaired else nn.MSELoss()
    metric, lr = wrong_side(0.0 if repaired else 0.5), 0.3 if repaired else 0.01
    return Program(model, samples, loss, metric, lr, sgd(), 300, 20)


@published(
    Class.LOSS,
    "F010",
    "Stack Overflow 31880720",
    "softmax_before_cross_entropy constant_prediction no_gradient",
)
def softmax_over_a_single_unit(seed: int, repaired: bool) -> Program:
    model = mlp(128, 50, 50, 1, dropout=0.2, output=None if repaired else nn.Softmax(1))
    loss = BinaryCrossEntropy() if repaired else nn.BCELoss()
    metric = wrong_side(0.0 if repaired else 0.5)
    return Program(model, pairs_of_digits(seed), loss, metric, 1e-3, RMSprop, 200)


def pairs_of_digits(seed: int) -> data.Data:
    """Return 4000 pairs of digits, half of them of the same class; the target is "same class"."""
    digits = parts.digits(seed)
    left, right = torch.randint(len(digits.x), (2, 40000))
    same = digits.y[left] == digits.y[right]
    kept = torch.cat([torch.nonzero(same)[:2000, 0], torch.nonzero(~same)[:2000, 0]])
    x = torch.cat([digits.x[left[kept]], digits.x[right[kept]]], 1)
    return data.split(x, same[kept].float()[:, None], seed)


@published(
    Class.LOSS,
    "F016",
    "Stack Overflow 59278771",
    "output_range_mismatch init_scale_too_small loss_plateau",
)
def sigmoid_output_for_exclusive_classes(seed: int, repaired: bool) -> Program:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x = parts.floats(x)
    if repaired:
        model, x, lr = mlp(4, 16, 3), parts.standard(x), 1e-2
    else:
        model, lr = parts.normal_(mlp(4, 4, 3, output=nn.Sigmoid()), 0.05), 1e-3
    samples = data.split(x, torch.tensor(y), seed)
    return Program(model, samples, CrossEntropy(), error_rate, lr, steps=300, batch_size=5)


@published(Class.LOSS, "F018", "Stack Overflow 34673164", "loss_task_mismatch")
def softmax_and_squared_error_for_two_classes(seed: int, repaired: bool) -> Program:
    samples = parts.classification(seed, 16, 8)
    model = mlp(
        *(16, 64, 64, 2),
        activation=nn.Tanh,
        dropout=0.5,
        output=None if repaired else nn.Softmax(1),
    )
    loss = CrossEntropy() if repaired else nn.MSELoss()
    samples = samples if repaired else parts.one_hot(samples, 2)
    lr = 0.03 if repaired else 0.1  # The gradient of the cross-entropy is larger.
    return Program(model, samples, loss, error_rate, lr, sgd(0.9), 300)


@published(
    Class.LOSS,
    "F020",
    "Stack Overflow 50079585",
    "loss_task_mismatch output_range_mismatch loss_unbounded_below",
)
def one_sigmoid_for_three_classes(seed: int, repaired: bool) -> Program:
    samples = parts.figures(seed)
    model = cnn(3 if repaired else 1, widths=(32, 32, 64), size=16)
    if repaired:
        return Program(model, samples, CrossEntropy(), error_rate, 1e-3, RMSprop, 150)
    model.append(nn.Sigmoid())
    return Program(model, samples, binary_loss_of_classes, rounded_error, 1e-3, RMSprop, 150)


def binary_loss_of_classes(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with the class numbers as targets, as in the question."""
    return clamped_binary_cross_entropy(output[:, 0], target.float())


def rounded_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of outputs that, rounded, are not the class number."""
    return (output[:, 0].round() != target).float().mean()


@published(
    Class.LOSS,
    "F022",
    "Stack Overflow 44066044",
    "output_range_mismatch unnormalised_input non_finite_value dead_relu",
)
def relu_output_with_a_binary_loss(seed: int, repaired: bool) -> Program:
    z = torch.rand(2000, 11)
    x, y = z * torch.logspace(0, 5, 11), (z.sum(1, keepdim=True) > 5.5).float()
    samples = data.split(parts.standard(x) if repaired else x, y, seed)
    if repaired:
        return Program(
            *(mlp(11, 12, 12, 1), samples, BinaryCrossEntropy(), wrong_side(0.0), 1e-3),
            steps=800,
            batch_size=5,
        )
    model = parts.normal_(mlp(11, 12, 12, 1, output=nn.ReLU()), 0.05)
    loss = clamped_binary_cross_entropy
    return Program(model, samples, loss, wrong_side(0.5), 1e-3, steps=200, batch_size=5)


@published(
    Class.LOSS,
    "F024",
    "Stack Overflow 47352366",
    "output_range_mismatch non_finite_value dead_relu",
)
def relu_before_the_logarithm(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    model = cnn(widths=(32, 64), dense=128)
    if repaired:
        return Program(model, samples, CrossEntropy(), error_rate, 0.1, sgd(), 100)
    model.append(nn.ReLU())
    return Program(model, samples, log_of_shares, error_rate, 0.01, sgd(), 56)


def log_of_shares(output: Tensor, target: Tensor) -> Tensor:
    """Negative log of each output's share of the sum, as in the question: log 0 is possible."""
    shares = output / output.sum(1, keepdim=True)
    return -shares[torch.arange(len(target)), target].log().mean()


@published(Class.LOSS, "F034", "Stack Overflow 42514960", "output_range_mismatch dead_relu")
def relu_output_for_negative_targets(seed: int, repaired: bool) -> Program:
    x = parts.standard(parts.classification(seed, 20, 6, n_redundant=8).x)
    model = mlp(20, 40, 40, 8, 40, 40, 20, output=None if repaired else nn.ReLU())
    samples = data.split(x, x, seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, steps=400, batch_size=64)


@published(
    Class.LOSS,
    "F056",
    "TheDeepChecker, missing_softmax",
    "output_range_mismatch loss_unbounded_below",
)
def negative_log_likelihood_of_logits(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    loss = CrossEntropy() if repaired else nn.NLLLoss()
    return Program(cnn(), samples, loss, error_rate, 1e-3, steps=200, batch_size=64)


@published(
    Class.LOSS,
    "F058",
    "TheDeepChecker, wrong_loss_function",
    "loss_task_mismatch learning_rate_too_high initial_loss_anomaly exploding_gradient",
)
def loss_summed_over_the_batch(seed: int, repaired: bool) -> Program:
    loss = CrossEntropy(reduction="mean" if repaired else "sum")
    return Program(mlp(64, 64, 10), parts.digits(seed), loss, error_rate, 0.1, sgd(), 100, 128)


@published(Class.LOSS, "F086", "AutoTrainer, improper loss", "loss_task_mismatch")
def binary_loss_on_softmax(seed: int, repaired: bool) -> Program:
    samples = parts.blobs(seed)
    model = mlp(2, 16, 3, output=None if repaired else nn.Softmax(1))
    loss = CrossEntropy() if repaired else nn.BCELoss()
    samples = samples if repaired else parts.one_hot(samples, 3)
    return Program(model, samples, loss, error_rate, 1e-2, steps=200)


@published(
    Class.LOSS, "F126", "PyTorch forum", "loss_unbounded_below loss_divergence gradient_ascent"
)
def loss_with_the_wrong_sign(seed: int, repaired: bool) -> Program:
    loss = functional.cross_entropy if repaired else negative_cross_entropy
    return Program(
        mlp(64, 64, 10), parts.digits(seed), loss, error_rate, 1e-3, steps=150, batch_size=64
    )


def negative_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with the wrong sign."""
    return -functional.cross_entropy(output, target)
