"""AutoTrainer's five problems on data other than circles, blobs and digits.

Zhang et al., "AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair System", 2021.
"""

from __future__ import annotations

from torch import nn
from torch.optim import Adam, RMSprop

from detection.bases import error_rate
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published
from detection.published.second import crime_subjects as subjects


@published(
    Class.FLOW,
    "C070",
    "AutoTrainer, vanishing gradient, images",
    "vanishing_gradient saturated_activation init_activation_mismatch init_scale_too_small",
)
def six_sigmoid_layers_for_figures(seed: int, repaired: bool) -> Program:
    samples = parts.figures(seed)
    sizes, activation = (1024, *[64] * 6, 3), nn.ReLU if repaired else nn.Sigmoid
    features = cnn().get_submodule("0"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    model = nn.Sequential(*features, *mlp(*sizes, activation=activation).children())
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, Adam, 250, 64)


@published(
    Class.INITIALISATION,
    "C071",
    "AutoTrainer, exploding gradient, newswires",
    "init_scale_too_large exploding_gradient initial_loss_anomaly",
)
def four_layers_of_deviation_one_for_newswires(seed: int, repaired: bool) -> Program:
    samples, model = subjects.newswires(seed), mlp(600, 128, 128, 128, 128, 12)
    if repaired:
        parts.initialise(model, nn.init.kaiming_uniform_)
    else:
        parts.normal_(model, 1.0)
    return Program(model, samples, CrossEntropy(), error_rate, 0.01, sgd(), 600, 32)


@published(
    Class.OPTIMIZER,
    "C072",
    "AutoTrainer, dying ReLU, newswires",
    "dead_relu learning_rate_too_high",
)
def dead_units_after_rmsprop_at_one_tenth(seed: int, repaired: bool) -> Program:
    samples, lr = subjects.newswires(seed), 1e-3 if repaired else 0.1
    model = mlp(600, 64, 64, 64, 12)
    return Program(model, samples, CrossEntropy(), error_rate, lr, RMSprop, 300, 32)


@published(
    Class.OPTIMIZER,
    "C073",
    "AutoTrainer, oscillating loss, speakers",
    "learning_rate_too_high loss_oscillation loss_divergence",
)
def momentum_at_a_high_rate_for_speakers(seed: int, repaired: bool) -> Program:
    samples, lr = subjects.speakers(seed), 0.02 if repaired else 0.3
    model = mlp(64, 128, 128, 8)
    model = nn.Sequential(nn.Flatten(), *model.children())
    return Program(model, samples, CrossEntropy(), error_rate, lr, sgd(0.9), 300, 64)


@published(
    Class.OPTIMIZER,
    "C074",
    "AutoTrainer, slow convergence, newswires",
    "learning_rate_too_low undertrained",
)
def sgd_at_one_ten_thousandth_for_newswires(seed: int, repaired: bool) -> Program:
    samples, lr = subjects.newswires(seed), 0.1 if repaired else 1e-4
    return Program(subjects.reader(), samples, CrossEntropy(), error_rate, lr, sgd(), 300, 32)
