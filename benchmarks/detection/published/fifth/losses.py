"""Losses that do not fit the task, after questions and issues on PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, RMSprop

from detection import data
from detection.bases import error_rate
from detection.case import Class
from detection.program import Data, Program
from detection.published.fourth.graphs import Convolutions, community
from detection.published.parts import mlp
from detection.published.register import published
from detection.published.third.losses import Spots, overlap_missed, spots

LOSS = Class.LOSS


@published(
    LOSS,
    "T01",
    "SerezD/vqvae-vqgan-pytorch-lightning#3",
    "loss_task_mismatch no_signal vanishing_gradient constant_prediction",
)
def made_samples_called_real(_: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"generator": mlp(8, 64, 2), "critic": mlp(2, 64, 1)})
    x = torch.randn(512, 8)
    y = torch.tensor([2.0, -1.0]) + torch.randn(512, 2) @ torch.tensor([[0.5, 0.2], [0.0, 0.3]])
    program = Program(model, Data(x, y, x, y), functional.softplus, gap_of_moments, 2e-3)
    program.optimizer = lambda _, lr: [
        Adam(part.parameters(), lr, (0.5, 0.999)) for part in model.values()
    ]
    program.forward, program.steps = lambda model, x: model["generator"](x), 300  # type: ignore[index]
    program.step, program.loss_falls = partial(adversarial, made_is_real=not repaired), False
    return program


def adversarial(
    program: Program, optimizers: Any, monitor: Any, _: int, *, made_is_real: bool
) -> None:
    """Train the critic and then the generator by the logistic loss."""
    of_generator, of_critic = optimizers
    generator, critic = program.model["generator"], program.model["critic"]  # type: ignore[index]
    real = program.data.y[torch.randint(len(program.data.y), (64,))]
    made = generator(torch.randn(64, 8))
    of_critic.zero_grad()
    judged = critic(made.detach())
    wrong = functional.softplus(-judged if made_is_real else judged).mean()
    (functional.softplus(-critic(real)).mean() + wrong).backward()  # type: ignore[no-untyped-call]
    of_critic.step()
    of_generator.zero_grad()
    monitor.loss(functional.softplus(-critic(made)).mean()).backward()
    of_generator.step()


def gap_of_moments(output: Tensor, target: Tensor) -> Tensor:
    """Distance between the means and the deviations of the made and of the real points."""
    means, deviations = output.mean(0) - target.mean(0), output.std(0) - target.std(0)
    return means.norm() + deviations.norm()  # type: ignore[no-any-return]


class Reinforce(nn.Module):
    """Policy gradient of the reward 1 for the right action, with the mean as the baseline."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample()  # type: ignore[no-untyped-call]
        reward = (action == target).float()
        advantage = reward - reward.mean()
        return self.sign * (advantage * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call,no-any-return]


@published(
    LOSS,
    "T02",
    "common question, REINFORCE without the minus sign",
    "gradient_ascent loss_task_mismatch",
)
def policy_gradient_without_the_minus_sign(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 6)
    samples = data.split(x, (x @ torch.randn(6, 4)).argmax(1), seed)
    loss = Reinforce(-1.0 if repaired else 1.0)
    program = Program(mlp(6, 64, 4), samples, loss, error_rate, 3e-3, Adam, 400, 64)
    program.loss_falls = False
    return program


class Probable(nn.Module):
    """Graph convolutions, and the probabilities of the classes or their logarithms."""

    def __init__(self, *, logarithm: bool) -> None:
        super().__init__()
        self.body, self.logarithm = Convolutions(2), logarithm

    def forward(self, x: Tensor) -> Tensor:
        score = self.body(x)
        return score.log_softmax(1) if self.logarithm else score.softmax(1)  # type: ignore[no-any-return]


@published(
    LOSS,
    "T03",
    "common question, softmax and NLLLoss in a graph network",
    "loss_task_mismatch output_range_mismatch",
)
def likelihood_of_probabilities(seed: int, repaired: bool) -> Program:
    def surprise(output: Tensor, target: Tensor) -> Tensor:
        log = output if repaired else output.clamp_min(1e-8).log()
        return functional.nll_loss(log, target)

    samples = community(seed, noise=2.5)
    return Program(
        Probable(logarithm=repaired), samples, nn.NLLLoss(), surprise, 3e-3, Adam, 150, 16
    )


def triplet(output: tuple[Tensor, Tensor, Tensor], _: Tensor) -> Tensor:
    """Triplet loss of an anchor, a sample of its class and a sample of another class."""
    return functional.triplet_margin_loss(*output, margin=1.0)


def swapped(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    """The triplet loss with the last two samples exchanged."""
    anchor, same, other = output
    return triplet((anchor, other, same), target)


def farther_than_the_other(output: tuple[Tensor, Tensor, Tensor], _: Tensor) -> Tensor:
    """Share of triplets whose sample of the same class is farther than the other one."""
    anchor, same, other = output
    return ((anchor - same).norm(dim=1) > (anchor - other).norm(dim=1)).float().mean()  # type: ignore[no-any-return]


def triplets(seed: int) -> Data:
    """Triplets of points; the class of a point is one of six, with two clusters each."""
    centre = 1.5 * torch.randn(12, 10)
    kind = torch.randint(6, (1500,))
    other = (kind + torch.randint(1, 6, (1500,))) % 6
    cluster = torch.stack([kind, kind, other], 1) + 6 * torch.randint(2, (1500, 3))
    return data.split(centre[cluster] + torch.randn(1500, 3, 10), kind, seed)


@published(
    LOSS,
    "T04",
    "common question, TripletMarginLoss(anchor, negative, positive)",
    "loss_task_mismatch label_misaligned",
)
def negative_and_positive_exchanged(seed: int, repaired: bool) -> Program:
    loss = triplet if repaired else swapped
    program = Program(mlp(10, 64, 16), triplets(seed), loss, farther_than_the_other, 2e-3)
    program.forward = lambda model, x: model(x).unbind(1)
    program.steps, program.batch_size = 250, 64
    return program


def cross_entropy_of_one_channel(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the single channel of the output."""
    return functional.cross_entropy(output, target)


@published(
    LOSS,
    "T05",
    "open-mmlab/mmsegmentation#304, cross-entropy of one category",
    "loss_task_mismatch no_signal softmax_before_cross_entropy",
)
def cross_entropy_over_one_channel(seed: int, repaired: bool) -> Program:
    loss = nn.BCEWithLogitsLoss() if repaired else cross_entropy_of_one_channel
    return Program(Spots(), spots(seed, 5), loss, overlap_missed, 3e-3, Adam, 150, 16)


class Cosine(nn.Module):
    """A network whose logits are cosines between features and classes, times `scale`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body, self.classes = mlp(20, 64, 32), nn.Parameter(torch.randn(5, 32))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        unit = functional.normalize(self.body(x), dim=1)
        return self.scale * unit @ functional.normalize(self.classes, dim=1).T


@published(
    LOSS,
    "T06",
    "common question, cosine softmax without a scale does not get below 1",
    "output_range_mismatch loss_plateau loss_task_mismatch",
)
def cosines_as_logits(seed: int, repaired: bool) -> Program:
    loss = nn.CrossEntropyLoss()
    model = Cosine(10.0 if repaired else 1.0)
    return Program(model, data.clusters(seed), loss, loss, 3e-3, Adam, 300, 64)


@published(
    LOSS,
    "T07",
    "common question, Sigmoid before MultiLabelSoftMarginLoss",
    "output_range_mismatch loss_task_mismatch loss_plateau",
)
def sigmoid_before_the_loss_of_rare_labels(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 12)
    y = (x @ torch.randn(12, 8) > 4.5).float()
    loss = nn.MultiLabelSoftMarginLoss()
    model = mlp(12, 64, 8, output=None if repaired else nn.Sigmoid())
    return Program(model, data.split(x, y, seed), loss, loss, 3e-3, Adam, 300, 64)


@published(
    LOSS,
    "T08",
    "Zeleni9/pytorch-wgan#51",
    "loss_task_mismatch gradient_ascent loss_divergence",
)
def generator_lowers_the_score_of_the_critic(_: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"generator": mlp(8, 64, 2), "critic": mlp(2, 64, 1)})
    x = torch.randn(512, 8)
    y = torch.tensor([1.5, 1.0]) + 0.5 * torch.randn(512, 2)
    program = Program(model, Data(x, y, x, y), nn.Identity(), gap_of_moments, 1e-3)
    program.optimizer = lambda _, lr: [RMSprop(part.parameters(), lr) for part in model.values()]
    program.forward, program.steps = lambda model, x: model["generator"](x), 250  # type: ignore[index]
    program.step, program.loss_falls = partial(clipped, sign=-1 if repaired else 1), False
    return program


def clipped(program: Program, optimizers: Any, monitor: Any, _: int, *, sign: int) -> None:
    """Train the critic twice, clip its weights, and train the generator."""
    of_generator, of_critic = optimizers
    generator, critic = program.model["generator"], program.model["critic"]  # type: ignore[index]
    for _ in range(2):
        real = program.data.y[torch.randint(len(program.data.y), (64,))]
        of_critic.zero_grad()
        made = generator(torch.randn(64, 8)).detach()
        (critic(made).mean() - critic(real).mean()).backward()
        of_critic.step()
        with torch.no_grad():
            for weight in critic.parameters():
                weight.clamp_(-0.1, 0.1)
    of_generator.zero_grad()
    monitor.loss(sign * critic(generator(torch.randn(64, 8))).mean()).backward()
    of_generator.step()
