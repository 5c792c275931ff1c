"""Outputs under activation checkpointing are measured once; what is not measured is named."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainvitals.capture import Capture
from trainvitals.capture.backends import native, plain
from trainvitals.capture.backends.members import Member
from trainvitals.capture.modules import WatchedModule
from trainvitals.capture.step import Step
from trainvitals.diagnosis.history import History
from trainvitals.wire import STATISTICS, Stat, Stream

STATISTICS_OF_OUTPUTS = [s for s in STATISTICS[Stream.ACTIVATION] if s is not Stat.DEAD_SHARE]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def trained(forward, *, steps=3):
    """Return the history of a loop; `forward` is called with the model and a batch."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = History()
    Capture(model, optimizer, emit=history.add, every=1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(16, 4, generator=generator).requires_grad_()
        forward(model, x).square().mean().backward()
        optimizer.step()
    return history


def segments(model, x, *, reentrant):
    hidden = checkpoint(model[:2], x, use_reentrant=reentrant)
    return model[4](checkpoint(model[2:4], hidden, use_reentrant=reentrant))


def under_reentrant(model, x):
    return segments(model, x, reentrant=True)


def under_non_reentrant(model, x):
    return segments(model, x, reentrant=False)


@pytest.mark.parametrize("forward", [under_reentrant, under_non_reentrant])
def test_outputs_are_the_same_as_without_checkpointing(forward):
    checkpointed, ordinary = trained(forward), trained(lambda model, x: model(x))
    places = [h.places(Stream.ACTIVATION) for h in (checkpointed, ordinary)]
    assert [p.name for p in places[0]] == [p.name for p in places[1]] == list("01234")
    assert [p.nonlinearity for p in places[0]] == [p.nonlinearity for p in places[1]]
    for stat in STATISTICS_OF_OUTPUTS:
        np.testing.assert_array_equal(
            checkpointed.values(Stream.ACTIVATION, stat), ordinary.values(Stream.ACTIVATION, stat)
        )


@pytest.mark.parametrize("forward", [under_reentrant, under_non_reentrant])
def test_each_output_is_measured_once_in_a_step(forward, monkeypatch):
    calls = []
    monkeypatch.setattr(WatchedModule, "_measure", lambda *_: calls.append(1))
    trained(forward, steps=1)
    assert len(calls) == 5


def test_a_pass_without_gradients_beside_a_checkpoint_does_not_count():
    def forward(model, x):
        out = under_reentrant(model, x)
        with torch.no_grad():
            model(x * 1e6)
        return out

    assert trained(forward).values(Stream.ACTIVATION, Stat.MAX).max() < 1e3


def test_a_trained_parameter_without_measurement_says_that_the_norm_lacks_it():
    model = network()
    model.register_parameter("wave", nn.Parameter(torch.ones(3, dtype=torch.complex64)))
    model.register_parameter("ticks", nn.Parameter(torch.ones(3).int(), requires_grad=False))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    capture = Capture(model, optimizer, emit=History().add)
    (model(torch.ones(6, 4)).sum() + model.wave.abs().sum()).backward()
    optimizer.step()
    assert capture.step == 0
    assert not capture._guard._errors
    norm = "its type is torch.complex64; the gradient norm does not include it"
    assert capture.not_watched["wave"] == norm
    assert capture.not_watched["ticks"] == "its type is torch.int32"


SPARSE = {
    "all negative": [-1.0, -2.0, -3.0],
    "mixed": [1.0, -2.0, 0.0],
    "not finite": [float("inf"), float("nan"), 2.0],
    "given twice": [1.0, 5.0, -4.0],
    "none": [],
}


@pytest.mark.parametrize("kind", [native.NativeGroup, plain.PlainGroup])
@pytest.mark.parametrize("values", SPARSE.values(), ids=SPARSE)
def test_a_sparse_gradient_is_measured_like_the_dense_one(kind, values):
    rows = [1, 4, 4] if values == SPARSE["given twice"] else [1, 4, 6][: len(values)]
    sparse = torch.sparse_coo_tensor(
        torch.tensor([rows], dtype=torch.int64), torch.tensor([values, values]).T, (9, 2)
    )
    found = []
    for gradient in (sparse, sparse.to_dense()):
        weight = nn.Parameter(torch.ones(9, 2))
        weight.grad = gradient
        step = Step(1)
        kind([Member(weight, 0)]).gradients(step, weight, 0.5, distinct=False)
        found.append((step.matrix(Stream.GRADIENT), step.totals[id(weight)]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
