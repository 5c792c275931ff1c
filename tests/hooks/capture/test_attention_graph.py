"""What the graph of a token model's output shows about the positions that its attention sees."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from trainvitals.capture.attention_graph import AttentionGraph  # noqa: E402
from trainvitals.wire import Scalar  # noqa: E402

Mixing = Callable[[Tensor, Tensor, Tensor], Tensor]
SAMPLES, LENGTH = 3, 10
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
PADDED = torch.ones(SAMPLES, 1, 1, LENGTH, dtype=torch.bool)
PADDED[..., 7:] = False
PREFIX = CAUSAL.clone()
PREFIX[:, :5] = True


class Model(nn.Module):
    """One attention on embedded tokens; `mix` computes it from queries, keys and values."""

    def __init__(self, mix: Mixing, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.qkv, self.mix, self.heads = nn.Linear(8, 24), mix, heads

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.embed(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.head(self.mix(q, k, v).transpose(1, 2).flatten(2))


def fused(mask: Tensor | None = None, *, causal: bool = False) -> Mixing:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def in_parts(mask: Tensor | None = None) -> Mixing:
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, mask)

    return mix


def written(hide: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] = lambda w: w):
    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return after(hide(q @ k.transpose(-2, -1)).softmax(-1)) @ v

    return mix


def seen(model: nn.Module, x: Tensor | None = None):
    x = torch.randint(16, (SAMPLES, LENGTH)) if x is None else x
    event, scalars = AttentionGraph({"": model}).take(0, x, model(x))
    return event, float(scalars.get(Scalar.ATTENTION_AHEAD, math.nan))


@pytest.mark.parametrize(
    "mix",
    [
        fused(),
        fused(PADDED),
        fused(torch.zeros(LENGTH, LENGTH)),
        fused(~CAUSAL),  # the mask the wrong way round: only later positions are seen
        in_parts(),
        in_parts(PADDED),
        written(lambda s: s),
        written(lambda s: s.masked_fill(~PADDED, -math.inf)),
        written(lambda s: s + 0.1 * torch.randn(LENGTH, LENGTH)),
    ],
)
def test_an_attention_without_a_causal_mask_sees_the_next_position(mix):
    event, number = seen(Model(mix))
    assert event.text == "qkv"
    assert number == 0


@pytest.mark.parametrize(
    "mix",
    [
        fused(causal=True),
        fused(CAUSAL),
        fused(CAUSAL & PADDED),
        fused(PREFIX),
        fused(torch.zeros(LENGTH, LENGTH).masked_fill(~CAUSAL, -1e9)),
        in_parts(CAUSAL),
        written(lambda s: s.masked_fill(~CAUSAL, -math.inf)),
        written(lambda s: s.masked_fill(~CAUSAL, -1e4)),
        written(lambda s: s + torch.zeros(LENGTH, LENGTH).masked_fill(~CAUSAL, -1e9)),
        written(lambda s: torch.where(CAUSAL, s, -1e9)),
        written(lambda s: s, lambda w: w * CAUSAL),
        written(lambda s: s, torch.tril),
        written(lambda s: s, lambda w: w.masked_fill(~CAUSAL, 0)),
        lambda q, k, v: fused()(q[:, :, -1:], k, v).expand_as(q),
        lambda q, k, v: fused()(q[:, :, :1], k, v) + v,
        lambda q, k, v: fused()(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2),
    ],
)
def test_masked_attention_and_other_dimensions_are_met_with_silence(mix):
    assert math.isnan(seen(Model(mix))[1])


def test_a_number_of_heads_or_samples_that_equals_the_positions_leaves_doubt():
    over_heads = Model(lambda q, k, v: fused()(*(t.transpose(1, 2) for t in (q, k, v))), heads=8)
    over_heads.head = nn.Identity()
    assert math.isnan(seen(over_heads, torch.randint(16, (SAMPLES, 8)))[1])
    assert math.isnan(seen(Model(fused()), torch.randint(16, (LENGTH, LENGTH)))[1])


def test_the_first_layer_without_a_mask_is_named():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.first, self.second = block, nn.MultiheadAttention(8, 2, batch_first=True)
            self.embed = nn.Embedding(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            y = self.first(self.embed(x), mask, is_causal=True)
            return self.second(y, y, y)[0]

    event, number = seen(Two())
    assert event.text == "first.self_attn,second"
    assert number == 1


def test_what_does_not_come_from_the_tokens_is_left_out():
    class Encoded(Model):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    assert math.isnan(seen(Encoded(fused()))[1])
    two = {"a": Model(fused()), "b": Model(fused())}
    x = torch.randint(16, (SAMPLES, LENGTH))
    assert Scalar.ATTENTION_AHEAD not in AttentionGraph(two).take(0, x, two["a"](x))[1]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_a_recurrent_layer_that_reads_from_the_end_is_named(kind, both):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.rnn = kind(8, 8, batch_first=True, bidirectional=both)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(self.embed(x))[0]

    event, _ = seen(Recurrent())
    assert (event.attributes if both else event) == ({"reversed": "rnn"} if both else None)


def test_packed_tensors_are_not_unpacked():
    x, model = torch.randint(16, (SAMPLES, LENGTH)), Model(fused())

    def unpack(_: object) -> Tensor:
        raise AssertionError

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        output = model(x)
    assert AttentionGraph({"": model}).take(0, x, output) == (None, {})
