"""TV808 where the input contains the target: unshifted labels, leaked columns, look-alikes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.fixing import applied  # noqa: E402
from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Finding  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules.trivial_target import TrivialTarget  # noqa: E402


def findings(model: nn.Module, batch, steps: int = 8, lr: float = 1e-3) -> list[Finding]:
    """Return the rule's findings after some steps on `batch()` → (loss of the model)."""
    torch.manual_seed(0)
    history = History()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    capture = Capture(model, optimizer, emit=history.add, every=1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = batch(model)
        capture.loss(loss)
        loss.backward()
        optimizer.step()
    capture.detach()
    return list(TrivialTarget().check(history))


def language_model(shift: int) -> list[Finding]:
    model = nn.Sequential(nn.Embedding(13, 8), nn.Linear(8, 13))

    def batch(model: nn.Module) -> Tensor:
        tokens = torch.randint(0, 13, (4, 12))
        logits = model(tokens)[:, : 12 - shift]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, shift:].flatten())

    return findings(model, batch)


def test_labels_that_were_not_shifted_are_found_at_once():
    [finding] = language_model(shift=0)
    assert finding.since_step == 0
    assert "not shifted by one" in finding.summary
    names = applied(finding.fix, x=torch.arange(6).reshape(2, 3), y=torch.arange(6).reshape(2, 3))
    assert names["y"].tolist() == [[1, 2], [4, 5]]
    assert names["x"].tolist() == [[0, 1], [3, 4]]
    assert finding.evidence[0].seen == 0  # the shift


def test_shifted_labels_are_silent():
    assert language_model(shift=1) == []


def regression(copied: bool, batch_size: int = 32) -> list[Finding]:
    def batch(model: nn.Module) -> Tensor:
        x = torch.randn(batch_size, 6)
        y = x[:, :1] * x[:, 1:2] + 0.1 * torch.randn(batch_size, 1)
        if copied:
            x[:, 3:4] = 5 * y + 2
        return F.mse_loss(model(x), y)

    return findings(layers(6, 16, 1), batch)


def test_a_scaled_copy_of_the_target_among_the_features_is_found():
    [finding] = regression(copied=True)
    assert "among the features" in finding.summary


def test_features_that_only_determine_the_target_together_are_silent():
    assert regression(copied=False) == []


def test_an_autoencoder_is_silent():
    def batch(model: nn.Module) -> Tensor:
        x = torch.randn(32, 6)
        return F.mse_loss(model(x), x)

    assert findings(layers(6, 3, 6), batch) == []


class Series(nn.Module):
    """A GRU that predicts a value at each time; with `code`, from the last state alone."""

    def __init__(self, *, code: int = 0) -> None:
        super().__init__()
        self.rnn = nn.GRU(1, code or 32, batch_first=True)
        self.head = nn.Linear(code or 32, 16 if code else 1)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        out: Tensor = self.head(states[:, -1] if self.code else states)
        return out.reshape(x.shape) if self.code else out


def forecast(model: nn.Module, shift: int, noise: float = 0.0, steps: int = 120) -> list[Finding]:
    """Train on waves; the target is the value `shift` times later, and the input has `noise`."""
    torch.manual_seed(0)

    def batch(model: nn.Module) -> Tensor:
        wave = torch.sin(0.7 * torch.arange(17.0)[:, None] + 6.3 * torch.rand(16, 1, 1))
        x, y = wave[:, :16], wave[:, shift : 16 + shift]
        return F.mse_loss(model(x + noise * torch.randn_like(x)), y)

    return [f for f in findings(model, batch, steps, lr=2e-2) if f.is_alarm]


def test_a_series_whose_target_is_its_input_is_found_once_it_is_solved():
    torch.manual_seed(0)
    [finding] = forecast(Series(), shift=0)
    assert "value at its own place" in finding.summary
    x = torch.arange(24.0).reshape(2, 4, 3)
    names = applied(finding.fix, x=x, y=x)
    assert torch.equal(names["y"], x[:, 1:])


@pytest.mark.parametrize(
    ("series", "shift", "noise"),
    [({}, 1, 0.0), ({}, 0, 0.1), ({"code": 2}, 0, 0.0)],
    ids=["the next value", "a filter of noise", "an autoencoder"],
)
def test_series_that_have_something_to_learn_are_silent(series, shift, noise):
    torch.manual_seed(0)
    assert forecast(Series(**series), shift, noise) == []
