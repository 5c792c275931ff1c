"""Real trainings of small networks on digits, watched by the real capture, diagnosed as they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from trainvitals.api.schema import Diagnosis
from trainvitals.capture.capture import Capture
from trainvitals.diagnosis.examine import Engine, diagnose
from trainvitals.diagnosis.history import History
from trainvitals.wire import Record

EXAMINE_EVERY = 10
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Outcome:
    """What was said of a run, at the end and on the way."""

    diagnosis: Diagnosis
    headlines: list[str] = field(default_factory=list)
    """Every rule that was the headline at some time, in order."""

    @property
    def headline(self) -> str | None:
        return self.diagnosis.headline.rule if self.diagnosis.headline else None

    @property
    def where(self) -> str:
        return self.diagnosis.headline.where if self.diagnosis.headline else ""


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images as rows of 64 pixels, 0 to 1, and their labels."""
    inputs, labels = _digits_of_the_file()
    return inputs.clone(), labels.clone()


@cache
def _digits_of_the_file() -> tuple[Tensor, Tensor]:
    """Read the file once, which takes 30 ms."""
    inputs, labels = load_digits(return_X_y=True)
    return torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(labels)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss = nn.functional.cross_entropy,
    *,
    data: tuple[Tensor, Tensor] | None = None,
    batch: int = 64,
    steps: int = 150,
    every: int = 5,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
) -> Outcome:
    """Train for `steps`, examining every ten; `schedule` maps the step to the learning rate.

    Measured in full at every fifth step after the first 64: by budget it would be as often as the
    machine's load allows, and the test another one each time.
    """
    torch.set_num_threads(1)
    inputs, targets = data or digits()
    history, engine, records = History(), Engine(), list[Record]()
    outcome, findings = Outcome(Diagnosis()), ()

    def examine() -> None:
        nonlocal findings
        for record in records:
            history.add(record)
        records.clear()
        findings = engine.examine(history, findings)
        outcome.diagnosis = diagnose(history, findings)
        if outcome.headline and outcome.headline not in outcome.headlines:
            outcome.headlines.append(outcome.headline)

    def stepped(step: int) -> None:
        if step % EXAMINE_EVERY == 0:
            examine()

    capture = Capture(model, optimizer, emit=records.append, on_step=stepped, every=every)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        if schedule:
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
        at = torch.randint(len(inputs), (batch,), generator=order)
        optimizer.zero_grad()
        value = loss(model(inputs[at]), targets[at])
        capture.loss(value)
        value.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    capture.detach()
    examine()
    return outcome


def layers(
    *widths: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Return linear layers of these widths with `activation` (after `norm`) between them."""
    parts: list[nn.Module] = []
    for i, (n, m) in enumerate(pairwise(widths)):
        parts.append(nn.Linear(n, m))
        if i < len(widths) - 2:
            parts += [norm(m)] if norm else []
            parts.append(activation())
    return nn.Sequential(*parts)


def linears(model: nn.Module) -> Sequence[nn.Linear]:
    """Return the linear layers in order."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)]
