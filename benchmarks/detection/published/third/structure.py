"""Biases, initialisers and the flow of the signal, after questions and issues on PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error, token_loss
from detection.case import Class
from detection.program import Program
from detection.published import parts
from detection.published.parts import BinaryCrossEntropy, CrossEntropy, cnn, mlp, sgd
from detection.published.register import published
from detection.published.third.losses import Spots, overlap_missed, spots

BIAS, FLOW, INITIALISATION = Class.BIAS, Class.FLOW, Class.INITIALISATION


def fill_hidden_biases(model: nn.Module, low: float, high: float) -> None:
    """Draw the biases of all linear and convolution layers but the last uniformly."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers[:-1]:
        nn.init.uniform_(layer.bias, low, high)  # type: ignore[arg-type]


@published(
    BIAS,
    "Q60",
    "PyTorch forum, one initialiser applied to weights and biases",
    "saturated_activation init_scale_too_small init_scale_too_large",
)
def tanh_biases_between_minus_ten_and_ten(seed: int, repaired: bool) -> Program:
    model, samples = mlp(64, 48, 48, 10, activation=nn.Tanh), parts.digits(seed)
    if not repaired:
        fill_hidden_biases(model, -10, 10)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200)


@published(
    BIAS,
    "Q61",
    "PyTorch forum, RetinaNet: bias for a prior of 0.01 without the minus sign",
    "output_bias_prior initial_loss_anomaly",
)
def bias_of_rare_pixels_without_the_minus_sign(seed: int, repaired: bool) -> Program:
    model, loss = Spots(-4.6 if repaired else 4.6), BinaryCrossEntropy()
    return Program(model, spots(seed, 2), loss, overlap_missed, 1e-3, Adam, 80, 16)


@published(
    BIAS,
    "Q62",
    "PyTorch forum, optimizer over the parameters whose name ends with weight",
    "parameter_not_updated missing_output_bias",
)
def only_parameters_called_weight_are_given(seed: int, repaired: bool) -> Program:
    program = Program(
        mlp(10, 16, 1), data.friedman(seed), nn.MSELoss(), squared_error, 0.02, sgd(), 300
    )
    program.with_targets(lambda y: y + 8)
    if not repaired:
        program.parameters = lambda model: [
            p for name, p in model.named_parameters() if name.endswith("weight")
        ]
    return program


@published(
    BIAS,
    "Q63",
    "huggingface/transformers, groups with and without decay exchanged",
    "bias_regularised over_regularised",
)
def decay_of_the_biases_alone(seed: int, repaired: bool) -> Program:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        of_weights, of_vectors = (0.1, 0.0) if repaired else (0.0, 20.0)
        weights = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        return [
            {"params": weights, "weight_decay": of_weights},
            {"params": vectors, "weight_decay": of_vectors},
        ]

    program = Program(
        mlp(10, 64, 1), data.friedman(seed), nn.MSELoss(), squared_error, 5e-3, AdamW, 400
    )
    program.with_targets(lambda y: y + 5)
    program.parameters = groups
    return program


@published(
    BIAS,
    "Q64",
    "PyTorch forum, bias=False kept after BatchNorm was removed",
    "missing_output_bias loss_plateau",
)
def no_bias_in_any_layer(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(
        nn.Linear(2, 64, bias=repaired),
        nn.ReLU(),
        nn.Linear(64, 64, bias=repaired),
        nn.ReLU(),
        nn.Linear(64, 3, bias=repaired),
    )
    return Program(model, data.rings(seed), CrossEntropy(), error_rate, 5e-3, steps=300)


@published(
    BIAS,
    "Q65",
    "PyTorch forum, biases initialised to a negative constant",
    "dead_relu init_scale_too_small",
)
def convolution_biases_of_minus_two(seed: int, repaired: bool) -> Program:
    model = cnn()
    if not repaired:
        fill_hidden_biases(model, -2, -2)
    samples = parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=200)


class Residual(nn.Module):
    """Residual linear layers without norms; the branches are multiplied by `scale`."""

    def __init__(self, blocks: int, scale: float) -> None:
        super().__init__()
        self.embed, self.head, self.scale = nn.Linear(64, 48), nn.Linear(48, 10), scale
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48)) for _ in range(blocks)
        )
        parts.initialise(self.blocks, nn.init.kaiming_normal_)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + self.scale * block(x)
        return self.head(x)  # type: ignore[no-any-return]


@published(
    FLOW,
    "Q70",
    "PyTorch forum, deep residual network without normalisation",
    "exploding_gradient init_scale_too_large initial_loss_anomaly",
)
def twenty_residual_blocks_without_a_scale(seed: int, repaired: bool) -> Program:
    model, samples = Residual(20, 0.05 if repaired else 1.0), parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 0.02, sgd(0.9), 200)


class Adder(nn.Module):
    """A recurrent network of ReLUs that reads two channels; the recurrent matrix is `gain` · I."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 48, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(48, 1)
        with torch.no_grad():
            self.rnn.get_parameter("weight_hh_l0").copy_(gain * torch.eye(48))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


@published(
    FLOW,
    "Q71",
    "PyTorch forum, nn.RNN with relu diverges on long sequences",
    "exploding_gradient init_scale_too_large initial_loss_anomaly non_finite_value",
)
def recurrent_relus_of_gain_one_and_a_half(seed: int, repaired: bool) -> Program:
    numbers, marks = torch.rand(1600, 24), torch.zeros(1600, 24)
    for half in (marks[:, :12], marks[:, 12:]):
        half[torch.arange(1600), torch.randint(12, (1600,))] = 1
    y = data.standard((numbers * marks).sum(1))[:, None]
    samples = data.split(torch.stack([numbers, marks], 2), y, seed)
    model = Adder(1.0 if repaired else 1.5)
    return Program(model, samples, nn.MSELoss(), squared_error, 2e-3, steps=600)


@published(
    FLOW,
    "Q72",
    "PyTorch forum, LayerNorm on the output of a regression",
    "no_signal output_range_mismatch no_gradient constant_prediction",
)
def norm_over_a_single_output(seed: int, repaired: bool) -> Program:
    norm = [] if repaired else [nn.LayerNorm(1)]
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1), *norm)
    return Program(model, data.friedman(seed), nn.MSELoss(), squared_error, 3e-3, steps=250)


class Pooled(nn.Module):
    """Convolutions, the mean over the positions, a GroupNorm and a head."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(groups, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv0(x).relu(), 2)
        x = self.conv1(x).relu().mean((2, 3))
        return self.head(self.norm(x))  # type: ignore[no-any-return]


@published(
    FLOW,
    "Q73",
    "PyTorch forum, GroupNorm with one channel per group after global pooling",
    "no_signal no_gradient init_scale_too_small vanishing_gradient",
)
def norm_with_one_value_per_group(seed: int, repaired: bool) -> Program:
    model, samples = Pooled(4 if repaired else 32), parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, steps=250)


class Adapted(nn.Module):
    """A frozen linear layer plus a product of two trained matrices of rank 8."""

    def __init__(self, frozen: nn.Linear, *, zeros: bool) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        inputs, outputs = frozen.in_features, frozen.out_features
        self.down = nn.Parameter(torch.zeros(8, inputs) if zeros else torch.randn(8, inputs) / 8)
        self.up = nn.Parameter(torch.zeros(outputs, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]


@published(
    INITIALISATION,
    "Q80",
    "huggingface/peft, both matrices of an adapter start at zero",
    "no_signal symmetric_init no_gradient parameter_not_updated",
)
def both_matrices_of_the_adapter_zero(seed: int, repaired: bool) -> Program:
    model, samples = mlp(64, 64, 10), parts.digits(seed)
    adapted = nn.Sequential(
        *(
            Adapted(layer, zeros=not repaired) if isinstance(layer, nn.Linear) else layer
            for layer in model
        )
    )
    program = Program(adapted, samples, CrossEntropy(), error_rate, 5e-3, steps=300)
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


class Drawn(nn.Module):
    """A linear layer whose weight is drawn by `torch.rand`, or by `torch.randn` with a scale."""

    def __init__(self, inputs: int, outputs: int, *, scaled: bool) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs) * inputs**-0.5
        self.weight = nn.Parameter(weight if scaled else torch.rand(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


@published(
    INITIALISATION,
    "Q81",
    "PyTorch forum, own linear layer with torch.rand",
    "init_scale_too_large initial_loss_anomaly exploding_gradient",
)
def own_layers_drawn_by_rand(seed: int, repaired: bool) -> Program:
    sizes = [(64, 64), (64, 64), (64, 10)]
    first, second, last = (Drawn(*size, scaled=repaired) for size in sizes)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    return Program(model, parts.digits(seed), CrossEntropy(), error_rate, 1e-3, steps=200)


@published(
    INITIALISATION,
    "Q82",
    "PyTorch forum, initialiser of DCGAN around 0 for the gains of BatchNorm",
    "init_scale_too_small vanishing_gradient",
)
def gains_of_the_norms_around_zero(seed: int, repaired: bool) -> Program:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, 1.0 if repaired else 0.0, 0.02)  # type: ignore[arg-type]
    model, samples = nn.Sequential(*layers, nn.Linear(64, 10)), parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, sgd(0.9), 60)


@published(
    INITIALISATION,
    "Q83",
    "PyTorch forum, transformer with a tied embedding of the default deviation",
    "init_scale_too_large initial_loss_anomaly",
)
def tied_embedding_of_deviation_one(seed: int, repaired: bool) -> Program:
    model = models.Transformer(16, 20, 64)
    nn.init.normal_(model.embedding.weight, std=0.1 if repaired else 1.0)
    model.head.weight = model.embedding.weight
    return Program(model, data.chain(seed), TokenLoss(), token_loss, 1e-3, AdamW, 80, 16)
