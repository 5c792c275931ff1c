"""Language models that see the token that they predict, and those that may see it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from helpers.token_models import Gru, Transformer, of_all, shifted, text, trained  # noqa: E402


class Open(Transformer):
    """The block without a causal mask."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(x) + self.place[: x.shape[1]]))


class Both(Gru):
    """A recurrent layer in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(32, 16, batch_first=True, bidirectional=True)


class Pair(Both):
    """A layer whose two directions predict the next token and the one before."""

    def forward(self, x: Tensor) -> Tensor:
        states = self.gru(self.embedding(x))[0]
        one = [F.linear(h, self.head.weight[:, :16], self.head.bias) for h in states.chunk(2, -1)]
        return torch.cat(one, -1)


def next_token(model: nn.Module) -> Tensor:
    x, y = shifted(1, text())
    return of_all(model(x), y)


def masked(model: nn.Module) -> Tensor:
    """Return the loss of the tokens that are replaced by token 0."""
    x, _ = shifted(0, text())
    hidden = torch.rand(x.shape) < 0.3
    target = torch.where(hidden, x, -100)
    return F.cross_entropy(model(x.masked_fill(hidden, 0)).flatten(0, 1), target.flatten())


def both_ways(model: nn.Module) -> Tensor:
    """Return the loss of a model of the next token plus one of the token before."""
    rows = text()
    following, before = model(rows[:, 1:-1]).chunk(2, -1)
    return of_all(following, rows[:, 2:]) + of_all(before, rows[:, :-2])


@pytest.mark.parametrize(("model", "where"), [(Open(), "block.self_attn"), (Both(), "gru")])
def test_a_layer_that_sees_the_next_token_is_reported(model, where):
    seen = trained(model, next_token)
    assert (seen.headline, seen.where) == ("trivial_target", where)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (Transformer(), next_token),
        (Gru(), next_token),
        (Open(), masked),
        (Both(), masked),
        (Pair(), both_ways),
    ],
)
def test_causal_masked_and_two_way_models_are_met_with_silence(model, loss):
    assert "trivial_target" not in trained(model, loss).headlines
