"""Real small trainings with CTC: what its input is, and which sequences have a finite loss."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.wiring_runs import Run, Seen, train  # noqa: E402

FRAMES, SYMBOLS, LENGTH = 10, 5, 3


def strips() -> tuple[Tensor, Tensor]:
    """Return 300 sequences of frames, and three symbols for each that differ from the next."""
    random = torch.Generator().manual_seed(0)
    first = torch.randint(1, SYMBOLS, (300, 1), generator=random)
    symbols = (first + torch.arange(LENGTH)) % (SYMBOLS - 1) + 1
    x = F.one_hot(symbols, SYMBOLS).float().repeat_interleave(3, 1)
    return F.pad(x, (0, 3, 0, 1)) + 0.1 * torch.randn((300, FRAMES, 8), generator=random), symbols


def ctc(scores: Tensor, y: Tensor, *, frames: Tensor | int = FRAMES, **given: object) -> Tensor:
    """Return the loss of scores of shape (sequences, frames, symbols)."""
    n = torch.full((len(y),), LENGTH)
    frames = frames if isinstance(frames, Tensor) else torch.full_like(n, frames)
    return F.ctc_loss(scores.transpose(0, 1), y, frames, n, **given)  # type: ignore[arg-type]


def seen(loss: Callable[[Tensor, Tensor], Tensor]) -> Seen:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, SYMBOLS))
    return train(Run(model, loss, data=strips(), batch=16, gives_tensors=True))


def reshaped(o: Tensor, y: Tensor) -> Tensor:
    mixed = o.log_softmax(2).reshape(FRAMES, len(y), SYMBOLS)
    return ctc(mixed.transpose(0, 1), y)


def short(y: Tensor, sequences: int) -> Tensor:
    """Return the numbers of frames if so many of 16 sequences have fewer than symbols."""
    return torch.where(torch.arange(len(y)) < sequences, LENGTH - 1, FRAMES)


WRONG = {
    "loss_task_mismatch": [
        lambda o, y: ctc(o, y),
        lambda o, y: ctc(o - 5, y),
        lambda o, y: ctc(o.softmax(2), y),
        lambda o, y: ctc(o.sigmoid(), y),
        reshaped,
    ],
    "softmax_before_cross_entropy": [
        lambda o, y: ctc(o.log_softmax(1), y),
        lambda o, y: ctc(o.log_softmax(1), y, reduction="sum"),
        lambda o, y: ctc(o.log_softmax(0), y),
    ],
    "no_supervision": [
        lambda o, y: ctc(o.log_softmax(2), y, frames=LENGTH - 1, zero_infinity=True),
        lambda o, y: ctc(o.log_softmax(2), y, frames=short(y, 12), zero_infinity=True),
    ],
}


@pytest.mark.parametrize(("rule", "loss"), [(r, each) for r, of in WRONG.items() for each in of])
def test_a_wrong_input_of_ctc_is_named_within_three_steps(rule, loss):
    found = seen(loss)
    assert found.headline == rule
    assert found.first_alarm < 3


def prior(o: Tensor, y: Tensor) -> Tensor:
    """Return the loss of log-probabilities less a prior of the symbols, as in hybrid systems."""
    return ctc(o.log_softmax(2) - torch.tensor([0.0, -0.1, -0.1, -0.1, -0.1]), y)


HEALTHY = [
    lambda o, y: ctc(o.log_softmax(2), y),
    lambda o, y: ctc(o.log_softmax(2), y, reduction="sum") / len(y),
    lambda o, y: ctc(o.softmax(2).log(), y),
    lambda o, y: ctc(o - o.logsumexp(2, keepdim=True), y),
    lambda o, y: ctc(o.flatten(0, 1).log_softmax(1).view_as(o), y),
    lambda o, y: ctc(o.transpose(1, 2).log_softmax(1).transpose(1, 2), y),
    lambda o, y: ctc(F.pad(o, (0, 1)).log_softmax(2)[..., :SYMBOLS], y),
    lambda o, y: ctc(o.bfloat16().log_softmax(2).float(), y),
    lambda o, y: ctc(o.log_softmax(2), y, frames=short(y, 2), zero_infinity=True),
    prior,
]


@pytest.mark.parametrize("loss", HEALTHY)
def test_other_ways_to_write_ctc_are_healthy(loss):
    assert seen(loss).alarms == set()
