"""Values that are not finite or too small, after questions and issues on PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data, models
from detection.bases import error_rate, momentum, squared_error, token_loss
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, column, floats, mlp, wrong_side
from detection.published.register import published

NUMERIC = Class.NUMERIC


def tumours(seed: int, *, scaled: bool) -> Data:
    """Scikit-learn's breast cancer data: 30 features of up to 4,000 and the kind of tumour."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = floats(x)
    return column(data.split(parts.standard(x) if scaled else x, torch.tensor(y), seed))


@published(
    NUMERIC,
    "U40",
    "common question, logistic regression with y * log(p) + (1 - y) * log(1 - p) is nan",
    "non_finite_value unnormalised_input",
)
def binary_loss_by_hand_on_raw_features(seed: int, repaired: bool) -> Program:
    model = nn.Sequential(nn.Linear(30, 1), nn.Sigmoid())

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return -(target * output.log() + (1 - target) * (1 - output).log()).mean()

    samples = tumours(seed, scaled=repaired)
    return Program(model, samples, loss, wrong_side(0.5), 3e-3, Adam, 400)


def finite_token_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of all tokens, or 10 for outputs that are not finite."""
    return token_loss(output, target) if output.isfinite().all() else torch.tensor(10.0)


@published(
    NUMERIC,
    "U41",
    "common question, targets of a table with missing values are nan",
    "non_finite_value non_finite_input",
)
def some_targets_missing(seed: int, repaired: bool) -> Program:
    samples = data.friedman(seed)
    missing = torch.rand(len(samples.y)) < 0.005
    missing[:3] = True
    if repaired:
        samples = Data(samples.x[~missing], samples.y[~missing], samples.x_test, samples.y_test)
    else:
        samples.y[missing] = torch.nan
    model = models.ResMLP(10, 1)
    return Program(model, samples, nn.MSELoss(), squared_error, 2e-3, Adam, 300)


@published(
    NUMERIC,
    "U42",
    "Lightning-AI/pytorch-lightning#9330, pytorch/examples#1196, milesial/Pytorch-UNet#470",
    "clipping_always_active learning_rate_too_low vanishing_gradient absorbed_updates "
    "no_learning undertrained",
)
def gradients_clipped_before_they_are_unscaled(seed: int, repaired: bool) -> Program:
    samples = parts.digits(seed, image=True)
    program = Program(cnn(), samples, CrossEntropy(), error_rate, 0.02, momentum, 300)
    scale = 65536.0

    def unscale(model: nn.Module) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad /= scale

    def train(program: Program, optimizer: Any, monitor: Any, _: int) -> None:
        chosen = torch.randint(len(program.data.x), (32,))
        optimizer.zero_grad()
        output = program.model(program.data.x[chosen])
        (scale * monitor.loss(program.loss(output, program.data.y[chosen]))).backward()
        if repaired:
            unscale(program.model)
        nn.utils.clip_grad_norm_(program.model.parameters(), 1.0)
        if not repaired:
            unscale(program.model)
        optimizer.step()

    program.step = train
    return program


class Masked(nn.Module):
    """Causal attention; True in the mask forbids, as in nn.MultiheadAttention, or allows."""

    def __init__(self, *, forbids: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(16, 32), nn.Embedding(20, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head, self.forbids = nn.Linear(32, 16), forbids

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        h = self.embed(x) + self.position(torch.arange(x.shape[1]))
        return self.head(self.blocks(h, mask=~seen if self.forbids else seen))  # type: ignore[no-any-return]


def tokens_after(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over all positions."""
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


@published(
    NUMERIC,
    "U43",
    "common question, torch.tril as a boolean mask of nn.TransformerEncoder",
    "non_finite_value trivial_target",
)
def lower_triangle_forbidden(seed: int, repaired: bool) -> Program:
    model, samples = Masked(forbids=repaired), data.chain(seed)
    return Program(model, samples, tokens_after, finite_token_loss, 3e-3, Adam, 300, 16)


@published(
    NUMERIC,
    "U44",
    "fastai/fastai#889, ludwig-ai/ludwig#2543",
    "non_finite_value non_finite_input constant_input",
)
def constant_column_divided_by_its_deviation(seed: int, repaired: bool) -> Program:
    program = Program(
        mlp(21, 64, 5), data.clusters(seed), CrossEntropy(), error_rate, 3e-3, Adam, 300
    )

    def scaled(x: Tensor) -> Tensor:
        x = torch.cat([x, torch.full((len(x), 1), 3.0)], 1)
        return (x - x.mean(0)) / (x.std(0) + (1e-8 if repaired else 0.0))

    program.with_inputs(scaled)
    return program


@published(
    NUMERIC,
    "U45",
    "common question, cross-entropy by hand as in the textbook, exp(x) over its sum",
    "non_finite_value unnormalised_input initial_loss_anomaly",
)
def cross_entropy_by_hand_of_raw_pixels(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if repaired:
            return functional.cross_entropy(output, target)
        share = output.exp() / output.exp().sum(1, keepdim=True)
        return -share.gather(1, target[:, None]).log().mean()

    program = Program(mlp(64, 64, 10), parts.digits(seed), loss, error_rate, 2e-3, Adam, 500)
    program.with_inputs(lambda x: 255 * x)
    return program
