"""Runs that end without an error and learned nothing, or not what was meant."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, lr_scheduler

from detection import data
from detection.bases import error_rate, squared_error
from detection.case import Class
from detection.program import Data, Program
from detection.published import parts
from detection.published.parts import CrossEntropy, cnn, mlp, sgd
from detection.published.register import published

SILENT = Class.SILENT


def resumed(program: Program, before: int, *, with_state: bool) -> None:
    """Train `before` steps first, and load the optimizer's state into the new one or not."""
    optimizer = program.optimizer(program.parameters(program.model), program.lr)
    for _ in range(before):
        chosen = torch.randint(len(program.data.x), (program.batch_size,))
        optimizer.zero_grad()
        output = program.forward(program.model, program.data.x[chosen])
        program.loss(output, program.data.y[chosen]).backward()
        optimizer.step()
    state = deepcopy(optimizer.state_dict())
    if with_state:
        program.started.append(lambda _, new: new.load_state_dict(state))


@published(
    SILENT,
    "Q20",
    "NVlabs/stylegan2-ada-pytorch#108",
    "state_not_restored loss_spike learning_rate_too_high",
)
def accumulators_not_restored(seed: int, repaired: bool) -> Program:
    loss, metric = CrossEntropy(), CrossEntropy()
    samples = parts.classification(seed, 40, 20, n_samples=4000, class_sep=0.8)
    program = Program(mlp(40, 128, 128, 2), samples, loss, metric, 0.05, Adagrad, 20, 64)
    resumed(program, 600, with_state=repaired)
    return program


@published(
    SILENT,
    "Q21",
    "AlexeyAB/darknet#6720",
    "state_not_restored loss_spike learning_rate_too_high",
)
def mean_squares_not_restored(seed: int, repaired: bool) -> Program:
    optimizer = partial(RMSprop, alpha=0.999)
    program = Program(
        mlp(10, 64, 64, 1), data.friedman(seed), nn.MSELoss(), squared_error, 1e-3, optimizer, 30
    )
    resumed(program, 1500, with_state=repaired)
    return program


class GroupLoss(nn.Module):
    """Policy gradient with the mean reward of each sample's group of actions as baseline."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=output)
        action = policy.sample((self.group,))  # type: ignore[no-untyped-call]
        reward = (action == target).float()
        advantage = reward - reward.mean(0)
        return -(advantage * policy.log_prob(action)).mean()  # type: ignore[no-untyped-call,no-any-return]


@published(
    SILENT,
    "Q22",
    "huggingface/trl, GRPO with one generation per prompt",
    "no_signal parameter_not_updated",
)
def groups_of_one_action(seed: int, repaired: bool) -> Program:
    x = torch.randn(2000, 8)
    samples = data.split(x, (x @ torch.randn(8, 5)).argmax(1), seed)
    loss = GroupLoss(8 if repaired else 1)
    program = Program(mlp(8, 64, 5), samples, loss, error_rate, 5e-3, Adam, 200, 64)
    program.loss_falls = False
    return program


@published(
    SILENT,
    "Q23",
    "huggingface/accelerate#2926, transformers#24088",
    "schedule_ended_early undertrained",
)
def schedule_stepped_once_for_each_of_eight_processes(seed: int, repaired: bool) -> Program:
    processes = 1 if repaired else 8
    program = Program(cnn(), parts.digits(seed, image=True), CrossEntropy(), error_rate, 0.02)
    program.optimizer, program.steps = sgd(0.9), 400
    program.schedule = lambda optimizer, steps: lr_scheduler.LambdaLR(
        optimizer, lambda step: max(0.0, 1 - processes * step / steps)
    )
    return program


class Detector(nn.Module):
    """Classes and centres of figures; returns both in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 96), nn.ReLU())
        self.of_class, self.of_centre = nn.Linear(96, 3), nn.Linear(96, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return torch.cat([self.of_class(features), self.of_centre(features)], 1)


def centred_figures(seed: int) -> Data:
    """Return images with a bright square, its width from 2 to 4 as class, and its centre."""
    width, corner = torch.randint(2, 5, (1500,)), torch.randint(0, 12, (1500, 2))
    at = torch.arange(16)
    inside = (at >= corner[:, :, None]) & (at < (corner + width[:, None])[:, :, None])
    x = (inside[:, 0, :, None] & inside[:, 1, None]).float()[:, None]
    centre = (corner + width[:, None] / 2) / 8 - 1
    y = torch.cat([(width - 2)[:, None], centre], 1)
    return data.split(x + 0.1 * torch.randn(x.shape), y, seed)


def centre_error(output: Tensor, target: Tensor) -> Tensor:
    """Squared error of the centres over their variance."""
    return squared_error(output[:, 3:], target[:, 1:])


@published(
    SILENT,
    "Q24",
    "PyTorch forum, part of the loss computed with numpy",
    "loss_term_inactive no_gradient parameter_not_updated",
)
def term_of_the_centres_through_numpy(seed: int, repaired: bool) -> Program:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        centre = output[:, 3:]
        if not repaired:
            centre = torch.from_numpy(centre.detach().numpy())
        of_class = functional.cross_entropy(output[:, :3], target[:, 0].long())
        return of_class + functional.mse_loss(centre, target[:, 1:])

    samples = centred_figures(seed)
    return Program(Detector(), samples, loss, centre_error, 1e-3, steps=300)


@published(
    SILENT,
    "Q25",
    "PyTorch forum, training with bfloat16 weights",
    "absorbed_updates parameter_not_updated learning_rate_too_low",
)
def bfloat16_weights_at_a_rate_for_fine_tuning(seed: int, repaired: bool) -> Program:
    model, samples = mlp(64, 128, 10), parts.digits(seed)
    program = Program(model, samples, CrossEntropy(), error_rate, 1e-3, sgd(0.9), 500, 64)
    if not repaired:
        model.bfloat16()
        program.forward = lambda model, x: model(x.bfloat16()).float()
    return program


@published(
    SILENT,
    "Q26",
    "PyTorch forum, windows that include the value to forecast",
    "trivial_target overfitting",
)
def window_includes_the_value_to_forecast(seed: int, repaired: bool) -> Program:
    samples = data.waves(seed, length=16)
    x, y = samples.x[..., 0], samples.y[:, -1]
    last = x[:, 1:] if repaired else torch.cat([x[:, 2:], y], 1)
    samples = Data(last, y, samples.x_test[:, 1:, 0], samples.y_test[:, -1])
    return Program(mlp(15, 64, 1), samples, nn.MSELoss(), squared_error, 3e-3, steps=300)


class Filler(nn.Module):
    """A transformer that fills in the masked words of a sequence; token 12 is the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(13, 32), nn.Embedding(12, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        place = self.position(torch.arange(x.shape[1]))
        return self.head(self.blocks(self.embedding(x) + place)).transpose(1, 2)  # type: ignore[no-any-return]


@published(
    SILENT,
    "Q27",
    "PyTorch forum, masked language model: labels of the masked words set to -100",
    "no_supervision trivial_target loss_task_mismatch",
)
def words_that_are_not_masked_are_the_labels(seed: int, repaired: bool) -> Program:
    start, step = torch.randint(12, (1600, 1)), torch.randint(1, 4, (1600, 1))
    words = (start + step * torch.arange(12)) % 12
    hidden = torch.rand(1600, 12) < 0.2
    samples = data.split(words.masked_fill(hidden, 12), words, seed)
    program = Program(Filler(), samples, hidden_loss, hidden_error, 3e-3, AdamW, 200)
    ignored = hidden_labels if repaired else visible_labels
    program.data = replace(samples, y=ignored(samples.x, samples.y), y_test=hidden_labels(
        samples.x_test, samples.y_test
    ))  # fmt: skip
    return program


def hidden_labels(x: Tensor, words: Tensor) -> Tensor:
    """Return the words that are masked, and -100 elsewhere."""
    return words.masked_fill(x != 12, -100)


def visible_labels(x: Tensor, words: Tensor) -> Tensor:
    """Return the words that are not masked, and -100 elsewhere."""
    return words.masked_fill(x == 12, -100)


def hidden_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the words whose label is not -100."""
    return functional.cross_entropy(output, target)


def hidden_error(output: Tensor, target: Tensor) -> Tensor:
    """Error rate of the words whose label is not -100."""
    return (output.argmax(1) != target)[target >= 0].float().mean()


@published(
    SILENT,
    "Q28",
    "PyTorch forum, w = w - lr * w.grad makes a new tensor",
    "parameter_not_updated",
)
def updates_bound_to_a_new_tensor(seed: int, repaired: bool) -> Program:
    samples = parts.diabetes(seed)
    program = Program(mlp(10, 32, 1), samples, nn.MSELoss(), squared_error, 0.05, SGD, 150)
    program.step = partial(by_hand, in_place=repaired)
    return program


def by_hand(
    program: Program, optimizer: Optimizer, monitor: Any, _: int, *, in_place: bool
) -> None:
    """Train one step with an update that is written out."""
    chosen = torch.randint(len(program.data.x), (program.batch_size,))
    output = program.forward(program.model, program.data.x[chosen])
    monitor.loss(program.loss(output, program.data.y[chosen])).backward()
    with torch.no_grad():
        for weight in program.model.parameters():
            step: Any = program.lr * weight.grad  # type: ignore[operator]
            if in_place:
                weight -= step  # type: ignore[misc]
            else:
                weight = weight - step
    optimizer.zero_grad()
