"""Models of tokens whose output is the same in any order, and what tells positions apart.

Whatever is called blind here is run on permuted tokens: its output must be the same.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from trainvitals.capture.attention_graph import AttentionGraph  # noqa: E402

SAMPLES, LENGTH, WIDTH = 7, 12, 16
TOKENS = torch.randint(10, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
CAUSAL = nn.Transformer.generate_square_subsequent_mask(LENGTH)
FIXED = torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def mean(h: Tensor) -> Tensor:
    return h.mean(1)


class Encoder(nn.Module):
    """Vectors of tokens, `before`, transformer blocks, `pool`, a head."""

    def __init__(
        self, before=lambda h: h, pool=mean, *, features: int = WIDTH, mask=None, **options
    ) -> None:
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True, **options}
        self.embed = nn.Embedding(10, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, 2, 32, **options)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head, self.before, self.pool = nn.Linear(features, 3), before, pool
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.before(self.embed(x)), self.mask)))


class Learned(nn.Module):
    """Adds or multiplies by a parameter of this shape."""

    def __init__(self, *shape: int, times: bool = False) -> None:
        super().__init__()
        self.value, self.times = nn.Parameter(torch.randn(shape)), times

    def forward(self, h: Tensor) -> Tensor:
        return h * self.value if self.times else h + self.value


class Transposed(nn.Module):
    """A module of (samples, features, positions)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, h: Tensor) -> Tensor:
        return self.module(h.transpose(1, 2)).transpose(1, 2)


class FirstOutput(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, h: Tensor) -> Tensor:
        return self.module(h)[0]


def is_called_blind(model: nn.Module) -> bool:
    event, _ = AttentionGraph({"": model}).take(0, TOKENS, model(TOKENS))
    return event is not None and event.attributes.get("order_blind") == 1


@pytest.mark.parametrize(
    "model",
    [
        Encoder(),
        Encoder(norm_first=True, activation="gelu"),
        Encoder(dropout=0.1),
        Encoder(pool=lambda h: h.amax(1)),
        Encoder(pool=lambda h: h.max(1).values),
        Encoder(pool=lambda h: h.sum(1) / 3.0),
        Encoder(before=lambda h: h * WIDTH**0.5),
        Encoder(before=Learned(WIDTH)),
        Encoder(before=Learned(1, 1, WIDTH, times=True)),
        Encoder(before=nn.LayerNorm(WIDTH)),
        Encoder(before=Transposed(nn.Conv1d(WIDTH, WIDTH, 1))),
    ],
    ids=range(11),
)
def test_a_model_whose_output_is_the_same_in_any_order_is_known_as_such(model):
    if isinstance(model.before, Transposed):
        assert not is_called_blind(model)  # a convolution is not known to have one position
        return
    assert is_called_blind(model)
    model.eval()
    order = torch.randperm(LENGTH)
    assert torch.allclose(model(TOKENS[:, order]), model(TOKENS), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        Encoder(before=Learned(LENGTH, WIDTH)),
        Encoder(before=Learned(1, LENGTH, WIDTH, times=True)),
        Encoder(before=lambda h: h + FIXED),
        Encoder(before=lambda h: h * FIXED),
        Encoder(mask=CAUSAL),
        Encoder(pool=lambda h: h[:, 0]),
        Encoder(pool=lambda h: h[:, -1]),
        Encoder(pool=lambda h: h.flatten(1), features=LENGTH * WIDTH),
        Encoder(before=Transposed(nn.Conv1d(WIDTH, WIDTH, 3, padding=1))),
        Encoder(before=FirstOutput(nn.GRU(WIDTH, WIDTH, batch_first=True))),
        Encoder(before=nn.LayerNorm((LENGTH, WIDTH))),
        Encoder(before=nn.BatchNorm1d(LENGTH)),
        Encoder(before=Transposed(nn.Linear(LENGTH, LENGTH))),
        Encoder(pool=lambda h: h),  # an output for each token
        nn.Sequential(nn.Embedding(10, WIDTH), nn.Flatten(), nn.Linear(LENGTH * WIDTH, 3)),
    ],
    ids=range(15),
)
def test_what_tells_positions_apart_is_not_called_blind(model):
    assert not is_called_blind(model)


def test_a_layer_over_positions_with_as_many_positions_as_features_is_not_called_blind():
    mixed = Encoder(before=Transposed(nn.Linear(WIDTH, WIDTH)))
    x = torch.randint(10, (SAMPLES, WIDTH))
    event, _ = AttentionGraph({"": mixed}).take(0, x, mixed(x))
    assert event is None or "order_blind" not in event.attributes


def test_a_mean_of_vectors_without_attention_ignores_the_order_on_purpose():
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x).mean(1))

    assert not is_called_blind(Bag())
