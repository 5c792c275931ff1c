"""Runs that end without an error and learned nothing, or not what was meant."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, AdamW, Optimizer

from detection import data, models
from detection.bases import TokenLoss, error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published.parts import CrossEntropy, mlp
from detection.published.register import published

SILENT = Class.SILENT
PLACES = 10


def corridor(seed: int) -> Data:
    """Moves in a corridor whose right end pays 1: place, next place, action, reward and end."""
    here, action = torch.randint(PLACES, (4000,)), torch.randint(2, (4000,))
    there = (here + 2 * action - 1).clamp(0, PLACES - 1)
    end = there == PLACES - 1
    x = torch.cat([torch.eye(PLACES)[here], torch.eye(PLACES)[there]], 1)
    return data.split(x, torch.stack([action, end, here], 1), seed)


def action_value_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of the values, bootstrapped from the target network."""
    now, after = output.chunk(2, 1)
    action, end, _ = target.unbind(1)
    aim = end + 0.9 * (1 - end) * after.detach().max(1).values
    return functional.mse_loss(now.gather(1, action[:, None])[:, 0], aim)


def value_of_the_start(output: Tensor, target: Tensor) -> Tensor:
    """Mean error of the values of moving right, which are powers of 0.9."""
    right = 0.9 ** (PLACES - 2 - target[:, 2]).clamp_min(0)
    asked = target[:, 2] < PLACES - 1
    return (output[:, 1] - right)[asked].abs().mean()


@published(
    SILENT,
    "T90",
    "thesouther/MARL#8, target.load_state_dict(target.state_dict())",
    "parameter_not_updated loss_plateau",
)
def target_network_loads_itself(seed: int, repaired: bool) -> Program:
    model = nn.ModuleDict({"online": mlp(PLACES, 32, 2), "target": mlp(PLACES, 32, 2)})
    program = Program(model, corridor(seed), action_value_error, value_of_the_start, 5e-3)
    program.parameters = lambda model: [*model["online"].parameters()]  # type: ignore[index]
    program.forward = lambda model, x: torch.cat(
        [model["online"](x[:, :PLACES]), model["target"](x[:, PLACES:])],  # type: ignore[index]
        1,
    )
    source = model["online" if repaired else "target"]

    def copy(step: int, _: Program, __: Optimizer) -> None:
        if step % 20 == 19:
            model["target"].load_state_dict(source.state_dict())

    program.events.append(copy)
    program.steps, program.batch_size, program.loss_falls = 500, 64, False
    return program


class Spoken(nn.Module):
    """Policy gradient; the reward compares the chosen word with the right one."""

    def __init__(self, *, as_text: bool) -> None:
        super().__init__()
        self.as_text = as_text

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample((8,))  # type: ignore[no-untyped-call]
        said = [[str(a) if self.as_text else a for a in row] for row in action.tolist()]
        right = [[a == b for a, b in zip(row, target.tolist(), strict=True)] for row in said]
        reward = torch.tensor(right).float()
        advantage = (reward - reward.mean(0)) / (reward.std(0) + 1e-4)
        return -(advantage * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call,no-any-return]


@published(
    SILENT,
    "T91",
    "modelscope/ms-swift#4547, huggingface/trl#3857",
    "no_signal",
)
def reward_compares_text_with_a_number(seed: int, repaired: bool) -> Program:
    x = torch.randn(1600, 6)
    samples = data.split(x, (x @ torch.randn(6, 5)).argmax(1), seed)
    loss = Spoken(as_text=not repaired)
    program = Program(mlp(6, 64, 5), samples, loss, error_rate, 3e-3, Adam, 250, 32)
    program.loss_falls = False
    return program


def answered(seed: int) -> Data:
    """Twelve random words of a question and the answer, which is its first four words."""
    question = torch.randint(2, 14, (1600, 12))
    text = torch.cat([question, torch.zeros(1600, 1, dtype=torch.int64), question[:, :4]], 1)
    return data.split(text[:, :-1], text[:, 1:], seed)


def answer_error(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong words of the answer."""
    return (output[:, -4:].argmax(2) != target[:, -4:]).float().mean()


@published(
    SILENT,
    "T92",
    "common question, labels of the prompt and of the answer exchanged by the mask",
    "no_supervision no_learning loss_plateau",
)
def answers_masked_in_place_of_questions(seed: int, repaired: bool) -> Program:
    model = models.Transformer(14, 16)
    program = Program(model, answered(seed), TokenLoss(), answer_error, 4e-3, AdamW, 250, 24)

    def masked(_: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        question = torch.arange(16) < 12
        return x, torch.where(question if repaired else ~question, -100, y)

    program.collate = masked
    return program


def by_epoch(program: Program, optimizer: Any, monitor: Any, step: int, *, persists: bool) -> None:
    """Train an epoch of eight batches that accumulate the gradients of sixteen."""
    if step % 2 == 0 or not persists:
        optimizer.zero_grad()
    for at in range(8):
        chosen = torch.randint(len(program.data.x), (program.batch_size,))
        output = program.model(program.data.x[chosen])
        loss = program.loss(output, program.data.y[chosen])
        (monitor.loss(loss) / 16).backward()
        number = at + 8 * (step % 2) if persists else at
        if (number + 1) % 16 == 0:
            optimizer.step()


@published(
    SILENT,
    "T93",
    "huggingface/transformers#2995, timoschick/pet#25",
    "parameter_not_updated no_learning",
)
def fewer_batches_than_are_accumulated(seed: int, repaired: bool) -> Program:
    model, samples = mlp(20, 64, 5), data.clusters(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-2, Adam, 120, 16)
    program.step = partial(by_epoch, persists=repaired)
    return program


def postcodes(seed: int, *, of_others: bool) -> Data:
    """Houses with three features and the mean price of their postcode in the training set."""
    g = data.generator(seed)
    code, level = torch.randint(1200, (2000,), generator=g), 0.3 * torch.randn(1200, generator=g)
    x = torch.randn(2000, 3, generator=g)
    y = x[:, 0] + 0.5 * x[:, 1] * x[:, 2] + level[code] + 0.2 * torch.randn(2000, generator=g)
    y = y[:, None]
    same = (code[:, None] == code).float()
    same[:, 1500:] = 0
    if of_others:
        same.fill_diagonal_(0)
    count = same.sum(1, keepdim=True)
    mean = torch.where(count > 0, same @ y / count.clamp_min(1), y[:1500].mean())
    x = torch.cat([x, mean], 1)
    return Data(x[:1500], y[:1500], x[1500:], y[1500:])


@published(
    SILENT,
    "T94",
    "common question, target encoding with the row's own target",
    "trivial_target overfitting",
)
def mean_price_includes_the_own_price(seed: int, repaired: bool) -> Program:
    samples = postcodes(seed, of_others=repaired)
    program = Program(mlp(4, 64, 1), samples, nn.MSELoss(), squared_error, 3e-3, Adam, 400)
    program.validate_every = 20
    return program
