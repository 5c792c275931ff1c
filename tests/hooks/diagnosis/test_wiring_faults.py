"""Real small trainings: a fault is the headline within few steps, and its repair is silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.small_runs import digits, layers  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.causes import headline_of  # noqa: E402
from trainvitals.diagnosis.examine import Engine  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.wire import Record  # noqa: E402

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
    where: str = ""
    first_alarm: int = -1
    alarms: set[str] = field(default_factory=set)


def train(run: Run, steps: int = STEPS) -> Seen:
    """Train, and examine after every step."""
    torch.set_num_threads(1)
    optimizer = torch.optim.Adam(run.parameters or run.model.parameters(), 1e-3)
    history, engine, records, seen = History(), Engine(), list[Record](), Seen()
    findings = ()

    def stepped(step: int) -> None:
        nonlocal findings
        for record in records:
            history.add(record)
        records.clear()
        findings = engine.examine(history, findings)
        alarms = {f.rule for f in findings if f.is_alarm}
        seen.alarms |= alarms
        if alarms and seen.first_alarm < 0:
            seen.first_alarm = step
        headline = headline_of(findings)
        seen.headline = headline.rule if headline else ""
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


# Fault → (rule, last step of the first alarm, faulty run, repaired run).
FAULTS: dict[str, tuple[str, int, Callable[[], Run], Callable[[], Run]]] = {
    "no zero_grad": (
        "missing_zero_grad", 2,
        lambda: Run(mlp(), zero_grad=False),
        lambda: Run(mlp(), accumulate=3),
    ),
    "softmax before a cross entropy": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(last=nn.Softmax(1))),
        lambda: Run(mlp()),
    ),
    "sigmoid before BCEWithLogitsLoss": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(last=nn.Sigmoid()), one_hot(BCE)),
        lambda: Run(mlp(), one_hot(BCE)),
    ),
    "softmax before BCEWithLogitsLoss": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(last=nn.Softmax(1)), one_hot(BCE)),
        lambda: Run(mlp(last=nn.Sigmoid()), one_hot(F.binary_cross_entropy)),
    ),
    "log_softmax over the batch": (
        "softmax_before_cross_entropy", 0,
        lambda: Run(mlp(), lambda o, y: F.nll_loss(o.log_softmax(0), y)),
        lambda: Run(mlp(), nll_of_log),
    ),
    "sigmoid before a cross entropy": (
        "output_range_mismatch", 0,
        lambda: Run(mlp(last=nn.Sigmoid())),
        lambda: Run(mlp()),
    ),
    "ReLU behind a regression of both signs": (
        "output_range_mismatch", 2,
        lambda: Run(mlp(last=nn.ReLU(), outputs=1), F.mse_loss, data=numbers()),
        lambda: Run(mlp(outputs=1), F.mse_loss, data=numbers()),
    ),
    "tanh for targets up to 10": (
        "output_range_mismatch", 2,
        lambda: Run(mlp(last=nn.Tanh(), outputs=1), F.mse_loss, data=numbers(shift=5.0)),
        lambda: Run(mlp(outputs=1), F.mse_loss, data=numbers()),
    ),
    "softmax into NLLLoss": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(last=nn.Softmax(1)), F.nll_loss),
        lambda: Run(mlp(last=nn.LogSoftmax(1)), F.nll_loss),
    ),
    "logits into NLLLoss": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(), F.nll_loss),
        lambda: Run(mlp(), nll_of_log),
    ),
    "a column against a row": (
        "loss_task_mismatch", 0,
        lambda: Run(mlp(outputs=1), F.mse_loss, data=numbers((-1,))),
        lambda: Run(mlp(outputs=1), lambda o, y: F.mse_loss(o[:, 0], y), data=numbers((-1,))),
    ),
    "a column against a row, in tensor operations": (
        "loss_task_mismatch", 0,
        lambda: Run(
            mlp(outputs=1), lambda o, y: ((o - y) ** 2).mean(), data=numbers((-1,)),
            gives_tensors=True,
        ),
        lambda: Run(
            mlp(outputs=1), lambda o, y: ((o[:, 0] - y) ** 2).mean(), data=numbers((-1,)),
            gives_tensors=True,
        ),
    ),
    "squared error on class numbers": (
        "loss_task_mismatch", 2,
        lambda: Run(
            mlp(), lambda o, y: ((o - y[:, None].float()) ** 2).mean(), gives_tensors=True
        ),
        lambda: Run(mlp(), one_hot(F.mse_loss), gives_tensors=True),
    ),
    "a binary loss for three classes": (
        "loss_task_mismatch", 2,
        lambda: Run(mlp(outputs=1), BCE, data=binary(lambda y: y % 3)),
        lambda: Run(mlp(outputs=1), BCE, data=binary(lambda y: y % 2)),
    ),
    "tanh before BCEWithLogitsLoss, with class numbers given to monitor.loss": (
        "output_range_mismatch", 0,
        lambda: Run(mlp(last=nn.Tanh()), one_hot(BCE), gives_tensors=True),
        lambda: Run(mlp(), one_hot(BCE), gives_tensors=True),
    ),
    "a cross entropy with a minus": (
        "loss_task_mismatch", 2,
        lambda: Run(mlp(), lambda o, y: -F.cross_entropy(o, y)),
        lambda: Run(mlp(), reinforce),
    ),
    "BatchNorm in eval mode": (
        "wrong_train_eval_mode", 1,
        lambda: in_eval_mode(normed()),
        lambda: Run(normed()),
    ),
    "eval mode from a validation on": (
        "wrong_train_eval_mode", 6,
        lambda: in_eval_mode(normed(), from_step=5),
        lambda: in_eval_mode(normed(), from_step=100),
    ),
    "a detached encoder": (
        "no_gradient", 2,
        lambda: Run(nn.Sequential(*layers(64, 32, 16), nn.ReLU(), Detach(), nn.Linear(16, 10))),
        lambda: Run(mlp()),
    ),
    "an encoder under no_grad": (
        "no_gradient", 19,
        lambda: Run(Encoder("no_grad")),
        lambda: Run(Encoder()),
    ),
    "a part that is never called": (
        "no_gradient", 19,
        lambda: Run(Encoder("call")),
        lambda: Run(Encoder()),
    ),
    "only the head in the optimizer": (
        "parameter_not_updated", 4,
        lambda: head_only(pretrained=False),
        lambda: head_only(pretrained=True),
    ),
    "a step before the backward": (
        "no_gradient", 2,
        lambda: Run(mlp(), step_first=True),
        lambda: Run(mlp()),
    ),
    "a frozen output layer": (
        "no_gradient", 2,
        frozen_head,
        lambda: Run(mlp()),
    ),
    "every target ignored": (
        "no_supervision", 0,
        lambda: Run(mlp(), data=ignored(1.0)),
        lambda: Run(mlp(), data=ignored(0.5)),
    ),
    "every target masked": (
        "no_supervision", 1,
        lambda: Run(mlp(), masked(0.0)),
        lambda: Run(mlp(), masked(1.0)),
    ),
    "the loss times 0": (
        "no_supervision", 2,
        lambda: Run(mlp(), lambda o, y: 0.0 * F.cross_entropy(o, y)),
        lambda: Run(mlp(), lambda o, y: 0.5 * F.cross_entropy(o, y)),
    ),
    "a detached term": (
        "loss_term_inactive", 2,
        lambda: Run(mlp(), two_terms(detached=True)),
        lambda: Run(mlp(), two_terms(detached=False)),
    ),
    "the main term times 0": (
        "loss_term_inactive", 2,
        lambda: Run(mlp(), weighted(0.0)),
        lambda: Run(mlp(), weighted(0.1)),
    ),
    "a loss of a detached output beside a penalty": (
        "loss_term_inactive", 2,
        lambda: with_penalty(detached=True),
        lambda: with_penalty(detached=False),
    ),
    "data sorted by class": (
        "constant_or_duplicate_input", 15,
        lambda: Run(mlp(), order=sorted_by_class),
        lambda: Run(mlp()),
    ),
    "equal rewards": (
        "no_signal", 19,
        lambda: Run(mlp(), policy(lambda hit: torch.ones(len(hit)))),
        lambda: Run(mlp(), policy(lambda hit: hit.float())),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_headline_within_few_steps(name):
    torch.manual_seed(0)
    rule, latest, faulty, _ = FAULTS[name]
    seen = train(faulty())
    assert seen.headline == rule
    assert 0 <= seen.first_alarm <= latest


@pytest.mark.parametrize("name", FAULTS)
def test_the_repaired_program_is_met_with_silence(name):
    torch.manual_seed(0)
    *_, repaired = FAULTS[name]
    assert train(repaired(), 2 * STEPS).alarms == set()
