"""Healthy programs that look like faulty ones: unusual models and several passes a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detection import data
from detection.bases import TokenLoss, error_rate, token_loss
from detection.models import mlp as named_mlp
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, mlp, sgd
from detection.published.register import healthy


class Mean(nn.Module):
    """The mean of the embeddings of 500 tokens, of which the data has 40."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(500, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))  # type: ignore[no-any-return]


@healthy("K23")
def embeddings_with_unused_rows(seed: int) -> Program:
    x = torch.randint(40, (2000, 9))
    y = functional.one_hot(x % 4, 4).sum(1).argmax(1)
    samples = data.split(x, y, seed)
    return Program(Mean(), samples, CrossEntropy(), error_rate, 1e-2, steps=400)


class Tied(nn.Module):
    """A recurrent language model whose head is the matrix of the embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(16, 32), nn.GRU(32, 32, batch_first=True)
        nn.init.normal_(self.embedding.weight, std=0.2)
        self.head = nn.Linear(32, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(x))[0])  # type: ignore[no-any-return]


@healthy("K25")
def tied_embeddings(seed: int) -> Program:
    return Program(Tied(), data.chain(seed), TokenLoss(), token_loss, 1e-2, steps=250)


class Variational(nn.Module):
    """Digits through four Gaussian variables; returns the image, the means and log variances."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 64, 8), mlp(4, 64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


@healthy("K29")
def annealed_weight_of_the_divergence(seed: int) -> Program:
    x, weight = parts.digits(seed).x, torch.zeros(())

    def loss(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        image, mean, log_variance = output
        divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
        return functional.mse_loss(image, target) * 16 + weight * divergence

    samples = data.split(x, x, seed)
    program = Program(Variational(), samples, loss, error_of_the_image, 2e-3, Adam, 500, 64)
    program.events.append(lambda step, *_: weight.fill_(min(1.0, step / 300) * 0.05))
    return program


def error_of_the_image(output: Any, target: Tensor) -> Tensor:
    """Squared error of the image over the variance within a pixel."""
    return ((output[0] - target) ** 2).mean() / target.var(0).mean()


@healthy("K43")
def siamese_network_with_a_margin(seed: int) -> Program:
    program = Program(
        named_mlp(64, 64, 16), parts.digits(seed), margin_loss, margin_loss, 1e-3, Adam, 400, 64
    )
    program.forward = lambda model, x: functional.normalize(model(x), dim=1)
    return program


def margin_loss(output: Tensor, target: Tensor) -> Tensor:
    """Pull neighbours in the batch together if they have one class, else push them to 1 apart."""
    distance = (output - output.roll(1, 0)).pow(2).sum(1).add(1e-6).sqrt()
    same = target == target.roll(1)
    return torch.where(same, distance**2, (1 - distance).clamp_min(0) ** 2).mean()


@healthy("K45")
def moving_average_of_the_weights(seed: int) -> Program:
    model = nn.ModuleDict({"trained": mlp(64, 64, 10)})
    model["average"] = AveragedModel(model["trained"], multi_avg_fn=get_ema_multi_avg_fn(0.98))
    model["average"].requires_grad_(False)
    samples, loss = parts.digits(seed), CrossEntropy()
    program = Program(model, samples, loss, error_rate, 2e-3, Adam, 400, 64)
    program.parameters = lambda model: [*model["trained"].parameters()]  # type: ignore[index]
    program.forward = lambda model, x: model["trained" if model.training else "average"](x)  # type: ignore[index]
    program.events.append(
        lambda _, program, __: program.model["average"].update_parameters(program.model["trained"])  # type: ignore[index]
    )
    return program


class Quantised(nn.Linear):
    """A linear layer whose weights are rounded to eight bits with a straight-through gradient."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.detach().abs().max() / 127
        rounded = (self.weight / scale).round() * scale
        weight = self.weight + (rounded - self.weight).detach()
        return functional.linear(x, weight, self.bias)


@healthy("K49")
def weights_rounded_to_eight_bits(seed: int) -> Program:
    model, samples = nn.Sequential(Quantised(64, 64), nn.ReLU(), Quantised(64, 10)), parts.digits
    return Program(model, samples(seed), CrossEntropy(), error_rate, 1e-3, Adam, 400, 64)


@healthy("K55")
def spectral_normalisation(seed: int) -> Program:
    model = nn.Sequential(
        spectral_norm(nn.Linear(64, 64)), nn.ReLU(), spectral_norm(nn.Linear(64, 64)), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip
    samples = parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, 3e-3, Adam, 400, 64)


@healthy("K57")
def sharpness_aware_minimisation(seed: int) -> Program:
    samples, loss = parts.digits(seed), CrossEntropy()
    program = Program(mlp(64, 64, 10), samples, loss, error_rate, 0.1, sgd(0.9), 300, 64)
    program.step = sharpness_aware_step
    return program


def sharpness_aware_step(program: Program, optimizer: Any, monitor: Any, _: int) -> None:
    """Step along the gradient at a point 0.05 uphill, after Foret et al., 2021."""
    chosen = torch.randint(len(program.data.x), (program.batch_size,))
    x, y = program.data.x[chosen], program.data.y[chosen]
    weights = [*program.model.parameters()]
    optimizer.zero_grad()
    monitor.loss(program.loss(program.model(x), y)).backward()
    gradients = [p.grad.clone() for p in weights if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm() + 1e-12
    moves = [0.05 * g / norm for g in gradients]
    with torch.no_grad():
        torch._foreach_add_(weights, moves)
    optimizer.zero_grad()
    program.loss(program.model(x), y).backward()
    with torch.no_grad():
        torch._foreach_sub_(weights, moves)
    optimizer.step()


@healthy("K59")
def penalty_on_the_gradient_of_the_inputs(seed: int) -> Program:
    samples, loss = parts.digits(seed), CrossEntropy()
    model = mlp(64, 64, 10, activation=nn.Softplus)
    program = Program(model, samples, loss, error_rate, 2e-3, Adam, 300, 64)
    program.step = penalised_step
    return program


def penalised_step(program: Program, optimizer: Any, monitor: Any, _: int) -> None:
    """Train on the loss plus the squared norm of its gradient with respect to the inputs."""
    chosen = torch.randint(len(program.data.x), (program.batch_size,))
    x = program.data.x[chosen].requires_grad_()
    loss = program.loss(program.model(x), program.data.y[chosen])
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    optimizer.zero_grad()
    monitor.loss(loss + 10 * gradient.pow(2).sum()).backward()
    optimizer.step()
