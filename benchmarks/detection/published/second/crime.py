"""DeepCrime's operators on its subjects other than MNIST, each at the strength that kills.

Humbatova, Jahangirova & Tonella, "DeepCrime: Mutation Testing of Deep Learning Systems Based on
Real Faults", 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adadelta, Adam

from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, balanced_error
from detection.published.register import published
from detection.published.second import crime_subjects as subjects

LIMITED = "vanishing_gradient saturated_activation init_activation_mismatch init_scale_too_small"


def speaker(seed: int, steps: int = 300) -> Program:
    """Return the speaker recognition with Adam."""
    samples, model = subjects.speakers(seed), subjects.listener()
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, steps, 64)


def steering(seed: int, steps: int = 300) -> Program:
    """Return the steering regression with Adam."""
    samples, model = subjects.roads(seed), subjects.driver(dropout=0.2)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, Adam, steps, 64)


def gaze(seed: int, steps: int = 300) -> Program:
    """Return the gaze regression with Adam."""
    samples, model = subjects.eyes(seed), subjects.gazer()
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, Adam, steps, 64)


def films(seed: int, steps: int = 600) -> Program:
    """Return the recommender with Adam."""
    samples, model = subjects.ratings(seed), subjects.Recommender()
    loss = nn.BCELoss()
    return Program(model, samples, loss, squared_error, 3e-3, Adam, steps, 64)


def reuters(seed: int, steps: int = 200) -> Program:
    """Return the classification of newswires with Adam."""
    samples, model = subjects.newswires(seed), subjects.reader()
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, steps, 32)


def keep(program: Program, rows: Tensor) -> None:
    """Train on the given rows only."""
    program.data = replace(program.data, x=program.data.x[rows], y=program.data.y[rows])


# Training data.


@published(
    Class.DATA, "C030", "DeepCrime TUD, speaker recognition", "class_imbalance class_collapse"
)
def nineteen_of_twenty_recordings_removed_of_half_the_speakers(
    seed: int, repaired: bool
) -> Program:
    program = speaker(seed)
    program.metric = balanced_error
    if not repaired:
        keep(program, (program.data.y >= 4) | (torch.rand(len(program.data.y)) < 0.05))
    return program


@published(Class.DATA, "C031", "DeepCrime TAN, gaze", "noisy_input overfitting")
def noise_over_all_images_of_the_training_set(seed: int, repaired: bool) -> Program:
    program = gaze(seed)
    program.validate_every = 20
    if not repaired:
        x = program.data.x
        program.data = replace(program.data, x=x + 3 * x.std() * torch.randn_like(x))
    return program


@published(Class.DATA, "C032", "DeepCrime TRD, steering", "overfitting")
def ninety_nine_percent_of_the_images_deleted(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    program.validate_every = 20
    if not repaired:
        keep(program, torch.arange(len(program.data.x) // 100))
    return program


@published(Class.DATA, "C033", "DeepCrime TRD, recommender", "overfitting")
def ninety_percent_of_the_ratings_deleted(seed: int, repaired: bool) -> Program:
    program = films(seed)
    program.validate_every = 50
    if not repaired:
        keep(program, torch.arange(len(program.data.x) // 10))
    return program


@published(Class.DATA, "C034", "DeepCrime TCL, newswires", "label_misaligned overfitting")
def most_topics_of_newswires_replaced(seed: int, repaired: bool) -> Program:
    program = reuters(seed)
    program.validate_every = 20
    if not repaired:
        program.with_targets(
            lambda y: torch.where(torch.rand(len(y)) < 0.9, torch.randint(12, (len(y),)), y),
            test=False,
        )
    return program


# Rates, batches and epochs.


@published(
    Class.OPTIMIZER,
    "C035",
    "DeepCrime HLR, steering",
    "learning_rate_too_high loss_divergence saturated_activation",
)
def steering_rate_of_one_half(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    program.lr = 1e-3 if repaired else 0.5
    return program


@published(
    Class.OPTIMIZER, "C036", "DeepCrime HLR, recommender", "learning_rate_too_low undertrained"
)
def recommender_rate_of_1e_6(seed: int, repaired: bool) -> Program:
    program = films(seed)
    program.lr = 3e-3 if repaired else 1e-6
    return program


@published(
    Class.OPTIMIZER, "C037", "DeepCrime HNE, newswires", "undertrained learning_rate_too_low"
)
def eight_steps_of_newswires(seed: int, repaired: bool) -> Program:
    return reuters(seed, steps=200 if repaired else 8)


@published(
    Class.OPTIMIZER,
    "C038",
    "DeepCrime HBS, speaker recognition",
    "undertrained learning_rate_too_low",
)
def whole_set_of_speakers_as_one_batch(seed: int, repaired: bool) -> Program:
    program = speaker(seed)
    if not repaired:
        program.steps, program.sample = 12, parts.whole
        program.batch_size = len(program.data.x)
    return program


@published(
    Class.OPTIMIZER,
    "C039",
    "DeepCrime HBS, gaze",
    "gradient_noise_dominates learning_rate_too_high loss_oscillation",
)
def one_eye_per_batch(seed: int, repaired: bool) -> Program:
    program = gaze(seed)
    program.batch_size = 64 if repaired else 1
    return program


# Optimizers.


@published(
    Class.OPTIMIZER,
    "C040",
    "DeepCrime OCH, steering",
    "learning_rate_too_low undertrained vanishing_gradient",
)
def sgd_in_place_of_adam_for_steering(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    program.optimizer = Adam if repaired else SGD
    return program


@published(
    Class.OPTIMIZER, "C041", "DeepCrime OCH, newswires", "learning_rate_too_low undertrained"
)
def adadelta_with_adams_rate_for_newswires(seed: int, repaired: bool) -> Program:
    program = reuters(seed)
    program.optimizer = Adam if repaired else Adadelta
    return program


@published(
    Class.OPTIMIZER,
    "C042",
    "DeepCrime OCG, speaker recognition",
    "clipping_always_active learning_rate_too_low undertrained",
)
def gradients_of_speakers_clipped_to_one_thousandth(seed: int, repaired: bool) -> Program:
    program = speaker(seed)
    program.optimizer = parts.sgd(0.9)
    program.lr = 0.05
    program.clip_norm = 1.0 if repaired else 1e-3
    return program


# Activations and losses.


@published(Class.LOSS, "C043", "DeepCrime ACH, steering", "output_range_mismatch dead_relu")
def relu_on_the_steering_angle(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    if not repaired:
        program.model = nn.Sequential(*program.model.children(), nn.ReLU())
    return program


@published(Class.FLOW, "C044", "DeepCrime ACH, steering", LIMITED)
def sigmoid_in_place_of_elu(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    if not repaired:
        program.model = subjects.driver(nn.Sigmoid, dropout=0.2)
    return program


@published(Class.FLOW, "C045", "DeepCrime ARM, steering", "missing_nonlinearity")
def no_activation_for_steering(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    if not repaired:
        program.model = subjects.driver(nn.Identity, dropout=0.2)
    return program


@published(Class.LOSS, "C046", "DeepCrime ACH, gaze", "output_range_mismatch")
def softmax_on_the_gaze(seed: int, repaired: bool) -> Program:
    program = gaze(seed)
    if not repaired:
        program.model = nn.Sequential(*program.model.children(), nn.Softmax(1))
    return program


@published(Class.LOSS, "C047", "DeepCrime LCH, gaze", "loss_task_mismatch")
def cosine_similarity_for_the_gaze(seed: int, repaired: bool) -> Program:
    program = gaze(seed)
    if not repaired:
        program.loss = lambda output, y: -functional.cosine_similarity(output, y).mean()
    return program


# Penalties and dropout.


@published(
    Class.OPTIMIZER, "C048", "DeepCrime RAW, steering", "over_regularised constant_prediction"
)
def penalty_on_the_weights_for_steering(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    program.optimizer = partial(Adam, weight_decay=0.0 if repaired else 1.0)
    return program


@published(
    Class.OPTIMIZER, "C049", "DeepCrime RCD, newswires", "over_regularised learning_rate_too_low"
)
def dropout_of_0_99_for_newswires(seed: int, repaired: bool) -> Program:
    program = reuters(seed)
    if not repaired:
        program.model = subjects.reader(dropout=0.99)
    return program


# Initialisers.


@published(
    Class.INITIALISATION,
    "C050",
    "DeepCrime WCI, speaker recognition",
    "symmetric_init init_scale_too_large initial_loss_anomaly",
)
def ones_for_the_kernels_of_the_listener(seed: int, repaired: bool) -> Program:
    program = speaker(seed)
    if not repaired:
        initialise_hidden(program.model, nn.init.ones_)
    return program


@published(
    Class.INITIALISATION,
    "C051",
    "DeepCrime WCI, gaze",
    "init_scale_too_large initial_loss_anomaly exploding_gradient",
)
def normal_with_deviation_one_for_gaze(seed: int, repaired: bool) -> Program:
    program = gaze(seed)
    if not repaired:
        parts.normal_(program.model, 1.0)
    return program


@published(
    Class.INITIALISATION,
    "C052",
    "DeepCrime WCI, steering",
    "init_scale_too_small vanishing_gradient learning_rate_too_low",
)
def normal_with_deviation_one_hundredth_for_steering(seed: int, repaired: bool) -> Program:
    program = steering(seed)
    program.optimizer, program.lr = parts.sgd(0.9), 0.03
    if not repaired:
        parts.normal_(program.model, 0.01)
    return program


@published(
    Class.INITIALISATION, "C053", "DeepCrime WCI, newswires", "symmetric_init vanishing_gradient"
)
def zeros_for_all_weights_of_the_reader(seed: int, repaired: bool) -> Program:
    program = reuters(seed)
    if not repaired:
        parts.initialise(program.model, nn.init.zeros_)
    return program


def initialise_hidden(model: nn.Module, weight: Callable[[Tensor], Any]) -> None:
    """Initialise the weights of all layers but the last."""
    for parameter in [p for p in model.parameters() if p.dim() > 1][:-1]:
        weight(parameter)
