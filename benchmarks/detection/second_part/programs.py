"""The healthy programs of the second part."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from detection.bases import TokenLoss, base, error_rate, momentum, squared_error
from detection.case import Split
from detection.program import Program
from detection.second_part import models, samples
from detection.second_part.samples import IGNORED

TUNING = Split.TUNING


@base("vgg-textures", "CNN without a norm", "textures", TUNING)
def _(seed: int) -> Program:
    loss = nn.CrossEntropyLoss()
    p = Program(models.vgg(5), samples.textures(seed), loss, error_rate, 0.02, momentum)
    p.steps, p.schedule = 160, lambda o, steps: lr_scheduler.StepLR(o, steps // 2, 0.3)
    return p


@base("signalnet-beats", "1-D CNN with GroupNorm", "beats", TUNING)
def _(seed: int) -> Program:
    loss = nn.CrossEntropyLoss()
    p = Program(models.SignalNet(2, 4), samples.beats(seed), loss, error_rate, 5e-3, AdamW)
    p.steps, p.schedule = 160, one_cycle
    return p


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a cycle up to the optimizer's rate and down to almost zero."""
    return lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], steps + 1)


def tag_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong tags over the words that are no padding."""
    words = target != IGNORED
    return error_rate(output[words], target[words])


@base("tagger-grammar", "bidirectional LSTM", "grammar", TUNING)
def _(seed: int) -> Program:
    data = samples.grammar(seed)
    p = Program(models.Tagger(30, 5), data, TokenLoss(), tag_error, 1e-2, Adam)
    p.steps, p.clip_norm = 180, 5.0
    return p


@base("encoder-motifs", "transformer encoder", "motifs", TUNING)
def _(seed: int) -> Program:
    data = samples.motifs(seed)
    p = Program(models.TextEncoder(24, 12, 4), data, nn.CrossEntropyLoss(), error_rate, 3e-3, AdamW)
    p.steps, p.clip_norm, p.schedule = 180, 1.0, warm_up
    return p


def warm_up(optimizer: Optimizer, _: int) -> LRScheduler:
    """Return a linear warm-up of 20 steps."""
    return lr_scheduler.LinearLR(optimizer, 0.05, 1.0, 20)


def binary_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of rows on the wrong side of a probability of one half."""
    return (((output > 0) != (target > 0.5)) | ~output.isfinite()).float().mean()


@base("tabular-purchases", "embeddings and MLP", "purchases", TUNING)
def _(seed: int) -> Program:
    model = models.TabularNet(5, (12, 40, 6))
    data = samples.purchases(seed)
    p = Program(model, data, nn.BCEWithLogitsLoss(), binary_error, 0.03, Adagrad)
    p.steps = 250
    return p


@base("selu-arm", "SELU MLP", "arm", TUNING)
def _(seed: int) -> Program:
    model = models.selu_net(4, *[40] * 5, 2)
    p = Program(model, samples.arm(seed), nn.HuberLoss(), squared_error, 5e-4, RMSprop)
    p.steps = 280
    return p


def pixel_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong pixels, averaged over the classes."""
    wrong = (output.argmax(1) != target) | ~output.isfinite().all(1)
    return torch.stack([wrong[target == c].float().mean() for c in range(output.shape[1])]).mean()


@base("segmentation-blobs", "convolutional segmentation", "blobs", TUNING)
def _(seed: int) -> Program:
    def nesterov(parameters: object, lr: float) -> Optimizer:
        return SGD(parameters, lr, momentum=0.9, nesterov=True)  # type: ignore[arg-type]

    model, loss = models.SegmentationNet(3), nn.CrossEntropyLoss()
    p = Program(model, samples.blobs(seed), loss, pixel_error, 0.1, nesterov)
    p.steps, p.batch_size = 180, 16
    p.schedule = lambda o, steps: lr_scheduler.PolynomialLR(o, steps, 0.9)
    return p


class ELBO(nn.Module):
    """Negative evidence lower bound: a sum over pixels and codes, a mean over the batch."""

    def forward(self, output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        logits, mean, log_variance = output
        return self.pixels(logits, target) + self.divergence(mean, log_variance)

    def pixels(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of the pixels of an image."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(target)

    def divergence(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return the divergence of the codes from N(0, 1)."""
        return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()


def reconstruction(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    """Cross-entropy of the reconstructed pixels, in nats for each pixel."""
    return F.binary_cross_entropy_with_logits(output[0], target)


@base("vae-strokes", "variational autoencoder", "strokes", TUNING)
def _(seed: int) -> Program:
    p = Program(models.VAE(100), samples.strokes(seed), ELBO(), reconstruction, 3e-3, Adam)
    p.steps, p.batch_size = 250, 64
    return p


class ActorCriticLoss(nn.Module):
    """Advantage actor-critic for one step: reward 1 for the best action, less for others."""

    entropy_weight = 0.01

    def forward(self, output: Tensor, best: Tensor) -> Tensor:
        logits, value = output[:, :-1], output[:, -1]
        policy = torch.distributions.Categorical(logits=logits)
        action = policy.sample()
        reward = self.reward(action, best)
        actor = -(self.log_probability(policy, action) * self.advantage(reward, value)).mean()
        critic = F.mse_loss(value, reward)
        return actor + 0.5 * critic - self.entropy_weight * policy.entropy().mean()

    def reward(self, action: Tensor, best: Tensor) -> Tensor:
        """Return 1 for the best action and less by a third for each level of distance."""
        return 1 - (action - best).abs() / 3

    def log_probability(self, policy: torch.distributions.Categorical, action: Tensor) -> Tensor:
        """Return the log probability of the actions."""
        return policy.log_prob(action)

    def advantage(self, reward: Tensor, value: Tensor) -> Tensor:
        """Return how much better the reward is than the critic's value."""
        return reward - value.detach()


def regret(output: Tensor, best: Tensor) -> Tensor:
    """Mean reward that the most likely action loses against the best one."""
    lost = (output[:, :-1].argmax(1) - best).abs() / 3
    return torch.where(output.isfinite().all(1), lost, torch.inf).mean()


@base("actorcritic-levels", "actor-critic", "levels", TUNING)
def _(seed: int) -> Program:
    model = models.ActorCritic(12, 7)
    p = Program(model, samples.levels(seed), ActorCriticLoss(), regret, 3e-3, RMSprop)
    p.steps, p.batch_size, p.clip_norm = 300, 64, 0.5
    return p


def next_token_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong tokens."""
    return error_rate(output.flatten(0, 1), target.flatten())


@base("translator-reversals", "GRU encoder and decoder", "reversals", TUNING)
def _(seed: int) -> Program:
    data = samples.reversals(seed)
    p = Program(models.Translator(10, 5), data, TokenLoss(), next_token_error, 1e-2, Adam)
    p.steps, p.clip_norm, p.batch_size = 220, 1.0, 48
    return p
