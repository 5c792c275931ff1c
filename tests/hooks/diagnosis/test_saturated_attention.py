"""Queries and keys whose first scores make the softmax of an attention one-hot."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402

from helpers.wiring_runs import Run, train  # noqa: E402


class Encoder(nn.Module):
    """One post-norm layer over the rows of the digits; queries and keys are scaled."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(8, 16), nn.Linear(16, 10)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        with torch.no_grad():
            self.layer.self_attn.in_proj_weight[:32].mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.lift(x.unflatten(1, (8, 8)))).mean(1))


@pytest.mark.parametrize(
    ("factor", "headline"), [(100.0, ("init_scale_too_large", "layer.self_attn.in_proj_weight")),
                             (2.0, ("", ""))]
)  # fmt: skip
def test_saturated_attention_is_named_at_its_weights(factor, headline):
    torch.manual_seed(0)
    seen = train(Run(Encoder(factor)), 4)
    assert (seen.headline, seen.where) == headline
