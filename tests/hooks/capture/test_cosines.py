"""Logits of a cross entropy that are cosines without a scale, and correct models of cosines."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.first_steps import found, the_same_weights_every_time, train  # noqa: F401
from trainvitals.capture.loss_cosines import are_cosines
from trainvitals.diagnosis.rules.output_range_mismatch import OutputRangeMismatch


class Cosine(nn.Module):
    """A layer, and the cosines of its output with one vector for each class, by `compare`."""

    def __init__(self, compare) -> None:
        super().__init__()
        self.body, self.classes = nn.Linear(16, 32), nn.Parameter(torch.randn(10, 32))
        self.scale, self.compare = nn.Parameter(torch.tensor(10.0)), compare

    def forward(self, x: Tensor) -> Tensor:
        return self.compare(self.body(x), self.classes, self.scale)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


COSINES = {
    "product": lambda h, w, _: unit(h) @ unit(w).T,
    "linear": lambda h, w, _: F.linear(unit(h), unit(w)),
    "einsum": lambda h, w, _: torch.einsum("bf,cf->bc", unit(h), unit(w)),
    "a scale of one": lambda h, w, _: (1.0 * unit(h)) @ unit(w).T / 1.0,
    "function": lambda h, w, _: F.cosine_similarity(h[:, None], w[None], dim=2),
    "by hand": lambda h, w, _: (h / h.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1)[:, None]).T,
}
OTHERS = {
    "temperature": lambda h, w, _: unit(h) @ unit(w).T / 0.1,
    "learned scale": lambda h, w, scale: scale * (unit(h) @ unit(w).T),
    "scale on one side": lambda h, w, _: (10 * unit(h)) @ unit(w).T,
    "one side only": lambda h, w, _: unit(h) @ w.T,
    "a bias": lambda h, w, scale: unit(h) @ unit(w).T + scale,
    "no norm": lambda h, w, _: (h / 3.0) @ (w / 3.0).T,
}


@pytest.mark.parametrize("name", COSINES)
def test_cosines_without_a_scale_bound_the_cross_entropy(name):
    model = Cosine(COSINES[name])
    assert are_cosines(model(torch.randn(4, 16)).grad_fn)
    finding = found(OutputRangeMismatch, train(model))
    assert "cannot fall below 0.797" in finding.summary  # ln(1 + 9/e²)
    perfect = 2 * torch.eye(10) - 1
    assert F.cross_entropy(perfect, torch.arange(10)) == pytest.approx(0.797, abs=1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_cosines_with_a_scale_and_other_products_are_silent(name):
    model = Cosine(OTHERS[name])
    assert not are_cosines(model(torch.randn(4, 16)).grad_fn)
    assert found(OutputRangeMismatch, train(model)) is None
