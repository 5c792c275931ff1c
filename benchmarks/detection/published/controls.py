"""Healthy programs that look like faulty ones."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, lr_scheduler

from detection import data
from detection.bases import error_rate, squared_error
from detection.program import Program
from detection.published import parts
from detection.published.parts import CrossEntropy, LastState, cnn, initialise, mlp, sgd
from detection.published.register import healthy


def digits_program(seed: int, model: nn.Module, lr: float = 1e-3, steps: int = 400) -> Program:
    """Return a program on digits with Adam and batches of 64."""
    samples = parts.digits(seed)
    return Program(model, samples, CrossEntropy(), error_rate, lr, steps=steps, batch_size=64)


@healthy("H02")
def batches_of_four(seed: int) -> Program:
    samples, optimizer = parts.digits(seed), sgd(0.9)
    return Program(mlp(64, 64, 10), samples, CrossEntropy(), error_rate, 5e-3, optimizer, 600, 4)


@healthy("H04")
def targets_with_a_large_variance(seed: int) -> Program:
    x = torch.randn(2000, 8)
    samples = data.split(x, x @ torch.randn(8, 1) + 2, seed)
    return Program(
        mlp(8, 64, 1), samples, nn.MSELoss(), squared_error, 1e-3, steps=600, batch_size=64
    )


@healthy("H06")
def lstm_gates_saturate(seed: int) -> Program:
    samples = parts.first_step_cue(seed, 15)
    return Program(LastState(nn.LSTM), samples, CrossEntropy(), error_rate, 3e-3, steps=400)


@healthy("H08")
def autoencoder_with_a_narrow_layer(seed: int) -> Program:
    x = parts.standard(parts.classification(seed, 20, 10).x)
    model, samples = mlp(20, 32, 8, 32, 20), data.split(x, x, seed)
    return Program(model, samples, nn.MSELoss(), squared_error, 1e-3, steps=600, batch_size=64)


class LowRank(nn.Module):
    """A frozen linear layer plus A B of rank 4; B starts at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs).requires_grad_(False)
        self.A = nn.Parameter(0.1 * torch.randn(inputs, 4))
        self.B = nn.Parameter(torch.zeros(4, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.A @ self.B  # type: ignore[no-any-return]


@healthy("H10")
def low_rank_adapters(seed: int) -> Program:
    model = nn.Sequential(
        LowRank(64, 128), nn.ReLU(), LowRank(128, 128), nn.ReLU(), LowRank(128, 10)
    )
    program = digits_program(seed, model, 5e-3)
    program.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]
    return program


@healthy("H12")
def eight_orthogonal_tanh_layers(seed: int) -> Program:
    model = mlp(64, *[64] * 8, 10, activation=nn.Tanh)
    return digits_program(seed, initialise(model, partial(nn.init.orthogonal_, gain=5 / 3)))


@healthy("H14")
def one_sigmoid_layer(seed: int) -> Program:
    return digits_program(seed, mlp(64, 64, 10, activation=nn.Sigmoid), 1e-2)


@healthy("H16")
def warm_up_of_100_steps(seed: int) -> Program:
    program = digits_program(seed, mlp(64, 64, 10), 3e-3, 500)
    program.schedule = lambda optimizer, _: lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100)
    )
    return program


@healthy("H18")
def four_micro_batches(seed: int) -> Program:
    program = digits_program(seed, mlp(64, 64, 10))
    program.batch_size, program.accumulate = 16, 4
    return program


@healthy("H20")
def clipped_gradients(seed: int) -> Program:
    program = lstm_gates_saturate(seed)
    program.clip_norm = 1.0
    return program


@healthy("H22")
def rare_class_with_a_weight(seed: int) -> Program:
    samples = parts.classification(seed, 20, 8, n_samples=3000, weights=[0.95])
    loss = CrossEntropy(weight=torch.tensor([0.53, 10.0]))
    return Program(
        mlp(20, 64, 2), samples, loss, parts.balanced_error, 1e-3, steps=500, batch_size=64
    )


@healthy("H24")
def policy_gradient_of_a_bandit(seed: int) -> Program:
    x = torch.randn(2000, 8)
    samples = data.split(x, (x @ torch.randn(8, 4)).argmax(1), seed)
    baseline = [0.0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        choice = torch.distributions.Categorical(logits=output)
        action = choice.sample()
        reward = (action == target).float()
        advantage = reward - baseline[0]
        baseline[0] += 0.05 * (float(reward.mean()) - baseline[0])
        return -(choice.log_prob(action) * advantage).mean()

    return Program(mlp(8, 32, 4), samples, loss, error_rate, 1e-3, steps=500, batch_size=64)


@healthy("H26")
def q_learning_in_a_corridor(_: int) -> Program:
    network = mlp(10, 32, 2)
    model = nn.ModuleDict({"q": network, "target": copy.deepcopy(network)})
    states = torch.eye(10)
    samples = data.Data(states, torch.ones(10).long(), states, torch.ones(10).long())
    program = Program(model, samples, nn.HuberLoss(), error_rate, 1e-3, steps=600)
    program.parameters = lambda model: [*model["q"].parameters()]
    program.forward = lambda model, x: model["q"](x)
    program.step = q_learning_step
    return program


def q_learning_step(program: Program, optimizer: Any, monitor: Any, step: int) -> None:
    """Train on 64 random moves; the right end of ten cells gives a reward of 1."""
    q, target = program.model["q"], program.model["target"]  # type: ignore[index]
    states, here, move = torch.eye(10), torch.randint(10, (64,)), torch.randint(2, (64,))
    there = (here + 2 * move - 1).clamp(0, 9)
    with torch.no_grad():
        value = (there == 9).float() + 0.9 * target(states[there]).max(1).values
    optimizer.zero_grad()
    chosen = q(states[here])[torch.arange(64), move]
    monitor.loss(program.loss(chosen, value)).backward()
    optimizer.step()
    if step % 25 == 0:
        target.load_state_dict(q.state_dict())


@healthy("H28")
def bfloat16_autocast(seed: int) -> Program:
    program = digits_program(seed, mlp(64, 64, 10))

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()  # type: ignore[no-any-return]

    program.forward = forward
    return program


@healthy("H30")
def dropout_in_training_only(seed: int) -> Program:
    samples = parts.digits(seed, image=True)
    model = cnn(dropout=0.5)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, steps=400, batch_size=64)
    program.validate_every = 20
    return program


class Experts(nn.Module):
    """Four experts; each sample goes to the one with the largest gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(mlp(16, 32, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x).softmax(1)
        chosen, output = gates.argmax(1), torch.zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            rows = torch.nonzero(chosen == number)[:, 0]
            if len(rows):
                weighted = expert(x[rows]) * gates[rows, number : number + 1]
                output = output.index_put((rows,), weighted)
        return output


@healthy("H32")
def experts_without_samples(seed: int) -> Program:
    x = torch.randn(2000, 16)
    samples = data.split(x, (x @ torch.randn(16, 4)).argmax(1), seed)
    return Program(Experts(), samples, CrossEntropy(), error_rate, 3e-3, steps=500)


@healthy("H34")
def contrastive_loss(seed: int) -> Program:
    from sklearn.datasets import make_blobs

    x = parts.standard(parts.floats(make_blobs(2000, 16, centers=20, random_state=0)[0]))
    samples, model = data.split(x, x, seed), mlp(16, 64, 32)
    program = Program(model, samples, info_nce, info_nce, 1e-3, steps=400, batch_size=256)
    program.forward = lambda model, x: torch.stack(
        [functional.normalize(model(x + 0.1 * torch.randn_like(x)), dim=1) for _ in range(2)]
    )
    return program


def info_nce(views: Tensor, _: Tensor) -> Tensor:
    """InfoNCE at temperature 0.1 of two views of each sample, shape (2, samples, features)."""
    return functional.cross_entropy(views[0] @ views[1].T / 0.1, torch.arange(views.shape[1]))


class TwoHeads(nn.Module):
    """A common network with three classes and one number as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.common, self.classes, self.number = (
            mlp(2, 32, 32),
            nn.Linear(32, 3),
            nn.Linear(32, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = functional.relu(self.common(x))
        return self.classes(hidden), self.number(hidden), x


@healthy("H36")
def two_tasks(seed: int) -> Program:
    return Program(TwoHeads(), parts.blobs(seed), sum_of_losses, error_of_classes, 1e-3, steps=400)


def sum_of_losses(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy of the classes plus the squared error of the sum of the inputs."""
    classes, number, x = output
    of_number = functional.mse_loss(number[:, 0], x.sum(1))
    return functional.cross_entropy(classes, target) + of_number


def error_of_classes(output: Any, target: Tensor) -> Tensor:
    """Error rate of the first output."""
    return error_rate(output[0], target)


@healthy("H38")
def cyclic_rate(seed: int) -> Program:
    samples, model = parts.blobs(seed), mlp(2, 32, 3)
    program = Program(model, samples, CrossEntropy(), error_rate, 0.01, sgd(), 500)
    program.schedule = lambda optimizer, _: lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.3, 50, cycle_momentum=False
    )
    return program


@healthy("H40")
def lbfgs_with_a_closure(seed: int) -> Program:
    x = torch.randn(300, 4)
    samples = data.split(x, torch.sin(x[:, :1]) + x[:, 1:2], seed)
    model = mlp(4, 32, 1, activation=nn.Tanh)
    program = Program(model, samples, nn.MSELoss(), squared_error, 0.5, LBFGS, 60)
    program.closure, program.sample = True, parts.whole
    return program
