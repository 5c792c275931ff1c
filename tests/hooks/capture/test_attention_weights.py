"""How sharp an attention is at the start, for each way to compute it."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from trainvitals.capture.attention_graph import AttentionGraph  # noqa: E402
from trainvitals.wire import Scalar  # noqa: E402

SAMPLES, HEADS, LENGTH, SIZE = 4, 2, 12, 8
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


class Model(nn.Module):
    """An attention whose scores are multiplied by `factor`."""

    def __init__(self, factor: float, *, mask: Tensor | None, way: str) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
        self.factor, self.mask, self.way = factor, mask, way
        self.scores: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.factor * self.query(x), self.key(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(SIZE)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, -math.inf)
        self.scores = scores.detach()
        if self.way == "written":
            return scores.softmax(-1) @ x
        causal = self.way == "causal"
        return F.scaled_dot_product_attention(q, k, x, None if causal else self.mask, 0.0, causal)


def largest(model: nn.Module, length: int = LENGTH) -> float:
    x = torch.randn(SAMPLES, HEADS, length, SIZE)
    output = model(x)
    with torch.no_grad():
        event, scalars = AttentionGraph({"": model}).take(0, x, output)
    assert event.text in ("query", "key", "logits")
    return float(scalars.get(Scalar.ATTENTION_LARGEST, math.nan))


@pytest.mark.parametrize(
    ("way", "mask"),
    [
        ("written", None),
        ("fused", None),
        ("written", CAUSAL),
        ("fused", CAUSAL),
        ("causal", CAUSAL),
    ],
)
@pytest.mark.parametrize("factor", [0.1, 2.0, 60.0])
def test_the_mean_of_the_largest_weights_is_that_of_the_scores(way, mask, factor):
    torch.manual_seed(0)
    model = Model(factor, mask=mask, way=way)
    seen = largest(model)
    first = 3 if mask is not None else 0  # queries that see four positions
    expected = model.scores[..., first:, :].softmax(-1).amax(-1).mean()
    assert seen == pytest.approx(float(expected), abs=0.06)


def test_few_positions_are_not_judged():
    assert math.isnan(largest(Model(60.0, mask=None, way="fused"), 3))
    assert math.isnan(largest(Model(60.0, mask=None, way="written"), 3))


def test_queries_that_see_few_positions_are_left_out():
    itself = torch.eye(LENGTH, dtype=torch.bool)
    assert largest(Model(0.1, mask=itself, way="fused")) == -1
    assert largest(Model(0.1, mask=itself, way="written")) == -1


def test_a_softmax_over_entries_of_a_codebook_is_no_attention():
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits, self.codes = nn.Linear(SIZE, 16), nn.Parameter(torch.randn(16, SIZE))

        def forward(self, x: Tensor) -> Tensor:
            return (50 * self.logits(x)).softmax(-1) @ self.codes

    assert math.isnan(largest(Quantised()))
