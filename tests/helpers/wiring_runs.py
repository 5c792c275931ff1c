"""Small trainings with one fault in their wiring, and their repairs; what the diagnosis says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.small_runs import digits, layers
from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.causes import headline_of
from trainvitals.diagnosis.examine import Engine
from trainvitals.diagnosis.history import History
from trainvitals.wire import Record

STEPS = 24
"""Steps of a faulty run; the healthy twin is trained for twice as many."""


@dataclass
class Run:
    """A training loop and its parts; the defaults are healthy."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor | Mapping[str, Tensor]] = F.cross_entropy
    forward: Callable[[Tensor], Tensor] | None = None
    data: tuple[Tensor, Tensor] = field(default_factory=digits)
    parameters: list[nn.Parameter] | None = None
    zero_grad: bool = True
    step_first: bool = False
    gives_tensors: bool = False
    accumulate: int = 1
    batch: int = 32
    order: Callable[[int], Tensor] | None = None
    every_step: Callable[[int], None] = lambda _: None


@dataclass
class Seen:
    """What was said of a run: the headline at the end, and the first step with an alarm."""

    headline: str = ""
    summary: str = ""
    where: str = ""
    first_alarm: int = -1
    alarms: set[str] = field(default_factory=set)
    history: History = field(default_factory=History)


def train(run: Run, steps: int = STEPS, *, each_until: int = 10) -> Seen:
    """Train, and examine after each step up to `each_until`, then each fourth and the last one."""
    torch.set_num_threads(1)
    optimizer = torch.optim.Adam(run.parameters or run.model.parameters(), 1e-3)
    engine, records, seen = Engine(), list[Record](), Seen()
    history = seen.history
    findings = ()

    def stepped(step: int) -> None:
        nonlocal findings
        for record in records:
            history.add(record)
        records.clear()
        if step > each_until and step % 4 and step < steps - 1:
            return
        findings = engine.examine(history, findings)
        alarms = {f.rule for f in findings if f.is_alarm}
        seen.alarms |= alarms
        if alarms and seen.first_alarm < 0:
            seen.first_alarm = step
        headline = headline_of(findings)
        seen.headline = headline.rule if headline else ""
        seen.summary = headline.summary if headline else ""
        seen.where = headline.where if headline else ""

    capture = Capture(run.model, optimizer, emit=records.append, on_step=stepped, every=1)
    history.facts |= capture.facts
    generator = torch.Generator().manual_seed(0)
    inputs, targets = run.data
    for step in range(steps):
        run.every_step(step)
        if run.zero_grad:
            optimizer.zero_grad()
        for _ in range(run.accumulate):
            random = torch.randint(len(inputs), (run.batch,), generator=generator)
            at = run.order(step) if run.order else random
            output = (run.forward or run.model)(inputs[at])
            value = run.loss(output, targets[at])
            given = {"prediction": output, "target": targets[at]} if run.gives_tensors else {}
            capture.loss(value, **given)
            if run.step_first:
                optimizer.step()
            total = value if isinstance(value, Tensor) else sum(value.values())
            (total / run.accumulate).backward()
        if not run.step_first:
            optimizer.step()
    capture.detach()
    return seen


class Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class Stem(nn.Module):
    """A layer of few parameters before the others; `is_cut`: it is detached.

    The mask token, which nothing uses, is the first parameter of the model.
    """

    def __init__(self, *, is_cut: bool) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 64))
        self.stem, self.body = nn.Linear(64, 4), layers(4, 256, 256, 10)
        self.is_cut = is_cut

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        return self.body(features.detach() if self.is_cut else features)


def mlp(*, last: nn.Module | None = None, outputs: int = 10) -> nn.Sequential:
    """Return a classifier of the digits, with another module behind its output."""
    return nn.Sequential(*layers(64, 32, 16, outputs), *([last] if last else []))


def normed() -> nn.Sequential:
    return layers(64, 32, 16, 10, norm=nn.BatchNorm1d)


def numbers(shape: tuple[int, ...] = (-1, 1), shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the digits with a standardised regression target."""
    inputs, labels = digits()
    return inputs, ((labels - 4.5) / 2.9 + shift).reshape(shape)


def binary(labels: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    inputs, targets = digits()
    return inputs, labels(targets).float()[:, None]


def one_hot(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, y: loss(output, F.one_hot(y, 10).float())


BCE = F.binary_cross_entropy_with_logits


def in_eval_mode(model: nn.Module, *, from_step: int = 0) -> Run:
    def change(step: int) -> None:
        model.train(step < from_step)

    return Run(model, every_step=change)


def nll_of_log(output: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(output.log_softmax(1), y)


class Encoder(nn.Module):
    """An encoder and a head; `without` says how the encoder is cut off."""

    def __init__(self, without: str = "") -> None:
        super().__init__()
        self.encoder, self.head = layers(64, 32, 32), nn.Linear(32, 10)
        self.skip = nn.Linear(64, 32)
        self.without = without

    def forward(self, x: Tensor) -> Tensor:
        if self.without == "no_grad":
            with torch.no_grad():
                features = self.encoder(x)
        else:
            features = self.skip(x) if self.without == "call" else self.encoder(x)
        features = features + self.skip(x)
        return self.head(features)


def frozen_head() -> Run:
    model = mlp()
    model[-1].requires_grad_(False)
    return Run(model)


def ignored(share: float) -> tuple[Tensor, Tensor]:
    """Return the digits with this share of the targets ignored."""
    inputs, targets = digits()
    keep = torch.rand(len(targets), generator=torch.Generator().manual_seed(1)) >= share
    return inputs, torch.where(keep, targets, -100)


def masked(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss over the samples where the mask is not 0."""

    def loss(output: Tensor, y: Tensor) -> Tensor:
        mask = (torch.arange(len(y)) % 2) * factor
        return (F.cross_entropy(output, y, reduction="none") * mask).sum() / len(y)

    return loss


def two_terms(*, detached: bool) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
    def loss(output: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        size = (output**2).mean()
        return {"ce": F.cross_entropy(output, y), "size": size.detach() if detached else size}

    return loss


def weighted(weight: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, y: 0.01 * (output**2).mean() + weight * F.cross_entropy(output, y)


def with_penalty(*, detached: bool) -> Run:
    model = mlp()

    def loss(output: Tensor, y: Tensor) -> Tensor:
        penalty = sum((w**2).sum() for w in model.parameters())
        return F.cross_entropy(output.detach() if detached else output, y) + 1e-4 * penalty

    return Run(model, loss)


def sorted_by_class(step: int) -> Tensor:
    rows = (digits()[1] == step // 4 % 10).nonzero()[:, 0]
    return rows[torch.randint(len(rows), (32,), generator=torch.Generator().manual_seed(step))]


def policy(reward: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(output: Tensor, y: Tensor) -> Tensor:
        chosen = torch.distributions.Categorical(logits=output)
        action = chosen.sample()
        rewards = reward(action == y)
        return -((rewards - rewards.mean()) * chosen.log_prob(action)).mean()

    return loss


def head_only(*, pretrained: bool) -> Run:
    model = layers(64, 64, 32, 10)
    if pretrained:
        train(Run(model), 2 * STEPS)
    return Run(model, parameters=[*model[-1].parameters()])


def reinforce(output: Tensor, y: Tensor) -> Tensor:
    """Return a policy gradient that is written with a cross entropy."""
    action = torch.distributions.Categorical(logits=output).sample()
    advantage = (action == y).float() - 0.5
    return (F.cross_entropy(output, action, reduction="none") * advantage).mean()
