"""Models and loops that are connected wrongly, after questions and issues on PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from detection import data, models
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp
from detection.published.register import published
from detection.published.third.losses import Variational, error_of_the_image, images, kl_of

WIRING = Class.WIRING


@published(
    WIRING,
    "Q30",
    "PyTorch forum, Normal.sample in place of rsample",
    "no_gradient loss_term_inactive over_regularised",
)
def sample_without_a_gradient(seed: int, repaired: bool) -> Program:
    def loss(output: Any, target: Tensor) -> Tensor:
        image, mean, log_variance = output
        divergence = kl_of(mean, log_variance).mean()
        return 10 * ((image - target) ** 2).sum(1).mean() + divergence  # type: ignore[no-any-return]

    model = Variational(differentiable=repaired)
    return Program(model, images(seed), loss, error_of_the_image, 2e-3, Adam, 400, 64)


class Quantised(nn.Module):
    """An autoencoder whose code is the nearest of 32 vectors."""

    def __init__(self, *, straight_through: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 64, 8 * 4), mlp(8 * 4, 64, 64)
        self.codes = nn.Parameter(0.5 * torch.randn(32, 4))
        self.straight_through = straight_through

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vectors = self.encoder(x).reshape(-1, 8, 4)
        nearest = self.codes[torch.cdist(vectors, self.codes[None]).argmin(-1)]
        passed = vectors + (nearest - vectors).detach() if self.straight_through else nearest
        return self.decoder(passed.flatten(1)), vectors, nearest


@published(
    WIRING,
    "Q31",
    "zalandoresearch/pytorch-vq-vae#6, Biohub/esm#92",
    "no_gradient parameter_not_updated",
)
def codes_without_the_straight_through_gradient(seed: int, repaired: bool) -> Program:
    def loss(output: Any, target: Tensor) -> Tensor:
        image, vectors, nearest = output
        of_codes = functional.mse_loss(nearest, vectors.detach())
        commitment = 0.25 * functional.mse_loss(vectors, nearest.detach()) if repaired else 0.0
        return functional.mse_loss(image, target) + of_codes + commitment

    model = Quantised(straight_through=repaired)
    return Program(model, images(seed), loss, error_of_the_image, 2e-3, Adam, 400, 64)


CENTRE = torch.tensor([3.0, -2.0])


@published(
    WIRING,
    "Q32",
    "PyTorch forum, GAN: both optimizers get the parameters of the discriminator",
    "parameter_not_updated",
)
def generator_without_an_optimizer(seed: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"generator": mlp(4, 32, 2), "critic": mlp(2, 32, 1)})
    noise = torch.randn(1000, 4, generator=data.generator(seed))
    samples = Data(noise, noise, noise, CENTRE + 0.5 * torch.randn(1000, 2))
    loss = nn.BCEWithLogitsLoss()
    program = Program(model, samples, loss, distance_of_means, 2e-3, steps=600, batch_size=64)
    own = "generator" if repaired else "critic"
    program.parameters = lambda model: model
    program.optimizer = lambda model, lr: [
        Adam(model[own].parameters(), lr, betas=(0.5, 0.999)),
        Adam(model["critic"].parameters(), lr, betas=(0.5, 0.999)),
    ]
    program.forward = lambda model, x: model["generator"](x)  # type: ignore[index]
    program.step = adversarial_step
    program.loss_falls = False
    return program


def adversarial_step(program: Program, optimizers: Any, monitor: Any, _: int) -> None:
    """Train the critic and then the generator."""
    of_generator, of_critic = optimizers
    generator, critic = program.model["generator"], program.model["critic"]  # type: ignore[index]
    real = CENTRE + 0.5 * torch.randn(64, 2)
    made = generator(torch.randn(64, 4))
    right, wrong = torch.ones(64, 1), torch.zeros(64, 1)
    of_critic.zero_grad()
    loss = program.loss(critic(real), right) + program.loss(critic(made.detach()), wrong)
    loss.backward()
    of_critic.step()
    of_generator.zero_grad()
    monitor.loss(program.loss(critic(made), right)).backward()
    of_generator.step()


def distance_of_means(output: Tensor, target: Tensor) -> Tensor:
    """Distance between the means of the generated and of the real points."""
    return (output.mean(0) - target.mean(0)).norm()  # type: ignore[no-any-return]


class Branches(nn.Module):
    """One small network per group of inputs, kept in a dict or registered, and a head."""

    def __init__(self, *, registered: bool) -> None:
        super().__init__()
        branches = {f"group{i}": mlp(16, 24, 8) for i in range(4)}
        self.branches: Any = nn.ModuleDict(branches) if registered else branches
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        groups = zip(self.branches.values(), x.split(16, 1), strict=True)  # type: ignore[no-untyped-call]
        return self.head(torch.cat([branch(group) for branch, group in groups], 1).tanh())  # type: ignore[no-any-return]


@published(
    WIRING,
    "Q33",
    "PyTorch forum, modules in a Python dict",
    "parameter_not_updated no_gradient loss_plateau",
)
def branches_in_a_python_dict(seed: int, repaired: bool) -> Program:
    model, samples = Branches(registered=repaired), parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, steps=300, batch_size=64)


@published(
    WIRING,
    "Q34",
    "PyTorch forum, all but the parameters named bias frozen",
    "no_gradient parameter_not_updated",
)
def only_the_biases_left_to_train(seed: int, repaired: bool) -> Program:
    model = cnn()
    if not repaired:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("bias" in name)
    samples = parts.digits(seed, image=True)
    return Program(model, samples, CrossEntropy(), error_rate, 2e-3, steps=200, batch_size=64)


class TimeFirst(nn.Module):
    """A GRU that takes the time as its first dimension unless `batch_first`."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 32, batch_first=batch_first)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])  # type: ignore[no-any-return]


@published(
    WIRING,
    "Q35",
    "PyTorch forum, LSTM without batch_first",
    "label_misaligned loss_plateau overfitting",
)
def batch_read_as_time(seed: int, repaired: bool) -> Program:
    model, samples = TimeFirst(batch_first=repaired), data.cue(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 1e-2, steps=200)


@published(
    WIRING,
    "Q36",
    "PyTorch forum, features of a fine-tuned backbone wrapped in no_grad",
    "no_gradient parameter_not_updated loss_plateau",
)
def convolutions_under_no_grad(seed: int, repaired: bool) -> Program:
    model = models.ResNet(4)
    program = Program(model, data.shapes(seed), CrossEntropy(), error_rate, 5e-3, steps=150)
    program.forward = partial(split_forward, gradient=repaired)
    return program


def split_forward(model: Any, x: Tensor, *, gradient: bool) -> Tensor:
    """Compute the features and then the head; the features without a gradient if not asked for."""
    with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
        features = model.act(model.blocks(model.stem(x))).amax((2, 3))
    return model.head(features)  # type: ignore[no-any-return]


@published(
    WIRING,
    "Q37",
    "PyTorch forum, attention scores rounded by argmax",
    "no_gradient parameter_not_updated",
)
def hard_choice_without_a_gradient(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 8, 6)
    best = x[:, :, :3].sum(2).argmax(1)
    y = x[torch.arange(2000), best, 3:].sum(1, keepdim=True)
    program = Program(
        Chooser(hard=not repaired), data.split(x, y, seed), nn.MSELoss(), squared_error, 1e-2
    )
    program.steps = 300
    return program


class Chooser(nn.Module):
    """Attend to one of several vectors by a softmax, or choose it by an argmax."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.score, self.value, self.hard = mlp(6, 16, 1), mlp(6, 16, 1), hard

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)[:, :, 0]
        share = functional.one_hot(score.argmax(1), 8).float() if self.hard else score.softmax(1)
        return (share[:, :, None] * self.value(x)).sum(1)  # type: ignore[no-any-return]
