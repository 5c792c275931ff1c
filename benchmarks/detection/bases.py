"""The healthy programs that faults and controls change, split by architecture and data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from detection import data, models
from detection.case import Base, Split
from detection.program import Program

BASES: dict[str, Base] = {}


def error_rate(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong classes."""
    finite = output.isfinite().all(-1)
    return ((output.argmax(-1) != target) | ~finite).float().mean()


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the variance of the targets."""
    return ((output - target) ** 2).mean() / target.var()


def token_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the next token, in nats."""
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


class TokenLoss(nn.CrossEntropyLoss):
    """Cross-entropy over all positions."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return super().forward(output.flatten(0, 1), target.flatten())


def momentum(parameters: object, lr: float) -> Optimizer:
    """SGD with momentum 0.9."""
    return SGD(parameters, lr, momentum=0.9)  # type: ignore[arg-type]


def base(
    name: str, family: str, data_name: str, split: Split
) -> Callable[[Callable[[int], Program]], Callable[[int], Program]]:
    """Register a builder of a healthy program."""

    def register(build: Callable[[int], Program]) -> Callable[[int], Program]:
        BASES[name] = Base(name, family, data_name, split, build)
        return build

    return register


@base("mlp-digits", "MLP", "digits", Split.TUNING)
def _(seed: int) -> Program:
    return Program(
        models.mlp(64, 64, 48, 10), data.digits(seed), nn.CrossEntropyLoss(), error_rate, 2e-3
    )


@base("deep-digits", "deep MLP", "digits", Split.TUNING)
def _(seed: int) -> Program:
    model = models.mlp(64, *[40] * 10, 10, he=True)
    return Program(model, data.digits(seed), nn.CrossEntropyLoss(), error_rate, 1e-3)


@base("cnn-digits", "CNN with BatchNorm", "digits", Split.TUNING)
def _(seed: int) -> Program:
    samples = data.digits(seed, image=True)
    return Program(
        models.cnn(), samples, nn.CrossEntropyLoss(), error_rate, 0.02, momentum, steps=160
    )


@base("lstm-cue", "LSTM", "cue", Split.TUNING)
def _(seed: int) -> Program:
    model = models.Recurrent(nn.LSTM, 4, 24, 4)
    return Program(model, data.cue(seed), nn.CrossEntropyLoss(), error_rate, 1e-2, steps=200)


@base("mlp-friedman", "regression MLP", "friedman", Split.TUNING)
def _(seed: int) -> Program:
    return Program(
        models.mlp(10, 48, 48, 1), data.friedman(seed), nn.MSELoss(), squared_error, 3e-3
    )


@base("autoencoder-digits", "autoencoder", "digits", Split.TUNING)
def _(seed: int) -> Program:
    model = models.mlp(64, 48, 16, 48, 64)
    samples = data.digits(seed, reconstruct=True)
    return Program(model, samples, nn.MSELoss(), squared_error, 3e-3)


@base("tanh-rings", "tanh MLP", "rings", Split.TUNING)
def _(seed: int) -> Program:
    model = models.mlp(2, 32, 32, 32, 3, activation=nn.Tanh)
    return Program(
        model, data.rings(seed), nn.CrossEntropyLoss(), error_rate, 0.05, momentum, steps=300
    )


@base("resmlp-clusters", "residual MLP", "clusters", Split.TUNING)
def _(seed: int) -> Program:
    model = models.ResMLP(20, 5)
    return Program(model, data.clusters(seed), nn.CrossEntropyLoss(), error_rate, 2e-3, AdamW)


@base("resnet-shapes", "residual CNN", "shapes", Split.TUNING)
def _(seed: int) -> Program:
    model = models.ResNet(4)
    return Program(
        model, data.shapes(seed), nn.CrossEntropyLoss(), error_rate, 5e-3, Adam, steps=150
    )


@base("gru-waves", "GRU", "waves", Split.TUNING)
def _(seed: int) -> Program:
    model = models.Recurrent(nn.GRU, 1, 24, 1, every=True)
    return Program(model, data.waves(seed), nn.MSELoss(), squared_error, 1e-2, steps=180)


@base("transformer-chain", "transformer LM", "chain", Split.TUNING)
def _(seed: int) -> Program:
    model = models.Transformer(16, 20)
    return Program(model, data.chain(seed), TokenLoss(), token_loss, 3e-3, AdamW, 180, 16)


@base("mlp-quadratic", "regression MLP", "quadratic", Split.TUNING)
def _(seed: int) -> Program:
    model = models.mlp(6, 64, 64, 1)
    return Program(model, data.quadratic(seed), nn.MSELoss(), squared_error, 3e-3, RMSprop)


class BanditLoss(nn.Module):
    """REINFORCE with a mean baseline: reward 1 for the right action, else 0."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample()  # type: ignore[no-untyped-call]
        reward = self.reward(action, target)
        chosen: Tensor = policy.log_prob(action)  # type: ignore[no-untyped-call]
        return -((reward - reward.mean()) * chosen).mean()

    def reward(self, action: Tensor, target: Tensor) -> Tensor:
        """Return the reward of each sample."""
        return (action == target).float()


@base("policy-clusters", "policy gradient", "clusters", Split.TUNING)
def _(seed: int) -> Program:
    model = models.mlp(20, 48, 48, 5)
    program = Program(model, data.clusters(seed), BanditLoss(), error_rate, 3e-3, steps=300)
    program.batch_size = 64
    return program
