"""TheDeepChecker's synthetic programs: one fault in a LeNet, a VGG or a regression network.

Braiek & Khomh, "Testing Feedforward Neural Networks Training Programs", 2022, arXiv:2204.00694.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, balanced_error, sgd
from detection.published.register import published
from detection.published.second.subjects import (
    fuel,
    he,
    lenet,
    regression,
    unscaled_fuel,
    vgg,
)


def base_cnn(seed: int, lr: float = 0.1, steps: int = 200) -> Program:
    """Return baseCNN on digits with SGD."""
    samples = parts.digits(seed, image=True)
    return Program(lenet(), samples, CrossEntropy(), error_rate, lr, sgd(), steps, 64)


def regr_nn(seed: int, steps: int = 400) -> Program:
    """Return regrNN on the consumption of cars with Adam."""
    return Program(regression(), fuel(seed), nn.MSELoss(), squared_error, 1e-3, Adam, steps)


@published(
    Class.OPTIMIZER,
    "C001",
    "TheDeepChecker, high_lr/deepCNN",
    "learning_rate_too_high loss_divergence dead_relu",
)
def vgg_with_momentum_at_a_high_rate(seed: int, repaired: bool) -> Program:
    samples, lr = parts.digits(seed, image=True), 0.01 if repaired else 1.0
    return Program(vgg(), samples, CrossEntropy(), error_rate, lr, sgd(0.9), 300, 64)


@published(
    Class.OPTIMIZER,
    "C002",
    "TheDeepChecker, high_lr/regrNN",
    "learning_rate_too_high dead_relu loss_oscillation",
)
def adam_rate_of_a_tenth_for_regression(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    program.lr = 1e-3 if repaired else 0.1
    return program


@published(
    Class.OPTIMIZER,
    "C003",
    "TheDeepChecker, flipped_sign/baseCNN",
    "gradient_ascent loss_divergence",
)
def ascent_of_the_loss_by_sgd(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    program.optimizer = partial(SGD, maximize=not repaired)
    return program


@published(
    Class.OPTIMIZER,
    "C004",
    "TheDeepChecker, flipped_sign/regrNN",
    "gradient_ascent loss_divergence",
)
def ascent_of_the_loss_by_adam(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    program.optimizer = partial(Adam, maximize=not repaired)
    return program


@published(
    Class.DATA,
    "C005",
    "TheDeepChecker, missing_normalization/baseCNN",
    "unnormalised_input initial_loss_anomaly",
)
def pixels_up_to_255(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    if not repaired:
        program.with_inputs(lambda x: 255 * x)
    return program


@published(
    Class.DATA,
    "C006",
    "TheDeepChecker, missing_normalization/regrNN",
    "unnormalised_input target_not_scaled",
)
def cars_in_their_own_units(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    if not repaired:
        program.data = unscaled_fuel(seed)
    return program


@published(
    Class.LOSS, "C008", "TheDeepChecker, redundant_softmax/baseCNN", "softmax_before_cross_entropy"
)
def probabilities_as_logits(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    if not repaired:
        program.model = nn.Sequential(*program.model.children(), nn.Softmax(1))
    return program


@published(Class.DATA, "C009", "TheDeepChecker, over_scaled_outputs/regrNN", "target_not_scaled")
def ten_times_the_consumption_as_target(seed: int, repaired: bool) -> Program:
    program, raw = regr_nn(seed), unscaled_fuel(seed)
    if not repaired:
        program.data = replace(fuel(seed), y=10 * raw.y, y_test=10 * raw.y_test)
    return program


@published(
    Class.DATA, "C010", "TheDeepChecker, unbalanced_data/baseCNN", "class_imbalance class_collapse"
)
def six_rare_classes(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    program.metric = balanced_error
    if not repaired:
        x, y = program.data.x, program.data.y
        per_class = len(y) // 10
        kept = torch.cat(
            [at[: max(1, per_class * c // 100)] if c < 6 else at for c, at in groups(y)]
        )
        program.data = replace(program.data, x=x[kept], y=y[kept])
    return program


def groups(y: Tensor) -> list[tuple[int, Tensor]]:
    """Return the classes from 0 to 9 and the numbers of the samples of each."""
    return [(c, torch.nonzero(y == c)[:, 0]) for c in range(10)]


@published(
    Class.FLOW,
    "C011",
    "TheDeepChecker, wrong_activation/baseCNN",
    "vanishing_gradient init_activation_mismatch init_scale_too_small loss_plateau",
)
def softmax_over_the_channels(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    if not repaired:
        program.model = lenet(activation=lambda: nn.Softmax(1))
    return program


@published(
    Class.LOSS, "C012", "TheDeepChecker, wrong_activation/regrNN_inapp", "output_range_mismatch"
)
def sigmoid_for_targets_from_minus_one(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    program.data = fuel(seed, low=-1)
    if not repaired:
        program.model = regression(output=nn.Sigmoid())
    return program


@published(
    Class.LOSS,
    "C013",
    "TheDeepChecker, wrong_activation/regrNN",
    "output_range_mismatch softmax_before_cross_entropy constant_prediction no_gradient",
)
def softmax_of_one_output(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    if not repaired:
        program.model = regression(output=nn.Softmax(1))
    return program


@published(
    Class.DATA,
    "C014",
    "TheDeepChecker, wrong_augmentation/baseCNN",
    "wrong_augmentation loss_plateau",
)
def noise_and_large_erased_boxes(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    if not repaired:
        program.collate = lambda _, x, y: (augmented(x), y)
    return program


def augmented(x: Tensor) -> Tensor:
    """Add noise to half of the pixels; in half of the batches, set a box of 40 to 80 % to 1."""
    x = x + (torch.rand_like(x) < 0.5) * (torch.rand_like(x) - 0.5)
    if torch.rand(()) < 0.5:
        area, aspect = 64 * (0.4 + 0.4 * torch.rand(())), 0.5 + 1.5 * torch.rand(())
        height, width = (int((area * r).sqrt().round()) for r in (aspect, 1 / aspect))
        if height < 8 and width < 8:
            top, left = (int(torch.randint(9 - side, ())) for side in (height, width))
            x[:, :, top : top + height, left : left + width] = 1
    return x


@published(
    Class.INITIALISATION,
    "C015",
    "TheDeepChecker, wrong_init/baseCNN_constant",
    "symmetric_init init_scale_too_small",
)
def all_weights_of_lenet_one_hundredth(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    if not repaired:
        parts.initialise(program.model, partial(nn.init.constant_, val=0.01))
    return program


@published(
    Class.INITIALISATION, "C016", "TheDeepChecker, wrong_init/regrNN_constant", "symmetric_init"
)
def all_hidden_weights_one_hundredth(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    program.model = regression(he if repaired else partial(nn.init.constant_, val=0.01))
    return program


@published(Class.LOSS, "C018", "TheDeepChecker, wrong_loss_selection/baseCNN", "loss_task_mismatch")
def squared_error_of_probabilities(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed, steps=120)
    if not repaired:
        program.model = nn.Sequential(*program.model.children(), nn.Softmax(1))
        program.data = parts.one_hot(program.data, 10)
        program.loss = nn.MSELoss()
    return program


@published(
    Class.LOSS,
    "C019",
    "TheDeepChecker, wrong_loss_selection/regrNN",
    "loss_task_mismatch no_gradient",
)
def cross_entropy_for_regression(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    if not repaired:
        program.loss = lambda output, y: -(y * output.clamp(1e-10, 1.0).log()).sum()
    return program


@published(
    Class.LOSS,
    "C020",
    "TheDeepChecker, wrong_loss_function2/baseCNN",
    "loss_task_mismatch learning_rate_too_high",
)
def cross_entropy_summed_over_the_batch(seed: int, repaired: bool) -> Program:
    program = base_cnn(seed)
    program.batch_size = 128
    axis = 1 if repaired else 0
    program.data = parts.one_hot(program.data, 10)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -(target * output.log_softmax(1)).sum(axis).mean()

    program.loss = loss
    return program


@published(Class.LOSS, "C021", "TheDeepChecker, wrong_loss_function2/regrNN", "loss_task_mismatch")
def column_minus_row(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    if not repaired:
        program.loss = lambda output, target: ((output - target[:, 0]) ** 2).mean()
    return program


@published(
    Class.FLOW,
    "C023",
    "TheDeepChecker, missing_batchnorm/deepCNN",
    "missing_batchnorm learning_rate_too_low undertrained",
)
def vgg_without_batchnorm(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    model = vgg(norm=repaired)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, sgd(0.9), 400, 64)


@published(
    Class.DATA,
    "C024",
    "TheDeepChecker, wrong_labels/regrNN",
    "label_misaligned overfitting loss_plateau",
)
def cars_shuffled_without_their_consumption(seed: int, repaired: bool) -> Program:
    program = regr_nn(seed)
    program.validate_every = 20
    if not repaired:
        program.with_targets(lambda y: y[torch.randperm(len(y))], test=False)
    return program
